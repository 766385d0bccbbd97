"""Batches the transitions that every run goes through: created, claimed, its activities noted, finished.

What arrives while the last batch is under way goes out together, one statement for each kind there is (`batching.py`
holds the rules). A hundred runs that end at once cost one round trip and one commit, and so does a lone one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product, starmap
from time import monotonic
from typing import Any, Literal, TypeAlias
from uuid import UUID

import psycopg

from checkpointer.postgres.arrays import (
    NULL,
    Float8Array,
    Int4Array,
    Int8Array,
    TextArray,
    UuidArray,
    cell,
    float8_cell,
    int4_cell,
    int8_cell,
)
from checkpointer.postgres.batching import Batcher, Item, Limits
from checkpointer.postgres.worker_connection import WorkerConnection
from orchestrator.runs.activity import ActivityNote
from orchestrator.runs.events import RunNotes
from orchestrator.runs.failure import superseded
from orchestrator.runs.sender import bare, claim_statement

__all__ = ["Kind", "Transition", "Transitions", "bigint", "integer", "seconds", "text", "uuid"]

Kind: TypeAlias = Literal["create", "claim", "finish", "record"]
Columns: TypeAlias = Mapping[str, Callable[[Sequence[bytes]], Any]]

# A notice names the runs of a batch, and has at most 8,000 bytes.
_LIMITS = Limits(batch_items=200)
_SILENCE_S = 10.0

_COLUMNS: Mapping[Kind, Columns] = {
    "create": {
        "run_id": UuidArray,
        "thread_id": TextArray,
        "organization_id": TextArray,
        "workflow_type": TextArray,
        "workflow_version": TextArray,
        "input": TextArray,
        "idempotency_key": TextArray,
        "max_attempts": Int4Array,
        "retry": TextArray,
        "parent_run_id": UuidArray,
        "fork_checkpoint_id": TextArray,
        "batch_id": UuidArray,
        "queue": TextArray,
        "priority": Int4Array,
        "start_at": TextArray,
        "trace_context": TextArray,
        "owner": Int8Array,
    },
    "claim": {"run_id": UuidArray, "attempt": Int4Array, "epoch": Int8Array},
    "finish": {
        "run_id": UuidArray,
        "owner": Int8Array,
        "epoch": Int8Array,
        "status": TextArray,
        "output": TextArray,
        "error": TextArray,
        "current_activity": TextArray,
        "last_checkpoint_id": TextArray,
        "retry_after_s": Float8Array,
        "awaiting": TextArray,
        "seen_signals": Int8Array,
        "failed": Int4Array,
        "event_count": Int8Array,
        "goes_on": Int4Array,
    },
    "record": {
        "run_id": UuidArray,
        "epoch": Int8Array,
        "current_activity": TextArray,
        "event_count": Int8Array,
        "mark": Int8Array,
    },
}
_EVENT_COLUMNS: Columns = {
    "shown_run_id": UuidArray,
    "shown_epoch": Int8Array,
    "shown_count": Int8Array,
    "shown_events": TextArray,
}
_NOTE_COLUMNS: Columns = {
    "note_run_id": UuidArray,
    "note_epoch": Int8Array,
    "note_attempt": Int4Array,
    "note_task_id": TextArray,
    "note_activity": TextArray,
    "note_status": TextArray,
    "note_error": TextArray,
    "note_began_s": Float8Array,
    "note_ended_s": Float8Array,
}


def uuid(value: str | None) -> bytes:
    """A cell of a uuid column."""
    return NULL if value is None else cell(UUID(value).bytes)


def text(value: str | None) -> bytes:
    """A cell of a text column."""
    return NULL if value is None else cell(value.encode())


def integer(value: int) -> bytes:
    """A cell of an int4 column."""
    return int4_cell(value)


def bigint(value: int | None) -> bytes:
    """A cell of an int8 column."""
    return NULL if value is None else int8_cell(value)


def seconds(value: float | None) -> bytes:
    """A cell of a float8 column."""
    return NULL if value is None else float8_cell(value)


@dataclass(slots=True, eq=False, kw_only=True)
class Transition(Item):
    """One run's share of a batch: its row for the statement of its kind, its activities, and its events as JSON.

    `also_locks` is what the statement locks, or waits for, beside the run's own row: that of the run which hears of its
    end, or an idempotency key, which another server may be writing.
    """

    kind: Kind
    run_id: str
    row: tuple[bytes, ...]
    told: RunNotes | None = None
    events: bytes = b""
    owner: int = 0
    also_locks: str = ""


class Transitions(Batcher[Transition]):
    """The queue of transitions. An item's result is its row of the statement's answer, or None."""

    operation = "transition"

    def __init__(
        self,
        connections: Sequence[WorkerConnection],
        queries: Mapping[str, str],
        *,
        channel: str,
        lease_s: float,
        retry_for_s: float,
        queue_prefix: str | None = None,
    ) -> None:
        super().__init__(connections, retry_for_s=retry_for_s, limits=_LIMITS)
        self._params = {
            "channel": channel,
            "lease_s": lease_s,
            "queue_prefix": queue_prefix,
            "superseded": json.dumps(superseded()),
        }
        self._claimed_before = queries["claimed_before"]
        self._statements = _statements(queries, pushes=queue_prefix is not None)

    def _fits(self, batch: list[Transition], item: Transition) -> bool:
        """Keep claims of two owners apart: a statement claims for one."""
        others = (other.owner for other in batch if other.kind == "claim")
        return super()._fits(batch, item) and (item.kind != "claim" or next(others, item.owner) == item.owner)

    async def _attempt(self, connection: WorkerConnection, batch: list[Transition]) -> list[Transition]:
        timeout_s = min(self._time_left(batch), _SILENCE_S)
        for kind in _COLUMNS:
            items = [item for item in batch if item.kind == kind]
            # In one order everywhere, so that two batches never wait for each other's rows crosswise. New runs without
            # a key stay in the order of their coming: nobody else has their rows, and those of a thread take turns.
            items.sort(key=lambda item: (item.also_locks, "" if item.kind == "create" else item.run_id))
            if items:
                await self._send(connection, kind, items, timeout_s)
        return []

    async def _send(self, connection: WorkerConnection, kind: Kind, items: list[Transition], timeout_s: float) -> None:
        params = {**self._params, "owner": items[0].owner, **_arrays(_COLUMNS[kind], [item.row for item in items])}
        notes = [note for item in items if item.told is not None for note in item.told.notes]
        events = [_event_row(item.told, item.events) for item in items if item.told is not None and item.told.events]
        if notes:
            params |= _note_arrays(notes)
        if events:
            params |= _arrays(_EVENT_COLUMNS, events)
        statement = self._statements[kind, bool(notes), bool(events)]
        found = {str(row[0]): row for row in await connection.run(statement, params, timeout_s=timeout_s)}
        if kind == "claim" and len(found) < len(items):
            # Sent a second time after its answer was lost, a claim finds the runs running, and ours.
            lost = await connection.run(self._claimed_before, params, timeout_s=timeout_s)
            found |= {str(row[0]): row for row in lost}
        for item in items:
            item.succeed(found.get(item.run_id))

    async def _refused(self, connection: WorkerConnection, batch: list[Transition], error: Exception) -> None:
        left = [item for item in batch if item.done is not None and not item.done.done()]
        if len(left) == 1 or not isinstance(error, psycopg.Error):
            for item in left:
                item.fail(error)
            return
        middle = (len(left) + 1) // 2
        for half in (left[:middle], left[middle:]):
            if half:
                await self._settle(connection, half)


def _statements(queries: Mapping[str, str], *, pushes: bool) -> dict[tuple[Kind, bool, bool], str]:
    """The statement of each kind, without and with activities, without and with events."""
    claim = claim_statement(queries, "turn_by_id").replace("RETURNING run.*;", bare(queries["claimed_columns"]))
    notes, events = bare(queries["note_activities"]), bare(queries["note_events"])
    pushed = bare(queries["push_flows"]) if pushes else ""
    create = queries["create_runs"].replace("{pushed}", pushed)
    create = create.replace("{pushes}", "(SELECT count(*) FROM pushed)" if pushes else "0")
    texts = {"create": create, "finish": queries["finish_runs"], "record": queries["record_activities"]}
    found: dict[tuple[Kind, bool, bool], str] = {("claim", False, False): bare(claim)}
    for kind in ("create", "finish", "record"):
        for has_notes, has_events in product((False, True), repeat=2):
            parts = notes * has_notes + " " + events * has_events
            found[kind, has_notes, has_events] = bare(texts[kind].replace("{noted}", parts))
    return found


def _arrays(columns: Columns, rows: Sequence[tuple[bytes, ...]]) -> dict[str, Any]:
    listed = zip(*rows, strict=True)
    return {name: kind(cells) for (name, kind), cells in zip(columns.items(), listed, strict=True)}


def _note_arrays(notes: Sequence[ActivityNote]) -> dict[str, Any]:
    now = monotonic()
    # An activity may have been noted at its start and at its end: one statement may not touch a row twice.
    last = {(note.run_id, note.attempt, note.task_id): (note, now) for note in notes}
    return _arrays(_NOTE_COLUMNS, list(starmap(_note_row, last.values())))


def _event_row(told: RunNotes, events: bytes) -> tuple[bytes, ...]:
    return uuid(told.run_id), bigint(told.epoch), bigint(len(told.events)), cell(events)


def _note_row(note: ActivityNote, now: float) -> tuple[bytes, ...]:
    return (
        uuid(note.run_id),
        bigint(note.epoch),
        integer(note.attempt),
        text(note.task_id),
        text(note.activity),
        text(note.status),
        text(note.error),
        seconds(now - note.started),
        seconds(None if note.ended is None else now - note.ended),
    )
