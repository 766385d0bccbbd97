"""The contract of a run store. `MemoryRunStore` and `PostgresRunStore` pass the same tests.

Invariants:
1. A pending run belongs to nobody; whoever claims it first drives it. A claim raises `attempt`, and `epoch` together
   with the fence of the thread's checkpoints, in one transaction.
2. A transition of a running run happens only for the one who holds it: `lease_owner` and `epoch` are matched, never
   the owner alone. For anyone else it changes nothing and returns None.
3. Every transition may be sent twice (an answer can get lost) and then answers the same.
4. At most one run of a thread is running, waiting, paused or suspended. Pending runs of a thread start in the
   order they were created; one that was begun already goes before them, for the thread's head is its own.
5. What is asked of a run (pause, resume, cancel, a signal) takes effect at once or is on its row before the call
   returns; whoever drives it is told by a notice, and sees it at the next renewal of its lease at the latest.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, TypeAlias
from uuid import UUID

from orchestrator.errors import IdempotencyConflictError, InvalidRequestError
from orchestrator.runs.activity import Activity
from orchestrator.runs.events import Event, RunNotes
from orchestrator.runs.jsonable import canonical
from orchestrator.runs.model import Json, Run, RunStatus
from orchestrator.runs.signals import Hook, NewHook, NewSignal, Signal
from orchestrator.runs.steps import NewStep, Step, StepEnd

__all__ = [
    "Absent",
    "Created",
    "Cursor",
    "IfBusy",
    "Listener",
    "NewRun",
    "Notice",
    "Outcome",
    "RunFilter",
    "RunPage",
    "RunStore",
    "require_same",
]

IfBusy: TypeAlias = Literal["enqueue", "reject", "interrupt"]


@dataclass(frozen=True, slots=True)
class NewRun:
    """What a run is created from. Without a `thread_id` the run gets a thread of its own.

    `parent_run_id` and `fork_checkpoint_id` say which checkpoint of which run it goes on from. It is taken up not
    before `start_at`, by a worker of `queue`; of runs that wait, the one with the higher `priority` goes first.
    `batch_id` is the run that started it along with others, and waits for them. `trace_context` is the trace of whoever
    starts it.
    """

    run_id: str
    workflow_type: str
    input: Json
    max_attempts: int
    organization_id: str
    workflow_version: str | None = None
    thread_id: str | None = None
    idempotency_key: str | None = None
    retry: dict[str, float] | None = None
    parent_run_id: str | None = None
    fork_checkpoint_id: str | None = None
    batch_id: str | None = None
    queue: str = "flow"
    priority: int = 0
    start_at: datetime | None = None
    trace_context: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """The run that a request means, and whether the request made it."""

    run: Run
    is_new: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended.

    `retry_after_s` is for suspended. `awaiting` and `seen_signals` are for waiting: what for, and how many signals
    were looked at in vain. `failed` counts the attempt as a failure.
    """

    status: RunStatus
    output: Json = None
    error: dict[str, Json] | None = None
    current_activity: str | None = None
    last_checkpoint_id: str | None = None
    retry_after_s: float | None = None
    awaiting: list[dict[str, Json]] | None = None
    seen_signals: int = 0
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page of runs ended; opaque to callers."""

    created_at: datetime
    run_id: str

    def encode(self) -> str:
        """The cursor as text that fits in a URL."""
        return base64.urlsafe_b64encode(json.dumps([self.created_at.isoformat(), self.run_id]).encode()).decode()

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """The cursor that `encode` wrote. Raises `InvalidRequestError`."""
        cursor = None
        try:
            created_at, run_id = json.loads(base64.urlsafe_b64decode(text.encode("ascii")))
            cursor = cls(datetime.fromisoformat(created_at), str(UUID(run_id)))
        except (binascii.Error, ValueError, TypeError, AttributeError, RecursionError):
            cursor = None
        if cursor is None or cursor.created_at.tzinfo is None:
            raise InvalidRequestError("cursor takes the nextCursor of an earlier answer")
        return cursor


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list; None matches everything."""

    organization_id: str | None = None
    statuses: Collection[RunStatus] | None = None
    workflow: str | None = None


