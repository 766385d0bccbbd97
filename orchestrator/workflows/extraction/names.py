"""Names among the capitalised words of a sentence.

A capital says little at the start of a sentence, a label or a heading, so the document itself is asked: how
often is the word capitalised where nothing but being a name explains it, and how often is it written small?
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.workflows.extraction.classify import classify, is_camel
from orchestrator.workflows.extraction.gazetteer import (
    ADDRESSES,
    ALWAYS_NAMES,
    HEAD_BEFORE_OF,
    HONORIFICS,
    TECHNOLOGIES,
)
from orchestrator.workflows.extraction.patterns import Found
from orchestrator.workflows.extraction.verbs import FINITE, VERBS
from orchestrator.workflows.extraction.words import (
    ADVERBS,
    COMMON_WORDS,
    CONNECTORS,
    FUNCTION_WORDS,
    MONTHS,
    SHOUTED,
    WEEKDAYS,
    looks_common,
)

__all__ = ["Capitals", "Token", "find_names", "tokenize"]

_TOKEN = re.compile(r"[^\W\d_][\w]*(?:['’.\-+][\w]+)*(?:\+\+|#)?")
_WEAK_BEFORE = frozenset('.!?…:;"“‘|•→–—-/=>✓✗✅❌')
_ACRONYM = re.compile(r"[A-Z][A-Z0-9]{1,6}s?(?:-\d+)?")
_FUNCTION_ACRONYMS = frozenset({"US", "WHO"})
_ROMAN = re.compile(r"[IVXLC]+")
_SUFFIX = re.compile(r"-[a-z]{3,}$")
_TITLE_BEFORE = re.compile(r"\b(?:[A-Z]|Dr|Mr|Mrs|Ms|Prof|St|Gen|Sen|Gov|Col|Capt|Lt|Rev)\.\s*$")
_POSSESSIVE = re.compile(r"['’](?:s|S)?$")
_MAX_NAME_WORDS = 6
_HEADLINE_SHARE = 0.6


class Token(NamedTuple):
    """A word as offsets into its sentence; `weak` where a capital would be there for any word."""

    start: int
    end: int
    text: str
    weak: bool
    possessive: bool


@dataclass
class Capitals:
    """How the words of a document are written; the keys are lower case."""

    telling: Counter[str] = field(default_factory=Counter)
    opening: Counter[str] = field(default_factory=Counter)
    small: Counter[str] = field(default_factory=Counter)

    def add(self, tokens: Iterable[Token]) -> None:
        for token in tokens:
            word = token.text.lower()
            if token.text[0].islower():
                self.small[word] += 1
            elif token.weak:
                self.opening[word] += 1
            else:
                self.telling[word] += 1


def tokenize(sentence: str, *, heading: bool = False) -> list[Token]:
    """Split a masked sentence into words, and mark those whose capital tells nothing."""
    tokens = [_token(sentence, match) for match in _TOKEN.finditer(sentence)]
    # A sentence that is full of names ends like a sentence; a headline does not.
    if heading or (not sentence.rstrip("\"'”’) ").endswith((".", "!", "?")) and _is_headline(tokens)):
        return [token._replace(weak=True) for token in tokens]
    return tokens


def find_names(sentence: str, tokens: Sequence[Token], capitals: Capitals) -> list[Found]:
    """Find the names in one masked sentence."""
    finder = _NameFinder(sentence, tokens, capitals)
    return list(finder.run())


def _token(sentence: str, match: re.Match[str]) -> Token:
    text = match[0]
    possessive = _POSSESSIVE.search(text)
    if possessive:
        text = text[: possessive.start()]
    # "PostgreSQL-backed" names PostgreSQL.
    suffix = _SUFFIX.search(text)
    if suffix and (is_camel(text[: suffix.start()]) or text[: suffix.start()].lower() in ALWAYS_NAMES):
        text = text[: suffix.start()]
    before = sentence[max(0, match.start() - 3) : match.start()].rstrip()
    weak = not sentence[: match.start()].strip() if match.start() < 12 else False
    weak = weak or (bool(before) and before[-1] in _WEAK_BEFORE)
    if weak and before.endswith(".") and _TITLE_BEFORE.search(sentence[max(0, match.start() - 8) : match.start()]):
        weak = False
    return Token(match.start(), match.start() + len(text), text, weak, possessive is not None)


def _is_headline(tokens: Sequence[Token]) -> bool:
    words = [token.text for token in tokens if token.text.lower() not in FUNCTION_WORDS]
    if len(words) < 3:
        return False
    return sum(word[0].isupper() for word in words) > _HEADLINE_SHARE * len(words)


class _NameFinder:
    """One pass over the words of one sentence."""

    def __init__(self, sentence: str, tokens: Sequence[Token], capitals: Capitals) -> None:
        self.sentence = sentence
        self.tokens = tokens
        self.capitals = capitals
        shouted = sum(token.text.isupper() and len(token.text) > 1 for token in tokens)
        self.shouting = len(tokens) > 2 and shouted > _HEADLINE_SHARE * len(tokens)

    def run(self) -> Iterator[Found]:
        position = 0
        while position < len(self.tokens):
            if not self._usable(position):
                position += 1
                continue
            following = self._extend(position)
            end = self._without_common_tail(position, following)
            if self._is_name(position, end):
                yield self._found(position, end)
            position = following

    def _found(self, first: int, end: int) -> Found:
        if end - first > 1 and self.tokens[first].text.lower() in ADDRESSES:
            first += 1
        words = [token.text for token in self.tokens[first:end]]
        start, stop = self.tokens[first].start, self.tokens[end - 1].end
        before = self.sentence[max(0, start - 24) : start].lower().split()
        return Found(start, stop, classify(words, before, self.sentence[stop : stop + 24]))

    def _usable(self, position: int) -> bool:
        """Whether the word may be part of a name."""
        token = self.tokens[position]
        word = token.text.lower()
        if is_camel(token.text):
            return True
        if not token.text[0].isupper() or word in MONTHS or word in WEEKDAYS:
            return False
        if word in FUNCTION_WORDS and (self.shouting or token.text not in _FUNCTION_ACRONYMS):
            return False
        if token.text.isupper() and (self.shouting or word in SHOUTED):
            return word in ALWAYS_NAMES
        if not token.weak:
            return True
        return self._supported(position, word)

    def _supported(self, position: int, word: str) -> bool:
        """Whether the document shows a capital at a telling place, for a word whose own capital tells nothing."""
        text = self.tokens[position].text
        if word in ALWAYS_NAMES or (word in HONORIFICS and self._next_is_capital(position)):
            return True
        if _ACRONYM.fullmatch(text):
            return word not in SHOUTED
        small, telling = self.capitals.small[word], self.capitals.telling[word]
        if telling > small and not (word in COMMON_WORDS and telling < 3):
            return True
        if small or word in VERBS or looks_common(word):
            return False
        return self._next_is_capital(position) or self._next_is_verb(position)

    def _next_is_capital(self, position: int) -> bool:
        if position + 1 >= len(self.tokens) or not self._adjacent(position):
            return False
        following = self.tokens[position + 1]
        word = following.text.lower()
        return following.text[0].isupper() and not following.weak and word not in FUNCTION_WORDS | SHOUTED

    def _next_is_verb(self, position: int) -> bool:
        following = position + 1
        if following + 1 < len(self.tokens) and self.tokens[following].text in ADVERBS:
            following += 1
        if following >= len(self.tokens) or self.tokens[following].text not in FINITE:
            return False
        # Emphasis around the name leaves a wider gap than the space within a name.
        gap = self.sentence[self.tokens[position].end : self.tokens[following].start]
        return all(char.isspace() or char.isalpha() for char in gap)

    def _extend(self, first: int) -> int:
        """Return the end of the name that begins at `first`."""
        end = first + 1
        while end < len(self.tokens) and end - first < _MAX_NAME_WORDS and not self.tokens[end - 1].possessive:
            acronyms = all(_ACRONYM.fullmatch(token.text) for token in self.tokens[end - 1 : end + 1])
            if acronyms or not self._adjacent(end - 1):
                break
            if self._usable(end):
                end += 1
            elif joined := self._connector(first, end):
                end = joined
            else:
                break
        return end

    def _without_common_tail(self, first: int, end: int) -> int:
        """Cut "PostgreSQL Database" and "HTTP Proxy" down to the technology that they name."""
        lowered = [token.text.lower() for token in self.tokens[first:end]]
        if lowered[0] not in TECHNOLOGIES or " ".join(lowered) in TECHNOLOGIES:
            return end
        while end > first + 1 and looks_common(word := lowered[end - first - 1]) and self.capitals.small[word]:
            end -= 1
        return end

    def _connector(self, first: int, position: int) -> int:
        """Return the end of the name when the small word at `position` belongs to it, else 0."""
        word = self.tokens[position].text
        following = position + 1
        if word not in CONNECTORS:
            return 0
        if word == "of":
            if self.tokens[position - 1].text.lower() not in HEAD_BEFORE_OF:
                return 0
            if following < len(self.tokens) and self.tokens[following].text == "the":
                following += 1
        if following >= len(self.tokens) or following - first >= _MAX_NAME_WORDS:
            return 0
        return following + 1 if self._usable(following) and self._adjacent(following - 1) else 0

    def _adjacent(self, position: int) -> bool:
        """Whether nothing that ends a name stands between a word and the next."""
        token, following = self.tokens[position], self.tokens[position + 1]
        gap = self.sentence[token.end : following.start]
        if gap == " " or gap == " & ":
            return True
        if gap == ". ":
            # "J. Smith" goes on, "written in C. Visit" does not.
            initial = len(token.text) == 1 and token.text.isupper() and not looks_common(following.text.lower())
            return initial or token.text.lower() in HONORIFICS | {"st"}
        return "\n" in gap and gap.isspace() and len(gap) < 12

    def _is_name(self, first: int, end: int) -> bool:
        words = [token.text for token in self.tokens[first:end]]
        if len(words) == 1:
            return self._is_single_name(words[0], weak=self.tokens[first].weak)
        lowered = [word.lower() for word in words]
        if all(len(word) == 1 for word in words):
            return False
        if not all(looks_common(word) or self.capitals.small[word] for word in lowered):
            return True
        # Ordinary words with capitals: a title or a label, unless it stands in the middle of a sentence.
        small = any(self.capitals.small[word] >= self.capitals.telling[word] for word in lowered)
        return not self.tokens[first].weak and not small and not all(word in SHOUTED for word in lowered)

    def _is_single_name(self, text: str, *, weak: bool) -> bool:
        word = text.lower()
        if len(text) < 2 or word in HONORIFICS:
            return False
        if is_camel(text) or word in ALWAYS_NAMES:
            return True
        if _ACRONYM.fullmatch(text):
            return word not in SHOUTED and not _ROMAN.fullmatch(text)
        if text.isupper() and not weak and word in COMMON_WORDS:
            return False
        telling, small = self.capitals.telling[word], self.capitals.small[word]
        if looks_common(word) or word in VERBS:
            return telling >= 3 and small == 0
        return small <= 2 * telling + self.capitals.opening[word]
