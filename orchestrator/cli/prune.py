"""`holdfast prune`: forget runs that are over, and old checkpoints; or say what would go."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from checkpointer.factory import open_postgres
from checkpointer.postgres.retention_held import TableSize
from orchestrator.cli.tables import terminal
from orchestrator.engine.retention import Report, Retention, RetentionRules
from orchestrator.errors import InvalidRequestError
from orchestrator.keeping import OVER, KeepFor, parse_duration
from orchestrator.logs import setup_logging
from orchestrator.migrations import ALL_MIGRATIONS
from orchestrator.runs.expiry.database import Database
from orchestrator.runs.expiry.leftovers import sizes
from orchestrator.runs.expiry.leftovers import vacuum as give_back
from orchestrator.settings import OrchestratorSettings

__all__ = ["prune"]

# After VACUUM, tables of this size are shown even where nothing of them went.
_LARGE_BYTES = 1024 * 1024


async def prune(
    *,
    older_than: str | None,
    keep_last: int | None,
    workflow: str | None,
    status: str | None,
    all_threads: bool,
    dry_run: bool,
    vacuum: bool,
    as_json: bool,
) -> int:
    """One pass, and what it freed. Raises `InvalidRequestError`, `SettingsError` and the saver's errors."""
    if dry_run and vacuum:
        raise InvalidRequestError("--dry-run changes nothing, so --vacuum can't go with it")
    settings = OrchestratorSettings(use_postgres_saver=True)
    rules = _rules(settings, older_than, keep_last, workflow, status, all_threads=all_threads)
    setup_logging(settings.log_format, "WARNING")
    async with open_postgres(settings, migrations=ALL_MIGRATIONS) as saver:
        db = Database(saver.pool, saver.schema, saver.cipher, saver.retry_for_s)
        with Console(stderr=True).status("Looking") as shown:
            retention = Retention(
                db, rules, dry=dry_run, progress=lambda report: shown.update(_sentence(report, "so far", dry_run))
            )
            report = await retention.run()
            vacuumed: list[str] = []
            if vacuum:
                shown.update("VACUUM")
                vacuumed = await give_back(db)
        tables = await sizes(db)
    (_print_json if as_json else _print)(report, tables, vacuumed, dry_run)
    return 0


def _rules(
    settings: OrchestratorSettings,
    older_than: str | None,
    keep_last: int | None,
    workflow: str | None,
    status: str | None,
    *,
    all_threads: bool,
) -> RetentionRules:
    """What the options say; without a time and a number, what the settings say."""
    if status is not None and status not in OVER:
        raise InvalidRequestError(f"--status takes {', '.join(OVER)}, not {status!r}: other runs are never removed")
    try:
        seconds = None if older_than is None else parse_duration(older_than)
    except ValueError as exc:
        raise InvalidRequestError(f"--older-than: {exc}") from None
    if all_threads and keep_last is None and settings.checkpoint_keep_last is None:
        raise InvalidRequestError("--all-threads shortens threads: say to how many checkpoints, with --keep-last")
    said = RetentionRules.of(settings)
    runs, checkpoints, last = said.runs, said.checkpoints, said.keep_last
    if seconds is not None or keep_last is not None:
        runs = None if seconds is None else KeepFor.always(seconds, workflow=workflow, status=status)
        checkpoints = None if keep_last is None else KeepFor.always(0.0, workflow=workflow, status=status)
        last = keep_last if keep_last is not None or not all_threads else said.keep_last
    rules = RetentionRules(
        runs, checkpoints, last, workflow, status, all_threads=all_threads, unused_s=seconds, orphans=True
    )
    if not rules:
        raise InvalidRequestError(
            "nothing says what may go: give --older-than 30d or --keep-last 10, or set RUN_KEEP_FOR, "
            "CHECKPOINT_KEEP_FOR or CHECKPOINT_KEEP_LAST"
        )
    return rules


def _sentence(report: Report, when: str, dry_run: bool) -> str:
    verb = "would go" if dry_run else "removed"
    return (
        f"{report.runs.total()} runs {verb} and {report.threads} threads shortened {when}: "
        f"{report.freed.total_rows} rows, about {_size(report.freed.total_bytes)}"
    )


def _print(report: Report, tables: list[TableSize], vacuumed: list[str], dry_run: bool) -> None:
    console = terminal()
    if report.runs:
        states = Table(box=None, pad_edge=False)
        for title in ("workflow", "state", "runs", *(("rows", "about") if dry_run else ())):
            states.add_column(title, justify="left" if title in ("workflow", "state") else "right", no_wrap=True)
        for (workflow, status), count in sorted(report.runs.items()):
            freed = report.by_state.get((workflow, status))
            more = () if freed is None else (str(freed.total_rows), _size(freed.total_bytes))
            states.add_row(workflow, status, str(count), *more)
        console.print(states)
    going = {name for name, rows in report.freed.rows.items() if rows}
    if going or vacuumed:
        large = {table.name for table in tables if vacuumed and table.total_bytes >= _LARGE_BYTES}
        console.print(_table_of_tables(report, [table for table in tables if table.name in going | large], dry_run))
    console.print(_sentence(report, "in all", dry_run), soft_wrap=True, highlight=False)
    if vacuumed:
        console.print(f"VACUUM: {len(vacuumed)} tables", highlight=False)
    elif going and not dry_run:
        console.print(
            "The room of dead rows is used again once VACUUM has run (autovacuum, or --vacuum).", highlight=False
        )


def _table_of_tables(report: Report, tables: list[TableSize], dry_run: bool) -> Table:
    shown = Table(box=None, pad_edge=False)
    for title in ("table", "would go" if dry_run else "gone", "about", "size", "dead rows"):
        shown.add_column(title, justify="left" if title == "table" else "right", no_wrap=True)
    for table in tables:
        rows, freed = report.freed.rows.get(table.name, 0), report.freed.bytes.get(table.name, 0)
        shown.add_row(table.name, str(rows), _size(freed), _size(table.total_bytes), str(table.dead_rows))
    return shown


def _print_json(report: Report, tables: list[TableSize], vacuumed: list[str], dry_run: bool) -> None:
    def state(key: tuple[str, str], count: int) -> dict[str, Any]:
        found: dict[str, Any] = {"workflow": key[0], "status": key[1], "runs": count}
        if freed := report.by_state.get(key):
            found |= {"rows": freed.total_rows, "bytes": freed.total_bytes}
        return found

    result = {
        "dryRun": dry_run,
        "runs": [state(key, count) for key, count in sorted(report.runs.items())],
        "threadsShortened": report.threads,
        "freed": {
            name: {"rows": rows, "bytes": report.freed.bytes.get(name, 0)}
            for name, rows in sorted(report.freed.rows.items())
        },
        "tables": [_camel(asdict(table)) for table in tables],
        "vacuumed": vacuumed,
    }
    print(json.dumps(result))


def _camel(row: dict[str, Any]) -> dict[str, Any]:
    return {name.split("_")[0] + "".join(map(str.title, name.split("_")[1:])): value for name, value in row.items()}


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GB"
