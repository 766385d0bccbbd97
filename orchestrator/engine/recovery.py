"""Takes runs from workers that were lost, wakes those that are due, and puts right what slipped through here.

Each tick, twice a second:
1. suspended runs whose time has come are pending again;
2. runs of an owner that shows no sign of life are taken from it, `epoch` raised: its lock is free (killed, a second
   or two ago), or its lease has lapsed (frozen, or cut off);
3. free slots are filled with the pending runs that come first; those that are new are left to the queue for a while;
4. the queue is told again of steps, and where nobody pulls them of runs, with which nothing has happened for a while;
5. every few seconds, what was left over of a batch when cancelling it was cut short is cancelled.

2 acts only on what two ticks in a row have seen: a server that merely lost its connection has its lock back within
that time. The fence makes being hasty safe; it would only run a node again for nothing.

At each renewal of this process's leases (`leases.py`), what the rows say is ours and what is driven here are
compared. A run driven here whose row has another epoch was taken from us: its attempt is cut off. One that is ours and
driven by nobody, twice in a row, is driven again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from time import monotonic
from typing import Generic, TypeVar

from orchestrator.engine.dispatcher import Dispatcher
from orchestrator.engine.leases import Held
from orchestrator.engine.pushing import Pusher
from orchestrator.engine.settlements import Settlements
from orchestrator.engine.ticker import Ticker
from orchestrator.errors import DatabaseUnavailableError, RunNotFoundError
from orchestrator.metrics import RECOVERIES, RECOVERY_SECONDS, RUNS
from orchestrator.progress.hub import EventHub
from orchestrator.runs.model import Request, Run, RunStatus
from orchestrator.runs.store import Absent, Notice, RunStore

__all__ = ["Recovery"]

T = TypeVar("T")

_log = logging.getLogger(__name__)
_TICK_EVERY_S = 0.5
_PUSH_EVERY_TICKS = 2
_PUSH_AGAIN_AFTER_S = 3.0
_LEFT_OVER_EVERY_TICKS = 10


class _Twice(Generic[T]):
    """Lets through what was seen two times in a row, with the time of the first sight."""

    def __init__(self) -> None:
        self._since: dict[T, float] = {}

    def seen(self, now: set[T]) -> dict[T, float]:
        """What of `now` was there the last time too → `time.monotonic()` when it was first seen."""
        both = {each: since for each, since in self._since.items() if each in now}
        self._since = dict.fromkeys(now, monotonic()) | both
        return both


class Recovery:
    """Keeps the runs of `dispatcher`, and those of lost workers, going."""

    def __init__(
        self,
        store: RunStore,
        dispatcher: Dispatcher,
        settlements: Settlements,
        owner: int,
        hub: EventHub,
        *,
        pusher: Pusher | None = None,
        pushes_runs: bool = False,
    ) -> None:
        self._hub = hub
        self._pusher = pusher
        self._pushes_runs = pushes_runs
        self._ticks = 0
        self._store = store
        self._dispatcher = dispatcher
        self._settlements = settlements
        self._owner = owner
        self._absent: _Twice[Absent] = _Twice()
        self._stray: _Twice[str] = _Twice()
        self._ticker = Ticker("recovery", self.tick, every_s=_TICK_EVERY_S)
        self._looks: set[asyncio.Task[None]] = set()
        dispatcher.on_lost = self._lost

    def start(self) -> None:
        """Begin ticking in the background."""
        self._ticker.start()

    async def stop(self) -> None:
        """Stop ticking."""
        await self._ticker.stop()
        for look in self._looks:
            look.cancel()

    async def tick(self) -> None:
        """Do all of it once."""
        await self._store.wake_due()
        await self._take_over_absent()
        self._dispatcher.fill(leave_new=True)
        if self._ticks % _LEFT_OVER_EVERY_TICKS == 0:
            for run_id in await self._store.cancel_left_over():
                _log.info("[WorkflowOrchestrator] batch %s was cancelled; what was left of it now is, too", run_id)
        await self._push_again()

    async def _push_again(self) -> None:
        """Tell the queue again of what it may have lost, and of steps whose retry is due."""
        self._ticks += 1
        if self._pusher is None or self._ticks % _PUSH_EVERY_TICKS:
            return
        for step in await self._store.take_over_steps(self._owner):
            _log.info("[WorkflowOrchestrator] step %s of run %s lost its worker", step.name, step.run_id)
        for step in await self._store.due_steps(older_than_s=_PUSH_AGAIN_AFTER_S):
            await self._pusher.push_step(step)
        if self._pushes_runs:
            for run in await self._store.push_again(older_than_s=_PUSH_AGAIN_AFTER_S):
                await self._pusher.push_run(run)

    def hear(self, news: Held | Notice) -> None:
        """React to what the leases or another process tell; called on the event loop."""
        if isinstance(news, Notice):
            self._hub.wake(news.run_ids)
        if isinstance(news, Held):
            self._compare(news)
        elif news.kind == "free":
            self._dispatcher.fill()
            if self._pushes_runs:
                for run_id in news.run_ids:
                    self._look_soon(self._push_if_free(run_id))
        elif news.kind == "asked":
            for run_id in news.run_ids:
                if run_id in self._dispatcher:
                    self._look_soon(self._obey(run_id))
        elif news.kind == "settled":
            # What is driven here is announced by its attempt, without reading the row again.
            for run_id in news.run_ids:
                if run_id not in self._dispatcher and self._settlements.is_expected(run_id):
                    self._look_soon(self._announce(run_id))

    async def _push_if_free(self, run_id: str) -> None:
        """Tell the queue of a run that may go on, where no worker looks at the table."""
        run = await self._store.get(run_id)
        if run.status is RunStatus.PENDING and self._pusher is not None:
            await self._pusher.push_run(run)

    async def _take_over_absent(self) -> None:
        absent = set(await self._store.absent_owners(self._owner))
        for each, since in sorted(self._absent.seen(absent).items(), key=lambda seen: seen[0].owner):
            for run in await self._store.take_over(each):
                self._taken(run, each)
                RECOVERY_SECONDS.observe(monotonic() - since)

    def _taken(self, run: Run, absent: Absent) -> None:
        RECOVERIES.labels(reason=absent.reason, outcome=run.status).inc()
        if run.status is RunStatus.FAILED:
            RUNS.labels(workflow=run.workflow_type, status=run.status).inc()
            _log.error("[WorkflowOrchestrator] run %s failed: %s", run.run_id, run.error and run.error["message"])
            self._settlements.announce(run)
            return
        _log.info(
            "[WorkflowOrchestrator] run %s of a lost server was taken over (its %s); it goes on from its last "
            "checkpoint (activity %s, %d of %d workers lost)",
            run.run_id,
            "connection is gone" if absent.reason == "lock" else "lease has lapsed",
            run.current_activity or "none",
            run.losses,
            run.max_attempts,
        )

    def _compare(self, held: Held) -> None:
        for run_id, epoch in self._dispatcher.active().items():
            row_epoch, asked = held.runs.get(run_id, (None, None))
            if row_epoch != epoch:
                self._look_soon(self._obey(run_id))
            elif asked is not None:
                self._dispatcher.stop_at_checkpoint(run_id, asked)
        stray = {run_id for run_id in held.runs if run_id not in self._dispatcher}
        for run_id in self._stray.seen(stray):
            self._look_soon(self._drive_again(run_id))

    async def _obey(self, run_id: str) -> None:
        """Do what a run's row asks of its attempt here, as it stands now."""
        epoch = self._dispatcher.active().get(run_id)
        run = await self._store.get(run_id)
        if epoch is None:
            return
        if run.epoch != epoch:
            self._dispatcher.revoke(run_id, epoch)
            if run.status is RunStatus.CANCELLED:
                self._settlements.announce(run)
        elif run.requested is not None and run.status is RunStatus.RUNNING:
            self._dispatcher.stop_at_checkpoint(run_id, Request(run.requested))

    async def _announce(self, run_id: str) -> None:
        run = await self._store.get(run_id)
        if run.is_settled:
            self._settlements.announce(run)

    async def _drive_again(self, run_id: str) -> None:
        run = await self._store.get(run_id)
        if run.status is RunStatus.RUNNING and run.lease_owner == self._owner and run_id not in self._dispatcher:
            _log.warning("[WorkflowOrchestrator] run %s was ours but not under way; it goes on now", run_id)
            self._dispatcher.drive(run)

    def _lost(self, run_id: str) -> None:
        """An attempt here was in vain: another worker's may have ended while ours was still under way."""
        if self._settlements.is_expected(run_id):
            self._look_soon(self._announce(run_id))

    def _look_soon(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(_quietly(work))
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)


async def _quietly(work: Awaitable[None]) -> None:
    # What can't be looked at now is seen at the next renewal.
    with suppress(DatabaseUnavailableError, RunNotFoundError):
        await work
