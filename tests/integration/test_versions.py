"""Runs that go on under another version of their graph: upgrades of the state, and nodes that are not there."""

from __future__ import annotations

import operator
from collections.abc import Callable
from copy import deepcopy
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels import DeltaChannel
from langgraph.func import task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt

from orchestrator import (
    CheckpointSummary,
    GraphError,
    Orchestrator,
    Run,
    RunStatus,
    Upgrade,
    Workflow,
    open_orchestrator,
)
from orchestrator.engine.points import on_point
from tests.graphs import Gates, chain
from tests.waiting import until
from tests.worlds import MemoryWorld, World, postgres_world, status

Builder = StateGraph[Any, Any, Any, Any]
# A run that is to be tried again rests until the test says so.
LATER = RetryPolicy(initial_interval=3600, max_interval=3600, max_attempts=6, retry_on=ConnectionError)


class Old(TypedDict, total=False):
    text: str
    items: list[str]
    trace: Annotated[list[str], operator.add]


class New(TypedDict, total=False):
    body: str
    length: int
    items: list[str]
    trace: Annotated[list[str], operator.add]


@pytest.fixture(params=["memory", "postgres"])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "memory":
        return MemoryWorld()
    return postgres_world(request.getfixturevalue("checkpointer_settings"))


class Changes:
    """1 → 2 renames `text`, 2 → 3 counts; both are remembered, with what they were given."""

    def __init__(self) -> None:
        self.given: list[tuple[str, dict[str, Any]]] = []

    @property
    def upgrades(self) -> list[Upgrade]:
        return [Upgrade("2", "3", self._count), Upgrade("1", "2", self._rename)]

    def _rename(self, values: dict[str, Any]) -> dict[str, Any]:
        self.given.append(("rename", deepcopy(values)))
        values["body"] = values.pop("text")
        # In place: it is to be saved all the same.
        values.setdefault("items", []).append("renamed")
        return values

    def _count(self, values: dict[str, Any]) -> dict[str, Any]:
        self.given.append(("count", deepcopy(values)))
        return {**values, "length": len(values["body"]), "trace": ["upgraded"]}


def third(builder: Builder, changes: Changes | None = None) -> Workflow:
    return Workflow(builder, version="3", retry=LATER, upgrades=changes.upgrades if changes else ())


def graph(schema: type) -> Builder:
    return StateGraph(schema)


def line(schema: type, nodes: dict[str, Callable[..., Any]]) -> Builder:
    """Nodes in a row."""
    builder = graph(schema)
    previous = START
    for name, node in nodes.items():
        builder.add_node(name, node)
        builder.add_edge(previous, name)
        previous = name
    return builder.add_edge(previous, END)


def said(name: str, ran: list[str]) -> Any:
    """A node that notes that it ran, in `ran` and in the trace."""

    def node(state: Any) -> dict[str, Any]:
        ran.append(name)
        return {"trace": [name]}

    return node


def asking(name: str, ran: list[str], *signals: str) -> Any:
    """A node that waits for each of the signals and traces the answers."""

    def node(state: Any) -> dict[str, Any]:
        ran.append(name)
        return {"trace": [f"{name} {interrupt({'signal': signal})}" for signal in signals]}

    return node


def fork_join(schema: type, ran: list[str], *asks: Callable[..., Any]) -> Builder:
    """`work` beside nodes that ask, then `last`."""
    builder = graph(schema)
    builder.add_node("work", said("work", ran)).add_edge(START, "work")
    for number, ask in enumerate(asks):
        builder.add_node(f"ask{number}", ask).add_edge(START, f"ask{number}")
    builder.add_node("last", said("last", ran))
    builder.add_edge(["work", *(f"ask{number}" for number in range(len(asks)))], "last")
    return builder.add_edge("last", END)


