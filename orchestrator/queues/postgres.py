"""The `postgres` driver: messages are Procrastinate jobs, in the schema of the runs.

    push ──► procrastinate_jobs ──NOTIFY──► Procrastinate's worker ──► handle(message) ──► job deleted

A run that is started is enqueued by the statement that writes its row (`runs/queries.sql`, `push_flows`), so the two
are there together or not at all; `push_flow` is for what is enqueued later. No job locks are used: finishing a job
does not wake the jobs behind its lock, and the run's row serialises a thread anyway.

The jobs of steps have names of queues of their own, and a Procrastinate worker of their own that takes them: however
many runs wait, or hold the other's slots, steps do not wait for them.

What Procrastinate 3.10 leaves to its users is done here:
- A worker that was pruned as stalled (its process was frozen) exits at its next fetch with a foreign-key error: it is
  started again, with a registration of its own.
- A job of a killed worker stays `doing` for good: it is deleted. Its run is taken over by its row, not by its job.
- A frozen worker's completion of a job is accepted late: it deletes a job, and changes nothing about a run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import psycopg
from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.tasks import Task
from procrastinate.worker import Worker
from psycopg.conninfo import conninfo_to_dict

from checkpointer.postgres.queries import quote_identifier
from orchestrator.errors import OrchestratorError
from orchestrator.queues.driver import Handler, MessageData
from orchestrator.runs.steps import step_jobs

__all__ = ["FLOW_TASK", "STEP_TASK", "PostgresQueue"]

_log = logging.getLogger(__name__)
FLOW_TASK, STEP_TASK = "holdfast.flow", "holdfast.step"
_KINDS: tuple[Literal["flow"], Literal["step"]] = ("flow", "step")
# Notified at once, a worker polls for jobs whose time has come, and for what a lost notification would have told.
_POLL_EVERY_S = 1.0
_RESTART_AFTER_S = 1.0
_SWEEP_EVERY_S = 30.0
_SWEEP_ENDED = """
DELETE FROM procrastinate_jobs AS job USING workflow_metadata AS run
 WHERE job.status = 'doing' AND job.task_name = 'holdfast.flow' AND run.run_id::text = job.args->'message'->>'id'
   AND run.completed_at < clock_timestamp() - interval '1 minute'
