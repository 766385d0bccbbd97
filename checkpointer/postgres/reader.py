"""Reading checkpoints: one through the batched loads, many a page at a time, and what DeltaChannels ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, DeltaChannelHistory, get_checkpoint_id
from langgraph.checkpoint.serde.types import TASKS
from psycopg.rows import TupleRow, tuple_row

from checkpointer.errors import UnreadableError, UnsavableError
from checkpointer.postgres.arrays import NULL, register_arrays
from checkpointer.postgres.batch_load import BatchLoad
from checkpointer.postgres.chunks import SHARED, ChunkReader, DanglingError, opened
from checkpointer.postgres.codec import Codec, is_large, json_text, numbered, text
from checkpointer.postgres.delta import history
from checkpointer.postgres.ids import stay_after
from checkpointer.postgres.pool import Pool
from checkpointer.postgres.retry import ride_out
from checkpointer.postgres.worker_connection import register_row_types

__all__ = ["Reader"]

_PAGE = 50


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads with one codec; `first_version` is the version of a channel that never had one."""

    pool: Pool
    batch_load: BatchLoad
    chunks: ChunkReader
    codec: Codec
    queries: Mapping[str, str]
    retry_for_s: float
    first_version: str

    async def get(self, config: RunnableConfig) -> CheckpointTuple | None:
        """One checkpoint, the latest unless the config names one."""
        ids = config["configurable"]
        checkpoint_id = get_checkpoint_id(config)
        try:
            asked = (
                text("thread_id", ids["thread_id"]),
                text("checkpoint_ns", ids.get("checkpoint_ns", "")),
                text("checkpoint_id", checkpoint_id) if checkpoint_id else NULL,
            )
        except UnsavableError:
            return None  # an id that can't be saved names no checkpoint
        found = await self._decoded(await self.batch_load.rows(*asked))
        if found is not None:
            # Whoever loads a checkpoint may go on from it.
            stay_after(found.checkpoint["id"])
        return found

    async def _decoded(self, rows: Sequence[TupleRow]) -> CheckpointTuple | None:
        decode = self.codec.checkpoint
        found = await asyncio.to_thread(decode, rows) if is_large(rows) else decode(rows)
        if found is not None and found.checkpoint["v"] < 4 and found.parent_config is not None:
            await self._add_pending_sends(found, found.parent_config)
        return found

    async def _add_pending_sends(self, found: CheckpointTuple, parent: RunnableConfig) -> None:
        """Checkpoints older than version 4 keep what was sent to tasks under their parent."""
        ids = parent["configurable"]
        thread, namespace, parent_id = ids["thread_id"], ids["checkpoint_ns"], ids["checkpoint_id"]
        rows = await self.fetch(
            self.queries["pending_sends"],
            {"thread": thread, "namespace": namespace, "parent": parent_id, "tasks": TASKS},
        )
        if rows:
            versions = found.checkpoint["channel_versions"]
            found.checkpoint["channel_values"][TASKS] = [
                self.codec.load(kind, blob, ("write", thread, namespace, parent_id, task, str(idx)))
                for kind, blob, task, idx in rows
            ]
            versions[TASKS] = max(versions.values()) if versions else self.first_version

    async def list(
        self,
        config: RunnableConfig | None,
        metadata: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, newest first, a page at a time, so that a long thread does not fill the memory."""
        ids = config["configurable"] if config else {}
        wanted = {
            "thread": None if ids.get("thread_id") is None else str(ids["thread_id"]),
            "namespace": ids.get("checkpoint_ns"),
            "id": get_checkpoint_id(config) if config else None,
            "before": get_checkpoint_id(before) if before else None,
            "filter": json_text(metadata).decode() if metadata else None,
        }
        after: dict[str, str | None] = {"after_id": None, "after_thread": None, "after_ns": None}
        left = limit
        while left is None or left > 0:
            page = _PAGE if left is None else min(left, _PAGE)
            statement = self.queries["list_page"] + self.queries["checkpoint_rows"]
            groups = list(numbered(await self.fetch(statement, {**wanted, **after, "limit": page})))
            async for found in self._page(groups):
                yield found
            if len(groups) < page:
                return
            left = None if left is None else left - len(groups)
            _, _, thread, namespace, checkpoint_id = groups[-1][0][:5]
            after = {"after_id": checkpoint_id, "after_thread": thread, "after_ns": namespace}

    async def _page(self, groups: Sequence[Sequence[TupleRow]]) -> AsyncIterator[CheckpointTuple]:
        whole = [list(group) for group in groups]
        try:
            await self.chunks.attach(self.fetch, whole)
        except DanglingError:
            # Something of the page was pruned before its shared lists were read: each one anew.
            for group in groups:
                _, _, thread, namespace, checkpoint_id = group[0][:5]
                ids = {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
                if (found := await self.get({"configurable": ids})) is not None:
                    yield found
            return
        for group in whole:
            if (found := await self._decoded(group)) is not None:
                yield found

    async def delta_history(self, config: RunnableConfig, channels: Sequence[str]) -> Mapping[str, DeltaChannelHistory]:
        """For each DeltaChannel: its last snapshot before the checkpoint, and the writes since, oldest first."""
        deadline = monotonic() + self.retry_for_s
        while True:
            try:
                return await self._delta_history(config, channels)
            except DanglingError as exc:
                # A seed was pruned between two statements; what is there now is asked for again.
                if monotonic() > deadline:
                    raise UnreadableError(str(exc)) from exc

    async def _delta_history(
        self, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        ids = config["configurable"]
        thread, namespace = str(ids["thread_id"]), str(ids.get("checkpoint_ns", ""))
        rows = await self.fetch(
            self.queries["delta_history"],
            {
                "thread": thread,
                "namespace": namespace,
                "id": get_checkpoint_id(config),
                "channels": [*channels],
            },
        )
        shared = [row for row in rows if row[0] == 1 and row[7].partition("+")[0] == SHARED]
        places = [("blob", thread, namespace, row[3], row[9]) for row in shared]
        roots = [
            (thread, opened(self.codec.cipher, row[7], row[8], place))
            for row, place in zip(shared, places, strict=True)
        ]
        lists = await self.chunks.lists(self.fetch, roots) if roots else []
        seeds = dict(zip([row[3] for row in shared], lists, strict=True))
        return history(self.codec, thread, namespace, channels, rows, seeds)

    async def fetch(self, statement: str, params: Mapping[str, Any]) -> Sequence[TupleRow]:
        """Rows of a read on a pooled connection; planned anew each time, with the parameters in sight."""

        async def attempt() -> Sequence[TupleRow]:
            async with self.pool.connection() as conn, conn.cursor(row_factory=tuple_row, binary=True) as cursor:
                register_row_types(cursor.adapters)
                register_arrays(cursor.adapters)
                await cursor.execute(statement.encode(), params, prepare=False)
                return await cursor.fetchall()

        return await ride_out("load", attempt, for_s=self.retry_for_s)
