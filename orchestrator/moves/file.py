"""What a file of moved runs holds. `records.py` says what stands in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from checkpointer.thread_file import CHECKPOINT, read_thread_file
from orchestrator.errors import MoveError
from orchestrator.moves.leaving import Stay
from orchestrator.moves.records import MOVED, RUN, STAY, Record, run_in
from orchestrator.runs.carried import CarriedRun

__all__ = ["Contents", "Summary", "contents_of", "runs_in", "summary_of"]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a sound file holds. `origin` is `postgres`, `memory` where a server wrote it at its stop, or empty.

    `moves` tells of each run, carried or not, how often it had left.
    """

    origin: str
    left: bool
    runs: Mapping[str, int]
    moves: Mapping[str, int]
    stays: int
    threads: int
    checkpoints: int

    @property
    def total(self) -> int:
        """All runs that are carried."""
        return sum(self.runs.values())


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds beside checkpoints; `other` is not for us to know."""

    runs: list[CarriedRun]
    stays: list[Stay]
    other: list[Record]


def summary_of(path: Path) -> Summary:
    """Read a file to its end and check all of it.

    Raises `checkpointer.ThreadFileError` where it is damaged, and `MoveError` where a run in it can't be read.
    """
    runs, stays, checkpoints = Counter[str](), 0, 0
    origin, left, threads, moves = "", False, set(), dict[str, int]()
    for record in read_thread_file(path):
        kind = record["kind"]
        if kind == MOVED:
            origin, left = str(record.get("from")), bool(record.get("left"))
        elif kind == RUN:
            carried = _run(path, record)
            runs[carried.run.status] += 1
            moves[carried.run.run_id] = carried.moves
        elif kind == CHECKPOINT:
            threads.add(record["threadId"])
            checkpoints += 1
        elif kind == STAY:
            moves[str(record["runId"])] = int(record["moves"])
            stays += 1
    return Summary(origin, left, dict(sorted(runs.items())), moves, stays, len(threads), checkpoints)


def runs_in(path: Path) -> Iterator[CarriedRun]:
    """The runs of a file. Raises as `summary_of` does, at the end where the file is damaged."""
    return (_run(path, record) for record in read_thread_file(path) if record["kind"] == RUN)


def contents_of(path: Path, records: Iterable[Record]) -> Contents:
    """The records of a file that are no checkpoints. Raises `MoveError`."""
    contents = Contents([], [], [])
    for record in records:
        if record["kind"] == RUN:
            contents.runs.append(_run(path, record))
        elif record["kind"] == STAY:
            contents.stays.append(Stay(str(record["runId"]), int(record["moves"])))
        elif record["kind"] != MOVED:
            contents.other.append(record)
    return contents


def _run(path: Path, record: Record) -> CarriedRun:
    try:
        return run_in(record)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise MoveError(
            f"{path} holds a run that can't be read ({type(exc).__name__}: {exc}): use the release that wrote it, or a "
            "newer one"
        ) from exc
