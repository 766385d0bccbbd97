"""A thread's history as a stream of checkpoints, oldest first, and such a stream put into a saver.

A checkpoint is read with all its values, but what it adds to its parent is marked: a value belongs to the checkpoint
in which its version first appears. Only that is compared, written to files, and stored anew, so that a long thread
does not grow with the square of its length. LangGraph lists newest first with all values; to hold few of them at a
time, the ids are read first (`outline.py`) and then `AT_ONCE` checkpoints at a time, in order.

Checkpoints are put in the order of their ids over all namespaces, each before its writes. So a thread of which only
a part was copied is one that existed: it is as it was at an earlier time.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import psycopg
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot

from checkpointer.errors import BlockedTypeError, TransferError, UnreadableError, UnsavableError
from checkpointer.serde import AllowListSerializer, CompressedSerializer
from checkpointer.threads.outline import Place, WriteKey, thread_outline, write_keys
from checkpointer.threads.values import encode

__all__ = [
    "AT_ONCE",
    "History",
    "RecentValues",
    "Saved",
    "Write",
    "difference",
    "missing_writes",
    "plain_serde",
    "put_saved",
    "read_history",
    "read_places",
]

AT_ONCE = 8
_READS = 3
# Errors for which this thread is to blame, and not the connection.
_OF_THE_THREAD = (BlockedTypeError, UnreadableError, UnsavableError, psycopg.DataError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Write:
    """A pending write and where it stands."""

    key: WriteKey
    value: Any


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint with all its values; `changed` names those that its parent does not have."""

    thread_id: str
    namespace: str
    parent_id: str | None
    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    writes: tuple[Write, ...]
    changed: frozenset[str]

    @property
    def checkpoint_id(self) -> str:
        """Its id; unique within the namespace."""
        return self.checkpoint["id"]

    @property
    def place(self) -> tuple[str, str]:
        """The namespace and the id."""
        return self.namespace, self.checkpoint_id


class History:
    """Remembers which version of each channel every checkpoint of a thread held, to tell what a child adds."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, str], dict[str, Any]] = {}

    def changed(self, namespace: str, parent_id: str | None, checkpoint: Checkpoint) -> frozenset[str]:
        """The channels whose value the parent does not hold in the same version; all where it is unknown."""
        versions, values = checkpoint["channel_versions"], checkpoint["channel_values"]
        before = self._versions.get((namespace, parent_id or ""), {})
        self._versions[namespace, checkpoint["id"]] = {name: versions.get(name) for name in values}
        return frozenset(
            name for name in values if name not in before or before[name] != versions.get(name) or name == TASKS
        )


def plain_serde(saver: BaseCheckpointSaver[Any]) -> SerializerProtocol:
    """A serializer for values on their way: the saver's own allow-list where it has one, uncompressed."""
    serde = saver.serde.inner if isinstance(saver.serde, CompressedSerializer) else saver.serde
    return serde if isinstance(serde, AllowListSerializer) else AllowListSerializer()


async def read_history(
    saver: BaseCheckpointSaver[Any], thread_id: str, outline: Sequence[Place] | None = None
) -> AsyncIterator[Saved]:
    """A thread's checkpoints, oldest first, with their pending writes. Raises `TransferError`."""
    places = await thread_outline(saver, thread_id) if outline is None else outline
    history = History()
    for start in range(0, len(places), AT_ONCE):
        for found in await read_places(saver, thread_id, places[start : start + AT_ONCE]):
            yield replace(found, changed=history.changed(found.namespace, found.parent_id, found.checkpoint))


async def read_places(saver: BaseCheckpointSaver[Any], thread_id: str, places: Sequence[Place]) -> list[Saved]:
    """Some checkpoints of a thread, read together; with all their values taken for changed. Raises `TransferError`."""
    return list(await asyncio.gather(*(_load(saver, thread_id, place) for place in places)))


async def _values_at(
    saver: BaseCheckpointSaver[Any], thread_id: str, namespace: str, checkpoint_id: str
) -> Mapping[str, Any] | None:
    """The values of one checkpoint, None where the saver does not have it."""
    found = await saver.aget_tuple(_config(thread_id, namespace, checkpoint_id))
    return found.checkpoint["channel_values"] if found is not None else None


