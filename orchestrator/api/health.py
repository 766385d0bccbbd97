"""How the server is: /api/health, its parts, and /metrics. Asks for no token: probes and scrapers have none."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from orchestrator.api.views import AsciiJsonResponse
from orchestrator.engine.service import Orchestrator

__all__ = ["router"]

router = APIRouter()


@router.get("/api/health/live")
async def live() -> Response:
    """Whether the process answers at all."""
    return AsciiJsonResponse({"status": "alive"})


@router.get("/api/health/ready")
async def ready(request: Request) -> Response:
    """Whether runs can be started here now; 503 where not, with the reason."""
    orchestrator: Orchestrator = request.app.state.orchestrator
    reason = "closing" if orchestrator.is_closing else (await orchestrator.health()).error
    if reason is not None:
        return AsciiJsonResponse({"status": "not ready", "reason": reason}, 503)
    return AsciiJsonResponse({"status": "ready"})


@router.get("/api/health/checkpointer")
async def checkpointer(request: Request) -> Response:
    """Which saver is in use, and whether it can save; answers within two seconds."""
    orchestrator: Orchestrator = request.app.state.orchestrator
    report = await orchestrator.health()
    return AsciiJsonResponse(report.as_json(), 200 if report.status == "healthy" else 503)


@router.get("/api/health")
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


@router.get("/metrics")
async def metrics() -> Response:
    """Prometheus's text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
