-- name: try_turn
-- The right to tidy up in the background, until the transaction ends: one process at a time.
SELECT pg_try_advisory_xact_lock(hashtext('holdfast retention'), hashtext(%(schema)s)) AS taken;

-- name: wait_briefly
-- Nothing here waits long for a lock: live runs come first.
SET LOCAL lock_timeout = '2s';

-- name: idle
-- Part of a statement: no run of the thread goes on, and none rests that is to go on.
NOT EXISTS (
    SELECT FROM {schema}.workflow_metadata AS other
     WHERE other.organization_id = run.organization_id AND other.thread_id = run.thread_id
       AND other.status IN ('pending', 'running', 'waiting', 'paused', 'suspended'))

-- name: unneeded
-- Part of a statement: nobody needs the run any more. Needed is one
-- - whose checkpoint a fork is to begin from that has not copied it yet;
-- - that started runs which are not over; and one that was started by a batch that may still go on;
-- - that a schedule started lately: its idempotency key keeps the due time from being started again;
-- - that came after a failed one on the thread, which may be resumed only as long as the thread has not moved on.
NOT EXISTS (
    SELECT FROM {schema}.workflow_metadata AS fork
     WHERE fork.parent_run_id = run.run_id AND fork.fork_checkpoint_id IS NOT NULL
       AND (fork.status IN ('pending', 'running', 'waiting', 'paused', 'suspended')
            OR (fork.status = 'failed' AND fork.last_checkpoint_id IS NULL)))
AND NOT EXISTS (
    SELECT FROM {schema}.workflow_metadata AS child
     WHERE child.batch_id = run.run_id AND child.status IN ('pending', 'running', 'waiting', 'paused', 'suspended'))
AND NOT EXISTS (
    SELECT FROM {schema}.workflow_metadata AS batch
     WHERE batch.run_id = run.batch_id AND batch.status <> 'completed')
AND (run.idempotency_key IS NULL OR run.idempotency_key NOT LIKE 'schedule:%%'
     OR run.completed_at <= clock_timestamp() - interval '25 hours')
AND NOT EXISTS (
    SELECT FROM {schema}.workflow_metadata AS failed
     WHERE failed.organization_id = run.organization_id AND failed.thread_id = run.thread_id
       AND failed.status = 'failed' AND failed.run_id <> run.run_id AND failed.started_at < run.started_at)

-- name: over
-- Part of a statement: the run is of a class, and has been over for as long as that is kept; after a place in the order.
run.status = %(status)s AND run.completed_at <= clock_timestamp() - make_interval(secs => %(keep_s)s)
AND (%(workflow)s::text IS NULL OR run.workflow_type = %(workflow)s) AND run.workflow_type <> ALL (%(others_than)s::text[])
AND (%(after_time)s::timestamptz IS NULL
     OR (run.completed_at, run.run_id) > (%(after_time)s::timestamptz, %(after_id)s::uuid))

-- name: expired_runs
-- Runs of a class that may go, those that were over first, with how many checkpoints their threads have (up to a bound).
SELECT run.run_id::text, run.checkpoint_thread AS thread, run.completed_at,
       (SELECT count(*) FROM (SELECT FROM {schema}.checkpoints AS c
                               WHERE c.thread_id = run.checkpoint_thread LIMIT %(count_to)s) AS counted) AS checkpoints
  FROM {schema}.workflow_metadata AS run
 WHERE {over} AND {idle} AND {unneeded}
 ORDER BY run.completed_at, run.run_id LIMIT %(limit)s
{locked}

-- name: locked
-- Part of a statement: what another process is at is left to it.
FOR UPDATE OF run SKIP LOCKED

