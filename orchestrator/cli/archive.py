"""`holdfast backup`, `holdfast backup verify` and `holdfast restore`: what they do, and what they say."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table as Grid

from checkpointer.errors import SettingsError
from checkpointer.migrations import MIGRATIONS as CHECKPOINTER_MIGRATIONS
from checkpointer.postgres import archive
from checkpointer.postgres.archive_file import Manifest, Tell
from checkpointer.postgres.archive_restore import Restored, restore
from checkpointer.postgres.embedded import embedded_server
from checkpointer.postgres.pool import wait_until_ready
from checkpointer.settings import check_target, mask_conninfo
from orchestrator.cli.tables import print_json, terminal
from orchestrator.logs import setup_logging
from orchestrator.migrations import ALL_MIGRATIONS
from orchestrator.settings import OrchestratorSettings
from orchestrator.version import holdfast_version

__all__ = ["make_backup", "restore_backup", "verify_backup"]

_SETS = (CHECKPOINTER_MIGRATIONS, *ALL_MIGRATIONS)


async def make_backup(path: Path, url: str | None, *, dry_run: bool, as_json: bool) -> int:
    """Write everything in the schema to a file; with `dry_run`, only say what that would be."""
    began = time.monotonic()
    async with _place(url, None) as place:
        if dry_run:
            tables = await archive.planned(place.conninfo, place.schema)
            return _print_plan(place, path, tables, as_json=as_json)
        with _shown("Saving") as tell:
            manifest = await archive.backup(
                place.conninfo, place.schema, path, made_by=f"holdfast {holdfast_version()}", tell=tell
            )
    if as_json:
        print_json({**_about(path, manifest), "from": str(place), "seconds": round(time.monotonic() - began, 3)})
        return 0
    _say(
        f"{path}: {_counted(manifest)} of {place}, {decimal(_size(path))}, in {time.monotonic() - began:.1f} s. "
        "It holds states, inputs and outputs as they are stored: keep it as safe as the database"
    )
    return 0


async def verify_backup(path: Path, *, as_json: bool) -> int:
    """Read all of a file and say what is in it. Raises `ArchiveError` where a byte of it was changed."""
    setup_logging(OrchestratorSettings().log_format, "ERROR")
    with _shown("Verifying") as tell:
        manifest = await archive.verify(path, tell)
    if as_json:
        print_json({**_about(path, manifest), "ok": True})
        return 0
    _print_tables(manifest)
    _say(
        f"{path} is whole: {_counted(manifest)}, of {manifest.created_at:%Y-%m-%d %H:%M:%S} UTC, "
        f"made by {manifest.made_by} from PostgreSQL {manifest.server}, schema {manifest.schema_name}"
    )
    return 0


async def restore_backup(
    path: Path, url: str | None, schema: str | None, *, force: bool, dry_run: bool, as_json: bool
) -> int:
    """Load a file into a schema, all or nothing; with `dry_run`, only check that it could be."""
    began = time.monotonic()
    async with _place(url, schema) as place:
        with _shown("Restoring") as tell:
            restored = await restore(
                path,
                place.conninfo,
                place.schema,
                _SETS,
                force=force,
                dry_run=dry_run,
                wait_s=place.wait_s,
                tell=tell,
            )
    if as_json:
        outcome = {"into": str(place), "created": restored.created, "emptied": list(restored.emptied)}
        seconds = round(time.monotonic() - began, 3)
        print_json({**_about(path, restored.manifest), **outcome, "dryRun": dry_run, "seconds": seconds})
        return 0
    _print_restored(place, path, restored, dry_run=dry_run, seconds=time.monotonic() - began)
    return 0


@dataclass(frozen=True, slots=True)
class _Place:
    """The schema of a server. `wait_s` is how long to wait for locks."""

    conninfo: str = field(repr=False)
    schema: str
    wait_s: float

    def __str__(self) -> str:
        return f'schema "{self.schema}" of {mask_conninfo(self.conninfo)}'


@asynccontextmanager
async def _place(url: str | None, schema: str | None) -> AsyncIterator[_Place]:
    """Where the tables are, or are to be, ready to be connected to. Raises `SettingsError` and `ConnectError`."""
    settings = OrchestratorSettings()
    setup_logging(settings.log_format, "ERROR")
    wanted = schema if schema is not None else settings.postgres_schema
    if schema is not None:
        check_target("", schema)
    conninfo = _conninfo(settings, url)
    if conninfo is None:
        async with embedded_server(settings.postgres_embedded_dir) as started:
            yield _Place(started, wanted, settings.postgres_setup_timeout)
        return
    await wait_until_ready(
        conninfo,
        attempts=settings.postgres_connect_attempts,
        backoff_s=settings.postgres_connect_backoff,
        timeout_s=settings.postgres_connect_timeout,
    )
    yield _Place(conninfo, wanted, settings.postgres_setup_timeout)


def _conninfo(settings: OrchestratorSettings, url: str | None) -> str | None:
    """The direct address of the server, which may be another than a pooler's; None for the embedded one."""
    if url is not None:
        if not url.strip():
            raise SettingsError("--database-url is empty; it takes a connection string")
        try:
            check_target(url.strip(), settings.postgres_schema)
        except SettingsError as exc:
            raise SettingsError(f"--database-url: {exc}") from None
        given = {"postgres_migration_connection_string": SecretStr(url.strip())}
        return settings.model_copy(update=given).migration_conninfo()
    if settings.postgres_migration_connection_string is not None or settings.has_connection:
        return settings.migration_conninfo()
    if settings.use_postgres_saver:
        return None
    raise SettingsError(
        "no PostgreSQL is named: give --database-url, or set POSTGRES_CONNECTION_STRING, "
        "or USE_POSTGRES_SAVER=true for the embedded one"
    )


