"""Workers that are killed around a step: what has ended is not run again, what was cut off is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.chaos.faults import FAULT, arm, struck
from tests.checkpoints import SCHEMA
from tests.servers import Server
from tests.stepping import Journal
from tests.waiting import until

pytestmark = pytest.mark.chaos
GRAPHS = {"stepping": "tests.chaos.stepping:stepping", "blocked": "tests.chaos.stepping:blocked"}


class Pair:
    """Two servers over one database, whose steps leave their traces in one journal."""

    def __init__(self, dsn: str, journal: Journal, servers: list[Server], fault: Path) -> None:
        self.dsn = dsn
        self.journal = journal
        self.servers = servers
        self._fault = fault

    def arm(self, point: str) -> None:
        """Have the server that reaches the point first die there."""
        arm(self._fault, point)

    async def struck(self) -> tuple[Server, Server, str]:
        """The server that has died, the other one, and the run at which it died."""
        await until(lambda: any(not server.running for server in self.servers), what="one is struck")
        victim, other = sorted(self.servers, key=lambda server: server.running)
        return victim, other, str(struck(self._fault))

    def server_of(self, pid: int) -> Server:
        [server] = [server for server in self.servers if server.pid == pid]
        return server

    async def start(self, server: Server, workflow: str = "stepping") -> Any:
        return await server.invoke({"workflow": workflow, "input": {"journal": str(self.journal.directory)}})

    async def begun(self, name: str, times: int = 1) -> Server:
        """The server that began the step for the nth time, once it has."""
        pids = await until(lambda: self.journal.pids(name)[times - 1 :], what=f"{name} is begun")
        return self.server_of(pids[0])

    def steps(self) -> list[tuple[Any, ...]]:
        """Status, attempts and losses of each step, oldest first."""
        return self._rows(f"SELECT status, attempt, losses FROM {SCHEMA}.workflow_step ORDER BY created_at")

    def run_status(self) -> str:
        """The status of the one run there is."""
        [(status,)] = self._rows(f"SELECT status FROM {SCHEMA}.workflow_metadata")
        return str(status)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            return conn.execute(query.encode()).fetchall()


@asynccontextmanager
async def opened(directory: Path, dsn: str, **environment: str) -> AsyncIterator[Pair]:
    journal = Journal(directory)
    async with AsyncExitStack() as stack:
        servers = []
        for number in range(2):
            home = directory / f"server{number}"
            home.mkdir()
            (home / "langgraph.json").write_text(json.dumps({"graphs": GRAPHS}))
            given = {"USE_POSTGRES_SAVER": "true", "POSTGRES_CONNECTION_STRING": dsn, FAULT: str(directory / "fault")}
            # So long that no lease lapses in a test: that a worker was lost is seen by its lock.
            server = Server(home, {**given, "RUN_LEASE_SECONDS": "300", **environment}, "--graphs", "langgraph.json")
            stack.push_async_callback(server.close)
            servers.append(server)
        await asyncio.gather(*(server.start() for server in servers))
        yield Pair(dsn, journal, servers, directory / "fault")
        for server in servers:
            assert "Traceback" not in server.log, server.log


@pytest.mark.parametrize("point", ["loaded", "attempted"])
async def test_the_runs_worker_is_killed_after_the_step(postgres_dsn: str, tmp_path: Path, point: str) -> None:
    """With the result at hand, before and after the node has used it: the step is not run again."""
    async with opened(tmp_path, postgres_dsn) as pair:
        started = await pair.start(pair.servers[0])
        await pair.begun("first")
        await until(lambda: pair.run_status() == "waiting")
        # The next attempt, which has the result, may be either's.
        pair.arm(point)
        pair.journal.open("first")
        victim, other, run_id = await pair.struck()
        assert run_id == started["runId"]
        pair.journal.open("second")
        run = await other.finished(started)
        assert run["status"] == "completed", run
        assert run["output"]["out"] == ["first done", "second done"]
        assert pair.journal.ran["first"] == 1
        # The attempt that had the result called the second step, which may have begun on the same worker.
        assert pair.journal.ran["second"] == 1 + (victim.pid in pair.journal.pids("second"))
        assert [status for status, *_ in pair.steps()] == ["completed"] * 2


@pytest.mark.parametrize("workflow", ["stepping", "blocked"])
async def test_the_steps_worker_is_killed(postgres_dsn: str, tmp_path: Path, workflow: str) -> None:
    """It runs again, on another worker; the one that had ended does not."""
    async with opened(tmp_path, postgres_dsn) as pair:
        started = await pair.start(pair.servers[0], workflow)
        pair.journal.open("first")
        victim = await pair.begun("second")
        [other] = [server for server in pair.servers if server is not victim]
        await victim.kill()
        assert await pair.begun("second", times=2) is other
        pair.journal.open("second")
        run = await other.finished(started)
        assert run["status"] == "completed", run
        assert run["output"]["out"] == ["first done", "second done"]
        assert (pair.journal.ran["first"], pair.journal.ran["second"]) == (1, 2)
        assert pair.steps() == [("completed", 1, 0), ("completed", 2, 1)]


@pytest.mark.parametrize(("point", "times"), [("step claimed", 1), ("step attempted", 2)])
async def test_it_is_killed_between_two_steps_of_it(postgres_dsn: str, tmp_path: Path, point: str, times: int) -> None:
    async with opened(tmp_path, postgres_dsn) as pair:
        pair.journal.open("first", "second")
        pair.arm(point)
        started = await pair.start(pair.servers[0])
        _, other, run_id = await pair.struck()
        assert run_id == started["runId"]
        run = await other.finished(started)
        assert run["status"] == "completed", run
        assert (pair.journal.ran["first"], pair.journal.ran["second"]) == (times, 1)
        assert [status for status, *_ in pair.steps()] == ["completed"] * 2


async def test_a_step_that_kills_its_workers_fails(postgres_dsn: str, tmp_path: Path) -> None:
    async with opened(tmp_path, postgres_dsn, RUN_MAX_ATTEMPTS="2") as pair:
        started = await pair.start(pair.servers[0])
        for times in (1, 2):
            victim = await pair.begun("first", times)
            # Otherwise the run may lose as many workers as the step.
            await until(lambda: pair.run_status() == "waiting", what="the run waits for the step")
            await victim.kill()
            await victim.start()
        run = await pair.servers[0].finished(started)
        assert run["status"] == "failed", run
        assert "AttemptsExhaustedError" in run["error"]["message"]
        assert pair.journal.ran["first"] == 2


async def test_a_worker_that_stops_hands_its_step_back(postgres_dsn: str, tmp_path: Path) -> None:
    """It counts as no attempt and no loss."""
    async with opened(tmp_path, postgres_dsn, DRAIN_TIMEOUT="0.5") as pair:
        started = await pair.start(pair.servers[0])
        leaving = await pair.begun("first")
        [other] = [server for server in pair.servers if server is not leaving]
        await leaving.stop()
        assert await pair.begun("first", times=2) is other
        pair.journal.open("first", "second")
        run = await other.finished(started)
        assert run["status"] == "completed", run
        assert pair.steps()[0] == ("completed", 1, 0)
