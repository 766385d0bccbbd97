"""What of a thread may be forgotten, and forgetting it.

A checkpoint that stays must load exactly as before. So with it stay

- its values: a value goes only when no kept checkpoint of its namespace refers to it;
- for a checkpoint older than version 4, its parent, which holds what was sent to its tasks;
- the chunks that a kept value's root reaches (`chunks.py`);
- for every DeltaChannel that it has no value of, its ancestors back to the nearest one that has, or to the first
  that wrote to it: the state is that value plus the writes on the way. Such ancestors must load exactly too, so
  theirs stay likewise. Where a thread's DeltaChannels take their snapshots at different steps that may be a long way.

Pruning happens in one transaction that sees one snapshot (the caller's: REPEATABLE READ), so what a run
saves meanwhile is neither seen nor deleted. Chunks are swept after it, in a transaction of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from langgraph.checkpoint.serde.types import TASKS
from psycopg.rows import DictRow

from checkpointer.postgres.chunks import chunk_place, hashes_of, opened, root_hashes
from checkpointer.postgres.places import blob_place
from checkpointer.postgres.pool import Connection
from checkpointer.postgres.queries import load_queries
from checkpointer.serde import Cipher

__all__ = ["Freed", "Keep", "Outline", "delete_runs", "delete_threads", "prune", "rows_of", "sweep", "sweep_measured"]

_Key = tuple[str, str]  # namespace, checkpoint id


@dataclass(frozen=True, slots=True)
class Keep:
    """How many of the latest checkpoints of each namespace stay."""

    last: int = 1

    @classmethod
    def parse(cls, strategy: str, keep_last: int | None = None) -> Keep:
        """From prune's arguments. Raises `ValueError` naming what it takes."""
        if strategy == "keep_latest" and keep_last is None:
            return cls(1)
        if strategy == "keep_last" and keep_last is not None and keep_last >= 1:
            return cls(keep_last)
        raise ValueError(
            f"strategy={strategy!r} with keep_last={keep_last!r} can't be used: it takes 'keep_latest', "
            "'keep_last' with keep_last=N (at least 1), or 'delete'"
        )


@dataclass(frozen=True, slots=True)
class Freed:
    """How many rows of each table went, and about how many bytes they took."""

    rows: Mapping[str, int] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Iterable[DictRow]) -> Freed:
        """From rows of a table's name, how many of its rows, and how many bytes."""
        counted = [row for row in found if row["rows"]]
        return cls({row["name"]: row["rows"] for row in counted}, {row["name"]: row["bytes"] for row in counted})

    def __add__(self, other: Freed) -> Freed:
        return Freed(_added(self.rows, other.rows), _added(self.bytes, other.bytes))

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def total_rows(self) -> int:
        """Rows of all tables."""
        return sum(self.rows.values())

    @property
    def total_bytes(self) -> int:
        """Bytes of all tables."""
        return sum(self.bytes.values())


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in one.keys() | other.keys()}


async def delete_threads(conn: Connection, schema: str, thread_ids: Sequence[str]) -> None:
    """Delete threads and lock their fenced writers out.

    The fences go up first: that waits for a write that is committing, whose rows the deletion then sees.
    """
    queries = load_queries("checkpointer.postgres", schema)
    for name in ("raise_fences", "delete_threads"):
        await conn.execute(queries[name].encode(), {"threads": list(thread_ids)}, prepare=False)


async def prune(conn: Connection, schema: str, thread_id: str, keep: Keep) -> Freed:
    """Keep the last checkpoints of each namespace and what they need; forget the rest."""
    outline = await Outline.read(conn, schema, thread_id)
    return await outline.forget_all_but(outline.latest(keep.last))


async def delete_runs(conn: Connection, schema: str, run_ids: Sequence[str]) -> dict[str, Freed]:
    """Delete the checkpoints that runs saved, but those that a DeltaChannel of another run's still needs; by thread."""
    queries = load_queries("checkpointer.postgres", schema)
    runs = set(run_ids)
    forgotten = {}
    for row in await rows_of(conn, queries["threads_of_runs"], runs=list(runs)):
        outline = await Outline.read(conn, schema, row["thread_id"])
        kept = {key for key, checkpoint in outline.checkpoints.items() if checkpoint["run_id"] not in runs}
        forgotten[outline.thread_id] = await outline.forget_all_but(kept)
    return forgotten


