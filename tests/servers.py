"""`holdfast serve` and `holdfast worker` as processes: started, asked over HTTP, killed, started again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.forking import Forked, fork_holdfast
from tests.postgres import free_port
from tests.waiting import until

__all__ = ["HOLDFAST", "Server", "Worker", "serving"]

_AT_WORK = "[WorkflowOrchestrator] working on "
ROOT = Path(__file__).parent.parent
HOLDFAST = [sys.executable, "-c", "from orchestrator.cli import main; main()"]


class Server:
    """One address at which the server is started, possibly several times."""

    command = "serve"
    # Whether it is an interpreter of its own, and not a fork: for what is read from the environment at its start.
    is_begun_anew = False
    ready_within_s = 60.0

    def __init__(self, directory: Path, environment: Mapping[str, str], *arguments: str) -> None:
        self.port = free_port()
        self.log_file = directory / "server.log"
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}", timeout=60, trust_env=False, headers={"Connection": "close"}
        )
        self._directory = directory
        self._environment = environment
        self._arguments = arguments
        self._process: Forked | subprocess.Popen[bytes] | None = None

    async def start(self, **changes: str) -> None:
        """Start it and wait until it is ready; `changes` go on top of its environment."""
        self._process = self._spawn({**self._environment, **changes})
        await until(self._ready, timeout_s=self.ready_within_s, what="the server is ready")

    def _spawn(self, environment: Mapping[str, str]) -> Forked | subprocess.Popen[bytes]:
        arguments = [self.command, *self._arguments]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PORT": str(self.port), **environment}
        with self.log_file.open("ab") as log:
            if self.is_begun_anew:
                command = [*HOLDFAST, *arguments]
                return subprocess.Popen(
                    command, cwd=self._directory, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            return fork_holdfast(arguments, cwd=self._directory, env=env, stdout=log, stderr=log)

    async def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        try:
            return (await self.client.get("/api/health/live")).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything it wrote, over all starts."""
        return self.log_file.read_text()

    async def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop and return its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return await asyncio.to_thread(self._process.wait, 60)

    async def get(self, path: str) -> Any:
        """The JSON of a GET that succeeds."""
        answer = await self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def invoke(self, body: Mapping[str, Any]) -> Any:
        """Start a run without waiting for it."""
        answer = await self.client.post("/api/invoke/async", json=body)
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def finished(self, started: Mapping[str, Any]) -> Any:
        """The run's status once it is over."""

        async def over() -> Any:
            run = await self.get(started["statusUrl"])
            return run if run["status"] in {"completed", "failed"} else None

        return await until(over, timeout_s=90, what=f"run {started['runId']} is over")

    async def close(self) -> None:
        """Kill what is left."""
        if self.running:
            await self.kill()
        await self.client.aclose()


class Worker(Server):
    """A process that takes from the queue and listens nowhere."""

    command = "worker"

    async def start(self, **changes: str) -> None:
        """Start it and wait until it takes work."""
        self._said = self.log.count(_AT_WORK) if self.log_file.exists() else 0
        await super().start(**changes)

    async def _ready(self) -> bool:
        assert self.running, self.log
        return self.log.count(_AT_WORK) > self._said


@asynccontextmanager
async def serving(directory: Path, environment: Mapping[str, str], *arguments: str) -> AsyncIterator[Server]:
    """A server that is not started yet, and is not running any more at the end."""
    server = Server(directory, environment, *arguments)
    try:
        yield server
    finally:
        await server.close()
