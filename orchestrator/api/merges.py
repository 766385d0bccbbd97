"""Why entities are one, and how to part them: merges of a batch and of an entity, and undoing one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from orchestrator.api.auth import Organization
from orchestrator.api.body import Nothing, documented, read_body
from orchestrator.api.parameters import BatchId
from orchestrator.api.views import AsciiJsonResponse, entity_view, merge_view
from orchestrator.batches.service import find_batch
from orchestrator.batches.stores import require_support, stores_of
from orchestrator.engine.service import Orchestrator

if TYPE_CHECKING:
    from orchestrator.batches.knowledge import KnowledgeStore

__all__ = ["router"]

router = APIRouter(prefix="/api")
EntityId = Annotated[
    str,
    Path(description="An entity's id, also one that was merged; one that is not there gets 404 `entity_not_found`."),
]
MergeId = Annotated[str, Path(description="A merge's id; one that is not there gets 404 `merge_not_found`.")]


@router.get("/batches/{batch_id}/merges")
async def get_merges(
    request: Request,
    batch_id: BatchId,
    organization: Organization,
    limit: Annotated[int, Query(ge=1, le=500, description="How many at most.")] = 100,
    after: Annotated[UUID | None, Query(description="The `nextAfter` of the page before.")] = None,
) -> Response:
    """A page of the merges that the batch made, those that were undone too, oldest first."""
    run = await find_batch(_orchestrator(request).store, batch_id, organization)
    found = await _knowledge(request).merges(
        organization, run.run_id, after=None if after is None else str(after), limit=limit
    )
    more = found[-1].merge_id if len(found) == limit else None
    return AsciiJsonResponse({"merges": [merge_view(merge) for merge in found], "nextAfter": more})


@router.get("/entities/{entity_id}")
async def get_entity(request: Request, entity_id: EntityId, organization: Organization) -> Response:
    """An entity: how documents of all batches write it, and why those spellings are one."""
    return AsciiJsonResponse(entity_view(await _knowledge(request).explain(entity_id, organization=organization)))


@router.post("/merges/{merge_id}/undo", openapi_extra=documented(Nothing, optional=True))
async def undo_merge(request: Request, merge_id: MergeId, organization: Organization) -> Response:
    """Part what a merge joined, for good: no batch joins the two again. Sent again, it changes nothing."""
    await read_body(request, Nothing, optional=True)
    return AsciiJsonResponse(merge_view(await _knowledge(request).undo_merge(merge_id, organization=organization)))


def _orchestrator(request: Request) -> Orchestrator:
    found: Orchestrator = request.app.state.orchestrator
    return found


def _knowledge(request: Request) -> KnowledgeStore:
    """Raises `BatchSupportError` where what it needs is not installed."""
    require_support()
    return stores_of(_orchestrator(request).store).knowledge
