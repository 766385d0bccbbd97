"""Runs that a run has started, and waits for; over every run store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.errors import InvalidRequestError
from orchestrator.runs.model import Run, RunStatus, new_run_id
from orchestrator.runs.store import NewRun, Outcome
from tests.runs import DONE, ME, OTHER, Stage, new, wait_for

CHILDREN = wait_for("children")
_BEFORE_THE_END = (RunStatus.PENDING, RunStatus.RUNNING, RunStatus.WAITING, RunStatus.PAUSED, RunStatus.SUSPENDED)


async def _child(stage: Stage, parent: Run, **values: Any) -> Run:
    return await stage.create(batch_id=parent.run_id, parent_run_id=parent.run_id, **values)


async def test_the_last_child_wakes_its_parent(stage: Stage) -> None:
    parent = await stage.running()
    children = [await _child(stage, parent) for _ in range(3)]
    assert (await stage.again(children[0])).batch_id == parent.run_id
    assert await stage.store.await_children(parent.run_id) == 3
    assert (await stage.ended(parent, CHILDREN)).status is RunStatus.WAITING
    for child, status in zip(children, (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED), strict=True):
        assert (await stage.again(parent)).status is RunStatus.WAITING
        await stage.brought(child, status)
    woken = await stage.again(parent)
    assert (woken.status, woken.awaiting, woken.signal_count) == (RunStatus.PENDING, None, 1)
    assert [signal.name for signal in await stage.store.signals(parent.run_id)] == ["children"]
    events = [each for each in await stage.store.events_after(parent.run_id, 0) if each.kind == "document"]
    assert [each.data["status"] for each in events] == ["completed", "failed", "cancelled"]
    assert [each.data["childRunId"] for each in events] == [child.run_id for child in children]


async def test_a_child_that_ends_before_it_is_waited_for_sends_nothing(stage: Stage) -> None:
    parent = await stage.running()
    await stage.brought(await _child(stage, parent), RunStatus.COMPLETED)
    assert await stage.store.signals(parent.run_id) == []
    assert await stage.store.await_children(parent.run_id) == 0


async def test_one_that_ends_while_the_parent_is_about_to_wait_is_not_missed(stage: Stage) -> None:
    parent = await stage.running()
    child = await _child(stage, parent)
    assert await stage.store.await_children(parent.run_id) == 1
    await stage.brought(child, RunStatus.COMPLETED)
    assert (await stage.ended(parent, CHILDREN)).status is RunStatus.PENDING


async def test_many_that_end_at_once_send_one_signal(stage: Stage) -> None:
    parents = [await stage.running() for _ in range(3)]
    children = [await _child(stage, parent) for _ in range(20) for parent in parents]
    running = await asyncio.gather(*(stage.claimed(child, (ME, OTHER)[i % 2]) for i, child in enumerate(children)))
    for parent in parents:
        assert await stage.store.await_children(parent.run_id) == 20
        await stage.ended(parent, CHILDREN)
    await asyncio.gather(*(stage.ended(child, DONE) for child in running))
    for parent in parents:
        assert (await stage.again(parent)).status is RunStatus.PENDING
        assert len(await stage.store.signals(parent.run_id)) == 1
        numbers = [each.number for each in await stage.store.events_after(parent.run_id, 0)]
        assert numbers == list(range(1, len(numbers) + 1))


async def test_a_parent_that_waits_for_something_else_is_not_woken(stage: Stage) -> None:
    parent = await stage.running()
    child = await _child(stage, parent)
    await stage.store.await_children(parent.run_id)
    await stage.ended(parent, wait_for("approval"))
    await stage.brought(child, RunStatus.COMPLETED)
    assert (await stage.again(parent)).status is RunStatus.WAITING
    assert [signal.name for signal in await stage.store.signals(parent.run_id)] == ["children"]


async def test_a_parent_that_is_over_hears_nothing(stage: Stage) -> None:
    parent = await stage.running()
    child = await _child(stage, parent)
    await stage.store.await_children(parent.run_id)
    await stage.ended(parent, Outcome(RunStatus.FAILED))
    before = await stage.store.events_after(parent.run_id, 0)
    assert (await stage.brought(child, RunStatus.COMPLETED)).status is RunStatus.COMPLETED
    assert await stage.store.events_after(parent.run_id, 0) == before
    assert await stage.store.signals(parent.run_id) == []


async def test_a_parent_that_is_cancelled_takes_its_children_with_it(stage: Stage) -> None:
    parent = await stage.running()
    children = [await stage.brought(await _child(stage, parent), status) for status in _BEFORE_THE_END]
    assert [child.status for child in children] == list(_BEFORE_THE_END)
    await stage.store.cancel(parent.run_id)
    after = await stage.store.get_many([child.run_id for child in children])
    assert [run.status for run in after] == [RunStatus.CANCELLED] * len(children)
    assert {(run.error or {})["message"] for run in after} == {"the batch was cancelled"}
    # What is still under way somewhere writes nothing more.
    [driven] = [child for child in children if child.status is RunStatus.RUNNING]
    assert await stage.store.finish(driven, Outcome(RunStatus.COMPLETED)) is None
    with pytest.raises(InvalidRequestError, match="is over"):
        await _child(stage, parent)


async def test_runs_of_batches_are_claimed_apart(stage: Stage) -> None:
    parent = await stage.running()
    alone = await stage.create()
    child = await _child(stage, parent)

    async def claimed(*, batched: bool | None) -> list[str]:
        return [run.run_id for run in await stage.store.claim_next(ME, ["w"], limit=1, batched=batched)]

    assert await claimed(batched=True) == [child.run_id]
    assert await claimed(batched=True) == []
    assert await claimed(batched=False) == [alone.run_id]
    last = await _child(stage, parent)
    assert await claimed(batched=False) == []
    assert await claimed(batched=None) == [last.run_id]


async def test_the_same_child_twice_is_one(stage: Stage) -> None:
    parent = await stage.running()
    one: NewRun = new(run_id=new_run_id(), batch_id=parent.run_id)
    assert (await stage.store.create(one)).run.run_id == (await stage.store.create(one)).run.run_id
    assert await stage.store.await_children(parent.run_id) == 1
