"""Moves threads between any two LangGraph savers, or a saver and a file: whole history, with pending writes.

For each thread, oldest checkpoint first, `AT_ONCE` of them in memory at a time:

    at the target already, and equal                → left as it is
    at the target, but some of its writes are not   → they are added: a transfer was cut off here
    not at the target                               → put there, read back and compared
    at the target, and different                    → the thread is refused

A thread of which the target has checkpoints that the source lacks went on there; it is refused too. `overwrite`
deletes a refused thread at the target and copies it anew. So a transfer may be stopped at any point and run again:
the end is the same. A refused thread does not keep the others from being moved.

A run of the thread must not go on meanwhile at either side.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from checkpointer.errors import TransferError
from checkpointer.thread_file import (
    CHECKPOINT,
    Record,
    ThreadFileWriter,
    list_thread_ids,
    read_thread_file,
    saved_of,
    thread_records,
    verify_thread_file,
)
from checkpointer.threads.history import (
    AT_ONCE,
    RecentValues,
    Saved,
    difference,
    missing_writes,
    plain_serde,
    put_saved,
    read_history,
    read_places,
)
from checkpointer.threads.outline import Place, thread_outline

__all__ = ["Transferred", "export_threads", "import_threads", "transfer_threads"]

_THREADS_AT_ONCE = 8

Progress = Callable[["Transferred"], None]


@dataclass(slots=True)
class Transferred:
    """What a transfer has done so far. `copied` counts threads of which something was written."""

    copied: int = 0
    equal: int = 0
    checkpoints: int = 0
    writes: int = 0
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        """Threads dealt with."""
        return self.copied + self.equal + len(self.refused)


class _ConflictError(TransferError):
    """The thread is at the target already, and is another one there."""

    def __init__(self, thread_id: str, reason: str) -> None:
        super().__init__(thread_id, f"{reason}. To replace it by the source's, overwrite")


@dataclass(slots=True)
class _Target:
    saver: BaseCheckpointSaver[Any]
    verify: bool
    extra: Mapping[str, Any] | None
    tell: Progress
    done: Transferred = field(default_factory=Transferred)
    conflicts: set[str] = field(default_factory=set)

    async def take(self, thread_id: str, places: Collection[tuple[str, str]], history: AsyncIterable[Saved]) -> None:
        """Copy one thread and count it. Raises what is not this thread's fault."""
        try:
            written = await self._copy(thread_id, places, history)
        except TransferError as exc:
            self.done.refused[thread_id] = str(exc)
            if isinstance(exc, _ConflictError):
                self.conflicts.add(thread_id)
        else:
            self.done.copied += written
            self.done.equal += not written
        self.tell(self.done)

    async def make_room(self) -> set[str]:
        """Delete the threads that were refused for what the target has of them; their ids."""
        cleared, self.conflicts = self.conflicts, set()
        for thread_id in cleared:
            await self.saver.adelete_thread(thread_id)
            del self.done.refused[thread_id]
        return cleared

    async def _copy(self, thread_id: str, places: Collection[tuple[str, str]], history: AsyncIterable[Saved]) -> bool:
        there = {_at(place): place for place in await thread_outline(self.saver, thread_id)}
        if own := [place for place in there if place not in places]:
            last = max(checkpoint_id for _, checkpoint_id in own)
            raise _ConflictError(
                thread_id,
                f"went on at the target: {len(own)} of its checkpoints there are not in the source, the last {last}",
            )
        written = False
        async for page in _pages(history):
            missing = await self._missing(thread_id, page, there)
            for saved in missing:
                await put_saved(self.saver, saved, thread_id, self.extra)
                self.done.checkpoints += saved.place not in there
                self.done.writes += len(saved.writes)
            written = written or bool(missing)
            if self.verify and missing:
                await self._read_back(thread_id, missing)
        return written

    async def _missing(
        self, thread_id: str, page: Sequence[Saved], there: Mapping[tuple[str, str], Place]
    ) -> list[Saved]:
        """Those of the page that the target lacks, or some of whose writes it lacks."""
        known = [saved for saved in page if saved.place in there]
        serde, short = plain_serde(self.saver), set()
        for ours, theirs in await self._beside(thread_id, known, [there[saved.place] for saved in known]):
            if what := difference(ours, theirs, serde):
                raise _ConflictError(thread_id, f"differs at the target, in {what} at checkpoint {ours.checkpoint_id}")
            if (lacking := missing_writes(ours, theirs, serde)) is None:
                raise _ConflictError(
                    thread_id, f"differs at the target, in the pending writes at checkpoint {ours.checkpoint_id}"
                )
            if lacking:
                short.add(ours.place)
        return [saved for saved in page if saved.place not in there or saved.place in short]

    async def _read_back(self, thread_id: str, put: Sequence[Saved]) -> None:
        places = {_at(place): place for place in await thread_outline(self.saver, thread_id)}
        if any(saved.place not in places for saved in put):
            raise TransferError(thread_id, "was deleted at the target while it was copied: try again")
        serde = plain_serde(self.saver)
        for ours, theirs in await self._beside(thread_id, put, [places[saved.place] for saved in put]):
            what = difference(ours, theirs, serde)
            if what is None and missing_writes(ours, theirs, serde) != 0:
                what = "its pending writes"
            if what is not None:
                raise TransferError(
                    thread_id, f"was read back otherwise than it was put, in {what} at checkpoint {ours.checkpoint_id}"
                )

    async def _beside(
        self, thread_id: str, ours: Sequence[Saved], places: Sequence[Place]
    ) -> list[tuple[Saved, Saved]]:
        return list(zip(ours, await read_places(self.saver, thread_id, places), strict=True))


