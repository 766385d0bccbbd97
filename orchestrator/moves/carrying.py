"""What a server keeps in memory, carried from one life of it to the next by a file (MEMORY_SNAPSHOT).

    open:  file ─► verified ─► checkpoints into the saver, runs into the store ─► only then is anything driven
    close: runs are stopped at their checkpoints ─► FILE.partial ─► rename

A missing file is an empty start; a damaged one is refused, and left as it is. Records of other kinds, and runs of
workflows that are not known here, are kept and written again. A server that is killed has written nothing: the file is
as it was when it started. How threads stand in the file is in `checkpointer/snapshot.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from langgraph.checkpoint.memory import InMemorySaver

from checkpointer.snapshot import load_snapshot, snapshot_lock, write_snapshot
from checkpointer.thread_file import Record
from orchestrator.moves.file import Contents, Summary, contents_of, summary_of
from orchestrator.moves.records import MOVED, STAY, record_of
from orchestrator.runs.memory import MemoryRunStore

__all__ = ["carried_over"]

_log = logging.getLogger(__name__)


@asynccontextmanager
async def carried_over(store: MemoryRunStore, saver: InMemorySaver, path: Path) -> AsyncIterator[None]:
    """Load the file into the store and the saver, and write both to it at the end of the block.

    Raises `checkpointer.ThreadFileError` and `MoveError` for a file that can't be used, before anything is loaded, and
    `checkpointer.SettingsError` where another process uses it.
    """
    with snapshot_lock(path):
        kept = Contents([], [], [])
        if (summary := await asyncio.to_thread(_summary, path)) is not None:
            kept = contents_of(path, await load_snapshot(saver, path))
            store.carry_in(kept.runs)
            _log.warning(
                "[WorkflowOrchestrator] %d runs and %d threads were taken over from %s; what becomes of them is "
                "written to it at a stop in good order, and not before",
                summary.total,
                summary.threads,
                path,
            )
            kept.runs.clear()
        try:
            yield
        finally:
            threads = await write_snapshot(saver, path, _records(store, kept))
            _log.info("[WorkflowOrchestrator] the runs and %d threads of memory were written to %s", threads, path)


def _summary(path: Path) -> Summary | None:
    return summary_of(path) if path.exists() else None


def _records(store: MemoryRunStore, kept: Contents) -> Iterator[Record]:
    yield {"kind": MOVED, "from": "memory", "left": False}
    for carried in store.carry_out():
        yield record_of(carried)
    for stay in kept.stays:
        yield {"kind": STAY, "runId": stay.run_id, "moves": stay.moves}
    yield from kept.other
