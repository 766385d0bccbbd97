"""Tell a run what to do: pause, go on, end, take a signal, be forked. POST below /api/runs/{runId}."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import ConfigDict, WithJsonSchema
from starlette.responses import Response

from orchestrator.api.auth import Organization
from orchestrator.api.body import IDENTIFIER, Identifier, JsonBody, Nothing, documented, read_body
from orchestrator.api.parameters import RunId
from orchestrator.api.views import AsciiJsonResponse, accepted, run_status
from orchestrator.engine.service import Orchestrator
from orchestrator.runs.model import RunStatus, check_identifier

__all__ = ["router"]

_REFUSALS: dict[int | str, dict[str, Any]] = {
    404: {"description": "There is no such run, or it is another organization's."},
    409: {"description": "The run's state does not allow it; `error.status` says which state that is."},
}
router = APIRouter(prefix="/api/runs/{run_id}", responses=_REFUSALS)


# Checked where it is used, so that the message says what it names.
SignalName = Annotated[str, Path(description="The signal's name, percent-encoded."), WithJsonSchema(IDENTIFIER)]


class ResumeBody(JsonBody):
    """What the run waits for, if it does."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"payload": {"ok": True}}]})

    payload: Any = None
    """The answer to what it waits for. Where it waits for several, an object of answers by interrupt id: anything else
    gets 422 `invalid_request`. Absent, the answer is null."""


class SignalBody(JsonBody):
    """What the signal says."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"payload": {"ok": True}, "key": "click-7"}]})

    payload: Any = None
    """What the wait gets. Absent, that is null."""
    key: Identifier | None = None
    """What is sent again under the same key is the same signal. Absent, it is the same where it equals the last one of
    its name, unless the run waits for that name anew."""


class ForkBody(JsonBody):
    """Where to go on from, and with what."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"checkpointId": "1f0c5d3e-9f1a-6b7e-8002-3a5c1f0d9e11", "payload": {"amount": 5}}]
        }
    )

    checkpoint_id: Identifier
    """A checkpoint of the run's `/history`; any other gets 404 `checkpoint_not_found`."""
    payload: Any = None
    """An update of the checkpoint's state to begin with. Absent, it begins with the state as it stood."""


_EMPTY = documented(Nothing, optional=True)
_ASKED: dict[int | str, dict[str, Any]] = {202: {"description": "Asked for; the run as it stands."}}


@router.post("/interrupt", responses=_ASKED, openapi_extra=_EMPTY)
async def interrupt(request: Request, run_id: RunId, organization: Organization) -> Response:
    """Pause the run at its next checkpoint: 200 where it is paused, 202 where it was asked to."""
    await read_body(request, Nothing, optional=True)
    run = await _orchestrator(request).interrupt(run_id, organization_id=organization)
    return AsciiJsonResponse(run_status(run), 200 if run.status is RunStatus.PAUSED else 202)


@router.post("/cancel", responses=_ASKED, openapi_extra=_EMPTY)
async def cancel(request: Request, run_id: RunId, organization: Organization) -> Response:
    """End the run: 200 where it is cancelled, 202 where it was asked to stop."""
    await read_body(request, Nothing, optional=True)
    run = await _orchestrator(request).cancel(run_id, organization_id=organization)
    return AsciiJsonResponse(run_status(run), 200 if run.status is RunStatus.CANCELLED else 202)


@router.post("/resume", status_code=202, openapi_extra=documented(ResumeBody, optional=True))
async def resume(request: Request, run_id: RunId, organization: Organization) -> Response:
    """Let a run go on that is waiting, paused, suspended or failed; `payload` answers what it waits for."""
    body = await read_body(request, ResumeBody, optional=True)
    run = await _orchestrator(request).resume(run_id, body.payload, organization_id=organization)
    return AsciiJsonResponse(run_status(run), 202)


@router.post("/signals/{name:path}", status_code=202, openapi_extra=documented(SignalBody, optional=True))
async def signal(request: Request, run_id: RunId, name: SignalName, organization: Organization) -> Response:
    """Send the run a signal. One that nobody waits for yet is kept, and shown with the run."""
    body = await read_body(request, SignalBody, optional=True)
    run = await _orchestrator(request).signal(run_id, name, body.payload, key=body.key, organization_id=organization)
    return AsciiJsonResponse(run_status(run), 202)


@router.post("/fork", status_code=202, openapi_extra=documented(ForkBody))
async def fork(request: Request, run_id: RunId, organization: Organization) -> Response:
    """Start a run that goes on from a checkpoint of this one, on a thread of its own; this one stays as it is."""
    body = await read_body(request, ForkBody)
    checkpoint_id = check_identifier("checkpointId", body.checkpoint_id)
    run = await _orchestrator(request).fork(run_id, checkpoint_id, body.payload, organization_id=organization)
    return AsciiJsonResponse(run_status(run) | accepted(run), 202)


def _orchestrator(request: Request) -> Orchestrator:
    found: Orchestrator = request.app.state.orchestrator
    return found
