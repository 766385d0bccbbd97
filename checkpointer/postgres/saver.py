"""`PooledPostgresSaver`: LangGraph's checkpoints in PostgreSQL, written and read in batches.

The tables are exactly upstream's; the stock `AsyncPostgresSaver` reads what this saver wrote (given its serializer,
with encryption off), and this one reads what the stock one wrote.

    aput, aput_writes → Codec (rows, in the caller's task) → GroupCommit → one statement for everyone
    aget_tuple        → BatchLoad → one statement for everyone → Codec (values, in the caller's task)
    alist, deleting, copying, pruning → the pool
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Mapping,
    Sequence,
)
from copy import copy
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from psycopg.rows import TupleRow

from checkpointer.metrics import CHECKPOINT_BYTES, LOAD_SECONDS, SAVE_SECONDS, Timed
from checkpointer.postgres.arrays import NULL
from checkpointer.postgres.batch_load import BatchLoad
from checkpointer.postgres.chunks import ChunkReader, KnownChunks, Sending, chunk_rows
from checkpointer.postgres.codec import Codec, jsonb, text
from checkpointer.postgres.fence import fence_epoch
from checkpointer.postgres.group_commit import ChunksMovedError, GroupCommit, Save
from checkpointer.postgres.pool import Pool, Server
from checkpointer.postgres.probe import Probe
from checkpointer.postgres.queries import load_queries
from checkpointer.postgres.reader import Reader
from checkpointer.postgres.retention import Keep
from checkpointer.postgres.upkeep import Upkeep
from checkpointer.saved import on_saved
from checkpointer.serde import Cipher, CompressedSerializer
from checkpointer.tracing import loading, saving

__all__ = ["PooledPostgresSaver"]

P = ParamSpec("P")
T = TypeVar("T")
_PAGE = 50
_LARGE_AT_ONCE = 4


class PooledPostgresSaver(AsyncPostgresSaver):
    """A checkpointer for many concurrent runs on few connections.

    Make it with `checkpointer.open_saver` or `checkpointer.open_postgres_saver`. The synchronous methods may be called
    from any thread but the event loop's.
    """

    def __init__(
        self,
        pool: Pool,
        group_commit: GroupCommit,
        batch_load: BatchLoad,
        codec: Codec,
        chunk_reader: ChunkReader,
        *,
        known_chunks: KnownChunks | None,
        schema: str,
        probe: Probe,
        server: Server,
        retry_for_s: float = 30.0,
    ) -> None:
        super().__init__(cast("Any", pool), serde=codec.serde)
        self.pool = pool
        self.schema = schema
        self.probe = probe
        self.shown = server.shown
        self.server_version = server.version
        self.retry_for_s = retry_for_s
        self._group_commit = group_commit
        self._codec = codec
        self._known = known_chunks
        self._large_values = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._queries = load_queries("checkpointer.postgres", schema)
        first_version = self.get_next_version(None, None)
        self._reader = Reader(pool, batch_load, chunk_reader, codec, self._queries, retry_for_s, first_version)
        self._upkeep = Upkeep(pool, schema, codec.cipher, retry_for_s)

    @property
    def cipher(self) -> Cipher | None:
        """What encrypts the values, where keys are set."""
        return self._codec.cipher

    async def setup(self) -> None:
        """Nothing to do: the tables were made or verified when the saver was opened."""

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> PooledPostgresSaver:
        """The same saver, on the same connections, that may also rebuild these types."""
        if not isinstance(self.serde, (CompressedSerializer, JsonPlusSerializer)):
            return self
        serde = self.serde.with_msgpack_allowlist(extra_allowlist)
        return self if serde is self.serde else self.with_serde(serde)

    def with_serde(self, serde: SerializerProtocol) -> PooledPostgresSaver:
        """The same saver, on the same connections, with another serializer."""
        clone = copy(self)
        clone.serde = serde
        clone._codec = self._codec.with_serde(serde)
        clone._reader = replace(self._reader, codec=clone._codec)
        return clone

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint; returns once it is committed.

        Raises `StaleWriterError`, `SaverUnavailableError`, or `UnsavableError`.
        """
        ids = config["configurable"]
        with Timed("save", SAVE_SECONDS), saving("checkpoint", config) as span:
            values = checkpoint["channel_values"]
            changed = [(name, values[name]) for name in new_versions if name in values]
            large = self._codec.sizes.is_large(str(ids["thread_id"]), changed)
            if self._known is None:
                rows = self._checkpoint_rows
                save = await self._made(large, rows, config, checkpoint, metadata, new_versions, None)
                batch = await self._group_commit.submit_now(save)
            else:
                save, batch = await self._save_shared(self._known, large, config, checkpoint, metadata, new_versions)
            if span is not None:
                span.saved(save.bytes, batch)
        saved: RunnableConfig = {
            "configurable": {
                "thread_id": ids["thread_id"],
                "checkpoint_ns": ids.get("checkpoint_ns", ""),
                "checkpoint_id": checkpoint["id"],
            }
        }
        if (tell := on_saved.get()) is not None:
            tell(saved, metadata)
        return saved

    async def _save_shared(
        self,
        known: KnownChunks,
        large: bool,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> tuple[Save, int]:
        """Save with long lists shared; again, in full, where the thread's chunks were pruned meanwhile."""
        thread = str(config["configurable"]["thread_id"])
        sending = known.sending(thread)
        while True:
            rows = self._checkpoint_rows
            save = await self._made(large, rows, config, checkpoint, metadata, new_versions, sending)
            generation = sending.generation
            if sending.used and generation is None:
                generation = await self._ensure_fence(thread)
            try:
                batch = await self._group_commit.submit_now(save)
            except ChunksMovedError as moved:
                known.forget(thread)
                sending = Sending(thread, moved.generation, set(), known.era)
                continue
            if generation is not None:
                known.learn(thread, generation, sending.chunks, sending.era)
            return save, batch

    async def _ensure_fence(self, thread: str) -> int:
        while True:
            rows = await self._reader.fetch(self._queries["ensure_fence"], {"thread": thread})
            if rows:
                return int(rows[0][0])

    def _checkpoint_rows(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
        sending: Sending | None,
    ) -> Save:
        ids = config["configurable"]
        thread, namespace = str(ids["thread_id"]), str(ids.get("checkpoint_ns", ""))
        parent = ids.get("checkpoint_id")
        inline, blobs = self._codec.blobs(thread, namespace, checkpoint, new_versions, sending)
        chunks = chunk_rows(sending) if sending is not None else ()
        body = jsonb({**checkpoint, "channel_values": inline})
        about = jsonb(get_serializable_checkpoint_metadata(config, metadata))
        size = len(body) + len(about)
        for row in blobs:
            size += len(row[5])
        for chunk in chunks:
            size += len(chunk[3])
        CHECKPOINT_BYTES.observe(size)
        return Save(
            thread_id=thread,
            epoch=fence_epoch(ids),
            shares=sending is not None and sending.used,
            generation=sending.generation if sending is not None and sending.assumes else None,
            era=sending.era if sending is not None else 0,
            bytes=size,
            blobs=blobs,
            chunks=chunks,
            checkpoint=(
                text("thread_id", thread),
                text("checkpoint_ns", namespace),
                text("checkpoint_id", checkpoint["id"]),
                text("checkpoint_id", parent) if parent is not None else NULL,
                body,
                about,
            ),
        )

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Save a task's writes; returns once they are committed. Raises as `aput` does."""
        if not writes:
            return
        with Timed("save", SAVE_SECONDS), saving("writes", config) as span:
            large = self._codec.sizes.is_large("", writes)
            save = await self._made(large, self._write_rows, config, writes, task_id, task_path)
            batch = await self._group_commit.submit_now(save)
            if span is not None:
                span.saved(save.bytes, batch)

    def _write_rows(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> Save:
        ids = config["configurable"]
        thread = str(ids["thread_id"])
        keys = (thread, str(ids.get("checkpoint_ns", "")), str(ids["checkpoint_id"]), task_id)
        rows = self._codec.writes(keys, task_path, writes)
        size = sum([len(row[8]) for row in rows])
        return Save(thread_id=thread, epoch=fence_epoch(ids), bytes=size, writes=rows)

    async def _made(self, large: bool, rows: Callable[P, Save], *args: P.args, **kwargs: P.kwargs) -> Save:
        """Make a save's rows once there is room for them; large ones in another thread, a few at a time."""
        if not large:
            await self._group_commit.room()
            return rows(*args, **kwargs)
        async with self._large_values:
            await self._group_commit.room()
            return await asyncio.to_thread(rows, *args, **kwargs)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Load a checkpoint, the latest unless the config names one.

        Raises `SaverUnavailableError`, `BlockedTypeError`, or `UnreadableError`.
        """
        with Timed("load", LOAD_SECONDS), loading(config):
            return await self._reader.get(config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """List checkpoints, newest first, a page at a time, so that a long thread does not fill the memory."""
        async for found in self._reader.list(config, filter, before, limit):
            yield found

    async def fetch_rows(self, statement: str, params: Mapping[str, Any]) -> Sequence[TupleRow]:
        """Rows of a read of the tables. Raises `SaverUnavailableError`."""
        return await self._reader.fetch(statement, params)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """For each DeltaChannel: its last snapshot before the checkpoint, and the writes since, oldest first."""
        return await self._reader.delta_history(config, channels) if channels else {}

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread for good: a fenced writer that comes late gets `StaleWriterError`."""
        await self._upkeep.delete([str(thread_id)])

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints that runs saved, but those that a DeltaChannel of another run's still needs."""
        await self._upkeep.delete_runs(list(run_ids))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread with its whole history; encrypted values are encrypted anew for their new place."""
        source, target = str(source_thread_id), str(target_thread_id)
        text("target_thread_id", target)
        await self._upkeep.copy(source, target)

    async def aprune(
        self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", keep_last: int | None = None
    ) -> None:
        """Forget old checkpoints of threads; what stays loads exactly as before (`retention.py`).

        `strategy` is `keep_latest`, `keep_last` (with `keep_last=N`: the last N of each namespace) or `delete`.
        """
        if isinstance(thread_ids, str):
            raise TypeError("thread_ids takes a sequence of thread ids, not a string")
        names = [str(name) for name in thread_ids]
        if strategy == "delete" and keep_last is None:
            await self._upkeep.delete(names)
        else:
            await self._upkeep.prune(names, Keep.parse(strategy, keep_last))

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """`aput`, from another thread than the event loop's."""
        return self._from_thread(self.aput(config, checkpoint, metadata, new_versions))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """`aput_writes`, from another thread than the event loop's."""
        self._from_thread(self.aput_writes(config, writes, task_id, task_path))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """`adelete_for_runs`, from another thread than the event loop's."""
        self._from_thread(self.adelete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """`acopy_thread`, from another thread than the event loop's."""
        self._from_thread(self.acopy_thread(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", keep_last: int | None = None) -> None:
        """`aprune`, from another thread than the event loop's."""
        self._from_thread(self.aprune(thread_ids, strategy=strategy, keep_last=keep_last))

    def _from_thread(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self.loop:
            work.close()
            raise asyncio.InvalidStateError(
                "a synchronous call from the event loop's own thread would wait for itself: await the async method"
            )
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()
