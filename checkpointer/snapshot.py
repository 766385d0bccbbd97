"""MEMORY_SNAPSHOT: a file that the memory saver is loaded from at start and written to at a clean stop.

The file is one of threads (`thread_file.py`), readable, with a checksum. Loading and writing it needs no graph: values
of types off the allow-list travel as the bytes that they are (`threads/verbatim.py`). Records of other kinds
belong to somebody else, such as runs, and are carried along.

- A missing file is an empty start. A damaged one is a refused start: `ThreadFileError`, and the file is left as it is.
- It is written as NAME.partial and renamed, readable by its owner only; both it and its directory are synced.
- It is loaded and written by one process at a time, which holds NAME.lock: two would overwrite each other's threads.
- What came since the last clean stop is lost in a crash. The file then still has what it had at the start.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from checkpointer.errors import SettingsError
from checkpointer.memory import thread_ids
from checkpointer.thread_file import (
    CHECKPOINT,
    Record,
    ThreadFileWriter,
    load_records,
    read_thread_file,
    thread_records,
    verify_thread_file,
)
from checkpointer.threads.verbatim import verbatim_memory

__all__ = ["holds_threads", "load_snapshot", "snapshot_lock", "write_snapshot"]


async def load_snapshot(saver: InMemorySaver, path: Path) -> list[Record]:
    """Load the file's threads into the saver, and return its records of other kinds, in their order.

    Raises `ThreadFileError` before anything is loaded where the file is damaged, and `TransferError` for a thread that
    it has in part. A missing file holds nothing.
    """
    if _verified(path) is None:
        return []
    others: list[Record] = []
    writing, serde = verbatim_memory(saver)
    await load_records(writing, _checkpoints(path, others), serde=serde)
    return others


def _checkpoints(path: Path, others: list[Record]) -> Iterator[Record]:
    for record in read_thread_file(path):
        if record["kind"] == CHECKPOINT:
            yield record
        else:
            others.append(record)


def holds_threads(path: Path) -> bool:
    """Whether there is a file with threads in it. Raises `ThreadFileError` where it is damaged."""
    counts = _verified(path)
    return counts is not None and CHECKPOINT in counts


def _verified(path: Path) -> Mapping[str, int] | None:
    """How many records of each kind the whole file has; None where there is no file. Raises `ThreadFileError`."""
    return verify_thread_file(path).counts if path.exists() else None


async def write_snapshot(saver: InMemorySaver, path: Path, extra_records: Iterable[Mapping[str, Any]] = ()) -> int:
    """Write the saver's threads, and records of other kinds, in the place of the file; how many threads it has.

    The saver must be at rest. Raises `ThreadFileError` or `TransferError`; the file is then as it was.
    """
    reading, serde = verbatim_memory(saver)
    count = 0
    with ThreadFileWriter(path) as file:
        for record in extra_records:
            file.write(record)
        for thread_id in thread_ids(saver):
            count += 1
            async for record in thread_records(reading, thread_id, serde=serde):
                file.write(record)
    _sync_directory(path.parent)
    return count


@contextmanager
def snapshot_lock(path: Path) -> Iterator[None]:
    """Keep the file for this process. Raises `SettingsError` where another one has it, or it can't be kept."""
    name = path.with_name(path.name + ".lock")
    try:
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise SettingsError(f"MEMORY_SNAPSHOT={str(path)!r} can't be used: {name}: {exc.strerror}") from exc
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise SettingsError(
                f"MEMORY_SNAPSHOT={str(path)!r} is in use by another process, which keeps threads in memory: stop it "
                "first, or name another file"
            ) from exc
        yield
    finally:
        os.close(handle)  # which lets the lock go; the file stays, for another process may be about to lock it


def _sync_directory(path: Path) -> None:
    """Make a rename in it last through a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
