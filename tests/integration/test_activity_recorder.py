"""What attempts tell is written for all of them together, and one of them can't hold up the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from orchestrator import Run
from orchestrator.engine.activities import ActivityRecorder, ActivityTrail
from orchestrator.errors import DatabaseUnavailableError
from orchestrator.runs.activity import ActivityStatus
from orchestrator.runs.events import RunNotes
from orchestrator.runs.store import RunStore
from tests.runs import DONE, Stage


class _Failing:
    """A store that records nothing of one run, or nothing at all for a while."""

    def __init__(self, store: RunStore, refused: Run | None = None, *, lost_answers: int = 0) -> None:
        self._store = store
        self._refused = refused and refused.run_id
        self._lost_answers = lost_answers

    async def record(self, told: Sequence[RunNotes]) -> None:
        if self._refused in {each.run_id for each in told}:
            raise ValueError("this can't be written")
        await self._store.record(told)
        if self._lost_answers:
            self._lost_answers -= 1
            raise DatabaseUnavailableError("the answer was lost")


async def _payloads(stage: Stage, run: Run) -> list[Any]:
    return [event.data["payload"] for event in await stage.store.events_after(run.run_id, 0) if event.kind == "custom"]


async def test_what_is_refused_holds_up_nobody(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    runs = [await stage.running() for _ in range(3)]
    recorder = ActivityRecorder(cast("RunStore", _Failing(stage.store, runs[1])))
    trails = [ActivityTrail(run, recorder, ()) for run in runs]
    for trail in trails:
        trail.custom("a")
    await recorder.flush()
    for trail in trails:
        trail.custom("b")
    await recorder.flush()
    assert [await _payloads(stage, run) for run in runs] == [["a", "b"], [], ["a", "b"]]
    assert f"what run {runs[1].run_id} shows can't be written" in caplog.text
    trails[1].custom("c")
    assert await stage.store.finish(runs[1], DONE, await recorder.last(trails[1])) is not None


async def test_a_lost_answer_repeats_nothing(stage: Stage) -> None:
    run = await stage.running()
    recorder = ActivityRecorder(cast("RunStore", _Failing(stage.store, lost_answers=2)))
    trail = ActivityTrail(run, recorder, ())
    trail.custom(1)
    for number in (2, 3):
        with pytest.raises(DatabaseUnavailableError):
            await recorder.flush()
        trail.custom(number)
    await stage.store.finish(run, DONE, await recorder.last(trail))
    trail.custom("late")
    await recorder.flush()
    assert await _payloads(stage, run) == [1, 2, 3]


async def test_an_attempt_that_is_driven_anew_is_heard(stage: Stage) -> None:
    """Under the same epoch: its row was ours, and nobody here was at it."""
    run = await stage.running()
    recorder = ActivityRecorder(stage.store)
    for number in (1, 2):
        trail = ActivityTrail(run, recorder, ())
        for part in ("a", "b"):
            trail.custom([number, part])
            await recorder.flush()
    assert await _payloads(stage, run) == [[1, "a"], [1, "b"], [2, "a"], [2, "b"]]


@pytest.mark.parametrize("is_written", [False, True])
async def test_a_task_without_an_end_ends_with_its_attempt(stage: Stage, is_written: bool) -> None:
    """A call of a step that waits, or what runs beside a node that fails: LangGraph tells only that it began."""
    run = await stage.running()
    recorder = ActivityRecorder(stage.store)
    trail = ActivityTrail(run, recorder, ())
    trail.task({"id": "1", "name": "one", "triggers": ()})
    trail.task({"id": "2", "name": "two", "triggers": ()})
    if is_written:
        await recorder.flush()
    trail.task({"id": "1", "error": None, "interrupts": ()})
    await stage.store.finish(run, DONE, await recorder.last(trail))
    shown = [(each.activity, each.status) for each in await stage.store.activities(run.run_id)]
    assert sorted(shown) == [("one", ActivityStatus.COMPLETED), ("two", ActivityStatus.INTERRUPTED)]
    await recorder.flush()
    events = [each.data for each in await stage.store.events_after(run.run_id, 0) if each.kind == "activity"]
    assert [each["status"] for each in events if each["activity"] == "two"] == ["running", "interrupted"]
