"""`holdfast worker` processes beside a server that only starts runs: killed, frozen, forgotten, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import pytest

from orchestrator import OrchestratorSettings, open_orchestrator
from orchestrator.opening import Role
from tests.chaos import graphs
from tests.chaos.crew import Crew, open_crew, pids
from tests.chaos.graphs import LINE, LONG
from tests.chaos.journal import Entry
from tests.postgres import Cluster
from tests.waiting import until

pytestmark = pytest.mark.chaos
RUNS = 300


async def test_three_workers_share_the_work_and_one_is_killed(postgres_dsn: str, tmp_path: Path) -> None:
    async with open_crew(tmp_path, postgres_dsn, 3) as crew:
        victim, *others = crew.workers
        starting = asyncio.create_task(crew.invoke_many(RUNS, "line", {"work_s": 0.005}))
        await until(lambda: crew.counts().get("completed", 0) >= RUNS // 2, timeout_s=60, what="half are done")
        before = crew.journal.entries(event="enter", node="one")
        await crew.kill_inside(victim)
        run_ids = await starting
        rows = await crew.all_completed(RUNS)

        share = Counter(entry.pid for entry in before)
        assert set(share) == {worker.pid for worker in crew.workers}
        print("runs begun by each worker until one was killed:", *share.values())
        assert min(share.values()) >= 0.05 * len(before), share
        ran = crew.by_run()
        assert set(ran) == set(run_ids)
        lost = {str(row["run_id"]) for row in rows if row["losses"]}
        for row in rows:
            run_id = str(row["run_id"])
            assert row["output"]["trace"] == list(LINE)
            assert (row["attempt"], row["failures"]) == (1 + row["losses"], 0)
            assert row["losses"] == int(run_id in lost) <= 1
            _nothing_finished_ran_again(ran[run_id], victim.pid, lost=run_id in lost)
        assert 0 < len(lost) <= 10, "what one worker of WORKER_CONCURRENCY=10 had under way"
        for run_id in lost:
            assert crew.journal.forward(run_id, LINE)
        _activities_agree(crew, ran, lost)
        assert {worker.pid for worker in others} >= pids([entry for each in lost for entry in ran[each]]) - {victim.pid}


def _nothing_finished_ran_again(entries: Sequence[Entry], victim: int, *, lost: bool) -> None:
    """Only the node that was under way, or just about to be saved, in the killed worker may have been run twice."""
    begun = Counter(entry.node for entry in entries if entry.event == "enter")
    assert set(begun) == set(LINE)
    again = [node for node, times in begun.items() if times > 1]
    if not lost:
        assert not again, entries
    elif again:
        [node] = again
        assert begun[node] == 2
        assert [entry.node for entry in entries if entry.pid == victim][-1] == node


def _activities_agree(crew: Crew, ran: Mapping[str, Sequence[Entry]], lost: Set[str]) -> None:
    """Each node once, as it was run; of lost runs, what the killed worker had not written yet may be missing."""
    rows = crew.rows("SELECT run_id, activity, status, count(*) AS n FROM workflow_activity GROUP BY 1, 2, 3")
    begun = Counter((run_id, entry.node) for run_id, each in ran.items() for entry in each if entry.event == "enter")
    kept: Counter[tuple[str, str]] = Counter()
    for row in rows:
        assert row["status"] == "completed" or str(row["run_id"]) in lost, row
        # Twice where a node came to its end twice: its result was not saved yet when the worker was killed.
        assert row["status"] == "lost" or row["n"] <= 1 + (str(row["run_id"]) in lost), row
        kept[str(row["run_id"]), row["activity"]] += row["n"]
    assert kept <= begun
    assert {key for key in begun if key[0] not in lost} == {key for key in kept if key[0] not in lost}


async def test_a_frozen_workers_late_job_changes_nothing(postgres_dsn: str, tmp_path: Path) -> None:
    async with open_crew(tmp_path, postgres_dsn, 0) as crew:
        stale = await crew.add_worker(RUN_LEASE_SECONDS="2.5")
        held = {"hold": {"two": "gate"}}
        run_ids = [await crew.invoke(crew.server, workflow, held) for workflow in ("line", "threaded") * 2]
        for run_id in run_ids:
            assert (await crew.entered(run_id, "two")).pid == stale.pid
        assert [job["status"] for job in crew.jobs()] == ["doing"] * len(run_ids)
        other = await crew.add_worker()
        os.kill(stale.pid, signal.SIGSTOP)
        try:
            for run_id in run_ids:
                assert (await crew.entered(run_id, "two", times=2)).pid == other.pid
            crew.open("gate")
            for row in await crew.completed(*run_ids):
                assert (row["attempt"], row["losses"]) == (2, 1)
            before = [crew.dump(run_id) for run_id in run_ids]
            assert [job["status"] for job in crew.jobs()] == ["doing"] * len(run_ids)
        finally:
            os.kill(stale.pid, signal.SIGCONT)
        await until(lambda: not crew.jobs(), what="it ends its jobs")
        assert [crew.dump(run_id) for run_id in run_ids] == before
        assert await other.stop() == 0
        again = await crew.invoke(crew.server, "line")
        await crew.completed(again)
        assert pids(crew.journal.entered(again)) == {stale.pid}
        assert [crew.dump(run_id) for run_id in run_ids] == before
        for run_id in run_ids:
            assert crew.journal.forward(run_id, LINE) == {"one": 1, "two": 2, "three": 1}
            crew.agree(run_id)


def _both(registered: list[int]) -> list[int]:
    """A process's workers of the queue, one for runs and one for steps, once they are there."""
    return registered if len(registered) == 2 else []


