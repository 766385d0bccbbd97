"""A run with all that belongs to it, as it is carried from one store to another. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.runs.activity import Activity
from orchestrator.runs.events import Event
from orchestrator.runs.model import Run
from orchestrator.runs.signals import Hook, Signal
from orchestrator.runs.steps import Step

__all__ = ["CarriedHook", "CarriedRun"]


@dataclass(frozen=True, slots=True)
class CarriedHook:
    """An address that a run gave out; `key` is that of the node's call, `uses` how often it was used."""

    hook: Hook
    key: str
    uses: int = 0


@dataclass(frozen=True, slots=True)
class CarriedRun:
    """A run, and the rows that are its own.

    `moves` counts how often it has left PostgreSQL, 0 for one begun in memory. `awaits_children` says that it is to be
    told when all that it has started is over.
    """

    run: Run
    moves: int = 0
    awaits_children: bool = False
    signals: Sequence[Signal] = ()
    hooks: Sequence[CarriedHook] = ()
    steps: Sequence[Step] = ()
    activities: Sequence[Activity] = ()
    events: Sequence[Event] = ()
