"""What nodes really did, whichever process ran them: a line in a file for every time one is entered and left.

The file is opened with O_APPEND and each line written at once, so that lines of several processes don't mix and
nothing is lost with a process that is killed. Times are CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from langchain_core.runnables import RunnableConfig

__all__ = ["GATES", "JOURNAL", "Entry", "Journal", "execution", "is_open"]

JOURNAL = "CHAOS_JOURNAL"
GATES = "CHAOS_GATES"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: a node was entered, left with its result, or cut off."""

    time: float
    pid: int
    run_id: str
    thread_id: str
    node: str
    event: str


class Journal:
    """The file as a test reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def entries(self, run_id: str | None = None, *, event: str | None = None, node: str | None = None) -> list[Entry]:
        """The lines that match, in the order of their times."""
        lines = [line.split("\t") for line in self.path.read_text().splitlines()]
        found = (Entry(float(line[0]), int(line[1]), *line[2:]) for line in lines)
        wanted = (run_id, event, node)
        return sorted(
            (
                each
                for each in found
                if all(
                    want in (None, have)
                    for want, have in zip(wanted, (each.run_id, each.event, each.node), strict=True)
                )
            ),
            key=lambda each: each.time,
        )

    def entered(self, run_id: str, node: str | None = None) -> list[Entry]:
        """Every start of a node of the run."""
        return self.entries(run_id, event="enter", node=node)

    def forward(self, run_id: str, nodes: Sequence[str]) -> Counter[str]:
        """How often each node of a chain was begun; fails where one is missing or a finished one was begun again."""
        visits = [each.node for each in self.entered(run_id)]
        assert [node for node, _ in groupby(visits)] == list(nodes), f"run {run_id} went through {visits}"
        return Counter(visits)


def is_open(gate: str) -> bool:
    """Whether the test has made the file that lets nodes pass."""
    return Path(os.environ[GATES], gate).exists()


@contextmanager
def execution(node: str, config: RunnableConfig) -> Iterator[None]:
    """Write that the node was entered, and that it was left or cut off."""
    metadata = config.get("metadata") or {}
    who = f"{os.getpid()}\t{metadata['run_id']}\t{config['configurable']['thread_id']}\t{node}"
    _write(f"{who}\tenter")
    event = "cut"
    try:
        yield
        event = "leave"
    finally:
        _write(f"{who}\t{event}")


def _write(line: str) -> None:
    file = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, f"{time.monotonic():.6f}\t{line}\n".encode())
    finally:
        os.close(file)
