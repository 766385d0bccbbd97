"""Runs in PostgreSQL, on the saver's pool. Every transition is one guarded statement of `queries.sql`.

Patience has two measures. What a caller waits for (create, read, list) gives up after seconds, so that an API call
gets its answer; what an attempt rests on (claim, finish, release) rides out a lost server as long as a save does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg
from psycopg.rows import DictRow
from psycopg.types.json import Json as JsonParameter
from psycopg_pool import PoolClosed

from checkpointer.errors import SaverUnavailableError
from checkpointer.postgres.pool import Connection, Pool
from checkpointer.postgres.queries import load_queries
from checkpointer.postgres.retry import ride_out
from orchestrator.errors import DatabaseUnavailableError, RunNotFoundError, ThreadBusyError, ThreadNotFoundError
from orchestrator.runs.model import FINAL, Json, Run, RunStatus, require_transition
from orchestrator.runs.store import (
    Created,
    Cursor,
    NewRun,
    Outcome,
    RunFilter,
    RunPage,
    require_same,
)

__all__ = ["QUERIES", "PostgresRunStore"]

T = TypeVar("T")

QUERIES = "orchestrator.runs"
CALLER_PATIENCE_S = 3.0
_FIELDS = [field.name for field in fields(Run)]
_UUIDS = ("run_id", "batch_id", "parent_run_id")


class PostgresRunStore:
    """A `RunStore` over `pool`, with the tables in `schema`; `retry_for_s` is how long a transition is tried."""

    def __init__(self, pool: Pool, schema: str, *, retry_for_s: float = 30.0) -> None:
        self._pool = pool
        self._queries = load_queries(QUERIES, schema)
        self._retry_for_s = retry_for_s

    async def create(self, new: NewRun, *, reject_if_busy: bool = False) -> Created:
        params = {
            "run_id": new.run_id,
            "thread_id": new.thread_id or new.run_id,
            "organization_id": new.organization_id,
            "workflow_type": new.workflow_type,
            "input": JsonParameter(new.input),
            "idempotency_key": new.idempotency_key,
            "max_attempts": new.max_attempts,
            "lease_owner": new.lease_owner,
            "saver": "PostgresSaver",
        }

        async def attempt() -> Created:
            async with self._pool.connection(timeout=CALLER_PATIENCE_S) as conn:
                if reject_if_busy:
                    async with conn.transaction():
                        await self._require_idle(conn, params)
                        return await self._insert(conn, new, params)
                return await self._insert(conn, new, params)

        return await self._ride_out("starting a run", attempt, CALLER_PATIENCE_S)

    async def _insert(self, conn: Connection, new: NewRun, params: dict[str, Any]) -> Created:
        if rows := await self._rows(conn, "create_run", params):
            return Created(_run(rows[0]), is_new=True)
        [row] = await self._rows(conn, "find_same_run", params)
        return require_same(_run(row), new)

    async def _require_idle(self, conn: Connection, params: dict[str, Any]) -> None:
        await self._rows(conn, "lock_thread", params)
        if await self._rows(conn, "find_same_run", params):
            return
        if busy := await self._rows(conn, "unfinished_of_thread", params):
            raise ThreadBusyError(params["thread_id"], str(busy[0]["run_id"]), busy[0]["status"])

    async def get(self, run_id: str) -> Run:
        rows = await self._ask("get_run", run_id=run_id)
        if not rows:
            raise RunNotFoundError(run_id)
        return _run(rows[0])

    async def latest_of_thread(self, organization_id: str, thread_id: str) -> Run:
        rows = await self._ask("latest_of_thread", organization_id=organization_id, thread_id=thread_id)
        if not rows:
            raise ThreadNotFoundError(thread_id)
        return _run(rows[0])

    async def list_runs(self, wanted: RunFilter, *, limit: int, after: Cursor | None = None) -> RunPage:
        rows = await self._ask(
            "list_runs",
            organization_id=wanted.organization_id,
            statuses=None if wanted.statuses is None else [str(status) for status in wanted.statuses],
            workflow=wanted.workflow,
            before_time=after and after.created_at,
            before_id=after and after.run_id,
            limit=limit + 1,
        )
        runs = [_run(row) for row in rows[:limit]]
        more = len(rows) > limit
        return RunPage(runs, Cursor(runs[-1].created_at, runs[-1].run_id) if more else None)

    async def claim(self, run: Run) -> Run | None:
        try:
            return await self._move("claim_run", run)
        except psycopg.errors.UniqueViolation:
            # Another run of the thread was claimed in the same instant.
            return None

    async def record_activities(self, activities: Mapping[str, tuple[int, str]]) -> None:
        # In one order everywhere, so that two servers never wait for each other's rows crosswise.
        ordered = sorted(activities.items())
        await self._ask(
            "record_activities",
            run_ids=[run_id for run_id, _ in ordered],
            epochs=[epoch for _, (epoch, _) in ordered],
            activities=[activity for _, (_, activity) in ordered],
        )

    async def finish(self, run: Run, outcome: Outcome) -> Run | None:
        require_transition(RunStatus.RUNNING, outcome.status)
        finished = await self._move(
            "finish_run",
            run,
            status=str(outcome.status),
            output=_nullable(outcome.output),
            error=_nullable(outcome.error),
            current_activity=outcome.current_activity,
            last_checkpoint_id=outcome.last_checkpoint_id,
            final=outcome.status in FINAL,
        )
        return finished and replace(finished, output=outcome.output, error=outcome.error)

    async def release(self, run: Run, *, to: int | None, refund: bool) -> Run | None:
        return await self._move("release_run", run, new_owner=to, refund=refund)

    async def release_all(self, owner: int) -> list[str]:
        return [str(row["run_id"]) for row in await self._ask("release_all", owner=owner)]

    async def held_by(self, owner: int) -> Mapping[str, int]:
        return {str(row["run_id"]): row["epoch"] for row in await self._ask("held_by", owner=owner)}

    async def adopt(self, owner: int, workflows: Sequence[str], *, limit: int) -> list[Run]:
        rows = await self._ask("adopt_runs", owner=owner, workflows=list(workflows), limit=limit)
        return sorted(map(_run, rows), key=lambda run: (run.created_at, run.run_id))

    async def absent_owners(self, owner: int) -> list[int]:
        return [row["lease_owner"] for row in await self._ask("absent_owners", owner=owner)]

    async def take_over(self, owner: int, absent: int, workflows: Sequence[str]) -> list[Run]:
        rows = await self._ask("take_over", owner=owner, absent=absent, workflows=list(workflows))
        return sorted(map(_run, rows), key=lambda run: (run.created_at, run.run_id))

    async def _move(self, query: str, run: Run, **params: Any) -> Run | None:
        """Send a transition for as long as a save would be; None where its guard did not match."""
        params |= {"run_id": run.run_id, "owner": run.lease_owner, "epoch": run.epoch}
        rows = await self._send(query, params, self._retry_for_s)
        return replace(run, **_columns(rows[0])) if rows else None

    async def _ask(self, query: str, **params: Any) -> list[DictRow]:
        return await self._send(query, params, CALLER_PATIENCE_S)

    async def _send(self, query: str, params: Mapping[str, Any], for_s: float) -> list[DictRow]:
        async def attempt() -> list[DictRow]:
            async with self._pool.connection(timeout=for_s) as conn:
                return await self._rows(conn, query, params)

        return await self._ride_out(query, attempt, for_s)

    async def _rows(self, conn: Connection, query: str, params: Mapping[str, Any]) -> list[DictRow]:
        return await (await conn.execute(self._queries[query].encode(), params)).fetchall()

    async def _ride_out(self, operation: str, attempt: Callable[[], Awaitable[T]], for_s: float) -> T:
        try:
            return await _within(for_s + 0.5, ride_out(operation, attempt, for_s=for_s))
        except (SaverUnavailableError, TimeoutError) as exc:
            raise DatabaseUnavailableError(f"PostgreSQL did not answer in time: {exc}") from exc
        except PoolClosed as exc:
            raise DatabaseUnavailableError("the connection pool is closed: this process is stopping") from exc


async def _within(timeout_s: float, work: Coroutine[Any, Any, T]) -> T:
    """Await `work` for `timeout_s`, then leave it to end by itself.

    A plain time-out is not enough: a connection whose server fell silent takes seconds more to be cancelled.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(_retrieve)
    if not done:
        raise TimeoutError(f"gave up after {timeout_s:g} s")
    return task.result()


def _retrieve(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _nullable(value: Json) -> JsonParameter | None:
    return None if value is None else JsonParameter(value)


def _columns(row: DictRow) -> dict[str, Any]:
    times = {name: value.astimezone(UTC) for name, value in row.items() if isinstance(value, datetime)}
    return row | times | {"status": RunStatus(row["status"])}


def _run(row: DictRow) -> Run:
    # Only the columns known here: a database that a newer version has upgraded holds more.
    known = {name: row[name] for name in _FIELDS}
    ids = {name: str(known[name]) for name in _UUIDS if known[name] is not None}
    return Run(**_columns(known | ids))
