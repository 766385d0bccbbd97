"""The FastAPI application over an open `Orchestrator`."""

from __future__ import annotations

from fastapi import FastAPI

from orchestrator.api import health, invoke, runs
from orchestrator.api.errors import install_error_handlers
from orchestrator.api.version import holdfast_version
from orchestrator.engine.service import Orchestrator

__all__ = ["create_app"]


def create_app(orchestrator: Orchestrator) -> FastAPI:
    """The API over `orchestrator`, which the caller opens before and closes after serving.

    Tokens are those of the orchestrator's settings. Without any, whoever reaches the server may start runs: bind
    it to a loopback address, as `holdfast serve` insists.
    """
    # No pages of documentation: they load scripts from elsewhere. The schema itself is at /openapi.json.
    app = FastAPI(title="Holdfast", version=holdfast_version(), docs_url=None, redoc_url=None)
    app.state.orchestrator = orchestrator
    app.state.tokens = orchestrator.settings.tokens
    for router in (invoke.router, runs.router, health.router):
        app.include_router(router)
    install_error_handlers(app)
    return app
