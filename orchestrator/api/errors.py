"""Every error as `{"error": {"code", "message"}}` with the right status."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.responses import Response

from checkpointer.errors import SaverUnavailableError
from orchestrator.api.views import AsciiJsonResponse
from orchestrator.errors import BodyTooLargeError, IllegalTransitionError, OrchestratorError, UnauthorizedError

__all__ = ["install_error_handlers", "shape_problems"]

_log = logging.getLogger(__name__)
_CODES = {404: "not_found", 405: "method_not_allowed"}
_BEFORE_TOKEN = "/webhook/"  # noqa: S105 - what stands before one


def shape_problems(details: list[ErrorDetails]) -> str:
    """What is wrong with a request, on one line; never shows the values sent."""
    problems = []
    for detail in details:
        where = ".".join(str(part) for part in detail["loc"] if part not in ("query", "path"))
        # pydantic names the class it would make, which says nothing to who sent JSON.
        is_no_object = detail["type"] == "model_type"
        message = "takes a JSON object" if is_no_object else detail["msg"].removeprefix("Value error, ")
        problems.append(f"{where}: {message}" if where else message)
    return "; ".join(problems)


def install_error_handlers(app: FastAPI) -> None:
    """Answer every exception in the one shape."""

    @app.exception_handler(OrchestratorError)
    async def ours(request: Request, exc: OrchestratorError) -> Response:
        headers = {}
        if isinstance(exc, UnauthorizedError):
            headers["WWW-Authenticate"] = "Bearer"
        if isinstance(exc, BodyTooLargeError):
            headers["Connection"] = "close"
        if exc.status == 503:
            headers["Retry-After"] = "1"
        current = exc.current if isinstance(exc, IllegalTransitionError) else None
        return _answer(exc.status, exc.code, str(exc), headers, current=current)

    @app.exception_handler(SaverUnavailableError)
    async def unavailable(request: Request, exc: SaverUnavailableError) -> Response:
        return _answer(503, "database_unavailable", str(exc), {"Retry-After": "1"})

    @app.exception_handler(RequestValidationError)
    async def wrong_shape(request: Request, exc: RequestValidationError) -> Response:
        return _answer(422, "invalid_request", shape_problems(list(exc.errors())))

    @app.exception_handler(HTTPException)
    async def http(request: Request, exc: HTTPException) -> Response:
        if exc.status_code == 404:
            message = f"there is nothing at {_shown_path(request)}"
        elif exc.status_code == 405:
            message = f"{_shown_path(request)} does not take {request.method}"
        else:
            message = str(exc.detail)
        headers = dict(exc.headers or {})
        return _answer(exc.status_code, _CODES.get(exc.status_code, "http_error"), message, headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, exc: Exception) -> Response:
        _log.error("[WorkflowOrchestrator] %s %s failed", request.method, _shown_path(request), exc_info=exc)
        return _answer(500, "internal_error", "the server failed to answer this; its log says why")


def _shown_path(request: Request) -> str:
    """The path without a hook's token: who knows one may post to it, and messages end up in logs."""
    before, mark, _ = request.url.path.partition(_BEFORE_TOKEN)
    return f"{before}{mark}…" if mark else before


def _answer(
    status: int, code: str, message: str, headers: dict[str, str] | None = None, *, current: str | None = None
) -> Response:
    error = {"code": code, "message": message} | ({"status": current} if current else {})
    return AsciiJsonResponse({"error": error}, status, headers)
