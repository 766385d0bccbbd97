-- name: applied_langgraph
-- The highest migration of LangGraph's that is applied.
SELECT max(v) AS v FROM {schema}.checkpoint_migrations;

-- name: applied_ours
-- The highest migration of each of our sets that is applied.
SELECT set_name, max(number) AS number FROM {schema}.holdfast_migrations GROUP BY set_name;

-- name: tables_present
-- Whether the schema exists, LangGraph's tables in it, and the tables that record migrations.
SELECT
    EXISTS (SELECT FROM pg_namespace WHERE nspname = %(schema)s) AS schema,
    to_regclass(%(quoted)s || '.checkpoint_migrations') IS NOT NULL AS langgraph,
    to_regclass(%(quoted)s || '.checkpoints') IS NOT NULL AS checkpoints,
    to_regclass(%(quoted)s || '.holdfast_migrations') IS NOT NULL AS ours;

-- name: privileges
-- What this role may create: a schema in the database, tables in the schema (null where it does not exist).
SELECT
    current_user AS role,
    current_database() AS database,
    has_database_privilege(current_database(), 'CREATE') AS create_schema,
    (SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = %(schema)s) AS create_table;

-- name: create_schema
-- The schema that holds every table.
CREATE SCHEMA IF NOT EXISTS {schema};

-- name: create_migrations_table
-- Which of our migrations were applied, and when.
CREATE TABLE IF NOT EXISTS {schema}.holdfast_migrations (
    set_name   text        NOT NULL,
    number     integer     NOT NULL,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (set_name, number)
);

-- name: record_migration
-- Notes that a migration of ours was applied.
INSERT INTO {schema}.holdfast_migrations (set_name, number, name)
VALUES (%(set_name)s, %(number)s, %(name)s) ON CONFLICT DO NOTHING;

-- name: forget_migration
-- Notes that a migration of ours was taken back.
DELETE FROM {schema}.holdfast_migrations WHERE set_name = %(set_name)s AND number = %(number)s;

-- name: record_langgraph
-- Notes that a migration of LangGraph's was applied.
INSERT INTO {schema}.checkpoint_migrations (v) VALUES (%(v)s) ON CONFLICT DO NOTHING;

-- name: try_setup_lock
-- Takes the lock that keeps setups apart, for the session, if it is free.
SELECT pg_try_advisory_lock(hashtext('holdfast setup'), hashtext(%(schema)s)) AS taken;

-- name: setup_unlock
-- Gives the lock back.
SELECT pg_advisory_unlock(hashtext('holdfast setup'), hashtext(%(schema)s));

-- name: try_setup_lock_in_transaction
-- The same lock until the end of the transaction: what works behind a transaction pooler.
SELECT pg_try_advisory_xact_lock(hashtext('holdfast setup'), hashtext(%(schema)s)) AS taken;

-- name: setup_blockers
-- Who keeps setup waiting: the holder of the setup lock, or whoever blocks our backend.
SELECT a.pid, a.usename, a.application_name, a.state, date_trunc('second', now() - a.xact_start)::text AS open_for
  FROM pg_stat_activity a
 WHERE a.pid <> %(pid)s
   AND (a.pid = ANY (pg_blocking_pids(%(pid)s))
        OR a.pid IN (SELECT l.pid FROM pg_locks l
                      WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
                        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                        AND l.classid = (hashtext('holdfast setup')::bigint & 4294967295)::oid
                        AND l.objid = (hashtext(%(schema)s)::bigint & 4294967295)::oid))
 ORDER BY a.xact_start NULLS LAST;

-- name: invalid_indexes
-- Indexes left half-built by a CREATE INDEX CONCURRENTLY that was cut off; IF NOT EXISTS would keep them so.
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS index
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT i.indisvalid AND n.nspname = %(schema)s;
