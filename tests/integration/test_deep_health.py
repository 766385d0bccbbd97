"""`/api/health/deep`, the gauges of `/metrics`, and HEAD: with a sound database, and with one that is not."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from checkpointer import CheckpointerSettings, PooledPostgresSaver, open_saver
from checkpointer.metrics import SAVE_SECONDS, QuickHistogram, errors_of
from orchestrator import Orchestrator, OrchestratorSettings, open_orchestrator
from orchestrator.api.app import create_app
from orchestrator.health import snapshot
from orchestrator.health.examination import CHECKS
from orchestrator.health.gauges import Gauges
from orchestrator.health.snapshot import Snapshot, health_sender, read_postgres
from orchestrator.metrics import QUEUE_WAIT_SECONDS, observe_wait
from orchestrator.migrations import ALL_MIGRATIONS
from orchestrator.runs.postgres import PostgresRunStore
from tests.graphs import chain
from tests.postgres import Cluster
from tests.proxy import Proxy
from tests.waiting import until

ROUTES = (
    "/api/health",
    "/api/health/live",
    "/api/health/ready",
    "/api/health/checkpointer",
    "/api/health/deep",
    "/metrics",
)
# Beyond the bounds promised, for a machine that is busy with other tests.
SLACK_S = 10.0


@pytest.fixture(autouse=True)
def _errors_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed in the tests before, in the same process, is no fault of the server that is looked at."""
    before = {operation: errors_of(operation) for operation in ("save", "load")}
    monkeypatch.setattr(
        "orchestrator.health.run_checks.errors_of", lambda operation: errors_of(operation) - before[operation]
    )


@asynccontextmanager
async def _serving(settings: OrchestratorSettings) -> AsyncIterator[tuple[httpx.AsyncClient, Orchestrator]]:
    async with open_orchestrator({"chain": chain()}, settings=settings) as orchestrator:
        transport = httpx.ASGITransport(create_app(orchestrator), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client, orchestrator


def _durable(checkpointer: CheckpointerSettings, **more: Any) -> OrchestratorSettings:
    return OrchestratorSettings(**checkpointer.model_dump(exclude_unset=True), drain_timeout=0.5, **more)


async def _deep(client: httpx.AsyncClient) -> tuple[int, dict[str, Any], dict[str, Any]]:
    answer = await client.get("/api/health/deep")
    body = answer.json()
    return answer.status_code, body, {check["name"]: check for check in body["checks"]}


async def _sound(client: httpx.AsyncClient) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report once nothing is wrong: on a machine that stands still for seconds a check may not end in time."""

    async def look() -> Any:
        status, body, checks = await _deep(client)
        wrong = [check for check in checks.values() if check["state"] in ("fail", "unknown")]
        return (body, checks) if status == 200 and not wrong else None

    found: tuple[dict[str, Any], dict[str, Any]] = await until(look, timeout_s=60, what="everything is sound")
    return found


async def _samples(client: httpx.AsyncClient) -> dict[str, float]:
    """What /metrics shows: name with labels → value."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    lines = [line for line in answer.text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_every_check_of_a_sound_server(
    checkpointer_settings: CheckpointerSettings, conn: psycopg.Connection
) -> None:
    async with _serving(_durable(checkpointer_settings)) as (client, orchestrator):
        assert (await orchestrator.start_and_wait("chain", {"trace": []}, timeout=60)).status == "completed"
        body, checks = await _sound(client)
        assert set(checks) == set(CHECKS)
        assert (body["status"], body["checkpointer"]) == ("degraded", "PostgresSaver")  # nothing is ever forgotten
        assert checks["retention"]["remedy"]
        assert checks["runners"]["figure"] == 1
        assert checks["schema"]["figure"] == 0
        assert 0 < checks["checkpoint"]["figure"] < checks["checkpoint"]["limit"] + SLACK_S
        assert checks["storage"]["figure"] > 0
        assert abs(checks["clock"]["figure"]) < SLACK_S
        for check in checks.values():
            assert set(check) == {"name", "state", "message", "figure", "unit", "limit", "remedy"}
            assert (check["remedy"] is not None) == (check["state"] in ("warn", "fail")), check
    for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes", "checkpoint_fences"):
        query = f"SELECT count(*) FROM workflow_checkpoints.{table} WHERE thread_id LIKE '@/health/%'"
        assert conn.execute(query.encode()).fetchone() == (0,), table


