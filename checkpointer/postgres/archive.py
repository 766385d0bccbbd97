"""Verified backup: everything that a schema holds, as of one moment, in one file (`archive_file.py`).

1. A transaction, REPEATABLE READ and read only, first locks every table against being changed in shape (ACCESS SHARE,
   as every SELECT does): saves and runs go on beside it. Its snapshot comes after the locks.
2. What there is to save is asked of the catalogue, so a table is in a backup as soon as a migration makes it. Two are
   left out: the lists of migrations, which say what the schema is. They are in the manifest.
3. Every table is a binary COPY of its columns but for those that are computed, passed on as it comes, in blocks.
4. Sequences don't belong to a snapshot. They are read last, so that they are never behind the rows.

What is encrypted in the tables is encrypted in the file. Everything else is in the file as it is in the tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import IsolationLevel
from psycopg.rows import DictRow

from checkpointer.errors import ArchiveError, ConnectError
from checkpointer.postgres.archive_file import (
    FORMAT,
    ArchiveWriter,
    Column,
    Manifest,
    SequenceState,
    Table,
    Tell,
    verify_archive,
    writing,
)
from checkpointer.postgres.archive_file import opened as opened_archive
from checkpointer.postgres.pool import Connection, connect
from checkpointer.postgres.queries import load_queries, quote_identifier
from checkpointer.postgres.retry import summary
from checkpointer.settings import mask_conninfo

__all__ = [
    "TableShape",
    "archive_connection",
    "backup",
    "migrations_of",
    "naming",
    "planned",
    "qualified",
    "rows_of",
    "sequences",
    "shapes",
    "verify",
]

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TableShape:
    """A table as it is in a database: the columns that hold values of their own, and those that must be given."""

    name: str
    columns: tuple[Column, ...]
    required: frozenset[str]
    unportable: tuple[str, ...]


async def backup(conninfo: str, schema: str, path: Path, *, made_by: str, tell: Tell | None = None) -> Manifest:
    """Write everything in the schema to the file, beside live load; returns what was written.

    Raises `ConnectError`, and `ArchiveError` where the schema is not one of ours, may not be read, or the file can't be
    written: then what was at the path before is still there.
    """
    with writing(path) as archive:
        async with _snapshot(conninfo, schema) as (conn, tables):
            written = [await _write_table(conn, schema, archive, table, tell) for table in tables]
            manifest = Manifest(
                format=FORMAT,
                made_by=made_by,
                created_at=archive.created_at,
                server=conn.info.parameter_status("server_version") or "unknown",
                schema_name=schema,
                migrations=await migrations_of(conn, schema),
                tables=tuple(written),
                sequences=tuple(await sequences(conn, schema)),
            )
        archive.finish(manifest)
    return manifest


async def planned(conninfo: str, schema: str) -> list[str]:
    """The names of the tables that a backup would hold. Raises what `backup` does."""
    async with _snapshot(conninfo, schema) as (_, tables):
        return [table.name for table in tables]


async def verify(path: Path, tell: Tell | None = None) -> Manifest:
    """Read every byte of a backup; gives what it holds. Raises `ArchiveError` where a byte is not as written."""

    def read() -> Manifest:
        with opened_archive(path) as file:
            return verify_archive(file, tell)

    return await asyncio.to_thread(read)


@asynccontextmanager
async def archive_connection(conninfo: str, doing: str) -> AsyncIterator[Connection]:
    """A connection of its own, whose errors are `ConnectError` and `ArchiveError`."""
    try:
        # Another name than that of the processes that save: a restore looks for those.
        conn = await connect(
            conninfo, prepare_threshold=None, application_name="holdfast archive", client_encoding="utf8"
        )
    except (psycopg.OperationalError, TimeoutError) as exc:
        raise ConnectError(f"{doing} could not connect to {mask_conninfo(conninfo)}: {summary(exc)}") from exc
    async with conn:
        try:
            yield conn
        except psycopg.errors.LockNotAvailable as exc:
            raise ArchiveError(f"{doing} waited too long for tables that others use: stop them and try again") from exc
        except psycopg.Error as exc:
            raise ArchiveError(f"{doing} failed: {summary(exc)}") from exc


async def rows_of(conn: Connection, query: str, params: Mapping[str, object] | None = None) -> list[DictRow]:
    """The rows that a statement gives."""
    return await (await conn.execute(query.encode(), params)).fetchall()


async def shapes(conn: Connection, schema: str) -> list[TableShape]:
    """The tables of the schema, in order, as this transaction sees them."""
    queries = load_queries("checkpointer.postgres", schema)
    columns = await rows_of(conn, queries["archive_columns"], {"schema": schema})
    found = []
    for row in await rows_of(conn, queries["archive_tables"], {"schema": schema}):
        own = [each for each in columns if each["table"] == row["name"] and not each["generated"]]
        found.append(
            TableShape(
                name=row["name"],
                columns=tuple(Column(name=each["name"], type=each["type"]) for each in own),
                required=frozenset(each["name"] for each in own if each["required"]),
                unportable=tuple(f"{each['name']} {each['type']}" for each in own if not each["portable"]),
            )
        )
    return found


async def migrations_of(conn: Connection, schema: str) -> dict[str, int]:
    """The highest number that was applied, of LangGraph's migrations and of each set of ours."""
    queries = load_queries("checkpointer.postgres", schema)
    [langgraph] = await rows_of(conn, queries["applied_langgraph"])
    ours = await rows_of(conn, queries["applied_ours"])
    return {"langgraph": -1 if langgraph["v"] is None else langgraph["v"]} | {
        row["set_name"]: row["number"] for row in ours
    }


