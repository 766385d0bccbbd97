"""`holdfast doctor`: every check of `/api/health/deep`, by this environment's settings or from a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from rich.table import Table
from rich.text import Text

from checkpointer.errors import CheckpointerError, SchemaError
from checkpointer.factory import open_beside
from checkpointer.migrations import MIGRATIONS
from checkpointer.postgres.saver import PooledPostgresSaver
from orchestrator.cli.http import get_json
from orchestrator.cli.inventory import expected_objects, lost, present_objects
from orchestrator.cli.tables import print_json, terminal
from orchestrator.errors import DatabaseUnavailableError, RemoteError
from orchestrator.health.examination import engine_of, examine
from orchestrator.health.finding import Finding, Report
from orchestrator.health.local import check_extras, check_graphs, check_settings, read_settings
from orchestrator.health.snapshot import health_sender, read_postgres
from orchestrator.health.subject import Subject
from orchestrator.logs import setup_logging
from orchestrator.migrations import ALL_MIGRATIONS
from orchestrator.settings import OrchestratorSettings

__all__ = ["examine_all"]

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red bold", "unknown": "dim"}
_REMEDIES = "what to do"
# Only a server has measured anything over time, and holds the memory that runs are in.
_OF_A_SERVER = {"saves", "loads", "errors"}
_OF_ITS_MEMORY = {"queue", "runners", "stuck runs"}


async def examine_all(url: str | None, token: str | None, graphs: Path | None, *, as_json: bool) -> int:
    """Print every check; 1 where one fails."""
    report = await _from_server(url, token) if url else (await _from_here(graphs)).as_json()
    if as_json:
        print_json(report)
    else:
        _print(report)
    return 1 if any(check["state"] == "fail" for check in report["checks"]) else 0


async def _from_server(url: str, token: str | None) -> Mapping[str, Any]:
    status, answer = await get_json(url, "/api/health/deep", token=token)
    if isinstance(answer, dict) and isinstance(answer.get("checks"), list):
        return answer
    said = answer.get("error", {}).get("message") if isinstance(answer, dict) else None
    hint = "; give a token of the server's API_TOKENS with --token or HOLDFAST_TOKEN" if status == 401 else ""
    raise RemoteError(f"{url} answered {status}: {said or 'not what /api/health/deep answers'}{hint}")


async def _from_here(graphs: Path | None) -> Report:
    setup_logging(level="ERROR")
    started = monotonic()
    settings, finding = read_settings()
    findings = [finding, *check_graphs(graphs)]
    engine = "none"
    if settings is not None:
        findings[1:1] = [*check_settings(settings), check_extras(settings)]
        engine, found = await _database(settings)
        findings += found
    return Report(findings, engine, monotonic() - started)


async def _database(settings: OrchestratorSettings) -> tuple[str, list[Finding]]:
    """What the checks find with the saver that these settings open, which is not changed by it."""
    try:
        async with open_beside(settings, migrations=ALL_MIGRATIONS) as saver:
            database = health_sender(saver.pool, saver.schema) if isinstance(saver, PooledPostgresSaver) else None
            latest = None
            if database is not None:
                try:
                    latest = await read_postgres(database)
                except DatabaseUnavailableError:
                    latest = None  # each check that rests on it says so
            subject = Subject(saver, settings, database, latest)
            unseen = _OF_A_SERVER if database else _OF_A_SERVER | _OF_ITS_MEMORY
            findings = [each for each in await examine(subject) if each.name not in unseen]
            if isinstance(saver, PooledPostgresSaver):
                findings.append(await _tables(saver))
            return engine_of(findings), findings
    except CheckpointerError as exc:
        name = "PostgresSaver" if settings.use_postgres_saver else "MemorySaver"
        message, _, remedy = str(exc).partition(" Remedy: ")
        if isinstance(exc, SchemaError):
            remedy = remedy or "run `holdfast setup`; see schema missing in docs/runbook.md"
        remedy = remedy or "see connection refused in docs/runbook.md"
        return name, [Finding("engine", "fail", message, name, remedy=remedy)]


async def _tables(saver: PooledPostgresSaver) -> Finding:
    """Whether everything is there that the migrations made; they say what was made once."""
    expected = expected_objects((MIGRATIONS, *ALL_MIGRATIONS))
    gone = lost(expected, await present_objects(str(saver.pool.conninfo), saver.schema))
    remedy = "restore them from a backup; `holdfast setup --check` names them again"
    if gone:
        return Finding("tables", "fail", f"gone: {', '.join(gone)}", len(gone), "missing", 0, remedy)
    return Finding("tables", "ok", "every table, index and trigger is there", 0, "missing", 0)


def _print(report: Mapping[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("", "check", "figure", "limit", "what was found"):
        table.add_column(title, overflow="fold", justify="right" if title in ("figure", "limit") else "left")
    for check in report["checks"]:
        state = str(check["state"])
        table.add_row(
            Text(state, style=_COLOURS.get(state, "")),
            Text(str(check["name"])),
            Text(_figure(check["figure"], check["unit"])),
            Text(_figure(check["limit"], unit if (unit := str(check["unit"])).startswith("bytes") else None)),
            Text(str(check["message"])),
        )
    console = terminal()
    console.print(table)
    _print_remedies(report["checks"])
    failed = sum(check["state"] == "fail" for check in report["checks"])
    warned = sum(check["state"] in ("warn", "unknown") for check in report["checks"])
    verdict = f"{report['status']}: {failed} failed, {warned} to be looked at, in {report['seconds']:.1f} s"
    console.print(Text(verdict, style={"unhealthy": "red bold", "degraded": "yellow"}.get(report["status"], "green")))


def _print_remedies(checks: Sequence[Mapping[str, Any]]) -> None:
    console = terminal()
    remedies = [check for check in checks if check.get("remedy")]
    if remedies:
        console.print(Text(f"\n{_REMEDIES}", style="bold"))
    for check in remedies:
        console.print(Text(f"  {check['name']}: {check['remedy']}"))
    console.print()


def _figure(value: Any, unit: str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        value = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    if unit is not None and unit.startswith("bytes"):
        return f"{float(value) / 1024**2:.1f} MiB{unit.removeprefix('bytes')}"
    return f"{value} {unit}" if unit else str(value)
