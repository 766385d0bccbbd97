"""`holdfast worker`: takes runs and steps from the queue until a signal."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from checkpointer.errors import SettingsError
from orchestrator.cli.graphs import NODE_THREADS, all_graphs
from orchestrator.cli.heap import settle_heap
from orchestrator.cli.stopping import hear_signals
from orchestrator.engine.exits import contain_exits
from orchestrator.engine.graph_file import GraphFile
from orchestrator.engine.graphs import Graph
from orchestrator.engine.schedules import Schedule
from orchestrator.engine.service import Orchestrator
from orchestrator.exporting import exporting, stop_exporting
from orchestrator.logs import setup_logging
from orchestrator.opening import Role, open_orchestrator
from orchestrator.queues.proxies import HttpProxy
from orchestrator.runs.model import check_queue
from orchestrator.settings import OrchestratorSettings

__all__ = ["work"]

_log = logging.getLogger(__name__)


def work(path: Path | None, *, concurrency: int | None, queues: str, app_url: str | None) -> int:
    """Work until a signal and return the exit code. Raises the errors of settings, graphs, database and queue."""
    file = GraphFile.read(path) if path else None
    if file:
        file.apply_environment()
    overrides: dict[str, Any] = {"app_url": app_url} if app_url else {}
    settings = OrchestratorSettings(**overrides)
    setup_logging(settings.log_format, settings.log_level, secrets=settings.secrets())
    given = (name for each in queues.split(",") if (name := each.strip()))
    names = tuple(check_queue(name, settings.job_prefix) for name in given)
    if not settings.use_postgres_saver:
        raise SettingsError(
            "a worker takes runs that other processes started, which are in PostgreSQL: set USE_POSTGRES_SAVER"
        )
    role = Role(
        "worker",
        concurrency=concurrency or settings.worker_concurrency,
        queues=names,
        proxy=_proxy(settings, file),
    )
    graphs: Mapping[str, Graph] = {} if role.proxy else all_graphs(settings, file)
    # Without graphs it can't start runs either; the server that has them looks at its own schedules.
    schedules = file.schedules if file and not role.proxy else ()
    with exporting():
        return asyncio.run(_until_signal(settings, graphs, role, schedules))


def _proxy(settings: OrchestratorSettings, file: GraphFile | None) -> HttpProxy | None:
    """With APP_URL and no graphs of its own, a worker hands its messages over."""
    if settings.app_url is not None and file is not None:
        raise SettingsError("a worker runs the graphs of --graphs, or hands its work over to APP_URL: not both")
    if settings.app_url is None:
        return None
    if settings.worker_token is None:
        raise SettingsError("APP_URL needs WORKER_TOKEN too: the server there asks for it")
    return HttpProxy(settings.app_url, settings.worker_token.get_secret_value())


async def _until_signal(
    settings: OrchestratorSettings, graphs: Mapping[str, Graph], role: Role, schedules: Sequence[Schedule]
) -> int:
    loop = asyncio.get_running_loop()
    # A message that is handed over takes a thread until its answer is there; there are as many of steps as of runs.
    threads = max(NODE_THREADS, 2 * (role.concurrency or 0)) if role.proxy else NODE_THREADS
    loop.set_default_executor(ThreadPoolExecutor(threads, "node"))
    contain_exits(loop)
    stop = _Stop()
    hear_signals(stop, drain_s=settings.drain_timeout)
    try:
        async with open_orchestrator(graphs, settings=settings, role=role, schedules=schedules) as orchestrator:
            stop.opened()
            settle_heap()
            _log.info(
                "[WorkflowOrchestrator] working on %s, %s at once (%s)",
                ", ".join(role.queues) or "flow, step",
                role.concurrency,
                f"handed over to {settings.app_url}" if role.proxy else f"workflows: {', '.join(sorted(graphs))}",
            )
            await stop.asked.wait()
    except asyncio.CancelledError:
        _log.info("[WorkflowOrchestrator] stopped before it was working")
        return 0
    _leave(orchestrator, role)
    return 0


class _Stop:
    """What a signal does: the first stops in good order, also while the database is waited for, a second at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._opening = asyncio.current_task()

    def opened(self) -> None:
        """From now on there is something to stop in good order."""
        self._opening = None

    def __call__(self, number: signal.Signals) -> None:
        if self.asked.is_set():
            os._exit(1)
        _log.info("[WorkflowOrchestrator] %s: stopping, runs stop at their next checkpoint", number.name)
        self.asked.set()
        if self._opening is not None:
            self._opening.cancel()


def _leave(orchestrator: Orchestrator, role: Role) -> None:
    if orchestrator.cut_off or role.proxy:
        # A node that blocks its thread would keep the process until it returns; its run is handed back. So would a
        # call whose answer is not there yet; its run is the other server's.
        stop_exporting()
        logging.shutdown()
        os._exit(0)
