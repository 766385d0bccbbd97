"""Runs that leave PostgreSQL: marked in one transaction, then read as they were committed.

    unfinished, driven by anyone ──leave──► marked (left_at): a resting or pending row that nothing here touches
         ▲                                        │
         └────────── arrived, or reclaimed ───────┘

1. Marking takes runs from their workers and raises the fences of their threads, in the statement that marks them. So
   whoever still drives one can write neither its row nor its checkpoints, and what is read afterwards stands still.
2. The mark outlives everything: a process that is killed before, in or after writing the file has lost nothing, and
   the same command writes the same runs again.
3. `moves` counts how often a run left. Only what was written at its last leaving brings it back (`arriving.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

import psycopg
from psycopg import IsolationLevel
from psycopg.rows import DictRow, dict_row

from checkpointer.postgres.pool import Connection, connection_options
from checkpointer.postgres.queries import load_queries
from checkpointer.postgres.retry import ride_out
from checkpointer.postgres.saver import PooledPostgresSaver
from orchestrator.errors import MoveError
from orchestrator.runs.carried import CarriedHook, CarriedRun
from orchestrator.runs.postgres_steps import step_of
from orchestrator.runs.rows import activity_of, events_of, hook_of, run_of, signal_of
from orchestrator.runs.sender import Sender, translated

__all__ = [
    "QUERIES",
    "Going",
    "Stay",
    "could_go",
    "count_going",
    "exclusive",
    "going",
    "in_transaction",
    "leave",
    "marks",
    "moves_sender",
]

T = TypeVar("T")
QUERIES = "orchestrator.moves"
# A move waits out a restart of the server; nobody at a screen waits for less.
_PATIENCE_S = 60.0
_PAGE_THREADS = 500


@dataclass(frozen=True, slots=True)
class Stay:
    """A run that is marked but not carried: the documents of its batch are in PostgreSQL."""

    run_id: str
    moves: int


@dataclass(frozen=True, slots=True)
class Going:
    """A thread's runs that are to be written, oldest first, and those of them that stay."""

    thread_id: str
    runs: Sequence[CarriedRun]
    stays: Sequence[Stay]


def moves_sender(saver: PooledPostgresSaver) -> Sender:
    """What sends the statements of moves to where the saver's tables are."""
    return Sender(saver.pool, saver.schema, load_queries(QUERIES, saver.schema))


