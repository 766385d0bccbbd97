"""`holdfast setup --roles --sql`: with its two roles everything works, and the one that serves can't create."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from checkpointer import SchemaError
from checkpointer.migrations import MIGRATIONS
from checkpointer.postgres.schema import setup, verify
from orchestrator.cli.archive import make_backup, verify_backup
from orchestrator.cli.prune import prune
from orchestrator.cli.roles import MIGRATOR, RUNTIME, roles_sql
from orchestrator.migrations import ALL_MIGRATIONS
from tests.postgres import Cluster
from tests.servers import serving
from tests.waiting import until

SETS = (MIGRATIONS, *ALL_MIGRATIONS)
SCHEMA = "workflow_checkpoints"
GRAPHS = """
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt


def asking():
    return StateGraph(dict).add_node("ask", lambda state: {"answer": interrupt("approval")}).add_edge(START, "ask")
"""
REFUSED = {
    "create a table": f"CREATE TABLE {SCHEMA}.mine (a int)",
    "create a table in public": "CREATE TABLE public.mine (a int)",
    "create a schema": "CREATE SCHEMA mine",
    "drop a table": f"DROP TABLE {SCHEMA}.workflow_metadata",
    "drop the schema": f"DROP SCHEMA {SCHEMA} CASCADE",
    "add a column": f"ALTER TABLE {SCHEMA}.workflow_metadata ADD COLUMN mine int",
    "empty a table at once": f"TRUNCATE {SCHEMA}.workflow_metadata",
    "put a trigger on a table": f"CREATE TRIGGER mine AFTER INSERT ON {SCHEMA}.workflow_metadata "
    f"EXECUTE FUNCTION {SCHEMA}.workflow_state_event()",
    "replace a function": f"ALTER FUNCTION {SCHEMA}.workflow_state_event() RENAME TO mine",
    "forget a migration": f"DELETE FROM {SCHEMA}.holdfast_migrations",
    "forget one of LangGraph's": f"UPDATE {SCHEMA}.checkpoint_migrations SET v = 0",
    "become the migrator": f"SET ROLE {MIGRATOR}",
    "make a role": "CREATE ROLE mine",
    "read the server's files": "SELECT pg_read_file('/etc/passwd')",
    "run a program": f"COPY {SCHEMA}.workflow_metadata TO PROGRAM 'true'",
}


@pytest.fixture
def with_roles(cluster: Cluster) -> Cluster:
    """A server on which a DBA has run the script."""
    run_script(cluster)
    return cluster


def run_script(cluster: Cluster) -> None:
    with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
        conn.execute(roles_sql(SCHEMA).encode())


async def test_everything_works_as_the_runtime(
    with_roles: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await setup(with_roles.dsn(user=MIGRATOR), SCHEMA, SETS)
    assert made
    run_script(with_roles)
    (tmp_path / "graphs.py").write_text(GRAPHS)
    graphs = {"dependencies": ["."], "graphs": {"asking": "./graphs.py:asking"}}
    (tmp_path / "langgraph.json").write_text(json.dumps(graphs))
    environment = {
        "USE_POSTGRES_SAVER": "true",
        "POSTGRES_CONNECTION_STRING": with_roles.dsn(user=RUNTIME),
        "POSTGRES_SETUP": "verify",
    }
    async with serving(tmp_path, environment, "--graphs", "langgraph.json") as server:
        await server.start()
        started = await server.invoke({"workflow": "asking", "input": {"text": "x"}, "threadId": "t"})

        async def waits() -> bool:
            return bool((await server.get(started["statusUrl"]))["status"] == "waiting")

        await until(waits, timeout_s=60)
        signal = await server.client.post(f"/api/runs/{started['runId']}/signals/approval", json={"payload": "yes"})
        assert signal.status_code == 202, signal.text
        assert (await server.finished(started))["output"] == {"answer": "yes"}
        documents = [{"text": "Ada Lovelace wrote to Charles Babbage in London."}]
        batch = (await server.client.post("/api/batches", json={"documents": documents})).json()

        async def complete() -> bool:
            return bool((await server.get(batch["statusUrl"]))["state"] == "complete")

        await until(complete, timeout_s=60)

        async def sound() -> bool:
            deep = (await server.client.get("/api/health/deep")).json()
            return [check for check in deep["checks"] if check["state"] == "fail"] == []

        await until(sound, timeout_s=60, what="no check fails")
        assert await server.stop() == 0
        assert "ermission denied" not in server.log
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert await make_backup(tmp_path / "all.backup", None, dry_run=False, as_json=True) == 0
    assert await verify_backup(tmp_path / "all.backup", as_json=True) == 0
    pruned = await prune(
        older_than="0s", keep_last=1, workflow=None, status=None, all_threads=False, dry_run=False, vacuum=False,
        as_json=True,
    )  # fmt: skip
    assert pruned == 0
    with psycopg.connect(with_roles.dsn(user=RUNTIME)) as conn:
        assert conn.execute(f"SELECT count(*) FROM {SCHEMA}.workflow_metadata".encode()).fetchone() == (0,)


@pytest.fixture
def runtime(with_roles: Cluster) -> Iterator[psycopg.Connection]:
    with psycopg.connect(with_roles.dsn(user=MIGRATOR)) as conn:
        conn.execute("SELECT 1")
    with psycopg.connect(with_roles.dsn(user=RUNTIME), autocommit=True) as conn:
        yield conn


async def test_the_runtime_may_not(with_roles: Cluster, runtime: psycopg.Connection) -> None:
    with pytest.raises(SchemaError, match="lacks the CREATE privilege"):
        await setup(with_roles.dsn(user=RUNTIME), SCHEMA, SETS)
    await setup(with_roles.dsn(user=MIGRATOR), SCHEMA, SETS)
    run_script(with_roles)
    for what, statement in REFUSED.items():
        with pytest.raises(InsufficientPrivilege):
            print(what, runtime.execute(statement.encode()))
    await verify(with_roles.dsn(user=RUNTIME), SCHEMA, SETS)


async def test_tables_that_another_role_made_become_the_migrators(cluster: Cluster) -> None:
    await setup(cluster.dsn(), SCHEMA, SETS)
    run_script(cluster)
    run_script(cluster)
    with psycopg.connect(cluster.dsn(user=MIGRATOR), autocommit=True) as conn:
        conn.execute(f"ALTER TABLE {SCHEMA}.workflow_metadata ADD COLUMN mine int".encode())
        owners = conn.execute(
            "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = %s::regnamespace", (SCHEMA,)
        ).fetchall()
        others = conn.execute(
            "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = %s::regnamespace", (SCHEMA,)
        ).fetchall()
    assert owners == others == [(MIGRATOR,)]
    await verify(cluster.dsn(user=RUNTIME), SCHEMA, SETS)
