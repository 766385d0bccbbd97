"""Epochs that lock out a stale writer.

A thread's fence is a row with an epoch. Whoever takes the thread over raises it, inside the transaction in which
it also takes whatever else it needs. A config that carries the epoch in `configurable["__fence_epoch"]` writes only
while the row still has that epoch; the check and the write are one statement (`group_commit.py`), which holds the row
shared until it commits. So:

- a write that is committing makes the takeover wait for it;
- a write that meets a takeover in progress waits for it (its neighbours do not) and is then refused;
- a write after the takeover is refused: `StaleWriterError`, nothing changed.

Deleting a thread raises its epoch too and keeps the row, so a late write does not bring the thread back. A config
without an epoch is not fenced, as with LangGraph's own saver.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import scalar_row

from checkpointer.postgres.queries import load_queries

__all__ = ["FENCE_KEY", "acquire", "fence_epoch"]

FENCE_KEY = "__fence_epoch"


async def acquire(conn: AsyncConnection[Any], thread_id: str, *, schema: str = "workflow_checkpoints") -> int:
    """Take the thread over and return its new epoch (1 for a thread never fenced).

    Waits for a write that is committing under the old epoch; every later one gets `StaleWriterError`. Takes effect
    when the connection's transaction commits.
    """
    statement = load_queries("checkpointer.postgres", schema)["acquire_fence"]
    async with conn.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(statement.encode(), {"thread": thread_id})
        return int(await cursor.fetchone() or 0)


def fence_epoch(configurable: Mapping[str, Any]) -> int | None:
    """The epoch that a config's writes must have, if it is fenced."""
    epoch = configurable.get(FENCE_KEY)
    return None if epoch is None else int(epoch)
