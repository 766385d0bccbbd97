"""The formats in which a graph leaves, by name. What writes one is imported when it is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from orchestrator.batches.knowledge import KnowledgeStore

__all__ = ["FORMATS", "MEDIA_TYPES", "Format", "exported"]

Format: TypeAlias = Literal["jsonld", "graphml", "svg"]
FORMATS: tuple[Format, ...] = get_args(Format)
MEDIA_TYPES: Mapping[Format, str] = {
    "jsonld": "application/ld+json",
    "graphml": "application/graphml+xml",
    "svg": "image/svg+xml",
}


async def exported(
    store: KnowledgeStore, organization: str, batch_id: str | None, format_: Format
) -> AsyncIterator[str]:
    """The knowledge of a batch, or all of an organization's, in parts of text. JSON-LD is written as it is read; the
    others hold the graph in memory."""
    from orchestrator.batches.export import graphml, json_ld
    from orchestrator.batches.picture import draw_knowledge

    if format_ == "jsonld":
        async for part in json_ld(store, organization, batch_id):
            yield part
    elif format_ == "graphml":
        for line in await graphml(store, organization, batch_id):
            yield f"{line}\n"
    else:
        yield await draw_knowledge(store, organization, batch_id)
