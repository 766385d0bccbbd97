"""Asks a running server. The standard library does: the `server` extra brings no HTTP client."""

from __future__ import annotations

import asyncio
import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlencode, urlsplit

from orchestrator.errors import InvalidRequestError, RemoteError

__all__ = ["get_json"]

_TIMEOUT_S = 15.0


async def get_json(
    url: str, path: str, query: dict[str, Any] | None = None, *, token: str | None = None
) -> tuple[int, Any]:
    """The status and the JSON of `path` on the server at `url`. Raises `RemoteError` where there is none."""
    if "@" in url:
        # Not shown: what stands before the @ is a password, more often than not.
        raise InvalidRequestError("--url takes an address such as http://127.0.0.1:3456, without a user; see --token")
    if urlsplit(url).scheme not in ("http", "https"):
        raise InvalidRequestError(f"--url takes an address such as http://127.0.0.1:3456, not {url!r}")
    given = {name: value for name, value in (query or {}).items() if value not in (None, [])}
    address = url.rstrip("/") + path + (f"?{urlencode(given, doseq=True)}" if given else "")
    request = urllib.request.Request(address, headers={"Accept": "application/json"})  # noqa: S310 - checked above
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return await asyncio.to_thread(_get, request)


def _get(request: urllib.request.Request) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - checked by the caller
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as exc:
        try:
            return exc.code, json.load(exc)
        except ValueError:
            raise RemoteError(f"{request.full_url} answered {exc.code}, and not in JSON") from exc
    except (OSError, http.client.HTTPException, ValueError) as exc:
        reason = getattr(exc, "reason", exc)
        raise RemoteError(f"{request.full_url} gave no answer: {reason}; is the server running?") from exc
