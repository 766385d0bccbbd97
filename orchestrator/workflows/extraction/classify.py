"""What kind of thing a name names, by its words and its neighbours."""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.workflows.extraction.gazetteer import (
    FIRST_NAMES,
    HEAD_BEFORE_OF,
    HONORIFICS,
    ORGANIZATION_HEADS,
    ORGANIZATIONS,
    PLACE_HEADS,
    PLACES,
    SYNONYMS,
    TECHNOLOGIES,
)

__all__ = ["classify", "is_camel"]

_HUMP = re.compile(r"[a-z0-9][A-Z]")
_ACRONYM = re.compile(r"[A-Z][A-Z0-9]{1,6}s?(?:-\d+)?")
_SURNAME_HUMP = re.compile(r"(?:Mc|Mac|O['’]|De|Di|La|Le|Van|Fitz)[A-Z][a-z]+")
_LOCATED = frozenset({"born", "based", "located", "headquartered", "lives", "lived", "died", "grew", "moved"})
_SPEAKING = frozenset({"said", "replied", "answered"})
_SPOKEN_OF = re.compile(r"\s(?:said|says|wrote|writes|was born|died|married|told|argued|believed|thought)\b")


def is_camel(text: str) -> bool:
    """Whether a word has a capital inside, as in PostgreSQL or iPhone; surnames such as McDonald are none."""
    return _HUMP.search(text) is not None and _SURNAME_HUMP.fullmatch(text) is None


def classify(words: Sequence[str], before: Sequence[str], after: str) -> str:
    """Return the type of a name of `words`, with the lower-case words before it and the text after it."""
    phrase = " ".join(words).lower()
    phrase = SYNONYMS.get(phrase, phrase)
    first, last = words[0].lower(), words[-1].lower()
    for known, kind in ((TECHNOLOGIES, "technology"), (ORGANIZATIONS, "organization"), (PLACES, "place")):
        if phrase in known or (kind == "place" and len(words) > 1 and phrase.removeprefix("saint ") in known):
            return kind
    if len(words) > 1:
        if first in HONORIFICS or (first in FIRST_NAMES and last not in ORGANIZATION_HEADS | PLACE_HEADS):
            return "person"
        if last in ORGANIZATION_HEADS or (first in HEAD_BEFORE_OF and "of" in words):
            return _of_phrase(first)
        if last in PLACE_HEADS:
            return "place"
        if any(len(word) == 1 for word in words[:-1]) and words[-1].istitle():
            return "person"
    if any(_HUMP.search(word) for word in words):
        return _camel(words)
    if _ACRONYM.fullmatch(words[0]) and len(words) == 1:
        return "acronym"
    neighbour = before[-1].rstrip(".") if before else ""
    if first in FIRST_NAMES or neighbour in HONORIFICS | _SPEAKING or _SPOKEN_OF.match(after):
        return "person"
    if len(before) > 1 and before[-1] in ("in", "at", "near", "from", "to") and before[-2] in _LOCATED:
        return "place"
    return "name"


def _of_phrase(first: str) -> str:
    if first in ("republic", "kingdom", "isle", "city", "state", "province", "gulf", "bay", "strait", "cape"):
        return "place"
    if first in ("battle", "treaty", "siege", "declaration", "war", "statue", "tower", "temple", "order"):
        return "name"
    if first in ("king", "queen", "prince", "princess", "duke", "earl", "archbishop", "bishop"):
        return "person"
    return "organization"


def _camel(words: Sequence[str]) -> str:
    if any(word.lower() in TECHNOLOGIES for word in words):
        return "technology" if len(words) == 1 else "product"
    if len(words) == 1 and words[0][0].islower() and not words[0][1].isupper():
        return "code"
    humps = max(len(_HUMP.findall(word)) for word in words)
    if _SURNAME_HUMP.fullmatch(words[-1]):
        return "person" if len(words) > 1 else "name"
    return "code" if humps > 1 and len(words) == 1 else "product"