async def paused(orchestrator: Orchestrator, gates: Gates, workflow: str, at: str) -> Run:
    """A run that rests after the step `at`."""
    run = await orchestrator.start(workflow, {"text": "hello"})
    await until(lambda: at in gates.reached)
    await orchestrator.interrupt(run.run_id)
    attempt = orchestrator._dispatcher._attempts[run.run_id]
    await until(lambda: attempt.control.drain_requested)
    gates.open(at)
    return await orchestrator.wait(run.run_id, timeout=30)


def versions(history: list[CheckpointSummary]) -> list[tuple[str | None, str, tuple[str, ...]]]:
    return [(each.workflow_version, each.source, each.next) for each in history]


async def test_a_paused_run_is_upgraded_once(world: World) -> None:
    gates, ran, changes = Gates(), list[str](), Changes()

    async def first(state: Old) -> dict[str, Any]:
        await gates.wait("first")
        return {"trace": ["first"], "items": ["a"]}

    async with world.open(flow=Workflow(line(Old, {"first": first, "second": said("second", ran)}), version="1")) as o:
        run = await paused(o, gates, "flow", "first")
        assert (run.status, run.workflow_version) == (RunStatus.PAUSED, "1")
    new = line(New, {"first": said("first", ran), "second": said("second", ran)})
    async with world.open(flow=third(new, changes)) as o:
        await o.resume(run.run_id)
        run = await o.wait(run.run_id, timeout=30)
        history = await o.history(run.run_id)
    assert run.status is RunStatus.COMPLETED, run.error
    assert run.output == {"body": "hello", "length": 5, "items": ["a", "renamed"], "trace": ["upgraded", "second"]}
    assert ran == ["second"]
    assert changes.given == [
        ("rename", {"text": "hello", "items": ["a"], "trace": ["first"]}),
        ("count", {"body": "hello", "items": ["a", "renamed"], "trace": ["first"]}),
    ]
    assert versions(history) == [
        ("3", "loop", ()),
        ("3", "update", ("second",)),
        ("2", "update", ("second",)),
        ("1", "loop", ("second",)),
        ("1", "loop", ("first",)),
        ("1", "input", ("__start__",)),
    ]
    assert [each.step for each in history] == [2, 1, 1, 1, 0, -1]
    ids = [each.checkpoint_id for each in history]
    assert ids == sorted(ids, reverse=True)
    assert [each.parent_checkpoint_id for each in history] == [*ids[1:], None]
    assert history[1].values["trace"] == ["upgraded"]


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
async def test_an_upgrade_that_was_cut_short_is_done_again(
    world: World, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates, ran, changes = Gates(), list[str](), Changes()

    async def first(state: Old) -> dict[str, Any]:
        await gates.wait("first")
        return {"trace": ["first"]}

    async with world.open(flow=Workflow(line(Old, {"first": first, "second": said("second", ran)}), version="1")) as o:
        run = await paused(o, gates, "flow", "first")
    new = line(New, {"first": said("first", ran), "second": said("second", ran)})
    async with world.open(flow=third(new, changes)) as o:
        puts = 0
        # The saver's class: the graph has one of its own, for the types of its state.
        put = type(o._saver).aput

        async def cut_off(*args: Any) -> Any:
            nonlocal puts
            puts += 1
            # Half of the time after it is done.
            if puts == failing and failing % 2:
                raise ConnectionError("before")
            done = await put(*args)
            if puts == failing:
                raise ConnectionError("after")
            return done

        monkeypatch.setattr(type(o._saver), "aput", cut_off)
        await o.resume(run.run_id)
        await status(o, run, RunStatus.SUSPENDED)
        await world.make_retry_due(run.run_id)
        run = await o.wait(run.run_id, timeout=30)
        history = await o.history(run.run_id)
    assert run.status is RunStatus.COMPLETED, run.error
    assert run.output == {"body": "hello", "length": 5, "items": ["renamed"], "trace": ["upgraded", "second"]}
    assert [each.workflow_version for each in history] == ["3", "3", "2", "1", "1", "1"]
    assert ran == ["second"]


@pytest.mark.parametrize("sent", ["before", "after"])
async def test_a_waiting_run_is_answered_whenever_the_signal_was_sent(world: World, sent: str) -> None:
    ran, changes = list[str](), Changes()
    old = fork_join(Old, ran, asking("ask", ran, "approval"))
    async with world.open(flow=Workflow(old, version="1", retry=LATER)) as o:
        run = await o.start_and_wait("flow", {"text": "hi"}, timeout=30)
        assert run.status is RunStatus.WAITING
        if sent == "before":
            # Handed over under version 1, by an attempt that came no further.
            on_point(lose_at("loaded"))
            try:
                await o.signal(run.run_id, "approval", "yes")
                await status(o, run, RunStatus.SUSPENDED)
            finally:
                on_point(None)
            [signal] = await o.signals(run.run_id)
            assert signal.interrupt_id is not None
    async with world.open(flow=third(fork_join(New, ran, asking("ask", ran, "approval")), changes)) as o:
        if sent == "before":
            await world.make_retry_due(run.run_id)
        else:
            await o.signal(run.run_id, "approval", "yes")
        run = await status(o, run, RunStatus.COMPLETED)
        history = await o.history(run.run_id)
    assert sorted(ran) == ["ask", "ask", "last", "work"]
    assert run.output["trace"] == ["upgraded", "ask yes", "work", "last"]
    assert [name for name, _ in changes.given] == ["rename", "count"]
    assert len([each for each in history if each.source == "update"]) == 2


def lose_at(point: str) -> Callable[[str, str], None]:
    """An attempt's end in an error at this point."""

    def reached(name: str, run_id: str) -> None:
        if name == point:
            raise ConnectionError(point)

    return reached


async def test_answers_of_before_and_waits_that_are_left_stay(world: World) -> None:
    ran, changes = list[str](), Changes()

    def built(schema: type) -> Builder:
        return fork_join(schema, ran, asking("one", ran, "a", "b"), asking("two", ran, "c"))

    async with world.open(flow=Workflow(built(Old), version="1")) as o:
        run = await o.start_and_wait("flow", {"text": "hi"}, timeout=30)
        await o.signal(run.run_id, "a", 1)

        async def asked() -> bool:
            found = await o.poll(run.run_id)
            waits = {wait["signal"] for wait in found.awaiting or ()}
            return found.status is RunStatus.WAITING and waits == {"b", "c"}

        await until(asked)
    async with world.open(flow=third(built(New), changes)) as o:
        before = await o.poll(run.run_id)
        await o.signal(run.run_id, "c", 3)

        async def one_left() -> Run | None:
            found = await o.poll(run.run_id)
            return found if found.status is RunStatus.WAITING and len(found.awaiting or ()) == 1 else None

        left = await until(one_left)
        assert left is not None
        assert left.awaiting is not None
        assert left.awaiting[0] in (before.awaiting or ())
        await o.resume(run.run_id, 2)
        run = await status(o, run, RunStatus.COMPLETED)
    assert run.output["trace"] == ["upgraded", "one 1", "one 2", "two 3", "work", "last"]
    assert ran.count("work") == 1
    assert len(changes.given) == 2


async def test_what_subgraphs_and_tasks_have_done_is_not_done_again(world: World) -> None:
    ran, changes = list[str](), Changes()

    @task
    def costly(number: int) -> int:
        ran.append("costly")
        return number + 1

    async def calling(state: Any) -> dict[str, Any]:
        number = await costly(1)
        return {"trace": [f"calling {number} {interrupt({'signal': 'number'})}"]}

    def built(schema: type) -> Builder:
        inner = line(schema, {"inside": said("inside", ran), "ask": asking("ask", ran, "approval")}).compile()
        builder = graph(schema)
        builder.add_node("sub", inner).add_edge(START, "sub")
        builder.add_node("calling", calling).add_edge(START, "calling")
        return builder

    async with world.open(flow=Workflow(built(Old), version="1")) as o:
        run = await o.start_and_wait("flow", {"text": "hi"}, timeout=30)
        assert len(run.awaiting or ()) == 2
    async with world.open(flow=third(built(New), changes)) as o:
        await o.signal(run.run_id, "number", 7)
        await o.signal(run.run_id, "approval", "yes")
        run = await status(o, run, RunStatus.COMPLETED)
    assert ran.count("costly") == ran.count("inside") == 1
    assert "calling 2 7" in run.output["trace"]
    assert "ask yes" in run.output["trace"]


async def test_what_was_sent_to_nodes_is_still_sent(world: World) -> None:
    gates, ran, changes = Gates(), list[str](), Changes()

    def built(schema: type) -> Builder:
        async def scatter(state: Any) -> Command[Any]:
            await gates.wait("scatter")
            return Command(update={"trace": ["scatter"]}, goto=[Send("each", {"n": n}) for n in range(3)])

        def each(state: dict[str, Any]) -> dict[str, Any]:
            ran.append(f"each {state['n']}")
            return {"trace": [f"each {state['n']}"]}

        return graph(schema).add_node("scatter", scatter).add_node("each", each).add_edge(START, "scatter")

    async with world.open(flow=Workflow(built(Old), version="1")) as o:
        run = await paused(o, gates, "flow", "scatter")
    async with world.open(flow=third(built(New), changes)) as o:
        await o.resume(run.run_id)
        run = await o.wait(run.run_id, timeout=30)
        history = await o.history(run.run_id)
    assert run.output["trace"] == ["upgraded", "each 0", "each 1", "each 2"]
    assert [each.next for each in history if each.source == "update"] == [("each", "each", "each")] * 2


@pytest.mark.parametrize(
    "upgrades",
    [[], [Upgrade("1", "2", dict)], [Upgrade("2", "3", dict)], [Upgrade("0", "3", dict)]],
    ids=["none", "short", "late", "other"],
)
async def test_without_a_chain_to_the_version_the_state_is_left_alone(world: World, upgrades: list[Upgrade]) -> None:
    gates = Gates()
    async with world.open(chain=Workflow(chain(gates=gates), version="1")) as o:
        run = await paused(o, gates, "chain", "one")
    async with world.open(chain=Workflow(chain(), version="3", upgrades=upgrades)) as o:
        await o.resume(run.run_id)
        run = await o.wait(run.run_id, timeout=30)
        history = await o.history(run.run_id)
    assert (run.status, run.output["trace"]) == (RunStatus.COMPLETED, ["one", "two", "three"])
    assert [each.workflow_version for each in history] == ["3", "3", "1", "1", "1"]
    assert {each.source for each in history} == {"input", "loop"}


async def test_a_new_run_on_an_old_thread_finds_the_state_upgraded(world: World) -> None:
    ran, changes = list[str](), Changes()
    async with world.open(flow=Workflow(line(Old, {"only": said("only", ran)}), version="1")) as o:
        first = await o.start_and_wait("flow", {"text": "hi", "items": ["a"]}, thread_id="t", timeout=30)
        assert first.workflow_version == "1"
    async with world.open(flow=third(line(New, {"only": said("only", ran)}), changes)) as o:
        run = await o.start_and_wait("flow", {"length": 9}, thread_id="t", timeout=30)
        again = await o.start_and_wait("flow", {"length": 10}, thread_id="t", timeout=30)
        history = await o.history(run.run_id)
    assert run.workflow_version == "3"
    assert run.output == {"body": "hi", "length": 9, "items": ["a", "renamed"], "trace": ["upgraded", "only"]}
    assert again.output["trace"] == ["upgraded", "only", "only"]
    assert len(changes.given) == 2
    assert {each.workflow_version for each in history} == {"3"}


def _append(state: list[str], writes: list[list[str]]) -> list[str]:
    return [*state, *(item for write in writes for item in write)]


class Log(TypedDict, total=False):
    log: Annotated[list[str], DeltaChannel(_append)]
    other: Annotated[list[str], DeltaChannel(_append)]


class Plain(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    other: Annotated[list[str], DeltaChannel(_append)]


@pytest.mark.parametrize("schema", [Log, Plain])
@pytest.mark.parametrize("kept", ["same", "changed", "dropped"])
async def test_a_delta_channel_is_written_in_full(world: World, schema: type, kept: str) -> None:
    def built(state: type) -> Builder:
        def write(state: Any) -> dict[str, Any]:
            return {"log": ["write"], "other": ["write"]}

        def ask(state: Any) -> dict[str, Any]:
            return {"log": [interrupt("go")], "other": ["ask"]}

        return line(state, {"write": write, "again": write, "ask": ask, "end": write})

    def change(values: dict[str, Any]) -> dict[str, Any]:
        assert values == {"log": ["in", "write", "write"], "other": ["write", "write"]}
        changed = {"same": {"log": values["log"]}, "changed": {"log": ["new"]}, "dropped": {}}
        return {"other": values["other"], **changed[kept]}

    async with world.open(flow=Workflow(built(Log), version="1")) as o:
        run = await o.start_and_wait("flow", {"log": ["in"]}, thread_id="t", timeout=30)
    workflow = Workflow(built(schema), version="2", upgrades=[Upgrade("1", "2", change)])
    async with world.open(flow=workflow) as o:
        await o.resume(run.run_id, "yes")
        run = await o.wait(run.run_id, timeout=30)
        assert run.status is RunStatus.COMPLETED, run.error
        before = {"same": ["in", "write", "write"], "changed": ["new"], "dropped": []}[kept]
        assert run.output == {"log": [*before, "yes", "write"], "other": ["write", "write", "ask", "write"]}
        history = await o.history(run.run_id)
        assert history[0].values == run.output
        again = await o.start_and_wait("flow", {"log": ["in"]}, thread_id="t", timeout=30)
        assert again.status is RunStatus.WAITING
        assert again.output["log"] == [*before, "yes", "write", "in", "write", "write"]


def _wrong(values: dict[str, Any]) -> Any:
    return [*values]


def _inner(values: dict[str, Any]) -> Any:
    return {"__start__": 1}


def _raising(values: dict[str, Any]) -> Any:
    raise LookupError("no such value")


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (
            _wrong,
            "orchestrator.errors.GraphError",
            "from version '1' to '3': change takes and returns a mapping, not list",
        ),
        (_inner, "GraphError", "from version '1' to '3': '__start__' is no name"),
        (_raising, "LookupError", "no such value"),
    ],
)
async def test_a_change_that_is_no_good_fails_the_run(world: World, change: Any, kind: str, words: str) -> None:
    gates = Gates()
    async with world.open(chain=Workflow(chain(gates=gates), version="1")) as o:
        run = await paused(o, gates, "chain", "one")
        before = await o.history(run.run_id)
    async with world.open(chain=Workflow(chain(), version="3", upgrades=[Upgrade("1", "3", change)])) as o:
        await o.resume(run.run_id)
        failed = await until(lambda: _with_error(o, run))
        assert failed is not None
        assert failed.error is not None
        assert (failed.error["type"].endswith(kind), words in failed.error["message"]) == (True, True)
        assert await o.history(run.run_id) == before


