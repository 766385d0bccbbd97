"""Removing runs that are over: their rows, and what their threads have saved.

A page is one transaction: it locks runs that may go, holds their threads (`checkpointer.postgres.retention_held`),
looks again whether they may go, now that no run can begin there, and deletes. A run goes with its own checkpoints. The
state of its thread, its last checkpoint and what that needs, goes with the last of the thread's runs.

A thread with a great many checkpoints is shortened first, in transactions of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from psycopg.rows import DictRow

from checkpointer.postgres.pool import Connection
from checkpointer.postgres.retention import Freed
from checkpointer.postgres.retention_held import Shortening, forget, hold, measure, shorten, would_shorten
from orchestrator.keeping import KeepClass
from orchestrator.runs.expiry.database import Database

__all__ = ["MANY_CHECKPOINTS", "Page", "Place", "measure_page", "remove_page", "shorten_run"]

_PAGE_RUNS = 100
# Checkpoints that one transaction deletes, more or less.
_PAGE_CHECKPOINTS = 2_000
MANY_CHECKPOINTS = 500

Place: TypeAlias = "tuple[datetime, str]"


@dataclass(frozen=True, slots=True)
class Page:
    """What one transaction did: runs by their workflow and what went, and where the next one begins.

    `threads` are those that go altogether, where it was only measured.
    """

    runs: Mapping[str, int] = field(default_factory=dict)
    freed: Freed = field(default_factory=Freed)
    by_workflow: Mapping[str, Freed] = field(default_factory=dict)
    threads: Collection[str] = ()
    after: Place | None = None
    is_last: bool = True
    too_long: DictRow | None = None


async def remove_page(db: Database, kind: KeepClass, after: Place | None, shortened: Collection[str]) -> Page:
    """Remove some runs of a class that come after a place; `too_long` is one to be shortened before."""

    async def remove(conn: Connection) -> Page:
        found = await db.rows(conn, "expired_runs", **_params(kind, after))
        chosen = _affordable(found, shortened)
        if not chosen:
            return Page(after=after, is_last=not found, too_long=found[0] if found else None)
        held = await hold(conn, db.schema, sorted({row["thread"] for row in chosen}))
        ids = [row["run_id"] for row in chosen if row["thread"] in held]
        freed, counts = await _remove(db, conn, ids)
        return Page(counts, freed, after=_place(chosen[-1]), is_last=_is_last(found, chosen))

    return await db.transaction("removing runs", remove)


async def _remove(db: Database, conn: Connection, run_ids: Sequence[str]) -> tuple[Freed, Mapping[str, int]]:
    judged = await db.rows(conn, "judge_runs", run_ids=list(run_ids))
    if not judged:
        return Freed(), {}
    whole = {row["thread"] for row in judged} - {row["thread"] for row in judged if not row["alone"]}
    freed = await forget(conn, db.schema, sorted(whole)) if whole else Freed()
    for thread, going in _by_thread(judged).items():
        if thread not in whole:
            what = Shortening(thread, only_runs=going)
            freed += (await shorten(conn, db.schema, db.cipher, what, at_most=2 * _PAGE_CHECKPOINTS))[0]
    ids = [row["run_id"] for row in judged]
    freed += Freed.of(await db.rows(conn, "delete_runs", run_ids=ids))
    return freed, Counter(row["workflow_type"] for row in judged)


async def shorten_run(db: Database, row: DictRow, *, at_most: int) -> tuple[Freed, bool]:
    """Forget some checkpoints of a run that is to go, but for its thread's last; whether there are more."""

    async def work(conn: Connection) -> tuple[Freed, bool]:
        if not await hold(conn, db.schema, [row["thread"]]):
            return Freed(), False
        if not await db.rows(conn, "judge_runs", run_ids=[row["run_id"]]):
            return Freed(), False
        what = Shortening(row["thread"], only_runs=[row["run_id"]])
        return await shorten(conn, db.schema, db.cipher, what, at_most=at_most)

    return await db.transaction("shortening a thread", work)


async def measure_page(db: Database, kind: KeepClass, after: Place | None) -> Page:
    """What `remove_page` would remove, by workflow. Changes and locks nothing."""

    async def look(conn: Connection) -> Page:
        found = await db.rows(conn, "expired_runs_seen", **_params(kind, after))
        if not found:
            return Page(after=after)
        judged = await db.rows(conn, "judge_runs", run_ids=[row["run_id"] for row in found])
        by_workflow: dict[str, Freed] = {}
        for workflow in sorted({row["workflow_type"] for row in judged}):
            rows = [row for row in judged if row["workflow_type"] == workflow]
            by_workflow[workflow] = await _measure(db, conn, rows)
        runs = Counter(row["workflow_type"] for row in judged)
        total = sum(by_workflow.values(), Freed())
        whole = {row["thread"] for row in judged if row["alone"]}
        return Page(runs, total, by_workflow, whole, _place(found[-1]), _is_last(found, found))

    return await db.transaction("measuring runs", look)


async def _measure(db: Database, conn: Connection, judged: Sequence[DictRow]) -> Freed:
    whole = sorted({row["thread"] for row in judged if row["alone"]})
    freed = await measure(conn, db.schema, whole) if whole else Freed()
    for thread, going in _by_thread(judged).items():
        if thread not in whole:
            freed += await would_shorten(conn, db.schema, Shortening(thread, only_runs=going))
    return freed + Freed.of(await db.rows(conn, "measure_runs", run_ids=[row["run_id"] for row in judged]))


def _affordable(found: Sequence[DictRow], shortened: Collection[str]) -> list[DictRow]:
    """The first of the runs, as many as one transaction may remove."""
    chosen: list[DictRow] = []
    total = 0
    for row in found:
        size = 0 if row["run_id"] in shortened else row["checkpoints"]
        total += size
        if size >= MANY_CHECKPOINTS or (chosen and total > _PAGE_CHECKPOINTS):
            break
        chosen.append(row)
    return chosen


def _by_thread(judged: Sequence[DictRow]) -> dict[str, list[str]]:
    going: dict[str, list[str]] = {}
    for row in judged:
        going.setdefault(row["thread"], []).append(row["run_id"])
    return going


def _place(row: DictRow) -> Place:
    return row["completed_at"], row["run_id"]


def _is_last(found: Sequence[DictRow], chosen: Sequence[DictRow]) -> bool:
    return len(found) < _PAGE_RUNS and len(chosen) == len(found)


def _params(kind: KeepClass, after: Place | None) -> dict[str, Any]:
    return {
        "status": kind.status,
        "workflow": kind.workflow,
        "others_than": list(kind.others_than),
        "keep_s": kind.seconds,
        "after_time": after and after[0],
        "after_id": after and after[1],
        "limit": _PAGE_RUNS,
        "count_to": MANY_CHECKPOINTS,
    }
