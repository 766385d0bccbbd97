"""What part of the work a process does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.engine.dispatcher import MAX_ACTIVE_RUNS
from orchestrator.engine.pushing import Pusher

__all__ = ["Work"]


@dataclass(frozen=True, slots=True)
class Work:
    """How many runs a process drives at once, of which queues (None: all), and how it tells others of work.

    With `takes` it takes pending runs from the table by itself; without, it drives what is handed to it. With
    `begins_here` a run is begun by the process that starts it, if it has a slot: no message is needed then.
    `leave_new_for_s` is how long new runs are left to the queue before this process takes them from the table.
    With `pushes_runs`, runs whose messages may be lost are pushed again: for queues whose workers don't look at the
    table themselves.
    """

    capacity: int = MAX_ACTIVE_RUNS
    queues: Sequence[str] | None = None
    takes: bool = True
    begins_here: bool = True
    leave_new_for_s: float = 0.0
    pusher: Pusher | None = None
    pushes_runs: bool = False
