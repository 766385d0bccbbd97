"""How dispatched steps end other than well, and what is asked of a run meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy

from orchestrator import (
    IllegalTransitionError,
    InvalidRequestError,
    Orchestrator,
    Run,
    RunStatus,
    StepFailedError,
    Workflow,
    step,
)
from orchestrator.engine import recovery
from orchestrator.engine.steps import STEPS
from orchestrator.runs.model import STEP_SIGNAL, Request
from tests.stepping import Journal, Stepping, as_given, calling, flaky, gated, held, hopeless, noted
from tests.waiting import until
from tests.worlds import World, status

NO_RETRY = RetryPolicy(max_attempts=1)


def once(*nodes: Any) -> Workflow:
    return Workflow(calling(*nodes), retry=NO_RETRY)


async def ended(world: World, flow: Any, journal: Journal, timeout: float = 30) -> Run:
    async with world.open(flow=flow) as o:
        return await o.start_and_wait("flow", {"journal": str(journal.directory)}, timeout=timeout)


@asynccontextmanager
async def under_way(world: World, journal: Journal) -> AsyncIterator[tuple[Orchestrator, Run]]:
    """A run that waits for a step which is under way, behind the gate `a`."""

    async def node(state: Stepping) -> Stepping:
        return {"out": [await gated(state["journal"], "a")]}

    async def after(state: Stepping) -> Stepping:
        return {"out": [str(journal.note("after"))]}

    async with world.open(flow=calling(node, after)) as o:
        run = await o.start("flow", {"journal": str(journal.directory)})
        await until(lambda: journal.ran["a"], what="the step is begun")
        run = await status(o, run, RunStatus.WAITING)
        try:
            yield o, run
        finally:
            journal.open("a")


@step(dispatch="queue", name="hopeless in the end")
async def hopeless_in_the_end(journal: str, name: str, others: list[str]) -> str:
    """A step that fails once others are begun."""
    book = Journal(Path(journal))
    book.note(name)
    await until(lambda: all(book.ran[other] for other in others))
    raise ValueError(f"{name} is broken")


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be tried again is looked for every moment."""
    monkeypatch.setattr(recovery, "_TICK_EVERY_S", 0.05)


class TestFailure:
    async def test_for_good_fails_the_run(self, world: World, journal: Journal) -> None:
        async def node(state: Stepping) -> Stepping:
            return {"out": [await hopeless(state["journal"], "a")]}

        run = await ended(world, once(node), journal)
        assert run.status is RunStatus.FAILED, run
        assert run.error is not None
        assert run.error["type"].endswith(".StepFailedError")
        assert run.error["message"] == "step hopeless failed: ValueError: a is broken"
        assert journal.ran["a"] == 1

    async def test_for_good_can_be_handled_by_the_node(self, world: World, journal: Journal) -> None:
        async def node(state: Stepping) -> Stepping:
            try:
                await hopeless(state["journal"], "a")
            except StepFailedError as exc:
                return {"out": [exc.error["type"], await noted(state["journal"], "instead")]}
            return {}

        def plain(state: Stepping) -> Stepping:
            try:
                hopeless(state["journal"], "b").result()
            except StepFailedError as exc:
                return {"out": [str(exc.error["message"])]}
            return {}

        run = await ended(world, once(node, plain), journal)
        assert run.status is RunStatus.COMPLETED, run
        assert run.output["out"] == ["ValueError", "instead done", "b is broken"]
        assert set(journal.ran.values()) == {1}

    async def test_of_one_of_several_leaves_the_others_done(self, world: World, journal: Journal) -> None:
        async def node(state: Stepping) -> Stepping:
            # A step that is not begun by the time its run is over is nobody's.
            b = hopeless_in_the_end(state["journal"], "b", ["a", "c"])
            return {"out": list(await asyncio.gather(noted(state["journal"], "a"), b, noted(state["journal"], "c")))}

        run = await ended(world, once(node), journal)
        assert run.status is RunStatus.FAILED, run
        assert journal.ran == {"a": 1, "b": 1, "c": 1}

    @pytest.mark.usefixtures("_soon")
    async def test_in_passing_is_retried(self, world: World, journal: Journal) -> None:
        async def node(state: Stepping) -> Stepping:
            return {"out": [await flaky(state["journal"], "a", 2)]}

        run = await ended(world, once(node), journal)
        assert run.status is RunStatus.COMPLETED, run
        assert run.output["out"] == ["a done"]
        assert (journal.ran["a"], run.failures) == (3, 0)

    @pytest.mark.usefixtures("_soon")
    async def test_too_often_is_for_good(self, world: World, journal: Journal) -> None:
        async def node(state: Stepping) -> Stepping:
            return {"out": [await flaky(state["journal"], "a", 99)]}

        run = await ended(world, once(node), journal)
        assert run.status is RunStatus.FAILED, run
        assert journal.ran["a"] == 4

    @pytest.mark.parametrize(
        ("what", "error"), [("exit", "ExitError"), ("interrupt", "ExitError"), ("cancelled", "CancelledError")]
    )
    async def test_by_what_would_end_a_task(self, world: World, journal: Journal, what: str, error: str) -> None:
        """The worker goes on: it runs the step after this one."""

        async def node(state: Stepping) -> Stepping:
            try:
                await as_given(state["journal"], what)
            except StepFailedError as exc:
                return {"out": [str(exc.error["type"]).rpartition(".")[2], await noted(state["journal"], "next")]}
            return {}

        run = await ended(world, once(node), journal)
        assert run.status is RunStatus.COMPLETED, run
        assert run.output["out"] == [error, "next done"]
        assert journal.ran[what] == 1


