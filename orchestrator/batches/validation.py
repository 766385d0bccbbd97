"""Whether what was extracted from a document fits it: a model that reads may make things up. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.runs.model import Json
from orchestrator.workflows.extraction.records import Extraction

__all__ = ["InvalidExtractionError", "as_extraction", "check_extraction"]

_SHOWN = 3


class InvalidExtractionError(ValueError):
    """What was extracted can't be taken for knowledge of its document."""


def as_extraction(output: Json) -> Extraction:
    """The result in a run's output. Raises `InvalidExtractionError` where there is none."""
    if not isinstance(output, dict) or not all(name in output for name in ("entities", "relations", "counts")):
        raise InvalidExtractionError("the run that read the document gave no entities and relations")
    return Extraction(
        title=output.get("title", ""),
        entities=output["entities"],
        relations=output["relations"],
        counts=output["counts"],
    )


def check_extraction(extraction: Extraction, text: str) -> None:
    """Raise `InvalidExtractionError` where a name is empty, a place is not in the text, or a relation hangs loose."""
    found = list(_problems(extraction, len(text)))
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise InvalidExtractionError("; ".join(found[:_SHOWN]) + more)


def _problems(extraction: Extraction, length: int) -> Iterator[str]:
    for entity in extraction["entities"]:
        if not entity["name"].strip():
            yield f"entity {entity['id']!r} has no name"
        for start, end in entity["spans"]:
            if not 0 <= start < end <= length:
                yield f"the mention of {entity['name']!r} at {start}-{end} is no place in the document"
    known = {entity["id"] for entity in extraction["entities"]}
    for relation in extraction["relations"]:
        if missing := {relation["subject_id"], relation["object_id"]} - known:
            yield f"{relation['predicate']!r} relates {', '.join(map(repr, sorted(missing)))}, which is not listed"
