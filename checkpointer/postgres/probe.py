"""Asks the server whether it is there, over a connection that nothing else uses.

A probe must not wait behind a busy pool, and a flood of probes must not become a flood of connections: all of
them share one connection and take turns.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import psycopg

from checkpointer.postgres.pool import Connection, connect

__all__ = ["Probe"]


class Probe:
    """One connection for `SELECT 1`, made when first needed and again after it was lost."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._conn: Connection | None = None
        self._turn = asyncio.Lock()

    async def ask(self, *, timeout_s: float) -> None:
        """Return when the server answers. Raises `TimeoutError` or `psycopg.Error`."""
        async with asyncio.timeout(timeout_s), self._turn:
            if self._conn is not None:
                try:
                    await self._conn.execute("SELECT 1")
                except psycopg.Error:
                    await self.close()
                except BaseException:
                    # Cut off in the middle of an answer: the connection can't be used again.
                    await self.close()
                    raise
                else:
                    return
            self._conn = await connect(self._conninfo, timeout_s=timeout_s, prepare_threshold=None)
            await self._conn.execute("SELECT 1")

    async def close(self) -> None:
        """Give the connection up."""
        if self._conn is not None:
            conn, self._conn = self._conn, None
            await conn.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()
