"""The FastAPI application over an open `Orchestrator`."""

from __future__ import annotations

from fastapi import FastAPI

from orchestrator.api import batches, control, events, health, hooks, invoke, runs, worker
from orchestrator.api.errors import install_error_handlers
from orchestrator.engine.service import Orchestrator
from orchestrator.version import holdfast_version

__all__ = ["create_app"]


def create_app(orchestrator: Orchestrator, *, ping_every_s: float = 15.0) -> FastAPI:
    """The API over `orchestrator`, which the caller opens before and closes after serving.

    Tokens are those of the orchestrator's settings. Without any, whoever reaches the server may start runs: bind
    it to a loopback address, as `holdfast serve` insists. A stream on which nothing happens gets a comment every
    `ping_every_s` seconds, so that proxies keep it open.
    """
    # No pages of documentation: they load scripts from elsewhere. The schema itself is at /openapi.json.
    app = FastAPI(title="Holdfast", version=holdfast_version(), docs_url=None, redoc_url=None)
    app.state.orchestrator = orchestrator
    app.state.ping_every_s = ping_every_s
    app.state.tokens = orchestrator.settings.tokens
    for part in (invoke, runs, events, control, batches, hooks, worker, health):
        app.include_router(part.router)
    install_error_handlers(app)
    return app
