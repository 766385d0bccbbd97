"""`holdfast runs interrupt`, `resume`, `signal`, `cancel`, `fork`: tell a run what to do."""

from __future__ import annotations

import json
from typing import NoReturn

from orchestrator.cli.run_source import RunView, open_runs
from orchestrator.cli.tables import print_json, state_of, waits_of
from orchestrator.errors import InvalidRequestError
from orchestrator.runs.model import Json

__all__ = ["cancel", "fork", "interrupt", "resume", "send_signal"]


async def interrupt(run_id: str, *, url: str | None, token: str | None, as_json: bool) -> int:
    """Pause a run at its next checkpoint."""
    async with open_runs(url, token) as runs:
        run = await runs.interrupt(run_id)
    return _show(run, as_json)


async def resume(run_id: str, payload: str | None, *, url: str | None, token: str | None, as_json: bool) -> int:
    """Let a run go on."""
    given = _parse(payload)
    async with open_runs(url, token) as runs:
        run = await runs.resume(run_id, given)
    return _show(run, as_json)


async def send_signal(
    run_id: str, name: str, payload: str | None, key: str | None, *, url: str | None, token: str | None, as_json: bool
) -> int:
    """Send a run a signal; says so where the run waits for another one."""
    given = _parse(payload)
    async with open_runs(url, token) as runs:
        run = await runs.signal(run_id, name, given, key)
    if run["status"] == "waiting" and not as_json:
        print(f"kept: nothing waits for {name!r} yet, but for {', '.join(waits_of(run)) or 'a resume'}")
    return _show(run, as_json)


async def cancel(run_id: str, *, url: str | None, token: str | None, as_json: bool) -> int:
    """End a run."""
    async with open_runs(url, token) as runs:
        run = await runs.cancel(run_id)
    return _show(run, as_json)


async def fork(
    run_id: str, checkpoint_id: str, payload: str | None, *, url: str | None, token: str | None, as_json: bool
) -> int:
    """Start a run from a checkpoint of another."""
    given = _parse(payload)
    async with open_runs(url, token) as runs:
        run = await runs.fork(run_id, checkpoint_id, given)
    return _show(run, as_json)


def _show(run: RunView, as_json: bool) -> int:
    if as_json:
        print_json(run)
    else:
        print(f"run {run['runId']} is {state_of(run)}")
    return 0


def _parse(payload: str | None) -> Json:
    if payload is None:
        return None
    try:
        return json.loads(payload, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        # Not shown: it may be long, and it may be a secret.
        problem = "--payload takes JSON, such as '{\"approved\": true}' or '\"yes\"', quotes included"
    raise InvalidRequestError(problem)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
