"""The documents labelled by hand in `tests/data/extraction` (see its README): how they are read, and what they say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.batches.documents import find_documents, read_document

__all__ = ["DATA", "Labelled", "MentionLabel", "RelationLabel", "labelled_documents", "parsed"]

DATA = Path(__file__).parent.parent / "data" / "extraction"
_MENTION = re.compile(r"\[\[(?P<type>[a-z]+):(?P<text>[^\[\]=]+)(?:=(?P<name>[^\[\]]+))?\]\]")
_RELATION = re.compile(
    r"(?P<kind>verb|is_a|attribute): (?P<subject>[^|]+) \| (?P<predicate>[^|]+) \| (?P<object>[^|]+)"
)
_LINE = "\n---\n"
# A mail is text to the extraction.
_SUFFIXES = {".eml": ".txt"}


@dataclass(frozen=True, slots=True)
class MentionLabel:
    """A place in the text, what it names, and under which name."""

    start: int
    end: int
    type: str
    name: str


@dataclass(frozen=True, slots=True)
class RelationLabel:
    """What the text states, by name."""

    kind: str
    subject: str
    predicate: str
    object: str


@dataclass(frozen=True, slots=True)
class Labelled:
    """A document without its marks, and the labels that they were."""

    name: str
    text: str
    mentions: tuple[MentionLabel, ...]
    relations: tuple[RelationLabel, ...]


def labelled_documents(directory: Path = DATA) -> list[Labelled]:
    """All of them, by name. Raises `ValueError` for marks that are none."""
    return list(_read(directory))


def _read(directory: Path) -> Iterator[Labelled]:
    files = sorted(path for path in directory.iterdir() if path.suffix in (".md", ".html", ".txt", ".eml"))
    with TemporaryDirectory() as scratch:
        for file in files:
            if file.name == "README.md":
                continue
            marked, line, stated = file.read_text().rpartition(_LINE)
            if not line:
                raise ValueError(f"{file.name} has no line --- before what it states")
            # Read with its marks: an HTML page becomes text, and they become part of that text.
            copy = Path(scratch) / f"{file.stem}{_SUFFIXES.get(file.suffix, file.suffix)}"
            copy.write_text(f"{marked}\n")
            [source] = find_documents([copy])
            yield parsed(file.name, read_document(source).text, stated)


def parsed(name: str, marked: str, stated: str) -> Labelled:
    """A document of its marked text and the lines that it states."""
    pieces: list[str] = []
    mentions = []
    length = end = 0
    for mark in _MENTION.finditer(marked):
        between = marked[end : mark.start()]
        begins = length + len(between)
        pieces += [between, mark["text"]]
        length = begins + len(mark["text"])
        mentions.append(MentionLabel(begins, length, mark["type"], mark["name"] or mark["text"]))
        end = mark.end()
    text = "".join((*pieces, marked[end:]))
    if "[[" in text or "]]" in text:
        raise ValueError(f"{name} has a mark that can't be read")
    return Labelled(name, text, tuple(mentions), tuple(_relations(name, stated, {one.name for one in mentions})))


def _relations(name: str, stated: str, known: set[str]) -> Iterator[RelationLabel]:
    for line in filter(None, stated.splitlines()):
        match = _RELATION.fullmatch(line)
        if match is None:
            raise ValueError(f"{name} states {line!r}, which is not `kind: subject | predicate | object`")
        label = RelationLabel(**match.groupdict())
        # The object of `is a` may be a common noun, which is no mention.
        if label.subject not in known or (label.kind != "is_a" and label.object not in known):
            raise ValueError(f"{name} relates something that it does not mention: {line!r}")
        yield label
