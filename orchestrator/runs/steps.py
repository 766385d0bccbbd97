"""Steps: functions that a node calls and any worker runs. Pure; no I/O.

    node calls ──► row, pending ──► a worker claims it ──► runs the function ──► completed, or failed
                      ▲                    │                                          │
                      └── worker lost, or to be retried                               └──► signal to the run

The row is the authority, as a run's is: a step that was completed is not run again, whatever happens to the run's
worker. What is promised is at least once: a step whose worker is lost runs again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

from orchestrator.runs.model import MAX_QUEUE_CHARS, STEP_SIGNAL, Json

__all__ = ["NewStep", "Step", "StepEnd", "StepStatus", "step_jobs", "was_ended_so"]


class StepStatus(StrEnum):
    """Where a step stands."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class NewStep:
    """A call of the step `name` by a node of a run; `key` is the same on every attempt of that call.

    `arguments` is `{"args": […], "kwargs": {…}}`, as JSON.
    """

    step_id: str
    run_id: str
    key: str
    name: str
    arguments: dict[str, Json]
    queue: str = "step"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class StepEnd:
    """How an attempt of a step ended; pending with `retry_after_s` where it is to be tried again.

    One that is `handed_back` does not count as an attempt.
    """

    status: StepStatus
    result: Json = None
    error: dict[str, Json] | None = None
    retry_after_s: float | None = None
    handed_back: bool = False

    def as_answer(self) -> dict[str, Json]:
        """What the run's wait is answered with."""
        return {"status": str(self.status), "result": self.result, "error": self.error}


@dataclass(frozen=True, slots=True)
class Step:
    """One row of `workflow_step`.

    `attempt` counts the times it was begun and not handed back, `losses` those of them that lost their worker.
    """

    step_id: str
    run_id: str
    key: str
    name: str
    queue: str
    priority: int
    arguments: dict[str, Json]
    status: StepStatus
    attempt: int
    losses: int
    result: Json = None
    error: dict[str, Json] | None = None
    lease_owner: int | None = None
    retry_at: datetime | None = None

    @property
    def signal_name(self) -> str:
        """The name of the signal that tells the run how the step ended."""
        return STEP_SIGNAL + self.key

    @property
    def is_over(self) -> bool:
        """Whether there is a result, or the step has failed for good."""
        return self.status in (StepStatus.COMPLETED, StepStatus.FAILED)


def step_jobs(queue_name: str) -> str:
    """The name under which the postgres queue keeps the jobs of steps, apart from those of runs; of no queue's own.

    `queue_name` is the queue's with its prefix.
    """
    name = f"{queue_name}:steps"
    digest = sha256(queue_name.encode()).hexdigest()[:8]
    return name if len(name) <= MAX_QUEUE_CHARS else f"{queue_name[: MAX_QUEUE_CHARS - 9]}:{digest}"


def was_ended_so(row: Step, step: Step, end: StepEnd) -> bool:
    """Whether the row is as `end` of the attempt `step` left it: then the same end has come a second time."""
    attempt = step.attempt - end.handed_back
    return (row.status, row.attempt, row.losses, row.lease_owner) == (end.status, attempt, step.losses, None)
