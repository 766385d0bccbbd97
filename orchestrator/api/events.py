"""Streams of a run's events: Server-Sent Events, as browsers' EventSource and `curl -N` take them.

    id: 7
    event: activity
    data: {"runId": …, "number": 7, "kind": "activity", "at": …, "activity": "draft", "status": "running", …}

A client that was cut off sends the last id it has seen as `Last-Event-ID` (EventSource does so by itself), or asks with
`?after=7`, and gets what came since, each event once. When the run is over and all was sent, the stream ends; who asks
again gets 204, which tells EventSource to stop.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

from fastapi import APIRouter, Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response

from orchestrator.api.auth import Organization
from orchestrator.api.parameters import After, LastEventId, RunId, ThreadId
from orchestrator.api.views import event_view
from orchestrator.engine.service import Orchestrator
from orchestrator.errors import (
    DatabaseUnavailableError,
    InvalidRequestError,
    RunNotFoundError,
    ThreadNotFoundError,
)
from orchestrator.runs.events import Event
from orchestrator.runs.model import Run, check_identifier

__all__ = ["first_event", "router", "streamed_events"]

router = APIRouter()
_RETRY_AFTER_MS = 1000
_MOST_RECENT = 500


@router.get("/api/runs/{run_id}/events")
async def run_events(
    request: Request, run_id: RunId, organization: Organization, after: After = None, last_event_id: LastEventId = None
) -> Response:
    """A run's events, those that were and those that come."""
    orchestrator: Orchestrator = request.app.state.orchestrator
    run = await orchestrator.poll(run_id, organization_id=organization)
    return await streamed_events(request, run, first_event(after, last_event_id))


@router.get("/api/invoke-status/stream/{thread_id:path}")
async def thread_events(
    request: Request,
    thread_id: ThreadId,
    organization: Organization,
    after: After = None,
    last_event_id: LastEventId = None,
) -> Response:
    """The events of the thread's newest run."""
    try:
        check_identifier("thread id", thread_id)
    except InvalidRequestError:
        raise ThreadNotFoundError(thread_id[:255]) from None
    orchestrator: Orchestrator = request.app.state.orchestrator
    run = await orchestrator.latest_of_thread(thread_id, organization_id=organization)
    return await streamed_events(request, run, first_event(after, last_event_id))


def first_event(after: int | None, last_event_id: str | None) -> int:
    """What was seen already; the header, which EventSource sends, is newer than the address."""
    if not last_event_id:
        return after or 0
    if not (last_event_id.isascii() and last_event_id.isdigit()) or int(last_event_id) > 2**62:
        raise InvalidRequestError("Last-Event-ID takes the id of an event, a whole number")
    return int(last_event_id)


async def streamed_events(request: Request, run: Run, after: int) -> Response:
    """The run's events with higher numbers, as a stream; 204 where the run is over and has none."""
    orchestrator: Orchestrator = request.app.state.orchestrator
    ping_every_s: float = request.app.state.ping_every_s
    if run.is_final and not await orchestrator.has_events(run.run_id, after):
        return Response(status_code=204)
    return EventSourceResponse(
        _messages(orchestrator, run, after),
        ping=ping_every_s,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _messages(orchestrator: Orchestrator, run: Run, after: int) -> AsyncIterator[bytes]:
    # Part of the first event: a browser takes a message without data for none.
    prefix = f"retry: {_RETRY_AFTER_MS}\r\n".encode()
    # The answer has begun: all that can be told of a lost database is its end, after which a client asks again.
    with suppress(DatabaseUnavailableError, RunNotFoundError):
        async with aclosing(orchestrator.stream_together(run.run_id, after=after)) as together:
            async for events in together:
                yield prefix + b"".join(map(_encoded, events))
                prefix = b""


_recent: OrderedDict[tuple[str, int], bytes] = OrderedDict()


def _encoded(event: Event) -> bytes:
    """The event as it is sent; made once for all who watch."""
    key = event.run_id, event.number
    if (known := _recent.get(key)) is None:
        data = json.dumps(event_view(event), separators=(",", ":"))
        known = _recent[key] = ServerSentEvent(data, event=event.kind, id=str(event.number)).encode()
        if len(_recent) > _MOST_RECENT:
            _recent.popitem(last=False)
    return known
