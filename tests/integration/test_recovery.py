"""What a server does about the runs of others that are gone, and about its own: recovery, tick by tick."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from checkpointer import CheckpointerSettings, SettingsError
from checkpointer.postgres import schema as tables
from orchestrator import Orchestrator, OrchestratorSettings, RunStatus, open_orchestrator
from orchestrator.engine.leases import Held, new_owner_id
from orchestrator.engine.recovery import Recovery
from orchestrator.migrations import MIGRATIONS
from orchestrator.opening import open_run_store
from orchestrator.runs.model import Request, Run, new_run_id
from orchestrator.runs.store import Absent, NewRun
from tests.graphs import Gates, chain
from tests.postgres import Cluster
from tests.waiting import until

TRACE = ["one", "two", "three"]
SCHEMA = "workflow_checkpoints"
RUNS = f"{SCHEMA}.workflow_metadata"


@pytest.fixture
def settings(checkpointer_settings: CheckpointerSettings) -> OrchestratorSettings:
    """Leases so long that no renewal comes in between."""
    given = checkpointer_settings.model_dump(exclude_unset=True)
    return OrchestratorSettings(**given, drain_timeout=2.0, run_lease_seconds=600)


@pytest.fixture
def own_settings(cluster: Cluster) -> OrchestratorSettings:
    return OrchestratorSettings(use_postgres_saver=True, postgres_connection_string=cluster.dsn(), drain_timeout=2.0)


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery ticks only where the test says so."""
    monkeypatch.setattr(Recovery, "start", lambda self: None)


