"""A backup taken while everything works, and the system that is made of it: threads and runs go on from there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph.types import Command, StateSnapshot
from pydantic import SecretStr

from checkpointer import CheckpointerSettings, PooledPostgresSaver, open_postgres_saver
from orchestrator import Orchestrator, Run, RunStatus
from tests.archives import contents, fill_rows, make, narrow, put_back
from tests.checkpoints import SCHEMA, at, history, put
from tests.graphs import Gates, asking, chain
from tests.postgres import Cluster
from tests.stateful import GRAPHS, run
from tests.waiting import until
from tests.worlds import PostgresWorld, postgres_world, status

STEPS = ["one", "two", "three"]


async def states(saver: PooledPostgresSaver) -> dict[str, StateSnapshot]:
    """The state of a thread of each kind of graph."""
    return {kind: await GRAPHS[kind].compile(checkpointer=saver).aget_state(at(kind)) for kind in GRAPHS}


async def one_more(saver: PooledPostgresSaver, kind: str) -> Any:
    """What a thread comes to when it goes on: its open question answered, or run once more."""
    graph = GRAPHS[kind].compile(checkpointer=saver)
    return await graph.ainvoke(Command(resume="yes") if kind == "sending" else {"number": 7}, at(kind))


class Load:
    """Saves on many threads, one after the other, for as long as the block lasts."""

    def __init__(self, saver: PooledPostgresSaver) -> None:
        self._saver = saver
        self.saved = 0

    async def work(self) -> None:
        while True:
            await put(self._saver, at(f"busy {self.saved % 20}"), {"list": [self.saved] * 50, "text": str(self.saved)})
            self.saved += 1

    async def go_on(self, times: int) -> None:
        """Wait until so many more were saved."""
        wanted = self.saved + times
        await until(lambda: self.saved >= wanted, what="more is saved")


async def test_what_was_committed_before_the_backup_goes_on_elsewhere(
    postgres_dsn: str, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_rows(postgres_dsn, blobs=400)
    async with open_postgres_saver(postgres_dsn, storage="shared") as saver:
        for kind in GRAPHS:
            await run(saver, kind, kind)
        load = Load(saver)
        task = asyncio.create_task(load.work())
        await load.go_on(40)
        before = {thread: await history(saver, thread) for thread in [f"busy {n}" for n in range(20)]}
        left = await states(saver)
        async with narrow(postgres_dsn, monkeypatch, 2_000_000) as (dsn, proxy):
            backup = asyncio.create_task(make(dsn, tmp_path / "backup"))
            # Not before: whoever lets it go on sooner holds it up for good.
            await until(lambda: any(not line.open.is_set() for line in proxy._lines), what="it is held up half way")
            await load.go_on(60)
            assert not backup.done()
            proxy.hear()
            await backup
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        restored = await put_back(tmp_path / "backup", cluster.dsn())
        assert restored.manifest.rows < sum(len(rows) for rows in contents(postgres_dsn).values())
        async with open_postgres_saver(cluster.dsn(), storage="shared") as other:
            assert await states(other) == left
            for thread, checkpoints in before.items():
                found = await history(other, thread)
                assert found[-len(checkpoints) :] == checkpoints
            for kind in GRAPHS:
                assert await one_more(other, kind) == await one_more(saver, kind)


async def _left_behind(orchestrator: Orchestrator, gates: Gates) -> dict[str, Run]:
    """A run in each state that one can be in."""
    runs = {"done": await orchestrator.start_and_wait("quick", {"text": "a\0b"}, timeout=60)}
    runs["running"] = await orchestrator.start("chain", {"text": "x"}, thread_id="thread")
    runs["pending"] = await orchestrator.start("quick", {"text": "y"}, thread_id="thread")
    runs["waiting"] = await orchestrator.start("asking", {"text": "z"})
    await status(orchestrator, runs["waiting"], RunStatus.WAITING)
    await until(lambda: "two" in gates.reached, what="the run is in its second step")
    return runs


async def test_runs_that_were_under_way_go_on_in_the_restored_system(
    checkpointer_settings: CheckpointerSettings, postgres_dsn: str, empty_dsn: str, tmp_path: Path
) -> None:
    gates, source = Gates(), postgres_world(checkpointer_settings)
    gates.open("one", "three")
    graphs = {"quick": chain(), "asking": asking()}
    async with source.open(chain=chain(gates=gates), **graphs) as orchestrator:
        runs = await _left_behind(orchestrator, gates)
        await make(postgres_dsn, tmp_path / "backup")
        gates.open("two")
    await put_back(tmp_path / "backup", empty_dsn)
    settings = source.settings.model_copy(update={"postgres_connection_string": SecretStr(empty_dsn)})
    again = Gates()
    again.open(*STEPS)
    async with PostgresWorld(settings).open(chain=chain(gates=again), **graphs) as orchestrator:
        assert await orchestrator.poll(runs["done"].run_id) == runs["done"]
        lost = await orchestrator.wait(runs["running"].run_id, timeout=60)
        assert (lost.status, lost.output["trace"], lost.losses) == (RunStatus.COMPLETED, STEPS, 1)
        assert again.reached == ["two", "three"]
        assert (await orchestrator.wait(runs["pending"].run_id, timeout=60)).status is RunStatus.COMPLETED
        await orchestrator.resume(runs["waiting"].run_id, "yes")
        assert (await orchestrator.wait(runs["waiting"].run_id, timeout=60)).output["trace"] == ["yes"]
    with psycopg.connect(empty_dsn) as conn:
        begun = conn.execute(f"SELECT count(*) FROM {SCHEMA}.workflow_event WHERE number = 1".encode()).fetchone()
    assert begun == (len(runs),)
