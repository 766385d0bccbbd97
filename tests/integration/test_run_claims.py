"""The contract of a run store: who drives which run, and whose turn it is."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from orchestrator.runs.model import UNFINISHED, RunStatus, new_run_id
from orchestrator.runs.signals import RESUME_SIGNAL, NewSignal
from tests.runs import DONE, HAND_BACK, ME, OTHER, Stage

ACTIVE = sorted(UNFINISHED - {RunStatus.PENDING})


class TestClaiming:
    async def test_a_claim_raises_attempt_and_epoch_and_may_be_sent_twice(self, stage: Stage) -> None:
        run = await stage.create()
        claimed = await stage.claimed(run)
        assert (claimed.status, claimed.attempt, claimed.epoch) == (RunStatus.RUNNING, 1, 1)
        assert claimed.lease_owner == ME
        assert claimed.lease_until is not None
        assert claimed.lease_until > datetime.now(UTC)
        assert claimed.started_at is not None
        again = await stage.claimed(run)
        assert replace(again, updated_at=claimed.updated_at, lease_until=claimed.lease_until) == claimed

    async def test_the_epoch_is_the_threads(self, stage: Stage) -> None:
        for expected in (1, 2, 3):
            run = await stage.running("t")
            assert (run.attempt, run.epoch) == (1, expected)
            await stage.ended(run, DONE)
        assert (await stage.running("t", organization_id="acme")).epoch == 1

    async def test_whoever_is_first_has_the_run(self, stage: Stage) -> None:
        run = await stage.create()
        claimed = await asyncio.gather(*(stage.store.claim(run, owner) for owner in range(1, 11)))
        [winner] = [each for each in claimed if each]
        assert (await stage.again(run)).lease_owner == winner.lease_owner

    async def test_a_row_that_is_out_of_date_claims_nothing(self, stage: Stage) -> None:
        run = await stage.create()
        assert await stage.store.claim(replace(run, epoch=5), ME) is None
        assert await stage.store.claim(replace(run, attempt=1), ME) is None
        assert await stage.store.claim(replace(run, run_id=new_run_id()), ME) is None
        back = await stage.ended(await stage.claimed(run), HAND_BACK)
        assert await stage.store.claim(run, ME) is None
        assert (await stage.claimed(back, OTHER)).epoch == 2
        assert await stage.store.claim(back, ME) is None

    @pytest.mark.parametrize("status", [RunStatus.WAITING, RunStatus.SUSPENDED, RunStatus.PAUSED, RunStatus.FAILED])
    async def test_a_claim_tells_what_became_of_the_run_since_it_was_seen(
        self, stage: Stage, status: RunStatus
    ) -> None:
        run = await stage.at(status)
        await stage.store.resume(run.run_id, NewSignal(RESUME_SIGNAL, "x"))
        claimed = await stage.claimed(run)
        assert await stage.again(run) == claimed

    @pytest.mark.parametrize("status", sorted(set(RunStatus) - {RunStatus.PENDING}))
    async def test_only_a_pending_run_is_claimed(self, stage: Stage, status: RunStatus) -> None:
        assert await stage.store.claim(await stage.at(status), OTHER) is None

    async def test_runs_of_a_thread_go_one_at_a_time_and_in_order(self, stage: Stage) -> None:
        first, second, third = [await stage.create("t") for _ in range(3)]
        assert await stage.store.claim(second, ME) is None
        claimed = await stage.claimed(first)
        assert await stage.store.claim(second, ME) is None
        await stage.ended(claimed, DONE)
        assert await stage.store.claim(third, ME) is None
        assert await stage.store.claim(second, ME) is not None

    @pytest.mark.parametrize("status", ACTIVE)
    async def test_a_run_that_was_begun_keeps_its_thread_busy(self, stage: Stage, status: RunStatus) -> None:
        run = await stage.at(status, "t")
        queued = await stage.create("t")
        assert await stage.store.claim(queued, ME) is None
        assert await stage.store.claim_next(ME, ["w"], limit=10) == []
        assert await stage.store.claim(await stage.create("u"), ME) is not None
        await stage.store.cancel(run.run_id)
        assert await stage.store.claim(queued, ME) is not None

    async def test_a_run_that_was_begun_goes_before_older_ones_that_were_not(self, stage: Stage) -> None:
        run, queued = await stage.running("t"), await stage.create("t")
        await stage.backdate(queued)
        back = await stage.ended(run, HAND_BACK)
        assert await stage.store.claim(queued, ME) is None
        [claimed] = await stage.store.claim_next(ME, ["w"], limit=10)
        assert claimed.run_id == back.run_id
        await stage.ended(claimed, DONE)
        assert await stage.store.claim(queued, ME) is not None

    async def test_of_many_claims_on_a_thread_one_succeeds(self, stage: Stage) -> None:
        runs = [await stage.create("t") for _ in range(10)]
        claimed = await asyncio.gather(*(stage.store.claim(run, owner) for owner, run in enumerate(runs, 1)))
        assert [run.run_id for run in claimed if run] == [runs[0].run_id]


class TestClaimingNext:
    async def test_the_oldest_go_first_and_no_more_than_the_limit(self, stage: Stage) -> None:
        runs = [await stage.create() for _ in range(5)]
        claimed = await stage.store.claim_next(ME, ["w"], limit=3)
        assert sorted(run.run_id for run in claimed) == [run.run_id for run in runs[:3]]
        assert {(run.status, run.attempt, run.epoch, run.lease_owner) for run in claimed} == {
            (RunStatus.RUNNING, 1, 1, ME)
        }
        assert len(await stage.store.claim_next(ME, ["w"], limit=3)) == 2
        assert await stage.store.claim_next(ME, ["w"], limit=3) == []

    async def test_only_workflows_at_hand(self, stage: Stage) -> None:
        run = await stage.create(workflow_type="v")
        await stage.create(workflow_type="u")
        assert await stage.store.claim_next(ME, [], limit=10) == []
        assert [each.run_id for each in await stage.store.claim_next(ME, ["w", "v"], limit=10)] == [run.run_id]

    async def test_one_of_each_thread(self, stage: Stage) -> None:
        first, _, other = await stage.create("t"), await stage.create("t"), await stage.create("u")
        claimed = await stage.store.claim_next(ME, ["w"], limit=10)
        assert sorted(run.run_id for run in claimed) == [first.run_id, other.run_id]

    async def test_an_older_run_of_another_workflow_goes_first_on_its_thread(self, stage: Stage) -> None:
        await stage.create("t", workflow_type="v")
        await stage.create("t")
        assert await stage.store.claim_next(ME, ["w"], limit=10) == []

    async def test_two_who_claim_share_nothing(self, stage: Stage) -> None:
        runs = [await stage.create(f"t{n % 5}") for n in range(10)]
        calls = [stage.store.claim_next(owner, ["w"], limit=4) for owner in (ME, OTHER)]
        mine, theirs = await asyncio.gather(*calls)
        taken = [run.run_id for run in (*mine, *theirs)]
        assert len(set(taken)) == len(taken)
        assert set(taken) <= {run.run_id for run in runs[:5]}
        # What one leaves to the other while it is taking it is there the next time.
        rest = await stage.store.claim_next(ME, ["w"], limit=10)
        assert len(taken) + len(rest) == 5
