"""What people ask of a run in PostgreSQL: pause, resume, cancel, signals, hooks. Not on any hot path.

Each is a transaction that holds the run's row, so it and the end of an attempt come one after the other: whichever is
second sees what the first one did. A notice goes out with the transaction.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from psycopg.errors import ForeignKeyViolation
from psycopg.types.json import Json as JsonParameter

from checkpointer.postgres.pool import Connection
from orchestrator.errors import (
    HookNotFoundError,
    IllegalTransitionError,
    RunLeftError,
    RunNotFoundError,
    ThreadMovedOnError,
)
from orchestrator.runs.failure import superseded
from orchestrator.runs.model import Json, Request, Run, RunStatus, require_transition
from orchestrator.runs.rows import hook_of, nullable, run_of, signal_of
from orchestrator.runs.sender import Sender
from orchestrator.runs.signals import (
    RESUME_SIGNAL,
    Hook,
    NewHook,
    NewSignal,
    Signal,
    answers,
    is_awaited,
    is_repeated,
    open_waits,
    waits_of,
)

__all__ = ["Requests"]

_TOKEN_BYTES = 32


class Requests:
    """The part of a `RunStore` that serves people."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    async def pause(self, run_id: str) -> Run:
        async def pause(conn: Connection, run: Run) -> Run:
            if run.status is RunStatus.PAUSED:
                return run
            if run.status in (RunStatus.PENDING, RunStatus.RUNNING) or run.waits_for_its_work:
                if run.requested is not None:
                    return run
                return await self._change(conn, run, "request", "asked", requested=Request.PAUSE)
            require_transition(run.status, RunStatus.PAUSED)
            return await self._change(conn, run, "rest", "settled")

        return await self._held("pausing a run", run_id, pause)

    async def resume(self, run_id: str, signal: NewSignal | None = None) -> Run:
        async def resume(conn: Connection, run: Run) -> Run:
            if signal and await self._is_known(conn, run, signal):
                return run
            if run.requested is Request.PAUSE:
                if signal is not None and signal.payload is not None:
                    await self._add(conn, run, signal)
                return await self._change(conn, run, "request", "asked", requested=None)
            if run.status in (RunStatus.PENDING, RunStatus.RUNNING):
                raise IllegalTransitionError(run.status, RunStatus.PENDING)
            require_transition(run.status, RunStatus.PENDING)
            payload = signal.payload if signal else None
            if run.status is RunStatus.WAITING:
                await self._answer(conn, run, signal or NewSignal(RESUME_SIGNAL))
            elif run.status is RunStatus.FAILED and (
                moved := await self._sender.rows(conn, "moved_on", {"run_id": run.run_id})
            ):
                raise ThreadMovedOnError(run.run_id, str(moved[0]["run_id"]))
            elif signal is not None and payload is not None:
                await self._add(conn, run, signal)
            return await self._change(conn, run, "make_pending", "free", anew=run.status is RunStatus.FAILED)

        return await self._held("resuming a run", run_id, resume)

    async def _answer(self, conn: Connection, run: Run, signal: NewSignal) -> None:
        """Hand the answers of a resume over; at a breakpoint, leave to go past it."""
        given = answers(open_waits(run), signal.payload)
        if not given and run.last_checkpoint_id is not None:
            given = {run.last_checkpoint_id: signal.payload}
        for number, (interrupt_id, answer) in enumerate(given.items()):
            # A key is one row's; that it was seen tells for all of them.
            key = None if number else signal.key
            await self._add(conn, run, NewSignal(RESUME_SIGNAL, answer, key), interrupt_id)

    async def _is_known(self, conn: Connection, run: Run, signal: NewSignal) -> bool:
        if signal.key is None:
            return False
        earlier = await self._sender.rows(conn, "signals_of_run", {"run_id": run.run_id})
        return any(row["key"] == signal.key for row in earlier)

    async def cancel(self, run_id: str) -> Run:
        async def cancel(conn: Connection, run: Run) -> Run:
            return await self._cancel(conn, run, None)

        cancelled = await self._held("cancelling a run", run_id, cancel)
        await self._cancel_batch(run_id)
        return cancelled

    async def cancel_left_over(self) -> list[str]:
        batches = [str(row["run_id"]) for row in await self._sender.ask("batches_left_over")]
        for run_id in batches:
            await self._cancel_batch(run_id)
        return batches

    async def _cancel_batch(self, run_id: str) -> None:
        """End the runs of a batch that was cancelled.

        Not in one transaction with it: there may be thousands, and a child that ends locks itself first, then its
        batch. Where this is cut short, or a child was about to be made, recovery does the rest (`cancel_left_over`).
        """
        while await self._sender.transaction("cancelling the runs of a batch", partial(self._cancel_children, run_id)):
            pass

    async def _cancel_children(self, run_id: str, conn: Connection) -> bool:
        """End some of what a batch has started; whether there was anything."""
        ended = await self._sender.rows(conn, "cancel_children", {"run_id": run_id})
        if driven := [str(row["run_id"]) for row in ended if row["was_running"]]:
            await self._notify(conn, "asked", " ".join(driven))
        return bool(ended)

    async def _cancel(self, conn: Connection, run: Run, error: dict[str, Json] | None) -> Run:
        if run.status is RunStatus.CANCELLED:
            return run
        require_transition(run.status, RunStatus.CANCELLED)
        cancelled = await self._change(conn, run, "cancel_run", "settled", error=nullable(error))
        # Its end may be another run's turn.
        await self._notify(conn, "free")
        if run.status is RunStatus.RUNNING:
            await self._notify(conn, "asked", run.run_id)
        return cancelled

    async def _supersede(self, newer: Run) -> None:
        """Have the other unfinished runs of a new run's thread make way."""

        async def supersede(conn: Connection) -> None:
            params = {"organization_id": newer.organization_id, "thread_id": newer.thread_id, "run_id": newer.run_id}
            error = superseded(f"run {newer.run_id}")
            resting = [row for row in await self._sender.rows(conn, "supersede", params) if row["run_id"]]
            for row in resting:
                [locked] = await self._sender.rows(conn, "lock_run", row)
                await self._cancel(conn, run_of(locked), error)

        await self._sender.transaction("superseding runs", supersede)

    async def send_signal(self, run_id: str, signal: NewSignal) -> Run:
        async def send(conn: Connection, run: Run) -> Run:
            return await self._send(conn, run, signal)

        return await self._held("sending a signal", run_id, send)

    async def _send(self, conn: Connection, run: Run, signal: NewSignal) -> Run:
        earlier = await self._sender.rows(conn, "signals_of_run", {"run_id": run.run_id})
        if is_repeated(run, signal, [signal_of(row) for row in earlier]):
            return run
        if run.is_final:
            raise IllegalTransitionError(run.status, "signalled")
        await self._add(conn, run, signal)
        if run.status is RunStatus.WAITING and is_awaited(signal.name, waits_of(run)):
            return await self._change(conn, run, "make_pending", "free", anew=False)
        [row] = await self._sender.rows(conn, "get_run", {"run_id": run.run_id})
        return run_of(row)

    async def signals(self, run_id: str) -> list[Signal]:
        return [signal_of(row) for row in await self._sender.ask("signals_of_run", run_id=run_id)]

    async def await_children(self, run_id: str) -> int:
        async def expect(conn: Connection) -> int:
            await self._sender.rows(conn, "expect_children", {"run_id": run_id})
            [row] = await self._sender.rows(conn, "count_children", {"run_id": run_id})
            return int(row["unfinished"])

        return await self._sender.transaction("waiting for children", expect)

    async def deliver(self, run: Run, answers: Mapping[int, str]) -> bool:
        rows = await self._sender.ask(
            "deliver_signals",
            run_id=run.run_id,
            owner=run.lease_owner,
            epoch=run.epoch,
            signal_ids=list(answers),
            interrupt_ids=list(answers.values()),
        )
        return bool(rows)

    async def create_hook(self, new: NewHook) -> Hook:
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        try:
            await self._sender.ask(
                "add_hook",
                token=token,
                run_id=new.run_id,
                key=new.key,
                name=new.name,
                multiple=new.multiple,
                expires_in_s=new.expires_in_s,
            )
        except ForeignKeyViolation as exc:
            raise RunNotFoundError(new.run_id) from exc
        [row] = await self._sender.ask("find_hook", run_id=new.run_id, key=new.key)
        return hook_of(row)

    async def use_hook(self, token: str, payload: Json) -> Run:
        async def use(conn: Connection) -> Run:
            used = await self._sender.rows(conn, "use_hook", {"token": token})
            if not used:
                raise HookNotFoundError
            run = await self._lock(conn, str(used[0]["run_id"]))
            # The token itself is a secret, and signals are shown.
            key = f"hook {used[0]['key']} {used[0]['uses']}"
            return await self._send(conn, run, NewSignal(used[0]["name"], payload, key))

        return await self._sender.transaction("using a hook", use)

    async def _held(self, operation: str, run_id: str, work: Callable[[Connection, Run], Awaitable[Run]]) -> Run:
        async def hold(conn: Connection) -> Run:
            return await work(conn, await self._lock(conn, run_id))

        return await self._sender.transaction(operation, hold)

    async def _lock(self, conn: Connection, run_id: str) -> Run:
        rows = await self._sender.rows(conn, "lock_run", {"run_id": run_id})
        if not rows:
            raise RunNotFoundError(run_id)
        if rows[0]["left_at"] is not None:
            raise RunLeftError(run_id)
        return run_of(rows[0])

    async def _change(self, conn: Connection, run: Run, query: str, notice: str, **params: Any) -> Run:
        [row] = await self._sender.rows(conn, query, {"run_id": run.run_id, **params})
        await self._notify(conn, notice, run.run_id)
        return run_of(row)

    async def _notify(self, conn: Connection, kind: str, run_id: str = "") -> None:
        await self._sender.rows(conn, "notify", {"notice": f"{kind} {run_id}".strip()})

    async def _add(self, conn: Connection, run: Run, signal: NewSignal, interrupt_id: str | None = None) -> None:
        await self._sender.rows(
            conn,
            "add_signal",
            {
                "run_id": run.run_id,
                "name": signal.name,
                "payload": JsonParameter(signal.payload),
                "key": signal.key,
                "interrupt_id": interrupt_id,
            },
        )
