"""What the migrations make, by name, and what of it is really there.

The list of migrations says what was made once. A table may be gone since: dropped by hand, or left out of a backup.
What is to be there is read from the statements of the migrations themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import psycopg
from langgraph.checkpoint.postgres.base import MIGRATIONS as LANGGRAPH_MIGRATIONS

from checkpointer.errors import ConnectError
from checkpointer.postgres.migrations import MigrationSet
from checkpointer.postgres.pool import connect
from checkpointer.postgres.queries import load_queries
from checkpointer.postgres.retry import summary
from checkpointer.settings import mask_conninfo

__all__ = ["Inventory", "expected_objects", "lost", "present_objects", "tables_of"]

# (kind, name); a column's name is `table.column`.
Inventory: TypeAlias = frozenset[tuple[str, str]]

_OURS = "holdfast_migrations"
_NAME = r"(?:\{schema\}\.)?(\w+)"
_COMMENT = re.compile(r"--[^\n]*")
_STATEMENTS = re.compile(
    rf"""CREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?{_NAME}
       | CREATE\s+(?:UNIQUE\s+)?INDEX\s+(?:CONCURRENTLY\s+)?(?:IF\s+NOT\s+EXISTS\s+)?(\w+)
       | CREATE\s+(?:OR\s+REPLACE\s+)?FUNCTION\s+{_NAME}
       | CREATE\s+(?:OR\s+REPLACE\s+)?TRIGGER\s+(\w+)
       | ALTER\s+TABLE\s+{_NAME}
       | ADD\s+COLUMN\s+(?:IF\s+NOT\s+EXISTS\s+)?(\w+)
       | DROP\s+INDEX\s+(?:IF\s+EXISTS\s+)?{_NAME}""",
    re.VERBOSE,
)


def expected_objects(sets: Sequence[MigrationSet]) -> Inventory:
    """What there is after the migrations of LangGraph and of these sets. Of columns, those that were added later."""
    found: set[tuple[str, str]] = {("table", _OURS)}
    altered = ""
    for text in (*LANGGRAPH_MIGRATIONS, *(m.up_text for each in sets for m in each.migrations)):
        for match in _STATEMENTS.finditer(_COMMENT.sub("", text)):
            table, index, function, trigger, alter, column, dropped = match.groups()
            named = {"table": table, "index": index, "function": function, "trigger": trigger}
            found |= {(kind, name) for kind, name in named.items() if name}
            altered = alter or altered
            if column:
                found.add(("column", f"{altered}.{column}"))
            found.discard(("index", dropped))
    return frozenset(found)


async def present_objects(conninfo: str, schema: str) -> Inventory:
    """What is in the schema, ours or not. Raises `ConnectError`."""
    query = load_queries("orchestrator.cli", schema)["objects_present"].encode()
    try:
        async with await connect(conninfo, prepare_threshold=None) as conn:
            rows = await (await conn.execute(query, {"schema": schema})).fetchall()
    except (psycopg.OperationalError, TimeoutError) as exc:
        raise ConnectError(f"the tables in {mask_conninfo(conninfo)} could not be looked at: {summary(exc)}") from exc
    return frozenset((row["kind"], row["name"]) for row in rows)


def tables_of(objects: Inventory) -> list[str]:
    """The names of the tables."""
    return sorted(name for kind, name in objects if kind == "table")


def lost(expected: Inventory, present: Inventory) -> list[str]:
    """What is not there, for a person to read; of a table that is gone, not its parts."""
    gone = expected - present
    tables = {name for kind, name in gone if kind == "table"}
    return sorted(f"{kind} {name}" for kind, name in _without_parts(gone, tables))


def _without_parts(gone: Inventory, tables: set[str]) -> Iterable[tuple[str, str]]:
    return (each for each in gone if each[0] != "column" or each[1].partition(".")[0] not in tables)
