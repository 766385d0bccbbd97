"""The contract of a run store: what people ask of runs."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import AsyncMock

import pytest

from orchestrator.errors import (
    DatabaseUnavailableError,
    IllegalTransitionError,
    InvalidRequestError,
    ThreadBusyError,
    ThreadMovedOnError,
)
from orchestrator.runs.activity import ActivityStatus
from orchestrator.runs.model import CHILDREN_SIGNAL, FINAL, UNFINISHED, Request, RunStatus
from orchestrator.runs.postgres import PostgresRunStore
from orchestrator.runs.signals import RESUME_SIGNAL, NewSignal
from orchestrator.runs.store import Created, IfBusy, Outcome
from tests.runs import DONE, HAND_BACK, ME, Stage, new, note, wait_for

OVER = sorted(FINAL)


class TestBusyThreads:
    async def test_enqueue_waits_for_its_turn(self, stage: Stage) -> None:
        run = await stage.running("t")
        queued = await stage.create("t")
        assert await stage.store.claim(queued, ME) is None
        assert (await stage.again(run)).requested is None

    @pytest.mark.parametrize("status", sorted(UNFINISHED))
    async def test_reject_refuses_a_busy_thread(self, stage: Stage, status: RunStatus) -> None:
        run = await stage.at(status, "t")
        with pytest.raises(ThreadBusyError, match=run.run_id):
            await stage.store.create(new("t"), if_busy="reject")
        assert (await stage.store.create(new("t", organization_id="acme"), if_busy="reject")).is_new
        await stage.store.cancel(run.run_id)
        assert (await stage.store.create(new("t"), if_busy="reject")).is_new

    @pytest.mark.parametrize("if_busy", ["reject", "interrupt"])
    async def test_a_repeated_request_finds_its_run_on_the_thread_it_made_busy(
        self, stage: Stage, if_busy: IfBusy
    ) -> None:
        run = await stage.running("t", idempotency_key="k")
        again = await stage.store.create(new("t", idempotency_key="k"), if_busy=if_busy)
        assert again == Created(run, is_new=False)

    async def test_of_many_that_reject_on_one_thread_one_gets_it(self, stage: Stage) -> None:
        calls = [stage.store.create(new("t"), if_busy="reject") for _ in range(10)]
        made = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, ThreadBusyError) for result in made) == 9

    @pytest.mark.parametrize("status", sorted(UNFINISHED - {RunStatus.RUNNING}))
    async def test_interrupt_cancels_what_is_not_running(self, stage: Stage, status: RunStatus) -> None:
        resting, queued, elsewhere = await stage.at(status, "t"), await stage.create("t"), await stage.create("u")
        by = (await stage.store.create(new("t"), if_busy="interrupt")).run
        for run in (resting, queued):
            ended = await stage.again(run)
            assert (ended.status, ended.requested) == (RunStatus.CANCELLED, None)
            message = f"run {by.run_id} took over the thread"
            assert ended.error == {"type": "SupersededError", "message": message}
            assert ended.completed_at is not None
        assert (await stage.again(elsewhere)).status is RunStatus.PENDING
        assert (await stage.claimed(by)).run_id == by.run_id

    async def test_an_interrupt_that_did_not_get_through_may_be_sent_again(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run, by = await stage.at(RunStatus.PAUSED, "t"), new("t")
        if isinstance(stage.store, PostgresRunStore):
            with monkeypatch.context() as patch:
                patch.setattr(stage.store, "_supersede", AsyncMock(side_effect=DatabaseUnavailableError))
                with pytest.raises(DatabaseUnavailableError):
                    await stage.store.create(by, if_busy="interrupt")
        for _ in range(2):
            assert (await stage.store.create(by, if_busy="interrupt")).is_new
            assert (await stage.again(run)).status is RunStatus.CANCELLED

    async def test_interrupt_has_a_running_run_make_way_at_its_next_checkpoint(self, stage: Stage) -> None:
        run = await stage.running("t")
        by = (await stage.store.create(new("t"), if_busy="interrupt")).run
        asked = await stage.again(run)
        assert (asked.status, asked.requested, asked.epoch) == (RunStatus.RUNNING, Request.SUPERSEDE, run.epoch)
        assert await stage.store.claim(by, ME) is None
        await stage.store.pause(run.run_id)
        assert (await stage.again(run)).requested is Request.SUPERSEDE
        with pytest.raises(IllegalTransitionError):
            await stage.store.resume(run.run_id)
        ended = await stage.ended(run, Outcome(RunStatus.CANCELLED))
        assert (ended.status, ended.requested) == (RunStatus.CANCELLED, None)
        await stage.claimed(by)


class TestPausing:
    @pytest.mark.parametrize("status", [RunStatus.PENDING, RunStatus.RUNNING])
    async def test_an_unfinished_run_is_asked(self, stage: Stage, status: RunStatus) -> None:
        run = await stage.at(status)
        for _ in range(2):
            asked = await stage.store.pause(run.run_id)
            assert (asked.status, asked.requested, asked.epoch) == (status, Request.PAUSE, run.epoch)
        assert (await stage.again(run)).requested is Request.PAUSE
        if status is RunStatus.PENDING:
            assert (await stage.claimed(run)).requested is Request.PAUSE

    async def test_it_is_asked_once(self, stage: Stage) -> None:
        run = await stage.running()
        assert await stage.store.pause(run.run_id) == await stage.store.pause(run.run_id)

    async def test_a_suspended_run_rests_at_once(self, stage: Stage) -> None:
        run = await stage.ended(await stage.running(), Outcome(RunStatus.SUSPENDED, retry_after_s=0))
        for _ in range(2):
            paused = await stage.store.pause(run.run_id)
            assert (paused.status, paused.requested, paused.retry_at) == (RunStatus.PAUSED, None, None)
        assert await stage.store.wake_due() == 0

    @pytest.mark.parametrize("status", [RunStatus.WAITING, *OVER])
    async def test_any_other_is_refused(self, stage: Stage, status: RunStatus) -> None:
        run = await stage.at(status)
        with pytest.raises(IllegalTransitionError, match=f"{status} can't become paused"):
            await stage.store.pause(run.run_id)
        assert await stage.again(run) == run

    @pytest.mark.parametrize("asked", ["before it waits", "while it waits"])
    @pytest.mark.parametrize("signal", ["step:1", CHILDREN_SIGNAL])
    async def test_a_run_that_goes_on_by_itself_stops_then(self, stage: Stage, asked: str, signal: str) -> None:
        run = await stage.running()
        if asked == "before it waits":
            await stage.store.pause(run.run_id)
        waiting = await stage.ended(run, wait_for(signal))
        if asked == "while it waits":
            waiting = await stage.store.pause(run.run_id)
        assert (waiting.status, waiting.requested) == (RunStatus.WAITING, Request.PAUSE)
        assert await stage.again(run) == waiting
        free = await stage.store.send_signal(run.run_id, NewSignal(signal, {"x": 1}))
        assert (free.status, free.requested) == (RunStatus.PENDING, Request.PAUSE)
        claimed = await stage.claimed(free)
        assert claimed.requested is Request.PAUSE
        paused = await stage.ended(claimed, Outcome(RunStatus.PAUSED))
        assert (paused.status, paused.requested) == (RunStatus.PAUSED, None)

    async def test_a_pause_is_taken_back_while_the_run_waits_for_its_step(self, stage: Stage) -> None:
        run = await stage.ended(await stage.running(), wait_for("step:1"))
        await stage.store.pause(run.run_id)
        resumed = await stage.store.resume(run.run_id)
        assert (resumed.status, resumed.requested) == (RunStatus.WAITING, None)
        with pytest.raises(IllegalTransitionError):
            await stage.store.resume(run.run_id)


class TestResuming:
    @pytest.mark.parametrize("status", [RunStatus.PENDING, RunStatus.RUNNING])
    async def test_a_pause_that_was_asked_for_is_taken_back(self, stage: Stage, status: RunStatus) -> None:
        run = await stage.at(status)
        with pytest.raises(IllegalTransitionError, match=f"{status} can't become pending"):
            await stage.store.resume(run.run_id)
        await stage.store.pause(run.run_id)
        resumed = await stage.store.resume(run.run_id)
        assert (resumed.status, resumed.requested, resumed.epoch) == (status, None, run.epoch)
        with pytest.raises(IllegalTransitionError):
            await stage.store.resume(run.run_id)

    @pytest.mark.parametrize("payload", [None, {"x": 1}])
    async def test_what_comes_with_a_pause_taken_back_is_kept(self, stage: Stage, payload: Any) -> None:
        run = await stage.running()
        await stage.store.pause(run.run_id)
        resumed = await stage.store.resume(run.run_id, NewSignal(RESUME_SIGNAL, payload, key="k"))
        assert await stage.again(run) == resumed
        kept = await stage.store.signals(run.run_id)
        assert resumed.signal_count == len(kept)
        assert [(each.payload, each.key, each.interrupt_id) for each in kept] == (
            [] if payload is None else [(payload, "k", None)]
        )

    @pytest.mark.parametrize("status", sorted(RunStatus))
    async def test_under_a_key_that_was_seen_nothing_is_done(self, stage: Stage, status: RunStatus) -> None:
        sent = await stage.store.send_signal((await stage.create()).run_id, NewSignal("a", 1, key="k"))
        run = await stage.brought(sent, status)
        assert run.status is status
        assert await stage.store.resume(run.run_id, NewSignal(RESUME_SIGNAL, 2, key="k")) == run
        assert await stage.again(run) == run
        assert len(await stage.store.signals(run.run_id)) == 1

    async def test_a_pause_stays_asked_under_a_key_that_was_seen(self, stage: Stage) -> None:
        run = await stage.running()
        await stage.store.send_signal(run.run_id, NewSignal("a", 1, key="k"))
        asked = await stage.store.pause(run.run_id)
        assert await stage.store.resume(run.run_id, NewSignal(RESUME_SIGNAL, 1, key="k")) == asked

    @pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.CANCELLED])
    async def test_what_is_over_is_refused(self, stage: Stage, status: RunStatus) -> None:
        run = await stage.at(status)
        with pytest.raises(IllegalTransitionError, match=f"{status} can't become pending"):
            await stage.store.resume(run.run_id, NewSignal(RESUME_SIGNAL, 1))
        assert await stage.again(run) == run
        assert await stage.store.signals(run.run_id) == []

    @pytest.mark.parametrize("status", [RunStatus.PAUSED, RunStatus.SUSPENDED, RunStatus.FAILED])
    @pytest.mark.parametrize("payload", [None, {"x": 1}])
    async def test_a_run_that_rests_goes_on(self, stage: Stage, status: RunStatus, payload: Any) -> None:
        run = await stage.at(status)
        resumed = await stage.store.resume(run.run_id, NewSignal(RESUME_SIGNAL, payload))
        assert (resumed.status, resumed.retry_at, resumed.completed_at) == (RunStatus.PENDING, None, None)
        kept = await stage.store.signals(run.run_id)
        assert [(each.payload, each.interrupt_id, each.delivered_at) for each in kept] == (
            [] if payload is None else [(payload, None, None)]
        )
        assert resumed.signal_count == len(kept)
        assert (await stage.claimed(resumed)).attempt == 2

    async def test_a_failed_run_starts_counting_anew(self, stage: Stage) -> None:
        error = {"type": "ValueError", "message": "no"}
        run = await stage.running()
        await stage.ended(run, Outcome(RunStatus.FAILED, error=error, failed=True, last_checkpoint_id="c3"))
        resumed = await stage.store.resume(run.run_id)
        assert (resumed.failures, resumed.losses, resumed.error, resumed.completed_at) == (0, 0, None, None)
        assert (resumed.last_checkpoint_id, resumed.attempt, resumed.lease_owner) == ("c3", 1, None)

    @pytest.mark.parametrize("status", sorted(set(RunStatus) - {RunStatus.PENDING}))
    async def test_a_failed_run_whose_thread_went_on_does_not(self, stage: Stage, status: RunStatus) -> None:
        failed = await stage.at(RunStatus.FAILED, "t")
        other = await stage.at(status, "t")
        for signal in (None, NewSignal(RESUME_SIGNAL, 1, key="k")):
            with pytest.raises(ThreadMovedOnError, match=rf"{failed.run_id}.*{other.run_id}"):
                await stage.store.resume(failed.run_id, signal)
        assert await stage.again(failed) == failed
        assert await stage.store.signals(failed.run_id) == []
        assert await stage.again(other) == other

    async def test_of_failed_runs_of_a_thread_the_last_one_goes_on(self, stage: Stage) -> None:
        first, last = await stage.at(RunStatus.FAILED, "t"), await stage.at(RunStatus.FAILED, "t")
        await stage.running("t", organization_id="acme")
        with pytest.raises(ThreadMovedOnError):
            await stage.store.resume(first.run_id)
        assert (await stage.store.resume(last.run_id)).status is RunStatus.PENDING

    async def test_a_failed_run_goes_before_those_that_queue_behind_it(self, stage: Stage) -> None:
        failed = await stage.at(RunStatus.FAILED, "t")
        queued = await stage.create("t")
        await stage.backdate(queued)
        resumed = await stage.store.resume(failed.run_id)
        assert await stage.store.claim(queued, ME) is None
        await stage.ended(await stage.claimed(resumed), DONE)
        await stage.claimed(await stage.again(queued))

    @pytest.mark.parametrize("payload", [None, "yes", {"i1": 1}, [1]])
    async def test_one_interrupt_is_answered_with_the_payload(self, stage: Stage, payload: Any) -> None:
        run = await stage.waiting("a")
        resumed = await stage.store.resume(run.run_id, NewSignal(RESUME_SIGNAL, payload))
        assert (resumed.status, resumed.awaiting) == (RunStatus.PENDING, None)
        [answer] = await stage.store.signals(run.run_id)
        assert (answer.name, answer.payload, answer.interrupt_id) == (RESUME_SIGNAL, payload, "i1")
        assert answer.delivered_at is not None

    async def test_without_a_signal_the_answer_is_none(self, stage: Stage) -> None:
        run = await stage.waiting("a")
        await stage.store.resume(run.run_id)
        assert [(each.payload, each.interrupt_id) for each in await stage.store.signals(run.run_id)] == [(None, "i1")]

    async def test_several_interrupts_are_answered_by_their_ids(self, stage: Stage) -> None:
        run = await stage.waiting("a", "b", "*")
        for payload in (None, "yes", {}, {"i9": 1}):
            with pytest.raises(InvalidRequestError, match="waits for 3 answers"):
                await stage.store.resume(run.run_id, NewSignal(RESUME_SIGNAL, payload))
        assert await stage.again(run) == run
        assert await stage.store.signals(run.run_id) == []
        resumed = await stage.store.resume(run.run_id, NewSignal(RESUME_SIGNAL, {"i3": None, "i1": "x"}))
        assert resumed.status is RunStatus.PENDING
        kept = {each.interrupt_id: each.payload for each in await stage.store.signals(run.run_id)}
        assert kept == {"i1": "x", "i3": None}

    async def test_the_first_answer_keeps_the_key(self, stage: Stage) -> None:
        run = await stage.waiting("a", "b")
        # A key is whatever its sender makes of it: none that is made up here could be another's.
        await stage.store.send_signal(run.run_id, NewSignal("c", 0, key="k 1"))
        answer = NewSignal(RESUME_SIGNAL, {"i1": "x", "i2": "y"}, key="k")
        resumed = await stage.store.resume(run.run_id, answer)
        assert (resumed.status, resumed.signal_count) == (RunStatus.PENDING, 3)
        assert await stage.store.resume(run.run_id, answer) == resumed
        _, *answers = await stage.store.signals(run.run_id)
        assert [(each.interrupt_id, each.key) for each in answers] == [("i1", "k"), ("i2", None)]

    async def test_at_a_breakpoint_the_checkpoint_is_answered(self, stage: Stage) -> None:
        run = await stage.waiting()
        assert run.last_checkpoint_id == "c1"
        resumed = await stage.store.resume(run.run_id, NewSignal(RESUME_SIGNAL, "x", key="k"))
        assert resumed.status is RunStatus.PENDING
        [answer] = await stage.store.signals(run.run_id)
        assert (answer.name, answer.payload, answer.interrupt_id) == (RESUME_SIGNAL, "x", "c1")
        assert (answer.key, answer.delivered_at is not None) == ("k", True)

    async def test_a_run_that_waits_nowhere_goes_on_all_the_same(self, stage: Stage) -> None:
        run = await stage.at(RunStatus.WAITING)
        assert (await stage.store.resume(run.run_id)).status is RunStatus.PENDING
        assert await stage.store.signals(run.run_id) == []

    async def test_a_resumed_run_goes_before_younger_ones_of_its_thread(self, stage: Stage) -> None:
        run = await stage.waiting("a", thread_id="t")
        queued = await stage.create("t")
        resumed = await stage.store.resume(run.run_id)
        assert await stage.store.claim(queued, ME) is None
        claimed = await stage.claimed(resumed)
        assert (claimed.attempt, claimed.epoch) == (2, 2)


class TestCancelling:
    @pytest.mark.parametrize("status", [*sorted(UNFINISHED), RunStatus.CANCELLED])
    async def test_an_unfinished_run_ends_at_once(self, stage: Stage, status: RunStatus) -> None:
        run = await stage.at(status)
        cancelled = await stage.store.cancel(run.run_id)
        assert (cancelled.status, cancelled.lease_owner, cancelled.lease_until) == (RunStatus.CANCELLED, None, None)
        assert (cancelled.requested, cancelled.awaiting, cancelled.retry_at) == (None, None, None)
        assert cancelled.completed_at is not None
        assert await stage.store.cancel(run.run_id) == cancelled
        assert await stage.store.claim(run, ME) is None
        assert await stage.store.claim_next(ME, ["w"], limit=10) == []

    @pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED])
    async def test_what_has_ended_otherwise_is_refused(self, stage: Stage, status: RunStatus) -> None:
        run = await stage.at(status)
        with pytest.raises(IllegalTransitionError, match=f"{status} can't become cancelled"):
            await stage.store.cancel(run.run_id)
        assert await stage.again(run) == run

    async def test_a_running_run_writes_nothing_more(self, stage: Stage) -> None:
        run = await stage.running("t")
        await stage.record([note(run, "1", "one")])
        cancelled = await stage.store.cancel(run.run_id)
        assert cancelled.epoch == 2
        assert await stage.store.finish(run, DONE) is None
        assert await stage.store.finish(run, Outcome(RunStatus.CANCELLED)) is None
        await stage.record([note(run, "2", "late")])
        assert not await stage.store.deliver(run, {})
        assert await stage.again(run) == cancelled
        [activity] = await stage.store.activities(run.run_id)
        assert (activity.status, activity.ended_at is not None) == (ActivityStatus.INTERRUPTED, True)
        assert (await stage.running("t")).epoch == 3

    async def test_a_queued_run_leaves_the_one_before_it_alone(self, stage: Stage) -> None:
        """The fence is the thread's: raised for the queued run, it would lock out the one that is running."""
        run, queued = await stage.running("t"), await stage.create("t")
        assert (await stage.store.cancel(queued.run_id)).epoch == queued.epoch
        back = await stage.ended(run, HAND_BACK)
        assert (await stage.store.cancel(back.run_id)).epoch == run.epoch
        assert (await stage.running("t")).epoch == run.epoch + 1
