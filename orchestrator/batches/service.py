"""Batches as they are started, looked at and tried again."""

from __future__ import annotations

from orchestrator.batches.flow import BATCH
from orchestrator.batches.model import Batch, BatchState, DocumentRow, DocumentState, progress_of
from orchestrator.batches.request import BatchInput, retry_input
from orchestrator.batches.stores import require_support, stores_of
from orchestrator.engine.service import Orchestrator
from orchestrator.errors import InvalidRequestError, OrchestratorError
from orchestrator.runs.model import Json, Run, RunStatus, check_identifier, parse_run_id
from orchestrator.runs.store import Created, RunStore
from orchestrator.workflows.extraction.errors import WorkflowInputError

__all__ = [
    "BatchNotFoundError",
    "NothingToRetryError",
    "find_batch",
    "list_documents",
    "retry_batch",
    "start_batch",
    "view_batch",
]

_PAGE = 500


class BatchNotFoundError(OrchestratorError):
    """No batch has this id."""

    status = 404
    code = "batch_not_found"

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"there is no batch {batch_id!r}")


class NothingToRetryError(OrchestratorError):
    """A batch has no documents that failed, or is not over."""

    status = 409
    code = "nothing_to_retry"


async def start_batch(
    orchestrator: Orchestrator, given: dict[str, Json], *, organization_id: str, idempotency_key: str | None = None
) -> Created:
    """Start a batch of what `given` says (`request.py`).

    Raises `BatchSupportError`, `InvalidRequestError`, and what `start` does.
    """
    require_support()
    try:
        BatchInput.parse(given)
    except WorkflowInputError as exc:
        raise InvalidRequestError(str(exc)) from None
    return await orchestrator.start_or_find(
        BATCH, given, organization_id=organization_id, idempotency_key=idempotency_key
    )


async def find_batch(runs: RunStore, batch_id: str, organization_id: str | None = None) -> Run:
    """The batch's run. Raises `BatchNotFoundError`, also for another organization's."""
    try:
        run = await runs.get(parse_run_id(batch_id))
    except OrchestratorError as exc:
        if exc.status != 404:
            raise
        raise BatchNotFoundError(batch_id) from None
    if run.workflow_type != BATCH or organization_id not in (None, run.organization_id):
        raise BatchNotFoundError(batch_id)
    return run


async def view_batch(runs: RunStore, run: Run) -> Batch:
    """The batch whose run this is, as it stands."""
    batches = stores_of(runs).batches
    row = await batches.find(run.run_id)
    given = run.input if isinstance(run.input, dict) else {}
    state = BatchState.PENDING if row is None else row.state
    if run.status in (RunStatus.FAILED, RunStatus.CANCELLED):
        state = BatchState.FAILED
    elif run.status is RunStatus.COMPLETED:
        state = BatchState.COMPLETE
    return Batch(
        batch_id=run.run_id,
        organization_id=run.organization_id,
        state=state,
        policy=row.policy if row else given.get("policy", "some"),
        title=row.title if row else given.get("title"),
        progress=progress_of(await batches.tallies(run.run_id)),
        created_at=run.created_at,
        updated_at=run.updated_at,
    )


async def list_documents(
    runs: RunStore, batch_id: str, *, only_failed: bool = False, after: int = -1, limit: int = 100
) -> list[DocumentRow]:
    """A page of the batch's documents, in their order."""
    states = [DocumentState.FAILED] if only_failed else None
    return await stores_of(runs).batches.documents(batch_id, states=states, after=after, limit=limit)


async def retry_batch(orchestrator: Orchestrator, run: Run, *, idempotency_key: str | None = None) -> Created:
    """Start a batch of the documents of `run`'s batch that failed. Raises `NothingToRetryError`."""
    if not run.is_final:
        raise NothingToRetryError(f"batch {run.run_id} is not over yet ({run.status}); wait for it, or cancel it")
    failed: list[DocumentRow] = []
    while page := await list_documents(
        orchestrator.store, run.run_id, only_failed=True, after=failed[-1].position if failed else -1, limit=_PAGE
    ):
        failed += page
    if not failed:
        raise NothingToRetryError(f"batch {run.run_id} has no documents that failed")
    key = None if idempotency_key is None else check_identifier("idempotency key", idempotency_key)
    return await orchestrator.start_or_find(
        BATCH,
        retry_input(run.run_id, run.input, failed),
        organization_id=run.organization_id,
        idempotency_key=key,
        parent_run_id=run.run_id,
    )
