"""Whatever is done in whatever order, the answers are InMemorySaver's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver

from checkpointer import PooledPostgresSaver, open_postgres_saver
from checkpointer.postgres.batching import Limits
from checkpointer.serde import AllowListSerializer, Cipher, CompressedSerializer
from tests.checkpoints import at

THREADS = ("a", "b", "c")
NAMESPACES = ("", "inner", "call:1")
CHANNELS = ("x", "y", "z", "__start__")

text = st.text(st.characters(codec="utf-8"), max_size=8)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
values = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    text,
    st.binary(max_size=8),
    st.lists(numbers | text, max_size=3),
    st.dictionaries(text, numbers | text | st.none(), max_size=2),
    text.map(lambda content: AIMessage(content=content, id="1")),
    st.just(["long"] * 500),
)


@dataclass(frozen=True)
class Put:
    """A new checkpoint on a place, or on an earlier one; or the latest again, with other content."""

    thread: str
    namespace: str
    changes: dict[str, Any]
    dropped: list[str]
    step: int
    parent: int | None
    again: bool


@dataclass(frozen=True)
class Write:
    thread: str
    namespace: str
    nth: int
    writes: list[tuple[str, Any]]
    task: str
    path: str


@dataclass(frozen=True)
class Get:
    thread: str
    namespace: str
    nth: int | None


@dataclass(frozen=True)
class Listing:
    thread: str
    namespace: str | None
    step: int | None
    before: int | None
    limit: int | None


@dataclass(frozen=True)
class Copy:
    thread: str
    target: str


@dataclass(frozen=True)
class Delete:
    thread: str


threads, namespaces = st.sampled_from(THREADS), st.sampled_from(NAMESPACES)
nth = st.integers(0, 5)
puts = st.builds(
    Put,
    threads,
    namespaces,
    st.dictionaries(st.sampled_from(CHANNELS), values, max_size=3),
    st.lists(st.sampled_from(CHANNELS), max_size=1),
    st.integers(0, 2),
    st.none() | nth,
    st.sampled_from([False, False, False, True]),
)
writes = st.builds(
    Write,
    threads,
    namespaces,
    nth,
    st.lists(st.tuples(st.sampled_from((*CHANNELS, "__error__", "__interrupt__", "__resume__")), values), max_size=3),
    st.sampled_from(("task 1", "task 2")),
    st.sampled_from(("", "~__pregel_pull, x", "~__pregel_push, 1")),
)
gets = st.builds(Get, threads, namespaces, st.none() | nth)
listings = st.builds(
    Listing,
    threads,
    st.none() | namespaces,
    st.none() | st.integers(0, 2),
    st.none() | nth,
    st.none() | st.integers(0, 3),
)
operations = st.lists(
    puts | puts | writes | gets | listings | st.builds(Copy, threads, threads) | st.builds(Delete, threads),
    min_size=5,
    max_size=30,
)


@dataclass
class World:
    """The two savers, and what was put where, so that an operation can name it."""

    ours: PooledPostgresSaver
    model: InMemorySaver
    prefix: str
    made: dict[tuple[str, str], list[Checkpoint]] = field(default_factory=dict)
    version: Any = field(default_factory=lambda: count(1))

    def name(self, thread: str) -> str:
        return f"{self.prefix}-{thread}"

    def known(self, thread: str, namespace: str, number: int | None) -> str | None:
        """The id of the nth checkpoint of a place, counted round; None where there is none."""
        made = self.made.get((thread, namespace))
        return made[number % len(made)]["id"] if made and number is not None else None

    async def both(self, ask: Callable[[BaseCheckpointSaver[Any]], Awaitable[Any]]) -> None:
        savers: tuple[BaseCheckpointSaver[Any], ...] = self.ours, self.model
        mine, expected = [await ask(saver) for saver in savers]
        assert mine == expected

    async def do(self, operation: Any) -> None:
        await getattr(self, type(operation).__name__.lower())(operation)

    async def put(self, put: Put) -> None:
        made = self.made.setdefault((put.thread, put.namespace), [])
        base = made[(put.parent or 0) % len(made)] if made else None
        new = empty_checkpoint()
        old_values = dict(base["channel_values"]) if base else {}
        versions = dict(base["channel_versions"]) if base else {}
        changed = {name: f"{next(self.version):08}.5" for name in (*put.changes, *put.dropped)}
        if put.again and base is not None:
            new["id"] = base["id"]
        else:
            made.append(new)
        new["channel_values"] = {**{k: v for k, v in old_values.items() if k not in put.dropped}, **put.changes}
        new["channel_versions"] = {**versions, **changed}
        config = at(self.name(put.thread), base["id"] if base and not put.again else None, ns=put.namespace)
        about: Any = {"step": put.step, "source": "loop"}
        await self.both(lambda saver: saver.aput(config, deepcopy(new), about, dict(changed)))

    async def write(self, write: Write) -> None:
        checkpoint_id = self.known(write.thread, write.namespace, write.nth)
        if checkpoint_id is not None:
            config = at(self.name(write.thread), checkpoint_id, ns=write.namespace)
            await self.both(lambda saver: saver.aput_writes(config, write.writes, write.task, write.path))

    async def get(self, get: Get) -> None:
        config = at(self.name(get.thread), self.known(get.thread, get.namespace, get.nth), ns=get.namespace)

        async def ask(saver: BaseCheckpointSaver[Any]) -> Any:
            return shown(await saver.aget_tuple(config))

        await self.both(ask)

    async def listing(self, listing: Listing) -> None:
        ids: dict[str, Any] = {"thread_id": self.name(listing.thread)}
        if listing.namespace is not None:
            ids["checkpoint_ns"] = listing.namespace
        before_id = self.known(listing.thread, listing.namespace or "", listing.before)
        question: dict[str, Any] = {
            "filter": None if listing.step is None else {"step": listing.step},
            "before": at(self.name(listing.thread), before_id) if before_id else None,
            # over several namespaces the order is each saver's own
            "limit": None if listing.namespace is None else listing.limit,
        }

        async def ask(saver: BaseCheckpointSaver[Any]) -> Any:
            found = [shown(one) async for one in saver.alist({"configurable": ids}, **question)]
            return found if listing.namespace is not None else sorted(found, key=repr)

        await self.both(ask)

    async def copy(self, copy: Copy) -> None:
        source, target = self.name(copy.thread), self.name(copy.target)
        await self.ours.acopy_thread(source, target)
        copy_in_memory(self.model, source, target)
        for (thread, namespace), made in list(self.made.items()):
            if thread == copy.thread != copy.target:
                known = self.made.setdefault((copy.target, namespace), [])
                fresh = {one["id"]: one for one in made}
                known[:] = [fresh.pop(one["id"], one) for one in known]
                known.extend(fresh.values())

    async def delete(self, delete: Delete) -> None:
        await self.both(lambda saver: saver.adelete_thread(self.name(delete.thread)))
        for place in list(self.made):
            if place[0] == delete.thread:
                del self.made[place]


def shown(found: CheckpointTuple | None) -> Any:
    """What is compared of a tuple; the memory saver gives back the config it was asked with."""
    if found is None:
        return None
    ids = found.config["configurable"]
    place = ids["thread_id"], ids["checkpoint_ns"], ids["checkpoint_id"]
    content = exactly([found.checkpoint, found.pending_writes])
    return place, content, found.metadata, found.parent_config


def exactly(value: Any) -> Any:
    """A value that equals only what has the same types all through: 1 is not 1.0, nor True, and 0.0 is not -0.0."""
    if isinstance(value, dict):
        return {name: exactly(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [exactly(item) for item in value]
    return type(value), repr(value)


def copy_in_memory(model: InMemorySaver, source: str, target: str) -> None:
    """What InMemorySaver has no method for."""
    for namespace, saved in list(model.storage[source].items()):
        model.storage[target][namespace].update(saved)
    for thread, *place in list(model.blobs):
        if thread == source:
            model.blobs[(target, *place)] = model.blobs[(thread, *place)]  # type: ignore[index]
    for thread, *where in list(model.writes):
        if thread == source:
            model.writes[(target, *where)].update(model.writes[(thread, *where)])  # type: ignore[index]


def rounds(operations: Sequence[Any]) -> list[list[Any]]:
    """Cut into runs of operations on different threads: those go at the same time, and still have one outcome."""
    found: list[list[Any]] = [[]]
    busy: set[str] = set()
    for operation in operations:
        touched = {operation.thread, getattr(operation, "target", operation.thread)}
        if touched & busy:
            found.append([])
            busy = set()
        found[-1].append(operation)
        busy |= touched
    return found


MODES: dict[str, dict[str, Any]] = {
    "as usual": {},
    "encrypted": {"serde": CompressedSerializer(threshold=1), "cipher": Cipher([("one", bytes(range(32)))])},
    "one save a batch": {"serde": AllowListSerializer(), "limits": Limits(batch_items=1), "writers": 4, "readers": 2},
}
_examples = count()


@pytest.mark.parametrize("mode", MODES)
def test_the_answers_are_those_of_the_memory_saver(postgres_dsn: str, mode: str) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        saver = runner.run(stack.enter_async_context(open_postgres_saver(postgres_dsn, **MODES[mode])))

        @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(operations)
        def example(operations: list[Any]) -> None:
            world = World(saver, InMemorySaver(serde=AllowListSerializer()), f"{next(_examples)}")

            async def play() -> None:
                for together in rounds(operations):
                    await asyncio.gather(*(world.do(operation) for operation in together))
                for thread in THREADS:
                    await world.listing(Listing(thread, None, None, None, None))

            runner.run(play())

        try:
            example()
        finally:
            runner.run(stack.aclose())