async def test_in_memory() -> None:
    async with _serving(OrchestratorSettings()) as (client, orchestrator):
        await orchestrator.start_and_wait("chain", {"trace": []}, timeout=60)
        status, body, checks = await _deep(client)
        assert (status, body["status"], body["checkpointer"]) == (200, "degraded", "MemorySaver")
        assert checks["engine"]["state"] == "warn"
        assert "USE_POSTGRES_SAVER=true" in checks["engine"]["remedy"]
        assert [name for name, check in checks.items() if check["state"] in ("fail", "unknown")] == []
        shown = await _samples(client)
        assert shown['orchestrator_runs{status="completed"}'] == 1
        assert "checkpointer_postgres_up" not in shown


async def test_those_who_ask_at_once_share_one_examination(checkpointer_settings: CheckpointerSettings) -> None:
    async with _serving(_durable(checkpointer_settings)) as (client, _):
        await _sound(client)
        before = SAVE_SECONDS.count
        answers = await asyncio.gather(*(_deep(client) for _ in range(10)))
        assert [status for status, _, _ in answers] == [200] * 10
        assert SAVE_SECONDS.count == before + 1


async def test_only_the_deep_one_asks_for_a_token(checkpointer_settings: CheckpointerSettings) -> None:
    settings = _durable(checkpointer_settings, api_tokens="secret-token:acme")
    async with _serving(settings) as (client, _):
        for path in ROUTES:
            expected = 401 if path == "/api/health/deep" else 200
            assert (await client.get(path)).status_code == expected, path
        answer = await client.get("/api/health/deep", headers={"Authorization": "Bearer secret-token"})
        assert answer.status_code == 200
        assert "secret-token" not in answer.text


async def test_head() -> None:
    async with _serving(OrchestratorSettings()) as (client, _):
        for path in ROUTES:
            assert (await client.head(path)).status_code == 200, path
        described = (await client.get("/openapi.json")).json()["paths"]
        assert [list(described[path]) for path in ROUTES] == [["get"]] * len(ROUTES)


async def test_a_migration_is_missing(checkpointer_settings: CheckpointerSettings, conn: psycopg.Connection) -> None:
    async with _serving(_durable(checkpointer_settings)) as (client, _):
        conn.execute(
            "DELETE FROM workflow_checkpoints.holdfast_migrations WHERE set_name = 'orchestrator' AND number ="
            " (SELECT max(number) FROM workflow_checkpoints.holdfast_migrations WHERE set_name = 'orchestrator')"
        )
        status, body, checks = await _deep(client)
        assert (status, body["status"]) == (503, "unhealthy")
        assert (checks["schema"]["state"], checks["schema"]["figure"]) == ("fail", 1)
        assert "holdfast setup" in checks["schema"]["remedy"]


async def test_a_table_is_locked(checkpointer_settings: CheckpointerSettings, conn: psycopg.Connection) -> None:
    """What is measured is said to be not known, and everyone gets an answer in time."""
    async with _serving(_durable(checkpointer_settings)) as (client, _):
        with conn.transaction():
            conn.execute("LOCK TABLE workflow_checkpoints.checkpoint_blobs IN ACCESS EXCLUSIVE MODE")
            before = time.monotonic()
            status, _, checks = await _deep(client)
            assert time.monotonic() - before < 5 + SLACK_S
            assert status == 503
            assert checks["engine"]["state"] == "ok"
            assert checks["checkpoint"]["state"] == "fail"
            assert "no answer within" in checks["checkpoint"]["message"]