async def _load(saver: BaseCheckpointSaver[Any], thread_id: str, place: Place) -> Saved:
    """A checkpoint and the keys of its writes, which a run may be adding to just now."""
    for attempt in range(1, _READS + 1):
        try:
            found = await saver.aget_tuple(_config(thread_id, place.namespace, place.checkpoint_id))
        except _OF_THE_THREAD as exc:
            raise TransferError(thread_id, f"can't be read at checkpoint {place.checkpoint_id}: {exc}") from exc
        if found is None:
            raise TransferError(thread_id, f"lost checkpoint {place.checkpoint_id} while it was read: read it again")
        pending = found.pending_writes or ()
        keys = write_keys(pending) if place.writes is None else place.writes
        if [(key.task_id, key.channel) for key in keys] == [(task, channel) for task, channel, _ in pending]:
            return _saved(thread_id, place, found, keys)
        if attempt < _READS:
            now = {(p.namespace, p.checkpoint_id): p for p in await thread_outline(saver, thread_id)}
            place = now.get((place.namespace, place.checkpoint_id), place)
    raise TransferError(thread_id, f"changed at checkpoint {place.checkpoint_id} while it was read: stop its run first")


def _saved(thread_id: str, place: Place, found: CheckpointTuple, keys: Sequence[WriteKey]) -> Saved:
    writes = tuple(Write(key, value) for key, (_, _, value) in zip(keys, found.pending_writes or (), strict=True))
    changed = frozenset(found.checkpoint["channel_values"])
    return Saved(thread_id, place.namespace, place.parent_id, found.checkpoint, found.metadata, writes, changed)


async def put_saved(
    saver: BaseCheckpointSaver[Any], saved: Saved, thread_id: str, extra: Mapping[str, Any] | None = None
) -> None:
    """Put a checkpoint and then its writes into a saver. `extra` goes into the `configurable` of each.

    Names in `extra` begin with `__`: LangGraph copies others into the metadata. Raises `TransferError`.
    """
    checkpoint = saved.checkpoint
    # Only of channels with a value. An empty one needs no entry; and one could replace a DeltaChannel's snapshot, which
    # SQLite shows only where it was made, although the version goes on.
    versions = {name: v for name, v in checkpoint["channel_versions"].items() if name in saved.changed}
    config = _config(thread_id, saved.namespace, saved.parent_id, extra)
    try:
        await saver.aput(config, checkpoint, saved.metadata, versions)
        config = _config(thread_id, saved.namespace, saved.checkpoint_id, extra)
        for (path, task_id), writes in _calls(saved.writes).items():
            for call in writes:
                await saver.aput_writes(config, call, task_id, path)
    except _OF_THE_THREAD as exc:
        raise TransferError(thread_id, f"can't be saved at checkpoint {saved.checkpoint_id}: {exc}") from exc


def _calls(writes: Sequence[Write]) -> dict[tuple[str, str], list[list[tuple[str, Any]]]]:
    """The writes as the calls of `put_writes` that give each its index.

    A call numbers its writes by position, but LangGraph's special channels have an index of their own. So those go
    first in calls of their own, and fill the gaps before a write that stood behind one.
    """
    tasks: defaultdict[tuple[str, str], list[Write]] = defaultdict(list)
    for write in writes:
        tasks[write.key.task_path, write.key.task_id].append(write)
    calls = {}
    for task, items in tasks.items():
        special = [(item.key.channel, item.value) for item in items if item.key.channel in WRITES_IDX_MAP]
        fillers, row = iter(special), list[tuple[str, Any]]()
        for item in (item for item in items if item.key.channel not in WRITES_IDX_MAP):
            row += islice(fillers, max(0, item.key.idx - len(row)))
            row.append((item.key.channel, item.value))
        calls[task] = [[one] for one in special] + ([row] if row else [])
    return calls


