"""The contract of run stores about steps, over memory and PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from orchestrator.errors import RunNotFoundError, StepNotFoundError
from orchestrator.runs.memory import MemoryRunStore
from orchestrator.runs.model import STEP_SIGNAL, Run, RunStatus, new_run_id
from orchestrator.runs.steps import NewStep, Step, StepEnd, StepStatus
from tests.runs import ME, OTHER, Stage, wait_for

COMPLETED = StepEnd(StepStatus.COMPLETED, result={"n": 1})
FAILED = StepEnd(StepStatus.FAILED, error={"type": "ValueError", "message": "no"})
RETRY = StepEnd(StepStatus.PENDING, error={"type": "OSError", "message": "later"}, retry_after_s=60.0)
HANDED_BACK = StepEnd(StepStatus.PENDING, retry_after_s=0.0, handed_back=True)


def call(run: Run, key: str = "k", **values: Any) -> NewStep:
    given: dict[str, Any] = {"name": "m:f", "arguments": {"args": [1, "\x00é"], "kwargs": {"b": [None]}}}
    return NewStep(new_run_id(), run.run_id, key, **given | values)


async def pushed(stage: Stage, run: Run | None = None, key: str = "k", **values: Any) -> Step:
    return await stage.store.push_step(call(run or await stage.running(), key, **values))


async def claimed(stage: Stage, step: Step, owner: int = ME) -> Step:
    found = await stage.store.claim_step(await stage.store.get_step(step.step_id), owner)
    assert found is not None
    return found


async def earlier(stage: Stage, step: Step, column: Literal["pushed_at", "retry_at", "lease_until"], by_s: int) -> None:
    """Let what is noted in `column` have been, or be due, so much earlier."""
    if isinstance(stage.store, MemoryRunStore):
        by = timedelta(seconds=by_s)
        if column == "pushed_at":
            stage.store._step_pushed[step.step_id] -= by
        else:
            row = stage.store._steps[step.step_id]
            stage.store._steps[step.step_id] = replace(row, retry_at=(row.retry_at or datetime.now(UTC)) - by)
        return
    await execute(
        stage,
        f"UPDATE workflow_step SET {column} = {column} - make_interval(secs => %s) WHERE step_id = %s",
        by_s,
        step.step_id,
    )


async def execute(stage: Stage, statement: str, *params: object) -> None:
    assert stage._saver is not None
    async with stage._saver.pool.connection() as conn, conn.transaction():
        await conn.execute(f"SET LOCAL search_path TO {stage._saver.schema}".encode())
        await conn.execute(statement.encode(), params)


class TestPush:
    async def test_a_call_is_kept_as_it_was_made(self, stage: Stage) -> None:
        run = await stage.running()
        new = call(run, queue="slow", priority=-3)
        step = await stage.store.push_step(new)
        assert step == Step(
            step_id=new.step_id,
            run_id=run.run_id,
            key="k",
            name="m:f",
            queue="slow",
            priority=-3,
            arguments=new.arguments,
            status=StepStatus.PENDING,
            attempt=0,
            losses=0,
        )
        assert await stage.store.get_step(step.step_id) == step
        assert not step.is_over
        assert step.signal_name == f"{STEP_SIGNAL}k"

    async def test_twice_under_one_key_is_one(self, stage: Stage) -> None:
        run = await stage.running()
        first = await pushed(stage, run)
        again, other, elsewhere = await asyncio.gather(
            pushed(stage, run, arguments={"args": [2], "kwargs": {}}),
            pushed(stage, run, "other"),
            pushed(stage, None, "k"),
        )
        assert again == first
        assert len({first.step_id, other.step_id, elsewhere.step_id}) == 3

    async def test_at_the_same_moment_it_is_one(self, stage: Stage) -> None:
        run = await stage.running()
        steps = await asyncio.gather(*(pushed(stage, run) for _ in range(8)))
        assert len({step.step_id for step in steps}) == 1

    async def test_the_one_that_is_over_is_found(self, stage: Stage) -> None:
        run = await stage.running()
        assert await stage.store.end_step(await claimed(stage, await pushed(stage, run)), COMPLETED)
        found = await pushed(stage, run)
        assert found.is_over
        assert found.result == {"n": 1}

    async def test_of_a_run_that_is_not_there(self, stage: Stage) -> None:
        run = await stage.running()
        nobody = call(replace(run, run_id=new_run_id()))
        for _ in range(2):
            with pytest.raises(RunNotFoundError):
                await stage.store.push_step(nobody)
        for unknown in (nobody.step_id, "no-uuid", ""):
            with pytest.raises(StepNotFoundError):
                await stage.store.get_step(unknown)


class TestClaim:
    async def test_of_two_owners_one_gets_it(self, stage: Stage) -> None:
        for _ in range(10):
            step = await pushed(stage)
            won = [each for each in await asyncio.gather(*(
                stage.store.claim_step(step, owner) for owner in (ME, OTHER)
            )) if each]  # fmt: skip
            assert len(won) == 1
            assert (won[0].status, won[0].attempt) == (StepStatus.RUNNING, 1)
            assert await stage.store.get_step(step.step_id) == won[0]

    async def test_what_is_over_is_nobodys(self, stage: Stage) -> None:
        for end in (COMPLETED, FAILED):
            step = await pushed(stage)
            await stage.store.end_step(await claimed(stage, step), end)
            assert await stage.store.claim_step(step, OTHER) is None
            assert await stage.store.claim_step(await stage.store.get_step(step.step_id), OTHER) is None

    async def test_what_was_seen_before_it_was_claimed_is_out_of_date(self, stage: Stage) -> None:
        step = await pushed(stage)
        await stage.store.end_step(await claimed(stage, step), StepEnd(StepStatus.PENDING, retry_after_s=0.0))
        assert await stage.store.claim_step(step, ME) is None
        assert (await claimed(stage, step, OTHER)).attempt == 2

    @pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED])
    async def test_of_a_run_that_is_over_none(self, stage: Stage, status: RunStatus) -> None:
        run = await stage.create()
        step = await pushed(stage, run)
        await stage.brought(run, status)
        assert await stage.store.claim_step(step, ME) is None
        await earlier(stage, step, "pushed_at", 60)
        assert await stage.store.due_steps(older_than_s=10) == []

    async def test_of_a_failed_run_that_is_resumed(self, stage: Stage) -> None:
        run = await stage.create()
        step = await pushed(stage, run)
        await stage.brought(run, RunStatus.FAILED)
        await stage.store.resume(run.run_id)
        await earlier(stage, step, "pushed_at", 60)
        assert [each.step_id for each in await stage.store.due_steps(older_than_s=10)] == [step.step_id]
        await claimed(stage, step)

    @pytest.mark.parametrize("status", [RunStatus.WAITING, RunStatus.PAUSED, RunStatus.SUSPENDED, RunStatus.PENDING])
    async def test_of_a_run_that_rests(self, stage: Stage, status: RunStatus) -> None:
        run = await stage.create()
        step = await pushed(stage, run)
        await stage.brought(run, status)
        await claimed(stage, step)


class TestEnd:
    @pytest.mark.parametrize("end", [COMPLETED, FAILED])
    async def test_tells_a_run_that_waits(self, stage: Stage, end: StepEnd) -> None:
        run = await stage.running()
        step = await pushed(stage, run)
        waiting = await stage.ended(run, wait_for(step.signal_name))
        assert waiting.waits_for_steps
        assert not waiting.is_settled
        assert await stage.store.end_step(await claimed(stage, step), end)
        assert (await stage.again(run)).status is RunStatus.PENDING
        [signal] = await stage.store.signals(run.run_id)
        assert (signal.name, signal.payload) == (step.signal_name, end.as_answer())
        row = await stage.store.get_step(step.step_id)
        assert (row.status, row.result, row.error) == (end.status, end.result, end.error)
        assert (row.lease_owner, row.retry_at) == (None, None)
        assert row.is_over

    async def test_tells_a_run_that_is_about_to_wait(self, stage: Stage) -> None:
        run = await stage.running()
        step = await pushed(stage, run)
        assert await stage.store.end_step(await claimed(stage, step), COMPLETED)
        assert (await stage.again(run)).status is RunStatus.RUNNING
        ended = await stage.ended(run, wait_for(step.signal_name, seen=run.signal_count))
        assert ended.status is RunStatus.PENDING

    async def test_by_a_stale_holder_changes_nothing(self, stage: Stage) -> None:
        step = await pushed(stage)
        mine = await claimed(stage, step)
        others = [replace(mine, lease_owner=OTHER), replace(mine, attempt=2), replace(mine, attempt=0)]
        for stale in others:
            assert not await stage.store.end_step(stale, COMPLETED)
        assert await stage.store.get_step(step.step_id) == mine
        assert await stage.store.signals(step.run_id) == []

    async def test_sent_twice_answers_the_same(self, stage: Stage) -> None:
        for end in (COMPLETED, FAILED, RETRY, HANDED_BACK):
            mine = await claimed(stage, await pushed(stage))
            assert await stage.store.end_step(mine, end)
            assert await stage.store.end_step(mine, end)
            assert len(await stage.store.signals(mine.run_id)) == int(end in (COMPLETED, FAILED))

    async def test_a_second_end_that_is_another(self, stage: Stage) -> None:
        mine = await claimed(stage, await pushed(stage))
        assert await stage.store.end_step(mine, COMPLETED)
        assert not await stage.store.end_step(mine, FAILED)
        assert (await stage.store.get_step(mine.step_id)).result == {"n": 1}

    @pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED])
    async def test_of_a_step_whose_run_is_over(self, stage: Stage, status: RunStatus) -> None:
        run = await stage.create()
        mine = await claimed(stage, await pushed(stage, run))
        over = await stage.brought(run, status)
        assert await stage.store.end_step(mine, COMPLETED)
        assert (await stage.again(run)).status is over.status
        assert await stage.store.signals(run.run_id) == []

    @pytest.mark.parametrize("result", [None, False, 0, "", [], {}, "a\x00b", 1.5, {"deep": [{"er": [1]}]}])
    async def test_any_json_is_a_result(self, stage: Stage, result: Any) -> None:
        run = await stage.running()
        mine = await claimed(stage, await pushed(stage, run))
        assert await stage.store.end_step(mine, replace(COMPLETED, result=result))
        assert (await stage.store.get_step(mine.step_id)).result == result
        assert (await stage.store.signals(run.run_id))[0].payload["result"] == result


class TestRetry:
    async def test_is_due_when_its_time_has_come_and_not_before(self, stage: Stage) -> None:
        mine = await claimed(stage, await pushed(stage))
        assert await stage.store.end_step(mine, RETRY)
        waiting = await stage.store.get_step(mine.step_id)
        assert waiting.status is StepStatus.PENDING
        assert waiting.retry_at is not None
        assert waiting.error == RETRY.error
        assert await stage.store.signals(mine.run_id) == []
        assert await stage.store.claim_step(waiting, OTHER) is None
        await earlier(stage, mine, "pushed_at", 30)
        assert await stage.store.due_steps(older_than_s=10) == []
        await earlier(stage, mine, "retry_at", 61)
        [due] = await stage.store.due_steps(older_than_s=10)
        assert due.step_id == mine.step_id
        assert await stage.store.due_steps(older_than_s=10) == []
        again = await claimed(stage, mine, OTHER)
        assert (again.attempt, again.losses, again.retry_at) == (2, 0, None)
        assert await stage.store.end_step(again, COMPLETED)
        over = await stage.store.get_step(mine.step_id)
        assert (over.result, over.error) == ({"n": 1}, None)

    async def test_whose_message_was_lost_is_pushed_again_after_a_while(self, stage: Stage) -> None:
        mine = await claimed(stage, await pushed(stage))
        await stage.store.end_step(mine, RETRY)
        await earlier(stage, mine, "pushed_at", 120)
        await earlier(stage, mine, "retry_at", 61)
        for _ in range(2):
            assert len(await stage.store.due_steps(older_than_s=10)) == 1
            assert await stage.store.due_steps(older_than_s=10) == []
            await earlier(stage, mine, "pushed_at", 11)

    async def test_one_that_is_handed_back_does_not_count(self, stage: Stage) -> None:
        mine = await claimed(stage, await pushed(stage))
        assert await stage.store.end_step(mine, HANDED_BACK)
        [due] = await stage.store.due_steps(older_than_s=1000)
        assert (due.status, due.attempt, due.losses) == (StepStatus.PENDING, 0, 0)
        assert (await claimed(stage, due, OTHER)).attempt == 1
        assert not await stage.store.end_step(mine, COMPLETED)


class TestDue:
    async def test_pending_ones_with_which_nothing_happens(self, stage: Stage) -> None:
        run = await stage.running()
        steps = [await pushed(stage, run, f"k{number}", priority=number % 2) for number in range(4)]
        await claimed(stage, steps[3])
        assert await stage.store.due_steps(older_than_s=10) == []
        for step in steps:
            await earlier(stage, step, "pushed_at", 11)
        due = {step.step_id for step in await stage.store.due_steps(older_than_s=10)}
        assert due == {step.step_id for step in steps[:3]}
        assert await stage.store.due_steps(older_than_s=10) == []
        await earlier(stage, steps[0], "pushed_at", 11)
        assert [step.step_id for step in await stage.store.due_steps(older_than_s=10)] == [steps[0].step_id]


class TestTakeOver:
    @pytest.fixture(autouse=True)
    def _only_postgres(self, stage: Stage) -> None:
        if isinstance(stage.store, MemoryRunStore):
            pytest.skip("in memory no owner is ever lost without the steps")

    async def test_who_is_alive_keeps_its_steps(self, stage: Stage) -> None:
        await stage.appear(OTHER)
        await claimed(stage, await pushed(stage), OTHER)
        assert await stage.store.take_over_steps(ME) == []

    async def test_ones_own_are_kept(self, stage: Stage) -> None:
        mine = await claimed(stage, await pushed(stage), ME)
        await earlier(stage, mine, "lease_until", 3600)
        assert await stage.store.take_over_steps(ME) == []

    @pytest.mark.parametrize("reason", ["lock", "lease"])
    async def test_who_is_lost_loses_them(self, stage: Stage, reason: str) -> None:
        await stage.appear(OTHER)
        others = [await claimed(stage, await pushed(stage), OTHER) for _ in range(2)]
        if reason == "lock":
            await stage.vanish(OTHER)
        else:
            for step in others:
                await earlier(stage, step, "lease_until", 3600)
        taken = await stage.store.take_over_steps(ME)
        assert {step.step_id for step in taken} == {step.step_id for step in others}
        assert {(step.status, step.attempt, step.losses) for step in taken} == {(StepStatus.PENDING, 1, 1)}
        assert await stage.store.take_over_steps(ME) == []
        assert len(await stage.store.due_steps(older_than_s=1000)) == 2
        for step in others:
            assert not await stage.store.end_step(step, COMPLETED)
            assert not await stage.store.end_step(step, RETRY)
            again = await claimed(stage, step)
            assert (again.attempt, again.losses) == (2, 1)
            assert await stage.store.end_step(again, COMPLETED)

    async def test_losses_are_counted(self, stage: Stage) -> None:
        step = await pushed(stage)
        for losses in range(1, 4):
            await claimed(stage, step, OTHER)
            [taken] = await stage.store.take_over_steps(ME)
            assert (taken.attempt, taken.losses) == (losses, losses)

    async def test_only_the_lapsed_of_a_frozen_worker(self, stage: Stage) -> None:
        await stage.appear(OTHER)
        lapsed, renewed = [await claimed(stage, await pushed(stage), OTHER) for _ in range(2)]
        await earlier(stage, lapsed, "lease_until", 3600)
        assert [step.step_id for step in await stage.store.take_over_steps(ME)] == [lapsed.step_id]
        assert await stage.store.end_step(renewed, COMPLETED)

    async def test_two_who_look_at_the_same_moment(self, stage: Stage) -> None:
        for _ in range(10):
            step = await claimed(stage, await pushed(stage), OTHER)
            found = await asyncio.gather(*(stage.store.take_over_steps(owner) for owner in (ME, 303)))
            assert sum(len(each) for each in found) == 1
            assert (await stage.store.get_step(step.step_id)).losses == 1


async def test_a_claim_whose_answer_was_lost_is_answered_the_same(stage: Stage) -> None:
    if isinstance(stage.store, MemoryRunStore):
        pytest.skip("in memory no answer is lost")
    step = await pushed(stage)
    mine = await stage.store.claim_step(step, ME)
    assert await stage.store.claim_step(step, ME) == mine
    assert await stage.store.claim_step(step, OTHER) is None
    await execute(stage, "UPDATE workflow_step SET status = 'pending'")
    assert await stage.store.claim_step(step, ME) is None
