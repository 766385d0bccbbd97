"""`Orchestrator`: start runs, look at them, wait for them.

async with open_orchestrator({"agent": builder}) as orchestrator:
    run = await orchestrator.start_and_wait("agent", {"task": "…"})
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal, TypeAlias

from langgraph.checkpoint.base import BaseCheckpointSaver

from checkpointer import CheckpointerSettings, SettingsError
from checkpointer.factory import open_saver
from checkpointer.health import HealthReport, check_health
from checkpointer.postgres.saver import PooledPostgresSaver
from orchestrator.engine.activities import ActivityRecorder
from orchestrator.engine.dispatcher import Dispatcher
from orchestrator.engine.executor import Executor
from orchestrator.engine.graphs import Graph, GraphRegistry, compile_graphs
from orchestrator.engine.owner import OwnerLock, new_owner_id
from orchestrator.engine.recovery import Recovery
from orchestrator.engine.settlements import Settlements
from orchestrator.errors import ClosingError, DatabaseUnavailableError
from orchestrator.migrations import MIGRATIONS
from orchestrator.runs.jsonable import check_payload
from orchestrator.runs.memory import MemoryRunStore
from orchestrator.runs.model import Run, check_identifier, check_organization, new_run_id, parse_run_id
from orchestrator.runs.postgres import PostgresRunStore
from orchestrator.runs.store import Created, Cursor, NewRun, RunFilter, RunPage, RunStore
from orchestrator.settings import DEFAULT_ORGANIZATION, OrchestratorSettings

__all__ = ["IfBusy", "Orchestrator", "open_orchestrator", "open_run_store"]

IfBusy: TypeAlias = Literal["enqueue", "reject"]

_log = logging.getLogger(__name__)
_RELEASE_WITHIN_S = 3.0
# A run that is driven here announces its end; asking the store now and then guards against its being taken over.
_LOCAL_POLL_S = 5.0
_REMOTE_POLL_S = (0.1, 0.2, 0.4, 0.8, 1.0)


class Orchestrator:
    """Runs graphs durably. Made by `open_orchestrator`."""

    def __init__(
        self,
        *,
        store: RunStore,
        saver: BaseCheckpointSaver[Any],
        graphs: GraphRegistry,
        settings: OrchestratorSettings,
    ) -> None:
        self.graphs = graphs
        self.settings = settings
        self.cut_off = 0
        self._store = store
        self._saver = saver
        self._owner = new_owner_id()
        self._settlements = Settlements()
        self._recorder = ActivityRecorder(store)
        executor = Executor(store, graphs, self._recorder, secrets=settings.secrets())
        self._dispatcher = Dispatcher(executor, self._settlements, self._owner)
        self._recovery = Recovery(store, self._dispatcher, self._settlements, self._owner, sorted(graphs))
        self._closing = False

    async def start(
        self,
        workflow: str,
        payload: object,
        *,
        thread_id: str | None = None,
        idempotency_key: str | None = None,
        organization_id: str = DEFAULT_ORGANIZATION,
        if_busy: IfBusy = "enqueue",
    ) -> Run:
        """Start a run and return at once, with the run durable where the saver is.

        Raises `UnknownWorkflowError`, `InvalidPayloadError`, `InvalidRequestError`, `IdempotencyConflictError`,
        `ThreadBusyError` (with `if_busy="reject"`), `DatabaseUnavailableError` or `ClosingError`.
        """
        created = await self.start_or_find(
            workflow,
            payload,
            thread_id=thread_id,
            idempotency_key=idempotency_key,
            organization_id=organization_id,
            if_busy=if_busy,
        )
        return created.run

    async def start_or_find(
        self,
        workflow: str,
        payload: object,
        *,
        thread_id: str | None = None,
        idempotency_key: str | None = None,
        organization_id: str = DEFAULT_ORGANIZATION,
        if_busy: IfBusy = "enqueue",
    ) -> Created:
        """`start`, and whether this call made the run or its idempotency key found it."""
        if self._closing:
            raise ClosingError
        _ = self.graphs[workflow]
        new = NewRun(
            run_id=new_run_id(),
            workflow_type=workflow,
            input=check_payload(payload),
            max_attempts=self.settings.run_max_attempts,
            lease_owner=self._owner,
            organization_id=check_organization(organization_id),
            thread_id=None if thread_id is None else check_identifier("thread id", thread_id),
            idempotency_key=None if idempotency_key is None else check_identifier("idempotency key", idempotency_key),
        )
        created = await self._store.create(new, reject_if_busy=if_busy == "reject")
        if created.is_new:
            self._dispatcher.submit(created.run)
        return created

    async def start_and_wait(
        self, workflow: str, payload: object, *, timeout: float | None = None, **options: Any
    ) -> Run:
        """`start`, then `wait`; takes the options of `start`."""
        return await self.wait_for(await self.start(workflow, payload, **options), timeout=timeout)

    async def poll(self, run_id: str) -> Run:
        """The run as it stands. Raises `RunNotFoundError` or `DatabaseUnavailableError`."""
        return await self._store.get(parse_run_id(run_id))

    get_status = poll

    async def wait(self, run_id: str, *, timeout: float | None = None) -> Run:
        """The run once it is settled: over, or resting until someone signals it.

        After `timeout` seconds, or when the orchestrator is closed, the run as it stands then.
        """
        return await self.wait_for(await self.poll(run_id), timeout=timeout)

    async def wait_for(self, run: Run, *, timeout: float | None = None) -> Run:
        """`wait` for a run whose row is at hand."""
        with self._settlements.expect(run.run_id) as settled:
            try:
                async with asyncio.timeout(timeout):
                    async for latest in self._looks(run, settled):
                        run = latest
            except TimeoutError:
                pass
        return run

    async def _looks(self, run: Run, settled: asyncio.Future[Run | None]) -> AsyncIterator[Run]:
        """The row again and again until it is settled: as announced here, else from the store."""
        pauses = iter(_REMOTE_POLL_S)
        pause_s = next(pauses)
        while not run.is_settled:
            is_local = run in self._dispatcher
            done, _ = await asyncio.wait({settled}, timeout=_LOCAL_POLL_S if is_local else pause_s)
            if done:
                announced = settled.result()
                yield announced or run
                return
            pause_s = next(pauses, pause_s)
            try:
                run = await self._store.get(run.run_id)
            except DatabaseUnavailableError:
                # The one who waits has a time-out of their own; the run may well end before it.
                continue
            yield run

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

    @property
    def is_closing(self) -> bool:
        """Whether no new runs are taken any more."""
        return self._closing

    def request_close(self) -> None:
        """Begin to stop: take no new runs, let attempts stop at their next checkpoint, and let waiters go."""
        if not self._closing:
            self._closing = True
            self._dispatcher.request_drain()
            self._settlements.close()

    async def close(self) -> None:
        """Stop within DRAIN_TIMEOUT: every run goes back to pending at a checkpoint, for another server.

        Attempts that take longer are cut off and counted in `cut_off`; they too go on from their last checkpoint.
        """
        self.request_close()
        await self._recovery.stop()
        self.cut_off = await self._dispatcher.drain(self.settings.drain_timeout)
        await self._recorder.stop()
        try:
            async with asyncio.timeout(_RELEASE_WITHIN_S):
                released = await self._store.release_all(self._owner)
        except (DatabaseUnavailableError, TimeoutError):
            _log.warning("[WorkflowOrchestrator] runs could not be handed back; they are taken over instead")
        else:
            _log.info(
                "[WorkflowOrchestrator] stopped: %d attempts cut off, %d further runs handed back",
                self.cut_off,
                len(released),
            )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Drive runs for the block, then close."""
        async with _alive(self._saver, self.settings, self._owner):
            self._recorder.start()
            if isinstance(self._saver, PooledPostgresSaver):
                self._recovery.start()
            try:
                yield
            finally:
                await self.close()