-- name: judge_runs
-- Of some runs those that may go now, and whether their threads go with them: none but these ran there.
SELECT run.run_id::text, run.checkpoint_thread AS thread, run.workflow_type,
       NOT EXISTS (SELECT FROM {schema}.workflow_metadata AS other
                    WHERE other.organization_id = run.organization_id AND other.thread_id = run.thread_id
                      AND other.run_id <> ALL (%(run_ids)s::uuid[])) AS alone
  FROM {schema}.workflow_metadata AS run
 WHERE run.run_id = ANY (%(run_ids)s::uuid[]) AND {idle} AND {unneeded};

-- name: delete_runs
-- Deletes runs with all that is kept of them. Gives how many rows of each table went, and about how many bytes.
WITH activities AS (
    DELETE FROM {schema}.workflow_activity WHERE run_id = ANY (%(run_ids)s::uuid[])
    RETURNING 120 + coalesce(pg_column_size(error), 0) AS bytes
), signals AS (
    DELETE FROM {schema}.workflow_signal WHERE run_id = ANY (%(run_ids)s::uuid[])
    RETURNING 100 + coalesce(pg_column_size(payload), 0) AS bytes
), hooks AS (
    DELETE FROM {schema}.workflow_hook WHERE run_id = ANY (%(run_ids)s::uuid[]) RETURNING 160 AS bytes
), steps AS (
    DELETE FROM {schema}.workflow_step WHERE run_id = ANY (%(run_ids)s::uuid[])
    RETURNING 200 + pg_column_size(arguments) + coalesce(pg_column_size(result), 0) AS bytes
), events AS (
    DELETE FROM {schema}.workflow_event WHERE run_id = ANY (%(run_ids)s::uuid[])
    RETURNING 70 + pg_column_size(events) AS bytes
), documents AS (
    DELETE FROM {schema}.workflow_batch_document WHERE batch_id = ANY (%(run_ids)s::uuid[])
    RETURNING 160 + pg_column_size(source) AS bytes
), batches AS (
    DELETE FROM {schema}.workflow_batch WHERE batch_id = ANY (%(run_ids)s::uuid[]) RETURNING 120 AS bytes
), runs AS (
    DELETE FROM {schema}.workflow_metadata WHERE run_id = ANY (%(run_ids)s::uuid[])
    RETURNING 400 + coalesce(pg_column_size(input), 0) + coalesce(pg_column_size(output), 0) AS bytes
)
SELECT 'workflow_metadata' AS name, count(*) AS rows, coalesce(sum(bytes), 0)::bigint AS bytes FROM runs
UNION ALL SELECT 'workflow_activity', count(*), coalesce(sum(bytes), 0)::bigint FROM activities
UNION ALL SELECT 'workflow_signal', count(*), coalesce(sum(bytes), 0)::bigint FROM signals
UNION ALL SELECT 'workflow_hook', count(*), coalesce(sum(bytes), 0)::bigint FROM hooks
UNION ALL SELECT 'workflow_step', count(*), coalesce(sum(bytes), 0)::bigint FROM steps
UNION ALL SELECT 'workflow_event', count(*), coalesce(sum(bytes), 0)::bigint FROM events
UNION ALL SELECT 'workflow_batch_document', count(*), coalesce(sum(bytes), 0)::bigint FROM documents
UNION ALL SELECT 'workflow_batch', count(*), coalesce(sum(bytes), 0)::bigint FROM batches;

-- name: measure_runs
-- What `delete_runs` would delete.
SELECT 'workflow_metadata' AS name, count(*) AS rows, coalesce(sum(
           400 + coalesce(pg_column_size(input), 0) + coalesce(pg_column_size(output), 0)), 0)::bigint AS bytes
  FROM {schema}.workflow_metadata WHERE run_id = ANY (%(run_ids)s::uuid[])
UNION ALL
SELECT 'workflow_activity', count(*), coalesce(sum(120 + coalesce(pg_column_size(error), 0)), 0)::bigint
  FROM {schema}.workflow_activity WHERE run_id = ANY (%(run_ids)s::uuid[])