_SILENT = "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 h' WHERE id = ANY(%s) RETURNING id"


async def test_a_worker_that_the_queue_has_forgotten_goes_on(postgres_dsn: str, tmp_path: Path) -> None:
    """Its registration is gone, as after a time in which it was frozen. What it has under way is not disturbed."""
    async with open_crew(tmp_path, postgres_dsn, 1, DRAIN_TIMEOUT="1") as crew:
        [worker] = crew.workers
        held = await crew.invoke(crew.server, "line", {"hold": {"two": "gate"}})
        await crew.entered(held, "two")
        registered = await until(lambda: _both(crew.registered()), what="it is registered")

        def forgotten() -> bool:
            """Whether they are pruned. One whose heart beats just now is not."""
            crew.rows(_SILENT, [registered])
            crew.rows("SELECT * FROM procrastinate_prune_stalled_workers_v1(30)")
            return not set(registered) & set(crew.registered())

        await until(forgotten, what="it is forgotten")
        meanwhile = await crew.invoke(crew.server, "line")
        await crew.completed(meanwhile)
        await until(lambda: set(crew.registered()) - set(registered), what="it is registered again")
        assert "the queue's worker is started again" in worker.log
        crew.open("gate")
        later = await crew.invoke(crew.server, "line")
        rows = await crew.completed(held, later)
        assert [row["attempt"] for row in rows] == [1, 1]
        assert crew.journal.forward(held, LINE) == dict.fromkeys(LINE, 1)
        await until(lambda: not crew.jobs(), what="no job is left over")


async def test_a_stopped_worker_hands_its_runs_over(postgres_dsn: str, tmp_path: Path) -> None:
    async with open_crew(tmp_path, postgres_dsn, 1, DRAIN_TIMEOUT="50") as crew:
        [leaving] = crew.workers
        run_ids = await crew.invoke_many(8, "long", {"hold": {"n2": "gate", "n4": "later"}})
        for run_id in run_ids:
            await crew.entered(run_id, "n2")
        staying = await crew.add_worker()
        assert _runners(crew) == {
            (crew.server.pid, "serve --no-worker"),
            (leaving.pid, "worker"),
            (staying.pid, "worker"),
        }
        crew.open("gate")
        for run_id in run_ids:
            await crew.entered(run_id, "n4")
        stopping = asyncio.create_task(leaving.stop())
        await until(lambda: "runs stop at their next checkpoint" in leaving.log, what="it begins to stop")
        crew.open("later")
        assert await stopping == 0
        assert _runners(crew) == {(crew.server.pid, "serve --no-worker"), (staying.pid, "worker")}
        for row in await crew.completed(*run_ids):
            assert (row["attempt"], row["losses"], row["failures"]) == (2, 0, 0)
        for run_id in run_ids:
            assert crew.journal.forward(run_id, LONG) == dict.fromkeys(LONG, 1)
            assert pids(crew.journal.entered(run_id)) == {leaving.pid, staying.pid}
            crew.agree(run_id)


