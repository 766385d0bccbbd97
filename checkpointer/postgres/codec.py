"""Between LangGraph's objects and rows: which values go where, as which bytes.

`None`, bools, numbers and strings stand in the checkpoint's JSON, as upstream keeps them; everything else is a row
of `checkpoint_blobs` under (channel, version). Three kinds of primitives go to the blobs too: strings with a NUL or
a lone surrogate and floats that JSON has no word for (jsonb refuses them), and, with encryption on, all of them.
Such a row is written with every checkpoint that holds the value, not only when its version is new: the version may
have been saved inline before.

Encrypted values are bound to their row: `("blob", thread, namespace, channel, version)` or
`("write", thread, namespace, checkpoint, task, idx)`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from struct import Struct
from typing import Any, cast

import orjson
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    PendingWrite,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from psycopg.rows import TupleRow

from checkpointer.errors import UnreadableError, UnsavableError
from checkpointer.postgres.group_commit import BlobRow, WriteRow
from checkpointer.serde import MAX_VALUE_BYTES, Cipher

__all__ = ["Codec", "decode_json", "is_large", "jsonb", "numbered", "text"]

_INT4 = Struct("!i")
_JSONB_VERSION = b"\x01"
_LARGE_BYTES = 32_768
_MOST_NODES = 200
_JSON_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def text(what: str, value: object) -> bytes:
    """An id as UTF-8. Raises `UnsavableError` for what PostgreSQL's text can't hold."""
    shown = str(value)
    try:
        encoded = shown.encode()
    except UnicodeEncodeError:
        raise UnsavableError(f"{what} {shown!r} holds a lone surrogate, which is not valid text") from None
    if b"\0" in encoded:
        raise UnsavableError(f"{what} {shown!r} holds a NUL character, which PostgreSQL's text can't hold")
    return encoded


def jsonb(value: object) -> bytes:
    """A value in jsonb's binary format."""
    try:
        return _JSONB_VERSION + orjson.dumps(value, option=_JSON_OPTIONS)
    except TypeError:
        # What orjson refuses and upstream's encoder takes, such as integers beyond 64 bits.
        try:
            return _JSONB_VERSION + json.dumps(value).encode()
        except (TypeError, ValueError) as exc:
            raise UnsavableError(f"a checkpoint or its metadata is not JSON: {exc}") from exc


def decode_json(data: bytes) -> dict[str, Any]:
    """A jsonb column's text as a dict."""
    value: dict[str, Any] = orjson.loads(data)
    inline = value.get("channel_values")
    if inline and any(type(item) is float and abs(item) >= 2**63 for item in inline.values()):
        # orjson reads an integer beyond 64 bits as a float.
        value = json.loads(data)
    return value


def is_large(*values: object) -> bool:
    """Whether serializing is likely to take long enough to be worth another thread; looks at a bounded part."""
    size = 0
    stack = list(values)
    for _ in range(_MOST_NODES):
        if not stack:
            return False
        value = stack.pop()
        if isinstance(value, (str, bytes, bytearray)):
            size += len(value)
        elif isinstance(value, dict):
            size += 32 * len(value)
            stack.extend(value.values() if len(value) <= _MOST_NODES else ())
        elif isinstance(value, (list, tuple, set, frozenset)):
            size += 32 * len(value)
            stack.extend(value if len(value) <= _MOST_NODES else ())
        elif (content := getattr(value, "__dict__", None)) is not None:
            stack.extend(content.values())
        elif (length := getattr(value, "nbytes", None)) is not None:
            size += int(length)
        if size > _LARGE_BYTES:
            return True
    return True


