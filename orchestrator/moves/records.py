"""Runs as records of a file, beside the checkpoints of their threads (`checkpointer.threads`).

    {"kind": "moved", "from": "postgres" | "memory", "left": true | false}       first: where the file was written
    {"kind": "run", "moves": 1, "awaitsChildren": false, "run": {…}, "signals": […], "hooks": […], "steps": […],
     "activities": […], "events": […]}
    {"kind": "checkpoint", "threadId": …}                                         the threads' whole histories
    {"kind": "stay", "runId": …, "moves": 1}                                      marked, but not carried

What belongs to a run has the names of its
columns in camelCase; times are ISO 8601, in UTC.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar, get_args, get_type_hints

from orchestrator.runs.activity import Activity
from orchestrator.runs.carried import CarriedHook, CarriedRun
from orchestrator.runs.events import Event
from orchestrator.runs.model import Run
from orchestrator.runs.signals import Hook, Signal
from orchestrator.runs.steps import Step

__all__ = ["MOVED", "RUN", "STAY", "Record", "record_of", "run_in"]

T = TypeVar("T")
Record = dict[str, Any]
MOVED, RUN, STAY = "moved", "run", "stay"


def record_of(carried: CarriedRun) -> Record:
    """A run as a record."""
    return {
        "kind": RUN,
        "moves": carried.moves,
        "awaitsChildren": carried.awaits_children,
        "run": _packed(carried.run),
        "signals": [_packed(signal) for signal in carried.signals],
        "hooks": [_packed(each.hook) | {"key": each.key, "uses": each.uses} for each in carried.hooks],
        "steps": [_packed(step) for step in carried.steps],
        "activities": [_packed(activity) for activity in carried.activities],
        "events": [_packed(event) for event in carried.events],
    }


def run_in(record: Mapping[str, Any]) -> CarriedRun:
    """The run that `record_of` wrote. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
    return CarriedRun(
        run=_unpacked(Run, record["run"]),
        moves=int(record["moves"]),
        awaits_children=bool(record["awaitsChildren"]),
        signals=[_unpacked(Signal, each) for each in record["signals"]],
        hooks=[CarriedHook(_unpacked(Hook, each), each["key"], each["uses"]) for each in record["hooks"]],
        steps=[_unpacked(Step, each) for each in record["steps"]],
        activities=[_unpacked(Activity, each) for each in record["activities"]],
        events=[_unpacked(Event, each) for each in record["events"]],
    )


def _packed(value: Any) -> Record:
    packed: Record = {}
    for name, key, _ in _COLUMNS[type(value)]:
        item = getattr(value, name)
        if item is not None:
            packed[key] = item.isoformat() if isinstance(item, datetime) else item
    return packed


def _unpacked(kind: type[T], packed: Mapping[str, Any]) -> T:
    # Columns that a newer version has added are left out; one that is not there is None, or the field's default.
    values: dict[str, Any] = {}
    for name, key, parsed in _COLUMNS[kind]:
        if key in packed:
            values[name] = packed[key] if parsed is None else parsed(packed[key])
        elif name in _NULLABLE:
            values[name] = None
    return kind(**values)


# Fields without a default that may be None all the same.
_NULLABLE = frozenset({"input", "payload"})


def _parser(hint: Any) -> Any:
    for each in get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
        if each is datetime:
            return datetime.fromisoformat
        if isinstance(each, type) and issubclass(each, Enum):
            return each
    return None


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


# A dataclass's fields: name, key in a record, and what makes the value of the record's.
_COLUMNS: dict[Any, list[tuple[str, str, Any]]] = {
    kind: [(each.name, _camel(each.name), _parser(hint)) for each in fields(kind) for hint in [_hints[each.name]]]
    for kind in (Run, Signal, Hook, Step, Activity, Event)
    for _hints in [get_type_hints(kind)]
}
