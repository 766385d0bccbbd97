"""`holdfast prune` as a person runs it, killed in the middle too; and retention in a server's background."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from checkpointer import open_postgres_saver
from tests.checkpoints import SCHEMA, at
from tests.forking import fork_holdfast, run_holdfast
from tests.retention import counts, dangling, seed
from tests.servers import ROOT, serving
from tests.waiting import until

# Whoever deletes the run in the middle stays there.
_STAY = f"""
CREATE FUNCTION {SCHEMA}.stay() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(600); RETURN OLD; END';
DO $do$ BEGIN
    EXECUTE format('CREATE TRIGGER stay BEFORE DELETE ON {SCHEMA}.workflow_metadata FOR EACH ROW
                    WHEN (OLD.run_id = %L) EXECUTE FUNCTION {SCHEMA}.stay()',
                   (SELECT run_id FROM {SCHEMA}.workflow_metadata ORDER BY completed_at, run_id OFFSET 750 LIMIT 1));
END $do$
"""


def environment(dsn: str, **more: str) -> dict[str, str]:
    """Of a command against a database."""
    return {**os.environ, "POSTGRES_CONNECTION_STRING": dsn, "PYTHONPATH": str(ROOT), **more}


def holdfast(dsn: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return run_holdfast(arguments, cwd=Path.cwd(), env=environment(dsn, **more), timeout=120)


def test_a_dry_run_then_the_run_then_vacuum(postgres_dsn: str, conn: psycopg.Connection) -> None:
    seed(conn, 30)
    seed(conn, 2, hours=0)
    before = counts(conn)
    dry = holdfast(postgres_dsn, "prune", "--older-than", "1h", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "30 runs would go" in dry.stdout
    assert "seeded" in dry.stdout
    assert counts(conn) == before
    done = holdfast(postgres_dsn, "prune", "--older-than", "1h", "--vacuum", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["runs"] == [{"workflow": "seeded", "status": "completed", "runs": 30}]
    assert report["freed"]["checkpoints"]["rows"] == 90
    assert report["freed"]["checkpoints"]["bytes"] > 0
    assert {"checkpoints", "workflow_metadata"} <= set(report["vacuumed"])
    # How many rows are dead is reported by those who made them, some time later; that VACUUM has come is not.
    query = b"SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'checkpoints'"
    assert conn.execute(query).fetchone() == (1,)
    assert counts(conn, ["workflow_metadata", "checkpoints"]) == {"workflow_metadata": 2, "checkpoints": 6}


def test_the_settings_say_what_goes_where_no_option_does(postgres_dsn: str, conn: psycopg.Connection) -> None:
    seed(conn, 3)
    result = holdfast(postgres_dsn, "prune", RUN_KEEP_FOR="failed=1h", CHECKPOINT_KEEP_LAST="2")
    assert result.returncode == 0, result.stderr
    assert "0 runs removed and 3 threads shortened" in result.stdout
    assert "VACUUM" in result.stdout
    assert counts(conn, ["workflow_metadata", "checkpoints"]) == {"workflow_metadata": 3, "checkpoints": 6}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing says what may go: give --older-than 30d"),
        (["--older-than", "soon"], "'soon' is no time"),
        (["--status", "running", "--keep-last", "2"], "--status takes completed, failed, cancelled, not 'running'"),
        (["--all-threads"], "--keep-last"),
        (["--keep-last", "2", "--dry-run", "--vacuum"], "--vacuum can't go with it"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    from orchestrator.cli.app import run

    with pytest.raises(SystemExit) as ended:
        run(["prune", *arguments])
    assert ended.value.code == 2
    message = capfd.readouterr().err
    assert message.count("\n") == 1
    assert said in message


@pytest.mark.chaos
async def test_killed_in_the_middle_it_leaves_nothing_broken(
    postgres_dsn: str, conn: psycopg.Connection, tmp_path: Path
) -> None:
    seed(conn, 1_500, checkpoints=12)
    kept = seed(conn, 5, hours=0)
    conn.execute(_STAY.encode())

    def left() -> int:
        return counts(conn, ["workflow_metadata"])["workflow_metadata"]

    def waiting_at(event: str) -> list[Any]:
        query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = %s"
        return [pid for (pid,) in conn.execute(query.encode(), (event,))]

    command = ["prune", "--older-than", "1h", "--keep-last", "2"]
    with (tmp_path / "said").open("w") as out:
        pruning = fork_holdfast(command, cwd=tmp_path, env=environment(postgres_dsn), stdout=out, stderr=out)
    try:
        await until(lambda: waiting_at("PgSleep"), timeout_s=60, what="it is in the middle")
        assert pruning.poll() is None
    finally:
        pruning.kill()
        await asyncio.to_thread(pruning.wait)
    # A backend that is asleep does not notice that its client is gone.
    for pid in waiting_at("PgSleep"):
        conn.execute(b"SELECT pg_terminate_backend(%s)", (pid,))
    await until(lambda: not waiting_at("PgSleep"), what="its statement is undone")
    conn.execute(b"DROP FUNCTION workflow_checkpoints.stay() CASCADE")
    assert 5 < left() < 1_505
    # What was committed is whole: no run without its checkpoints and events, nothing of a run that is gone.
    assert dangling(conn) == []
    result = holdfast(postgres_dsn, "prune", "--older-than", "1h", "--keep-last", "2", "--json")
    assert result.returncode == 0, result.stderr
    assert counts(conn, ["workflow_metadata", "checkpoints"]) == {"workflow_metadata": 5, "checkpoints": 10}
    assert dangling(conn) == []
    async with open_postgres_saver(postgres_dsn) as saver:
        for thread in kept:
            latest = await saver.aget_tuple(at(thread))
            assert latest is not None
            assert latest.checkpoint["channel_values"] == {"x": "00000003"}


async def test_a_server_forgets_in_its_background(postgres_dsn: str, conn: psycopg.Connection, tmp_path: Path) -> None:
    seed(conn, 20)
    given = {
        "USE_POSTGRES_SAVER": "true",
        "POSTGRES_CONNECTION_STRING": postgres_dsn,
        "RUN_KEEP_FOR": "completed=1h",
        "RUN_RETENTION_EVERY": "0.2",
        "CHECKPOINT_KEEP_LAST": "1",
    }
    async with serving(tmp_path, given) as server:
        await server.start()
        run = await server.finished(await server.invoke({"workflow": {"role": "dev", "task": "t"}}))
        await until(
            lambda: counts(conn, ["workflow_metadata"]) == {"workflow_metadata": 1}, what="the old runs are gone"
        )
        query = f"SELECT count(*) FROM {SCHEMA}.checkpoints".encode()
        await until(lambda: conn.execute(query).fetchone() == (1,), what="the new run keeps one checkpoint")
        assert (await server.get(f"/api/runs/{run['runId']}"))["output"] == run["output"]

        async def counted() -> bool:
            metrics = (await server.client.get("/metrics")).text
            return 'orchestrator_retention_rows_total{table="workflow_metadata"} 20.0' in metrics

        await until(counted, what="the metrics say so")
        await until(lambda: "retention removed 20 runs" in server.log, what="the log says so")
        assert await server.stop() == 0
        assert "Traceback" not in server.log
