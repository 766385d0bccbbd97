"""What the words between two mentions say about them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.workflows.extraction.records import RelationKind
from orchestrator.workflows.extraction.verbs import BE_FORMS, HELPERS, VERBS, VerbForm
from orchestrator.workflows.extraction.words import (
    ADVERBS,
    DETERMINERS,
    FUNCTION_WORDS,
    NEGATIONS,
    PREPOSITIONS,
    word_set,
)

__all__ = ["MAX_CLAUSE", "Clause", "is_list_gap", "read_clause"]

MAX_CLAUSE = 100
_MAX_WORDS = 12
_WORD = re.compile(r"[^\W\d_][\w'’-]*|\S")
_LIST_GAP = re.compile(r"\s*(?:,|/|&|\+|,?\s*(?:and|or)(?:\s+(?:the|an?|its|also))?)\s*")
_RELATIVE = frozenset({"which", "that", "who", "whose"})
_COORDINATES = frozenset({"and", "but", "then", "or"})
_PARTICLES = frozenset(
    {"on", "in", "with", "by", "to", "from", "for", "of", "at", "into", "as", "over", "through", "via"}
)
_LINKS = frozenset({"of", "in", "at", "for", "on", "from", "with", "via", "by", "inside", "within"})
_ROLES = word_set(
    "founder co-founder cofounder ceo cto cfo chief president chairman chair director head author creator "
    "inventor editor member part capital subsidiary fork subset superset version successor predecessor "
    "extension wrapper replacement alternative plugin son daughter wife husband brother sister father "
    "mother professor student citizen mayor minister king queen leader owner type kind instance "
    "implementation example"
)
_MODIFIER_LIMIT = 3


class Clause(NamedTuple):
    """How the first mention relates to the second.

    `inverted`: the second is the subject. `carried`: the subject is that of the clause before. `attached`:
    the words tie on to the first mention even where that is itself part of a larger phrase ("of X, which
    uses").
    """

    predicate: str
    kind: RelationKind
    inverted: bool = False
    carried: bool = False
    attached: bool = False


def is_list_gap(between: str) -> bool:
    """Whether two mentions with this between them are items of one list."""
    return len(between) < 24 and _LIST_GAP.fullmatch(between) is not None


def read_clause(between: str, *, plural: bool = False) -> Clause | None:
    """Read the text between two mentions; `plural` when the first of them is one of several subjects."""
    if len(between) > MAX_CLAUSE:
        return None
    words = [word.lower() for word in _WORD.findall(between)]
    if not words or len(words) > _MAX_WORDS:
        return None
    if words[:2] in (["'", "s"], ["’", "s"]):
        return Clause("has", "attribute", attached=True) if len(words) == 2 else None
    return _ClauseReader(words, plural=plural).read()


class _ClauseReader:
    """Reads the words from left to right: joint, helpers, verb, the rest up to the object."""

    def __init__(self, words: list[str], *, plural: bool) -> None:
        self.words = words
        self.plural = plural
        self.position = 0
        self.carried = self.attached = self.negated = self.be = self.helped = False

    def read(self) -> Clause | None:
        comma = self._take(frozenset({","}))
        self.carried = self._take(_COORDINATES)
        self.attached = self._take(_RELATIVE)
        if any(not word[0].isalpha() for word in self._rest()):
            return None
        if comma and not (self.carried or self.attached):
            return self._apposition()
        if (attribute := self._attribute()) is not None:
            return attribute
        if not self.carried and not self.attached:
            self._skip_subject_nouns()
        self._helpers()
        return self._identity() if self.be and self._verb() is None else self._action()

    def _rest(self) -> list[str]:
        return self.words[self.position :]

    def _take(self, words: frozenset[str]) -> bool:
        if self.position < len(self.words) and self.words[self.position] in words:
            self.position += 1
            return True
        return False

    def _verb(self) -> VerbForm | None:
        return VERBS.get(self.words[self.position]) if self.position < len(self.words) else None

    def _apposition(self) -> Clause | None:
        """ ", founded by", ", the capital of", ", based in"."""
        verb = self._verb()
        if verb and verb.form in ("participle", "past") and len(self._rest()) > 1:
            self.be = self.attached = True
            return self._action()
        if verb and verb.form == "progressive":
            return self._action()
        if verb and verb.form == "present":
            # "X, founded by Y, hosts": back to X.
            self.carried = True
            return self._action()
        self._take(DETERMINERS)
        return self._role(self._rest())

    def _attribute(self) -> Clause | None:
        """A bare preposition: "capital of", "in", "with the"."""
        rest = self._rest()
        if rest and rest[0] in _LINKS and all(word in DETERMINERS for word in rest[1:]):
            return Clause(rest[0], "attribute", attached=True)
        return None

    def _skip_subject_nouns(self) -> None:
        """Step over what completes the subject, as in "the Redis client uses"."""
        for skipped in range(_MODIFIER_LIMIT):
            word = self.words[self.position + skipped] if self.position + skipped < len(self.words) else ""
            verb = VERBS.get(word)
            if verb and verb.form == "present" and self._is_noun(skipped):
                self.plural = True
                continue
            known = word in FUNCTION_WORDS or word in HELPERS or word in ADVERBS or word in NEGATIONS
            if verb and verb.form == "base" and skipped and self.words[self.position + skipped - 1].endswith("s"):
                self.plural = known = True
            if not word or known or (verb and verb.form != "base"):
                self.position += skipped if (known or verb) else 0
                return

    def _is_noun(self, skipped: int) -> bool:
        """Whether what may be a verb is a plural, because the verb follows it: "S3 mounts require"."""
        following = self.position + skipped + 1
        word = self.words[following] if following < len(self.words) else ""
        verb = VERBS.get(word)
        return word in BE_FORMS or word in HELPERS - {"to"} or (verb is not None and verb.form in ("base", "past"))

    def _helpers(self) -> None:
        while self.position < len(self.words):
            word = self.words[self.position]
            if word in NEGATIONS:
                self.negated = True
            elif word in BE_FORMS:
                self.be = True
            elif word in HELPERS:
                self.helped = True
            elif word not in ADVERBS and not (word.endswith("ly") and word not in VERBS):
                return
            self.position += 1

    def _identity(self) -> Clause | None:
        """ "is a", "is the capital of", "is in"."""
        rest = self._rest()
        if not rest:
            return self._clause("is", "is_a")
        if rest[0] in _LINKS and all(word in DETERMINERS for word in rest[1:]):
            return self._clause(f"is {rest[0]}", "verb")
        if rest == ["a"] or rest == ["an"] or rest == ["the"]:
            return self._clause("is a" if rest != ["the"] else "is", "is_a")
        role = self._role(rest[1:] if rest[0] in DETERMINERS else rest)
        return self._clause(f"is {role.predicate}", "verb") if role else None

    def _role(self, words: Sequence[str]) -> Clause | None:
        while words and words[-1] in DETERMINERS:
            words = words[:-1]
        if not 2 <= len(words) <= 5 or words[-1] not in ("of", "at", "for", "to"):
            return None
        if words[-2] not in _ROLES or any(word in FUNCTION_WORDS or word in VERBS for word in words[:-2]):
            return None
        return self._clause(f"{' '.join(words[:-1])} {words[-1]}", "verb")

    def _action(self) -> Clause | None:
        verb = self._verb()
        if verb is None:
            return None
        self.position += 1
        if verb.form == "base" and not (self.helped or self.plural or self.carried):
            return None
        if verb.form == "progressive" and not self.be and self.carried:
            return None
        passive = self.be and verb.form in ("participle", "past")
        if verb.form == "participle" and not self.be and not self.helped:
            # "X built on Y": a short passive, tied to X.
            passive = self.attached = True
        return self._complete(verb, passive=passive)

    def _complete(self, verb: VerbForm, *, passive: bool) -> Clause | None:
        """Read from the verb on to the object: a particle, or an object of the verb's own with a preposition."""
        rest = [word for word in self._rest() if word not in ADVERBS]
        particle = rest[0] if rest and rest[0] in _PARTICLES else ""
        rest = rest[1:] if particle else rest
        if passive and particle == "by":
            active = verb.negative if self.negated else verb.active
            return self._clause(active, "verb", inverted=True) if self._only_modifies(rest) else None
        if passive and not particle:
            return None
        head = verb.passive if passive else (verb.negative if self.negated else verb.active)
        if particle == "as" or (particle and self._only_modifies(rest)):
            return self._clause(f"{head} {particle}", "verb") if self._only_modifies(rest) else None
        if particle:
            return None
        if self._only_modifies(rest):
            return self._clause(head, "verb")
        return self._with_object(head, rest)

    def _with_object(self, head: str, rest: list[str]) -> Clause | None:
        """ "stores checkpoints in": the verb has an object that is no mention."""
        at = next((i for i, word in enumerate(rest) if word in _PARTICLES), 0)
        noun = [word for word in rest[:at] if word not in DETERMINERS]
        if not 1 <= len(noun) <= _MODIFIER_LIMIT or any(word in FUNCTION_WORDS for word in noun):
            return None
        if rest[at] == "of" or not self._only_modifies(rest[at + 1 :]):
            return None
        return self._clause(f"{head} {' '.join(noun)} {rest[at]}", "verb")

    def _only_modifies(self, words: Sequence[str]) -> bool:
        """Whether the words can stand before the object as its determiner and adjectives."""
        if len(words) > _MODIFIER_LIMIT + 1:
            return False
        # "defined using X" is about X in another way than "defines X".
        first = VERBS.get(words[0]) if words else None
        if first is not None and first.form == "progressive":
            return False
        small_words = FUNCTION_WORDS | PREPOSITIONS | HELPERS
        return all(word in DETERMINERS or word not in small_words for word in words)

    def _clause(self, predicate: str, kind: RelationKind, *, inverted: bool = False) -> Clause:
        be, _, rest = predicate.partition(" ")
        if self.negated and be in ("is", "was"):
            predicate = f"{be} not {rest}".rstrip()
        return Clause(predicate, kind, inverted, self.carried, self.attached)
