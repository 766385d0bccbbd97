"""Stage 4: how entities relate, read sentence by sentence.

A relation is read from the words between two neighbouring mentions (see `clauses`); lists on either side are
spread out. Two entities of one sentence for which nothing was read co-occur, which is the weakest relation.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from orchestrator.workflows.extraction.clauses import MAX_CLAUSE, Clause, is_list_gap, read_clause
from orchestrator.workflows.extraction.markup import CODE, mask
from orchestrator.workflows.extraction.records import (
    Chunk,
    EntityGroup,
    Evidence,
    Mention,
    Relation,
    RelationKind,
)
from orchestrator.workflows.extraction.verbs import NOUN_LIKE
from orchestrator.workflows.extraction.words import FUNCTION_WORDS, PREPOSITIONS

__all__ = ["RelationTable", "find_relations"]

MAX_EVIDENCE = 3
MAX_EVIDENCE_CHARS = 300
_MAX_TOGETHER = 8
_MAX_DISTANCE = 3
_MAX_GROUP = 8
_NEVER_SUBJECT = frozenset({"date", "quantity", "url", "email"})
_LAST_WORD = re.compile(r"(\w+)(?:\s+(?:the|an?|its|this|our|their))?\s*$")


class _Place(NamedTuple):
    """A mention in its sentence: offsets into the document, and the number of its entity."""

    start: int
    end: int
    type: str
    entity: int


class RelationTable:
    """Relations as they are found, each once, with its count and its first evidence."""

    def __init__(self, text: str, entities: Sequence[EntityGroup]) -> None:
        self._text = text
        self._entities = entities
        self._relations: dict[tuple[int, str, int], Relation] = {}

    def add(
        self,
        subject: int,
        predicate: str,
        object_: int,
        kind: RelationKind,
        span: tuple[int, int],
        sentence: Sequence[int],
    ) -> None:
        """Note one more place where the relation is stated; a relation of a thing to itself is none."""
        if subject == object_:
            return
        key = (subject, predicate, object_)
        relation = self._relations.get(key)
        if relation is None:
            relation = self._relations[key] = self._new(subject, predicate, object_, kind)
        relation["count"] += 1
        if len(relation["evidence"]) < MAX_EVIDENCE:
            relation["evidence"].append(self._evidence(span, sentence))

    def relations(self) -> list[Relation]:
        """Return the relations in the order in which they were found, without co-occurrence of what is related."""
        related = {
            frozenset((relation["subject_id"], relation["object_id"]))
            for relation in self._relations.values()
            if relation["kind"] != "co_occurrence"
        }
        return [
            relation
            for relation in self._relations.values()
            if relation["kind"] != "co_occurrence"
            or frozenset((relation["subject_id"], relation["object_id"])) not in related
        ]

    def _new(self, subject: int, predicate: str, object_: int, kind: RelationKind) -> Relation:
        first, second = self._entities[subject], self._entities[object_]
        return Relation(
            subject=first["name"],
            subject_id=first["id"],
            predicate=predicate,
            object=second["name"],
            object_id=second["id"],
            kind=kind,
            count=0,
            evidence=[],
        )

    def _evidence(self, span: tuple[int, int], sentence: Sequence[int]) -> Evidence:
        start, end = sentence
        # A sentence too long to keep is cut around the relation.
        if end - start > MAX_EVIDENCE_CHARS:
            start = max(start, span[0] - 40)
            end = min(end, max(span[1], start + MAX_EVIDENCE_CHARS), start + MAX_EVIDENCE_CHARS)
        return Evidence(start=span[0], end=span[1], sentence=self._text[start:end])


def find_relations(
    text: str, chunks: Sequence[Chunk], mentions: Sequence[Mention], entities: Sequence[EntityGroup]
) -> list[Relation]:
    """Find the relations between `entities` in the sentences that hold more than one of them."""
    table = RelationTable(text, entities)
    lead: _Lead | None = None
    for chunk_number, group in itertools.groupby(_with_entities(mentions, entities), key=lambda pair: pair[0]["chunk"]):
        chunk = chunks[chunk_number]
        if chunk["kind"] == "heading":
            lead = None
            continue
        if chunk["kind"] != "list_item" or chunk["section"] != (lead.section if lead else ""):
            lead = None
        masked = mask(text[chunk["start"] : chunk["end"]])
        for sentence, pairs in itertools.groupby(group, key=lambda pair: pair[0]["sentence"]):
            span, places = chunk["sentences"][sentence], list(_outermost(pairs))
            if lead and sentence == 0 and places[0].start - chunk["start"] < 3:
                lead.relate(table, places[0])
            if len(places) > 1:
                _SentenceReader(table, masked, chunk["start"], span, places).read()
            lead = _lead(masked, chunk, span, places[-1]) or lead
    return table.relations()


class _Lead(NamedTuple):
    """The sentence before a list, when it is one: "The layer provides:"."""

    place: _Place
    clause: Clause
    sentence: Sequence[int]
    section: str

    def relate(self, table: RelationTable, item: _Place) -> None:
        if item.type not in _NEVER_SUBJECT:
            span = (self.place.start, item.end)
            table.add(self.place.entity, self.clause.predicate, item.entity, "verb", span, self.sentence)


def _lead(masked: str, chunk: Chunk, sentence: Sequence[int], last: _Place) -> _Lead | None:
    tail = masked[last.end - chunk["start"] : sentence[1] - chunk["start"]].strip(CODE).rstrip()
    if last.type in _NEVER_SUBJECT or not tail.endswith(":"):
        return None
    clause = read_clause(tail[:-1])
    if clause is None or clause.kind != "verb" or clause.inverted or clause.carried:
        return None
    return _Lead(last, clause, sentence, chunk["section"])


def _with_entities(mentions: Sequence[Mention], entities: Sequence[EntityGroup]) -> Iterator[tuple[Mention, int]]:
    owner = {position: number for number, entity in enumerate(entities) for position in entity["mentions"]}
    for position, mention in enumerate(mentions):
        if position in owner:
            yield mention, owner[position]


def _outermost(pairs: Iterable[tuple[Mention, int]]) -> Iterator[_Place]:
    end = -1
    for mention, entity in pairs:
        if mention["start"] >= end:
            end = mention["end"]
            yield _Place(mention["start"], end, mention["type"], entity)


class _SentenceReader:
    """Reads one sentence; `subjects` are those of the last clause, for "X uses A and provides B"."""

    def __init__(
        self, table: RelationTable, masked: str, offset: int, sentence: Sequence[int], places: list[_Place]
    ) -> None:
        self.table = table
        self.masked = masked
        self.offset = offset
        self.sentence = sentence
        self.places = places
        self.subjects: list[_Place] = []
        self.objects: list[_Place] = []
        self.clause: Clause | None = None
        self.related: set[frozenset[int]] = set()

    def read(self) -> None:
        lists = self._lists()
        for left, right in itertools.pairwise(lists):
            between = self._text(left[-1].end, right[0].start)
            clause = read_clause(between, plural=len(left) > 1) if len(between) <= MAX_CLAUSE else None
            if clause is not None:
                self._relate(clause, left, right)
        self._co_occurrences()

    def _text(self, start: int, end: int) -> str:
        # The mention in a piece of code ends before its backtick does.
        return self.masked[start - self.offset : end - self.offset].strip(CODE)

    def _lists(self) -> list[list[_Place]]:
        lists = [[self.places[0]]]
        for before, place in itertools.pairwise(self.places):
            if is_list_gap(self._text(before.end, place.start)) and len(lists[-1]) < _MAX_GROUP:
                lists[-1].append(place)
            else:
                lists.append([place])
        return lists

    def _relate(self, clause: Clause, left: list[_Place], right: list[_Place]) -> None:
        subjects = self._subjects(clause, left)
        if clause.kind == "attribute":
            # Only the neighbours: "A, B and C of D" may mean C alone.
            subjects, right = left[-1:], right[:1]
            if right[0].type in ("quantity", "date"):
                self._date(clause, left, right[0])
                return
        else:
            self.subjects, self.clause, self.objects = subjects, clause, right
        for first, second in itertools.product(subjects, right):
            subject, object_ = (second, first) if clause.inverted else (first, second)
            if subject.type in _NEVER_SUBJECT or (clause.kind == "is_a" and object_.type in _NEVER_SUBJECT):
                continue
            self._add(subject, clause.predicate, object_, clause.kind)

    def _date(self, clause: Clause, left: list[_Place], right: _Place) -> None:
        """Tie a date to the statement before it: "A acquired B in 2018"."""
        if right.type == "date" and self.clause and self.objects is left and " " not in self.clause.predicate:
            subjects = left if self.clause.inverted else self.subjects
            for subject in subjects:
                self._add(subject, f"{self.clause.predicate} {clause.predicate}", right, "verb")

    def _subjects(self, clause: Clause, left: list[_Place]) -> list[_Place]:
        if clause.carried and self.subjects:
            return self.subjects
        if clause.carried or clause.attached:
            return [] if clause.carried else left[-1:]
        return [] if self._is_governed(left[0], clause) else left

    def _is_governed(self, place: _Place, clause: Clause) -> bool:
        """Whether a preposition or a plural governs the mention, so that it is no subject."""
        before = self._text(max(self.sentence[0], place.start - 40), place.start)
        word = _LAST_WORD.search(before)
        if word is None:
            return False
        before_it = word[1].lower()
        if clause.predicate.split(" ", 1)[0] in NOUN_LIKE and before_it not in FUNCTION_WORDS:
            return True
        return before_it in PREPOSITIONS

    def _add(self, subject: _Place, predicate: str, object_: _Place, kind: RelationKind) -> None:
        span = (min(subject.start, object_.start), max(subject.end, object_.end))
        self.related.add(frozenset((subject.entity, object_.entity)))
        self.table.add(subject.entity, predicate, object_.entity, kind, span, self.sentence)

    def _co_occurrences(self) -> None:
        first_places: dict[int, _Place] = {}
        for place in self.places:
            if place.type not in _NEVER_SUBJECT and len(first_places) < _MAX_TOGETHER:
                first_places.setdefault(place.entity, place)
        near = list(first_places.values())
        for index, one in enumerate(near):
            for other in near[index + 1 : index + 1 + _MAX_DISTANCE]:
                if frozenset((one.entity, other.entity)) not in self.related:
                    # Both orders are one relation, under the entity that the document names first.
                    subject, object_ = (one, other) if one.entity < other.entity else (other, one)
                    self._add(subject, "appears with", object_, "co_occurrence")
