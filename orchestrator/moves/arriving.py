"""Runs that arrive in PostgreSQL from a file: back where they left from, or new where they were begun elsewhere.

What a run's row here says decides, under its lock:

    no row                              the run is added
    marked, of the same move            the run comes back; what the file says of it replaces what is here
    marked, of a later move             the file is an old one: nothing is done
    not marked                          it is back already, or never left: nothing is done

So an import that is killed is simply run again. The checkpoints of a thread are put before its runs (as long as they
are marked, or not there, nobody drives them), and a row loses its mark in the transaction that writes all that belongs
to it. Runs of one thread arrive in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

import psycopg
from psycopg.types.json import Json as JsonParameter

from checkpointer.postgres.pool import Connection
from orchestrator.moves.leaving import Stay, in_transaction
from orchestrator.runs.carried import CarriedRun
from orchestrator.runs.events import Event
from orchestrator.runs.model import Run, RunStatus
from orchestrator.runs.rows import nullable
from orchestrator.runs.sender import Sender
from orchestrator.runs.steps import StepStatus

__all__ = ["Arrived", "Judged", "arrive", "judge", "marked", "reclaim"]

_EVENTS_TOGETHER = 100
_NOTICE_RUNS = 100
_TRIES = 5


@dataclass(slots=True)
class Arrived:
    """What became of the runs of a file. `back` and `new` go by state; lists are of ids.

    `threads` without runs were put too, and those that have `moved_on` in PostgreSQL were not.
    """

    back: dict[str, int] = field(default_factory=dict)
    new: dict[str, int] = field(default_factory=dict)
    here: int = 0
    outdated: int = 0
    stayed: int = 0
    threads: int = 0
    moved_on: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    without_key: list[str] = field(default_factory=list)

    def count(self, states: dict[str, int], run: Run) -> None:
        """Note a run under its state."""
        states[run.status] = states.get(run.status, 0) + 1


@dataclass(frozen=True, slots=True)
class Judged:
    """Which of some runs are to come back, are new, are here already, or are of an earlier move."""

    back: Sequence[CarriedRun]
    new: Sequence[CarriedRun]
    here: int
    outdated: int

    @property
    def coming(self) -> list[CarriedRun]:
        """Those that will be written."""
        return [*self.back, *self.new]


async def judge(sender: Sender, runs: Sequence[CarriedRun]) -> Judged:
    """What would become of the runs, as things are now."""

    async def look(conn: Connection) -> Judged:
        return await _judged(sender, conn, "marks_of", runs)

    return await in_transaction(sender, "comparing runs", look)


async def arrive(sender: Sender, runs: Sequence[CarriedRun], arrived: Arrived) -> None:
    """Write runs whose threads' checkpoints are here, all those of a thread together; notes in `arrived` what was done.

    Raises `DatabaseUnavailableError`.
    """

    async def write(conn: Connection) -> Arrived:
        return await _write(sender, conn, runs)

    for last in (False,) * (_TRIES - 1) + (True,):
        try:
            done = await in_transaction(sender, "bringing runs back", write)
        except psycopg.errors.UniqueViolation:
            # Another run of a thread was begun, or one with the same key made, in this moment: it is seen next time.
            if last:
                raise
            continue
        _add(arrived, done)
        return


async def _write(sender: Sender, conn: Connection, runs: Sequence[CarriedRun]) -> Arrived:
    judged = await _judged(sender, conn, "lock_marks", runs)
    arrived = Arrived(here=judged.here, outdated=judged.outdated)
    threads = sorted({each.run.checkpoint_thread_id for each in judged.coming})
    busy = {row["checkpoint_thread"] for row in await sender.rows(conn, "busy_threads", {"threads": threads})}
    free = [each for each in judged.coming if each.run.checkpoint_thread_id not in busy]
    arrived.busy = [each.run.run_id for each in judged.coming if each.run.checkpoint_thread_id in busy]
    if not free:
        return arrived
    taken = await _taken_keys(sender, conn, free)
    arrived.without_key = sorted(taken)
    free = [_without_key(each) if each.run.run_id in taken else each for each in free]
    raised = await sender.rows(conn, "raise_fences", {"threads": sorted({r.run.checkpoint_thread_id for r in free})})
    await _put(sender, conn, free, {row["thread_id"]: row["epoch"] for row in raised})
    back = {each.run.run_id for each in judged.back}
    for each in free:
        arrived.count(arrived.back if each.run.run_id in back else arrived.new, each.run)
    await sender.rows(conn, "tell", {"notices": list(_notices([each.run for each in free]))})
    return arrived


async def _judged(sender: Sender, conn: Connection, query: str, runs: Sequence[CarriedRun]) -> Judged:
    rows = await sender.rows(conn, query, {"run_ids": [each.run.run_id for each in runs]})
    known = {str(row["run_id"]): row for row in rows}
    back = [each for each in runs if _marked(known.get(each.run.run_id), each.moves)]
    new = [each for each in runs if each.run.run_id not in known]
    outdated = [
        each for each in runs if (row := known.get(each.run.run_id)) and row["left_at"] and row["moves"] != each.moves
    ]
    return Judged(back, new, len(runs) - len(back) - len(new) - len(outdated), len(outdated))


def _marked(row: Mapping[str, Any] | None, moves: int) -> bool:
    return row is not None and row["left_at"] is not None and row["moves"] == moves


async def _taken_keys(sender: Sender, conn: Connection, runs: Sequence[CarriedRun]) -> set[str]:
    keyed = [each.run for each in runs if each.run.idempotency_key is not None]
    if not keyed:
        return set()
    params = {
        "run_ids": [run.run_id for run in keyed],
        "organizations": [run.organization_id for run in keyed],
        "workflows": [run.workflow_type for run in keyed],
        "keys": [run.idempotency_key for run in keyed],
    }
    return {str(row["run_id"]) for row in await sender.rows(conn, "keys_taken", params)}


def _without_key(each: CarriedRun) -> CarriedRun:
    return replace(each, run=replace(each.run, idempotency_key=None))


async def _put(sender: Sender, conn: Connection, runs: Sequence[CarriedRun], epochs: Mapping[str, int]) -> None:
    await sender.rows(conn, "still_triggers", {})
    await sender.rows(conn, "forget_parts", {"run_ids": [each.run.run_id for each in runs]})
    rows: dict[str, Callable[[CarriedRun], Iterable[Mapping[str, Any]]]] = {
        "put_run": lambda each: [_run_row(each, epochs[each.run.checkpoint_thread_id])],
        "put_signal": lambda each: [
            _row(signal) | {"payload": JsonParameter(signal.payload)} for signal in each.signals
        ],
        "put_hook": lambda each: [_row(one.hook) | {"key": one.key, "uses": one.uses} for one in each.hooks],
        "put_step": lambda each: [_step_row(step) for step in each.steps],
        "put_activity": lambda each: [_row(activity) for activity in each.activities],
        "put_events": lambda each: _event_rows(each.events),
    }
    async with conn.cursor() as cursor:
        for name, made in rows.items():
            if given := [row for each in runs for row in made(each)]:
                await cursor.executemany(sender.statement(name), given)


def _row(value: Any) -> dict[str, Any]:
    row = {each.name: getattr(value, each.name) for each in fields(value)}
    # psycopg writes an enum by its member's name.
    return {name: str(item) if isinstance(item, Enum) else item for name, item in row.items()}


def _run_row(each: CarriedRun, epoch: int) -> dict[str, Any]:
    run = each.run
    row = _row(run)
    for name in ("input", "output", "error", "retry", "awaiting", "trace_context"):
        row[name] = nullable(row[name])
    return row | {
        # Whoever drove it drives it no more.
        "status": str(RunStatus.PENDING if run.status is RunStatus.RUNNING else run.status),
        "epoch": epoch,
        "event_count": each.events[-1].number if each.events else 1,
        "awaits_children": each.awaits_children,
        "moves": each.moves,
    }


def _step_row(step: Any) -> dict[str, Any]:
    running = step.status is StepStatus.RUNNING
    row = _row(step) | {
        "status": str(StepStatus.PENDING if running else step.status),
        "attempt": step.attempt - running,
    }
    for name in ("result", "error"):
        row[name] = nullable(row[name])
    return row | {"arguments": JsonParameter(step.arguments)}


def _event_rows(events: Sequence[Event]) -> Iterator[dict[str, Any]]:
    for start in range(0, len(events), _EVENTS_TOGETHER):
        page = events[start : start + _EVENTS_TOGETHER]
        at = page[-1].at
        shown = [
            {"kind": event.kind, "data": event.data, "ageMs": round((at - event.at).total_seconds() * 1000)}
            for event in page
        ]
        yield {
            "run_id": page[0].run_id,
            "number": page[-1].number,
            "first": page[0].number,
            "events": JsonParameter(shown),
            "at": at,
        }


def _notices(runs: Sequence[Run]) -> Iterator[str]:
    if any(not run.is_settled for run in runs):
        yield "free"
    settled = [run.run_id for run in runs if run.is_settled]
    for start in range(0, len(settled), _NOTICE_RUNS):
        yield "settled " + " ".join(settled[start : start + _NOTICE_RUNS])


def _add(total: Arrived, page: Arrived) -> None:
    for states, more in ((total.back, page.back), (total.new, page.new)):
        for state, runs in more.items():
            states[state] = states.get(state, 0) + runs
    total.here += page.here
    total.outdated += page.outdated
    total.busy += page.busy
    total.without_key += page.without_key


async def marked(sender: Sender) -> dict[str, int]:
    """How many runs are marked as left, by state."""

    async def count(conn: Connection) -> dict[str, int]:
        return {row["status"]: row["runs"] for row in await sender.rows(conn, "marked", {})}

    return await in_transaction(sender, "counting runs", count)


async def reclaim(sender: Sender, stays: Sequence[Stay] | None = None) -> dict[str, int]:
    """Let marked runs go on from what they left with: all of them, or those given; returns state → how many."""
    given = {
        "run_ids": None if stays is None else [stay.run_id for stay in stays],
        "moves": None if stays is None else [stay.moves for stay in stays],
    }

    async def go_on(conn: Connection) -> dict[str, int]:
        return {row["status"]: row["runs"] for row in await sender.rows(conn, "reclaim", given)}

    return await in_transaction(sender, "reclaiming runs", go_on)
