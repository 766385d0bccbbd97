"""Runs in memory: they last as long as the process, like the checkpoints of the in-memory saver.

No method awaits, so each is atomic on its event loop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from orchestrator.errors import RunNotFoundError, ThreadBusyError, ThreadNotFoundError
from orchestrator.runs.model import UNFINISHED, Run, RunStatus, require_transition
from orchestrator.runs.store import (
    Created,
    Cursor,
    NewRun,
    Outcome,
    RunFilter,
    RunPage,
    require_same,
)

__all__ = ["MemoryRunStore"]


class MemoryRunStore:
    """A `RunStore` in dicts. `absent` is who is taken for dead; nobody is, since all owners are this process."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._keys: dict[tuple[str, str, str], str] = {}
        self._threads: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        self.absent: set[int] = set()

    async def create(self, new: NewRun, *, reject_if_busy: bool = False) -> Created:
        if existing := self._find_same(new):
            return require_same(existing, new)
        thread_id = new.thread_id or new.run_id
        if reject_if_busy and (busy := self._unfinished(new.organization_id, thread_id)):
            raise ThreadBusyError(thread_id, busy[0].run_id, busy[0].status)
        now = datetime.now(UTC)
        run = Run(
            run_id=new.run_id,
            thread_id=thread_id,
            organization_id=new.organization_id,
            workflow_type=new.workflow_type,
            status=RunStatus.PENDING,
            input=new.input,
            idempotency_key=new.idempotency_key,
            max_attempts=new.max_attempts,
            lease_owner=new.lease_owner,
            saver="MemorySaver",
            created_at=now,
            updated_at=now,
        )
        self._runs[run.run_id] = run
        self._threads[run.thread_key].append(run.run_id)
        if new.idempotency_key is not None:
            self._keys[new.organization_id, new.workflow_type, new.idempotency_key] = run.run_id
        return Created(run, is_new=True)

    def _find_same(self, new: NewRun) -> Run | None:
        known = self._runs.get(new.run_id)
        if known is None and new.idempotency_key is not None:
            key = new.organization_id, new.workflow_type, new.idempotency_key
            known = self._runs[self._keys[key]] if key in self._keys else None
        return known

    def _unfinished(self, organization_id: str, thread_id: str) -> list[Run]:
        ids = self._threads.get((organization_id, thread_id), [])
        return [run for run in map(self._runs.__getitem__, ids) if run.status in UNFINISHED]

    async def get(self, run_id: str) -> Run:
        try:
            return self._runs[run_id]
        except KeyError:
            raise RunNotFoundError(run_id) from None

    async def latest_of_thread(self, organization_id: str, thread_id: str) -> Run:
        ids = self._threads.get((organization_id, thread_id))
        if not ids:
            raise ThreadNotFoundError(thread_id)
        return self._runs[ids[-1]]

    async def list_runs(self, wanted: RunFilter, *, limit: int, after: Cursor | None = None) -> RunPage:
        found: list[Run] = []
        for run in sorted(self._runs.values(), key=_age, reverse=True):
            if not _matches(run, wanted) or (after and _age(run) >= (after.created_at, after.run_id)):
                continue
            if len(found) == limit:
                return RunPage(found, Cursor(found[-1].created_at, found[-1].run_id))
            found.append(replace(run, input=None, output=None))
        return RunPage(found, None)

    async def claim(self, run: Run) -> Run | None:
        row = self._runs[run.run_id]
        if row.lease_owner != run.lease_owner:
            return None
        if row.status is RunStatus.RUNNING and row.epoch == run.epoch + 1:
            return row
        if row.status is not RunStatus.PENDING or row.epoch != run.epoch:
            return None
        others = [other for other in self._unfinished(*row.thread_key) if other.run_id != row.run_id]
        if any(other.status is not RunStatus.PENDING or _age(other) < _age(row) for other in others):
            return None
        return self._change(
            row,
            status=RunStatus.RUNNING,
            attempt=row.attempt + 1,
            epoch=row.epoch + 1,
            started_at=row.started_at or datetime.now(UTC),
        )

    async def record_activities(self, activities: Mapping[str, tuple[int, str]]) -> None:
        for run_id, (epoch, activity) in activities.items():
            row = self._runs[run_id]
            if row.status is RunStatus.RUNNING and row.epoch == epoch:
                self._change(row, current_activity=activity)

    async def finish(self, run: Run, outcome: Outcome) -> Run | None:
        require_transition(RunStatus.RUNNING, outcome.status)
        row = self._runs[run.run_id]
        if row.epoch == run.epoch and row.status is outcome.status and row.lease_owner is None:
            return row
        if not _holds(row, run):
            return None
        ended = replace(row, status=outcome.status)
        return self._change(
            row,
            status=outcome.status,
            output=outcome.output,
            error=outcome.error,
            current_activity=outcome.current_activity,
            last_checkpoint_id=outcome.last_checkpoint_id or row.last_checkpoint_id,
            lease_owner=None,
            completed_at=datetime.now(UTC) if ended.is_final else None,
        )

    async def release(self, run: Run, *, to: int | None, refund: bool) -> Run | None:
        row = self._runs[run.run_id]
        if row.status is RunStatus.PENDING and row.epoch == run.epoch and row.lease_owner == to:
            return row
        if not _holds(row, run):
            return None
        return self._change(row, status=RunStatus.PENDING, attempt=row.attempt - (1 if refund else 0), lease_owner=to)

    async def release_all(self, owner: int) -> list[str]:
        held = await self.held_by(owner)
        for run_id in held:
            row = self._runs[run_id]
            refund = 1 if row.status is RunStatus.RUNNING else 0
            self._change(row, status=RunStatus.PENDING, attempt=row.attempt - refund, lease_owner=None)
        return list(held)

    async def held_by(self, owner: int) -> Mapping[str, int]:
        return {run.run_id: run.epoch for run in self._runs.values() if run.lease_owner == owner}

    async def adopt(self, owner: int, workflows: Sequence[str], *, limit: int) -> list[Run]:
        free = [
            run
            for run in sorted(self._runs.values(), key=_age)
            if run.status is RunStatus.PENDING and run.lease_owner is None and run.workflow_type in workflows
        ]
        return [self._change(run, lease_owner=owner) for run in free[:limit]]

    async def absent_owners(self, owner: int) -> list[int]:
        owners = {run.lease_owner for run in self._runs.values() if run.lease_owner is not None}
        return sorted(self.absent & owners - {owner})

    async def take_over(self, owner: int, absent: int, workflows: Sequence[str]) -> list[Run]:
        if absent not in self.absent:
            return []
        rows = [run for run in self._runs.values() if run.lease_owner == absent]
        return [self._take(row, owner) for row in rows if row.workflow_type in workflows]

    def _take(self, row: Run, owner: int) -> Run:
        if row.status is RunStatus.RUNNING and row.attempt >= row.max_attempts:
            message = (
                f"the worker was lost in attempt {row.attempt} of {row.max_attempts}, "
                f"in activity {row.current_activity or 'none'}; see RUN_MAX_ATTEMPTS"
            )
            return self._change(
                row,
                status=RunStatus.FAILED,
                error={"type": "AttemptsExhaustedError", "message": message},
                lease_owner=None,
                epoch=row.epoch + 1,
                completed_at=datetime.now(UTC),
            )
        return self._change(row, status=RunStatus.PENDING, lease_owner=owner, epoch=row.epoch + 1)

    def _change(self, row: Run, **values: object) -> Run:
        changed = replace(row, updated_at=datetime.now(UTC), **values)  # type: ignore[arg-type]
        self._runs[row.run_id] = changed
        return changed


def _age(run: Run) -> tuple[datetime, str]:
    return run.created_at, run.run_id


def _holds(row: Run, run: Run) -> bool:
    return row.status is RunStatus.RUNNING and (row.lease_owner, row.epoch) == (run.lease_owner, run.epoch)


def _matches(run: Run, wanted: RunFilter) -> bool:
    return (
        wanted.organization_id in (None, run.organization_id)
        and (wanted.statuses is None or run.status in wanted.statuses)
        and wanted.workflow in (None, run.workflow_type)
    )
