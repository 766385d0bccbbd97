"""The queue bench's systems: a process that only starts runs, which is this one, and `holdfast worker` processes.

alone        one worker, before any other system is open
one, two     so many workers, and nothing else in the tables but runs that are over
scheduled    one worker, and runs in the tables that are to be taken up a day later
busy         one worker, and runs in the tables whose threads are busy: each waits for one before it to be answered
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import psycopg
from pydantic import SecretStr

from orchestrator import Orchestrator, OrchestratorSettings, Role, open_orchestrator
from tests.bench import served
from tests.bench.contenders import Contender
from tests.bench.processes import Process, started
from tests.bench.workloads import Crowd, Sample, Thread
from tests.postgres import fresh_database
from tests.waiting import until

__all__ = ["LABELS", "SCHEMA", "Start", "System", "Wave", "open_system"]

LABELS = {"one": "one worker", "two": "two workers", "scheduled": "beside scheduled", "busy": "beside busy threads"}
SCHEMA = "workflow_checkpoints"
_WORKERS = {"two": 2}
_BUSY_THREADS = 100
_AT_ONCE = 500
_QUIET_WITHIN_S = 30.0
_WITHIN_S = 60.0
_DUE_JOBS = """
    SELECT count(*) FROM procrastinate_jobs
     WHERE status IN ('todo', 'doing') AND (scheduled_at IS NULL OR scheduled_at <= now())
"""
_TO_DO = """
    SELECT count(*) FROM procrastinate_jobs AS job
      JOIN workflow_metadata AS run ON run.run_id = (job.args -> 'message' ->> 'id')::uuid
     WHERE job.status = 'todo' AND run.status = 'pending'
"""
_DROP_JOBS = """
    WITH gone AS (DELETE FROM procrastinate_jobs WHERE status = 'todo' RETURNING 1) SELECT count(*) FROM gone
"""


@dataclass(frozen=True)
class Start:
    """A single start, in seconds: until the call returned, its node began, and the run was known to be over."""

    returned: float
    began: float
    over: float


@dataclass(frozen=True)
class System:
    """A database of its own, this process's orchestrator on it, its workers, and a connection to look at it."""

    name: str
    dsn: str
    api: Orchestrator
    workers: Sequence[Process]
    looking: psycopg.AsyncConnection

    def contender(self) -> Contender[System]:
        """As what takes part in rounds."""
        return Contender(self.name, lambda: self, self.dsn)

    async def start_one(self) -> Start:
        """Start a run with nothing else going on, and wait for it."""
        begun = time.monotonic()
        run = await self.api.start("stamp", {})
        returned = time.monotonic()
        ended = await self.api.wait_for(run, timeout=_WITHIN_S)
        over = time.monotonic()
        if ended.status != "completed" or not isinstance(ended.output, dict):
            raise AssertionError(f"a run is {ended.status} after {over - begun:.1f} s: {ended.error}")
        return Start(returned - begun, float(ended.output["began"]) - begun, over - begun)

    async def run_one(self) -> None:
        """A run of a node that does nothing, from its start to its end."""
        ended = await self.api.start_and_wait("noop", {}, timeout=_WITHIN_S)
        if ended.status != "completed":
            raise AssertionError(f"a run of {self.name} is {ended.status} after a minute: {ended.error}")

    async def enqueue(self, number: int) -> float:
        """Start so many runs that nobody takes, all at once; the seconds that it took."""
        before = await self.ask(_TO_DO)
        begun = time.monotonic()
        await self._started(number, lambda _: {"start_at": datetime.now(UTC) + timedelta(days=1)})
        elapsed = time.monotonic() - begun
        if (there := await self.ask(_TO_DO) - before) != number:
            raise AssertionError(f"{number} runs were started, and {there} have a row and a job")
        return elapsed

    async def fill_with(self, kind: Literal["scheduled", "busy"], number: int) -> None:
        """Have so many runs wait in the tables."""
        if kind == "scheduled":
            await self.enqueue(number)
        else:
            threads = [f"busy {position}" for position in range(min(_BUSY_THREADS, number))]
            await asyncio.gather(*(self.api.start("asking", {}, thread_id=thread) for thread in threads))
            await until(lambda: self.count("waiting", len(threads)), timeout_s=_WITHIN_S, what="the threads are busy")
            await self._started(number, lambda position: {"thread_id": threads[position % len(threads)]})
            # A worker throws them away one by one, which for many takes minutes; here the state after that counts.
            await self.ask(_DROP_JOBS)
        await self.quiet(_WITHIN_S)
        await self.looking.execute("VACUUM ANALYZE")

    async def _started(self, number: int, options: Callable[[int], dict[str, Any]]) -> None:
        for first in range(0, number, _AT_ONCE):
            positions = range(first, min(first + _AT_ONCE, number))
            await asyncio.gather(*(self.api.start("noop", {}, **options(position)) for position in positions))

    async def count(self, status: str, least: int) -> bool:
        """Whether at least so many runs have this status."""
        return bool(await self.ask("SELECT count(*) FROM workflow_metadata WHERE status = %s", status) >= least)

    async def quiet(self, timeout_s: float = _QUIET_WITHIN_S) -> None:
        """Wait until no job is left that a worker would take now."""

        async def none_left() -> bool:
            return not await self.ask(_DUE_JOBS)

        await until(none_left, timeout_s=timeout_s, what=f"no job of {self.name} is due")

    async def forget_waiting(self) -> None:
        """Take what waits out of the tables again."""
        await self.ask(_DROP_JOBS)
        query = "WITH gone AS (DELETE FROM workflow_metadata WHERE status = 'pending' RETURNING 1)"
        await self.ask(f"{query} SELECT count(*) FROM gone")
        await self.looking.execute("VACUUM ANALYZE")

    async def ask(self, query: str, *params: object) -> Any:
        """The first column of a query's only row; tables are without their schema."""
        row = await (await self.looking.execute(query.encode(), params)).fetchone()
        return row[0] if row else None


