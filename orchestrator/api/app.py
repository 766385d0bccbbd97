"""The FastAPI application over an open `Orchestrator`."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from checkpointer import tracing
from orchestrator.api import batches, control, events, health, hooks, invoke, merges, runs, worker
from orchestrator.api.errors import install_error_handlers
from orchestrator.api.openapi import describe_api
from orchestrator.engine.service import Orchestrator
from orchestrator.tracing import JoinCaller
from orchestrator.version import holdfast_version

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

__all__ = ["create_app"]


def create_app(orchestrator: Orchestrator, *, ping_every_s: float = 15.0) -> FastAPI:
    """The API over `orchestrator`, which the caller opens before and closes after serving.

    Tokens are those of the orchestrator's settings. Without any, whoever reaches the server may start runs: bind
    it to a loopback address, as `holdfast serve` insists. A stream on which nothing happens gets a comment every
    `ping_every_s` seconds, so that proxies keep it open.
    """
    # No pages of documentation: they load scripts from elsewhere. The schema itself is at /openapi.json.
    app = FastAPI(title="Holdfast", version=holdfast_version(), docs_url=None, redoc_url=None, telemetry=_TELEMETRY)
    app.state.orchestrator = orchestrator
    app.state.ping_every_s = ping_every_s
    app.state.tokens = orchestrator.settings.tokens
    for part in (invoke, runs, events, control, batches, merges, hooks, worker, health):
        app.include_router(part.router)
    install_error_handlers(app)
    app.openapi = partial(describe_api, app)  # type: ignore[method-assign]
    if tracing.tracer() is not None:
        app.add_middleware(JoinCaller)
    return app


def _is_unseen(scope: MutableMapping[str, Any]) -> bool:
    """Whether a request makes no span: probes and scrapes, and answers by hook, whose path is the permission."""
    path = str(scope.get("path", ""))
    return path.startswith(("/api/health", "/metrics")) or "/webhook/" in path


# The spans that FastAPI makes of requests where the process has a tracer provider; older versions make none. The
# exceptions that it would log are in our own log, without secrets.
_TELEMETRY: TelemetryConfig = {"operation_spans": False, "logs": False, "exclude": _is_unseen}
