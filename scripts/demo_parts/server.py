"""`holdfast serve` as a process to start, kill and stop."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from demo_parts.errors import DemoError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
LOG_TAIL_LINES = 25
# What the demo sets itself; whatever the caller's own environment says about it stays out.
OURS = (
    "USE_POSTGRES_SAVER",
    "POSTGRES_",
    "CHECKPOINT_",
    "MEMORY_",
    "API_",
    "WORKER_",
    "RUN_",
    "LOG_",
    "HOLDFAST_",
)


class Server:
    """One address at which `holdfast serve` is started again and again.

    The working directory is `directory`, so no `.env` of the caller's is read. It gets a session of its own:
    Ctrl-C in a terminal reaches the demo alone, which then stops the server in good order.
    """

    def __init__(self, directory: Path, database: Path) -> None:
        self.directory = directory
        self.database = database
        self.log = directory / "server.log"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        # Not through a proxy of the caller's environment: the server is on this machine.
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=5.0, trust_env=False)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self, *, durable: bool) -> float:
        """Start it, wait until it answers, and return how many seconds that took."""
        began = time.monotonic()
        settings = {"POSTGRES_EMBEDDED_DIR": str(self.database), "LOG_LEVEL": "INFO"}
        # Where the embedded server keeps a lock that it would share with all others on this machine.
        settings |= {"TMPDIR": str(self.directory), "XDG_RUNTIME_DIR": str(self.directory)}
        settings["USE_POSTGRES_SAVER"] = "true" if durable else "false"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        command = [str(Path(sys.executable).parent / "holdfast"), "serve"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=environment | settings | {"HOST": "127.0.0.1", "PORT": str(self.port)},
                start_new_session=True,
            )
        self._wait_until_ready(began + START_TIMEOUT_S)
        return time.monotonic() - began

    def _wait_until_ready(self, deadline: float) -> None:
        assert self.process is not None
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise DemoError(f"the server ended at its start, with exit code {self.process.returncode}")
            try:
                if self.http.get("/api/health/ready").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.05)
        raise DemoError(f"the server did not answer within {START_TIMEOUT_S:.0f} s of its start")

    def kill(self) -> None:
        """SIGKILL: no warning, nothing flushed, nothing handed over."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that does not end it; does nothing where it is not running."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def stop_cleanly(self) -> None:
        """Stop it, and fail where it needed force or did not exit with 0."""
        assert self.process is not None
        self.stop()
        if self.process.returncode != 0:
            raise DemoError(f"the server was asked to stop and ended with exit code {self.process.returncode}")

    def get(self, path: str) -> dict[str, Any]:
        """The JSON answer of a GET; raises where the status is not 200."""
        return self._json(self.http.get(path), httpx.codes.OK)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON answer of a POST; raises where it was not accepted."""
        return self._json(self.http.post(path, json=body), httpx.codes.ACCEPTED)

    @staticmethod
    def _json(answer: httpx.Response, expected: int) -> dict[str, Any]:
        asked = f"{answer.request.method} {answer.request.url.path}"
        if answer.status_code != expected:
            raise DemoError(f"{asked} answered {answer.status_code} and not {expected}: {answer.text[:300]}")
        body = answer.json()
        if not isinstance(body, dict):
            raise DemoError(f"{asked} answered something other than a JSON object: {answer.text[:300]}")
        return body

    def log_tail(self) -> str:
        """The end of its log, over all starts."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-LOG_TAIL_LINES:])


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