async def sweep(conn: Connection, schema: str, cipher: Cipher | None, thread_id: str) -> int:
    """Delete the chunks of a thread that no root reaches any more (`chunks.py`, rules 2 and 3); returns how many.

    The caller's transaction must be READ COMMITTED: what is reached is looked up again once savers are locked out.
    """
    return (await sweep_measured(conn, schema, cipher, thread_id)).total_rows


async def sweep_measured(conn: Connection, schema: str, cipher: Cipher | None, thread_id: str) -> Freed:
    """`sweep`, with the bytes too."""
    queries = load_queries("checkpointer.postgres", schema)
    if not await _unreached(conn, queries, cipher, thread_id):
        return Freed()
    await conn.execute(queries["raise_generation"].encode(), {"thread": thread_id})
    garbage = await _unreached(conn, queries, cipher, thread_id)
    return Freed.of(await rows_of(conn, queries["delete_chunks"], thread=thread_id, hashes=garbage))


async def _unreached(conn: Connection, queries: Mapping[str, str], cipher: Cipher | None, thread_id: str) -> list[UUID]:
    present = {row["hash"] for row in await rows_of(conn, queries["chunk_hashes"], thread=thread_id)}
    if not present:
        return []
    nodes = {
        row["hash"].bytes: opened(cipher, row["type"], row["blob"], chunk_place(thread_id, row["hash"].bytes))
        for row in await rows_of(conn, queries["nodes"], thread=thread_id)
    }
    reached: set[bytes] = set()
    for row in await rows_of(conn, queries["shared_values"], thread=thread_id):
        heads, tail = root_hashes(opened(cipher, row["type"], row["blob"], blob_place(row)))
        reached.update(heads, tail)
    for head in [digest for digest in reached if digest in nodes]:
        reached.update(hashes_of(nodes[head]))
    return [digest for digest in present if digest.bytes not in reached]


async def rows_of(conn: Connection, query: str, **params: object) -> list[DictRow]:
    """A statement's rows."""
    # Unprepared: planned with the arrays in sight.
    return await (await conn.execute(query.encode(), params, prepare=False)).fetchall()


