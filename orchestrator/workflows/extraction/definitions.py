"""Mentions that need more than a word's shape: spelled-out acronyms, and what a thing is said to be."""

from __future__ import annotations

import re
from collections.abc import Iterable

from orchestrator.workflows.extraction.patterns import Found
from orchestrator.workflows.extraction.verbs import VERBS
from orchestrator.workflows.extraction.words import ADVERBS, FUNCTION_WORDS, SHOUTED, VAGUE_NOUNS

__all__ = ["find_concepts", "find_expansions"]

_SHORT_IN_BRACKETS = re.compile(r"(?<=\s)\((?P<short>[A-Z][A-Za-z]{0,6}[A-Z]s?)\)")
_LONG_IN_BRACKETS = re.compile(r"\b(?P<short>[A-Z][A-Z0-9]{1,7})\s\((?P<long>[A-Za-z][\w\s/-]{4,80})\)")
_WORD = re.compile(r"[^\W_][\w-]*")
_PART = re.compile(r"[^\W_]+")
_IS_A = re.compile(
    r"\s{1,3}(?:is|was|are|were|remains|became)\s{1,2}(?:(?:also|now|still|essentially|simply|just)\s)?(?:an?)\s{1,3}"
)
_PREDICATE = re.compile(
    r"\s{1,3}(?:(?:also|now|still|only|then)\s)?(?P<verb>[a-z]{3,20})\s{1,2}(?:an?|the)\s{1,3}(?=[a-z])"
)
_PHRASE = re.compile(r"[^\W\d_][\w+#-]*(?:\.\w+)*(?:\s[^\W\d_][\w+#-]*(?:\.\w+)*){0,5}")
_WORD_IN_PHRASE = re.compile(r"\S+")
_MAX_CONCEPT_WORDS = 4


def find_expansions(sentence: str) -> list[Found]:
    """Find the long forms of acronyms: "write-ahead log (WAL)" and "WAL (write-ahead log)"."""
    found = []
    if "(" in sentence:
        for match in _SHORT_IN_BRACKETS.finditer(sentence):
            short = match["short"]
            window = max(0, match.start() - 12 * (len(short) + 3))
            start = _long_form(short.rstrip("s"), sentence[window : match.start()].rstrip())
            if start is not None:
                end = window + len(sentence[window : match.start()].rstrip())
                found.append(Found(window + start, end, "concept", short.rstrip("s")))
        found.extend(
            Found(match.start("long"), match.end("long"), "concept", match["short"])
            for match in _LONG_IN_BRACKETS.finditer(sentence)
            if match["short"].lower() not in SHOUTED and _long_form(match["short"], match["long"]) == 0
        )
    return sorted(found)


def _long_form(short: str, text: str) -> int | None:
    """Return where the shortest long form of `short` at the end of `text` begins.

    The matching from the right is Schwartz and Hearst's (2003); asking in addition that at least half of the
    letters begin words keeps out accidents.
    """
    spelled = _initials(short, text)
    if spelled is not None:
        return spelled
    words = list(_WORD.finditer(text))
    starts = {word.start() for word in words} | {m.end() for m in re.finditer("-", text)}
    position, initials = len(text), 0
    for index in range(len(short) - 1, -1, -1):
        letter = short[index].lower()
        position -= 1
        while position >= 0 and (text[position].lower() != letter or (index == 0 and position not in starts)):
            position -= 1
        if position < 0:
            return None
        initials += position in starts
    count = sum(word.start() >= position for word in words)
    if initials * 2 < len(short) or count > len(short) + 3 or len(text) - position <= len(short) + 1:
        return None
    first = text[position:].split()[0].lower()
    return None if first in FUNCTION_WORDS or any(mark in text[position:] for mark in ",;:.()") else position


def _initials(short: str, text: str) -> int | None:
    """Return where the words begin whose first letters are `short`, small words aside."""
    parts = [part for part in _PART.finditer(text) if part[0].lower() not in FUNCTION_WORDS][-len(short) :]
    if "".join(part[0][0] for part in parts).lower() != short.lower() or len(short) < 2:
        return None
    start = parts[0].start()
    return None if any(mark in text[start:] for mark in ",;:.()") else start


def find_concepts(sentence: str, found: Iterable[Found]) -> list[Found]:
    """Find what each of `found` is said to be or to act on: "is a relational database", "protects the data"."""
    concepts = []
    for mention in found:
        opening = _IS_A.match(sentence, mention.end) or _predicate(sentence, mention.end)
        phrase = _PHRASE.match(sentence, opening.end()) if opening else None
        if phrase is None or not (end := _noun_phrase_end(phrase)) or sentence.startswith(("'s", "’s"), end):
            continue
        if _is_telling(phrase[0][: end - phrase.start()]):
            concepts.append(Found(phrase.start(), end, "concept"))
    return concepts


def _predicate(sentence: str, position: int) -> re.Match[str] | None:
    match = _PREDICATE.match(sentence, position)
    verb = VERBS.get(match["verb"]) if match else None
    return match if verb and verb.form in ("present", "past") else None


def _noun_phrase_end(phrase: re.Match[str]) -> int:
    end = count = 0
    for word in _WORD_IN_PHRASE.finditer(phrase[0]):
        text = word[0].lower()
        if text in FUNCTION_WORDS or text in ADVERBS or (count and _ends_noun_phrase(text)):
            break
        if count == _MAX_CONCEPT_WORDS:
            return 0
        end, count = phrase.start() + word.end(), count + 1
    return end


def _ends_noun_phrase(word: str) -> bool:
    verb = VERBS.get(word)
    return verb is not None and verb.form in ("participle", "past", "progressive")


def _is_telling(phrase: str) -> bool:
    words = phrase.lower().split()
    return words[-1] not in VAGUE_NOUNS and words[0] not in VAGUE_NOUNS and phrase[-1].isalnum()
