-- name: gauges
-- All that is shown of runs, runners and storage, in one row. Runs that are over are counted one by one up to
-- `exact_up_to` rows; of more, the planner's statistics give an estimate. The others have an index of their own.
WITH planned AS (
    SELECT greatest(reltuples, 0)::bigint AS total
      FROM pg_catalog.pg_class WHERE oid = '{schema}.workflow_metadata'::regclass
), counted AS (
    SELECT status, count(*) AS runs FROM {schema}.workflow_metadata
     WHERE status IN ('pending', 'running', 'waiting', 'paused', 'suspended') GROUP BY status
     UNION ALL
    SELECT status, count(*) FROM {schema}.workflow_metadata
     WHERE status IN ('completed', 'failed', 'cancelled') AND (SELECT total FROM planned) <= %(exact_up_to)s
     GROUP BY status
     UNION ALL
    SELECT common.status, (common.share * planned.total)::bigint
      FROM planned, pg_catalog.pg_stats AS stats,
           unnest(stats.most_common_vals::text::text[], stats.most_common_freqs) AS common (status, share)
     WHERE planned.total > %(exact_up_to)s AND stats.schemaname = %(schema)s
       AND stats.tablename = 'workflow_metadata' AND stats.attname = 'status'
       AND common.status IN ('completed', 'failed', 'cancelled')
)
SELECT
    extract(epoch FROM clock_timestamp())::float8 AS clock,
    (SELECT json_object_agg(status, runs) FROM counted) AS runs,
    (SELECT extract(epoch FROM max(clock_timestamp() - greatest(run.updated_at, run.start_at)))::float8
       FROM {schema}.workflow_metadata AS run
      WHERE run.status = 'pending' AND (run.start_at IS NULL OR run.start_at <= clock_timestamp())
        AND NOT EXISTS (
            SELECT FROM {schema}.workflow_metadata AS other
             WHERE other.organization_id = run.organization_id AND other.thread_id = run.thread_id
               AND other.status IN ('running', 'waiting', 'paused', 'suspended'))) AS oldest_pending_s,
    (SELECT count(*) FROM {schema}.workflow_metadata
      WHERE status = 'running' AND lease_until < clock_timestamp() - make_interval(secs => %(grace_s)s)) AS late_leases,
    (SELECT count(*) FROM {schema}.workflow_metadata
      WHERE status = 'suspended' AND retry_at < clock_timestamp() - make_interval(secs => %(grace_s)s)) AS late_retries,
    (SELECT json_object_agg(kind, runners) FROM (
        SELECT kind, count(*) AS runners FROM {schema}.workflow_runner
         WHERE lease_until > clock_timestamp() GROUP BY kind) AS alive) AS runners,
    (SELECT json_object_agg(c.relname, pg_catalog.pg_total_relation_size(c.oid))
       FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p') AND c.relname = ANY (%(tables)s)) AS storage;

-- name: waiting_jobs
-- How many jobs of the postgres queue are due and not taken up.
SELECT count(*) AS waiting FROM {schema}.procrastinate_jobs
 WHERE status = 'todo' AND (scheduled_at IS NULL OR scheduled_at <= clock_timestamp());

-- name: has_jobs
-- Whether the postgres queue has its tables here.
SELECT to_regclass('{schema}.procrastinate_jobs') IS NOT NULL AS present;

-- name: server_load
-- How many connections the server has, and may have, and what its clock says. Needs no privilege.
SELECT coalesce(sum(numbackends), 0)::int AS used, current_setting('max_connections')::int AS most,
       extract(epoch FROM clock_timestamp())::float8 AS clock
  FROM pg_catalog.pg_stat_database;
