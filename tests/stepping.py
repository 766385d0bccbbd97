"""Steps for tests, which leave a line in a file for every time they are run, and graphs that call them."""

from __future__ import annotations

import asyncio
import operator
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy

from orchestrator import step

__all__ = [
    "AT_ONCE",
    "Journal",
    "Stepping",
    "as_given",
    "calling",
    "flaky",
    "gated",
    "held",
    "hopeless",
    "inline",
    "inline_sync",
    "noted",
    "noted_sync",
]

AT_ONCE = RetryPolicy(0.01, 1.0, max_attempts=4, jitter=False, retry_on=ConnectionError)


class Stepping(TypedDict, total=False):
    """What the graphs keep. `journal` is a directory, which the steps write to."""

    journal: str
    n: int
    out: Annotated[list[Any], operator.add]


class Journal:
    """The directory: how often each step was run, and the gates that hold steps up."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lines = directory / "ran"
        self._lines.touch()

    @property
    def ran(self) -> Counter[str]:
        """Step → how often it was begun."""
        return Counter(line.split()[0] for line in self._lines.read_text().splitlines())

    def pids(self, name: str) -> list[int]:
        """The processes that began the step, in order."""
        lines = (line.split() for line in self._lines.read_text().splitlines())
        return [int(pid) for each, pid in lines if each == name]

    def note(self, name: str) -> int:
        """Say that the step was begun; how often by now."""
        with self._lines.open("a") as file:
            file.write(f"{name} {os.getpid()}\n")
        return self.ran[name]

    def open(self, *gates: str) -> None:
        """Let what waits at these gates pass, now and later."""
        for gate in gates:
            (self.directory / f"gate-{gate}").touch()

    def is_open(self, gate: str) -> bool:
        """Whether one may pass."""
        return (self.directory / f"gate-{gate}").exists()


@step
async def inline(journal: str, name: str) -> str:
    """An inline step."""
    Journal(Path(journal)).note(name)
    return f"{name} done"


@step
def inline_sync(journal: str, name: str) -> str:
    """An inline step that is a plain function."""
    Journal(Path(journal)).note(name)
    return f"{name} done"


@step(dispatch="queue")
async def noted(journal: str, name: str, *, result: Any = None) -> Any:
    """A step that any worker runs."""
    Journal(Path(journal)).note(name)
    return f"{name} done" if result is None else result


@step(dispatch="queue")
def noted_sync(journal: str, name: str) -> str:
    """A step that any worker runs, a plain function."""
    Journal(Path(journal)).note(name)
    return f"{name} done"


@step(dispatch="queue")
async def gated(journal: str, name: str) -> str:
    """A step that waits at the gate of its name."""
    book = Journal(Path(journal))
    book.note(name)
    while not book.is_open(name):  # noqa: ASYNC110 - the gate is a file, which another process may make
        await asyncio.sleep(0.01)
    return f"{name} done"


@step(dispatch="queue")
def held(journal: str, name: str) -> str:
    """`gated`, in a thread."""
    book = Journal(Path(journal))
    book.note(name)
    while not book.is_open(name):
        time.sleep(0.01)
    return f"{name} done"


@step(dispatch="queue", retry=AT_ONCE)
async def flaky(journal: str, name: str, failures: int) -> str:
    """A step that fails so often before it succeeds."""
    if Journal(Path(journal)).note(name) <= failures:
        raise ConnectionError(f"{name} is not there yet")
    return f"{name} done"


@step(dispatch="queue", name="hopeless")
async def hopeless(journal: str, name: str) -> str:
    """A step that fails for good."""
    Journal(Path(journal)).note(name)
    raise ValueError(f"{name} is broken")


@step(dispatch="queue")
async def as_given(journal: str, what: str) -> Any:
    """A step with a strange end."""
    Journal(Path(journal)).note(what)
    strange: dict[str, Callable[[], Any]] = {
        "nothing": lambda: None,
        "object": object,
        "nan": lambda: float("nan"),
        "model": lambda: {"tuple": (1, 2), "nul": "a\x00b"},
    }
    if what in strange:
        return strange[what]()
    raise {"exit": SystemExit(3), "cancelled": asyncio.CancelledError(), "interrupt": KeyboardInterrupt()}[what]


def calling(*nodes: Any) -> StateGraph[Stepping, None, Stepping, Stepping]:
    """These nodes in a row."""
    return StateGraph(Stepping).add_sequence(list(nodes)).add_edge(START, nodes[0].__name__)
