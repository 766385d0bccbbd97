"""Rows of runs and of their activities, in dicts: what the memory store's transitions are made of."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import monotonic

from orchestrator.errors import RunNotFoundError, ThreadNotFoundError
from orchestrator.runs.activity import Activity, ActivityNote, ActivityStatus
from orchestrator.runs.events import Event, RunNotes, time_text
from orchestrator.runs.model import FINAL, UNFINISHED, Json, Run, RunStatus
from orchestrator.runs.store import Cursor, Listener, Notice, RunFilter, RunPage

__all__ = ["MemoryRows", "age", "holds", "is_due", "order"]


class MemoryRows:
    """The rows, and the reading of them. `listener` is told what happens to runs; by default nobody listens."""

    def __init__(self) -> None:
        self.listener: Listener = lambda notice: None
        self._runs: dict[str, Run] = {}
        # The ids of unfinished runs, so that looking for work does not go through everything that ever was.
        self._open: dict[str, None] = {}
        self._threads: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        self._fences: defaultdict[str, int] = defaultdict(int)
        self._claimed: dict[str, float] = {}
        self._events: defaultdict[str, list[Event]] = defaultdict(list)
        self._marks: dict[str, int] = {}
        self._activities: defaultdict[str, dict[tuple[int, str], Activity]] = defaultdict(dict)
        # The unfinished runs of each batch.
        self._children: defaultdict[str, set[str]] = defaultdict(set)

    async def get(self, run_id: str) -> Run:
        return self._row(run_id)

    async def get_many(self, run_ids: Sequence[str]) -> list[Run]:
        return [self._runs[run_id] for run_id in run_ids if run_id in self._runs]

    async def latest_of_thread(self, organization_id: str, thread_id: str) -> Run:
        ids = self._threads.get((organization_id, thread_id))
        if not ids:
            raise ThreadNotFoundError(thread_id)
        return self._runs[ids[-1]]

    async def list_runs(self, wanted: RunFilter, *, limit: int, after: Cursor | None = None) -> RunPage:
        found: list[Run] = []
        for run in sorted(self._runs.values(), key=age, reverse=True):
            if not _matches(run, wanted) or (after and age(run) >= (after.created_at, after.run_id)):
                continue
            if len(found) == limit:
                return RunPage(found, Cursor(found[-1].created_at, found[-1].run_id))
            found.append(replace(run, input=None, output=None))
        return RunPage(found, None)

    async def activities(self, run_id: str) -> list[Activity]:
        return sorted(self._activities.get(run_id, {}).values(), key=order)

    def _row(self, run_id: str) -> Run:
        try:
            return self._runs[run_id]
        except KeyError:
            raise RunNotFoundError(run_id) from None

    def _unfinished(self, thread_key: tuple[str, str]) -> list[Run]:
        """The thread's unfinished runs, oldest first."""
        return sorted((self._runs[each] for each in self._threads.get(thread_key, ()) if each in self._open), key=age)

    def _is_next(self, row: Run) -> bool:
        """Whether it is a pending run's turn."""
        return self._next_of(row.thread_key) == row

    def _next_of(self, thread_key: tuple[str, str]) -> Run | None:
        """The thread's run whose turn it is; none while one is under way or at rest.

        One that was begun goes first, for the thread's last checkpoint is its own; then the oldest.
        """
        unfinished = [run for run in self._unfinished(thread_key) if run.status is not RunStatus.PENDING or is_due(run)]
        if any(run.status is not RunStatus.PENDING for run in unfinished):
            return None
        return min(unfinished, key=lambda run: (run.started_at is None, age(run)), default=None)

    def _driven_by(self, owner: int) -> list[Run]:
        running = (run for run in map(self._row, self._open) if run.status is RunStatus.RUNNING)
        return [run for run in running if run.lease_owner == owner]

    async def events_after(self, run_id: str, after: int, *, limit: int = 500) -> list[Event]:
        events = self._events[run_id]
        # Not by position alone: the events of a run that came from elsewhere may begin later.
        start = bisect_right(events, after, key=lambda event: event.number)
        return events[start : start + limit]

    def _add_event(self, run_id: str, kind: str, data: dict[str, Json], age_s: float = 0.0) -> None:
        at = datetime.now(UTC) - timedelta(seconds=age_s)
        events = self._events[run_id]
        number = events[-1].number + 1 if events else 1
        events.append(Event(run_id, number, kind, data, at))

    def _show(self, told: RunNotes) -> None:
        row = self._runs.get(told.run_id)
        if row is None or row.status is not RunStatus.RUNNING or row.epoch != told.epoch:
            return
        if told.mark == 0 or told.mark > self._marks.get(told.run_id, 0):
            self._marks[told.run_id] = told.mark
            clock = monotonic()
            for event in told.events:
                self._add_event(told.run_id, event.kind, event.data, clock - event.at)
            self.listener(Notice("event", (told.run_id,)))

    def _change(self, row: Run, **values: object) -> Run:
        before = self._runs.get(row.run_id)
        changed = replace(row, updated_at=datetime.now(UTC), **values)  # type: ignore[arg-type]
        self._runs[row.run_id] = changed
        if before is None or before.status is not changed.status:
            self._add_event(row.run_id, "state", _state(changed))
            self.listener(Notice("event", (row.run_id,)))
        if changed.status in UNFINISHED:
            self._open[row.run_id] = None
            if row.batch_id is not None:
                self._children[row.batch_id].add(row.run_id)
        else:
            self._open.pop(row.run_id, None)
            if row.batch_id is not None and row.run_id in self._children[row.batch_id]:
                self._children[row.batch_id].remove(row.run_id)
                self._child_ended(changed, row.batch_id)
        return changed

    def _child_ended(self, child: Run, batch_id: str) -> None:
        """Let the run that started `child` know."""

    def _move(self, row: Run, status: RunStatus, **values: object) -> Run:
        """Put a run into a state in which nobody drives it; what belonged to the old state only is cleared."""
        cleared = {
            "lease_owner": None,
            "lease_until": None,
            "retry_at": None,
            "requested": None,
            "awaiting": None,
            "completed_at": datetime.now(UTC) if status in FINAL else None,
        }
        return self._change(row, status=status, **cleared | values)

    def _begin(self, row: Run, owner: int, lease_s: float) -> Run:
        now = datetime.now(UTC)
        self._claimed[row.run_id] = monotonic()
        self._marks.pop(row.run_id, None)
        return self._change(
            row,
            status=RunStatus.RUNNING,
            attempt=row.attempt + 1,
            epoch=self._raise_fence(row),
            lease_owner=owner,
            lease_until=now + timedelta(seconds=lease_s),
            started_at=row.started_at or now,
        )

    def _cancel(self, row: Run, error: dict[str, Json] | None) -> Run:
        # The fence is the thread's: raised for a pending run, it would lock out the one that is running.
        epoch = row.epoch if row.status is RunStatus.PENDING else self._raise_fence(row)
        self._end_activities(row.run_id, ActivityStatus.INTERRUPTED)
        return self._move(row, RunStatus.CANCELLED, epoch=epoch, error=error)

    def _raise_fence(self, row: Run) -> int:
        self._fences[row.checkpoint_thread_id] += 1
        return self._fences[row.checkpoint_thread_id]

    def _note(self, notes: Iterable[ActivityNote]) -> None:
        for note in notes:
            row = self._runs.get(note.run_id)
            if row is None or row.status is not RunStatus.RUNNING or row.epoch != note.epoch:
                continue
            known = self._activities[row.run_id]
            before = known.get((note.attempt, note.task_id))
            if before is None or before.status is ActivityStatus.RUNNING:
                known[note.attempt, note.task_id] = _activity(note, before)
            last = max(known.values(), key=lambda each: each.started_at)
            self._change(row, current_activity=last.activity)

    def _end_activities(self, run_id: str, status: ActivityStatus) -> None:
        known = self._activities.get(run_id, {})
        for key, activity in known.items():
            if activity.status is ActivityStatus.RUNNING:
                known[key] = replace(activity, status=status, ended_at=datetime.now(UTC))

    def _tell(self, *changed: Run) -> None:
        """Say of runs that nobody drives any more who came to rest, and whose turn it is now on their threads."""
        settled = tuple(run.run_id for run in changed if run.is_settled)
        threads = dict.fromkeys(run.thread_key for run in changed)
        free = tuple(run.run_id for run in map(self._next_of, threads) if run is not None)
        if settled:
            self.listener(Notice("settled", settled))
        if free:
            self.listener(Notice("free", free))

    def _tell_asked(self, runs: Sequence[Run]) -> None:
        if runs:
            self.listener(Notice("asked", tuple(run.run_id for run in runs)))