class Codec:
    """Encodes and decodes with one serializer and, where keys are set, one cipher."""

    def __init__(self, serde: SerializerProtocol, cipher: Cipher | None = None) -> None:
        self.serde = serde
        self.cipher = cipher

    def dump(self, value: object, place: Sequence[str]) -> tuple[bytes, bytes]:
        """The type tag and the bytes of a value for the row whose identity is `place`."""
        kind, data = self.serde.dumps_typed(value)
        if self.cipher is not None:
            kind, data = self.cipher.seal(kind, data, place)
        if len(data) > MAX_VALUE_BYTES:
            raise UnsavableError(
                f"a value of {len(data):,} bytes can't be saved: PostgreSQL takes less than {MAX_VALUE_BYTES:,}. "
                "Keep large data outside the state and its address in it"
            )
        return kind.encode(), bytes(data)

    def load(self, kind: str, data: bytes | None, place: Sequence[str]) -> Any:
        """The value of a row. Raises `UnreadableError` or `BlockedTypeError`."""
        plain = data or b""
        if Cipher.is_sealed(kind):
            if self.cipher is None:
                raise UnreadableError("a stored value is encrypted, but CHECKPOINT_ENCRYPTION_KEYS is not set")
            kind, plain = self.cipher.open(kind, plain, place)
        return self.serde.loads_typed((kind, plain))

    def blobs(
        self, thread: str, namespace: str, checkpoint: Checkpoint, new_versions: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[BlobRow]]:
        """Split a checkpoint's values: those that stand in its JSON, and the rows of the others."""
        inline: dict[str, Any] = {}
        rows: list[BlobRow] = []
        ids: tuple[bytes, bytes] | None = None
        for channel, value in checkpoint["channel_values"].items():
            version = new_versions.get(channel)
            if value is None or isinstance(value, (str, int, float)):
                if self.cipher is None and _fits_json(value):
                    inline[channel] = value
                    continue
                version = checkpoint["channel_versions"].get(channel)
            elif isinstance(value, _DeltaSnapshot):
                inline[channel] = True  # upstream's marker: a snapshot is behind it
            if version is None:
                continue
            ids = ids or (text("thread_id", thread), text("checkpoint_ns", namespace))
            shown = str(version)
            row = self.dump(value, ("blob", thread, namespace, channel, shown))
            rows.append((*ids, text("channel", channel), text("version", shown), *row))
        return inline, rows

    def writes(self, ids: tuple[str, str, str, str, str], writes: Sequence[tuple[str, Any]]) -> list[WriteRow]:
        """The rows of a task's writes; `ids` are thread, namespace, checkpoint, task and task path."""
        thread, namespace, checkpoint, task, _ = ids
        names = ("thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "task_path")
        first = tuple(text(name, value) for name, value in zip(names, ids, strict=True))
        rows = []
        for position, (channel, value) in enumerate(writes):
            idx = WRITES_IDX_MAP.get(channel, position)
            kind, data = self.dump(value, ("write", thread, namespace, checkpoint, task, str(idx)))
            rows.append((*first, _INT4.pack(idx), text("channel", channel), kind, data))
        return cast("list[WriteRow]", rows)

    def checkpoint(self, rows: Sequence[TupleRow]) -> CheckpointTuple | None:
        """Build a checkpoint from its rows (`checkpoint_rows`, in any order), or None from none."""
        head = next((row for row in rows if row[1] == 0), None)
        if head is None:
            return None
        thread, namespace, checkpoint_id, parent = head[2:6]
        checkpoint = cast("Checkpoint", decode_json(head[7]))
        values = dict(checkpoint.get("channel_values") or {})
        writes: list[tuple[tuple[str, str, int], PendingWrite]] = []
        for _, kind, a, b, c, d, idx, _, _, blob in rows:
            if kind == 1 and b != "empty":
                version = str(checkpoint["channel_versions"][a])
                values[a] = self.load(b, blob, ("blob", thread, namespace, a, version))
            elif kind == 2:
                place = ("write", thread, namespace, checkpoint_id, a, str(idx))
                writes.append((writes_sort_key(d, a, idx), (a, c, self.load(b, blob, place))))
        writes.sort(key=lambda write: write[0])
        checkpoint["channel_values"] = values
        return CheckpointTuple(
            config=_config(thread, namespace, checkpoint_id),
            checkpoint=checkpoint,
            metadata=cast("CheckpointMetadata", decode_json(head[8])),
            parent_config=_config(thread, namespace, parent) if parent else None,
            pending_writes=[write for _, write in writes],
        )

    def is_large(self, rows: Sequence[TupleRow]) -> bool:
        """Whether decoding these rows is worth another thread."""
        return sum(len(row[-1] or b"") for row in rows) > _LARGE_BYTES


def _config(thread: str, namespace: str, checkpoint_id: str) -> Any:
    ids = {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
    return {"configurable": ids}


def _fits_json(value: str | float | None) -> bool:
    """Whether jsonb can hold a primitive as it is."""
    if isinstance(value, str):
        return "\0" not in value and (value.isascii() or not _has_surrogate(value))
    return not isinstance(value, float) or math.isfinite(value)


def _has_surrogate(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False


def numbered(rows: Sequence[TupleRow]) -> Iterator[list[TupleRow]]:
    """Group rows of several checkpoints by their number, in order."""
    groups: dict[int, list[TupleRow]] = {}
    for row in rows:
        groups.setdefault(row[0], []).append(row)
    for number in sorted(groups):
        yield groups[number]
