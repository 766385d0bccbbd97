"""Whatever is done to shared lists in whatever order, every checkpoint that is left loads exactly what was saved."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import CheckpointTuple, empty_checkpoint

from checkpointer import PooledPostgresSaver, open_postgres_saver
from checkpointer.postgres import chunks
from checkpointer.postgres.chunks import chunk_place, hashes_of, opened, root_hashes
from checkpointer.postgres.places import blob_place
from checkpointer.serde import Cipher, CompressedSerializer
from tests.checkpoints import SCHEMA, at, history

THREADS = ("a", "b")
CHANNELS = ("messages", "documents")
LONGEST = 60
BEGIN: list[Any] = [{"text": str(number), "tags": []} for number in range(30)]

words = st.text("abc", max_size=6)
elements = st.one_of(
    st.builds(dict, text=words, tags=st.lists(words, max_size=2)),
    words.map(lambda content: AIMessage(content=content, id="1")),
    words,
    st.binary(max_size=4),
    st.none(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.lists(words, max_size=2),
)
places = st.integers(0, LONGEST)


@dataclass(frozen=True)
class Edit:
    """One change of a list."""

    what: str
    at: int
    new: list[Any]

    def apply(self, items: list[Any]) -> None:
        place = self.at % (len(items) + 1)
        match self.what:
            case "append":
                items.extend(self.new)
            case "insert":
                items[place:place] = self.new
            case "delete":
                del items[place : place + 1 + len(self.new)]
            case "replace":
                items[place : place + len(self.new)] = self.new
            case "reorder":
                items[:] = items[place:] + items[:place][::-1]
            case "duplicate":
                items.extend(deepcopy(items[: place + 1]))
            case "change":
                change_in_place(items[place:])
        del items[LONGEST:]


def change_in_place(items: list[Any]) -> None:
    """Alter the first element that can be altered; the list holds the same objects as before."""
    for item in items:
        if isinstance(item, dict):
            item["text"] += "!"
            return
        if isinstance(item, list):
            item.append("!")
            return
        if isinstance(item, AIMessage):
            item.content = f"{item.content}!"
            return


@dataclass(frozen=True)
class Save:
    """A checkpoint by one of the savers; meanwhile another may prune the thread."""

    thread: str
    saver: int
    edits: list[tuple[str, Edit]]
    run: str
    pruned_by: int | None


@dataclass(frozen=True)
class Prune:
    thread: str
    saver: int
    keep: int


@dataclass(frozen=True)
class DeleteRun:
    saver: int
    run: str


@dataclass(frozen=True)
class Copy:
    thread: str
    target: str
    saver: int


@dataclass(frozen=True)
class Delete:
    thread: str
    saver: int


@dataclass(frozen=True)
class Check:
    thread: str
    saver: int


threads, savers, runs = st.sampled_from(THREADS), st.integers(0, 2), st.sampled_from(("one", "two"))
edits = st.builds(
    Edit,
    st.sampled_from(("append", "append", "insert", "delete", "replace", "reorder", "duplicate", "change", "change")),
    places,
    st.lists(elements, min_size=1, max_size=6),
)
saves = st.builds(
    Save,
    threads,
    savers,
    st.lists(st.tuples(st.sampled_from(CHANNELS), edits), min_size=1, max_size=3),
    runs,
    st.none() | savers,
)
operations = st.lists(
    st.one_of(
        saves,
        saves,
        saves,
        saves,
        saves,
        st.builds(Prune, threads, savers, st.integers(1, 3)),
        st.builds(DeleteRun, savers, runs),
        st.builds(Copy, threads, threads, savers),
        st.builds(Delete, threads, savers),
        st.builds(Check, threads, savers),
    ),
    min_size=10,
    max_size=40,
)


@dataclass
class Saved:
    """What is expected of one checkpoint."""

    values: dict[str, Any]
    run: str


@dataclass
class World:
    """The savers (two that share and one that stores whole), and what each thread should hold."""

    savers: list[PooledPostgresSaver]
    conn: psycopg.Connection
    cipher: Cipher | None
    prefix: str
    saved: dict[str, dict[str, Saved]] = field(default_factory=dict)
    live: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    number: Any = field(default_factory=lambda: count(1))

    def name(self, thread: str) -> str:
        return f"{self.prefix}-{thread}"

    async def do(self, operation: Any) -> None:
        await getattr(self, type(operation).__name__.lower())(operation)

    async def save(self, save: Save) -> None:
        live = self.live.setdefault(save.thread, begun())
        versions = self.versions.setdefault(save.thread, {})
        for channel, edit in save.edits:
            edit.apply(live[channel])
        changed = {channel for channel, _ in save.edits} | (set(CHANNELS) - set(versions))
        versions.update({channel: f"{next(self.number):08}.5" for channel in changed})
        new = empty_checkpoint()
        new["channel_values"], new["channel_versions"] = dict(live), dict(versions)
        saved = self.saved.setdefault(save.thread, {})
        parent = max(saved, default=None)
        saved[new["id"]] = Saved(deepcopy(new["channel_values"]), save.run)
        about: Any = {"source": "loop", "step": 1, "run_id": f"{self.prefix} {save.run}"}
        config = at(self.name(save.thread), parent)
        put = self.savers[save.saver].aput(config, new, about, {channel: versions[channel] for channel in changed})
        if save.pruned_by is None:
            await put
            return
        await asyncio.gather(put, self.savers[save.pruned_by].aprune([self.name(save.thread)]))
        left = await self.ids(save.thread)
        assert new["id"] in left
        assert left <= {parent, new["id"]}
        self.saved[save.thread] = {name: one for name, one in saved.items() if name in left}
        assert dangling(self.conn, self.cipher, self.name(save.thread)) == set()

    async def ids(self, thread: str) -> set[str | None]:
        return {place(found) for found in await history(self.savers[0], self.name(thread))}

    async def prune(self, prune: Prune) -> None:
        await self.savers[prune.saver].aprune([self.name(prune.thread)], strategy="keep_last", keep_last=prune.keep)
        saved = self.saved.get(prune.thread, {})
        self.saved[prune.thread] = {name: saved[name] for name in sorted(saved)[-prune.keep :]}
        self.tidy(prune.thread)

    async def deleterun(self, delete: DeleteRun) -> None:
        await self.savers[delete.saver].adelete_for_runs([f"{self.prefix} {delete.run}"])
        self.versions.clear()  # the values that the next checkpoint would have in common with these may be gone
        for thread, saved in self.saved.items():
            self.saved[thread] = {name: one for name, one in saved.items() if one.run != delete.run}
            self.tidy(thread)

    async def copy(self, copy: Copy) -> None:
        await self.savers[copy.saver].acopy_thread(self.name(copy.thread), self.name(copy.target))
        if copy.thread in self.saved and copy.thread != copy.target:
            self.saved.setdefault(copy.target, {}).update(deepcopy(self.saved[copy.thread]))
            self.live[copy.target] = deepcopy(self.live.get(copy.thread, begun()))
            self.versions.pop(copy.target, None)

    async def delete(self, delete: Delete) -> None:
        await self.savers[delete.saver].adelete_thread(self.name(delete.thread))
        for known in (self.saved, self.live, self.versions):
            known.pop(delete.thread, None)
        assert present(self.conn, self.name(delete.thread)) == set()

    async def check(self, check: Check) -> None:
        saver = self.savers[check.saver]
        expected = self.saved.get(check.thread, {})
        listed = await history(saver, self.name(check.thread))
        assert {place(found): shown(found) for found in listed} == {
            name: exactly(one.values) for name, one in expected.items()
        }
        loaded = await asyncio.gather(*(saver.aget_tuple(at(self.name(check.thread), name)) for name in expected))
        assert [shown(found) for found in loaded] == [exactly(one.values) for one in expected.values()]
        latest = await saver.aget_tuple(at(self.name(check.thread)))
        assert (None if latest is None else place(latest)) == max(expected, default=None)

    def tidy(self, thread: str) -> None:
        """What is stored is what is reached."""
        name = self.name(thread)
        assert present(self.conn, name) == reached(self.conn, self.cipher, name)


def begun() -> dict[str, list[Any]]:
    return {channel: deepcopy(BEGIN) for channel in CHANNELS}


def place(found: CheckpointTuple) -> str:
    return str(found.config["configurable"]["checkpoint_id"])


def shown(found: CheckpointTuple | None) -> Any:
    return None if found is None else exactly(found.checkpoint["channel_values"])


def exactly(value: Any) -> Any:
    """A value that equals only what has the same types all through."""
    if isinstance(value, dict):
        return {name: exactly(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [exactly(item) for item in value]
    return type(value), repr(value)


def present(conn: psycopg.Connection, thread: str) -> set[bytes]:
    rows = conn.execute(f"SELECT hash FROM {SCHEMA}.checkpoint_chunks WHERE thread_id = %s", (thread,))
    return {row[0].bytes for row in rows}


def reached(conn: psycopg.Connection, cipher: Cipher | None, thread: str) -> set[bytes]:
    """The hashes that the thread's roots lead to, whether they are there or not."""
    columns = ("thread_id", "checkpoint_ns", "channel", "version", "type", "blob")
    blobs = conn.execute(
        f"SELECT {', '.join(columns)} FROM {SCHEMA}.checkpoint_blobs WHERE thread_id = %s AND type LIKE 'shared%%'",
        (thread,),
    ).fetchall()
    nodes = conn.execute(
        f"SELECT hash, type, blob FROM {SCHEMA}.checkpoint_chunks WHERE thread_id = %s AND type LIKE 'node%%'",
        (thread,),
    ).fetchall()
    inner = {
        row[0].bytes: hashes_of(opened(cipher, row[1], row[2], chunk_place(thread, row[0].bytes))) for row in nodes
    }
    found: set[bytes] = set()
    for blob in blobs:
        row = dict(zip(columns, blob, strict=True))
        heads, tail = root_hashes(opened(cipher, row["type"], row["blob"], blob_place(row)))
        found.update(heads, tail, *(inner.get(head, []) for head in heads))
    return found


