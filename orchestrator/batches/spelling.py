"""The form under which spellings of a name are equal, and the keys under which similar ones are found.

Case, accents, punctuation, white space, a company's legal form and a person's title do not count. What is an address,
a file, a date, a quantity or code is compared as it is written, but for case.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

from orchestrator.workflows.extraction.gazetteer import SYNONYMS

__all__ = [
    "EXACT_TYPES",
    "GENERIC_TYPE",
    "block_keys",
    "bounded",
    "clean",
    "is_initialed",
    "known_type",
    "normal_form",
    "spelled_umlauts",
    "squashed",
]

GENERIC_TYPE = "name"
EXACT_TYPES = frozenset({"url", "email", "file", "date", "quantity", "code"})
MAX_CHARS = 200

_HALF = 4
# The same forms are compared with every new one that comes.
_CACHED = 50_000
_MARKS = re.compile("[\u0300-\u036f]")
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "þ": "th", "ð": "d", "ı": "i"})
_DOTTED = re.compile(r"\b(?:[^\W\d_]\.\s?)+[^\W\d_]\b\.?")
_POSSESSIVE = re.compile(r"['’]s?$")
_APOSTROPHES = re.compile(r"['’`´]")
_DOT_INSIDE_NUMBER = re.compile(r"(?<=\d)\.(?=\d)")
# C, C++ and C# are three languages.
_SEPARATORS = re.compile(r"[^\w+#\x00]+|_+")
_LEGAL = frozenset(
    {"inc", "incorporated", "corp", "corporation", "co", "company", "ltd", "limited", "llc", "llp", "lp", "plc", "gmbh"}
    | {"mbh", "ag", "kg", "kgaa", "ohg", "ug", "se", "sa", "sas", "sarl", "srl", "spa", "nv", "bv", "ab", "oy", "oyj"}
    | {"as", "asa", "aps", "pty", "pte", "kk", "ev"}
)
# What ends a company's name beyond doubt, also where nobody said that it is a company.
_LEGAL_ANYWHERE = frozenset({"inc", "incorporated", "corp", "corporation", "ltd", "llc", "plc", "gmbh", "ag"})
_TITLES = frozenset(
    {"mr", "mrs", "ms", "miss", "dr", "prof", "professor", "sir", "dame", "lady", "lord", "herr", "frau", "monsieur"}
    | {"madame", "senor", "senora"}
)
# Not in Bauer, Michael and Samuel, where the two letters are two sounds.
_UMLAUT = re.compile(r"(?<![aeiouyq])([aou])e(?=[^\W\d_aeiouy]|u)(?!l\b)")
_SPACE_IN_NUMBERS = re.compile(r"(?<=\d) (?=\d)")


def clean(text: str) -> str:
    """The text as PostgreSQL can store it: no NUL, no half of a surrogate pair, no white space around it."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8").strip()


def bounded(text: str, limit: int = MAX_CHARS) -> str:
    """The text, or where it is too long for an index its beginning and a hash of the whole."""
    if len(text) <= limit:
        return text
    return f"{text[: limit - 17]}…{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def known_type(type_: str) -> str:
    """The type; for a name of which nobody said what it names, and for an acronym, the generic one."""
    return GENERIC_TYPE if type_ in ("", "name", "acronym") else bounded(clean(type_), 50)


def normal_form(name: str, type_: str) -> str:
    """The form of a name; empty only for a name that is empty.

    >>> normal_form("Acme Corporation", "organization") == normal_form("ACME Corp.", "organization") == "acme"
    True
    """
    type_ = known_type(type_)
    folded = " ".join(clean(name).casefold().split())
    if type_ in EXACT_TYPES:
        return bounded(folded.rstrip("/") or folded)
    words = _words(folded, type_)
    if type_ == "person":
        words = _without_titles(words)
    else:
        words = _without_legal_form(words, _LEGAL if type_ == "organization" else _LEGAL_ANYWHERE)
        if len(words) > 2 and words[0] == "the":
            words = words[1:]
        words = _synonym(words)
    if type_ == "concept" and words:
        words = [*words[:-1], _singular(words[-1])]
    return bounded(" ".join(words) or folded)


def squashed(form: str) -> str:
    """A form without its spaces, but for those that keep two numbers apart."""
    return _SPACE_IN_NUMBERS.sub("|", form).replace(" ", "")


@lru_cache(maxsize=_CACHED)
def spelled_umlauts(form: str) -> str:
    """A form in which ä, ae and a are the same in longer words, and so are ö and ü; the spaces are gone too."""
    return squashed(" ".join(_UMLAUT.sub(r"\1", word) if len(word) > 4 else word for word in form.split()))


def is_initialed(form: str) -> bool:
    """Whether a word of the form is a single letter: it may stand for many names."""
    return any(len(word) == 1 for word in form.split())


@lru_cache(maxsize=_CACHED)
def block_keys(form: str, type_: str) -> tuple[str, ...]:
    """The keys of a spelling: two that score as the same thing have one in common; see `resolution.score`.

    One key is the form alone, for what a document links to it. One edit leaves the beginning or the end of a name
    as it is.
    """
    keys = [f"f:{form}"]
    squash = spelled_umlauts(form)
    if not squash or type_ in EXACT_TYPES:
        return tuple(keys)
    # Where only spaces differ, the words may be of other lengths, and their umlauts be taken otherwise.
    keys += [f"s:{type_}:{each}" for each in dict.fromkeys((squash, squashed(form)))]
    if type_ in ("organization", "technology", "product"):
        words = len(form.split())
        letters = squashed(form)
        keys += [f"b:{type_}:{words}:{letters[:_HALF]}", f"e:{type_}:{words}:{letters[-_HALF:]}"]
    return tuple(keys)


def _words(folded: str, type_: str) -> list[str]:
    if type_ == "person" and folded.count(",") == 1:
        family, given = folded.split(",")
        if given.strip() not in ("jr", "jr.", "sr", "sr.", "phd", "md"):
            folded = f"{given.strip()} {family.strip()}"
    plain = _MARKS.sub("", unicodedata.normalize("NFKD", folded))
    plain = unicodedata.normalize("NFC", plain).translate(_LETTERS)
    joint = " " if type_ == "person" else ""
    plain = _DOTTED.sub(lambda match: joint.join(re.findall(r"[^\W\d_]", match[0])) + " ", plain)
    plain = _APOSTROPHES.sub("", _POSSESSIVE.sub("", plain.strip()))
    plain = _DOT_INSIDE_NUMBER.sub("\x00", plain.replace("&", " and "))
    return _SEPARATORS.sub(" ", plain).replace("\x00", ".").split()


def _without_titles(words: list[str]) -> list[str]:
    while len(words) > 1 and words[0] in _TITLES:
        words = words[1:]
    return words


def _without_legal_form(words: list[str], forms: frozenset[str]) -> list[str]:
    kept = words
    while len(kept) > 1 and kept[-1] in forms | {"and"}:
        kept = kept[:-1]
    # "A/S", "S.p.A." and the like are several words after the punctuation is gone.
    if forms is _LEGAL and len(kept) > 2 and kept[-2:] in (["a", "s"], ["e", "v"]):
        kept = kept[:-2]
    return kept


def _synonym(words: list[str]) -> list[str]:
    known = SYNONYMS.get(" ".join(words))
    return _SEPARATORS.sub(" ", known).split() if known else words


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 5:
        return word[:-3] + "y"
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        return word[:-1]
    return word