def qualified(schema: str, name: str) -> str:
    """A name in the schema, quoted."""
    return f"{quote_identifier(schema)}.{quote_identifier(name)}"


def naming(schema: str, query: str, *tables: str, columns: Sequence[Column] = ()) -> str:
    """One of the statements that are about given tables of the schema, and columns of them."""
    text = load_queries("checkpointer.postgres", schema)[query]
    text = text.replace("{columns}", ", ".join(quote_identifier(column.name) for column in columns))
    return text.replace("{tables}", ", ".join(qualified(schema, table) for table in tables))


@asynccontextmanager
async def _snapshot(conninfo: str, schema: str) -> AsyncIterator[tuple[Connection, list[TableShape]]]:
    """A transaction that sees one moment, and the tables in it."""
    queries = load_queries("checkpointer.postgres", schema)
    async with archive_connection(conninfo, f'the backup of schema "{schema}"') as conn:
        [present] = await rows_of(
            conn, queries["tables_present"], {"schema": schema, "quoted": quote_identifier(schema)}
        )
        if not (present["langgraph"] and present["ours"]):
            raise ArchiveError(
                f'schema "{schema}" of {mask_conninfo(conninfo)} does not hold the tables of Holdfast: '
                "name another with POSTGRES_SCHEMA, or make them with `holdfast setup`"
            )
        before = await rows_of(conn, queries["archive_tables"], {"schema": schema})
        await conn.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await conn.set_read_only(True)
        async with conn.transaction():
            await conn.execute(naming(schema, "archive_share_tables", *(row["name"] for row in before)).encode())
            await conn.execute(queries["archive_waits"].encode())
            tables = await shapes(conn, schema)
            for table in tables:
                if table.unportable:
                    raise ArchiveError(
                        f"table {table.name} has columns that no other database could read from a binary COPY: "
                        f"{', '.join(table.unportable)}"
                    )
            yield conn, tables


async def _write_table(
    conn: Connection, schema: str, archive: ArchiveWriter, table: TableShape, tell: Tell | None
) -> Table:
    # Compressing and writing happen in a thread: the event loop may have other work.
    writer = await asyncio.to_thread(archive.table, table.name, table.columns)
    passed = 0
    async with conn.cursor() as cursor:
        statement = naming(schema, "archive_copy_out", table.name, columns=table.columns)
        async with cursor.copy(statement.encode()) as copy:
            async for block in _blocks(copy):
                await asyncio.to_thread(writer.write, block)
                passed += len(block)
                if tell is not None:
                    tell(table.name, passed)
        rows = cursor.rowcount
    return await asyncio.to_thread(writer.end, rows, archive.created_at)


async def _blocks(copy: psycopg.AsyncCopy) -> AsyncIterator[bytes]:
    """What COPY gives row by row, in blocks."""
    block = bytearray()
    async for row in copy:
        block += row
        if len(block) >= _BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


async def sequences(conn: Connection, schema: str) -> list[SequenceState]:
    """Where the sequences of the schema stand. Raises `ArchiveError` where this role may not know."""
    rows = await rows_of(conn, load_queries("checkpointer.postgres", schema)["archive_sequences"], {"schema": schema})
    if hidden := [row["name"] for row in rows if not row["readable"]]:
        raise ArchiveError(
            f"sequences may not be read: {', '.join(hidden)}; have their owner "
            f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA {quote_identifier(schema)} to this role"
        )
    return [SequenceState(name=row["name"], last=row["last"], called=row["called"]) for row in rows]
