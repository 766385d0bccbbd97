"""Retention of runs: what is over for long enough goes with all that is its own, and nothing else is touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from langchain_core.runnables import RunnableConfig

from checkpointer import CheckpointerSettings, PooledPostgresSaver, StaleWriterError
from checkpointer.metrics import FENCED_WRITES
from orchestrator import Orchestrator, RunStatus
from orchestrator.errors import RunNotFoundError
from orchestrator.keeping import KeepClass
from orchestrator.runs.expiry.removal import remove_page, shorten_run
from orchestrator.runs.model import FINAL, Run
from orchestrator.runs.store import Outcome
from tests.checkpoints import at, history, put, values_of
from tests.graphs import Gates, asking, chain
from tests.retention import age, counts, dangling, database, prune, seed
from tests.runs import DONE, Stage, new, note, open_stage
from tests.worlds import PostgresWorld, postgres_world, status

FAILED = Outcome(RunStatus.FAILED, error={"type": "E", "message": "m"})


@pytest.fixture
async def stage(checkpointer_settings: CheckpointerSettings) -> AsyncIterator[Stage]:
    async with open_stage(checkpointer_settings) as opened:
        yield opened


@pytest.fixture
def saver(stage: Stage) -> PooledPostgresSaver:
    assert stage._saver is not None
    return stage._saver


@pytest.fixture
def world(checkpointer_settings: CheckpointerSettings) -> PostgresWorld:
    return postgres_world(checkpointer_settings)


async def saved(saver: PooledPostgresSaver, run: Run, *, times: int = 3) -> Run:
    """The run after it has saved some checkpoints."""
    config = at(run.checkpoint_thread_id, epoch=run.epoch)
    for number in range(times):
        parent: RunnableConfig = {"configurable": {**config["configurable"], "__fence_epoch": run.epoch}}
        config = await put(saver, parent, {"x": [run.run_id, number]}, {"run_id": run.run_id})
        await saver.aput_writes(config, [("x", number)], "task")
    return run


async def over(stage: Stage, saver: PooledPostgresSaver, thread: str, outcome: Outcome = DONE, **more: Any) -> Run:
    """A run on a thread that has saved something and is over."""
    return await stage.ended(await saved(saver, await stage.running(thread, **more)), outcome)


async def remaining(stage: Stage, *runs: Run) -> set[str]:
    """The ids of those that are still there."""
    found = set()
    for run in runs:
        with suppress(RunNotFoundError):
            found.add((await stage.again(run)).run_id)
    return found


class TestWhatGoes:
    async def test_runs_that_are_over_go_by_workflow_and_state_and_no_others(
        self, stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver
    ) -> None:
        runs = {
            (kind, each): await stage.brought(await stage.create(workflow_type=kind), each)
            for kind in ("w", "v")
            for each in RunStatus
        }
        age(conn)
        young = await stage.at(RunStatus.COMPLETED)
        report = await prune(saver, "1h, v:completed=1d, cancelled=forever")
        gone = {("w", RunStatus.COMPLETED), ("w", RunStatus.FAILED), ("v", RunStatus.FAILED)}
        stay = {run.run_id for key, run in runs.items() if key not in gone} | {young.run_id}
        assert await remaining(stage, *runs.values(), young) == stay
        assert report.runs == {(kind, str(state)): 1 for kind, state in gone}
        assert (await prune(saver, "1h, v:completed=1d, cancelled=forever")).runs == {}
        await prune(saver, "1s", workflow="v", status="completed")
        assert len(await remaining(stage, *runs.values(), young)) == len(stay) - 1

    async def test_all_that_is_a_runs_own_goes(
        self, stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver
    ) -> None:
        run = await stage.running(idempotency_key="k")
        await stage.record([note(run, "task", "one")])
        await saved(saver, run)
        conn.execute("SET search_path TO workflow_checkpoints")
        for insert in (
            "INSERT INTO workflow_hook (token, run_id, key, name, multiple, expires_at)"
            " VALUES ('t', %s, 'k', 'n', true, now())",
            "INSERT INTO workflow_signal (run_id, name, payload) VALUES (%s, 'n', '1')",
            "INSERT INTO workflow_step (step_id, run_id, key, name, queue, arguments)"
            " VALUES (gen_random_uuid(), %s, 'k', 'n', 'q', '[]')",
            "INSERT INTO workflow_batch (batch_id, organization_id, policy, state)"
            " VALUES (%s, 'default', 'all', 'pending')",
            "INSERT INTO workflow_batch_document (batch_id, key, position, name, source, state)"
            " VALUES (%s, 'k', 0, 'n', '{}', 'ingested')",
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args) VALUES ('q', 'holdfast.flow',"
            " jsonb_build_object('message', jsonb_build_object('id', %s::text)))",
        ):
            conn.execute(insert.encode(), (run.run_id,))
        await stage.ended(run, DONE)
        age(conn)
        before = counts(conn)
        report = await prune(saver, fence_kept_s=0.0)
        assert counts(conn) == {}
        assert dict(report.freed.rows) == before
        assert all(size > 0 for size in report.freed.bytes.values())
        # Its idempotency key went along.
        assert (await stage.store.create(new(idempotency_key="k"))).is_new

    async def test_jobs_of_runs_that_go_on_and_of_others_stay(
        self, stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver
    ) -> None:
        run = await stage.create()
        for task, run_id in (("holdfast.flow", run.run_id), ("theirs", "x")):
            conn.execute(
                "INSERT INTO workflow_checkpoints.procrastinate_jobs (queue_name, task_name, args)"
                " VALUES ('q', %s, jsonb_build_object('message', jsonb_build_object('id', %s::text)))",
                (task, run_id),
            )
        await prune(saver)
        assert counts(conn)["procrastinate_jobs"] == 2

    async def test_a_dry_run_says_what_goes_and_changes_nothing(
        self, stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver
    ) -> None:
        for thread in ("a", "b"):
            await over(stage, saver, thread)
        await over(stage, saver, "b", FAILED)
        age(conn)
        before = counts(conn)
        seen = await prune(saver, "completed=1h", dry=True)
        assert counts(conn) == before
        done = await prune(saver, "completed=1h")
        assert seen.runs == done.runs == {("w", "completed"): 2}
        assert seen.by_state["w", "completed"].rows == seen.freed.rows
        # But for values of a thread that stays: which of them nobody needs is only known once they are deleted.
        exact = {name: rows for name, rows in done.freed.rows.items() if name != "checkpoint_blobs"}
        assert {name: rows for name, rows in seen.freed.rows.items() if name != "checkpoint_blobs"} == exact


class TestThreadsOfSeveralRuns:
    async def test_the_state_stays_as_long_as_a_run_of_the_thread(
        self, stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver
    ) -> None:
        first, second = await over(stage, saver, "t"), await over(stage, saver, "t")
        other = await over(stage, saver, "other")
        latest, others = await saver.aget_tuple(at("t")), await history(saver, "other")
        age(conn, first.run_id)
        await prune(saver)
        assert await remaining(stage, first, second, other) == {second.run_id, other.run_id}
        assert await saver.aget_tuple(at("t")) == latest
        assert {one.metadata["run_id"] for one in await history(saver, "t")} == {second.run_id}
        third = await over(stage, saver, "t")
        state = await values_of(saver, at("t"))
        age(conn, third.run_id)
        await prune(saver)
        # The last run is gone, what it left is the thread's state.
        assert await remaining(stage, second, third) == {second.run_id}
        assert await values_of(saver, at("t")) == state
        age(conn, second.run_id)
        await prune(saver)
        assert await history(saver, "t") == []
        assert await history(saver, "other") == others
        assert dangling(conn) == []

    @pytest.mark.parametrize("state", [each for each in RunStatus if each not in FINAL])
    async def test_a_thread_with_a_run_that_is_not_over_is_not_touched(
        self, stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver, state: RunStatus
    ) -> None:
        run = await over(stage, saver, "t")
        live = await stage.at(state, "t")
        age(conn)
        before = counts(conn)
        report = await prune(saver, keep_last=1)
        assert counts(conn) == before
        assert not report.freed
        assert await remaining(stage, run, live) == {run.run_id, live.run_id}

    async def test_a_late_writer_of_a_forgotten_thread_is_refused_until_the_id_is_used_no_more(
        self, stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver
    ) -> None:
        run = await over(stage, saver, "t")
        age(conn)
        await prune(saver)
        with pytest.raises(StaleWriterError):
            await put(saver, at("t", epoch=run.epoch), {"x": 1})
        assert counts(conn) == {"checkpoint_fences": 1}
        again = await stage.running("t")
        assert again.epoch > run.epoch
        await prune(saver, fence_kept_s=0.0)
        assert counts(conn)["checkpoint_fences"] == 1

    async def test_one_that_is_taken_over_at_this_moment_is_left_alone(
        self, stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver
    ) -> None:
        run = await over(stage, saver, "t")
        age(conn)
        with conn.transaction():
            conn.execute("SELECT FROM workflow_checkpoints.checkpoint_fences WHERE thread_id = 't' FOR UPDATE")
            assert not (await prune(saver)).freed
        assert await remaining(stage, run) == {run.run_id}
        assert (await prune(saver)).runs.total() == 1


class TestWhatOthersNeed:
    async def test_a_run_that_a_fork_is_to_begin_from_stays(
        self, stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver
    ) -> None:
        run = await over(stage, saver, "t")
        fork = await stage.create(parent_run_id=run.run_id, fork_checkpoint_id="c1")
        age(conn)
        before = counts(conn)
        await prune(saver, keep_last=1)
        assert counts(conn) == before
        await stage.ended(await stage.claimed(fork), DONE)
        await prune(saver)
        assert await remaining(stage, run, fork) == {fork.run_id}

    async def test_a_batch_and_its_runs(
        self, stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver
    ) -> None:
        batch = await stage.running()
        child = await stage.ended(await stage.running(batch_id=batch.run_id), DONE)
        age(conn)
        assert not (await prune(saver)).runs
        slow = await stage.running(batch_id=batch.run_id)
        await stage.ended(batch, FAILED)
        age(conn, batch.run_id)
        # It may be resumed, and reads then what its runs found; and one of them goes on.
        assert not (await prune(saver)).runs
        await stage.ended(slow, DONE)
        await prune(saver)
        assert await remaining(stage, batch, child, slow) == {child.run_id, slow.run_id}
        await prune(saver)
        assert await remaining(stage, child, slow) == {slow.run_id}

    async def test_a_run_of_a_schedule_keeps_its_due_time_for_a_day(
        self, stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver
    ) -> None:
        run = await stage.ended(await stage.running(idempotency_key="schedule:daily:2026"), DONE)
        age(conn)
        assert not (await prune(saver)).runs
        age(conn, hours=24)
        await prune(saver)
        assert await remaining(stage, run) == set()

    async def test_a_failed_run_is_not_resumed_on_a_thread_that_has_moved_on(
        self, stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver
    ) -> None:
        failed, later = await over(stage, saver, "t", FAILED), await over(stage, saver, "t")
        age(conn)
        await prune(saver, "completed=1h")
        # Without the later one, nothing would tell that what the failed one stood at is past.
        assert await remaining(stage, failed, later) == {failed.run_id, later.run_id}
        await prune(saver, "1h")
        await prune(saver, "1h")
        assert await remaining(stage, failed, later) == set()


class TestBigOnes:
    async def test_two_processes_share_the_work(
        self, stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver
    ) -> None:
        seed(conn, 350)
        reports = await asyncio.gather(*(prune(saver) for _ in range(3)))
        assert sum(report.runs.total() for report in reports) == 350
        assert counts(conn) == {"checkpoint_fences": 350}
        assert sum(report.freed.rows["checkpoints"] for report in reports if report.freed) == 1050

    async def test_a_long_thread_goes_in_pieces_each_of_which_leaves_its_state(
        self, stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver
    ) -> None:
        [thread] = seed(conn, 1, checkpoints=1_500)
        kind, db = KeepClass("completed", None, (), 3600.0), database(saver)
        latest = await values_of(saver, at(thread))
        page = await remove_page(db, kind, None, ())
        assert page.too_long is not None
        assert page.runs == {}
        more = True
        left = 1_500
        while more:
            _, more = await shorten_run(db, page.too_long, at_most=400)
            now = counts(conn, ["checkpoints"])["checkpoints"]
            assert left - 400 <= now < left
            left = now
            assert await values_of(saver, at(thread)) == latest
            assert dangling(conn) == [("no events", thread)] or dangling(conn) == []
        assert left == 1
        await prune(saver)
        assert counts(conn) == {"checkpoint_fences": 1}


async def test_beside_a_hundred_live_runs(world: PostgresWorld, conn: psycopg.Connection) -> None:
    gates = Gates()
    names = [f"s{n}" for n in range(6)]
    async with world.open(work=chain(names, gates), quick=chain(("one", "two")), ask=asking()) as orchestrator:
        saver: Any = orchestrator._saver
        shared = [f"shared {n}" for n in range(20)]
        await asyncio.gather(*(orchestrator.start_and_wait("quick", {}, thread_id=thread) for thread in shared))
        age(conn)
        old = seed(conn, 400)
        refused = FENCED_WRITES._value.get()
        live = [await orchestrator.start("work", {}, thread_id=thread) for thread in shared]
        live += [await orchestrator.start("work", {}) for _ in range(60)]
        waiting = [await orchestrator.start("ask", {}) for _ in range(20)]
        passes = asyncio.create_task(_keep_pruning(saver))
        try:
            for name in names:
                gates.open(name)
                await asyncio.sleep(0)
            for run in waiting:
                await status(orchestrator, run, RunStatus.WAITING)
                await orchestrator.resume(run.run_id, "yes")
            ended = [await orchestrator.wait(run.run_id, timeout=60) for run in [*live, *waiting]]
        finally:
            passes.cancel()
            with suppress(asyncio.CancelledError):
                await passes
        assert {run.status for run in ended} == {RunStatus.COMPLETED}
        traces = [run.output["trace"] for run in ended]
        assert traces == [["one", "two", *names]] * 20 + [names] * 60 + [["yes"]] * 20
        assert [run.attempt for run in ended] == [1] * 80 + [2] * 20
        assert FENCED_WRITES._value.get() == refused
        await prune(saver, keep_last=1)
        assert not await _there(orchestrator, old)
        assert dangling(conn) == []


async def _keep_pruning(saver: PooledPostgresSaver) -> None:
    while True:
        await prune(saver, keep_last=1)


async def _there(orchestrator: Orchestrator, run_ids: Any) -> list[str]:
    found = []
    for run_id in run_ids:
        with suppress(RunNotFoundError):
            found.append((await orchestrator.poll(run_id)).run_id)
    return found


async def test_growth_stops(world: PostgresWorld, conn: psycopg.Connection) -> None:
    tables = ("checkpoints", "checkpoint_blobs", "checkpoint_writes", "workflow_metadata", "workflow_event")
    sizes: list[int] = []
    async with world.open(quick=chain()) as orchestrator:
        saver: Any = orchestrator._saver
        for number in range(6):
            await asyncio.gather(*(orchestrator.start_and_wait("quick", {"text": "x" * 2000}) for _ in range(60)))
            age(conn)
            report = await prune(saver, fence_kept_s=0.0)
            assert report.runs.total() == 60, number
            await prune(saver, fence_kept_s=0.0)
            assert counts(conn) == {}, number
            conn.execute("SET search_path TO workflow_checkpoints")
            for table in tables:
                conn.execute(f"VACUUM {table}".encode())
            [size] = conn.execute(
                "SELECT sum(pg_relation_size(t::regclass))::int8 FROM unnest(%s::text[]) AS t", [list(tables)]
            ).fetchone() or [0]
            sizes.append(size)
    # What VACUUM gave back is used again: not larger than after the first rounds, give or take a page per table.
    assert sizes[-1] <= max(sizes[:2]) + 8192 * len(tables), sizes
