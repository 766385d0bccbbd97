"""What the orchestrator counts, for Prometheus.

Labels stay bounded: workflow and activity names come from registered graphs only, never a thread or run id.
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram

__all__ = ["ACTIVITY_SECONDS", "RUNS", "RUN_SECONDS"]

_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)

RUNS = Counter("orchestrator_runs", "Runs that came to rest, by the state they rest in", ["workflow", "status"])
RUN_SECONDS = Histogram(
    "orchestrator_run_seconds", "Time from a run's first claim to its end", ["workflow"], buckets=_BUCKETS
)
ACTIVITY_SECONDS = Histogram(
    "orchestrator_activity_seconds", "Time of one activity", ["workflow", "activity"], buckets=_BUCKETS
)
