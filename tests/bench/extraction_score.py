"""How right the extraction is about documents labelled by hand: precision, recall and F1, by type and in all. Pure.

`mentions`             places in the text with their types; both ends and the type have to be the same
`entities`             what a document is about, by name and type; any of an entity's spellings will do
`entities, any type`   the same whatever the type: was it noticed at all
`relations`            kind, subject, predicate and object, all as in the text but for the tense
`relations, by name`   which two are related; that they merely stand in one sentence does not count
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.workflows.extraction.records import Extraction
from orchestrator.workflows.extraction.verbs import VERBS
from tests.bench.extraction_labels import Labelled

__all__ = ["ALL", "Score", "Scores", "scored", "worse"]

ALL = "all"
_TOLERANCE_ALL, _TOLERANCE_TYPE = 0.005, 0.03


@dataclass(frozen=True, slots=True)
class Score:
    """Of `labelled` things, `right` were found, among `found` in all."""

    labelled: int
    found: int
    right: int

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        return self.right / self.labelled if self.labelled else 1.0

    @property
    def f1(self) -> float:
        both = self.labelled + self.found
        return 2 * self.right / both if both else 1.0


# measure → type, or `all` → score.
Scores: TypeAlias = Mapping[str, Mapping[str, Score]]
_Item: TypeAlias = tuple[str, ...]


def scored(documents: Iterable[Labelled], extract: Callable[[str], Extraction]) -> Scores:
    """What `extract` finds in each document's text, against its labels."""
    counted: dict[str, tuple[Counter[str], Counter[str], Counter[str]]] = {}
    for document in documents:
        for measure, (labelled, found) in _measured(document, extract(document.text)).items():
            sums = counted.setdefault(measure, (Counter(), Counter(), Counter()))
            for total, items in zip(sums, (labelled, found, labelled & found), strict=True):
                total.update(item[0] for item in items)
    return {
        measure: {
            type_: Score(labelled[type_], found[type_], right[type_])
            for type_ in sorted(labelled.keys() | found.keys())
        }
        | {ALL: Score(labelled.total(), found.total(), right.total())}
        for measure, (labelled, found, right) in counted.items()
    }


def worse(scores: Scores, recorded: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Where F1 is lower than on record, beyond what one lucky label makes."""
    found = []
    for measure, types in recorded.items():
        for type_, before in types.items():
            now = scores[measure][type_].f1 if type_ in scores.get(measure, {}) else 0.0
            if now < before - (_TOLERANCE_ALL if type_ == ALL else _TOLERANCE_TYPE):
                found.append(f"{measure}, {type_}: F1 {now:.3f}, on record {before:.3f}")
    return found


def _measured(document: Labelled, found: Extraction) -> dict[str, tuple[set[_Item], set[_Item]]]:
    """For each measure, what is labelled and what was found; the first of each item is its type."""
    labels = {(each.type, each.name.casefold()) for each in document.mentions}
    names = {name for _, name in labels}
    known = {entity["id"]: _known(entity["name"], entity["aliases"], names) for entity in found["entities"]}
    entities: set[_Item] = {(entity["type"], known[entity["id"]]) for entity in found["entities"]}
    places: set[_Item] = {
        (entity["type"], str(start), str(end)) for entity in found["entities"] for start, end in entity["spans"]
    }
    stated: set[_Item] = set()
    for one in found["relations"]:
        if one["kind"] != "co_occurrence":
            stated.add((one["kind"], known[one["subject_id"]], _plain(one["predicate"]), known[one["object_id"]]))
    wanted: set[_Item] = {
        (each.kind, each.subject.casefold(), _plain(each.predicate), each.object.casefold())
        for each in document.relations
    }
    return {
        "mentions": ({(each.type, str(each.start), str(each.end)) for each in document.mentions}, set(places)),
        "entities": (set(labels), set(entities)),
        "entities, any type": ({("any", name) for name in names}, {("any", name) for _, name in entities}),
        "relations": (set(wanted), stated),
        "relations, by name": (_pairs(wanted), _pairs(stated)),
    }


def _known(name: str, aliases: Iterable[str], labelled: set[str]) -> str:
    """The label that one of the spellings is, else the name."""
    spellings = [name.casefold(), *(alias.casefold() for alias in aliases)]
    return next((each for each in spellings if each in labelled), spellings[0])


def _plain(predicate: str) -> str:
    """A predicate without its tense, which the extraction chooses by the verb."""
    words = predicate.casefold().split()
    return " ".join(VERBS[word].active if word in VERBS else word for word in words)


def _pairs(relations: Iterable[_Item]) -> set[_Item]:
    return {("any", *sorted((subject, object_))) for _, subject, _, object_ in relations}