async def test_postgres_goes_and_comes_back(cluster: Cluster) -> None:
    settings = OrchestratorSettings(
        use_postgres_saver=True, postgres_connection_string=cluster.dsn(), drain_timeout=0.5
    )
    async with _serving(settings) as (client, _):
        await _sound(client)
        gauges = _at_every_scrape(client)
        await until(lambda: _up(client), what="the gauges are there")
        cluster.stop("immediate")
        before = time.monotonic()
        (status, _, checks), shown = await asyncio.gather(_deep(client), _samples(client))
        assert time.monotonic() - before < 5 + SLACK_S
        assert status == 503
        assert checks["engine"]["state"] == "fail"
        assert checks["engine"]["remedy"]
        assert {checks[name]["state"] for name in ("schema", "queue", "runners", "clock")} == {"unknown"}
        shown = await until(lambda: _down(client), timeout_s=60, what="the gauges say that PostgreSQL is down")
        assert not [name for name in shown if name.startswith(("orchestrator_runs{", "checkpointer_storage_bytes"))]
        cluster.start()
        await until(lambda: _up(client), timeout_s=60, what="the gauges are back")
        await _sound(client)
        assert gauges.latest is not None


async def _down(client: httpx.AsyncClient) -> dict[str, float] | None:
    shown = await _samples(client)
    return shown if shown.get("checkpointer_postgres_up") == 0 else None


async def _up(client: httpx.AsyncClient) -> bool:
    shown = await _samples(client)
    return shown.get("checkpointer_postgres_up") == 1 and 'orchestrator_runs{status="pending"}' in shown


def _app_of(client: httpx.AsyncClient) -> Any:
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    return transport.app


def _at_every_scrape(client: httpx.AsyncClient) -> Gauges:
    """The server's gauges, which are read anew at every scrape from now on."""
    gauges: Gauges = _app_of(client).state.gauges
    gauges._max_age_s = 0.0
    return gauges


async def test_a_scrape_does_not_hang_on_a_silent_server(postgres_dsn: str) -> None:
    parts = conninfo_to_dict(postgres_dsn)
    async with Proxy.to(str(parts["host"]), int(str(parts["port"]))) as proxy:
        dsn = make_conninfo(postgres_dsn, host="127.0.0.1", port=proxy.port)
        settings = OrchestratorSettings(use_postgres_saver=True, postgres_connection_string=dsn, drain_timeout=0.5)
        async with _serving(settings) as (client, _):
            await _samples(client)
            _at_every_scrape(client)
            await until(lambda: _up(client), what="the gauges are there")
            proxy.deafen()
            before = time.monotonic()
            shown = await _samples(client)
            assert time.monotonic() - before < 2 + SLACK_S
            assert 'orchestrator_runs{status="pending"}' not in shown
            proxy.hear()


async def test_many_scrapes_are_one_statement(checkpointer_settings: CheckpointerSettings) -> None:
    async with _serving(_durable(checkpointer_settings)) as (client, _):
        await asyncio.gather(*(_samples(client) for _ in range(20)))
        # However long those took.
        _app_of(client).state.gauges._max_age_s = 3600.0
        await _samples(client)
        assert _app_of(client).state.gauges.reads == 1


