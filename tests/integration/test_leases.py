"""The lock and the leases that say a process is alive, kept from a thread of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from checkpointer import CheckpointerSettings, ConnectError
from checkpointer.postgres import schema as tables
from orchestrator import OrchestratorSettings
from orchestrator.engine.leases import Held, LeaseKeeper, Runner, new_owner_id
from orchestrator.migrations import MIGRATIONS
from orchestrator.opening import open_run_store
from orchestrator.runs.model import Request, Run, new_run_id
from orchestrator.runs.sender import channel_of
from orchestrator.runs.store import NewRun, Notice
from tests.postgres import Cluster
from tests.waiting import until

SCHEMA = "workflow_checkpoints"
RUNS, RUNNERS = f"{SCHEMA}.workflow_metadata", f"{SCHEMA}.workflow_runner"


class Ears:
    """Remembers what a keeper tells."""

    def __init__(self) -> None:
        self.heard: list[Held | Notice] = []

    @property
    def held(self) -> list[Held]:
        return [each for each in self.heard if isinstance(each, Held)]

    @property
    def notices(self) -> list[Notice]:
        return [each for each in self.heard if isinstance(each, Notice)]


@asynccontextmanager
async def keeping(dsn: str, owner: int, *, lease_s: float = 15.0) -> AsyncIterator[Ears]:
    ears = Ears()
    runner = Runner(owner, "program", "1.2.3", ["chain"])
    async with LeaseKeeper(dsn, SCHEMA, runner, lease_s=lease_s, heard=ears.heard.append).held():
        yield ears


def sessions(conn: psycopg.Connection, owner: int, *, waiting: bool = False) -> list[int]:
    """The server's processes that have the owner's lock, or wait for it."""
    rows = conn.execute(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted <> %(waiting)s"
        " AND classid = (%(o)s::bigint >> 32)::oid AND objid = (%(o)s::bigint & 4294967295)::oid",
        {"o": owner, "waiting": waiting},
    )
    return [int(pid) for (pid,) in rows]


def holds(conn: psycopg.Connection, owner: int) -> bool:
    """Whether some session has the owner's lock."""
    return bool(sessions(conn, owner))


def cut(conn: psycopg.Connection, owner: int) -> int:
    """End the session that has the owner's lock; which one it was."""
    [pid] = sessions(conn, owner)
    conn.execute("SELECT pg_terminate_backend(%s)", [pid])
    return pid


@pytest.fixture
async def dsn(postgres_dsn: str) -> str:
    """A database with the tables of runs."""
    await tables.setup(postgres_dsn, SCHEMA, (MIGRATIONS,))
    return postgres_dsn


@pytest.fixture
def owner() -> int:
    return new_owner_id()


@pytest.fixture
async def run(checkpointer_settings: CheckpointerSettings, owner: int) -> Run:
    """A run that the owner drives."""
    settings = OrchestratorSettings(**checkpointer_settings.model_dump(exclude_unset=True))
    async with open_run_store(settings) as store:
        new = NewRun(new_run_id(), "chain", {}, 3, "default")
        return (await store.create(new, owner=owner)).run


async def test_the_lock_is_held_and_the_runner_shown(dsn: str, conn: psycopg.Connection, owner: int) -> None:
    async with keeping(dsn, owner) as ears:
        assert holds(conn, owner)
        await until(lambda: ears.held)
        [row] = conn.execute(f"SELECT owner, kind, version, workflows, lease_until > now() FROM {RUNNERS}")
        assert row == (owner, "program", "1.2.3", ["chain"], True)
    await until(lambda: not holds(conn, owner))
    assert conn.execute(f"SELECT FROM {RUNNERS}").fetchall() == []


async def test_it_opens_as_often_as_one_likes(dsn: str, conn: psycopg.Connection, owner: int) -> None:
    """The thread may be there before whoever waits for it, or after."""
    for _ in range(10):
        async with keeping(dsn, owner):
            assert holds(conn, owner)
        await until(lambda: not holds(conn, owner))


async def test_leases_are_renewed_while_the_event_loop_is_blocked(
    dsn: str, conn: psycopg.Connection, owner: int, run: Run
) -> None:
    def lease_until() -> tuple[Any, bool]:
        [row] = conn.execute(f"SELECT lease_until, lease_until < clock_timestamp() FROM {RUNS}")
        return row

    async with keeping(dsn, owner, lease_s=0.5) as ears:
        await until(lambda: ears.held)
        told, seen, ends = len(ears.heard), {lease_until()[0]}, time.monotonic() + 60
        while len(seen) < 10 and time.monotonic() < ends:
            seen.add(lease_until()[0])
        assert len(ears.heard) == told  # nothing was heard meanwhile: the loop was blocked
        assert len(seen) == 10
        # Of all the renewals only the last one is told; there may be new ones by now.
        await until(lambda: len(ears.heard) > told)
        assert len(ears.heard) < told + len(seen) - 2
        assert ears.held[-1].runs == {run.run_id: (run.epoch, None)}
    await until(lambda: lease_until()[1], what="a lease that nobody renews lapses")