@dataclass(frozen=True)
class Wave(Crowd[System]):
    """Runs of a node that does nothing, all started at once, and waited for where they were started."""

    def begin(self, subject: System) -> Callable[[str, Sample], Thread]:
        def run(_: str, sample: Sample) -> Coroutine[Any, Any, None]:
            return subject.run_one()

        return run

    async def run(
        self, subject: System, sample: Sample, *, watch: AbstractContextManager[object] | None = None
    ) -> None:
        await super().run(subject, sample, watch=watch)
        # Jobs of runs that were taken from the table are still to be thrown away. It is not in the time.
        await subject.quiet()


@asynccontextmanager
async def open_system(
    admin_dsn: str, directory: Path, name: str, *, waiting: int = 0, profile: Path | None = None
) -> AsyncIterator[System]:
    """A system of this name, whose workers work; `profile` is where its first worker leaves its profile."""
    graphs = {graph: getattr(served, graph) for graph in served.GRAPHS}
    async with AsyncExitStack() as stack:
        dsn = stack.enter_context(fresh_database(admin_dsn))
        settings = OrchestratorSettings(use_postgres_saver=True, postgres_connection_string=SecretStr(dsn))
        role = Role("serve --no-worker", works=False)
        api = await stack.enter_async_context(open_orchestrator(graphs, settings=settings, role=role))
        environment = {"USE_POSTGRES_SAVER": "true", "POSTGRES_CONNECTION_STRING": dsn}
        options = f"-c search_path={SCHEMA}"
        looking = await psycopg.AsyncConnection.connect(dsn, autocommit=True, options=options)
        await stack.enter_async_context(looking)
        workers: list[Process] = []
        system = System(name, dsn, api, workers, looking)
        for number in range(_WORKERS.get(name, 1)):
            home = directory / f"{name}{number}"
            home.mkdir()
            command = ("worker", "--graphs", str(served.write_graph_file(home)))
            kept = profile if number == 0 else None
            workers.append(stack.enter_context(started(home, *command, environment=environment, profile=kept)))
        await _at_work(system)
        if name in ("scheduled", "busy"):
            await system.fill_with("scheduled" if name == "scheduled" else "busy", waiting)
        yield system


async def _at_work(system: System) -> None:
    """Wait until every worker has told of itself, and listens to the queue."""

    async def listening() -> bool:
        for worker in system.workers:
            worker.check()
        runners = await system.ask("SELECT count(*) FROM workflow_runner WHERE kind = 'worker'")
        queues = await system.ask("SELECT count(*) FROM procrastinate_workers")
        # Each has one for runs and one for steps.
        return bool(runners >= len(system.workers) <= queues / 2)

    await until(listening, timeout_s=_WITHIN_S, what=f"the workers of {system.name} work")
