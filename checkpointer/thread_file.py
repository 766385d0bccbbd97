"""Threads as records that a person can read, one JSON object a line, and files of them.

A record is one checkpoint with all that belongs to it, oldest first within a namespace:

    {"kind": "checkpoint", "threadId", "namespace", "checkpointId", "parentId",
     "checkpoint": {…, "channel_values": {those that the parent does not have}},
     "kept": [channels whose value is the parent's],
     "extended": {channel: how many elements of its list are the parent's}, "metadata": {…},
     "writes": [{"taskId", "taskPath", "index", "channel", "value"}]}

A value travels once, with the checkpoint in which its version first appears; of a list that grew, as a conversation
does, only what is new. How values are written is in
`threads/values.py`. Loading is idempotent: loaded again, or after a part was loaded, the end is the same.

A file begins with a line that says its format, and ends with one that tells how many records of each kind it has and
the SHA-256 of all bytes before that line (before compression, where the name ends in `.zst`):

    {"kind": "header", "format": "holdfast-threads", "version": 1, …}
    {"kind": "end", "counts": {"checkpoint": 12}, "sha256": "…"}

It is written beside its place as `NAME.partial`, readable by its owner only, and renamed once complete. Records of
other kinds may stand between; they are handed through as they are.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter, OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self, cast

import orjson
import zstandard
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint
from langgraph.checkpoint.serde.base import SerializerProtocol

from checkpointer.errors import CheckpointerError, ThreadFileError, TransferError
from checkpointer.threads.history import RecentValues, Saved, Write, plain_serde, put_saved, read_history
from checkpointer.threads.outline import WriteKey, list_thread_ids
from checkpointer.threads.values import decode, encode

__all__ = [
    "CHECKPOINT",
    "FileSummary",
    "Loaded",
    "Record",
    "RecordEncoder",
    "ThreadFileWriter",
    "list_thread_ids",
    "load_records",
    "read_thread_file",
    "saved_of",
    "thread_records",
    "verify_thread_file",
]

CHECKPOINT = "checkpoint"
_FORMAT = "holdfast-threads"
_VERSION = 1
_LISTS_OF = 32
_PARTIAL = ".partial"

Record = dict[str, Any]


async def thread_records(
    saver: BaseCheckpointSaver[Any], thread_id: str, *, serde: SerializerProtocol | None = None
) -> AsyncIterator[Record]:
    """A thread's whole history as records; none for a thread that the saver does not know.

    `serde` writes what JSON can't hold; by default the saver's own where it has an allow-list. Raises
    `TransferError`.
    """
    encoder = RecordEncoder(serde or plain_serde(saver))
    async for saved in read_history(saver, thread_id):
        yield encoder.record(saved)


class RecordEncoder:
    """Makes records of one thread's checkpoints. It remembers the lists of the last ones, to tell what was added."""

    def __init__(self, serde: SerializerProtocol) -> None:
        self._serde = serde
        self._lists: OrderedDict[tuple[str, str], dict[str, _Packed]] = OrderedDict()

    def record(self, saved: Saved) -> Record:
        """One checkpoint as a record. Raises `TransferError` for a value that can't be written."""
        code = partial(encode, serde=self._serde)
        values = dict(saved.checkpoint["channel_values"])
        kept = [name for name in values if name not in saved.changed]
        try:
            extended = self._extended(saved)
            for name, length in extended.items():
                values[name] = values[name][length:]
            changed = {name: value for name, value in values.items() if name in saved.changed}
            return {
                "kind": CHECKPOINT,
                "threadId": saved.thread_id,
                "namespace": saved.namespace,
                "checkpointId": saved.checkpoint_id,
                "parentId": saved.parent_id,
                "checkpoint": code({**saved.checkpoint, "channel_values": changed}),
                "kept": kept,
                "extended": extended,
                "metadata": code(dict(saved.metadata)),
                "writes": [_write_record(write, self._serde) for write in saved.writes],
            }
        except (CheckpointerError, TypeError, ValueError) as exc:
            raise TransferError(
                saved.thread_id, f"can't be written at checkpoint {saved.checkpoint_id}: {exc}"
            ) from exc

    def _extended(self, saved: Saved) -> dict[str, int]:
        """The changed lists that begin with all of the parent's list, and how long that is."""
        before = self._lists.get((saved.namespace, saved.parent_id or ""), {})
        lists: dict[str, _Packed] = {}
        extended = {}
        for name, value in saved.checkpoint["channel_values"].items():
            if type(value) is not list:
                continue
            if name not in saved.changed:
                packed = before.get(name)
            else:
                packed, past = _packed(value, self._serde), before.get(name)
                if packed and past and past.length and packed.elements.startswith(past.elements):
                    extended[name] = past.length
            if packed is not None:
                lists[name] = packed
        self._lists[saved.place] = lists
        if len(self._lists) > _LISTS_OF:
            self._lists.popitem(last=False)
        return extended


