"""The contract of a knowledge store: what was extracted, of every document and batch, as one graph per organization.

A document goes in by two steps, `resolve_document` and `ingest_document`. Invariants:
1. Each step may be repeated, after a crash or by two workers at once, and leaves the same rows. For a document that has
   changed, it replaces what the document had before.
2. Spellings of one thing are one entity, whichever documents and batches they come from and in whatever order, also
   where those are read at the same time. The rules are those of `resolution.py`.
3. Every mention, alias and relation stays with the spelling it was read under. So a merge that is undone leaves both
   entities with what is their own, and the id of an entity that was absorbed still finds the one it is part of.

`batch_id` is a UUID. A document is known by its key within its batch; the same document in two batches counts twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal, Protocol, TypeAlias
from uuid import UUID

from orchestrator.batches.resolution import Rule
from orchestrator.batches.spelling import GENERIC_TYPE
from orchestrator.errors import OrchestratorError
from orchestrator.workflows.extraction.records import Extraction

__all__ = [
    "Alias",
    "BatchCounts",
    "DocumentResult",
    "EntityNotFoundError",
    "Explanation",
    "KnowledgeStore",
    "KnownEntity",
    "KnownRelation",
    "Merge",
    "MergeNotFoundError",
    "Problem",
    "Provenance",
    "Statement",
    "UndoneWhy",
    "canonical_id",
    "entity_of",
]

ProblemKind: TypeAlias = Literal["missing_entity", "dangling_mention", "empty_name"]
UndoneWhy: TypeAlias = Literal["asked", "ambiguous"]


class EntityNotFoundError(OrchestratorError):
    """No entity has this id."""

    status: ClassVar[int] = 404
    code: ClassVar[str] = "entity_not_found"

    def __init__(self, entity_id: str) -> None:
        super().__init__(f"there is no entity {entity_id!r}")


class MergeNotFoundError(OrchestratorError):
    """No merge has this id."""

    status: ClassVar[int] = 404
    code: ClassVar[str] = "merge_not_found"

    def __init__(self, merge_id: str) -> None:
        super().__init__(f"there is no merge {merge_id!r}")


@dataclass(frozen=True, slots=True)
class DocumentResult:
    """What a document came to: the entity of each of its local ids, as of now, and the rows it has."""

    document_key: str
    entities: Mapping[str, str]
    mentions: int
    relations: int
    evidence: int


@dataclass(frozen=True, slots=True)
class KnownEntity:
    """An entity. Listed for a batch, the counts are those of the batch's documents alone."""

    entity_id: str
    organization_id: str
    name: str
    type: str
    mentions: int
    documents: int


@dataclass(frozen=True, slots=True)
class KnownRelation:
    """A relation between two entities; `evidence` counts the places where it was read."""

    relation_id: str
    subject_id: str
    predicate: str
    object_id: str
    kind: str
    evidence: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """A mention; `start` and `end` are characters into the document, end exclusive."""

    batch_id: str
    document_key: str
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A place where a relation was read; `start` and `end` are characters into the document, end exclusive."""

    batch_id: str
    document_key: str
    start: int
    end: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Alias:
    """A way in which documents write an entity; `spelled_out` where one says that it is another name for it."""

    surface: str
    normal: str
    documents: int
    spelled_out: bool


@dataclass(frozen=True, slots=True)
class Merge:
    """Why two entities are one, or were: `left` and `right` are the spellings that were found to be the same.

    `undone_why`: "asked" by a person, or the reason no longer held ("ambiguous"). Only the first is for good.
    """

    merge_id: str
    organization_id: str
    survivor_id: str
    absorbed_id: str
    left: str
    right: str
    score: float
    rule: Rule
    reason: str
    batch_id: str
    at: datetime
    undone_at: datetime | None = None
    undone_why: UndoneWhy | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What made an entity: every spelling, and the merges that hold and held between them, oldest first."""

    entity: KnownEntity
    aliases: Sequence[Alias]
    merges: Sequence[Merge]


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """What is wrong with what a document brought."""

    document_key: str
    kind: ProblemKind
    detail: str

    @classmethod
    def missing_end(cls, document_key: str, predicate: str, *, subject: bool, object_: bool) -> Problem:
        """A relation that lacks its subject, its object or both."""
        lacks = " and ".join(end for end, lacking in (("subject", subject), ("object", object_)) if lacking)
        return cls(document_key, "missing_entity", f"the {lacks} of {predicate!r} is no entity of the document")

    @classmethod
    def dangling_mention(cls, document_key: str, start: int, end: int) -> Problem:
        """A mention that is no place in a text, or of an entity that the document does not have."""
        return cls(document_key, "dangling_mention", f"the mention at {start}-{end} is no mention of an entity")

    @classmethod
    def empty_name(cls, document_key: str, type_: str) -> Problem:
        """An entity that has no name."""
        return cls(document_key, "empty_name", f"an entity of type {type_!r} has no name")


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """What a batch holds. `merges` counts those that its documents caused and that still hold."""

    documents: int
    entities: int
    mentions: int
    relations: int
    evidence: int
    merges: int


