"""Deleting, copying and pruning threads: each in a transaction of its own on a pooled connection, ridden out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from checkpointer.postgres.copying import copy_thread
from checkpointer.postgres.pool import Connection, Pool
from checkpointer.postgres.queries import load_queries
from checkpointer.postgres.retention import Freed, Keep, delete_runs, delete_threads, prune, sweep
from checkpointer.postgres.retry import ride_out
from checkpointer.serde import Cipher

__all__ = ["Upkeep"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What is done to threads as a whole."""

    pool: Pool
    schema: str
    cipher: Cipher | None
    retry_for_s: float

    async def delete(self, thread_ids: Sequence[str]) -> None:
        """Delete threads for good: a fenced writer that comes late is refused."""
        await self._in_transaction("delete", lambda conn: delete_threads(conn, self.schema, thread_ids))

    async def delete_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints that runs saved, but those that a DeltaChannel of another run's still needs."""
        freed = await self._in_snapshot("delete", lambda conn: delete_runs(conn, self.schema, run_ids))
        for thread_id, counts in freed.items():
            await self._sweep(thread_id, counts)

    async def copy(self, source: str, target: str) -> None:
        """Copy a thread with its whole history."""
        await self._in_snapshot("copy", lambda conn: copy_thread(conn, self.schema, self.cipher, source, target))

    async def prune(self, thread_ids: Sequence[str], keep: Keep) -> None:
        """Forget all but the last checkpoints of threads; what stays loads exactly as before."""
        for thread_id in thread_ids:
            work = partial(prune, schema=self.schema, thread_id=thread_id, keep=keep)
            await self._sweep(thread_id, await self._in_snapshot("prune", work))

    async def _sweep(self, thread_id: str, freed: Freed) -> None:
        """Delete the chunks that nothing reaches any more, where something went."""
        if freed:
            await self._in_transaction("prune", lambda conn: sweep(conn, self.schema, self.cipher, thread_id))

    async def _in_snapshot(self, operation: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        one_snapshot = load_queries("checkpointer.postgres", self.schema)["one_snapshot"]

        async def in_snapshot(conn: Connection) -> T:
            await conn.execute(one_snapshot.encode())
            return await work(conn)

        return await self._in_transaction(operation, in_snapshot)

    async def _in_transaction(self, operation: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        async def attempt() -> T:
            async with self.pool.connection() as conn, conn.transaction():
                return await work(conn)

        return await ride_out(operation, attempt, for_s=self.retry_for_s)
