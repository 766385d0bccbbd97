"""The contract of a run store: runs outlive attempts that failed and workers that are gone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from time import monotonic

from orchestrator.runs.activity import ActivityStatus
from orchestrator.runs.model import Request, RunStatus
from orchestrator.runs.store import Absent, Outcome
from tests.runs import DONE, ME, OTHER, Stage, note


class TestSuspending:
    async def test_a_suspended_run_wakes_when_its_time_has_come(self, stage: Stage) -> None:
        due = await stage.ended(await stage.running(), Outcome(RunStatus.SUSPENDED, retry_after_s=0, failed=True))
        later = await stage.ended(await stage.running(), Outcome(RunStatus.SUSPENDED, retry_after_s=3600))
        never = await stage.ended(await stage.running(), Outcome(RunStatus.SUSPENDED))
        assert (due.failures, due.completed_at, never.retry_at) == (1, None, None)
        assert later.retry_at is not None
        assert abs(later.retry_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)

        assert await stage.store.wake_due() == 1
        assert await stage.store.wake_due() == 0
        woken = await stage.again(due)
        assert (woken.status, woken.retry_at, woken.failures) == (RunStatus.PENDING, None, 1)
        assert (await stage.claimed(woken)).attempt == 2
        for run in (later, never):
            assert (await stage.again(run)).status is RunStatus.SUSPENDED


class TestReleasing:
    async def test_an_owner_that_stops_gives_everything_back(self, stage: Stage) -> None:
        mine, theirs = [await stage.running() for _ in range(3)], await stage.running(owner=OTHER)
        await stage.ended(await stage.running(), DONE)
        assert sorted(await stage.store.release_all(ME)) == sorted(run.run_id for run in mine)
        assert await stage.store.release_all(ME) == []
        for run in mine:
            back = await stage.again(run)
            assert (back.status, back.attempt, back.lease_owner) == (RunStatus.PENDING, 1, None)
        assert (await stage.again(theirs)).status is RunStatus.RUNNING
        assert await stage.ended(mine[0], DONE) == await stage.again(mine[0])
        assert (await stage.again(mine[0])).status is RunStatus.PENDING

    async def test_what_was_under_way_is_interrupted(self, stage: Stage) -> None:
        run, other = await stage.running(), await stage.running(owner=OTHER)
        done = note(run, "1", "one", began_s=9, status=ActivityStatus.COMPLETED, ended=monotonic() - 8)
        await stage.record([done, note(run, "2", "two"), note(other, "1", "one")])
        await stage.store.release_all(ME)
        one, two = await stage.store.activities(run.run_id)
        assert (one.status, two.status) == (ActivityStatus.COMPLETED, ActivityStatus.INTERRUPTED)
        assert two.ended_at is not None
        [theirs] = await stage.store.activities(other.run_id)
        assert (theirs.status, theirs.ended_at) == (ActivityStatus.RUNNING, None)

    async def test_what_was_asked_of_a_run_stays_asked(self, stage: Stage) -> None:
        run = await stage.running()
        await stage.store.pause(run.run_id)
        await stage.store.release_all(ME)
        [claimed] = await stage.store.claim_next(OTHER, ["w"], limit=1)
        assert claimed.requested is Request.PAUSE


class TestTakingOver:
    async def test_an_owner_is_absent_when_it_is_gone_and_not_before(self, stage: Stage) -> None:
        await stage.appear(OTHER)
        run, queued = await stage.running(owner=OTHER), await stage.create()
        assert await stage.store.absent_owners(ME) == []
        assert await stage.store.take_over(Absent(OTHER, "lock")) == []
        absent = await stage.vanish(OTHER)
        assert await stage.store.absent_owners(ME) == [absent]
        [taken] = await stage.store.take_over(absent)
        assert (taken.run_id, taken.status, taken.attempt, taken.epoch) == (run.run_id, RunStatus.PENDING, 1, 2)
        assert (taken.losses, taken.failures, taken.lease_owner, taken.lease_until) == (1, 0, None, None)
        assert await stage.again(run) == taken
        assert (await stage.again(queued)).epoch == 0
        assert await stage.store.absent_owners(ME) == []
        assert (await stage.claimed(taken)).epoch == 3

    async def test_an_owner_whose_leases_have_lapsed_is_absent_too(self, stage: Stage) -> None:
        await stage.appear(OTHER)
        run = await stage.running(owner=OTHER)
        assert await stage.store.take_over(Absent(OTHER, "lease")) == []
        absent = await stage.lapse(OTHER)
        assert await stage.store.absent_owners(ME) == [absent]
        [taken] = await stage.store.take_over(absent)
        assert (taken.run_id, taken.status, taken.losses) == (run.run_id, RunStatus.PENDING, 1)
        assert await stage.store.finish(run, DONE) is None

    async def test_nobody_is_absent_in_its_own_eyes(self, stage: Stage) -> None:
        await stage.running(owner=OTHER)
        await stage.vanish(OTHER)
        assert await stage.store.absent_owners(OTHER) == []

    async def test_what_nobody_drives_is_not_taken(self, stage: Stage) -> None:
        for status in sorted(set(RunStatus) - {RunStatus.RUNNING}):
            await stage.at(status)
        absent = await stage.vanish(ME)
        assert await stage.store.absent_owners(OTHER) == []
        assert await stage.store.take_over(absent) == []

    async def test_two_who_take_over_share_nothing(self, stage: Stage) -> None:
        runs = [await stage.running(owner=OTHER) for _ in range(5)]
        absent = await stage.vanish(OTHER)
        one, two = await asyncio.gather(*(stage.store.take_over(absent) for _ in range(2)))
        rest = await stage.store.take_over(absent)
        assert sorted(run.run_id for run in (*one, *two, *rest)) == [run.run_id for run in runs]

    async def test_a_run_that_loses_every_worker_fails(self, stage: Stage) -> None:
        run = await stage.running(owner=OTHER, max_attempts=2)
        [taken] = await stage.store.take_over(await stage.vanish(OTHER))
        assert taken.status is RunStatus.PENDING
        second = await stage.claimed(taken, OTHER + 1)
        await stage.record([note(second, "1", "two")])
        [failed] = await stage.store.take_over(await stage.vanish(OTHER + 1))
        assert (failed.status, failed.lease_owner, failed.losses) == (RunStatus.FAILED, None, 2)
        message = "the worker was lost 2 times (last in activity two); see RUN_MAX_ATTEMPTS"
        assert failed.error == {"type": "AttemptsExhaustedError", "message": message}
        assert failed.completed_at is not None
        assert await stage.again(run) == failed
        resumed = await stage.store.resume(run.run_id)
        assert (resumed.status, resumed.losses, resumed.error) == (RunStatus.PENDING, 0, None)

    async def test_a_run_that_has_failed_is_asked_nothing_more(self, stage: Stage) -> None:
        run = await stage.running(owner=OTHER, max_attempts=1)
        await stage.store.pause(run.run_id)
        [failed] = await stage.store.take_over(await stage.vanish(OTHER))
        assert (failed.status, failed.requested) == (RunStatus.FAILED, None)

    async def test_attempts_that_raised_or_were_handed_back_lost_nobody(self, stage: Stage) -> None:
        run, error = await stage.running(owner=OTHER, max_attempts=2), {"type": "ValueError", "message": "no"}
        for _ in range(3):
            await stage.ended(run, Outcome(RunStatus.SUSPENDED, error=error, retry_after_s=0, failed=True))
            assert await stage.store.wake_due() == 1
            run = await stage.claimed(await stage.again(run), OTHER)
        [taken] = await stage.store.take_over(await stage.vanish(OTHER))
        assert taken.error == error
        assert (taken.status, taken.failures, taken.losses) == (RunStatus.PENDING, 3, 1)

    async def test_what_was_asked_of_a_run_stays_asked(self, stage: Stage) -> None:
        run = await stage.running(owner=OTHER)
        await stage.store.pause(run.run_id)
        [taken] = await stage.store.take_over(await stage.vanish(OTHER))
        assert taken.requested is Request.PAUSE