async def in_transaction(sender: Sender, operation: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    """What `work` returns, done in one transaction, again where the server was at fault.

    Raises `DatabaseUnavailableError` and what `work` raises.
    """

    async def attempt() -> T:
        async with sender.pool.connection() as conn, conn.transaction():
            return await work(conn)

    return await translated(ride_out(operation, attempt, for_s=_PATIENCE_S))


@asynccontextmanager
async def exclusive(conninfo: str, schema: str) -> AsyncIterator[None]:
    """Keep other exports, imports and reclaims of the schema away, by a lock that dies with this process.

    `conninfo` must not be a transaction pooler's. Raises `MoveError` where another one is under way.
    """
    statement = load_queries(QUERIES, schema)["hold_moves_lock"].encode()
    options = connection_options(prepare_threshold=None, row_factory=dict_row, connect_timeout=10)
    async with await psycopg.AsyncConnection[DictRow].connect(conninfo, **options) as conn:
        row = await (await conn.execute(statement, {"schema": schema})).fetchone()
        if row is None or not row["held"]:
            raise MoveError("another export, import or reclaim of these runs is under way: wait until it is done")
        yield


async def leave(sender: Sender) -> dict[str, int]:
    """Mark every unfinished run as left and lock its worker out; returns state before → how many."""

    async def mark(conn: Connection) -> dict[str, int]:
        rows = await sender.rows(conn, "leave", {})
        driven = [run_id for row in rows for run_id in row["driven"]]
        if driven:
            await sender.rows(conn, "tell_asked", {"run_ids": driven})
        return {row["was"]: row["runs"] for row in rows}

    return await in_transaction(sender, "marking runs", mark)


async def could_go(sender: Sender) -> dict[str, int]:
    """How many runs an export would take along; state → how many."""

    async def count(conn: Connection) -> dict[str, int]:
        return {row["status"]: row["runs"] for row in await sender.rows(conn, "could_go", {})}

    return await in_transaction(sender, "counting runs", count)


async def marks(sender: Sender) -> dict[str, int]:
    """Every run that is marked as left: its id → how often it has left."""

    async def read(conn: Connection) -> dict[str, int]:
        return {str(row["run_id"]): row["moves"] for row in await sender.rows(conn, "marks", {})}

    return await in_transaction(sender, "reading marks", read)


async def count_going(sender: Sender, *, left: bool) -> tuple[int, int]:
    """How many runs an export writes, and how many unfinished ones it can't: their checkpoints are elsewhere."""

    async def count(conn: Connection) -> tuple[int, int]:
        [written] = await sender.rows(conn, "count_going", {"left": left})
        [elsewhere] = await sender.rows(conn, "kept_elsewhere", {})
        return written["runs"], elsewhere["runs"]

    return await in_transaction(sender, "counting runs", count)


async def going(sender: Sender, *, left: bool) -> AsyncIterator[list[Going]]:
    """The unfinished runs as of one moment, by thread, a page of threads at a time: those marked, or those not."""
    async with sender.pool.connection() as conn:
        await conn.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await conn.set_read_only(True)
        try:
            async with conn.transaction():
                after = ""
                while threads := await _next_threads(sender, conn, left, after):
                    yield await _page(sender, conn, left, threads)
                    after = threads[-1]
        finally:
            await conn.set_isolation_level(None)
            await conn.set_read_only(None)


async def _next_threads(sender: Sender, conn: Connection, left: bool, after: str) -> list[str]:
    rows = await sender.rows(conn, "page_of_threads", {"left": left, "after": after, "limit": _PAGE_THREADS})
    return [row["checkpoint_thread"] for row in rows]


async def _page(sender: Sender, conn: Connection, left: bool, threads: Sequence[str]) -> list[Going]:
    rows = await sender.rows(conn, "runs_of_threads", {"left": left, "threads": list(threads)})
    ids = [row["run_id"] for row in rows if not row["stays"]]
    parts = {
        name: _by_run(await sender.rows(conn, name, {"run_ids": ids}))
        for name in ("signals_of", "hooks_of", "steps_of", "activities_of", "events_of")
    }
    return [
        Going(
            thread_id,
            [_carried(row, parts) for row in of_thread if not row["stays"]],
            [Stay(str(row["run_id"]), row["moves"]) for row in of_thread if row["stays"]],
        )
        for thread_id, group in groupby(rows, key=lambda row: str(row["checkpoint_thread"]))
        for of_thread in [list(group)]
    ]


def _by_run(rows: Sequence[DictRow]) -> dict[Any, list[DictRow]]:
    return {run_id: list(group) for run_id, group in groupby(rows, key=lambda row: row["run_id"])}


def _carried(row: DictRow, parts: Mapping[str, Mapping[Any, Sequence[DictRow]]]) -> CarriedRun:
    run = run_of(row)

    def part(name: str) -> Sequence[DictRow]:
        return parts[name].get(row["run_id"], ())

    return CarriedRun(
        run=run,
        moves=row["moves"],
        awaits_children=row["awaits_children"],
        signals=[signal_of({**each, "run_id": run.run_id}) for each in part("signals_of")],
        hooks=[CarriedHook(hook_of(each), each["key"], each["uses"]) for each in part("hooks_of")],
        steps=[step_of(each) for each in part("steps_of")],
        activities=[activity_of(each) for each in part("activities_of")],
        events=[event for each in part("events_of") for event in events_of(run.run_id, each)],
    )
