"""`holdfast transfer`: threads from one place to another.

A place is `postgres` (the server that the settings name, or the embedded one), a connection string, `sqlite:PATH` or
`file:PATH.jsonl[.zst]`. In a database named by a connection string, threads are looked for in Holdfast's tables, in
POSTGRES_SCHEMA, and if there are none, in those of LangGraph's own saver, where the search path leads; as a target,
a database with neither gets Holdfast's. Keys, storage and allowed modules are those of the settings on both sides.
"""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from pydantic import SecretStr
from rich.console import Console

from checkpointer import CheckpointerError, CheckpointerSettings, ConnectError, SchemaError, SettingsError
from checkpointer.factory import open_postgres
from checkpointer.postgres.pool import connect, wait_until_ready
from checkpointer.postgres.queries import load_queries
from checkpointer.postgres.retry import summary
from checkpointer.serde import AllowListSerializer, CompressedSerializer, parse_allowed_modules
from checkpointer.settings import check_target, mask_conninfo
from checkpointer.thread_file import list_thread_ids
from checkpointer.transfer import Transferred, export_threads, import_threads, transfer_threads
from orchestrator.cli.tables import print_json
from orchestrator.errors import InvalidRequestError
from orchestrator.logs import setup_logging
from orchestrator.settings import OrchestratorSettings

__all__ = ["move_threads"]

_SHOWN_REFUSALS = 20
_KEYWORDS = re.compile(r"\w+\s*=")  # libpq's host=… port=… dbname=…
_TAKES = "it takes postgres, a postgresql:// connection string, sqlite:PATH or file:PATH.jsonl[.zst]"

Saver = BaseCheckpointSaver[Any]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where threads are. `where` is a path or a connection string, empty for the settings' own server."""

    kind: Literal["postgres", "sqlite", "file"]
    where: str = ""

    @classmethod
    def parse(cls, option: str, spec: str) -> _Place:
        """Raises `InvalidRequestError`; a connection string is not repeated."""
        kind, _, path = spec.partition(":")
        if spec == "postgres":
            return cls("postgres")
        if spec.startswith(("postgresql://", "postgres://")) or _KEYWORDS.match(spec):
            return cls("postgres", spec)
        if kind == "sqlite" and path:
            return cls("sqlite", path)
        if kind == "file" and path.removesuffix(".zst").endswith(".jsonl"):
            return cls("file", path)
        raise InvalidRequestError(f"{option} {mask_conninfo(spec) if '@' in spec else spec!r} is no place: {_TAKES}")

    def __str__(self) -> str:
        if self.kind == "postgres":
            return mask_conninfo(self.where) if self.where else "postgres"
        return f"{self.kind}:{self.where}"


async def move_threads(source: str, target: str, thread_ids: Sequence[str], *, overwrite: bool, as_json: bool) -> int:
    """Copy threads, all unless some are named, and say how it went; 1 where any was refused."""
    here, there = _Place.parse("--from", source), _Place.parse("--to", target)
    if here == there:
        raise InvalidRequestError(f"--from and --to are both {here}: name two places")
    settings = OrchestratorSettings()
    setup_logging(settings.log_format, "ERROR")
    started = time.monotonic()
    with _progress() as tell:
        done = await _move(settings, here, there, list(thread_ids) or None, overwrite=overwrite, tell=tell)
    _report(done, here, there, time.monotonic() - started, as_json=as_json)
    return 1 if done.refused else 0


async def _move(
    settings: CheckpointerSettings,
    here: _Place,
    there: _Place,
    names: list[str] | None,
    *,
    overwrite: bool,
    tell: Callable[[Transferred], None],
) -> Transferred:
    if here.kind == "file" and there.kind == "file":
        raise InvalidRequestError("--from and --to are both files: copy the file, or name a database on one side")
    if there.kind == "file":
        async with _open(settings, here, as_target=False) as saver:
            return await export_threads(saver, Path(there.where), names, on_progress=tell)
    if here.kind == "file":
        async with _open(settings, there, as_target=True) as goal:
            return await import_threads(Path(here.where), goal, names, overwrite=overwrite, on_progress=tell)
    if there.kind == "sqlite":
        _check_path(Path(there.where), as_target=True)
    # The source first: where there is none, nothing is made at the target.
    async with (
        _open(settings, here, as_target=False) as saver,
        _open(settings, there, as_target=True) as goal,
    ):
        return await transfer_threads(saver, goal, names, overwrite=overwrite, on_progress=tell)


