"""Rows of the tables as what they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.types.json import Json as JsonParameter

from orchestrator.runs.activity import Activity, ActivityStatus
from orchestrator.runs.events import Event, time_text
from orchestrator.runs.model import Json, Request, Run, RunStatus
from orchestrator.runs.signals import Hook, Signal

__all__ = ["activity_of", "events_of", "hook_of", "nullable", "run_of", "signal_of"]

_RUN, _ACTIVITY, _SIGNAL, _HOOK = ([field.name for field in fields(kind)] for kind in (Run, Activity, Signal, Hook))
_IDS = ("run_id", "batch_id", "parent_run_id")


def run_of(row: Mapping[str, Any]) -> Run:
    """A row of `workflow_metadata`."""
    values = _known(row, _RUN)
    values["status"] = RunStatus(values["status"])
    values["requested"] = values["requested"] and Request(values["requested"])
    return Run(**values)


def activity_of(row: Mapping[str, Any]) -> Activity:
    """A row of `workflow_activity`."""
    values = _known(row, _ACTIVITY)
    values["status"] = ActivityStatus(values["status"])
    return Activity(**values)


def events_of(run_id: str, row: Mapping[str, Any]) -> list[Event]:
    """The events of a row of `workflow_event`."""
    at: datetime = row["at"].astimezone(UTC)
    return [
        Event(
            run_id, number, each["kind"], _given(each["kind"], each["data"]), at - timedelta(milliseconds=each["ageMs"])
        )
        for number, each in enumerate(row["events"], row["first"])
    ]


def _given(kind: str, data: dict[str, Json]) -> dict[str, Json]:
    """Of a state, what is there; of an error its type and message. What an attempt told is left as it is."""
    if kind != "state":
        return data
    given = {name: value for name, value in data.items() if value is not None}
    if isinstance(at := given.get("retryAt"), str):
        # PostgreSQL writes it in the time zone of whatever session changed the state.
        given["retryAt"] = time_text(datetime.fromisoformat(at))
    if isinstance(error := given.get("error"), dict):
        given["error"] = {name: error[name] for name in ("type", "message") if name in error}
    return given


def signal_of(row: Mapping[str, Any]) -> Signal:
    """A row of `workflow_signal`."""
    return Signal(**_known(row, _SIGNAL))


def hook_of(row: Mapping[str, Any]) -> Hook:
    """A row of `workflow_hook`."""
    return Hook(**_known(row, _HOOK))


def nullable(value: Json) -> JsonParameter | None:
    """A value for a json column, where None is NULL."""
    return None if value is None else JsonParameter(value)


def _known(row: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    # Only the columns known here: a database that a newer version has upgraded holds more.
    return {name: _value(name, row[name]) for name in names}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return str(value) if name in _IDS and value is not None else value
