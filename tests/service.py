"""A service manager in its smallest form: `python -S -m tests.service start|stop|restart DIRECTORY ADDRESS` serves what
is in the directory, by the fork server at the address (`tests.forking`).

The server's settings are the directory's `.env`, its graphs those of `langgraph.json`; its pid is in `pid`. Like
systemd's, `start` does nothing where the server runs, and `stop` nothing where it does not.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

from tests.forked import begin

__all__ = ["running", "start", "stop"]


def running(directory: Path) -> int | None:
    """The pid of the directory's server, while it runs."""
    try:
        pid = int((directory / "pid").read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return pid


def start(directory: Path, address: str) -> None:
    """Start the server, in a session of its own: it does not end with who starts it.

    Its pid is known before it begins, so there is no moment in which it runs and `stop` does not see it.
    """
    if running(directory) is not None:
        return
    os.chdir(directory)
    with (
        Path("server.log").open("ab") as log,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server,
    ):
        pid = begin(server, address, ["serve", "--graphs", "langgraph.json"], (log.fileno(), log.fileno()), 0)
        Path("pid").write_text(str(pid))
        server.send(b"!")


def stop(directory: Path) -> None:
    """Stop the server in good order, and wait until it is gone."""
    pid = running(directory)
    if pid is None:
        return
    os.kill(pid, signal.SIGTERM)
    while running(directory) == pid:
        time.sleep(0.01)


if __name__ == "__main__":
    _, command, where, address = sys.argv
    if command in ("stop", "restart"):
        stop(Path(where))
    if command in ("start", "restart"):
        start(Path(where), address)
