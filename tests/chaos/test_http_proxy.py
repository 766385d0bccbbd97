"""`holdfast worker --app-url`: workers without graphs, which hand over to the server that has them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.chaos.crew import Crew, open_crew, pids
from tests.chaos.graphs import LINE
from tests.servers import Worker
from tests.waiting import until

pytestmark = pytest.mark.chaos
TOKEN, OTHER_TOKEN = "the-right-token-0123456789", "the-wrong-token-0123456789"
FLOW = "/.well-known/workflow/v1/flow"
STEPPING = """
from typing import TypedDict
from langgraph.graph import START, StateGraph
from orchestrator import step

class State(TypedDict, total=False):
    n: int

@step(dispatch="queue")
async def double(n: int) -> int:
    return 2 * n

async def node(state: State) -> State:
    return {"n": await double(state["n"])}

graph = StateGraph(State).add_node("node", node).add_edge(START, "node")
"""


@asynccontextmanager
async def _handing_over(directory: Path, dsn: str) -> AsyncIterator[Crew]:
    """A crew of no workers yet, whose server takes messages; no token may get into any log."""
    async with open_crew(directory, dsn, 0, WORKER_TOKEN=TOKEN) as crew:
        try:
            yield crew
        finally:
            logs = crew.logs()
            assert not [token for token in (TOKEN, OTHER_TOKEN, "Bearer") if token in logs], logs


async def _messenger(crew: Crew, *arguments: str, token: str = TOKEN, **environment: str) -> Worker:
    url = f"http://127.0.0.1:{crew.server.port}"
    return await crew.add_worker("--app-url", url, *arguments, graphs=False, WORKER_TOKEN=token, **environment)


async def test_runs_are_done_where_the_graphs_are(postgres_dsn: str, tmp_path: Path) -> None:
    async with _handing_over(tmp_path, postgres_dsn) as crew:
        worker = await _messenger(crew)
        await crew.invoke_many(50, "line", {"work_s": 0.005})
        for row in await crew.all_completed(50):
            assert (row["attempt"], row["output"]["trace"]) == (1, list(LINE))
        assert pids(crew.journal.entries()) == {crew.server.pid}
        assert all(crew.journal.forward(run_id, LINE) == dict.fromkeys(LINE, 1) for run_id in crew.by_run())
        await until(lambda: not crew.jobs(), what="no job is left over")
        assert f"handed over to http://127.0.0.1:{crew.server.port}" in worker.log


async def test_concurrency_bounds_the_calls(postgres_dsn: str, tmp_path: Path) -> None:
    """A slow endpoint is waited for, and a message is not sent twice meanwhile."""
    async with _handing_over(tmp_path, postgres_dsn) as crew:
        await _messenger(crew, "--concurrency", "2")
        slow = [await crew.invoke(crew.server, "line", {"hold": {"two": "gate"}}) for _ in range(2)]
        for run_id in slow:
            await crew.entered(run_id, "two")
        waiting = await crew.invoke(crew.server, "line")
        jobs = [(job["args"]["message"]["id"] == waiting, job["status"]) for job in crew.jobs()]
        # A message that waits for long may be there twice.
        assert jobs.count((False, "doing")) == 2
        assert {status for is_waiting, status in jobs if is_waiting} == {"todo"}
        assert crew.row(waiting)["status"] == "pending"
        crew.open("gate")
        for row in await crew.completed(*slow, waiting):
            assert (row["attempt"], row["losses"]) == (1, 0)


async def test_a_wrong_token_does_nothing(postgres_dsn: str, tmp_path: Path) -> None:
    async with _handing_over(tmp_path, postgres_dsn) as crew:
        wrong = await _messenger(crew, token=OTHER_TOKEN)
        run_id = await crew.invoke(crew.server, "line")
        await until(lambda: "answered 401" in wrong.log, what="it is refused")
        assert run_id in wrong.log
        assert crew.row(run_id)["status"] == "pending"
        assert crew.journal.entries() == []
        assert await wrong.stop() == 0


async def test_the_endpoint_asks_for_a_token(postgres_dsn: str, tmp_path: Path) -> None:
    async with _handing_over(tmp_path, postgres_dsn) as crew:
        run_id = await crew.invoke(crew.server, "line")
        message = {"kind": "flow", "id": run_id, "name": "line"}
        for shown in ({}, {"Authorization": f"Bearer {OTHER_TOKEN}"}, {"Authorization": f"Basic {TOKEN}"}):
            answer = await crew.server.client.post(FLOW, json=message, headers=shown)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
            assert "token-0123456789" not in answer.text + str(answer.headers)
        assert crew.row(run_id)["status"] == "pending"
        right = await crew.server.client.post(FLOW, json=message, headers={"Authorization": f"Bearer {TOKEN}"})
        assert (right.status_code, right.json()) == (200, {"status": "done"})
        assert crew.row(run_id)["status"] == "completed"


async def test_a_server_without_a_token_is_closed(postgres_dsn: str, tmp_path: Path) -> None:
    async with open_crew(tmp_path, postgres_dsn, 0) as crew:
        run_id = await crew.invoke(crew.server, "line")
        for shown in ({}, {"Authorization": "Bearer"}, {"Authorization": f"Bearer {TOKEN}"}):
            message = {"kind": "flow", "id": run_id, "name": "line"}
            assert (await crew.server.client.post(FLOW, json=message, headers=shown)).status_code == 401
        assert crew.row(run_id)["status"] == "pending"


async def test_a_server_that_dies_in_a_call(postgres_dsn: str, tmp_path: Path) -> None:
    """Nobody knows how far it came but the run's row: it is taken over, and sent again."""
    async with _handing_over(tmp_path, postgres_dsn) as crew:
        worker = await _messenger(crew)
        run_ids = [
            await crew.invoke(crew.server, workflow, {"hold": {"two": "gate"}}) for workflow in ("line", "threaded")
        ]
        for run_id in run_ids:
            await crew.entered(run_id, "two")
        dead = crew.server.pid
        await crew.server.kill()
        await until(lambda: worker.log.count("gave no answer") >= 2, what="the calls have failed")
        await crew.server.start()
        began = time.monotonic()
        crew.open("gate")
        for row in await crew.completed(*run_ids):
            assert (row["attempt"], row["losses"], row["failures"]) == (2, 1, 0)
        print(f"completed {time.monotonic() - began:.1f} s after the server was back")
        for run_id in run_ids:
            assert crew.journal.forward(run_id, LINE) == {"one": 1, "two": 2, "three": 1}
            assert pids(crew.journal.entered(run_id)) == {dead, crew.server.pid}
            crew.agree(run_id)
        assert worker.running


