"""What a document's extraction comes to in rows: its spellings, aliases, mentions and relations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.batches.spelling import GENERIC_TYPE, bounded, clean, is_initialed, known_type, normal_form
from orchestrator.workflows.extraction.records import Entity, Evidence, Extraction

__all__ = [
    "AliasRow",
    "EvidenceRow",
    "MentionRow",
    "RelationKey",
    "Sighting",
    "SpellingKey",
    "alias_rows",
    "read_extraction",
    "read_mentions",
    "read_relations",
]

MAX_SURFACE_CHARS = 500
MAX_SENTENCE_CHARS = 2000
_MAX_INTEGER = 2**31 - 1

SpellingKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Sighting:
    """A local entity of a document, and the spelling it is known under; `aliases` are a surface and its form each."""

    local_id: str
    type: str
    normal: str
    name: str
    aliases: tuple[tuple[str, str], ...]

    @property
    def key(self) -> SpellingKey:
        return self.type, self.normal


@dataclass(frozen=True, slots=True, order=True)
class AliasRow:
    """A row of `knowledge_alias`, but for its document."""

    entity_id: str
    surface: str
    normal: str
    spelled_out: bool


@dataclass(frozen=True, slots=True, order=True)
class MentionRow:
    """A row of `knowledge_mention`, but for its document."""

    entity_id: str
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class RelationKey:
    """What makes a relation the same one; an end is None where the document does not list it."""

    subject_id: str | None
    predicate: str
    object_id: str | None
    kind: str


@dataclass(frozen=True, slots=True)
class EvidenceRow:
    """A row of `knowledge_evidence`, but for its document and with the relation it belongs to."""

    relation: RelationKey
    start: int
    end: int
    sentence: str


def read_extraction(extraction: Extraction) -> list[Sighting]:
    """The document's entities as spellings."""
    return [_sighting(entity) for entity in extraction["entities"]]


def alias_rows(sightings: Iterable[Sighting], ids: Mapping[SpellingKey, str]) -> set[AliasRow]:
    """How the document writes its entities; `ids` are those of the spellings."""
    rows: dict[tuple[str, str], AliasRow] = {}
    for one in sightings:
        own = ids[one.key]
        for surface, normal in ((one.name, one.normal), *one.aliases):
            said = normal != one.normal and not _is_part_of_name(one, normal)
            row = AliasRow(own, surface, normal, said)
            rows[own, surface] = min(row, rows.get((own, surface), row))
    return set(rows.values())


def read_mentions(
    extraction: Extraction, sightings: Sequence[Sighting], ids: Mapping[SpellingKey, str], text: str | None
) -> list[MentionRow]:
    """The document's mentions, each once."""
    rows = set()
    for entity, one in zip(extraction["entities"], sightings, strict=True):
        for start, end in entity["spans"]:
            said = one.name if text is None else clean(text[max(start, 0) : max(end, 0)])
            rows.add(MentionRow(ids[one.key], _bound(start), _bound(end), said[:MAX_SURFACE_CHARS]))
    return sorted(rows)


def read_relations(extraction: Extraction, local: Mapping[str, str]) -> tuple[list[RelationKey], list[EvidenceRow]]:
    """The document's relations and where they were read; `local` gives the spelling's id for a local one."""
    evidence: dict[EvidenceRow, None] = {}
    relations: dict[RelationKey, None] = {}
    for relation in extraction["relations"]:
        key = RelationKey(
            local.get(relation["subject_id"]),
            bounded(clean(relation["predicate"])),
            local.get(relation["object_id"]),
            relation["kind"],
        )
        relations[key] = None
        # A relation without a place still stands in the document.
        for place in relation["evidence"] or [Evidence(start=0, end=0, sentence="")]:
            sentence = clean(place["sentence"])[:MAX_SENTENCE_CHARS]
            evidence[EvidenceRow(key, _bound(place["start"]), _bound(place["end"]), sentence)] = None
    return list(relations), list(evidence)


def _sighting(entity: Entity) -> Sighting:
    type_ = known_type(entity["type"])
    name = clean(entity["name"])[:MAX_SURFACE_CHARS]
    surfaces = [clean(alias)[:MAX_SURFACE_CHARS] for alias in entity["aliases"]]
    aliases = tuple((surface, normal_form(surface, type_)) for surface in surfaces if surface)
    return Sighting(entity["id"], type_, normal_form(entity["name"], type_), name, aliases)


def _is_part_of_name(one: Sighting, alias: str) -> bool:
    """Whether an alias is short for a person's name: John Smith is Smith in this document, and nobody in the next."""
    if one.type not in ("person", GENERIC_TYPE):
        return False
    return is_initialed(alias) or (len(alias.split()) == 1 and alias in one.normal.split())


def _bound(offset: int) -> int:
    return max(-1, min(offset, _MAX_INTEGER))
