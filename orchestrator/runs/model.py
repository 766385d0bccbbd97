"""What a run is: its row, its states and the moves between them. Pure; no I/O.

    pending ──► running ──► completed
       ▲          │ ├─────► failed           error, or attempts used up
       │          │ ├─────► cancelled
       │          │ ├─────► waiting          at interrupt(), for a signal or resume
       │          │ ├─────► paused           asked for; at a checkpoint boundary
       │          │ └─────► suspended        failed, to be retried at retry_at
       └──────────┴── worker lost, or resumed, signalled, retry due

Every unfinished run can be cancelled. A suspended one can be paused, so that it is not retried. A failed one can be
resumed: its checkpoints are kept. Completed and cancelled are the end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeAlias
from uuid import UUID

from uuid_utils.compat import uuid7

from orchestrator.errors import IllegalTransitionError, InvalidRequestError, RunNotFoundError
from orchestrator.settings import DEFAULT_ORGANIZATION, ORGANIZATION

__all__ = [
    "CHILDREN_SIGNAL",
    "FINAL",
    "SETTLED",
    "STEP_SIGNAL",
    "UNFINISHED",
    "Json",
    "Request",
    "Run",
    "RunStatus",
    "check_identifier",
    "check_organization",
    "check_priority",
    "check_queue",
    "check_start",
    "may_become",
    "new_run_id",
    "parse_run_id",
    "require_transition",
]

Json: TypeAlias = Any  # what `json.dumps` takes: None, bool, int, float, str, and lists and dicts of them

# The name of the signal that hands a step's result back is this and the step's key.
STEP_SIGNAL = "step:"
# The name of the signal by which the database tells a run that all the runs it has started are over.
CHILDREN_SIGNAL = "children"
MAX_IDENTIFIER_CHARS = 255
# With JOB_PREFIX.
MAX_QUEUE_CHARS = 40
_QUEUE = re.compile(r"[A-Za-z0-9_.-]+")
# Control characters (NUL among them), and halves of surrogate pairs, which are no text.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class RunStatus(StrEnum):
    """Where a run stands.

    `pending`: to be begun. `running`: in an attempt. `waiting`: for a signal, at `interrupt()`. `paused`: until it is
    resumed. `suspended`: failed, and tried again at `retryAt`. `failed`: over, but it can be resumed. `completed` and
    `cancelled` are the end.
    """

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WAITING = "waiting"
    PAUSED = "paused"
    SUSPENDED = "suspended"


class Request(StrEnum):
    """What an unfinished run was asked to do at its next checkpoint: rest, or make way for another run."""

    PAUSE = "pause"
    SUPERSEDE = "supersede"


_S = RunStatus
_TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = MappingProxyType(
    {
        _S.PENDING: frozenset({_S.RUNNING, _S.CANCELLED}),
        _S.RUNNING: frozenset(_S) - {_S.RUNNING},
        _S.WAITING: frozenset({_S.PENDING, _S.CANCELLED}),
        _S.PAUSED: frozenset({_S.PENDING, _S.CANCELLED}),
        _S.SUSPENDED: frozenset({_S.PENDING, _S.PAUSED, _S.CANCELLED}),
        _S.FAILED: frozenset({_S.PENDING}),
        _S.COMPLETED: frozenset(),
        _S.CANCELLED: frozenset(),
    }
)
FINAL = frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED})
UNFINISHED = frozenset(_S) - FINAL
# States a run does not leave by itself.
SETTLED = FINAL | {_S.WAITING, _S.PAUSED}


def may_become(current: RunStatus, target: RunStatus) -> bool:
    """Whether a run may go from `current` to `target`."""
    return target in _TRANSITIONS[current]


def require_transition(current: RunStatus, target: RunStatus) -> None:
    """Raise `IllegalTransitionError` unless a run may go from `current` to `target`."""
    if not may_become(current, target):
        raise IllegalTransitionError(current, target)


@dataclass(frozen=True, slots=True)
class Run:
    """One row of `workflow_metadata`.

    `attempt` counts the attempts that were begun; of them `losses` lost their worker and `failures` raised an error,
    both counted anew when a failed run is resumed. `epoch` is the fence's of the thread's checkpoints, raised by every
    claim and takeover, and by the cancelling of a run that is not pending, so whoever acts under an older one is out
    of date. `requested` is what a running or pending run was asked to do at its next checkpoint. `awaiting` lists what
    a waiting run waits for, as `{"interruptId", "signal", "value"}`. `retry` overrides numbers of the workflow's retry
    policy. `trace_context` is the trace of whoever started it, as headers of W3C Trace Context. With `left_at` the run
    is driven elsewhere: its row here waits for it to come back (`orchestrator.moves`). Times are the database's, in
    UTC.
    """

    run_id: str
    thread_id: str
    organization_id: str
    workflow_type: str
    status: RunStatus
    input: Json
    max_attempts: int
    saver: str
    created_at: datetime
    updated_at: datetime
    workflow_version: str | None = None
    current_activity: str | None = None
    output: Json = None
    error: dict[str, Json] | None = None
    idempotency_key: str | None = None
    batch_id: str | None = None
    parent_run_id: str | None = None
    attempt: int = 0
    epoch: int = 0
    lease_owner: int | None = None
    lease_until: datetime | None = None
    retry_at: datetime | None = None
    failures: int = 0
    losses: int = 0
    retry: dict[str, float] | None = None
    requested: Request | None = None
    awaiting: list[dict[str, Json]] | None = None
    signal_count: int = 0
    fork_checkpoint_id: str | None = None
    queue: str = "flow"
    priority: int = 0
    start_at: datetime | None = None
    trace_context: dict[str, str] | None = None
    last_checkpoint_id: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    left_at: datetime | None = None

    @property
    def is_final(self) -> bool:
        """Whether the run is over."""
        return self.status in FINAL

    @property
    def is_settled(self) -> bool:
        """Whether the run is over, or rests until someone signals or resumes it; not while it waits for its work."""
        return self.status in SETTLED and not self.waits_for_its_work

    @property
    def waits_for_its_work(self) -> bool:
        """Whether the run goes on by itself: when its steps, or the runs that it has started, are over."""
        return self.waits_for_steps or self.waits_for_children

    @property
    def is_last_chance(self) -> bool:
        """Whether the run has lost workers, and fails with the next one.

        It may be what kills them, so a process begins such runs apart from each other: innocent ones would otherwise
        fail along with the guilty.
        """
        return self.losses > 0 and self.losses + 1 >= self.max_attempts

    @property
    def waits_for_steps(self) -> bool:
        """Whether all that the run waits for are steps that workers run."""
        signals = [str(wait["signal"]) for wait in self.awaiting or ()]
        return bool(signals) and all(signal.startswith(STEP_SIGNAL) for signal in signals)

    @property
    def waits_for_children(self) -> bool:
        """Whether all that the run waits for is that the runs which it has started are over."""
        return bool(self.awaiting) and all(wait["signal"] == CHILDREN_SIGNAL for wait in self.awaiting or ())

    @property
    def thread_key(self) -> tuple[str, str]:
        """What identifies the thread: the same id in two organizations is two threads."""
        return self.organization_id, self.thread_id

    @property
    def checkpoint_thread_id(self) -> str:
        """The thread id that LangGraph's checkpoints are kept under.

        It is the thread's own id in the default organization, and `@organization/id` in any other. An id of the
        default organization that begins with `@` is written `@default/@…`, so no two threads share checkpoints.
        """
        if self.organization_id == DEFAULT_ORGANIZATION and not self.thread_id.startswith("@"):
            return self.thread_id
        return f"@{self.organization_id}/{self.thread_id}"


def new_run_id() -> str:
    """A UUIDv7: ids sort by the time they were made."""
    return str(uuid7())


def parse_run_id(text: str) -> str:
    """The id in its canonical form. Raises `RunNotFoundError` where it is no UUID, so no run can have it."""
    try:
        return str(UUID(text))
    except ValueError:
        raise RunNotFoundError(text[:MAX_IDENTIFIER_CHARS]) from None


def check_identifier(name: str, value: str) -> str:
    """Return an id or key that can be stored, or raise `InvalidRequestError` saying what is wrong with it."""
    if not 0 < len(value) <= MAX_IDENTIFIER_CHARS:
        raise InvalidRequestError(f"{name} takes 1 to {MAX_IDENTIFIER_CHARS} characters, not {len(value)}")
    if found := _UNPRINTABLE.search(value):
        raise InvalidRequestError(f"{name} can't hold the character {found[0]!r}")
    return value


def check_queue(value: str, prefix: str = "workflow_") -> str:
    """Return a queue's name that can be used under this JOB_PREFIX, or raise `InvalidRequestError`.

    It becomes part of the name of a channel that PostgreSQL notifies, which has 63 characters at most.
    """
    most = MAX_QUEUE_CHARS - len(prefix)
    if not 0 < len(value) <= most or not _QUEUE.fullmatch(value):
        raise InvalidRequestError(
            f"queue takes 1 to {most} letters, digits, dots, dashes and underscores, not {value[:100]!r}"
        )
    return value


def check_organization(value: str) -> str:
    """Return an organization's id, or raise `InvalidRequestError`."""
    if not ORGANIZATION.fullmatch(value):
        raise InvalidRequestError(
            f"organization_id takes 1 to 63 letters, digits, dots, dashes and underscores, not {value[:100]!r}"
        )
    return value


def check_priority(priority: int) -> int:
    """Return a priority that can be stored, or raise `InvalidRequestError`."""
    if not -(2**31) <= priority < 2**31:
        raise InvalidRequestError(f"priority takes a whole number of 32 bits, not {priority}")
    return priority


def check_start(start_at: datetime | None) -> datetime | None:
    """Return a time to start at that can be stored, or raise `InvalidRequestError`."""
    if start_at is not None and start_at.tzinfo is None:
        raise InvalidRequestError("start_at takes a time with its zone, such as 2026-11-20T10:00:00+00:00")
    if start_at is not None and not 1 < start_at.year < 9999:
        # At the ends, another zone's date is past what can be read back.
        raise InvalidRequestError(f"start_at takes a time in the years 2 to 9998, not {start_at.isoformat()}")
    return start_at
