"""A share of new threads on PostgreSQL, the others in memory: POSTGRES_SAVER_ROLLOUT_PERCENT.

`Places` (`whereabouts.py`) says where a thread is and where a new one begins; here each call goes there. A call without
a thread is for both engines.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Coroutine, Iterator, Mapping, Sequence
from copy import copy
from heapq import nlargest
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.memory import InMemorySaver

from checkpointer import memory as in_memory
from checkpointer.errors import ThreadConflictError, UnsavableError
from checkpointer.postgres.fence import fence_epoch
from checkpointer.postgres.retention import Keep
from checkpointer.postgres.saver import PooledPostgresSaver
from checkpointer.saved import on_saved
from checkpointer.thread_file import load_records, thread_records
from checkpointer.whereabouts import Engine, Places, places_of

__all__ = ["RolloutSaver", "leave_moved", "postgres_of"]

T = TypeVar("T")


def postgres_of(saver: BaseCheckpointSaver[Any]) -> PooledPostgresSaver | None:
    """The PostgreSQL saver that a saver is, or that a rollout has beside memory; None for any other."""
    if isinstance(saver, RolloutSaver):
        return saver.postgres
    return saver if isinstance(saver, PooledPostgresSaver) else None


async def leave_moved(memory: InMemorySaver, postgres: PooledPostgresSaver, source: object) -> int:
    """Take threads out of memory that were moved to PostgreSQL since they were written to `source`; how many.

    PostgreSQL has then the checkpoint that is the last one in memory. Raises `ThreadConflictError` for a thread that
    it has without that one.
    """
    heads = {thread_id: in_memory.head_of(memory, thread_id) for thread_id in in_memory.thread_ids(memory)}
    moved = await places_of(postgres, heads) if heads else {}
    conflicts = [thread_id for thread_id, is_whole in moved.items() if not is_whole]
    if conflicts:
        raise ThreadConflictError(conflicts[0], len(conflicts) - 1, source)
    for thread_id in moved:
        memory.delete_thread(thread_id)
    return len(moved)


class RolloutSaver(BaseCheckpointSaver[str]):
    """Some threads in `memory`, the others in `postgres`; made by `checkpointer.open_saver`.

    The synchronous methods may be called from any thread but the event loop's.
    """

    def __init__(self, memory: InMemorySaver, postgres: PooledPostgresSaver, percent: int) -> None:
        super().__init__(serde=postgres.serde)
        self.memory = memory
        self.postgres = postgres
        self.percent = percent
        self._places = Places(memory, postgres, percent)

    @property
    def memory_threads(self) -> int:
        """How many threads are in memory."""
        return sum(1 for _ in in_memory.thread_ids(self.memory))

    async def find(self, thread_id: str) -> Engine | None:
        """Where the thread is; None where it is nowhere yet. Raises `SaverUnavailableError`."""
        return await self._places.find(str(thread_id))

    async def engine_of(self, thread_id: str) -> Engine:
        """Where the thread is, or would begin. Raises `SaverUnavailableError`, or `UnsavableError` for its id."""
        return await self._places.engine_of(str(thread_id))

    def get_next_version(self, current: str | None, channel: None) -> str:
        """As both engines number them, so that a thread may be moved."""
        return self.postgres.get_next_version(current, channel)

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> RolloutSaver:
        """The same saver, over the same threads, that may also rebuild these types."""
        clone = copy(self)
        clone.memory = _allowing(self.memory, extra_allowlist)
        clone.postgres = self.postgres.with_allowlist(extra_allowlist)
        clone.serde = clone.postgres.serde
        return clone

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint where the thread is. Raises as `PooledPostgresSaver.aput` does."""
        if await self._engine(config) == "postgres":
            return await self.postgres.aput(config, checkpoint, metadata, new_versions)
        given = self._admitted(config)
        saved = self.memory.put(given, checkpoint, metadata, new_versions)
        if (tell := on_saved.get()) is not None:
            tell(saved, metadata)
        return saved

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Save a task's writes where the thread is. Raises as `aput` does."""
        if await self._engine(config) == "postgres":
            await self.postgres.aput_writes(config, writes, task_id, task_path)
        else:
            self.memory.put_writes(self._admitted(config), writes, task_id, task_path)

    def _admitted(self, config: RunnableConfig) -> RunnableConfig:
        """The config as memory takes it. Raises `StaleWriterError` where a later epoch has written to the thread."""
        given = _for_memory(config)
        self._places.admit(given["configurable"]["thread_id"], fence_epoch(given["configurable"]))
        return given

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Load a checkpoint, the latest unless the config names one. Raises as `PooledPostgresSaver` does."""
        if await self._engine_to_read(config) == "postgres":
            return await self.postgres.aget_tuple(config)
        return self.memory.get_tuple(_for_memory(config)) if self._is_in_memory(config) else None

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """List checkpoints, newest first; without a thread those of both engines."""
        if config is None or config["configurable"].get("thread_id") is None:
            found = self._list_everywhere(config, filter, before, limit)
        elif await self._engine_to_read(config) == "postgres":
            found = self.postgres.alist(config, filter=filter, before=before, limit=limit)
        elif self._is_in_memory(config):
            # Not `_for_memory`: without a namespace, those of all namespaces are meant.
            found = self.memory.alist(_with_text_id(config), filter=filter, before=before, limit=limit)
        else:
            return
        async for each in found:
            yield each

    async def _list_everywhere(
        self,
        config: RunnableConfig | None,
        filter: dict[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> AsyncIterator[CheckpointTuple]:
        ids = config["configurable"] if config else {}
        here = (
            found
            for thread_id in in_memory.thread_ids(self.memory)
            for found in self.memory.list(
                {"configurable": {**ids, "thread_id": thread_id}}, filter=filter, before=before, limit=limit
            )
        )
        waiting = sorted(here, key=_id_of) if limit is None else nlargest(limit, here, key=_id_of)[::-1]
        given = 0
        async for found in self.postgres.alist(config, filter=filter, before=before, limit=limit):
            while waiting and _id_of(waiting[-1]) > _id_of(found):
                if given == limit:
                    return
                yield waiting.pop()
                given += 1
            if given == limit:
                return
            yield found
            given += 1
        while waiting and given != limit:
            yield waiting.pop()
            given += 1

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """For each DeltaChannel: its last snapshot before the checkpoint, and the writes since, oldest first."""
        if await self._engine_to_read(config) == "postgres":
            return await self.postgres.aget_delta_channel_history(config=config, channels=channels)
        return self.memory.get_delta_channel_history(config=_for_memory(config), channels=channels)

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread for good. It is new again afterwards, and begins where the percentage says then."""
        thread_id = str(thread_id)
        if self._places.is_in_memory(thread_id):
            self.memory.delete_thread(thread_id)
            self._places.forget(thread_id)
        else:
            await self.postgres.adelete_thread(thread_id)
            self._places.forget(thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints that runs saved, in both engines."""
        in_memory.delete_runs(self.memory, set(run_ids))
        await self.postgres.adelete_for_runs(run_ids)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread with its whole history to where the target is, or would begin as a new thread.

        Raises `TransferError` where that is the other engine and a checkpoint can't be copied.
        """
        source, target = str(source_thread_id), str(target_thread_id)
        source_engine, target_engine = await self.engine_of(source), await self.engine_of(target)
        if source_engine == target_engine == "postgres":
            await self.postgres.acopy_thread(source, target)
        elif source_engine == target_engine:
            in_memory.copy_thread(self.memory, source, target)
        else:
            records = thread_records(self._saver(source_engine), source)
            await load_records(self._saver(target_engine), records, thread_id=target)

    async def aprune(
        self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", keep_last: int | None = None
    ) -> None:
        """Forget old checkpoints of threads, as `PooledPostgresSaver.aprune` does."""
        if isinstance(thread_ids, str):
            raise TypeError("thread_ids takes a sequence of thread ids, not a string")
        keep = None if strategy == "delete" and keep_last is None else Keep.parse(strategy, keep_last)
        for thread_id in map(str, thread_ids):
            if keep is None:
                await self.adelete_thread(thread_id)
            elif self._places.is_in_memory(thread_id):
                in_memory.prune_thread(self.memory, thread_id, keep)
            else:
                await self.postgres.aprune([thread_id], strategy=strategy, keep_last=keep_last)

    def _saver(self, engine: Engine) -> BaseCheckpointSaver[Any]:
        return self.memory if engine == "memory" else self.postgres

    async def _engine(self, config: RunnableConfig) -> Engine:
        return await self._places.engine_of(str(config["configurable"]["thread_id"]))

    async def _engine_to_read(self, config: RunnableConfig) -> Engine:
        try:
            return await self._engine(config)
        except UnsavableError:
            return "memory"  # an id that can't be saved names no checkpoint, and memory has none such

    def _is_in_memory(self, config: RunnableConfig) -> bool:
        return self._places.is_in_memory(str(config["configurable"]["thread_id"]))

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

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """`aget_tuple`, from another thread than the event loop's."""
        return self._from_thread(self.aget_tuple(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """`alist`, from another thread than the event loop's."""
        found = self.alist(config, filter=filter, before=before, limit=limit)
        while (each := self._from_thread(_next(found))) is not None:
            yield each

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """`aget_delta_channel_history`, from another thread than the event loop's."""
        return self._from_thread(self.aget_delta_channel_history(config=config, channels=channels))

    def delete_thread(self, thread_id: str) -> None:
        """`adelete_thread`, from another thread than the event loop's."""
        self._from_thread(self.adelete_thread(thread_id))

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
        return self.postgres._from_thread(work)


async def _next(found: AsyncIterator[CheckpointTuple]) -> CheckpointTuple | None:
    return await anext(found, None)


def _allowing(memory: InMemorySaver, extra: Collection[tuple[str, ...]]) -> InMemorySaver:
    clone = memory.with_allowlist(extra)
    return clone if isinstance(clone, InMemorySaver) else memory


def _with_text_id(config: RunnableConfig) -> RunnableConfig:
    """The config with its thread's id as text, as PostgreSQL keeps it."""
    ids = config["configurable"]
    return config if isinstance(ids["thread_id"], str) else {**config, "configurable": _text_id(ids)}


def _text_id(ids: dict[str, Any]) -> dict[str, Any]:
    return {**ids, "thread_id": str(ids["thread_id"])}


def _for_memory(config: RunnableConfig) -> RunnableConfig:
    """The config as the in-memory saver takes it: with the namespace, and the thread's id as text."""
    ids = config["configurable"]
    if "checkpoint_ns" in ids and isinstance(ids["thread_id"], str):
        return config
    return {**config, "configurable": {"checkpoint_ns": "", **_text_id(ids)}}


def _id_of(found: CheckpointTuple) -> str:
    return str(found.config["configurable"]["checkpoint_id"])
