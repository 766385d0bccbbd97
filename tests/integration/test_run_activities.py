"""The contract of a run store: what runs went through, and who is told of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from time import monotonic

import pytest

from orchestrator.runs.activity import ActivityStatus
from orchestrator.runs.memory import MemoryRunStore
from orchestrator.runs.model import FINAL, SETTLED, RunStatus, new_run_id
from orchestrator.runs.signals import NewSignal
from orchestrator.runs.store import Outcome
from tests.runs import DONE, ME, OTHER, Stage, new, note, told

ENDS = sorted(set(RunStatus) - {RunStatus.RUNNING})


class TestActivities:
    async def test_they_begin_and_end(self, stage: Stage) -> None:
        run = await stage.running()
        await stage.record([note(run, "1", "one", began_s=900), note(run, "2", "two", began_s=500)])
        assert (await stage.again(run)).current_activity == "two"
        one, two = await stage.store.activities(run.run_id)
        assert (one.run_id, one.attempt, one.task_id, one.activity) == (run.run_id, 1, "1", "one")
        assert (two.status, two.ended_at, two.error) == (ActivityStatus.RUNNING, None, None)
        assert timedelta(seconds=300) < two.started_at - one.started_at < timedelta(seconds=500)

        ended = monotonic() - 100
        await stage.record(
            [
                note(run, "1", "one", status=ActivityStatus.COMPLETED, ended=ended),
                note(run, "2", "two", status=ActivityStatus.FAILED, error="ValueError: no", ended=ended),
            ]
        )
        one, two = await stage.store.activities(run.run_id)
        assert (one.status, two.status, two.error) == (
            ActivityStatus.COMPLETED,
            ActivityStatus.FAILED,
            "ValueError: no",
        )
        assert one.ended_at is not None
        assert timedelta(seconds=600) < one.ended_at - one.started_at < timedelta(seconds=900)

    async def test_one_that_has_ended_is_not_begun_anew(self, stage: Stage) -> None:
        run = await stage.running()
        await stage.record([note(run, "1", "one", status=ActivityStatus.COMPLETED, ended=monotonic())])
        before = await stage.store.activities(run.run_id)
        await stage.record([note(run, "1", "one")])
        assert await stage.store.activities(run.run_id) == before

    async def test_notes_of_many_runs_go_together_and_stale_ones_are_dropped(self, stage: Stage) -> None:
        one, two, over = await stage.running(), await stage.running(), await stage.running()
        await stage.ended(over, DONE)
        stale = [replace(two, epoch=0), over, replace(two, run_id=new_run_id())]
        notes = [note(one, "1", "a"), note(two, "1", "b"), *[note(run, "2", "late", began_s=0) for run in stale]]
        await stage.record(notes)
        await stage.record([])
        assert [(await stage.again(run)).current_activity for run in (one, two, over)] == ["a", "b", None]
        assert [len(await stage.store.activities(run.run_id)) for run in (one, two, over)] == [1, 1, 0]

    async def test_the_last_come_with_the_outcome(self, stage: Stage) -> None:
        run = await stage.running()
        last = note(run, "1", "one", status=ActivityStatus.COMPLETED, ended=monotonic())
        for _ in range(2):
            assert await stage.store.finish(run, DONE, told([last])[0]) is not None
        [activity] = await stage.store.activities(run.run_id)
        assert (activity.activity, activity.status) == ("one", ActivityStatus.COMPLETED)

    async def test_those_of_a_lost_worker_are_lost(self, stage: Stage) -> None:
        run = await stage.running(owner=OTHER)
        done = note(run, "1", "one", began_s=9, status=ActivityStatus.COMPLETED, ended=monotonic() - 8)
        await stage.record([done, note(run, "2", "two", began_s=5)])
        [taken] = await stage.store.take_over(await stage.vanish(OTHER))
        one, two = await stage.store.activities(run.run_id)
        assert (one.status, two.status, two.ended_at is not None) == (
            ActivityStatus.COMPLETED,
            ActivityStatus.LOST,
            True,
        )
        await stage.record([note(await stage.claimed(taken), "2", "two", began_s=0)])
        again = await stage.store.activities(run.run_id)
        assert [(each.attempt, each.status) for each in again[1:]] == [
            (1, ActivityStatus.LOST),
            (2, ActivityStatus.RUNNING),
        ]


class TestNotices:
    """What the memory store tells its listener; the other's notices travel through the database."""

    @pytest.fixture
    def heard(self, memory: Stage) -> list[tuple[str, list[str]]]:
        heard: list[tuple[str, list[str]]] = []
        assert isinstance(memory.store, MemoryRunStore)
        memory.store.listener = lambda notice: (
            heard.append((notice.kind, sorted(notice.run_ids))) if notice.kind != "event" else None
        )
        return heard

    @pytest.fixture
    def memory(self) -> Stage:
        return Stage(MemoryRunStore())

    @pytest.mark.parametrize("status", ENDS)
    async def test_of_an_end(self, memory: Stage, heard: list[tuple[str, list[str]]], status: RunStatus) -> None:
        run, follower = await memory.running("t"), await memory.create("t")
        assert heard == []
        if status is RunStatus.PAUSED:
            await memory.store.pause(run.run_id)
            heard.clear()
        await memory.ended(run, Outcome(status))
        settled = [("settled", [run.run_id])] if status in SETTLED else []
        free = [("free", [follower.run_id])] if status in FINAL else []
        if status is RunStatus.PENDING:
            free = [("free", [run.run_id])]
        assert heard == settled + free
        await memory.store.finish(run, Outcome(status))
        assert heard == settled + free

    async def test_of_runs_that_are_free(self, memory: Stage, heard: list[tuple[str, list[str]]]) -> None:
        run, lost = await memory.running(), await memory.running(owner=OTHER)
        await memory.store.release_all(ME)
        await memory.store.take_over(await memory.vanish(OTHER))
        resumed = await memory.at(RunStatus.FAILED)
        signalled = await memory.waiting("a")
        heard_before = [("free", [run.run_id]), ("free", [lost.run_id])]
        heard_before += [("settled", [resumed.run_id]), ("settled", [signalled.run_id])]
        assert heard == heard_before
        await memory.ended(await memory.claimed(await memory.again(run)), Outcome(RunStatus.SUSPENDED, retry_after_s=0))
        await memory.store.wake_due()
        await memory.store.resume(resumed.run_id)
        await memory.store.send_signal(signalled.run_id, NewSignal("a"))
        rest = heard[len(heard_before) :]
        assert rest == [("free", [each.run_id]) for each in (run, resumed, signalled)]

    async def test_of_what_is_asked(self, memory: Stage, heard: list[tuple[str, list[str]]]) -> None:
        run, suspended = await memory.running("t"), await memory.at(RunStatus.SUSPENDED)
        await memory.store.pause(run.run_id)
        await memory.store.resume(run.run_id)
        await memory.store.pause(suspended.run_id)
        queued = await memory.create("t")
        by = (await memory.store.create(new("t"), if_busy="interrupt")).run
        await memory.store.cancel(run.run_id)
        assert heard == [
            ("asked", [run.run_id]),
            ("asked", [run.run_id]),
            ("settled", [suspended.run_id]),
            ("settled", [queued.run_id]),
            ("asked", [run.run_id]),
            ("settled", [run.run_id]),
            ("free", [by.run_id]),
            ("asked", [run.run_id]),
        ]

    async def test_of_a_run_that_lost_every_worker(self, memory: Stage, heard: list[tuple[str, list[str]]]) -> None:
        run = await memory.running("t", owner=OTHER, max_attempts=1)
        follower = await memory.create("t")
        await memory.store.take_over(await memory.vanish(OTHER))
        assert heard == [("settled", [run.run_id]), ("free", [follower.run_id])]
