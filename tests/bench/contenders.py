"""The savers that are compared, all open at once and each with tables of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal

import psycopg
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool
from typing_extensions import TypeVar

from checkpointer import PooledPostgresSaver, open_postgres_saver
from checkpointer.postgres.pool import PoolOptions
from tests.postgres import fresh_database

__all__ = ["LABELS", "Contender", "Saver", "open_contenders", "open_ours", "open_stock"]

Saver = BaseCheckpointSaver[Any]
SubjectT = TypeVar("SubjectT", default=Saver)

_STOCK_CONNECTIONS = 20
_OUR_WRITERS, _OUR_READERS, _OUR_POOL = 2, 1, 1
LABELS = {
    "memory": "InMemorySaver",
    "sqlite": "AsyncSqliteSaver",
    "stock": "AsyncPostgresSaver",
    "unlocked": "AsyncPostgresSaver, no lock",
    "ours": "PooledPostgresSaver",
}


@dataclass(frozen=True)
class Contender(Generic[SubjectT]):
    """What is under measurement, such as a saver; `fresh` gives it without what earlier rounds left in this process."""

    name: str
    fresh: Callable[[], SubjectT]
    dsn: str | None = None

    async def analyze(self) -> None:
        """Have the server look at the tables as they are now, as autovacuum would sooner or later."""
        if self.dsn is not None:
            async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as conn:
                await conn.execute("ANALYZE")


class _NoLock(asyncio.Lock):
    """What the stock saver would be without its lock; its pool keeps connections apart anyway."""

    async def acquire(self) -> Literal[True]:
        return True

    def release(self) -> None:
        return


@asynccontextmanager
async def open_contenders(admin_dsn: str, directory: Path, names: Sequence[str]) -> AsyncIterator[list[Contender]]:
    """Open the named contenders, on fresh databases of the server or files in the directory."""
    async with AsyncExitStack() as stack:
        contenders: list[Contender] = []
        for name in names:
            if name == "memory":
                contenders.append(Contender(name, InMemorySaver))
                continue
            if name == "sqlite":
                sqlite = await stack.enter_async_context(
                    AsyncSqliteSaver.from_conn_string(str(directory / "checkpoints.sqlite"))
                )
                contenders.append(_same(name, sqlite))
                continue
            dsn = stack.enter_context(fresh_database(admin_dsn))
            saver = await stack.enter_async_context(_OPENERS[name](dsn))
            contenders.append(_same(name, saver, dsn))
        yield contenders


def _same(name: str, saver: Saver, dsn: str | None = None) -> Contender:
    return Contender(name, lambda: saver, dsn)


@asynccontextmanager
async def open_stock(dsn: str) -> AsyncIterator[AsyncPostgresSaver]:
    """The stock saver on a pool, as its documentation recommends."""
    pool: AsyncConnectionPool[psycopg.AsyncConnection[DictRow]] = AsyncConnectionPool(
        dsn,
        min_size=_STOCK_CONNECTIONS,
        max_size=_STOCK_CONNECTIONS,
        kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
        open=False,
    )
    async with pool:
        await pool.wait()
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        yield saver


@asynccontextmanager
async def _open_unlocked(dsn: str) -> AsyncIterator[AsyncPostgresSaver]:
    async with open_stock(dsn) as saver:
        saver.lock = _NoLock()
        yield saver


@asynccontextmanager
async def open_ours(dsn: str, *, storage: Literal["whole", "shared"] = "whole") -> AsyncIterator[PooledPostgresSaver]:
    """Ours on at most four connections in all."""
    pool = PoolOptions(min_size=0, max_size=_OUR_POOL)
    async with open_postgres_saver(
        dsn, writers=_OUR_WRITERS, readers=_OUR_READERS, pool=pool, storage=storage
    ) as saver:
        yield saver


_OPENERS: dict[str, Callable[[str], AbstractAsyncContextManager[Saver]]] = {
    "stock": open_stock,
    "unlocked": _open_unlocked,
    "ours": open_ours,
}
