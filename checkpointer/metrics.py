"""What the plugin counts, for Prometheus. Labels stay bounded: never a thread or run id.

Buckets of saves and loads stand around the service levels: 50 ms for a save, 100 ms for a load, at the 95th
percentile.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

__all__ = [
    "BACKEND",
    "BATCH_SAVES",
    "BLOCKED_TYPES",
    "CHECKPOINT_BYTES",
    "ERRORS",
    "FENCED_WRITES",
    "LOAD_SECONDS",
    "RETRIES",
    "SAVE_SECONDS",
]

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)

BACKEND = Gauge(
    "checkpointer_backend_info", "1 for the engine that is really in use, from the object in use", ["backend"]
)
SAVE_SECONDS = Histogram(
    "checkpointer_save_seconds", "Time of one save, until its rows are committed", buckets=_BUCKETS
)
LOAD_SECONDS = Histogram("checkpointer_load_seconds", "Time of one load of a checkpoint", buckets=_BUCKETS)
ERRORS = Counter("checkpointer_errors", "Saves and loads that failed for good, by kind", ["operation", "kind"])
RETRIES = Counter("checkpointer_retries", "Statements sent again because the server was at fault", ["reason"])
BATCH_SAVES = Histogram(
    "checkpointer_batch_saves", "Saves that shared one statement", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
)
CHECKPOINT_BYTES = Histogram(
    "checkpointer_checkpoint_bytes",
    "Size of one save as it is stored",
    buckets=tuple(4.0**power for power in range(4, 14)),
)
FENCED_WRITES = Counter("checkpointer_fenced_writes", "Saves refused because the thread had been taken over")
BLOCKED_TYPES = Counter(
    "checkpointer_blocked_types", "Loads refused because a stored value names a type off the allow-list"
)
