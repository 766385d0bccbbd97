"""Look at runs: /api/runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import WithJsonSchema
from starlette.responses import Response

from orchestrator.api.auth import Organization
from orchestrator.api.body import IDENTIFIER
from orchestrator.api.parameters import RunId
from orchestrator.api.views import (
    AsciiJsonResponse,
    activity_view,
    checkpoint_view,
    run_detail,
    run_status,
    signals_view,
)
from orchestrator.engine.history import MAX_HISTORY
from orchestrator.engine.service import Orchestrator
from orchestrator.runs.model import RunStatus, check_identifier
from orchestrator.runs.store import Cursor, RunFilter

__all__ = ["router"]

router = APIRouter(prefix="/api/runs")


@router.get("")
async def list_runs(
    request: Request,
    organization: Organization,
    status: Annotated[list[RunStatus] | None, Query(description="Only those in this state, or these.")] = None,
    workflow: Annotated[
        str | None, Query(description="Only those of this workflow."), WithJsonSchema(IDENTIFIER)
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="How many at most.")] = 50,
    cursor: Annotated[str | None, Query(max_length=500, description="The `nextCursor` of the page before.")] = None,
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
async def get_run(request: Request, run_id: RunId, organization: Organization) -> Response:
    """One run, with its input and the signals that were sent to it."""
    orchestrator: Orchestrator = request.app.state.orchestrator
    run = await orchestrator.poll(run_id, organization_id=organization)
    signals = await orchestrator.signals(run.run_id) if run.signal_count else []
    return AsciiJsonResponse(run_detail(run) | signals_view(signals))


@router.get("/{run_id}/activities")
async def get_activities(request: Request, run_id: RunId, organization: Organization) -> Response:
    """What the run went through: one entry per execution of a node, oldest first."""
    orchestrator: Orchestrator = request.app.state.orchestrator
    activities = await orchestrator.activities(run_id, organization_id=organization)
    return AsciiJsonResponse({"activities": [activity_view(activity) for activity in activities]})


@router.get("/{run_id}/history")
async def get_history(
    request: Request,
    run_id: RunId,
    organization: Organization,
    limit: Annotated[int, Query(ge=1, le=MAX_HISTORY, description="How many at most, the newest.")] = 100,
) -> Response:
    """The run's checkpoints, newest first, each with the state as it stood."""
    orchestrator: Orchestrator = request.app.state.orchestrator
    checkpoints = await orchestrator.history(run_id, limit=limit, organization_id=organization)
    return AsciiJsonResponse({"checkpoints": [checkpoint_view(checkpoint) for checkpoint in checkpoints]})
