"""What the tests of knowledge share: extractions written by hand, a store of each kind, and what a store holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import get_args
from uuid import UUID

from checkpointer import CheckpointerSettings, PooledPostgresSaver
from checkpointer.factory import open_saver
from orchestrator.batches.knowledge import KnowledgeStore, KnownEntity, KnownRelation
from orchestrator.batches.knowledge_memory import MemoryKnowledgeStore
from orchestrator.batches.knowledge_postgres import PostgresKnowledgeStore
from orchestrator.migrations import MIGRATIONS
from orchestrator.workflows.extraction.records import (
    Counts,
    Entity,
    Evidence,
    Extraction,
    Relation,
    RelationKind,
)

__all__ = [
    "BATCH",
    "ORG",
    "OTHER_BATCH",
    "all_entities",
    "document",
    "names",
    "open_knowledge",
    "partition",
    "relation",
    "statements",
]

ORG = "default"
BATCH = str(UUID(int=1))
OTHER_BATCH = str(UUID(int=2))


def entity(local_id: str, spec: str, place: int) -> Entity:
    """`"organization: ACME Corp / ACME Inc"`: a type, a name, its aliases."""
    type_, _, rest = spec.partition(": ")
    name, *aliases = [part.strip() for part in rest.split(" / ")]
    spans = [[place, place + max(len(name), 1)]]
    return Entity(id=local_id, name=name, type=type_, count=1, aliases=aliases, spans=spans)


def relation(subject: int, predicate: str, object_: int, kind: RelationKind = "verb", sentence: str = "S.") -> Relation:
    """A relation between entities by their position; positions from 1 on."""
    return Relation(
        subject=f"#{subject}",
        subject_id=f"e{subject}",
        predicate=predicate,
        object=f"#{object_}",
        object_id=f"e{object_}",
        kind=kind,
        count=1,
        evidence=[Evidence(start=10 * subject, end=10 * object_ + 5, sentence=sentence)],
    )


def document(*specs: str, relations: Iterable[Relation] = ()) -> Extraction:
    """An extraction with entities e1, e2, … as `entity` reads them."""
    entities = [entity(f"e{number}", spec, 100 * number) for number, spec in enumerate(specs, 1)]
    links = list(relations)
    counts = Counts(
        characters=1000,
        chunks=1,
        sentences=1,
        mentions=len(entities),
        entities=len(entities),
        entities_omitted=0,
        relations=len(links),
        relations_omitted=0,
        entity_types=dict(Counter(one["type"] for one in entities)),
        relation_kinds=dict.fromkeys(get_args(RelationKind), 0),
    )
    return Extraction(title="T", entities=entities, relations=links, counts=counts)


@asynccontextmanager
async def open_knowledge(settings: CheckpointerSettings) -> AsyncIterator[KnowledgeStore]:
    """The one place where the stores are made."""
    if not settings.use_postgres_saver:
        yield MemoryKnowledgeStore()
        return
    async with open_saver(settings, migrations=(MIGRATIONS,)) as saver:
        assert isinstance(saver, PooledPostgresSaver)
        yield PostgresKnowledgeStore(saver.pool, saver.schema)


async def all_entities(store: KnowledgeStore, organization: str = ORG) -> list[KnownEntity]:
    return await store.entities(organization, limit=10_000)


async def names(store: KnowledgeStore, organization: str = ORG) -> list[str]:
    """The names of all entities, sorted."""
    return sorted(one.name for one in await all_entities(store, organization))


async def partition(store: KnowledgeStore, organization: str = ORG) -> set[frozenset[str]]:
    """Which spellings are one entity: for each entity, the surfaces that documents write it with."""
    listed = await all_entities(store, organization)
    explained = [await store.explain(one.entity_id) for one in listed]
    return {frozenset(alias.surface for alias in one.aliases) for one in explained}


async def statements(store: KnowledgeStore, organization: str = ORG) -> Mapping[tuple[str, str, str], int]:
    """The relations of all entities by name, with their evidence."""
    known = {one.entity_id: one.name for one in await all_entities(store, organization)}
    relations: list[KnownRelation] = await store.relations(organization, limit=10_000)
    return {(known[one.subject_id], one.predicate, known[one.object_id]): one.evidence for one in relations}
