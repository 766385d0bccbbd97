"""Runs whose checkpoints are in memory while their rows are in PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from checkpointer import CheckpointerSettings, SettingsError
from checkpointer.rollout import RolloutSaver
from orchestrator import Orchestrator, OrchestratorSettings, RunStatus, open_orchestrator
from orchestrator.errors import RivalError
from orchestrator.opening import Role
from orchestrator.serverless import handle_queue_message
from tests.graphs import Gates, asking, chain
from tests.waiting import until
from tests.worlds import status


def _settings(checkpointer: CheckpointerSettings, percent: int, **changes: Any) -> OrchestratorSettings:
    given = checkpointer.model_dump(exclude_unset=True)
    return OrchestratorSettings(**given | {"postgres_saver_rollout_percent": percent, "drain_timeout": 2.0} | changes)


def _savers(conn: psycopg.Connection) -> dict[str, str]:
    rows = conn.execute("SELECT thread_id, saver FROM workflow_checkpoints.workflow_metadata").fetchall()
    return dict(rows)


async def test_the_row_says_where_the_checkpoints_are(
    checkpointer_settings: CheckpointerSettings, conn: psycopg.Connection
) -> None:
    """In memory for new threads at 0 %, in PostgreSQL for one that is there; the last checkpoint is noted too."""
    async with open_orchestrator({"chain": chain()}, settings=_settings(checkpointer_settings, 100)) as orchestrator:
        before = await orchestrator.start_and_wait("chain", {"text": "a"}, thread_id="old")
    assert before.saver == "PostgresSaver"
    async with open_orchestrator({"chain": chain()}, settings=_settings(checkpointer_settings, 0)) as orchestrator:
        old = await orchestrator.start_and_wait("chain", {"text": "b"}, thread_id="old")
        new = await orchestrator.start_and_wait("chain", {"text": "c"}, thread_id="new")
        alone = await orchestrator.start_and_wait("chain", {"text": "d"})
        assert [run.saver for run in (old, new, alone)] == ["PostgresSaver", "MemorySaver", "MemorySaver"]
        assert [len(run.output["trace"]) for run in (old, new)] == [6, 3]
        stored = await orchestrator.poll(new.run_id)
        [head, *_] = await orchestrator.history(new.run_id)
        assert (stored.saver, stored.last_checkpoint_id) == ("MemorySaver", head.checkpoint_id)
        events = [event.kind async for event in orchestrator.stream(new.run_id)]
        assert events.count("checkpoint") == 5
        report = (await orchestrator.health()).as_json()
        assert report["rollout"]["memoryThreads"] == 2
    assert _savers(conn) == {"old": "PostgresSaver", "new": "MemorySaver", alone.thread_id: "MemorySaver"}


async def test_waiting_and_paused_runs_go_on_from_the_snapshot(
    checkpointer_settings: CheckpointerSettings, tmp_path: Path
) -> None:
    """Over a clean stop, after which the percentage is another one."""
    path, gates = tmp_path / "memory.jsonl", Gates()
    first = _settings(checkpointer_settings, 0, memory_snapshot=path)
    graphs = {"asking": asking(), "chain": chain(gates=gates)}
    async with open_orchestrator(graphs, settings=first) as orchestrator:
        waiting = await orchestrator.start_and_wait("asking", {})
        pausing = await orchestrator.start("chain", {})
        await until(lambda: gates.reached)
        await orchestrator.interrupt(pausing.run_id)
        attempt = orchestrator._dispatcher._attempts[pausing.run_id]
        await until(lambda: attempt.control.drain_requested)
        gates.open("one")
        await status(orchestrator, pausing, RunStatus.PAUSED)
    gates.open("two", "three")
    async with open_orchestrator(graphs, settings=_settings(checkpointer_settings, 100, memory_snapshot=path)) as again:
        await again.resume(waiting.run_id, "yes")
        await again.resume(pausing.run_id)
        answered, chained = [await again.wait(run.run_id, timeout=20) for run in (waiting, pausing)]
        assert (answered.status, answered.saver) == (RunStatus.COMPLETED, "MemorySaver")
        assert chained.output["trace"] == ["one", "two", "three"]
        assert gates.reached.count("one") == 1
        # A new thread is PostgreSQL's at 100 %.
        assert (await again.start_and_wait("chain", {})).saver == "PostgresSaver"


@pytest.mark.parametrize("percent", [0, 100])
async def test_a_run_whose_thread_is_lost_fails_and_nothing_is_begun_anew(
    checkpointer_settings: CheckpointerSettings, conn: psycopg.Connection, percent: int
) -> None:
    """Without a snapshot memory ends with its process: a waiting run, and the next turn of a conversation."""
    graphs = {"asking": asking(), "chain": chain()}
    async with open_orchestrator(graphs, settings=_settings(checkpointer_settings, 0)) as orchestrator:
        waiting = await orchestrator.start_and_wait("asking", {})
        await orchestrator.start_and_wait("chain", {}, thread_id="talk")
    async with open_orchestrator(graphs, settings=_settings(checkpointer_settings, percent)) as again:
        await again.resume(waiting.run_id, "yes")
        lost = await again.wait(waiting.run_id, timeout=20)
        turn = await again.start_and_wait("chain", {}, thread_id="talk", timeout=20)
        for run in (lost, turn):
            assert run.status is RunStatus.FAILED
            assert run.error is not None
            assert run.error["type"] == "orchestrator.errors.ThreadLostError"
            assert "MEMORY_SNAPSHOT" in str(run.error["message"])
        fresh = await again.start_and_wait("chain", {}, thread_id="another", timeout=20)
        assert fresh.status is RunStatus.COMPLETED
    lost_threads = [waiting.thread_id, "talk"]
    found = conn.execute(
        "SELECT count(*) FROM workflow_checkpoints.checkpoints WHERE thread_id = ANY (%s)", (lost_threads,)
    ).fetchone()
    assert found == (0,)


async def test_a_snapshot_that_is_older_than_the_rows_is_noticed(
    checkpointer_settings: CheckpointerSettings, tmp_path: Path
) -> None:
    """A server that was killed has lost the turns since its last clean stop; none is said to an old state."""
    path = tmp_path / "memory.jsonl"
    settings = _settings(checkpointer_settings, 0, memory_snapshot=path)
    graphs = {"chain": chain()}
    async with open_orchestrator(graphs, settings=settings) as orchestrator:
        await orchestrator.start_and_wait("chain", {}, thread_id="talk")
        await orchestrator.start_and_wait("chain", {}, thread_id="quiet")
    older = path.read_bytes()
    async with open_orchestrator(graphs, settings=settings) as orchestrator:
        await orchestrator.start_and_wait("chain", {}, thread_id="talk")
    path.write_bytes(older)
    async with open_orchestrator(graphs, settings=settings) as orchestrator:
        turn = await orchestrator.start_and_wait("chain", {}, thread_id="talk", timeout=20)
        assert turn.error is not None
        assert turn.error["type"] == "orchestrator.errors.ThreadLostError"
        quiet = await orchestrator.start_and_wait("chain", {}, thread_id="quiet", timeout=20)
        assert quiet.status is RunStatus.COMPLETED


async def test_a_run_that_never_saved_in_memory_begins_where_it_is_taken_up(
    checkpointer_settings: CheckpointerSettings, conn: psycopg.Connection
) -> None:
    """It was one of memory and was handed back before its first checkpoint: nothing was lost with that process."""
    gates = Gates()
    hasty = _settings(checkpointer_settings, 0, drain_timeout=0.2)
    async with open_orchestrator({"chain": chain(gates=gates)}, settings=hasty) as first:
        run = await first.start("chain", {})
        await until(lambda: gates.reached)
    # As if it had stopped between noting where the thread is and the first save.
    conn.execute("UPDATE workflow_checkpoints.workflow_metadata SET last_checkpoint_id = NULL")
    assert _savers(conn) == {run.thread_id: "MemorySaver"}
    gates.open("one", "two", "three")
    settings = _settings(checkpointer_settings, 100)
    async with open_orchestrator({"chain": chain(gates=gates)}, settings=settings) as again:
        ended = await again.wait(run.run_id, timeout=20)
    assert (ended.status, ended.saver) == (RunStatus.COMPLETED, "PostgresSaver")
    assert _savers(conn) == {run.thread_id: "PostgresSaver"}


async def test_beside_a_process_that_keeps_threads_in_memory_there_is_no_other(
    checkpointer_settings: CheckpointerSettings,
) -> None:
    """Neither order works, and each goes once the other one is gone."""
    alone, durable = _settings(checkpointer_settings, 50), _settings(checkpointer_settings, 100)
    graphs = {"chain": chain()}
    for first, second in ((alone, alone), (alone, durable), (durable, alone)):
        async with open_orchestrator(graphs, settings=first) as running:
            with pytest.raises(RivalError, match="stop the other one first"):
                await _open(second)
            assert (await running.start_and_wait("chain", {}, timeout=20)).status is RunStatus.COMPLETED
    await _open(alone)
    async with open_orchestrator(graphs, settings=durable):
        await _open(durable)


async def _open(settings: OrchestratorSettings) -> None:
    async with open_orchestrator({"chain": chain()}, settings=settings) as orchestrator:
        assert isinstance(orchestrator, Orchestrator)


@pytest.mark.parametrize("role", [Role("worker"), Role("serve --no-worker", works=False)], ids=["worker", "no-worker"])
async def test_processes_that_could_not_reach_the_memory_are_refused(
    checkpointer_settings: CheckpointerSettings, role: Role
) -> None:
    """A setting, so exit code 2; at 100 % they work, whatever MEMORY_SNAPSHOT says."""
    with pytest.raises(SettingsError, match="POSTGRES_SAVER_ROLLOUT_PERCENT=99"):
        async with open_orchestrator({"chain": chain()}, settings=_settings(checkpointer_settings, 99), role=role):
            pytest.fail("it was opened")
    async with open_orchestrator({"chain": chain()}, settings=_settings(checkpointer_settings, 100), role=role):
        pass


async def test_a_serverless_handler_is_refused_too(checkpointer_settings: CheckpointerSettings) -> None:
    """It keeps nothing between two calls."""
    message = {"kind": "flow", "id": "0198c0de-0000-7000-8000-000000000000", "name": "chain"}
    with pytest.raises(SettingsError, match="'serverless'"):
        await handle_queue_message(message, graphs={"chain": chain()}, settings=_settings(checkpointer_settings, 0))


async def test_the_opened_saver_is_a_rollout(checkpointer_settings: CheckpointerSettings) -> None:
    """A graph that is given the saver sees one that takes every thread."""
    seen: list[object] = []

    def factory(saver: Any) -> Any:
        seen.append(saver)
        return chain()

    async with open_orchestrator({"chain": factory}, settings=_settings(checkpointer_settings, 50)):
        assert isinstance(seen[0], RolloutSaver)
