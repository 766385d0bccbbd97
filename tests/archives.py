"""Databases to back up, and comparing what a schema holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from checkpointer.migrations import MIGRATIONS
from checkpointer.postgres.archive import backup
from checkpointer.postgres.archive_file import Manifest, Tell
from checkpointer.postgres.archive_restore import Restored, restore
from orchestrator.migrations import ALL_MIGRATIONS
from tests.checkpoints import SCHEMA
from tests.proxy import Proxy

__all__ = ["SETS", "contents", "execute", "fill_rows", "make", "narrow", "put_back", "sequences"]

SETS = (MIGRATIONS, *ALL_MIGRATIONS)
Contents: TypeAlias = dict[str, list[str]]
_LISTS = ("checkpoint_migrations", "holdfast_migrations")


def execute(dsn: str, *statements: str) -> None:
    """Run statements, each committed at once."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


def contents(dsn: str, schema: str = SCHEMA) -> Contents:
    """Every row of every table, as text in a fixed order; without the lists of migrations."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        tables = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", (schema,)).fetchall()
        query = sql.SQL("SELECT t::text FROM {} t ORDER BY 1")
        return {
            name: [row for (row,) in conn.execute(query.format(sql.Identifier(schema, name)))]
            for (name,) in tables
            if name not in _LISTS
        }


def sequences(dsn: str, schema: str = SCHEMA) -> dict[str, int | None]:
    """Where the sequences stand; None for one that was never used."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        query = "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = %s"
        return dict(conn.execute(query, (schema,)).fetchall())


def fill_rows(dsn: str, *, blobs: int = 0) -> None:
    """Rows with every kind of type: arrays, enums, identities, bytes; and `blobs` values of 10 kB that don't shrink."""
    entity, other = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
    execute(
        dsn,
        f"""INSERT INTO {SCHEMA}.knowledge_entity
            VALUES ('{entity}', 'default', 'person', 'ada', 'Ada', '{entity}', '{{1,-2,9223372036854775807}}'),
                   ('{other}', 'default', 'person', 'lovelace', 'Läce ☃', '{entity}', '{{}}')""",
        f"""INSERT INTO {SCHEMA}.knowledge_alias
            (organization_id, entity_id, batch_id, document_key, surface, normal, spelled_out)
            SELECT 'default', '{entity}', '{other}', 'd', 'a', 'a', n > 3 FROM generate_series(1, 7) n""",
        f"""INSERT INTO {SCHEMA}.procrastinate_jobs (queue_name, task_name, status, args)
            SELECT 'q', 't', unnest(enum_range(NULL::{SCHEMA}.procrastinate_job_status)), '{{"a": [1, null]}}'""",
        f"""INSERT INTO {SCHEMA}.checkpoint_blobs
            SELECT 'bulk', '', 'c', n::text, 'bytes',
                   (SELECT string_agg(uuid_send(gen_random_uuid()), '') FROM generate_series(1, 625) WHERE n > 0)
              FROM generate_series(1, {blobs}) n""",
    )


async def make(dsn: str, path: Path, *, schema: str = SCHEMA, tell: Tell | None = None) -> Manifest:
    """A backup."""
    return await backup(dsn, schema, path, made_by="holdfast test", tell=tell)


async def put_back(path: Path, dsn: str, *, schema: str = SCHEMA, **options: Any) -> Restored:
    """A restore that does not wait for long."""
    return await restore(path, dsn, schema, SETS, **{"wait_s": 10.0, **options})


@asynccontextmanager
async def narrow(dsn: str, monkeypatch: pytest.MonkeyPatch, after_bytes: int) -> AsyncIterator[tuple[str, Proxy]]:
    """The same database by way of a proxy that falls silent when so many bytes came from the server; `hear` ends it."""
    passed = 0

    async def pump(line: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal passed
        while data := await reader.read(65536):
            passed += len(data)
            if passed - len(data) < after_bytes <= passed:
                line.open.clear()
            await line.open.wait()
            writer.write(data)
            await writer.drain()

    monkeypatch.setattr("tests.proxy._pump", pump)
    parts = conninfo_to_dict(dsn)
    async with Proxy.to(str(parts["host"]), int(parts.get("port") or 5432)) as proxy:
        yield make_conninfo(dsn, host="127.0.0.1", port=proxy.port), proxy