@asynccontextmanager
async def _open(settings: CheckpointerSettings, place: _Place, *, as_target: bool) -> AsyncIterator[Saver]:
    plain = AllowListSerializer(parse_allowed_modules(settings.checkpoint_allowed_modules))
    # LangGraph's own savers read what is not compressed; what is compressed there already is read.
    serde = CompressedSerializer(plain, threshold=sys.maxsize)
    if place.kind == "sqlite":
        async with _sqlite(Path(place.where), serde, as_target=as_target) as sqlite:
            yield sqlite
        return
    if place.where:
        check_target(place.where, settings.postgres_schema)
        settings = settings.model_copy(update=_named(place.where))
        if await _has_stock_tables(settings, place, as_target=as_target):
            async with _stock(settings, place, serde) as stock:
                yield stock
            return
    async with open_postgres(settings) as ours:
        yield ours


@asynccontextmanager
async def _stock(settings: CheckpointerSettings, place: _Place, serde: CompressedSerializer) -> AsyncIterator[Saver]:
    try:
        async with AsyncPostgresSaver.from_conn_string(settings.conninfo(), serde=serde) as saver:
            yield saver
    except psycopg.Error as exc:
        raise ConnectError(f"{place} failed: {summary(exc)}. Run it again; it goes on where it stopped") from exc


def _named(conninfo: str) -> dict[str, Any]:
    return {"postgres_connection_string": SecretStr(conninfo), "postgres_migration_connection_string": None}


async def _has_stock_tables(settings: CheckpointerSettings, place: _Place, *, as_target: bool) -> bool:
    """Whether threads are in LangGraph's own tables there. Raises `SchemaError` for a source without any."""
    conninfo = settings.conninfo()
    await wait_until_ready(
        conninfo,
        attempts=settings.postgres_connect_attempts,
        backoff_s=settings.postgres_connect_backoff,
        timeout_s=settings.postgres_connect_timeout,
    )
    statement = load_queries("checkpointer.threads", settings.postgres_schema)["tables_found"]
    async with await connect(conninfo, timeout_s=settings.postgres_connect_timeout) as conn:
        found = await (await conn.execute(statement.encode())).fetchone() or {}
    if not (found["ours"] or found["stock"] or as_target):
        raise SchemaError(
            f"{place} holds no threads: neither Holdfast's tables in the schema {settings.postgres_schema} nor "
            "LangGraph's where the search path leads. Set POSTGRES_SCHEMA, or PGOPTIONS='-c search_path=…'"
        )
    return bool(found["stock"] and not found["ours"])


@asynccontextmanager
async def _sqlite(path: Path, serde: CompressedSerializer, *, as_target: bool) -> AsyncIterator[Saver]:
    try:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    except ImportError:
        raise SettingsError("sqlite: needs LangGraph's saver for it: pip install langgraph-checkpoint-sqlite") from None
    _check_path(path, as_target=as_target)
    with _complete(path) if as_target else nullcontext(path) as used:
        try:
            async with AsyncSqliteSaver.from_conn_string(str(used)) as saver:
                saver.serde = serde
                yield saver
                if as_target and not [name async for name in list_thread_ids(saver)]:
                    raise _EmptyError
        except sqlite3.Error as exc:
            raise CheckpointerError(f"sqlite:{path} can't be used: {exc}") from exc


class _EmptyError(Exception):
    """No thread came."""


@contextmanager
def _complete(path: Path) -> Iterator[Path]:
    """Where to make a SQLite file that is not there: beside its place, until it is whole and holds something."""
    if os.path.lexists(path):
        with suppress(_EmptyError):
            yield path
        return
    partial = path.with_name(path.name + ".partial")
    _remove(partial)  # which a transfer that was killed has left
    try:
        with suppress(_EmptyError):
            yield partial
            partial.replace(path)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    """Delete a SQLite file and what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _check_path(path: Path, *, as_target: bool) -> None:
    needed, there = (path.parent, path.parent.is_dir()) if as_target else (path, path.is_file())
    if not there:
        raise InvalidRequestError(f"sqlite:{path} can't be opened: {needed} does not exist")


@contextmanager
def _progress() -> Iterator[Callable[[Transferred], None]]:
    with Console(stderr=True).status("Starting") as status:
        yield lambda done: status.update(f"{done.threads} threads, {done.checkpoints} checkpoints so far")


def _report(done: Transferred, here: _Place, there: _Place, seconds: float, *, as_json: bool) -> None:
    if as_json:
        counts = {name: getattr(done, name) for name in ("threads", "copied", "equal", "checkpoints", "writes")}
        refused = [{"threadId": thread_id, "reason": why} for thread_id, why in sorted(done.refused.items())]
        print_json({**counts, "refused": refused, "seconds": round(seconds, 2)})
        return
    print(
        f"{here} → {there}: {done.copied} threads copied ({done.checkpoints} checkpoints, {done.writes} writes), "
        f"{done.equal} there already and equal, {len(done.refused)} refused, in {seconds:.1f} s"
    )
    refusals = sorted(done.refused.values())
    for why in refusals[:_SHOWN_REFUSALS]:
        print(f"refused: {why}")
    if len(refusals) > _SHOWN_REFUSALS:
        print(f"and {len(refusals) - _SHOWN_REFUSALS} more; --json lists all")
