"""`holdfast setup`: the tables in PostgreSQL, made, verified or written out as SQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from checkpointer import SchemaError, SettingsError
from checkpointer.factory import open_postgres
from checkpointer.migrations import MIGRATIONS as CHECKPOINTER_MIGRATIONS
from checkpointer.postgres import schema as tables
from checkpointer.postgres.embedded import embedded_server
from checkpointer.postgres.pool import wait_until_ready
from checkpointer.postgres.unshare import unshare
from checkpointer.settings import check_target, mask_conninfo
from orchestrator.cli.inventory import Inventory, expected_objects, lost, present_objects, tables_of
from orchestrator.cli.tables import print_json, terminal
from orchestrator.logs import setup_logging
from orchestrator.migrations import ALL_MIGRATIONS
from orchestrator.settings import OrchestratorSettings

__all__ = ["check_tables", "create_tables", "print_sql", "store_whole"]

_SETS = (CHECKPOINTER_MIGRATIONS, *ALL_MIGRATIONS)


def print_sql() -> None:
    """Print everything setup would run on an empty database."""
    print(tables.setup_sql(OrchestratorSettings().postgres_schema, _SETS), end="")


async def create_tables(url: str | None, *, as_json: bool) -> int:
    """Create or upgrade the tables, and say what was applied and what is there now."""
    async with _target(url) as target:
        applied = await tables.setup(target.conninfo, target.schema, _SETS, timeout_s=target.timeout_s)
        present, gone = await _look(target)
    if as_json:
        print_json({**target.as_json(), "applied": applied, "tables": tables_of(present), "missing": gone})
        return 1 if gone else 0
    if gone:
        raise SchemaError(_says_gone(target, gone))
    _print_made(target, applied, tables_of(present))
    return 0


async def check_tables(url: str | None, *, as_json: bool) -> int:
    """Verify the tables, by the list of migrations and as they are; raises `SchemaError` where something is missing."""
    problem = None
    async with _target(url) as target:
        present, gone = await _look(target)
        try:
            await tables.verify(target.conninfo, target.schema, _SETS, timeout_s=target.timeout_s)
        except SchemaError as exc:
            problem = exc
    if as_json:
        error = None if problem is None else str(problem)
        print_json({**target.as_json(), "tables": tables_of(present), "missing": gone, "error": error})
        return 1 if gone or problem else 0
    if problem is not None:
        raise problem
    if gone:
        raise SchemaError(_says_gone(target, gone))
    print(f"{target} is up to date: {len(tables_of(present))} tables")
    return 0


async def store_whole() -> int:
    """Turn every shared list back into a row that LangGraph's own saver reads. Safe to stop and to repeat."""
    settings = OrchestratorSettings(use_postgres_saver=True)
    setup_logging(settings.log_format, "WARNING")
    if settings.checkpoint_storage != "whole":
        raise SettingsError(
            "CHECKPOINT_STORAGE=shared is set: with it lists are shared again as soon as they are saved. "
            "Set it to whole in every process first, then run this"
        )
    changed = 0
    async with open_postgres(settings) as saver:
        with Console(stderr=True).status("Starting") as status:
            async for changed in unshare(saver.pool, saver.schema, saver.serde, saver.cipher):
                status.update(f"{changed} values so far")
    print(f"{changed} shared values are stored whole now")
    return 0


@dataclass(frozen=True, slots=True)
class _Target:
    """The schema to set up, and which setting named the server."""

    conninfo: str = field(repr=False)
    schema: str
    source: str
    timeout_s: float

    def __str__(self) -> str:
        return f'schema "{self.schema}" of {mask_conninfo(self.conninfo)} ({self.source})'

    def as_json(self) -> dict[str, Any]:
        """What of it can be shown."""
        return {"schema": self.schema, "database": mask_conninfo(self.conninfo), "source": self.source}


class _SetupSettings(OrchestratorSettings):
    """DATABASE_URL, which many platforms set, is taken for setup alone: what runs is to be told which database."""

    database_url: SecretStr | None = None


@asynccontextmanager
async def _target(url: str | None) -> AsyncIterator[_Target]:
    """Where to set up, ready to be connected to. Raises `SettingsError` and `ConnectError`."""
    settings = _SetupSettings()
    setup_logging(settings.log_format, "ERROR")
    source, conninfo = _named_server(settings, url)
    if conninfo is None:
        async with embedded_server(settings.postgres_embedded_dir) as started:
            yield _Target(started, settings.postgres_schema, source, settings.postgres_setup_timeout)
        return
    await wait_until_ready(
        conninfo,
        attempts=settings.postgres_connect_attempts,
        backoff_s=settings.postgres_connect_backoff,
        timeout_s=settings.postgres_connect_timeout,
    )
    yield _Target(conninfo, settings.postgres_schema, source, settings.postgres_setup_timeout)


def _named_server(settings: _SetupSettings, url: str | None) -> tuple[str, str | None]:
    """What names the server, and its connection string; None for the embedded one. The order is that of `--help`."""
    if url is not None:
        return "--database-url", _given(settings, "--database-url", url)
    if settings.postgres_migration_connection_string is not None:
        return "POSTGRES_MIGRATION_CONNECTION_STRING", settings.migration_conninfo()
    if settings.postgres_connection_string is not None:
        return "POSTGRES_CONNECTION_STRING", settings.conninfo()
    if settings.postgres_host is not None:
        return "POSTGRES_HOST", settings.conninfo()
    if settings.database_url is not None:
        return "DATABASE_URL", _given(settings, "DATABASE_URL", settings.database_url.get_secret_value())
    if settings.use_postgres_saver:
        return "the embedded PostgreSQL", None
    raise SettingsError(
        "there is nothing to set up: no PostgreSQL is named; give --database-url, or set POSTGRES_CONNECTION_STRING, "
        "or USE_POSTGRES_SAVER=true for the embedded one"
    )


def _given(settings: _SetupSettings, name: str, url: str) -> str:
    """A connection string that the settings have not checked, with POSTGRES_PASSWORD where it lacks one."""
    if not url.strip():
        raise SettingsError(f"{name} is empty; it takes a connection string")
    try:
        check_target(url.strip(), settings.postgres_schema)
    except SettingsError as exc:
        raise SettingsError(f"{name}: {exc}") from None
    direct = {"postgres_migration_connection_string": SecretStr(url.strip())}
    return settings.model_copy(update=direct).migration_conninfo()


async def _look(target: _Target) -> tuple[Inventory, list[str]]:
    """What is in the schema, and what of the migrations' is not."""
    present = await present_objects(target.conninfo, target.schema)
    return present, lost(expected_objects(_SETS), present)


def _says_gone(target: _Target, gone: list[str]) -> str:
    return (
        f"{target} lacks {', '.join(gone)}, although the list of migrations says that all were made. Restore them from "
        "a backup, or run the output of `holdfast setup --sql`, which makes them anew, empty"
    )


def _print_made(target: _Target, applied: list[str], present: list[str]) -> None:
    made = Table(box=None, pad_edge=False)
    for title in ("migrations of", "number", "name"):
        made.add_column(title, no_wrap=True)
    for name in applied:
        made.add_row(*f"{name}  ".split(" ", 2))
    console = terminal()
    if applied:
        console.print(made)
    console.print(f"{len(present)} tables: {', '.join(present)}", soft_wrap=True, highlight=False)
    what = f"{len(applied)} migrations applied" if applied else "nothing to do"
    console.print(f"{target} is up to date: {what}", soft_wrap=True, highlight=False, markup=False)
