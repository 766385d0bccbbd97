"""Create, upgrade and verify the tables, under one advisory lock.

Protocol:
1. A first look, without a lock: where every migration is applied already, that is all.
2. The lock is polled with `pg_try_advisory_*`: a backend that *waits* in `pg_advisory_lock` holds a snapshot, and
   CREATE INDEX CONCURRENTLY in another setup waits for that snapshot: a deadlock.
3. On tables that do not exist yet everything happens in one transaction, LangGraph's indexes included (an empty
   table needs no CONCURRENTLY), so an unrelated long transaction blocks nothing and a setup that is cut off leaves
   nothing behind. Only an upgrade of LangGraph's older tables runs statement by statement, as upstream does.
4. Whatever waits longer than the time-out is given up with the process ids of the backends in the way.

Migrations only ever add, so a database that is newer than this code is used as it is (a rollback of the
application must not be stopped by the tables).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from langgraph.checkpoint.postgres.base import MIGRATIONS as LANGGRAPH_MIGRATIONS
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import DictRow

from checkpointer.errors import ConnectError, SchemaError, SetupBlockedError
from checkpointer.postgres.migrations import Migration, MigrationSet
from checkpointer.postgres.pool import Connection, connect
from checkpointer.postgres.queries import load_queries, quote_identifier
from checkpointer.postgres.retry import summary
from checkpointer.settings import mask_conninfo

__all__ = ["Missing", "create_within", "missing", "revert", "setup", "setup_sql", "verify"]

T = TypeVar("T")

_POLL_S = 0.05
_CONCURRENT_INDEXES = re.findall(r"INDEX CONCURRENTLY IF NOT EXISTS (\w+)", " ".join(LANGGRAPH_MIGRATIONS))


@dataclass(frozen=True, slots=True)
class Missing:
    """What a database lacks. `fresh` when LangGraph's tables do not exist at all."""

    schema: bool
    fresh: bool
    langgraph_from: int
    ours: tuple[Migration, ...]

    def __bool__(self) -> bool:
        return self.schema or bool(self.names())

    def names(self) -> list[str]:
        """The missing migrations, for a person to read."""
        theirs = [f"langgraph {number}" for number in range(self.langgraph_from, len(LANGGRAPH_MIGRATIONS))]
        return theirs + [f"{m.set_name} {m.number:04} {m.name}" for m in self.ours]


def _queries(schema: str) -> Mapping[str, str]:
    return load_queries("checkpointer.postgres", schema)


async def _rows(conn: Connection, query: str, **params: object) -> list[DictRow]:
    return await (await conn.execute(query.encode(), params)).fetchall()


async def missing(conn: Connection, schema: str, sets: Sequence[MigrationSet]) -> Missing:
    """Compare the database with what this code needs."""
    queries = _queries(schema)
    [present] = await _rows(conn, queries["tables_present"], schema=schema, quoted=quote_identifier(schema))
    langgraph: int | None = None
    applied: dict[str, int] = {}
    if present["langgraph"]:
        langgraph = (await _rows(conn, queries["applied_langgraph"]))[0]["v"]
    if present["ours"]:
        applied = {row["set_name"]: row["number"] for row in await _rows(conn, queries["applied_ours"])}
    return Missing(
        schema=not present["schema"],
        fresh=not present["checkpoints"],
        langgraph_from=0 if langgraph is None else langgraph + 1,
        ours=tuple(m for s in sets for m in s.migrations if m.number > applied.get(s.name, 0)),
    )


async def verify(conninfo: str, schema: str, sets: Sequence[MigrationSet], *, timeout_s: float = 60.0) -> None:
    """Raise `SchemaError` unless every migration is applied. Changes nothing."""
    lacking = await _within(timeout_s, conninfo, schema, lambda conn: missing(conn, schema, sets))
    if lacking:
        what = ", ".join(lacking.names()) if not lacking.schema else "everything: the schema does not exist"
        raise SchemaError(
            f'schema "{schema}" lacks {what}. Run `holdfast setup` as a role that may create tables, '
            "or give the output of `holdfast setup --sql` to a DBA"
        )


async def setup(conninfo: str, schema: str, sets: Sequence[MigrationSet], *, timeout_s: float = 60.0) -> list[str]:
    """Create or upgrade the tables and return the names of the migrations that were applied.

    Safe to repeat and to run from many processes at once. Raises `SchemaError` where the role lacks a privilege,
    and `SetupBlockedError` after `timeout_s`.
    """
    return await _within(timeout_s, conninfo, schema, lambda conn: _create(conn, schema, sets))