@asynccontextmanager
async def open_orchestrator(
    graphs: Mapping[str, Graph], *, settings: OrchestratorSettings | None = None
) -> AsyncIterator[Orchestrator]:
    """Open the saver that the settings (by default: the environment) ask for, and run `graphs` on it.

    Raises `checkpointer.CheckpointerError` where the saver can't be opened, and `GraphError` for a graph that
    can't be used.
    """
    settings = settings or OrchestratorSettings()
    async with AsyncExitStack() as stack:
        saver = await stack.enter_async_context(open_saver(settings, migrations=(MIGRATIONS,)))
        registry = await stack.enter_async_context(compile_graphs(graphs, saver))
        orchestrator = Orchestrator(store=_store(saver), saver=saver, graphs=registry, settings=settings)
        await stack.enter_async_context(orchestrator.running())
        yield orchestrator


@asynccontextmanager
async def open_run_store(settings: CheckpointerSettings) -> AsyncIterator[RunStore]:
    """The runs in the database, to be looked at without driving any. Raises `SettingsError` with the flag off."""
    if not settings.use_postgres_saver:
        raise SettingsError(
            "USE_POSTGRES_SAVER is not set, so runs are in the memory of the server that runs them: "
            "ask it with --url, or set USE_POSTGRES_SAVER"
        )
    async with open_saver(settings, migrations=(MIGRATIONS,)) as saver:
        yield _store(saver)


def _store(saver: BaseCheckpointSaver[Any]) -> RunStore:
    if isinstance(saver, PooledPostgresSaver):
        return PostgresRunStore(saver.pool, saver.schema, retry_for_s=saver.retry_for_s)
    return MemoryRunStore()


@asynccontextmanager
async def _alive(saver: BaseCheckpointSaver[Any], settings: CheckpointerSettings, owner: int) -> AsyncIterator[None]:
    if not isinstance(saver, PooledPostgresSaver):
        yield
        return
    async with OwnerLock(_session_conninfo(saver, settings), saver.schema, owner).held():
        yield


def _session_conninfo(saver: PooledPostgresSaver, settings: CheckpointerSettings) -> str:
    """Where a lock of a session's own can be held: the server itself, not a pooler in front of it."""
    if settings.postgres_pooler == "transaction" and settings.postgres_migration_connection_string is None:
        raise SettingsError(
            "POSTGRES_POOLER=transaction needs POSTGRES_MIGRATION_CONNECTION_STRING too, the server's direct "
            "address: each server process holds one session lock, which a transaction pooler can't keep"
        )
    return settings.migration_conninfo() if settings.has_connection else str(saver.pool.conninfo)
