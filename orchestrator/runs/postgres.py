"""Runs in PostgreSQL, on the saver's pool. Every transition is one guarded statement of `queries.sql`.

What every run goes through (created, claimed, noted, finished) is batched (`transitions.py`); what people ask of a run
is a transaction that holds its row (`requests.py`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import psycopg

from checkpointer.postgres.arrays import NULL, cell
from checkpointer.postgres.pool import Connection, Pool
from checkpointer.postgres.queries import load_queries
from checkpointer.postgres.worker_connection import WorkerConnection
from orchestrator.errors import RunNotFoundError, ThreadBusyError, ThreadNotFoundError
from orchestrator.runs.activity import Activity
from orchestrator.runs.events import Event, RunNotes
from orchestrator.runs.model import Json, Request, Run, RunStatus, require_transition
from orchestrator.runs.postgres_steps import PostgresSteps
from orchestrator.runs.rows import activity_of, events_of, run_of
from orchestrator.runs.sender import CALLER_PATIENCE_S, QUERIES, Sender, oldest_of, translated
from orchestrator.runs.store import (
    Absent,
    Created,
    Cursor,
    IfBusy,
    NewRun,
    Outcome,
    RunFilter,
    RunPage,
    require_same,
)
from orchestrator.runs.transitions import Transition, Transitions, bigint, integer, seconds, text, uuid

__all__ = ["PostgresRunStore", "open_postgres_runs"]


@asynccontextmanager
async def open_postgres_runs(
    pool: Pool,
    connections: Sequence[WorkerConnection],
    schema: str,
    *,
    lease_s: float = 15.0,
    retry_for_s: float = 30.0,
    queue_prefix: str | None = None,
) -> AsyncIterator[PostgresRunStore]:
    """The runs in `schema`. `connections` carry the transitions, each tried for `retry_for_s` seconds.

    With `queue_prefix`, runs that are to be taken up by a worker are enqueued as jobs of the postgres queue in the
    statement that creates them.
    """
    sender = Sender(pool, schema)
    queries = load_queries(QUERIES, schema)
    transitions = Transitions(
        connections,
        queries,
        channel=sender.channel,
        lease_s=lease_s,
        retry_for_s=retry_for_s,
        queue_prefix=queue_prefix,
    )
    async with transitions:
        yield PostgresRunStore(sender, transitions, lease_s=lease_s, queue_prefix=queue_prefix)


class PostgresRunStore(PostgresSteps):
    """A `RunStore` over a database. Made by `open_postgres_runs`."""

    def __init__(
        self, sender: Sender, transitions: Transitions, *, lease_s: float, queue_prefix: str | None = None
    ) -> None:
        super().__init__(sender, lease_s=lease_s, queue_prefix=queue_prefix)
        self._transitions = transitions

    @property
    def sender(self) -> Sender:
        """What sends statements to where the runs are."""
        return self._sender

    async def create(self, new: NewRun, *, if_busy: IfBusy = "enqueue", owner: int | None = None) -> Created:
        begun = owner if new.thread_id is None and new.start_at is None else None
        row = await self._create(new, begun) if if_busy != "reject" else await self._create_if_idle(new, begun)
        if row is None:
            same = await self._sender.ask("find_same_run", **_identity(new))
            created = require_same(run_of(same[0]) if same else None, new)
        else:
            created = Created(_created(new, begun, row), is_new=True)
        # Also where the run was made by a request that was sent before, which may not have come this far.
        if if_busy == "interrupt" and new.thread_id is not None and created.is_new:
            await self._supersede(created.run)
        return created

    async def _create(self, new: NewRun, owner: int | None) -> tuple[Any, ...] | None:
        given = _json(new.input)
        return await self._transit(
            Transition(
                kind="create",
                retry_for_s=CALLER_PATIENCE_S,
                run_id=new.run_id,
                also_locks=new.idempotency_key or "",
                bytes=len(given),
                row=(
                    uuid(new.run_id),
                    text(new.thread_id or new.run_id),
                    text(new.organization_id),
                    text(new.workflow_type),
                    text(new.workflow_version),
                    given,
                    text(new.idempotency_key),
                    integer(new.max_attempts),
                    _json(new.retry),
                    uuid(new.parent_run_id),
                    text(new.fork_checkpoint_id),
                    uuid(new.batch_id),
                    text(new.queue),
                    integer(new.priority),
                    text(None if new.start_at is None else new.start_at.isoformat()),
                    _json(new.trace_context),
                    bigint(owner),
                ),
            )
        )

    async def _create_if_idle(self, new: NewRun, owner: int | None) -> tuple[Any, ...] | None:
        """`_create`, while nothing else with `reject` looks at the thread."""
        params = _identity(new)

        async def guarded(conn: Connection) -> tuple[Any, ...] | None:
            await self._sender.rows(conn, "lock_thread", params)
            if await self._sender.rows(conn, "find_same_run", params):
                return None
            if busy := await self._sender.rows(conn, "unfinished_of_thread", params):
                raise ThreadBusyError(params["thread_id"], str(busy[0]["run_id"]), busy[0]["status"])
            # On another connection, and committed before the lock is let go.
            return await self._create(new, owner)

        return await self._sender.transaction("starting a run", guarded)

    async def get(self, run_id: str) -> Run:
        rows = await self._sender.ask("get_run", run_id=run_id)
        if not rows:
            raise RunNotFoundError(run_id)
        return run_of(rows[0])

    async def get_many(self, run_ids: Sequence[str]) -> list[Run]:
        return [run_of(row) for row in await self._sender.ask("get_runs", run_ids=list(run_ids))]

    async def latest_of_thread(self, organization_id: str, thread_id: str) -> Run:
        rows = await self._sender.ask("latest_of_thread", organization_id=organization_id, thread_id=thread_id)
        if not rows:
            raise ThreadNotFoundError(thread_id)
        return run_of(rows[0])

    async def list_runs(self, wanted: RunFilter, *, limit: int, after: Cursor | None = None) -> RunPage:
        rows = await self._sender.ask(
            "list_runs",
            organization_id=wanted.organization_id,
            statuses=None if wanted.statuses is None else [str(status) for status in wanted.statuses],
            workflow=wanted.workflow,
            before_time=after and after.created_at,
            before_id=after and after.run_id,
            limit=limit + 1,
        )
        runs = [run_of(row) for row in rows[:limit]]
        more = len(rows) > limit
        return RunPage(runs, Cursor(runs[-1].created_at, runs[-1].run_id) if more else None)

    async def claim(self, run: Run, owner: int) -> Run | None:
        row = uuid(run.run_id), integer(run.attempt), bigint(run.epoch)
        try:
            claimed = await self._transit(Transition(kind="claim", run_id=run.run_id, row=row, owner=owner))
        except psycopg.errors.UniqueViolation:
            # Another run of the thread was claimed in the same instant.
            return None
        return None if claimed is None else _claimed(run, owner, claimed)

    async def claim_next(
        self,
        owner: int,
        workflows: Sequence[str],
        *,
        limit: int,
        queues: Sequence[str] | None = None,
        older_than_s: float = 0.0,
        last_chance: bool = False,
        batched: bool | None = None,
    ) -> list[Run]:
        try:
            rows = await self._sender.ask(
                oldest_of(batched=batched, last_chance=last_chance),
                owner=owner,
                workflows=list(workflows),
                queues=None if queues is None else list(queues),
                older_than_s=older_than_s,
                last_chance=last_chance,
                limit=limit,
                lease_s=self._lease_s,
            )
        except psycopg.errors.UniqueViolation:
            return []
        return sorted(map(run_of, rows), key=lambda run: (run.created_at, run.run_id))

    async def record(self, told: Sequence[RunNotes]) -> None:
        # In one order everywhere, so that two servers never wait for each other's rows crosswise.
        items = [
            Transition(
                kind="record",
                run_id=each.run_id,
                row=(
                    uuid(each.run_id),
                    bigint(each.epoch),
                    text(max(each.notes, key=lambda note: note.started).activity if each.notes else None),
                    bigint(len(each.events)),
                    bigint(each.mark),
                ),
                told=each,
                events=(events := each.events_json()),
                bytes=len(events),
            )
            for each in sorted(told, key=lambda each: (each.run_id, each.epoch))
        ]
        await asyncio.gather(*map(self._transit, items))

    async def events_after(self, run_id: str, after: int, *, limit: int = 500) -> list[Event]:
        rows = await self._sender.ask("events_after", run_id=run_id, after=after, limit=limit)
        return [event for row in rows for event in events_of(run_id, row) if event.number > after]

    async def finish(self, run: Run, outcome: Outcome, told: RunNotes | None = None) -> Run | None:
        require_transition(RunStatus.RUNNING, outcome.status)
        goes_on = outcome.awaiting is not None and replace(run, awaiting=outcome.awaiting).waits_for_its_work
        row = (*_finish_row(run, outcome), bigint(len(told.events) if told else 0), integer(goes_on))
        events = told.events_json() if told else b""
        size = sum(map(len, row)) + len(events)
        heard_by = run.batch_id or ""
        item = Transition(
            kind="finish", run_id=run.run_id, row=row, told=told, events=events, bytes=size, also_locks=heard_by
        )
        if finished := await self._transit(item):
            return _finished(run, outcome, finished)
        # Ended already, where this was sent before: a statement of its own, for it sees what was committed since.
        rows = await self._sender.ask("ended_before", run_id=run.run_id, epoch=run.epoch)
        return run_of(rows[0]) if rows else None

    async def release_all(self, owner: int) -> list[str]:
        async def release(conn: Connection) -> list[str]:
            rows = await self._sender.rows(conn, "release_all", {"owner": owner})
            if rows:
                await self._notify(conn, "free")
            return [str(row["run_id"]) for row in rows]

        return await self._sender.transaction("handing runs back", release)

    async def absent_owners(self, owner: int) -> list[Absent]:
        return [Absent(row["owner"], row["reason"]) for row in await self._sender.ask("absent_owners", owner=owner)]

    async def take_over(self, absent: Absent) -> list[Run]:
        rows = await self._sender.ask("take_over", absent=absent.owner)
        return sorted(map(run_of, rows), key=lambda run: (run.created_at, run.run_id))

    async def push_again(self, *, older_than_s: float) -> list[Run]:
        rows = await self._sender.ask("push_again", older_than_s=older_than_s)
        return [run_of(row) for row in rows]

    async def wake_due(self) -> int:
        return len(await self._sender.ask("wake_due"))

    async def activities(self, run_id: str) -> list[Activity]:
        return [activity_of(row) for row in await self._sender.ask("activities_of_run", run_id=run_id)]

    async def _transit(self, item: Transition) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = await translated(self._transitions.submit(item))
        return row


def _identity(new: NewRun) -> dict[str, Any]:
    return {
        "run_id": new.run_id,
        "thread_id": new.thread_id or new.run_id,
        "organization_id": new.organization_id,
        "workflow_type": new.workflow_type,
        "idempotency_key": new.idempotency_key,
    }


def _created(new: NewRun, owner: int | None, row: tuple[Any, ...]) -> Run:
    _, created_at, updated_at, lease_until, started_at, saver, _ = row
    begun = owner is not None
    return Run(
        run_id=new.run_id,
        thread_id=new.thread_id or new.run_id,
        organization_id=new.organization_id,
        workflow_type=new.workflow_type,
        workflow_version=new.workflow_version,
        status=RunStatus.RUNNING if begun else RunStatus.PENDING,
        input=new.input,
        idempotency_key=new.idempotency_key,
        max_attempts=new.max_attempts,
        retry=new.retry,
        parent_run_id=new.parent_run_id,
        fork_checkpoint_id=new.fork_checkpoint_id,
        batch_id=new.batch_id,
        queue=new.queue,
        priority=new.priority,
        start_at=new.start_at,
        trace_context=new.trace_context,
        attempt=int(begun),
        epoch=int(begun),
        lease_owner=owner,
        lease_until=_utc(lease_until),
        saver=saver,
        created_at=created_at.astimezone(UTC),
        updated_at=updated_at.astimezone(UTC),
        started_at=_utc(started_at),
    )


def _claimed(run: Run, owner: int, row: tuple[Any, ...]) -> Run:
    _, attempt, epoch, lease_until, started_at, updated_at, signals, requested, failures, losses, error, last = row
    return replace(
        run,
        status=RunStatus.RUNNING,
        lease_owner=owner,
        attempt=attempt,
        epoch=epoch,
        lease_until=_utc(lease_until),
        started_at=_utc(started_at),
        updated_at=_utc(updated_at),
        signal_count=signals,
        requested=requested and Request(requested),
        failures=failures,
        losses=losses,
        error=error,
        last_checkpoint_id=last,
        retry_at=None,
        awaiting=None,
        completed_at=None,
    )


def _finish_row(run: Run, outcome: Outcome) -> tuple[bytes, ...]:
    return (
        uuid(run.run_id),
        bigint(run.lease_owner),
        bigint(run.epoch),
        text(outcome.status),
        _json(outcome.output),
        _json(outcome.error),
        text(outcome.current_activity),
        text(outcome.last_checkpoint_id),
        seconds(outcome.retry_after_s),
        _json(outcome.awaiting),
        bigint(outcome.seen_signals),
        integer(outcome.failed),
    )


def _finished(run: Run, outcome: Outcome, row: tuple[Any, ...]) -> Run:
    _, status, error, awaiting, signals, failures, last, retry_at, completed_at, updated_at, requested, _ = row
    return replace(
        run,
        status=RunStatus(status),
        output=outcome.output,
        error=error,
        current_activity=outcome.current_activity,
        failures=failures,
        awaiting=awaiting,
        signal_count=signals,
        last_checkpoint_id=last,
        retry_at=_utc(retry_at),
        completed_at=_utc(completed_at),
        updated_at=_utc(updated_at),
        requested=requested and Request(requested),
        lease_owner=None,
        lease_until=None,
    )


def _json(value: Json) -> bytes:
    if value is None:
        return NULL
    try:
        return cell(orjson.dumps(value))
    except TypeError:
        # Half a surrogate pair, or a number past 64 bits: legal here, and in a json column as an escape.
        return text(json.dumps(value))


def _utc(value: datetime | None) -> Any:
    return value and value.astimezone(UTC)
