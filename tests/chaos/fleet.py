"""Several `holdfast serve` processes over one database, and what a test sees of them: journal, rows, logs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.chaos.faults import FAULT, arm, struck
from tests.chaos.graphs import GATES, GRAPHS
from tests.chaos.journal import JOURNAL, Entry, Journal
from tests.checkpoints import SCHEMA, TABLES
from tests.servers import Server
from tests.waiting import until

__all__ = ["Fleet", "Row", "frozen", "open_fleet"]

Row = dict[str, Any]
_OVER = {"completed", "failed", "cancelled"}


class Fleet:
    """The servers, by number; a test starts, kills and stops each of them."""

    def __init__(self, directory: Path, dsn: str) -> None:
        self.servers: list[Server] = []
        self.dsn = dsn
        self.gates = directory / "gates"
        self.gates.mkdir()
        self.journal = Journal(directory / "journal")
        self._conn: psycopg.Connection[Row] | None = None
        self._keeps = False

    async def start(self, *servers: Server) -> None:
        """Start these, or all, at the same time."""
        await asyncio.gather(*(server.start() for server in servers or self.servers))

    async def invoke(self, server: Server, workflow: str, state: object = None, **options: Any) -> str:
        """Start a run on a server; gives its id."""
        body = {"workflow": workflow, "input": {} if state is None else state, **options}
        return str((await server.invoke(body))["runId"])

    def arm(self, server: Server, point: str) -> None:
        """Have a server die at a point."""
        arm(server.log_file.with_name("fault"), point)

    async def struck(self, server: Server) -> str:
        """The run at which an armed server died, once it has."""
        fault = server.log_file.with_name("fault")
        await until(lambda: struck(fault) is not None and not server.running, what="the server died at the point")
        return str(struck(fault))

    def open(self, *gates: str) -> None:
        """Let nodes pass that are held up at these gates, now and later."""
        for gate in gates:
            (self.gates / gate).touch()

    async def entered(self, run_id: str, node: str, *, times: int = 1) -> Entry:
        """The start of a node's nth execution, once it has begun."""
        found = await until(lambda: self.journal.entered(run_id, node)[times - 1 :], what=f"{node} is run")
        return found[0]

    def inside(self, server: Server) -> int:
        """How many nodes the server is in at this moment."""
        events = [entry.event for entry in self.journal.entries() if entry.pid == server.pid]
        return 2 * events.count("enter") - len(events)

    async def kill_inside(self, server: Server) -> None:
        """Kill a server in a node: what it had under way can't have ended."""

        def caught() -> bool:
            os.kill(server.pid, signal.SIGSTOP)
            if self.inside(server):
                return True
            os.kill(server.pid, signal.SIGCONT)
            return False

        await until(caught, what="the server is in a node")
        await server.kill()

    async def has_heard(self, server: Server) -> None:
        """Returns once the server has heard what it was told of runs until now: what it is told then is obeyed."""
        [other, *_] = [each for each in self.servers if each is not server]
        run_id = await self.invoke(server, "line", {"hold": {"one": "never"}})
        await self.entered(run_id, "one")
        answer = await other.client.post(f"/api/runs/{run_id}/cancel", json={})
        assert answer.status_code == 200, answer.text
        await until(lambda: self.journal.entries(run_id, event="cut"), what="the attempt is stopped")

    def driver(self, entry: Entry) -> Server:
        """The server whose process wrote the entry."""
        [server] = [server for server in self.servers if server.pid == entry.pid]
        return server

    def rows(self, query: str, params: Sequence[object] = ()) -> list[Row]:
        """The rows of a query; tables are without their schema."""
        if not self._keeps:
            with self._connected() as conn:
                return conn.execute(query.encode(), params).fetchall()
        if self._conn is not None:
            try:
                return self._conn.execute(query.encode(), params).fetchall()
            except psycopg.OperationalError:
                # The server may have been away since.
                self._conn.close()
        self._conn = self._connected()
        return self._conn.execute(query.encode(), params).fetchall()

    def _connected(self) -> psycopg.Connection[Row]:
        conn = psycopg.connect(self.dsn, autocommit=True, row_factory=dict_row)
        conn.execute(f"SET search_path TO {SCHEMA}")
        return conn

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look at all rows over one connection in the block."""
        self._keeps = True
        try:
            yield
        finally:
            self._keeps = False
            if self._conn is not None:
                self._conn.close()

    def row(self, run_id: str) -> Row:
        """A run's row."""
        [row] = self.rows("SELECT * FROM workflow_metadata WHERE run_id = %s", [run_id])
        return row

    async def reaches(self, run_id: str, *statuses: str, timeout_s: float = 60) -> Row:
        """The run's row once it is in one of these states; by default, once it is over."""

        wanted = statuses or _OVER
        what = f"run {run_id} is {' or '.join(sorted(wanted))}"
        await until(lambda: self.row(run_id)["status"] in wanted, timeout_s=timeout_s, what=what)
        return self.row(run_id)

    async def completed(self, *run_ids: str, timeout_s: float = 90) -> list[Row]:
        """The rows of runs that all complete."""
        ends = time.monotonic() + timeout_s
        rows = [await self.reaches(run_id, *_OVER, timeout_s=max(ends - time.monotonic(), 1)) for run_id in run_ids]
        assert {row["status"] for row in rows} <= {"completed"}, rows
        return rows

    def activities(self, run_id: str) -> list[Row]:
        """A run's rows of `workflow_activity`."""
        return self.rows("SELECT * FROM workflow_activity WHERE run_id = %s ORDER BY started_at", [run_id])

    def steps(self, thread_id: str) -> list[int]:
        """The steps of a thread's checkpoints, in the order of their ids."""
        query = "SELECT metadata->>'step' AS step FROM checkpoints WHERE thread_id = %s ORDER BY checkpoint_id"
        return [int(row["step"]) for row in self.rows(query, [thread_id])]

    def dump(self, run_id: str) -> dict[str, list[str]]:
        """Every row there is of a run and of its thread, as text."""
        thread_id = self.row(run_id)["thread_id"]
        tables = [(table, "thread_id", thread_id) for table in (*TABLES, "checkpoint_fences")]
        tables += [(f"workflow_{table}", "run_id", run_id) for table in ("metadata", "activity", "signal", "hook")]
        return {
            table: [
                row["row"]
                for row in self.rows(f"SELECT t::text AS row FROM {table} t WHERE {key}::text = %s ORDER BY 1", [value])
            ]
            for table, key, value in tables
        }

    def alive(self) -> int:
        """How many servers hold the lock that says they are alive."""
        [row] = self.rows(
            "SELECT count(*) AS n FROM workflow_runner AS runner JOIN pg_locks AS lock"
            " ON lock.locktype = 'advisory' AND lock.objsubid = 1 AND lock.granted"
            " AND (lock.classid::bigint << 32) + lock.objid::bigint = runner.owner"
        )
        return int(row["n"])

    def agree(self, run_id: str) -> None:
        """Fails unless the run's activities are what the journal says was run, as far as they could be written.

        What a process had not written when it was killed is missing: a quarter of a second of it. Nothing may be
        there that was not run. A node is completed twice only where it came to its end twice: the checkpoint with its
        result was not saved yet when the process was killed.
        """
        begun = [entry.node for entry in self.journal.entered(run_id)]
        left = [entry.node for entry in self.journal.entries(run_id, event="leave")]
        rows = self.activities(run_id)
        for node in {row["activity"] for row in rows} | set(begun):
            statuses = [row["status"] for row in rows if row["activity"] == node]
            assert len(statuses) <= begun.count(node), f"{node} of run {run_id}: {rows}"
            assert statuses.count("completed") <= left.count(node), f"{node} of run {run_id}: {rows}"
            assert "running" not in statuses, f"{node} of run {run_id}: {rows}"


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    """SIGSTOP for the block."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@asynccontextmanager
async def open_fleet(
    directory: Path, dsn: str, size: int = 2, *, first: Mapping[str, str] | None = None, **environment: str
) -> AsyncIterator[Fleet]:
    """So many servers, started; those that are left are killed at the end. `first` is for the first of them alone."""
    fleet = Fleet(directory, dsn)
    graphs = {name: f"tests.chaos.graphs:{name}" for name in GRAPHS}
    async with AsyncExitStack() as stack:
        stack.enter_context(fleet.looking())
        for number in range(size):
            home = directory / f"server{number}"
            home.mkdir()
            (home / "langgraph.json").write_text(json.dumps({"graphs": graphs}))
            given = {
                "USE_POSTGRES_SAVER": "true",
                "POSTGRES_CONNECTION_STRING": dsn,
                JOURNAL: str(fleet.journal.path),
                GATES: str(fleet.gates),
                FAULT: str(home / "fault"),
                **environment,
                **(first if first and number == 0 else {}),
            }
            server = Server(home, given, "--graphs", "langgraph.json")
            stack.push_async_callback(server.close)
            fleet.servers.append(server)
        await fleet.start()
        yield fleet
        for server in fleet.servers:
            # What nobody foresaw, such as the end of a thread that others take for a sign of life.
            assert "Traceback" not in server.log, server.log
