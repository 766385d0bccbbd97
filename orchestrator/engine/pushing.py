"""How the engine tells a queue of work, whatever carries it (`queues/`)."""

from __future__ import annotations

import logging
from typing import Protocol

from orchestrator.runs.model import Run
from orchestrator.runs.steps import Step
from orchestrator.runs.store import RunStore

__all__ = ["Pusher", "push_run"]

_log = logging.getLogger(__name__)


class Pusher(Protocol):
    """Wakes a worker up. Where it raises, the sweeper comes back to the run or step later."""

    async def push_run(self, run: Run) -> None:
        """Say that a run is pending."""

    async def push_step(self, step: Step) -> None:
        """Say that a step is pending."""


async def push_run(pusher: Pusher | None, store: RunStore, run: Run) -> None:
    """Tell the queue of a pending run, where its row in `store` has not done so already."""
    if pusher is None or store.enqueues:
        return
    try:
        await pusher.push_run(run)
    except Exception:
        # It is in the database: the sweeper comes back to it.
        _log.exception("[WorkflowOrchestrator] run %s could not be pushed yet", run.run_id)
