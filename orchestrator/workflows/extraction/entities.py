"""Stage 3: mentions of the same thing become one entity."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from orchestrator.workflows.extraction.gazetteer import SYNONYMS
from orchestrator.workflows.extraction.records import EntityGroup, Mention

__all__ = ["group_mentions", "normal_form"]

MAX_ALIASES = 10

_SPACES = re.compile(r"[\s_-]+")
_LEGAL_FORM = re.compile(r",? (?:inc|corp|corporation|ltd|llc|gmbh|plc)\.?$")
_CALL = re.compile(r"\(.*\)$", re.DOTALL)
_EXACT = frozenset({"url", "email", "file", "date", "quantity"})
# Where the mentions of an entity were typed differently, the most telling type wins.
_TELLING = (
    "person", "organization", "place", "technology", "file", "code", "url", "email", "date", "quantity",
    "product", "concept", "acronym", "name",
)  # fmt: skip


def normal_form(name: str, type_: str) -> str:
    """Return the form under which spellings of one thing are equal.

    Case, white space, hyphens, a possessive, a company's legal form, the arguments of a call and known
    synonyms do not count; addresses, files, dates and quantities are compared as they are written, but for
    case.
    """
    folded = " ".join(name.casefold().split())
    if type_ in _EXACT:
        return folded.rstrip("/") or folded
    folded = re.sub(r"['’]s$", "", folded)
    if type_ == "code":
        folded = _CALL.sub("", folded) or folded
    else:
        folded = folded.removeprefix("the ")
        folded = _SPACES.sub(" ", folded).strip()
        folded = _LEGAL_FORM.sub("", folded)
    return SYNONYMS.get(folded, folded) or name.casefold()


def group_mentions(mentions: Sequence[Mention]) -> list[EntityGroup]:
    """Group the mentions by normal form, then join plurals, acronyms and surnames; in order of first mention."""
    forms = [normal_form(mention["name"], mention["type"]) for mention in mentions]
    same = _joined_forms(mentions, forms)
    groups: dict[str, list[int]] = defaultdict(list)
    for position, form in enumerate(forms):
        groups[same.get(form, form)].append(position)
    return [_entity(number, mentions, group) for number, group in enumerate(groups.values(), start=1)]


def _joined_forms(mentions: Sequence[Mention], forms: Sequence[str]) -> dict[str, str]:
    """Map each form that is another spelling of a second one to that one; never in a chain."""
    types: dict[str, set[str]] = defaultdict(set)
    for mention, form in zip(mentions, forms, strict=True):
        types[form].add(mention["type"])
    same: dict[str, str] = {}
    _join_plurals(types, same)
    _join_acronyms(mentions, forms, types, same)
    _join_surnames(types, same)
    return {form: _root(form, same) for form in same}


def _join_plurals(types: dict[str, set[str]], same: dict[str, str]) -> None:
    for form, of in types.items():
        singular = _singular(form)
        if singular != form and singular in types and not of & _EXACT:
            same[form] = singular


def _singular(form: str) -> str:
    if form.endswith("ies") and len(form) > 5:
        return form[:-3] + "y"
    if form.endswith("s") and not form.endswith(("ss", "us", "is")) and len(form) > 2:
        return form[:-1]
    return form


def _join_acronyms(
    mentions: Sequence[Mention], forms: Sequence[str], types: dict[str, set[str]], same: dict[str, str]
) -> None:
    for mention, form in zip(mentions, forms, strict=True):
        short = mention["expands"].casefold()
        # The first expansion counts: an acronym that is spelled out twice differently stays with it.
        if short and short in types and short not in same and _root(form, same) != short:
            same[short] = form


def _join_surnames(types: dict[str, set[str]], same: dict[str, str]) -> None:
    bearers: dict[str, set[str]] = defaultdict(set)
    for form, of in types.items():
        surname = form.rsplit(" ", 1)[-1]
        if " " in form and ("person" in of or (of == {"name"} and "person" in types.get(surname, ()))):
            bearers[surname].add(form)
    for surname, full in bearers.items():
        if len(full) == 1 and surname in types and types[surname] <= {"name", "person"}:
            same.setdefault(surname, next(iter(full)))


def _root(form: str, same: dict[str, str]) -> str:
    seen = {form}
    while form in same and same[form] not in seen:
        form = same[form]
        seen.add(form)
    return form


def _entity(number: int, mentions: Sequence[Mention], group: list[int]) -> EntityGroup:
    names = Counter(mentions[position]["name"] for position in group)
    # Most frequent first; a Counter keeps the order of first mention among equals.
    ranked = [name for name, _ in names.most_common()]
    expansions = [mentions[position]["name"] for position in group if mentions[position]["expands"]]
    type_ = _type([mentions[position]["type"] for position in group])
    name = expansions[0] if expansions and ranked[0].isupper() else ranked[0]
    if type_ == "person":
        # People are introduced in full and then called by their surname.
        name = max(ranked, key=lambda full: len(full.split()))
    return EntityGroup(
        id=f"e{number}",
        name=name,
        type=type_,
        aliases=[alias for alias in ranked if alias != name][:MAX_ALIASES],
        mentions=group,
    )


def _type(types: Sequence[str]) -> str:
    present = set(types)
    return min(present, key=lambda type_: _TELLING.index(type_) if type_ in _TELLING else len(_TELLING))
