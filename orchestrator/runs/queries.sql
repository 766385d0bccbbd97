-- name: create_run
-- Adds a run; adds nothing where its id or its idempotency key is there already.
INSERT INTO {schema}.workflow_metadata (
    run_id, thread_id, organization_id, workflow_type, status, input, idempotency_key, max_attempts, lease_owner, saver
) VALUES (
    %(run_id)s::uuid, %(thread_id)s, %(organization_id)s, %(workflow_type)s, 'pending', %(input)s, %(idempotency_key)s,
    %(max_attempts)s, %(lease_owner)s::bigint, %(saver)s
) ON CONFLICT DO NOTHING
RETURNING *;

-- name: find_same_run
-- The run that a repeated request means: the same id, or the same idempotency key.
SELECT * FROM {schema}.workflow_metadata
 WHERE run_id = %(run_id)s::uuid
    OR (organization_id = %(organization_id)s AND workflow_type = %(workflow_type)s
        AND idempotency_key = %(idempotency_key)s);

-- name: lock_thread
-- Keeps two requests with `reject` on one thread apart until the end of the transaction.
SELECT pg_advisory_xact_lock(hashtextextended(%(organization_id)s || '/' || %(thread_id)s, 20260101));

-- name: unfinished_of_thread
-- The oldest run of the thread that is not finished.
SELECT * FROM {schema}.workflow_metadata
 WHERE organization_id = %(organization_id)s AND thread_id = %(thread_id)s
   AND status IN ('pending', 'running', 'waiting', 'paused', 'suspended')
 ORDER BY created_at, run_id LIMIT 1;

-- name: get_run
-- One run.
SELECT * FROM {schema}.workflow_metadata WHERE run_id = %(run_id)s::uuid;

-- name: latest_of_thread
-- The newest run of a thread.
SELECT * FROM {schema}.workflow_metadata
 WHERE organization_id = %(organization_id)s AND thread_id = %(thread_id)s
 ORDER BY created_at DESC, run_id DESC LIMIT 1;

-- name: list_runs
-- A page of runs, newest first, without their inputs and outputs; null filters match everything.
SELECT run_id, thread_id, organization_id, workflow_type, workflow_version, status, current_activity,
       NULL::json AS input, NULL::json AS output, error, idempotency_key, batch_id, parent_run_id, attempt,
       max_attempts, epoch, lease_owner, lease_until, retry_at, saver, last_checkpoint_id, created_at, started_at,
       updated_at, completed_at
  FROM {schema}.workflow_metadata
 WHERE (%(organization_id)s::text IS NULL OR organization_id = %(organization_id)s)
   AND (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s))
   AND (%(workflow)s::text IS NULL OR workflow_type = %(workflow)s)
   AND (%(before_time)s::timestamptz IS NULL
        OR (created_at, run_id) < (%(before_time)s::timestamptz, %(before_id)s::uuid))
 ORDER BY created_at DESC, run_id DESC LIMIT %(limit)s;

-- name: claim_run
-- Starts an attempt of a pending run that is ours and first in its thread; sent twice, it answers the same.
UPDATE {schema}.workflow_metadata AS run
   SET status = 'running',
       attempt = run.attempt + CASE run.status WHEN 'pending' THEN 1 ELSE 0 END,
       epoch = %(epoch)s + 1,
       started_at = coalesce(run.started_at, clock_timestamp()),
       updated_at = clock_timestamp()
 WHERE run.run_id = %(run_id)s::uuid AND run.lease_owner = %(owner)s
   AND ((run.status = 'running' AND run.epoch = %(epoch)s + 1)
        OR (run.status = 'pending' AND run.epoch = %(epoch)s AND NOT EXISTS (
            SELECT FROM {schema}.workflow_metadata AS other
             WHERE other.organization_id = run.organization_id AND other.thread_id = run.thread_id
               AND other.run_id <> run.run_id
               AND other.status IN ('pending', 'running', 'waiting', 'paused', 'suspended')
               AND (other.status <> 'pending'
                    OR (other.created_at, other.run_id) < (run.created_at, run.run_id)))))
RETURNING status, attempt, epoch, lease_owner, started_at, updated_at;

-- name: record_activities
-- Notes what each run is doing now, for many runs at once.
UPDATE {schema}.workflow_metadata AS run
   SET current_activity = seen.activity, updated_at = clock_timestamp()
  FROM unnest(%(run_ids)s::uuid[], %(epochs)s::bigint[], %(activities)s::text[]) AS seen (run_id, epoch, activity)
 WHERE run.run_id = seen.run_id AND run.epoch = seen.epoch AND run.status = 'running'
RETURNING run.run_id;

