"""Gauges of what is in the database, for `/metrics`.

A scrape asks for them; they are read anew when they are older than ten seconds, by one statement over the pool that is
there, however many scrape. A scrape waits two seconds at most. While PostgreSQL does not answer there are no such
gauges, rather than old ones, and `checkpointer_postgres_up` is 0.

They are in a registry of their own: the counter `orchestrator_runs` (exposed as `orchestrator_runs_total`) holds the
name of the gauge in the library's registry.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from time import monotonic

import psycopg
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from checkpointer.metrics import watch_pool
from orchestrator.engine.service import Orchestrator
from orchestrator.errors import DatabaseUnavailableError
from orchestrator.health.snapshot import Snapshot, read_memory, read_postgres, sender_of
from orchestrator.metrics import expect_workflows

__all__ = ["Gauges"]

_log = logging.getLogger(__name__)
_MAX_AGE_S = 10.0
_WAIT_S = 2.0


class Gauges(Collector):
    """What was last read for an orchestrator, and how it is shown."""

    def __init__(self, orchestrator: Orchestrator, *, max_age_s: float = _MAX_AGE_S) -> None:
        self._orchestrator = orchestrator
        self._max_age_s = max_age_s
        self._sender = sender_of(orchestrator.store)
        self._reading: asyncio.Task[None] | None = None
        self._read_at: float | None = None
        self._up: bool | None = None
        self.reads = 0
        self.first: Snapshot | None = None
        self.latest: Snapshot | None = None
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        if self._sender is not None:
            watch_pool(self._sender.pool)
        expect_workflows(orchestrator.graphs)

    async def refresh(self, *, within_s: float = _WAIT_S, max_age_s: float | None = None) -> Snapshot | None:
        """What the database says, by default at most ten seconds old; None where it does not answer in time."""
        oldest_s = self._max_age_s if max_age_s is None else max_age_s
        if self._read_at is None or monotonic() - self._read_at > oldest_s:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read(), name="reading gauges")
            done, _ = await asyncio.wait({self._reading}, timeout=within_s)
            if not done:
                # It goes on for the next scrape. What is older must not pass for what is now.
                self.latest = None
        return self.latest

    async def render(self) -> bytes:
        """All metrics of this process and the gauges, in Prometheus's text format."""
        await self.refresh()
        return generate_latest(REGISTRY) + generate_latest(self._registry)

    async def _read(self) -> None:
        self.reads += 1
        found, self._up = await asyncio.gather(self._look(), self._answers())
        self.latest = found
        self.first = self.first or found
        self._read_at = monotonic()

    async def _look(self) -> Snapshot | None:
        try:
            if self._sender is None:
                return await read_memory(self._orchestrator.store)
            return await read_postgres(self._sender)
        except (DatabaseUnavailableError, psycopg.Error) as exc:
            _log.debug("the gauges could not be read: %s", exc)
            return None

    async def _answers(self) -> bool | None:
        """Whether PostgreSQL answers, over a connection that no pool can use up; None in memory."""
        return None if self._sender is None else (await self._orchestrator.health()).connected

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What was read last."""
        if self._up is not None:
            yield _gauge("checkpointer_postgres_up", "1 while PostgreSQL answers", float(self._up))
        if (now := self.latest) is None:
            return
        yield _gauge("orchestrator_runs", "Runs by the state they are in", now.runs, "status")
        yield _gauge(
            "orchestrator_oldest_pending_seconds",
            "How long the run has waited that could have begun the longest ago",
            now.oldest_pending_s,
        )
        overdue = {"lease": now.late_leases, "retry": now.late_retries}
        yield _gauge(
            "orchestrator_overdue_runs",
            "Runs whose worker has long been lost, or whose retry has long been due, and that nobody has taken up",
            overdue,
            "reason",
        )
        if now.runners is not None:
            yield _gauge("orchestrator_runners", "Living processes that may start or drive runs", now.runners, "kind")
        if now.storage:
            yield _gauge(
                "checkpointer_storage_bytes", "Bytes of a table with its indexes on disk", now.storage, "table"
            )


def _gauge(name: str, documentation: str, values: Mapping[str, float] | float, label: str = "") -> GaugeMetricFamily:
    if not isinstance(values, Mapping):
        return GaugeMetricFamily(name, documentation, value=values)
    family = GaugeMetricFamily(name, documentation, labels=[label])
    for value_of, value in values.items():
        family.add_metric([value_of], value)
    return family