UNION ALL
SELECT 'workflow_signal', count(*), coalesce(sum(100 + coalesce(pg_column_size(payload), 0)), 0)::bigint
  FROM {schema}.workflow_signal WHERE run_id = ANY (%(run_ids)s::uuid[])
UNION ALL
SELECT 'workflow_hook', count(*), 160 * count(*) FROM {schema}.workflow_hook WHERE run_id = ANY (%(run_ids)s::uuid[])
UNION ALL
SELECT 'workflow_step', count(*), coalesce(sum(
           200 + pg_column_size(arguments) + coalesce(pg_column_size(result), 0)), 0)::bigint
  FROM {schema}.workflow_step WHERE run_id = ANY (%(run_ids)s::uuid[])
UNION ALL
SELECT 'workflow_event', count(*), coalesce(sum(70 + pg_column_size(events)), 0)::bigint
  FROM {schema}.workflow_event WHERE run_id = ANY (%(run_ids)s::uuid[])
UNION ALL
SELECT 'workflow_batch_document', count(*), coalesce(sum(160 + pg_column_size(source)), 0)::bigint
  FROM {schema}.workflow_batch_document WHERE batch_id = ANY (%(run_ids)s::uuid[])
UNION ALL
SELECT 'workflow_batch', count(*), 120 * count(*) FROM {schema}.workflow_batch WHERE batch_id = ANY (%(run_ids)s::uuid[]);

-- name: long_threads
-- Runs of a class that have been over for as long as their checkpoints are kept, whose threads are idle and have more
-- checkpoints of the outermost graph than are to stay. With `since`, only what was not to be found then.
SELECT run.run_id::text, run.checkpoint_thread AS thread, run.organization_id, run.thread_id, run.completed_at
  FROM {schema}.workflow_metadata AS run
 WHERE {over} AND (%(since)s::timestamptz IS NULL
                   OR run.completed_at > %(since)s::timestamptz - make_interval(secs => %(keep_s)s))
   AND {idle}
   AND EXISTS (SELECT FROM {schema}.checkpoints AS c
                WHERE c.thread_id = run.checkpoint_thread AND c.checkpoint_ns = '' OFFSET %(keep_last)s LIMIT 1)
 ORDER BY run.completed_at, run.run_id LIMIT %(limit)s;

-- name: runs_of_thread
-- Every run of a thread: whether it is over, for how long, and whether a fork is to begin from one of its checkpoints.
SELECT run.run_id::text, run.workflow_type, run.status,
       run.status IN ('completed', 'failed', 'cancelled') AS is_over,
       extract(epoch FROM clock_timestamp() - run.completed_at)::float8 AS over_for_s,
       EXISTS (SELECT FROM {schema}.workflow_metadata AS fork
                WHERE fork.parent_run_id = run.run_id AND fork.fork_checkpoint_id IS NOT NULL
                  AND (fork.status IN ('pending', 'running', 'waiting', 'paused', 'suspended')
                       OR (fork.status = 'failed' AND fork.last_checkpoint_id IS NULL))) AS is_forked
  FROM {schema}.workflow_metadata AS run
 WHERE run.organization_id = %(organization_id)s AND run.thread_id = %(thread_id)s;

-- name: owner_of_thread
-- Part of a statement: there is a run on `t.thread_id`, which is the id that checkpoints are kept under
-- (workflow_metadata.checkpoint_thread): a thread's own, or `@organization/thread`.
EXISTS (
    SELECT FROM {schema}.workflow_metadata AS run
     WHERE run.organization_id = CASE WHEN left(t.thread_id, 1) = '@'
                                      THEN split_part(substr(t.thread_id, 2), '/', 1) ELSE 'default' END
       AND run.thread_id = CASE WHEN left(t.thread_id, 1) = '@'
                                THEN substr(t.thread_id, strpos(t.thread_id, '/') + 1) ELSE t.thread_id END)

