"""`holdfast setup`: the tables in PostgreSQL, made, verified or written out as SQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console

from checkpointer import PooledPostgresSaver, SettingsError, open_saver
from checkpointer.migrations import MIGRATIONS as CHECKPOINTER_MIGRATIONS
from checkpointer.postgres import schema as tables
from checkpointer.postgres.embedded import embedded_server
from checkpointer.postgres.pool import wait_until_ready
from checkpointer.postgres.unshare import unshare
from checkpointer.settings import mask_conninfo
from orchestrator.logs import setup_logging
from orchestrator.migrations import MIGRATIONS
from orchestrator.settings import OrchestratorSettings

__all__ = ["check_tables", "create_tables", "print_sql", "store_whole"]

_SETS = (CHECKPOINTER_MIGRATIONS, MIGRATIONS)


def print_sql() -> None:
    """Print everything setup would run on an empty database."""
    print(tables.setup_sql(OrchestratorSettings().postgres_schema, _SETS), end="")


async def create_tables() -> int:
    """Create or upgrade the tables and say which migrations were applied."""
    settings = _settings()
    async with _direct_conninfo(settings) as conninfo:
        applied = await tables.setup(
            conninfo, settings.postgres_schema, _SETS, timeout_s=settings.postgres_setup_timeout
        )
        where = f'schema "{settings.postgres_schema}" of {mask_conninfo(conninfo)}'
    for name in applied:
        print(f"applied {name}")
    print(f"{where} is up to date")
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
    async with open_saver(settings) as saver:
        if not isinstance(saver, PooledPostgresSaver):
            raise SettingsError("there is nothing to turn back in memory: set USE_POSTGRES_SAVER")
        with Console(stderr=True).status("Starting") as status:
            async for changed in unshare(saver.pool, saver.schema, saver.serde, saver.cipher):
                status.update(f"{changed} values so far")
    print(f"{changed} shared values are stored whole now")
    return 0


async def check_tables() -> int:
    """Verify the tables; raises `SchemaError` where something is missing."""
    settings = _settings()
    async with _direct_conninfo(settings) as conninfo:
        await tables.verify(conninfo, settings.postgres_schema, _SETS)
        print(f'schema "{settings.postgres_schema}" of {mask_conninfo(conninfo)} is up to date')
    return 0


def _settings() -> OrchestratorSettings:
    settings = OrchestratorSettings()
    setup_logging(settings.log_format, "WARNING")
    return settings


@asynccontextmanager
async def _direct_conninfo(settings: OrchestratorSettings) -> AsyncIterator[str]:
    if settings.has_connection:
        conninfo = settings.migration_conninfo()
        await wait_until_ready(
            conninfo,
            attempts=settings.postgres_connect_attempts,
            backoff_s=settings.postgres_connect_backoff,
            timeout_s=settings.postgres_connect_timeout,
        )
        yield conninfo
    elif settings.use_postgres_saver:
        async with embedded_server(settings.postgres_embedded_dir) as conninfo:
            yield conninfo
    else:
        raise SettingsError(
            "there is nothing to set up: USE_POSTGRES_SAVER is not set and no PostgreSQL is named; "
            "set POSTGRES_CONNECTION_STRING"
        )
