"""What a piece of work sends to PostgreSQL, by kind: the server is made to log every statement meanwhile.

`pg_stat_statements` is not in the embedded server, and the numbers of `pg_stat_database` come up to ten seconds late
and tell nothing of kinds. Each message that has the server run something counts once, also BEGIN, COMMIT, and the
empty statement by which a pool checks a connection. Transactions that write are counted by their ids.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.waiting import until

__all__ = ["KINDS", "Statements", "counted", "kind_of"]

# The first that is found in a statement says what kind it is.
_KINDS = (
    (r"^$", "check of a pooled connection"),
    (r"^(BEGIN|COMMIT|ROLLBACK)", "BEGIN and COMMIT"),
    (r"procrastinate_fetch_job", "fetch a job"),
    (r"procrastinate_finish_job", "end a job"),
    (r"^WITH added\b", "start runs"),
    (r"^WITH turn\b.* unnest\(\$1, \$2, \$3\)", "claim runs by id"),
    (r"^WITH turn\b", "claim runs by age"),
    (r"^-- One run\b", "read a run"),
    (r"^WITH claimed\b.*\bsave\b", "save checkpoints"),
    (r"^-- One checkpoint\b", "load checkpoints"),
    (r"^WITH held\b", "record activities"),
    (r"^WITH ended\b", "finish runs"),
)
_OTHER = "other: ticks, leases"
KINDS = (*(kind for _, kind in _KINDS), _OTHER)
_PREFIX = "%a|%d|"
_ENTRY = re.compile(r"[^|\n]*\|(?P<database>[^|\n]*)\|LOG:  (?:statement|execute [^:]*): ?(?P<statement>.*)", re.DOTALL)
_NEXT_ENTRY = re.compile(r"\n(?!\t)")
_END = "SELECT 'no more is counted'"
_XID = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"


@dataclass
class Statements:
    """How many there were of each kind, and how many transactions wrote."""

    by_kind: Counter[str] = field(default_factory=Counter)
    writing: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.by_kind.total()


def kind_of(statement: str) -> str:
    """One of `KINDS`."""
    plain = " ".join(statement.split())
    return next((kind for pattern, kind in _KINDS if re.search(pattern, plain)), _OTHER)


@asynccontextmanager
async def counted(dsn: str, log: Path) -> AsyncIterator[Statements]:
    """What is sent to the database within the block, for which the whole server logs to `log`; filled at the end."""
    found = Statements()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await _configure(conn, log_line_prefix=_PREFIX, log_statement="all")
        try:
            await _logged(conn, log, _size(log))
            begins, first_xid = _size(log), await _xid(conn)
            yield found
            found.writing = await _xid(conn) - first_xid
            await _logged(conn, log, begins)
            text = _since(log, begins).decode(errors="replace")
        finally:
            await _configure(conn, log_line_prefix=None, log_statement=None)
    database = str(conninfo_to_dict(dsn)["dbname"])
    for entry in _NEXT_ENTRY.split(text):
        match = _ENTRY.fullmatch(entry)
        if match and match["database"] == database and not match["statement"].startswith((_END, _XID)):
            found.by_kind[kind_of(match["statement"])] += 1


async def _configure(conn: psycopg.AsyncConnection, **settings: str | None) -> None:
    for name, value in settings.items():
        given = sql.SQL("DEFAULT") if value is None else sql.Literal(value)
        await conn.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), given))
    await conn.execute("SELECT pg_reload_conf()")


async def _logged(conn: psycopg.AsyncConnection, log: Path, begins: int) -> None:
    """Wait until what was sent so far is in the log, and the log is kept."""

    async def there() -> bool:
        await conn.execute(_END)
        return _END.encode() in _since(log, begins)

    await until(there, timeout_s=60, what="the server logs statements")


def _size(log: Path) -> int:
    return log.stat().st_size


def _since(log: Path, begins: int) -> bytes:
    return log.read_bytes()[begins:]


async def _xid(conn: psycopg.AsyncConnection) -> int:
    row = await (await conn.execute(_XID)).fetchone()
    return int(row[0]) if row else 0
