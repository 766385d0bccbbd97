"""Procrastinate's tables as a migration set, read from the installed library.

They are put into our schema, although the library names them without one: each of its functions gets our schema as
its search path, so that it works whatever the caller's is. The library's version is pinned to a minor one; a newer one
that changes its tables comes with a further migration here.
"""

from __future__ import annotations

from functools import cached_property

from checkpointer.postgres.migrations import Migration, MigrationSet

__all__ = ["QueueMigrations"]

_UP = """
DO $holdfast$
DECLARE
    path text := current_setting('search_path');
    known regprocedure;
BEGIN
    IF to_regclass('{schema}.procrastinate_jobs') IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM set_config('search_path', '{schema}', true);
    EXECUTE $procrastinate$
%s
$procrastinate$;
    FOR known IN
        SELECT oid::regprocedure FROM pg_proc
         WHERE pronamespace = '{schema}'::regnamespace AND proname LIKE 'procrastinate%%'
    LOOP
        EXECUTE format('ALTER FUNCTION %%s SET search_path = {schema}', known);
    END LOOP;
    PERFORM set_config('search_path', path, true);
END
$holdfast$;
"""
_DOWN = """
DO $holdfast$
DECLARE
    known regprocedure;
BEGIN
    -- Before the tables: some give back their rows. With them go their triggers.
    FOR known IN
        SELECT oid::regprocedure FROM pg_proc
         WHERE pronamespace = '{schema}'::regnamespace AND proname LIKE 'procrastinate%'
    LOOP
        EXECUTE format('DROP FUNCTION IF EXISTS %s CASCADE', known);
    END LOOP;
    DROP TABLE IF EXISTS {schema}.procrastinate_events, {schema}.procrastinate_periodic_defers,
                         {schema}.procrastinate_jobs, {schema}.procrastinate_workers;
    DROP TYPE IF EXISTS {schema}.procrastinate_job_to_defer_v1, {schema}.procrastinate_job_event_type,
                        {schema}.procrastinate_job_status;
END
$holdfast$;
"""


class QueueMigrations(MigrationSet):
    """The queue's tables, made as the installed library makes them."""

    def __init__(self) -> None:
        super().__init__("procrastinate", "procrastinate")

    @cached_property
    def migrations(self) -> tuple[Migration, ...]:
        from procrastinate.schema import SchemaManager

        return (Migration(self.name, 1, "jobs", _UP % SchemaManager.get_schema(), _DOWN),)
