"""Drives runs in this process, up to a bound in all.

    start ──► begun in the statement that made it ──────────────► attempt ──► settled: announced
          └─► pending ──► claimed at once, if it is its turn ──►     │
    the oldest pending runs, wherever they were started ──────►      └──────► pending: claimed again, by anyone

The store decides whose turn it is: a pending run belongs to nobody, and the first to claim it drives it. Free slots
are filled whenever runs are said to be free, when an attempt ends behind which others queue, and by the recovery tick.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from langgraph.runtime import RunControl

from orchestrator.engine.executor import Executor
from orchestrator.engine.points import reached
from orchestrator.engine.settlements import Settlements
from orchestrator.errors import DatabaseUnavailableError
from orchestrator.metrics import LEASES_LOST, observe_wait
from orchestrator.runs.model import Run
from orchestrator.runs.store import RunStore

__all__ = ["MAX_ACTIVE_RUNS", "Dispatcher"]

_log = logging.getLogger(__name__)

# Runs under way at once in one process; the others stay pending.
MAX_ACTIVE_RUNS = 1000
_CLAIM_AT_ONCE = 200
# Of the room for runs of batches, this part is free before it is filled again.
_BATCHED_SHARE = 3
_SHOWN_HARMLESS_AFTER_S = 5.0
# Of what is cut off: to be told so, and to go.
_CUT_OFF_WITHIN_S = 2.0


@dataclass(slots=True)
class _Attempt:
    """An attempt under way."""

    run: Run
    control: RunControl
    task: asyncio.Task[Run | None]
    begun: float = field(default_factory=monotonic)


class Dispatcher:
    """Drives runs of `workflows` as `owner`, at most `capacity` at once.

    Of the pending runs it takes those of `queues`, by default of all, and leaves new ones for `leave_new_for_s`
    seconds to the queue that tells a worker of them. Unless it `takes` runs, it only drives what it is handed. Runs of
    batches are started by the thousand: at most `batched` of them are under way at once, however much room there is.
    """

    def __init__(
        self,
        store: RunStore,
        executor: Executor,
        settlements: Settlements,
        owner: int,
        workflows: Sequence[str],
        *,
        capacity: int = MAX_ACTIVE_RUNS,
        queues: Sequence[str] | None = None,
        leave_new_for_s: float = 0.0,
        takes: bool = True,
        batched: int = MAX_ACTIVE_RUNS,
    ) -> None:
        self._batched = batched
        self._batched_claims = 0
        self._seek_batched = True
        self._takes = takes
        self._store = store
        self._executor = executor
        self._settlements = settlements
        self._owner = owner
        self._workflows = workflows
        self._capacity = capacity
        self._queues = queues
        self._leave_new_for_s = leave_new_for_s
        self._leave_new = False
        self._turns: deque[asyncio.Future[None]] = deque()
        self._reserved = 0
        self._attempts: dict[str, _Attempt] = {}
        self._claims: set[asyncio.Task[None]] = set()
        self._filling: asyncio.Task[None] | None = None
        self._fill_again = False
        self._backlog = False
        self._backlog_batched = False
        self._draining = False
        self._drain_began = 0.0
        self.on_lost: Callable[[str], None] = _ignore

    def __contains__(self, run_id: str) -> bool:
        """Whether this process drives the run."""
        return run_id in self._attempts

    def active(self) -> Mapping[str, int]:
        """The attempts under way: run id → epoch."""
        return {run_id: attempt.run.epoch for run_id, attempt in self._attempts.items()}

    def reserve(self) -> bool:
        """Keep a slot for a run that is about to be made; give it back with `unreserve`."""
        if self._draining or self._free() < 1:
            return False
        self._reserved += 1
        return True

    def unreserve(self) -> None:
        """Give a reserved slot back, now that its run is driven, or is not to be."""
        self._reserved -= 1

    def drive(self, run: Run) -> None:
        """Run a claimed attempt. Does nothing for one that is under way here already."""
        known = self._attempts.get(run.run_id)
        if known is not None and known.run.epoch >= run.epoch:
            return
        observe_wait(run.created_at, run.start_at, run.started_at, run.updated_at)
        control = RunControl()
        task = asyncio.create_task(self._executor.execute(run, control), name=f"run {run.run_id}")
        attempt = _Attempt(run, control, task)
        self._attempts[run.run_id] = attempt
        if self._draining:
            control.request_drain()
        task.add_done_callback(lambda _: self._ended(attempt))

    def claim_soon(self, run: Run) -> None:
        """Claim a run that was made pending just now, in the background, and drive it if it is its turn."""
        if self._free() < 1:
            self._backlog = True
        elif not self._draining:
            task = asyncio.create_task(self._claim(run), name=f"claim {run.run_id}")
            self._claims.add(task)
            task.add_done_callback(self._claims.discard)

    async def work(self, run: Run) -> Run | None:
        """Claim a run once there is a slot, and drive it to the end of the attempt.

        None where it is not its turn, or its workflow is not here: then it is left to a worker that has it.
        """
        if run.workflow_type not in self._workflows:
            return None
        if (run.is_last_chance and self._has_last_chance()) or not await self._slot():
            return None
        if run.batch_id is not None and self._takes and self._room() < 1:
            # It stays pending, and is taken from the table when some of those under way have ended.
            self._backlog_batched = self._seek_batched = True
            return None
        self._reserved += 1
        self._batched_claims += run.batch_id is not None
        try:
            claimed = await self._store.claim(run, self._owner)
        finally:
            self._reserved -= 1
            self._batched_claims -= run.batch_id is not None
        if claimed is None:
            return None
        reached("claimed", run.run_id)
        self.drive(claimed)
        task = self._attempts[run.run_id].task
        await asyncio.wait({task})
        return None if task.cancelled() or task.exception() else task.result()

    def fill(self, *, leave_new: bool = False) -> None:
        """Claim the runs that come first, as far as there are slots, in the background.

        With `leave_new`, runs that a queue has just told a worker of are left to that one.
        """
        if self._draining or not self._takes or not self._workflows:
            return
        # Otherwise they are looked for when one is known to be there: most processes never see a batch.
        self._seek_batched = self._seek_batched or leave_new
        self._leave_new = leave_new and (self._leave_new or self._filling is None)
        if self._filling is not None:
            self._fill_again = True
        elif self._free() < 1:
            self._backlog = True
        else:
            self._filling = asyncio.create_task(self._fill(), name="claiming free runs")

    def fill_batched(self) -> None:
        """`fill`, now that a run of a batch is pending; costs nothing while there is no room for it."""
        self._seek_batched = True
        if self._room() < 1:
            self._backlog_batched = True
        else:
            self.fill()

    def stop_at_checkpoint(self, run_id: str, reason: str) -> None:
        """Let a run's attempt stop at its next checkpoint."""
        if attempt := self._attempts.get(run_id):
            attempt.control.request_drain(reason)

    def revoke(self, run_id: str, epoch: int) -> None:
        """Cut an attempt off whose run is no longer ours under this epoch; it writes nothing more."""
        attempt = self._attempts.get(run_id)
        if attempt is not None and attempt.run.epoch == epoch and not attempt.task.cancelling():
            LEASES_LOST.inc()
            attempt.task.cancel()

    def request_drain(self) -> None:
        """Start nothing more, and let every attempt stop at its next checkpoint."""
        if not self._draining:
            self._drain_began = monotonic()
        self._draining = True
        self._wake_one()
        for attempt in self._attempts.values():
            attempt.control.request_drain()

    async def drain(self, timeout_s: float) -> int:
        """Wait for the attempts to stop, until `timeout_s` after they were asked to; cut off those that take longer.

        Returns how many they were. One that swallows that, as a node may, is left behind after a moment.
        """
        self.request_drain()
        until = self._drain_began + timeout_s
        await _ended_by(until, [task for task in (*self._claims, self._filling) if task is not None])
        late = await _ended_by(until, [attempt.task for attempt in self._attempts.values()])
        for task in late:
            task.cancel()
        for task in await _ended_by(monotonic() + _CUT_OFF_WITHIN_S, late):
            _log.error("[WorkflowOrchestrator] %s does not let itself be cut off, and is left behind", task.get_name())
        return len(late)

    async def _slot(self) -> bool:
        """Wait until there is a free slot; False when nothing is started any more."""
        while self._free() < 1 and not self._draining:
            turn = asyncio.get_running_loop().create_future()
            self._turns.append(turn)
            await turn
        return not self._draining

    def _wake_one(self) -> None:
        while self._turns and (self._free() > 0 or self._draining):
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                if not self._draining:
                    return

    def _free(self) -> int:
        return self._capacity - self._reserved - len(self._attempts)

    def _room(self) -> int:
        """How many more runs of batches may be taken up."""
        under_way = sum(attempt.run.batch_id is not None for attempt in self._attempts.values())
        return self._batched - self._batched_claims - under_way

    async def _claim(self, run: Run) -> None:
        self._reserved += 1
        try:
            claimed = await self._store.claim(run, self._owner)
        except DatabaseUnavailableError as exc:
            # It stays pending, and the recovery tick comes by.
            _log.warning("[WorkflowOrchestrator] run %s could not be claimed yet: %s", run.run_id, exc)
            return
        finally:
            self._reserved -= 1
        if claimed is not None:
            reached("claimed", run.run_id)
            self.drive(claimed)

    async def _fill(self) -> None:
        try:
            while not self._draining:
                self._fill_again = False
                self._backlog = (free := self._free()) < 1
                if self._backlog:
                    return
                runs = await self._claim_next(min(free, _CLAIM_AT_ONCE), batched=False)
                self._drive_all(runs)
                await self._fill_room()
                if len(runs) < min(free, _CLAIM_AT_ONCE) and not self._fill_again:
                    break
            if not self._draining and self._free() > 0 and not self._has_last_chance():
                self._drive_all(await self._claim_next(1, last_chance=True))
        except DatabaseUnavailableError:
            _log.debug("free runs could not be claimed yet")
        finally:
            self._filling = None
            self._wake_one()

    async def _fill_room(self) -> None:
        """Take up runs of batches, as far as there is room for them."""
        if not self._seek_batched:
            return
        self._seek_batched = self._backlog_batched = False
        limit = max(min(self._free(), self._room(), _CLAIM_AT_ONCE), 0)
        self._batched_claims += limit
        try:
            runs = await self._claim_next(limit, batched=True) if limit else []
        finally:
            self._batched_claims -= limit
        self._drive_all(runs)
        if len(runs) == limit:
            # There may be more of them, for when some of those under way have ended.
            self._backlog_batched = self._seek_batched = True

    def _drive_all(self, runs: Sequence[Run]) -> None:
        for run in runs:
            reached("claimed", run.run_id)
            self.drive(run)

    async def _claim_next(self, limit: int, *, last_chance: bool = False, batched: bool | None = None) -> list[Run]:
        # Kept while the answer is awaited: messages of a queue claim at the same time.
        self._reserved += limit
        try:
            return await self._store.claim_next(
                self._owner,
                self._workflows,
                limit=limit,
                queues=self._queues,
                older_than_s=self._leave_new_for_s if self._leave_new else 0.0,
                last_chance=last_chance,
                batched=batched,
            )
        finally:
            self._reserved -= limit

    def _has_last_chance(self) -> bool:
        """Whether a run that may be what kills workers was begun so lately that it has still to show it is not."""
        lately = monotonic() - _SHOWN_HARMLESS_AFTER_S
        return any(each.run.is_last_chance and each.begun > lately for each in self._attempts.values())

    def _ended(self, attempt: _Attempt) -> None:
        if self._attempts.get(attempt.run.run_id) is attempt:
            del self._attempts[attempt.run.run_id]
        run_id = attempt.run.run_id
        if attempt.task.cancelled():
            why = "was cut off: this process stops" if self._draining else "lost its lease to another worker"
            _log.warning("[WorkflowOrchestrator] run %s %s; its attempt here was stopped", run_id, why)
        elif error := attempt.task.exception():
            # Its row stays running, and ours: the next renewals find it driven by nobody (recovery.py).
            _log.error("[WorkflowOrchestrator] run %s stumbled and is picked up again", run_id, exc_info=error)
        elif (run := attempt.task.result()) and run.is_settled:
            self._settlements.announce(run)
        if attempt.task.cancelled() or (attempt.task.exception() is None and attempt.task.result() is None):
            self.on_lost(run_id)
        self._wake_one()
        # Those that queue behind it on its thread are said to be free; here it is about the slot.
        # Runs of batches are short, and taken up by several at a time: a statement for each would cost as much as each.
        if self._backlog or (self._backlog_batched and self._room() >= -(-self._batched // _BATCHED_SHARE)):
            self.fill()


async def _ended_by(until: float, tasks: Collection[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """Wait for tasks until a time of `monotonic`; those that have not ended then."""
    if not tasks:
        return set()
    _, late = await asyncio.wait(tasks, timeout=max(until - monotonic(), 0))
    return late


def _ignore(run_id: str) -> None:
    """Nobody asked to be told."""
