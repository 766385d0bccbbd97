"""The loop that background services share: do a thing, wait, do it again, survive its failures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from orchestrator.errors import DatabaseUnavailableError

__all__ = ["Ticker"]

_log = logging.getLogger(__name__)
_CANCEL_AGAIN_AFTER_S = 1.0


class Ticker:
    """Calls `tick` at once and then every `every_s` seconds, measured from the end of one to the next's start."""

    def __init__(self, name: str, tick: Callable[[], Awaitable[None]], *, every_s: float) -> None:
        self._name = name
        self._tick = tick
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def start(self) -> None:
        """Begin ticking in the background."""
        self._task = asyncio.create_task(self._loop(), name=self._name)

    async def stop(self) -> None:
        """End ticking; a tick under way is cut off."""
        while self._task is not None and not self._task.done():
            self._task.cancel()
            # Again: on Python 3.11 `asyncio.wait_for`, which drivers wait with, swallows a cancellation that comes
            # just when what it waits for has come, and the loop would tick on for ever.
            await asyncio.wait({self._task}, timeout=_CANCEL_AGAIN_AFTER_S)

    async def _loop(self) -> None:
        while True:
            await self._tick_safely()
            await asyncio.sleep(self._every_s)

    async def _tick_safely(self) -> None:
        try:
            await self._tick()
        except DatabaseUnavailableError as exc:
            # Said once per outage, not once per tick.
            if not self._failing:
                _log.warning("[WorkflowOrchestrator] %s waits for the database: %s", self._name, exc)
            self._failing = True
        except Exception:
            _log.exception("[WorkflowOrchestrator] %s failed and will be tried again", self._name)
        else:
            self._failing = False
