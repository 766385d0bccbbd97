"""What a run went through: one activity per execution of a node. Pure; no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from time import monotonic

__all__ = ["Activity", "ActivityNote", "ActivityStatus"]


class ActivityStatus(StrEnum):
    """How one execution of a node stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Activity:
    """One row of `workflow_activity`. `task_id` is LangGraph's; times are the database's, in UTC."""

    run_id: str
    attempt: int
    task_id: str
    activity: str
    status: ActivityStatus
    started_at: datetime
    error: str | None = None
    ended_at: datetime | None = None


@dataclass(slots=True)
class ActivityNote:
    """What is to be written of an activity by the holder of `epoch`.

    Times are `time.monotonic()` of this process: the store turns them into ages, which the database takes off its own
    clock, so that a wrong clock here does no harm.
    """

    run_id: str
    epoch: int
    attempt: int
    task_id: str
    activity: str
    status: ActivityStatus = ActivityStatus.RUNNING
    error: str | None = None
    started: float = field(default_factory=monotonic)
    ended: float | None = None
