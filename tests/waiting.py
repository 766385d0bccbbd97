"""Waits for what a test expects, by looking again until a deadline; never by sleeping for a guessed while."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

__all__ = ["until"]

T = TypeVar("T")

_LOOK_EVERY_S = 0.01


@overload
async def until(look: Callable[[], Awaitable[T]], *, timeout_s: float = 15.0, what: str = "") -> T: ...
@overload
async def until(look: Callable[[], T], *, timeout_s: float = 15.0, what: str = "") -> T: ...
async def until(look: Callable[[], Any], *, timeout_s: float = 15.0, what: str = "") -> Any:
    """Look until the answer is truthy and return it; fails with the last answer when the time is up."""
    answer: Any = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                answer = look()
                if inspect.isawaitable(answer):
                    answer = await answer
                if answer:
                    return answer
                await asyncio.sleep(_LOOK_EVERY_S)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s:g} s: {what or look}; the last answer was {answer!r}") from None
