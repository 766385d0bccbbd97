"""What people ask of runs, on another server than the one that drives them: signals, pause and resume, cancelling."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.fleet import Fleet, open_fleet
from tests.chaos.graphs import LONG
from tests.servers import Server
from tests.waiting import until

pytestmark = pytest.mark.chaos
ASKING = ("before", "ask", "after")


async def _ask(server: Server, run_id: str, what: str, body: object = None) -> tuple[int, Any]:
    answer = await server.client.post(f"/api/runs/{run_id}/{what}", json=body or {})
    return answer.status_code, answer.json()


async def _asked(server: Server, run_id: str, what: str, body: object = None) -> Any:
    status, answer = await _ask(server, run_id, what, body)
    assert status in (200, 202), answer
    return answer


async def test_signals_before_during_and_after_the_wait(postgres_dsn: str, tmp_path: Path) -> None:
    async with open_fleet(tmp_path, postgres_dsn) as fleet:
        here, there = fleet.servers
        early = await fleet.invoke(here, "asking", {"hold": {"before": "gate"}})
        await fleet.entered(early, "before")
        await _asked(there, early, "signals/approval", {"payload": "early"})
        fleet.open("gate")

        waiting = await fleet.invoke(here, "asking")
        row = await fleet.reaches(waiting, "waiting")
        assert [wait["signal"] for wait in row["awaiting"]] == ["approval"]
        answers = await asyncio.gather(
            *(
                _ask(server, waiting, "signals/approval", {"payload": "yes"})
                for server in fleet.servers
                for _ in range(5)
            )
        )
        assert {status for status, _ in answers} <= {200, 202, 409}

        for run_id, answer in ((early, "early"), (waiting, "yes")):
            [row] = await fleet.completed(run_id)
            assert row["output"]["trace"] == ["before", f"ask {answer}", "after"]
            # The node that asks is begun again with the answer; nothing else is.
            assert fleet.journal.forward(run_id, ASKING) == {"before": 1, "ask": 2, "after": 1}
            fleet.agree(run_id)
            assert len(fleet.dump(run_id)["workflow_signal"]) == 1
        late = await _ask(there, waiting, "signals/approval", {"payload": "no"})
        assert (late[0], late[1]["error"]["code"]) == (409, "illegal_transition")
        assert fleet.row(waiting)["output"]["trace"][1] == "ask yes"


async def test_a_paused_run_outlives_all_servers(postgres_dsn: str, tmp_path: Path) -> None:
    async with open_fleet(tmp_path, postgres_dsn) as fleet:
        here, there = fleet.servers
        run_id = await fleet.invoke(here, "long", {"hold": {"n4": "gate"}, "work_s": 0.1})
        await fleet.entered(run_id, "n4")
        await _asked(there, run_id, "interrupt")
        await fleet.has_heard(here)
        fleet.open("gate")
        await fleet.reaches(run_id, "paused")
        waiting = await fleet.invoke(here, "asking")
        await fleet.reaches(waiting, "waiting")
        before = [fleet.dump(each) for each in (run_id, waiting)]
        assert set(await asyncio.gather(here.stop(), there.stop())) == {0}
        await fleet.start()
        fresh = await fleet.invoke(here, "line")
        await fleet.completed(fresh)
        assert [fleet.dump(each) for each in (run_id, waiting)] == before

        await _asked(there, run_id, "resume")
        await _asked(here, waiting, "resume", {"payload": "yes"})
        [row, _] = await fleet.completed(run_id, waiting)
        assert row["output"]["trace"] == [*LONG]
        assert fleet.journal.forward(run_id, LONG) == dict.fromkeys(LONG, 1)
        assert fleet.journal.forward(waiting, ASKING) == {"before": 1, "ask": 2, "after": 1}
        assert (row["attempt"], row["losses"], row["failures"]) == (2, 0, 0)
        fleet.agree(run_id)


async def test_nothing_is_written_of_a_run_after_it_was_cancelled(postgres_dsn: str, tmp_path: Path) -> None:
    """Waiting, suspended, pending, and running: on the event loop and in a thread, which can't be stopped."""
    async with open_fleet(tmp_path, postgres_dsn) as fleet:
        here, there = fleet.servers
        running = await fleet.invoke(here, "line", {"hold": {"two": "gate"}})
        threaded = await fleet.invoke(here, "threaded", {"hold": {"two": "gate"}})
        unheard = [await fleet.invoke(here, graph, {"hold": {"two": "late"}}) for graph in ("line", "threaded") * 4]
        waiting = await fleet.invoke(here, "asking")
        suspended = await fleet.invoke(here, "flaky")
        pending = await fleet.invoke(here, "line", {}, threadId=running)
        for run_id in (running, threaded, *unheard):
            assert (await fleet.entered(run_id, "two")).pid == here.pid
        await fleet.reaches(waiting, "waiting")
        await fleet.reaches(suspended, "suspended")

        dumps = await _cancel(fleet, there, pending, running, threaded, waiting, suspended)
        await until(lambda: fleet.journal.entries(running, event="cut"), what="the attempt is stopped")
        # One that is frozen hears of it too late to stop its attempts: the fence has to hold them off.
        os.kill(here.pid, signal.SIGSTOP)
        try:
            dumps |= await _cancel(fleet, there, *unheard)
            fleet.open("gate", "late")
        finally:
            os.kill(here.pid, signal.SIGCONT)
        ended = (threaded, *unheard)
        await until(
            lambda: all(fleet.journal.entries(run_id, node="two")[1:] for run_id in ended), what="the nodes end"
        )
        await fleet.completed(*[await fleet.invoke(server, "line") for server in fleet.servers])
        assert {run_id: fleet.dump(run_id) for run_id in dumps} == dumps
        assert not [entry for entry in fleet.journal.entries(event="enter", node="three") if entry.run_id in dumps]
        assert fleet.journal.entered(pending) == []
        for run_id in dumps:
            assert (await _ask(there, run_id, "resume"))[0] == 409
        # The thread is free again.
        await fleet.completed(await fleet.invoke(here, "line", {}, threadId=running))


async def _cancel(fleet: Fleet, server: Server, *run_ids: str) -> dict[str, dict[str, list[str]]]:
    """Cancel runs, twice each; gives every row of them as it is after that."""
    for run_id in run_ids:
        for _ in range(2):
            status, run = await _ask(server, run_id, "cancel")
            assert (status, run["status"]) == (200, "cancelled")
    return {run_id: fleet.dump(run_id) for run_id in run_ids}
