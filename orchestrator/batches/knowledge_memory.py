"""Knowledge in memory: it lasts as long as the process, and suits as many documents as a person would read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from orchestrator.batches.knowledge import (
    Alias,
    BatchCounts,
    EntityNotFoundError,
    Explanation,
    KnownEntity,
    KnownRelation,
    Merge,
    Problem,
    Provenance,
    Statement,
    canonical_id,
    entity_of,
)
from orchestrator.batches.knowledge_memory_rows import DocumentRows, MemoryRows
from orchestrator.batches.knowledge_steps import KnowledgeSteps, Rows
from orchestrator.batches.reading import RelationKey

__all__ = ["MemoryKnowledgeStore"]

ResultT = TypeVar("ResultT")


class MemoryKnowledgeStore(KnowledgeSteps):
    """A `KnowledgeStore` in dicts."""

    def __init__(self) -> None:
        self._organizations: dict[str, MemoryRows] = {}

    async def batch_counts(self, batch_id: str) -> BatchCounts:
        found = [(rows, part) for rows in self._organizations.values() for _, part in _documents(rows, batch_id)]
        roots = {rows.spellings[row.entity_id].root_id for rows, part in found for row in part.aliases}
        stated = {key for rows in self._organizations.values() for key in _stated(rows, batch_id)}
        merges = [merge for rows in self._organizations.values() for merge, _ in rows.merges.values()]
        return BatchCounts(
            documents=sum(bool(part.aliases) for _, part in found),
            entities=len(roots),
            mentions=sum(len(part.mentions) for _, part in found),
            relations=len(stated),
            evidence=sum(len(part.evidence) for _, part in found),
            merges=sum(merge.batch_id == batch_id and merge.undone_at is None for merge in merges),
        )

    async def entities(
        self, organization: str, batch_id: str | None = None, *, after: str | None = None, limit: int = 100
    ) -> list[KnownEntity]:
        rows = self._organizations.get(organization)
        listed = [] if rows is None else _entities(rows, batch_id)
        return [one for one in listed if after is None or one.entity_id > after][:limit]

    async def relations(
        self, organization: str, batch_id: str | None = None, *, after: str | None = None, limit: int = 100
    ) -> list[KnownRelation]:
        rows = self._organizations.get(organization)
        stated = {} if rows is None else _stated(rows, batch_id)
        listed = [
            KnownRelation(min(ids), subject, predicate, object_, kind, len(ids))
            for (subject, predicate, object_, kind), ids in stated.items()
        ]
        listed.sort(key=lambda one: one.relation_id)
        return [one for one in listed if after is None or one.relation_id > after][:limit]

    async def evidence(
        self, relation_id: str, *, batch_id: str | None = None, organization: str | None = None, limit: int = 1000
    ) -> list[Statement]:
        found = [
            Statement(batch, key, row.start, row.end, row.sentence)
            for name, rows in self._organizations.items()
            if organization in (None, name)
            for wanted in [key for key, known in rows.relations.items() if known == relation_id]
            for (batch, key), part in _documents(rows, batch_id)
            for row in part.evidence
            if _ends(rows, row.relation) == _ends(rows, wanted) is not None
        ]
        return sorted(found, key=lambda one: (one.batch_id, one.document_key, one.start, one.end))[:limit]

    async def entity(self, entity_id: str, *, organization: str | None = None) -> KnownEntity:
        rows, root = self._root(entity_id, organization)
        for found in _entities(rows, None, [root]):
            return found
        raise EntityNotFoundError(entity_id)

    async def provenance(
        self, entity_id: str, *, batch_id: str | None = None, organization: str | None = None, limit: int = 1000
    ) -> list[Provenance]:
        rows, root = self._root(entity_id, organization)
        members = rows.members_of(root)
        found = [
            Provenance(batch, key, row.start, row.end, row.text)
            for (batch, key), part in _documents(rows, batch_id)
            for row in part.mentions
            if row.entity_id in members
        ]
        return sorted(found, key=lambda one: (one.batch_id, one.document_key, one.start, one.end))[:limit]

    async def surfaces(self, entity_ids: Sequence[str]) -> dict[str, list[str]]:
        return {each: sorted({one.surface for one in (await self.explain(each)).aliases}) for each in entity_ids}

    async def places(
        self, entity_ids: Sequence[str], *, batch_id: str | None = None, limit: int = 20
    ) -> dict[str, list[Provenance]]:
        return {each: await self.provenance(each, batch_id=batch_id, limit=limit) for each in entity_ids}

    async def statements(
        self, relation_ids: Sequence[str], *, batch_id: str | None = None, limit: int = 20
    ) -> dict[str, list[Statement]]:
        return {each: await self.evidence(each, batch_id=batch_id, limit=limit) for each in relation_ids}

    async def merges(
        self, organization: str, batch_id: str, *, after: str | None = None, limit: int = 100
    ) -> list[Merge]:
        rows = self._organizations.get(organization)
        made = [merge for merge, _ in rows.merges.values() if merge.batch_id == batch_id] if rows else []
        made.sort(key=lambda one: one.merge_id)
        return [one for one in made if after is None or one.merge_id > after][:limit]

    async def explain(self, entity_id: str, *, organization: str | None = None) -> Explanation:
        rows, root = self._root(entity_id, organization)
        entity = await self.entity(entity_id)
        members = rows.members_of(root)
        documents: defaultdict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
        said: set[tuple[str, str]] = set()
        for key, part in _documents(rows, None):
            for row in part.aliases:
                if row.entity_id in members:
                    documents[row.surface, row.normal].add(key)
                    said |= {(row.surface, row.normal)} if row.spelled_out else set()
        aliases = [Alias(*name, documents=len(keys), spelled_out=name in said) for name, keys in documents.items()]
        merges = [merge for merge, link in rows.merges.values() if {link.left, link.right} & members]
        return Explanation(
            entity,
            sorted(aliases, key=lambda one: (-one.documents, one.surface, one.normal)),
            sorted(merges, key=lambda one: (one.at, one.merge_id)),
        )

    async def validate(self, batch_id: str) -> list[Problem]:
        found = {
            problem
            for rows in self._organizations.values()
            for (_, key), part in _documents(rows, batch_id)
            for problem in _problems(rows, key, part)
        }
        return sorted(found)

    def _root(self, entity_id: str, organization: str | None) -> tuple[MemoryRows, str]:
        entity_id = canonical_id(entity_id)
        for name, rows in self._organizations.items():
            if entity_id in rows.spellings and organization in (None, name):
                return rows, rows.spellings[entity_id].root_id
        raise EntityNotFoundError(entity_id)

    async def _owner_of_merge(self, merge_id: str) -> str | None:
        return next((name for name, rows in self._organizations.items() if merge_id in rows.merges), None)

    async def _change(self, organization: str, work: Callable[[Rows], Awaitable[ResultT]]) -> ResultT:
        return await work(self._organizations.setdefault(organization, MemoryRows(organization)))


def _documents(rows: MemoryRows, batch_id: str | None) -> list[tuple[tuple[str, str], DocumentRows]]:
    return [(key, part) for key, part in rows.documents.items() if batch_id in (None, key[0])]


def _entities(rows: MemoryRows, batch_id: str | None, roots: list[str] | None = None) -> Iterator[KnownEntity]:
    mentions: Counter[str] = Counter()
    documents: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for key, part in _documents(rows, batch_id):
        mentions.update(row.entity_id for row in part.mentions)
        for row in part.aliases:
            documents[row.entity_id].add(key)
    for root in rows.roots() if roots is None else roots:
        present = [rows.spellings[each] for each in rows.members_of(root) if documents[each]]
        if present:
            spellings = [(one.name, one.type, mentions[one.entity_id]) for one in present]
            seen_in = set().union(*(documents[one.entity_id] for one in present))
            yield entity_of(root, rows.organization, spellings, len(seen_in))


def _stated(rows: MemoryRows, batch_id: str | None) -> dict[tuple[str, str, str, str], list[str]]:
    """For each relation between different entities, the id of its row once for each place where it is stated."""
    stated: defaultdict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for _, part in _documents(rows, batch_id):
        for row in part.evidence:
            ends = _ends(rows, row.relation)
            if ends is not None and ends[0] != ends[2]:
                stated[ends].append(rows.relations[row.relation])
    return stated


def _ends(rows: MemoryRows, relation: RelationKey) -> tuple[str, str, str, str] | None:
    """The relation between entities that a relation between spellings is; None where one of them is missing."""
    if relation.subject_id is None or relation.object_id is None:
        return None
    subject, object_ = rows.spellings[relation.subject_id].root_id, rows.spellings[relation.object_id].root_id
    return subject, relation.predicate, object_, relation.kind


def _problems(rows: MemoryRows, key: str, part: DocumentRows) -> Iterator[Problem]:
    for row in part.evidence:
        ends = row.relation.subject_id, row.relation.object_id
        if None in ends:
            yield Problem.missing_end(key, row.relation.predicate, subject=ends[0] is None, object_=ends[1] is None)
    known = {row.entity_id for row in part.aliases}
    for mention in part.mentions:
        if mention.start < 0 or mention.end <= mention.start or mention.entity_id not in known:
            yield Problem.dangling_mention(key, mention.start, mention.end)
    for each in known:
        if not rows.spellings[each].normal:
            yield Problem.empty_name(key, rows.spellings[each].type)