async def _with_error(orchestrator: Orchestrator, run: Run) -> Run | None:
    found = await orchestrator.poll(run.run_id)
    return found if found.error else None


async def test_a_result_for_a_channel_that_is_gone_is_not_lost(world: World) -> None:
    ran = list[str]()

    def naming(state: Any) -> dict[str, Any]:
        return {"text": "from work"}

    def built(schema: type) -> Builder:
        builder = graph(schema)
        builder.add_node("work", naming).add_edge(START, "work")
        return builder.add_node("ask", asking("ask", ran, "go")).add_edge(START, "ask")

    async with world.open(flow=Workflow(built(Old), version="1")) as o:
        run = await o.start_and_wait("flow", {"text": "hi"}, timeout=30)
    async with world.open(flow=third(built(New), Changes())) as o:
        await o.resume(run.run_id)
        failed = await until(lambda: _with_error(o, run))
        assert failed is not None
        assert "results are for 'text', which version '3' of 'flow' does not have" in str(failed.error)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([("1", "2"), ("1", "3")], "two upgrades start at version '1'"),
        ([("1", "2"), ("2", "1")], "lead back to it"),
        ([("0", "1"), ("1", "1")], "version '1' lead back"),
    ],
)
async def test_upgrades_that_lead_nowhere_are_refused(pairs: list[tuple[str, str]], words: str) -> None:
    upgrades = [Upgrade(old, new, dict) for old, new in pairs]
    with pytest.raises(GraphError, match=f"graph 'flow' can't be used: .*{words}"):
        async with open_orchestrator({"flow": Workflow(chain(), version="3", upgrades=upgrades)}):
            pass


