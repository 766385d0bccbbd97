"""`holdfast runs`: the answers of /api/runs, from a server or straight from the database."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.api.views import run_detail, run_status
from orchestrator.cli.http import get_json
from orchestrator.engine.service import open_run_store
from orchestrator.errors import InvalidRequestError, RemoteError
from orchestrator.logs import setup_logging
from orchestrator.runs.model import RunStatus, check_identifier, parse_run_id
from orchestrator.runs.store import Cursor, RunFilter
from orchestrator.settings import OrchestratorSettings

__all__ = ["show_one_run", "show_runs"]

_COLOURS = {"completed": "green", "failed": "red", "cancelled": "red", "running": "cyan", "pending": "dim"}
_COLUMNS = {
    "run": "runId",
    "workflow": "workflow",
    "status": "status",
    "attempt": "attempt",
    "activity": "currentActivity",
    "created (UTC)": "createdAt",
    "thread": "threadId",
}
# A pipe has no width; what reads it wants whole lines.
_PIPE_WIDTH = 400


async def show_runs(
    statuses: list[str],
    workflow: str | None,
    limit: int,
    cursor: str | None,
    *,
    url: str | None,
    token: str | None,
    as_json: bool,
) -> int:
    """Print a page of runs."""
    if url:
        query = {"status": statuses, "workflow": workflow, "limit": limit, "cursor": cursor}
        page = _accept(*await get_json(url, "/api/runs", query, token=token))
    else:
        wanted = RunFilter(
            statuses=[_status(name) for name in statuses] or None,
            workflow=None if workflow is None else check_identifier("workflow", workflow),
        )
        page = await _own_page(wanted, limit, Cursor.decode(cursor) if cursor else None)
    if as_json:
        print(json.dumps(page, indent=2))
    else:
        _print_table(page)
    return 0


async def show_one_run(run_id: str, *, url: str | None, token: str | None, as_json: bool) -> int:
    """Print one run."""
    if url:
        run = _accept(*await get_json(url, f"/api/runs/{quote(run_id, safe='')}", token=token))
    else:
        async with open_run_store(_settings()) as store:
            run = run_detail(await store.get(parse_run_id(run_id)))
    if as_json:
        print(json.dumps(run, indent=2))
    else:
        _print_run(run)
    return 0


async def _own_page(wanted: RunFilter, limit: int, after: Cursor | None) -> dict[str, Any]:
    async with open_run_store(_settings()) as store:
        page = await store.list_runs(wanted, limit=limit, after=after)
    return {
        "runs": [run_status(run) for run in page.runs],
        "nextCursor": page.next.encode() if page.next else None,
    }


def _settings() -> OrchestratorSettings:
    setup_logging(level="ERROR")
    # Looking must not change anything, and says at once that there is nothing to see.
    return OrchestratorSettings(postgres_connect_attempts=1, postgres_setup="verify")


def _status(name: str) -> RunStatus:
    try:
        return RunStatus(name)
    except ValueError:
        raise InvalidRequestError(f"--status takes one of {', '.join(RunStatus)}, not {name!r}") from None


def _accept(status: int, answer: Any) -> dict[str, Any]:
    if status == 200 and isinstance(answer, dict):
        return answer
    error = answer.get("error") if isinstance(answer, dict) else None
    raise RemoteError(error["message"] if isinstance(error, dict) else f"the server answered {status}")


def _print_table(page: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in _COLUMNS:
        table.add_column(title, no_wrap=True)
    for run in page["runs"]:
        table.add_row(*(_cell(key, run) for key in _COLUMNS.values()))
    console = _console()
    console.print(table if page["runs"] else "no runs")
    if page.get("nextCursor"):
        console.print(f"more with --cursor {page['nextCursor']}", soft_wrap=True)


def _cell(key: str, run: dict[str, Any]) -> Text:
    text = "" if run.get(key) is None else str(run[key])
    if key == "createdAt":
        text = text.replace("T", " ").partition(".")[0]
    elif key == "threadId" and text == run.get("runId"):
        text = "its own"
    return Text(text, style=_COLOURS.get(text, "") if key == "status" else "")


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


def _print_run(run: dict[str, Any]) -> None:
    console = _console()
    for name, value in run.items():
        if name == "error" and value:
            console.print(Text(f"{name:18}{value.get('type')}: {value.get('message')}", style="red"))
            console.print(Text(value.get("traceback", "")), soft_wrap=True)
        elif value is not None:
            shown = value if isinstance(value, str) else json.dumps(value, indent=2)
            console.print(Text(f"{name:18}{shown}"), soft_wrap=True)
