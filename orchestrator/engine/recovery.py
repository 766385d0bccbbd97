"""Takes over what a dead server left, and puts right what slipped through here. Ticks once a second.

Each tick:
1. parked lanes ask again for their turn (a run of another server may have ended);
2. free pending runs, handed back by a server that stopped, become ours;
3. runs of an owner whose lock is free are taken over, `epoch` raised, and go on from their last checkpoint;
4. what the store says is ours and what is driven here are compared: a run driven here that is no longer ours is
   cut off, one of ours that nobody drives is submitted.

3 and 4 act only on what two ticks in a row have seen. A server that merely lost its connection has its lock back
within that second, and a run that is being created or finished at this moment is no stray.

Until leases and fences exist, a frozen server (SIGSTOP) keeps its runs, and a server that was cut off from the
database for over a second may run a node that another one runs as well; the row is safe in either case.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Generic, TypeVar

from orchestrator.engine.dispatcher import Dispatcher
from orchestrator.engine.settlements import Settlements
from orchestrator.engine.ticker import Ticker
from orchestrator.metrics import RUNS
from orchestrator.runs.model import Run, RunStatus
from orchestrator.runs.store import RunStore

__all__ = ["Recovery"]

T = TypeVar("T")

_log = logging.getLogger(__name__)
_TICK_EVERY_S = 1.0
_ADOPT_AT_ONCE = 200


class _Twice(Generic[T]):
    """Lets through what was seen in two ticks in a row."""

    def __init__(self) -> None:
        self._before: set[T] = set()

    def seen(self, now: set[T]) -> set[T]:
        """What of `now` was there the last time too."""
        both = now & self._before
        self._before = now
        return both


class Recovery:
    """Recovers runs of `workflows`, the graphs this process has, into `dispatcher`."""

    def __init__(
        self,
        store: RunStore,
        dispatcher: Dispatcher,
        settlements: Settlements,
        owner: int,
        workflows: Sequence[str],
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._settlements = settlements
        self._owner = owner
        self._workflows = workflows
        self._absent: _Twice[int] = _Twice()
        self._lost: _Twice[tuple[str, int]] = _Twice()
        self._stray: _Twice[str] = _Twice()
        self._ticker = Ticker("recovery", self.tick, every_s=_TICK_EVERY_S)

    def start(self) -> None:
        """Begin ticking in the background."""
        self._ticker.start()

    async def stop(self) -> None:
        """Stop ticking."""
        await self._ticker.stop()

    async def tick(self) -> None:
        """Do all of it once."""
        self._dispatcher.nudge()
        await self._adopt_free()
        await self._take_over_absent()
        await self._compare()

    async def _adopt_free(self) -> None:
        for run in await self._store.adopt(self._owner, self._workflows, limit=_ADOPT_AT_ONCE):
            _log.info("[WorkflowOrchestrator] run %s was handed back and goes on here", run.run_id)
            self._dispatcher.submit(run)

    async def _take_over_absent(self) -> None:
        absent = set(await self._store.absent_owners(self._owner))
        for owner in sorted(self._absent.seen(absent)):
            for run in await self._store.take_over(self._owner, owner, self._workflows):
                self._taken(run)

    def _taken(self, run: Run) -> None:
        if run.status is RunStatus.FAILED:
            RUNS.labels(workflow=run.workflow_type, status=run.status).inc()
            _log.error("[WorkflowOrchestrator] run %s failed: %s", run.run_id, run.error and run.error["message"])
            self._settlements.announce(run)
            return
        _log.info(
            "[WorkflowOrchestrator] run %s of a lost server was taken over; it goes on from its last checkpoint "
            "(activity %s, attempt %d of %d next)",
            run.run_id,
            run.current_activity or "none",
            run.attempt + 1,
            run.max_attempts,
        )
        self._dispatcher.submit(run)

    async def _compare(self) -> None:
        active = self._dispatcher.active()
        held = await self._store.held_by(self._owner)
        lost = {(run_id, epoch) for run_id, epoch in active.items() if held.get(run_id) != epoch}
        now_active = self._dispatcher.active()
        self._dispatcher.revoke({run_id for run_id, epoch in self._lost.seen(lost) if now_active.get(run_id) == epoch})
        for run_id in self._stray.seen(set(held) - self._dispatcher.known()):
            await self._resubmit(run_id)

    async def _resubmit(self, run_id: str) -> None:
        run: Run | None = await self._store.get(run_id)
        if run is not None and run.status is RunStatus.RUNNING:
            run = await self._store.release(run, to=self._owner, refund=False)
        if run is not None and run.status is RunStatus.PENDING and run.workflow_type in self._workflows:
            _log.warning("[WorkflowOrchestrator] run %s was ours but not under way; it starts now", run_id)
            self._dispatcher.submit(run)
