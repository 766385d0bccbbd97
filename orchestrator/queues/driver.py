"""The contract of a queue driver, and what it carries.

A message is a wake-up, no more: the rows of runs and steps are the authority. So a driver may lose a message (the
sweeper finds the row), deliver it twice (the second claim gets nothing), late (what is over is dropped), or out of
order (a thread's runs take turns by their rows). What a good driver adds is speed, order by priority, and a bound on
how much one worker takes at once, for runs and for steps each.

    start(run) ──► row, pending ──► push_flow ──► … the driver … ──► handle(message) ──► claim the row ──► attempt
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from orchestrator.errors import InvalidRequestError

__all__ = ["FLOW_QUEUE", "STEP_QUEUE", "Handler", "MessageData", "QueueDriver"]

FLOW_QUEUE = "flow"
STEP_QUEUE = "step"


@dataclass(frozen=True, slots=True)
class MessageData:
    """What travels: which run or step is to be worked on.

    `id` is the run's for a flow and the step's for a step; `name` the workflow's or the step's. Of two messages that
    wait, the one with the higher `priority` goes first. `run_at` is the earliest time, with a zone, or None for now.
    """

    kind: Literal["flow", "step"]
    id: str
    name: str
    queue: str = FLOW_QUEUE
    priority: int = 0
    run_at: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """The message as JSON; `from_json` reads it."""
        return {**asdict(self), "run_at": self.run_at and self.run_at.isoformat()}

    @classmethod
    def from_json(cls, value: object) -> MessageData:
        """The message that `as_json` wrote. Raises `InvalidRequestError`; unknown keys are passed over."""
        if not isinstance(value, Mapping):
            raise InvalidRequestError(f"a queue message takes a JSON object, not {type(value).__name__}")
        kind, run_at = value.get("kind"), value.get("run_at")
        texts = {name: value.get(name) for name in ("id", "name")}
        priority, queue = value.get("priority", 0), value.get("queue", FLOW_QUEUE)
        if kind not in ("flow", "step") or not all(isinstance(text, str) for text in (*texts.values(), queue)):
            raise InvalidRequestError("a queue message takes kind (flow or step), id, name and queue")
        if not isinstance(priority, int) or isinstance(priority, bool):
            raise InvalidRequestError("a queue message's priority takes a whole number")
        try:
            at = None if run_at is None else datetime.fromisoformat(run_at)
        except (TypeError, ValueError):
            at = datetime.min
        if at is not None and at.tzinfo is None:
            raise InvalidRequestError("a queue message's run_at takes a time such as 2026-11-20T10:00:00Z")
        return cls(kind, texts["id"] or "", texts["name"] or "", str(queue), priority, at)


# Works on what a message names, and returns when that is done or turned out not to be needed. Where it raises, the
# driver may deliver the message again, or drop it: the sweeper finds the row.
Handler: TypeAlias = Callable[[MessageData], Awaitable[None]]


@runtime_checkable
class QueueDriver(Protocol):
    """Carries messages from where runs are started to where they are worked on.

    One object serves both ends: pushing works without `start`. A driver is an async context manager if it has
    something to open; `open_orchestrator` then opens and closes it.
    """

    async def push_flow(self, message: MessageData) -> None:
        """Send a message about a run. Where it raises, the run is found by the sweeper."""

    async def push_step(self, message: MessageData) -> None:
        """Send a message about a step."""

    async def start(self, handle: Handler, *, queues: Sequence[str], concurrency: int) -> None:
        """Deliver the messages of these queues: at most `concurrency` about runs at a time, and as many about steps.

        Steps must not wait for runs: what is under way may itself wait for a step. Returns once it delivers. A `handle`
        that raises does not stop it. After `stop` it may be started again.
        """

    async def stop(self) -> None:
        """Deliver nothing more, and return when what was delivered is dealt with."""
