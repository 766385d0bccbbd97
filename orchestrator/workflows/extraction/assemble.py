"""Stage 5: the result, sorted, counted and bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from orchestrator.workflows.extraction.records import (
    Chunk,
    Counts,
    Entity,
    EntityGroup,
    Extraction,
    Mention,
    Relation,
    RelationKind,
)

__all__ = ["MAX_CO_OCCURRENCES", "MAX_ENTITIES", "MAX_RELATIONS", "MAX_SPANS", "assemble"]

MAX_ENTITIES = 500
MAX_RELATIONS = 1000
MAX_CO_OCCURRENCES = 100
MAX_SPANS = 50

_STRENGTH: dict[RelationKind, int] = {"is_a": 0, "verb": 1, "attribute": 2, "co_occurrence": 3}


def assemble(
    title: str,
    text: str,
    chunks: Sequence[Chunk],
    mentions: Sequence[Mention],
    entities: Sequence[EntityGroup],
    relations: Sequence[Relation],
) -> Extraction:
    """Write out the result: the most mentioned entities and the strongest relations first.

    Every relation that is listed has both its entities listed.
    """
    ranked = sorted(entities, key=lambda entity: -len(entity["mentions"]))
    listed = [_entity(entity, mentions) for entity in ranked[:MAX_ENTITIES]]
    kept = _strongest(relations, {entity["id"] for entity in listed})
    return Extraction(
        title=title,
        entities=listed,
        relations=kept,
        counts=Counts(
            characters=len(text),
            chunks=len(chunks),
            sentences=sum(len(chunk["sentences"]) for chunk in chunks),
            mentions=len(mentions),
            entities=len(entities),
            entities_omitted=len(entities) - len(listed),
            relations=len(relations),
            relations_omitted=len(relations) - len(kept),
            entity_types=_tally(entity["type"] for entity in entities),
            relation_kinds=_tally(relation["kind"] for relation in relations),
        ),
    )


def _entity(entity: EntityGroup, mentions: Sequence[Mention]) -> Entity:
    spans = [[mentions[position]["start"], mentions[position]["end"]] for position in entity["mentions"][:MAX_SPANS]]
    return Entity(
        id=entity["id"],
        name=entity["name"],
        type=entity["type"],
        count=len(entity["mentions"]),
        aliases=entity["aliases"],
        spans=spans,
    )


def _strongest(relations: Sequence[Relation], listed: set[str]) -> list[Relation]:
    candidates = [one for one in relations if one["subject_id"] in listed and one["object_id"] in listed]
    # Sorting is stable: among equals the document's order stays.
    candidates.sort(key=lambda relation: (_STRENGTH[relation["kind"]], -relation["count"]))
    stated = [relation for relation in candidates if relation["kind"] != "co_occurrence"]
    weak = [relation for relation in candidates if relation["kind"] == "co_occurrence"]
    return (stated + weak[:MAX_CO_OCCURRENCES])[:MAX_RELATIONS]


def _tally(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