-- name: threads_without_runs
-- Threads after one that no run is on, and that have more checkpoints of the outermost graph than are to stay; only
-- those unused for a time where that is given. LangGraph's times are UTC in ISO 8601, so they compare as text.
SELECT t.thread_id AS thread
  FROM (SELECT thread_id FROM {schema}.checkpoints
         WHERE thread_id > %(after)s AND checkpoint_ns = ''
         GROUP BY thread_id HAVING count(*) > %(keep_last)s) AS t
 WHERE NOT {owner}
   AND (%(unused_s)s::float8 IS NULL
        OR (SELECT c.checkpoint ->> 'ts' FROM {schema}.checkpoints AS c
             WHERE c.thread_id = t.thread_id AND c.checkpoint_ns = '' ORDER BY c.checkpoint_id DESC LIMIT 1)
           <= to_char((clock_timestamp() - make_interval(secs => %(unused_s)s)) AT TIME ZONE 'UTC',
                      'YYYY-MM-DD"T"HH24:MI:SS'))
 ORDER BY t.thread_id LIMIT %(limit)s;

-- name: without_runs
-- Of some threads those that no run is on.
SELECT t.thread_id FROM unnest(%(threads)s::text[]) AS t (thread_id) WHERE NOT {owner};

-- name: delete_fences
-- Deletes fences of threads that were forgotten a while ago, that no run is on, and that have saved nothing since.
WITH gone AS (
    DELETE FROM {schema}.checkpoint_fences WHERE thread_id IN (
        SELECT t.thread_id FROM {schema}.checkpoint_fences AS t
         WHERE t.forgotten_at <= clock_timestamp() - make_interval(secs => %(older_than_s)s) AND NOT {owner}
           AND NOT EXISTS (SELECT FROM {schema}.checkpoints AS c WHERE c.thread_id = t.thread_id)
           AND NOT EXISTS (SELECT FROM {schema}.checkpoint_chunks AS c WHERE c.thread_id = t.thread_id)
         ORDER BY t.forgotten_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
    RETURNING 60 AS bytes
)
SELECT 'checkpoint_fences' AS name, count(*) AS rows, coalesce(sum(bytes), 0)::bigint AS bytes FROM gone;

-- name: has_queue
-- Whether there are tables of the postgres queue.
SELECT to_regclass(%(table)s) IS NOT NULL AS present;

-- name: delete_jobs
-- Deletes jobs of ours, but those under way, whose run or step is gone or over.
WITH gone AS (
    DELETE FROM {schema}.procrastinate_jobs WHERE id IN (
        SELECT job.id FROM {schema}.procrastinate_jobs AS job
         WHERE job.status <> 'doing' AND (
               (job.task_name = 'holdfast.flow' AND NOT EXISTS (
                    SELECT FROM {schema}.workflow_metadata AS run
                     WHERE run.run_id::text = job.args -> 'message' ->> 'id'
                       AND run.status IN ('pending', 'running', 'waiting', 'paused', 'suspended')))
            OR (job.task_name = 'holdfast.step' AND NOT EXISTS (
                    SELECT FROM {schema}.workflow_step AS step
                     WHERE step.step_id::text = job.args -> 'message' ->> 'id'
                       AND step.status IN ('pending', 'running'))))
         LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
    RETURNING 150 + pg_column_size(args) AS bytes
)
SELECT 'procrastinate_jobs' AS name, count(*) AS rows, coalesce(sum(bytes), 0)::bigint AS bytes FROM gone;

-- name: database_time
-- The clock that all times are compared with.
SELECT clock_timestamp() AS now;

-- name: our_tables
-- The tables in the schema that this role may vacuum.
SELECT c.relname AS name FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relkind = 'r' AND pg_has_role(c.relowner, 'USAGE') ORDER BY c.relname;

-- name: vacuum
-- Gives back the room of dead rows, for new ones; `{table}` is put in. Blocks nobody.
VACUUM {schema}.{table};
