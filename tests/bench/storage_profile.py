"""Where the time of one save and of one load of a long shared thread goes."""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from statistics import median
from time import perf_counter
from typing import Any

from tests.bench.threads import LongThread, open_threads
from tests.bench.workloads import metadata_of

__all__ = ["profile_calls"]

_CALLS = 20


class _Inline(ThreadPoolExecutor):
    """Runs everything where it is called, so that the profile shows what goes to another thread otherwise."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as exc:
            done.set_exception(exc)
        return done


async def profile_calls(dsn: str, turns: int, *, lines: int) -> None:
    """Print the hottest functions of twenty saves, then of twenty loads, by own and by cumulative time."""
    async with open_threads(dsn, ["shared"]) as (thread,):
        await thread.grow(turns)
        await thread.state()
        for name, call in (("save", _save), ("load", _load)):
            for number in range(_CALLS):
                await call(thread, -number)()
            plain = [await _timed(call(thread, number)) for number in range(_CALLS)]
            asyncio.get_running_loop().set_default_executor(_Inline())
            calls = [call(thread, _CALLS + number) for number in range(_CALLS)]
            profiler = cProfile.Profile()
            with profiler:
                for made in calls:
                    await made()
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())
            print(
                f"\n{_CALLS} times one {name} at {turns:,} turns; without the profiler",
                f"{1000 * median(plain):.1f} ms each",
            )
            stats = pstats.Stats(profiler, stream=sys.stdout).strip_dirs()
            for order in ("tottime", "cumtime"):
                stats.sort_stats(order).print_stats(lines)


async def _timed(call: Callable[[], Awaitable[object]]) -> float:
    begun = perf_counter()
    await call()
    return perf_counter() - begun


def _save(thread: LongThread, number: int) -> Callable[[], Awaitable[object]]:
    config, checkpoint, new = thread.conversation.one_more(number)
    return lambda: thread.saver.aput(config, checkpoint, metadata_of(number), new)


def _load(thread: LongThread, number: int) -> Callable[[], Awaitable[object]]:
    return lambda: thread.saver.aget_tuple(thread.conversation.latest)
