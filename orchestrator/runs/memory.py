"""Runs in memory: they last as long as the process, like the checkpoints of the in-memory saver.

No method awaits, so each is atomic on its event loop. The rows are in `memory_rows.py`, what is sent to runs in
`memory_mailbox.py`; here are the transitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from orchestrator.errors import IllegalTransitionError, ThreadBusyError, ThreadMovedOnError
from orchestrator.runs.activity import ActivityStatus
from orchestrator.runs.carried import CarriedRun
from orchestrator.runs.events import RunNotes
from orchestrator.runs.failure import superseded
from orchestrator.runs.memory_rows import age, holds, is_due, order
from orchestrator.runs.memory_steps import MemorySteps
from orchestrator.runs.model import FINAL, UNFINISHED, Json, Request, Run, RunStatus, require_transition
from orchestrator.runs.signals import RESUME_SIGNAL, NewSignal
from orchestrator.runs.store import Absent, Created, IfBusy, NewRun, Outcome, require_same

__all__ = ["MemoryRunStore"]


class MemoryRunStore(MemorySteps):
    """A `RunStore` in dicts. `absent` is who is taken for dead; nobody is, since all owners are this process."""

    def __init__(self, *, lease_s: float = 15.0) -> None:
        super().__init__()
        self.absent: dict[int, Literal["lock", "lease"]] = {}
        self._lease_s = lease_s
        self._keys: dict[tuple[str, str, str], str] = {}
        self._pushed: dict[str, datetime] = {}
        # How often each run that was carried in has left PostgreSQL.
        self._moves: dict[str, int] = {}

    async def create(self, new: NewRun, *, if_busy: IfBusy = "enqueue", owner: int | None = None) -> Created:
        if existing := self._find_same(new):
            return require_same(existing, new)
        if new.batch_id is not None and (batch := self._runs.get(new.batch_id)) and batch.is_final:
            return require_same(None, new)
        key = new.organization_id, new.thread_id or new.run_id
        others = self._unfinished(key)
        if others and if_busy == "reject":
            raise ThreadBusyError(key[1], others[0].run_id, others[0].status)
        run = self._insert(new)
        if if_busy == "interrupt":
            self._supersede(others, run)
        if owner is not None and new.thread_id is None and new.start_at is None:
            run = self._begin(run, owner, self._lease_s)
        return Created(run, is_new=True)

    def _find_same(self, new: NewRun) -> Run | None:
        known = self._runs.get(new.run_id)
        if known is None and new.idempotency_key is not None:
            key = new.organization_id, new.workflow_type, new.idempotency_key
            known = self._runs[self._keys[key]] if key in self._keys else None
        return known

    def _insert(self, new: NewRun) -> Run:
        now = datetime.now(UTC)
        run = Run(
            run_id=new.run_id,
            thread_id=new.thread_id or new.run_id,
            organization_id=new.organization_id,
            workflow_type=new.workflow_type,
            workflow_version=new.workflow_version,
            status=RunStatus.PENDING,
            input=new.input,
            idempotency_key=new.idempotency_key,
            parent_run_id=new.parent_run_id,
            max_attempts=new.max_attempts,
            retry=new.retry,
            fork_checkpoint_id=new.fork_checkpoint_id,
            batch_id=new.batch_id,
            queue=new.queue,
            priority=new.priority,
            start_at=new.start_at,
            trace_context=new.trace_context,
            saver="MemorySaver",
            created_at=now,
            updated_at=now,
        )
        self._threads[run.thread_key].append(run.run_id)
        if new.idempotency_key is not None:
            self._keys[new.organization_id, new.workflow_type, new.idempotency_key] = run.run_id
        return self._change(run)

    def _supersede(self, others: Sequence[Run], by: Run) -> None:
        error = superseded(f"run {by.run_id}")
        running = [other for other in others if other.status is RunStatus.RUNNING]
        resting = [other for other in others if other.status is not RunStatus.RUNNING]
        for other in running:
            self._change(other, requested=Request.SUPERSEDE)
        self._tell(*[self._cancel(other, error) for other in resting])
        self._tell_asked(running)

    async def claim(self, run: Run, owner: int) -> Run | None:
        row = self._runs.get(run.run_id)
        if row is None:
            return None
        if row.status is RunStatus.PENDING:
            as_seen = (row.attempt, row.epoch) == (run.attempt, run.epoch)
            may_begin = as_seen and is_due(row) and self._is_next(row)
            return self._begin(row, owner, self._lease_s) if may_begin else None
        sent_before = row.lease_owner == owner and row.attempt == run.attempt + 1 and row.epoch > run.epoch
        return row if sent_before else None

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
        claimed: list[Run] = []
        for row in sorted(map(self._row, self._open), key=lambda run: (-run.priority, age(run))):
            if len(claimed) >= limit:
                break
            wanted = row.workflow_type in workflows and (queues is None or row.queue in queues)
            wanted = wanted and batched in (None, row.batch_id is not None)
            if wanted and row.is_last_chance == last_chance and self._may_begin(row, older_than_s):
                claimed.append(self._begin(row, owner, self._lease_s))
        return claimed

    def _may_begin(self, row: Run, older_than_s: float) -> bool:
        begun = row.attempt > 0 or row.created_at <= datetime.now(UTC) - timedelta(seconds=older_than_s)
        return row.status is RunStatus.PENDING and begun and is_due(row, older_than_s) and self._is_next(row)

    async def push_again(self, *, older_than_s: float) -> list[Run]:
        before = datetime.now(UTC) - timedelta(seconds=older_than_s)
        lost = []
        for row in map(self._row, self._open):
            touched = max(row.updated_at, self._pushed.get(row.run_id, row.updated_at), row.start_at or row.updated_at)
            if row.status is RunStatus.PENDING and touched <= before and self._is_next(row):
                self._pushed[row.run_id] = datetime.now(UTC)
                lost.append(row)
        return lost

    async def record(self, told: Sequence[RunNotes]) -> None:
        for each in told:
            self._show(each)
            self._note(each.notes)

    async def finish(self, run: Run, outcome: Outcome, told: RunNotes | None = None) -> Run | None:
        require_transition(RunStatus.RUNNING, outcome.status)
        row = self._runs.get(run.run_id)
        if row is None or not holds(row, run):
            return row if row is not None and _was_last(row, run) else None
        if told is not None:
            self._show(told)
            self._note(told.notes)
        ended = self._end(self._row(run.run_id), outcome)
        self._tell(ended)
        return ended

    def _end(self, row: Run, outcome: Outcome) -> Run:
        status = _heeded(row, outcome)
        makes_way = status is RunStatus.CANCELLED and outcome.status is not RunStatus.CANCELLED
        handed_back = status is RunStatus.PENDING and outcome.status is not RunStatus.PAUSED
        retry_at = None
        if status is RunStatus.SUSPENDED and outcome.retry_after_s is not None:
            retry_at = datetime.now(UTC) + timedelta(seconds=outcome.retry_after_s)
        awaiting = outcome.awaiting if status is RunStatus.WAITING else None
        keeps_asked = handed_back or replace(row, awaiting=awaiting).waits_for_its_work
        return self._move(
            row,
            status,
            output=outcome.output,
            error=superseded("another run") if makes_way else outcome.error,
            current_activity=outcome.current_activity,
            last_checkpoint_id=outcome.last_checkpoint_id or row.last_checkpoint_id,
            failures=row.failures + outcome.failed,
            retry_at=retry_at,
            requested=row.requested if keeps_asked else None,
            awaiting=awaiting,
        )

    async def release_all(self, owner: int) -> list[str]:
        driven = self._driven_by(owner)
        for row in driven:
            self._end_activities(row.run_id, ActivityStatus.INTERRUPTED)
        # What was asked of a run is still to be done by whoever drives it next.
        released = [self._move(row, RunStatus.PENDING, requested=row.requested) for row in driven]
        self._tell(*released)
        return [run.run_id for run in released]

    async def absent_owners(self, owner: int) -> list[Absent]:
        others = sorted(other for other in self.absent if other != owner and self._driven_by(other))
        return [Absent(other, self.absent[other]) for other in others]

    async def take_over(self, absent: Absent) -> list[Run]:
        if self.absent.get(absent.owner) != absent.reason:
            return []
        lost = self._driven_by(absent.owner)
        suspects = [row for row in lost if row.is_last_chance]
        newest = max(suspects, key=lambda row: self._claimed[row.run_id], default=None)
        taken = [self._take(row, charged=not row.is_last_chance or row is newest) for row in lost]
        self._tell(*taken)
        return taken

    def _take(self, row: Run, *, charged: bool) -> Run:
        self._end_activities(row.run_id, ActivityStatus.LOST)
        epoch, losses = self._raise_fence(row), row.losses + charged
        if not charged or losses < row.max_attempts:
            return self._move(row, RunStatus.PENDING, epoch=epoch, losses=losses, requested=row.requested)
        message = (
            f"the worker was lost {losses} times (last in activity {row.current_activity or 'none'}); "
            "see RUN_MAX_ATTEMPTS"
        )
        error = {"type": "AttemptsExhaustedError", "message": message}
        return self._move(row, RunStatus.FAILED, epoch=epoch, losses=losses, error=error)

    def carry_in(self, carried: Iterable[CarriedRun]) -> None:
        """Take runs over from elsewhere, before any is driven. One that was under way there is pending here."""
        for each in sorted(carried, key=lambda each: age(each.run)):
            run = _at_rest(each.run)
            self._runs[run.run_id] = run
            self._threads[run.thread_key].append(run.run_id)
            if run.idempotency_key is not None:
                self._keys[run.organization_id, run.workflow_type, run.idempotency_key] = run.run_id
            fence = self._fences[run.checkpoint_thread_id]
            self._fences[run.checkpoint_thread_id] = max(fence, run.epoch)
            self._activities[run.run_id] = {(one.attempt, one.task_id): one for one in each.activities}
            self._events[run.run_id] = list(each.events)
            self._moves[run.run_id] = each.moves
            if run.status in UNFINISHED:
                self._open[run.run_id] = None
                if run.batch_id is not None:
                    self._children[run.batch_id].add(run.run_id)
            self._carry_mail_in(each)
            self._carry_steps_in(each)

    def carry_out(self) -> Iterator[CarriedRun]:
        """All runs with what belongs to them, those of one thread together, oldest first; nothing is taken away."""
        hooks, steps = self._hooks_by_run(), self._steps_by_run()
        for ids in self._threads.values():
            for run in sorted(map(self._row, ids), key=age):
                yield CarriedRun(
                    run=_at_rest(run),
                    moves=self._moves.get(run.run_id, 0),
                    awaits_children=run.run_id in self._await_children,
                    signals=self._kept(run.run_id),
                    hooks=hooks.get(run.run_id, ()),
                    steps=steps.get(run.run_id, ()),
                    activities=sorted(self._activities.get(run.run_id, {}).values(), key=order),
                    events=list(self._events.get(run.run_id, ())),
                )

    async def wake_due(self) -> int:
        now = datetime.now(UTC)
        suspended = [run for run in map(self._row, self._open) if run.status is RunStatus.SUSPENDED]
        due = [run for run in suspended if run.retry_at is not None and run.retry_at <= now]
        self._tell(*[self._move(run, RunStatus.PENDING) for run in due])
        return len(due)

    async def pause(self, run_id: str) -> Run:
        row = self._row(run_id)
        if row.status is RunStatus.SUSPENDED:
            row = self._move(row, RunStatus.PAUSED)
            self._tell(row)
        elif row.status in (RunStatus.PENDING, RunStatus.RUNNING) or row.waits_for_its_work:
            # A run that is to make way for another will rest for good, which is more than a pause.
            if row.requested is None:
                row = self._change(row, requested=Request.PAUSE)
                self._tell_asked([row])
        elif row.status is not RunStatus.PAUSED:
            raise IllegalTransitionError(row.status, RunStatus.PAUSED)
        return row

    async def resume(self, run_id: str, signal: NewSignal | None = None) -> Run:
        row = self._row(run_id)
        if signal is not None and self._is_known(run_id, signal):
            return row
        if row.status in (RunStatus.PENDING, RunStatus.RUNNING) or row.requested is Request.PAUSE:
            return self._take_back_pause(row, signal)
        require_transition(row.status, RunStatus.PENDING)
        anew: dict[str, object] = {}
        if row.status is RunStatus.FAILED:
            self._require_head(row)
            anew = {"failures": 0, "losses": 0, "error": None}
        if row.status is RunStatus.WAITING:
            row = self._answer(row, signal or NewSignal(RESUME_SIGNAL))
        else:
            row = self._keep_given(row, signal)
        resumed = self._move(row, RunStatus.PENDING, **anew)
        self._tell(resumed)
        return resumed

    def _require_head(self, failed: Run) -> None:
        for other in map(self._row, self._threads[failed.thread_key]):
            if other.started_at and failed.started_at and other.started_at > failed.started_at:
                raise ThreadMovedOnError(failed.run_id, other.run_id)

    def _take_back_pause(self, row: Run, signal: NewSignal | None) -> Run:
        if row.requested is not Request.PAUSE:
            raise IllegalTransitionError(row.status, RunStatus.PENDING)
        row = self._change(self._keep_given(row, signal), requested=None)
        self._tell_asked([row])
        return row

    async def cancel(self, run_id: str) -> Run:
        row = self._row(run_id)
        if row.status is not RunStatus.CANCELLED:
            require_transition(row.status, RunStatus.CANCELLED)
            self._cancel_now(row, None)
        error: dict[str, Json] = {"type": "CancelledError", "message": "the batch was cancelled"}
        for child in sorted(self._children[run_id]):
            self._cancel_now(self._row(child), error)
        return self._row(run_id)

    async def cancel_left_over(self) -> list[str]:
        return []  # Nothing comes between the ends of a batch and of its runs.

    def _cancel_now(self, row: Run, error: dict[str, Json] | None) -> None:
        cancelled = self._cancel(row, error)
        self._tell(cancelled)
        if row.status is RunStatus.RUNNING:
            self._tell_asked([cancelled])


def _heeded(row: Run, outcome: Outcome) -> RunStatus:
    """The status that an outcome comes to, with what was asked of the run and sent to it in the last moment."""
    if outcome.status in FINAL:
        return outcome.status
    if row.requested is Request.SUPERSEDE:
        return RunStatus.CANCELLED
    asked_to_rest = row.requested is Request.PAUSE
    match outcome.status:
        case RunStatus.WAITING if row.signal_count > outcome.seen_signals:
            return RunStatus.PENDING
        case RunStatus.PAUSED if not asked_to_rest:
            return RunStatus.PENDING
        case RunStatus.SUSPENDED if asked_to_rest:
            return RunStatus.PAUSED
    return outcome.status


def _at_rest(run: Run) -> Run:
    """The run as nobody drives it."""
    status = RunStatus.PENDING if run.status is RunStatus.RUNNING else run.status
    return replace(run, status=status, saver="MemorySaver", lease_owner=None, lease_until=None, left_at=None)


def _was_last(row: Run, run: Run) -> bool:
    """Whether `run` is of the attempt that was the last to hold the row, which nobody holds now."""
    return row.status is not RunStatus.RUNNING and row.epoch == run.epoch
