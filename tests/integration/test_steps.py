"""Steps that nodes call, inline and through the queue, in memory and in PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt

from orchestrator import NoAttemptError, Run, RunStatus, Workflow, step
from tests.stepping import (
    AT_ONCE,
    Journal,
    Stepping,
    calling,
    gated,
    inline,
    inline_sync,
    noted,
    noted_sync,
)
from tests.waiting import until
from tests.worlds import World, status


async def completed(world: World, flow: Any, journal: Journal, timeout: float = 30) -> Run:
    async with world.open(flow=flow) as o:
        run = await o.start_and_wait("flow", {"journal": str(journal.directory)}, timeout=timeout)
    assert run.status is RunStatus.COMPLETED, run
    return run


class TestInline:
    async def test_runs_where_the_node_runs(self, world: World, journal: Journal) -> None:
        async def node(state: Stepping) -> Stepping:
            a, b = await asyncio.gather(inline(state["journal"], "a"), inline_sync(state["journal"], "b"))
            return {"out": [a, b]}

        def plain(state: Stepping) -> Stepping:
            return {"out": [inline_sync(state["journal"], "c").result(), inline(state["journal"], "d").result()]}

        run = await completed(world, calling(node, plain), journal)
        assert run.output["out"] == [f"{name} done" for name in "abcd"]
        assert run.attempt == 1
        assert set(journal.ran.values()) == {1}

    @pytest.mark.parametrize("kind", [inline, noted], ids=["inline", "queue"])
    async def test_what_has_ended_is_not_run_again_with_its_node(
        self, world: World, journal: Journal, kind: Any
    ) -> None:
        async def node(state: Stepping) -> Stepping:
            first = await kind(state["journal"], "first")
            if journal.note("node") <= 2:
                raise ConnectionError("after the first step")
            return {"out": [first, await kind(state["journal"], "second")]}

        run = await completed(world, Workflow(calling(node), retry=AT_ONCE), journal)
        assert run.output["out"] == ["first done", "second done"]
        assert run.failures == 2
        assert (journal.ran["first"], journal.ran["second"]) == (1, 1)

    async def test_has_a_retry_of_its_own(self, world: World, journal: Journal) -> None:
        @step(retry=RetryPolicy(initial_interval=0.01, max_attempts=3, retry_on=ConnectionError))
        async def shaky() -> str:
            if journal.note("shaky") < 3:
                raise ConnectionError
            return "done"

        async def node(state: Stepping) -> Stepping:
            return {"out": [await shaky()]}

        run = await completed(world, calling(node), journal)
        assert (run.attempt, run.failures) == (1, 0)
        assert journal.ran["shaky"] == 3

    async def test_outside_of_a_run_none_is_called(self) -> None:
        with pytest.raises((NoAttemptError, RuntimeError)):
            await noted("/nowhere", "a")


class TestQueue:
    async def test_several_at_once_give_their_results_in_order(self, world: World, journal: Journal) -> None:
        names = ["a", "b", "c", "d"]

        async def node(state: Stepping) -> Stepping:
            return {"out": list(await asyncio.gather(*(gated(state["journal"], name) for name in names)))}

        async with world.open(flow=calling(node)) as o:
            run = await o.start("flow", {"journal": str(journal.directory)})
            await until(lambda: len(journal.ran) == len(names), what="all of them are under way at once")
            for name in reversed(names):
                journal.open(name)
            run = await o.wait(run.run_id, timeout=30)
        assert run.status is RunStatus.COMPLETED, run
        assert run.output["out"] == [f"{name} done" for name in names]
        assert journal.ran == dict.fromkeys(names, 1)

    async def test_one_after_the_other(self, world: World, journal: Journal) -> None:
        async def node(state: Stepping) -> Stepping:
            first = await noted(state["journal"], "a")
            second = await noted_sync(state["journal"], f"after-{first[0]}")
            return {"out": [first, second, await inline(state["journal"], "c")]}

        def plain(state: Stepping) -> Stepping:
            first = noted_sync(state["journal"], "x").result()
            futures = [noted(state["journal"], f"{first[0]}{number}") for number in range(3)]
            return {"out": [future.result() for future in futures]}

        run = await completed(world, calling(node, plain), journal)
        assert run.output["out"] == ["a done", "after-a done", "c done", "x0 done", "x1 done", "x2 done"]
        assert set(journal.ran.values()) == {1}
        assert run.failures == run.losses == 0

    async def test_the_same_call_several_times_is_several(self, world: World, journal: Journal) -> None:
        async def node(state: Stepping) -> Command[Any]:
            n = state.get("n", 0)
            out = [await noted(state["journal"], "same") for _ in range(2)]
            return Command(update={"out": out, "n": n + 1}, goto="node" if n < 1 else ())

        run = await completed(world, calling(node), journal)
        assert len(run.output["out"]) == journal.ran["same"] == 4

    async def test_in_nodes_side_by_side(self, world: World, journal: Journal) -> None:
        def named(name: str) -> Any:
            async def node(state: Stepping) -> Stepping:
                one, two = f"{name}1", f"{name}2"
                return {"out": list(await asyncio.gather(noted(state["journal"], one), gated(state["journal"], two)))}

            return node

        builder = StateGraph(Stepping)
        for name in "abc":
            builder.add_node(name, named(name)).add_edge(START, name)
        journal.open("a2", "b2", "c2")
        run = await completed(world, builder, journal)
        assert run.output["out"] == [f"{name}{number} done" for name in "abc" for number in (1, 2)]
        assert set(journal.ran.values()) == {1}

    async def test_in_subgraphs_and_in_what_was_sent(self, world: World, journal: Journal) -> None:
        async def inner(state: Stepping) -> Stepping:
            return {"out": [await noted(state["journal"], f"inner{state.get('n', '')}")]}

        def send(state: Stepping) -> Command[Any]:
            sent = [Send("each", {"journal": state["journal"], "n": n}) for n in range(3)]
            subs = [Send("sub", {"journal": state["journal"], "n": n}) for n in range(2)]
            return Command(goto=[*sent, *subs])

        async def each(state: Stepping) -> Stepping:
            return {"out": [await noted(state["journal"], f"each{state['n']}")]}

        sub = StateGraph(Stepping).add_node("inner", inner).add_edge(START, "inner").compile()

        async def below(state: Stepping) -> Stepping:
            return {"out": (await sub.ainvoke({"journal": state["journal"], "n": state["n"]}))["out"]}

        builder = StateGraph(Stepping).add_node("send", send).add_node("each", each).add_node("sub", below)
        run = await completed(world, builder.add_edge(START, "send"), journal)
        expected = [f"each{n} done" for n in range(3)] + [f"inner{n} done" for n in range(2)]
        assert sorted(run.output["out"]) == expected
        assert set(journal.ran.values()) == {1}

    async def test_beside_a_human_answer(self, world: World, journal: Journal) -> None:
        """The answer is for the human's wait; the step's is none that a person can answer."""

        async def work(state: Stepping) -> Stepping:
            return {"out": [await gated(state["journal"], "work")]}

        def ask(state: Stepping) -> Stepping:
            return {"out": [interrupt({"signal": "approval"})]}

        builder = StateGraph(Stepping).add_node("work", work).add_node("ask", ask)
        builder.add_edge(START, "work").add_edge(START, "ask")
        async with world.open(flow=builder) as o:
            run = await o.start("flow", {"journal": str(journal.directory)})
            run = await status(o, run, RunStatus.WAITING)
            assert run.is_settled
            assert sorted(wait["signal"].partition(":")[0] for wait in run.awaiting or ()) == ["approval", "step"]
            await o.resume(run.run_id, "yes")
            await until(lambda: _waits_for_steps(o, run), what="only the step is left")
            journal.open("work")
            run = await status(o, run, RunStatus.COMPLETED)
        assert sorted(run.output["out"]) == ["work done", "yes"]
        assert journal.ran["work"] == 1


async def _waits_for_steps(o: Any, run: Run) -> bool:
    return bool((await o.poll(run.run_id)).waits_for_steps)


async def test_one_orchestrator_after_the_other(world: World, journal: Journal) -> None:
    """The first is closed while the step is under way: the second runs it, once more, and not the one that ended."""

    async def node(state: Stepping) -> Stepping:
        first = await noted(state["journal"], "first")
        return {"out": [first, await noted(state["journal"], "second")]}

    async def later(state: Stepping) -> Stepping:
        return {"out": [await gated(state["journal"], "third")]}

    world.settings = world.settings.model_copy(update={"drain_timeout": 0.2})
    async with world.open(flow=calling(node, later)) as o:
        run = await o.start("flow", {"journal": str(journal.directory)})
        await until(lambda: journal.ran["third"])
    journal.open("third")
    async with world.open(flow=calling(node, later)) as o:
        run = await status(o, run, RunStatus.COMPLETED)
    assert run.output["out"] == ["first done", "second done", "third done"]
    assert (journal.ran["first"], journal.ran["second"]) == (1, 1)
    assert journal.ran["third"] <= 2
