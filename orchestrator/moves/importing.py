"""Runs and their threads' checkpoints brought into PostgreSQL from a file (`arriving.py`: what each run comes to)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver

from checkpointer.postgres.saver import PooledPostgresSaver
from checkpointer.snapshot import load_snapshot, snapshot_lock
from checkpointer.thread_file import list_thread_ids
from checkpointer.threads.history import put_saved, read_history
from checkpointer.threads.outline import thread_outline
from checkpointer.threads.verbatim import verbatim_memory
from orchestrator.errors import MoveError
from orchestrator.moves.arriving import Arrived, arrive, judge, reclaim
from orchestrator.moves.exporting import Progress
from orchestrator.moves.file import contents_of, summary_of
from orchestrator.moves.leaving import moves_sender
from orchestrator.moves.verbatim import verbatim_postgres
from orchestrator.runs.carried import CarriedRun

__all__ = ["import_runs"]

_THREADS_AT_ONCE = 200


async def import_runs(
    saver: PooledPostgresSaver, path: Path, *, on_progress: Progress = lambda done, of: None
) -> Arrived:
    """Bring the runs of a file into PostgreSQL; safe to stop and to repeat.

    The whole file is checked before anything is touched, and held in memory as the server that wrote it did. Raises
    `checkpointer.ThreadFileError` for a damaged file, `MoveError` for one without runs, `checkpointer.SettingsError`
    where a server uses it, `checkpointer.TransferError`, and `DatabaseUnavailableError`.
    """
    with snapshot_lock(path):
        summary = await asyncio.to_thread(summary_of, path)
        if not summary.origin:
            raise MoveError(f"{path} holds no runs: `holdfast transfer` moves threads alone")
        memory = InMemorySaver()
        contents = contents_of(path, await load_snapshot(memory, path))
        source, _ = verbatim_memory(memory)
        sender, arrived, done = moves_sender(saver), Arrived(), 0
        target, _ = verbatim_postgres(saver)
        for runs in _pages(contents.runs):
            coming = {each.run.checkpoint_thread_id for each in (await judge(sender, runs)).coming}
            # Before their runs: until these are unmarked, or there, nobody drives the threads.
            await _put_threads(source, target, coming)
            await arrive(sender, runs, arrived)
            done += len(runs)
            on_progress(done, summary.total)
        if contents.stays:
            arrived.stayed = sum((await reclaim(sender, contents.stays)).values())
        await _bring_other_threads(source, target, {each.run.checkpoint_thread_id for each in contents.runs}, arrived)
        return arrived


def _pages(runs: Sequence[CarriedRun]) -> Iterator[list[CarriedRun]]:
    """The runs of a few threads at a time, all those of a thread together."""
    threads: defaultdict[str, list[CarriedRun]] = defaultdict(list)
    for each in runs:
        threads[each.run.checkpoint_thread_id].append(each)
    names = list(threads)
    for start in range(0, len(names), _THREADS_AT_ONCE):
        yield [each for name in names[start : start + _THREADS_AT_ONCE] for each in threads[name]]


async def _put_threads(
    source: BaseCheckpointSaver[Any], target: BaseCheckpointSaver[Any], threads: Collection[str]
) -> None:
    await asyncio.gather(*(_put_thread(source, target, thread_id) for thread_id in threads))


async def _put_thread(source: BaseCheckpointSaver[Any], target: BaseCheckpointSaver[Any], thread_id: str) -> None:
    async for saved in read_history(source, thread_id):
        await put_saved(target, saved, thread_id)


async def _bring_other_threads(
    source: BaseCheckpointSaver[Any], target: BaseCheckpointSaver[Any], known: Collection[str], arrived: Arrived
) -> None:
    """Threads that no run is of: put where PostgreSQL has nothing that the file lacks."""
    async for thread_id in list_thread_ids(source):
        if thread_id in known:
            continue
        here, there = await _ids(target, thread_id), await _ids(source, thread_id)
        if not here <= there:
            arrived.moved_on.append(thread_id)
        elif here != there:
            await _put_thread(source, target, thread_id)
            arrived.threads += 1


async def _ids(saver: BaseCheckpointSaver[Any], thread_id: str) -> set[tuple[str, str]]:
    return {(place.namespace, place.checkpoint_id) for place in await thread_outline(saver, thread_id)}
