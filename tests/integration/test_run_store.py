"""The contract of a run store: runs are created, finished and listed."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.errors import (
    IdempotencyConflictError,
    IllegalTransitionError,
    InvalidRequestError,
    RunNotFoundError,
    ThreadNotFoundError,
)
from orchestrator.runs.model import FINAL, SETTLED, Request, Run, RunStatus, new_run_id
from orchestrator.runs.signals import NewSignal
from orchestrator.runs.store import Created, Cursor, Outcome, RunFilter
from tests.runs import DONE, HAND_BACK, ME, OTHER, Stage, new, note, told, wait_for

ENDS = sorted(set(RunStatus) - {RunStatus.RUNNING})


class TestCreating:
    async def test_a_new_run_is_pending_and_can_be_read_back(self, stage: Stage) -> None:
        odd = {"text": "x\x00y", "list": [1, 2.5, None, True], "big": 2**63, "é": "\U0001f600"}
        run = await stage.create("t", input=odd, idempotency_key="k", workflow_version="v1", retry={"factor": 3.0})
        assert (run.status, run.attempt, run.epoch, run.lease_owner) == (RunStatus.PENDING, 0, 0, None)
        assert (run.input, run.workflow_version, run.retry) == (odd, "v1", {"factor": 3.0})
        assert run.created_at.utcoffset() is not None
        assert await stage.again(run) == run
        assert await stage.store.latest_of_thread("default", "t") == run

    async def test_a_run_without_a_thread_gets_one_of_its_own(self, stage: Stage) -> None:
        run = await stage.create()
        assert run.thread_id == run.run_id

    async def test_a_run_says_what_it_goes_on_from(self, stage: Stage) -> None:
        parent = await stage.create()
        run = await stage.create(parent_run_id=parent.run_id, fork_checkpoint_id="c7")
        read = await stage.again(run)
        assert (read.parent_run_id, read.fork_checkpoint_id) == (parent.run_id, "c7")

    async def test_a_run_with_its_own_thread_can_begin_at_once(self, stage: Stage) -> None:
        wanted = new()
        begun = (await stage.store.create(wanted, owner=ME)).run
        assert (begun.status, begun.attempt, begun.epoch, begun.lease_owner) == (RunStatus.RUNNING, 1, 1, ME)
        assert begun.started_at is not None
        assert begun.lease_until is not None
        assert begun.lease_until > datetime.now(UTC)
        assert await stage.again(begun) == begun
        assert await stage.store.create(wanted, owner=ME) == Created(begun, is_new=True)
        assert (await stage.ended(begun, DONE)).status is RunStatus.COMPLETED
        queued = (await stage.store.create(new("t"), owner=ME)).run
        assert (queued.status, queued.lease_owner) == (RunStatus.PENDING, None)

    async def test_what_is_not_there_is_an_error(self, stage: Stage) -> None:
        store, nobody = stage.store, new_run_id()
        for call in (
            store.get(nobody),
            store.pause(nobody),
            store.resume(nobody),
            store.cancel(nobody),
            store.send_signal(nobody, NewSignal("a")),
        ):
            with pytest.raises(RunNotFoundError, match=nobody):
                await call
        with pytest.raises(ThreadNotFoundError):
            await store.latest_of_thread("default", "t")
        await stage.create("t", organization_id="acme")
        with pytest.raises(ThreadNotFoundError):
            await store.latest_of_thread("default", "t")

    async def test_creating_twice_under_one_id_makes_one_run(self, stage: Stage) -> None:
        same = new("t")
        first, second = await stage.store.create(same), await stage.store.create(same)
        assert first == second
        assert first.is_new

    @pytest.mark.parametrize("owner", [None, ME])
    async def test_an_idempotency_key_makes_one_run(self, stage: Stage, owner: int | None) -> None:
        calls = [stage.store.create(new(idempotency_key="k"), owner=owner) for _ in range(20)]
        made = await asyncio.gather(*calls)
        assert len({created.run.run_id for created in made}) == 1
        assert [created.is_new for created in made].count(True) == 1

    async def test_an_idempotency_key_belongs_to_its_payload_thread_workflow_and_organization(
        self, stage: Stage
    ) -> None:
        run = await stage.create("t", idempotency_key="k", input={"a": 1, "b": 2})
        with pytest.raises(IdempotencyConflictError, match=run.run_id):
            await stage.create("t", idempotency_key="k", input={"a": 2})
        with pytest.raises(IdempotencyConflictError):
            await stage.create("u", idempotency_key="k", input={"a": 1, "b": 2})
        assert (await stage.create(None, idempotency_key="k", input={"b": 2, "a": 1})).run_id == run.run_id
        assert (await stage.create("t", idempotency_key="k", workflow_type="v")).run_id != run.run_id
        assert (await stage.create("t", idempotency_key="k", organization_id="acme")).run_id != run.run_id


class TestFinishing:
    async def test_it_keeps_output_error_and_times(self, stage: Stage) -> None:
        run = await stage.running()
        done = await stage.ended(run, DONE)
        assert (done.status, done.output, done.last_checkpoint_id) == (RunStatus.COMPLETED, {"answer": 42}, "c1")
        assert (done.lease_owner, done.lease_until) == (None, None)
        assert done.completed_at is not None
        assert await stage.again(run) == done

        failed = await stage.running()
        error = {"type": "ValueError", "message": "x\x00", "traceback": "…"}
        await stage.ended(failed, Outcome(RunStatus.FAILED, error=error, current_activity="two", failed=True))
        read = await stage.again(failed)
        assert (read.status, read.error, read.current_activity) == (RunStatus.FAILED, error, "two")
        assert (read.failures, read.losses, read.attempt) == (1, 0, 1)

    @pytest.mark.parametrize("status", ENDS)
    async def test_it_may_be_sent_twice(self, stage: Stage, status: RunStatus) -> None:
        run, outcome = await stage.running(), Outcome(status, output=[1], failed=True)
        if status is RunStatus.PAUSED:
            await stage.store.pause(run.run_id)
        first, second = await stage.ended(run, outcome), await stage.ended(run, outcome)
        assert replace(second, updated_at=first.updated_at) == first
        assert (first.status, first.output, first.failures) == (status, [1], 1)
        assert first.attempt == 1
        assert (first.completed_at is not None) is (status in FINAL)
        assert (first.is_settled, first.lease_owner) == (status in SETTLED, None)

    async def test_a_checkpoint_is_kept_until_there_is_a_newer_one(self, stage: Stage) -> None:
        back = await stage.ended(await stage.running(), Outcome(RunStatus.PENDING, last_checkpoint_id="c1"))
        assert (back.last_checkpoint_id, back.attempt) == ("c1", 1)
        assert (await stage.ended(await stage.claimed(back), HAND_BACK)).last_checkpoint_id == "c1"

    async def test_a_stale_finisher_changes_nothing(self, stage: Stage) -> None:
        stale = await stage.running(owner=OTHER)
        [taken] = await stage.store.take_over(await stage.vanish(OTHER))
        before = await stage.again(stale)
        assert await stage.store.finish(stale, DONE) is None
        assert await stage.store.finish(stale, HAND_BACK, told([note(stale, "1", "late")])[0]) is None
        await stage.record([note(stale, "1", "late")])
        assert await stage.store.deliver(stale, {}) is False
        assert await stage.again(stale) == before
        assert await stage.store.activities(stale.run_id) == []

        claimed = await stage.claimed(taken)
        assert await stage.store.finish(stale, DONE) is None
        assert await stage.store.finish(replace(stale, lease_owner=ME), DONE) is None
        assert await stage.store.finish(replace(claimed, lease_owner=OTHER), DONE) is None
        assert await stage.store.finish(claimed, DONE) is not None

    async def test_a_finished_run_is_not_finished_otherwise(self, stage: Stage) -> None:
        run = await stage.running()
        done = await stage.ended(run, DONE)
        for otherwise in (Outcome(RunStatus.FAILED, error={"type": "E"}, failed=True), wait_for("a"), HAND_BACK):
            assert await stage.ended(run, otherwise) == done
        assert await stage.again(run) == done
        with pytest.raises(IllegalTransitionError):
            await stage.store.finish(run, Outcome(RunStatus.RUNNING))

    async def test_a_run_that_is_gone_is_not_finished(self, stage: Stage) -> None:
        run = replace(await stage.running(), run_id=new_run_id())
        assert await stage.store.finish(run, DONE) is None

    async def test_a_run_handed_back_is_anyones(self, stage: Stage) -> None:
        back = await stage.ended(await stage.running(), HAND_BACK)
        assert (back.status, back.attempt, back.lease_owner, back.lease_until) == (RunStatus.PENDING, 1, None, None)
        [claimed] = await stage.store.claim_next(OTHER, ["w"], limit=10)
        assert (claimed.attempt, claimed.epoch, claimed.started_at) == (2, 2, back.started_at)

    async def test_sent_again_it_answers_the_row_as_it_is_by_now(self, stage: Stage) -> None:
        run = await stage.running()
        await stage.ended(run, wait_for("a"))
        await stage.store.send_signal(run.run_id, NewSignal("b"))
        assert await stage.ended(run, wait_for("a")) == await stage.again(run)
        resumed = await stage.store.resume(run.run_id)
        assert await stage.ended(run, wait_for("a")) == resumed
        claimed = await stage.claimed(resumed)
        assert await stage.store.finish(run, wait_for("a")) is None
        assert await stage.again(run) == claimed

    @pytest.mark.parametrize("status", ENDS)
    async def test_only_a_waiting_run_awaits_and_only_a_suspended_one_is_retried(
        self, stage: Stage, status: RunStatus
    ) -> None:
        run = await stage.running()
        if status is RunStatus.PAUSED:
            await stage.store.pause(run.run_id)
        ended = await stage.ended(run, replace(wait_for("a"), status=status, retry_after_s=60))
        assert (ended.awaiting is not None) is (status is RunStatus.WAITING)
        assert (ended.retry_at is not None) is (status is RunStatus.SUSPENDED)
        assert await stage.again(run) == ended


class TestTheLastMoment:
    """What was asked of a run, or sent to it, while its attempt was ending."""

    @pytest.mark.parametrize("status", ENDS)
    async def test_a_run_that_is_not_over_makes_way(self, stage: Stage, status: RunStatus) -> None:
        run = await stage.running("t")
        by = (await stage.store.create(new("t"), if_busy="interrupt")).run
        error = {"type": "ValueError", "message": "no"}
        outcome = replace(wait_for("a"), status=status, output=[1], error=error, retry_after_s=60)
        for _ in range(2):
            ended = await stage.ended(run, outcome)
            superseded = {"type": "SupersededError", "message": "another run took over the thread"}
            assert ended.status is (status if status in FINAL else RunStatus.CANCELLED)
            assert ended.error == (error if status in FINAL else superseded)
            assert (ended.requested, ended.awaiting, ended.retry_at) == (None, None, None)
            assert ended.completed_at is not None
            assert await stage.again(run) == ended
        await stage.claimed(by)

    @pytest.mark.parametrize("status", ENDS)
    async def test_only_a_run_that_is_handed_back_is_still_to_be_paused(self, stage: Stage, status: RunStatus) -> None:
        run = await stage.running()
        await stage.store.pause(run.run_id)
        for _ in range(2):
            ended = await stage.ended(run, Outcome(status, retry_after_s=60))
            assert ended.status is (RunStatus.PAUSED if status is RunStatus.SUSPENDED else status)
            assert ended.requested is (Request.PAUSE if status is RunStatus.PENDING else None)
            assert ended.retry_at is None
            assert await stage.again(run) == ended

    async def test_whichever_comes_first_nothing_is_missed(self, stage: Stage) -> None:
        store, ends = stage.store, [wait_for("a"), Outcome(RunStatus.SUSPENDED), Outcome(RunStatus.PAUSED)]
        for _ in range(5):
            signalled, paused, resumed = runs = [await stage.running() for _ in ends]
            await store.pause(resumed.run_id)
            await asyncio.gather(
                *(store.finish(run, end) for run, end in zip(runs, ends, strict=True)),
                store.send_signal(signalled.run_id, NewSignal("a")),
                store.pause(paused.run_id),
                store.resume(resumed.run_id),
            )
            assert [(await stage.again(run)).status for run in runs] == [
                RunStatus.PENDING,
                RunStatus.PAUSED,
                RunStatus.PENDING,
            ]

    @pytest.mark.parametrize("asked", [False, True])
    async def test_a_pause_that_was_taken_back_is_none(self, stage: Stage, asked: bool) -> None:
        run = await stage.running()
        if asked:
            await stage.store.pause(run.run_id)
            await stage.store.resume(run.run_id)
        for _ in range(2):
            ended = await stage.ended(run, Outcome(RunStatus.PAUSED))
            assert (ended.status, ended.requested, ended.completed_at) == (RunStatus.PENDING, None, None)
        assert (await stage.claimed(ended)).attempt == 2


class TestListing:
    async def test_pages_go_through_every_run_once_newest_first(self, stage: Stage) -> None:
        made = [await stage.create(input={"n": n}) for n in range(7)]
        await stage.ended(await stage.claimed(made[3]), DONE)
        seen: list[Run] = []
        after: Cursor | None = None
        while True:
            page = await stage.store.list_runs(RunFilter(), limit=3, after=after)
            seen += page.runs
            if page.next is None:
                break
            after = Cursor.decode(page.next.encode())
        assert [run.run_id for run in seen] == [run.run_id for run in reversed(made)]
        assert {(run.input, run.output) for run in seen} == {(None, None)}

    async def test_a_full_page_that_is_the_last_says_so(self, stage: Stage) -> None:
        for _ in range(2):
            await stage.create()
        assert (await stage.store.list_runs(RunFilter(), limit=2)).next is None

    async def test_lists_are_filtered(self, stage: Stage) -> None:
        done = await stage.running(organization_id="acme")
        await stage.ended(done, DONE)
        await stage.create(organization_id="acme", workflow_type="v")
        await stage.create()

        async def ids(**wanted: Any) -> list[str]:
            return [run.run_id for run in (await stage.store.list_runs(RunFilter(**wanted), limit=10)).runs]

        assert len(await ids()) == 3
        assert len(await ids(organization_id="acme")) == 2
        assert await ids(statuses=[RunStatus.COMPLETED, RunStatus.FAILED]) == [done.run_id]
        assert await ids(statuses=[]) == []
        assert await ids(organization_id="acme", workflow="w") == [done.run_id]
        assert await ids(organization_id="acme", workflow="v", statuses=[RunStatus.FAILED]) == []

    @pytest.mark.parametrize("content", ["", "x", "[]", "null", '["x", "y"]', '["2026-01-01", "{id}"]', "[" * 9000])
    def test_a_cursor_that_is_none_is_refused(self, content: str) -> None:
        encoded = base64.urlsafe_b64encode(content.replace("{id}", new_run_id()).encode()).decode()
        for text in (encoded, content + "é"):
            with pytest.raises(InvalidRequestError, match="nextCursor"):
                Cursor.decode(text)
