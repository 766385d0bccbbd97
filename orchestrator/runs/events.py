"""What a run shows while it goes on: events, numbered per run from 1 without gaps. Pure; no I/O.

| kind | data |
|---|---|
| state | status, attempt, and where they apply activity, error {type, message}, retryAt, waitingFor |
| activity | activity, status (running, completed, failed, interrupted), attempt, taskId, seconds, error |
| checkpoint | checkpointId, step, source |
| custom | payload: what a node gave LangGraph's stream writer; {truncated: …} for what is too long, {eventsLost: n} |
| message | id, activity, text: a piece of what a chat model says |
| signal | name, key |
| document | childRunId, status, key: a run that this one has started is over |

State changes, signals and the ends of runs that it started are written by the database, in the transaction that makes
them (migrations 0005, 0006). The others come from the attempt that is under
way, in batches, and only while it holds the run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic

import orjson

from orchestrator.runs.activity import ActivityNote
from orchestrator.runs.model import Json

__all__ = ["Event", "NewEvent", "RunNotes", "time_text"]


def time_text(value: datetime) -> str:
    """A time as clients see it: ISO 8601 in UTC, to the millisecond."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run. `at` is by the database's clock, in UTC."""

    run_id: str
    number: int
    kind: str
    data: dict[str, Json]
    at: datetime


@dataclass(slots=True)
class NewEvent:
    """An event to be written; `at` is `time.monotonic()` of this process."""

    kind: str
    data: dict[str, Json]
    at: float = field(default_factory=monotonic)


@dataclass(frozen=True, slots=True)
class RunNotes:
    """What an attempt has to tell, for the holder of `epoch`.

    `mark` is above 0 and rises with what was sent under `epoch`: the same one a second time writes no events again.
    """

    run_id: str
    epoch: int
    notes: Sequence[ActivityNote] = ()
    events: Sequence[NewEvent] = ()
    mark: int = 0

    def events_json(self) -> bytes:
        """The events as the rows keep them: a JSON array of {"kind", "data", "ageMs"}."""
        now = monotonic()
        events = [
            {"kind": event.kind, "data": event.data, "ageMs": round((now - event.at) * 1000)} for event in self.events
        ]
        try:
            return orjson.dumps(events)
        except TypeError:
            # Half a surrogate pair, or a number past 64 bits: legal here, and in a json column as an escape.
            return json.dumps(events).encode()
