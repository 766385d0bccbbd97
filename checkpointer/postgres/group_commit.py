"""Group commit: many saves, one statement, one commit.

A save puts its rows on a queue (`batching.py`: no timer, bounds, retries, closing) and waits; a writer takes all
that is there, writes it in one statement and wakes the savers. Invariants:

1. A save returns only after its rows are committed.
2. Rows of a batch share a transaction, not a fate. Where the batch fails for a reason of its data, it is halved
   until the culprit is alone, and only the culprit's saver sees the error.
3. Where it fails for a reason of the server, the batch is sent again. Every statement is an upsert, so that is
   safe, also when the first one was committed and only its answer was lost.
4. A key comes once in a statement. Of two checkpoints or special writes under one key the last counts; of two
   blobs or ordinary writes the first, as if they had come one after the other.
5. A save that carries a fence's epoch is written only while the thread's epoch is that one (`fence.py`). A fence
   that is being moved at that moment holds up its own thread's saves only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from checkpointer.errors import StaleWriterError, UnsavableError
from checkpointer.metrics import BATCH_SAVES, FENCED_WRITES
from checkpointer.postgres.arrays import (
    NULL,
    ByteaArray,
    Int4Array,
    Int8Array,
    JsonbArray,
    TextArray,
    UuidArray,
    cell,
    int4_cell,
    int8_cell,
)
from checkpointer.postgres.batching import Batcher, Item, Limits
from checkpointer.postgres.chunks import KnownChunks
from checkpointer.postgres.retry import summary
from checkpointer.postgres.worker_connection import WorkerConnection

__all__ = ["BlobRow", "CheckpointRow", "ChunkRow", "ChunksMovedError", "GroupCommit", "Save", "WriteRow"]

# Rows of cells (`arrays.py`) in the order of the statement's columns; see `Save`.
BlobRow = tuple[bytes, bytes, bytes, bytes, bytes, bytes]
CheckpointRow = tuple[bytes, bytes, bytes, bytes, bytes, bytes]
ChunkRow = tuple[bytes, bytes, bytes, bytes]
WriteRow = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]

_NEGATIVE = int4_cell(-(2**31))  # as bytes, the cells of negative numbers come after those of the others
# A statement that takes longer than this, plus a second for each of its 4 MB, is on a connection gone silent.
_SILENCE_S, _BYTES_PER_S = 10.0, 4_000_000


class ChunksMovedError(Exception):
    """The thread's chunks were pruned since the saver learned of them; `generation` is theirs now, if it has a row."""

    def __init__(self, generation: int | None) -> None:
        super().__init__(f"the thread's chunks were pruned (generation {generation})")
        self.generation = generation


@dataclass(slots=True, eq=False, kw_only=True)
class Save(Item):
    """The rows of one save.

    blobs: thread, namespace, channel, version, type, blob. checkpoint: thread, namespace, id, parent, checkpoint,
    metadata. writes: thread, namespace, checkpoint, task, idx, path, channel, type, blob. chunks: thread, hash, type,
    blob. `epoch` is what the thread's fence must have, None for a writer without a fence. With `shares`, the save
    refers to chunks (`chunks.py`), and `generation` is what theirs must be, None where all of them come along; `era`
    is when it was learned.
    """

    thread_id: str
    epoch: int | None = None
    shares: bool = False
    era: int = 0
    generation: int | None = None
    chunks: Sequence[ChunkRow] = ()
    blobs: Sequence[BlobRow] = ()
    checkpoint: CheckpointRow | None = None
    writes: Sequence[WriteRow] = ()


