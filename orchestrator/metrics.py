"""What the orchestrator counts, for Prometheus.

Labels stay bounded: workflow and activity names come from registered graphs only, never a thread or run id.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

__all__ = ["ACTIVITY_SECONDS", "LEASES_LOST", "RECOVERIES", "RECOVERY_SECONDS", "RUNS", "RUN_SECONDS", "WATCHERS"]

_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)

RUNS = Counter("orchestrator_runs", "Runs that came to rest, by the state they rest in", ["workflow", "status"])
RUN_SECONDS = Histogram(
    "orchestrator_run_seconds", "Time from a run's first claim to its end", ["workflow"], buckets=_BUCKETS
)
ACTIVITY_SECONDS = Histogram(
    "orchestrator_activity_seconds", "Time of one activity", ["workflow", "activity"], buckets=_BUCKETS
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
WATCHERS = Gauge("orchestrator_watchers", "Streams of events that are being followed")
