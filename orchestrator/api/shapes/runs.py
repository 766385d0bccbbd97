"""Runs as answers show them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.api.shapes.base import Shape, Time, one_of
from orchestrator.runs.activity import ActivityStatus
from orchestrator.runs.model import Request, RunStatus

__all__ = [
    "AcceptedRun",
    "Activities",
    "ActivityEntry",
    "CheckpointEntry",
    "Checkpoints",
    "Done",
    "FoundRun",
    "Hooked",
    "RunDetail",
    "RunError",
    "RunState",
    "Runs",
    "SentSignal",
    "Wait",
]


class AcceptedRun(Shape):
    """A run that was started, and where to look for it."""

    thread_id: str
    """The thread it is on: the one that was given, else one of its own with the run's id."""
    run_id: str
    """Its id, a UUID. It stays the same over all attempts."""
    status: RunStatus
    """Where it stands."""
    status_url: str
    """Where its thread's newest run is shown; a path on this server."""
    stream_url: str
    """Where the events of its thread's newest run are streamed; a path on this server."""


class Wait(Shape):
    """What a run waits for."""

    interrupt_id: str
    """LangGraph's id of the interrupt; `resume` takes answers by it where there are several."""
    signal: str | None
    """The signal that answers it; null where any does."""
    value: Any
    """What the node gave to `interrupt()`."""


class RunError(Shape):
    """Why a run failed, is tried again, or was cancelled. Secrets are blacked out."""

    type: str
    """The class of the error, with its module: `ValueError`, `httpx.ConnectTimeout`."""
    message: str
    """What it says, the first 2,000 characters."""
    traceback: str | None = None
    """Where it was raised, the last 8,000 characters; missing where no code of the run's raised it."""


class SentSignal(Shape):
    """A signal that was sent to a run."""

    name: str
    """Its name; `resume` is what `POST …/resume` sends."""
    status: Literal["kept", "delivered"]
    """`kept` for a wait to come, or `delivered` to one."""
    interrupt_id: str | None
    """The wait that it was delivered to; null while it is kept."""
    key: str | None
    """The key it was sent under; null where it had none."""
    payload: Any
    """What it says; null where that was left out."""
    created_at: Time
    """When it was sent."""


class RunState(Shape):
    """A run without its input."""

    thread_id: str
    """The thread it is on."""
    run_id: str
    """Its id, a UUID. It stays the same over all attempts."""
    organization_id: str
    """Whose it is: the organization of the token that started it, `default` without tokens."""
    workflow: str
    """The workflow's name."""
    workflow_version: str | None
    """The version of the graph that it was started with; null in runs from before there were versions."""
    status: RunStatus
    """Where it stands."""
    current_activity: str | None
    """The node that began last; null before the first one, and once it is completed."""
    attempt: int
    """How many attempts were begun; 0 while it waits for its first."""
    max_attempts: int
    """How many workers it may lose before it is failed."""
    failures: int
    """How many attempts raised an error; counted anew when a failed run is resumed."""
    losses: int
    """How many attempts lost their worker; counted anew when a failed run is resumed."""
    retry_at: Time | None
    """When a suspended run is tried again; null in any other state."""
    queue: str
    """The queue whose workers take it."""
    priority: int
    """Of the runs that wait in a queue, the one with the highest goes first."""
    start_at: Time | None
    """The time before which it is not begun; null: none."""
    requested: Annotated[str, one_of(Request)] | None
    """What it was asked to do at its next checkpoint: `pause`, or `supersede`: make way for another run on its thread.
    Null: nothing."""
    waiting_for: list[Wait] | None
    """What a waiting run waits for; null in any other state."""
    output: Any
    """The graph's output once it is completed, and what there is of it while it waits; else null, and null in lists."""
    error: RunError | None
    """What ended its last attempt: an error, lost workers, another run on its thread; null: none of these did."""
    checkpointer: str
    """What keeps its checkpoints: `PostgresSaver`, or `MemorySaver`, which does not outlive the server."""
    last_checkpoint_id: str | None
    """Its newest checkpoint as of the end of an attempt; null before the first one."""
    idempotency_key: str | None
    """The key it was started under; null where it had none."""
    parent_run_id: str | None
    """The run it was forked from, the batch that it tries again, or the batch that started it; null: none."""
    batch_id: str | None
    """The batch that started it for one of its documents; null: none."""
    fork_checkpoint_id: str | None
    """The parent's checkpoint that it was forked from; null where it is no fork."""
    created_at: Time
    """When it was accepted."""
    started_at: Time | None
    """When its first attempt was begun; null before that."""
    updated_at: Time
    """When its row changed last."""
    completed_at: Time | None
    """When it was over; null before that."""
    left_at: Time | None = None
    """When it was exported, to be driven elsewhere until it is imported again; missing where it was not."""
    signals: list[SentSignal] = Field(default_factory=list)
    """What was sent to it, oldest first; missing where nothing was, and in lists."""


class RunDetail(RunState):
    """A run with its input."""

    input: Any
    """What it was started with: `{"role", "task"}` for the short form, the update of the state for a fork."""


class FoundRun(RunState):
    """A run, and where to look for it."""

    status_url: str
    """Where its thread's newest run is shown; a path on this server."""
    stream_url: str
    """Where the events of its thread's newest run are streamed; a path on this server."""
    input: Any = None
    """What it was started with; only in the answer of `POST /api/invoke`, which waits."""


class Runs(Shape):
    """A page of runs, newest first."""

    runs: list[RunState]
    """The runs, without their outputs."""
    next_cursor: str | None
    """The `cursor` of the page after it; null on the last one."""


class ActivityEntry(Shape):
    """One execution of a node."""

    activity: str
    """The node's name."""
    attempt: int
    """The attempt in which it was, from 1."""
    status: Annotated[str, one_of(ActivityStatus)]
    """How it went; `interrupted`: it waits for a signal, `lost`: its worker was."""
    task_id: str
    """LangGraph's id of the task; the same again where the node is repeated from the same checkpoint."""
    error: str | None
    """What it raised; null where it raised nothing."""
    started_at: Time
    """When it began."""
    ended_at: Time | None
    """When it ended; null while it runs."""


class Activities(Shape):
    """What a run went through."""

    activities: list[ActivityEntry]
    """Oldest first."""


class CheckpointEntry(Shape):
    """One checkpoint of a run."""

    checkpoint_id: str
    """Its id, to be forked from."""
    parent_checkpoint_id: str | None
    """The one before it; null for a thread's first."""
    created_at: Time
    """When it was saved."""
    step: int
    """LangGraph's count of steps: -1 for the input, 0 for the first nodes."""
    source: str
    """What made it: `input`, `loop` (a step of the graph), `update` or `fork`."""
    next: list[str]
    """The nodes that run after it; empty at the end."""
    values: Any
    """The state as it stood, as JSON."""
    workflow_version: str | None
    """The version of the graph that made it; null where it had none."""


class Checkpoints(Shape):
    """A run's checkpoints."""

    checkpoints: list[CheckpointEntry]
    """Newest first."""


class Hooked(Shape):
    """The answer was taken."""

    status: Literal["accepted"]
    """Always this."""


class Done(Shape):
    """The message was dealt with, or needed nothing."""

    status: Literal["done"]
    """Always this."""
