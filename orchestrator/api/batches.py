"""Batches of documents: start one, watch it, see what failed and try that again. /api/batches."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Query, Request
from pydantic import ConfigDict, Field, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema
from starlette.responses import Response, StreamingResponse

from orchestrator.api.auth import Organization
from orchestrator.api.body import Identifier, JsonBody, documented, read_body
from orchestrator.api.events import first_event, streamed_events
from orchestrator.api.parameters import After, BatchId, LastEventId
from orchestrator.api.views import AsciiJsonResponse, batch_view, document_view
from orchestrator.batches.formats import MEDIA_TYPES, exported
from orchestrator.batches.request import MAX_TITLE_CHARS
from orchestrator.batches.service import find_batch, list_documents, retry_batch, start_batch, view_batch
from orchestrator.batches.stores import require_support, stores_of
from orchestrator.engine.service import Orchestrator
from orchestrator.runs.model import Run
from orchestrator.runs.store import Created

__all__ = ["BatchBody", "router"]

_REFUSALS: dict[int | str, dict[str, Any]] = {
    404: {"description": "There is no such batch, or it is another organization's."}
}
router = APIRouter(prefix="/api/batches")
MAX_FAILED = 100


_PATHS = {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1, "pattern": r"^[^\u0000]*$"}}
Label: TypeAlias = Annotated[str, WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_TITLE_CHARS})]


class InlineBody(JsonBody):
    """A document that comes with the request."""

    text: str
    """What to read. One that is empty or not text fails alone, in the batch."""
    title: Label | None = None
    """What it is called. Absent, its first heading or line."""
    id: Label | None = None
    """Its key in the batch; two of one id get 422 `invalid_request`. Absent, `#` and its number from 1."""


class BatchBody(JsonBody):
    """What to extract from: `paths` below DOCUMENTS_DIR, or the `documents` themselves."""

    # For the document: what `BatchInput` checks.
    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["paths"]}, {"required": ["documents"]}],
            "examples": [
                {"paths": ["reports"], "title": "Reports of May", "idempotencyKey": "reports-2026-05"},
                {"documents": [{"id": "a", "text": "Acme Corporation acquired Globex."}], "policy": "all"},
            ],
        }
    )

    paths: Annotated[list[str], WithJsonSchema(_PATHS)] | SkipJsonSchema[None] = None
    """Files, and directories with all below them, under `DOCUMENTS_DIR` where that is set; 1 to 10,000. Either these or
    `documents`. One that can't be read, or leads out of there, fails alone, in the batch."""
    documents: Annotated[list[InlineBody], Field(json_schema_extra={"minItems": 1})] | SkipJsonSchema[None] = None
    """The documents themselves, one or more. Either these or `paths`."""
    title: Label | None = None
    """What the batch is called, printable. Absent, it is called nothing."""
    policy: Literal["all", "some"] = "some"
    """`all`: the batch fails with the first document that does. `some`: it goes on while one is left."""
    idempotency_key: Identifier | None = None
    """What is sent again under the same key gives the batch that the first made; with another body it gets 409
    `idempotency_conflict`. Absent, every request starts a batch."""

    def given(self) -> dict[str, Any]:
        """The input of the batch's run."""
        return self.model_dump(exclude_none=True, exclude={"idempotency_key"})


class RetryBody(JsonBody):
    """Nothing but a key, and that only if you like."""

    idempotency_key: Identifier | None = None
    """What is sent again under the same key gives the batch that the first made. Absent, every request starts one."""


@router.post("", status_code=202, openapi_extra=documented(BatchBody))
async def create_batch(request: Request, organization: Organization) -> Response:
    """Start a batch and answer at once; 200 with the batch where the idempotency key has made one before."""
    body = await read_body(request, BatchBody)
    orchestrator = _orchestrator(request)
    created = await start_batch(
        orchestrator, body.given(), organization_id=organization, idempotency_key=body.idempotency_key
    )
    return await _started(orchestrator, created)


