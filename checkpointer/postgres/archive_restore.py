"""Verified restore: all that a backup holds, or nothing.

1. Every byte of the file is verified. Nothing has been touched until then, nor has the server been asked.
2. All that follows is one transaction. Where the schema has no tables, they are made in it; tables that are there must
   be up to date. They are locked against everyone, so that what is checked next stays true.
3. Does it fit? No migration in the backup may be one that the tables lack. Each of its columns must be there, of the
   same type; each column that it lacks must have a default. So a backup of an older Holdfast is loaded as if its rows
   had been there when the columns were added.
4. Is there room? Tables with rows are refused, or emptied where that was asked for. Processes that use the database are
   refused in any case: they know epochs of fences and hashes of chunks that the restored rows may contradict.
5. Tables are loaded in the order of their foreign keys, without triggers: what those did is in the rows already, and
   nobody is to be told of it again. The bytes are hashed once more on their way; rows are counted.
6. Sequences go on from where they stood.

Runs that were under way belong to processes that are not there: the first server that starts takes them over, as it
does after a crash.
"""

from __future__ import annotations

import asyncio
import graphlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from psycopg.rows import DictRow

from checkpointer.errors import ArchiveError
from checkpointer.postgres import schema as setup
from checkpointer.postgres.archive import (
    TableShape,
    archive_connection,
    migrations_of,
    naming,
    qualified,
    rows_of,
    sequences,
    shapes,
    verify,
)
from checkpointer.postgres.archive_file import Manifest, Table, Tell, opened, table_blocks
from checkpointer.postgres.migrations import MigrationSet
from checkpointer.postgres.pool import Connection
from checkpointer.postgres.queries import load_queries

__all__ = ["Restored", "restore"]