async def create_within(conn: Connection, schema: str, sets: Sequence[MigrationSet]) -> list[str]:
    """Create tables that do not exist at all yet, as a part of the transaction that `conn` is in.

    Returns the names of the migrations. Polls for the setup lock without an end: give it a time-out.
    """
    lacking = await missing(conn, schema, sets)
    if not lacking.fresh:
        raise SchemaError(f'schema "{schema}" has tables already: run `holdfast setup`')
    await _require_privileges(conn, schema, lacking)
    return await _apply(conn, schema, sets, lacking)


async def revert(
    conninfo: str, schema: str, sets: Sequence[MigrationSet], *, to: int = 0, timeout_s: float = 60.0
) -> list[str]:
    """Take our migrations with a number above `to` back, last first; returns their names.

    LangGraph's tables have no way back and are left alone. What the migrations' tables held is lost.
    """
    return await _within(timeout_s, conninfo, schema, lambda conn: _revert(conn, schema, sets, to))


async def _revert(conn: Connection, schema: str, sets: Sequence[MigrationSet], to: int) -> list[str]:
    reverted = []
    async with _locked_transaction(conn, schema):
        lacking = await missing(conn, schema, sets)
        if lacking.schema:
            return []
        for migration in reversed([m for s in sets for m in s.migrations]):
            if migration.number > to and migration not in lacking.ours:
                await conn.execute(migration.down(schema).encode())
                await conn.execute(
                    _queries(schema)["forget_migration"].encode(),
                    {"set_name": migration.set_name, "number": migration.number},
                )
                reverted.append(f"{migration.set_name} {migration.number:04} {migration.name}")
    return reverted


def setup_sql(schema: str, sets: Sequence[MigrationSet]) -> str:
    """Everything `setup` would run on an empty database, as one script for psql; safe to run on a half-made schema."""
    queries = _queries(schema)
    parts = ["BEGIN;", queries["create_schema"], f"SET LOCAL search_path TO {quote_identifier(schema)};"]
    for number, statement in enumerate(LANGGRAPH_MIGRATIONS):
        parts.append(_in_transaction(statement))
        parts.append(queries["record_langgraph"].replace("%(v)s", str(number)))
    parts.append(queries["create_migrations_table"])
    for migration in (m for s in sets for m in s.migrations):
        parts.append(migration.up(schema).strip())
        parts.append(
            queries["record_migration"]
            .replace("%(set_name)s", f"'{migration.set_name}'")
            .replace("%(number)s", str(migration.number))
            .replace("%(name)s", f"'{migration.name}'")
        )
    parts.append("COMMIT;")
    return "\n\n".join(part.strip() for part in parts) + "\n"


@asynccontextmanager
async def _connection(conninfo: str) -> AsyncIterator[Connection]:
    try:
        conn = await connect(conninfo, prepare_threshold=None)
    except (psycopg.OperationalError, TimeoutError) as exc:
        raise ConnectError(f"setup could not connect to {mask_conninfo(conninfo)}: {summary(exc)}") from exc
    async with conn:
        yield conn


async def _create(conn: Connection, schema: str, sets: Sequence[MigrationSet]) -> list[str]:
    lacking = await missing(conn, schema, sets)
    if not lacking:
        return []
    await _require_privileges(conn, schema, lacking)
    return await _apply(conn, schema, sets, lacking)


async def _require_privileges(conn: Connection, schema: str, lacking: Missing) -> None:
    [may] = await _rows(conn, _queries(schema)["privileges"], schema=schema)
    if lacking.schema and not may["create_schema"]:
        grant = f'GRANT CREATE ON DATABASE "{may["database"]}" TO "{may["role"]}"'
        what = f'the schema "{schema}" in database "{may["database"]}"'
    elif not lacking.schema and not may["create_table"]:
        grant = f'GRANT CREATE, USAGE ON SCHEMA "{schema}" TO "{may["role"]}"'
        what = f'tables in the schema "{schema}"'
    else:
        return
    raise SchemaError(
        f'role "{may["role"]}" lacks the CREATE privilege to make {what}, which needs: '
        f"{', '.join(lacking.names())}. Remedy: {grant}; "
        "or have a DBA run the output of `holdfast setup --sql`"
    )


