"""Mentions that show what they are by their shape: addresses, code, dates, quantities."""

from __future__ import annotations

import re
from typing import NamedTuple

from orchestrator.workflows.extraction.markup import CODE, URL, URL_SPAN

__all__ = ["Found", "find_patterns"]


class Found(NamedTuple):
    """A stretch of a sentence, as offsets into it, and what it names."""

    start: int
    end: int
    type: str
    expands: str = ""


_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_YEAR = r"(?:1[0-9]|20)\d\d"
_UNIT = (
    r"(?:milliseconds?|microseconds?|seconds?|secs?|minutes?|mins?|hours?|hrs?|days?|weeks?|months?|years?|ms|ns|µs|s"
    r"|bytes?|[KMGT]i?B|[kmgt]b|bits?|Mbps|Gbps|kHz|MHz|GHz|Hz|km|kilometres?|kilometers?|metres?|meters?|cm|mm|miles?"
    r"|feet|inches|kg|kilograms?|grams?|tonnes?|tons?|pounds?|litres?|liters?|degrees?|°[CF]|watts?|kW|MW|volts?"
    r"|people|users?|employees|customers|members|students|soldiers|dollars|euros|percent|per cent|requests?|rows?"
    r"|lines|files|pages|tests|threads|connections|workers|retries|attempts|times)"
)
_SCALE = r"(?:\s(?:thousand|million|billion|trillion)|[kKmM]|bn)"
_NUMBER = r"\d{1,18}(?:[.,]\d{1,9}){0,6}"
_FILE = (
    r"\.?[\w-]{1,80}(?:\.[\w-]{1,40}){0,3}\.(?:py|pyi|ts|tsx|js|jsx|mjs|md|rst|txt|json|jsonl|ya?ml|toml|sql|sh|html"
    r"|css|go|rs|java|rb|cpp|hpp|ini|cfg|conf|env|lock|csv|pdf|xml|log|ipynb|proto)(?![\w/])"
)

_SHAPES = {
    "code": f"{CODE}+",
    "url": f"{URL}+",
    "email": r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}",
    "path": rf"(?<![\w./-])(?:\.{{1,2}}/|/)?(?:[\w.@-]{{1,64}}/){{1,12}}{_FILE}",
    "file": rf"(?<![\w./-]){_FILE}",
    "call": r"(?<![\w.])[A-Za-z_]\w{0,80}(?:\.\w{1,80}){0,6}\(\)",
    "constant": r"(?<![\w-])[A-Z][A-Z0-9]{0,40}(?:_[A-Z0-9]{1,40}){1,12}(?!\w)",
    "snake": r"(?<![\w.-])[a-z][a-z0-9]{0,40}(?:_[a-z0-9]{1,40}){1,12}(?!\w)",
    "flag": r"(?<![\w-])--[a-z][\w-]{1,60}",
    "date": (
        rf"(?<![\w-]){_YEAR}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?Z?)?(?![\w-])"
        rf"|\b\d{{1,2}}(?:st|nd|rd|th)?\s(?:of\s)?{_MONTH}(?:,?\s{_YEAR}\b)?(?!\w)"
        rf"|\b{_MONTH}\s\d{{1,2}}(?:st|nd|rd|th)?(?!\d)(?:,?\s{_YEAR}\b)?"
        rf"|\b{_MONTH},?\s{_YEAR}\b|\bQ[1-4]\s{_YEAR}\b"
        rf"|\b(?:[1-9]\d|{_YEAR})s\b(?<=0s)"
        rf"|(?<=\b[Ii]n\s){_YEAR}\b|(?<=\bsince\s){_YEAR}\b|(?<=\bSince\s){_YEAR}\b|(?<=\bby\s){_YEAR}\b"
        rf"|(?<=\bfrom\s){_YEAR}\b|(?<=\buntil\s){_YEAR}\b|(?<=\bof\s){_YEAR}\b|(?<=\({_YEAR}[–-]){_YEAR}(?=\))"
        rf"|(?<=\(){_YEAR}(?=[–-]{_YEAR}\)|\))"
    ),
    "quantity": (
        rf"(?<![\w.,])[$€£¥]\s?{_NUMBER}{_SCALE}?(?!\w)"
        rf"|(?<![\w.,$€£]){_NUMBER}(?:\s?%|\s?[-–]?\s?{_UNIT}(?![\w-])|\s(?:thousand|million|billion|trillion)"
        rf"(?:\s{_UNIT})?(?!\w))"
    ),
}  # fmt: skip
_PATTERN = re.compile("|".join(f"(?P<{name}>{shape})" for name, shape in _SHAPES.items()))
_TYPES = {"path": "file", "call": "code", "constant": "code", "snake": "code", "flag": "code"}

_FILE_NAME = re.compile(rf"(?:\.{{0,2}}/)?(?:[\w.@-]{{1,64}}/){{0,12}}{_FILE}")
_DIRECTORY = re.compile(r"(?:\.{0,2}/)?(?:[\w.@-]{1,64}/){1,12}")
_ASSIGNMENT = re.compile(r"([A-Za-z_][\w.-]{1,60})(?:=(?!=)|:\s)")
_VALUE = re.compile(r"[\W\d_]*|true|false|null|none|undefined|yes|no|on|off|TRUE|FALSE|True|False|None|NULL")
_MAX_CODE = 60
_MAX_CODE_SPACES = 2


def find_patterns(raw: str, masked: str) -> list[Found]:
    """Find what has a telling shape in one sentence, given as written and masked, in order and without overlap."""
    found: list[Found] = []
    for match in _PATTERN.finditer(masked):
        shape = match.lastgroup or ""
        if shape == "code":
            if code := _inline_code(raw, match.start(), match.end()):
                found.append(code)
        else:
            found.append(Found(match.start(), match.end(), _TYPES.get(shape, shape)))
    if "](" in raw and "://" in raw:
        found.extend(_link_targets(raw, masked))
        found.sort()
    return found


def _inline_code(raw: str, start: int, end: int) -> Found | None:
    """What a piece of inline code names; None for values, operators and whole snippets."""
    while start < end and raw[start] in "` \n":
        start += 1
    while end > start and raw[end - 1] in "` \n":
        end -= 1
    code = raw[start:end]
    if assignment := _ASSIGNMENT.match(code):
        return Found(start, start + len(assignment[1]), "code")
    if len(code) > _MAX_CODE or len(code.split()) > _MAX_CODE_SPACES + 1 or _VALUE.fullmatch(code):
        return None
    if not any(char.isalpha() for char in code) or code[0] in "\"'":
        return None
    if URL_SPAN.fullmatch(code):
        return Found(start, end, "url")
    if _FILE_NAME.fullmatch(code) or _DIRECTORY.fullmatch(code):
        return Found(start, end, "file")
    return Found(start, end, "code")


def _link_targets(raw: str, masked: str) -> list[Found]:
    targets = []
    for match in URL_SPAN.finditer(raw):
        # Only what the mask blanked is a link's target; an address in the text was found above.
        if masked[match.start()] == " ":
            end = match.start() + len(match[0].rstrip(".,;:!?*_~"))
            targets.append(Found(match.start(), end, "url"))
    return targets
