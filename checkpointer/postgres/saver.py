"""`PooledPostgresSaver`: LangGraph's checkpoints in PostgreSQL, over a pool of checked connections.

Tables, rows and queries are upstream's `AsyncPostgresSaver`'s. What differs: operations do not queue behind one
lock, they are measured, and an operation that failed because of the server is sent again for `retry_for_s`
seconds (every statement is an upsert, so that is safe).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from types import TracebackType
from typing import Any, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.base import SerializerProtocol
from prometheus_client import Histogram

from checkpointer.metrics import ERRORS, LOAD_SECONDS, SAVE_SECONDS
from checkpointer.postgres.pool import Pool
from checkpointer.postgres.probe import Probe
from checkpointer.postgres.retry import ride_out

__all__ = ["PooledPostgresSaver"]

T = TypeVar("T")


class _NoLock(asyncio.Lock):
    """Stands in for upstream's lock: the pool already gives every operation a connection of its own."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        return None


class PooledPostgresSaver(AsyncPostgresSaver):
    """Upstream's saver on a pool whose connections find the tables of `schema`.

    Make it with `checkpointer.open_saver` or `checkpointer.open_postgres_saver`. `shown` is the connection string
    with its password masked.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        schema: str,
        probe: Probe,
        shown: str,
        server_version: str,
        retry_for_s: float = 30.0,
        serde: SerializerProtocol | None = None,
    ) -> None:
        super().__init__(cast("Any", pool), serde=serde)
        self.lock = _NoLock()
        self.pool = pool
        self.schema = schema
        self.probe = probe
        self.shown = shown
        self.server_version = server_version
        self.retry_for_s = retry_for_s

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint; returns once it is committed. Raises `SaverUnavailableError` out of time."""
        put = super().aput
        return await self._measured("save", SAVE_SECONDS, lambda: put(config, checkpoint, metadata, new_versions))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Save a task's writes; returns once they are committed. Raises `SaverUnavailableError` out of time."""
        put = super().aput_writes
        await self._measured("save", SAVE_SECONDS, lambda: put(config, writes, task_id, task_path))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Load a checkpoint, the latest unless the config names one. Raises `SaverUnavailableError`."""
        get = super().aget_tuple
        return await self._measured("load", LOAD_SECONDS, lambda: get(config))

    async def _measured(self, operation: str, seconds: Histogram, attempt: Callable[[], Awaitable[T]]) -> T:
        started = perf_counter()
        try:
            return await ride_out(operation, attempt, for_s=self.retry_for_s)
        except Exception as exc:
            ERRORS.labels(operation=operation, kind=type(exc).__name__).inc()
            raise
        finally:
            seconds.observe(perf_counter() - started)