def _runners(crew: Crew) -> set[tuple[int, str]]:
    return {(row["pid"], row["kind"]) for row in crew.rows("SELECT pid, kind FROM workflow_runner")}


async def test_a_worker_of_a_queue_takes_that_ones_runs(postgres_dsn: str, tmp_path: Path) -> None:
    settings = OrchestratorSettings(use_postgres_saver=True, postgres_connection_string=postgres_dsn)
    async with (
        open_crew(tmp_path, postgres_dsn, 1) as crew,
        open_orchestrator({"line": graphs.line}, settings=settings, role=Role(works=False)) as program,
    ):
        [plain] = crew.workers
        gpu = [(await program.start("line", {}, queue="gpu")).run_id for _ in range(5)]
        flow = [(await program.start("line", {})).run_id for _ in range(5)]
        await crew.completed(*flow)
        # Whoever takes runs from the table, and not from the queue, does so every half a second and from 2 s on.
        await until(lambda: crew.rows(_OLD, [gpu]), what="they were left to the queue long enough")
        assert {crew.row(run_id)["status"] for run_id in gpu} == {"pending"}
        special = await crew.add_worker("--queues", "gpu")
        await crew.completed(*gpu)
        more = [(await program.start("line", {}, queue=queue)).run_id for queue in ("gpu", "flow") * 5]
        await crew.completed(*more)
        assert {each.pid for run_id in (*gpu, *more[::2]) for each in crew.journal.entered(run_id)} == {special.pid}
        assert {each.pid for run_id in (*flow, *more[1::2]) for each in crew.journal.entered(run_id)} == {plain.pid}


_OLD = """
    SELECT FROM workflow_metadata WHERE run_id = ANY(%s::uuid[]) HAVING max(created_at) < now() - interval '3 s'
"""


async def test_concurrency_bounds_the_runs_under_way(postgres_dsn: str, tmp_path: Path) -> None:
    async with open_crew(tmp_path, postgres_dsn, 1, "--concurrency", "2") as crew:
        # Enough for some to be left over by the queue until they are taken from the table, too.
        await crew.invoke_many(40, "line", {"work_s": 0.05})
        await crew.all_completed(40)
        ends = [(each[0].time, 1) for each in crew.by_run().values()]
        ends += [(each[-1].time, -1) for each in crew.by_run().values()]
        under_way, most = 0, 0
        for _, change in sorted(ends):
            under_way += change
            most = max(most, under_way)
        assert most == 2


async def test_workers_go_on_when_postgres_has_crashed(cluster: Cluster, tmp_path: Path) -> None:
    async with open_crew(tmp_path, cluster.dsn(), 2, quiet=False) as crew:
        # The first 20 come as far as the gate, so that some of each kind are left at the crashes.
        run_ids = await crew.invoke_many(40, "long", {"work_s": 0.02, "hold": {LONG[-1]: "gate"}})
        for done in (60, 150):
            await until(lambda done=done: len(crew.journal.entries(event="leave")) >= done, what="nodes were run")  # type: ignore[misc]
            await asyncio.to_thread(cluster.restart, "immediate")
        crew.open("gate")
        for row in await crew.all_completed(40):
            assert row["output"]["trace"] == list(LONG)
        for run_id in run_ids:
            crew.journal.forward(run_id, LONG)
        await until(lambda: len(crew.registered()) >= 4 and crew.alive() == 3, what="all are back")
        assert all(worker.running for worker in crew.workers)
        await _both_work(crew)
        # A job whose fetch or end was lost stays `doing` as long as its worker lives; its run went on without it.
        await until(lambda: {job["status"] for job in crew.jobs()} <= {"doing"}, what="every message was delivered")


async def _both_work(crew: Crew) -> None:
    """Both workers take runs from the queue."""

    async def share() -> bool:
        run_ids = await crew.invoke_many(10, "line", {"work_s": 0.05})
        await crew.completed(*run_ids)
        ran = crew.by_run()
        return {each.pid for run_id in run_ids for each in ran[run_id]} == {worker.pid for worker in crew.workers}

    await until(share, timeout_s=90, what="both take runs")
