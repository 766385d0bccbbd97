"""When two spellings are the same thing. Pure: the stores bring the rows, and write what comes out.

A spelling is a type and a normal form (`spelling.py`). Two spellings are linked by one of three rules:

    spelling      their score is at or above MERGE_AT
    spelled_out   a document calls the one by the other ("World Health Organization (WHO)"): certain
    untyped       one has the generic type, and the same form as one that has a type

What is linked, directly or over others, is one entity. Invariants:
1. The links are a function of the set of spellings and of what the documents spell out, never of their order. So a rule
   that looks at one candidate only if there is no second ("spelled_out", "untyped") takes its link back once a second
   appears: WHO is nobody's acronym as long as two things claim it. A spelling that no document has any more links
   nothing.
2. Entities of different types are never one, unless one type is the generic one.
3. What a person has taken apart stays apart, also where a third spelling would link it.
4. Live links make a forest: a link is written only where it joins two entities, so that taking it away parts them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from rapidfuzz.distance import OSA

from orchestrator.batches.spelling import EXACT_TYPES, GENERIC_TYPE, block_keys, is_initialed, spelled_umlauts, squashed

__all__ = [
    "MERGE_AT",
    "Hood",
    "Link",
    "Plan",
    "Rule",
    "Spelling",
    "compatible",
    "parts",
    "plan",
    "score",
    "similar",
    "without",
]

Rule: TypeAlias = Literal["spelling", "spelled_out", "untyped"]

# One edit in nine letters scores 88.9, one in eight 87.5: below nine letters an edit makes another name as often as a
# misspelt one (Colombia and Columbia, Gambia and Zambia).
MERGE_AT = 88.0
# The one word that differs must be long by itself: New York Jets and New York Mets differ in one of twelve letters.
WORD_AT = 85.0
SQUASHED_SCORE = 98.0
UMLAUT_SCORE = 96.0
# What a rule forbids to be the same scores no more than this, however similar it looks.
FORBIDDEN = 87.0

_EDITED_TYPES = frozenset({"organization", "technology", "product"})


@dataclass(frozen=True, slots=True)
class Spelling:
    """A row of `knowledge_entity`. `seen`: at least one document has it now."""

    entity_id: str
    type: str
    normal: str
    name: str
    root_id: str
    seen: bool = True

    @property
    def key(self) -> tuple[str, str]:
        return self.type, self.normal


@dataclass(frozen=True, slots=True)
class Link:
    """A live row of `knowledge_merge`, or one to be written; for a conditional rule, `left` is what depends on it."""

    left: str
    right: str
    score: float
    rule: Rule
    reason: str = ""
    survivor: str = ""
    absorbed: str = ""
    merge_id: str = ""


@dataclass(slots=True)
class Hood:
    """All that decides on some spellings: whole entities with their live links, and every claim on their forms.

    `claims` maps a form to the spellings that documents say it means; `apart` holds the ends of links that a person
    has undone.
    """

    spellings: dict[str, Spelling] = field(default_factory=dict)
    claims: dict[str, set[str]] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    apart: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Plan:
    """What to write: links that no longer hold, new ones, and the new root of each spelling whose root changes."""

    ended: list[Link] = field(default_factory=list)
    added: list[Link] = field(default_factory=list)
    roots: dict[str, str] = field(default_factory=dict)


def compatible(one: str, other: str) -> bool:
    """Whether things of these types may be the same."""
    return one == other or GENERIC_TYPE in (one, other)


def score(type_: str, one: str, other: str) -> float:
    """How sure it is that two normal forms of one type are the same thing, 0 to 100; symmetric.

    100 for equal forms; 98 where only spaces differ; 96 where umlauts are written out; otherwise the share of letters
    that agree, which reaches MERGE_AT only for organizations, technologies and products, and only where a single long
    word differs by one edit that spares its first letter and has no digit. Persons and places are not merged by edits
    (Anderson and Andersen, Kensington and Kennington), and never by an initial.
    """
    if one == other:
        return 100.0 if one else 0.0
    if not one or not other or type_ in EXACT_TYPES:
        return 0.0
    alike = _squash_score(one, other) if type_ != "concept" else 0.0
    if alike and not is_initialed(one) and not is_initialed(other):
        return alike
    similarity = 100 * OSA.normalized_similarity(one, other)
    if type_ in _EDITED_TYPES and _one_long_word_edited(one, other):
        return similarity
    return min(similarity, FORBIDDEN)


def _squash_score(one: str, other: str) -> float:
    if squashed(one) == squashed(other):
        return SQUASHED_SCORE
    return UMLAUT_SCORE if spelled_umlauts(one) == spelled_umlauts(other) else 0.0


def _one_long_word_edited(one: str, other: str) -> bool:
    ours, theirs = one.split(), other.split()
    if len(ours) != len(theirs):
        return False
    different = [(mine, yours) for mine, yours in zip(ours, theirs, strict=True) if mine != yours]
    if len(different) != 1:
        return False
    [(mine, yours)] = different
    if mine[0] != yours[0] or not (mine.isalpha() and yours.isalpha()) or OSA.distance(mine, yours) != 1:
        return False
    return 100 * OSA.normalized_similarity(mine, yours) >= WORD_AT


def similar(some: Iterable[Spelling], others: Iterable[Spelling]) -> Iterable[tuple[Spelling, Spelling, float]]:
    """The pairs that are the same thing by their score. Only spellings that share a block are compared."""
    blocks: defaultdict[tuple[str, str], dict[str, Spelling]] = defaultdict(dict)
    for other in others:
        for block in block_keys(other.normal, other.type):
            blocks[other.type, block][other.entity_id] = other
    for mine in some:
        shared = [blocks[mine.type, block] for block in block_keys(mine.normal, mine.type) if blocks[mine.type, block]]
        for other in {each: other for block in shared for each, other in block.items()}.values():
            points = score(mine.type, mine.normal, other.normal) if other.entity_id != mine.entity_id else 0.0
            if points >= MERGE_AT:
                yield mine, other, points


def parts(members: Iterable[str], edges: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Each member's representative: equal for two members exactly where edges lead from one to the other."""
    parent = {member: member for member in members}
    for left, right in edges:
        parent[_top(parent, left)] = _top(parent, right)
    return {member: _top(parent, member) for member in parent}


