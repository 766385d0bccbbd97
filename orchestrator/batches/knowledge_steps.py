"""The steps that change knowledge, over the rows of any store: resolve a document, ingest it, undo a merge.

Each step is one transaction. Its locks, always taken in this order, so that no two steps wait for each other in a ring:

    the document      two attempts at the same document go one after the other
    blocks, sorted    two documents that bring the same or similar new spellings; only new ones are locked for
    the links         one per organization, only where something may be linked or parted

A spelling that was there before was compared with all others when it came, so a document that brings nothing new takes
no lock but its own.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from orchestrator.batches.knowledge import DocumentResult, Merge, MergeNotFoundError, UndoneWhy, canonical_id
from orchestrator.batches.reading import (
    AliasRow,
    EvidenceRow,
    MentionRow,
    RelationKey,
    Sighting,
    SpellingKey,
    alias_rows,
    read_extraction,
    read_mentions,
    read_relations,
)
from orchestrator.batches.resolution import Hood, Link, Plan, Spelling, plan, similar, without
from orchestrator.batches.spelling import block_keys
from orchestrator.errors import InvalidRequestError
from orchestrator.runs.model import new_run_id
from orchestrator.workflows.extraction.records import Extraction

__all__ = ["Document", "KnowledgeSteps", "Rows", "block_hashes"]

# Many documents are resolved at once, and the server's table of locks is shared by all.
_LOCKS = 64

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a batch."""

    organization: str
    batch_id: str
    key: str


class Rows(Protocol):
    """The rows of one organization's knowledge within one transaction. Spellings are those of `knowledge_entity`."""

    async def lock(self, keys: Sequence[int]) -> None:
        """Wait for these locks, in this order, and hold them until the end of the transaction."""
        ...

    async def with_keys(self, keys: Collection[SpellingKey]) -> list[Spelling]: ...

    async def with_forms(self, forms: Collection[str]) -> list[Spelling]: ...

    async def near(self, blocks: Collection[int]) -> list[Spelling]:
        """Those that have one of the blocks and are seen in a document."""
        ...

    async def claims(self, forms: Collection[str]) -> list[tuple[str, Spelling]]:
        """For each form that a document spells out as another name of a spelling, that spelling."""
        ...

    async def members(self, ids: Collection[str]) -> list[Spelling]:
        """All spellings of the entities that these spellings belong to."""
        ...

    async def links(self, ids: Collection[str]) -> list[Link]:
        """The live links of these spellings."""
        ...

    async def apart(self, ids: Collection[str]) -> list[tuple[str, str]]:
        """The ends of links of these spellings that a person has undone."""
        ...

    async def aliases(self, document: Document) -> set[AliasRow]: ...

    async def add_spellings(self, spellings: Sequence[Spelling], blocks: Sequence[list[int]]) -> None:
        """Those that are not there yet."""
        ...

    async def replace_aliases(self, document: Document, rows: Collection[AliasRow], *, had: bool) -> None:
        """`had` says whether there are any to replace."""
        ...

    async def replace_mentions(self, document: Document, rows: Sequence[MentionRow]) -> None: ...

    async def replace_evidence(
        self, document: Document, relations: Sequence[RelationKey], rows: Sequence[EvidenceRow]
    ) -> None: ...

    async def add_links(self, batch_id: str, links: Sequence[Link]) -> None: ...

    async def end_links(self, merge_ids: Collection[str], why: UndoneWhy) -> None: ...

    async def set_roots(self, roots: Mapping[str, str]) -> None: ...

    async def merge(self, merge_id: str) -> tuple[Merge, Link] | None: ...


