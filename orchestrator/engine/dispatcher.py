"""Whose turn it is: starts runs in this process, one at a time per thread, up to a bound in all.

    submit ──► lane of the thread (oldest first) ──► a slot ──► claim ──► attempt ──► settled: announced
                     ▲                                            │            └────► handed back: to the lane
                     └────────── not its turn yet: parked ◄───────┘

The store decides whether a claim succeeds; a lane only keeps this process from asking for what it knows to be
futile. A parked lane asks again when it is nudged: by the recovery tick, or by a run that joins it.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from langgraph.runtime import RunControl

from orchestrator.engine.executor import Executor
from orchestrator.engine.settlements import Settlements
from orchestrator.runs.model import Run, RunStatus

__all__ = ["MAX_ACTIVE_RUNS", "Dispatcher"]

_log = logging.getLogger(__name__)

# Runs under way at once in one process; the others stay pending.
MAX_ACTIVE_RUNS = 1000


@dataclass(slots=True)
class _Attempt:
    """An attempt under way."""

    run: Run
    control: RunControl
    task: asyncio.Task[Run | None]


@dataclass(slots=True)
class _Lane:
    """The runs of one thread that this process holds, oldest first."""

    waiting: list[tuple[datetime, str, Run]] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    nudged: asyncio.Event = field(default_factory=asyncio.Event)
    attempt: _Attempt | None = None
    task: asyncio.Task[None] | None = None

    def push(self, run: Run) -> None:
        self.known.add(run.run_id)
        heapq.heappush(self.waiting, (run.created_at, run.run_id, run))

    def pop(self) -> Run:
        return heapq.heappop(self.waiting)[2]


class Dispatcher:
    """Drives the runs that `owner`, this process, holds."""

    def __init__(self, executor: Executor, settlements: Settlements, owner: int) -> None:
        self._executor = executor
        self._settlements = settlements
        self._owner = owner
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._slots = asyncio.Semaphore(MAX_ACTIVE_RUNS)
        self._draining = False

    def submit(self, run: Run) -> None:
        """Start a pending run of ours as soon as it is its turn. Does nothing with one that is here already."""
        if self._draining or run in self:
            return
        lane = self._lanes.get(run.thread_key)
        if lane is None:
            lane = self._lanes[run.thread_key] = _Lane()
            lane.task = asyncio.create_task(self._drive(run.thread_key, lane), name=f"thread {run.thread_id}")
        lane.push(run)
        lane.nudged.set()

    def __contains__(self, run: Run) -> bool:
        """Whether this process drives the run."""
        lane = self._lanes.get(run.thread_key)
        return lane is not None and run.run_id in lane.known

    def known(self) -> set[str]:
        """The runs that this process drives."""
        return {run_id for lane in self._lanes.values() for run_id in lane.known}

    def active(self) -> Mapping[str, int]:
        """The attempts under way: run id → epoch."""
        return {a.run.run_id: a.run.epoch for lane in self._lanes.values() if (a := lane.attempt)}

    def nudge(self) -> None:
        """Let every parked lane ask again."""
        for lane in self._lanes.values():
            lane.nudged.set()

    def revoke(self, run_ids: Collection[str]) -> None:
        """Cut off attempts whose runs are no longer ours; they write nothing more to their rows."""
        for lane in self._lanes.values():
            if lane.attempt is not None and lane.attempt.run.run_id in run_ids:
                lane.attempt.task.cancel()

    def request_drain(self) -> None:
        """Start nothing more, and let every attempt stop at its next checkpoint."""
        self._draining = True
        for lane in self._lanes.values():
            if lane.attempt is not None:
                lane.attempt.control.request_drain()
            elif lane.task is not None:
                lane.task.cancel()

    async def drain(self, timeout_s: float) -> int:
        """Wait for the attempts to stop; cut off those that take longer and return how many they were."""
        self.request_drain()
        tasks = {lane.task for lane in self._lanes.values() if lane.task is not None}
        if not tasks:
            return 0
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        return len(late)

    async def _drive(self, key: tuple[str, str], lane: _Lane) -> None:
        try:
            while lane.waiting and not self._draining:
                lane.nudged.clear()
                if not await self._advance(lane, lane.pop()):
                    await lane.nudged.wait()
        except Exception:
            # Its runs stay ours in the store; the recovery tick finds them driven by nobody and submits them.
            _log.exception("[WorkflowOrchestrator] thread %s stumbled and will be picked up again", key[1])
        finally:
            if self._lanes.get(key) is lane:
                del self._lanes[key]

    async def _advance(self, lane: _Lane, run: Run) -> bool:
        """Take one run a step on; False where it is not its turn."""
        async with self._slots:
            claimed = await self._executor.claim(run)
            latest = await (self._attempt(lane, claimed) if claimed else self._executor.reread(run))
        if latest is not None and latest.status is RunStatus.PENDING and latest.lease_owner == self._owner:
            lane.push(latest)
            return claimed is not None
        lane.known.discard(run.run_id)
        if latest is not None and latest.is_settled:
            self._settlements.announce(latest)
        return True

    async def _attempt(self, lane: _Lane, run: Run) -> Run | None:
        control = RunControl()
        task = asyncio.create_task(self._executor.execute(run, control), name=f"run {run.run_id}")
        lane.attempt = _Attempt(run, control, task)
        if self._draining:
            control.request_drain()
        try:
            await asyncio.wait({task})
        finally:
            lane.attempt = None
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if task.cancelled():
            _log.warning(
                "[WorkflowOrchestrator] run %s was taken over by another server; its attempt here was stopped",
                run.run_id,
            )
            return None
        return task.result()
