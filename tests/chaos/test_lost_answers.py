"""A transition is committed and its answer lost, or its backend dies while it waits: it is done once all the same.

The statement is held up by a lock of the test's, so that it is known to be under way when the connection goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.chaos.fleet import Fleet, frozen, open_fleet
from tests.chaos.graphs import LINE
from tests.checkpoints import SCHEMA
from tests.proxy import Proxy
from tests.waiting import until

pytestmark = pytest.mark.chaos
ONCE = dict.fromkeys(LINE, 1)


@dataclass
class Line:
    """The first server's line to the database, and how it is to fail."""

    fleet: Fleet
    proxy: Proxy
    how: str

    @asynccontextmanager
    async def fails(self, lock: str, statement: str, committed: Callable[[], object]) -> AsyncIterator[None]:
        """Hold what the block starts up with `lock`, and have the connection fail once `statement` waits for it."""
        async with await psycopg.AsyncConnection.connect(self.fleet.dsn) as conn:
            await conn.execute(f"SET search_path TO {SCHEMA}")
            await conn.execute(lock.encode())
            yield
            waiting = await until(lambda: self._waiting(statement), what=f"{statement} waits")
            assert not committed()
            if self.how == "cut":
                self.proxy.deafen()
            else:
                self.fleet.rows("SELECT pg_terminate_backend(%s)", [waiting[0]["pid"]])
            await conn.rollback()
        if self.how == "cut":
            await until(committed, what=f"{statement} is committed")
            # The lock that says the server is alive is gone, too. Nobody is to notice before it has it back.
            with frozen(self.fleet.servers[1]):
                before = self._keeper()
                self.proxy.cut()
                self.proxy.hear()
                await until(lambda: self._keeper() not in ([], before), what="it holds its lock again")

    def _keeper(self) -> list[dict[str, Any]]:
        """The backend that holds the first server's lock."""
        return self.fleet.rows(
            "SELECT lock.pid FROM workflow_runner AS runner JOIN pg_locks AS lock ON lock.locktype = 'advisory'"
            " AND lock.objsubid = 1 AND lock.granted"
            " AND (lock.classid::bigint << 32) + lock.objid::bigint = runner.owner WHERE runner.pid = %s",
            [self.fleet.servers[0].pid],
        )

    def _waiting(self, statement: str) -> list[dict[str, Any]]:
        return self.fleet.rows(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            " AND strpos(query, %s) > 0",
            [statement],
        )


_HOLDS_ENDS = """
    SET search_path = workflow_checkpoints;
    CREATE FUNCTION hold_end() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NEW; END';
    CREATE TRIGGER hold_end BEFORE UPDATE ON workflow_metadata FOR EACH ROW
        WHEN (NEW.status = 'completed') EXECUTE FUNCTION hold_end();
"""


@pytest.fixture(params=["cut", "terminated"])
async def line(request: pytest.FixtureRequest, postgres_dsn: str, tmp_path: Path) -> AsyncIterator[Line]:
    parts = conninfo_to_dict(postgres_dsn)
    if str(parts.get("host", "/")).startswith("/"):
        pytest.skip("the server of TEST_POSTGRES_DSN has no TCP address to put a proxy before")
    async with Proxy.to(str(parts["host"]), int(str(parts.get("port") or 5432))) as proxy:
        through = make_conninfo(postgres_dsn, host="127.0.0.1", port=proxy.port)
        own = {"POSTGRES_CONNECTION_STRING": through}
        async with open_fleet(tmp_path, postgres_dsn, first=own, RUN_LEASE_SECONDS="60") as fleet:
            yield Line(fleet, proxy, request.param)


async def test_a_transition_is_done_once(line: Line) -> None:
    """Started, claimed and finished, each with its answer lost; a second server looks on."""
    fleet = line.fleet
    server = fleet.servers[0]

    def row(key: str) -> dict[str, Any]:
        [found] = fleet.rows("SELECT * FROM workflow_metadata WHERE idempotency_key = %s", [key]) or [{}]
        return found

    # A row with the same key, not committed, holds the creation up.
    making = (
        "INSERT INTO workflow_metadata (run_id, thread_id, organization_id, workflow_type, status, idempotency_key,"
        " max_attempts, saver) VALUES (gen_random_uuid(), 'x', 'default', 'line', 'completed', 'create', 1, '')"
    )
    async with line.fails(making, "WITH added AS (", lambda: row("create")):
        posting = asyncio.create_task(fleet.invoke(server, "line", idempotencyKey="create"))
    assert await posting == str(
        (await fleet.completed(str((await until(lambda: row("create")))["run_id"])))[0]["run_id"]
    )

    # A fence that is held holds the claim up, and nothing else.
    fleet.rows("INSERT INTO checkpoint_fences (thread_id, epoch) VALUES ('claim', 7) RETURNING 1")
    fence = "SELECT FROM checkpoint_fences WHERE thread_id = 'claim' FOR UPDATE"
    async with line.fails(fence, "WITH turn AS MATERIALIZED (", lambda: row("claim")["status"] == "running"):
        await fleet.invoke(server, "line", {"hold": {"three": "gate"}}, threadId="claim", idempotencyKey="claim")
    run_id = str(row("claim")["run_id"])
    await fleet.entered(run_id, "three")
    assert (row("claim")["attempt"], row("claim")["epoch"]) == (1, 8)

    # A trigger holds the end up, and nothing else that is written of the run: what it shows comes before.
    with psycopg.connect(fleet.dsn, autocommit=True) as conn:
        conn.execute(_HOLDS_ENDS)
    held = "SELECT pg_advisory_xact_lock(4711)"
    async with line.fails(held, "WITH ended AS (", lambda: row("claim")["status"] == "completed"):
        fleet.open("gate")
    await fleet.completed(run_id)
    # A claim that was rolled back leaves the run to whoever claims it next.
    await until(lambda: any(f"run {run_id} completed after" in each.log for each in fleet.servers))

    # The transition itself was found to be done, and not later, as a run that nobody drives.
    assert all("not under way" not in each.log for each in fleet.servers)
    for key in ("create", "claim"):
        found = row(key)
        assert (found["status"], found["attempt"], found["losses"]) == ("completed", 1, 0)
        assert fleet.journal.forward(str(found["run_id"]), LINE) == ONCE
        assert [each["status"] for each in fleet.activities(str(found["run_id"]))] == ["completed"] * 3
        logs = "".join(each.log for each in fleet.servers)
        assert logs.count(f"run {found['run_id']} completed after") == 1
