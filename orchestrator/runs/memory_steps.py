"""Steps in memory (`steps.py` says what they are)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from orchestrator.errors import RunNotFoundError, StepNotFoundError
from orchestrator.runs.carried import CarriedRun
from orchestrator.runs.memory_mailbox import MemoryMailbox
from orchestrator.runs.model import UNFINISHED
from orchestrator.runs.signals import NewSignal
from orchestrator.runs.steps import NewStep, Step, StepEnd, StepStatus, was_ended_so

__all__ = ["MemorySteps"]


class MemorySteps(MemoryMailbox):
    """Steps, beside signals and rows. All owners are this process, so none is ever lost."""

    enqueues = False

    def __init__(self) -> None:
        super().__init__()
        self._steps: dict[str, Step] = {}
        self._step_keys: dict[tuple[str, str], str] = {}
        self._step_pushed: dict[str, datetime] = {}

    async def push_step(self, new: NewStep) -> Step:
        known = self._step_keys.setdefault((new.run_id, new.key), new.step_id)
        if known != new.step_id:
            return self._steps[known]
        if new.run_id not in self._runs:
            del self._step_keys[new.run_id, new.key]
            raise RunNotFoundError(new.run_id)
        self._step_pushed[new.step_id] = datetime.now(UTC)
        return self._keep_step(
            Step(
                step_id=new.step_id,
                run_id=new.run_id,
                key=new.key,
                name=new.name,
                queue=new.queue,
                priority=new.priority,
                arguments=new.arguments,
                status=StepStatus.PENDING,
                attempt=0,
                losses=0,
            )
        )

    async def get_step(self, step_id: str) -> Step:
        try:
            return self._steps[step_id]
        except KeyError:
            raise StepNotFoundError(step_id) from None

    async def claim_step(self, seen: Step, owner: int) -> Step | None:
        step = self._steps.get(seen.step_id)
        if step is None or step.attempt != seen.attempt:
            return None
        if step.status is not StepStatus.PENDING or not _is_due(step) or self._is_over(step):
            return None
        running = replace(step, status=StepStatus.RUNNING, attempt=step.attempt + 1, lease_owner=owner, retry_at=None)
        return self._keep_step(running)

    async def end_step(self, step: Step, end: StepEnd) -> bool:
        row = self._steps[step.step_id]
        if row.status is not StepStatus.RUNNING or (row.lease_owner, row.attempt) != (step.lease_owner, step.attempt):
            return was_ended_so(row, step, end)
        retry_at = None
        if end.retry_after_s is not None:
            retry_at = datetime.now(UTC) + timedelta(seconds=end.retry_after_s)
        values = {"status": end.status, "result": end.result, "error": end.error}
        attempt = row.attempt - end.handed_back
        self._keep_step(replace(row, lease_owner=None, retry_at=retry_at, attempt=attempt, **values))
        if end.status is not StepStatus.PENDING and not self._is_over(row):
            self._send(row.run_id, NewSignal(row.signal_name, end.as_answer(), row.signal_name))
        return True

    async def due_steps(self, *, older_than_s: float) -> list[Step]:
        now = datetime.now(UTC)
        due = [
            step
            for step in self._steps.values()
            if step.status is StepStatus.PENDING and self._lost(step, older_than_s) and not self._is_over(step)
        ]
        for step in due:
            self._step_pushed[step.step_id] = now
        return due

    async def take_over_steps(self, owner: int) -> list[Step]:
        return []

    def _lost(self, step: Step, older_than_s: float) -> bool:
        pushed = self._step_pushed[step.step_id]
        stale = pushed <= datetime.now(UTC) - timedelta(seconds=older_than_s)
        return _is_due(step) and (stale or (step.retry_at is not None and pushed < step.retry_at))

    def _is_over(self, step: Step) -> bool:
        return self._row(step.run_id).status not in UNFINISHED

    def _keep_step(self, step: Step) -> Step:
        self._steps[step.step_id] = step
        return step

    def _carry_steps_in(self, carried: CarriedRun) -> None:
        for each in carried.steps:
            self._step_keys[each.run_id, each.key] = each.step_id
            # As if sent now: its message is lost, and it is sent again when that is seen.
            self._step_pushed[each.step_id] = datetime.now(UTC)
            self._keep_step(_at_rest(each))

    def _steps_by_run(self) -> dict[str, list[Step]]:
        found: defaultdict[str, list[Step]] = defaultdict(list)
        for step in self._steps.values():
            found[step.run_id].append(_at_rest(step))
        return found


def _at_rest(step: Step) -> Step:
    """The step as nobody runs it; an attempt that was under way does not count."""
    if step.status is not StepStatus.RUNNING:
        return step
    return replace(step, status=StepStatus.PENDING, attempt=step.attempt - 1, lease_owner=None)


def _is_due(step: Step) -> bool:
    return step.retry_at is None or step.retry_at <= datetime.now(UTC)
