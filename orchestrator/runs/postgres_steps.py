"""Steps in PostgreSQL (`steps.py` says what they are)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Json as JsonParameter
from psycopg.types.json import Jsonb

from checkpointer.postgres.pool import Connection
from orchestrator.errors import RunNotFoundError, StepNotFoundError
from orchestrator.runs.model import Json
from orchestrator.runs.requests import Requests
from orchestrator.runs.rows import nullable
from orchestrator.runs.sender import Sender
from orchestrator.runs.signals import NewSignal
from orchestrator.runs.steps import NewStep, Step, StepEnd, StepStatus, step_jobs, was_ended_so

__all__ = ["PostgresSteps", "step_of"]

_FIELDS = [field.name for field in fields(Step)]


class PostgresSteps(Requests):
    """The part of a `RunStore` that keeps steps. With `queue_prefix` a step is enqueued with its row."""

    def __init__(self, sender: Sender, *, lease_s: float, queue_prefix: str | None) -> None:
        super().__init__(sender)
        self._lease_s = lease_s
        self._queue_prefix = queue_prefix

    @property
    def enqueues(self) -> bool:
        return self._queue_prefix is not None

    async def push_step(self, new: NewStep) -> Step:
        async def push(conn: Connection) -> Step:
            params = {
                "step_id": new.step_id,
                "run_id": new.run_id,
                "key": new.key,
                "name": new.name,
                "queue": new.queue,
                "priority": new.priority,
                "arguments": JsonParameter(new.arguments),
            }
            if await self._sender.rows(conn, "add_step", params) and self._queue_prefix is not None:
                message = {name: params[name] for name in ("name", "queue", "priority")}
                arguments = Jsonb({"message": {**message, "kind": "step", "id": new.step_id}})
                job = {**params, "job_queue": step_jobs(self._queue_prefix + new.queue), "arguments": arguments}
                await self._sender.rows(conn, "push_step", job)
            [row] = await self._sender.rows(conn, "find_step", params)
            return step_of(row)

        try:
            return await self._sender.transaction("calling a step", push)
        except psycopg.errors.ForeignKeyViolation as exc:
            raise RunNotFoundError(new.run_id) from exc

    async def get_step(self, step_id: str) -> Step:
        # What comes with a message may be anything.
        rows = await self._sender.ask("get_step", step_id=step_id) if _is_id(step_id) else []
        if not rows:
            raise StepNotFoundError(step_id)
        return step_of(rows[0])

    async def claim_step(self, seen: Step, owner: int) -> Step | None:
        asked: dict[str, Any] = {"step_id": seen.step_id, "attempt": seen.attempt, "owner": owner}
        rows = await self._sender.ask("claim_step", lease_s=self._lease_s, **asked)
        rows = rows or await self._sender.ask("claimed_step_before", **asked)
        return step_of(rows[0]) if rows else None

    async def end_step(self, step: Step, end: StepEnd) -> bool:
        async def finish(conn: Connection) -> bool:
            # The run before the step, as everywhere: two transactions that take both never wait crosswise.
            run = await self._lock(conn, step.run_id)
            params = {
                "step_id": step.step_id,
                "owner": step.lease_owner,
                "attempt": step.attempt,
                "status": str(end.status),
                "result": nullable(end.result),
                "error": nullable(end.error),
                "retry_after_s": end.retry_after_s,
                "handed_back": end.handed_back,
            }
            if not await self._sender.rows(conn, "end_step", params):
                [row] = await self._sender.rows(conn, "get_step", params)
                return was_ended_so(step_of(row), step, end)
            if end.status is not StepStatus.PENDING and not run.is_final:
                await self._send(conn, run, NewSignal(step.signal_name, end.as_answer(), step.signal_name))
            return True

        return await self._sender.transaction("ending a step", finish)

    async def due_steps(self, *, older_than_s: float) -> list[Step]:
        return [step_of(row) for row in await self._sender.ask("due_steps", older_than_s=older_than_s)]

    async def take_over_steps(self, owner: int) -> list[Step]:
        return [step_of(row) for row in await self._sender.ask("take_over_steps", owner=owner)]


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def step_of(row: Mapping[str, Any]) -> Step:
    """A row of `workflow_step`."""
    values: dict[str, Json] = {name: row[name] for name in _FIELDS}
    values |= {name: str(row[name]) for name in ("step_id", "run_id")}
    values["status"] = StepStatus(row["status"])
    return Step(**values)
