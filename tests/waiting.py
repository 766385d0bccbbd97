"""Waits for what a test expects, by looking again until a deadline; never by sleeping for a guessed while."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

__all__ = ["until"]

T = TypeVar("T")

# Long enough for any machine: what is to happen soon is held to that by bounds of its own.
_WITHIN_S = 60.0
# Most things come at once. Who waits for longer looks less often, and leaves the processors to what is waited for.
_LOOK_EVERY_S, _LOOK_LATEST_S, _LATER_BY = 0.01, 0.05, 0.05


@overload
async def until(look: Callable[[], Awaitable[T]], *, timeout_s: float = _WITHIN_S, what: str = "") -> T: ...
@overload
async def until(look: Callable[[], T], *, timeout_s: float = _WITHIN_S, what: str = "") -> T: ...
async def until(look: Callable[[], Any], *, timeout_s: float = _WITHIN_S, what: str = "") -> Any:
    """Look until the answer is truthy and return it; fails with the last answer when the time is up."""
    answer: Any = None
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                answer = look()
                if inspect.isawaitable(answer):
                    answer = await answer
                if answer:
                    return answer
                waited_s = time.monotonic() - began
                await asyncio.sleep(min(max(_LOOK_EVERY_S, waited_s * _LATER_BY), _LOOK_LATEST_S))
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s:g} s: {what or look}; the last answer was {answer!r}") from None
