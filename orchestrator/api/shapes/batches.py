"""Batches as answers show them."""

from __future__ import annotations

from typing import Annotated, Literal

from orchestrator.api.shapes.base import Shape, Time, one_of
from orchestrator.api.shapes.runs import RunError
from orchestrator.batches import model
from orchestrator.runs.model import RunStatus

__all__ = [
    "BatchCounts",
    "BatchDocuments",
    "BatchState",
    "DocumentEntry",
    "DocumentError",
    "EntityState",
    "Found",
    "MergeEntry",
    "Merges",
    "SpellingEntry",
]


class DocumentError(Shape):
    """Why a document failed."""

    type: str
    """The class of the error, with its module."""
    message: str
    """What is wrong with the document, or what its run ran into."""
    state: Annotated[str, one_of(model.BatchState)]
    """The state of the batch in which it failed."""


class DocumentEntry(Shape):
    """One document of a batch."""

    key: str
    """What it is known by within the batch: its name, its `id`, or `#` and its number."""
    name: str
    """Where it was read: the path as it was given, with `:` and the line in a JSONL file; of an inline one, its key."""
    title: str | None
    """Its title, as it was given or read; null where it has none."""
    content_hash: str | None
    """The SHA-256 of its text, in hexadecimal; null where it was not read."""
    state: Annotated[str, one_of(model.DocumentState)]
    """How far it has come."""
    error: DocumentError | None
    """Why it failed; null where it did not."""
    run_id: str | None
    """The id of the run that extracts it; null while it is `pending`. No run has it if the document failed earlier."""


class BatchDocuments(Shape):
    """A page of a batch's documents."""

    documents: list[DocumentEntry]
    """In their order."""
    next_after: int | None
    """The `after` of the page after it; null on the last one."""


class BatchCounts(Shape):
    """How many of a batch's documents came through a state. Those that failed before it are in none of its numbers."""

    done: int
    """Those that are past it."""
    total: int
    """Those that came as far, or still may."""
    failed: int
    """Those that failed in it."""


class Found(Shape):
    """What a batch's documents held."""

    documents: int
    """The documents in which there was something."""
    entities: int
    """The different entities."""
    mentions: int
    """The places where they are named."""
    relations: int
    """The different relations between them."""
    evidence: int
    """The places where those are stated."""
    merges: int
    """The merges that the batch made and that held at its end."""
    problems: int
    """What fits its document badly, such as a relation without its object."""


class MergeEntry(Shape):
    """Why two spellings are one entity, or were."""

    merge_id: str
    """Its id, a UUID, to be undone by."""
    left: str
    """One of the two spellings."""
    right: str
    """The other one."""
    rule: str
    """What joined them: `spelling`, `spelled_out` or `untyped`; docs/batches.md tells when each does."""
    score: float
    """How sure it is, 0 to 100; what a document says or a type decides has 100."""
    reason: str
    """The same for people."""
    survivor_id: str
    """The entity that both were from then on; its id stays."""
    absorbed_id: str
    """The entity that was joined to it; its id still finds the one that it is part of."""
    batch_id: str
    """The batch that made it."""
    created_at: Time
    """When it was made."""
    undone_at: Time | None
    """When it was undone; null while it holds."""
    undone_why: Literal["asked", "ambiguous"] | None
    """`asked`: a person did, for good. `ambiguous`: the rule no longer held. Null while it holds."""


class Merges(Shape):
    """A page of the merges that a batch made."""

    merges: list[MergeEntry]
    """Oldest first, those that were undone too."""
    next_after: str | None
    """The `after` of the page after it; null on the last one."""


class SpellingEntry(Shape):
    """A way in which documents write an entity."""

    text: str
    """As it is written."""
    documents: int
    """How many documents write it so."""
    spelled_out: bool
    """Whether one of them says that it is another name for the entity."""


class EntityState(Shape):
    """An entity, and what made it."""

    entity_id: str
    """Its id, a UUID; not the one that was asked for where that was merged into it."""
    organization_id: str
    """Whose it is."""
    name: str
    """The spelling that names it best."""
    type: str
    """What it is, such as `organization`."""
    mentions: int
    """The places where documents name it."""
    documents: int
    """The documents that do, in all batches; the same one in two batches counts twice."""
    spellings: list[SpellingEntry]
    """The ways in which they write it, the most frequent first."""
    merges: list[MergeEntry]
    """What joined its spellings, oldest first, with what was undone."""


class BatchState(Shape):
    """A batch, and the first of its documents that failed."""

    batch_id: str
    """Its id, and its run's: a UUID."""
    organization_id: str
    """Whose it is: the organization of the token that started it, `default` without tokens."""
    title: str | None
    """What it was called; null where it was not."""
    policy: model.Policy
    """Whether one document that fails makes it fail (`all`), or only the failure of all of them does (`some`)."""
    state: Annotated[str, one_of(model.BatchState)]
    """How far it has come; docs/batches.md tells what each state does."""
    status: RunStatus
    """Where its run stands."""
    counts: dict[str, BatchCounts]
    """How many documents came through each state that does work, by its name."""
    failed_documents: list[DocumentEntry]
    """The first 100 documents that failed, in their order."""
    knowledge: Found | None
    """What its documents held; null until it is complete."""
    error: RunError | None
    """Why it failed; null where it did not."""
    retry_of: str | None
    """The batch whose failed documents it tries again; null: none."""
    status_url: str
    """Where it is shown; a path on this server."""
    stream_url: str
    """Where its events are streamed; a path on this server."""
    documents_url: str
    """Where its documents are listed; a path on this server."""
    created_at: Time
    """When it was accepted."""
    started_at: Time | None
    """When it was begun; null before that."""
    updated_at: Time
    """When its run changed last."""
    completed_at: Time | None
    """When it was over; null before that."""