@dataclass(frozen=True, slots=True)
class Outline:
    """A thread's checkpoints without their values."""

    conn: Connection
    queries: Mapping[str, str]
    thread_id: str
    checkpoints: Mapping[_Key, DictRow]

    @classmethod
    async def read(cls, conn: Connection, schema: str, thread_id: str) -> Outline:
        queries = load_queries("checkpointer.postgres", schema)
        rows = await rows_of(conn, queries["thread_outline"], thread=thread_id)
        keyed = {(row["checkpoint_ns"], row["checkpoint_id"]): row for row in rows}
        return cls(conn, queries, thread_id, keyed)

    def by_namespace(self) -> dict[str, list[_Key]]:
        """The checkpoints of each namespace, newest first."""
        found: dict[str, list[_Key]] = defaultdict(list)
        for key in self.checkpoints:
            found[key[0]].append(key)
        return found

    def finished_calls(self, latest: set[_Key]) -> set[_Key]:
        """Of a subgraph's calls, those whose root checkpoint is saved and goes: they go with it.

        A call's namespace has its task's id after a colon; the namespace of a subgraph with a checkpointer of its
        own has none, and its state outlives each call. A call can commit before its root does, so one whose root
        is not saved yet stays.
        """
        finished = set()
        for namespace, keys in self.by_namespace().items():
            root = ("", str(self.checkpoints[keys[0]]["root"]))
            if ":" in namespace and root in self.checkpoints and root not in latest:
                finished.update(keys)
        return finished

    def latest(self, count: int) -> set[_Key]:
        """The last checkpoints of each namespace, without calls that are over."""
        latest = {key for keys in self.by_namespace().values() for key in keys[:count]}
        return latest - self.finished_calls(latest)

    async def forgettable(self, kept: set[_Key]) -> dict[str, list[str]]:
        """The ids, per namespace and newest first, of all but these and what they need to load."""
        needed = kept | await self._senders(kept)
        needed |= await self._delta_ancestors(needed)
        found = {ns: [key[1] for key in keys if key not in needed] for ns, keys in self.by_namespace().items()}
        return {namespace: ids for namespace, ids in found.items() if ids}

    async def forget_all_but(self, kept: set[_Key], *, at_most: int | None = None) -> Freed:
        """Delete every checkpoint but these and what they need to load; with `at_most`, that many of them.

        The newest go first: none that is left then needs one that is gone.
        """
        freed, left = Freed(), at_most
        for namespace, ids in (await self.forgettable(kept)).items():
            chosen = ids[:left]
            left = None if left is None else left - len(chosen)
            if chosen:
                query = self.queries["delete_checkpoints"]
                params = {"thread": self.thread_id, "namespace": namespace, "ids": chosen}
                freed += Freed.of(await rows_of(self.conn, query, **params))
        return freed

    async def _senders(self, kept: Iterable[_Key]) -> set[_Key]:
        """Parents of checkpoints older than version 4, where something was sent to tasks."""
        parents = {(key[0], self.checkpoints[key]["parent"]) for key in kept if self.checkpoints[key]["v"] < 4}
        if not any(parent in self.checkpoints for parent in parents):
            return set()
        rows = await rows_of(self.conn, self.queries["senders"], thread=self.thread_id, tasks=TASKS)
        return parents & {(row["checkpoint_ns"], row["checkpoint_id"]) for row in rows} & set(self.checkpoints)

    async def _delta_ancestors(self, kept: Iterable[_Key]) -> set[_Key]:
        """The ancestors that the kept checkpoints' DeltaChannels are made of, with those in between."""
        written = await self._channels_of("written_channels")
        channels = self._delta_channels(written)
        if not any(channels.values()):
            return set()
        every = sorted(set().union(*channels.values()))
        stored = await self._channels_of("stored_values", channels=every)
        sources = self._sources({key: stored[key] | written[key] for key in self.checkpoints})
        ancestors: set[_Key] = set()
        for key in kept:
            while (channels[key[0]] - stored[key]) & sources[key]:
                above = self._parent(key)
                if above is None or above in ancestors:
                    break
                ancestors.add(above)
                key = above
        return ancestors

    def _sources(self, held: Mapping[_Key, set[str]]) -> dict[_Key, frozenset[str]]:
        """Per checkpoint the channels that any of its ancestors holds a value of, or a write to."""
        sources: dict[_Key, frozenset[str]] = {}
        for key in self.checkpoints:
            line: list[_Key] = []
            at: _Key | None = key
            while at is not None and at not in sources:
                sources[at] = frozenset()
                line.append(at)
                at = self._parent(at)
            for child in reversed(line):
                parent = self._parent(child)
                if parent is not None:
                    sources[child] = sources[parent] | held[parent]
        return sources

    async def _channels_of(self, query: str, **params: object) -> dict[_Key, set[str]]:
        found: dict[_Key, set[str]] = defaultdict(set)
        for row in await rows_of(self.conn, self.queries[query], thread=self.thread_id, **params):
            found[row["checkpoint_ns"], row["checkpoint_id"]] = set(row["channels"])
        return found

    def _parent(self, key: _Key) -> _Key | None:
        parent = (key[0], self.checkpoints[key]["parent"])
        return parent if parent in self.checkpoints and parent != key else None

    def _delta_channels(self, written: Mapping[_Key, set[str]]) -> dict[str, set[str]]:
        """Per namespace the channels that are, or may be, DeltaChannels.

        They are counted in the metadata or marked by a snapshot; LangGraph.js only says that a thread has some, and
        then every channel that was ever written may be one.
        """
        channels: dict[str, set[str]] = defaultdict(set)
        unnamed = False
        for (namespace, _), row in self.checkpoints.items():
            channels[namespace].update(row["counted"], row["marked"])
            unnamed = unnamed or row["delta_writes"]
        if unnamed:
            for (namespace, _), names in written.items():
                channels[namespace] |= names
        return channels
