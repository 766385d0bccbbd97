"""Unfinished runs and their threads' checkpoints written from PostgreSQL to a file.

    plain    a copy as of one moment; nothing is touched
    leave    mark (one transaction, `leaving.py`) ─► read what is marked ─► write FILE.partial ─► rename

Killed at any moment, `leave` is run again: it marks what is new, and writes all that is marked. What is marked stands
still, so a file that has all of it already is left as it is. One in which a server has left runs that are not in
PostgreSQL yet is never written over.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from checkpointer.postgres.pool import Connection
from checkpointer.postgres.saver import PooledPostgresSaver
from checkpointer.snapshot import snapshot_lock
from checkpointer.thread_file import Record, RecordEncoder, ThreadFileWriter
from checkpointer.threads.history import read_history
from checkpointer.threads.outline import Place, WriteKey
from orchestrator.errors import MoveError
from orchestrator.moves.arriving import judge
from orchestrator.moves.file import Summary, runs_in, summary_of
from orchestrator.moves.leaving import Going, could_go, count_going, going, in_transaction, leave, marks, moves_sender
from orchestrator.moves.records import MOVED, STAY, record_of
from orchestrator.moves.verbatim import verbatim_postgres
from orchestrator.runs.sender import Sender

__all__ = ["Exported", "Progress", "export_active"]

Progress = Callable[[int, int], None]
# Threads whose checkpoints are asked for at once: the saver makes few statements of them.
_THREADS_AT_ONCE = 64
_RUNS_COMPARED = 500


@dataclass(slots=True)
class Exported:
    """What an export has written. `marked` goes by the state before; runs `elsewhere` were left alone."""

    runs: dict[str, int] = field(default_factory=dict)
    marked: dict[str, int] = field(default_factory=dict)
    stayed: int = 0
    threads: int = 0
    checkpoints: int = 0
    elsewhere: int = 0


async def export_active(
    saver: PooledPostgresSaver, path: Path, *, leaves: bool, on_progress: Progress = lambda done, of: None
) -> Exported:
    """Write every unfinished run to `path`; with `leaves` they leave PostgreSQL first.

    Raises `MoveError` rather than lose what the file holds, `checkpointer.ThreadFileError` where it can't be written,
    `checkpointer.SettingsError` where a server uses it, `checkpointer.TransferError` for a thread that can't be read,
    and `DatabaseUnavailableError`.
    """
    with snapshot_lock(path):
        return await _export(saver, path, leaves, on_progress)


async def _export(saver: PooledPostgresSaver, path: Path, leaves: bool, on_progress: Progress) -> Exported:
    sender = moves_sender(saver)
    held = await asyncio.to_thread(_held, path)
    if held is not None and held.origin == "memory":
        await _refuse_to_lose(sender, path)
    if leaves and held is not None and held.left and not await could_go(sender) and await marks(sender) == held.moves:
        _, elsewhere = await count_going(sender, left=True)
        return Exported(dict(held.runs), {}, held.stays, held.threads, held.checkpoints, elsewhere)
    exported = Exported()
    # The file is begun first: where it can't be written, nothing has left.
    with ThreadFileWriter(path) as file:
        if leaves:
            exported.marked = await leave(sender)
        total, exported.elsewhere = await count_going(sender, left=leaves)
        file.write({"kind": MOVED, "from": "postgres", "left": leaves})
        async for page in going(sender, left=leaves):
            async for record in _records(saver, sender, page):
                file.write(record)
            _count(exported, page)
            on_progress(sum(exported.runs.values()) + exported.stayed, total)
    exported.checkpoints = file.counts["checkpoint"]
    return exported


def _held(path: Path) -> Summary | None:
    """What is in the file already; None where there is none. Raises where it is damaged: who knows what it held."""
    return summary_of(path) if path.exists() else None


async def _refuse_to_lose(sender: Sender, path: Path) -> None:
    waiting = 0
    runs = await asyncio.to_thread(list, runs_in(path))
    for start in range(0, len(runs), _RUNS_COMPARED):
        waiting += len((await judge(sender, runs[start : start + _RUNS_COMPARED])).coming)
    if waiting:
        raise MoveError(
            f"{path} holds {waiting} runs of a memory server that are not in PostgreSQL yet: run "
            f"`holdfast runs import {path}` first, or name another file"
        )


async def _records(saver: PooledPostgresSaver, sender: Sender, page: Sequence[Going]) -> AsyncIterator[Record]:
    """The records of a page: each thread's runs, then its checkpoints, then what stays."""
    carried = [each for each in page if each.runs]
    outlines = await _outlines(sender, [each.thread_id for each in carried])
    reading, serde = verbatim_postgres(saver)
    for start in range(0, len(carried), _THREADS_AT_ONCE):
        group = carried[start : start + _THREADS_AT_ONCE]
        histories = await asyncio.gather(
            *(_history(reading, each.thread_id, outlines[each.thread_id], serde) for each in group)
        )
        for each, history in zip(group, histories, strict=True):
            for run in each.runs:
                yield record_of(run)
            for record in history:
                yield record
    for each in page:
        for stay in each.stays:
            yield {"kind": STAY, "runId": stay.run_id, "moves": stay.moves}


async def _history(saver: Any, thread_id: str, outline: Sequence[Place], serde: Any) -> list[Record]:
    encoder = RecordEncoder(serde)
    return [encoder.record(saved) async for saved in read_history(saver, thread_id, outline)]


async def _outlines(sender: Sender, threads: Sequence[str]) -> dict[str, list[Place]]:
    """What each thread consists of: two statements for all of them, instead of two for each."""

    async def read(conn: Connection) -> dict[str, list[Place]]:
        rows = partial(sender.rows, conn, params={"threads": list(threads)})
        writes: defaultdict[tuple[str, str, str], list[WriteKey]] = defaultdict(list)
        for row in await rows("writes_of_threads"):
            key = WriteKey(row["task_path"], row["task_id"], row["idx"], row["channel"])
            writes[row["thread_id"], row["checkpoint_ns"], row["checkpoint_id"]].append(key)
        found: dict[str, list[Place]] = {thread_id: [] for thread_id in threads}
        for row in await rows("checkpoints_of_threads"):
            thread_id, namespace, checkpoint_id = row["thread_id"], row["checkpoint_ns"], row["checkpoint_id"]
            keys = tuple(sorted(writes[thread_id, namespace, checkpoint_id]))
            found[thread_id].append(Place(namespace, checkpoint_id, row["parent_checkpoint_id"] or None, keys))
        for places in found.values():
            places.sort(key=lambda place: (place.checkpoint_id, place.namespace))
        return found

    return await in_transaction(sender, "reading threads", read)


def _count(exported: Exported, page: Sequence[Going]) -> None:
    for each in page:
        for carried in each.runs:
            exported.runs[carried.run.status] = exported.runs.get(carried.run.status, 0) + 1
        exported.stayed += len(each.stays)
        exported.threads += bool(each.runs)