async def test_a_run_whose_next_node_is_gone_waits_for_a_worker_that_has_it(world: World) -> None:
    gates, changes = Gates(), list[dict[str, Any]]()

    def change(values: dict[str, Any]) -> dict[str, Any]:
        changes.append(values)
        return values

    async with world.open(chain=Workflow(chain(["a", "b"], gates), version="1")) as o:
        run = await paused(o, gates, "chain", "a")
    lacking = Workflow(chain(["a", "c"]), version="2", upgrades=[Upgrade("1", "2", change)])
    async with world.open(chain=lacking) as o:
        await o.resume(run.run_id)
        found = await status(o, run, RunStatus.SUSPENDED)
        assert found.error is not None
        assert found.error["type"] == "orchestrator.errors.MissingNodeError"
        assert "'b'" in found.error["message"]
        assert found.retry_at is not None
        assert found.failures == 0
    assert not changes
    async with world.open(chain=Workflow(chain(["a", "b"]), version="1")) as o:
        await world.make_retry_due(run.run_id)
        run = await o.wait(run.run_id, timeout=30)
    assert (run.status, run.output["trace"], run.error) == (RunStatus.COMPLETED, ["a", "b"], None)


async def suspended_for(world: World, run: Run, node: str, **graphs: Any) -> None:
    """Let the run go on with these graphs, and see that the node is missed."""
    async with world.open(**graphs) as o:
        await o.resume(run.run_id)
        found = await status(o, run, RunStatus.SUSPENDED)
        assert found.error is not None
        assert f"go on at '{node}', which" in found.error["message"]


