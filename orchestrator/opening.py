"""Opens an `Orchestrator` over what the settings ask for: saver, run store, leases."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver

from checkpointer import CheckpointerSettings, SettingsError, tracing
from checkpointer.factory import open_postgres, open_saver
from checkpointer.postgres.saver import PooledPostgresSaver
from checkpointer.postgres.worker_connection import WorkerConnection
from checkpointer.rollout import RolloutSaver, postgres_of
from orchestrator.engine.dispatcher import MAX_ACTIVE_RUNS
from orchestrator.engine.graphs import Graph, compile_graphs
from orchestrator.engine.leases import LeaseKeeper, Runner, new_owner_id
from orchestrator.engine.placing import KEEPS_MEMORY, refuse_rivals
from orchestrator.engine.retention import retention_ticker
from orchestrator.engine.schedules import Schedule, Scheduler
from orchestrator.engine.service import Orchestrator
from orchestrator.engine.ticker import Ticker
from orchestrator.engine.work import Work
from orchestrator.errors import QueueError
from orchestrator.migrations import ALL_MIGRATIONS
from orchestrator.moves.carrying import carried_over
from orchestrator.queues.driver import FLOW_QUEUE, STEP_QUEUE, QueueDriver
from orchestrator.queues.local import LocalQueue
from orchestrator.queues.worker import DriverPusher, Proxy, function_proxy, installed_driver
from orchestrator.runs.expiry.database import Database
from orchestrator.runs.memory import MemoryRunStore
from orchestrator.runs.postgres import PostgresRunStore, open_postgres_runs
from orchestrator.runs.store import RunStore
from orchestrator.settings import OrchestratorSettings
from orchestrator.version import holdfast_version

__all__ = ["Role", "open_orchestrator", "open_run_store", "session_conninfo"]

_log = logging.getLogger(__name__)
_QUEUES = (FLOW_QUEUE, STEP_QUEUE)
_TRANSITION_CONNECTIONS = 2
# How long a run that a queue has told a worker of is left to that one. Then the message is taken to be lost.
_LEAVE_NEW_FOR_S = 2.0


@dataclass(frozen=True, slots=True)
class Role:
    """What of the work a process does. `kind` is how it shows itself among the runners.

    Without `works` it only starts runs and looks after lost ones. `concurrency` bounds the runs under way, by default
    only those that come from the queue (WORKER_CONCURRENCY). `queues` are those that it takes from, by default `flow`
    and `step`.
    With a `proxy`, it hands messages over to a server that has the graphs.
    """

    kind: str = "program"
    works: bool = True
    concurrency: int | None = None
    queues: Sequence[str] = ()
    proxy: Proxy | None = None


@asynccontextmanager
async def open_orchestrator(
    graphs: Mapping[str, Graph],
    *,
    settings: OrchestratorSettings | None = None,
    queue: QueueDriver | None = None,
    schedules: Sequence[Schedule] = (),
    role: Role = Role(),
) -> AsyncIterator[Orchestrator]:
    """Open the saver that the settings (by default: the environment) ask for, and run `graphs` on it.

    Runs are carried to workers by `queue`, by default by what QUEUE_DRIVER says; `role` says what of the work this
    process does. What `schedules` say is started when it is due. Raises `checkpointer.CheckpointerError` where the
    saver can't be opened, `GraphError` for a graph that can't be used, `QueueError` for a queue, and
    `InvalidRequestError` for a schedule.
    """
    settings = settings or OrchestratorSettings()
    tracing.enable()
    async with AsyncExitStack() as stack:
        saver = await stack.enter_async_context(_saver(settings, role))
        registry = await stack.enter_async_context(compile_graphs(graphs, saver))
        driver = await _opened(stack, _driver(saver, settings) if queue is None else queue)
        # Only of the driver that was made here it is known that its jobs are where the runs are.
        enqueues = queue is None and isinstance(driver, _postgres_queue())
        store = await stack.enter_async_context(_runs(saver, settings, settings.job_prefix if enqueues else None))
        if isinstance(store, MemoryRunStore) and settings.memory_snapshot is not None:
            await stack.enter_async_context(_carried_over(store, saver, settings.memory_snapshot))
        owner = new_owner_id()
        orchestrator = Orchestrator(
            store=store,
            saver=saver,
            graphs=registry,
            settings=settings,
            owner=owner,
            work=_work(settings, role, driver, is_own=queue is not None, pulls=enqueues),
        )
        if isinstance(store, MemoryRunStore):
            store.listener = orchestrator.recovery.hear
        else:
            keeps_memory = isinstance(saver, RolloutSaver)
            kind = role.kind + KEEPS_MEMORY * keeps_memory
            runner = Runner(owner, kind, holdfast_version(), sorted(registry))
            await stack.enter_async_context(_leases(saver, settings, runner, orchestrator))
            if isinstance(store, PostgresRunStore):
                await refuse_rivals(store, owner, keeps_memory=keeps_memory)
        retention = _retention(saver, settings)
        scheduler = Scheduler(orchestrator, schedules) if schedules else None
        orchestrator.run_in_background()
        stack.push_async_callback(_close, orchestrator, driver)
        if role.works:
            await driver.start(
                role.proxy or function_proxy(orchestrator),
                queues=role.queues or _QUEUES,
                concurrency=role.concurrency or settings.worker_concurrency,
            )
        if scheduler is not None:
            scheduler.start()
            stack.push_async_callback(scheduler.stop)
        if retention is not None:
            retention.start()
            stack.push_async_callback(retention.stop)
        yield orchestrator


def _saver(settings: OrchestratorSettings, role: Role) -> AbstractAsyncContextManager[BaseCheckpointSaver[Any]]:
    # Threads in memory go on in the process that has them: the one that serves.
    drives = role.works and role.proxy is None and role.kind != "worker"
    percent = settings.postgres_saver_rollout_percent
    if settings.use_postgres_saver and percent < 100 and not drives:
        raise SettingsError(
            f"POSTGRES_SAVER_ROLLOUT_PERCENT={percent} keeps threads in the memory of the one server that drives them, "
            f"which a process of the kind {role.kind!r} is not: run `holdfast serve` alone until it is 100"
        )
    # With the flag off, MEMORY_SNAPSHOT holds the runs too, and is carried over along with them.
    return open_saver(settings, migrations=ALL_MIGRATIONS, snapshot=settings.use_postgres_saver and drives)


def _carried_over(
    store: MemoryRunStore, saver: BaseCheckpointSaver[Any], path: Path
) -> AbstractAsyncContextManager[None]:
    if not isinstance(saver, InMemorySaver):
        raise TypeError(f"MEMORY_SNAPSHOT keeps what is in memory, which a {type(saver).__qualname__} does not")
    return carried_over(store, saver, path)


def _retention(saver: BaseCheckpointSaver[Any], settings: OrchestratorSettings) -> Ticker | None:
    """What forgets runs in the background, where the settings say so. Memory ends with the process."""
    postgres = postgres_of(saver)
    if postgres is None:
        return None
    db = Database(postgres.pool, postgres.schema, postgres.cipher, postgres.retry_for_s)
    return retention_ticker(db, settings)


def _work(settings: OrchestratorSettings, role: Role, driver: QueueDriver, *, is_own: bool, pulls: bool) -> Work:
    goes_through_queue = is_own or settings.queue_driver != "auto" or not role.works
    here = role.works and role.proxy is None
    return Work(
        capacity=role.concurrency or MAX_ACTIVE_RUNS,
        queues=role.queues or _QUEUES,
        takes=here,
        begins_here=here and not goes_through_queue,
        leave_new_for_s=_LEAVE_NEW_FOR_S if goes_through_queue or pulls else 0.0,
        pusher=DriverPusher(driver),
        pushes_runs=not here,
    )


async def _opened(stack: AsyncExitStack, driver: QueueDriver) -> QueueDriver:
    if not isinstance(driver, QueueDriver):
        raise QueueError(f"queue takes a queue driver, which a {type(driver).__qualname__} is not")
    if isinstance(driver, AbstractAsyncContextManager):
        await stack.enter_async_context(driver)
    return driver


async def _close(orchestrator: Orchestrator, driver: QueueDriver) -> None:
    """Stop the runs and, at the same time, the delivery: what was delivered ends when its run stops."""
    orchestrator.request_close()
    await asyncio.gather(orchestrator.close(), _stop_delivery(driver, orchestrator.settings.drain_timeout))


async def _stop_delivery(driver: QueueDriver, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await driver.stop()
    except TimeoutError:
        _log.warning("[WorkflowOrchestrator] the queue had not dealt with all it had delivered after %g s", within_s)
    except Exception:
        _log.exception("[WorkflowOrchestrator] the queue could not be stopped in good order")


def _driver(saver: BaseCheckpointSaver[Any], settings: OrchestratorSettings) -> QueueDriver:
    """What QUEUE_DRIVER says. Raises `QueueError`."""
    name = settings.queue_driver
    postgres = postgres_of(saver)
    if name == "auto":
        name = "postgres" if postgres is not None and find_spec("procrastinate") else "local"
    if name == "local":
        return LocalQueue()
    if name != "postgres":
        return installed_driver(name, ("auto", "local", "postgres"))
    if postgres is None:
        raise QueueError("QUEUE_DRIVER=postgres keeps its jobs in PostgreSQL: set USE_POSTGRES_SAVER too")
    if not find_spec("procrastinate"):
        raise QueueError("QUEUE_DRIVER=postgres needs the extra: pip install 'holdfast[server]'")
    queue: QueueDriver = _postgres_queue()(
        session_conninfo(postgres, settings),
        postgres.schema,
        prefix=settings.job_prefix,
        drain_s=settings.drain_timeout,
    )
    return queue


def _postgres_queue() -> Any:
    """The class of the postgres driver; a type that nothing is an instance of where its library is not installed."""
    if not find_spec("procrastinate"):
        return _Nothing
    from orchestrator.queues.postgres import PostgresQueue

    return PostgresQueue


class _Nothing:
    """What no object is an instance of."""


def _leases(
    saver: BaseCheckpointSaver[Any], settings: OrchestratorSettings, runner: Runner, orchestrator: Orchestrator
) -> AbstractAsyncContextManager[None]:
    postgres = postgres_of(saver)
    if postgres is None:
        raise TypeError(f"leases are kept in PostgreSQL, not by a {type(saver).__qualname__}")
    keeper = LeaseKeeper(
        session_conninfo(postgres, settings),
        postgres.schema,
        runner,
        lease_s=settings.run_lease_seconds,
        heard=orchestrator.recovery.hear,
    )
    return keeper.held()


@asynccontextmanager
async def open_run_store(settings: OrchestratorSettings) -> AsyncIterator[RunStore]:
    """The runs in the database, without driving any. Raises `SettingsError` with the flag off."""
    if not settings.use_postgres_saver:
        raise SettingsError(
            "USE_POSTGRES_SAVER is not set, so runs are in the memory of the server that runs them: "
            "ask it with --url, or set USE_POSTGRES_SAVER"
        )
    async with (
        open_postgres(settings, migrations=ALL_MIGRATIONS) as saver,
        _postgres_runs(saver, settings, None) as store,
    ):
        yield store


@asynccontextmanager
async def _runs(
    saver: BaseCheckpointSaver[Any], settings: OrchestratorSettings, queue_prefix: str | None
) -> AsyncIterator[RunStore]:
    """The runs beside the checkpoints: in PostgreSQL where the saver is, else in memory."""
    postgres = postgres_of(saver)
    if postgres is None:
        yield MemoryRunStore(lease_s=settings.run_lease_seconds)
        return
    async with _postgres_runs(postgres, settings, queue_prefix) as store:
        yield store


@asynccontextmanager
async def _postgres_runs(
    saver: PooledPostgresSaver, settings: OrchestratorSettings, queue_prefix: str | None
) -> AsyncIterator[PostgresRunStore]:
    connections = [
        WorkerConnection(
            str(saver.pool.conninfo),
            pooler=settings.postgres_pooler,
            connect_timeout_s=settings.postgres_connect_timeout,
        )
        for _ in range(_TRANSITION_CONNECTIONS)
    ]
    async with open_postgres_runs(
        saver.pool,
        connections,
        saver.schema,
        lease_s=settings.run_lease_seconds,
        retry_for_s=saver.retry_for_s,
        queue_prefix=queue_prefix,
    ) as store:
        yield store


def session_conninfo(saver: PooledPostgresSaver, settings: CheckpointerSettings) -> str:
    """Where a lock of a session's own can be held: the server itself, not a pooler in front of it."""
    if settings.postgres_pooler == "transaction" and settings.postgres_migration_connection_string is None:
        raise SettingsError(
            "POSTGRES_POOLER=transaction needs POSTGRES_MIGRATION_CONNECTION_STRING too, the server's direct "
            "address: each server process holds one session lock, which a transaction pooler can't keep"
        )
    return settings.migration_conninfo() if settings.has_connection else str(saver.pool.conninfo)
