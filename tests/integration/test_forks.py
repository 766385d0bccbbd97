"""Runs that go on from a checkpoint of another."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from orchestrator import CheckpointNotFoundError, CheckpointSummary, Orchestrator, RunStatus, Upgrade, Workflow
from orchestrator.engine.loading import Begin, config_of, load
from orchestrator.runs.model import new_run_id
from orchestrator.runs.store import NewRun
from tests.graphs import chain
from tests.worlds import MemoryWorld, World, postgres_world, status

TRACE = ["one", "two", "three"]


class Log(TypedDict, total=False):
    text: str
    log: Annotated[
        list[str], DeltaChannel(lambda state, writes: [*state, *(item for write in writes for item in write)])
    ]
    trace: Annotated[list[str], operator.add]


@pytest.fixture(params=["memory", "postgres"])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "memory":
        return MemoryWorld()
    return postgres_world(request.getfixturevalue("checkpointer_settings"))


def logging(*names: str) -> StateGraph[Any, Any, Any, Any]:
    """Nodes that write to a DeltaChannel, two at a time."""
    builder = StateGraph(Log)
    previous = START
    for name in names:
        for node in (f"{name} b", f"{name} a"):
            builder.add_node(node, _write(node)).add_edge(previous, node)
        builder.add_node(name, _write(name)).add_edge([f"{name} b", f"{name} a"], name)
        previous = name
    return builder.add_edge(previous, END)


def _write(name: str) -> Any:
    def write(state: Log) -> dict[str, Any]:
        return {"log": [name], "trace": [name]}

    return write


def stands(history: list[CheckpointSummary]) -> list[tuple[str, tuple[str, ...], Any]]:
    return [(each.checkpoint_id, each.next, each.values) for each in history]


@pytest.mark.parametrize("graph", [chain(), logging("one", "two")], ids=["chain", "delta"])
@pytest.mark.parametrize("payload", [None, {"text": "forked"}])
async def test_a_fork_from_each_checkpoint_of_a_finished_run(
    world: World, graph: StateGraph[Any, Any, Any, Any], payload: Any
) -> None:
    async with world.open(flow=graph) as o:
        run = await o.start_and_wait("flow", {"text": "hi"}, timeout=60)
        history = await o.history(run.run_id)
        assert run.output["trace"] == history[0].values["trace"]
        for point in history:
            fork = await o.wait((await o.fork(run.run_id, point.checkpoint_id, payload)).run_id, timeout=60)
            assert fork.status is RunStatus.COMPLETED, fork.error
            assert (fork.parent_run_id, fork.fork_checkpoint_id) == (run.run_id, point.checkpoint_id)
            assert fork.thread_id == fork.run_id
            expected = dict(run.output)
            if payload and point.step >= 0:
                expected |= payload
            if "pids" not in expected:
                assert fork.output == expected
            assert fork.output["trace"] == run.output["trace"]
            assert fork.output["text"] == expected["text"]
            own = await o.history(fork.run_id)
            assert own[-1].checkpoint_id == point.checkpoint_id
            assert (own[-1].source, own[-1].next) == ("fork", point.next)
            assert own[-1].values == {**point.values, **(payload or {})}
        assert stands(await o.history(run.run_id)) == stands(history)
        assert await o.poll(run.run_id) == run


async def test_a_fork_of_a_fork(world: World) -> None:
    async with world.open(flow=logging("one", "two")) as o:
        run = await o.start_and_wait("flow", {"text": "hi"}, timeout=60)
        point = next(each for each in await o.history(run.run_id) if each.next == ("one",))
        first = await o.wait((await o.fork(run.run_id, point.checkpoint_id)).run_id, timeout=60)
        later = next(each for each in await o.history(first.run_id) if each.next == ("two",))
        second = await o.wait((await o.fork(first.run_id, later.checkpoint_id, {"text": "x"})).run_id, timeout=60)
        with pytest.raises(CheckpointNotFoundError):
            await o.fork(first.run_id, (await o.history(run.run_id))[0].checkpoint_id)
    assert second.output == {**run.output, "text": "x"}


async def test_a_fork_of_a_waiting_run_asks_anew(world: World) -> None:
    def ask(state: Any) -> dict[str, Any]:
        return {"trace": [f"{state['text']} {interrupt({'signal': 'approval'})}"]}

    builder = StateGraph(Log).add_node("ask", ask).add_edge(START, "ask")
    async with world.open(flow=builder) as o:
        run = await o.start_and_wait("flow", {"text": "hi"}, timeout=60)
        head = (await o.history(run.run_id))[0]
        fork = await o.wait((await o.fork(run.run_id, head.checkpoint_id, {"text": "ho"})).run_id, timeout=60)
        assert fork.status is RunStatus.WAITING
        await o.signal(fork.run_id, "approval", "yes")
        fork = await status(o, fork, RunStatus.COMPLETED)
        assert fork.output["trace"] == ["ho yes"]
        assert (await o.poll(run.run_id)).status is RunStatus.WAITING
        await o.signal(run.run_id, "approval", "no")
        assert (await status(o, run, RunStatus.COMPLETED)).output["trace"] == ["hi no"]


async def test_what_can_not_be_forked(world: World) -> None:
    async with world.open(chain=chain()) as o:
        run = await o.start_and_wait("chain", {"text": "hi"}, timeout=60)
        other = await o.start_and_wait("chain", {"text": "hi"}, timeout=60)
        for unknown in (new_run_id(), "none", "a\x00b", (await o.history(other.run_id))[0].checkpoint_id):
            with pytest.raises(CheckpointNotFoundError):
                await o.fork(run.run_id, unknown)


async def test_a_fork_of_an_older_version_is_upgraded(world: World) -> None:
    def change(values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "trace": ["upgraded"]}

    async with world.open(chain=Workflow(chain(), version="1")) as o:
        run = await o.start_and_wait("chain", {"text": "hi"}, timeout=60)
    async with world.open(chain=Workflow(chain(), version="2", upgrades=[Upgrade("1", "2", change)])) as o:
        history = await o.history(run.run_id)
        point = next(each for each in history if each.next == ("two",))
        fork = await o.wait((await o.fork(run.run_id, point.checkpoint_id, {"text": "ho"})).run_id, timeout=60)
        own = await o.history(fork.run_id)
        assert await o.history(run.run_id) == history
    assert (fork.output["trace"], fork.output["text"]) == (["upgraded", "two", "three"], "ho")
    assert [(each.workflow_version, each.source) for each in own] == [
        ("2", "loop"),
        ("2", "loop"),
        ("2", "update"),
        ("1", "fork"),
    ]


async def _forked(o: Orchestrator, parent: str, checkpoint_id: str, payload: Any) -> Any:
    """A fork that nobody drives yet."""
    new = NewRun(
        run_id=new_run_id(),
        workflow_type="flow",
        input=payload,
        max_attempts=3,
        organization_id="default",
        parent_run_id=parent,
        fork_checkpoint_id=checkpoint_id,
    )
    return (await o._store.create(new, owner=o._owner)).run


@pytest.mark.parametrize("graph", [chain(), logging("one", "two")], ids=["chain", "delta"])
async def test_a_fork_that_was_cut_short_is_made_again(world: World, graph: StateGraph[Any, Any, Any, Any]) -> None:
    # What is ours and driven by nobody is driven at the second renewal: not while this looks at it.
    world.settings = world.settings.model_copy(update={"run_lease_seconds": 3600.0})
    async with world.open(flow=graph) as o:
        run = await o.start_and_wait("flow", {"text": "hi"}, timeout=60)
        point = (await o.history(run.run_id))[2]
        fork = await _forked(o, run.run_id, point.checkpoint_id, {"text": "ho"})
        workflow = o.graphs["flow"]
        config = config_of(fork, workflow)
        for _ in range(2):
            begin = await load(fork, workflow, o._saver, o._store, config)
            assert isinstance(begin, Begin)
            assert begin.resumed
        # With the update saved, but nothing run.
        head = await o._saver.aget_tuple(config)
        assert head is not None
        await o._saver.aput_writes(
            {"configurable": {**config["configurable"], "checkpoint_ns": "", "checkpoint_id": point.checkpoint_id}},
            [("text", "ho")],
            "00000000-0000-0000-0000-000000000000",
        )
        begin = await load(fork, workflow, o._saver, o._store, config)
        assert isinstance(begin, Begin)
        assert begin.input == {"text": "ho"}
        o._dispatcher.drive(fork)
        fork = await status(o, fork, RunStatus.COMPLETED)
        assert fork.output["text"] == "ho"
        assert fork.output["trace"] == run.output["trace"]
        assert [each.checkpoint_id for each in await o.history(fork.run_id)][-1] == point.checkpoint_id
