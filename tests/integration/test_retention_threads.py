"""Shortening threads: thousands of checkpoints become a few, and what is left loads as before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.base import Checkpoint, empty_checkpoint
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from checkpointer import CheckpointerSettings, PooledPostgresSaver
from orchestrator import RunStatus
from orchestrator.keeping import KeepFor
from tests.checkpoints import at, history
from tests.retention import age, counts, dangling, prune, seed
from tests.runs import DONE, Stage, open_stage

LONG = 2_000
# Where the two DeltaChannels take their snapshots: the last ten checkpoints need what came after step 1,970.
SNAPSHOTS = {"a": {0, 700, 1_970, 1_985}, "b": {0, 1_200, 1_970}}


@pytest.fixture(params=["whole", "shared"])
async def stage(checkpointer_settings: CheckpointerSettings, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    async with open_stage(checkpointer_settings.model_copy(update={"checkpoint_storage": request.param})) as opened:
        yield opened


@pytest.fixture
def saver(stage: Stage) -> PooledPostgresSaver:
    assert stage._saver is not None
    return stage._saver


def made(step: int, kind: str) -> Checkpoint:
    """The checkpoint of a step of a plain thread, or of one with DeltaChannels."""
    checkpoint = empty_checkpoint()
    checkpoint["id"] = f"{step:08}"
    version = f"{step + 1:08}"
    checkpoint["channel_versions"] = {"log": version, "step": version}
    checkpoint["channel_values"] = {"log": [f"line {n} of the log" for n in range(step % 300)], "step": step}
    if kind == "delta":
        snapshots = {name: _DeltaSnapshot([f"{name} at {step}"]) for name, steps in SNAPSHOTS.items() if step in steps}
        checkpoint["channel_versions"] |= dict.fromkeys(SNAPSHOTS, version)
        checkpoint["channel_values"] |= snapshots
    return checkpoint


async def long_thread(
    saver: PooledPostgresSaver, thread: str, kind: str, *, run_ids: Sequence[str], length: int = LONG
) -> None:
    """Save the thread, some at a time; its checkpoints belong to the runs in turn."""

    async def save(step: int) -> None:
        checkpoint = made(step, kind)
        about: Any = {"step": step, "run_id": run_ids[step * len(run_ids) // length]}
        if kind == "delta":
            about["counters_since_delta_snapshot"] = {"a": [1, 1], "b": [1, 1]}
        parent = at(thread, f"{step - 1:08}" if step else None)
        config = await saver.aput(parent, checkpoint, about, dict(checkpoint["channel_versions"]))
        await saver.aput_writes(config, [("a", [f"a {step}"]), ("b", [f"b {step}"])], "task")

    for start in range(0, length, 200):
        await asyncio.gather(*(save(step) for step in range(start, start + 200)))


async def loaded(saver: PooledPostgresSaver, thread: str, checkpoint_id: str | None = None) -> Any:
    """All that LangGraph asks for of a checkpoint, but its parent: it may be gone."""
    found = await saver.aget_tuple(at(thread, checkpoint_id))
    assert found is not None
    channels = found.checkpoint["channel_versions"].keys() & SNAPSHOTS.keys()
    missing = [name for name in sorted(channels) if name not in found.checkpoint["channel_values"]]
    deltas = await saver.aget_delta_channel_history(config=found.config, channels=missing)
    return found.checkpoint, found.metadata, found.pending_writes, deltas


@pytest.mark.parametrize(("kind", "left"), [("plain", 10), ("delta", 30)])
async def test_two_thousand_checkpoints_become_ten(
    stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver, kind: str, left: int
) -> None:
    run = await stage.running("t")
    await long_thread(saver, "t", kind, run_ids=[run.run_id])
    await stage.ended(run, DONE)
    last = [f"{step:08}" for step in range(LONG - 10, LONG)]
    before = [await loaded(saver, "t", each) for each in (None, *last)]
    expected = (await prune(saver, None, keep_last=10, dry=True)).freed.rows["checkpoints"]

    report = await prune(saver, None, keep_last=10)

    assert report.threads == 1
    assert report.freed.rows["checkpoints"] == expected == LONG - left
    stayed = [one.config["configurable"]["checkpoint_id"] for one in await history(saver, "t")]
    assert sorted(stayed) == [f"{step:08}" for step in range(LONG - left, LONG)]
    assert [await loaded(saver, "t", each) for each in (None, *last)] == before
    assert dangling(conn) == []
    assert counts(conn, ["checkpoints", "checkpoint_writes"]) == {"checkpoints": left, "checkpoint_writes": 2 * left}
    again = await prune(saver, None, keep_last=10)
    assert not again.freed


async def test_runs_keep_all_their_checkpoints_for_a_time(
    stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver
) -> None:
    runs = [await stage.ended(await stage.running("t"), DONE) for _ in range(4)]
    await long_thread(saver, "t", "plain", run_ids=[run.run_id for run in runs], length=400)
    age(conn, runs[0].run_id, runs[2].run_id)
    report = await prune(saver, None, checkpoints=KeepFor.parse("completed=1h"), keep_last=5)
    assert report.freed.rows["checkpoints"] == 200
    kept = {one.metadata["run_id"] for one in await history(saver, "t")}
    assert kept == {runs[1].run_id, runs[3].run_id}
    age(conn)
    await prune(saver, None, checkpoints=KeepFor.parse("completed=1h"), keep_last=5)
    assert len(await history(saver, "t")) == 5
    assert dangling(conn) == []


async def test_threads_that_no_run_made_are_shortened_only_when_that_is_asked_for(
    stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver
) -> None:
    run = await stage.at(RunStatus.WAITING, "live")
    for thread in ("alone", "@acme/alone", "live"):
        for step in range(20):
            checkpoint = made(step, "plain")
            if thread == "alone":
                checkpoint["ts"] = "2026-01-01T00:00:00+00:00"
            parent = at(thread, f"{step - 1:08}" if step else None)
            await saver.aput(parent, checkpoint, {"step": step}, dict(checkpoint["channel_versions"]))
    assert run.thread_id == "live"
    await prune(saver, keep_last=3)
    assert counts(conn, ["checkpoints"]) == {"checkpoints": 60}
    await prune(saver, None, keep_last=3, all_threads=True, unused_s=3600.0)
    assert [len(await history(saver, each)) for each in ("alone", "@acme/alone", "live")] == [3, 20, 20]
    await prune(saver, None, keep_last=3, all_threads=True)
    assert [len(await history(saver, each)) for each in ("alone", "@acme/alone", "live")] == [3, 3, 20]


async def test_rows_of_threads_without_a_checkpoint_go_but_of_those_that_begin(
    stage: Stage, conn: psycopg.Connection, saver: PooledPostgresSaver
) -> None:
    await stage.running("begins")
    [seeded] = seed(conn, 1)
    before = counts(conn)
    for thread in ("begins", "orphan 1", "orphan 2"):
        conn.execute(
            "INSERT INTO workflow_checkpoints.checkpoint_writes (thread_id, checkpoint_id, task_id, task_path, idx,"
            " channel, type, blob) VALUES (%s, 'c', 't', '', 0, 'x', 'json', '1')",
            (thread,),
        )
        conn.execute(
            "INSERT INTO workflow_checkpoints.checkpoint_blobs (thread_id, channel, version, type, blob)"
            " VALUES (%s, 'x', '1', 'json', '1')",
            (thread,),
        )
    seen = await prune(saver, "3h", orphans=True, dry=True)
    done = await prune(saver, "3h", orphans=True)
    assert dict(done.freed.rows) == {"checkpoint_writes": 2, "checkpoint_blobs": 2}
    assert seen.freed.rows["checkpoint_blobs"] == 2
    for table in ("checkpoint_writes", "checkpoint_blobs"):
        before[table] += 1
    assert counts(conn, ["checkpoint_writes", "checkpoint_blobs", "checkpoints"]) == {
        name: before[name] for name in ("checkpoint_writes", "checkpoint_blobs", "checkpoints")
    }
    assert await saver.aget_tuple(at(seeded)) is not None
