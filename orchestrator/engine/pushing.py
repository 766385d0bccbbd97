"""How the engine tells a queue of work, whatever carries it (`queues/`)."""

from __future__ import annotations

from typing import Protocol

from orchestrator.runs.model import Run
from orchestrator.runs.steps import Step

__all__ = ["Pusher"]


class Pusher(Protocol):
    """Wakes a worker up. Where it raises, the sweeper comes back to the run or step later."""

    async def push_run(self, run: Run) -> None:
        """Say that a run is pending."""

    async def push_step(self, step: Step) -> None:
        """Say that a step is pending."""
