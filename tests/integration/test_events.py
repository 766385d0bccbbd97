"""The contract of a run store: events, numbered per run from 1 without gaps."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator.runs.activity import ActivityStatus
from orchestrator.runs.events import Event, NewEvent, RunNotes
from orchestrator.runs.model import Run, RunStatus, new_run_id
from orchestrator.runs.signals import NewSignal
from orchestrator.runs.store import Outcome
from tests.runs import DONE, HAND_BACK, ME, OTHER, Stage, new, note, wait_for

ODD = "a\x00b \ud800 \U0001f600"
HUGE = 10**30


def _custom(*payloads: Any) -> list[NewEvent]:
    return [NewEvent("custom", {"payload": payload}) for payload in payloads]


def _told(run: Run, mark: int, *payloads: Any, **more: Any) -> RunNotes:
    return RunNotes(run.run_id, run.epoch, events=_custom(*payloads), mark=mark, **more)


async def _events(stage: Stage, run: Run) -> list[Event]:
    """All of a run's events, read a row at a time; fails where a number is missing or is there twice."""
    events: list[Event] = []
    while more := await stage.store.events_after(run.run_id, events[-1].number if events else 0, limit=1):
        events += more
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert {event.run_id for event in events} == {run.run_id}
    assert await stage.store.events_after(run.run_id, 0, limit=10_000) == events
    return events


async def _states(stage: Stage, run: Run) -> list[str]:
    return [event.data["status"] for event in await _events(stage, run) if event.kind == "state"]


async def _payloads(stage: Stage, run: Run) -> list[Any]:
    return [event.data["payload"] for event in await _events(stage, run) if event.kind == "custom"]


