"""Runs steps that were dispatched: claim → call the function → write how it ended, which tells the run.

function returns JSON             → completed
function raises                   → pending until its retry, or failed
it returns what is no JSON        → failed: it would do so again
it has lost too many workers      → failed, without being called
it is cut off, as at a stop       → pending, free for any worker; not counted as an attempt
the step was taken from us        → nothing is written

Whatever cuts the work off, the row is not left behind as ours: this process renews the leases of all its rows, so that
nobody would take it over. What can't be written at once is written in the background, as long as the process lives.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from uuid import UUID

from orchestrator.engine.attempt import step_under_way
from orchestrator.engine.points import reached
from orchestrator.engine.retry import pause_before_retry
from orchestrator.engine.steps import STEPS, as_step_json
from orchestrator.errors import DatabaseUnavailableError, ExitError, InvalidPayloadError, StepNotFoundError
from orchestrator.logs import about_step
from orchestrator.runs.failure import describe_failure
from orchestrator.runs.model import Json
from orchestrator.runs.steps import Step, StepEnd, StepStatus
from orchestrator.runs.store import RunStore

__all__ = ["StepRunner"]

T = TypeVar("T")

_log = logging.getLogger(__name__)
_RETRY_EVERY_S = 1.0
_HAND_BACK_WITHIN_S = 3.0
_HANDED_BACK = StepEnd(StepStatus.PENDING, retry_after_s=0.0, handed_back=True)


@dataclass(frozen=True, slots=True)
class StepRunner:
    """Runs steps of this process as `owner`. `max_losses` is how many workers a step may lose."""

    store: RunStore
    owner: int
    max_losses: int
    secrets: Sequence[str] = field(default=(), repr=False)
    _under_way: set[str] = field(default_factory=set, init=False)
    _unwritten: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    async def work(self, step_id: str) -> None:
        """Run a step if it is pending and known here; otherwise leave it."""
        if step_id in self._under_way:
            return
        self._under_way.add(step_id)
        try:
            await self._work(step_id)
        finally:
            self._under_way.discard(step_id)

    async def _work(self, step_id: str) -> None:
        known = await self.store.get_step(_parsed(step_id))
        if known.status is not StepStatus.PENDING:
            return
        if known.name not in STEPS:
            _log.error(
                "[WorkflowOrchestrator] step %s is not known here: import the module that defines it, or keep its "
                "queue (%s) from this worker",
                known.name,
                known.queue,
            )
            return
        try:
            # Until it is answered: a claim whose answer is lost may have made the step ours.
            step = await _until_stored(lambda: self.store.claim_step(known, self.owner))
        except asyncio.CancelledError:
            self._write_later(replace(known, attempt=known.attempt + 1, lease_owner=self.owner), _HANDED_BACK)
            raise
        if step is None:
            return
        reached("step claimed", step.run_id)
        end = _HANDED_BACK
        try:
            end = await self._attempt(step)
            reached("step attempted", step.run_id)
            await self._end(step, end)
        except asyncio.CancelledError:
            await self._leave(step, end)
            raise

    async def _attempt(self, step: Step) -> StepEnd:
        if step.losses >= self.max_losses:
            message = f"the worker was lost {step.losses} times in step {step.name}; see RUN_MAX_ATTEMPTS"
            return StepEnd(StepStatus.FAILED, error={"type": "AttemptsExhaustedError", "message": message})
        try:
            with about_step(step):
                result = await _call(step)
        except asyncio.CancelledError as exc:
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            # Nobody cancelled this attempt: the function did so to itself.
            return self._failed(step, exc)
        except (SystemExit, KeyboardInterrupt) as exc:
            return self._failed(step, ExitError(exc))
        except Exception as exc:
            return self._failed(step, exc)
        try:
            return StepEnd(StepStatus.COMPLETED, result=as_step_json(f"the result of step {step.name}", result))
        except InvalidPayloadError as exc:
            return StepEnd(StepStatus.FAILED, error=describe_failure(exc, self.secrets))

    def _failed(self, step: Step, error: BaseException) -> StepEnd:
        pause_s = pause_before_retry(STEPS[step.name].retry, error, step.attempt - step.losses)
        described: dict[str, Json] = describe_failure(error, self.secrets)
        _log.warning(
            "[WorkflowOrchestrator] step %s of run %s failed (%s)%s",
            step.name,
            step.run_id,
            described["type"],
            "" if pause_s is None else f" and is retried in {pause_s:.1f} s",
        )
        status = StepStatus.FAILED if pause_s is None else StepStatus.PENDING
        return StepEnd(status, error=described, retry_after_s=pause_s)

    async def _end(self, step: Step, end: StepEnd) -> None:
        try:
            held = await _until_stored(lambda: self.store.end_step(step, end))
        except Exception as exc:
            # The end could not be written as it was, such as a result past what a row can hold.
            _log.exception("[WorkflowOrchestrator] step %s of run %s could not be ended", step.name, step.run_id)
            failed = StepEnd(StepStatus.FAILED, error=describe_failure(exc, self.secrets))
            held = await _until_stored(lambda: self.store.end_step(step, failed))
        if not held:
            _log.warning("[WorkflowOrchestrator] step %s was taken over; its end here is dropped", step.step_id)

    async def _leave(self, step: Step, end: StepEnd) -> None:
        """Write the end of what was cut off: free for another worker to begin again, or what it had come to."""
        try:
            async with asyncio.timeout(_HAND_BACK_WITHIN_S):
                await self.store.end_step(step, end)
        except (DatabaseUnavailableError, TimeoutError):
            _log.warning("[WorkflowOrchestrator] step %s was cut off; that can't be written yet", step.step_id)
            self._write_later(step, end)
        else:
            what = "handed back" if end.handed_back else str(end.status)
            _log.info("[WorkflowOrchestrator] step %s of run %s is %s", step.name, step.run_id, what)

    def _write_later(self, step: Step, end: StepEnd) -> None:
        """Write the end when the store takes it. Where this process ends first, others see that, and take the step."""
        task = asyncio.create_task(self._write(step, end), name=f"ending step {step.step_id}")
        self._unwritten.add(task)
        task.add_done_callback(self._unwritten.discard)

    async def _write(self, step: Step, end: StepEnd) -> None:
        try:
            await _until_stored(lambda: self.store.end_step(step, end))
        except Exception:
            _log.exception("[WorkflowOrchestrator] step %s of run %s could not be ended", step.name, step.run_id)


async def _until_stored(send: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await send()
        except DatabaseUnavailableError:
            await asyncio.sleep(_RETRY_EVERY_S)


def _parsed(step_id: str) -> str:
    """The id in its canonical form. Raises `StepNotFoundError` where it is no UUID, so no step can have it."""
    try:
        return str(UUID(step_id))
    except ValueError:
        raise StepNotFoundError(step_id[:255]) from None


async def _call(step: Step) -> Any:
    function = STEPS[step.name].function
    args, kwargs = step.arguments["args"], step.arguments["kwargs"]
    with step_under_way(f"{step.run_id} {step.key}"):
        if inspect.iscoroutinefunction(function):
            return await function(*args, **kwargs)
        return await asyncio.to_thread(_in_thread, function, args, kwargs)


def _in_thread(function: Callable[..., Any], args: list[Json], kwargs: dict[str, Json]) -> Any:
    try:
        return function(*args, **kwargs)
    except StopIteration as exc:
        # A future can't hold it: whoever awaits that would wait for ever.
        raise RuntimeError("the step raised StopIteration") from exc
