"""How the server is: /api/health, its parts, and /metrics.

They ask for no token, for probes and scrapers have none; but /api/health/deep does where there are tokens: it costs
statements, and tells of everyone's runs. Each answers HEAD too.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from orchestrator.api.auth import Organization
from orchestrator.api.views import AsciiJsonResponse
from orchestrator.engine.service import Orchestrator
from orchestrator.health.examination import DeepHealth
from orchestrator.health.gauges import Gauges

__all__ = ["router"]

router = APIRouter()

Answer: TypeAlias = Callable[..., Coroutine[Any, Any, Response]]


def _looked_at(path: str) -> Callable[[Answer], Answer]:
    """A route for GET, and for HEAD, which load balancers ask with."""

    def add(answer: Answer) -> Answer:
        router.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)
        return router.get(path)(answer)

    return add


def _gauges(app: FastAPI) -> Gauges:
    if not hasattr(app.state, "gauges"):
        app.state.gauges = Gauges(app.state.orchestrator)
    gauges: Gauges = app.state.gauges
    return gauges


@_looked_at("/api/health/live")
async def live() -> Response:
    """Whether the process answers at all."""
    return AsciiJsonResponse({"status": "alive"})


@_looked_at("/api/health/ready")
async def ready(request: Request) -> Response:
    """Whether runs can be started here now; 503 where not, with the reason."""
    orchestrator: Orchestrator = request.app.state.orchestrator
    reason = "closing" if orchestrator.is_closing else (await orchestrator.health()).error
    if reason is not None:
        return AsciiJsonResponse({"status": "not ready", "reason": reason}, 503)
    return AsciiJsonResponse({"status": "ready"})


@_looked_at("/api/health/checkpointer")
async def checkpointer(request: Request) -> Response:
    """Which saver is in use, and whether it can save; answers within two seconds."""
    orchestrator: Orchestrator = request.app.state.orchestrator
    report = await orchestrator.health()
    return AsciiJsonResponse(report.as_json(), 200 if report.status == "healthy" else 503)


@_looked_at("/api/health")
async def health(request: Request) -> Response:
    """The server and its saver in short."""
    orchestrator: Orchestrator = request.app.state.orchestrator
    report = await orchestrator.health()
    answer = {
        "status": report.status,
        "version": request.app.version,
        "checkpointer": report.checkpointer,
        "durable": report.durable,
        "workflows": sorted(orchestrator.graphs),
    }
    return AsciiJsonResponse(answer, 200 if report.status == "healthy" else 503)


@_looked_at("/api/health/deep")
async def deep(request: Request, organization: Organization) -> Response:
    """Every check with its figure, its limit and what to do: a checkpoint is written, read and deleted; the pool, the
    schema, the queue, the runners, the service levels. 503 where one fails; answers within five seconds."""
    app = request.app
    if not hasattr(app.state, "deep_health"):
        app.state.deep_health = DeepHealth(app.state.orchestrator, _gauges(app))
    report = await app.state.deep_health.report()
    return AsciiJsonResponse(report.as_json(), 503 if report.fails else 200)


@_looked_at("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus's text format. Answers within about two seconds, whatever PostgreSQL does."""
    return Response(await _gauges(request.app).render(), media_type=CONTENT_TYPE_LATEST)
