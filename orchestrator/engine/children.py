"""Starts the runs of a batch: each is left pending, for whichever process has room for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.engine.graphs import GraphRegistry
from orchestrator.engine.pushing import Pusher, push_run
from orchestrator.runs.jsonable import check_payload
from orchestrator.runs.model import Json, Run
from orchestrator.runs.store import NewRun, RunStore
from orchestrator.tracing import caller

__all__ = ["Children"]


@dataclass(slots=True)
class Children:
    """A `Client`. `on_started` is told that there is a pending run more."""

    store: RunStore
    graphs: GraphRegistry
    max_attempts: int
    pusher: Pusher | None = None
    on_started: Callable[[], None] = lambda: None

    async def start_child(
        self, parent: Run, workflow: str, payload: Json, *, run_id: str, idempotency_key: str | None = None
    ) -> Run:
        """Start a run of the batch that `parent` is. Raises `InvalidPayloadError` and `DatabaseUnavailableError`."""
        new = NewRun(
            run_id=run_id,
            workflow_type=workflow,
            workflow_version=self.graphs[workflow].version,
            input=check_payload(payload),
            max_attempts=self.max_attempts,
            organization_id=parent.organization_id,
            idempotency_key=idempotency_key,
            parent_run_id=parent.run_id,
            batch_id=parent.run_id,
            priority=parent.priority,
            trace_context=caller(workflow),
        )
        created = await self.store.create(new)
        await push_run(self.pusher, self.store, created.run)
        self.on_started()
        return created.run
