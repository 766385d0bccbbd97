"""The pool: what it asks of a connection before it hands it out."""

from __future__ import annotations

from contextlib import AsyncExitStack

import psycopg
import pytest

from checkpointer.postgres import pool as pools
from checkpointer.postgres.pool import PoolOptions, open_pool


async def test_after_a_lost_connection_every_other_is_checked(postgres_dsn: str) -> None:
    """What answered a moment ago is not asked again, so one statement may meet a connection that is gone; not more."""
    async with open_pool(postgres_dsn, PoolOptions(min_size=3, max_size=3)) as pool, AsyncExitStack() as stack:
        taken = [await stack.enter_async_context(pool.connection()) for _ in range(3)]
        pids = [conn.info.backend_pid for conn in taken]
        await stack.aclose()
        with psycopg.connect(postgres_dsn, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(pid, 60000) FROM unnest(%s::int[]) pid", [pids])
        failed = 0
        for _ in range(6):
            try:
                async with pool.connection() as conn:
                    await conn.execute("SELECT 1")
            except psycopg.OperationalError:
                failed += 1
        assert failed <= 1


async def test_what_was_idle_for_long_is_checked(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_pool(postgres_dsn, PoolOptions(min_size=1, max_size=1)) as pool:
        async with pool.connection() as conn:
            pid = conn.info.backend_pid
        monkeypatch.setattr(pools, "_TRUSTED_FOR_S", 0.0)
        with psycopg.connect(postgres_dsn, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 60000)", [pid])
        async with pool.connection() as conn:
            await conn.execute("SELECT 1")
            assert conn.info.backend_pid != pid