async def test_the_pool_is_used_up(checkpointer_settings: CheckpointerSettings) -> None:
    settings = _durable(checkpointer_settings, postgres_pool_min_size=1).model_copy(
        update={"postgres_pool_timeout": 60.0}
    )
    async with _serving(settings) as (client, orchestrator):
        await _samples(client)
        _at_every_scrape(client)
        store = orchestrator.store
        assert isinstance(store, PostgresRunStore)
        pool = store.sender.pool
        taken = [await pool.getconn() for _ in range(pool.max_size)]
        try:
            before = time.monotonic()
            shown = await _samples(client)
            assert time.monotonic() - before < 2 + SLACK_S
            # Other pools of this process may still be known.
            assert shown['checkpointer_pool_connections{state="in_use"}'] >= pool.max_size
            assert shown["checkpointer_pool_waiting"] >= 1
            _, _, checks = await _deep(client)
            assert (checks["engine"]["state"], checks["checkpoint"]["state"]) == ("ok", "fail")
            assert checks["pool"]["state"] == "warn"
            assert "POSTGRES_POOL_MAX_SIZE" in checks["pool"]["remedy"]
        finally:
            for each in taken:
                await pool.putconn(each)


async def _read(settings: CheckpointerSettings) -> Snapshot:
    async with open_saver(settings, migrations=ALL_MIGRATIONS) as saver:
        assert isinstance(saver, PooledPostgresSaver)
        return await read_postgres(health_sender(saver.pool, saver.schema))


def _insert(conn: psycopg.Connection, status: str, count: int = 1, **columns: str) -> None:
    """Runs as they might lie there; the values of `columns` are SQL."""
    names = "".join(f", {name}" for name in columns)
    values = "".join(f", {value}" for value in columns.values())
    conn.execute(
        "INSERT INTO workflow_checkpoints.workflow_metadata (run_id, thread_id, organization_id, workflow_type, status,"
        f" max_attempts, saver{names}) SELECT id, id, 'default', 'chain', '{status}', 3, 'PostgresSaver'{values}"
        f" FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, {count})) AS ids".encode()
    )


async def test_what_the_gauges_read(checkpointer_settings: CheckpointerSettings, conn: psycopg.Connection) -> None:
    _insert(conn, "completed", 3)
    _insert(conn, "waiting", 2)
    _insert(conn, "running", lease_owner="1", lease_until="clock_timestamp() - interval '1 minute'")
    _insert(conn, "running", lease_owner="2", lease_until="clock_timestamp() + interval '1 hour'")
    _insert(conn, "suspended", retry_at="clock_timestamp() - interval '1 minute'")
    _insert(conn, "suspended", retry_at="clock_timestamp() + interval '1 hour'")
    _insert(conn, "pending", updated_at="clock_timestamp() - interval '1 hour'")
    # Behind another of its thread, and not to be begun yet: neither has waited for a worker.
    day = "clock_timestamp() - interval '1 day'"
    _insert(conn, "pending", updated_at=day, start_at="clock_timestamp() + interval '1 hour'")
    conn.execute(
        "INSERT INTO workflow_checkpoints.workflow_metadata (run_id, thread_id, organization_id, workflow_type, status,"
        " max_attempts, saver, updated_at) SELECT gen_random_uuid(), thread_id, 'default', 'chain', 'pending', 3, 'x',"
        " clock_timestamp() - interval '1 day' FROM workflow_checkpoints.workflow_metadata"
        " WHERE status = 'waiting' LIMIT 1"
    )
    runner = (
        "INSERT INTO workflow_checkpoints.workflow_runner VALUES (%s, %s, 'h', 1, 'v', '{}', now(), now(), now() + %s)"
    )
    for owner, kind, lease in ((1, "worker", "1 hour"), (2, "worker", "-1 hour"), (3, "serve --no-worker", "1 hour")):
        conn.execute(runner, (owner, kind, lease))
    found = await _read(checkpointer_settings)
    expected = {"completed": 3, "waiting": 2, "running": 2, "suspended": 2, "pending": 3}
    assert {state: count for state, count in found.runs.items() if count} == expected
    assert 3600 <= found.oldest_pending_s < 7200
    assert (found.late_leases, found.late_retries) == (1, 1)
    assert found.runners == {"worker": 1, "serve --no-worker": 1, "serve": 0, "program": 0}
    assert found.drivers == 1
    # Bounded: every one of them is there, and nothing else.
    assert set(found.storage) == set(snapshot._TABLES)


