"""Gives watchers the events of runs: those that were, then those that come, each once and in order.

    notice: run has events ──► channel of the run ──one query for all its watchers──► buffer ──► watchers
                                                                                       │
    a watcher that is behind the buffer ◄────────────── a query of its own ◄───────────┘

A process hears of new events over the one connection it listens on (`engine/leases.py`); notices may get lost, so a
channel looks by itself now and then. A watcher holds no connection, and takes events at its own pace: what it has not
taken is in the database, not in memory. It begins after any number, on any process, so a watcher that was cut off goes
on elsewhere where it was.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from itertools import islice

from orchestrator.errors import DatabaseUnavailableError, RunNotFoundError
from orchestrator.metrics import WATCHERS
from orchestrator.runs.events import Event
from orchestrator.runs.model import FINAL
from orchestrator.runs.store import RunStore

__all__ = ["EventHub"]

_LOOK_EVERY_S = 5.0
_RETRY_EVERY_S = 1.0
_BUFFERED = 2_000
_ROWS = 100


class EventHub:
    """The watched runs of this process."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._channels: dict[str, _Channel] = {}
        self.is_closed = False

    def wake(self, run_ids: Iterable[str]) -> None:
        """Say that runs may have new events."""
        for run_id in run_ids:
            if channel := self._channels.get(run_id):
                channel.wake()

    def close(self) -> None:
        """End every stream; its watchers go on elsewhere."""
        self.is_closed = True
        for channel in self._channels.values():
            channel.close()

    async def watch(self, run_id: str, after: int = 0) -> AsyncGenerator[Sequence[Event]]:
        """The run's events with higher numbers than `after`, until the run is over and all were given.

        Those that are there together are given together. All watchers are given the same objects.
        """
        after = max(after, 0)
        channel = self._channels.get(run_id)
        if channel is None or channel.is_over:
            # A run that is over may go on: one that failed, and is resumed.
            channel = self._channels[run_id] = _Channel(self._store, run_id, after)
        channel.watchers += 1
        WATCHERS.inc()
        try:
            while not self.is_closed and (events := await channel.after(after)):
                if channel.is_closed:
                    return
                after = events[-1].number
                yield events
        finally:
            WATCHERS.dec()
            channel.watchers -= 1
            if not channel.watchers and self._channels.get(run_id) is channel:
                del self._channels[run_id]


class _Channel:
    """One run's newest events, read once for all who watch it."""

    def __init__(self, store: RunStore, run_id: str, after: int) -> None:
        self.watchers = 0
        self.is_over = False
        self.is_closed = False
        self._store = store
        self._run_id = run_id
        self._buffer: deque[Event] = deque(maxlen=_BUFFERED)
        self._last = after
        self._is_new = True
        self._seems_over = False
        self._woken = asyncio.Event()
        self._woken.set()
        self._is_read = False
        self._news = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        self.is_closed = True
        self._woken.set()

    async def after(self, number: int) -> list[Event]:
        """Events after a number, waiting for at least one; none when the run is over, or the channel is closed."""
        while not self.is_closed:
            if number < self._last:
                has_read = bool(self._buffer)
                if found := self._buffered(number) or await self._fetched(number):
                    return found
                if has_read:
                    # What was there was deleted.
                    return []
                if not self._buffer:
                    # Whoever came first has asked for what comes after a number that is not reached yet.
                    self._last = min(self._last, number)
                continue
            if self.is_over:
                return []
            await self._read_once()
        return []

    async def _read_once(self) -> None:
        """Read, or wait until the watcher that reads already has: all the others are woken at once."""
        if self._is_read:
            await self._news.wait()
            return
        self._is_read = True
        try:
            await self._read()
        finally:
            self._is_read = False
            self._news.set()
            self._news = asyncio.Event()

    def _buffered(self, number: int) -> list[Event]:
        if not self._buffer or self._buffer[0].number > number + 1:
            return []
        return list(islice(self._buffer, number + 1 - self._buffer[0].number, None))

    async def _read(self) -> None:
        """Wait until there may be more, and read it."""
        by_itself, self._is_new = self._is_new, False
        try:
            async with asyncio.timeout(_LOOK_EVERY_S):
                await self._woken.wait()
        except TimeoutError:
            by_itself = True
        self._woken.clear()
        try:
            events = await self._fetched(self._last)
            if events:
                self._take(events)
            elif self._seems_over:
                self.is_over = True
            elif by_itself and await self._is_final():
                # It was deleted, had ended before there were events, or has just ended: another look tells.
                self._seems_over = True
                self._woken.set()
        except BaseException:
            # The watcher who reads is leaving; the next one goes on where it was.
            self._woken.set()
            raise

    def _take(self, events: Sequence[Event]) -> None:
        self._buffer.extend(events)
        self._last = events[-1].number
        self._seems_over = events[-1].kind == "state" and events[-1].data["status"] in FINAL
        if self._seems_over or len(events) >= _ROWS:
            # There may be more than one answer holds, also after a failure: only when there is not, it is over.
            self._woken.set()

    async def _is_final(self) -> bool:
        while not self.is_closed:
            try:
                return (await self._store.get(self._run_id)).is_final
            except RunNotFoundError:
                return True
            except DatabaseUnavailableError:
                await asyncio.sleep(_RETRY_EVERY_S)
        return False

    async def _fetched(self, number: int) -> list[Event]:
        while not self.is_closed:
            try:
                return await self._store.events_after(self._run_id, number, limit=_ROWS)
            except DatabaseUnavailableError:
                await asyncio.sleep(_RETRY_EVERY_S)
        return []
