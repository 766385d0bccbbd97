"""What happens to runs when their server dies, stops, or loses its connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from checkpointer import CheckpointerSettings, ConnectError, PooledPostgresSaver, SettingsError
from checkpointer.factory import open_saver
from checkpointer.postgres import schema as tables
from orchestrator import OrchestratorSettings, RunStatus, open_orchestrator
from orchestrator.engine.owner import OwnerLock, new_owner_id
from orchestrator.engine.service import open_run_store
from orchestrator.migrations import MIGRATIONS
from orchestrator.runs.model import Run, new_run_id
from orchestrator.runs.postgres import PostgresRunStore
from orchestrator.runs.store import NewRun
from tests.graphs import Gates, chain
from tests.postgres import Cluster
from tests.waiting import until

TRACE = ["one", "two", "three"]
SCHEMA = "workflow_checkpoints"


@pytest.fixture
def settings(checkpointer_settings: CheckpointerSettings) -> OrchestratorSettings:
    return OrchestratorSettings(**checkpointer_settings.model_dump(exclude_unset=True), drain_timeout=2.0)


@pytest.fixture
def own_settings(cluster: Cluster) -> OrchestratorSettings:
    return OrchestratorSettings(use_postgres_saver=True, postgres_connection_string=cluster.dsn(), drain_timeout=2.0)


@asynccontextmanager
async def _store(settings: CheckpointerSettings) -> AsyncIterator[PostgresRunStore]:
    async with open_saver(settings, migrations=(MIGRATIONS,)) as saver:
        assert isinstance(saver, PooledPostgresSaver)
        yield PostgresRunStore(saver.pool, saver.schema)


async def _left_running(settings: CheckpointerSettings, *, attempts: int = 1, max_attempts: int = 3) -> Run:
    """A run as a server leaves it that is killed in its nth attempt."""
    new = NewRun(
        run_id=new_run_id(),
        workflow_type="chain",
        input={"text": "x"},
        max_attempts=max_attempts,
        lease_owner=new_owner_id(),
        organization_id="default",
    )
    async with _store(settings) as store:
        run: Run | None = (await store.create(new)).run
        for attempt in range(attempts):
            assert run is not None
            if attempt:
                assert run.lease_owner is not None
                [run] = await store.take_over(new_owner_id(), run.lease_owner, ["chain"])
            run = await store.claim(run)
    assert run is not None
    return run


async def test_runs_of_a_dead_server_are_finished(settings: OrchestratorSettings) -> None:
    lost = await _left_running(settings)
    async with open_orchestrator({"chain": chain()}, settings=settings) as orchestrator:
        run = await orchestrator.wait(lost.run_id, timeout=15)
    assert (run.status, run.attempt, run.output["trace"]) == (RunStatus.COMPLETED, 2, TRACE)


async def test_a_run_that_loses_every_server_fails_and_others_go_on(settings: OrchestratorSettings) -> None:
    doomed = await _left_running(settings, attempts=2, max_attempts=2)
    other = await _left_running(settings)
    async with open_orchestrator({"chain": chain()}, settings=settings) as orchestrator:
        run = await orchestrator.wait(doomed.run_id, timeout=15)
        assert (await orchestrator.wait(other.run_id, timeout=15)).status is RunStatus.COMPLETED
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert "attempt 2 of 2" in run.error["message"]


async def test_a_server_without_the_graph_leaves_the_run_alone(settings: OrchestratorSettings) -> None:
    lost = await _left_running(settings)
    async with open_orchestrator({"other": chain()}, settings=settings) as orchestrator:
        for _ in range(3):
            await orchestrator._recovery.tick()
        assert (await orchestrator.poll(lost.run_id)).status is RunStatus.RUNNING


async def test_a_second_server_does_not_take_a_living_ones_runs(settings: OrchestratorSettings) -> None:
    gates = Gates()
    graphs = {"chain": chain(gates=gates)}
    async with (
        open_orchestrator(graphs, settings=settings) as first,
        open_orchestrator(graphs, settings=settings) as second,
    ):
        started = await first.start("chain", {"text": "x"})
        await until(lambda: gates.reached)
        for _ in range(3):
            await second._recovery.tick()
        gates.open(*TRACE)
        run = await second.wait(started.run_id, timeout=15)
    assert (run.status, run.attempt, run.output["trace"]) == (RunStatus.COMPLETED, 1, TRACE)
    assert gates.reached == TRACE


async def test_a_stopped_servers_runs_go_on_elsewhere_without_repeating_a_step(
    settings: OrchestratorSettings,
) -> None:
    gates = Gates()
    graphs = {"chain": chain(gates=gates)}
    async with open_orchestrator(graphs, settings=settings) as second:
        async with open_orchestrator(graphs, settings=settings) as first:
            started = await first.start("chain", {"text": "x"})
            await until(lambda: gates.reached)
            first.request_close()
            gates.open(*TRACE)
        run = await second.wait(started.run_id, timeout=15)
    assert (run.status, run.attempt, run.output["trace"]) == (RunStatus.COMPLETED, 1, TRACE)
    assert gates.reached == TRACE


async def test_runs_of_one_thread_on_two_servers_never_overlap(settings: OrchestratorSettings) -> None:
    gates = Gates()
    gates.open("step")
    graphs = {"chain": chain(["step"], gates)}
    async with (
        open_orchestrator(graphs, settings=settings) as first,
        open_orchestrator(graphs, settings=settings) as second,
    ):
        started = [
            await server.start("chain", {"text": "x"}, thread_id="t") for server in (first, second, first, second)
        ]
        runs = [await first.wait(run.run_id, timeout=20) for run in started]
    assert [len(run.output["trace"]) for run in runs] == [1, 2, 3, 4]
    assert gates.most_running == 1


async def test_an_idempotency_key_makes_one_run_over_two_servers(settings: OrchestratorSettings) -> None:
    graphs = {"chain": chain()}
    async with (
        open_orchestrator(graphs, settings=settings) as first,
        open_orchestrator(graphs, settings=settings) as second,
    ):
        runs = await asyncio.gather(
            *(
                server.start("chain", {"text": "x"}, idempotency_key=f"k{n % 5}")
                for server in (first, second)
                for n in range(25)
            )
        )
        assert len({run.run_id for run in runs}) == 5
        assert (await first.wait(runs[0].run_id, timeout=15)).status is RunStatus.COMPLETED


async def test_a_run_that_is_ours_and_driven_by_nobody_is_picked_up(settings: OrchestratorSettings) -> None:
    async with open_orchestrator({"chain": chain()}, settings=settings) as orchestrator:
        lost = NewRun(
            run_id=new_run_id(),
            workflow_type="chain",
            input={"text": "x"},
            max_attempts=3,
            lease_owner=orchestrator._owner,
            organization_id="default",
        )
        await orchestrator._store.create(lost)
        assert (await orchestrator.wait(lost.run_id, timeout=15)).status is RunStatus.COMPLETED


async def test_an_attempt_whose_run_was_taken_is_stopped(
    settings: OrchestratorSettings, postgres_dsn: str, conn: psycopg.Connection
) -> None:
    gates = Gates()
    async with (
        open_orchestrator({"chain": chain(gates=gates)}, settings=settings) as orchestrator,
        OwnerLock(postgres_dsn, SCHEMA, 1).held(),
    ):
        run = await orchestrator.start("chain", {"text": "x"})
        await until(lambda: gates.running == 1)
        conn.execute(f"UPDATE {SCHEMA}.workflow_metadata SET lease_owner = 1, epoch = epoch + 1")
        await until(lambda: gates.running == 0)
        taken = await orchestrator.poll(run.run_id)
        assert (taken.lease_owner, taken.epoch) == (1, 2)
        conn.execute(f"UPDATE {SCHEMA}.workflow_metadata SET status = 'completed', lease_owner = NULL")


async def test_the_owner_lock_comes_back_after_its_connection_was_cut(
    postgres_dsn: str, conn: psycopg.Connection
) -> None:
    owner = new_owner_id()

    def held() -> bool:
        [row] = conn.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
            " AND classid = (%(o)s::bigint >> 32)::oid AND objid = (%(o)s::bigint & 4294967295)::oid",
            {"o": owner},
        )
        return bool(row[0])

    async with OwnerLock(postgres_dsn, SCHEMA, owner).held():
        assert held()
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await until(lambda: not held(), what="the lock is gone")
        await until(held, what="the lock is back")
    await until(lambda: not held())


async def test_an_owner_lock_that_can_not_be_taken_is_a_connect_error(cluster: Cluster) -> None:
    cluster.stop()
    with pytest.raises(ConnectError, match="says this server is alive"):
        async with OwnerLock(cluster.dsn(), SCHEMA, 1).held():
            pass


async def test_runs_survive_a_restart_of_postgres(cluster: Cluster, own_settings: OrchestratorSettings) -> None:
    gates = Gates()
    async with open_orchestrator({"chain": chain(gates=gates)}, settings=own_settings) as orchestrator:
        started = [await orchestrator.start("chain", {"text": "x"}) for _ in range(20)]
        await until(lambda: gates.running == 20)
        await asyncio.to_thread(cluster.stop, "immediate")
        gates.open(*TRACE)
        await asyncio.to_thread(cluster.start)
        runs = [await orchestrator.wait_for(run, timeout=60) for run in started]
    assert {run.status for run in runs} == {RunStatus.COMPLETED}
    assert {tuple(run.output["trace"]) for run in runs} == {tuple(TRACE)}


async def test_an_outage_longer_than_the_patience_of_a_save(
    cluster: Cluster, own_settings: OrchestratorSettings, caplog: pytest.LogCaptureFixture
) -> None:
    impatient = own_settings.model_copy(update={"postgres_retry_for": 0.3})
    gates = Gates()
    gates.open("two", "three")
    async with open_orchestrator({"chain": chain(gates=gates)}, settings=impatient) as orchestrator:
        started = await orchestrator.start("chain", {"text": "x"})
        await until(lambda: gates.running == 1)
        await asyncio.to_thread(cluster.stop)
        gates.open("one")
        await until(lambda: "handing a run back waits for the database" in caplog.text)
        await asyncio.to_thread(cluster.start)
        run = await orchestrator.wait_for(started, timeout=60)
    assert (run.status, run.output["trace"]) == (RunStatus.COMPLETED, TRACE)
    assert run.attempt == 2


async def test_a_transaction_pooler_needs_a_direct_address_too(settings: OrchestratorSettings) -> None:
    pooled = settings.model_copy(update={"postgres_pooler": "transaction"})
    with pytest.raises(SettingsError, match="POSTGRES_MIGRATION_CONNECTION_STRING"):
        async with open_orchestrator({"chain": chain()}, settings=pooled):
            pass
    direct = pooled.model_copy(update={"postgres_migration_connection_string": settings.postgres_connection_string})
    async with open_orchestrator({"chain": chain()}, settings=direct) as orchestrator:
        assert (await orchestrator.start_and_wait("chain", {"text": "x"}, timeout=10)).is_final


async def test_the_store_alone_can_be_looked_at(settings: OrchestratorSettings) -> None:
    lost = await _left_running(settings)
    async with open_run_store(settings) as store:
        assert await store.get(lost.run_id) == lost
    with pytest.raises(SettingsError, match="USE_POSTGRES_SAVER"):
        async with open_run_store(OrchestratorSettings()):
            pass


async def test_the_migration_has_its_way_back(postgres_dsn: str, conn: psycopg.Connection) -> None:
    def shape() -> list[tuple[object, ...]]:
        return conn.execute(
            "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
            " WHERE table_schema = %s AND table_name LIKE 'workflow%%' ORDER BY 1, 2",
            [SCHEMA],
        ).fetchall()

    for _ in range(2):
        assert await tables.setup(postgres_dsn, SCHEMA, (MIGRATIONS,)) == ["orchestrator 0001 runs"]
        made = shape()
        assert len(made) == 25
        await tables.verify(postgres_dsn, SCHEMA, (MIGRATIONS,))
        assert await tables.revert(postgres_dsn, SCHEMA, (MIGRATIONS,)) == ["orchestrator 0001 runs"]
        assert shape() == []