class GroupCommit(Batcher[Save]):
    """The queue of saves and its writers; `queries` are those of queries.sql.

    A save's result is how many saves shared its statement.
    """

    operation = "save"
    deferred_reason = "fence"
    deferred_because = "another process is taking the thread over"

    def __init__(
        self,
        connections: Sequence[WorkerConnection],
        queries: Mapping[str, str],
        *,
        retry_for_s: float,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        known: KnownChunks | None = None,
    ) -> None:
        super().__init__(connections, retry_for_s=retry_for_s, limits=limits)
        self._known = known
        self._queries = queries
        self._statements: dict[tuple[str, ...], str] = {}
        self._guards: dict[tuple[str, bool], tuple[int | None, bool, int | None]] = {}

    def _fits(self, batch: list[Save], item: Save) -> bool:
        """Keep two saves apart that the same fence may judge differently.

        One of them may be refused, and a key they have in common must not go down with it.
        """
        if not batch:
            self._guards = {}
        thread = item.thread_id, item.checkpoint is None
        guard = item.epoch, item.shares, item.generation
        return super()._fits(batch, item) and self._guards.setdefault(thread, guard) == guard

    def _lost(self) -> None:
        if self._known is not None:
            self._known.forget_all()

    def _outlived(self, batch: list[Save]) -> list[Save]:
        """The batch less the saves that rely on chunks learned of before a connection was lost (`chunks.py`)."""
        left = []
        for save in batch:
            if self._known is not None and save.generation is not None and save.era != self._known.era:
                save.fail(ChunksMovedError(None))
            else:
                left.append(save)
        return left

    async def _attempt(self, connection: WorkerConnection, batch: list[Save]) -> list[Save]:
        batch = self._outlived(batch)
        if not batch:
            return []
        size = sum([save.bytes for save in batch])
        timeout_s = min(self._time_left(batch), _SILENCE_S) + size / _BYTES_PER_S
        rows = await connection.run(*self._statement(batch), timeout_s=timeout_s)
        BATCH_SAVES.observe(len(batch))
        refused = {position: (verdict, generation) for position, verdict, generation in rows}
        again = []
        for position, save in enumerate(batch):
            verdict, generation = refused.get(position, (None, None))
            if verdict is None:
                save.succeed(len(batch))
            elif verdict == "busy":
                again.append(save)
            elif verdict == "moved":
                save.fail(ChunksMovedError(generation))
            else:
                FENCED_WRITES.inc()
                save.fail(StaleWriterError(save.thread_id, save.epoch or 0))
        return again

    def _statement(self, batch: list[Save]) -> tuple[str, dict[str, Any]]:
        """The statement for what the batch has, and its parameters.

        What is left out is neither planned nor started: a lone save needs two of the five parts.
        """
        rows = {part: listed for part, listed in _rows(batch).items() if listed}
        parts = tuple(rows)
        if parts not in self._statements:
            self._statements[parts] = _joined(self._queries, parts)
        params: dict[str, Any] = {}
        for part, listed in rows.items():
            for (name, kind), cells in zip(_COLUMNS[part].items(), zip(*listed, strict=True), strict=True):
                params[name] = kind(cells)
        return self._statements[parts], params

    async def _refused(self, connection: WorkerConnection, batch: list[Save], error: Exception) -> None:
        if not _about_data(error):
            for save in batch:
                save.fail(error)
            return
        if len(batch) == 1:
            refusal = UnsavableError(
                f"PostgreSQL can't hold a value of thread {batch[0].thread_id!r}: {summary(error)}"
            )
            refusal.__cause__ = error
            batch[0].fail(refusal)
            return
        middle = len(batch) // 2
        await self._settle(connection, batch[:middle])
        await self._settle(connection, batch[middle:])


def _about_data(error: Exception) -> bool:
    """Whether leaving one save out may help.

    Not for a missing table or privilege, which fails every save alike. XX is PostgreSQL's internal errors: a request
    for too much memory is one.
    """
    return isinstance(error, psycopg.Error) and (error.sqlstate or "22")[:2] in ("22", "23", "54", "XX")


def _joined(queries: Mapping[str, str], parts: Sequence[str]) -> str:
    """One statement of the named parts of queries.sql; its rows are the refused saves."""
    guarded = "save_guard" in parts
    allowed = "n.save NOT IN (SELECT r.save FROM refused r)" if guarded else "true"
    inserts = [
        f"{part} AS ({_bare(queries[part]).replace('{allowed}', allowed)})" for part in parts if part != "save_guard"
    ]
    guard = [_bare(queries["save_guard"])] if guarded else []
    answer = "SELECT save, verdict, generation FROM refused" if guarded else "SELECT 1 WHERE false"
    return f"WITH {', '.join(guard + inserts)} {answer}"


