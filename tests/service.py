"""A service manager in its smallest form: `python service.py start|stop|restart DIRECTORY` serves what is in it.

The server's settings are the directory's `.env`, its graphs those of `langgraph.json`; its pid is in `pid`. Like
systemd's, `start` does nothing where the server runs, and `stop` nothing where it does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

__all__ = ["running", "start", "stop"]

_SERVE = """
import os, pathlib, sys
pathlib.Path("pid").write_text(str(os.getpid()))
from orchestrator.cli import main
sys.argv = ["holdfast", "serve", "--graphs", "langgraph.json"]
main()
"""


def running(directory: Path) -> psutil.Process | None:
    """The server of the directory, while it runs."""
    try:
        process = psutil.Process(int((directory / "pid").read_text()))
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except (OSError, ValueError, psutil.Error):
        return None


def start(directory: Path) -> None:
    """Start the server, in a session of its own: it does not end with who starts it."""
    if running(directory) is not None:
        return
    with (directory / "server.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def stop(directory: Path) -> None:
    """Stop the server in good order, and wait until it is gone."""
    process = running(directory)
    if process is None:
        return
    process.terminate()
    while (gone := running(directory)) is not None and gone == process:
        psutil.wait_procs([process], timeout=0.1)


if __name__ == "__main__":
    _, command, where = sys.argv
    if command in ("stop", "restart"):
        stop(Path(where))
    if command in ("start", "restart"):
        start(Path(where))