@contextmanager
def _shown(doing: str) -> Iterator[Tell]:
    """A line on a terminal that says how far it is."""
    with Console(stderr=True).status(doing) as status:
        yield lambda table, passed: status.update(f"{doing} {table}: {decimal(passed)}")


def _counted(manifest: Manifest) -> str:
    return f"{len(manifest.tables)} tables with {manifest.rows} rows"


def _size(path: Path) -> int:
    return path.stat().st_size


def _about(path: Path, manifest: Manifest) -> dict[str, Any]:
    tables = [
        {"name": table.name, "rows": table.rows, "bytes": table.bytes, "stored": table.stored, "sha256": table.sha256}
        for table in manifest.tables
    ]
    return {
        "file": str(path),
        "size": _size(path),
        "createdAt": manifest.created_at.isoformat(),
        "madeBy": manifest.made_by,
        "server": manifest.server,
        "schema": manifest.schema_name,
        "migrations": manifest.migrations,
        "rows": manifest.rows,
        "tables": tables,
    }


def _print_tables(manifest: Manifest) -> None:
    grid = Grid(box=None, pad_edge=False)
    grid.add_column("table", no_wrap=True)
    for title in ("rows", "bytes", "stored"):
        grid.add_column(title, no_wrap=True, justify="right")
    grid.add_column("SHA-256, verified", no_wrap=True)
    for table in manifest.tables:
        grid.add_row(table.name, str(table.rows), decimal(table.bytes), decimal(table.stored), table.sha256)
    terminal().print(grid)


def _print_plan(place: _Place, path: Path, tables: list[str], *, as_json: bool) -> int:
    if as_json:
        print_json({"file": str(path), "from": str(place), "tables": tables, "dryRun": True})
    else:
        _say(f"{place} would be written to {path}: {len(tables)} tables, {', '.join(tables)}")
    return 0


def _print_restored(place: _Place, path: Path, restored: Restored, *, dry_run: bool, seconds: float) -> None:
    if dry_run:
        made = "its tables would be made" if restored.created else "its tables are there"
        emptied = f"; these would be emptied first: {', '.join(restored.emptied)}" if restored.emptied else ""
        _say(f"{path} is whole and fits into {place}: {made}{emptied}. Nothing was changed")
        return
    if restored.emptied:
        _say(f"emptied first: {', '.join(restored.emptied)}")
    _say(
        f"{_counted(restored.manifest)} of {restored.manifest.created_at:%Y-%m-%d %H:%M:%S} UTC "
        f"are in {place}, in {seconds:.1f} s. Runs go on when a server or worker starts there"
    )


def _say(text: str) -> None:
    terminal().print(text, soft_wrap=True, highlight=False, markup=False)
