"""What the tests of queues share: a driver of each kind, and a handler that remembers."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from checkpointer import CheckpointerSettings
from orchestrator import MessageData, OrchestratorSettings, QueueDriver
from orchestrator.queues.local import LocalQueue
from orchestrator.queues.postgres import PostgresQueue
from tests.graphs import Gates

__all__ = ["DRIVERS", "EXAMPLE", "Drivers", "Handled", "Setup", "memory_queue", "message"]

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "memory_queue.py"
DRIVERS = ["local", "postgres", "example"]
SCHEMA = "workflow_checkpoints"


def memory_queue() -> QueueDriver:
    """A driver as in the documentation."""
    spec = importlib.util.spec_from_file_location("memory_queue", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    driver: QueueDriver = module.MemoryQueue()
    return driver


@dataclass
class Drivers:
    """Makes drivers of one kind. Two of a kind that `crosses` processes carry each other's messages."""

    kind: str
    dsn: str = ""

    @property
    def crosses(self) -> bool:
        return self.kind == "postgres"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[QueueDriver]:
        """A driver, stopped at the end."""
        async with AsyncExitStack() as stack:
            driver: QueueDriver
            if self.kind == "postgres":
                driver = await stack.enter_async_context(PostgresQueue(self.dsn, SCHEMA))
            else:
                driver = LocalQueue() if self.kind == "local" else memory_queue()
            stack.push_async_callback(driver.stop)
            yield driver


@dataclass
class Handled:
    """A handler that remembers what it was given; with gates, each message waits at the one of its id."""

    gates: Gates | None = None
    messages: list[MessageData] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    async def __call__(self, message: MessageData) -> None:
        self.messages.append(message)
        self.times.append(datetime.now(UTC))
        if self.gates is not None:
            await self.gates.wait(message.id)
        self.done.append(message.id)

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.messages]


@dataclass
class Setup:
    """Orchestrators whose runs go through a driver of one kind, each with a store of its own kind."""

    kind: str
    checkpointer: CheckpointerSettings

    def options(self, **settings: Any) -> dict[str, Any]:
        """What `open_orchestrator` takes."""
        given: dict[str, Any] = {"drain_timeout": 2.0, **settings}
        if self.kind == "postgres":
            given = {**self.checkpointer.model_dump(exclude_unset=True), **given}
        if self.kind == "example":
            return {"settings": OrchestratorSettings(**given), "queue": memory_queue()}
        return {"settings": OrchestratorSettings(**given, queue_driver=self.kind)}


def message(id: str, *, queue: str = "flow", **values: Any) -> MessageData:
    """A message about a run, to the queue of runs."""
    return MessageData("flow", id, "chain", queue, **values)
