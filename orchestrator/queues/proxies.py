"""How a worker reaches the code of a workflow: in its own process, or over HTTP.

`function` is the orchestrator's own `handle` in the same process. `http` posts the message to a server that has the
graphs, which answers when the attempt has ended:

    POST {APP_URL}/.well-known/workflow/v1/flow    (or /step)
    Authorization: Bearer {WORKER_TOKEN}
    {"kind": "flow", "id": …, "name": …, "queue": …, "priority": …, "run_at": …}

A call that fails is not repeated here: nobody knows whether the other side has begun. The run's row tells: where its
lease lapses, or was never taken, the sweeper has it tried again.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from checkpointer.errors import SettingsError
from orchestrator.errors import RemoteError
from orchestrator.queues.driver import MessageData

__all__ = ["WELL_KNOWN", "HttpProxy"]

_log = logging.getLogger(__name__)
WELL_KNOWN = "/.well-known/workflow/v1"
_DEFAULT_TIMEOUT_S = 3600.0


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for an error: a POST that is followed becomes a GET, whose answer says nothing of a run."""

    def redirect_request(self, *_: object) -> None:
        """Go nowhere."""


_OPENER = urllib.request.build_opener(_NoRedirects)


class HttpProxy:
    """Hands messages over to the server at `url`; an answer may take `timeout_s` seconds.

    Raises `SettingsError` for an address that is none, or a token that can't be sent. The token goes into one header
    and nowhere else.
    """

    def __init__(self, url: str, token: str, *, timeout_s: float = _DEFAULT_TIMEOUT_S) -> None:
        if not _is_address(url):
            raise SettingsError("APP_URL takes an address such as http://127.0.0.1:3456, without a user or a query")
        if not token.isascii() or not token.isprintable() or token != token.strip():
            # As a header it would be refused with a message that shows it.
            raise SettingsError(
                "WORKER_TOKEN takes printable ASCII characters, without a space or line break at its ends"
            )
        self._url = url.rstrip("/") + WELL_KNOWN
        self._token = token
        self._timeout_s = timeout_s

    async def __call__(self, message: MessageData) -> None:
        """Post the message and wait for the end of the attempt. Raises `RemoteError`."""
        await asyncio.to_thread(self._post, message)

    def _post(self, message: MessageData) -> None:
        address = f"{self._url}/{message.kind}"
        body = json.dumps(message.as_json()).encode()
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})  # noqa: S310 - checked
        request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            with _OPENER.open(request, timeout=self._timeout_s) as answer:
                answer.read()
        except urllib.error.HTTPError as exc:
            with exc:
                raise RemoteError(f"{address} answered {exc.code} about {message.kind} {message.id}") from None
        except (OSError, http.client.HTTPException) as exc:
            reason = getattr(exc, "reason", exc)
            raise RemoteError(f"{address} gave no answer about {message.kind} {message.id}: {reason}") from exc


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        return False
    is_plain = url.isascii() and url.isprintable() and not {" ", "?", "#"} & set(url)
    return parts.scheme in ("http", "https") and has_host and is_plain
