"""Kills a process at a point of `orchestrator.engine.points`, when a test has armed it: one of those that look at the
same file, and once."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import orchestrator
from orchestrator.engine.points import on_point

__all__ = ["FAULT", "arm", "install", "points", "struck"]

# Names a file, of one server or of several. It holds the point to die at, and is gone afterwards.
FAULT = "CHAOS_FAULT"


def arm(fault: Path, point: str) -> None:
    """Have the server that looks at the file `fault`, and is the first to reach the point, die there."""
    fault.with_suffix(".struck").unlink(missing_ok=True)
    draft = fault.with_suffix(".draft")
    draft.write_text(point)
    draft.rename(fault)


def struck(fault: Path) -> str | None:
    """The run that the server died at, once it has."""
    found = fault.with_suffix(".struck")
    return found.read_text() if found.exists() and not fault.exists() else None


def points() -> list[str]:
    """Every point that the code says is reached."""
    sources = Path(orchestrator.__file__).parent.glob("engine/*.py")
    return sorted({point for source in sources for point in re.findall(r'\breached\("(\w+)"', source.read_text())})


def install() -> None:
    """Watch for the file, in a server that was given one."""
    if fault := os.environ.get(FAULT):
        on_point(lambda point, run_id: _die(Path(fault), point, run_id))


def _die(fault: Path, point: str, run_id: str) -> None:
    try:
        armed = fault.read_text()
    except FileNotFoundError:
        return
    if armed != point:
        return
    taken = fault.with_suffix(f".{os.getpid()}")
    with suppress(FileNotFoundError):
        # Only one of several gets it.
        fault.rename(taken)
        taken.write_text(run_id)
        taken.rename(fault.with_suffix(".struck"))
        os.kill(os.getpid(), signal.SIGKILL)