def count_nodes(conn: psycopg.Connection, thread: str) -> int:
    query = f"SELECT count(*) FROM {SCHEMA}.checkpoint_chunks WHERE thread_id = %s AND type LIKE 'node%%'"
    row = conn.execute(query, (thread,)).fetchone()
    return row[0] if row else 0


def dangling(conn: psycopg.Connection, cipher: Cipher | None, thread: str) -> set[bytes]:
    return reached(conn, cipher, thread) - present(conn, thread)


KEYS = Cipher([("one", bytes(range(32)))])
MODES: dict[str, dict[str, Any]] = {
    "as usual": {},
    "encrypted": {"serde": CompressedSerializer(threshold=1), "cipher": KEYS},
}
_examples = count()


@pytest.mark.parametrize("mode", MODES)
def test_every_checkpoint_loads_what_was_saved(
    postgres_dsn: str, conn: psycopg.Connection, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_FEWEST_ELEMENTS", 2)
    monkeypatch.setattr(chunks, "_SMALL_ELEMENT", 0)
    monkeypatch.setattr(chunks, "_RUN_AT_LEAST", 2)
    monkeypatch.setattr(chunks, "_RUN_AT_MOST", 5)
    seen = {"nodes": 0, "chunks": 0}

    async def opened_savers(stack: AsyncExitStack) -> list[PooledPostgresSaver]:
        return [
            await stack.enter_async_context(open_postgres_saver(postgres_dsn, storage=storage, **MODES[mode]))
            for storage in ("shared", "shared", "whole")
        ]

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        savers = runner.run(opened_savers(stack))

        @settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(operations)
        def example(operations: list[Any]) -> None:
            world = World(savers, conn, MODES[mode].get("cipher"), f"{next(_examples)}")

            async def play() -> None:
                for operation in operations:
                    await world.do(operation)
                for thread in THREADS:
                    await world.check(Check(thread, 1))
                    found = reached(conn, world.cipher, world.name(thread))
                    assert found <= present(conn, world.name(thread))
                    seen["chunks"] += len(found)
                    seen["nodes"] += count_nodes(conn, world.name(thread))
                    await world.prune(Prune(thread, 0, 1))
                    await world.check(Check(thread, 2))
                    await world.delete(Delete(thread, 1))

            runner.run(play())

        try:
            example()
        finally:
            runner.run(stack.aclose())
    assert min(seen.values()) > 50  # the lists were long enough to tell anything
