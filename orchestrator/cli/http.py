"""Asks a running server. The standard library does: the `server` extra brings no HTTP client."""

from __future__ import annotations

import asyncio
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode, urlsplit

from orchestrator.errors import InvalidRequestError, RemoteError

__all__ = ["get_json", "get_parts", "open_stream", "post_json"]

_TIMEOUT_S = 15.0
# Between two parts of a large answer: a picture, for one, is made before its first byte.
_EXPORT_TIMEOUT_S = 120.0
_PART_BYTES = 64 * 1024


async def get_json(
    url: str, path: str, query: dict[str, Any] | None = None, *, token: str | None = None
) -> tuple[int, Any]:
    """The status and the JSON of `path` on the server at `url`. Raises `RemoteError` where there is none."""
    given = {name: value for name, value in (query or {}).items() if value not in (None, [])}
    address = _address(url, path) + (f"?{urlencode(given, doseq=True)}" if given else "")
    return await _ask(urllib.request.Request(address), token)  # noqa: S310 - checked by _address


async def post_json(url: str, path: str, body: dict[str, Any], *, token: str | None = None) -> tuple[int, Any]:
    """The status and the JSON that the server at `url` answers `body` with. Raises `RemoteError`."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(  # noqa: S310 - checked by _address
        _address(url, path), data=json.dumps(body).encode(), headers=headers, method="POST"
    )
    return await _ask(request, token)


async def get_parts(url: str, path: str, *, token: str | None) -> AsyncIterator[bytes]:
    """The body of `path`, in parts as they come. Raises `RemoteError`, for a refusal with what it says."""
    request = urllib.request.Request(_address(url, path))  # noqa: S310 - checked by _address
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        answer = await asyncio.to_thread(urllib.request.urlopen, request, timeout=_EXPORT_TIMEOUT_S)
        with answer:
            while part := await asyncio.to_thread(answer.read, _PART_BYTES):
                yield part
    except urllib.error.HTTPError as exc:
        said = _json_of(exc, request)
        error = said.get("error") if isinstance(said, dict) else None
        message = error["message"] if isinstance(error, dict) else f"the server answered {exc.code}"
        raise RemoteError(message) from exc
    except (OSError, http.client.HTTPException) as exc:
        raise RemoteError(f"{request.full_url} broke off: {getattr(exc, 'reason', exc)!r}; ask again") from exc


def open_stream(
    url: str, path: str, *, last_event_id: int, token: str | None, timeout_s: float
) -> http.client.HTTPResponse:
    """A stream of events, opened; blocks. Raises `InvalidRequestError`, and what urllib raises."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last_event_id)}
    request = urllib.request.Request(_address(url, path), headers=headers)  # noqa: S310 - checked by _address
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310 - as above
    return answer


def _address(url: str, path: str) -> str:
    if "@" in url:
        # Not shown: what stands before the @ is a password, more often than not.
        raise InvalidRequestError("--url takes an address such as http://127.0.0.1:3456, without a user; see --token")
    if urlsplit(url).scheme not in ("http", "https"):
        raise InvalidRequestError(f"--url takes an address such as http://127.0.0.1:3456, not {url!r}")
    return url.rstrip("/") + path


async def _ask(request: urllib.request.Request, token: str | None) -> tuple[int, Any]:
    request.add_header("Accept", "application/json")
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return await asyncio.to_thread(_answer, request)


def _answer(request: urllib.request.Request) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - checked by _address
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as exc:
        return exc.code, _json_of(exc, request)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        reason = getattr(exc, "reason", exc)
        raise RemoteError(f"{request.full_url} gave no answer: {reason}; is the server running?") from exc


def _json_of(error: urllib.error.HTTPError, request: urllib.request.Request) -> Any:
    try:
        return json.load(error)
    except ValueError:
        raise RemoteError(f"{request.full_url} answered {error.code}, and not in JSON") from error
