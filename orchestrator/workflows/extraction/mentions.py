"""Stage 2: every place in the document where something is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from orchestrator.workflows.extraction.definitions import find_concepts, find_expansions
from orchestrator.workflows.extraction.markup import CODE, mask
from orchestrator.workflows.extraction.names import Capitals, Token, find_names, tokenize
from orchestrator.workflows.extraction.patterns import Found, find_patterns
from orchestrator.workflows.extraction.records import Chunk, Mention

__all__ = ["find_mentions", "make_mention"]


class _Sentence(NamedTuple):
    chunk: int
    number: int
    start: int
    body: str
    tokens: list[Token]
    shaped: list[Found]


def find_mentions(text: str, chunks: Sequence[Chunk]) -> list[Mention]:
    """Find the mentions in all sentences, in order.

    Mentions do not overlap, but for concepts, which may hold a name: "a Python library".
    """
    sentences = list(_read(text, chunks))
    capitals = Capitals()
    for sentence in sentences:
        capitals.add(sentence.tokens)
    return [mention for sentence in sentences for mention in _mentions_of(text, sentence, capitals)]


def make_mention(text: str, chunk: int, sentence: int, start: int, found: Found) -> Mention:
    """Write out what was found in the sentence that begins at `start`."""
    begin, end = start + found.start, start + found.end
    raw = text[begin:end]
    name = raw if found.type in ("url", "code", "file") else mask(raw)
    return Mention(
        start=begin,
        end=end,
        text=raw,
        name=" ".join(name.split()) or raw,
        type=found.type,
        expands=found.expands,
        chunk=chunk,
        sentence=sentence,
    )


def _read(text: str, chunks: Sequence[Chunk]) -> Iterator[_Sentence]:
    for number, chunk in enumerate(chunks):
        masked = mask(text[chunk["start"] : chunk["end"]])
        for place, (start, end) in enumerate(chunk["sentences"]):
            part = masked[start - chunk["start"] : end - chunk["start"]]
            shaped = find_patterns(text[start:end], part)
            body = _cover(part, shaped)
            tokens = tokenize(body, heading=chunk["kind"] == "heading")
            yield _Sentence(number, place, start, body, tokens, shaped)


def _cover(sentence: str, shaped: Iterable[Found]) -> str:
    """Put one unreadable word in the place of each shaped mention, so that no name is read out of it."""
    parts, position = [], 0
    for found in shaped:
        parts += [sentence[position : found.start], CODE * (found.end - found.start)]
        position = found.end
    return "".join([*parts, sentence[position:]])


def _mentions_of(text: str, sentence: _Sentence, capitals: Capitals) -> Iterator[Mention]:
    names = find_names(sentence.body, sentence.tokens, capitals)
    expansions = _typed_by_names(find_expansions(sentence.body), names)
    found = _merge(sentence.shaped, _merge(expansions, names))
    concepts = [concept for concept in find_concepts(sentence.body, found) if concept not in found]
    for one in sorted([*found, *_not_partly_covered(concepts, found)], key=lambda f: (f.start, -f.end)):
        yield make_mention(text, sentence.chunk, sentence.number, sentence.start, one)


def _typed_by_names(expansions: Sequence[Found], names: Sequence[Found]) -> list[Found]:
    """Give a long form the type of the name it covers: "World Health Organization (WHO)" is no mere concept."""
    types = {(name.start, name.end): name.type for name in names if name.type != "name"}
    return [one._replace(type=types.get((one.start, one.end), one.type)) for one in expansions]


def _merge(first: Sequence[Found], second: Sequence[Found]) -> list[Found]:
    """Join two ordered lists; where they overlap, `first` wins."""
    merged: list[Found] = []
    position = last_end = 0
    for candidate in second:
        while position < len(first) and first[position].start < candidate.end:
            merged.append(first[position])
            last_end = first[position].end
            position += 1
        if candidate.start >= last_end:
            merged.append(candidate)
    merged.extend(first[position:])
    return sorted(merged)


def _not_partly_covered(concepts: Sequence[Found], found: Sequence[Found]) -> list[Found]:
    """Keep the concepts that hold whole mentions or none, and are more than one mention."""
    kept: list[Found] = []
    for concept in concepts:
        touching = [one for one in found if one.start < concept.end and concept.start < one.end]
        inside = all(concept.start <= one.start and one.end <= concept.end for one in touching)
        same = any((one.start, one.end) == (concept.start, concept.end) for one in touching)
        if inside and not same and (not kept or kept[-1].end <= concept.start):
            kept.append(concept)
    return kept
