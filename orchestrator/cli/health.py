"""`holdfast health`: the answer of /api/health/checkpointer, from a server or by this environment's settings."""

from __future__ import annotations

import asyncio
import json
import sys
from time import monotonic
from typing import Any

from checkpointer.errors import ConnectError, SchemaError
from checkpointer.factory import open_beside
from checkpointer.health import check_health
from orchestrator.cli.http import get_json
from orchestrator.errors import RemoteError
from orchestrator.logs import setup_logging
from orchestrator.migrations import ALL_MIGRATIONS
from orchestrator.settings import OrchestratorSettings

__all__ = ["show_health"]

_ASK_EVERY_S = 0.25


async def show_health(url: str | None, *, expect: str | None = None, wait_s: float = 0.0, as_json: bool) -> int:
    """Print how the saver is; 0 where it is healthy, and the one that is expected.

    Asks for `wait_s` seconds until it is so; then what was answered last is shown, or raised.
    """
    until = monotonic() + wait_s
    while True:
        report, error = await _asked(url)
        is_other = isinstance(report, dict) and expect not in (None, report.get("checkpointer"))
        good = isinstance(report, dict) and report.get("status") == "healthy" and not is_other
        if good or monotonic() >= until:
            break
        await asyncio.sleep(_ASK_EVERY_S)
    if error is not None:
        raise error
    print(json.dumps(report, indent=2) if as_json else _sentence(report))
    if is_other:
        print(f"holdfast: it is not {expect}", file=sys.stderr)
    return 0 if good else 1


async def _asked(url: str | None) -> tuple[Any, RemoteError | None]:
    try:
        return (await get_json(url, "/api/health/checkpointer"))[1] if url else await _own_health(), None
    except RemoteError as exc:
        return None, exc


async def _own_health() -> dict[str, Any]:
    setup_logging(level="ERROR")
    # One attempt, and nothing is created: looking must not change anything.
    settings = OrchestratorSettings(postgres_connect_attempts=1, postgres_setup="verify")
    try:
        async with open_beside(settings, migrations=ALL_MIGRATIONS) as saver:
            return (await check_health(saver, settings)).as_json()
    except (ConnectError, SchemaError) as exc:
        postgres = {"connected": False, "schema": settings.postgres_schema, "error": str(exc)}
        return {"status": "unhealthy", "checkpointer": "PostgresSaver", "postgres": postgres, "error": str(exc)}


def _sentence(report: Any) -> str:
    if not isinstance(report, dict) or "status" not in report:
        return f"unexpected answer: {json.dumps(report)}"
    postgres = report.get("postgres", {})
    where = f" at {postgres['connectionString']}" if postgres.get("connectionString") else ""
    what = f"{report['status']}: {report.get('checkpointer', 'unknown saver')}{where}"
    return f"{what}: {report['error']}" if report.get("error") else what