class KnowledgeSteps(ABC):
    """The steps of a `KnowledgeStore`, for a store that gives its rows."""

    @abstractmethod
    async def _change(self, organization: str, work: Callable[[Rows], Awaitable[ResultT]]) -> ResultT:
        """What `work` returns, done in one transaction; it may be done again where the server was lost."""

    @abstractmethod
    async def _owner_of_merge(self, merge_id: str) -> str | None:
        """The organization that a merge belongs to."""

    async def resolve_document(
        self, organization: str, batch_id: str, document_key: str, extraction: Extraction
    ) -> dict[str, str]:
        document = Document(organization, batch_id, document_key)
        sightings = read_extraction(extraction)

        async def resolve(rows: Rows) -> dict[str, str]:
            return await _resolve(rows, document, sightings)

        return await self._change(organization, resolve)

    async def ingest_document(
        self, organization: str, batch_id: str, document_key: str, extraction: Extraction, text: str | None = None
    ) -> DocumentResult:
        document = Document(organization, batch_id, document_key)

        async def ingest(rows: Rows) -> DocumentResult:
            return await _ingest(rows, document, extraction, text)

        return await self._change(organization, ingest)

    async def add_document(
        self, organization: str, batch_id: str, document_key: str, extraction: Extraction, text: str | None = None
    ) -> DocumentResult:
        await self.resolve_document(organization, batch_id, document_key, extraction)
        return await self.ingest_document(organization, batch_id, document_key, extraction, text)

    async def undo_merge(self, merge_id: str, *, organization: str | None = None) -> Merge:
        merge_id = canonical_id(merge_id)
        owner = await self._owner_of_merge(merge_id)
        if owner is None or organization not in (None, owner):
            raise MergeNotFoundError(merge_id)

        async def undo(rows: Rows) -> Merge:
            return await _undo(rows, owner, merge_id)

        return await self._change(owner, undo)


def block_hashes(spelling: Spelling) -> list[int]:
    """A spelling's block keys as numbers of 64 bits."""
    return sorted({_hash("block", key) for key in block_keys(spelling.normal, spelling.type)})


async def _resolve(rows: Rows, document: Document, sightings: Sequence[Sighting]) -> dict[str, str]:
    await rows.lock([_hash("document", document.organization, document.batch_id, document.key)])
    by_key = {one.key: one for one in sightings}
    known = await _by_key(rows, by_key)
    new = {
        key: Spelling(own := new_run_id(), *key, one.name, own, seen=False)
        for key, one in by_key.items()
        if key not in known
    }
    before = await rows.aliases(document)
    forms = _forms_in_question(before, alias_rows(sightings, _ids(known | new)))
    fresh = [one for one in (known | new).values() if not one.seen]
    blocks = {block for one in fresh for block in block_hashes(one)} | {_hash("block", f"f:{form}") for form in forms}
    await rows.lock(_stripes(document.organization, blocks))
    spellings = known
    if fresh or forms:
        made = sorted(new.values(), key=lambda one: one.key)
        await rows.add_spellings(made, [block_hashes(one) for one in made])
        # Some may have been made by another document while this one waited, and are linked then.
        spellings = await _by_key(rows, by_key)
    after = alias_rows(sightings, _ids(spellings))
    if after != before:
        await rows.replace_aliases(document, after, had=bool(before))
    linked = await _link(rows, document, [one for one in spellings.values() if not one.seen], forms)
    now = await _by_key(rows, by_key) if linked else spellings
    return {one.local_id: now[one.key].root_id for one in sightings}


def _forms_in_question(before: set[AliasRow], after: set[AliasRow]) -> set[str]:
    """The forms for which a document claims something else than before, and those of spellings that it lost."""
    changed = {row.normal for row in before ^ after if row.spelled_out}
    kept = {row.entity_id for row in after}
    return changed | {row.normal for row in before if row.entity_id not in kept}


async def _link(rows: Rows, document: Document, fresh: Sequence[Spelling], forms: set[str]) -> bool:
    """Link what is new to what was there; whether there was anything to look at."""
    concerned = await _concerned(rows, fresh, forms)
    if not concerned:
        return False
    await rows.lock([_hash("links", document.organization)])
    fresh_ids = {one.entity_id for one in fresh}
    hood = await _hood(rows, fresh_ids | concerned)
    await _apply(rows, document.batch_id, plan(hood, fresh_ids, forms))
    return True