@router.get("/{batch_id}", responses=_REFUSALS)
async def get_batch(request: Request, batch_id: BatchId, organization: Organization) -> Response:
    """The batch's state, how many documents each state has dealt with, and the first that failed."""
    orchestrator = _orchestrator(request)
    run = await find_batch(orchestrator.store, batch_id, organization)
    return AsciiJsonResponse(await _view(orchestrator, run))


@router.get("/{batch_id}/documents", responses=_REFUSALS)
async def get_documents(
    request: Request,
    batch_id: BatchId,
    organization: Organization,
    failed: Annotated[bool, Query(description="Only those that failed.")] = False,
    limit: Annotated[int, Query(ge=1, le=500, description="How many at most.")] = 100,
    after: Annotated[int, Query(ge=-1, lt=2**31, description="The `nextAfter` of the page before.")] = -1,
) -> Response:
    """A page of the batch's documents in their order."""
    orchestrator = _orchestrator(request)
    run = await find_batch(orchestrator.store, batch_id, organization)
    rows = await list_documents(orchestrator.store, run.run_id, only_failed=failed, after=after, limit=limit)
    more = rows[-1].position if len(rows) == limit else None
    return AsciiJsonResponse({"documents": [document_view(row) for row in rows], "nextAfter": more})


@router.get("/{batch_id}/events", responses=_REFUSALS)
async def batch_events(
    request: Request,
    batch_id: BatchId,
    organization: Organization,
    after: After = None,
    last_event_id: LastEventId = None,
) -> Response:
    """The batch's events, those that were and those that come, as Server-Sent Events."""
    orchestrator = _orchestrator(request)
    run = await find_batch(orchestrator.store, batch_id, organization)
    return await streamed_events(request, run, first_event(after, last_event_id))


@router.get(
    "/{batch_id}/export",
    responses={**_REFUSALS, 501: {"description": "The extra `batches` is not installed on the server."}},
)
async def export(
    request: Request,
    batch_id: BatchId,
    organization: Organization,
    format: Annotated[Literal["jsonld", "graphml", "svg"], Query(description="What to make.")] = "jsonld",
) -> Response:
    """What the batch's documents hold, so far: entities, relations, and where they were read.

    The answer is sent as it is made. Its end is the end of the file: an answer that breaks off is not whole.
    """
    orchestrator = _orchestrator(request)
    run = await find_batch(orchestrator.store, batch_id, organization)
    require_support()
    knowledge = stores_of(orchestrator.store).knowledge
    return StreamingResponse(
        exported(knowledge, run.organization_id, run.run_id, format),
        media_type=MEDIA_TYPES[format],
        headers={"Content-Disposition": f'attachment; filename="batch-{run.run_id}.{format}"'},
    )


@router.post(
    "/{batch_id}/retry", status_code=202, responses=_REFUSALS, openapi_extra=documented(RetryBody, optional=True)
)
async def retry(request: Request, batch_id: BatchId, organization: Organization) -> Response:
    """Start a batch of only those documents that failed; 409 where none has, or the batch is not over."""
    body = await read_body(request, RetryBody, optional=True)
    orchestrator = _orchestrator(request)
    run = await find_batch(orchestrator.store, batch_id, organization)
    return await _started(orchestrator, await retry_batch(orchestrator, run, idempotency_key=body.idempotency_key))


async def _started(orchestrator: Orchestrator, created: Created) -> Response:
    return AsciiJsonResponse(await _view(orchestrator, created.run), 202 if created.is_new else 200)


async def _view(orchestrator: Orchestrator, run: Run) -> dict[str, Any]:
    batch = await view_batch(orchestrator.store, run)
    failed = await list_documents(orchestrator.store, run.run_id, only_failed=True, limit=MAX_FAILED)
    return batch_view(batch, run, failed)


def _orchestrator(request: Request) -> Orchestrator:
    found: Orchestrator = request.app.state.orchestrator
    return found
