"""What a batch is asked to do: the input of a run of the workflow `batch`, checked. Pure; no I/O.

    {"paths": [path, …]}                          files, and directories with all below them
    {"documents": [{"text", "title"?, "id"?}, …]} the documents themselves
    with "title"?, "policy"? (some by default, or all), "throttleSeconds"? (a pause in every stage of each document)

A batch that repeats the failed documents of another has "retryOf", and as "lines" those of the JSONL files among its
paths that are meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from orchestrator.batches.model import DocumentRow, Policy
from orchestrator.runs.model import Json
from orchestrator.workflows.extraction.document import throttle_seconds
from orchestrator.workflows.extraction.errors import WorkflowInputError

__all__ = [
    "DEFAULT_POLICY",
    "MAX_PATHS",
    "MAX_TITLE_CHARS",
    "BatchInput",
    "BatchInputError",
    "InlineDocument",
    "retry_input",
]

DEFAULT_POLICY: Policy = "some"
MAX_PATHS = 10_000
MAX_TITLE_CHARS = 200
MAX_ID_CHARS = 200
_KNOWN = {"paths", "documents", "title", "policy", "throttleSeconds", "retryOf", "lines"}

T = TypeVar("T")


class BatchInputError(WorkflowInputError):
    """The input of a batch does not say what to do; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class InlineDocument:
    """A document that came with the request; `key` is its id, or its number from 1 with a `#`."""

    key: str
    text: str
    title: str | None


@dataclass(frozen=True, slots=True)
class BatchInput:
    """What a batch reads, and how. Either `paths` or `documents` is empty."""

    paths: Sequence[str] = ()
    documents: Sequence[InlineDocument] = ()
    title: str | None = None
    policy: Policy = DEFAULT_POLICY
    throttle_s: float = 0.0
    lines: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Json) -> BatchInput:
        """The input as it was given. Raises `BatchInputError` or `ThrottleError`."""
        given = _typed("the input", value, dict)
        if unknown := sorted(given.keys() - _KNOWN):
            raise BatchInputError(f"the input of a batch has no {unknown[0]!r}; it has {', '.join(sorted(_KNOWN))}")
        if ("paths" in given) == ("documents" in given):
            raise BatchInputError("a batch takes either 'paths' or 'documents'")
        policy = given.get("policy", DEFAULT_POLICY)
        if policy not in ("all", "some"):
            raise BatchInputError(f"'policy' takes all or some, not {policy!r}")
        return cls(
            paths=_paths(given.get("paths")),
            documents=_documents(given.get("documents")),
            title=_label("title", given.get("title"), MAX_TITLE_CHARS),
            policy=policy,
            throttle_s=throttle_seconds(given.get("throttleSeconds")),
            lines=_lines(given.get("lines")),
        )


def retry_input(batch_id: str, given: Json, failed: Sequence[DocumentRow]) -> dict[str, Json]:
    """The input of a batch of only these documents of another, which was given `given`."""
    kept = {name: given[name] for name in ("title", "policy", "throttleSeconds") if name in given}
    again: dict[str, Json] = {**kept, "retryOf": batch_id}
    inline = [row for row in failed if "inline" in row.source]
    if inline:
        again["documents"] = [{**given["documents"][row.source["inline"]], "id": row.key} for row in inline]
        return again
    lines: dict[str, list[int]] = {}
    for row in failed:
        path = row.source["given"]
        if (line := row.source.get("line")) is not None:
            lines.setdefault(path, []).append(line)
    again["paths"] = list(dict.fromkeys(row.source["given"] for row in failed))
    return {**again, "lines": lines} if lines else again


def _paths(value: Any) -> list[str]:
    if value is None:
        return []
    paths: list[str] = _typed("'paths'", value, list)
    if not 0 < len(paths) <= MAX_PATHS:
        raise BatchInputError(f"'paths' takes 1 to {MAX_PATHS} paths, not {len(paths)}")
    for path in paths:
        if not _typed("a path", path, str) or "\0" in path:
            raise BatchInputError("a path is a string that is not empty and holds no NUL")
    return paths


def _lines(value: Any) -> dict[str, list[int]]:
    given = _typed("'lines'", {} if value is None else value, dict)
    return {name: _typed(f"the lines of {name!r}", numbers, list) for name, numbers in given.items()}


def _documents(value: Any) -> list[InlineDocument]:
    if value is None:
        return []
    documents = [_document(number, each) for number, each in enumerate(_typed("'documents'", value, list), 1)]
    if not documents:
        raise BatchInputError("'documents' takes one document or more")
    if len({document.key for document in documents}) < len(documents):
        raise BatchInputError("each of 'documents' takes an 'id' of its own")
    return documents


def _document(number: int, value: Any) -> InlineDocument:
    given = _typed(f"document {number}", value, dict)
    if unknown := sorted(given.keys() - {"text", "title", "id"}):
        raise BatchInputError(f"document {number} has no {unknown[0]!r}; it has 'text', 'title' and 'id'")
    text = _typed(f"the 'text' of document {number}", given.get("text"), str)
    key = _label("id", given.get("id"), MAX_ID_CHARS) or f"#{number}"
    return InlineDocument(key, text, _label("title", given.get("title"), MAX_TITLE_CHARS))


def _label(name: str, value: Any, most: int) -> str | None:
    if value is None:
        return None
    text: str = _typed(f"{name!r}", value, str)
    if not 0 < len(text) <= most or not text.isprintable():
        raise BatchInputError(f"{name!r} takes 1 to {most} characters, all printable")
    return text


def _typed(what: str, value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise BatchInputError(f"{what} takes a {_NAMES[kind]}, not {_NAMES.get(type(value), type(value).__name__)}")
    return value


_NAMES: Mapping[type, str] = {dict: "JSON object", list: "list", str: "string"}
