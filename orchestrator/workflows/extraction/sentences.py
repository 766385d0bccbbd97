"""Where sentences end."""

from __future__ import annotations

import re

from orchestrator.workflows.extraction.words import ABBREVIATIONS, FUNCTION_WORDS

__all__ = ["sentence_spans"]

# The look-behind makes a long run of dots one attempt instead of one per dot.
_END = re.compile(r"(?<![.!?…])[.!?…]{1,8}[\"'”’)\]]{0,3}(?=\s)")
_LAST_WORD = re.compile(r"[\w.&]{1,20}$")
_NEXT_WORD = re.compile(r"\s{1,200}[\"'“‘(\[]{0,3}(\w{1,30})")


def sentence_spans(block: str, masked: str) -> list[tuple[int, int]]:
    """Split a block into sentences, as offsets into it, by its masked copy and without the space around them."""
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _END.finditer(masked):
        if _ends_sentence(masked, match):
            _add(spans, block, masked, start, match.end())
            start = match.end()
    _add(spans, block, masked, start, len(masked))
    return spans


def _add(spans: list[tuple[int, int]], block: str, masked: str, start: int, end: int) -> None:
    part = block[start:end]
    if masked[start:end].strip():
        spans.append((start + len(part) - len(part.lstrip()), start + len(part.rstrip())))


def _ends_sentence(masked: str, match: re.Match[str]) -> bool:
    following = _NEXT_WORD.match(masked, match.end())
    if following and following[1][0].islower():
        return False
    if match[0] != ".":
        return True
    before = _LAST_WORD.search(masked[max(0, match.start() - 20) : match.start()])
    word = before[0].lower() if before else ""
    if len(word) == 1 and word.isalpha():
        return False
    if word in ABBREVIATIONS or re.fullmatch(r"(?:\w\.)+\w", word):
        # "Acme Inc. The …" ends; "Acme Inc. Berlin …" may not.
        return following is not None and following[1].lower() in FUNCTION_WORDS
    return True