class TestJson:
    @pytest.mark.parametrize(("what", "result"), [("nothing", None), ("model", {"tuple": [1, 2], "nul": "a\x00b"})])
    async def test_is_handed_back(self, world: World, journal: Journal, what: str, result: Any) -> None:
        async def node(state: Stepping) -> Stepping:
            return {"out": [await as_given(state["journal"], what)]}

        run = await ended(world, once(node), journal)
        assert run.status is RunStatus.COMPLETED, run
        assert run.output["out"] == [result]

    @pytest.mark.parametrize(
        ("what", "problem"),
        [
            ("object", "the result of step tests.stepping:as_given holds a object, which has no form in JSON"),
            ("nan", "the result of step tests.stepping:as_given holds nan, which JSON does not have"),
        ],
    )
    async def test_a_result_that_is_none(self, world: World, journal: Journal, what: str, problem: str) -> None:
        async def node(state: Stepping) -> Stepping:
            return {"out": [await as_given(state["journal"], what)]}

        run = await ended(world, once(node), journal)
        assert run.status is RunStatus.FAILED, run
        assert run.error is not None
        assert problem in run.error["message"]
        assert journal.ran[what] == 1

    @pytest.mark.parametrize("kind", ["async", "sync"])
    async def test_an_argument_that_is_none(self, world: World, journal: Journal, kind: str) -> None:
        async def node(state: Stepping) -> Stepping:
            await noted(state["journal"], "a", result=object())
            return {}

        def plain(state: Stepping) -> Stepping:
            unfit: Any = object()
            held(state["journal"], unfit).result()
            return {}

        run = await ended(world, once(node if kind == "async" else plain), journal)
        assert run.status is RunStatus.FAILED, run
        assert run.error is not None
        assert run.error["type"].endswith(".InvalidPayloadError")
        assert run.error["message"].startswith("an argument of step tests.stepping:")
        assert run.error["message"].endswith("holds a object, which has no form in JSON")
        assert not journal.ran


