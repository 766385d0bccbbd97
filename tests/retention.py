"""What the tests of retention share: time that has passed, and rows that are counted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import psycopg
from psycopg import sql

from checkpointer import PooledPostgresSaver
from orchestrator.engine.retention import Report, Retention, RetentionRules
from orchestrator.keeping import KeepFor
from orchestrator.runs.expiry.database import Database
from tests.checkpoints import SCHEMA

__all__ = ["age", "counts", "dangling", "database", "prune", "seed"]

# What a row of these belongs to is a run, or the thread of one.
TABLES = (
    *("checkpoints", "checkpoint_blobs", "checkpoint_writes", "checkpoint_chunks", "checkpoint_fences"),
    *("workflow_metadata", "workflow_activity", "workflow_signal", "workflow_hook", "workflow_step", "workflow_event"),
    *("workflow_batch", "workflow_batch_document", "procrastinate_jobs"),
)


def age(conn: psycopg.Connection, *run_ids: str, hours: float = 2) -> None:
    """Let so much time pass for runs, or for all."""
    conn.execute(
        f"UPDATE {SCHEMA}.workflow_metadata SET completed_at = completed_at - make_interval(secs => %s)"
        " WHERE %s::uuid[] = '{}' OR run_id = ANY (%s::uuid[])".encode(),
        (hours * 3600, list(run_ids), list(run_ids)),
    )


def counts(conn: psycopg.Connection, tables: Collection[str] = TABLES) -> dict[str, int]:
    """How many rows there are in each table that has some."""
    found = {}
    for table in tables:
        row = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(SCHEMA, table))).fetchone()
        if row and row[0]:
            found[table] = row[0]
    return found


def dangling(conn: psycopg.Connection) -> list[Any]:
    """Rows of checkpoints that belong to nothing: to no run's thread, to no checkpoint, or values that are missing."""
    conn.execute(f"SET search_path TO {SCHEMA}".encode())
    return conn.execute(
        """
        SELECT 'no run', thread_id FROM checkpoints c
         WHERE NOT EXISTS (SELECT FROM workflow_metadata r WHERE r.checkpoint_thread = c.thread_id)
        UNION ALL
        SELECT 'no checkpoint', thread_id FROM checkpoint_blobs b
         WHERE NOT EXISTS (SELECT FROM checkpoints c
                            WHERE c.thread_id = b.thread_id AND c.checkpoint_ns = b.checkpoint_ns
                              AND c.checkpoint -> 'channel_versions' ->> b.channel = b.version)
        UNION ALL
        SELECT 'no checkpoint', thread_id FROM checkpoint_writes w
         WHERE NOT EXISTS (SELECT FROM checkpoints c
                            WHERE c.thread_id = w.thread_id AND c.checkpoint_ns = w.checkpoint_ns
                              AND c.checkpoint_id = w.checkpoint_id)
        UNION ALL
        SELECT 'no checkpoint of its own', run_id::text FROM workflow_metadata r
         WHERE status = 'completed' AND NOT EXISTS (
               SELECT FROM checkpoints c WHERE c.thread_id = r.checkpoint_thread)
        UNION ALL
        SELECT 'no events', run_id::text FROM workflow_metadata r
         WHERE NOT EXISTS (SELECT FROM workflow_event e WHERE e.run_id = r.run_id)
        """
    ).fetchall()


def database(saver: PooledPostgresSaver) -> Database:
    """Where a saver's rows are."""
    return Database(saver.pool, saver.schema, saver.cipher)


async def prune(
    saver: PooledPostgresSaver, keep: str | None = "1h", *, fence_kept_s: float = 86_400.0, **rules: Any
) -> Report:
    """One pass; by default, of runs that have been over for an hour."""
    runs = None if keep is None else KeepFor.parse(keep)
    dry = rules.pop("dry", False)
    return await Retention(database(saver), RetentionRules(runs, **rules), dry=dry, fence_kept_s=fence_kept_s).run()


def seed(conn: psycopg.Connection, count: int, *, checkpoints: int = 3, hours: float = 2) -> Sequence[str]:
    """Write completed runs, with threads of their own, straight into the tables; gives their ids."""
    conn.execute(f"SET search_path TO {SCHEMA}".encode())
    rows = conn.execute(
        """
        WITH made AS (
            INSERT INTO workflow_metadata (run_id, thread_id, organization_id, workflow_type, status, input, output,
                                           max_attempts, saver, started_at, completed_at)
            SELECT id, id, 'default', 'seeded', 'completed', '{"n": 1}', '{"done": true}', 3, 'PostgresSaver',
                   clock_timestamp(), clock_timestamp() - make_interval(secs => %(age)s)
              FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, %(count)s)) AS ids
            RETURNING run_id::text AS id
        ), steps AS (
            SELECT id, lpad(n::text, 8, '0') AS step FROM made, generate_series(1, %(checkpoints)s) AS n
        ), fences AS (
            INSERT INTO checkpoint_fences (thread_id, epoch) SELECT id, 1 FROM made
        ), blobs AS (
            INSERT INTO checkpoint_blobs (thread_id, channel, version, type, blob)
            SELECT id, 'x', step, 'json', convert_to(to_json(step)::text, 'UTF8') FROM steps
        ), writes AS (
            INSERT INTO checkpoint_writes (thread_id, checkpoint_id, task_id, task_path, idx, channel, type, blob)
            SELECT id, step, 'task', '', 0, 'x', 'json', '1' FROM steps
        ), saved AS (
            INSERT INTO checkpoints (thread_id, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
            SELECT id, step, nullif(lpad((step::int - 1)::text, 8, '0'), '00000000'),
                   jsonb_build_object('v', 4, 'id', step, 'ts', '2026-01-01T00:00:00+00:00',
                                      'channel_values', '{}'::json, 'versions_seen', '{}'::json,
                                      'channel_versions', jsonb_build_object('x', step)),
                   jsonb_build_object('step', step::int, 'run_id', id)
              FROM steps
        )
        SELECT id FROM made
        """,
        {"count": count, "checkpoints": checkpoints, "age": hours * 3600},
    ).fetchall()
    return [row[0] for row in rows]
