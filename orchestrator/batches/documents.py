"""The documents of a batch: `find_documents` lists them, `read_document` reads one.

Listing and reading are apart, so that ten thousand documents take the memory of ten thousand names and of one text.
Whatever is wrong with a document is a DocumentError whose message is one line with the document's name in it;
the tree is in orchestrator/workflows/extraction/errors.py.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass

from orchestrator.batches import conversion
from orchestrator.batches.conversion import ConversionError, Converted
from orchestrator.batches.sources import (
    MAX_DOCUMENT_BYTES,
    Kind,
    Source,
    find_documents,
    open_source,
    parse_line,
    reason,
    reread_line,
    too_large,
)
from orchestrator.workflows.extraction.document import _title
from orchestrator.workflows.extraction.errors import (
    BinaryDocumentError,
    BrokenDocumentError,
    DocumentError,
    DocumentSupportError,
    DocumentTooLargeError,
    EmptyDocumentError,
    EncryptedDocumentError,
    ScannedDocumentError,
    UnknownKindError,
    UnreadableDocumentError,
)

__all__ = ["CONVERSION_TIMEOUT_S", "MAX_DOCUMENT_BYTES", "Document", "Source", "find_documents", "read_document"]

CONVERSION_TIMEOUT_S = 60.0
# A page of this size takes its parser a second at the very most, however it is made.
MAX_HTML_HERE_BYTES = 64 * 1024
HEAD_BYTES = 1024

_MEDIA_TYPES: dict[Kind, str] = {
    "text": "text/plain",
    "markdown": "text/markdown",
    "html": "text/html",
    "pdf": "application/pdf",
    "jsonl": "application/jsonl",
}
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_DECLARED = re.compile(rb"""<meta\s[^>]{0,200}?charset\s{0,9}=\s{0,9}["']?([\w.:-]{1,40})""", re.IGNORECASE)
_XML_DECLARED = re.compile(rb"""\A\s{0,9}<\?xml\s[^>]{0,200}?encoding\s{0,9}=\s{0,9}["']([\w.:-]{1,40})""")
# A page may name any codec that Python has, and some of those decompress or run an escape language.
_LEGACY_ENCODINGS = frozenset(
    "big5 cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 cp866 euc_jp "  # noqa: SIM905
    "euc_kr gb18030 iso8859-2 iso8859-5 iso8859-7 iso8859-15 koi8-r koi8-u shift_jis".split()
)
_AS_BROWSERS_DO = {"iso8859-1": "cp1252", "ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}


@dataclass(frozen=True, slots=True)
class Document:
    """One document as text.

    `name` is its source's. `size` is that of the file, or of the line of JSONL, in bytes; `media_type` is the
    file's. `content_hash` is the SHA-256 of the text in UTF-8, in hexadecimal. Offsets that an extraction gives
    count characters (code points) of `text`, not bytes of the file: text and Markdown are as in the file, except for
    a byte order mark; HTML is Markdown of what it shows; the pages of a PDF have a line with a form feed between them.
    """

    name: str
    title: str
    text: str
    media_type: str
    size: int
    content_hash: str


def read_document(
    source: Source, *, max_bytes: int = MAX_DOCUMENT_BYTES, timeout_s: float = CONVERSION_TIMEOUT_S
) -> Document:
    """Read one document; raises a DocumentError, and blocks for `timeout_s` at the most beyond reading the file.

    `max_bytes` bounds the file, or the line, and the text. A PDF and a large page of HTML are read in a
    process of its own, with 2 GiB of memory. The title is the source's, else the first main heading or what
    the file says of itself, else the file's name without its ending.
    """
    if source.error is not None:
        # A new one: an exception that is raised again and again gathers tracebacks.
        raise type(source.error)(*source.error.args)
    if source.kind is None:
        raise UnknownKindError(f"{source.name!r} is of no kind that is read")
    data = _data(source, max_bytes)
    converted = _convert(source, data, max_bytes, timeout_s)
    text = converted.text
    if not text.strip():
        raise EmptyDocumentError(f"{source.name!r} is empty: it holds no text")
    encoded = text.encode()
    if len(encoded) > max_bytes and source.kind in ("html", "pdf"):
        raise too_large(source.name, max_bytes)
    # A line names itself, or not at all: its file's name is that of all lines.
    fallback = "" if source.kind == "jsonl" else source.path.stem.encode("utf-8", "replace").decode()
    title = _title(converted.title, text, fallback)
    content_hash = hashlib.sha256(encoded).hexdigest()
    return Document(source.name, title, text, _MEDIA_TYPES[source.kind], len(data), content_hash)


def _data(source: Source, max_bytes: int) -> bytes:
    """The bytes of the file or of the line; of a file that is too large, none are read."""
    try:
        if source.kind == "jsonl":
            if source.length > max_bytes:
                raise too_large(source.name, max_bytes)
            return reread_line(source)
        with open_source(source) as file:
            size = os.fstat(file.fileno()).st_size
            # What grows while it is read, or has no size at all, as in /proc, is found out by the extra byte.
            data = b"" if size > max_bytes else file.read(max_bytes + 1)
    except OSError as exc:
        raise UnreadableDocumentError(f"cannot read {source.name!r}: {reason(exc)}") from exc
    if max(size, len(data)) > max_bytes:
        raise too_large(source.name, max_bytes)
    if not data:
        raise EmptyDocumentError(f"{source.name!r} is empty")
    return data


def _convert(source: Source, data: bytes, max_bytes: int, timeout_s: float) -> Converted:
    if source.kind == "jsonl":
        line = parse_line(source.name, data)
        return Converted(line.text, line.title or "")
    if source.kind == "pdf":
        if b"%PDF-" not in data[:HEAD_BYTES]:
            raise BrokenDocumentError(f"{source.name!r} is not a PDF: it does not begin with %PDF-")
        return _in_child(source.name, "pdf", data, max_bytes, timeout_s)
    if source.kind == "html":
        markup = _decode(source.name, data, _declared_encoding(data))
        if len(data) > MAX_HTML_HERE_BYTES:
            return _in_child(source.name, "html", markup.encode(), max_bytes, timeout_s)
        try:
            return conversion.html_text(markup)
        except ConversionError as exc:
            raise _translate(source.name, exc, max_bytes) from exc
    return Converted(_decode(source.name, data), "")


def _decode(name: str, data: bytes, declared: str | None = None) -> str:
    """Decode by byte order mark, else as UTF-8, else by the encoding that was `declared`; nothing is guessed."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            text = _decoded(name, data[len(mark) :], encoding)
            break
    else:
        if b"\0" in data:
            raise BinaryDocumentError(f"{name!r} is not a text file: it holds NUL bytes")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = _decoded(name, data, declared or "utf-8")
    if "\0" in text:
        raise BinaryDocumentError(f"{name!r} is not a text file: it holds NUL characters")
    return text


def _decoded(name: str, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as exc:
        hint = "; convert it to UTF-8" if encoding == "utf-8" else ""
        raise BinaryDocumentError(
            f"{name!r} is not {encoding.upper()} text: bad byte at offset {exc.start}{hint}"
        ) from exc


def _declared_encoding(data: bytes) -> str | None:
    head = data[:HEAD_BYTES]
    declared = _DECLARED.search(head) or _XML_DECLARED.search(head)
    try:
        encoding = codecs.lookup(declared[1].decode()).name if declared else ""
    except (LookupError, ValueError):
        return None
    encoding = _AS_BROWSERS_DO.get(encoding, encoding)
    return encoding if encoding in _LEGACY_ENCODINGS else None


def _in_child(name: str, kind: Kind, data: bytes, max_bytes: int, timeout_s: float) -> Converted:
    """Convert in a process of its own, which may hang, crash or eat its memory without harm to this one."""
    command = [sys.executable, "-P", conversion.__file__, kind, str(max_bytes), str(math.ceil(timeout_s) + 1)]
    try:
        done = subprocess.run(
            command, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise BrokenDocumentError(f"{name!r} could not be read within {timeout_s:g} s, and may be broken") from exc
    except (OSError, ValueError) as exc:
        raise UnreadableDocumentError(f"cannot read {name!r}: no process for it: {reason(exc)}") from exc
    try:
        answer = json.loads(done.stdout)
        if "problem" not in answer:
            return Converted(answer["text"], answer["title"])
        error = ConversionError(answer["problem"], answer["detail"])
    except (KeyError, TypeError, ValueError) as exc:
        raise BrokenDocumentError(
            f"{name!r} made the process that read it end with {done.returncode}; it may be broken"
        ) from exc
    raise _translate(name, error, max_bytes) from error


def _translate(name: str, error: ConversionError, max_bytes: int) -> DocumentError:
    detail = f": {error.detail}" if error.detail else ""
    match error.problem:
        case "missing":
            return DocumentSupportError(f"{name!r} needs {error.detail} to be read: pip install 'holdfast[batches]'")
        case "encrypted":
            return EncryptedDocumentError(f"{name!r} is encrypted, and cannot be read without its password{detail}")
        case "scanned":
            return ScannedDocumentError(f"{name!r} has no text: its pages may be scanned pictures")
        case "too_large":
            return DocumentTooLargeError(f"{name!r} holds more than {max_bytes} bytes of text{detail}")
        case "memory":
            return BrokenDocumentError(f"{name!r} took too much memory to read, and may be broken")
        case "broken":
            return BrokenDocumentError(f"{name!r} cannot be read, and is probably broken{detail}")
