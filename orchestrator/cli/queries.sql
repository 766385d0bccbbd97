-- name: objects_present
-- What is in the schema, by kind and name: tables, their columns, indexes, triggers and functions. Needs no privilege.
SELECT CASE c.relkind WHEN 'i' THEN 'index' ELSE 'table' END AS kind, c.relname AS name
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p', 'i')
UNION ALL
SELECT 'column', c.relname || '.' || a.attname
  FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'trigger', t.tgname
  FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND NOT t.tgisinternal
UNION ALL
SELECT 'function', p.proname
  FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
 WHERE n.nspname = %(schema)s;

-- name: roles_create
-- Two roles that may log in, and nothing else so far.
DO $holdfast$
BEGIN
    IF to_regrole('holdfast_migrator') IS NULL THEN
        CREATE ROLE holdfast_migrator LOGIN;
    END IF;
    IF to_regrole('holdfast_runtime') IS NULL THEN
        CREATE ROLE holdfast_runtime LOGIN;
    END IF;
    -- Who is no superuser gives things only to roles that they belong to.
    IF NOT pg_has_role(current_user, 'holdfast_migrator', 'MEMBER') THEN
        EXECUTE format('GRANT holdfast_migrator TO %I', current_user);
    END IF;
END
$holdfast$;

-- name: roles_own
-- The migrator owns the schema and all that is in it by now, also what another role made.
CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION holdfast_migrator;
DO $holdfast$
DECLARE
    known record;
BEGIN
    EXECUTE 'ALTER SCHEMA {schema} OWNER TO holdfast_migrator';
    FOR known IN SELECT oid::regclass AS name FROM pg_class
                  WHERE relnamespace = '{schema}'::regnamespace AND relkind IN ('r', 'p')
                    AND relowner <> 'holdfast_migrator'::regrole
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO holdfast_migrator', known.name);
    END LOOP;
    FOR known IN SELECT oid::regprocedure AS name FROM pg_proc
                  WHERE pronamespace = '{schema}'::regnamespace AND proowner <> 'holdfast_migrator'::regrole
    LOOP
        EXECUTE format('ALTER ROUTINE %s OWNER TO holdfast_migrator', known.name);
    END LOOP;
    FOR known IN SELECT type.oid::regtype AS name FROM pg_type AS type
                   LEFT JOIN pg_class AS class ON class.oid = type.typrelid
                  WHERE type.typnamespace = '{schema}'::regnamespace AND type.typowner <> 'holdfast_migrator'::regrole
                    AND (type.typtype = 'e' OR class.relkind = 'c')
    LOOP
        EXECUTE format('ALTER TYPE %s OWNER TO holdfast_migrator', known.name);
    END LOOP;
END
$holdfast$;

-- name: roles_grant
-- The runtime reads and writes rows of the tables that are there, and of those that the migrator makes later.
REVOKE ALL ON SCHEMA {schema} FROM PUBLIC;
GRANT USAGE ON SCHEMA {schema} TO holdfast_runtime;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO holdfast_runtime;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO holdfast_runtime;
ALTER DEFAULT PRIVILEGES FOR ROLE holdfast_migrator IN SCHEMA {schema}
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO holdfast_runtime;
ALTER DEFAULT PRIVILEGES FOR ROLE holdfast_migrator IN SCHEMA {schema}
    GRANT USAGE ON SEQUENCES TO holdfast_runtime;

-- name: roles_protect
-- What says which migrations were applied is the migrator's alone to change.
DO $holdfast$
DECLARE
    known regclass;
BEGIN
    FOR known IN SELECT oid FROM pg_class WHERE relnamespace = '{schema}'::regnamespace AND relkind = 'r'
                    AND relname IN ('checkpoint_migrations', 'holdfast_migrations')
    LOOP
        EXECUTE format('REVOKE INSERT, UPDATE, DELETE ON %s FROM holdfast_runtime', known);
    END LOOP;
END
$holdfast$;
