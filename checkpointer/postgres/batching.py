"""The queue behind group commit and batched loads: what arrived while the last batch was under way is the next.

    caller ──submit──► queue ──take──► worker ──one statement──► PostgreSQL
      ▲                                  │
      └───────── result or error ────────┘

There is no timer: a lone caller goes out at once and a crowd shares. Workers that are free share what waits evenly,
so that some callers go on while the others' batch is under way; with one batch for all, everybody would wait for
everybody. Rules:

- The queue is bounded in items and in bytes, a batch too; past that callers wait.
- Where a batch fails for a reason of the server, it is sent again, with jittered pauses, until each item has been
  tried for its time (`SaverUnavailableError`). Whatever is sent must be safe to send twice.
- An item that must wait for something of its own (`_attempt` gives it back) goes to the queue again a moment later;
  the worker goes on with the others.
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
_DEFERRED_S = 0.02
_SMALL_BATCH = 8  # below this a statement of its own costs more than waiting for a neighbour's


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait, and how much goes into one statement."""

    queue_items: int = 8192
    queue_bytes: int = 16_000_000
    batch_items: int = 512
    batch_bytes: int = 8_000_000


@dataclass(slots=True, eq=False, kw_only=True)
class Item:
    """One caller's share of a batch; `bytes` counts towards the bounds.

    `retry_for_s` is how long it is tried, where that is not as long as the others.
    """

    bytes: int = 0
    retry_for_s: float | None = None
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
    deferred_reason: str = "other"
    deferred_because: str = "it has to wait for another transaction"

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
        self._entering = False
        self._deferred: set[I] = set()
        self._settling = 0
        self._closing = False
        self._idle: deque[asyncio.Future[None]] = deque()
        self._held_back: deque[asyncio.Future[None]] = deque()
        self._workers: list[asyncio.Task[None]] = []

    @abstractmethod
    async def _attempt(self, connection: WorkerConnection, batch: list[I]) -> list[I]:
        """Send the batch once and wake the callers it was settled for; gives back those to be tried a bit later."""

    @abstractmethod
    async def _refused(self, connection: WorkerConnection, batch: list[I], error: Exception) -> None:
        """Settle a batch that failed for a reason that is not the server's."""

    def _lost(self) -> None:
        """Called when the server was at fault, before the batch is sent again."""

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
            for item in (*self._queue, *self._deferred):
                item.fail(SaverClosedError(self.operation))

    async def submit(self, item: I) -> Any:
        """Wait for room, then for the item's result.

        Raises `SaverUnavailableError`, `SaverClosedError`, or the item's error.
        """
        await self.room()
        return await self.submit_now(item)

    async def submit_now(self, item: I) -> Any:
        """`submit` for a caller that waited for room before it made its item."""
        if self._closing:
            raise SaverClosedError(self.operation)
        item.done = asyncio.get_running_loop().create_future()
        self._queue.append(item)
        self._queued_bytes += item.bytes
        _wake_one(self._idle)
        return await item.done

    async def room(self) -> None:
        """Wait until the queue has room, in the order of coming. Raises `SaverClosedError`."""
        if self._is_full() or self._held_back or self._entering:
            await self._wait_for_room()
        if self._closing:
            raise SaverClosedError(self.operation)

    async def _wait_for_room(self) -> None:
        add = self._held_back.append
        while not self._closing:
            turn = asyncio.get_running_loop().create_future()
            add(turn)
            try:
                await turn
            finally:
                if turn.done() and not turn.cancelled():
                    # By the time the next one looks, this one's item is in the queue, or was never made.
                    self._entering = False
                    self._let_in()
            if not self._is_full():
                return
            add = self._held_back.appendleft

    def _let_in(self) -> None:
        """Wake the first of those who wait for room, if there is any."""
        if not self._is_full() and not self._entering:
            self._entering = _wake_one(self._held_back)

    def _is_full(self) -> bool:
        limits = self._limits
        return len(self._queue) >= limits.queue_items or self._queued_bytes >= limits.queue_bytes

    async def _work(self, connection: WorkerConnection) -> None:
        """One worker: batch after batch until closed and drained."""
        try:
            while True:
                if batch := self._take():
                    self._settling += 1
                    await self._settle(connection, batch)
                    self._settling -= 1
                elif self._closing and not self._deferred:
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
        share = max(_SMALL_BATCH, -(-len(self._queue) // (len(self._connections) - self._settling)))
        while self._queue and len(batch) < share:
            item = self._queue[0]
            if not self._fits(batch, item) or (batch and size + item.bytes > self._limits.batch_bytes):
                break
            self._queue.popleft()
            self._queued_bytes -= item.bytes
            if item.done is not None and not item.done.cancelled():
                batch.append(item)
                size += item.bytes
        self._let_in()
        return batch

    async def _settle(self, connection: WorkerConnection, batch: list[I]) -> None:
        """Answer every caller of the batch, whatever it takes within each one's time."""
        pause_s = _FIRST_PAUSE_S
        try:
            while batch:
                try:
                    self._defer(await self._attempt(connection, batch))
                    return
                except Exception as exc:
                    fault = server_fault(exc)
                    if fault is None:
                        await self._refused(connection, batch, exc)
                        return
                    RETRIES.labels(reason=fault).inc()
                    self._lost()
                    batch = self._still_in_time(batch, summary(exc))
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        except BaseException:
            for item in batch:
                item.fail(SaverClosedError(self.operation))
            raise

    def _defer(self, items: list[I]) -> None:
        if items := self._still_in_time(items, self.deferred_because):
            RETRIES.labels(reason=self.deferred_reason).inc(len(items))
            self._deferred.update(items)
            asyncio.get_running_loop().call_later(_DEFERRED_S, self._queue_again, items)

    def _queue_again(self, items: list[I]) -> None:
        self._deferred.difference_update(items)
        self._queue.extend(items)
        self._queued_bytes += sum(item.bytes for item in items)
        # At the end all must look: the one that takes these may find no more to do, and the others wait for it.
        (_wake_all if self._closing else _wake_one)(self._idle)

    def _time_left(self, batch: list[I]) -> float:
        """Seconds until the batch's oldest item is out of time; at least a moment, for a first attempt."""
        return max(min(item.started + self._patience(item) for item in batch) - time.monotonic(), 0.5)

    def _patience(self, item: I) -> float:
        return self._retry_for_s if item.retry_for_s is None else item.retry_for_s

    def _still_in_time(self, batch: list[I], cause: str) -> list[I]:
        now = time.monotonic()
        left = []
        for item in batch:
            tried_s = now - item.started
            if tried_s < self._patience(item):
                left.append(item)
            else:
                item.fail(SaverUnavailableError(self.operation, tried_s, cause))
        return left


def _wake_one(turns: deque[asyncio.Future[None]]) -> bool:
    while turns:
        turn = turns.popleft()
        if not turn.done():
            turn.set_result(None)
            return True
    return False


def _wake_all(turns: deque[asyncio.Future[None]]) -> None:
    while _wake_one(turns):
        pass