"""
_HEARTBEAT_S, _STALLED_S = 10.0, 30.0
_LEAVE_WITHIN_S = 3.0


class PostgresQueue:
    """Procrastinate over a pool of its own to `conninfo`, which must not be a transaction pooler's."""

    def __init__(
        self,
        conninfo: str,
        schema: str,
        *,
        prefix: str = "workflow_",
        stalled_after_s: float = _STALLED_S,
        drain_s: float = 10.0,
    ) -> None:
        self._prefix = prefix
        self._drain_s = drain_s
        self._stalled_after_s = stalled_after_s
        # It says at INFO what it does with every job.
        logging.getLogger("procrastinate").setLevel(logging.WARNING)
        self._app = App(connector=PsycopgConnector(**_pool_options(conninfo, schema)))
        self._tasks: Mapping[str, Task[Any, Any, Any]] = {
            "flow": self._app.task(name=FLOW_TASK, pass_context=False)(self._deliver),
            "step": self._app.task(name=STEP_TASK, pass_context=False)(self._deliver),
        }
        self._handle: Handler | None = None
        self._running: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._workers: set[Worker] = set()

    async def __aenter__(self) -> PostgresQueue:
        await self._app.open_async()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        # Where the database is gone, the worker can't sign off, and is not waited for.
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_WITHIN_S):
                await self.stop()
        for task in self._running:
            task.cancel()
        await self._app.close_async()

    def queue_name(self, queue: str, kind: Literal["flow", "step"] = "flow") -> str:
        """The name under which a queue's jobs of a kind are kept."""
        name = self._prefix + queue
        return name if kind == "flow" else step_jobs(name)

    async def push_flow(self, message: MessageData) -> None:
        """Enqueue a job for the message."""
        task = self._tasks[message.kind].configure(
            queue=self.queue_name(message.queue, message.kind), priority=message.priority, schedule_at=message.run_at
        )
        await task.defer_async(message=message.as_json())

    push_step = push_flow

    async def start(self, handle: Handler, *, queues: Sequence[str], concurrency: int) -> None:
        """Run a Procrastinate worker for runs and one for steps, again whenever one ends, until stopped."""
        self._handle = handle
        self._stopping.clear()
        runs, steps = ([self.queue_name(queue, kind) for queue in queues] for kind in _KINDS)
        self._running = [
            asyncio.create_task(self._supervise(runs, concurrency), name="queue worker"),
            asyncio.create_task(self._supervise(steps, concurrency), name="queue worker of steps"),
            asyncio.create_task(self._sweep(), name="sweeping jobs"),
        ]

    async def stop(self) -> None:
        """Fetch nothing more, and wait for the jobs under way."""
        self._stopping.set()
        for worker in self._workers:
            # Not cancelled: one that comes while the worker signs on gets lost, and it would go on for good.
            worker.stop()  # type: ignore[no-untyped-call]
        if self._running:
            await asyncio.wait(self._running)
        self._running = []

    async def _deliver(self, message: dict[str, Any]) -> None:
        if self._handle is None:
            return
        try:
            await self._handle(MessageData.from_json(message))
        except OrchestratorError as exc:
            # Such as a server that is away. Procrastinate would log where in the code that came from.
            _log.warning("[WorkflowOrchestrator] a message failed, and is sent again if need be: %s", exc)

    async def _supervise(self, queues: list[str], concurrency: int) -> None:
        while not self._stopping.is_set():
            worker = Worker(
                self._app,
                queues=queues,
                concurrency=concurrency,
                fetch_job_polling_interval=_POLL_EVERY_S,
                update_heartbeat_interval=_HEARTBEAT_S,
                stalled_worker_timeout=self._stalled_after_s,
                delete_jobs="always",
                shutdown_graceful_timeout=self._drain_s,
                install_signal_handlers=False,
            )
            self._workers.add(worker)
            try:
                await worker.run()  # type: ignore[no-untyped-call]
                problem = "it ended"
            except Exception as exc:
                # Whatever it was: a process that takes no messages any more, and says nothing, is worse.
                problem = str(exc.__cause__ or exc).strip().partition("\n")[0] or type(exc).__name__
            finally:
                self._workers.discard(worker)
            if not self._stopping.is_set():
                _log.warning("[WorkflowOrchestrator] the queue's worker is started again: %s", problem)
                await self._stopped_within(_RESTART_AFTER_S)

    async def _stopped_within(self, timeout_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self._stopping.wait()
        return False

    async def _sweep(self) -> None:
        """Delete the jobs of workers that are gone, now and then."""
        while not await self._stopped_within(_SWEEP_EVERY_S):
            try:
                manager = self._app.job_manager
                for job in await manager.get_stalled_jobs(seconds_since_heartbeat=self._stalled_after_s):
                    if job.id is not None:
                        await self._app.connector.execute_query_async(
                            "DELETE FROM procrastinate_jobs WHERE id = %(id)s AND status = 'doing'", id=job.id
                        )
                # Whose fetching or finishing was lost in a crash of the server: its worker is alive and knows nothing.
                await self._app.connector.execute_query_async(_SWEEP_ENDED)
            except (ConnectorException, psycopg.Error, OSError) as exc:
                _log.warning("[WorkflowOrchestrator] jobs of lost workers could not be swept: %s", exc)


def _pool_options(conninfo: str, schema: str) -> dict[str, Any]:
    # Procrastinate names its tables without a schema.
    path = f"-c search_path={quote_identifier(schema)}"
    options = f"{conninfo_to_dict(conninfo).get('options') or ''} {path}".strip()
    return {
        "conninfo": conninfo,
        "kwargs": {"options": options, "application_name": "holdfast queue"},
        "configure": _autocommit,
        "min_size": 1,
    }


async def _autocommit(conn: psycopg.AsyncConnection[Any]) -> None:
    """Each of the library's statements stands alone: a BEGIN and a COMMIT around it are two round trips for nothing."""
    await conn.set_autocommit(True)
