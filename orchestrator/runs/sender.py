"""Sends statements of `queries.sql` on the saver's pool, and rides out a lost server.

Patience has two measures. What a caller waits for gives up after seconds, so that an API call gets its answer; what an
attempt rests on rides out a lost server as long as a save does.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from psycopg.rows import DictRow
from psycopg_pool import PoolClosed

from checkpointer.errors import SaverClosedError, SaverUnavailableError
from checkpointer.postgres.pool import Connection, Pool
from checkpointer.postgres.queries import load_queries
from checkpointer.postgres.retry import ride_out
from orchestrator.errors import DatabaseUnavailableError

__all__ = ["CALLER_PATIENCE_S", "QUERIES", "Sender", "bare", "channel_of", "claim_statement", "oldest_of", "translated"]

T = TypeVar("T")

QUERIES = "orchestrator.runs"
CALLER_PATIENCE_S = 3.0


def channel_of(schema: str) -> str:
    """The channel on which processes tell each other about runs; a hash, for a channel's name is short."""
    return "holdfast_" + hashlib.md5(schema.encode(), usedforsecurity=False).hexdigest()


async def translated(work: Awaitable[T]) -> T:
    """Await `work` with the errors of a lost or closed database as `DatabaseUnavailableError`."""
    try:
        return await work
    except (SaverUnavailableError, TimeoutError) as exc:
        raise DatabaseUnavailableError(f"PostgreSQL did not answer in time: {exc}") from exc
    except (PoolClosed, SaverClosedError) as exc:
        raise DatabaseUnavailableError("the connections are closed: this process is stopping") from exc


def claim_statement(queries: Mapping[str, str], turn: str) -> str:
    """The claim of the runs that the part named `turn` finds."""
    found = bare(queries[turn]).replace("{first}", bare(queries["first_in_thread"]))
    return bare(queries["claim_runs"]).replace("{turn}", found)


# Which pending runs a claim looks at, in words for which there is an index.
_KEPT = {
    "claim_oldest": "true",
    "claim_oldest_single": "run.batch_id IS NULL",
    "claim_oldest_batched": "run.batch_id IS NOT NULL",
    "claim_oldest_lost": "run.losses > 0",
}


def oldest_of(*, batched: bool | None, last_chance: bool) -> str:
    """The name of the statement that claims the oldest runs of a kind."""
    if last_chance:
        return "claim_oldest_lost"
    return "claim_oldest" if batched is None else "claim_oldest_batched" if batched else "claim_oldest_single"


def bare(query: str) -> str:
    """A statement without its comments and indentation: psycopg parses one of over 4,096 characters anew each time."""
    lines = (" ".join(line.split()) for line in query.splitlines())
    return " ".join(line for line in lines if line and not line.startswith("--"))


def _run_queries(schema: str) -> Mapping[str, str]:
    """The statements of runs, complete."""
    queries = load_queries(QUERIES, schema)
    again = bare(queries["push_again"]).replace("{first}", bare(queries["first_in_thread"]))
    oldest = claim_statement(queries, "turn_by_age")
    claims = {name: oldest.replace("{kept}", kept) for name, kept in _KEPT.items()}
    return {**queries, **claims, "push_again": again}


class Sender:
    """Statements by name over `pool`, by default those of runs. Everything sent must be safe to send twice."""

    def __init__(self, pool: Pool, schema: str, queries: Mapping[str, str] | None = None) -> None:
        self.channel = channel_of(schema)
        self.pool = pool
        self.schema = schema
        self._queries = _run_queries(schema) if queries is None else queries

    async def ask(self, query: str, *, for_s: float = CALLER_PATIENCE_S, **params: Any) -> list[DictRow]:
        """One statement's rows. Raises `DatabaseUnavailableError`."""

        async def attempt() -> list[DictRow]:
            async with self.pool.connection(timeout=for_s) as conn:
                return await self.rows(conn, query, params)

        return await self._ride_out(query, attempt, for_s)

    async def transaction(self, operation: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        """What `work` returns, done in one transaction. Raises `DatabaseUnavailableError` and what `work` raises."""

        async def attempt() -> T:
            async with self.pool.connection(timeout=CALLER_PATIENCE_S) as conn, conn.transaction():
                return await work(conn)

        return await self._ride_out(operation, attempt, CALLER_PATIENCE_S)

    def statement(self, query: str) -> bytes:
        """A statement's text."""
        return self._queries[query].encode()

    async def rows(self, conn: Connection, query: str, params: Mapping[str, Any]) -> list[DictRow]:
        """One statement's rows on a connection at hand."""
        given = {"channel": self.channel, **params}
        cursor = await conn.execute(self._queries[query].encode(), given)
        return await cursor.fetchall() if cursor.description else []

    @staticmethod
    async def _ride_out(operation: str, attempt: Callable[[], Awaitable[T]], for_s: float) -> T:
        return await translated(_within(for_s + 0.5, ride_out(operation, attempt, for_s=for_s)))


async def _within(timeout_s: float, work: Coroutine[Any, Any, T]) -> T:
    """Await `work` for `timeout_s`, then leave it to end by itself.

    A plain time-out is not enough: a connection whose server fell silent takes seconds more to be cancelled.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(_retrieve)
    if not done:
        raise TimeoutError(f"gave up after {timeout_s:g} s")
    return task.result()


def _retrieve(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()
