"""One attempt of a run, as a pipeline: load → run the graph → settle how it ended → write the end → report.

Claiming comes before (`dispatcher.py`). How an attempt ends:

    graph returns, nothing left to do   → completed
    graph stops with tasks left over    → waiting      interrupt(), or a breakpoint
    graph raises                        → suspended until the retry, or failed
    it lacks the node to go on at       → suspended; another worker may have it
    a pause was asked for               → paused       at the next checkpoint
    another run wants the thread        → cancelled    at the next checkpoint
    this process stops                  → pending, free for any server; not counted as an attempt
    checkpoints could not be saved      → pending, tried again once the database answers
    the run was taken from us           → nothing is written; the fence has refused what was
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl
from langgraph.types import StreamMode

from checkpointer.errors import SaverUnavailableError, StaleWriterError
from orchestrator.engine.activities import ActivityRecorder, ActivityTrail
from orchestrator.engine.attempt import Client, under_way
from orchestrator.engine.graphs import CompiledWorkflow, GraphRegistry
from orchestrator.engine.loading import Begin, LostRunError, Rest, config_of, describe_wait, load
from orchestrator.engine.placing import MEMORY, place
from orchestrator.engine.points import reached
from orchestrator.engine.pushing import Pusher
from orchestrator.engine.retry import override, pause_before_retry
from orchestrator.engine.showing import showing
from orchestrator.errors import DatabaseUnavailableError, MissingNodeError, ThreadLostError
from orchestrator.logs import about_run
from orchestrator.metrics import RUN_SECONDS, RUNS
from orchestrator.runs.failure import describe_failure, superseded
from orchestrator.runs.jsonable import to_json
from orchestrator.runs.model import Request, Run, RunStatus
from orchestrator.runs.signals import match_signals
from orchestrator.runs.store import Outcome, RunStore
from orchestrator.tracing import attempting, with_activities

__all__ = ["Executor"]

T = TypeVar("T")

_log = logging.getLogger(__name__)
_RETRY_EVERY_S = 1.0
_LOOK_FOR_NODE_EVERY_S = 15.0


@dataclass(slots=True)
class _Progress:
    """What the stream has shown so far."""

    trail: ActivityTrail
    output: Any = None
    checkpoint_id: str | None = None
    left_over: bool = False
    shows_saves: bool = False
    saver: str = ""

    def take(self, mode: str, event: Any) -> None:
        if mode == "values":
            self.output = event
        elif mode == "tasks":
            self.trail.task(event)
        else:
            self.checkpoint_id = event["config"]["configurable"].get("checkpoint_id")
            self.left_over = bool(event["next"])
            self.trail.checkpoint(event)
            if self.shows_saves and self.checkpoint_id is not None:
                self.trail.saved(self.checkpoint_id, event["metadata"])


@dataclass(frozen=True, slots=True)
class Executor:
    """Runs claimed attempts and keeps their rows. `secrets` are blacked out of recorded errors."""

    store: RunStore
    graphs: GraphRegistry
    saver: BaseCheckpointSaver[Any]
    recorder: ActivityRecorder
    secrets: Sequence[str] = field(default=(), repr=False)
    pusher: Pusher | None = None
    client: Client | None = None

    async def execute(self, run: Run, control: RunControl) -> Run | None:
        """Run a claimed attempt to its end and return the row; None where the run is no longer ours."""
        with about_run(run), attempting(run) as span:
            stored = await self._execute(run, control)
            if span is not None:
                span.ended(stored)
        return stored

    async def _execute(self, run: Run, control: RunControl) -> Run | None:
        _log.info(
            "[WorkflowOrchestrator] run %s of %s on thread %s started (attempt %d)",
            run.run_id,
            run.workflow_type,
            run.thread_id,
            run.attempt,
        )
        workflow = self.graphs[run.workflow_type]
        trail = ActivityTrail(run, self.recorder, workflow.graph.nodes, self.secrets)
        # The saver tells what it has committed; LangGraph's own in memory does not.
        progress = _Progress(trail, shows_saves=isinstance(self.saver, InMemorySaver), saver=run.saver)
        try:
            outcome = await self._attempt(run, workflow, control, progress)
            reached("attempted", run.run_id)
            stored = await self._finish(run, outcome, progress)
            stored = stored and replace(stored, saver=progress.saver)
        except (StaleWriterError, LostRunError):
            stored = None
        reached("finished", run.run_id)
        _report(run, stored)
        return stored

    async def _attempt(self, run: Run, workflow: CompiledWorkflow, control: RunControl, progress: _Progress) -> Outcome:
        """Load and run the graph; how it ended. Raises `StaleWriterError` or `LostRunError` for a lost run."""
        if run.requested is not None:
            return _stopped(run.requested, progress)
        config = config_of(run, workflow)
        try:
            with under_way(run, self.store, self.pusher, self.client):
                progress.saver = await place(run, self.saver, self.store)
                begin = await load(run, workflow, workflow.saver(self.saver), self.store, config)
                reached("loaded", run.run_id)
                if isinstance(begin, Rest):
                    return Outcome(
                        RunStatus.WAITING,
                        output=begin.output,
                        awaiting=begin.awaiting,
                        last_checkpoint_id=begin.checkpoint_id,
                        seen_signals=run.signal_count,
                    )
                with showing(progress.trail, config) as shown:
                    await _stream(workflow, begin, with_activities(shown, self.secrets), control, progress)
            return await self._ended(run, workflow, progress)
        except (StaleWriterError, LostRunError):
            raise
        except GraphDrained as exc:
            return _stopped(exc.reason, progress)
        except (SaverUnavailableError, DatabaseUnavailableError) as exc:
            _log.warning("[WorkflowOrchestrator] run %s will be tried again: %s", run.run_id, exc)
            return Outcome(RunStatus.PENDING, current_activity=progress.trail.current)
        except MissingNodeError as exc:
            return self._failed(run, exc, progress, _LOOK_FOR_NODE_EVERY_S)
        except ThreadLostError as exc:
            return self._failed(run, exc, progress, None)
        except asyncio.CancelledError as exc:
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            # Nobody cancelled this attempt: a node did so to itself.
            return self._failed(run, exc, progress, None)
        except Exception as exc:
            policy = override(workflow.retry, run.retry)
            return self._failed(run, exc, progress, pause_before_retry(policy, exc, run.failures + 1))

    async def _ended(self, run: Run, workflow: CompiledWorkflow, progress: _Progress) -> Outcome:
        """The graph came to its end, or stopped for an answer."""
        waits = [describe_wait(interrupt["id"], interrupt["value"]) for interrupt in progress.trail.interrupts]
        graph = workflow.graph
        has_breakpoints = graph.interrupt_before_nodes or graph.interrupt_after_nodes
        if not waits and not progress.left_over and has_breakpoints:
            snapshot = await graph.aget_state(config_of(run, workflow))
            progress.left_over = bool(snapshot.next)
        waiting = bool(waits) or progress.left_over
        seen = run.signal_count
        if waits and seen:
            names = {wait["interruptId"]: wait["signal"] or "*" for wait in waits}
            # Come early, it was kept for this: the next attempt hands it over.
            seen = -1 if match_signals(names, await self.store.signals(run.run_id)) else seen
        return Outcome(
            RunStatus.WAITING if waiting else RunStatus.COMPLETED,
            output=to_json(progress.output),
            current_activity=progress.trail.current if waiting else None,
            last_checkpoint_id=progress.checkpoint_id,
            awaiting=waits if waiting else None,
            seen_signals=seen,
        )

    def _failed(self, run: Run, error: BaseException, progress: _Progress, retry_after_s: float | None) -> Outcome:
        if retry_after_s is not None:
            _log.warning(
                "[WorkflowOrchestrator] run %s failed and is retried in %.1f s: %s",
                run.run_id,
                retry_after_s,
                type(error).__name__,
            )
        return Outcome(
            RunStatus.FAILED if retry_after_s is None else RunStatus.SUSPENDED,
            error=describe_failure(error, self.secrets),
            current_activity=progress.trail.current,
            last_checkpoint_id=progress.checkpoint_id,
            retry_after_s=retry_after_s,
            failed=not isinstance(error, MissingNodeError),
        )

    async def _finish(self, run: Run, outcome: Outcome, progress: _Progress) -> Run | None:
        told = await _until_stored("finishing a run", lambda: self.recorder.last(progress.trail))
        if outcome.last_checkpoint_id is None and progress.saver == MEMORY:
            # With PostgreSQL the statement that ends the attempt looks it up.
            saver = self.graphs[run.workflow_type].saver(self.saver)
            head = await saver.aget_tuple({"configurable": {"thread_id": run.checkpoint_thread_id}})
            outcome = replace(outcome, last_checkpoint_id=head and head.config["configurable"]["checkpoint_id"])
        try:
            return await _until_stored("finishing a run", lambda: self.store.finish(run, outcome, told))
        except Exception as exc:
            # The end could not be written as it was, such as an output past what a row can hold.
            _log.exception("[WorkflowOrchestrator] run %s could not be finished", run.run_id)
            failed = self._failed(run, exc, progress, None)
            return await _until_stored("finishing a run", lambda: self.store.finish(run, failed))


async def _stream(
    workflow: CompiledWorkflow, begin: Begin, config: RunnableConfig, control: RunControl, progress: _Progress
) -> None:
    # What the checkpoints tell is only asked for where an earlier attempt has left something: it costs a look at
    # every channel after every step.
    modes: list[StreamMode] = ["tasks", "values"]
    if begin.resumed or progress.shows_saves:
        modes.append("checkpoints")
    events = workflow.graph.astream(
        begin.input,
        config,
        stream_mode=modes,
        output_keys=workflow.graph.output_channels,
        durability="sync",
        control=control,
    )
    async for mode, event in events:
        progress.take(mode, event)


def _stopped(reason: str, progress: _Progress) -> Outcome:
    """The attempt stopped at a checkpoint because it was asked to."""
    activity, checkpoint_id = progress.trail.current, progress.checkpoint_id
    if reason == Request.PAUSE:
        return Outcome(RunStatus.PAUSED, current_activity=activity, last_checkpoint_id=checkpoint_id)
    if reason == Request.SUPERSEDE:
        return Outcome(
            RunStatus.CANCELLED, error=superseded(), current_activity=activity, last_checkpoint_id=checkpoint_id
        )
    return Outcome(RunStatus.PENDING, current_activity=activity, last_checkpoint_id=checkpoint_id)


def _report(run: Run, stored: Run | None) -> None:
    if stored is None:
        _log.warning(
            "[WorkflowOrchestrator] run %s lost its lease to another worker; nothing of it is written here any more",
            run.run_id,
        )
        return
    if stored.status is RunStatus.PENDING:
        _log.info("[WorkflowOrchestrator] run %s handed back at a checkpoint", run.run_id)
        return
    RUNS.labels(workflow=run.workflow_type, status=stored.status).inc()
    elapsed_s = (stored.updated_at - (stored.started_at or stored.created_at)).total_seconds()
    if stored.is_final:
        RUN_SECONDS.labels(workflow=run.workflow_type).observe(elapsed_s)
    _log.log(
        logging.ERROR if stored.status is RunStatus.FAILED else logging.INFO,
        "[WorkflowOrchestrator] run %s %s after %.2f s%s",
        run.run_id,
        stored.status,
        elapsed_s,
        f": {stored.error['type']}: {stored.error['message']}" if stored.error else "",
    )


async def _until_stored(operation: str, send: Callable[[], Awaitable[T]]) -> T:
    """Send a transition until the database takes it: a run must not be lost because its end could not be noted."""
    said = False
    while True:
        try:
            return await send()
        except DatabaseUnavailableError as exc:
            if not said:
                _log.warning("[WorkflowOrchestrator] %s waits for the database: %s", operation, exc)
                said = True
            await asyncio.sleep(_RETRY_EVERY_S)
