"""Holding writers up, so that what is saved meanwhile shares a batch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from tests.waiting import until

__all__ = ["table_locked", "writers_wait"]


@asynccontextmanager
async def table_locked(dsn: str) -> AsyncIterator[None]:
    """Writers wait: what is saved meanwhile piles up and shares the next statements."""
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await conn.execute("LOCK TABLE workflow_checkpoints.checkpoints, workflow_checkpoints.checkpoint_writes")
        yield


async def writers_wait(dsn: str, number: int = 1) -> None:
    """Until that many backends of ours wait for the lock."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:

        async def waiting() -> bool:
            cursor = await conn.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%checkpoint%'"
                " AND datname = current_database()"
            )
            row = await cursor.fetchone()
            return row is not None and row[0] >= number

        await until(waiting, timeout_s=60, what="writers wait for the lock")
