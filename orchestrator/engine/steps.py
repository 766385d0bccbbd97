"""`@step`: a function that a node calls, whose result is kept.

    @step
    async def fetch(url: str) -> str: …               # runs where the node runs, journaled as a LangGraph task

    @step(dispatch="queue", retry=RetryPolicy(max_attempts=5))
    async def render(page: int) -> str: …             # any worker runs it; the run waits without a worker

    async def node(state):
        pages = await asyncio.gather(*(render(page) for page in state["pages"]))

A step that has ended is not run again when its node is: after a crash, a retry, or another step's wait. One that is
dispatched takes and gives JSON, and is found by its name, so every worker must have imported it (the graph's module
does). In a node that is a plain function the result of a call is a future: `render(3).result()`.

Inside a node's execution the calls are told apart by their order, as LangGraph's tasks are: make the same calls in the
same order every time. A call that waits raises LangGraph's `GraphInterrupt` through the node, which must let it pass:
no `except Exception` around a call that does not raise it again, and no `gather(…, return_exceptions=True)`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar, cast, overload

from langgraph.func import task
from langgraph.types import RetryPolicy, interrupt

from orchestrator.engine.attempt import Attempt, current_attempt, idempotency_key
from orchestrator.engine.retry import DEFAULT_RETRY
from orchestrator.errors import InvalidPayloadError, StepFailedError
from orchestrator.runs.jsonable import check_payload
from orchestrator.runs.model import Json, check_queue, new_run_id
from orchestrator.runs.steps import NewStep, Step, StepStatus

__all__ = ["STEPS", "StepFunction", "as_step_json", "step"]

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger(__name__)
_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class StepFunction:
    """A step that any worker may run, as it was registered."""

    name: str
    function: Callable[..., Any]
    retry: RetryPolicy


# The steps of this process that can be dispatched, by name.
STEPS: dict[str, StepFunction] = {}


@overload
def step(function: Callable[P, R], /) -> Callable[P, Any]: ...
@overload
def step(
    *,
    dispatch: Literal["inline", "queue"] = "inline",
    name: str | None = None,
    retry: RetryPolicy | None = None,
    queue: str = "step",
    priority: int = 0,
) -> Callable[[Callable[P, R]], Callable[P, Any]]: ...
def step(
    function: Callable[P, R] | None = None,
    /,
    *,
    dispatch: Literal["inline", "queue"] = "inline",
    name: str | None = None,
    retry: RetryPolicy | None = None,
    queue: str = "step",
    priority: int = 0,
) -> Any:
    """Make a function a step. Calling it in a node gives what is awaited, or asked for its `.result()`.

    `name` is by default the function's `module:qualname`. `retry` applies to the step alone: inline it is LangGraph's
    task retry, dispatched it spaces the step's attempts. Where a dispatched step fails for good, the call raises
    `StepFailedError`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, Any]:
        known_as = name or f"{function.__module__}:{function.__qualname__}"
        if dispatch == "inline":
            inline: Any = task(name=known_as, retry_policy=retry)
            return cast("Callable[P, Any]", inline(function))
        check_queue(queue)
        STEPS[known_as] = StepFunction(known_as, function, retry or DEFAULT_RETRY)
        return _dispatched(function, known_as, queue, priority)

    return decorate if function is None else decorate(function)


def _dispatched(function: Callable[..., Any], name: str, queue: str, priority: int) -> Callable[..., Any]:
    async def waiting(*args: Any, **kwargs: Any) -> Json:
        attempt = current_attempt("step")
        row = await _push(attempt, _call(attempt, name, queue, priority, args, kwargs))
        if not row.is_over:
            _wait(row)
            row = await _ended(attempt, row)
        return _result(row)

    def blocking(*args: Any, **kwargs: Any) -> Json:
        attempt = current_attempt("step")
        row = _from_thread(attempt, _push(attempt, _call(attempt, name, queue, priority, args, kwargs)))
        if not row.is_over:
            _wait(row)
            row = _from_thread(attempt, _ended(attempt, row))
        return _result(row)

    return task(name=name)(waiting if inspect.iscoroutinefunction(function) else blocking)


async def _push(attempt: Attempt, new: NewStep) -> Step:
    row = await attempt.store.push_step(new)
    if row.step_id == new.step_id and attempt.pusher is not None and not attempt.store.enqueues:
        try:
            await attempt.pusher.push_step(row)
        except Exception:
            # Its row is there: the sweeper pushes it again.
            _log.exception("[WorkflowOrchestrator] step %s could not be pushed yet", new.name)
    return row


def _from_thread(attempt: Attempt, work: Coroutine[Any, Any, Step]) -> Step:
    return asyncio.run_coroutine_threadsafe(work, attempt.loop).result()


def _call(
    attempt: Attempt, name: str, queue: str, priority: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> NewStep:
    arguments = as_step_json(f"an argument of step {name}", {"args": list(args), "kwargs": kwargs})
    key = idempotency_key(f"step {name}")
    return NewStep(new_run_id(), attempt.run.run_id, key, name, arguments, queue, priority)


def as_step_json(what: str, value: object) -> Json:
    """The value as JSON. Raises `InvalidPayloadError`, saying of `what` that it is none."""
    if value is None:
        return None
    try:
        return check_payload(value)
    except InvalidPayloadError as exc:
        raise InvalidPayloadError(f"{what} {str(exc).removeprefix('the input ')}") from None


def _wait(row: Step) -> None:
    """Interrupt the node until the step is over. It goes on when that is answered, whatever by: the row tells how."""
    interrupt({"signal": row.signal_name, "step": row.name})


async def _ended(attempt: Attempt, row: Step) -> Step:
    """The step once it is over. The end is written before the answer is sent, so as a rule the first look shows it."""
    while not (row := await attempt.store.get_step(row.step_id)).is_over:  # noqa: ASYNC110 - it ends in any process
        await asyncio.sleep(_LOOK_AGAIN_S)
    return row


def _result(row: Step) -> Json:
    if row.status is StepStatus.FAILED:
        raise StepFailedError(row.name, row.error or {})
    return row.result