class TestStates:
    async def test_created_claimed_completed(self, stage: Stage) -> None:
        before = datetime.now(UTC)
        run = await stage.running()
        await stage.ended(run, DONE)
        events = await _events(stage, run)
        assert [(event.kind, event.data) for event in events] == [
            ("state", {"status": "pending", "attempt": 0}),
            ("state", {"status": "running", "attempt": 1}),
            ("state", {"status": "completed", "attempt": 1}),
        ]
        assert [event.at for event in events] == sorted(event.at for event in events)
        # Not another zone's.
        assert abs(events[0].at - before) < timedelta(minutes=15)
        assert events[0].at.tzinfo is UTC

    async def test_one_that_begins_with_its_creation(self, stage: Stage) -> None:
        run = (await stage.store.create(new(), owner=ME)).run
        assert (await _states(stage, run))[-1] == "running"

    @pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.SUSPENDED])
    async def test_an_error_is_its_type_and_message(self, stage: Stage, status: RunStatus) -> None:
        run = await stage.running()
        error = {"type": "ValueError", "message": ODD, "traceback": "secret places"}
        await stage.ended(run, Outcome(status, error=error, current_activity="one", retry_after_s=60))
        data = (await _events(stage, run))[-1].data
        assert data["error"] == {"type": "ValueError", "message": ODD}
        assert (data["status"], data["activity"], "retryAt" in data) == (status, "one", status == "suspended")

    async def test_paused_resumed_and_retried(self, stage: Stage) -> None:
        run = await stage.at(RunStatus.PAUSED)
        await stage.store.resume(run.run_id)
        again = await stage.claimed(await stage.again(run))
        await stage.ended(again, Outcome(RunStatus.SUSPENDED, retry_after_s=0))
        assert await stage.store.wake_due() == 1
        third = await stage.claimed(await stage.again(run))
        await stage.ended(third, HAND_BACK)
        assert await _states(stage, run) == (
            ["pending", "running", "paused", "pending", "running", "suspended", "pending", "running", "pending"]
        )
        assert [event.data["attempt"] for event in await _events(stage, run)] == [0, 1, 1, 1, 2, 2, 2, 3, 3]

    async def test_a_suspended_run_is_paused_and_cancelled(self, stage: Stage) -> None:
        run = await stage.at(RunStatus.SUSPENDED)
        await stage.store.pause(run.run_id)
        for _ in range(2):
            await stage.store.cancel(run.run_id)
        assert (await _states(stage, run))[2:] == ["suspended", "paused", "cancelled"]

    async def test_waiting_then_signalled(self, stage: Stage) -> None:
        run = await stage.waiting("a")
        await stage.store.send_signal(run.run_id, NewSignal("other", 1))
        await stage.store.send_signal(run.run_id, NewSignal("a", 2, "k"))
        await stage.store.send_signal(run.run_id, NewSignal("a", 2, "k"))
        events = await _events(stage, run)
        assert [event.kind for event in events] == ["state"] * 3 + ["signal"] * 2 + ["state"]
        [wait] = events[2].data["waitingFor"]
        assert (events[2].data["status"], wait["signal"]) == ("waiting", "a")
        assert [(event.data["name"], event.data.get("key")) for event in events[3:5]] == [("other", None), ("a", "k")]
        assert events[5].data["status"] == "pending"

    async def test_what_is_asked_and_not_done_yet_is_no_event(self, stage: Stage) -> None:
        run = await stage.running()
        await stage.store.pause(run.run_id)
        await stage.store.resume(run.run_id)
        assert await _states(stage, run) == ["pending", "running"]

    async def test_resumed_after_it_failed(self, stage: Stage) -> None:
        run = await stage.at(RunStatus.FAILED)
        await stage.store.resume(run.run_id, NewSignal("resume", {"a": 1}, "k"))
        events = await _events(stage, run)
        assert [event.data.get("status") for event in events] == ["pending", "running", "failed", None, "pending"]
        assert "error" not in events[-1].data

    async def test_taken_over_and_handed_back(self, stage: Stage) -> None:
        run = await stage.running(owner=OTHER, max_attempts=2)
        [taken] = await stage.store.take_over(await stage.vanish(OTHER))
        await stage.claimed(taken)
        await stage.store.release_all(ME)
        assert await _states(stage, run) == ["pending", "running", "pending", "running", "pending"]

    async def test_one_that_lost_every_worker(self, stage: Stage) -> None:
        run = await stage.running(owner=OTHER, max_attempts=1)
        await stage.store.take_over(await stage.vanish(OTHER))
        last = (await _events(stage, run))[-1].data
        assert (last["status"], last["error"]["type"]) == ("failed", "AttemptsExhaustedError")

    async def test_one_that_makes_way(self, stage: Stage) -> None:
        running, queued = await stage.running("t"), await stage.create("t")
        await stage.store.create(new("t"), if_busy="interrupt")
        await stage.store.finish(running, wait_for("a"))
        for run in (running, queued):
            last = (await _events(stage, run))[-1].data
            assert (last["status"], last["error"]["type"]) == ("cancelled", "SupersededError")
            assert "waitingFor" not in last


