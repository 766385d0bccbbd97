"""What the orchestrator counts, for Prometheus.

Labels stay bounded: workflow and activity names come from registered graphs only, never a thread or run id. What is
read from the database (runs by state, storage) is in `health/gauges.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from prometheus_client import Counter, Gauge, Histogram

__all__ = [
    "ACTIVITY_SECONDS",
    "LEASES_LOST",
    "QUEUE_WAIT_SECONDS",
    "RECOVERIES",
    "RECOVERY_SECONDS",
    "RETENTION_LAST",
    "RETENTION_ROWS",
    "RUNS",
    "RUN_SECONDS",
    "WATCHERS",
    "expect_workflows",
    "observe_wait",
]

_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)

RUNS = Counter("orchestrator_runs", "Runs that came to rest, by the state they rest in", ["workflow", "status"])
RUN_SECONDS = Histogram(
    "orchestrator_run_seconds", "Time from a run's first claim to its end", ["workflow"], buckets=_BUCKETS
)
ACTIVITY_SECONDS = Histogram(
    "orchestrator_activity_seconds", "Time of one activity", ["workflow", "activity"], buckets=_BUCKETS
)
QUEUE_WAIT_SECONDS = Histogram(
    "orchestrator_queue_wait_seconds", "Time from when a run could begin to its first claim", buckets=_BUCKETS
)
RECOVERIES = Counter(
    "orchestrator_recoveries",
    "Runs taken from a worker that was lost, by what gave it away and what became of the run",
    ["reason", "outcome"],
)
RECOVERY_SECONDS = Histogram(
    "orchestrator_recovery_seconds", "Time from the first sight of a lost worker to the takeover of its runs"
)
LEASES_LOST = Counter("orchestrator_leases_lost", "Attempts stopped here because their runs were taken away")
RETENTION_ROWS = Counter("orchestrator_retention_rows", "Rows that retention has removed here", ["table"])
RETENTION_LAST = Gauge(
    "orchestrator_retention_last_pass_timestamp_seconds", "When this process last ended a pass of retention"
)
WATCHERS = Gauge("orchestrator_watchers", "Streams of events that are being followed")

# The first claim sets both times, each with a look at the clock of its own.
_ONE_STATEMENT_S = 0.1

for _reason in ("lock", "lease"):
    for _outcome in ("pending", "failed"):
        RECOVERIES.labels(reason=_reason, outcome=_outcome)


def expect_workflows(names: Iterable[str]) -> None:
    """Let the series of these workflows begin at 0: a rate then sees the first failure too."""
    for name in names:
        RUN_SECONDS.labels(workflow=name)
        for status in ("completed", "failed", "cancelled"):
            RUNS.labels(workflow=name, status=status)


def observe_wait(
    created_at: datetime, start_at: datetime | None, started_at: datetime | None, claimed_at: datetime
) -> None:
    """Count how long a run waited that was claimed at `claimed_at`; only its first claim counts."""
    if started_at is None or abs((claimed_at - started_at).total_seconds()) > _ONE_STATEMENT_S:
        return
    could_begin = max(created_at, start_at) if start_at is not None else created_at
    QUEUE_WAIT_SECONDS.observe(max((started_at - could_begin).total_seconds(), 0.0))
