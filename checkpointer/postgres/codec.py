"""Between LangGraph's objects and rows: which values go where, as which bytes.

`None`, bools, numbers and strings stand in the checkpoint's JSON, as upstream keeps them; everything else is a row
of `checkpoint_blobs` under (channel, version). Three kinds of primitives go to the blobs too: strings with a NUL
(jsonb refuses them), floats that JSON has no word for or would give back as integers, and, with encryption on, all.
Such a row is written with every checkpoint that holds the value, not only when its version is new: the version may
have been saved inline before.

Encrypted values are bound to their row: `("blob", thread, namespace, channel, version)` or
`("write", thread, namespace, checkpoint, task, idx)`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import lru_cache
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

from checkpointer.errors import UnsavableError
from checkpointer.postgres.arrays import cell, int4_cell
from checkpointer.postgres.chunks import SHARED, Sending, SharedList, Splitter, chunk_place, opened_typed
from checkpointer.postgres.group_commit import BlobRow, WriteRow
from checkpointer.serde import MAX_VALUE_BYTES, Cipher, CompressedSerializer, join_list

__all__ = ["Codec", "SizeMemory", "decode_json", "is_large", "json_text", "jsonb", "numbered", "text"]

_JSONB_VERSION = b"\x01"
_LARGE_BYTES = 32_768
_WRITE_IDS = ("thread_id", "checkpoint_ns", "checkpoint_id", "task_id")
_JSON_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def text(what: str, value: object) -> bytes:
    """An id as a cell of UTF-8. Raises `UnsavableError` for what PostgreSQL's text can't hold."""
    shown = value if type(value) is str else str(value)
    return _short_text(what, shown) if len(shown) <= 128 else _text(what, shown)


def _text(what: str, shown: str) -> bytes:
    try:
        encoded = shown.encode()
    except UnicodeEncodeError:
        raise UnsavableError(f"{what} {shown!r} holds a lone surrogate, which is not valid text") from None
    if b"\0" in encoded:
        raise UnsavableError(f"{what} {shown!r} holds a NUL character, which PostgreSQL's text can't hold")
    return cell(encoded)


# The same thread, namespace, channels and checkpoint ids come again and again.
_short_text = lru_cache(maxsize=16_384)(_text)


def json_text(value: object) -> bytes:
    """A value as JSON. Raises `UnsavableError` for what JSON has no word for."""
    try:
        return orjson.dumps(value, option=_JSON_OPTIONS)
    except TypeError:
        # What orjson refuses and upstream's encoder takes, such as integers beyond 64 bits.
        try:
            return json.dumps(value).encode()
        except (TypeError, ValueError) as exc:
            raise UnsavableError(f"a checkpoint or its metadata is not JSON: {exc}") from exc


def jsonb(value: object) -> bytes:
    """A value as a cell of jsonb."""
    return cell(_JSONB_VERSION + json_text(value))


def decode_json(data: bytes) -> dict[str, Any]:
    """A jsonb column's text as a dict."""
    value: dict[str, Any] = orjson.loads(data)
    for items in (value, value.get("channel_values") or {}):
        if any(type(item) is float and abs(item) >= 2**63 for item in items.values()):
            # orjson reads an integer beyond 64 bits as a float.
            exact: dict[str, Any] = json.loads(data)
            return exact
    return value


class SizeMemory:
    """How many bytes the values of a thread's channels had when they were last serialized.

    Serializing a large value belongs in another thread, and a thread costs a small value more than serializing it
    does. Walking a value to learn its size costs about as much as serializing it; how large it was at the last step
    says nearly as much.
    """

    def __init__(self, most: int = 8192) -> None:
        self._most = most
        self._sizes: dict[tuple[str, str], int] = {}

    def is_large(self, thread: str, values: Iterable[tuple[str, object]]) -> bool:
        """Whether these channels' values are likely to take long."""
        for channel, value in values:
            if self._sizes.get((thread, channel), 0) > _LARGE_BYTES:
                return True
            if isinstance(value, (str, bytes, bytearray, list, tuple, dict, set, frozenset)):
                length = len(value) if isinstance(value, (str, bytes, bytearray)) else 256 * len(value)
                if length > _LARGE_BYTES:
                    return True
        return False

    def note(self, thread: str, channel: str, size: int) -> None:
        """Remember a size; only large ones, and of those the latest."""
        key = (thread, channel)
        self._sizes.pop(key, None)
        if size > _LARGE_BYTES:
            self._sizes[key] = size
            if len(self._sizes) > self._most:
                del self._sizes[next(iter(self._sizes))]


