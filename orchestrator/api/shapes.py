"""What the API answers, as schemas for its OpenAPI document; a test holds them against `views.py`.

A client should pass over keys that it does not know: a later version may have more.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from orchestrator.runs.model import RunStatus

__all__ = [
    "SHAPES",
    "AcceptedRun",
    "Activities",
    "BatchDocuments",
    "BatchState",
    "Checkpointer",
    "Checkpoints",
    "DeepHealthReport",
    "Done",
    "ErrorAnswer",
    "FoundRun",
    "Hooked",
    "Live",
    "Ready",
    "RunDetail",
    "RunState",
    "Runs",
    "ServerHealth",
    "Shape",
]


class Shape(BaseModel):
    """A JSON object in camelCase."""

    model_config = ConfigDict(alias_generator=to_camel)


class ErrorBody(Shape):
    """`code` is for machines (docs/errors.md has all of them), `message` for people."""

    code: str
    message: str
    status: RunStatus | None = None


class ErrorAnswer(Shape):
    """Every answer that is not what was asked for. `status` is there where a run's state does not allow it."""

    error: ErrorBody


class AcceptedRun(Shape):
    """A run that was started, and where to look for it."""

    thread_id: str
    run_id: str
    status: RunStatus
    status_url: str
    stream_url: str


class SentSignal(Shape):
    """A signal that was sent to a run."""

    name: str
    status: Literal["kept", "delivered"]
    interrupt_id: str | None
    key: str | None
    payload: Any
    created_at: str


class RunState(Shape):
    """A run without its input. Times are of ISO 8601 in UTC."""

    thread_id: str
    run_id: str
    organization_id: str
    workflow: str
    workflow_version: str | None
    status: RunStatus
    current_activity: str | None
    attempt: int
    max_attempts: int
    failures: int
    losses: int
    retry_at: str | None
    queue: str
    priority: int
    start_at: str | None
    requested: str | None
    waiting_for: list[dict[str, Any]] | None
    output: Any
    error: dict[str, Any] | None
    checkpointer: str
    last_checkpoint_id: str | None
    idempotency_key: str | None
    parent_run_id: str | None
    batch_id: str | None
    fork_checkpoint_id: str | None
    created_at: str
    started_at: str | None
    updated_at: str
    completed_at: str | None
    left_at: str | None = None
    signals: list[SentSignal] = []


class RunDetail(RunState):
    """A run with its input."""

    input: Any


class FoundRun(RunState):
    """A run, with its input where it was waited for, and where to look for it."""

    status_url: str
    stream_url: str
    input: Any = None


class Runs(Shape):
    """A page of runs, newest first; `nextCursor` asks for the page after it."""

    runs: list[RunState]
    next_cursor: str | None


class ActivityEntry(Shape):
    """One execution of a node."""

    activity: str
    attempt: int
    status: str
    task_id: str
    error: str | None
    started_at: str
    ended_at: str | None


class Activities(Shape):
    """What a run went through, oldest first."""

    activities: list[ActivityEntry]


class CheckpointEntry(Shape):
    """One checkpoint, with the state as it stood."""

    checkpoint_id: str
    parent_checkpoint_id: str | None
    created_at: str
    step: int | None
    source: str | None
    next: list[str]
    values: Any
    workflow_version: str | None


class Checkpoints(Shape):
    """A run's checkpoints, newest first."""

    checkpoints: list[CheckpointEntry]


class DocumentEntry(Shape):
    """One document of a batch."""

    key: str
    name: str
    title: str | None
    content_hash: str | None
    state: str
    error: Any
    run_id: str | None


class BatchDocuments(Shape):
    """A page of a batch's documents; `nextAfter` asks for the page after it."""

    documents: list[DocumentEntry]
    next_after: int | None


class BatchState(Shape):
    """A batch, and the first of its documents that failed."""

    batch_id: str
    organization_id: str
    title: str | None
    policy: Literal["all", "some"]
    state: str
    status: RunStatus
    counts: dict[str, dict[str, int]]
    failed_documents: list[DocumentEntry]
    knowledge: Any
    error: dict[str, Any] | None
    retry_of: str | None
    status_url: str
    stream_url: str
    documents_url: str
    created_at: str
    started_at: str | None
    updated_at: str
    completed_at: str | None


class Hooked(Shape):
    """The answer was taken."""

    status: Literal["accepted"]


class Done(Shape):
    """The message was dealt with, or needed nothing."""

    status: Literal["done"]


class Live(Shape):
    """The process answers."""

    status: Literal["alive"]


class Ready(Shape):
    """Whether runs can be started here now; where not, why."""

    status: Literal["ready", "not ready"]
    reason: str | None = None


class Checkpointer(Shape):
    """Which saver is in use, and whether it can save."""

    status: Literal["healthy", "unhealthy"]
    checkpointer: str
    durable: bool
    postgres: dict[str, Any]
    rollout: dict[str, Any] | None = None
    error: str | None = None


class ServerHealth(Shape):
    """The server and its saver in short."""

    status: Literal["healthy", "unhealthy"]
    version: str
    checkpointer: str
    durable: bool
    workflows: list[str]


class HealthCheck(Shape):
    """One check: what it measured, against what, and what to do."""

    name: str
    state: Literal["ok", "warn", "fail", "unknown"]
    message: str
    figure: float | str | None
    unit: str | None
    limit: float | None
    remedy: str | None


class DeepHealthReport(Shape):
    """All checks, and what they say together."""

    status: Literal["healthy", "degraded", "unhealthy"]
    checkpointer: str
    seconds: float
    checks: list[HealthCheck]


# All that an answer is made of by itself; what they hold is found through them.
SHAPES: tuple[type[Shape], ...] = (
    AcceptedRun,
    Activities,
    BatchDocuments,
    BatchState,
    Checkpointer,
    Checkpoints,
    DeepHealthReport,
    Done,
    ErrorAnswer,
    FoundRun,
    Hooked,
    Live,
    Ready,
    RunDetail,
    RunState,
    Runs,
    ServerHealth,
)