class KnowledgeStore(Protocol):
    """Where knowledge is kept. `organization`, where it may be None, hides what belongs to another one."""

    async def resolve_document(
        self, organization: str, batch_id: str, document_key: str, extraction: Extraction
    ) -> dict[str, str]:
        """The entity of each local id of the document, found or made, as of now: a later merge may give it another."""
        ...

    async def ingest_document(
        self, organization: str, batch_id: str, document_key: str, extraction: Extraction, text: str | None = None
    ) -> DocumentResult:
        """Write the mentions and relations of a document that was resolved with the same extraction.

        With its `text`, each mention has its own words; without, the name of its spelling. Raises
        `InvalidRequestError` for a document that was not resolved.
        """
        ...

    async def add_document(
        self, organization: str, batch_id: str, document_key: str, extraction: Extraction, text: str | None = None
    ) -> DocumentResult:
        """Both steps."""
        ...

    async def batch_counts(self, batch_id: str) -> BatchCounts: ...

    async def entities(
        self, organization: str, batch_id: str | None = None, *, after: str | None = None, limit: int = 100
    ) -> list[KnownEntity]:
        """Entities that a document has, by id; `after` is the last id of the page before."""
        ...

    async def relations(
        self, organization: str, batch_id: str | None = None, *, after: str | None = None, limit: int = 100
    ) -> list[KnownRelation]:
        """Relations that a document has, between different entities, by id; `after` is the last id before."""
        ...

    async def evidence(
        self, relation_id: str, *, batch_id: str | None = None, organization: str | None = None, limit: int = 1000
    ) -> list[Statement]:
        """The first places where a listed relation was read, by batch, document and place; none for an unknown id."""
        ...

    async def entity(self, entity_id: str, *, organization: str | None = None) -> KnownEntity:
        """The entity that this id belongs to now. Raises `EntityNotFoundError`."""
        ...

    async def provenance(
        self, entity_id: str, *, batch_id: str | None = None, organization: str | None = None, limit: int = 1000
    ) -> list[Provenance]:
        """The first mentions, by batch, document and place. Raises `EntityNotFoundError`."""
        ...

    async def surfaces(self, entity_ids: Sequence[str]) -> dict[str, list[str]]:
        """For each of these entities, as they are listed, the ways in which documents write it, sorted."""
        ...

    async def places(
        self, entity_ids: Sequence[str], *, batch_id: str | None = None, limit: int = 20
    ) -> dict[str, list[Provenance]]:
        """`provenance` of many, as they are listed: at most `limit` for each."""
        ...

    async def statements(
        self, relation_ids: Sequence[str], *, batch_id: str | None = None, limit: int = 20
    ) -> dict[str, list[Statement]]:
        """`evidence` of many: at most `limit` for each."""
        ...

    async def merges(
        self, organization: str, batch_id: str, *, after: str | None = None, limit: int = 100
    ) -> list[Merge]:
        """The merges that the batch made, those that were undone too, oldest first; `after` is the last id before."""
        ...

    async def explain(self, entity_id: str, *, organization: str | None = None) -> Explanation:
        """Raises `EntityNotFoundError`."""
        ...

    async def undo_merge(self, merge_id: str, *, organization: str | None = None) -> Merge:
        """Part what the merge joined, for good; does nothing where it is undone. Raises `MergeNotFoundError`."""
        ...

    async def validate(self, batch_id: str) -> list[Problem]:
        """What is wrong with what the batch's documents brought, by document."""
        ...


def canonical_id(text: str) -> str:
    """An id as the stores have it, however it is written (`urn:uuid:` is how exports do); what is none, as it is."""
    try:
        return str(UUID(text))
    except ValueError:
        return text


def entity_of(
    entity_id: str, organization_id: str, spellings: Sequence[tuple[str, str, int]], documents: int
) -> KnownEntity:
    """An entity of its spellings, each a name, a type and its mentions. What names it best: a name that has a type and
    is no acronym, and of those the one that is mentioned most."""
    best = min(spellings, key=lambda one: (one[1] == GENERIC_TYPE, _is_acronym(one[0]), -one[2], one[0]))
    return KnownEntity(
        entity_id=entity_id,
        organization_id=organization_id,
        name=best[0],
        type=best[1],
        mentions=sum(mentions for _, _, mentions in spellings),
        documents=documents,
    )


def _is_acronym(name: str) -> bool:
    return len(name) <= 6 and name.isupper()
