"""A step's attempt on bad days of the store, and of the function."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator.engine import step_runner
from orchestrator.engine.retry import DEFAULT_RETRY
from orchestrator.engine.step_runner import StepRunner
from orchestrator.engine.steps import STEPS, StepFunction
from orchestrator.errors import DatabaseUnavailableError
from orchestrator.runs.memory import MemoryRunStore
from orchestrator.runs.model import new_run_id
from orchestrator.runs.steps import NewStep, Step, StepEnd, StepStatus
from tests.runs import ME, new
from tests.waiting import until


class Store(MemoryRunStore):
    """A store that refuses what it is asked as often as it is told to, before or after it has done it."""

    def __init__(self) -> None:
        super().__init__()
        self.refuse_claims = self.refuse_ends = 0
        self.error: Exception = DatabaseUnavailableError("not now")

    async def claim_step(self, seen: Step, owner: int) -> Step | None:
        if self.refuse_claims:
            self.refuse_claims -= 1
            raise self.error
        return await super().claim_step(seen, owner)

    async def end_step(self, step: Step, end: StepEnd) -> bool:
        if self.refuse_ends:
            self.refuse_ends -= 1
            raise self.error
        return await super().end_step(step, end)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(step_runner, "_RETRY_EVERY_S", 0.001)
    return Store()


@pytest.fixture
def runner(store: Store) -> Iterator[StepRunner]:
    known = dict(STEPS)
    yield StepRunner(store, ME, 3)
    STEPS.clear()
    STEPS.update(known)


async def pushed(store: Store, function: Callable[..., Any]) -> Step:
    STEPS["s"] = StepFunction("s", function, DEFAULT_RETRY)
    run = (await store.create(new(), owner=ME)).run
    return await store.push_step(NewStep(new_run_id(), run.run_id, "k", "s", {"args": [], "kwargs": {}}))


async def test_a_claim_and_an_end_are_sent_until_they_are_answered(runner: StepRunner, store: Store) -> None:
    step = await pushed(store, lambda: "done")
    store.refuse_claims = store.refuse_ends = 3
    await runner.work(step.step_id)
    row = await store.get_step(step.step_id)
    assert (row.status, row.result, row.attempt) == (StepStatus.COMPLETED, "done", 1)


async def test_an_end_that_cant_be_written_is_a_failure(runner: StepRunner, store: Store) -> None:
    step = await pushed(store, lambda: "x" * 100)
    store.refuse_ends, store.error = 1, ValueError("too large for a row")
    await runner.work(step.step_id)
    row = await store.get_step(step.step_id)
    assert row.status is StepStatus.FAILED
    assert row.error is not None
    assert row.error["message"] == "too large for a row"


async def test_a_function_that_raises_stop_iteration(runner: StepRunner, store: Store) -> None:
    step = await pushed(store, lambda: next(iter(())))
    await asyncio.wait_for(runner.work(step.step_id), 60)
    row = await store.get_step(step.step_id)
    assert row.error is not None
    assert row.error["message"] == "the step raised StopIteration"


async def test_two_messages_at_once_are_one_attempt(runner: StepRunner, store: Store) -> None:
    begun: list[int] = []
    end = asyncio.Event()

    async def slow() -> str:
        begun.append(1)
        await end.wait()
        return "done"

    step = await pushed(store, slow)
    works = [asyncio.create_task(runner.work(step.step_id)) for _ in range(3)]
    await until(lambda: sum(work.done() for work in works) == 2)
    end.set()
    await asyncio.gather(*works)
    await runner.work(step.step_id)
    assert len(begun) == 1


async def test_what_is_cut_off_is_handed_back(runner: StepRunner, store: Store) -> None:
    begun = asyncio.Event()

    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    step = await pushed(store, endless)
    work = asyncio.create_task(runner.work(step.step_id))
    await begun.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    row = await store.get_step(step.step_id)
    assert (row.status, row.attempt, row.losses) == (StepStatus.PENDING, 0, 0)


@pytest.mark.parametrize("moment", ["claim", "answer", "end"])
async def test_what_is_cut_off_while_the_server_is_away_is_not_left_behind(
    runner: StepRunner, store: Store, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Its row would be renewed with all others of this process, so that nobody took it over."""
    monkeypatch.setattr(step_runner, "_HAND_BACK_WITHIN_S", 0.01)
    called: list[int] = []

    def function() -> str:
        called.append(1)
        return "done"

    step = await pushed(store, function)
    store.refuse_claims = 10**9 if moment == "claim" else 0
    store.refuse_ends = 10**9
    if moment == "answer":
        claim = store.claim_step

        async def claim_unanswered(seen: Step, owner: int) -> Step | None:
            await claim(seen, owner)
            raise store.error

        monkeypatch.setattr(store, "claim_step", claim_unanswered)
    work = asyncio.create_task(runner.work(step.step_id))

    async def is_stuck() -> bool:
        begun = (await store.get_step(step.step_id)).status is StepStatus.RUNNING
        return bool(called) if moment == "end" else begun if moment == "answer" else store.refuse_claims < 10**9

    await until(is_stuck)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    store.refuse_ends = 0

    async def is_told() -> bool:
        return (await store.get_step(step.step_id)).status is not StepStatus.RUNNING

    await until(is_told)
    row = await store.get_step(step.step_id)
    ended = (StepStatus.COMPLETED, 1) if moment == "end" else (StepStatus.PENDING, 0)
    assert (row.status, row.attempt, row.lease_owner) == (*ended, None)
    await until(lambda: not runner._unwritten)
