"""Keeps code that asks the process to end, such as `sys.exit()` in a node, from ending the server.

asyncio lets SystemExit and KeyboardInterrupt out of a task and through the event loop. All other runs would end with
the one, which would be taken up at the next start and end that too. Here they fail the task that raised them, as any
error does. Signals are not touched: the server handles them outside of any task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

from orchestrator.errors import ExitError

__all__ = ["contain_exits"]

T = TypeVar("T")


def contain_exits(loop: asyncio.AbstractEventLoop) -> None:
    """Turn SystemExit and KeyboardInterrupt into `ExitError` in every task that is made on `loop` from now on."""
    loop.set_task_factory(_make_task)


def _make_task(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any
) -> asyncio.Task[T]:
    if not isinstance(coro, Coroutine):
        return asyncio.Task(coro, loop=loop, **options)
    task = asyncio.Task(_contained(coro), loop=loop, **options)
    # A task that is cancelled before its first step never gets to await it, and Python would warn of that.
    task.add_done_callback(lambda _: coro.close())
    return task


async def _contained(coro: Coroutine[Any, Any, T]) -> T:
    try:
        return await coro
    except (SystemExit, KeyboardInterrupt) as exc:
        raise ExitError(exc) from exc
