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

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any

import psycopg

from checkpointer.errors import StaleWriterError
from checkpointer.metrics import BATCH_SAVES, FENCED_WRITES
from checkpointer.postgres.arrays import ByteaArray, Int4Array, Int8Array, JsonbArray, TextArray
from checkpointer.postgres.batching import Batcher, Item, Limits
from checkpointer.postgres.worker_connection import WorkerConnection

__all__ = ["BlobRow", "CheckpointRow", "GroupCommit", "Save", "WriteRow"]

# Columns as bytes, ready for the wire; ids are UTF-8 without NUL. See `Save` for the order.
BlobRow = tuple[bytes, bytes, bytes, bytes, bytes, bytes | None]
CheckpointRow = tuple[bytes, bytes, bytes, bytes | None, bytes, bytes]
WriteRow = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]

_INT4, _INT8 = Struct("!i"), Struct("!q")
_NEGATIVE = b"\x80"  # the first byte of a negative int4 is this or more
# A statement that takes longer than this, plus a second for each of its 4 MB, is on a connection gone silent.
_SILENCE_S, _BYTES_PER_S = 10.0, 4_000_000


@dataclass(slots=True, eq=False, kw_only=True)
class Save(Item):
    """The rows of one save.

    blobs: thread, namespace, channel, version, type, blob. checkpoint: thread, namespace, id, parent, checkpoint,
    metadata (the last two as jsonb's binary format). writes: thread, namespace, checkpoint, task, path, idx
    (int4), channel, type, blob. `epoch` is what the thread's fence must have, None for a writer without a fence.
    """

    thread_id: str
    epoch: int | None = None
    blobs: Sequence[BlobRow] = ()
    checkpoint: CheckpointRow | None = None
    writes: Sequence[WriteRow] = ()


class GroupCommit(Batcher[Save]):
    """The queue of saves and its writers; one `statement` (`save_batch`) for all."""

    operation = "save"

    def __init__(
        self,
        connections: Sequence[WorkerConnection],
        statement: str,
        *,
        retry_for_s: float,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(connections, retry_for_s=retry_for_s, limits=limits)
        self._statement = statement
        self._epochs: dict[str, int | None] = {}

    def _fits(self, batch: list[Save], item: Save) -> bool:
        """Keep two saves of one thread under different epochs apart.

        One of them may be refused, and a key they have in common must not go down with it.
        """
        if not batch:
            self._epochs = {}
        return super()._fits(batch, item) and (self._epochs.setdefault(item.thread_id, item.epoch) == item.epoch)

    async def _attempt(self, connection: WorkerConnection, batch: list[Save]) -> list[Save]:
        timeout_s = self._time_for(batch)
        rows = await connection.run(self._statement, _columns(batch), timeout_s=timeout_s)
        BATCH_SAVES.observe(len(batch))
        refused: dict[int, bool] = dict(rows)
        again = []
        for position, save in enumerate(batch):
            if position not in refused:
                save.succeed()
            elif refused[position]:
                FENCED_WRITES.inc()
                save.fail(StaleWriterError(save.thread_id, save.epoch or 0))
            else:
                again.append(save)
        return again

    def _time_for(self, batch: list[Save]) -> float:
        size = sum(save.bytes for save in batch)
        oldest = min(save.started for save in batch)
        left_s = max(oldest + self._retry_for_s - time.monotonic(), 0.5)
        return min(left_s, _SILENCE_S) + size / _BYTES_PER_S

    async def _refused(self, connection: WorkerConnection, batch: list[Save], error: Exception) -> None:
        if len(batch) == 1 or not _about_data(error):
            for save in batch:
                save.fail(error)
            return
        middle = len(batch) // 2
        await self._settle(connection, batch[:middle])
        await self._settle(connection, batch[middle:])


def _about_data(error: Exception) -> bool:
    """Whether leaving one save out may help: not for a missing table or privilege, which fails every save alike."""
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    return state is None or state[:2] not in ("0A", "28", "3D", "3F", "42")


def _columns(batch: list[Save]) -> dict[str, Any]:
    """The batch as array parameters of `save_batch`, each key once (invariant 4)."""
    blobs: dict[tuple[bytes, ...], tuple[int, BlobRow]] = {}
    checkpoints: dict[tuple[bytes, ...], tuple[int, CheckpointRow]] = {}
    writes: dict[tuple[bytes, ...], tuple[int, WriteRow]] = {}
    fenced: list[tuple[int, Save]] = []
    for position, save in enumerate(batch):
        for blob in save.blobs:
            blobs.setdefault(blob[:4], (position, blob))
        if save.checkpoint is not None:
            checkpoints[save.checkpoint[:3]] = (position, save.checkpoint)
        for write in save.writes:
            key = (*write[:4], write[5])
            if write[5] >= _NEGATIVE:
                writes[key] = (position, write)
            else:
                writes.setdefault(key, (position, write))
        if save.epoch is not None:
            fenced.append((position, save))
    return {
        "fence_save": Int4Array([_INT4.pack(position) for position, _ in fenced]),
        "fence_thread": TextArray([save.thread_id.encode() for _, save in fenced]),
        "fence_epoch": Int8Array([_INT8.pack(save.epoch or 0) for _, save in fenced]),
        **_arrays("blob_", blobs.values(), _BLOB_COLUMNS),
        **_arrays("cp_", checkpoints.values(), _CHECKPOINT_COLUMNS),
        **_arrays("w_", writes.values(), _WRITE_COLUMNS),
    }


_Column = tuple[str, Callable[[Iterable[bytes | None]], Any]]
_BLOB_COLUMNS: tuple[_Column, ...] = (
    ("thread", TextArray),
    ("ns", TextArray),
    ("channel", TextArray),
    ("version", TextArray),
    ("type", TextArray),
    ("blob", ByteaArray),
)
_CHECKPOINT_COLUMNS: tuple[_Column, ...] = (
    ("thread", TextArray),
    ("ns", TextArray),
    ("id", TextArray),
    ("parent", TextArray),
    ("checkpoint", JsonbArray),
    ("metadata", JsonbArray),
)
_WRITE_COLUMNS: tuple[_Column, ...] = (
    ("thread", TextArray),
    ("ns", TextArray),
    ("checkpoint", TextArray),
    ("task", TextArray),
    ("path", TextArray),
    ("idx", Int4Array),
    ("channel", TextArray),
    ("type", TextArray),
    ("blob", ByteaArray),
)


def _arrays(
    prefix: str, rows: Iterable[tuple[int, Sequence[bytes | None]]], columns: tuple[_Column, ...]
) -> dict[str, Any]:
    listed = list(rows)
    arrays: dict[str, Any] = {f"{prefix}save": Int4Array([_INT4.pack(position) for position, _ in listed])}
    values = zip(*(row for _, row in listed), strict=True) if listed else ((),) * len(columns)
    for (name, kind), column in zip(columns, values, strict=True):
        arrays[prefix + name] = kind(column)
    return arrays
