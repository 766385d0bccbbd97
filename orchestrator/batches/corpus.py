"""The documents of a batch, listed as rows and read one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.batches.documents import Source, find_documents, read_document
from orchestrator.batches.model import BatchState, DocumentRow, DocumentState
from orchestrator.batches.request import BatchInput, InlineDocument
from orchestrator.runs.failure import describe_failure
from orchestrator.runs.model import Json, new_run_id
from orchestrator.workflows.extraction.document import check_text, load_document
from orchestrator.workflows.extraction.errors import BinaryDocumentError, DocumentError

__all__ = ["Corpus", "Text", "failure"]

# A key is part of an index, whose rows have a bound.
_MAX_KEY_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Text:
    """A document that was read. `content_hash` is the SHA-256 of its text in UTF-8."""

    text: str
    title: str
    content_hash: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """What `given` names; files are read only from below `root`, where there is one."""

    given: BatchInput
    root: Path | None

    def rows(self) -> Iterator[DocumentRow]:
        """A row for each document, with a run's id and without a position, in the same order each time. Blocks."""
        for index, document in enumerate(self.given.documents):
            yield DocumentRow(document.key, document.key, 0, {"inline": index}, document.title, run_id=new_run_id())
        for path in self.given.paths:
            lines = self.given.lines.get(path)
            for source in find_documents([Path(path)], root=self.root):
                if lines is None or source.line is None or source.line in lines:
                    yield _row(source)

    def checked(self, row: DocumentRow) -> DocumentRow:
        """The row once its document was read, with its title and hash or with what is wrong with it. Blocks."""
        try:
            text = self.read(row)
        except DocumentError as exc:
            return replace(row, state=DocumentState.FAILED, error=failure(exc, BatchState.PREPROCESSING))
        return replace(row, title=text.title, content_hash=text.content_hash)

    def read(self, row: DocumentRow) -> Text:
        """Read a document. Raises a DocumentError; blocks."""
        if (index := row.source.get("inline")) is not None:
            return _inline(self.given.documents[index])
        document = read_document(_source(row, self.root))
        return Text(document.text, _storable(document.title), document.content_hash)


def failure(error: BaseException, state: BatchState) -> dict[str, Json]:
    """What is kept of an error that a document ran into."""
    described = describe_failure(error)
    return {"type": described["type"], "message": _storable(described["message"]), "state": str(state)}


def _inline(document: InlineDocument) -> Text:
    check_text(document.text)
    if "\0" in document.text:
        raise BinaryDocumentError(f"document {document.key!r} is not text: it holds a NUL character")
    loaded = load_document({"text": document.text, "title": document.title})
    content_hash = hashlib.sha256(loaded["text"].encode()).hexdigest()
    return Text(loaded["text"], loaded["title"], content_hash)


def _row(source: Source) -> DocumentRow:
    name = _storable(source.name)
    key = name if len(name.encode()) <= _MAX_KEY_BYTES else hashlib.sha256(name.encode()).hexdigest()
    where: dict[str, Json] = {
        "given": source.name if source.line is None else source.name.removesuffix(f":{source.line}"),
        "path": str(source.path),
        "kind": source.kind,
    }
    if source.line is not None:
        where |= {"line": source.line, "offset": source.offset, "length": source.length, "checksum": source.checksum}
        where["title"] = source.title
    row = DocumentRow(key, name, 0, where, _title(source), run_id=new_run_id())
    if source.error is None:
        return row
    return replace(row, state=DocumentState.FAILED, error=failure(source.error, BatchState.PREPROCESSING))


def _title(source: Source) -> str | None:
    return None if source.title is None else _storable(source.title)


def _source(row: DocumentRow, root: Path | None) -> Source:
    where = row.source
    return Source(
        name=row.name,
        path=Path(where["path"]),
        kind=where["kind"],
        root=None if root is None else Path(root).resolve(),
        line=where.get("line"),
        offset=where.get("offset", 0),
        length=where.get("length", 0),
        checksum=where.get("checksum", 0),
        title=where.get("title"),
    )


def _storable(text: str) -> str:
    """`text` without what no column takes."""
    return text.replace("\0", "\ufffd").encode("utf-8", "backslashreplace").decode()