async def _apply(conn: Connection, schema: str, sets: Sequence[MigrationSet], lacking: Missing) -> list[str]:
    applied = [] if lacking.fresh else await _upgrade_langgraph(conn, schema, sets)
    queries = _queries(schema)
    async with _locked_transaction(conn, schema):
        lacking = await missing(conn, schema, sets)
        if not lacking:
            return applied
        if lacking.schema:
            await conn.execute(queries["create_schema"].encode())
        await conn.execute(f"SET LOCAL search_path TO {quote_identifier(schema)}".encode())
        for number in range(lacking.langgraph_from, len(LANGGRAPH_MIGRATIONS)):
            await conn.execute(_in_transaction(LANGGRAPH_MIGRATIONS[number]).encode())
            await conn.execute(queries["record_langgraph"].encode(), {"v": number})
        await conn.execute(queries["create_migrations_table"].encode())
        for migration in lacking.ours:
            await conn.execute(migration.up(schema).encode())
            await conn.execute(
                queries["record_migration"].encode(),
                {"set_name": migration.set_name, "number": migration.number, "name": migration.name},
            )
    return applied + lacking.names()


def _in_transaction(statement: str) -> str:
    return statement.strip().replace("INDEX CONCURRENTLY", "INDEX")


async def _upgrade_langgraph(conn: Connection, schema: str, sets: Sequence[MigrationSet]) -> list[str]:
    """Bring LangGraph's existing tables up to date beside live load, statement by statement."""
    queries = _queries(schema)
    while True:
        [lock] = await _rows(conn, queries["try_setup_lock"], schema=schema)
        if lock["taken"]:
            break
        await asyncio.sleep(_POLL_S)
    try:
        numbers = range((await missing(conn, schema, sets)).langgraph_from, len(LANGGRAPH_MIGRATIONS))
        if not numbers:
            return []
        for row in await _rows(conn, queries["invalid_indexes"], schema=schema, names=_CONCURRENT_INDEXES):
            await conn.execute(f"DROP INDEX {row['index']}".encode())
        await conn.execute(f"SET search_path TO {quote_identifier(schema)}".encode())
        for number in numbers:
            await conn.execute(LANGGRAPH_MIGRATIONS[number].encode())
            await conn.execute(queries["record_langgraph"].encode(), {"v": number})
        return [f"langgraph {number}" for number in numbers]
    finally:
        if not conn.closed:
            await conn.execute(queries["setup_unlock"].encode(), {"schema": schema})


@asynccontextmanager
async def _locked_transaction(conn: Connection, schema: str) -> AsyncIterator[None]:
    """A transaction that holds the setup lock; it is polled for in transactions of their own."""
    query = _queries(schema)["try_setup_lock_in_transaction"]
    while True:
        async with conn.transaction():
            if (await _rows(conn, query, schema=schema))[0]["taken"]:
                yield
                return
        await asyncio.sleep(_POLL_S)


async def _within(
    timeout_s: float, conninfo: str, schema: str, work: Callable[[Connection], Coroutine[Any, Any, T]]
) -> T:
    """Do the work on a connection of its own, and name the backends in the way where it takes too long."""
    async with _connection(conninfo) as conn:
        task = asyncio.create_task(work(conn))
        try:
            done, _ = await asyncio.wait({task}, timeout=timeout_s)
            if done:
                return task.result()
            blockers = await _blockers(conninfo, conn.info.backend_pid, schema)
        except InsufficientPrivilege as exc:
            raise _not_granted(schema, conn.info.user, exc) from exc
        except psycopg.Error as exc:
            raise SchemaError(f'setting up schema "{schema}" failed: {summary(exc)}') from exc
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    raise SetupBlockedError(
        f'setup of schema "{schema}" waited {timeout_s:g} s and was given up; it can be run again. '
        f"In the way: {blockers}. End that transaction, or its session with "
        "SELECT pg_terminate_backend(<process id>), or raise POSTGRES_SETUP_TIMEOUT"
    )


def _not_granted(schema: str, role: str, error: psycopg.Error) -> SchemaError:
    return SchemaError(
        f'role "{role}" may not use schema "{schema}": {summary(error)}. Remedy: have the owner '
        f'GRANT USAGE ON SCHEMA "{schema}" TO "{role}" and '
        f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "{schema}" TO "{role}"; '
        "tables are changed only by their owner, who runs `holdfast setup` or the output of `holdfast setup --sql`"
    )


async def _blockers(conninfo: str, pid: int, schema: str) -> str:
    async with _connection(conninfo) as conn:
        rows = await _rows(conn, _queries(schema)["setup_blockers"], pid=pid, schema=schema)
    return (
        "; ".join(
            f"process id {row['pid']} (user {row['usename']}, application {row['application_name']!r}, "
            f"{row['state']}, transaction open for {row['open_for'] or 'no time'})"
            for row in rows
        )
        or "no backend that this role may see"
    )
