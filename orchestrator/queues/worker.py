"""Takes messages from a driver and works on them, here or through a proxy; and tells the driver of work."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TypeAlias

from orchestrator.engine.service import Orchestrator
from orchestrator.errors import QueueError, RunNotFoundError, StepNotFoundError
from orchestrator.queues.driver import MessageData, QueueDriver
from orchestrator.runs.model import Run
from orchestrator.runs.steps import Step

__all__ = ["DriverPusher", "Proxy", "function_proxy", "installed_driver", "message_of_run", "message_of_step"]

_log = logging.getLogger(__name__)
ENTRY_POINTS = "holdfast.queues"

# Reaches the code that a message is for, and returns when the attempt has ended.
Proxy: TypeAlias = Callable[[MessageData], Awaitable[None]]


def function_proxy(orchestrator: Orchestrator) -> Proxy:
    """Work on messages in this process."""

    async def handle(message: MessageData) -> None:
        try:
            if message.kind == "step":
                await orchestrator.work_step(message.id)
            else:
                await orchestrator.work_run(message.id)
        except (RunNotFoundError, StepNotFoundError) as exc:
            _log.warning("[WorkflowOrchestrator] a message was dropped: %s", exc)

    return handle


def message_of_run(run: Run) -> MessageData:
    """What wakes a worker up for a run."""
    return MessageData("flow", run.run_id, run.workflow_type, run.queue, run.priority, run.start_at)


def message_of_step(step: Step) -> MessageData:
    """What wakes a worker up for a step."""
    return MessageData("step", step.step_id, step.name, step.queue, step.priority, step.retry_at)


@dataclass(frozen=True, slots=True)
class DriverPusher:
    """Tells a driver of work, for the engine."""

    driver: QueueDriver

    async def push_run(self, run: Run) -> None:
        """Send a message about a run."""
        await self.driver.push_flow(message_of_run(run))

    async def push_step(self, step: Step) -> None:
        """Send a message about a step."""
        await self.driver.push_step(message_of_step(step))


def installed_driver(name: str, known: Sequence[str]) -> QueueDriver:
    """The driver that a package offers as the entry point `name` of the group `holdfast.queues`.

    The entry point is called without arguments. Raises `QueueError`.
    """
    found = [entry for entry in entry_points(group=ENTRY_POINTS) if entry.name == name]
    if not found:
        offered = sorted(entry.name for entry in entry_points(group=ENTRY_POINTS))
        raise QueueError(f"QUEUE_DRIVER={name} is not installed; there is: {', '.join([*known, *offered])}")
    try:
        driver = found[0].load()()
    except Exception as exc:
        raise QueueError(f"QUEUE_DRIVER={name} can't be used: {exc}") from exc
    if not isinstance(driver, QueueDriver):
        raise QueueError(f"QUEUE_DRIVER={name} made a {type(driver).__qualname__}, which is no queue driver")
    return driver
