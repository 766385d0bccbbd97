"""Kills the process at a point of `orchestrator.engine.points`, once, when a test has armed it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import orchestrator
from orchestrator.engine.points import on_point

__all__ = ["FAULT", "arm", "install", "points", "struck"]

# Names a file of the server's own. It holds the point to die at, and is gone afterwards.
FAULT = "CHAOS_FAULT"


def arm(fault: Path, point: str) -> None:
    """Have the server that looks at the file `fault` die when it reaches the point next."""
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
    if armed == point:
        fault.with_suffix(".struck").write_text(run_id)
        fault.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
