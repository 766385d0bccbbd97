"""Forgetting threads beside live load, in small transactions.

The caller opens a transaction (READ COMMITTED) and `hold`s the threads: it has the rows of their fences until it
commits. Whoever would take a thread over (a claim of a run) waits for that, and a fenced write of the thread does not
commit meanwhile. So what the caller looks at after that, such as whether a run is on the thread, stays so until it
commits. Threads that somebody else has at this moment are left out, so that several processes share the work.

- `shorten` forgets old checkpoints, a bounded number at a time. The last of each namespace stays whatever is asked, and
  so does what it needs (`retention.py`): cut off at any point, what is left loads as before.
- `forget` forgets threads altogether. Their fences stay, raised and with the time noted, so that a late writer is
  refused; whoever knows that a thread is not in use any more deletes them when they are old enough.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from checkpointer.postgres.pool import Connection
from checkpointer.postgres.queries import load_queries
from checkpointer.postgres.retention import Freed, Outline, rows_of, sweep_measured
from checkpointer.serde import Cipher

__all__ = [
    "OWNED_TABLES",
    "Shortening",
    "TableSize",
    "forget",
    "hold",
    "measure",
    "orphaned",
    "shorten",
    "table_sizes",
    "without_checkpoints",
    "would_shorten",
]

OWNED_TABLES = ("checkpoint_blobs", "checkpoint_writes", "checkpoint_chunks")


@dataclass(frozen=True, slots=True)
class Shortening:
    """What of a thread goes: all but the last `keep_last` checkpoints of each namespace, and those of `kept_runs`.

    With `only_runs`, only checkpoints that these runs saved.
    """

    thread_id: str
    keep_last: int = 1
    kept_runs: Collection[str] = ()
    only_runs: Collection[str] | None = None

    def kept(self, outline: Outline) -> set[tuple[str, str]]:
        """The checkpoints that stay, without what they need."""
        stays = {key for key, row in outline.checkpoints.items() if self._is_kept(row["run_id"])}
        return stays | outline.latest(max(1, self.keep_last))

    def _is_kept(self, run_id: str | None) -> bool:
        return run_id not in self.only_runs if self.only_runs is not None else run_id in self.kept_runs


@dataclass(frozen=True, slots=True)
class TableSize:
    """A table on disk. `dead_rows` is what the statistics say VACUUM would give back for reuse."""

    name: str
    bytes: int
    total_bytes: int
    live_rows: int
    dead_rows: int = field(default=0)


async def hold(conn: Connection, schema: str, thread_ids: Sequence[str]) -> set[str]:
    """Keep others from taking threads over until the transaction ends; gives those that could be had at once."""
    queries = load_queries("checkpointer.postgres", schema)
    await conn.execute(queries["make_fences"].encode(), {"threads": list(thread_ids)}, prepare=False)
    rows = await rows_of(conn, queries["hold_threads"], threads=list(thread_ids))
    return {row["thread_id"] for row in rows}


async def shorten(
    conn: Connection, schema: str, cipher: Cipher | None, what: Shortening, *, at_most: int
) -> tuple[Freed, bool]:
    """Forget at most that many checkpoints of a held thread; gives what went, and whether there is more."""
    outline = await Outline.read(conn, schema, what.thread_id)
    freed = await outline.forget_all_but(what.kept(outline), at_most=at_most)
    if freed.rows.get("checkpoints", 0) >= at_most:
        return freed, True
    # Not only where something went: a process may have been cut off before it came to the chunks.
    return freed + await sweep_measured(conn, schema, cipher, what.thread_id), False


async def would_shorten(conn: Connection, schema: str, what: Shortening) -> Freed:
    """What `shorten` would forget in the end, but for values and chunks."""
    query = load_queries("checkpointer.postgres", schema)["measure_checkpoints"]
    outline = await Outline.read(conn, schema, what.thread_id)
    freed = Freed()
    for namespace, ids in (await outline.forgettable(what.kept(outline))).items():
        freed += Freed.of(await rows_of(conn, query, thread=what.thread_id, namespace=namespace, ids=ids))
    return freed


async def forget(conn: Connection, schema: str, thread_ids: Sequence[str]) -> Freed:
    """Delete everything that held threads saved."""
    query = load_queries("checkpointer.postgres", schema)["forget_threads"]
    return Freed.of(await rows_of(conn, query, threads=list(thread_ids)))


async def measure(conn: Connection, schema: str, thread_ids: Sequence[str]) -> Freed:
    """What `forget` would delete."""
    query = load_queries("checkpointer.postgres", schema)["measure_threads"]
    return Freed.of(await rows_of(conn, query, threads=list(thread_ids)))


async def orphaned(
    conn: Connection, schema: str, table: str, *, after: str, limit: int = 1000
) -> tuple[list[str], str | None]:
    """Threads that have rows in the table and no checkpoint, of the next `limit` threads, and where to go on."""
    if table not in OWNED_TABLES:
        raise ValueError(f"table={table!r}: takes one of {', '.join(OWNED_TABLES)}")
    query = load_queries("checkpointer.postgres", schema)["orphaned_threads"].replace("{table}", table)
    rows = await rows_of(conn, query, after=after, limit=limit)
    found = [row["thread_id"] for row in rows if row["orphaned"]]
    return found, rows[-1]["thread_id"] if len(rows) == limit else None


async def without_checkpoints(conn: Connection, schema: str, thread_ids: Sequence[str]) -> list[str]:
    """Of held threads those that have no checkpoint."""
    query = load_queries("checkpointer.postgres", schema)["without_checkpoints"]
    return [row["thread_id"] for row in await rows_of(conn, query, threads=list(thread_ids))]


async def table_sizes(conn: Connection, schema: str) -> list[TableSize]:
    """The sizes of every table in the schema. Needs no privilege on them."""
    query = load_queries("checkpointer.postgres", schema)["table_sizes"]
    rows: list[Mapping[str, Any]] = list(await rows_of(conn, query, schema=schema))
    return [TableSize(**row) for row in rows]
