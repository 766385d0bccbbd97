"""Long threads under measurement: each contender's conversation, what it takes on disk, and how long calls take."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal

import psycopg
from langchain_core.messages import BaseMessage

from checkpointer import PooledPostgresSaver, open_postgres_saver
from checkpointer.serde import AllowListSerializer, CompressedSerializer
from tests.bench.contenders import Saver, open_ours, open_stock
from tests.bench.conversation import Conversation
from tests.bench.workloads import metadata_of
from tests.postgres import fresh_database

__all__ = ["LABELS", "TABLES", "LongThread", "State", "grown", "open_threads", "sample_calls"]

LABELS = {
    "stock": "AsyncPostgresSaver",
    "whole": "ours, whole",
    "shared": "ours, shared",
    "retained": "ours, shared, last 20 kept",
}
TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes", "checkpoint_chunks")
_KEEP = 20
_PRUNED_EVERY = 20


@dataclass
class State:
    """A contender's thread at one length: bytes by table, WAL bytes since it began, seconds of calls by round."""

    turns: int
    tables: dict[str, int]
    wal: int
    saves: list[list[float]] = field(default_factory=list)
    loads: list[list[float]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Tables and indexes."""
        return sum(self.tables.values())


@dataclass
class LongThread:
    """One contender. `conversation` grows through a saver of its own, which need not be as quick as `saver`."""

    name: str
    dsn: str
    saver: Saver
    conversation: Conversation
    wal: int = 0
    samples: int = 0
    sampled: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TABLES, 0))

    async def grow(self, turns: int) -> None:
        """Add turns until there are so many, and count the WAL that it takes."""
        before = await self._wal_position()
        while self.conversation.turns < turns:
            await self.conversation.turn()
            if self.name == "retained" and self.conversation.turns % _PRUNED_EVERY == 0:
                await self._prune()
        self.wal += await self._wal_position() - before

    async def _prune(self) -> None:
        """Forget old checkpoints, then do at once what autovacuum would do within a minute."""
        saver = self.conversation.saver
        if not isinstance(saver, PooledPostgresSaver):
            raise TypeError(f"{type(saver).__name__} can't keep the last {_KEEP}")
        await saver.aprune([self.conversation.thread_id], strategy="keep_last", keep_last=_KEEP)
        await self._execute("VACUUM")

    async def state(self) -> State:
        """The thread as it is, vacuumed; without what `sample_calls` saved."""
        await self._execute("VACUUM ANALYZE")
        tables = {table: size - self.sampled[table] for table, size in (await self._sizes()).items()}
        return State(self.conversation.turns, tables, self.wal)

    async def sample(self, state: State, number: int) -> None:
        """Save a checkpoint with one more message than the conversation has, and load it as the thread's latest."""
        conversation = self.conversation
        config, checkpoint, new = conversation.one_more(number)
        begun = perf_counter()
        await self.saver.aput(config, checkpoint, metadata_of(number), new)
        saved = perf_counter()
        found = await self.saver.aget_tuple(conversation.latest)
        loaded = perf_counter()
        state.saves[-1].append(saved - begun)
        state.loads[-1].append(loaded - saved)
        values = found.checkpoint["channel_values"] if found is not None else {}
        if values.get("messages") != checkpoint["channel_values"]["messages"]:
            raise AssertionError(f"{self.name} did not load what it had saved")

    async def leave_out(self, state: State) -> None:
        """Have what was saved since `state` not count; with retention it goes with the next pruning."""
        if self.name != "retained":
            sizes = await self._sizes()
            self.sampled = {table: size - state.tables[table] for table, size in sizes.items()}

    async def _sizes(self) -> dict[str, int]:
        """Bytes of each table with its indexes and TOAST."""
        query = (
            "SELECT relname, pg_total_relation_size(oid) FROM pg_class "
            "WHERE relkind = 'r' AND relname = ANY(%s) AND relnamespace::regnamespace::text !~ '^pg_'"
        )
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as conn:
            found: dict[str, int] = dict(await (await conn.execute(query, (list(TABLES),))).fetchall())
        return {table: found.get(table, 0) for table in TABLES}

    async def _wal_position(self) -> int:
        return int(await self._execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))

    async def _execute(self, statement: str) -> Any:
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as conn:
            cursor = await conn.execute(statement.encode())
            row = await cursor.fetchone() if cursor.description else None
            return row[0] if row else None


async def grown(threads: Sequence[LongThread], turns: int) -> dict[str, State]:
    """Bring every thread to this length, one after the other: WAL belongs to the whole server."""
    states = {}
    for thread in threads:
        await thread.grow(turns)
        states[thread.name] = await thread.state()
    return states


async def sample_calls(threads: Sequence[LongThread], states: dict[str, State], *, rounds: int, samples: int) -> None:
    """Time single calls, the contenders taking turns, call by call."""
    for thread in threads:
        states[thread.name].saves, states[thread.name].loads = [[]], [[]]
        for number in range(3):
            await thread.sample(states[thread.name], -1 - number)
        states[thread.name].saves, states[thread.name].loads = [], []
    gc.collect()
    for _ in range(rounds):
        for thread in threads:
            states[thread.name].saves.append([])
            states[thread.name].loads.append([])
        for number in range(samples):
            for turn in range(len(threads)):
                thread = threads[(number + turn) % len(threads)]
                thread.samples += 1
                await thread.sample(states[thread.name], thread.samples)
    for thread in threads:
        await thread.leave_out(states[thread.name])


@asynccontextmanager
async def open_threads(admin_dsn: str, names: Sequence[str]) -> AsyncIterator[list[LongThread]]:
    """Open the named contenders, each in a database of its own."""
    async with AsyncExitStack() as stack:
        threads = []
        for name in names:
            dsn = stack.enter_context(fresh_database(admin_dsn))
            saver = await stack.enter_async_context(_saver(name, dsn))
            grower = saver
            if name in ("shared", "retained"):
                serde = CompressedSerializer(_Remembering())
                grower = await stack.enter_async_context(open_postgres_saver(dsn, storage="shared", serde=serde))
            threads.append(LongThread(name, dsn, saver, Conversation(grower, "conversation")))
        yield threads


def _saver(name: str, dsn: str) -> AbstractAsyncContextManager[Saver]:
    if name == "stock":
        return open_stock(dsn)
    storage: Literal["whole", "shared"] = "whole" if name == "whole" else "shared"
    return open_ours(dsn, storage=storage)


class _Remembering(AllowListSerializer):
    """Serializes each message once: the same bytes, and a long conversation grows quicker. No call on it is timed."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[BaseMessage, tuple[str, bytes]]] = {}

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if not isinstance(obj, BaseMessage):
            return super().dumps_typed(obj)
        if id(obj) not in self._made:
            self._made[id(obj)] = obj, super().dumps_typed(obj)
        return self._made[id(obj)][1]
