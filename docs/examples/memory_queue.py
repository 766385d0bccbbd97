"""A queue driver in memory. Its messages end with the process; the runs they are about do not."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from orchestrator import MessageData
from orchestrator.queues import Handler


class MemoryQueue:
    def __init__(self) -> None:
        self.waiting: list[MessageData] = []
        self.workers: list[asyncio.Task[None]] = []

    async def push_flow(self, message: MessageData) -> None:
        self.waiting.append(message)

    push_step = push_flow

    async def start(self, handle: Handler, *, queues: Sequence[str], concurrency: int) -> None:
        self.stopping = False
        self.workers = [asyncio.create_task(self._run(handle, kind, queues)) for kind in ["flow", "step"] * concurrency]

    async def stop(self) -> None:
        self.stopping = True
        await asyncio.gather(*self.workers)

    async def _run(self, handle: Handler, kind: str, queues: Sequence[str]) -> None:
        while not self.stopping:
            await asyncio.sleep(0.01)
            now = datetime.now(UTC)
            due = [m for m in self.waiting if m.kind == kind and m.queue in queues and (m.run_at or now) <= now]
            if due:
                self.waiting.remove(message := max(due, key=lambda each: each.priority))  # of equals, the first
                try:
                    await handle(message)
                except Exception:
                    logging.exception("message about %s %s failed", message.kind, message.id)
