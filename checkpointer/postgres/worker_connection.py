"""The connection of one writer or reader: kept open, made anew when it was lost, with its own way of waiting.

It is not taken from the pool: a check before every statement would cost each batch a round trip, and the pool's
pauses between attempts grow to seconds where a batch wants the server back as soon as it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal, cast

import psycopg
from psycopg import AsyncConnection
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Format
from psycopg.rows import TupleRow, tuple_row

from checkpointer.postgres.arrays import register_arrays
from checkpointer.postgres.pool import connect, cut_off

__all__ = ["WorkerConnection", "register_row_types"]

# Every statement of a batch looks rows up by primary key. A plan made while a table was still small may not, and
# a prepared statement would keep it; what is not wanted is switched off for the connection.
_PLANNER = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off"


class _JsonText(Loader):
    """jsonb as the bytes of its JSON text; whoever asked decodes it, in its own task."""

    format = Format.BINARY

    def load(self, data: Buffer) -> bytes:
        return bytes(data)[1:]  # the first byte is the version of the format, 1


def register_row_types(adapters: AdaptersMap) -> None:
    """Have jsonb columns come as the bytes of their JSON text, in binary results."""
    adapters.register_loader("jsonb", _JsonText)


class WorkerConnection:
    """One connection that runs one statement at a time; `conninfo` is the server's."""

    def __init__(self, conninfo: str, *, pooler: Literal["none", "transaction"], connect_timeout_s: float) -> None:
        self._conninfo = conninfo
        self._pooler = pooler
        self._connect_timeout_s = connect_timeout_s
        self._conn: AsyncConnection[TupleRow] | None = None

    async def run(self, statement: str, params: Mapping[str, Any], *, timeout_s: float) -> list[TupleRow]:
        """Run the statement in a transaction of its own and fetch all rows.

        After any error but one about the data the connection is dropped, and the next call makes a new one.
        Raises psycopg's errors, `OSError`, or `TimeoutError` for a server that has gone silent.
        """
        try:
            if self._conn is None:
                self._conn = await self._open(timeout_s)
            return await self._execute(self._conn, statement, params, timeout_s)
        except BaseException as exc:
            if not isinstance(exc, psycopg.Error) or exc.sqlstate is None or exc.sqlstate[:2] in ("08", "57"):
                await self.close()
            raise

    @staticmethod
    async def _execute(
        conn: AsyncConnection[TupleRow], statement: str, params: Mapping[str, Any], timeout_s: float
    ) -> list[TupleRow]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        silence = loop.call_at(deadline, cut_off, conn)
        try:
            cursor = conn.cursor(binary=True)
            await cursor.execute(statement.encode(), params)
            return await cursor.fetchall()
        except psycopg.OperationalError as exc:
            if loop.time() >= deadline:
                raise TimeoutError(f"PostgreSQL did not answer within {timeout_s:.1f} s") from exc
            raise
        finally:
            silence.cancel()

    async def _open(self, timeout_s: float) -> AsyncConnection[TupleRow]:
        session = {} if self._pooler == "transaction" else {"options": self._options()}
        conn = cast(
            "AsyncConnection[TupleRow]",
            await connect(
                self._conninfo,
                timeout_s=min(timeout_s, self._connect_timeout_s),
                prepare_threshold=None if self._pooler == "transaction" else 0,
                row_factory=tuple_row,
                **session,
            ),
        )
        register_arrays(conn.adapters)
        register_row_types(conn.adapters)
        return conn

    def _options(self) -> str:
        """Beside the connection string's own `options`: time-outs, or how a hosted server finds the database."""
        return f"{conninfo_to_dict(self._conninfo).get('options') or ''} {_PLANNER}".strip()

    async def close(self) -> None:
        """Drop the connection, if there is one."""
        if self._conn is not None:
            conn, self._conn = self._conn, None
            await conn.close()
