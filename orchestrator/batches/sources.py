"""Where the documents of a batch are: files below directories, and lines of JSONL files.

Nothing here raises: what cannot be a document is listed as a `Source` with an `error`, in its place in the order.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import orjson

from orchestrator.workflows.extraction.errors import (
    BinaryDocumentError,
    BrokenDocumentError,
    DocumentError,
    DocumentLinkError,
    DocumentTooLargeError,
    EmptyDocumentError,
    UnknownKindError,
    UnreadableDocumentError,
)

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "SUFFIXES",
    "Kind",
    "Line",
    "Source",
    "find_documents",
    "open_source",
    "parse_line",
    "reason",
    "reread_line",
    "too_large",
]

Kind = Literal["text", "markdown", "html", "pdf", "jsonl"]

MAX_DOCUMENT_BYTES = 50 * 1024 * 1024
MAX_LABEL = 200
HEAD_BYTES = 4096
SKIP_BYTES = 1024 * 1024

SUFFIXES: dict[str, Kind] = {
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_NOT_FILES = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# Absent on Windows. Without O_NONBLOCK, opening a pipe waits for who writes to it.
_OPEN_FLAGS = (
    os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """One document to be read, or one reason why there is none.

    `name` is the same wherever and whenever the same tree is listed: the path relative to the root, or as it was
    given where there is no root, with "/" and, for a line of JSONL, ":" and its number from 1. `path` is the file,
    links followed. `offset`, `length` (bytes) and `checksum` (CRC-32) find a line again; `title` and `id` are what
    it says of itself, cut to 200 characters. With an `error`, reading the source raises it.
    """

    name: str
    path: Path
    kind: Kind | None
    root: Path | None = None
    line: int | None = None
    offset: int = 0
    length: int = 0
    checksum: int = 0
    title: str | None = None
    id: str | None = None
    error: DocumentError | None = None


class Line(NamedTuple):
    """What one line of JSONL holds."""

    text: str
    title: str | None
    id: str | None


class _Place(NamedTuple):
    """What a source here would be called, and where it really is."""

    name: str
    real: str
    is_named: bool


def find_documents(
    paths: Iterable[Path],
    *,
    root: Path | None = None,
    include_unknown: bool = False,
    max_bytes: int = MAX_DOCUMENT_BYTES,
) -> Iterator[Source]:
    """List the documents at `paths` in their order, each directory's in the order of its names, each file once.

    With a `root`, relative paths are taken from there, and what leads out of it is refused. Names that begin with
    a dot are left out below a directory. So are files of an unknown kind, unless `include_unknown`; a path that is
    given itself never is. Opens JSONL files only, and holds one line of one at a time: at most `max_bytes`.
    """
    walk = _Walk(root, include_unknown, max_bytes)
    for path in paths:
        yield from walk.run(path)


class _Walk:
    """Goes down directories with a stack of its own, as trees may be deeper than calls; each place once."""

    def __init__(self, root: Path | None, include_unknown: bool, max_bytes: int) -> None:
        self.root = None if root is None else os.path.realpath(root)
        self.include_unknown = include_unknown
        self.max_bytes = max_bytes
        self.seen: set[str] = set()
        self.stack: list[_Place | Source] = []

    def run(self, path: Path) -> Iterator[Source]:
        self.stack.append(self._first(path))
        while self.stack:
            item = self.stack.pop()
            if isinstance(item, Source):
                yield item
            else:
                yield from self._visit(item)

    def _first(self, path: Path) -> _Place | Source:
        """The place of a path that was given; its name is relative to the root wherever it is below that."""
        given = os.path.join(self.root or "", path)
        try:
            real = os.path.realpath(given)
            name = os.path.normpath(given)
            if self.root is not None and not _is_below(name, self.root):
                # The way here may lead through a link, such as one to the root itself.
                name = real
            if self.root is not None:
                # One that leads out keeps the name it was given by: where the root is, is nobody's business.
                name = os.path.relpath(name, self.root) if _is_below(name, self.root) else os.fspath(path)
        except (OSError, ValueError) as exc:
            name = _printable(os.fspath(path))
            return Source(name, Path(path), None, error=UnreadableDocumentError(f"cannot read {name!r}: {reason(exc)}"))
        return _Place(_printable(Path(name).as_posix()), real, is_named=True)

    def _visit(self, place: _Place) -> Iterator[Source]:
        if self.root is not None and not _is_below(place.real, self.root):
            yield self._source(place, None, _outside(place.name))
        elif place.real not in self.seen:
            if os.path.isdir(place.real):
                self.seen.add(place.real)
                yield from self._directory(place)
            else:
                yield from self._file(place)

    def _directory(self, place: _Place) -> Iterator[Source]:
        try:
            with os.scandir(place.real) as entries:
                found = [(entry.name, entry.is_symlink()) for entry in entries if not entry.name.startswith(".")]
            children = [self._child(place, name, is_link) for name, is_link in sorted(found)]
        except (OSError, ValueError) as exc:
            yield self._source(place, None, UnreadableDocumentError(f"cannot list {place.name!r}: {reason(exc)}"))
        else:
            self.stack.extend(reversed(children))

    def _child(self, parent: _Place, entry: str, is_link: bool) -> _Place | Source:
        real = os.path.join(parent.real, entry)
        prefix = "" if parent.name == "." else parent.name.rstrip("/") + "/"
        place = _Place(prefix + _printable(entry), os.path.realpath(real) if is_link else real, is_named=False)
        if is_link and _is_below(parent.real, place.real):
            error = DocumentLinkError(f"{place.name!r} is a link to a directory that it is in")
            return self._source(place, None, error)
        return place

    def _file(self, place: _Place) -> Iterator[Source]:
        kind = SUFFIXES.get(os.path.splitext(place.name)[1].lower())
        if kind is not None:
            # Not under a name that says nothing of its kind: the next one may, as where LATEST links to report.md.
            self.seen.add(place.real)
        if kind == "jsonl":
            yield from _lines(self._source(place, kind), self.max_bytes)
        elif kind is not None:
            yield self._source(place, kind)
        elif place.is_named or self.include_unknown:
            yield self._source(place, None, _unknown(place))

    def _source(self, place: _Place, kind: Kind | None, error: DocumentError | None = None) -> Source:
        root = None if self.root is None else Path(self.root)
        return Source(place.name, Path(place.real), kind, root, error=error)


def _is_below(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or in it, both absolute and normal; pathlib would take ten times as long."""
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)


