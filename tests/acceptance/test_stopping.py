"""A process that is told to stop is gone within DRAIN_TIMEOUT and a grace, whatever its nodes do."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph

from checkpointer import CheckpointerSettings
from orchestrator import RunStatus, open_orchestrator
from orchestrator.cli.stopping import STOP_GRACE_S
from orchestrator.engine import dispatcher
from orchestrator.settings import OrchestratorSettings
from tests.graphs import State
from tests.servers import Server, Worker
from tests.waiting import until

DRAIN_S = 0.5
# How long a node of these blocks at most: a test that fails is not to leave a process behind for good.
GRAPHS = """
import asyncio
import threading
import time
from pathlib import Path

from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    begun: str
    again: str


def graph(node):
    return StateGraph(State).add_node("node", node).add_edge(START, "node").compile()


def begin(state):
    \"\"\"Whether this is the second time.\"\"\"
    with open(state["begun"], "a") as file:
        file.write("x")
    return Path(state["begun"]).read_text() == "xx"


async def block_the_loop(state):
    if not begin(state):
        time.sleep(120)
    return {"again": "yes"}


async def swallow_and_leave_a_thread(state):
    if not begin(state):
        threading.Thread(target=time.sleep, args=(120,)).start()
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                pass
    return {"again": "yes"}


async def leave_a_thread(state):
    threading.Thread(target=time.sleep, args=(120,)).start()
    return {}


loop = graph(block_the_loop)
swallows = graph(swallow_and_leave_a_thread)
leaves = graph(leave_a_thread)
"""


async def test_a_node_that_swallows_its_cancellation_is_left_behind(
    checkpointer_settings: CheckpointerSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispatcher, "_CUT_OFF_WITHIN_S", 0.1)
    settings = OrchestratorSettings(**checkpointer_settings.model_dump(exclude_unset=True), drain_timeout=0.1)
    begun, gate = asyncio.Event(), asyncio.Event()
    stubborn: list[asyncio.Task[Any] | None] = []

    async def swallows(state: State) -> State:
        stubborn.append(asyncio.current_task())
        while not gate.is_set():
            begun.set()
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        return {}

    graph = StateGraph(State).add_node("swallows", swallows).add_edge(START, "swallows")
    try:
        async with asyncio.timeout(20):
            async with open_orchestrator({"graph": graph}, settings=settings) as orchestrator:
                run = await orchestrator.start("graph", {})
                await begun.wait()
        assert orchestrator.cut_off == 1
        assert f"run {run.run_id} does not let itself be cut off" in caplog.text
        async with open_orchestrator({"graph": graph}, settings=settings) as other:
            # Handed back, so that another one has it at once, and not when a lease lapses.
            await until(lambda: len(stubborn) == 2, what="it is begun again")
            gate.set()
            ended = await other.wait(run.run_id, timeout=20)
        assert (ended.status, ended.attempt, ended.losses) == (RunStatus.COMPLETED, 2, 0)
    finally:
        gate.set()
        await asyncio.wait([task for task in stubborn if task is not None])


async def _stopped(server: Server, directory: Path, workflow: str) -> tuple[Any, float, int]:
    """Stop it when a run of the workflow is at its node; what was started, how long it took, and the exit code."""
    begun = directory / f"begun {workflow}"
    started = await server.invoke({"workflow": workflow, "input": {"begun": str(begun)}})
    await until(begun.exists, what="the node is begun")
    before = time.monotonic()
    code = await server.stop()
    return started, time.monotonic() - before, code


async def test_sigterm_ends_the_process_whatever_a_node_does(postgres_dsn: str, tmp_path: Path) -> None:
    """The loop blocked in one server, a node that swallows in another, a thread that was left in a worker."""
    (tmp_path / "nasty.py").write_text(GRAPHS)
    environment = {
        "USE_POSTGRES_SAVER": "true",
        "POSTGRES_CONNECTION_STRING": postgres_dsn,
        "DRAIN_TIMEOUT": str(DRAIN_S),
    }

    def made(kind: type[Server], name: str, names: Sequence[str], *arguments: str) -> Server:
        home = tmp_path / name
        home.mkdir()
        graphs = {each: f"../nasty.py:{each}" for each in names}
        (home / "langgraph.json").write_text(json.dumps({"graphs": graphs}))
        return kind(home, environment, "--graphs", "langgraph.json", *arguments)

    blocked, swallowing = made(Server, "blocked", ["loop"]), made(Server, "swallowing", ["swallows"])
    worker, door = made(Worker, "worker", ["leaves"]), made(Server, "door", ["leaves"], "--no-worker")
    servers = (blocked, swallowing, worker, door)
    try:
        await asyncio.gather(*(server.start() for server in servers))
        first, second, third = await asyncio.gather(
            _stopped(blocked, tmp_path, "loop"),
            _stopped(swallowing, tmp_path, "swallows"),
            _left(worker, door),
        )
        for _, took_s, code in (first, second, third):
            assert code == 0
            assert took_s < DRAIN_S + STOP_GRACE_S + 8
        assert "something holds this process up" in blocked.log
        assert "does not let itself be cut off" in swallowing.log
        assert "something holds this process up" not in swallowing.log
        await blocked.start()
        await swallowing.start()
        runs = [await blocked.finished(first[0]), await swallowing.finished(second[0])]
        assert [(run["status"], run["attempt"]) for run in runs] == [("completed", 2)] * 2
    finally:
        for server in servers:
            await server.close()


async def _left(worker: Server, door: Server) -> tuple[Any, float, int]:
    """Stop a worker whose run is over, and has left a thread that does not end."""
    started = await door.invoke({"workflow": "leaves", "input": {}})
    await door.finished(started)
    before = time.monotonic()
    code = await worker.stop()
    return started, time.monotonic() - before, code
