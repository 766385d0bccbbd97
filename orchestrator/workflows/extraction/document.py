"""From a payload to a document: which text, under which title, and how slowly."""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from orchestrator.workflows.extraction.errors import (
    BinaryDocumentError,
    DocumentSourceError,
    EmptyDocumentError,
    ThrottleError,
    UnreadableDocumentError,
)

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "MAX_THROTTLE_S",
    "Document",
    "check_text",
    "load_document",
    "throttle_seconds",
]

MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
MAX_THROTTLE_S = 60.0
MAX_TITLE = 200

_HEADING_LINE = re.compile(r"^ {0,3}#{1,2}[ \t]+(?P<title>[^\n]{1,400})", re.MULTILINE)
_CODE_BLOCK = re.compile(r"^ {0,3}(?:```|~~~)", re.MULTILINE)
_MARKUP = re.compile(r"[*`]+|!?\[|\]\([^)]*\)|\]|<[^<>]{1,200}>")


class Document(TypedDict):
    """A text and its title, as every stage after the first sees them."""

    title: str
    text: str


def load_document(payload: Mapping[str, Any], directory: Path | None = None) -> Document:
    """Read what `payload` names: its `text`, or the UTF-8 file at its `path`, below `directory` where one is given.

    The title is the payload's, else the first main heading, else the file's name, else the first line.
    Raises a DocumentError that says which of its rules was broken.
    """
    text, path, title = (_string(payload, key) for key in ("text", "path", "title"))
    if text is not None and path is not None:
        raise DocumentSourceError("the input has both 'text' and 'path'; give one of them")
    if path is not None:
        text = _read(_inside(path, directory))
    elif text is None:
        raise DocumentSourceError("the input has neither 'text' nor 'path'; give one of them")
    check_text(text)
    fallback = Path(path).stem if path is not None else ""
    return Document(title=_title(title, text, fallback), text=text)


def check_text(text: str) -> None:
    """Refuse a text that holds nothing, or that no database could store."""
    if not text.strip():
        raise EmptyDocumentError("the document is empty: it holds nothing but white space")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise BinaryDocumentError(
            f"the document is not valid Unicode: half a surrogate pair at character {exc.start}"
        ) from exc


def throttle_seconds(value: object) -> float:
    """Return the pause as seconds; None means no pause."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ThrottleError(f"'throttleSeconds' takes a number of seconds, not {type(value).__name__}")
    if not math.isfinite(value) or not 0 <= value <= MAX_THROTTLE_S:
        raise ThrottleError(f"'throttleSeconds' takes 0 to {MAX_THROTTLE_S:.0f}, not {value}")
    return float(value)


def _string(payload: Mapping[str, Any], key: str) -> str | None:
    value = payload.get(key)
    if value is not None and not isinstance(value, str):
        raise DocumentSourceError(f"{key!r} takes a string, not {type(value).__name__}")
    return value


def _inside(name: str, directory: Path | None) -> Path:
    """The file that `name` means, with links followed, unless that is outside the directory."""
    try:
        path = (directory or Path.cwd()).joinpath(Path(name).expanduser()).resolve()
    except (OSError, ValueError, RuntimeError) as exc:
        # Without what the system adds: that has the whole path, and callers are not to learn where documents lie.
        reason = exc.strerror if isinstance(exc, OSError) else "it leads nowhere"
        raise UnreadableDocumentError(f"cannot read {name!r}: {reason}") from exc
    if directory is not None and not path.is_relative_to(directory.resolve()):
        raise DocumentSourceError(f"{name!r} is not below DOCUMENTS_DIR; send the 'text' instead")
    return path


def _read(path: Path) -> str:
    name = path.name
    data = _bytes(path)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise UnreadableDocumentError(f"{name!r} is larger than the {MAX_DOCUMENT_BYTES} bytes a document may have")
    if b"\0" in data:
        raise BinaryDocumentError(f"{name!r} is not a text file: it holds NUL bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise BinaryDocumentError(f"{name!r} is not UTF-8 text: bad byte at offset {exc.start}") from exc


def _bytes(path: Path) -> bytes:
    """Read at most one byte more than a document may have."""
    try:
        # Asked before opening: a pipe or a device would block, or never end.
        is_file = stat.S_ISREG(path.stat().st_mode)
        if is_file:
            with path.open("rb") as file:
                return file.read(MAX_DOCUMENT_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc  # a NUL in the name is a ValueError
        raise UnreadableDocumentError(f"cannot read {path.name!r}: {reason}") from exc
    raise UnreadableDocumentError(f"{path.name!r} is not a file")


def _title(given: str | None, text: str, fallback: str) -> str:
    if given is not None and given.strip():
        return _shorten(given)
    heading = _HEADING_LINE.search(text)
    block = _CODE_BLOCK.search(text)
    # A '#' inside a block of code is a comment of that code.
    if heading and (block is None or heading.start() < block.start()):
        found = _shorten(_MARKUP.sub("", heading["title"]).rstrip("# \t"))
        if found:
            return found
    return _shorten(fallback) or _shorten(text.lstrip()[:80].split("\n", 1)[0])


def _shorten(title: str) -> str:
    return " ".join(title.split())[:MAX_TITLE]