class TestTold:
    async def test_they_are_numbered_after_what_is_there(self, stage: Stage) -> None:
        run, other = await stage.running(), await stage.running()
        await stage.store.record([_told(run, 1, "a", "b"), _told(other, 1, "x")])
        await stage.store.send_signal(run.run_id, NewSignal("s"))
        await stage.store.record([_told(run, 2, "c")])
        await stage.store.finish(run, DONE, _told(run, 3, "d", "e"))
        kinds = [event.kind for event in await _events(stage, run)]
        assert kinds == ["state"] * 2 + ["custom"] * 2 + ["signal"] + ["custom"] * 3 + ["state"]
        assert await _payloads(stage, run) == ["a", "b", "c", "d", "e"]
        assert await _payloads(stage, other) == ["x"]

    async def test_the_same_mark_is_written_once(self, stage: Stage) -> None:
        run = await stage.running()
        for _ in range(2):
            await stage.store.record([_told(run, 1, "a")])
        await stage.store.send_signal(run.run_id, NewSignal("s"))
        await stage.store.record([_told(run, 1, "a")])
        await stage.store.record([_told(run, 2, "b")])
        for _ in range(2):
            assert await stage.store.finish(run, DONE, _told(run, 3, "c")) is not None
        assert await _payloads(stage, run) == ["a", "b", "c"]
        assert len(await _events(stage, run)) == 7

    async def test_marks_begin_anew_with_an_attempt(self, stage: Stage) -> None:
        run = await stage.running()
        await stage.store.record([_told(run, 1, "a")])
        again = await stage.claimed(await stage.ended(run, HAND_BACK))
        await stage.store.record([_told(again, 1, "b")])
        assert await _payloads(stage, run) == ["a", "b"]

    async def test_those_of_a_stale_epoch_are_dropped(self, stage: Stage) -> None:
        run, over = await stage.running(owner=OTHER), await stage.running()
        await stage.ended(over, DONE)
        await stage.store.record([_told(over, 1, "late"), _told(replace(run, run_id=new_run_id()), 1, "whose?")])
        await stage.store.record([_told(run, 1, "in time")])
        [taken] = await stage.store.take_over(await stage.vanish(OTHER))
        current = await stage.claimed(taken)
        await stage.store.record([_told(run, 2, "late")])
        assert await stage.store.finish(run, DONE, _told(run, 3, "late")) is None
        await stage.store.record([_told(current, 1, "new")])
        assert await _payloads(stage, run) == ["in time", "new"]
        assert await _payloads(stage, over) == []

    async def test_many_at_the_same_time(self, stage: Stage) -> None:
        """Records, ends and signals of many runs, in the same batches."""
        runs = [await stage.running() for _ in range(20)]

        async def go(run: Run) -> None:
            for mark in range(1, 6):
                sent = stage.store.send_signal(run.run_id, NewSignal("s", mark, f"k{mark}"))
                await asyncio.gather(stage.store.record([_told(run, mark, mark, -mark)]), sent)
            await stage.store.finish(run, DONE, _told(run, 6, "last"))

        await asyncio.gather(*map(go, runs))
        for run in runs:
            assert await _payloads(stage, run) == [*(sign * n for n in range(1, 6) for sign in (1, -1)), "last"]
            assert (await _states(stage, run))[-1] == "completed"

    async def test_a_record_and_a_finish_of_one_run_in_one_batch(self, stage: Stage) -> None:
        """Whichever is first: what goes with the end is there, and no number is missing."""
        run = await stage.running()
        record = stage.store.record([_told(run, 1, "beside")])
        await asyncio.gather(record, stage.store.finish(run, DONE, _told(run, 2, "last")))
        assert await _payloads(stage, run) in (["beside", "last"], ["last"])
        assert (await _states(stage, run))[-1] == "completed"

    @pytest.mark.parametrize("payload", [ODD, [ODD, {ODD: HUGE}], HUGE, -1.5, True, [None], {"a": {"b": []}}])
    async def test_every_payload_comes_back(self, stage: Stage, payload: Any) -> None:
        run = await stage.running()
        await stage.store.record([_told(run, 1, payload)])
        await stage.store.finish(run, DONE, _told(run, 2, payload))
        assert await _payloads(stage, run) == [payload, payload]

    async def test_a_payload_may_be_null(self, stage: Stage) -> None:
        run = await stage.running()
        await stage.store.record([_told(run, 1, None)])
        assert await _payloads(stage, run) == [None]

    async def test_activities_and_events_go_together(self, stage: Stage) -> None:
        run = await stage.running()
        begun = note(run, "1", "one", status=ActivityStatus.FAILED, error="no")
        await stage.store.record([_told(run, 1, "a", notes=[begun])])
        [activity] = await stage.store.activities(run.run_id)
        assert (activity.activity, await _payloads(stage, run)) == ("one", ["a"])

    async def test_their_time_is_when_they_happened(self, stage: Stage) -> None:
        run = await stage.running()
        events = _custom("old", "new")
        events[0].at = events[1].at - 7
        await stage.store.record([RunNotes(run.run_id, run.epoch, events=events, mark=1)])
        old, recent = (await _events(stage, run))[-2:]
        assert timedelta(seconds=6.5) < recent.at - old.at < timedelta(seconds=7.5)


async def _after(stage: Stage, run: Run, numbers: Sequence[int]) -> list[list[int]]:
    return [[event.number for event in await stage.store.events_after(run.run_id, number)] for number in numbers]


async def test_events_after_a_number_in_the_middle_of_a_batch(stage: Stage) -> None:
    run = await stage.running()
    await stage.store.record([_told(run, 1, *range(5))])
    assert await _after(stage, run, [0, 4, 6, 7, 99]) == [[1, 2, 3, 4, 5, 6, 7], [5, 6, 7], [7], [], []]
    assert await stage.store.events_after(new_run_id(), 0) == []
