"""What is left over: jobs and fences that nobody needs, and rows of threads without checkpoints; and VACUUM."""

from __future__ import annotations

from checkpointer.postgres.pool import Connection
from checkpointer.postgres.queries import quote_identifier
from checkpointer.postgres.retention import Freed
from checkpointer.postgres.retention_held import (
    TableSize,
    forget,
    hold,
    measure,
    orphaned,
    table_sizes,
    without_checkpoints,
)
from orchestrator.runs.expiry.database import Database

__all__ = ["FENCE_KEPT_S", "delete_fences", "delete_jobs", "delete_orphans", "sizes", "vacuum"]

# How late a writer may come, and still be refused on a thread whose id is used again.
FENCE_KEPT_S = 86_400.0
_PAGE = 500


async def delete_jobs(db: Database) -> tuple[Freed, bool]:
    """Delete some jobs of runs and steps that are gone or over; whether there may be more."""

    async def work(conn: Connection) -> tuple[Freed, bool]:
        table = f"{quote_identifier(db.schema)}.procrastinate_jobs"
        [queue] = await db.rows(conn, "has_queue", table=table)
        return await _some(db, conn, "delete_jobs") if queue["present"] else (Freed(), False)

    return await db.transaction("deleting jobs", work)


async def delete_fences(db: Database, *, kept_s: float = FENCE_KEPT_S) -> tuple[Freed, bool]:
    """Delete some fences of threads that were forgotten that long ago; whether there may be more."""

    async def work(conn: Connection) -> tuple[Freed, bool]:
        return await _some(db, conn, "delete_fences", older_than_s=kept_s)

    return await db.transaction("deleting fences", work)


async def _some(db: Database, conn: Connection, query: str, **params: object) -> tuple[Freed, bool]:
    freed = Freed.of(await db.rows(conn, query, limit=_PAGE, **params))
    return freed, freed.total_rows == _PAGE


async def delete_orphans(
    db: Database, table: str, after: str, *, dry: bool = False, limit: int = 1000
) -> tuple[Freed, str | None]:
    """Delete what threads without a checkpoint and without a run have left, of the next threads of a table.

    Gives where to go on, or None at the end. Such rows come from a writer that saved in several steps and was killed.
    """

    async def work(conn: Connection) -> tuple[Freed, str | None]:
        found, further = await orphaned(conn, db.schema, table, after=after, limit=limit)
        if not found:
            return Freed(), further
        threads = found if dry else sorted(await hold(conn, db.schema, found))
        threads = await without_checkpoints(conn, db.schema, threads)
        threads = [row["thread_id"] for row in await db.rows(conn, "without_runs", threads=threads)]
        if not dry:
            return await forget(conn, db.schema, threads), further
        # The same threads are met again in the other tables.
        seen = await measure(conn, db.schema, threads)
        return Freed({table: seen.rows.get(table, 0)}, {table: seen.bytes.get(table, 0)}), further

    return await db.transaction("deleting orphans", work)


async def sizes(db: Database) -> list[TableSize]:
    """Every table's size, and how much of it is dead."""
    return await db.transaction("measuring tables", lambda conn: table_sizes(conn, db.schema))


async def vacuum(db: Database) -> list[str]:
    """VACUUM every table in the schema that this role owns; gives their names."""
    names = [row["name"] for row in await db.ask("our_tables", schema=db.schema)]
    async with db.pool.connection() as conn:
        for name in names:
            statement = db.queries["vacuum"].replace("{table}", quote_identifier(name))
            await conn.execute(statement.encode(), prepare=False)
    return names
