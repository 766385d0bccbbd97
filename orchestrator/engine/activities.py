"""Follows an attempt's activities through LangGraph's stream: log lines, metrics, and the row's current activity.

The row is updated for all runs together a few times a second, never on the path of a node: `current_activity` is
there to be looked at, and nothing rests on it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from time import perf_counter
from typing import Any

from orchestrator.engine.ticker import Ticker
from orchestrator.metrics import ACTIVITY_SECONDS
from orchestrator.runs.model import Run
from orchestrator.runs.store import RunStore

__all__ = ["ActivityRecorder", "ActivityTrail"]

_log = logging.getLogger(__name__)
_FLUSH_EVERY_S = 0.25


class ActivityRecorder:
    """Collects what each run is doing and writes it for all of them in one statement."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._unwritten: dict[str, tuple[int, str]] = {}
        self._ticker = Ticker("recording activities", self.flush, every_s=_FLUSH_EVERY_S)

    def start(self) -> None:
        """Begin writing in the background."""
        self._ticker.start()

    async def stop(self) -> None:
        """Stop writing."""
        await self._ticker.stop()

    def note(self, run: Run, activity: str) -> None:
        """Remember what `run` is doing now; does not wait."""
        self._unwritten[run.run_id] = (run.epoch, activity)

    def forget(self, run: Run) -> None:
        """Drop what was not written yet: the attempt is over."""
        self._unwritten.pop(run.run_id, None)

    async def flush(self) -> None:
        """Write what was noted since the last time."""
        if self._unwritten:
            batch, self._unwritten = self._unwritten, {}
            await self._store.record_activities(batch)


class ActivityTrail:
    """One attempt's activities, from the events of LangGraph's `tasks` and `checkpoints` streams."""

    def __init__(self, run: Run, recorder: ActivityRecorder, names: Collection[str]) -> None:
        self._run = run
        self._recorder = recorder
        self._names = names
        self._started: dict[str, float] = {}
        self._done_before: set[str] = set()
        self.current: str | None = None

    def checkpoint(self, event: Mapping[str, Any]) -> None:
        """Learn which of the next step's tasks an earlier attempt has finished; they will not run again."""
        self._done_before = {task["id"] for task in event["tasks"] if "result" in task}

    def task(self, event: Mapping[str, Any]) -> None:
        """Record that a task started or ended."""
        if "triggers" not in event:
            self._ended(event)
        elif event["id"] not in self._done_before:
            self._begun(event["id"], event["name"])

    def _begun(self, task_id: str, activity: str) -> None:
        self._started[task_id] = perf_counter()
        self.current = activity
        self._recorder.note(self._run, activity)
        _log.info("[WorkflowOrchestrator] run %s activity %s started", self._run.run_id, activity)

    def _ended(self, event: Mapping[str, Any]) -> None:
        started = self._started.pop(event["id"], None)
        if started is None:
            return
        elapsed_s = perf_counter() - started
        how = "failed" if event["error"] else "interrupted" if event["interrupts"] else "finished"
        label = event["name"] if event["name"] in self._names else "other"
        ACTIVITY_SECONDS.labels(workflow=self._run.workflow_type, activity=label).observe(elapsed_s)
        _log.info(
            "[WorkflowOrchestrator] run %s activity %s %s in %.2f s",
            self._run.run_id,
            event["name"],
            how,
            elapsed_s,
        )