def difference(here: Saved, there: Saved, serde: SerializerProtocol) -> str | None:
    """What differs between a checkpoint in two savers, in words, apart from pending writes; None for nothing.

    Left out is what savers differ in and no reader sees: the metadata's old `writes`, which PostgreSQL drops;
    a DeltaChannel's snapshot in the children that did not change it; what was sent to tasks in checkpoints before
    version 4, which PostgreSQL's saver gathers when it reads.
    """
    ours, theirs = here.checkpoint["channel_values"], there.checkpoint["channel_values"]
    if here.parent_id != there.parent_id:
        return "its parent"
    if _body(here) != _body(there):
        return "its channel versions or the like"
    if _about(here, serde) != _about(there, serde):
        return "its metadata"
    if _kept(here, here.changed) != _kept(there, here.changed):
        return "which channels have a value"
    for name in sorted(here.changed - _gathered(here)):
        if name not in theirs or not _same(ours[name], theirs[name], serde):
            return f"the value of channel {name!r}"
    return None


def missing_writes(here: Saved, there: Saved, serde: SerializerProtocol) -> int | None:
    """How many of the checkpoint's pending writes are not there yet; None where others are there, or another order."""
    left = iter(here.writes)
    for theirs in there.writes:
        # The index may differ: their order is what counts.
        if not any(
            ours.key._replace(idx=0) == theirs.key._replace(idx=0) and _same(ours.value, theirs.value, serde)
            for ours in left
        ):
            return None
    return len(here.writes) - len(there.writes)


def _gathered(saved: Saved) -> set[str]:
    return {TASKS} if saved.checkpoint["v"] < 4 else set()


def _body(saved: Saved) -> dict[str, Any]:
    body = {name: value for name, value in saved.checkpoint.items() if name != "channel_values"}
    left_out = _gathered(saved)
    body["channel_versions"] = {n: v for n, v in saved.checkpoint["channel_versions"].items() if n not in left_out}
    return body


def _about(saved: Saved, serde: SerializerProtocol) -> Any:
    about = {name: value for name, value in saved.metadata.items() if name != "writes"}
    return json.loads(json.dumps(about, default=partial(encode, serde=serde, shown=False)))  # JSON knows no tuples


def _kept(saved: Saved, changed: frozenset[str]) -> set[str]:
    values = saved.checkpoint["channel_values"]
    names = {name for name, value in values.items() if not isinstance(value, _DeltaSnapshot)}
    return names - changed - _gathered(saved)


def _same(ours: Any, theirs: Any, serde: SerializerProtocol) -> bool:
    """Equal as bytes; or, as with sets, whose order is chance, as values."""
    if isinstance(ours, (str, int, float)) and type(ours) not in (str, int, float, bool):
        return bool(ours == theirs)  # PostgreSQL gives an enum among the primitives back as its value
    if type(ours) is not type(theirs):
        return False
    try:
        return serde.dumps_typed(ours) == serde.dumps_typed(theirs) or bool(ours == theirs)
    except (ValueError, TypeError):  # not for msgpack, such as an integer beyond 64 bits; or an array: no one truth
        return bool(encode(ours, serde, shown=False) == encode(theirs, serde, shown=False))


class RecentValues:
    """The values of the checkpoints that were put last, for their children; others are read back from the saver."""

    def __init__(self, saver: BaseCheckpointSaver[Any], most: int = 32) -> None:
        self._saver = saver
        self._most = most
        self._values: OrderedDict[tuple[str, str, str], Mapping[str, Any]] = OrderedDict()

    async def of(self, thread_id: str, namespace: str, checkpoint_id: str) -> Mapping[str, Any] | None:
        """A checkpoint's values, None where it is nowhere."""
        held = self._values.get((thread_id, namespace, checkpoint_id))
        return held if held is not None else await _values_at(self._saver, thread_id, namespace, checkpoint_id)

    def hold(self, thread_id: str, namespace: str, checkpoint_id: str, values: Mapping[str, Any]) -> None:
        """Remember a checkpoint's values for a while."""
        self._values[thread_id, namespace, checkpoint_id] = values
        if len(self._values) > self._most:
            self._values.popitem(last=False)


def _config(thread_id: str, namespace: str, checkpoint_id: str | None, extra: Mapping[str, Any] | None = None) -> Any:
    ids = {"thread_id": thread_id, "checkpoint_ns": namespace, **(extra or {})}
    return {"configurable": ids if checkpoint_id is None else {**ids, "checkpoint_id": checkpoint_id}}
