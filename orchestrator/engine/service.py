"""`Orchestrator`: start runs, look at them, wait for them, and tell them what to do.

async with open_orchestrator({"agent": builder}) as orchestrator:
    run = await orchestrator.start_and_wait("agent", {"task": "…"})
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import RetryPolicy

from orchestrator.engine.activities import ActivityRecorder
from orchestrator.engine.children import Children
from orchestrator.engine.dispatcher import Dispatcher
from orchestrator.engine.executor import Executor
from orchestrator.engine.forking import find_checkpoint
from orchestrator.engine.graphs import GraphRegistry
from orchestrator.engine.points import reached
from orchestrator.engine.pushing import push_run
from orchestrator.engine.reading import Reading
from orchestrator.engine.recovery import Recovery
from orchestrator.engine.retry import retry_numbers
from orchestrator.engine.settlements import Settlements
from orchestrator.engine.step_runner import StepRunner
from orchestrator.engine.work import Work
from orchestrator.errors import (
    CheckpointNotFoundError,
    ClosingError,
    DatabaseUnavailableError,
    InvalidRequestError,
)
from orchestrator.runs.failure import spellings
from orchestrator.runs.jsonable import check_payload
from orchestrator.runs.model import (
    STEP_SIGNAL,
    Json,
    Run,
    RunStatus,
    check_identifier,
    check_organization,
    check_priority,
    check_queue,
    check_start,
    new_run_id,
)
from orchestrator.runs.signals import RESUME_SIGNAL, NewSignal
from orchestrator.runs.store import Created, IfBusy, NewRun, RunStore
from orchestrator.settings import DEFAULT_ORGANIZATION, OrchestratorSettings
from orchestrator.tracing import caller

__all__ = ["Orchestrator"]

_log = logging.getLogger(__name__)
_RELEASE_WITHIN_S = 3.0
# A run that ends is announced, here and to other processes; asking the store now and then is for lost notices.
_POLL_S = 5.0
DEFAULT_QUEUE = "flow"


class Orchestrator(Reading):
    """Runs graphs durably. Made by `open_orchestrator`.

    Methods that name a run take `organization_id` to keep to the runs of one; by default any is found. They raise
    `RunNotFoundError`, and `DatabaseUnavailableError` where the store does not answer in time.
    """

    def __init__(
        self,
        *,
        store: RunStore,
        saver: BaseCheckpointSaver[Any],
        graphs: GraphRegistry,
        settings: OrchestratorSettings,
        owner: int,
        work: Work = Work(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(store, saver, graphs, settings)
        self.cut_off = 0
        self.is_drained = False
        self._owner = owner
        self._settlements = Settlements()
        self._recorder = ActivityRecorder(store)
        self._work = work
        children = Children(store, graphs, settings.run_max_attempts, work.pusher)
        secrets = spellings(settings.secrets())
        executor = Executor(store, graphs, saver, self._recorder, secrets, work.pusher, children)
        self._dispatcher = Dispatcher(
            store,
            executor,
            self._settlements,
            owner,
            sorted(graphs),
            capacity=work.capacity,
            queues=work.queues,
            leave_new_for_s=work.leave_new_for_s,
            takes=work.takes,
            batched=settings.worker_concurrency,
        )
        children.on_started = self._dispatcher.fill_batched
        self._steps = StepRunner(store, owner, settings.run_max_attempts, secrets)
        self.recovery = Recovery(
            store,
            self._dispatcher,
            self._settlements,
            owner,
            self._hub,
            pusher=work.pusher,
            pushes_runs=work.pushes_runs,
        )
        self._closing = False

    async def start(
        self,
        workflow: str,
        payload: object,
        *,
        thread_id: str | None = None,
        idempotency_key: str | None = None,
        organization_id: str = DEFAULT_ORGANIZATION,
        if_busy: IfBusy = "enqueue",
        retry: RetryPolicy | None = None,
        queue: str = "flow",
        priority: int = 0,
        start_at: datetime | None = None,
    ) -> Run:
        """Start a run and return at once, with the run durable where the saver is.

        `if_busy` says what to do where the thread has an unfinished run: wait for it, refuse, or have that run
        cancelled at its next checkpoint. The numbers of `retry` take the place of the workflow's; which errors are
        retried stays the workflow's. It is taken up by a worker of `queue`, not before `start_at`; of runs that wait,
        those with the higher `priority` go first. Raises `UnknownWorkflowError`, `InvalidPayloadError`,
        `InvalidRequestError`, `IdempotencyConflictError`, `ThreadBusyError`, `DatabaseUnavailableError` or
        `ClosingError`.
        """
        created = await self.start_or_find(
            workflow,
            payload,
            thread_id=thread_id,
            idempotency_key=idempotency_key,
            organization_id=organization_id,
            if_busy=if_busy,
            retry=retry,
            queue=queue,
            priority=priority,
            start_at=start_at,
        )
        return created.run

    async def start_or_find(
        self,
        workflow: str,
        payload: object,
        *,
        thread_id: str | None = None,
        idempotency_key: str | None = None,
        organization_id: str = DEFAULT_ORGANIZATION,
        if_busy: IfBusy = "enqueue",
        retry: RetryPolicy | None = None,
        queue: str = "flow",
        priority: int = 0,
        start_at: datetime | None = None,
        parent_run_id: str | None = None,
    ) -> Created:
        """`start`, and whether this call made the run or its idempotency key found it.

        `parent_run_id` is a run that this one comes from.
        """
        new = NewRun(
            run_id=new_run_id(),
            workflow_type=workflow,
            workflow_version=self.graphs[workflow].version,
            input=check_payload(payload),
            max_attempts=self.settings.run_max_attempts,
            organization_id=check_organization(organization_id),
            thread_id=None if thread_id is None else check_identifier("thread id", thread_id),
            idempotency_key=None if idempotency_key is None else check_identifier("idempotency key", idempotency_key),
            retry=retry_numbers(retry) if retry else None,
            queue=check_queue(queue, self.settings.job_prefix),
            priority=check_priority(priority),
            start_at=check_start(start_at),
            parent_run_id=parent_run_id,
            trace_context=caller(workflow),
        )
        return await self._create(new, if_busy)

    async def _create(self, new: NewRun, if_busy: IfBusy) -> Created:
        if self._closing:
            raise ClosingError
        begins_here = self._work.begins_here and new.queue in (self._work.queues or (DEFAULT_QUEUE,))
        has_slot = begins_here and self._dispatcher.reserve()
        try:
            created = await self._store.create(new, if_busy=if_busy, owner=self._owner if has_slot else None)
        finally:
            if has_slot:
                self._dispatcher.unreserve()
        run = created.run
        reached("created", run.run_id)
        if created.is_new and run.lease_owner == self._owner:
            self._dispatcher.drive(run)
        elif created.is_new and begins_here and run.start_at is None:
            self._dispatcher.claim_soon(run)
        elif created.is_new:
            await push_run(self._work.pusher, self._store, run)
        return created

    async def work_run(self, run_id: str) -> Run | None:
        """Drive a pending run to the end of an attempt, for a queue; None where there was nothing to do."""
        run = await self.poll(run_id)
        return await self._dispatcher.work(run) if run.status is RunStatus.PENDING else None

    async def work_step(self, step_id: str) -> None:
        """Run a pending step, for a queue. Does nothing where it is not pending any more."""
        await self._steps.work(step_id)

    async def start_and_wait(
        self, workflow: str, payload: object, *, timeout: float | None = None, **options: Any
    ) -> Run:
        """`start`, then `wait`; takes the options of `start`."""
        return await self.wait_for(await self.start(workflow, payload, **options), timeout=timeout)

    async def wait(self, run_id: str, *, timeout: float | None = None) -> Run:
        """The run once it is settled: over, or resting until someone signals or resumes it.

        After `timeout` seconds, or when the orchestrator is closed, the run as it stands then.
        """
        return await self.wait_for(await self.poll(run_id), timeout=timeout)

    async def wait_for(self, run: Run, *, timeout: float | None = None) -> Run:
        """`wait` for a run whose row is at hand."""
        with self._settlements.expect(run.run_id) as settled:
            if not run.is_settled and run.run_id not in self._dispatcher:
                # It may have come to rest before we listened.
                with suppress(DatabaseUnavailableError):
                    run = await self._store.get(run.run_id)
            return await self._wait(run, settled, timeout)

    async def _wait(self, run: Run, settled: asyncio.Future[Run | None], timeout: float | None) -> Run:
        try:
            async with asyncio.timeout(timeout):
                async for latest in self._looks(run, settled):
                    run = latest
        except TimeoutError:
            pass
        return run

    async def _looks(self, run: Run, settled: asyncio.Future[Run | None]) -> AsyncIterator[Run]:
        """The row until it is settled: as announced, else from the store."""
        while not run.is_settled:
            done, _ = await asyncio.wait({settled}, timeout=_POLL_S)
            if done:
                yield settled.result() or run
                return
            try:
                run = await self._store.get(run.run_id)
            except DatabaseUnavailableError:
                # The one who waits has a time-out of their own; the run may well end before it.
                continue
            yield run

    async def interrupt(self, run_id: str, *, organization_id: str | None = None) -> Run:
        """Pause a run at its next checkpoint. Returns at once; `wait` gives the paused run.

        One that waits for its steps, or for the runs it has started, stops when it goes on. Raises
        `IllegalTransitionError` for a run that is over, or waiting for an answer.
        """
        return await self._store.pause((await self.poll(run_id, organization_id=organization_id)).run_id)

    async def resume(self, run_id: str, payload: object = None, *, organization_id: str | None = None) -> Run:
        """Let a run go on that is waiting, paused, suspended or failed.

        `payload` answers what a waiting run waits for; where that is several interrupts, it maps their ids to
        answers. Raises `IllegalTransitionError`, `InvalidPayloadError` or `InvalidRequestError`.
        """
        run = await self.poll(run_id, organization_id=organization_id)
        # The key keeps a request that is sent twice, because its answer was lost, from counting twice.
        signal = NewSignal(RESUME_SIGNAL, _checked(payload), f"resume {new_run_id()}")
        return await self._store.resume(run.run_id, signal)

    async def signal(
        self,
        run_id: str,
        name: str,
        payload: object = None,
        *,
        key: str | None = None,
        organization_id: str | None = None,
    ) -> Run:
        """Send a run a signal, which answers the wait for it, now or later.

        Sent again it is the same one: under the same `key`, or where it equals the last of its name and the run does
        not wait for that name anew. Raises `IllegalTransitionError` for a run that is over.
        """
        run = await self.poll(run_id, organization_id=organization_id)
        if name.startswith(STEP_SIGNAL):
            raise InvalidRequestError(f"a signal's name can't begin with {STEP_SIGNAL}: that is how steps end")
        signal = NewSignal(
            check_identifier("signal name", name),
            _checked(payload),
            None if key is None else check_identifier("signal key", key),
        )
        return await self._store.send_signal(run.run_id, signal)

    async def cancel(self, run_id: str, *, organization_id: str | None = None) -> Run:
        """End an unfinished run now. Raises `IllegalTransitionError` for one that is over otherwise."""
        run = await self._store.cancel((await self.poll(run_id, organization_id=organization_id)).run_id)
        self._settlements.announce(run)
        return run

    async def fork(
        self, run_id: str, checkpoint_id: str, payload: object = None, *, organization_id: str | None = None
    ) -> Run:
        """Start a run that goes on from a checkpoint of another, on a thread of its own; that one stays as it is.

        `payload` is an update of the state to begin with. Raises `CheckpointNotFoundError`, and what `start` does.
        """
        parent = await self.poll(run_id, organization_id=organization_id)
        workflow = self.graphs[parent.workflow_type]
        found = await find_checkpoint(self._saver, parent.checkpoint_thread_id, checkpoint_id)
        if found is None or found.metadata.get("run_id") != parent.run_id:
            raise CheckpointNotFoundError(parent.run_id, checkpoint_id)
        new = NewRun(
            run_id=new_run_id(),
            workflow_type=parent.workflow_type,
            workflow_version=workflow.version,
            input=_checked(payload),
            max_attempts=self.settings.run_max_attempts,
            organization_id=parent.organization_id,
            retry=parent.retry,
            parent_run_id=parent.run_id,
            fork_checkpoint_id=checkpoint_id,
            trace_context=caller(parent.workflow_type),
        )
        return (await self._create(new, "enqueue")).run

    async def use_hook(self, token: str, payload: Json) -> Run:
        """Send the signal that an address stands for. Raises `HookNotFoundError`."""
        return await self._store.use_hook(token, _checked(payload))

    @property
    def is_closing(self) -> bool:
        """Whether no new runs are taken any more."""
        return self._closing

    def run_in_background(self) -> None:
        """Begin to recover runs, and to record their activities."""
        self._recorder.start()
        self.recovery.start()

    def request_close(self) -> None:
        """Begin to stop: take no new runs, let attempts stop at their next checkpoint, and let waiters go."""
        if not self._closing:
            self._closing = True
            self._dispatcher.request_drain()
            self._settlements.close()
            self._hub.close()

    async def close(self) -> None:
        """Stop within DRAIN_TIMEOUT: every run goes back to pending at a checkpoint, for another server.

        Attempts that take longer are cut off and counted in `cut_off`; they too go on from their last checkpoint. One
        that does not let itself be cut off is left behind a moment later: it can write nothing that counts any more.
        """
        self.request_close()
        await self.recovery.stop()
        self.cut_off = await self._dispatcher.drain(self.settings.drain_timeout)
        self.is_drained = True
        await self._recorder.stop()
        try:
            async with asyncio.timeout(_RELEASE_WITHIN_S):
                released = await self._store.release_all(self._owner)
        except (DatabaseUnavailableError, TimeoutError):
            _log.warning("[WorkflowOrchestrator] runs could not be handed back; they are taken over instead")
        else:
            _log.info(
                "[WorkflowOrchestrator] stopped: %d attempts cut off, %d further runs handed back",
                self.cut_off,
                len(released),
            )


def _checked(payload: object) -> Json:
    """A payload that may be left out. Raises `InvalidPayloadError`."""
    return None if payload is None else check_payload(payload)
