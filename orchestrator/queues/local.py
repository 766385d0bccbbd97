"""The `local` driver: messages within one process, for the memory saver, and for trying things out.

Messages end with the process, which is no loss: so do the runs of the memory saver, and with any other the sweeper
finds them.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count

from orchestrator.queues.driver import Handler, MessageData

__all__ = ["LocalQueue"]

_log = logging.getLogger(__name__)


class LocalQueue:
    """A priority queue on one event loop. Of equal priority, the first pushed is the first delivered."""

    def __init__(self) -> None:
        self._ready: defaultdict[tuple[str, str], list[tuple[int, int, MessageData]]] = defaultdict(list)
        self._later: list[tuple[datetime, int, MessageData]] = []
        self._order = count()
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._workers: list[asyncio.Task[None]] = []
        self._stopping = True

    async def push_flow(self, message: MessageData) -> None:
        """Deliver the message when its time has come."""
        if message.run_at is None:
            self._add(message)
        else:
            heapq.heappush(self._later, (message.run_at, next(self._order), message))
            self._let_in()

    push_step = push_flow

    async def start(self, handle: Handler, *, queues: Sequence[str], concurrency: int) -> None:
        """Deliver with `concurrency` tasks for runs, and as many for steps."""
        self._stopping = False
        lanes = [[(kind, queue) for queue in queues] for kind in ("flow", "step")]
        self._workers = [asyncio.create_task(self._work(handle, lane)) for lane in lanes for _ in range(concurrency)]
        self._let_in()

    async def stop(self) -> None:
        """Let the messages under way be dealt with; what waits stays."""
        self._stopping = True
        self._changed.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._workers:
            await asyncio.wait(self._workers)
        self._workers = []

    def _add(self, message: MessageData) -> None:
        heapq.heappush(self._ready[message.kind, message.queue], (-message.priority, next(self._order), message))
        self._changed.set()

    def _let_in(self) -> None:
        """Make ready what is due, and come back for the next."""
        now = datetime.now(UTC)
        while self._later and self._later[0][0] <= now:
            self._add(heapq.heappop(self._later)[2])
        if self._timer is not None:
            self._timer.cancel()
        if self._later and not self._stopping:
            wait_s = (self._later[0][0] - now).total_seconds()
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._let_in)

    async def _work(self, handle: Handler, lane: Sequence[tuple[str, str]]) -> None:
        while not self._stopping:
            message = self._next(lane)
            if message is None:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                await handle(message)
            except Exception:
                _log.exception("[WorkflowOrchestrator] message about %s %s failed", message.kind, message.id)

    def _next(self, lane: Sequence[tuple[str, str]]) -> MessageData | None:
        waiting = [self._ready[each] for each in lane if self._ready.get(each)]
        return heapq.heappop(min(waiting, key=lambda heap: heap[0][:2]))[2] if waiting else None