@asynccontextmanager
async def alive(dsn: str, owner: int) -> AsyncIterator[None]:
    """Someone else holds the lock that says so."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("SELECT pg_advisory_lock(%s)", [owner])
        yield
        # It would be free a moment after the connection is closed, and not at once.
        await conn.execute("SELECT pg_advisory_unlock(%s)", [owner])


async def left_running(settings: OrchestratorSettings, *, losses: int = 0, max_attempts: int = 3) -> Run:
    """A run as a server leaves it that is killed, after others were."""
    new = NewRun(
        run_id=new_run_id(),
        workflow_type="chain",
        input={"text": "x"},
        max_attempts=max_attempts,
        organization_id="default",
    )
    async with open_run_store(settings) as store:
        run = (await store.create(new, owner=new_owner_id())).run
        for _ in range(losses):
            assert run.lease_owner is not None
            [taken] = await store.take_over(Absent(run.lease_owner, "lock"))
            claimed = await store.claim(taken, new_owner_id())
            assert claimed is not None
            run = claimed
        return await store.get(run.run_id)


async def status_of(orchestrator: Orchestrator, run: Run) -> RunStatus:
    return (await orchestrator.poll(run.run_id)).status


class TestTheLost:
    pytestmark = pytest.mark.usefixtures("by_hand")

    async def test_an_owner_is_gone_when_two_ticks_say_so(
        self, settings: OrchestratorSettings, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        lost = await left_running(settings)
        async with open_orchestrator({"chain": chain()}, settings=settings) as orchestrator:
            await orchestrator.recovery.tick()
            assert await orchestrator.poll(lost.run_id) == lost
            await orchestrator.recovery.tick()
            run = await orchestrator.wait(lost.run_id, timeout=30)
        assert (run.status, run.output["trace"]) == (RunStatus.COMPLETED, TRACE)
        assert (run.attempt, run.losses, run.failures) == (2, 1, 0)
        assert f"run {lost.run_id} of a lost server was taken over (its connection is gone)" in caplog.text

    async def test_one_that_is_back_by_the_second_tick_keeps_its_runs(
        self, settings: OrchestratorSettings, postgres_dsn: str
    ) -> None:
        """And then it takes two ticks again."""
        lost = await left_running(settings)
        assert lost.lease_owner is not None
        async with open_orchestrator({"chain": chain()}, settings=settings) as orchestrator:
            await orchestrator.recovery.tick()
            async with alive(postgres_dsn, lost.lease_owner):
                for _ in range(3):
                    await orchestrator.recovery.tick()
            await orchestrator.recovery.tick()
            assert await orchestrator.poll(lost.run_id) == lost
            await orchestrator.recovery.tick()
            assert (await orchestrator.wait(lost.run_id, timeout=30)).losses == 1

    async def test_one_that_holds_its_lock_and_lets_its_leases_lapse_is_frozen(
        self,
        settings: OrchestratorSettings,
        postgres_dsn: str,
        conn: psycopg.Connection,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level("INFO")
        lost = await left_running(settings)
        assert lost.lease_owner is not None
        async with (
            alive(postgres_dsn, lost.lease_owner),
            open_orchestrator({"chain": chain()}, settings=settings) as orchestrator,
        ):
            for _ in range(3):
                await orchestrator.recovery.tick()
            assert await orchestrator.poll(lost.run_id) == lost
            conn.execute(f"UPDATE {RUNS} SET lease_until = clock_timestamp() - interval '1 ms'")
            await orchestrator.recovery.tick()
            assert (await orchestrator.poll(lost.run_id)).epoch == lost.epoch
            await orchestrator.recovery.tick()
            run = await orchestrator.wait(lost.run_id, timeout=30)
        assert (run.status, run.losses) == (RunStatus.COMPLETED, 1)
        assert "its lease has lapsed" in caplog.text

    async def test_a_run_that_has_lost_every_server_fails_and_others_go_on(
        self, settings: OrchestratorSettings
    ) -> None:
        doomed = await left_running(settings, losses=1, max_attempts=2)
        other = await left_running(settings)
        async with open_orchestrator({"chain": chain()}, settings=settings) as orchestrator:
            waiting = asyncio.create_task(orchestrator.wait(doomed.run_id, timeout=30))
            await orchestrator.recovery.tick()
            await orchestrator.recovery.tick()
            run = await waiting
            assert (await orchestrator.wait(other.run_id, timeout=30)).status is RunStatus.COMPLETED
        assert (run.status, run.attempt, run.losses) == (RunStatus.FAILED, 2, 2)
        assert run.error is not None
        assert run.error["type"] == "AttemptsExhaustedError"
        assert "the worker was lost 2 times" in run.error["message"]

    async def test_a_server_without_the_graph_leaves_the_run_to_others(self, settings: OrchestratorSettings) -> None:
        lost = await left_running(settings)
        async with open_orchestrator({"other": chain()}, settings=settings) as orchestrator:
            for _ in range(3):
                await orchestrator.recovery.tick()
            assert await status_of(orchestrator, lost) is RunStatus.PENDING
            async with open_orchestrator({"chain": chain()}, settings=settings) as able:
                await able.recovery.tick()
                assert (await orchestrator.wait(lost.run_id, timeout=30)).status is RunStatus.COMPLETED

    async def test_a_living_servers_runs_are_its_own(self, settings: OrchestratorSettings) -> None:
        gates = Gates()
        graphs = {"chain": chain(gates=gates)}
        async with (
            open_orchestrator(graphs, settings=settings) as first,
            open_orchestrator(graphs, settings=settings) as second,
        ):
            started = await first.start("chain", {"text": "x"})
            await until(lambda: gates.reached)
            for _ in range(3):
                await second.recovery.tick()
            gates.open(*TRACE)
            run = await second.wait(started.run_id, timeout=30)
        assert (run.status, run.attempt, run.losses) == (RunStatus.COMPLETED, 1, 0)
        assert gates.reached == TRACE

    async def test_a_suspended_run_is_woken_when_it_is_due(
        self, settings: OrchestratorSettings, conn: psycopg.Connection
    ) -> None:
        run = await left_running(settings)
        async with open_orchestrator({"chain": chain()}, settings=settings) as orchestrator:
            suspended = f"UPDATE {RUNS} SET status = 'suspended', lease_owner = NULL, retry_at = clock_timestamp() + %s"
            conn.execute(suspended.encode(), ["1 hour"])
            await orchestrator.recovery.tick()
            assert await status_of(orchestrator, run) is RunStatus.SUSPENDED
            conn.execute(suspended.encode(), ["-1 ms"])
            await orchestrator.recovery.tick()
            assert (await orchestrator.wait(run.run_id, timeout=30)).status is RunStatus.COMPLETED


class TestOurOwn:
    """What the renewals of this server's leases tell it."""

    pytestmark = pytest.mark.usefixtures("by_hand")

    async def test_a_run_that_is_ours_and_driven_by_nobody_is_driven_when_it_is_seen_twice(
        self, settings: OrchestratorSettings, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with open_orchestrator({"chain": chain()}, settings=settings) as orchestrator:
            new = NewRun(new_run_id(), "chain", {"text": "x"}, 3, "default")
            await orchestrator._store.create(new, owner=orchestrator._owner)
            stray = await orchestrator.poll(new.run_id)
            held = Held({stray.run_id: (stray.epoch, None)})
            orchestrator.recovery.hear(held)
            orchestrator.recovery.hear(Held({}))
            orchestrator.recovery.hear(held)
            await asyncio.gather(*orchestrator.recovery._looks)
            assert await orchestrator.poll(stray.run_id) == stray
            orchestrator.recovery.hear(held)
            run = await orchestrator.wait(stray.run_id, timeout=30)
        assert (run.status, run.attempt) == (RunStatus.COMPLETED, 1)
        assert "was ours but not under way" in caplog.text

    async def test_an_attempt_whose_run_was_taken_is_stopped(
        self, settings: OrchestratorSettings, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
    ) -> None:
        gates = Gates()
        async with open_orchestrator({"chain": chain(gates=gates)}, settings=settings) as orchestrator:
            run = await orchestrator.start("chain", {"text": "x"})
            await until(lambda: gates.running == 1)
            conn.execute(f"UPDATE {RUNS} SET lease_owner = 1, epoch = epoch + 1")
            orchestrator.recovery.hear(Held({}))
            await until(lambda: gates.running == 0)
            await until(lambda: f"run {run.run_id} lost its lease" in caplog.text)
            taken = await orchestrator.poll(run.run_id)
            assert (taken.status, taken.lease_owner, taken.epoch) == (RunStatus.RUNNING, 1, run.epoch + 1)

    async def test_a_renewal_that_is_older_than_a_run_does_not_stop_it(self, settings: OrchestratorSettings) -> None:
        gates = Gates()
        async with open_orchestrator({"chain": chain(gates=gates)}, settings=settings) as orchestrator:
            run = await orchestrator.start("chain", {"text": "x"})
            await until(lambda: gates.running == 1)
            orchestrator.recovery.hear(Held({}))
            await asyncio.gather(*orchestrator.recovery._looks)
            gates.open(*TRACE)
            assert (await orchestrator.wait(run.run_id, timeout=30)).status is RunStatus.COMPLETED

    async def test_a_request_whose_notice_was_lost_is_seen_at_a_renewal(
        self, settings: OrchestratorSettings, conn: psycopg.Connection
    ) -> None:
        gates = Gates()
        async with open_orchestrator({"chain": chain(gates=gates)}, settings=settings) as orchestrator:
            run = await orchestrator.start("chain", {"text": "x"})
            await until(lambda: gates.running == 1)
            conn.execute(f"UPDATE {RUNS} SET requested = 'pause'")
            orchestrator.recovery.hear(Held({run.run_id: (run.epoch, Request.PAUSE)}))
            gates.open(*TRACE)
            await until(lambda: run.run_id not in orchestrator._dispatcher.active())
            orchestrator._dispatcher.fill()
            paused = await orchestrator.wait(run.run_id, timeout=30)
            assert paused.status is RunStatus.PAUSED
            assert gates.reached == ["one"]


async def test_a_stopped_servers_runs_go_on_elsewhere_without_repeating_a_step(settings: OrchestratorSettings) -> None:
    patient = settings.model_copy(update={"drain_timeout": 60.0})
    gates = Gates()
    graphs = {"chain": chain(gates=gates)}
    async with open_orchestrator(graphs, settings=settings) as second:
        async with open_orchestrator(graphs, settings=patient) as first:
            started = await first.start("chain", {"text": "x"})
            await until(lambda: gates.reached)
            first.request_close()
            gates.open(*TRACE)
        run = await second.wait(started.run_id, timeout=30)
    assert (run.status, run.losses, run.output["trace"]) == (RunStatus.COMPLETED, 0, TRACE)
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
        runs = [await first.wait(run.run_id, timeout=30) for run in started]
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
        assert (await first.wait(runs[0].run_id, timeout=30)).status is RunStatus.COMPLETED


async def test_starts_with_the_same_keys_in_another_order_do_not_wait_for_each_other_crosswise(
    settings: OrchestratorSettings, postgres_dsn: str
) -> None:
    keys = [f"k{n}" for n in range(40)]
    graphs = {"chain": chain()}
    async with (
        open_orchestrator(graphs, settings=settings) as first,
        open_orchestrator(graphs, settings=settings) as second,
    ):
        for wave in range(8):
            starts = [(first, key) for key in keys] + [(second, key) for key in reversed(keys)]
            begun = (server.start("chain", {"text": "x"}, idempotency_key=f"{wave} {key}") for server, key in starts)
            assert len({run.run_id for run in await asyncio.gather(*begun)}) == len(keys)
    with psycopg.connect(postgres_dsn, autocommit=True) as conn:
        # What a backend has counted is known once it is gone.
        await until(lambda: _alone(conn))
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert conn.execute(query).fetchone() == (0,)


def _alone(conn: psycopg.Connection) -> bool:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    )
    return conn.execute(query.encode()).fetchone() == (1,)