def plan(hood: Hood, fresh: Collection[str], forms: Collection[str]) -> Plan:
    """What follows from `fresh` spellings, and from a change in what is claimed for `forms`."""
    return _Planner(hood).run(set(fresh), set(forms))


def without(hood: Hood, link: Link) -> Plan:
    """What follows from taking one link away."""
    return _Planner(hood).take_away(link)


class _Planner:
    """One application of the rules to a neighbourhood."""

    def __init__(self, hood: Hood) -> None:
        self.hood = hood
        self.spellings = hood.spellings
        self.plan = Plan()
        self.by_form: defaultdict[str, list[Spelling]] = defaultdict(list)
        for spelling in sorted(hood.spellings.values(), key=lambda one: one.key):
            if spelling.seen and spelling.normal:
                self.by_form[spelling.normal].append(spelling)

    def run(self, fresh: set[str], forms: set[str]) -> Plan:
        touched = forms | {self.spellings[each].normal for each in fresh}
        subjects = {each for each, one in self.spellings.items() if one.normal in touched} | fresh
        in_question = [link for link in self.hood.links if link.left in subjects or link.right in subjects]
        self.plan.ended = [link for link in in_question if not self._holds(link)]
        self._begin(link for link in self.hood.links if link not in self.plan.ended)
        again = self._members_of_ended()
        found = [
            *self._conditional(subjects | again),
            *self._similar(fresh, self.spellings),
            *self._similar(again, again),
        ]
        for link in sorted(found, key=self._order):
            self._join(link)
        self._finish()
        return self.plan

    def take_away(self, link: Link) -> Plan:
        self.plan.ended = [link]
        self._begin(other for other in self.hood.links if other.merge_id != link.merge_id)
        self._finish()
        return self.plan

    def _holds(self, link: Link) -> bool:
        if not (self.spellings[link.left].seen and self.spellings[link.right].seen):
            return False
        if link.rule == "spelling":
            return True
        wanted = self._candidates(self.spellings[link.left])
        return link.right in {one.entity_id for one in wanted} and self._are_one_thing(wanted)

    def _begin(self, links: Iterable[Link]) -> None:
        """Work out the entities as they are once the ended links are gone."""
        self.part_of = parts(self.spellings, ((link.left, link.right) for link in links))
        self.members: defaultdict[str, set[str]] = defaultdict(set)
        for member, part in self.part_of.items():
            self.members[part].add(member)
        self.root = {part: _root(self.spellings, self.plan.ended, members) for part, members in self.members.items()}

    def _members_of_ended(self) -> set[str]:
        roots = {self.spellings[link.left].root_id for link in self.plan.ended}
        return {each for each, one in self.spellings.items() if one.root_id in roots and one.seen}

    def _conditional(self, subjects: Iterable[str]) -> Iterable[Link]:
        for each in subjects:
            subject = self.spellings[each]
            wanted = self._candidates(subject) if subject.seen else []
            if wanted and self._are_one_thing(wanted):
                # What has a type tells more than what has none.
                best = min(wanted, key=lambda one: (one.type == GENERIC_TYPE, one.key))
                yield self._conditional_link(subject, best)

    def _conditional_link(self, subject: Spelling, best: Spelling) -> Link:
        if best.entity_id in self.hood.claims.get(subject.normal, ()):
            reason = f"a document spells {best.name!r} out as {subject.name!r}"
            return Link(subject.entity_id, best.entity_id, 100.0, "spelled_out", reason)
        reason = f"the same name, once as {best.type} and once without a type"
        return Link(subject.entity_id, best.entity_id, 100.0, "untyped", reason)

    def _candidates(self, subject: Spelling) -> list[Spelling]:
        """What a spelling may mean by what documents spell out, or by having a type where it has none."""
        claimed = [self.spellings[each] for each in self.hood.claims.get(subject.normal, ())]
        found = [one for one in claimed if compatible(one.type, subject.type)]
        if subject.type == GENERIC_TYPE:
            found += [one for one in self.by_form[subject.normal] if one.type != GENERIC_TYPE]
        unique = {one.entity_id: one for one in found if one.seen and one.entity_id != subject.entity_id}
        return sorted(unique.values(), key=lambda one: one.key)

    def _are_one_thing(self, candidates: Sequence[Spelling]) -> bool:
        edges = [
            (one.entity_id, other.entity_id)
            for number, one in enumerate(candidates)
            for other in candidates[:number]
            if _alike(one, other)
        ]
        typed = {one.type for one in candidates} - {GENERIC_TYPE}
        return len(typed) <= 1 and len(set(parts([one.entity_id for one in candidates], edges).values())) == 1

    def _similar(self, some: Iterable[str], others: Iterable[str]) -> Iterable[Link]:
        seen = (self.spellings[each] for each in others if self.spellings[each].seen)
        for mine, other, points in similar((self.spellings[each] for each in some), seen):
            reason = f"{mine.name!r} and {other.name!r} are spelled alike"
            yield Link(mine.entity_id, other.entity_id, points, "spelling", reason)

    def _order(self, link: Link) -> tuple[float, object, object]:
        return -link.score, self.spellings[link.left].key, self.spellings[link.right].key

    def _join(self, link: Link) -> None:
        ours, theirs = self.part_of[link.left], self.part_of[link.right]
        if ours == theirs or not self._may_join(ours, theirs):
            return
        survivor, absorbed = sorted((self.root[ours], self.root[theirs]))
        for member in self.members[theirs]:
            self.part_of[member] = ours
        self.members[ours] |= self.members.pop(theirs)
        self.root[ours] = survivor
        self.plan.added.append(
            Link(link.left, link.right, link.score, link.rule, link.reason, survivor=survivor, absorbed=absorbed)
        )

    def _may_join(self, ours: str, theirs: str) -> bool:
        types = {self.spellings[each].type for part in (ours, theirs) for each in self.members[part]}
        if len(types - {GENERIC_TYPE}) > 1:
            return False
        pair = {ours, theirs}
        return not any({self.part_of.get(one), self.part_of.get(other)} == pair for one, other in self.hood.apart)

    def _finish(self) -> None:
        for each, spelling in self.spellings.items():
            root = self.root[self.part_of[each]]
            if root != spelling.root_id:
                self.plan.roots[each] = root


def _alike(one: Spelling, other: Spelling) -> bool:
    if one.type == other.type:
        return score(one.type, one.normal, other.normal) >= MERGE_AT
    return compatible(one.type, other.type) and one.normal == other.normal


def _root(spellings: Mapping[str, Spelling], ended: Sequence[Link], members: set[str]) -> str:
    """The id under which an entity goes: the one it had, or of what was split off the one it had before."""
    former = next((spellings[each].root_id for each in sorted(members) if spellings[each].root_id in members), None)
    absorbed = next((link.absorbed for link in ended if link.absorbed in members), None)
    return former or absorbed or min(members)


def _top(parent: dict[str, str], member: str) -> str:
    while parent[member] != member:
        parent[member] = parent[parent[member]]
        member = parent[member]
    return member
