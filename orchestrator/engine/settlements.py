"""Tells waiters in this process that a run came to rest, without asking the store."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.runs.model import Run

__all__ = ["Settlements"]


class Settlements:
    """Futures by run id. Whoever waits for a run is given its settled row, or None when waiting is over."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Future[Run | None]]] = defaultdict(set)
        self._closed = False

    @contextmanager
    def expect(self, run_id: str) -> Iterator[asyncio.Future[Run | None]]:
        """A future of the run's settled row. Enter it before asking the store, so that nothing falls between."""
        future: asyncio.Future[Run | None] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_result(None)
        self._waiting[run_id].add(future)
        try:
            yield future
        finally:
            self._waiting[run_id].discard(future)
            if not self._waiting[run_id]:
                del self._waiting[run_id]
            future.cancel()

    def is_expected(self, run_id: str) -> bool:
        """Whether anyone here waits for the run."""
        return any(not future.done() for future in self._waiting.get(run_id, ()))

    def announce(self, run: Run) -> None:
        """Wake everyone who waits for the run."""
        for future in self._waiting.get(run.run_id, ()):
            _settle(future, run)

    def close(self) -> None:
        """Let everyone go, and everyone who comes later."""
        self._closed = True
        for futures in self._waiting.values():
            for future in futures:
                _settle(future, None)


def _settle(future: asyncio.Future[Run | None], run: Run | None) -> None:
    if not future.done():
        future.set_result(run)