async def transfer_threads(
    source: BaseCheckpointSaver[Any],
    target: BaseCheckpointSaver[Any],
    thread_ids: Sequence[str] | None = None,
    *,
    overwrite: bool = False,
    verify: bool = True,
    extra: Mapping[str, Any] | None = None,
    on_progress: Progress = lambda done: None,
) -> Transferred:
    """Copy threads, by default all, from one saver to another, some at a time. See the module's text.

    `extra` goes into the `configurable` of each save. A named thread that the source does not have is refused. Raises
    `SaverUnavailableError` and the like; what was copied by then stays, and running it again continues.
    """
    goal = _Target(target, verify, extra, on_progress)

    async def one(thread_id: str) -> None:
        outline = await thread_outline(source, thread_id)
        if outline:
            history = read_history(source, thread_id, outline)
            await goal.take(thread_id, {_at(place) for place in outline}, history)
        else:
            goal.done.refused[thread_id] = str(TransferError(thread_id, "is not in the source"))

    await _for_each(one, list_thread_ids(source) if thread_ids is None else _stream(dict.fromkeys(thread_ids)))
    if overwrite:
        await _for_each(one, _stream(await goal.make_room()))
    return goal.done


async def export_threads(
    source: BaseCheckpointSaver[Any],
    path: Path,
    thread_ids: Sequence[str] | None = None,
    *,
    on_progress: Progress = lambda done: None,
) -> Transferred:
    """Write threads, by default all, to a file (`thread_file.py`), and check the file. All of it or nothing.

    Raises `TransferError` for a thread that the source does not have or that can't be read, and `ThreadFileError`.
    """
    done = Transferred()
    with ThreadFileWriter(path, verifies=True) as out:
        async for thread_id in list_thread_ids(source) if thread_ids is None else _stream(dict.fromkeys(thread_ids)):
            before = done.checkpoints
            async for record in thread_records(source, thread_id):
                out.write(record)
                done.checkpoints += 1
                done.writes += len(record["writes"])
            if done.checkpoints == before:
                raise TransferError(thread_id, "is not in the source")
            done.copied += 1
            on_progress(done)
    return done


async def import_threads(
    path: Path,
    target: BaseCheckpointSaver[Any],
    thread_ids: Sequence[str] | None = None,
    *,
    overwrite: bool = False,
    verify: bool = True,
    extra: Mapping[str, Any] | None = None,
    on_progress: Progress = lambda done: None,
) -> Transferred:
    """Copy threads, by default all, from a file to a saver, as `transfer_threads` does.

    The whole file is checked before anything is touched. Raises `ThreadFileError`.
    """
    threads = verify_thread_file(path).threads
    goal = _Target(target, verify, extra, on_progress)
    for thread_id in dict.fromkeys(thread_ids or ()):
        if thread_id not in threads:
            goal.done.refused[thread_id] = str(TransferError(thread_id, f"is not in {path}"))

    async def those(wanted: Collection[str]) -> None:
        checkpoints = (record for record in read_thread_file(path) if record["kind"] == CHECKPOINT)
        for thread_id, records in groupby(checkpoints, key=lambda record: str(record["threadId"])):
            if thread_id in wanted:
                await goal.take(thread_id, threads[thread_id], _decoded(target, records, thread_id))

    await those(threads.keys() if thread_ids is None else set(thread_ids))
    if overwrite and (cleared := await goal.make_room()):
        await those(cleared)
    return goal.done


async def _decoded(target: BaseCheckpointSaver[Any], records: Iterable[Record], thread_id: str) -> AsyncIterator[Saved]:
    serde, recent = plain_serde(target), RecentValues(target)
    for record in records:
        yield await saved_of(record, serde, recent, thread_id)


async def _for_each(work: Callable[[str], Awaitable[None]], names: AsyncIterator[str]) -> None:
    """Work on some names at a time. The first error ends it."""
    room = asyncio.Semaphore(_THREADS_AT_ONCE)

    async def with_room(name: str) -> None:
        try:
            await work(name)
        finally:
            room.release()

    try:
        async with asyncio.TaskGroup() as group:
            async for name in names:
                await room.acquire()
                group.create_task(with_room(name))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _stream(names: Iterable[str]) -> AsyncIterator[str]:
    for name in names:
        yield name


async def _pages(history: AsyncIterable[Saved]) -> AsyncIterator[list[Saved]]:
    page: list[Saved] = []
    async for saved in history:
        page.append(saved)
        if len(page) == AT_ONCE:
            yield page
            page = []
    if page:
        yield page


def _at(place: Place) -> tuple[str, str]:
    return place.namespace, place.checkpoint_id
