"""What can be seen of runs; the part of `Orchestrator` that changes nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from checkpointer.health import HealthReport, check_health
from orchestrator.engine.graphs import GraphRegistry
from orchestrator.engine.history import MAX_HISTORY, CheckpointSummary, history_of
from orchestrator.errors import RunNotFoundError
from orchestrator.progress.hub import EventHub
from orchestrator.runs.activity import Activity
from orchestrator.runs.events import Event
from orchestrator.runs.model import Run, parse_run_id
from orchestrator.runs.signals import Signal
from orchestrator.runs.store import Cursor, RunFilter, RunPage, RunStore
from orchestrator.settings import DEFAULT_ORGANIZATION, OrchestratorSettings

__all__ = ["Reading"]


class Reading:
    """Looks at runs in `store` and at their checkpoints in `saver`."""

    def __init__(
        self,
        store: RunStore,
        saver: BaseCheckpointSaver[Any],
        graphs: GraphRegistry,
        settings: OrchestratorSettings,
    ) -> None:
        self.graphs = graphs
        self.settings = settings
        self._store = store
        self._saver = saver
        self._hub = EventHub(store)

    @property
    def store(self) -> RunStore:
        """Where the runs are kept, for what is kept beside them."""
        return self._store

    async def poll(self, run_id: str, *, organization_id: str | None = None) -> Run:
        """The run as it stands."""
        run = await self._store.get(parse_run_id(run_id))
        if organization_id not in (None, run.organization_id):
            # Another organization's run is not there at all, so that ids tell nothing.
            raise RunNotFoundError(run_id)
        return run

    get_status = poll

    async def history(
        self, run_id: str, *, limit: int = MAX_HISTORY, organization_id: str | None = None
    ) -> list[CheckpointSummary]:
        """The run's checkpoints, newest first. Raises `UnknownWorkflowError` where its graph is not here."""
        run = await self.poll(run_id, organization_id=organization_id)
        return await history_of(run, self.graphs[run.workflow_type].graph, self._saver, limit=limit)

    async def has_events(self, run_id: str, after: int) -> bool:
        """Whether the run has events with higher numbers."""
        return bool(await self._store.events_after(run_id, after, limit=1))

    async def activities(self, run_id: str, *, organization_id: str | None = None) -> list[Activity]:
        """What the run went through: one entry per execution of a node, oldest first."""
        return await self._store.activities((await self.poll(run_id, organization_id=organization_id)).run_id)

    async def signals(self, run_id: str, *, organization_id: str | None = None) -> list[Signal]:
        """What was sent to the run, oldest first; `interrupt_id` says what took it."""
        return await self._store.signals((await self.poll(run_id, organization_id=organization_id)).run_id)

    async def latest_of_thread(self, thread_id: str, *, organization_id: str = DEFAULT_ORGANIZATION) -> Run:
        """The thread's newest run. Raises `ThreadNotFoundError` or `DatabaseUnavailableError`."""
        return await self._store.latest_of_thread(organization_id, thread_id)

    async def list_runs(
        self, wanted: RunFilter | None = None, *, limit: int = 50, after: Cursor | None = None
    ) -> RunPage:
        """A page of runs, newest first, without inputs and outputs."""
        return await self._store.list_runs(wanted or RunFilter(), limit=limit, after=after)

    async def health(self) -> HealthReport:
        """Whether checkpoints can be saved; answers within two seconds."""
        return await check_health(self._saver, self.settings)

    async def stream(self, run_id: str, *, after: int = 0, organization_id: str | None = None) -> AsyncIterator[Event]:
        """The run's events with higher numbers than `after`, as they come, until the run is over.

        A stream that was cut off goes on with the number of the last event that it gave, on any process.
        """
        async with aclosing(self.stream_together(run_id, after=after, organization_id=organization_id)) as together:
            async for events in together:
                for event in events:
                    if self._hub.is_closed:
                        return
                    yield event

    async def stream_together(
        self, run_id: str, *, after: int = 0, organization_id: str | None = None
    ) -> AsyncGenerator[Sequence[Event]]:
        """As `stream`; events that came together are given together, which is cheaper for many watchers."""
        run = await self.poll(run_id, organization_id=organization_id)
        async with aclosing(self._hub.watch(run.run_id, after)) as watched:
            async for events in watched:
                yield events