async def test_runs_that_are_over_are_estimated_where_there_are_many(
    checkpointer_settings: CheckpointerSettings, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "_EXACT_UP_TO", 100)
    _insert(conn, "completed", 900)
    _insert(conn, "failed", 100)
    _insert(conn, "waiting", 7)
    conn.execute("ANALYZE workflow_checkpoints.workflow_metadata")
    found = await _read(checkpointer_settings)
    assert found.runs["waiting"] == 7
    assert found.runs["completed"] == pytest.approx(900, rel=0.05)
    assert found.runs["failed"] == pytest.approx(100, rel=0.05)


@pytest.fixture
def lesser_dsn(postgres_dsn: str, conn: psycopg.Connection) -> Any:
    """A role that may use the tables and create none."""
    role = sql.Identifier(f"lesser_{uuid4().hex[:8]}")
    conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    conn.execute(sql.SQL("GRANT USAGE ON SCHEMA workflow_checkpoints TO {}").format(role))
    for what in ("SELECT, INSERT, UPDATE, DELETE ON ALL TABLES", "USAGE ON ALL SEQUENCES", "EXECUTE ON ALL FUNCTIONS"):
        conn.execute(sql.SQL("GRANT " + what + " IN SCHEMA workflow_checkpoints TO {}").format(role))
    yield make_conninfo(postgres_dsn, user=role.as_string(None).strip('"'))
    conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
    conn.execute(sql.SQL("DROP ROLE {}").format(role))


async def test_a_role_that_may_create_nothing(lesser_dsn: str) -> None:
    settings = OrchestratorSettings(
        use_postgres_saver=True, postgres_connection_string=lesser_dsn, postgres_setup="verify", drain_timeout=0.5
    )
    async with _serving(settings) as (client, _):
        await _sound(client)

        async def stored() -> bool:
            return (await _samples(client)).get('checkpointer_storage_bytes{table="checkpoints"}', 0) > 0

        await until(stored, what="the gauges are there")


def test_quantiles_of_a_histogram() -> None:
    histogram = QuickHistogram(f"test_{uuid4().hex}", "of this test", (1.0, 2.0, 4.0))
    assert histogram.quantile(0.95) is None
    for value in (0.5, 0.5, 1.5, 1.5):
        histogram.observe(value)
    assert (histogram.count, histogram.quantile(0.5), histogram.quantile(0.75)) == (4, 1.0, 1.5)
    histogram.observe(100.0)
    assert histogram.quantile(1.0) == 4.0


def test_only_the_first_claim_of_a_run_has_waited() -> None:
    made = datetime(2026, 1, 1, tzinfo=UTC)

    def waited() -> tuple[float, float]:
        samples = {each.name: each.value for family in QUEUE_WAIT_SECONDS.collect() for each in family.samples}
        return samples["orchestrator_queue_wait_seconds_count"], samples["orchestrator_queue_wait_seconds_sum"]

    count, total = waited()
    claimed = made + timedelta(seconds=5)
    observe_wait(made, None, claimed, claimed)
    observe_wait(made, made + timedelta(seconds=3), claimed, claimed)
    observe_wait(made, None, claimed, claimed + timedelta(minutes=1))  # taken up again
    observe_wait(made, None, None, claimed)
    assert [after - before for after, before in zip(waited(), (count, total), strict=True)] == [2, pytest.approx(7)]


async def test_names_of_workflows_are_all_that_labels_hold_of_a_run(
    checkpointer_settings: CheckpointerSettings,
) -> None:
    async with _serving(_durable(checkpointer_settings)) as (client, orchestrator):
        run = await orchestrator.start_and_wait("chain", {"trace": []}, thread_id="a-thread-of-mine", timeout=60)
        shown = " ".join(await _samples(client))
        assert run.run_id not in shown
        assert "a-thread-of-mine" not in shown
        assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}", shown)
