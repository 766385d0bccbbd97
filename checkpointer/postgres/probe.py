"""Asks the server whether it is there, over a connection that nothing else uses.

A probe must not wait behind a busy pool, and a flood of probes must not become a flood of connections: all of
them share one connection, and whoever asks while a question is under way waits for the same answer.

A question that is not answered in time is not cancelled but cut off (`pool.cut_off`).
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import psycopg

from checkpointer.postgres.pool import Connection, connect, cut_off

__all__ = ["Probe"]


class Probe:
    """One connection for `SELECT 1`, made when first needed and again after it was lost."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._conn: Connection | None = None
        self._question: asyncio.Task[None] | None = None

    async def ask(self, *, timeout_s: float) -> None:
        """Return when the server answers. Raises `TimeoutError` or `psycopg.Error`."""
        question = self._question
        if question is None or question.done():
            question = self._question = asyncio.create_task(self._select(timeout_s))
            question.add_done_callback(_look_at_result)
        done, _ = await asyncio.wait({question}, timeout=timeout_s)
        if not done and question is self._question:
            self._give_up()
        if not done or question.cancelled():
            raise TimeoutError
        question.result()

    async def _select(self, timeout_s: float) -> None:
        conn = self._conn
        if conn is not None:
            try:
                await conn.execute("SELECT 1")
            except psycopg.Error:
                await conn.close()
                if self._conn is not conn:
                    raise  # cut off: nobody waits for this answer any more
            else:
                return
        self._conn = None
        conn = self._conn = await connect(self._conninfo, timeout_s=timeout_s, prepare_threshold=None)
        await conn.execute("SELECT 1")

    def _give_up(self) -> None:
        question, self._question = self._question, None
        conn, self._conn = self._conn, None
        if conn is not None:
            cut_off(conn)
        elif question is not None:
            question.cancel()

    async def close(self) -> None:
        """Give the connection up, and a question that is under way."""
        question, conn = self._question, self._conn
        if question is not None and not question.done():
            self._give_up()
            await asyncio.wait({question})
        self._conn = None
        if conn is not None:
            await conn.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()


def _look_at_result(question: asyncio.Task[None]) -> None:
    if not question.cancelled():
        question.exception()
