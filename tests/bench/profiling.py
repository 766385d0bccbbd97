"""Where the time goes: a workload under cProfile, or CPU time and statements by part of the work."""

from __future__ import annotations

import cProfile
import pstats
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import ExitStack, contextmanager
from time import thread_time
from types import coroutine
from typing import Any, TypeVar
from unittest.mock import patch

import psycopg
from langgraph.pregel import Pregel

from checkpointer import PooledPostgresSaver
from checkpointer.postgres.batch_load import BatchLoad
from checkpointer.postgres.group_commit import GroupCommit
from orchestrator import Orchestrator
from orchestrator.engine.activities import ActivityRecorder
from orchestrator.engine.executor import Executor
from orchestrator.runs.postgres import PostgresRunStore
from orchestrator.runs.transitions import Transitions
from tests.bench.contenders import Contender
from tests.bench.workloads import Crowd, Sample

__all__ = ["PARTS", "Ledger", "profile"]

SubjectT = TypeVar("SubjectT")
T = TypeVar("T")

# What is charged to which part; the first part also gets what is nowhere else: the event loop, LangGraph's tasks.
PARTS: dict[str, tuple[tuple[type[Any], str], ...]] = {
    "LangGraph and the event loop": ((Pregel, "astream"),),
    "saves": ((PooledPostgresSaver, "aput"), (PooledPostgresSaver, "aput_writes"), (GroupCommit, "_attempt")),
    "loads": ((PooledPostgresSaver, "aget_tuple"), (BatchLoad, "_attempt")),
    "transitions": (
        *((PostgresRunStore, name) for name in ("create", "claim", "record", "finish")),
        (Transitions, "_attempt"),
    ),
    "executor, service, activities": (
        (Executor, "execute"),
        (Orchestrator, "start_and_wait"),
        (ActivityRecorder, "flush"),
    ),
}
_REST = next(iter(PARTS))


async def profile(contender: Contender[SubjectT], workload: Crowd[SubjectT], *, lines: int) -> None:
    """Print the hottest functions by own and by cumulative time; only the event loop's thread is seen."""
    for _ in range(2):
        await workload.run(contender.fresh(), Sample())
        await contender.analyze()
    plain = await workload.measure(contender.fresh())
    profiler = cProfile.Profile()
    await workload.run(contender.fresh(), Sample(), watch=profiler)
    stats = pstats.Stats(profiler, stream=sys.stdout).strip_dirs()
    print(f"{contender.name}, {workload.name}, without the profiler: {plain.seconds:.3f} s ({plain.cpu:.3f} s busy)")
    for order in ("tottime", "cumtime"):
        stats.sort_stats(order).print_stats(lines)


class Ledger:
    """CPU seconds of the event loop's thread by part, and statements by kind, while it is `open`.

    Only the entrances to the parts are watched, so that it costs next to nothing. Each step of a coroutine is charged
    to its part, less what of it goes on in another part.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.statements: Counter[str] = Counter()
        self.items: Counter[str] = Counter()
        self._within: list[str] = []
        self._since = 0.0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Watch what the process does."""
        with ExitStack() as stack:
            for part, entrances in PARTS.items():
                for owner, name in entrances:
                    watch = self._stream if name == "astream" else self._call
                    stack.enter_context(patch.object(owner, name, watch(part, getattr(owner, name))))
            for owner, name, counted in (
                (psycopg.AsyncCursor, "execute", self._statement),
                (Transitions, "_send", self._transitions),
                (GroupCommit, "_attempt", self._batch("save")),
                (BatchLoad, "_attempt", self._batch("load")),
            ):
                stack.enter_context(patch.object(owner, name, _counting(getattr(owner, name), counted)))
            self._since = thread_time()
            yield
            self._charge()

    def _charge(self) -> None:
        now = thread_time()
        self.seconds[self._within[-1] if self._within else _REST] += now - self._since
        self._since = now

    @coroutine
    def _steps(self, part: str, work: Awaitable[T]) -> Generator[Any, Any, T]:
        """Await `work`, charging each of its steps to the part."""
        inner: Any = work.__await__()
        resume, given = inner.send, None
        while True:
            self._charge()
            self._within.append(part)
            try:
                waits_for = resume(given)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                self._charge()
                self._within.pop()
            try:
                yield waits_for
                resume, given = inner.send, None
            except BaseException as exc:
                resume, given = inner.throw, exc

    def _call(self, part: str, function: Callable[..., Awaitable[T]]) -> Callable[..., Coroutine[Any, Any, T]]:
        async def watched(*args: Any, **kwargs: Any) -> T:
            return await self._steps(part, function(*args, **kwargs))

        return watched

    def _stream(self, part: str, function: Callable[..., AsyncIterator[T]]) -> Callable[..., AsyncIterator[T]]:
        async def watched(*args: Any, **kwargs: Any) -> AsyncIterator[T]:
            events = function(*args, **kwargs)
            while True:
                try:
                    event = await self._steps(part, anext(events))
                except StopAsyncIteration:
                    return
                yield event

        return watched

    def _statement(self, *_: Any, **__: Any) -> None:
        self.statements["all"] += 1

    def _transitions(self, _: Transitions, connection: object, kind: str, items: list[Any], timeout_s: float) -> None:
        self.statements[kind] += 1
        self.items[kind] += len(items)

    def _batch(self, kind: str) -> Callable[..., None]:
        def count(_: object, connection: object, batch: list[Any]) -> None:
            self.statements[kind] += 1
            self.items[kind] += len(batch)

        return count


def _counting(function: Callable[..., Awaitable[T]], count: Callable[..., None]) -> Callable[..., Awaitable[T]]:
    async def counted(*args: Any, **kwargs: Any) -> T:
        count(*args, **kwargs)
        return await function(*args, **kwargs)

    return counted
