"""When a run that failed is tried again: LangGraph's `RetryPolicy`, applied to whole attempts.

The default is DESIGN's: after 1 s, doubling, jittered, five times. What a repetition can't mend is not repeated: the
errors of programming, a state that does not take an update, a graph without an end.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.errors import EmptyInputError, GraphRecursionError, InvalidUpdateError, NodeCancelledError
from langgraph.types import RetryPolicy

from checkpointer.errors import UnsavableError
from orchestrator.errors import ExitError, InvalidPayloadError, InvalidRequestError, StepFailedError

__all__ = ["DEFAULT_RETRY", "is_worth_retrying", "override", "pause_before_retry", "retry_numbers"]

_HOPELESS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EmptyInputError,
    ExitError,
    GraphRecursionError,
    ImportError,
    InvalidPayloadError,
    InvalidUpdateError,
    LookupError,
    NameError,
    NodeCancelledError,
    NotImplementedError,
    StepFailedError,
    SyntaxError,
    TypeError,
    UnsavableError,
    ValueError,
)


def is_worth_retrying(error: Exception) -> bool:
    """Whether a repetition may succeed, by the kind of the error: not for what the code itself got wrong."""
    return not isinstance(error, _HOPELESS)


# Six attempts are five retries.
DEFAULT_RETRY = RetryPolicy(
    initial_interval=1.0, backoff_factor=2.0, max_interval=60.0, max_attempts=6, jitter=True, retry_on=is_worth_retrying
)
_BOUNDS: Mapping[str, tuple[float, float]] = {
    "initial_interval": (0, 86_400),
    "backoff_factor": (1, 100),
    "max_interval": (0, 604_800),
    "max_attempts": (1, 1000),
    "jitter": (0, 1),
}


def pause_before_retry(policy: RetryPolicy, error: BaseException, failures: int) -> float | None:
    """Seconds until the next attempt after the `failures`-th failure (from 1); None where there is to be none."""
    if failures >= policy.max_attempts or not isinstance(error, Exception) or not _retries(policy, error):
        return None
    # The exponent is bounded: a large one is past what a float can hold.
    pause_s = min(policy.initial_interval * policy.backoff_factor ** min(failures - 1, 64), policy.max_interval)
    return pause_s * random.uniform(0.5, 1.0) if policy.jitter else pause_s  # noqa: S311 - jitter


def retry_numbers(policy: RetryPolicy) -> dict[str, float]:
    """The numbers of a policy, as a run's row keeps them. Raises `InvalidRequestError` for one out of range."""
    numbers = {name: float(getattr(policy, name)) for name in _BOUNDS}
    for name, (least, most) in _BOUNDS.items():
        if not least <= numbers[name] <= most:
            raise InvalidRequestError(f"retry.{name} takes {least:g} to {most:g}, not {numbers[name]:g}")
    return numbers


def override(policy: RetryPolicy, numbers: Mapping[str, Any] | None) -> RetryPolicy:
    """The policy with a run's own numbers; which errors are retried stays the workflow's."""
    if not numbers:
        return policy
    return RetryPolicy(
        initial_interval=numbers.get("initial_interval", policy.initial_interval),
        backoff_factor=numbers.get("backoff_factor", policy.backoff_factor),
        max_interval=numbers.get("max_interval", policy.max_interval),
        max_attempts=int(numbers.get("max_attempts", policy.max_attempts)),
        jitter=bool(numbers.get("jitter", policy.jitter)),
        retry_on=policy.retry_on,
    )


def _retries(policy: RetryPolicy, error: Exception) -> bool:
    wanted = policy.retry_on
    if isinstance(wanted, type):
        return isinstance(error, wanted)
    if isinstance(wanted, Sequence):
        return isinstance(error, tuple(wanted))
    return bool(wanted(error))