def _bare(query: str) -> str:
    """A statement without its comments and indentation: psycopg parses one of over 4,096 characters anew each time."""
    lines = (" ".join(line.split()) for line in query.splitlines())
    return " ".join(line for line in lines if line and not line.startswith("--"))


def _rows(batch: list[Save]) -> dict[str, list[tuple[bytes, ...]]]:
    """The rows of a batch by the part of the statement that takes them, each key once (invariant 4)."""
    blobs: dict[tuple[bytes, ...], tuple[bytes, ...]] = {}
    checkpoints: dict[tuple[bytes, ...], tuple[bytes, ...]] = {}
    writes: dict[tuple[bytes, ...], tuple[bytes, ...]] = {}
    chunks: dict[tuple[bytes, ...], tuple[bytes, ...]] = {}
    fences: list[tuple[bytes, ...]] = []
    for position, save in enumerate(batch):
        number = int4_cell(position)
        for blob in save.blobs:
            if blob[:4] not in blobs:
                blobs[blob[:4]] = (number, *blob)
        if save.checkpoint is not None:
            checkpoints[save.checkpoint[:3]] = (number, *save.checkpoint)
        for write in save.writes:
            key = write[:5]
            if key not in writes or write[4] >= _NEGATIVE:
                writes[key] = (number, *write)
        for chunk in save.chunks:
            if chunk[:2] not in chunks:
                chunks[chunk[:2]] = (number, *chunk)
        if save.epoch is not None or save.shares:
            guard = [NULL if value is None else int8_cell(value) for value in (save.epoch, save.generation)]
            fences.append((number, cell(save.thread_id.encode()), *guard))
    return {
        "save_guard": fences,
        "save_chunks": list(chunks.values()),
        "save_blobs": list(blobs.values()),
        "save_checkpoints": list(checkpoints.values()),
        "save_writes": list(writes.values()),
    }


_Columns = dict[str, Callable[[Sequence[bytes]], Any]]
_FENCE_COLUMNS: _Columns = {
    "fence_save": Int4Array,
    "fence_thread": TextArray,
    "fence_epoch": Int8Array,
    "fence_generation": Int8Array,
}
_CHUNK_COLUMNS: _Columns = {
    "chunk_save": Int4Array,
    "chunk_thread": TextArray,
    "chunk_hash": UuidArray,
    "chunk_type": TextArray,
    "chunk_blob": ByteaArray,
}
_BLOB_COLUMNS: _Columns = {
    "blob_save": Int4Array,
    "blob_thread": TextArray,
    "blob_ns": TextArray,
    "blob_channel": TextArray,
    "blob_version": TextArray,
    "blob_type": TextArray,
    "blob_blob": ByteaArray,
}
_CHECKPOINT_COLUMNS: _Columns = {
    "cp_save": Int4Array,
    "cp_thread": TextArray,
    "cp_ns": TextArray,
    "cp_id": TextArray,
    "cp_parent": TextArray,
    "cp_checkpoint": JsonbArray,
    "cp_metadata": JsonbArray,
}
_WRITE_COLUMNS: _Columns = {
    "w_save": Int4Array,
    "w_thread": TextArray,
    "w_ns": TextArray,
    "w_checkpoint": TextArray,
    "w_task": TextArray,
    "w_idx": Int4Array,
    "w_path": TextArray,
    "w_channel": TextArray,
    "w_type": TextArray,
    "w_blob": ByteaArray,
}


_COLUMNS = {
    "save_guard": _FENCE_COLUMNS,
    "save_chunks": _CHUNK_COLUMNS,
    "save_blobs": _BLOB_COLUMNS,
    "save_checkpoints": _CHECKPOINT_COLUMNS,
    "save_writes": _WRITE_COLUMNS,
}
