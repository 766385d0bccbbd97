"""The contract of a run store, over every implementation."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from checkpointer import CheckpointerSettings, PooledPostgresSaver
from checkpointer.factory import open_saver
from orchestrator.engine.owner import OwnerLock
from orchestrator.errors import (
    IdempotencyConflictError,
    IllegalTransitionError,
    InvalidRequestError,
    RunNotFoundError,
    ThreadBusyError,
    ThreadNotFoundError,
)
from orchestrator.migrations import MIGRATIONS
from orchestrator.runs.memory import MemoryRunStore
from orchestrator.runs.model import Run, RunStatus, new_run_id
from orchestrator.runs.postgres import PostgresRunStore
from orchestrator.runs.store import Cursor, NewRun, Outcome, RunFilter, RunStore

ME, OTHER = 101, 202
DONE = Outcome(RunStatus.COMPLETED, output={"answer": 42}, last_checkpoint_id="c1")


class Stage:
    """A store, and who is alive."""

    def __init__(self, store: RunStore, saver: PooledPostgresSaver | None) -> None:
        self.store = store
        self._saver = saver
        self._locks: dict[int, AsyncExitStack] = {}

    async def appear(self, owner: int) -> None:
        """`owner` is alive from now on."""
        if self._saver is not None:
            lock = OwnerLock(str(self._saver.pool.conninfo), self._saver.schema, owner)
            self._locks[owner] = AsyncExitStack()
            await self._locks[owner].enter_async_context(lock.held())

    async def vanish(self, owner: int) -> None:
        """`owner` is dead from now on."""
        if isinstance(self.store, MemoryRunStore):
            self.store.absent.add(owner)
        elif owner in self._locks:
            await self._locks.pop(owner).aclose()

    async def close(self) -> None:
        for lock in self._locks.values():
            await lock.aclose()

    async def create(self, thread_id: str | None = None, *, owner: int = ME, **values: Any) -> Run:
        return (await self.store.create(new(thread_id, owner=owner, **values))).run

    async def running(self, thread_id: str | None = None, *, owner: int = ME, **values: Any) -> Run:
        claimed = await self.store.claim(await self.create(thread_id, owner=owner, **values))
        assert claimed is not None
        return claimed


def new(thread_id: str | None = None, *, owner: int = ME, **values: Any) -> NewRun:
    given: dict[str, Any] = {
        "run_id": new_run_id(),
        "workflow_type": "w",
        "input": {"a": 1},
        "max_attempts": 3,
        "lease_owner": owner,
        "organization_id": "default",
        "thread_id": thread_id,
    }
    return NewRun(**given | values)


@pytest.fixture(params=["memory", "postgres"])
def settings(request: pytest.FixtureRequest) -> CheckpointerSettings:
    """Not async: the fixtures behind it set up their database in an event loop of their own."""
    if request.param == "memory":
        return CheckpointerSettings()
    postgres: CheckpointerSettings = request.getfixturevalue("checkpointer_settings")
    return postgres


@pytest.fixture
async def stage(settings: CheckpointerSettings) -> AsyncIterator[Stage]:
    if not settings.use_postgres_saver:
        yield Stage(MemoryRunStore(), None)
        return
    async with open_saver(settings, migrations=(MIGRATIONS,)) as saver:
        assert isinstance(saver, PooledPostgresSaver)
        stage = Stage(PostgresRunStore(saver.pool, saver.schema), saver)
        yield stage
        await stage.close()


async def test_a_new_run_is_pending_and_can_be_read_back(stage: Stage) -> None:
    odd = {"text": "x\x00y", "list": [1, 2.5, None, True], "big": 2**63, "é": "\U0001f600"}
    run = await stage.create("t", input=odd, idempotency_key="k")
    assert (run.status, run.attempt, run.epoch, run.lease_owner) == (RunStatus.PENDING, 0, 0, ME)
    assert run.input == odd
    assert run.created_at.utcoffset() is not None
    assert await stage.store.get(run.run_id) == run
    assert await stage.store.latest_of_thread("default", "t") == run


async def test_a_run_without_a_thread_gets_one_of_its_own(stage: Stage) -> None:
    run = await stage.create()
    assert run.thread_id == run.run_id


async def test_what_is_not_there_is_an_error(stage: Stage) -> None:
    with pytest.raises(RunNotFoundError):
        await stage.store.get(new_run_id())
    with pytest.raises(ThreadNotFoundError):
        await stage.store.latest_of_thread("default", "t")
    await stage.create("t", organization_id="acme")
    with pytest.raises(ThreadNotFoundError):
        await stage.store.latest_of_thread("default", "t")


async def test_creating_twice_under_one_id_makes_one_run(stage: Stage) -> None:
    same = new("t")
    first, second = await stage.store.create(same), await stage.store.create(same)
    assert first == second
    assert first.is_new


async def test_an_idempotency_key_makes_one_run(stage: Stage) -> None:
    made = await asyncio.gather(*(stage.store.create(new(idempotency_key="k")) for _ in range(20)))
    assert len({created.run.run_id for created in made}) == 1
    assert [created.is_new for created in made].count(True) == 1


async def test_an_idempotency_key_belongs_to_its_payload_thread_workflow_and_organization(stage: Stage) -> None:
    run = await stage.create("t", idempotency_key="k")
    with pytest.raises(IdempotencyConflictError, match=run.run_id):
        await stage.create("t", idempotency_key="k", input={"a": 2})
    with pytest.raises(IdempotencyConflictError):
        await stage.create("u", idempotency_key="k")
    assert (await stage.create(None, idempotency_key="k")).run_id == run.run_id
    assert (await stage.create("t", idempotency_key="k", workflow_type="v")).run_id != run.run_id
    assert (await stage.create("t", idempotency_key="k", organization_id="acme")).run_id != run.run_id


async def test_reject_refuses_a_busy_thread(stage: Stage) -> None:
    run = await stage.running("t", idempotency_key="k")
    with pytest.raises(ThreadBusyError, match=run.run_id):
        await stage.store.create(new("t"), reject_if_busy=True)
    again = await stage.store.create(new("t", idempotency_key="k"), reject_if_busy=True)
    assert (again.run.run_id, again.is_new) == (run.run_id, False)
    assert (await stage.store.create(new("t", organization_id="acme"), reject_if_busy=True)).is_new
    await stage.store.finish(run, DONE)
    assert (await stage.store.create(new("t"), reject_if_busy=True)).is_new


async def test_of_many_that_reject_on_one_thread_one_gets_it(stage: Stage) -> None:
    made = await asyncio.gather(
        *(stage.store.create(new("t"), reject_if_busy=True) for _ in range(10)), return_exceptions=True
    )
    assert sum(isinstance(result, ThreadBusyError) for result in made) == 9


async def test_a_claim_raises_attempt_and_epoch_and_may_be_sent_twice(stage: Stage) -> None:
    run = await stage.create()
    claimed = await stage.store.claim(run)
    assert claimed is not None
    assert (claimed.status, claimed.attempt, claimed.epoch) == (RunStatus.RUNNING, 1, 1)
    assert claimed.started_at is not None
    again = await stage.store.claim(run)
    assert again is not None
    assert replace(again, updated_at=claimed.updated_at) == claimed


async def test_only_the_owner_claims(stage: Stage) -> None:
    run = await stage.create()
    assert await stage.store.claim(replace(run, lease_owner=OTHER)) is None
    assert await stage.store.claim(replace(run, epoch=5)) is None


async def test_runs_of_a_thread_go_one_at_a_time_and_in_order(stage: Stage) -> None:
    first, second, third = [await stage.create("t") for _ in range(3)]
    assert await stage.store.claim(second) is None
    claimed = await stage.store.claim(first)
    assert claimed is not None
    assert await stage.store.claim(second) is None
    await stage.store.finish(claimed, DONE)
    assert await stage.store.claim(third) is None
    assert await stage.store.claim(second) is not None


async def test_a_waiting_run_keeps_its_thread_busy(stage: Stage) -> None:
    run = await stage.running("t")
    await stage.store.finish(run, Outcome(RunStatus.WAITING))
    assert await stage.store.claim(await stage.create("t")) is None
    assert await stage.store.claim(await stage.create("u")) is not None


async def test_of_many_claims_on_a_thread_one_succeeds(stage: Stage) -> None:
    runs = [await stage.create("t", owner=owner) for owner in range(1, 11)]
    claimed = [run for run in await asyncio.gather(*map(stage.store.claim, runs)) if run]
    assert [run.run_id for run in claimed] == [runs[0].run_id]


async def test_finishing_keeps_output_error_and_times(stage: Stage) -> None:
    run = await stage.running()
    done = await stage.store.finish(run, DONE)
    assert done is not None
    assert (done.status, done.output, done.lease_owner) == (RunStatus.COMPLETED, {"answer": 42}, None)
    assert done.completed_at is not None
    assert await stage.store.get(run.run_id) == done
    again = await stage.store.finish(run, DONE)
    assert again is not None
    assert (again.status, again.completed_at) == (done.status, done.completed_at)

    failed = await stage.running()
    error = {"type": "ValueError", "message": "x\x00", "traceback": "…"}
    await stage.store.finish(failed, Outcome(RunStatus.FAILED, error=error, current_activity="two"))
    read = await stage.store.get(failed.run_id)
    assert (read.status, read.error, read.current_activity) == (RunStatus.FAILED, error, "two")


async def test_a_waiting_run_is_not_complete(stage: Stage) -> None:
    waiting = await stage.store.finish(await stage.running(), Outcome(RunStatus.WAITING, output=[1]))
    assert waiting is not None
    assert (waiting.completed_at, waiting.output) == (None, [1])


async def test_a_stale_finisher_changes_nothing(stage: Stage) -> None:
    await stage.vanish(OTHER)
    stale = await stage.running(owner=OTHER)
    [taken] = await stage.store.take_over(ME, OTHER, ["w"])
    before = await stage.store.get(stale.run_id)
    assert await stage.store.finish(stale, DONE) is None
    assert await stage.store.release(stale, to=None, refund=True) is None
    await stage.store.record_activities({stale.run_id: (stale.epoch, "late")})
    assert await stage.store.get(stale.run_id) == before

    claimed = await stage.store.claim(taken)
    assert claimed is not None
    assert await stage.store.finish(stale, DONE) is None
    assert await stage.store.finish(replace(stale, lease_owner=ME), DONE) is None
    assert await stage.store.finish(claimed, DONE) is not None


async def test_a_finished_run_is_not_finished_otherwise(stage: Stage) -> None:
    run = await stage.running()
    await stage.store.finish(run, DONE)
    assert await stage.store.finish(run, Outcome(RunStatus.FAILED)) is None
    with pytest.raises(IllegalTransitionError):
        await stage.store.finish(run, Outcome(RunStatus.RUNNING))


async def test_a_release_hands_the_run_back_with_its_attempt(stage: Stage) -> None:
    run = await stage.running()
    for _ in range(2):
        freed = await stage.store.release(run, to=None, refund=True)
        assert freed is not None
        assert (freed.status, freed.attempt, freed.lease_owner) == (RunStatus.PENDING, 0, None)
    assert await stage.store.claim(run) is None
    [adopted] = await stage.store.adopt(OTHER, ["w"], limit=10)
    assert adopted.lease_owner == OTHER
    assert await stage.store.adopt(ME, ["w"], limit=10) == []
    claimed = await stage.store.claim(adopted)
    assert claimed is not None
    assert (claimed.attempt, claimed.epoch) == (1, 2)


async def test_a_release_to_its_owner_counts_the_attempt(stage: Stage) -> None:
    kept = await stage.store.release(await stage.running(), to=ME, refund=False)
    assert kept is not None
    assert (kept.attempt, kept.lease_owner) == (1, ME)
    claimed = await stage.store.claim(kept)
    assert claimed is not None
    assert claimed.attempt == 2


async def test_adopting_takes_known_workflows_oldest_first_and_shares(stage: Stage) -> None:
    runs = [await stage.create() for _ in range(4)] + [await stage.create(workflow_type="v")]
    assert sorted(await stage.store.release_all(ME)) == sorted(run.run_id for run in runs)
    mine, theirs = await asyncio.gather(stage.store.adopt(ME, ["w"], limit=2), stage.store.adopt(OTHER, ["w"], limit=4))
    assert len(mine) + len(theirs) == 4
    assert {run.workflow_type for run in (*mine, *theirs)} == {"w"}
    assert not {run.run_id for run in mine} & {run.run_id for run in theirs}


async def test_release_all_refunds_what_was_running(stage: Stage) -> None:
    running, pending = await stage.running(), await stage.create()
    theirs = await stage.running(owner=OTHER)
    await stage.store.release_all(ME)
    assert (await stage.store.get(running.run_id)).attempt == 0
    assert (await stage.store.get(pending.run_id)).lease_owner is None
    assert (await stage.store.get(theirs.run_id)).status is RunStatus.RUNNING


async def test_what_an_owner_holds(stage: Stage) -> None:
    running, pending = await stage.running(), await stage.create()
    await stage.store.finish(await stage.running(), DONE)
    await stage.create(owner=OTHER)
    assert await stage.store.held_by(ME) == {running.run_id: 1, pending.run_id: 0}


async def test_an_owner_is_absent_when_it_is_gone_and_not_before(stage: Stage) -> None:
    await stage.appear(OTHER)
    run, queued = await stage.running(owner=OTHER), await stage.create(owner=OTHER)
    assert await stage.store.absent_owners(ME) == []
    assert await stage.store.take_over(ME, OTHER, ["w"]) == []
    await stage.vanish(OTHER)
    assert await stage.store.absent_owners(ME) == [OTHER]
    assert await stage.store.take_over(ME, OTHER, ["v"]) == []
    taken = await stage.store.take_over(ME, OTHER, ["w"])
    assert [(r.run_id, r.status, r.attempt, r.epoch) for r in taken] == [
        (run.run_id, RunStatus.PENDING, 1, 2),
        (queued.run_id, RunStatus.PENDING, 0, 1),
    ]
    assert await stage.store.absent_owners(ME) == []


async def test_two_who_take_over_share_nothing(stage: Stage) -> None:
    await stage.vanish(OTHER)
    await asyncio.gather(*(stage.running(owner=OTHER) for _ in range(5)))
    one, two = await asyncio.gather(*(stage.store.take_over(owner, OTHER, ["w"]) for owner in (1, 2)))
    assert sorted((len(one), len(two))) == [0, 5]


async def test_a_run_that_loses_every_worker_fails(stage: Stage) -> None:
    await stage.vanish(OTHER)
    run = await stage.running(owner=OTHER, max_attempts=2)
    await stage.store.record_activities({run.run_id: (run.epoch, "two")})
    [taken] = await stage.store.take_over(OTHER + 1, OTHER, ["w"])
    assert taken.status is RunStatus.PENDING
    second = await stage.store.claim(taken)
    assert second is not None
    await stage.vanish(OTHER + 1)
    [failed] = await stage.store.take_over(ME, OTHER + 1, ["w"])
    assert (failed.status, failed.lease_owner, failed.attempt) == (RunStatus.FAILED, None, 2)
    assert failed.error is not None
    assert failed.error["type"] == "AttemptsExhaustedError"
    assert "attempt 2 of 2, in activity two" in failed.error["message"]
    assert failed.completed_at is not None


async def test_activities_are_recorded_together(stage: Stage) -> None:
    one, two = await stage.running(), await stage.running()
    await stage.store.record_activities({one.run_id: (1, "a"), two.run_id: (1, "b")})
    assert [(await stage.store.get(run.run_id)).current_activity for run in (one, two)] == ["a", "b"]


async def test_pages_go_through_every_run_once_newest_first(stage: Stage) -> None:
    made = [await stage.create(input={"n": n}) for n in range(7)]
    seen: list[Run] = []
    after: Cursor | None = None
    while True:
        page = await stage.store.list_runs(RunFilter(), limit=3, after=after)
        seen += page.runs
        if page.next is None:
            break
        after = Cursor.decode(page.next.encode())
    assert [run.run_id for run in seen] == [run.run_id for run in reversed(made)]
    assert {run.input for run in seen} == {None}


async def test_lists_are_filtered(stage: Stage) -> None:
    done = await stage.running(organization_id="acme")
    await stage.store.finish(done, DONE)
    await stage.create(organization_id="acme", workflow_type="v")
    await stage.create()

    async def ids(**wanted: Any) -> list[str]:
        return [run.run_id for run in (await stage.store.list_runs(RunFilter(**wanted), limit=10)).runs]

    assert len(await ids()) == 3
    assert len(await ids(organization_id="acme")) == 2
    assert await ids(statuses=[RunStatus.COMPLETED, RunStatus.FAILED]) == [done.run_id]
    assert await ids(organization_id="acme", workflow="w") == [done.run_id]
    assert await ids(organization_id="acme", workflow="v", statuses=[RunStatus.FAILED]) == []


@pytest.mark.parametrize("content", ["", "x", "[]", "null", '["x", "y"]', '["2026-01-01", "{id}"]', "[" * 9000])
def test_a_cursor_that_is_none_is_refused(content: str) -> None:
    encoded = base64.urlsafe_b64encode(content.replace("{id}", new_run_id()).encode()).decode()
    for text in (encoded, content + "é"):
        with pytest.raises(InvalidRequestError, match="nextCursor"):
            Cursor.decode(text)