class _Packed(NamedTuple):
    """A list's elements in msgpack, one after the other: those of a list that it extends stand before its own."""

    length: int
    elements: bytes


def _packed(value: list[Any], serde: SerializerProtocol) -> _Packed | None:
    # https://github.com/msgpack/msgpack/blob/master/spec.md#array-format-family
    kind, data = serde.dumps_typed(value)
    if kind != "msgpack":
        return None
    header = {0xDC: 3, 0xDD: 5}.get(data[0], 1)
    return _Packed(len(value), data[header:])


def _write_record(write: Write, serde: SerializerProtocol) -> Record:
    path, task_id, index, channel = write.key
    value = encode(write.value, serde)
    return {"taskId": task_id, "taskPath": path, "index": index, "channel": channel, "value": value}


@dataclass(slots=True)
class Loaded:
    """What `load_records` put into the saver."""

    checkpoints: int = 0
    writes: int = 0
    threads: set[str] = field(default_factory=set)


async def load_records(
    saver: BaseCheckpointSaver[Any],
    records: AsyncIterable[Record] | Iterable[Record],
    *,
    thread_id: str | None = None,
    serde: SerializerProtocol | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Loaded:
    """Put the checkpoints among the records into a saver, each as it was: id, parent, metadata, versions, writes.

    `thread_id` renames the thread. `serde` rebuilds values; what it refuses raises. `extra` goes into each save's
    `configurable`, such as `{FENCE_KEY: epoch}`; its names begin with `__`. Raises `TransferError`.
    """
    serde, recent, loaded = serde or plain_serde(saver), RecentValues(saver), Loaded()
    async for record in _each(records):
        if record.get("kind") != CHECKPOINT:
            continue
        target = thread_id if thread_id is not None else str(record["threadId"])
        saved = await saved_of(record, serde, recent, target)
        await put_saved(saver, saved, target, extra)
        loaded.checkpoints += 1
        loaded.writes += len(saved.writes)
        loaded.threads.add(target)
    return loaded


async def _each(records: AsyncIterable[Record] | Iterable[Record]) -> AsyncIterator[Record]:
    if isinstance(records, AsyncIterable):
        async for record in records:
            yield record
    else:
        for record in records:
            yield record


async def saved_of(record: Record, serde: SerializerProtocol, recent: RecentValues, thread_id: str) -> Saved:
    """The checkpoint of a record, with the values that its parent holds at the target. Raises `TransferError`."""
    namespace, parent_id = record["namespace"], record["parentId"]
    try:
        checkpoint = decode(record["checkpoint"], serde)
        metadata = decode(record["metadata"], serde)
        writes = tuple(
            Write(WriteKey(w["taskPath"], w["taskId"], w["index"], w["channel"]), decode(w["value"], serde))
            for w in record["writes"]
        )
    except CheckpointerError as exc:
        raise TransferError(thread_id, f"can't be read at checkpoint {record['checkpointId']}: {exc}") from exc
    values = checkpoint["channel_values"]
    changed = frozenset(values)
    kept, extended = record["kept"], record.get("extended", {})
    if kept or extended:
        before = await recent.of(thread_id, namespace, parent_id) or {}
        if lost := [name for name in [*kept, *extended] if name not in before]:
            raise TransferError(thread_id, f"lacks checkpoint {parent_id}, which has the value of {lost[0]!r}")
        values.update({name: before[name] for name in kept})
        values.update({name: before[name][:length] + values[name] for name, length in extended.items()})
    recent.hold(thread_id, namespace, checkpoint["id"], values)
    return Saved(thread_id, namespace, parent_id, cast("Checkpoint", checkpoint), metadata, writes, changed)


class ThreadFileWriter(AbstractContextManager["ThreadFileWriter"]):
    """Writes a file of records; leaving the block without an error completes it.

    With `verifies` it is read again before it gets its name. Raises `ThreadFileError` where it can't be written; then
    nothing of it is left, and what had its name before still has.
    """

    def __init__(self, path: Path, about: Mapping[str, Any] | None = None, *, verifies: bool = False) -> None:
        self.path = path
        self._verifies = verifies
        self.counts: Counter[str] = Counter()
        self._partial = path.with_name(path.name + _PARTIAL)
        self._about = dict(about or {})
        self._hash = hashlib.sha256()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._told():
            handle = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file: IO[bytes] = self._stack.enter_context(os.fdopen(handle, "wb"))
        self._out: Any = self._file
        if self.path.suffix == ".zst":
            self._out = zstandard.ZstdCompressor(level=3).stream_writer(self._file, closefd=False)
        self._put({"kind": "header", "format": _FORMAT, "version": _VERSION, **self._about})
        return self

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a record of any kind but `header` and `end`."""
        self._put(record)
        self.counts[str(record["kind"])] += 1

    def _put(self, record: Mapping[str, Any]) -> None:
        line = _dump(record)
        self._hash.update(line)
        with self._told():
            self._out.write(line)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise ThreadFileError(f"{self._partial} can't be written: {exc.strerror or exc}") from exc

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._told(), self._stack:
                if kind is None:
                    self._put_end()
            if kind is None:
                if self._verifies:
                    verify_thread_file(self._partial)
                with self._told():
                    self._partial.replace(self.path)
                    _sync_directory(self.path.parent)
        finally:
            self._partial.unlink(missing_ok=True)  # which has its name by now, if all went well

    def _put_end(self) -> None:
        self._out.write(_dump({"kind": "end", "counts": dict(self.counts), "sha256": self._hash.hexdigest()}))
        if self._out is not self._file:
            self._out.close()
        self._file.flush()
        os.fsync(self._file.fileno())


def _sync_directory(path: Path) -> None:
    """Have the new name survive a power cut too."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _dump(record: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(record) + b"\n"
    except TypeError:  # integers beyond 64 bits, lone surrogates
        return json.dumps(record).encode() + b"\n"


def read_thread_file(path: Path) -> Iterator[Record]:
    """The records of a file, as they stand between its first and last line.

    Raises `ThreadFileError`, at the end where the file is cut short or its checksum is wrong: `verify_thread_file`
    first, where what was read can't be taken back.
    """
    digest, counts, ended = hashlib.sha256(), Counter[str](), False
    for number, line in enumerate(_lines(path), 1):
        record = _parsed(path, number, line)
        if number == 1:
            _check_header(path, record)
        elif ended:
            raise ThreadFileError(f"{path} goes on after its last line, in line {number}: take another copy")
        elif record["kind"] == "end":
            _check_end(path, record, counts, digest.hexdigest())
            ended = True
        else:
            counts[record["kind"]] += 1
            yield record
        digest.update(line)
    if not ended:
        raise ThreadFileError(f"{path} is cut short: its last line is missing. Export it again, or take another copy")


@dataclass(frozen=True, slots=True)
class FileSummary:
    """What a sound file holds: records by kind, and the ids of each thread's checkpoints as (namespace, id)."""

    counts: Mapping[str, int]
    threads: Mapping[str, frozenset[tuple[str, str]]]


def verify_thread_file(path: Path) -> FileSummary:
    """Read a file to its end and check all of it. Raises `ThreadFileError`."""
    counts: Counter[str] = Counter()
    threads: dict[str, set[tuple[str, str]]] = {}
    for record in read_thread_file(path):
        counts[record["kind"]] += 1
        if record["kind"] == CHECKPOINT:
            threads.setdefault(record["threadId"], set()).add((record["namespace"], record["checkpointId"]))
    return FileSummary(counts, {name: frozenset(places) for name, places in threads.items()})


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            if path.name.removesuffix(_PARTIAL).endswith(".zst"):
                with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as plain:
                    yield from io.BufferedReader(cast("io.RawIOBase", plain))
            else:
                yield from file
    except OSError as exc:
        raise ThreadFileError(f"{path} can't be read: {exc.strerror or exc}") from exc
    except zstandard.ZstdError as exc:
        raise ThreadFileError(f"{path} is damaged: {exc}. Take another copy") from exc


def _parsed(path: Path, number: int, line: bytes) -> Record:
    try:
        record = json.loads(line)  # orjson gives integers beyond 64 bits back as floats
    except ValueError as exc:
        raise ThreadFileError(f"{path} is damaged in line {number}: {exc}. Take another copy") from exc
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        raise ThreadFileError(f"{path} is not a file of threads: line {number} is no record")
    return record


def _check_header(path: Path, record: Record) -> None:
    if record["kind"] != "header" or record.get("format") != _FORMAT:
        raise ThreadFileError(f"{path} is not a file of threads: its first line does not say {_FORMAT}")
    if record.get("version") != _VERSION:
        raise ThreadFileError(
            f"{path} has format version {record.get('version')!r}, and this release reads {_VERSION}: "
            "use the release that wrote it, or a newer one"
        )


def _check_end(path: Path, record: Record, counts: Mapping[str, int], sha256: str) -> None:
    if record.get("sha256") != sha256 or record.get("counts") != dict(counts):
        raise ThreadFileError(f"{path} is damaged: its contents do not match its checksum. Take another copy")
