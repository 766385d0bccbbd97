"""Markdown out of the way, without moving a character.

Stages read a *masked* copy of each block: as long as the block itself, so that an offset in one is an offset
in the other, but with markup blanked out and with inline code and addresses replaced by runs of a
placeholder. A rule for prose then never trips over a link target, and a piece of code is one word that can be
a subject or an object.
"""

from __future__ import annotations

import re

__all__ = ["CODE", "CODE_SPAN", "URL", "URL_SPAN", "mask"]

CODE = "\ue000"
URL = "\ue001"

# Every quantifier is bounded or cannot match what follows it: a hostile document costs linear time.
CODE_SPAN = re.compile(r"(?<!`)(?P<ticks>`{1,3})(?!`)(?P<code>[^`]{1,300})(?<!`)(?P=ticks)(?!`)")
URL_SPAN = re.compile(r"(?<![\w/])(?:https?://|www\.)[^\s<>\"'`()\[\]{}|\\^\ue000]{2,2000}")

_PLACEHOLDER = re.compile("[\ue000\ue001]")
_LINK_TARGET = re.compile(r"\]\([^()\n]{0,2000}\)|\]\[[^\[\]\n]{0,200}\]")
_IMAGE = re.compile(r"!\[[^\[\]\n]{0,400}\]\([^()\n]{0,2000}\)")
_TAG = re.compile(r"<!--|-->|</?[A-Za-z][^<>\n]{0,300}>")
_EMPHASIS = re.compile(
    r"(?<![\w*])\*{1,3}(?=\S)|(?<=\S)\*{1,3}(?![\w*])|(?<!\w)_{1,2}(?=[^\W_])|(?<=[^\W_])_{1,2}(?!\w)|~~"
)
_QUOTE_MARK = re.compile(r"^[ \t]{0,3}(?:>[ \t]?){1,8}", re.MULTILINE)
_BRACKET = re.compile(r"[\[\]](?!\w*\()")


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _code(match: re.Match[str]) -> str:
    return CODE * len(match[0])


def _url(match: re.Match[str]) -> str:
    address = match[0].rstrip(".,;:!?*_~")
    return URL * len(address) + match[0][len(address) :]


def mask(block: str) -> str:
    """Return `block` with its markup masked, at the same length."""
    text = _PLACEHOLDER.sub(" ", block)
    if "`" in text:
        text = CODE_SPAN.sub(_code, text)
    if "](" in text or "][" in text:
        text = _IMAGE.sub(_blank, text)
        text = _LINK_TARGET.sub(_blank, text)
    if "://" in text or "www." in text:
        text = URL_SPAN.sub(_url, text)
    if "<" in text or "-->" in text:
        text = _TAG.sub(_blank, text)
    if ">" in text:
        text = _QUOTE_MARK.sub(_blank, text)
    if "*" in text or "_" in text or "~~" in text:
        text = _EMPHASIS.sub(_blank, text)
    return _BRACKET.sub(_blank, text)