async def _concerned(rows: Rows, fresh: Sequence[Spelling], forms: set[str]) -> set[str]:
    """The spellings that fresh ones and changed claims may have to do with."""
    found: set[str] = set()
    if fresh:
        near = await rows.near({block for one in fresh for block in block_hashes(one)})
        found |= {other.entity_id for _, other, _ in similar(fresh, near)}
    asked = forms | {one.normal for one in fresh}
    if asked:
        named = await rows.with_forms(asked)
        claimed = [one for _, one in await rows.claims(asked)]
        lonely = len(named) == len({one.normal for one in named}) and not claimed and not forms
        found |= set() if lonely else {one.entity_id for one in [*named, *claimed]}
    return found


async def _hood(rows: Rows, ids: set[str]) -> Hood:
    hood = Hood({one.entity_id: one for one in await rows.members(ids)})
    forms = {one.normal for one in hood.spellings.values()}
    wider = {one.entity_id for one in await rows.with_forms(forms)}
    for form, claimer in await rows.claims(forms):
        hood.claims.setdefault(form, set()).add(claimer.entity_id)
        wider.add(claimer.entity_id)
    hood.spellings |= {one.entity_id: one for one in await rows.members(wider - hood.spellings.keys())}
    hood.links = await rows.links(hood.spellings)
    hood.apart = await rows.apart(hood.spellings)
    return hood


async def _apply(rows: Rows, batch_id: str, change: Plan) -> None:
    if change.ended:
        await rows.end_links([link.merge_id for link in change.ended], "ambiguous")
    if change.added:
        await rows.add_links(batch_id, change.added)
    if change.roots:
        await rows.set_roots(change.roots)


async def _ingest(rows: Rows, document: Document, extraction: Extraction, text: str | None) -> DocumentResult:
    await rows.lock([_hash("document", document.organization, document.batch_id, document.key)])
    sightings = read_extraction(extraction)
    spellings = await _by_key(rows, {one.key: one for one in sightings})
    ids = _ids(spellings)
    if any(one.key not in ids for one in sightings) or await rows.aliases(document) != alias_rows(sightings, ids):
        raise InvalidRequestError(
            f"document {document.key!r} was not resolved with this extraction; call resolve_document first"
        )
    mentions = read_mentions(extraction, sightings, ids, text)
    relations, evidence = read_relations(extraction, {one.local_id: ids[one.key] for one in sightings})
    await rows.replace_mentions(document, mentions)
    await rows.replace_evidence(document, relations, evidence)
    entities = {one.local_id: spellings[one.key].root_id for one in sightings}
    return DocumentResult(document.key, entities, len(mentions), len(relations), len(evidence))


async def _undo(rows: Rows, organization: str, merge_id: str) -> Merge:
    await rows.lock([_hash("links", organization)])
    found = await rows.merge(merge_id)
    if found is None:
        raise MergeNotFoundError(merge_id)
    merge, link = found
    if merge.undone_why == "asked":
        return merge
    if merge.undone_at is None:
        members = {one.entity_id: one for one in await rows.members([link.left])}
        change = without(Hood(members, links=await rows.links(members)), link)
        await rows.set_roots(change.roots)
    await rows.end_links([merge_id], "asked")
    undone = await rows.merge(merge_id)
    return merge if undone is None else undone[0]


async def _by_key(rows: Rows, keys: Collection[SpellingKey]) -> dict[SpellingKey, Spelling]:
    return {one.key: one for one in await rows.with_keys(keys)} if keys else {}


def _ids(spellings: Mapping[SpellingKey, Spelling]) -> dict[SpellingKey, str]:
    return {key: one.entity_id for key, one in spellings.items()}


def _stripes(organization: str, blocks: Iterable[int]) -> list[int]:
    """The locks for some blocks, sorted; blocks share them, and sharing one costs no more than a wait."""
    return sorted({_hash("stripe", organization, str(block % _LOCKS)) for block in blocks})


def _hash(*parts: str) -> int:
    digest = hashlib.blake2b("\x00".join(("knowledge", *parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)