-- name: finish_run
-- Ends an attempt, for the one who holds the run under this epoch; sent twice, it answers the same.
UPDATE {schema}.workflow_metadata
   SET status = %(status)s,
       output = %(output)s,
       error = %(error)s,
       current_activity = %(current_activity)s,
       last_checkpoint_id = coalesce(%(last_checkpoint_id)s, last_checkpoint_id),
       lease_owner = NULL,
       lease_until = NULL,
       completed_at = CASE WHEN %(final)s THEN coalesce(completed_at, clock_timestamp()) END,
       updated_at = clock_timestamp()
 WHERE run_id = %(run_id)s::uuid AND epoch = %(epoch)s
   AND ((status = 'running' AND lease_owner = %(owner)s) OR (status = %(status)s AND lease_owner IS NULL))
RETURNING status, current_activity, last_checkpoint_id, lease_owner, lease_until, completed_at, updated_at;

-- name: release_run
-- Puts a run back to pending for `new_owner`, or for anyone where that is null; sent twice, it answers the same.
UPDATE {schema}.workflow_metadata
   SET status = 'pending',
       attempt = attempt - CASE WHEN status = 'running' AND %(refund)s THEN 1 ELSE 0 END,
       lease_owner = %(new_owner)s::bigint,
       lease_until = NULL,
       updated_at = clock_timestamp()
 WHERE run_id = %(run_id)s::uuid AND epoch = %(epoch)s
   AND ((status = 'running' AND lease_owner = %(owner)s)
        OR (status = 'pending' AND lease_owner IS NOT DISTINCT FROM %(new_owner)s::bigint))
RETURNING status, attempt, lease_owner, lease_until, updated_at;

-- name: release_all
-- Puts everything that an owner still holds back to pending, for anyone.
UPDATE {schema}.workflow_metadata
   SET attempt = attempt - CASE status WHEN 'running' THEN 1 ELSE 0 END,
       status = 'pending', lease_owner = NULL, lease_until = NULL, updated_at = clock_timestamp()
 WHERE lease_owner = %(owner)s AND status IN ('pending', 'running')
RETURNING run_id;

-- name: held_by
-- What an owner holds, with the epochs.
SELECT run_id, epoch FROM {schema}.workflow_metadata
 WHERE lease_owner = %(owner)s AND status IN ('pending', 'running');

-- name: adopt_runs
-- Makes runs that were handed back ours; two servers never get the same one.
UPDATE {schema}.workflow_metadata
   SET lease_owner = %(owner)s, updated_at = clock_timestamp()
 WHERE run_id IN (
    SELECT run_id FROM {schema}.workflow_metadata
     WHERE status = 'pending' AND lease_owner IS NULL AND workflow_type = ANY (%(workflows)s)
     ORDER BY created_at, run_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: hold_owner_lock
-- Takes the lock that says an owner is alive, for the session, if it is free.
SELECT pg_try_advisory_lock(%(owner)s::bigint) AS held;

-- name: absent_owners
-- Owners of unfinished runs whose lock is free at this moment.
WITH owners AS MATERIALIZED (
    SELECT DISTINCT lease_owner FROM {schema}.workflow_metadata
     WHERE status IN ('pending', 'running') AND lease_owner <> %(owner)s)
SELECT lease_owner FROM owners WHERE pg_try_advisory_xact_lock(lease_owner);

-- name: take_over
-- Takes an absent owner's runs; a run whose attempts are used up fails instead. Does nothing while the lock is held.
WITH free AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(%(absent)s::bigint) AS free)
UPDATE {schema}.workflow_metadata AS run
   SET status = CASE WHEN spent.is_so THEN 'failed' ELSE 'pending' END,
       error = CASE WHEN spent.is_so THEN json_build_object(
           'type', 'AttemptsExhaustedError',
           'message', format('the worker was lost in attempt %%s of %%s, in activity %%s; see RUN_MAX_ATTEMPTS',
                             run.attempt, run.max_attempts, coalesce(run.current_activity, 'none'))) END,
       lease_owner = CASE WHEN spent.is_so THEN NULL ELSE %(owner)s END,
       lease_until = NULL,
       epoch = run.epoch + 1,
       completed_at = CASE WHEN spent.is_so THEN clock_timestamp() END,
       updated_at = clock_timestamp()
  FROM free, {schema}.workflow_metadata AS held
 CROSS JOIN LATERAL (SELECT held.status = 'running' AND held.attempt >= held.max_attempts AS is_so) AS spent
 WHERE free.free AND held.run_id = run.run_id
   AND run.lease_owner = %(absent)s AND run.status IN ('pending', 'running')
   AND run.workflow_type = ANY (%(workflows)s)
RETURNING run.*;
