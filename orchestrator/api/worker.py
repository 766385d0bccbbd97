"""Where queue workers without graphs hand messages over: /.well-known/workflow/v1/flow and /step.

They run code, so they have a token of their own (WORKER_TOKEN), and are closed where none is set.
"""

from __future__ import annotations

import hmac
from dataclasses import replace
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPBearer
from starlette.responses import Response

from orchestrator.api.body import read_json
from orchestrator.api.views import AsciiJsonResponse
from orchestrator.engine.service import Orchestrator
from orchestrator.errors import InvalidRequestError, UnauthorizedError
from orchestrator.queues.driver import FLOW_QUEUE, MessageData
from orchestrator.queues.proxies import WELL_KNOWN
from orchestrator.queues.worker import function_proxy

__all__ = ["router"]

# Tells OpenAPI of the token; `_check_token` asks for it.
_BEARER = HTTPBearer(scheme_name="worker", description="WORKER_TOKEN", auto_error=False)
router = APIRouter(prefix=WELL_KNOWN, dependencies=[Depends(_BEARER)])


def _documented(kind: Literal["flow", "step"]) -> dict[str, Any]:
    """What OpenAPI is to say of the messages of a kind."""
    works_on = "run" if kind == "flow" else "step"
    message = {
        "type": "object",
        "required": ["kind", "id", "name"],
        "properties": {
            "kind": {"const": kind, "description": "What is to be worked on; another kind gets 422 `invalid_request`."},
            "id": {
                "type": "string",
                "format": "uuid",
                "description": f"The {works_on}'s id. One that is not there, or not pending, needs nothing.",
            },
            "name": {"type": "string", "description": "The workflow's or the step's; not used here."},
            "queue": {
                "type": "string",
                "default": FLOW_QUEUE,
                "description": "The queue it comes from; not used here.",
            },
            "priority": {"type": "integer", "default": 0, "description": "The priority it had there; not used here."},
            "run_at": {
                "type": ["string", "null"],
                "format": "date-time",
                "description": "When it was due there, with its zone; not used here.",
            },
        },
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": message}}}}


@router.post("/flow", openapi_extra=_documented("flow"))
async def flow(request: Request) -> Response:
    """Drive a pending run to the end of an attempt; 200 when that is over, or was not needed."""
    return await _work(request, "flow")


@router.post("/step", openapi_extra=_documented("step"))
async def step(request: Request) -> Response:
    """Run a pending step; 200 when that is over, or was not needed."""
    return await _work(request, "step")


async def _work(request: Request, kind: Literal["flow", "step"]) -> Response:
    orchestrator: Orchestrator = request.app.state.orchestrator
    _check_token(orchestrator, request.headers.get("authorization"))
    message = MessageData.from_json(await read_json(request))
    if message.kind != kind:
        raise InvalidRequestError(f"this address takes messages of kind {kind}, not {message.kind}")
    await function_proxy(orchestrator)(replace(message, id=_checked_id(message.id)))
    return AsciiJsonResponse({"status": "done"})


def _checked_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise InvalidRequestError("a queue message's id takes a UUID") from None


def _check_token(orchestrator: Orchestrator, authorization: str | None) -> None:
    held = orchestrator.settings.worker_token
    scheme, _, shown = (authorization or "").partition(" ")
    # Compared in constant time, and where none is set with nothing that could be shown.
    expected = held.get_secret_value().encode() if held is not None else b""
    is_right = hmac.compare_digest(expected, shown.strip().encode("utf-8", "surrogatepass"))
    if held is None or scheme.lower() != "bearer" or not is_right:
        raise UnauthorizedError("WORKER_TOKEN")
