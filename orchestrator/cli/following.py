"""A run's events as the commands follow them: a server's stream, taken up again where it was, or rows of a database."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import urllib.error
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from time import monotonic
from typing import Any, TypeAlias

from orchestrator.api.views import event_view
from orchestrator.cli.http import open_stream
from orchestrator.errors import DatabaseUnavailableError, RemoteError
from orchestrator.runs.store import RunStore

__all__ = ["PATIENCE_S", "EventView", "Patience", "server_events", "stored_events"]

EventView: TypeAlias = dict[str, Any]
# An event, why there are none, or that there are no more for the moment.
_News: TypeAlias = "EventView | RemoteError | None"

# A run outlives a restart of its server, and so does who watches it.
PATIENCE_S = 60.0
_AGAIN_EVERY_S = 0.5
# The server sends a comment every 15 s.
_SILENCE_S = 40.0


class Patience:
    """How long nobody has answered. Raises `RemoteError` when it is too long."""

    def __init__(self) -> None:
        self._seen = monotonic()

    def answered(self) -> None:
        """Begin anew."""
        self._seen = monotonic()

    async def wait(self) -> None:
        """Wait a little before asking again."""
        if monotonic() - self._seen > PATIENCE_S:
            raise RemoteError(f"no answer for {PATIENCE_S:.0f} s; the run goes on where it was, look again later")
        await asyncio.sleep(_AGAIN_EVERY_S)


async def stored_events(store: RunStore, run_id: str) -> AsyncIterator[EventView]:
    """The events in the database, looked for twice a second."""
    after, patience = 0, Patience()
    while True:
        with suppress(DatabaseUnavailableError):
            events = await store.events_after(run_id, after)
            patience.answered()
            for event in events:
                after = event.number
                yield event_view(event)
            if events:
                continue
        await patience.wait()


async def server_events(url: str, path: str, token: str | None) -> AsyncIterator[EventView]:
    """The events of a server's stream."""
    after, patience = 0, Patience()
    while True:
        news = _opened(url, path, token, after)
        while (event := await news.get()) is not None:
            if isinstance(event, RemoteError):
                raise event
            patience.answered()
            # A comment keeps the stream open and has no number.
            if event:
                after = event["number"]
                yield event
        await patience.wait()


def _opened(url: str, path: str, token: str | None, after: int) -> asyncio.Queue[_News]:
    """The news of one answer, read by a thread that nobody waits for: it may hang in a read when the command ends."""
    loop = asyncio.get_running_loop()
    news: asyncio.Queue[_News] = asyncio.Queue()

    def tell(each: _News) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(news.put_nowait, each)

    def read() -> None:
        try:
            with open_stream(url, path, last_event_id=after, token=token, timeout_s=_SILENCE_S) as answer:
                _read(answer, tell)
        except urllib.error.HTTPError as exc:
            tell(_refusal(exc))
        except (OSError, http.client.HTTPException, ValueError):
            tell(None)
        else:
            tell(None)

    threading.Thread(target=read, name="events", daemon=True).start()
    return news


def _read(answer: http.client.HTTPResponse, tell: Callable[[_News], None]) -> None:
    for line in answer:
        name, _, value = line.partition(b":")
        if name == b"data":
            tell(json.loads(value))
        elif not name:
            tell({})


def _refusal(refused: urllib.error.HTTPError) -> RemoteError | None:
    """What a server said that has nothing to give; None where it may answer later."""
    with refused:
        if refused.code >= 500:
            return None
        try:
            return RemoteError(json.load(refused)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return RemoteError(f"the server answered {refused.code}")