async def test_runs_survive_a_restart_of_postgres(cluster: Cluster, own_settings: OrchestratorSettings) -> None:
    gates = Gates()
    async with open_orchestrator({"chain": chain(gates=gates)}, settings=own_settings) as orchestrator:
        started = [await orchestrator.start("chain", {"text": "x"}) for _ in range(20)]
        await until(lambda: gates.running == 20)
        await asyncio.to_thread(cluster.stop, "immediate")
        gates.open(*TRACE)
        await asyncio.to_thread(cluster.start)
        runs = [await orchestrator.wait(run.run_id, timeout=60) for run in started]
    assert {(run.status, run.attempt) for run in runs} == {(RunStatus.COMPLETED, 1)}
    assert {tuple(run.output["trace"]) for run in runs} == {tuple(TRACE)}
    assert len(gates.reached) == 20 * len(TRACE)


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
        await until(lambda: "finishing a run waits for the database" in caplog.text)
        await asyncio.to_thread(cluster.start)
        run = await orchestrator.wait_for(started, timeout=60)
    assert (run.status, run.output["trace"]) == (RunStatus.COMPLETED, TRACE)
    # With so little patience another attempt may meet a server that is slow after its start.
    assert (run.attempt >= 2, run.losses) == (True, 0)


async def test_a_transaction_pooler_needs_a_direct_address_too(settings: OrchestratorSettings) -> None:
    pooled = settings.model_copy(update={"postgres_pooler": "transaction"})
    with pytest.raises(SettingsError, match="POSTGRES_MIGRATION_CONNECTION_STRING"):
        async with open_orchestrator({"chain": chain()}, settings=pooled):
            pass
    direct = pooled.model_copy(update={"postgres_migration_connection_string": settings.postgres_connection_string})
    async with open_orchestrator({"chain": chain()}, settings=direct) as orchestrator:
        assert (await orchestrator.start_and_wait("chain", {"text": "x"}, timeout=30)).is_final