class TestMeanwhile:
    async def test_the_run_shows_what_it_waits_for(self, world: World, journal: Journal) -> None:
        async with under_way(world, journal) as (o, run):
            assert run.waits_for_steps
            assert not run.is_settled
            [wait] = run.awaiting or []
            assert wait["signal"].startswith(STEP_SIGNAL)
            assert wait["value"] == {"signal": wait["signal"], "step": "tests.stepping:gated"}
            # Nobody is told that it waits: it goes on by itself.
            assert (await o.wait(run.run_id, timeout=0.2)).status is RunStatus.WAITING
            waiting = asyncio.create_task(o.wait(run.run_id, timeout=30))
            journal.open("a")
            assert (await waiting).status is RunStatus.COMPLETED
        assert journal.ran == {"a": 1, "after": 1}

    async def test_nobody_else_can_answer_for_the_step(self, world: World, journal: Journal) -> None:
        async with under_way(world, journal) as (o, run):
            [wait] = run.awaiting or []
            with pytest.raises(IllegalTransitionError, match="waiting for its steps"):
                await o.resume(run.run_id, {"status": "completed", "result": 1, "error": None})
            with pytest.raises(InvalidRequestError, match=STEP_SIGNAL):
                await o.signal(run.run_id, wait["signal"], {"status": "completed", "result": 1, "error": None})
            assert (await o.poll(run.run_id)).status is RunStatus.WAITING
            # Another one is kept for a wait to come.
            await o.signal(run.run_id, "approval", True)
            assert (await o.poll(run.run_id)).waits_for_steps
            journal.open("a")
            assert (await o.wait(run.run_id, timeout=30)).output["out"] == ["a done", "1"]

    async def test_a_cancelled_run_drops_the_result(self, world: World, journal: Journal) -> None:
        async with under_way(world, journal) as (o, run):
            assert (await o.cancel(run.run_id)).status is RunStatus.CANCELLED
            journal.open("a")
            other = await o.start_and_wait("flow", {"journal": str(journal.directory)}, timeout=30)
            assert other.status is RunStatus.COMPLETED
            assert (await o.poll(run.run_id)).status is RunStatus.CANCELLED
            assert await o._store.signals(run.run_id) == []
        assert journal.ran == {"a": 2, "after": 1}

    async def test_a_run_that_is_paused_while_it_waits_stops_when_the_step_is_over(
        self, world: World, journal: Journal
    ) -> None:
        async with under_way(world, journal) as (o, run):
            asked = await o.interrupt(run.run_id)
            assert (asked.status, asked.requested) == (RunStatus.WAITING, Request.PAUSE)
            journal.open("a")
            assert (await o.wait(run.run_id, timeout=30)).status is RunStatus.PAUSED
            assert journal.ran == {"a": 1}
            await o.resume(run.run_id)
            assert (await o.wait(run.run_id, timeout=30)).status is RunStatus.COMPLETED
        assert journal.ran == {"a": 1, "after": 1}

    async def test_a_run_that_is_paused_in_another_node_has_the_result_later(
        self, world: World, journal: Journal
    ) -> None:
        """The step ends while the run, which other nodes keep going, is on its way to rest, and while it rests."""

        async def work(state: Stepping) -> Stepping:
            return {"out": [await gated(state["journal"], "a")]}

        async def beside(state: Stepping) -> Stepping:
            journal.note("beside")
            await until(lambda: journal.is_open("beside"))
            return {}

        builder = StateGraph(Stepping).add_node("work", work).add_node("beside", beside)
        builder.add_edge(START, "work").add_edge(START, "beside")
        async with world.open(flow=builder) as o:
            run = await o.start("flow", {"journal": str(journal.directory)})
            await until(lambda: journal.ran["a"] and journal.ran["beside"])
            assert (await o.interrupt(run.run_id)).requested is Request.PAUSE
            journal.open("a", "beside")
            await until(lambda: _rests(o, run))
            if (await o.poll(run.run_id)).status is RunStatus.PAUSED:
                await o.resume(run.run_id)
            run = await status(o, run, RunStatus.COMPLETED)
        assert run.output["out"] == ["a done"]
        assert journal.ran["a"] == 1

    async def test_what_was_kept_from_a_resume_is_no_result(self, world: World, journal: Journal) -> None:
        """A payload that came while the run was paused is handed to whatever waits next; a step has its own result."""

        async def first(state: Stepping) -> Stepping:
            journal.note("first")
            await until(lambda: journal.is_open("first"))
            return {}

        async def node(state: Stepping) -> Stepping:
            return {"out": [await gated(state["journal"], "a")]}

        async with world.open(flow=once(first, node)) as o:
            run = await o.start("flow", {"journal": str(journal.directory)})
            await until(lambda: journal.ran["first"])
            attempt = o._dispatcher._attempts[run.run_id]
            await o.interrupt(run.run_id)
            await until(lambda: attempt.control.drain_requested)
            journal.open("first")
            await status(o, run, RunStatus.PAUSED)
            await o.resume(run.run_id, {"unrelated": True})
            await until(lambda: journal.ran["a"])
            journal.open("a")
            run = await status(o, run, RunStatus.COMPLETED)
        assert run.output["out"] == ["a done"]
        assert journal.ran["a"] == 1


async def _rests(o: Orchestrator, run: Run) -> bool:
    return (await o.poll(run.run_id)).is_settled


async def test_a_step_that_is_not_known_is_left_to_another_worker(
    world: World, journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def node(state: Stepping) -> Stepping:
        return {"out": [await noted(state["journal"], "a")]}

    # What is pushed again comes from the test alone.
    monkeypatch.setattr(recovery, "_PUSH_AGAIN_AFTER_S", 600.0)
    name = "tests.stepping:noted"
    async with world.open(flow=calling(node)) as o:
        with monkeypatch.context() as patch:
            patch.delitem(STEPS, name)
            run = await o.start("flow", {"journal": str(journal.directory)})
            await until(lambda: f"step {name} is not known here" in caplog.text)
            run = await status(o, run, RunStatus.WAITING)
        assert not journal.ran
        [wait] = run.awaiting or []
        found = await o._store.due_steps(older_than_s=0)
        await o.work_step(found[0].step_id)
        run = await status(o, run, RunStatus.COMPLETED)
    assert run.output["out"] == ["a done"]
    assert found[0].signal_name == wait["signal"]
