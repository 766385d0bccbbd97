"""What the plugin counts, for Prometheus. Labels stay bounded: never a thread or run id.

Buckets of saves and loads stand around the service levels: 50 ms for a save, 100 ms for a load, at the 95th
percentile. Series whose labels are known beforehand begin at 0, so that a rate sees the first error too.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter
from types import TracebackType
from typing import Protocol
from weakref import WeakSet

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

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
    "PoolGauges",
    "QuickHistogram",
    "Timed",
    "errors_of",
    "watch_pool",
]


class QuickHistogram(Collector):
    """A histogram without labels, for what is observed several times a step.

    The library's own takes 2 µs per value, which at two values a save was a tenth of what a save costs; this one
    finds the bucket by bisection and takes a sixth of that.
    """

    def __init__(self, name: str, documentation: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = tuple(buckets)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()
        REGISTRY.register(self)

    def observe(self, value: float) -> None:
        """Count a value; from any thread."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    @property
    def count(self) -> int:
        """How many values were observed."""
        with self._lock:
            return sum(self._counts)

    def quantile(self, share: float) -> float | None:
        """The value that `share` (0 to 1) of all values since the start are at most, as far as the buckets tell.

        Within a bucket values are taken to be spread evenly, as Prometheus does. None where nothing was observed;
        the highest bound for what lies above it.
        """
        with self._lock:
            counts = list(self._counts)
        left = share * sum(counts)
        if not left:
            return None
        lower = 0.0
        for bound, count in zip(self._bounds, counts, strict=False):
            if count and left <= count:
                return lower + (bound - lower) * left / count
            left -= count
            lower = bound
        return lower

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The histogram as Prometheus takes it: how many were at most each bound."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        below = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
            below += count
            buckets.append((str(floatToGoString(bound)), below))  # type: ignore[no-untyped-call]
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=total)


_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)

BACKEND = Gauge(
    "checkpointer_backend_info", "1 for the engine that is really in use, from the object in use", ["backend"]
)
SAVE_SECONDS = QuickHistogram("checkpointer_save_seconds", "Time of one save, until its rows are committed", _BUCKETS)
LOAD_SECONDS = QuickHistogram("checkpointer_load_seconds", "Time of one load of a checkpoint", _BUCKETS)
ERRORS = Counter("checkpointer_errors", "Saves and loads that failed for good, by kind", ["operation", "kind"])
RETRIES = Counter("checkpointer_retries", "Statements sent again because the server was at fault", ["reason"])
BATCH_SAVES = Histogram(
    "checkpointer_batch_saves", "Saves that shared one statement", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
)
CHECKPOINT_BYTES = QuickHistogram(
    "checkpointer_checkpoint_bytes",
    "Size of one checkpoint as it is stored",
    tuple(4.0**power for power in range(4, 14)),
)
FENCED_WRITES = Counter("checkpointer_fenced_writes", "Saves refused because the thread had been taken over")
BLOCKED_TYPES = Counter(
    "checkpointer_blocked_types", "Loads refused because a stored value names a type off the allow-list"
)


class Timed:
    """Times a block and counts its error; a class, as it is entered several times a step."""

    __slots__ = ("_operation", "_seconds", "_started")

    def __init__(self, operation: str, seconds: QuickHistogram) -> None:
        self._operation = operation
        self._seconds = seconds

    def __enter__(self) -> None:
        self._started = perf_counter()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._seconds.observe(perf_counter() - self._started)
        if isinstance(exc, Exception):
            ERRORS.labels(operation=self._operation, kind=type(exc).__name__).inc()


class _CountedPool(Protocol):
    """What is asked of a psycopg pool."""

    def get_stats(self) -> Mapping[str, int]: ...


class PoolGauges(Collector):
    """The connections of the open pools of this process, asked of the pools at each scrape. That costs no statement."""

    def __init__(self) -> None:
        self._pools: WeakSet[_CountedPool] = WeakSet()

    def watch(self, pool: _CountedPool) -> None:
        """Count this pool too, for as long as it is there."""
        self._pools.add(pool)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """How many connections the pools have, may have, and are waited for."""
        connections = GaugeMetricFamily(
            "checkpointer_pool_connections", "Connections of the pool, by what they do", labels=["state"]
        )
        limit = GaugeMetricFamily("checkpointer_pool_max_connections", "How many connections the pool may have")
        waiting = GaugeMetricFamily("checkpointer_pool_waiting", "Statements that wait for a connection of the pool")
        open_pools = [stats for pool in list(self._pools) if (stats := pool.get_stats()).get("pool_max")]
        if open_pools:
            size, idle, most, asked = (
                sum(stats.get(name, 0) for stats in open_pools)
                for name in ("pool_size", "pool_available", "pool_max", "requests_waiting")
            )
            connections.add_metric(["idle"], idle)
            connections.add_metric(["in_use"], max(size - idle, 0))
            limit.add_metric([], most)
            waiting.add_metric([], asked)
        yield from (connections, limit, waiting)


_POOLS = PoolGauges()
REGISTRY.register(_POOLS)
watch_pool = _POOLS.watch


def errors_of(operation: str) -> float:
    """How many saves or loads (`operation`) have failed for good since the start; a writer that is locked out of its
    thread has not failed."""
    return sum(
        sample.value
        for family in ERRORS.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
        and sample.labels["operation"] == operation
        and sample.labels["kind"] != _LOCKED_OUT
    )


_LOCKED_OUT = "StaleWriterError"
for _operation, _kinds in {
    "save": ("SaverUnavailableError", "UnsavableError", _LOCKED_OUT),
    "load": ("SaverUnavailableError", "UnreadableError", "BlockedTypeError"),
}.items():
    for _kind in _kinds:
        ERRORS.labels(operation=_operation, kind=_kind)
for _reason in ("connection", "pool", "restart"):
    RETRIES.labels(reason=_reason)
