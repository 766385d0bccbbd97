"""See that no PostgreSQL is left behind: a server that was killed leaves its embedded one running."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from demo_parts.errors import DemoError

# Fast shutdown, then immediate shutdown; PostgreSQL's own meaning of these signals.
STEPS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 2.0))


def stop_postgres(directory: Path) -> None:
    """Stop the server whose data is in `directory`, if one runs, and see that it is gone."""
    for signal_number, patience_s in STEPS:
        pid = postmaster(directory)
        if pid is None:
            break
        try:
            os.kill(pid, signal_number)
        except ProcessLookupError:
            break
        _wait_until_gone(directory, patience_s)
    left = processes_in(directory)
    if postmaster(directory) is not None or left:
        raise DemoError(f"PostgreSQL in {directory} could not be stopped; processes: {left or 'see postmaster.pid'}")


def postmaster(directory: Path) -> int | None:
    """The process id of the running server whose data is in `directory`."""
    try:
        first, data, *_ = (directory / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        pid = int(first)
    except (FileNotFoundError, ValueError):
        return None
    # The file names the data directory it is about; a process id alone may have been given to someone else since.
    return pid if Path(data) == directory.resolve() and _runs(pid) else None


def processes_in(directory: Path) -> list[int]:
    """The processes that work in `directory`, where the system can tell (Linux): all of PostgreSQL's do."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.readlink() == directory.resolve():
                found.append(int(link.parent.name))
        except OSError:
            continue  # ended meanwhile, or someone else's
    return found


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A process that has ended stays visible until its parent asks how; the state stands behind the name.
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
    except PermissionError:
        return True


def _wait_until_gone(directory: Path, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and (postmaster(directory) is not None or processes_in(directory)):
        time.sleep(0.05)