@dataclass(frozen=True, slots=True)
class RunPage:
    """Runs, newest first, without their inputs and outputs; `next` is None on the last page."""

    runs: list[Run]
    next: Cursor | None


@dataclass(frozen=True, slots=True)
class Absent:
    """An owner of running runs who does not show signs of life: its lock is free, or else its lease has lapsed."""

    owner: int
    reason: Literal["lock", "lease"]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something happened to runs: they are free to be claimed, came to rest, were asked for something, have events.

    A hint, which may get lost; nothing rests on it but speed. `run_ids` may be empty for `free`.
    """

    kind: Literal["free", "settled", "asked", "event"]
    run_ids: tuple[str, ...] = ()


Listener: TypeAlias = Callable[[Notice], None]


class RunStore(Protocol):
    """Where runs are kept. Raises `DatabaseUnavailableError` where the store does not answer in time."""

    async def create(self, new: NewRun, *, if_busy: IfBusy = "enqueue", owner: int | None = None) -> Created:
        """Add a pending run, or find the one that its idempotency key made.

        With `owner`, a run with a thread of its own comes back running, its first attempt begun for that owner.
        `if_busy="interrupt"` cancels the thread's other unfinished runs, a running one at its next checkpoint. Raises
        `IdempotencyConflictError` where the key belongs to another payload or thread, and `ThreadBusyError` with
        `if_busy="reject"` where the thread has an unfinished run.
        """

    async def get(self, run_id: str) -> Run:
        """One run. Raises `RunNotFoundError`."""

    async def get_many(self, run_ids: Sequence[str]) -> list[Run]:
        """Those of these runs that there are, in any order."""

    async def latest_of_thread(self, organization_id: str, thread_id: str) -> Run:
        """The thread's newest run. Raises `ThreadNotFoundError`."""

    async def list_runs(self, wanted: RunFilter, *, limit: int, after: Cursor | None = None) -> RunPage:
        """A page of runs, newest first."""

    async def claim(self, run: Run, owner: int) -> Run | None:
        """Start an attempt: pending → running. None when it is not the run's turn, or it is somebody else's by now."""

    async def claim_next(
        self,
        owner: int,
        workflows: Sequence[str],
        *,
        limit: int,
        queues: Sequence[str] | None = None,
        older_than_s: float = 0.0,
        last_chance: bool = False,
        batched: bool | None = None,
    ) -> list[Run]:
        """Start attempts of runs of these workflows (and queues) whose turn it is: by priority, then the oldest first.

        Runs that were never begun and are newer than `older_than_s` seconds are left out. With `last_chance` it is
        only runs that fail if they lose one more worker, and without only others (`Run.is_last_chance`). `batched` asks
        for runs that are part of a batch, or for those that are not.
        """

    async def push_again(self, *, older_than_s: float) -> list[Run]:
        """Pending runs whose turn it is and with which nothing has happened for a while: their message may be lost.

        They are not given again until as much time has passed once more.
        """

    async def record(self, told: Sequence[RunNotes]) -> None:
        """Note what running runs are doing. What is told of a run that is not held under its epoch is dropped."""

    async def events_after(self, run_id: str, after: int, *, limit: int = 500) -> list[Event]:
        """A run's events after a number, in order: some of them, at least one where there is any.

        `limit` bounds rows, each of which holds the events that were written together.
        """

    async def finish(self, run: Run, outcome: Outcome, told: RunNotes | None = None) -> Run | None:
        """End an attempt: running → the outcome's status. None where the run is not held under this epoch.

        What came in the last moment is heeded: a run that is to wait and has more signals than were seen becomes
        pending, and so does one that is to rest where the asking was taken back; one that is to be suspended rests
        where that was asked; and one that is not over is cancelled where another run wants the thread. A run that is
        handed back (pending) keeps what was asked of it.
        """

    async def release_all(self, owner: int) -> list[str]:
        """Put everything that `owner` drives back to pending; returns the run ids."""

    async def absent_owners(self, owner: int) -> list[Absent]:
        """Other owners of running runs who show no sign of life at this moment."""

    async def take_over(self, absent: Absent) -> list[Run]:
        """Take an absent owner's runs away from it: running → pending, `losses` and `epoch` raised.

        Those whose workers were lost `max_attempts` times become failed and are among the returned. What is not
        absent any more keeps its runs.
        """

    async def wake_due(self) -> int:
        """Make suspended runs pending whose time has come; returns how many."""

    async def pause(self, run_id: str) -> Run:
        """Have a run rest: at its next checkpoint, or at once where it is suspended.

        Raises `IllegalTransitionError` for one that is over or waiting. A paused one stays as it is.
        """

    async def resume(self, run_id: str, signal: NewSignal | None = None) -> Run:
        """Let a run that is waiting, paused, suspended or failed go on; takes a pause that was asked for back.

        A waiting run's interrupts are answered with the payload of `signal`, by default None; where there are
        several, it maps interrupt ids to answers. For others, `signal` is kept for the next wait. With a key that was
        seen before, nothing is done. Raises `IllegalTransitionError`, `InvalidRequestError` where the payload answers
        nothing, and `ThreadMovedOnError` for a failed run on whose thread another one has begun since.
        """

    async def cancel(self, run_id: str) -> Run:
        """End an unfinished run, and those of its batch: nothing they still do is written. A cancelled one stays so.

        Raises `IllegalTransitionError` for one that is completed or failed.
        """

    async def cancel_left_over(self) -> list[str]:
        """End the unfinished runs of batches that were cancelled, where that was cut short; the batches' ids."""

    async def send_signal(self, run_id: str, signal: NewSignal) -> Run:
        """Keep a signal for a run and, where the run waits for it, make the run pending.

        Sent again, it is the same one (`signals.py`). Raises `IllegalTransitionError` for a run that is over.
        """

    async def signals(self, run_id: str) -> list[Signal]:
        """What was sent to a run, oldest first."""

    async def deliver(self, run: Run, answers: Mapping[int, str]) -> bool:
        """Hand signals over to waits: signal id → interrupt id. False where the run is not held under its epoch."""

    async def await_children(self, run_id: str) -> int:
        """How many runs with this `batch_id` are unfinished; if any, the run is sent `children` once none is any more.

        Whoever waits asks first: a child that ends before is counted, and one that ends after brings the signal.
        """

    async def activities(self, run_id: str) -> list[Activity]:
        """What a run went through, oldest first."""

    async def create_hook(self, new: NewHook) -> Hook:
        """Keep an address, or find the one that the same run made under the same key."""

    async def use_hook(self, token: str, payload: Json) -> Run:
        """Send a hook's signal to its run. Raises `HookNotFoundError` for a token unknown, used up or expired."""

    @property
    def enqueues(self) -> bool:
        """Whether runs and steps that a worker is to take up are enqueued by being created."""

    async def push_step(self, new: NewStep) -> Step:
        """Keep a call of a step, or find the one that its run made under the same key. Raises `RunNotFoundError`."""

    async def get_step(self, step_id: str) -> Step:
        """One step. Raises `StepNotFoundError`."""

    async def claim_step(self, seen: Step, owner: int) -> Step | None:
        """Begin an attempt of a step; None where it is not as it was seen, not pending, not due, or its run is over."""

    async def end_step(self, step: Step, end: StepEnd) -> bool:
        """End an attempt, and where the step is over, tell its run by a signal. False where it is not held so."""

    async def due_steps(self, *, older_than_s: float) -> list[Step]:
        """Pending steps of unfinished runs to be pushed (again): their retry is due, or nothing has happened lately."""

    async def take_over_steps(self, owner: int) -> list[Step]:
        """Make steps pending whose owners, other than this one, show no sign of life."""


def require_same(existing: Run | None, new: NewRun) -> Created:
    """The existing run as the answer to a repeated request. Raises `IdempotencyConflictError` where it differs.

    There is none where a run was not made because its batch is over: then it raises `InvalidRequestError`.
    """
    if existing is None:
        raise InvalidRequestError(f"batch {new.batch_id} is over, and starts no more runs")
    same_thread = new.thread_id is None or new.thread_id == existing.thread_id
    if existing.run_id == new.run_id:
        return Created(existing, is_new=True)
    if not same_thread or canonical(existing.input) != canonical(new.input):
        raise IdempotencyConflictError(str(new.idempotency_key), existing.run_id)
    return Created(existing, is_new=False)
