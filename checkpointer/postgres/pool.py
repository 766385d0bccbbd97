"""Connections: waiting until the server is ready, and the pool.

A connection has keepalives and `tcp_user_timeout` (a server that fell silent is noticed in seconds, not hours), and a
maximum idle time and lifetime. Before it is handed out it is checked, but for one that answered a moment ago, as long
as none was lost since: under load the check was a third of all statements. A server that is lost in that moment is
noticed by the statement itself, as one that is lost just after a check is; whoever uses the pool rides that out.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from checkpointer.errors import ConnectError
from checkpointer.metrics import watch_pool
from checkpointer.postgres.retry import summary
from checkpointer.settings import mask_conninfo

__all__ = ["Connection", "Pool", "PoolOptions", "Server", "connect", "cut_off", "open_pool", "wait_until_ready"]

Connection = AsyncConnection[DictRow]
Pool = AsyncConnectionPool[Connection]
_TRUSTED_FOR_S = 1.0

_log = logging.getLogger(__name__)

# libpq gives no SQLSTATE for a refused connection, so the remedy goes by the server's English text; a server that
# speaks another language gets the general remedy.
_REMEDIES = (
    (r"password authentication failed|no password supplied", "check POSTGRES_USER and POSTGRES_PASSWORD"),
    (r"database .* does not exist", "create it (createdb) or correct POSTGRES_DATABASE"),
    (r"role .* does not exist", "create the role or correct POSTGRES_USER"),
    (r"no pg_hba.conf entry", "allow this host and user in the server's pg_hba.conf"),
    (
        r"too many (clients|connections)|remaining connection slots",
        "lower POSTGRES_POOL_MAX_SIZE or raise max_connections",
    ),
    (r"could not translate host|Name or service not known|resolve", "check POSTGRES_HOST"),
    (
        r"Connection refused|No such file",
        "start PostgreSQL there, or correct POSTGRES_HOST and POSTGRES_PORT",
    ),
)
_GENERAL_REMEDY = "check that PostgreSQL runs there and that POSTGRES_CONNECTION_STRING is right"


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """Sizes and times of the pool; times in seconds."""

    min_size: int = 2
    max_size: int = 10
    timeout_s: float = 10.0
    max_idle_s: float = 300.0
    max_lifetime_s: float = 3600.0
    pooler: Literal["none", "transaction"] = "none"


@dataclass(frozen=True, slots=True)
class Server:
    """The server as it is shown: its connection string with the password masked, and its version."""

    shown: str
    version: str


async def connect(conninfo: str, *, timeout_s: float = 10.0, **options: Any) -> Connection:
    """One connection of the kind used everywhere here: autocommit, rows as dicts, keepalives.

    Raises `psycopg.OperationalError` or `TimeoutError`.
    """
    async with asyncio.timeout(timeout_s):
        return await AsyncConnection.connect(conninfo, **connection_options(**options))


def connection_options(**options: Any) -> dict[str, Any]:
    return {
        "autocommit": True,
        "row_factory": dict_row,
        "application_name": "holdfast",
        "keepalives": 1,
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        **options,
    }


def cut_off(conn: AsyncConnection[Any]) -> None:
    """Make whatever waits on the connection see its end now, by shutting its socket.

    psycopg answers a cancelled task by asking the server to stop the statement and waits for that, ten seconds on a
    server that is frozen.
    """
    if not conn.closed:
        with socket.fromfd(conn.fileno(), socket.AF_INET, socket.SOCK_STREAM) as wire:
            wire.shutdown(socket.SHUT_RDWR)


async def wait_until_ready(conninfo: str, *, attempts: int, backoff_s: float, timeout_s: float) -> str:
    """Try `SELECT 1` until it answers; returns the server's version, such as `18.4`.

    Between attempts it waits `backoff_s`, doubled each time and jittered. Raises `ConnectError` after the last.
    """
    shown = mask_conninfo(conninfo)
    for attempt in range(1, attempts + 1):
        try:
            return await _ask_version(conninfo, timeout_s)
        except (psycopg.Error, TimeoutError, OSError) as exc:
            reason = summary(exc) if str(exc) else f"no answer within {timeout_s:g} s"
            if attempt == attempts:
                _log.warning("[POSTGRES] attempt %d of %d on %s failed: %s", attempt, attempts, shown, reason)
                raise ConnectError(_explain(conninfo, reason, attempts)) from exc
            pause_s = backoff_s * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
            _log.warning(
                "[POSTGRES] attempt %d of %d on %s failed, next in %.1f s: %s",
                attempt,
                attempts,
                shown,
                pause_s,
                reason,
            )
            await asyncio.sleep(pause_s)
    raise AssertionError("unreachable: the last attempt returns or raises")


async def _ask_version(conninfo: str, timeout_s: float) -> str:
    async with asyncio.timeout(timeout_s):
        async with await connect(conninfo, timeout_s=timeout_s) as conn:
            await conn.execute("SELECT 1")
            return conn.info.parameter_status("server_version") or "unknown"


def _explain(conninfo: str, reason: str, attempts: int) -> str:
    parts = conninfo_to_dict(conninfo)
    remedy = next((text for pattern, text in _REMEDIES if re.search(pattern, reason)), _GENERAL_REMEDY)
    return (
        f"PostgreSQL is not usable at host {parts.get('host') or 'the default socket'}, "
        f"port {parts.get('port') or 5432}, user {parts.get('user') or 'the default user'} "
        f"({mask_conninfo(conninfo)}) after {attempts} attempts: {reason}. Remedy: {remedy}"
    )


class _TrustingPool(AsyncConnectionPool[Connection]):
    """A pool that knows when each of its connections was last seen to work, and when one was last seen to be lost."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._worked: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()
        self._lost = 0.0
        super().__init__(*arguments, check=self._checked, **options)

    async def putconn(self, conn: Connection) -> None:
        """Take a connection back, and note how it is."""
        if conn.pgconn.transaction_status == TransactionStatus.UNKNOWN:
            self._lost = monotonic()
        else:
            self._worked[conn] = monotonic()
        await super().putconn(conn)

    async def _checked(self, conn: Connection) -> None:
        worked = self._worked.get(conn, 0.0)
        if worked <= self._lost or monotonic() - worked > _TRUSTED_FOR_S:
            await self.check_connection(conn)


@asynccontextmanager
async def open_pool(conninfo: str, options: PoolOptions) -> AsyncIterator[Pool]:
    """A pool whose connections are seen to work before use; closed, with its connections, at the end."""
    pool: Pool = _TrustingPool(
        conninfo,
        open=False,
        min_size=options.min_size,
        max_size=options.max_size,
        timeout=options.timeout_s,
        max_idle=options.max_idle_s,
        max_lifetime=options.max_lifetime_s,
        # Past this the pool stops doubling its pause and the next request makes it try at once; with the
        # library's 300 s a server that was away for a minute would be found again only half a minute late.
        reconnect_timeout=4.0,
        kwargs=connection_options(prepare_threshold=None if options.pooler == "transaction" else 5),
        name="holdfast",
    )
    watch_pool(pool)
    async with pool:
        yield pool