class Codec:
    """Encodes and decodes with one serializer and, where keys are set, one cipher."""

    def __init__(self, serde: SerializerProtocol, cipher: Cipher | None = None) -> None:
        self.serde = serde
        self.cipher = cipher
        self.sizes = SizeMemory()

    def with_serde(self, serde: SerializerProtocol) -> Codec:
        """The same with another serializer."""
        other = copy(self)
        other.serde = serde
        return other

    def seal(self, value: object, place: Sequence[str]) -> tuple[str, bytes]:
        """The type tag and the bytes of a value for the row whose identity is `place`."""
        if type(value) is int and not -(2**63) <= value < 2**64:
            kind, data = "json", json_text(value)  # msgpack ends at 64 bits
        else:
            kind, data = self.serde.dumps_typed(value)
        if len(data) > MAX_VALUE_BYTES:
            raise UnsavableError(
                f"a value of {len(data):,} bytes can't be saved: PostgreSQL takes less than {MAX_VALUE_BYTES:,}. "
                "Keep large data outside the state and its address in it"
            )
        return (kind, data) if self.cipher is None else self.cipher.seal(kind, data, place)

    def dump(self, value: object, place: Sequence[str]) -> tuple[bytes, bytes]:
        """`seal`, as cells."""
        kind, data = self.seal(value, place)
        return text("type", kind), cell(data)

    def _dump_shared(self, value: object, place: Sequence[str], sending: Sending | None) -> tuple[bytes, bytes]:
        root = Splitter(self.serde, self.cipher).split(value, sending) if sending is not None else None
        if root is None:
            return self.dump(value, place)
        kind, data = self.cipher.seal(SHARED, root, place) if self.cipher is not None else (SHARED, root)
        return text("type", kind), cell(data)

    def load(self, kind: str, data: bytes | SharedList | None, place: Sequence[str]) -> Any:
        """The value of a row. Raises `UnreadableError` or `BlockedTypeError`."""
        if isinstance(data, SharedList):
            return self._load_shared(data, place[1])
        return self.serde.loads_typed(opened_typed(self.cipher, kind, data or b"", place))

    def _load_shared(self, shared: SharedList, thread: str) -> list[Any]:
        elements = [
            CompressedSerializer.unpack(*opened_typed(self.cipher, kind, data, chunk_place(thread, digest)))
            for digest, kind, data in shared.elements
        ]
        if all(kind in ("msgpack", "null", "bytes") for kind, _ in elements):
            # Rebuilt as one value; one by one takes half as long again.
            joined: list[Any] = self.serde.loads_typed(join_list(elements))
            return joined
        return [self.serde.loads_typed(element) for element in elements]

    def blobs(
        self,
        thread: str,
        namespace: str,
        checkpoint: Checkpoint,
        new_versions: Mapping[str, Any],
        sending: Sending | None = None,
    ) -> tuple[dict[str, Any], list[BlobRow]]:
        """Split a checkpoint's values: those that stand in its JSON, and the rows of the others.

        With `sending`, long lists are shared: their rows are roots, and their missing chunks are added to it.
        """
        ids = text("thread_id", thread), text("checkpoint_ns", namespace)
        inline: dict[str, Any] = {}
        rows: list[BlobRow] = []
        for channel, value in checkpoint["channel_values"].items():
            version = new_versions.get(channel)
            if value is None or isinstance(value, (str, int, float)):
                if self.cipher is None and _fits_json(value):
                    inline[channel] = value
                    continue
                if isinstance(value, str) and _has_surrogate(value):
                    raise UnsavableError(
                        f"the value of channel {channel!r} holds a lone surrogate: it is not valid text"
                    )
                version, value = checkpoint["channel_versions"].get(channel), _plain(value)
            elif isinstance(value, _DeltaSnapshot):
                inline[channel] = True  # upstream's marker: a snapshot is behind it
            if version is not None:
                shown = str(version)
                key = *ids, text("channel", channel), text("version", shown)
                before = sending.size if sending is not None else 0
                kind, data = self._dump_shared(value, ("blob", thread, namespace, channel, shown), sending)
                self.sizes.note(thread, channel, len(data) + (sending.size - before if sending is not None else 0))
                rows.append((*key, kind, data))
        return inline, rows

    def writes(
        self, ids: tuple[str, str, str, str], task_path: str, writes: Sequence[tuple[str, Any]]
    ) -> list[WriteRow]:
        """The rows of a task's writes; `ids` are thread, namespace, checkpoint and task."""
        thread, namespace, checkpoint, task = map(text, _WRITE_IDS, ids)
        path = text("task_path", task_path)
        rows = []
        for position, (channel, value) in enumerate(writes):
            idx = WRITES_IDX_MAP.get(channel, position)
            name = text("channel", channel)
            kind, data = self.dump(value, ("write", *ids, str(idx)))
            rows.append((thread, namespace, checkpoint, task, int4_cell(idx), path, name, kind, data))
        return rows

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


def is_large(rows: Sequence[TupleRow]) -> bool:
    """Whether decoding these rows of `checkpoint_rows` is worth another thread."""
    return sum(len(row[-1] or b"") for row in rows) > _LARGE_BYTES


def _config(thread: str, namespace: str, checkpoint_id: str) -> Any:
    ids = {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
    return {"configurable": ids}


def _fits_json(value: str | float | None) -> bool:
    """Whether jsonb can hold a primitive as it is."""
    if isinstance(value, str):
        return "\0" not in value and (value.isascii() or not _has_surrogate(value))
    if not isinstance(value, float):
        return True
    # From 1e16 on jsonb gives a float back as an integer would be; and it knows no -0.0.
    return abs(value) < 1e16 and (value != 0 or math.copysign(1, value) > 0)


def _plain(value: str | float | None) -> str | float | None:
    """A primitive as it would come back from JSON: an enum as its value, so that encryption changes no answer."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    plain: str | float | None = json.loads(json.dumps(value))
    return plain


def _has_surrogate(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False


def numbered(rows: Sequence[TupleRow]) -> Iterator[list[TupleRow]]:
    """Group rows of several checkpoints by their number, in order; each with the checkpoint's own row first."""
    groups: dict[int, list[TupleRow]] = {}
    for row in sorted(rows, key=lambda row: (row[0], row[1])):
        groups.setdefault(row[0], []).append(row)
    yield from groups.values()
