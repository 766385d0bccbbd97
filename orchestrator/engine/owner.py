"""Says that this process is alive: a random id, and a session advisory lock on it.

The lock dies with the connection, and the connection with the process, so another server sees a dead owner within
a second or two. A connection that is lost while the process lives is made again at once; until the lock is held
again the process's runs may be taken over, so whoever looks must find it absent twice (see recovery.py).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from checkpointer.errors import ConnectError
from checkpointer.postgres.pool import Connection, connect
from checkpointer.postgres.queries import load_queries
from checkpointer.postgres.retry import summary
from orchestrator.engine.ticker import Ticker
from orchestrator.runs.postgres import QUERIES

__all__ = ["OwnerLock", "new_owner_id"]

_log = logging.getLogger(__name__)
_CHECK_EVERY_S = 0.25
_ANSWER_WITHIN_S = 3.0


def new_owner_id() -> int:
    """A random positive bigint, other than 0."""
    return secrets.randbelow(2**63 - 1) + 1


class OwnerLock:
    """The session lock on `owner`, on a connection of its own that must not go through a transaction pooler."""

    def __init__(self, conninfo: str, schema: str, owner: int) -> None:
        self._conninfo = conninfo
        self._query = load_queries(QUERIES, schema)["hold_owner_lock"].encode()
        self._owner = owner
        self._conn: Connection | None = None
        self._lost = False
        self._ticker = Ticker("holding the owner lock", self._keep, every_s=_CHECK_EVERY_S)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold the lock for the block. Raises `checkpointer.ConnectError` where the first connection fails."""
        try:
            await self._take()
        except (psycopg.Error, OSError, TimeoutError) as exc:
            raise ConnectError(f"the lock that says this server is alive can't be taken: {summary(exc)}") from exc
        self._ticker.start()
        try:
            yield
        finally:
            await self._ticker.stop()
            await self._drop()

    async def _keep(self) -> None:
        try:
            if self._conn is None:
                await self._take()
            await self._watch()
        except (psycopg.Error, OSError, TimeoutError) as exc:
            if not self._lost:
                _log.warning("[POSTGRES] the connection that says this server is alive was lost: %s", summary(exc))
            self._lost = True
            await self._drop()

    async def _take(self) -> None:
        conn = await connect(self._conninfo, timeout_s=_ANSWER_WITHIN_S, prepare_threshold=None)
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                row = await (await conn.execute(self._query, {"owner": self._owner})).fetchone()
        except BaseException:
            await conn.close()
            raise
        if row is None or not row["held"]:
            # Our own lost session, which the server has not noticed yet, or someone who looks for the dead.
            await conn.close()
            raise TimeoutError("its lock is not free yet")
        self._conn = conn
        if self._lost:
            _log.info("[POSTGRES] the connection that says this server is alive is back")
        self._lost = False

    async def _watch(self) -> None:
        """Return after a while in which the connection was well; raises as soon as the server closes it."""
        conn = self._conn
        if conn is None:
            return
        async for _ in conn.notifies(timeout=2.0):
            pass
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            await conn.execute("SELECT 1")

    async def _drop(self) -> None:
        if self._conn is not None:
            conn, self._conn = self._conn, None
            await conn.close()
