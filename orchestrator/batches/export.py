"""The graph as files: JSON-LD, written as it is read, and GraphML, which holds the whole graph in memory.

Both list entities and relations by id, so that the same knowledge gives the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import networkx as nx  # type: ignore[import-untyped]

from orchestrator.batches.knowledge import KnowledgeStore, KnownEntity, KnownRelation, Provenance, Statement

__all__ = ["all_entities", "all_relations", "build_graph", "graphml", "json_ld", "xml_text"]

PAGE = 2000
MAX_PLACES = 20
# Entities or relations whose places are asked for together.
_GROUP = 500
ItemT = TypeVar("ItemT")

_CLASSES = {
    "organization": "Organization",
    "person": "Person",
    "place": "Place",
    "product": "Product",
    "technology": "SoftwareApplication",
    "code": "SoftwareSourceCode",
    "concept": "DefinedTerm",
}
_OWN = "urn:holdfast:knowledge:"
_SCHEMA = "https://schema.org/"
_CONTEXT: Mapping[str, Any] = {
    "@version": 1.1,
    "@vocab": _OWN,
    "schema": _SCHEMA,
    "name": "schema:name",
    "alternateName": "schema:alternateName",
    "text": "schema:text",
    **{name: f"schema:{name}" for name in (*_CLASSES.values(), "Thing")},
    "subject": {"@type": "@id"},
    "object": {"@type": "@id"},
    "batch": {"@type": "@id"},
}
# What XML 1.0 has no way to write.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """The text without what XML cannot hold."""
    return _NOT_XML.sub("\ufffd", text)


async def all_entities(
    store: KnowledgeStore, organization: str, batch_id: str | None = None
) -> AsyncIterator[KnownEntity]:
    """Every entity by id, page after page."""
    after = None
    while page := await store.entities(organization, batch_id, after=after, limit=PAGE):
        for entity in page:
            yield entity
        after = page[-1].entity_id


async def all_relations(
    store: KnowledgeStore, organization: str, batch_id: str | None = None
) -> AsyncIterator[KnownRelation]:
    """Every relation by id, page after page."""
    after = None
    while page := await store.relations(organization, batch_id, after=after, limit=PAGE):
        for relation in page:
            yield relation
        after = page[-1].relation_id


async def json_ld(
    store: KnowledgeStore, organization: str, batch_id: str | None = None, *, max_places: int = MAX_PLACES
) -> AsyncIterator[str]:
    """A JSON-LD document in parts, one line per entity and relation.

    Each lists the first `max_places` places it was read in, and says how many there are. What is written while it is
    being read may be in it or not; a relation may then name an entity that is not listed.
    """
    yield f'{{"@context": {_json(_CONTEXT)},\n"@id": "{_OWN}graph:{batch_id or "all"}",\n"@graph": ['
    separator = "\n"
    async for nodes in _json_ld_nodes(store, organization, batch_id, max_places):
        for node in nodes:
            yield separator + _json(node)
            separator = ",\n"
    yield "\n]}\n"


async def graphml(store: KnowledgeStore, organization: str, batch_id: str | None = None) -> Iterator[str]:
    """The lines of a GraphML document."""
    graph = await build_graph(store, organization, batch_id)
    lines: Iterator[str] = nx.generate_graphml(graph, named_key_ids=True)
    return lines


async def build_graph(store: KnowledgeStore, organization: str, batch_id: str | None = None) -> nx.MultiDiGraph:
    """Entities as nodes and relations as edges, under their ids."""
    graph = nx.MultiDiGraph()
    async for entity in all_entities(store, organization, batch_id):
        graph.add_node(
            entity.entity_id,
            name=xml_text(entity.name),
            type=xml_text(entity.type),
            mentions=entity.mentions,
            documents=entity.documents,
        )
    async for relation in all_relations(store, organization, batch_id):
        # Either end may have been merged away between the two readings.
        if relation.subject_id in graph and relation.object_id in graph:
            graph.add_edge(
                relation.subject_id,
                relation.object_id,
                key=relation.relation_id,
                predicate=xml_text(relation.predicate),
                kind=relation.kind,
                evidence=relation.evidence,
            )
    return graph


async def _json_ld_nodes(
    store: KnowledgeStore, organization: str, batch_id: str | None, max_places: int
) -> AsyncIterator[list[dict[str, Any]]]:
    """Entities, then relations. What they need is asked for many at a time: one by one, asking takes all the time."""
    async for entities in _grouped(all_entities(store, organization, batch_id)):
        ids = [entity.entity_id for entity in entities]
        surfaces = await store.surfaces(ids)
        places = await store.places(ids, batch_id=batch_id, limit=max_places)
        yield [
            _entity_node(each, surfaces.get(each.entity_id, ()), places.get(each.entity_id, ())) for each in entities
        ]
    async for relations in _grouped(all_relations(store, organization, batch_id)):
        ids = [relation.relation_id for relation in relations]
        stated = await store.statements(ids, batch_id=batch_id, limit=max_places)
        yield [_relation_node(each, stated.get(each.relation_id, ())) for each in relations]


async def _grouped(items: AsyncIterator[ItemT]) -> AsyncIterator[list[ItemT]]:
    group: list[ItemT] = []
    async for item in items:
        group.append(item)
        if len(group) == _GROUP:
            yield group
            group = []
    if group:
        yield group


def _entity_node(entity: KnownEntity, surfaces: Iterable[str], places: Iterable[Provenance]) -> dict[str, Any]:
    return {
        "@id": f"urn:uuid:{entity.entity_id}",
        "@type": _CLASSES.get(entity.type, "Thing"),
        "entityType": entity.type,
        "name": entity.name,
        "alternateName": sorted(set(surfaces) - {entity.name}),
        "mentionCount": entity.mentions,
        "documentCount": entity.documents,
        "mentionedIn": [
            {**_place(place.batch_id, place.document_key, place.start, place.end), "text": place.text}
            for place in places
        ],
    }


def _relation_node(relation: KnownRelation, stated: Iterable[Statement]) -> dict[str, Any]:
    return {
        "@id": f"urn:uuid:{relation.relation_id}",
        "@type": "Relation",
        "subject": f"urn:uuid:{relation.subject_id}",
        "predicate": relation.predicate,
        "object": f"urn:uuid:{relation.object_id}",
        "kind": relation.kind,
        "evidenceCount": relation.evidence,
        "statedIn": [
            {**_place(place.batch_id, place.document_key, place.start, place.end), "text": place.sentence}
            for place in stated
        ],
    }


def _place(batch_id: str, document_key: str, start: int, end: int) -> dict[str, Any]:
    return {"batch": f"urn:uuid:{batch_id}", "document": document_key, "start": start, "end": end}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
