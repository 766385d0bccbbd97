"""POSTGRES_POOLER=transaction, through a real PgBouncer."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from checkpointer import CheckpointerSettings, PooledPostgresSaver, check_health, open_postgres_saver, open_saver
from checkpointer.errors import StaleWriterError
from checkpointer.postgres.fence import acquire
from checkpointer.postgres.pool import PoolOptions
from checkpointer.serde import Cipher
from tests.checkpoints import at, history, put, values_of
from tests.postgres import free_port
from tests.stateful import GRAPHS, run
from tests.waiting import until

TRANSACTION = PoolOptions(min_size=1, max_size=4, pooler="transaction")


@cache
def find_pgbouncer() -> str | None:
    """The program; installed from the distribution where that is possible."""
    places = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    if (found := shutil.which("pgbouncer", path=places)) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(
            ["apt-get", "install", "-y", "--no-install-recommends", "pgbouncer"],
            check=False,
            timeout=120,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        found = shutil.which("pgbouncer", path=places)
    return found


def other_user() -> str | None:
    """Whom PgBouncer runs as, since it refuses root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "pgserver", "nobody") if name in known)


@pytest.fixture
def bouncer(postgres_dsn: str, tmp_path: Path) -> Iterator[str]:
    """A connection string of this test's database through PgBouncer: two server connections for everyone."""
    program = find_pgbouncer()
    if program is None:
        pytest.skip("PgBouncer is not here and can't be installed: put `pgbouncer` (Debian's package) on the PATH")
    parts = conninfo_to_dict(postgres_dsn)
    port, user = free_port(), other_user()
    target = " ".join(
        f"{name}={parts[name]}" for name in ("host", "port", "user", "password", "dbname") if parts.get(name)
    )
    settings = tmp_path / "pgbouncer.ini"
    users = tmp_path / "users.txt"
    users.write_text("")
    settings.write_text(
        f"""
        [databases]
        bounced = {target} pool_size=2
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = any
        auth_file = {users}
        pool_mode = transaction
        max_client_conn = 200
        server_reset_query_always = 1
        server_reset_query = DISCARD ALL
        """.replace("\n        ", "\n")
    )
    for path in (*tmp_path.parents, tmp_path, settings, users):
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055 if path.is_dir() else 0o644)
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([program, str(settings)], user=user, cwd="/", stdout=output, stderr=output)
    dsn = make_conninfo("", host="127.0.0.1", port=port, user=str(parts.get("user") or "postgres"), dbname="bounced")
    try:
        asyncio.run(until(lambda: answers(process, dsn, log), what="PgBouncer answers"))
        yield dsn
    finally:
        process.terminate()
        process.wait(60)


def answers(process: subprocess.Popen[bytes], dsn: str, log: Path) -> bool:
    if process.poll() is not None:
        raise AssertionError(f"PgBouncer ended: {log.read_text()}")
    try:
        with psycopg.connect(dsn, connect_timeout=2) as conn:
            return conn.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


async def test_graphs_and_the_whole_protocol(bouncer: str) -> None:
    cipher = Cipher([("one", bytes(range(32)))])
    async with open_postgres_saver(bouncer, pool=TRANSACTION, writers=4, readers=2, cipher=cipher) as saver:
        await asyncio.gather(*(run(saver, kind, f"{kind} {number}") for kind in GRAPHS for number in range(8)))
        for kind in GRAPHS:
            found = [
                [
                    (one.metadata, sorted(one.checkpoint["channel_values"]))
                    for one in await history(saver, f"{kind} {n}", ns="")
                ]
                for n in range(8)
            ]
            assert found == [found[0]] * 8
            await saver.acopy_thread(f"{kind} 0", "copy")
            assert len(await history(saver, "copy")) == len(await history(saver, f"{kind} 0"))
            await saver.aprune(["copy"])
            await saver.adelete_thread("copy")
            assert await history(saver, "copy") == []


async def test_many_saves_and_loads(bouncer: str) -> None:
    async with open_postgres_saver(bouncer, pool=TRANSACTION, writers=4, readers=2) as saver:
        for turn in range(5):
            await asyncio.gather(*(put(saver, at(str(n)), {"n": [n, turn], "m": n}) for n in range(200)))
            found = await asyncio.gather(*(values_of(saver, at(str(n))) for n in range(200)))
            assert found == [{"n": [n, turn], "m": n} for n in range(200)]


async def test_the_fence_holds(bouncer: str) -> None:
    async with open_postgres_saver(bouncer, pool=TRANSACTION) as saver:
        async with await psycopg.AsyncConnection.connect(bouncer, prepare_threshold=None) as conn:
            old = await acquire(conn, "t")
        await put(saver, at("t", epoch=old), {"a": [1]})
        async with await psycopg.AsyncConnection.connect(bouncer, prepare_threshold=None) as conn:
            await acquire(conn, "t")
        with pytest.raises(StaleWriterError):
            await put(saver, at("t", epoch=old), {"a": [2]})
        assert await values_of(saver, at("t")) == {"a": [1]}


async def test_through_the_settings_with_a_direct_address_for_migrations(
    bouncer: str, postgres_dsn: str, conn: psycopg.Connection
) -> None:
    conn.execute("DROP SCHEMA workflow_checkpoints CASCADE")
    settings = CheckpointerSettings(
        use_postgres_saver=True,
        postgres_connection_string=bouncer,
        postgres_migration_connection_string=postgres_dsn,
        postgres_pooler="transaction",
        postgres_pool_max_size=4,
    )
    async with open_saver(settings) as saver:
        assert isinstance(saver, PooledPostgresSaver)
        graph: Any = GRAPHS["talking"].compile(checkpointer=saver)
        done = await asyncio.gather(*(graph.ainvoke({"number": 0}, at(str(n)), durability="sync") for n in range(50)))
        assert [len(one["messages"]) for one in done] == [3] * 50
        assert (await check_health(saver, settings)).status == "healthy"


async def test_set_up_through_the_pooler_itself(bouncer: str, conn: psycopg.Connection) -> None:
    conn.execute("DROP SCHEMA workflow_checkpoints CASCADE")
    async with open_postgres_saver(bouncer, pool=TRANSACTION) as saver:
        await put(saver, at("t"), {"a": 1})
        assert await values_of(saver, at("t")) == {"a": 1}


async def test_nothing_of_a_session_is_left_in_the_server(bouncer: str, conn: psycopg.Connection) -> None:
    """No prepared statement, no setting: whoever gets the connection next would meet it."""
    async with open_postgres_saver(bouncer, pool=TRANSACTION) as saver:
        for number in range(12):
            await put(saver, at("t"), {"a": [number]})
            await values_of(saver, at("t"))
            await history(saver, "t")
            await saver.aprune(["t"])
        async with await psycopg.AsyncConnection.connect(bouncer, prepare_threshold=None, autocommit=True) as client:
            for query in (
                "SELECT count(*) FROM pg_prepared_statements",
                "SELECT count(*) FROM pg_settings WHERE source = 'session' AND name LIKE 'enable_%'",
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
                " (SELECT oid FROM pg_database WHERE datname = current_database())",
            ):
                row = await (await client.execute(query.encode())).fetchone()
                assert row == (0,), query
