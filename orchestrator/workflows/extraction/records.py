"""What the stages hand to each other, and what a caller gets.

Plain dictionaries throughout, so that a checkpoint of any stage holds nothing but JSON values. Every `start`
and `end` is an offset in characters into the document's text, end exclusive.
"""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

__all__ = [
    "Chunk",
    "Counts",
    "Entity",
    "EntityGroup",
    "Evidence",
    "Extraction",
    "Mention",
    "Relation",
    "RelationKind",
    "StageRun",
]

RelationKind = Literal["verb", "is_a", "attribute", "co_occurrence"]


class Chunk(TypedDict):
    """One block of the document; a block of code has no sentences, because nothing is read out of it."""

    start: int
    end: int
    kind: str
    section: str
    sentences: list[list[int]]


class Mention(TypedDict):
    """One place where something is named.

    `text` is the document between `start` and `end`; `name` is the same without markup and line breaks.
    `expands` is the acronym this mention spells out, or an empty string. `sentence` counts within the chunk.
    """

    start: int
    end: int
    text: str
    name: str
    type: str
    expands: str
    chunk: int
    sentence: int


class EntityGroup(TypedDict):
    """An entity before it is written out; `mentions` are positions in the list of mentions."""

    id: str
    name: str
    type: str
    aliases: list[str]
    mentions: list[int]


class Entity(TypedDict):
    """A finished entity; `count` counts all its mentions, `spans` lists the first of them."""

    id: str
    name: str
    type: str
    count: int
    aliases: list[str]
    spans: list[list[int]]


class Evidence(TypedDict):
    """Where a relation was read; the span runs from the first of its two mentions to the end of the other."""

    start: int
    end: int
    sentence: str


class Relation(TypedDict):
    """`subject` and `object` are names, for people; the ids point into the entities of the same extraction."""

    subject: str
    subject_id: str
    predicate: str
    object: str
    object_id: str
    kind: RelationKind
    count: int
    evidence: list[Evidence]


class Counts(TypedDict):
    """Totals of what was found; `*_omitted` of them were left out of the lists to bound their size."""

    characters: int
    chunks: int
    sentences: int
    mentions: int
    entities: int
    entities_omitted: int
    relations: int
    relations_omitted: int
    entity_types: dict[str, int]
    relation_kinds: dict[str, int]


class Extraction(TypedDict):
    """The result for one document."""

    title: str
    entities: list[Entity]
    relations: list[Relation]
    counts: Counts


class StageRun(TypedDict):
    """One execution of a stage, its pause included; both times are ISO 8601 in UTC."""

    stage: str
    pid: int
    startedAt: str
    finishedAt: str
