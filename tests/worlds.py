"""Orchestrators one after the other over the same runs and checkpoints, in memory as well as in PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import psycopg
from langgraph.checkpoint.memory import InMemorySaver

from checkpointer import CheckpointerSettings
from orchestrator import Graph, Orchestrator, OrchestratorSettings, Run, RunStatus, open_orchestrator
from orchestrator.engine.graphs import compile_graphs
from orchestrator.engine.leases import new_owner_id
from orchestrator.engine.work import Work
from orchestrator.queues.driver import FLOW_QUEUE, STEP_QUEUE
from orchestrator.queues.local import LocalQueue
from orchestrator.queues.worker import DriverPusher, function_proxy
from orchestrator.runs.memory import MemoryRunStore
from tests.waiting import until

__all__ = ["MemoryWorld", "PostgresWorld", "World", "postgres_world", "status"]


@dataclass
class MemoryWorld:
    """What would be lost with the process is kept from one orchestrator to the next."""

    settings: OrchestratorSettings = field(default_factory=OrchestratorSettings)
    saver: InMemorySaver = field(default_factory=InMemorySaver)
    store: MemoryRunStore = field(default_factory=MemoryRunStore)

    @asynccontextmanager
    async def open(self, **graphs: Graph) -> AsyncIterator[Orchestrator]:
        """An orchestrator with these graphs."""
        queue = LocalQueue()
        async with compile_graphs(graphs, self.saver) as registry:
            orchestrator = Orchestrator(
                store=self.store,
                saver=self.saver,
                graphs=registry,
                settings=self.settings,
                owner=new_owner_id(),
                work=Work(pusher=DriverPusher(queue)),
            )
            self.store.listener = orchestrator.recovery.hear
            orchestrator.run_in_background()
            await queue.start(function_proxy(orchestrator), queues=(FLOW_QUEUE, STEP_QUEUE), concurrency=10)
            try:
                yield orchestrator
            finally:
                orchestrator.request_close()
                with suppress(TimeoutError):
                    async with asyncio.timeout(2):
                        await queue.stop()
                await orchestrator.close()

    async def make_retry_due(self, run_id: str) -> None:
        """Let the time of a suspended run come."""
        self.store._runs[run_id] = replace(self.store._runs[run_id], retry_at=datetime.now(UTC))


@dataclass
class PostgresWorld:
    """A database of the test's own."""

    settings: OrchestratorSettings

    @asynccontextmanager
    async def open(self, **graphs: Graph) -> AsyncIterator[Orchestrator]:
        """An orchestrator with these graphs."""
        async with open_orchestrator(graphs, settings=self.settings) as orchestrator:
            yield orchestrator

    async def make_retry_due(self, run_id: str) -> None:
        """Let the time of a suspended run come."""
        async with await psycopg.AsyncConnection.connect(self.settings.conninfo(), autocommit=True) as conn:
            await conn.execute(
                "UPDATE workflow_checkpoints.workflow_metadata SET retry_at = now() WHERE run_id = %s", (run_id,)
            )


World = MemoryWorld | PostgresWorld


def postgres_world(checkpointer: CheckpointerSettings) -> PostgresWorld:
    """Over the database that the settings name."""
    return PostgresWorld(OrchestratorSettings(**checkpointer.model_dump(exclude_unset=True), drain_timeout=2.0))


async def status(orchestrator: Orchestrator, run: Run, wanted: RunStatus) -> Run:
    """The run once it has this status."""

    async def look() -> Any:
        found = await orchestrator.poll(run.run_id)
        return found if found.status is wanted else None

    found: Run = await until(look, what=f"{wanted}")
    return found
