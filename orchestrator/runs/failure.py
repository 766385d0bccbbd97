"""An exception as a run's row keeps it: type, message and a trimmed traceback, with secrets blacked out."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Iterable
from types import TracebackType
from urllib.parse import quote, quote_plus

from orchestrator.runs.model import Json

__all__ = ["black_out", "describe_failure", "spellings", "superseded"]

SHORTEST_SECRET = 4
MAX_MESSAGE_CHARS = 2_000
MAX_TRACEBACK_CHARS = 8_000
_MACHINERY = ("orchestrator.engine.", "langgraph.", "langchain_core.", "asyncio.", "concurrent.")
_PATTERNS = (
    (re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@]+(?=@)", re.IGNORECASE), r"\g<keep>***"),
    (re.compile(r"(?P<keep>\b(?:Bearer|Basic)\s+)[\w.~+/=-]{6,}", re.IGNORECASE), r"\g<keep>***"),
    (
        re.compile(
            r"(?P<keep>\b[\w-]*(?:password|passwd|secret|token|api[_-]?key)[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&)]+",
            re.IGNORECASE,
        ),
        r"\g<keep>***",
    ),
    (re.compile(r"\b(?:sk|pk|rk|ghp|gho|xox[abp])[-_][A-Za-z0-9_-]{12,}"), "***"),
)


def spellings(secrets: Iterable[str]) -> list[str]:
    """The secrets as they are, and as URLs, `repr` in a traceback, and JSON have them; the longest first.

    A secret of under four characters is left out: it stands in too many texts that have nothing to do with it.
    """
    spelled: set[str] = set()
    for secret in secrets:
        if len(secret) >= SHORTEST_SECRET:
            spelled |= {secret, quote(secret, ""), quote(secret), quote_plus(secret)}
            spelled |= {repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    # One may be part of another.
    return sorted(spelled, key=len, reverse=True)


def describe_failure(error: BaseException, secrets: Iterable[str] = ()) -> dict[str, Json]:
    """`{"type", "message", "traceback"}`; `secrets` are what to black out wherever it stands (`spellings`)."""
    known = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    frames = traceback.format_exception(kind, error, _from_node(error.__traceback__))
    return {
        "type": name,
        "message": black_out(str(error), known)[:MAX_MESSAGE_CHARS],
        "traceback": black_out("".join(frames), known)[-MAX_TRACEBACK_CHARS:],
    }


def _from_node(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from the node's own code on, without the machinery that called it."""
    frame = frames
    while frame is not None and frame.tb_frame.f_globals.get("__name__", "").startswith(_MACHINERY):
        frame = frame.tb_next
    return frame or frames


def black_out(text: str, known: Iterable[str]) -> str:
    """The text without the `known` secrets, and without what looks like one."""
    for secret in known:
        text = text.replace(secret, "***")
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text.encode("utf-8", "replace").decode("utf-8")


def superseded(by: str = "another run") -> dict[str, Json]:
    """The error of a run that made way for another on its thread."""
    return {"type": "SupersededError", "message": f"{by} took over the thread"}
