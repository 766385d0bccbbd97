"""Starting against a server that is away, silent, or refuses: bounded, explained, and without the password."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from checkpointer import CheckpointerSettings, ConnectError, PooledPostgresSaver, check_health, open_saver
from checkpointer.postgres.pool import wait_until_ready
from tests.postgres import Cluster, own_cluster
from tests.waiting import until

SECRET = "hunter2@/hunter2"
ATTEMPTS = 3


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    """A server with a role whose password is checked."""
    with own_cluster() as cluster:
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            conn.execute("CREATE ROLE locked_x LOGIN PASSWORD 'right'")
            conn.execute("CREATE ROLE narrow LOGIN CONNECTION LIMIT 0")
            conn.execute("ALTER ROLE locked_x SET statement_timeout = '30s'")
        yield cluster


@dataclass
class SilentServer:
    """Takes connections and never says a word."""

    listener: socket.socket
    lines: list[socket.socket] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def callers(self) -> int:
        """How many have connected so far."""
        try:
            while True:
                self.lines.append(self.listener.accept()[0])
        except BlockingIOError:
            return len(self.lines)


@contextmanager
def silent_server() -> Iterator[SilentServer]:
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        listener.setblocking(False)
        silent = SilentServer(listener)
        try:
            yield silent
        finally:
            for line in silent.lines:
                line.close()


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port where nobody listens, and nobody else can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


def settings(conninfo: str, **changes: Any) -> CheckpointerSettings:
    values: dict[str, Any] = {
        "use_postgres_saver": True,
        "postgres_connection_string": conninfo,
        "postgres_connect_attempts": ATTEMPTS,
        "postgres_connect_backoff": 0.01,
        "postgres_connect_timeout": 30,
    }
    return CheckpointerSettings(**(values | changes))


def attempts_logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.getMessage().startswith("[POSTGRES] attempt")]


async def refusal(asked: CheckpointerSettings, caplog: pytest.LogCaptureFixture) -> str:
    """The message of the ConnectError, after looking for the password everywhere it could have gone."""
    with caplog.at_level(logging.DEBUG), pytest.raises(ConnectError) as caught:
        async with open_saver(asked):
            pass
    told = str(caught.value)
    for text in (told, caplog.text, "".join(traceback.format_exception(caught.value))):
        assert SECRET not in text
        assert "hunter2" not in text
    lines = attempts_logged(caplog)
    assert [record.getMessage().split(" on ")[0] for record in lines] == [
        f"[POSTGRES] attempt {number} of {asked.postgres_connect_attempts}"
        for number in range(1, asked.postgres_connect_attempts + 1)
    ]
    assert all(record.levelno == logging.WARNING and "\n" not in record.getMessage() for record in lines)
    assert f"after {asked.postgres_connect_attempts} attempts" in told
    assert "Remedy: " in told
    assert "enabled" not in caplog.text
    return told


class TestRefused:
    async def test_nothing_listens(self, caplog: pytest.LogCaptureFixture) -> None:
        with refusing_port() as port:
            dsn = make_conninfo("", host="127.0.0.1", port=port, user="claude", password=SECRET, dbname="studio")
            told = await refusal(settings(dsn), caplog)
        assert f"host 127.0.0.1, port {port}, user claude" in told
        assert f"postgresql://claude:***@127.0.0.1:{port}/studio" in told
        assert "Connection refused" in told
        assert "start PostgreSQL there, or correct POSTGRES_HOST and POSTGRES_PORT" in told

    async def test_no_such_socket(self, caplog: pytest.LogCaptureFixture) -> None:
        told = await refusal(settings(f"host=/nowhere user=u password={SECRET}"), caplog)
        assert "host /nowhere, port 5432, user u" in told
        assert "start PostgreSQL there" in told

    async def test_host_unknown(self, caplog: pytest.LogCaptureFixture) -> None:
        told = await refusal(settings(f"host=nowhere.invalid user=u password={SECRET}"), caplog)
        assert "host nowhere.invalid, port 5432, user u" in told
        assert "Remedy: check POSTGRES_HOST" in told

    async def test_wrong_password(self, server: Cluster, caplog: pytest.LogCaptureFixture) -> None:
        told = await refusal(settings(server.dsn(user="locked_x", password=SECRET)), caplog)
        assert f"host 127.0.0.1, port {server.port}, user locked_x" in told
        assert "password authentication failed" in told
        assert "Remedy: check POSTGRES_USER and POSTGRES_PASSWORD" in told

    async def test_no_password(self, server: Cluster, caplog: pytest.LogCaptureFixture) -> None:
        told = await refusal(settings(server.dsn(user="locked_x")), caplog)
        assert "Remedy: check POSTGRES_USER and POSTGRES_PASSWORD" in told

    async def test_database_missing(self, server: Cluster, caplog: pytest.LogCaptureFixture) -> None:
        told = await refusal(settings(server.dsn("nowhere", password=SECRET)), caplog)
        assert 'database "nowhere" does not exist' in told
        assert "Remedy: create it (createdb) or correct POSTGRES_DATABASE" in told

    async def test_role_missing(self, server: Cluster, caplog: pytest.LogCaptureFixture) -> None:
        told = await refusal(settings(server.dsn(user="nobody", password=SECRET)), caplog)
        assert "Remedy: create the role or correct POSTGRES_USER" in told

    async def test_no_connection_free(self, server: Cluster, caplog: pytest.LogCaptureFixture) -> None:
        told = await refusal(settings(server.dsn(user="narrow", password=SECRET)), caplog)
        assert "Remedy: lower POSTGRES_POOL_MAX_SIZE or raise" in told

    async def test_every_host_of_several(self, caplog: pytest.LogCaptureFixture) -> None:
        with refusing_port() as one, refusing_port() as other:
            dsn = make_conninfo("", host="127.0.0.1,127.0.0.1", port=f"{one},{other}", user="u", password=SECRET)
            assert "Connection refused" in await refusal(settings(dsn), caplog)

    async def test_the_address_for_migrations(self, server: Cluster, caplog: pytest.LogCaptureFixture) -> None:
        with refusing_port() as port:
            direct = make_conninfo("", host="127.0.0.1", port=port, user="u", password=SECRET)
            told = await refusal(settings(server.dsn(), postgres_migration_connection_string=direct), caplog)
        assert f"host 127.0.0.1, port {port}, user u" in told


class TestSilent:
    async def test_the_time_out_applies_to_each_attempt(self, caplog: pytest.LogCaptureFixture) -> None:
        with silent_server() as silent:
            dsn = make_conninfo("", host="127.0.0.1", port=silent.port, user="u", password=SECRET)
            started = time.monotonic()
            told = await refusal(settings(dsn, postgres_connect_timeout=0.2), caplog)
            took_s = time.monotonic() - started
            assert silent.callers() == ATTEMPTS
            assert f"host 127.0.0.1, port {silent.port}, user u" in told
        # libpq's own time-out is two seconds at least.
        assert 0.2 * ATTEMPTS <= took_s < 2 * ATTEMPTS
        assert "no answer within 0.2 s" in told

    async def test_a_start_that_is_cancelled_stops_trying(self) -> None:
        with silent_server() as silent:
            asked = settings(f"host=127.0.0.1 port={silent.port} user=u", postgres_connect_timeout=60)

            async def start() -> None:
                async with open_saver(asked):
                    pass

            starting = asyncio.create_task(start())
            await until(silent.callers, what="it has called")
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            assert silent.callers() == 1


class TestAttempts:
    async def test_pauses_double_and_are_jittered(self, caplog: pytest.LogCaptureFixture) -> None:
        with refusing_port() as port, pytest.raises(ConnectError):
            await wait_until_ready(f"host=127.0.0.1 port={port} user=u", attempts=6, backoff_s=0.05, timeout_s=30)
        *paused, last = attempts_logged(caplog)
        assert "next in" not in last.getMessage()
        told = [re.search(r"next in (\d+\.\d) s", record.getMessage()) for record in paused]
        told_s = [float(found[1]) for found in told if found is not None]
        taken_s = [later.created - earlier.created for earlier, later in zip(paused, [*paused[1:], last], strict=True)]
        rounding_s = 0.05
        for number, (pause_s, took_s) in enumerate(zip(told_s, taken_s, strict=True)):
            assert 0.05 * 2**number * 0.75 - rounding_s <= pause_s <= 0.05 * 2**number * 1.25 + rounding_s
            assert took_s >= max(pause_s - rounding_s, 0.05 * 2**number * 0.75)

    async def test_one_attempt_is_one_attempt(self, caplog: pytest.LogCaptureFixture) -> None:
        with refusing_port() as port, pytest.raises(ConnectError):
            await wait_until_ready(f"host=127.0.0.1 port={port} user=u", attempts=1, backoff_s=600, timeout_s=30)
        assert len(attempts_logged(caplog)) == 1

    async def test_a_server_that_comes_up_meanwhile(self, cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
        cluster.stop("immediate")

        async def start_after_a_failure() -> None:
            await until(lambda: attempts_logged(caplog))
            await asyncio.to_thread(cluster.start)

        starting = asyncio.create_task(start_after_a_failure())
        asked = settings(cluster.dsn(), postgres_connect_attempts=10, postgres_connect_backoff=0.05)
        async with open_saver(asked) as saver:
            assert (await check_health(saver)).status == "healthy"
        await starting
        assert 1 <= len(attempts_logged(caplog)) < 10

    async def test_the_second_of_two_hosts(self, server: Cluster, caplog: pytest.LogCaptureFixture) -> None:
        with refusing_port() as port:
            dsn = make_conninfo(server.dsn(), host="127.0.0.1,127.0.0.1", port=f"{port},{server.port}")
            async with open_saver(settings(dsn)) as saver:
                assert (await check_health(saver)).status == "healthy"
        assert attempts_logged(caplog) == []

    async def test_a_server_that_answers_is_asked_once(self, server: Cluster, caplog: pytest.LogCaptureFixture) -> None:
        version = await wait_until_ready(server.dsn(), attempts=5, backoff_s=60, timeout_s=30)
        assert re.fullmatch(r"\d+(\.\d+)?.*", version)
        assert caplog.records == []


async def test_the_string_s_own_options_reach_the_server(server: Cluster) -> None:
    dsn = make_conninfo(server.dsn(), options="-c statement_timeout=12345")
    async with open_saver(settings(dsn)) as saver:
        assert isinstance(saver, PooledPostgresSaver)
        async with saver.pool.connection() as conn:
            row = await (await conn.execute("SELECT current_setting('statement_timeout') AS timeout")).fetchone()
    assert row == {"timeout": "12345ms"}
