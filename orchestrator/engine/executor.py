"""One attempt of a run, as a pipeline: claim → run the graph → put its end into the row → report.

Whether the graph starts fresh or goes on from its last checkpoint is LangGraph's to see: the checkpoint carries
the run's id in its metadata, and meeting its own id again it resumes. So every attempt is the same call.

    graph returns, nothing left to do   → completed
    graph stops with tasks left over    → waiting      interrupt(), or a breakpoint
    graph raises                        → failed
    drain was asked for                 → pending, free for any server; not counted as an attempt
    checkpoints could not be saved      → pending, still ours, tried again once the database answers
    the run was taken from us           → nothing is written
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl

from checkpointer.errors import SaverUnavailableError
from orchestrator.engine.activities import ActivityRecorder, ActivityTrail
from orchestrator.engine.graphs import CompiledGraph, GraphRegistry
from orchestrator.errors import DatabaseUnavailableError
from orchestrator.metrics import RUN_SECONDS, RUNS
from orchestrator.runs.failure import describe_failure
from orchestrator.runs.jsonable import to_json
from orchestrator.runs.model import Run, RunStatus
from orchestrator.runs.store import Outcome, RunStore

__all__ = ["Executor"]

T = TypeVar("T")

_log = logging.getLogger(__name__)
_RETRY_EVERY_S = 1.0


@dataclass(slots=True)
class _Progress:
    """What the stream has shown so far."""

    trail: ActivityTrail
    output: Any = None
    checkpoint_id: str | None = None
    left_over: list[str] = field(default_factory=list)

    def take(self, mode: str, event: Any) -> None:
        if mode == "values":
            self.output = event
        elif mode == "tasks":
            self.trail.task(event)
        else:
            self.checkpoint_id = event["config"]["configurable"].get("checkpoint_id")
            self.left_over = event["next"]
            self.trail.checkpoint(event)


class Executor:
    """Runs attempts against `graphs` and keeps their rows. `secrets` are blacked out of recorded errors."""

    def __init__(
        self,
        store: RunStore,
        graphs: GraphRegistry,
        recorder: ActivityRecorder,
        *,
        secrets: Sequence[str] = (),
    ) -> None:
        self._store = store
        self._graphs = graphs
        self._recorder = recorder
        self._secrets = secrets

    async def claim(self, run: Run) -> Run | None:
        """Start an attempt, or None while it is not the run's turn."""
        return await _until_stored("claiming a run", lambda: self._store.claim(run))

    async def reread(self, run: Run) -> Run:
        """The row as it is now."""
        return await _until_stored("reading a run", lambda: self._store.get(run.run_id))

    async def execute(self, run: Run, control: RunControl) -> Run | None:
        """Run a claimed attempt to its end and return the row; None where the run is no longer ours."""
        _log.info(
            "[WorkflowOrchestrator] run %s of %s on thread %s started (attempt %d of %d)",
            run.run_id,
            run.workflow_type,
            run.thread_id,
            run.attempt,
            run.max_attempts,
        )
        graph = self._graphs[run.workflow_type]
        progress = _Progress(ActivityTrail(run, self._recorder, graph.nodes))
        try:
            stored = await self._attempt(graph, run, control, progress)
        except Exception as exc:
            # The end of the attempt could not be written as it was, such as an output past what a row can hold.
            _log.exception("[WorkflowOrchestrator] run %s could not be finished", run.run_id)
            stored = await self._finish(run, self._failed(exc, progress))
        finally:
            self._recorder.forget(run)
        self._report(run, stored)
        return stored

    async def _attempt(self, graph: CompiledGraph, run: Run, control: RunControl, progress: _Progress) -> Run | None:
        try:
            await _stream(graph, run, control, progress)
        except GraphDrained:
            return await self._hand_back(run, to=None, refund=True)
        except SaverUnavailableError as exc:
            if run.attempt >= run.max_attempts:
                return await self._finish(run, self._failed(exc, progress))
            _log.warning("[WorkflowOrchestrator] run %s will be tried again: %s", run.run_id, exc)
            return await self._hand_back(run, to=run.lease_owner, refund=False)
        except asyncio.CancelledError as exc:
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            # Nobody cancelled this attempt: a node did so to itself.
            return await self._finish(run, self._failed(exc, progress))
        except Exception as exc:
            return await self._finish(run, self._failed(exc, progress))
        return await self._finish(run, _ended(progress))

    def _failed(self, error: BaseException, progress: _Progress) -> Outcome:
        return Outcome(
            RunStatus.FAILED,
            error=describe_failure(error, self._secrets),
            current_activity=progress.trail.current,
            last_checkpoint_id=progress.checkpoint_id,
        )

    async def _finish(self, run: Run, outcome: Outcome) -> Run | None:
        return await _until_stored("finishing a run", lambda: self._store.finish(run, outcome))

    async def _hand_back(self, run: Run, *, to: int | None, refund: bool) -> Run | None:
        return await _until_stored("handing a run back", lambda: self._store.release(run, to=to, refund=refund))

    def _report(self, run: Run, stored: Run | None) -> None:
        if stored is None:
            _log.warning(
                "[WorkflowOrchestrator] run %s was taken over by another server; its end here is dropped",
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


async def _stream(graph: CompiledGraph, run: Run, control: RunControl, progress: _Progress) -> None:
    events = graph.astream(
        run.input,
        {"configurable": {"thread_id": run.checkpoint_thread_id}, "metadata": {"run_id": run.run_id}},
        stream_mode=["tasks", "values", "checkpoints"],
        output_keys=graph.output_channels,
        durability="sync",
        control=control,
    )
    async for mode, event in events:
        progress.take(mode, event)


def _ended(progress: _Progress) -> Outcome:
    waiting = bool(progress.left_over)
    return Outcome(
        RunStatus.WAITING if waiting else RunStatus.COMPLETED,
        output=to_json(progress.output),
        current_activity=progress.trail.current if waiting else None,
        last_checkpoint_id=progress.checkpoint_id,
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
