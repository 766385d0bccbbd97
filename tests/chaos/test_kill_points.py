"""A server is killed between any two steps of starting, running and finishing: no run is lost, stuck, or done twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chaos.faults import points
from tests.chaos.fleet import Fleet, frozen, open_fleet
from tests.chaos.graphs import LINE
from tests.waiting import until

pytestmark = pytest.mark.chaos
ONCE = dict.fromkeys(LINE, 1)
# A run on a thread of its own is begun by the statement that makes it; one on a named thread is claimed.
STARTS: list[dict[str, Any]] = [
    {"idempotencyKey": "own"},
    {"idempotencyKey": "first", "threadId": "t"},
    {"idempotencyKey": "second", "threadId": "t"},
]


def test_the_points_are_there() -> None:
    assert {"created", "claimed", "loaded", "attempted", "finished"} <= set(points())


@pytest.mark.parametrize("point", points())
async def test_a_kill_between_two_steps(postgres_dsn: str, tmp_path: Path, point: str) -> None:
    async with open_fleet(tmp_path, postgres_dsn) as fleet:
        victim, other = fleet.servers
        fleet.arm(victim, point)
        # Whoever is quicker claims a run that was made pending: here it is to be the victim.
        with frozen(other) if point == "claimed" else nullcontext():
            starting = asyncio.gather(*(_start(fleet, options) for options in STARTS))
            struck = await fleet.struck(victim)
        run_ids = await starting
        assert struck in run_ids
        rows = await fleet.completed(*run_ids)
        assert len(fleet.rows("SELECT FROM workflow_metadata")) == len(STARTS)
        for row in rows:
            run_id = str(row["run_id"])
            ran = fleet.journal.forward(run_id, LINE)
            # Where it was struck it was in no node. The others may have been in one, which runs again.
            assert ran == ONCE or (run_id != struck and sorted(ran.values()) == [1, 1, 2])
            assert row["attempt"] == row["losses"] + 1
            if run_id == struck:
                is_begun = point != "created" or row["idempotency_key"] == "own"
                assert row["losses"] == int(is_begun and point != "finished")
            assert row["losses"] <= 1
            fleet.agree(run_id)
            assert (victim.log + other.log).count(f"run {run_id} completed after") <= 1
        assert sorted(row["output"]["trace"] for row in rows) == [[*LINE], [*LINE], [*LINE, *LINE]]


async def _start(fleet: Fleet, options: dict[str, Any]) -> str:
    """Start a run as a client does who tries again elsewhere when the server dies."""
    body = {"workflow": "line", "input": {"work_s": 0.05}, **options}
    for server in fleet.servers:
        try:
            answer = await server.client.post("/api/invoke/async", json=body)
        except httpx.TransportError:
            continue
        assert answer.status_code in (200, 202), answer.text
        return str(answer.json()["runId"])
    raise AssertionError("both servers are gone")


async def test_those_who_take_over_are_killed_too(postgres_dsn: str, tmp_path: Path) -> None:
    """The second dies when it has claimed the run, the first one, back again, when the nodes have run."""
    async with open_fleet(tmp_path, postgres_dsn, RUN_MAX_ATTEMPTS="4") as fleet:
        first, second = fleet.servers
        run_id = await fleet.invoke(first, "line", {"hold": {"two": "gate"}})
        await fleet.entered(run_id, "two")
        fleet.arm(second, "claimed")
        await first.kill()
        assert await fleet.struck(second) == run_id
        assert fleet.row(run_id)["status"] == "running"
        fleet.arm(first, "attempted")
        fleet.open("gate")
        started = asyncio.create_task(first.start())
        assert await fleet.struck(first) == run_id
        started.cancel()
        await asyncio.gather(started, return_exceptions=True)
        await second.start()
        [row] = await fleet.completed(run_id)
        assert (row["attempt"], row["losses"], row["output"]["trace"]) == (4, 3, [*LINE])
        assert fleet.journal.forward(run_id, LINE) == {"one": 1, "two": 2, "three": 1}
        fleet.agree(run_id)


async def test_a_kill_while_it_hands_its_runs_back(postgres_dsn: str, tmp_path: Path) -> None:
    async with open_fleet(tmp_path, postgres_dsn, DRAIN_TIMEOUT="60") as fleet:
        leaving, other = fleet.servers
        run_ids = [await fleet.invoke(leaving, "line", {"hold": {"two": "gate"}}) for _ in range(5)]
        for run_id in run_ids:
            await fleet.entered(run_id, "two")
        fleet.arm(leaving, "attempted")
        stopping = asyncio.create_task(leaving.stop())
        await until(lambda: "runs stop at their next checkpoint" in leaving.log)
        fleet.open("gate")
        assert await stopping == -9
        for row in await fleet.completed(*run_ids):
            assert row["losses"] <= 1
            assert row["attempt"] == row["losses"] + 1
        for run_id in run_ids:
            assert fleet.journal.forward(run_id, LINE) <= Counter(one=1, two=2, three=1)
            fleet.agree(run_id)
        assert other.running
