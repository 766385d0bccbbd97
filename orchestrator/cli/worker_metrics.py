"""`/metrics` of a worker, which serves no API: on METRICS_PORT, from a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import start_http_server

from checkpointer.errors import SettingsError
from orchestrator.errors import ServeError
from orchestrator.settings import OrchestratorSettings

__all__ = ["metrics_served"]

_log = logging.getLogger(__name__)


@contextmanager
def metrics_served(port: int | None) -> Iterator[None]:
    """Serve what this process counts while the block goes on, at HOST and `port` or METRICS_PORT; without either, not
    at all. Raises `ServeError` where the address is taken.

    Gauges of runs and storage are those of the database: every `holdfast serve` has them.
    """
    try:
        settings = OrchestratorSettings()
    except SettingsError:
        # The worker itself says what is wrong: its graphs' file may still set what is missing here.
        yield
        return
    port = port or settings.metrics_port
    if port is None:
        yield
        return
    try:
        server, thread = start_http_server(port, settings.host)
    except OSError as exc:
        raise ServeError(f"HOST={settings.host} METRICS_PORT={port} can't be served: {exc.strerror or exc}") from exc
    _log.info("[WorkflowOrchestrator] metrics at http://%s:%d/metrics", settings.host, port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
