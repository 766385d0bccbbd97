"""Two servers and the same threads, the same keys: one run a key, one run at a time, in order."""

from __future__ import annotations

import asyncio
from itertools import groupby
from pathlib import Path

import pytest

from tests.chaos.fleet import open_fleet
from tests.chaos.graphs import LINE

pytestmark = pytest.mark.chaos


async def test_two_hundred_starts_with_twenty_keys_are_twenty_runs(postgres_dsn: str, tmp_path: Path) -> None:
    async with open_fleet(tmp_path, postgres_dsn) as fleet:
        answers = await asyncio.gather(
            *(
                server.client.post(
                    "/api/invoke/async",
                    json={"workflow": "line", "input": {"work_s": 0.01}, "idempotencyKey": f"k{number % 20}"},
                )
                for number in range(100)
                for server in fleet.servers
            )
        )
        assert sorted(answer.status_code for answer in answers) == [200] * 180 + [202] * 20
        run_ids = {answer.json()["runId"] for answer in answers}
        assert len(run_ids) == 20
        assert len(fleet.rows("SELECT FROM workflow_metadata")) == 20
        await fleet.completed(*run_ids)
        for run_id in run_ids:
            assert fleet.journal.forward(run_id, LINE) == dict.fromkeys(LINE, 1)


async def test_runs_of_one_thread_never_overlap(postgres_dsn: str, tmp_path: Path) -> None:
    """Started on both servers at the same time; and, started one after the other, run in that order."""
    threads, starts = [f"t{number}" for number in range(5)], 10
    async with open_fleet(tmp_path, postgres_dsn) as fleet:
        run_ids = await asyncio.gather(
            *(
                fleet.invoke(fleet.servers[number % 2], "line", {"work_s": 0.01}, threadId=thread)
                for number in range(starts)
                for thread in threads
            )
        )
        in_order = [
            await fleet.invoke(
                fleet.servers[number % 2], "line", {"work_s": 0.01}, threadId="ordered", ifBusy="enqueue"
            )
            for number in range(starts)
        ]
        await fleet.completed(*run_ids, *in_order, timeout_s=120)
        pids = set()
        for thread in [*threads, "ordered"]:
            entries = [entry for entry in fleet.journal.entries() if entry.thread_id == thread]
            # Each run's nodes, entered and left, without anything of another between them.
            blocks = [(run_id, [(each.node, each.event) for each in run]) for run_id, run in groupby(entries, _run_id)]
            assert [block for _, block in blocks] == [_whole()] * starts
            assert len({run_id for run_id, _ in blocks}) == starts
            if thread == "ordered":
                assert [run_id for run_id, _ in blocks] == in_order
            pids |= {entry.pid for entry in entries}
        assert len(pids) == 2


def _run_id(entry: object) -> str:
    return str(entry.run_id)  # type: ignore[attr-defined]


def _whole() -> list[tuple[str, str]]:
    return [(node, event) for node in LINE for event in ("enter", "leave")]


async def test_a_busy_thread_refuses_or_makes_way(postgres_dsn: str, tmp_path: Path) -> None:
    async with open_fleet(tmp_path, postgres_dsn) as fleet:
        here, there = fleet.servers
        run = {"workflow": "line", "input": {}, "threadId": "t"}
        reject = run | {"ifBusy": "reject"}
        answers = await asyncio.gather(
            *(
                server.client.post(
                    "/api/invoke/async", json=reject | {"input": {"hold": {"one": "gate"}, "work_s": 0.5}}
                )
                for server in (here, there) * 10
            )
        )
        assert sorted(answer.status_code for answer in answers) == [202] + [409] * 19
        assert {answer.json()["error"]["code"] for answer in answers if answer.status_code == 409} == {"thread_busy"}
        [busy] = [answer.json()["runId"] for answer in answers if answer.status_code == 202]
        driver = fleet.driver(await fleet.entered(busy, "one"))
        other = there if driver is here else here
        assert (await other.client.post("/api/invoke/async", json=reject)).status_code == 409

        newer = await fleet.invoke(other, "line", {}, threadId="t", ifBusy="interrupt")
        await fleet.has_heard(driver)
        assert fleet.row(busy)["status"] == "running"
        assert fleet.row(newer)["status"] == "pending"
        fleet.open("gate")
        await fleet.completed(newer)
        row = fleet.row(busy)
        assert (row["status"], row["error"]["type"]) == ("cancelled", "SupersededError")
        assert [entry.node for entry in fleet.journal.entered(busy)] == ["one"]
        [left] = fleet.journal.entries(busy, event="leave")
        assert left.time < fleet.journal.entered(newer)[0].time
        assert (await other.client.post("/api/invoke/async", json=reject)).status_code == 202