async def test_a_worker_stops_while_a_call_is_under_way(postgres_dsn: str, tmp_path: Path) -> None:
    """It leaves within DRAIN_TIMEOUT; the run is the server's, and goes on there."""
    async with _handing_over(tmp_path, postgres_dsn) as crew:
        worker = await _messenger(crew, DRAIN_TIMEOUT="1")
        run_id = await crew.invoke(crew.server, "line", {"hold": {"two": "gate"}})
        await crew.entered(run_id, "two")
        assert await worker.stop() == 0
        crew.open("gate")
        [row] = await crew.completed(run_id)
        assert (row["attempt"], row["losses"]) == (1, 0)
        assert crew.journal.forward(run_id, LINE) == dict.fromkeys(LINE, 1)


async def test_steps_are_handed_over_too(postgres_dsn: str, tmp_path: Path) -> None:
    (tmp_path / "stepping.py").write_text(STEPPING)
    async with _handing_over(tmp_path, postgres_dsn) as crew:
        file = crew.server.log_file.with_name("langgraph.json")
        file.write_text('{"graphs": {"stepping": "../stepping.py:graph"}}')
        assert await crew.server.stop() == 0
        await crew.server.start()
        await _messenger(crew)
        run_ids = [await crew.invoke(crew.server, "stepping", {"n": n}) for n in range(5)]
        for n, row in enumerate(await crew.completed(*run_ids)):
            assert row["output"]["n"] == 2 * n
        steps = crew.rows("SELECT status, attempt FROM workflow_step")
        assert [(step["status"], step["attempt"]) for step in steps] == [("completed", 1)] * 5


async def test_several_messengers_and_one_is_killed(postgres_dsn: str, tmp_path: Path) -> None:
    """A worker that dies takes no run along: those are the server's."""
    async with _handing_over(tmp_path, postgres_dsn) as crew:
        victim, other = await asyncio.gather(_messenger(crew), _messenger(crew))
        run_ids = await crew.invoke_many(20, "long", {"work_s": 0.03})
        await until(lambda: len(crew.journal.entries(event="leave")) > 50, what="they are under way")
        await victim.kill()
        for row in await crew.completed(*run_ids):
            assert (row["attempt"], row["losses"]) == (1, 0)
        assert other.running
