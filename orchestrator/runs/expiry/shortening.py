"""Shortening threads: all but the last checkpoints of runs that have been over for long enough are forgotten.

Only threads on which no run goes on or rests are shortened, and none from whose checkpoints a fork is to begin. The
checkpoints of a run that is to be kept longer stay all.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from psycopg.rows import DictRow

from checkpointer.postgres.pool import Connection
from checkpointer.postgres.retention import Freed
from checkpointer.postgres.retention_held import Shortening, hold, shorten, would_shorten
from orchestrator.keeping import KeepClass, KeepFor
from orchestrator.runs.expiry.database import Database
from orchestrator.runs.expiry.removal import Place

__all__ = ["PAGE", "bare_threads", "long_threads", "shorten_bare", "shorten_thread"]

PAGE = 100


async def long_threads(
    db: Database, kind: KeepClass, after: Place | None, keep_last: int, since: datetime | None
) -> list[DictRow]:
    """Runs of a class, those that were over first, whose threads may be shortened."""
    return await db.ask(
        "long_threads",
        status=kind.status,
        workflow=kind.workflow,
        others_than=list(kind.others_than),
        keep_s=kind.seconds,
        after_time=after and after[0],
        after_id=after and after[1],
        keep_last=keep_last,
        since=since,
        limit=PAGE,
    )


async def shorten_thread(
    db: Database, row: DictRow, keep: KeepFor, keep_last: int, *, at_most: int, dry: bool = False
) -> tuple[Freed, bool]:
    """Forget some of the checkpoints of a thread of runs; whether there are more."""

    async def work(conn: Connection) -> tuple[Freed, bool]:
        if not dry and not await hold(conn, db.schema, [row["thread"]]):
            return Freed(), False
        ids = {"organization_id": row["organization_id"], "thread_id": row["thread_id"]}
        runs = await db.rows(conn, "runs_of_thread", **ids)
        if any(run["is_forked"] or not run["is_over"] for run in runs):
            return Freed(), False
        what = Shortening(row["thread"], keep_last, _kept(runs, keep))
        if dry:
            return await would_shorten(conn, db.schema, what), False
        return await shorten(conn, db.schema, db.cipher, what, at_most=at_most)

    return await db.transaction("shortening a thread", work)


def _kept(runs: Sequence[DictRow], keep: KeepFor) -> set[str]:
    """The runs whose checkpoints are kept all."""
    kept = set()
    for run in runs:
        seconds = keep.seconds(run["workflow_type"], run["status"])
        if seconds is None or run["over_for_s"] < seconds:
            kept.add(run["run_id"])
    return kept


async def bare_threads(db: Database, after: str, keep_last: int, unused_s: float | None) -> list[str]:
    """Threads that no run is on, and that have more checkpoints than are to stay."""
    found = await db.ask("threads_without_runs", after=after, keep_last=keep_last, unused_s=unused_s, limit=PAGE)
    return [row["thread"] for row in found]


async def shorten_bare(
    db: Database, thread_id: str, keep_last: int, *, at_most: int, dry: bool = False
) -> tuple[Freed, bool]:
    """Forget some of the checkpoints of a thread that no run is on; whether there are more."""

    async def work(conn: Connection) -> tuple[Freed, bool]:
        if not dry and not await hold(conn, db.schema, [thread_id]):
            return Freed(), False
        if not await db.rows(conn, "without_runs", threads=[thread_id]):
            return Freed(), False
        what = Shortening(thread_id, keep_last)
        if dry:
            return await would_shorten(conn, db.schema, what), False
        return await shorten(conn, db.schema, db.cipher, what, at_most=at_most)

    return await db.transaction("shortening a thread", work)
