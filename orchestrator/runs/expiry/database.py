"""Where expiry works: short transactions on the saver's pool.

In the background one process at a time does the work: its transactions hold an advisory lock. By hand it is done beside
that; what one process is at, another leaves out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from psycopg.rows import DictRow

from checkpointer.postgres.pool import Connection, Pool
from checkpointer.postgres.queries import load_queries
from checkpointer.postgres.retry import ride_out
from checkpointer.serde import Cipher
from orchestrator.runs.sender import translated

__all__ = ["Database", "NotOurTurnError"]

T = TypeVar("T")
_PARTS = ("idle", "unneeded", "over")


class NotOurTurnError(Exception):
    """Another process tidies up at this moment. Never leaves the engine."""


@dataclass(frozen=True, slots=True)
class Database:
    """The tables of runs and their checkpoints."""

    pool: Pool
    schema: str
    cipher: Cipher | None
    retry_for_s: float = 30.0
    in_turn: bool = False
    queries: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "queries", _complete(load_queries("orchestrator.runs.expiry", self.schema)))

    async def transaction(self, operation: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        """What `work` returns, done in one transaction, READ COMMITTED, that waits for no lock for long.

        Raises `DatabaseUnavailableError`, and `NotOurTurnError` where work is done in turn.
        """

        async def attempt() -> T:
            async with self.pool.connection() as conn, conn.transaction():
                await conn.execute(self.queries["wait_briefly"].encode())
                if self.in_turn:
                    [turn] = await self.rows(conn, "try_turn", schema=self.schema)
                    if not turn["taken"]:
                        raise NotOurTurnError
                return await work(conn)

        return await translated(ride_out(operation, attempt, for_s=self.retry_for_s))

    async def ask(self, query: str, **params: object) -> list[DictRow]:
        """One statement's rows. Raises `DatabaseUnavailableError`."""

        async def attempt() -> list[DictRow]:
            async with self.pool.connection() as conn:
                return await self.rows(conn, query, **params)

        return await translated(ride_out(query, attempt, for_s=self.retry_for_s))

    async def rows(self, conn: Connection, query: str, **params: object) -> list[DictRow]:
        """One statement's rows on a connection at hand."""
        # Unprepared: planned with the arrays in sight.
        return await (await conn.execute(self.queries[query].encode(), params, prepare=False)).fetchall()


def _complete(queries: Mapping[str, str]) -> Mapping[str, str]:
    """The statements with their parts put in; those of `expired_runs` with and without locks."""
    complete = dict(queries)
    for name, text in queries.items():
        for part in _PARTS:
            text = text.replace(f"{{{part}}}", queries[part])
        complete[name] = text.replace("{owner}", queries["owner_of_thread"])
    expired = complete["expired_runs"]
    complete["expired_runs"] = expired.replace("{locked}", queries["locked"])
    complete["expired_runs_seen"] = expired.replace("{locked}", "")
    return complete