async def test_a_renewal_tells_what_was_asked_and_what_was_taken(
    dsn: str, conn: psycopg.Connection, owner: int, run: Run
) -> None:
    async with keeping(dsn, owner, lease_s=0.2) as ears:
        conn.execute(f"UPDATE {RUNS} SET requested = 'pause'")
        await until(lambda: ears.held[-1:] == [Held({run.run_id: (run.epoch, Request.PAUSE)})])
        conn.execute(f"UPDATE {RUNS} SET lease_owner = 1, epoch = epoch + 1")
        await until(lambda: ears.held[-1] == Held({}))


async def test_notices_are_told(dsn: str, conn: psycopg.Connection, owner: int) -> None:
    async with keeping(dsn, owner) as ears:
        for said in ("free", "settled a b", "asked c", "nonsense", ""):
            conn.execute("SELECT pg_notify(%s, %s)", [channel_of(SCHEMA), said])
        await until(lambda: len(ears.notices) == 5)
        expected = [Notice("free"), Notice("settled", ("a", "b")), Notice("asked", ("c",)), *[Notice("free")] * 2]
        assert ears.notices == expected


async def test_the_lock_comes_back_after_its_connection_was_cut(
    dsn: str, conn: psycopg.Connection, owner: int, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with keeping(dsn, owner, lease_s=0.5) as ears:
        for number in (1, 2):
            gone, renewed = cut(conn, owner), len(ears.held)

            def is_back(gone: int = gone) -> bool:
                return bool(set(sessions(conn, owner)) - {gone})

            await until(is_back, what="another session has the lock")
            await until(lambda number=renewed: len(ears.held) > number, what="leases are renewed")  # type: ignore[misc]
            assert caplog.text.count("the connection that says this server is alive was lost") == number
            await until(lambda number=number: caplog.text.count("is alive is back") == number)  # type: ignore[misc]
        conn.execute("SELECT pg_notify(%s, 'free')", [channel_of(SCHEMA)])
        await until(lambda: ears.notices)
    await until(lambda: not holds(conn, owner))


async def test_a_lock_that_someone_else_has_is_waited_for(dsn: str, conn: psycopg.Connection, owner: int) -> None:
    """Its own old session, which the server has not noticed to be gone."""
    async with keeping(dsn, owner) as ears, await psycopg.AsyncConnection.connect(dsn, autocommit=True) as other:
        # It waits already when the lock becomes free, and has it before anybody else can ask.
        taking = asyncio.create_task(other.execute("SELECT pg_advisory_lock(%s)", [owner]))
        await until(lambda: sessions(conn, owner, waiting=True), what="the other one waits")
        cut(conn, owner)
        await taking
        renewed = len(ears.held)
        with pytest.raises(AssertionError):
            await until(lambda: len(ears.held) > renewed, timeout_s=1)
        await other.execute("SELECT pg_advisory_unlock(%s)", [owner])
        await until(lambda: len(ears.held) > renewed)
        assert holds(conn, owner)


async def test_an_unforeseen_failure_does_not_end_it(
    dsn: str, conn: psycopg.Connection, owner: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    renew, failures = LeaseKeeper._renew, [RuntimeError("this was not foreseen")]

    def fail_once(keeper: LeaseKeeper, connection: psycopg.Connection[Any]) -> None:
        if len(caplog.records) == 0 and ears.held:
            raise failures.pop()
        renew(keeper, connection)

    monkeypatch.setattr(LeaseKeeper, "_renew", fail_once)
    ears = Ears()
    runner = Runner(owner, "program", "1.2.3", ["chain"])
    async with LeaseKeeper(dsn, SCHEMA, runner, lease_s=0.2, heard=ears.heard.append).held():
        await until(lambda: "it begins anew" in caplog.text)
        renewed = len(ears.held)
        await until(lambda: len(ears.held) > renewed)
        assert holds(conn, owner)
    assert failures == []


async def test_a_lock_that_can_not_be_taken_is_a_connect_error(cluster: Cluster, owner: int) -> None:
    await asyncio.to_thread(cluster.stop)
    with pytest.raises(ConnectError, match="says this server is alive"):
        async with keeping(cluster.dsn(), owner):
            pass