async def test_the_store_alone_can_be_looked_at(settings: OrchestratorSettings) -> None:
    lost = await left_running(settings)
    async with open_run_store(settings) as store:
        assert await store.get(lost.run_id) == lost
    with pytest.raises(SettingsError, match="USE_POSTGRES_SAVER"):
        async with open_run_store(OrchestratorSettings()):
            pass


async def test_the_migrations_have_their_way_back(empty_dsn: str) -> None:
    def shape() -> list[tuple[object, ...]]:
        with psycopg.connect(empty_dsn) as conn:
            return conn.execute(
                "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
                " WHERE table_schema = %s AND table_name LIKE 'workflow%%' ORDER BY 1, 2",
                [SCHEMA],
            ).fetchall()

    shapes = []
    for _ in range(2):
        added = await tables.setup(empty_dsn, SCHEMA, (MIGRATIONS,))
        ours = [name for name in added if name.startswith("orchestrator")]
        assert ours[:2] == ["orchestrator 0001 runs", "orchestrator 0002 surviving"]
        shapes.append(shape())
        await tables.verify(empty_dsn, SCHEMA, (MIGRATIONS,))
        assert await tables.revert(empty_dsn, SCHEMA, (MIGRATIONS,)) == ours[::-1]
        assert shape() == []
    assert shapes[0] == shapes[1] != []
