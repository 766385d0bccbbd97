"""The queue behind group commit and batched loads: what arrived while the last batch was under way is the next.

    caller ──submit──► queue ──take──► worker ──one statement──► PostgreSQL
      ▲                                  │
      └───────── result or error ────────┘

There is no timer: a lone caller goes out at once and a crowd shares. Rules:

- The queue is bounded in items and in bytes, a batch too; past that callers wait.
- Where a batch fails for a reason of the server, it is sent again, with jittered pauses, until each item has been
  tried for its time (`SaverUnavailableError`). Whatever is sent must be safe to send twice.
- A caller that is cancelled takes only itself away: workers are tasks of their own.
- Closing answers what was accepted; what is left after that gets `SaverClosedError`.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from checkpointer.errors import SaverClosedError, SaverUnavailableError
from checkpointer.metrics import RETRIES
from checkpointer.postgres.retry import server_fault, summary
from checkpointer.postgres.worker_connection import WorkerConnection

__all__ = ["Batcher", "Item", "Limits"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait, and how much goes into one statement."""

    queue_items: int = 8192
    queue_bytes: int = 64_000_000
    batch_items: int = 512
    batch_bytes: int = 8_000_000


@dataclass(slots=True, eq=False, kw_only=True)
class Item:
    """One caller's share of a batch; `bytes` counts towards the bounds."""

    bytes: int = 0
    started: float = field(default_factory=time.monotonic)
    done: asyncio.Future[Any] | None = None

    def succeed(self, result: Any = None) -> None:
        """Wake the caller with its result, unless it has gone."""
        if self.done is not None and not self.done.done():
            self.done.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Wake the caller with an error, unless it has gone."""
        if self.done is not None and not self.done.done():
            self.done.set_exception(error)


I = TypeVar("I", bound=Item)  # noqa: E741 - an item


class Batcher(ABC, Generic[I]):
    """A queue and one worker task per connection; an async context manager."""

    operation: str

    def __init__(
        self,
        connections: Sequence[WorkerConnection],
        *,
        retry_for_s: float,
        limits: Limits = Limits(),
    ) -> None:
        self._connections = connections
        self._retry_for_s = retry_for_s
        self._limits = limits
        self._queue: deque[I] = deque()
        self._queued_bytes = 0
        self._closing = False
        self._idle: deque[asyncio.Future[None]] = deque()
        self._held_back: deque[asyncio.Future[None]] = deque()
        self._workers: list[asyncio.Task[None]] = []

    @abstractmethod
    async def _attempt(self, connection: WorkerConnection, batch: list[I]) -> list[I]:
        """Send the batch once and wake the callers it was settled for; gives back those to be tried again."""

    @abstractmethod
    async def _refused(self, connection: WorkerConnection, batch: list[I], error: Exception) -> None:
        """Settle a batch that failed for a reason that is not the server's."""

    def _fits(self, batch: list[I], item: I) -> bool:
        """Whether the item may join the batch; every item may join an empty one, which begins a batch."""
        return len(batch) < self._limits.batch_items

    async def __aenter__(self) -> Self:
        self._workers = [
            asyncio.create_task(self._work(connection), name=f"checkpoint {self.operation} {number}")
            for number, connection in enumerate(self._connections)
        ]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._closing = True
        _wake_all(self._idle)
        _wake_all(self._held_back)
        try:
            await asyncio.gather(*self._workers)
        finally:
            for item in self._queue:
                item.fail(SaverClosedError(self.operation))

    async def submit(self, item: I) -> Any:
        """Wait for the item's result. Raises `SaverUnavailableError`, `SaverClosedError`, or the item's error."""
        loop = asyncio.get_running_loop()
        while self._is_full() and not self._closing:
            turn = loop.create_future()
            self._held_back.append(turn)
            await turn
        if self._closing:
            raise SaverClosedError(self.operation)
        item.done = loop.create_future()
        self._queue.append(item)
        self._queued_bytes += item.bytes
        _wake_one(self._idle)
        return await item.done

    def _is_full(self) -> bool:
        limits = self._limits
        return len(self._queue) >= limits.queue_items or self._queued_bytes >= limits.queue_bytes

    async def _work(self, connection: WorkerConnection) -> None:
        """One worker: batch after batch until closed and drained."""
        try:
            while True:
                if batch := self._take():
                    await self._settle(connection, batch)
                elif self._closing:
                    return
                else:
                    turn = asyncio.get_running_loop().create_future()
                    self._idle.append(turn)
                    await turn
        finally:
            await connection.close()

    def _take(self) -> list[I]:
        """The next batch; an item larger than a batch goes alone."""
        batch: list[I] = []
        size = 0
        while self._queue:
            item = self._queue[0]
            if not self._fits(batch, item) or (batch and size + item.bytes > self._limits.batch_bytes):
                break
            self._queue.popleft()
            self._queued_bytes -= item.bytes
            if item.done is not None and not item.done.cancelled():
                batch.append(item)
                size += item.bytes
        if not self._is_full():
            _wake_all(self._held_back)
        return batch

    async def _settle(self, connection: WorkerConnection, batch: list[I]) -> None:
        """Answer every caller of the batch, whatever it takes within each one's time."""
        pause_s = _FIRST_PAUSE_S
        try:
            while batch:
                try:
                    batch = await self._attempt(connection, batch)
                    fault, cause = "fence", "another process is taking the thread over"
                except Exception as exc:
                    fault, cause = server_fault(exc) or "", summary(exc)
                    if not fault:
                        await self._refused(connection, batch, exc)
                        return
                if batch:
                    RETRIES.labels(reason=fault).inc()
                    batch = self._still_in_time(batch, cause)
                    await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                    pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        except BaseException:
            for item in batch:
                item.fail(SaverClosedError(self.operation))
            raise

    def _still_in_time(self, batch: list[I], cause: str) -> list[I]:
        now = time.monotonic()
        left = []
        for item in batch:
            tried_s = now - item.started
            if tried_s < self._retry_for_s:
                left.append(item)
            else:
                item.fail(SaverUnavailableError(self.operation, tried_s, cause))
        return left


def _wake_one(turns: deque[asyncio.Future[None]]) -> None:
    while turns:
        turn = turns.popleft()
        if not turn.done():
            turn.set_result(None)
            return


def _wake_all(turns: deque[asyncio.Future[None]]) -> None:
    while turns:
        _wake_one(turns)
