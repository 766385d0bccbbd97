"""What the tests of run stores share: a store of each kind, and runs brought into a state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from time import monotonic
from typing import Any

import psycopg

from checkpointer import CheckpointerSettings, PooledPostgresSaver
from checkpointer.factory import open_saver
from checkpointer.postgres.worker_connection import WorkerConnection
from orchestrator.migrations import MIGRATIONS
from orchestrator.runs.activity import ActivityNote
from orchestrator.runs.events import RunNotes
from orchestrator.runs.memory import MemoryRunStore
from orchestrator.runs.model import Run, RunStatus, new_run_id
from orchestrator.runs.postgres import open_postgres_runs
from orchestrator.runs.store import Absent, NewRun, Outcome, RunStore

__all__ = ["DONE", "HAND_BACK", "ME", "OTHER", "Stage", "new", "note", "open_stage", "told", "wait_for"]

ME, OTHER = 101, 202
DONE = Outcome(RunStatus.COMPLETED, output={"answer": 42}, last_checkpoint_id="c1")
HAND_BACK = Outcome(RunStatus.PENDING)


class Stage:
    """A store, and who is alive."""

    def __init__(self, store: RunStore, saver: PooledPostgresSaver | None = None) -> None:
        self.store = store
        self._saver = saver
        self._holders = AsyncExitStack()
        self._locks: dict[int, psycopg.AsyncConnection] = {}

    async def record(self, notes: Sequence[ActivityNote]) -> None:
        """Note the activities, by run and epoch."""
        await self.store.record(told(notes))

    async def appear(self, owner: int) -> None:
        """`owner` is alive from now on."""
        if self._saver is not None:
            lock = await self._holders.enter_async_context(
                await psycopg.AsyncConnection.connect(str(self._saver.pool.conninfo), autocommit=True)
            )
            await lock.execute("SELECT pg_advisory_lock(%s)", (owner,))
            self._locks[owner] = lock

    async def vanish(self, owner: int) -> Absent:
        """`owner` is dead from now on."""
        if isinstance(self.store, MemoryRunStore):
            self.store.absent[owner] = "lock"
        elif owner in self._locks:
            await self._locks.pop(owner).execute("SELECT pg_advisory_unlock(%s)", (owner,))
        return Absent(owner, "lock")

    async def lapse(self, owner: int) -> Absent:
        """`owner` holds its lock, but is frozen, and the leases of the runs it drives at this moment have lapsed."""
        if isinstance(self.store, MemoryRunStore):
            self.store.absent[owner] = "lease"
        elif self._saver is not None:
            table = f"{self._saver.schema}.workflow_metadata"
            async with self._saver.pool.connection() as conn:
                lapsed = f"UPDATE {table} SET lease_until = clock_timestamp() - interval '1 s' WHERE lease_owner = %s"
                await conn.execute(lapsed.encode(), (owner,))
        return Absent(owner, "lease")

    async def backdate(self, run: Run) -> None:
        """`run` was created an hour ago: its transaction began before others and was committed after them."""
        if isinstance(self.store, MemoryRunStore):
            self.store._change(run, created_at=run.created_at - timedelta(hours=1))
        elif self._saver is not None:
            table = f"{self._saver.schema}.workflow_metadata"
            async with self._saver.pool.connection() as conn:
                older = f"UPDATE {table} SET created_at = created_at - interval '1 h' WHERE run_id = %s"
                await conn.execute(older.encode(), (run.run_id,))

    async def close(self) -> None:
        await self._holders.aclose()

    async def create(self, thread_id: str | None = None, **values: Any) -> Run:
        return (await self.store.create(new(thread_id, **values))).run

    async def running(self, thread_id: str | None = None, *, owner: int = ME, **values: Any) -> Run:
        return await self.claimed(await self.create(thread_id, **values), owner)

    async def claimed(self, run: Run, owner: int = ME) -> Run:
        claimed = await self.store.claim(run, owner)
        assert claimed is not None
        return claimed

    async def ended(self, run: Run, outcome: Outcome) -> Run:
        ended = await self.store.finish(run, outcome)
        assert ended is not None
        return ended

    async def waiting(self, *signals: str, thread_id: str | None = None) -> Run:
        """A run that waits for these signals, in the interrupts i1, i2, …"""
        return await self.ended(await self.running(thread_id), wait_for(*signals))

    async def at(self, status: RunStatus, thread_id: str | None = None) -> Run:
        """A run in this state."""
        return await self.brought(await self.create(thread_id), status)

    async def brought(self, run: Run, status: RunStatus) -> Run:
        """A pending run, brought into this state."""
        if status is RunStatus.PENDING:
            return run
        run = await self.claimed(run)
        if status is RunStatus.RUNNING:
            return run
        if status is RunStatus.CANCELLED:
            return await self.store.cancel(run.run_id)
        if status is RunStatus.PAUSED:
            await self.store.pause(run.run_id)
        return await self.ended(run, Outcome(status, seen_signals=run.signal_count))

    async def again(self, run: Run) -> Run:
        return await self.store.get(run.run_id)


def new(thread_id: str | None = None, **values: Any) -> NewRun:
    given: dict[str, Any] = {
        "run_id": new_run_id(),
        "workflow_type": "w",
        "input": {"a": 1},
        "max_attempts": 3,
        "organization_id": "default",
        "thread_id": thread_id,
    }
    return NewRun(**given | values)


def wait_for(*signals: str, seen: int = 0) -> Outcome:
    waits = [{"interruptId": f"i{n}", "signal": name, "value": name} for n, name in enumerate(signals, 1)]
    return Outcome(RunStatus.WAITING, awaiting=waits, seen_signals=seen, last_checkpoint_id="c1")


def told(notes: Sequence[ActivityNote]) -> list[RunNotes]:
    """The notes of each run and epoch together, as an attempt tells them."""
    by_run: dict[tuple[str, int], list[ActivityNote]] = {}
    for each in notes:
        by_run.setdefault((each.run_id, each.epoch), []).append(each)
    return [RunNotes(run_id, epoch, noted) for (run_id, epoch), noted in by_run.items()]


def note(run: Run, task_id: str, activity: str, *, began_s: float = 5, **values: Any) -> ActivityNote:
    """What is to be written of an activity that was begun `began_s` ago."""
    started = monotonic() - began_s
    return ActivityNote(run.run_id, run.epoch, run.attempt, task_id, activity, started=started, **values)


@asynccontextmanager
async def open_stage(settings: CheckpointerSettings) -> AsyncIterator[Stage]:
    """The one place where the stores are made."""
    if not settings.use_postgres_saver:
        yield Stage(MemoryRunStore())
        return
    async with open_saver(settings, migrations=(MIGRATIONS,)) as saver:
        assert isinstance(saver, PooledPostgresSaver)
        conninfo = str(saver.pool.conninfo)
        connections = [WorkerConnection(conninfo, pooler="none", connect_timeout_s=30) for _ in range(2)]
        async with open_postgres_runs(saver.pool, connections, saver.schema) as store:
            stage = Stage(store, saver)
            try:
                yield stage
            finally:
                await stage.close()