def _outside(name: str) -> DocumentLinkError:
    return DocumentLinkError(f"{name!r} leads out of the directory of documents")


def _unknown(place: _Place) -> DocumentError:
    if not os.path.lexists(place.real):
        return UnreadableDocumentError(f"cannot read {place.name!r}: No such file or directory")
    return UnknownKindError(f"{place.name!r} is of no kind that is read; its name must end in {', '.join(SUFFIXES)}")


def _printable(name: str) -> str:
    """`name` without the surrogates that stand for bytes which are no UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def reason(exc: OSError | ValueError) -> str:
    """What the operating system said, without the path, on one line."""
    return (exc.strerror if isinstance(exc, OSError) else None) or " ".join(str(exc).split())


def open_source(source: Source) -> BinaryIO:
    """Open the file of `source`, which must be a regular one; never blocks. Raises UnreadableDocumentError."""
    name = source.name
    try:
        # Listed long ago, perhaps: what is at the path now may be another thing.
        if source.root is not None and not _is_below(os.path.realpath(source.path), str(source.root)):
            raise _outside(name)
        # Asked before opening too: opening alone rewinds a tape.
        _check_regular(name, os.stat(source.path))
        descriptor = os.open(source.path, _OPEN_FLAGS)
        try:
            _check_regular(name, os.fstat(descriptor))
            return open(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except UnreadableDocumentError:
        raise
    except (OSError, ValueError) as exc:
        raise UnreadableDocumentError(f"cannot read {name!r}: {reason(exc)}") from exc


def _check_regular(name: str, status: os.stat_result) -> None:
    for is_kind, kind in _NOT_FILES:
        if is_kind(status.st_mode):
            raise UnreadableDocumentError(f"{name!r} is {kind}, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableDocumentError(f"{name!r} is not a file")


def _lines(file_source: Source, max_bytes: int) -> Iterator[Source]:
    """One source for each line that is not blank; one with an error where the file is of no use at all."""
    listed = 0
    try:
        with open_source(file_source) as file:
            _check_head(file_source.name, file)
            for source in _numbered(file_source, file, max_bytes):
                listed += 1
                yield source
        if not listed:
            raise EmptyDocumentError(f"{file_source.name!r} is empty: it holds no line with a document")
    except DocumentError as exc:
        yield replace(file_source, error=exc)
    except OSError as exc:
        yield replace(file_source, error=UnreadableDocumentError(f"cannot read {file_source.name!r}: {reason(exc)}"))


def _check_head(name: str, file: BinaryIO) -> None:
    """Refuse what is no UTF-8 text as a whole, not line by line; move past a byte order mark."""
    head = file.read(HEAD_BYTES)
    if b"\0" in head or head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BinaryDocumentError(f"{name!r} is not UTF-8 text, which JSONL must be")
    file.seek(3 if head.startswith(b"\xef\xbb\xbf") else 0)


def _numbered(file_source: Source, file: BinaryIO, max_bytes: int) -> Iterator[Source]:
    number = 0
    while True:
        offset = file.tell()
        data = file.readline(max_bytes + 1)
        if not data:
            return
        number += 1
        source = replace(file_source, name=f"{file_source.name}:{number}", line=number, offset=offset, length=len(data))
        if len(data) > max_bytes:
            _skip_line(file, data)
            yield replace(source, error=too_large(source.name, max_bytes))
        elif data.strip():
            yield _line_source(replace(source, checksum=zlib.crc32(data)), data)


def _skip_line(file: BinaryIO, data: bytes) -> None:
    while data and not data.endswith(b"\n"):
        data = file.readline(SKIP_BYTES)


def _line_source(source: Source, data: bytes) -> Source:
    try:
        line = parse_line(source.name, data)
    except DocumentError as exc:
        return replace(source, error=exc)
    return replace(source, title=line.title, id=line.id)


def reread_line(source: Source) -> bytes:
    """The bytes of a line that was listed; raises UnreadableDocumentError where other ones are there now."""
    with open_source(source) as file:
        file.seek(source.offset)
        data = file.read(source.length)
    if zlib.crc32(data) != source.checksum:
        raise UnreadableDocumentError(f"cannot read {source.name!r}: the file has changed since it was listed")
    return data


def parse_line(name: str, data: bytes) -> Line:
    """Check one line, `{"text": …, "title"?: …, "id"?: …}`; other keys are passed over. Raises a DocumentError."""
    try:
        value = orjson.loads(data)
    except json.JSONDecodeError as exc:
        raise BrokenDocumentError(f"{name!r} is not JSON: {exc.msg} (character {exc.pos})") from exc
    if not isinstance(value, dict):
        raise BrokenDocumentError(f'{name!r} is not a JSON object with a "text"')
    text = value.get("text")
    if not isinstance(text, str):
        raise BrokenDocumentError(f'{name!r} has no string as its "text"')
    if not text.strip():
        raise EmptyDocumentError(f'{name!r} is empty: its "text" holds nothing but white space')
    if "\0" in text:
        raise BinaryDocumentError(f"{name!r} is not text: it holds a NUL character")
    return Line(text, _label(name, "title", value.get("title")), _label(name, "id", value.get("id")))


def _label(name: str, key: str, value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or (key == "title" and not isinstance(value, str)):
        raise BrokenDocumentError(f"{name!r} has a {key!r} that is {type(value).__name__}, not a string")
    return " ".join(str(value).replace("\0", "").split())[:MAX_LABEL] or None


def too_large(name: str, max_bytes: int) -> DocumentTooLargeError:
    return DocumentTooLargeError(f"{name!r} is larger than the {max_bytes} bytes that a document may have")
