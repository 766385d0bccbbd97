"""Where outside systems answer runs: the addresses of `orchestrator.create_hook`. The address is the permission.

Nothing is told about the run, and no token is written anywhere: who reads one may post in its place.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from orchestrator.api.body import read_json
from orchestrator.api.views import AsciiJsonResponse
from orchestrator.engine.service import Orchestrator
from orchestrator.errors import HookNotFoundError, IllegalTransitionError

__all__ = ["router"]

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,200}")
_REFUSALS: dict[int | str, dict[str, Any]] = {
    404: {"description": "The address is not known, was used already, or has expired."},
    409: {"description": "The run is over."},
}
_ANYTHING: dict[str, Any] = {"requestBody": {"required": False, "content": {"application/json": {"schema": {}}}}}

Token = Annotated[str, Path(description="What `create_hook` gave out; any other gets 404 `hook_not_found`.")]

router = APIRouter()


@router.post("/.well-known/workflow/v1/webhook/{token}", status_code=202, responses=_REFUSALS, openapi_extra=_ANYTHING)
async def use_hook(request: Request, token: Token) -> Response:
    """Answer the run that gave this address out. Takes any JSON; no body is null."""
    payload = await read_json(request)
    if not _TOKEN.fullmatch(token):
        raise HookNotFoundError
    orchestrator: Orchestrator = request.app.state.orchestrator
    try:
        await orchestrator.use_hook(token, payload)
    except IllegalTransitionError as exc:
        # In words of its own: how the run ended is nothing to who merely has its address.
        message = "what this address belongs to is over and takes no more answers"
        return AsciiJsonResponse({"error": {"code": exc.code, "message": message}}, exc.status)
    return AsciiJsonResponse({"status": "accepted"}, 202)
