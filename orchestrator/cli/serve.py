"""`holdfast serve`: settings, graphs, socket, orchestrator, API; and all of it back down on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from checkpointer.errors import SettingsError
from orchestrator.api.app import create_app
from orchestrator.cli.graphs import NODE_THREADS, all_graphs
from orchestrator.cli.heap import settle_heap
from orchestrator.cli.stopping import hear_signals
from orchestrator.engine.exits import contain_exits
from orchestrator.engine.graph_file import GraphFile
from orchestrator.engine.graphs import Graph
from orchestrator.engine.schedules import Schedule
from orchestrator.engine.service import Orchestrator
from orchestrator.errors import ServeError
from orchestrator.exporting import exporting, stop_exporting
from orchestrator.logs import setup_logging
from orchestrator.opening import Role, open_orchestrator
from orchestrator.settings import OrchestratorSettings

__all__ = ["serve_graphs"]

_log = logging.getLogger(__name__)
# What an answer under way may take once stopping has begun; those who wait for a run are let go at once.
_ANSWER_WITHIN_S = 5


def serve_graphs(path: Path | None, *, host: str | None, port: int | None, works: bool = True) -> int:
    """Serve until a signal and return the exit code. Raises the errors of settings, graphs and database."""
    file = GraphFile.read(path) if path else None
    if file:
        file.apply_environment()
    overrides: dict[str, Any] = {"host": host, "port": port}
    overrides = {name: value for name, value in overrides.items() if value is not None}
    settings = OrchestratorSettings(**overrides)
    setup_logging(settings.log_format, settings.log_level, access=settings.log_access, secrets=settings.secrets())
    if not works and not settings.use_postgres_saver:
        raise SettingsError(
            "--no-worker leaves the runs to other processes, which need PostgreSQL for that: set USE_POSTGRES_SAVER"
        )
    graphs = all_graphs(settings, file)
    role = Role("serve" if works else "serve --no-worker", works=works)
    schedules = file.schedules if file else ()
    with _bound(settings.host, settings.port) as listener, exporting():
        return asyncio.run(_Serving(settings, graphs, listener, role, schedules).until_signal())


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """The address, taken before anything else is started, so that one in use is an error at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With the protocol: asyncio switches Nagle's algorithm off only for what says that it is TCP, and with it on
        # every answer but the first of a kept connection waits 40 ms.
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as exc:
        raise ServeError(f"HOST={host} PORT={port} can't be served: {exc.strerror or exc}") from exc
    with listener:
        yield listener


class _Server(uvicorn.Server):
    """uvicorn without its own handling of signals, which ends the process by the signal and not with code 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Serving:
    """One life of the server. The first signal stops it in good order, a second one at once."""

    def __init__(
        self,
        settings: OrchestratorSettings,
        graphs: Mapping[str, Graph],
        listener: socket.socket,
        role: Role,
        schedules: Sequence[Schedule],
    ) -> None:
        self._role = role
        self._schedules = schedules
        self._settings = settings
        self._graphs = graphs
        self._listener = listener
        self._orchestrator: Orchestrator | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[Any] | None = None
        self._is_closed = False

    async def until_signal(self) -> int:
        """Serve; returns 0 after a signal."""
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(NODE_THREADS, "node"))
        contain_exits(loop)
        hear_signals(self._stop, drain_s=self._settings.drain_timeout, may_end=self._may_end)
        try:
            await self._serve()
        except asyncio.CancelledError:
            _log.info("[WorkflowOrchestrator] stopped before it was serving")
        finally:
            self._is_closed = True
        if self._orchestrator is not None and self._orchestrator.cut_off:
            # A node that blocks its thread would keep the process until it returns; its run is handed back.
            stop_exporting()
            logging.shutdown()
            os._exit(0)
        return 0

    async def _serve(self) -> None:
        async with open_orchestrator(
            self._graphs, settings=self._settings, role=self._role, schedules=self._schedules
        ) as orchestrator:
            self._orchestrator = orchestrator
            config = uvicorn.Config(
                create_app(orchestrator),
                log_config=None,
                access_log=self._settings.log_access,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=_ANSWER_WITHIN_S,
            )
            self._server = _Server(config)
            settle_heap()
            _log.info(
                "[WorkflowOrchestrator] listening on %s (workflows: %s)",
                _shown(self._listener),
                ", ".join(sorted(orchestrator.graphs)),
            )
            await self._server.serve(sockets=[self._listener])

    def _may_end(self) -> bool:
        """Not while memory is written to its file, which takes as long as it takes."""
        is_writing = self._orchestrator is not None and self._orchestrator.is_drained and not self._is_closed
        return self._settings.memory_snapshot is None or not is_writing

    def _stop(self, number: signal.Signals) -> None:
        if self._server is None or self._orchestrator is None:
            if self._task is not None:
                self._task.cancel()
            return
        if self._server.should_exit:
            self._server.force_exit = True
            return
        _log.info("[WorkflowOrchestrator] %s: stopping, runs stop at their next checkpoint", number.name)
        self._orchestrator.request_close()
        self._server.should_exit = True


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