async def test_a_node_that_was_sent_to_is_missed(world: World) -> None:
    gates = Gates()

    def built(target: str) -> Builder:
        async def scatter(state: Any) -> Command[Any]:
            await gates.wait("scatter")
            return Command(goto=[Send(target, {"n": n}) for n in range(2)])

        return graph(Old).add_node("scatter", scatter).add_node(target, said(target, [])).add_edge(START, "scatter")

    async with world.open(flow=built("each")) as o:
        run = await paused(o, gates, "flow", "scatter")
    await suspended_for(world, run, "each", flow=built("other"))


async def test_a_node_that_a_finished_one_leads_to_is_missed(world: World) -> None:
    def built(target: str) -> Builder:
        builder = graph(Old)
        builder.add_node("work", said("work", [])).add_edge(START, "work")
        builder.add_node("ask", asking("ask", [], "go")).add_edge(START, "ask")
        return builder.add_node(target, said(target, [])).add_edge("work", target)

    async with world.open(flow=built("next")) as o:
        run = await o.start_and_wait("flow", {"text": "hi"}, timeout=30)
        assert run.status is RunStatus.WAITING
    await suspended_for(world, run, "next", flow=built("other"))


async def test_a_node_of_a_subgraph_is_missed(world: World) -> None:
    def built(target: str) -> Builder:
        inner = line(Old, {"inside": said("inside", []), target: asking("ask", [], "go")}).compile()
        return graph(Old).add_node("sub", inner).add_edge(START, "sub")

    async with world.open(flow=built("ask")) as o:
        run = await o.start_and_wait("flow", {"text": "hi"}, timeout=30)
        assert run.status is RunStatus.WAITING
    await suspended_for(world, run, "sub:ask", flow=built("other"))