def _state(run: Run) -> dict[str, Json]:
    """What an event says of a run's new state."""
    failed = run.status in (RunStatus.FAILED, RunStatus.SUSPENDED, RunStatus.CANCELLED) and run.error is not None
    error = {name: run.error.get(name) for name in ("type", "message")} if failed and run.error else None
    data = {
        "status": str(run.status),
        "attempt": run.attempt,
        "activity": run.current_activity,
        "retryAt": run.retry_at and time_text(run.retry_at),
        "waitingFor": run.awaiting,
        "error": error,
    }
    return {name: value for name, value in data.items() if value is not None}


def age(run: Run) -> tuple[datetime, str]:
    """What runs are ordered by."""
    return run.created_at, run.run_id


def is_due(run: Run, since_s: float = 0.0) -> bool:
    """Whether the time has come to start a run, `since_s` seconds ago or more."""
    return run.start_at is None or run.start_at <= datetime.now(UTC) - timedelta(seconds=since_s)


def holds(row: Run | None, run: Run) -> bool:
    """Whether the row is still held as `run` says: by its owner, under its epoch."""
    if row is None or row.status is not RunStatus.RUNNING:
        return False
    return (row.lease_owner, row.epoch) == (run.lease_owner, run.epoch)


def order(activity: Activity) -> tuple[datetime, int, str]:
    """What activities are ordered by."""
    return activity.started_at, activity.attempt, activity.task_id


def _activity(note: ActivityNote, before: Activity | None) -> Activity:
    now, clock = datetime.now(UTC), monotonic()
    return Activity(
        run_id=note.run_id,
        attempt=note.attempt,
        task_id=note.task_id,
        activity=note.activity,
        status=note.status,
        started_at=before.started_at if before else now - timedelta(seconds=clock - note.started),
        error=note.error,
        ended_at=None if note.ended is None else now - timedelta(seconds=clock - note.ended),
    )


def _matches(run: Run, wanted: RunFilter) -> bool:
    return (
        wanted.organization_id in (None, run.organization_id)
        and (wanted.statuses is None or run.status in wanted.statuses)
        and wanted.workflow in (None, run.workflow_type)
    )
