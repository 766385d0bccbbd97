"""Batches of documents: start one, watch it, see what failed and try that again. /api/batches."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Query, Request
from pydantic import ConfigDict, Field, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema
from starlette.responses import Response, StreamingResponse

from orchestrator.api.auth import Organization
from orchestrator.api.body import Identifier, JsonBody, documented, read_body
from orchestrator.api.events import After, LastEventId, first_event, streamed_events
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
    """A document that comes with the request. Its `id`, by default `#` and its number, is its key in the batch."""

    text: str
    title: Label | None = None
    id: Label | None = None


class BatchBody(JsonBody):
    """What to extract from: `paths` below DOCUMENTS_DIR, or the `documents` themselves."""

    # For the document: what `BatchInput` checks.
    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["paths"]}, {"required": ["documents"]}]})

    paths: Annotated[list[str], WithJsonSchema(_PATHS)] | SkipJsonSchema[None] = None
    documents: Annotated[list[InlineBody], Field(json_schema_extra={"minItems": 1})] | SkipJsonSchema[None] = None
    title: Label | None = None
    policy: Literal["all", "some"] = "some"
    idempotency_key: Identifier | None = None

    def given(self) -> dict[str, Any]:
        """The input of the batch's run."""
        return self.model_dump(exclude_none=True, exclude={"idempotency_key"})


class RetryBody(JsonBody):
    """Sent again under the same key, it is the same batch."""

    idempotency_key: Identifier | None = None


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
async def get_batch(request: Request, batch_id: str, organization: Organization) -> Response:
    """The batch's state, how many documents each state has dealt with, and the first that failed."""
    orchestrator = _orchestrator(request)
    run = await find_batch(orchestrator.store, batch_id, organization)
    return AsciiJsonResponse(await _view(orchestrator, run))


@router.get("/{batch_id}/documents", responses=_REFUSALS)
async def get_documents(
    request: Request,
    batch_id: str,
    organization: Organization,
    failed: bool = False,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    after: Annotated[int, Query(ge=-1, lt=2**31)] = -1,
) -> Response:
    """A page of the batch's documents in their order; `after` takes the `nextAfter` of the page before."""
    orchestrator = _orchestrator(request)
    run = await find_batch(orchestrator.store, batch_id, organization)
    rows = await list_documents(orchestrator.store, run.run_id, only_failed=failed, after=after, limit=limit)
    more = rows[-1].position if len(rows) == limit else None
    return AsciiJsonResponse({"documents": [document_view(row) for row in rows], "nextAfter": more})


@router.get("/{batch_id}/events", responses=_REFUSALS)
async def batch_events(
    request: Request,
    batch_id: str,
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
    request: Request, batch_id: str, organization: Organization, format: Literal["jsonld", "graphml", "svg"] = "jsonld"
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
async def retry(request: Request, batch_id: str, organization: Organization) -> Response:
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