# A connection outlives the process that closed it, or was killed, by a moment.
_LEAVING_S = 3.0
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored: from which backup, whether its tables were made, and which had to be emptied."""

    manifest: Manifest
    created: bool
    emptied: tuple[str, ...]


async def restore(
    path: Path,
    conninfo: str,
    schema: str,
    sets: Sequence[MigrationSet],
    *,
    force: bool = False,
    dry_run: bool = False,
    wait_s: float = 60.0,
    tell: Tell | None = None,
) -> Restored:
    """Load a backup into the schema, which is made where it does not exist. All or nothing.

    `force` empties tables that hold rows; `dry_run` checks everything and loads nothing. `wait_s` is how long to wait
    for locks. Raises `ArchiveError`, `SchemaError` and `ConnectError`; the database is as it was before then.
    """
    manifest = await verify(path, tell)
    doing = f'the restore into schema "{schema}"'
    async with archive_connection(conninfo, doing) as conn, conn.transaction(force_rollback=dry_run):
        work = _Restore(conn, schema, manifest)
        created = await work.ready(sets, wait_s)
        await work.check_fit()
        emptied = await work.make_room(force=force)
        if not dry_run:
            await work.load(path, tell)
    return Restored(manifest, created, emptied)


class _Restore:
    """One restore, inside its transaction."""

    def __init__(self, conn: Connection, schema: str, manifest: Manifest) -> None:
        self._conn = conn
        self._schema = schema
        self._manifest = manifest
        self._queries: Mapping[str, str] = load_queries("checkpointer.postgres", schema)
        self._tables: list[TableShape] = []

    async def ready(self, sets: Sequence[MigrationSet], wait_s: float) -> bool:
        """Have the tables there and locked; tells whether they had to be made."""
        await self._ask("archive_waits")
        await self._ask("archive_lock_wait", ms=round(wait_s * 1000))
        lacking = await setup.missing(self._conn, self._schema, sets)
        if lacking.fresh:
            await self._create(sets, wait_s)
        elif lacking:
            raise ArchiveError(
                f'schema "{self._schema}" is not up to date, it lacks {", ".join(lacking.names())}: '
                "run `holdfast setup`, then restore"
            )
        await self._be_alone()
        self._tables = await shapes(self._conn, self._schema)
        await self._run("archive_take_tables", *self._names())
        return lacking.fresh

    async def _be_alone(self) -> None:
        """Raise `ArchiveError` where processes of ours are connected, and not just about to be gone."""
        deadline = time.monotonic() + _LEAVING_S
        while users := await self._ask("archive_users"):
            if time.monotonic() > deadline:
                raise ArchiveError(
                    f"{len(users)} connections of Holdfast use this database (process ids of PostgreSQL: "
                    f"{', '.join(str(row['pid']) for row in users)}): stop all servers and workers first, "
                    "what they know would contradict what is restored"
                )
            await asyncio.sleep(_LOOK_EVERY_S)
            await self._ask("archive_look_again")

    async def _create(self, sets: Sequence[MigrationSet], wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await setup.create_within(self._conn, self._schema, sets)
        except TimeoutError as exc:
            raise ArchiveError(f"the tables could not be made within {wait_s:g} s: another setup is under way") from exc

    async def check_fit(self) -> None:
        """Raise `ArchiveError` unless every row of the backup has its place."""
        here = await migrations_of(self._conn, self._schema)
        newer = [
            f"{name} {number}" for name, number in self._manifest.migrations.items() if number > here.get(name, -1)
        ]
        if newer:
            raise ArchiveError(
                f"the backup was made by {self._manifest.made_by} and has migrations that this one does not know "
                f"({', '.join(newer)}): restore it with that version or a later one"
            )
        tables = {table.name: table for table in self._tables}
        wrong = [fault for table in self._manifest.tables for fault in _misfits(table, tables.get(table.name))]
        known = {state.name for state in await sequences(self._conn, self._schema)}
        wrong += [f"sequence {state.name} is missing" for state in self._manifest.sequences if state.name not in known]
        if wrong:
            raise ArchiveError(f'the backup does not fit into schema "{self._schema}": {"; ".join(wrong)}')

    async def make_room(self, *, force: bool) -> tuple[str, ...]:
        """Empty the tables that hold rows, or refuse to; gives their names."""
        full = [table.name for table in self._tables if await self._has_rows(table)]
        if full and not force:
            raise ArchiveError(
                f'schema "{self._schema}" is not empty ({", ".join(full)}): restore into another schema or database, '
                "or give --force to delete every row that is there"
            )
        if full:
            await self._run("archive_empty_tables", *self._names())
        return tuple(full)

    async def load(self, path: Path, tell: Tell | None) -> None:
        """Load every table, then set the sequences."""
        async with self._without_triggers():
            with opened(path) as file:
                for table in await self._in_order():
                    await self._load_table(file, table, tell)
        for state in self._manifest.sequences:
            name = qualified(self._schema, state.name)
            await self._ask("archive_set_sequence", name=name, last=state.last, called=state.called)
        await self._run("archive_analyze", *self._names())

    async def _load_table(self, file: IO[bytes], table: Table, tell: Tell | None) -> None:
        blocks = table_blocks(file, self._manifest, table, tell)
        async with self._conn.cursor() as cursor:
            statement = naming(self._schema, "archive_copy_in", table.name, columns=table.columns)
            async with cursor.copy(statement.encode()) as copy:
                while block := await asyncio.to_thread(next, blocks, b""):
                    await copy.write(block)
            if cursor.rowcount != table.rows:
                raise ArchiveError(
                    f"table {table.name} took {cursor.rowcount} rows of {table.rows}; nothing is restored"
                )

    @asynccontextmanager
    async def _without_triggers(self) -> AsyncIterator[None]:
        names = [row["name"] for row in await self._ask("archive_triggered", schema=self._schema)]
        for name in names:
            await self._run("archive_triggers_off", name)
        yield
        for name in names:
            await self._run("archive_triggers_on", name)

    async def _in_order(self) -> list[Table]:
        """The backup's tables, each after those that its rows refer to."""
        sorter = graphlib.TopologicalSorter[str]({table.name: () for table in self._manifest.tables})
        for row in await self._ask("archive_references", schema=self._schema):
            sorter.add(row["from"], row["to"])
        tables = {table.name: table for table in self._manifest.tables}
        return [tables[name] for name in sorter.static_order() if name in tables]

    async def _has_rows(self, table: TableShape) -> bool:
        return bool(await rows_of(self._conn, naming(self._schema, "archive_any_row", table.name)))

    async def _ask(self, query: str, **params: object) -> list[DictRow]:
        return await rows_of(self._conn, self._queries[query], params)

    async def _run(self, query: str, *tables: str) -> None:
        await self._conn.execute(naming(self._schema, query, *tables).encode())

    def _names(self) -> list[str]:
        return [table.name for table in self._tables]


def _misfits(table: Table, there: TableShape | None) -> list[str]:
    """Why a table of the backup can't be loaded into the one that is there."""
    if there is None:
        return [f"table {table.name} is missing (a table of your own is to be made there first)"]
    types = {column.name: column.type for column in there.columns}
    wrong = []
    for column in table.columns:
        if column.name not in types:
            wrong.append(f"column {table.name}.{column.name} is missing")
        elif types[column.name] != column.type:
            wrong.append(f"column {table.name}.{column.name} is {types[column.name]} there and {column.type} here")
    given = {column.name for column in table.columns}
    return wrong + [f"column {table.name}.{name} has no default" for name in sorted(there.required - given)]
