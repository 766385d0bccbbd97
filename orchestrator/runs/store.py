"""The contract of a run store. `MemoryRunStore` and `PostgresRunStore` pass the same tests.

Invariants:
1. A transition happens only for the one who holds the run: `lease_owner` and `epoch` are matched, never the owner
   alone. For anyone else it changes nothing and returns None.
2. Every transition may be sent twice (an answer can get lost) and then answers the same.
3. At most one run of a thread is running, waiting, paused or suspended. Pending runs of a thread start in the
   order they were created.
4. A pending or running run with a `lease_owner` belongs to that process; a pending run without one is free.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from orchestrator.errors import IdempotencyConflictError, InvalidRequestError
from orchestrator.runs.jsonable import canonical
from orchestrator.runs.model import Json, Run, RunStatus

__all__ = ["Created", "Cursor", "NewRun", "Outcome", "RunFilter", "RunPage", "RunStore", "require_same"]


@dataclass(frozen=True, slots=True)
class NewRun:
    """What a run is created from. Without a `thread_id` the run gets a thread of its own."""

    run_id: str
    workflow_type: str
    input: Json
    max_attempts: int
    lease_owner: int
    organization_id: str
    thread_id: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """The run that a request means, and whether the request made it."""

    run: Run
    is_new: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    status: RunStatus
    output: Json = None
    error: dict[str, Json] | None = None
    current_activity: str | None = None
    last_checkpoint_id: str | None = None


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
        """Read a cursor back. Raises `InvalidRequestError`."""
        try:
            created_at, run_id = json.loads(base64.b64decode(text, altchars=b"-_", validate=True))
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


class RunStore(Protocol):
    """Where runs are kept. Raises `DatabaseUnavailableError` where the store does not answer in time."""

    async def create(self, new: NewRun, *, reject_if_busy: bool = False) -> Created:
        """Add a pending run, or find the one that its idempotency key made.

        Raises `IdempotencyConflictError` where the key belongs to another payload or thread, and `ThreadBusyError`
        where `reject_if_busy` is set and the thread has an unfinished run.
        """

    async def get(self, run_id: str) -> Run:
        """One run. Raises `RunNotFoundError`."""

    async def latest_of_thread(self, organization_id: str, thread_id: str) -> Run:
        """The thread's newest run. Raises `ThreadNotFoundError`."""

    async def list_runs(self, wanted: RunFilter, *, limit: int, after: Cursor | None = None) -> RunPage:
        """A page of runs, newest first."""

    async def claim(self, run: Run) -> Run | None:
        """Start an attempt: pending → running, `attempt` and `epoch` raised. None when it is not its turn."""

    async def record_activities(self, activities: Mapping[str, tuple[int, str]]) -> None:
        """Note what runs are doing: run id → (epoch, activity)."""

    async def finish(self, run: Run, outcome: Outcome) -> Run | None:
        """End an attempt: running → the outcome's status. None where the run is not held under this epoch."""

    async def release(self, run: Run, *, to: int | None, refund: bool) -> Run | None:
        """Put a run back to pending, for the owner `to` or anyone; `refund` takes the attempt off the count."""

    async def release_all(self, owner: int) -> list[str]:
        """Put everything `owner` holds back to pending, for anyone; returns the run ids."""

    async def held_by(self, owner: int) -> Mapping[str, int]:
        """What `owner` holds: run id → epoch."""

    async def adopt(self, owner: int, workflows: Sequence[str], *, limit: int) -> list[Run]:
        """Make free pending runs of these workflows `owner`'s."""

    async def absent_owners(self, owner: int) -> list[int]:
        """Other owners of unfinished runs who do not hold their lock at this moment."""

    async def take_over(self, owner: int, absent: int, workflows: Sequence[str]) -> list[Run]:
        """Make an absent owner's runs of these workflows `owner`'s, with `epoch` raised.

        A run that was running in its last attempt becomes failed and is among the returned.
        """


def require_same(existing: Run, new: NewRun) -> Created:
    """The existing run as the answer to a repeated request. Raises `IdempotencyConflictError` where it differs."""
    same_thread = new.thread_id is None or new.thread_id == existing.thread_id
    if existing.run_id == new.run_id:
        return Created(existing, is_new=True)
    if not same_thread or canonical(existing.input) != canonical(new.input):
        raise IdempotencyConflictError(str(new.idempotency_key), existing.run_id)
    return Created(existing, is_new=False)
