"""Look at runs: /api/runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from orchestrator.api.auth import Organization
from orchestrator.api.views import AsciiJsonResponse, run_detail, run_status
from orchestrator.engine.service import Orchestrator
from orchestrator.errors import RunNotFoundError
from orchestrator.runs.model import RunStatus, check_identifier
from orchestrator.runs.store import Cursor, RunFilter

__all__ = ["router"]

router = APIRouter(prefix="/api/runs")


@router.get("")
async def list_runs(
    request: Request,
    organization: Organization,
    status: Annotated[list[RunStatus] | None, Query()] = None,
    workflow: str | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Response:
    """The organization's runs, newest first, without inputs and outputs. `status` may be given more than once."""
    orchestrator: Orchestrator = request.app.state.orchestrator
    wanted = RunFilter(
        organization_id=organization,
        statuses=status or None,
        workflow=None if workflow is None else check_identifier("workflow", workflow),
    )
    page = await orchestrator.list_runs(wanted, limit=limit, after=Cursor.decode(cursor) if cursor else None)
    return AsciiJsonResponse(
        {
            "runs": [run_status(run) for run in page.runs],
            "nextCursor": page.next.encode() if page.next else None,
        }
    )


@router.get("/{run_id}")
async def get_run(request: Request, run_id: str, organization: Organization) -> Response:
    """One run, with its input."""
    orchestrator: Orchestrator = request.app.state.orchestrator
    run = await orchestrator.poll(run_id)
    if run.organization_id != organization:
        # Another organization's run is not there at all, so that ids tell nothing.
        raise RunNotFoundError(run_id)
    return AsciiJsonResponse(run_detail(run))
