-- name: hold_moves_lock
-- Keeps exports, imports and reclaims of one schema apart, for the session.
SELECT pg_try_advisory_lock(hashtextextended('holdfast moves ' || %(schema)s, 20260107)) AS held;

-- name: leave
-- Marks every unfinished run as left, takes it from whoever drives it, and locks that one out of its thread. A step under
-- way is handed back; so is the run, without counting as a lost worker.
WITH going AS MATERIALIZED (
    SELECT run_id, checkpoint_thread, status FROM {schema}.workflow_metadata
     WHERE status IN ('pending', 'running', 'waiting', 'paused', 'suspended') AND left_at IS NULL
       AND saver = 'PostgresSaver'
     ORDER BY run_id FOR NO KEY UPDATE
), fenced AS (
    INSERT INTO {schema}.checkpoint_fences AS f (thread_id, epoch)
    SELECT DISTINCT checkpoint_thread, 1 FROM going ORDER BY 1
    ON CONFLICT (thread_id) DO UPDATE SET epoch = f.epoch + 1
    RETURNING f.thread_id, f.epoch
), ended AS (
    UPDATE {schema}.workflow_activity AS activity SET status = 'interrupted', ended_at = clock_timestamp()
      FROM going WHERE activity.run_id = going.run_id AND activity.status = 'running'
), handed_back AS (
    UPDATE {schema}.workflow_step AS step
       SET status = 'pending', attempt = step.attempt - 1, lease_owner = NULL, lease_until = NULL
      FROM going WHERE step.run_id = going.run_id AND step.status = 'running'
), marked AS (
    UPDATE {schema}.workflow_metadata AS run
       SET status = CASE run.status WHEN 'running' THEN 'pending' ELSE run.status END, left_at = clock_timestamp(),
           moves = run.moves + 1, epoch = fenced.epoch, lease_owner = NULL, lease_until = NULL,
           updated_at = clock_timestamp()
      FROM going JOIN fenced ON fenced.thread_id = going.checkpoint_thread
     WHERE run.run_id = going.run_id
    RETURNING run.run_id, going.status AS was
)
SELECT was, count(*) AS runs,
       coalesce(array_agg(run_id::text) FILTER (WHERE was = 'running'), '{}') AS driven
  FROM marked GROUP BY was;

-- name: tell_asked
-- Has whoever drives these runs look at their rows.
SELECT pg_notify(%(channel)s, 'asked ' || run_id) FROM unnest(%(run_ids)s::text[]) AS driven (run_id);

-- name: kept_elsewhere
-- Unfinished runs whose checkpoints are in the memory of another process, and have not left.
SELECT count(*) AS runs FROM {schema}.workflow_metadata
 WHERE status IN ('pending', 'running', 'waiting', 'paused', 'suspended') AND left_at IS NULL
   AND saver <> 'PostgresSaver';

-- name: count_going
-- How many runs an export will write.
SELECT count(*) AS runs FROM {schema}.workflow_metadata
 WHERE status IN ('pending', 'running', 'waiting', 'paused', 'suspended')
   AND CASE WHEN %(left)s THEN left_at IS NOT NULL ELSE left_at IS NULL AND saver = 'PostgresSaver' END;

-- name: could_go
-- How many runs an export would take along, by state.
SELECT status, count(*) AS runs FROM {schema}.workflow_metadata
 WHERE status IN ('pending', 'running', 'waiting', 'paused', 'suspended') AND left_at IS NULL
   AND saver = 'PostgresSaver'
 GROUP BY status;

-- name: marks
-- Every run that is marked as left, and how often it has left.
SELECT run_id, moves FROM {schema}.workflow_metadata WHERE left_at IS NOT NULL;

-- name: page_of_threads
-- The next threads with runs to be written.
SELECT DISTINCT checkpoint_thread FROM {schema}.workflow_metadata
 WHERE status IN ('pending', 'running', 'waiting', 'paused', 'suspended')
   AND CASE WHEN %(left)s THEN left_at IS NOT NULL ELSE left_at IS NULL AND saver = 'PostgresSaver' END
   AND checkpoint_thread > %(after)s
 ORDER BY checkpoint_thread LIMIT %(limit)s;

-- name: runs_of_threads
-- The runs of these threads that are to be written. Those of batches stay: the documents are in PostgreSQL.
SELECT run.*, EXISTS (SELECT FROM {schema}.workflow_batch AS batch
                       WHERE batch.batch_id IN (run.run_id, run.batch_id)) AS stays
  FROM {schema}.workflow_metadata AS run
 WHERE run.checkpoint_thread = ANY (%(threads)s)
   AND status IN ('pending', 'running', 'waiting', 'paused', 'suspended')
   AND CASE WHEN %(left)s THEN left_at IS NOT NULL ELSE left_at IS NULL AND saver = 'PostgresSaver' END
 ORDER BY run.checkpoint_thread, run.created_at, run.run_id;

-- name: signals_of
-- What was sent to these runs, oldest first.
SELECT * FROM {schema}.workflow_signal WHERE run_id = ANY (%(run_ids)s::uuid[]) ORDER BY run_id, signal_id;

-- name: hooks_of
-- The addresses that these runs gave out.
SELECT * FROM {schema}.workflow_hook WHERE run_id = ANY (%(run_ids)s::uuid[]) ORDER BY run_id, created_at, token;

-- name: steps_of
-- The steps of these runs.
SELECT * FROM {schema}.workflow_step WHERE run_id = ANY (%(run_ids)s::uuid[]) ORDER BY run_id, created_at, step_id;

-- name: activities_of
-- What these runs went through.
SELECT * FROM {schema}.workflow_activity WHERE run_id = ANY (%(run_ids)s::uuid[]) ORDER BY run_id, started_at, attempt, task_id;

-- name: events_of
-- The events of these runs, in rows of those that were written together.
SELECT * FROM {schema}.workflow_event WHERE run_id = ANY (%(run_ids)s::uuid[]) ORDER BY run_id, number;

-- name: marks_of
-- Of these runs, those that are here, and whether they are marked as left.
SELECT run_id, moves, left_at FROM {schema}.workflow_metadata WHERE run_id = ANY (%(run_ids)s::uuid[]);

-- name: lock_marks
-- `marks_of`, held until the end of the transaction.
SELECT run_id, moves, left_at FROM {schema}.workflow_metadata
 WHERE run_id = ANY (%(run_ids)s::uuid[]) ORDER BY run_id FOR NO KEY UPDATE;

-- name: busy_threads
-- Threads on which a run that never left has begun and is not over: what comes back can't go on beside it.
SELECT DISTINCT checkpoint_thread FROM {schema}.workflow_metadata
 WHERE checkpoint_thread = ANY (%(threads)s) AND left_at IS NULL
   AND (status IN ('running', 'waiting', 'paused', 'suspended') OR status = 'pending' AND started_at IS NOT NULL);

-- name: keys_taken
-- Idempotency keys that runs here have already, other than the runs that have them in the file.
SELECT given.run_id FROM unnest(%(run_ids)s::uuid[], %(organizations)s::text[], %(workflows)s::text[], %(keys)s::text[])
       AS given (run_id, organization_id, workflow_type, idempotency_key)
  JOIN {schema}.workflow_metadata AS run USING (organization_id, workflow_type, idempotency_key)
 WHERE run.run_id <> given.run_id;

-- name: still_triggers
-- What comes back has its events already: no trigger writes more of them in this transaction.
SELECT set_config('holdfast.moving', 'on', true);

-- name: raise_fences
-- Locks whoever still writes out of these threads.
INSERT INTO {schema}.checkpoint_fences AS f (thread_id, epoch)
SELECT DISTINCT thread_id, 1 FROM unnest(%(threads)s::text[]) AS given (thread_id) ORDER BY 1
ON CONFLICT (thread_id) DO UPDATE SET epoch = f.epoch + 1
RETURNING thread_id, epoch;

-- name: forget_parts
-- What belongs to these runs here is what they left with; the file knows better.
WITH signals AS (DELETE FROM {schema}.workflow_signal WHERE run_id = ANY (%(run_ids)s::uuid[])),
     hooks AS (DELETE FROM {schema}.workflow_hook WHERE run_id = ANY (%(run_ids)s::uuid[])),
     steps AS (DELETE FROM {schema}.workflow_step WHERE run_id = ANY (%(run_ids)s::uuid[])),
     events AS (DELETE FROM {schema}.workflow_event WHERE run_id = ANY (%(run_ids)s::uuid[]))
DELETE FROM {schema}.workflow_activity WHERE run_id = ANY (%(run_ids)s::uuid[]);

-- name: put_run
-- A run as it comes back, or as it was begun elsewhere; the mark is gone with it.
INSERT INTO {schema}.workflow_metadata AS run (
    run_id, thread_id, organization_id, workflow_type, workflow_version, status, current_activity, input, output, error,
    idempotency_key, batch_id, parent_run_id, attempt, max_attempts, epoch, retry_at, failures, losses, retry, requested,
    awaiting, signal_count, fork_checkpoint_id, queue, priority, start_at, last_checkpoint_id, created_at, started_at,
    completed_at, trace_context, event_count, awaits_children, moves, saver)
VALUES (
    %(run_id)s, %(thread_id)s, %(organization_id)s, %(workflow_type)s, %(workflow_version)s, %(status)s,
    %(current_activity)s, %(input)s, %(output)s, %(error)s, %(idempotency_key)s, %(batch_id)s, %(parent_run_id)s,
    %(attempt)s, %(max_attempts)s, %(epoch)s, %(retry_at)s, %(failures)s, %(losses)s, %(retry)s, %(requested)s,
    %(awaiting)s, %(signal_count)s, %(fork_checkpoint_id)s, %(queue)s, %(priority)s, %(start_at)s,
    %(last_checkpoint_id)s, %(created_at)s, %(started_at)s, %(completed_at)s, %(trace_context)s, %(event_count)s,
    %(awaits_children)s, %(moves)s, 'PostgresSaver')
ON CONFLICT (run_id) DO UPDATE
   SET workflow_version = excluded.workflow_version, status = excluded.status,
       current_activity = excluded.current_activity, output = excluded.output, error = excluded.error,
       attempt = excluded.attempt, epoch = excluded.epoch, retry_at = excluded.retry_at, failures = excluded.failures,
       losses = excluded.losses, requested = excluded.requested, awaiting = excluded.awaiting,
       signal_count = excluded.signal_count, last_checkpoint_id = excluded.last_checkpoint_id,
       started_at = excluded.started_at, completed_at = excluded.completed_at, event_count = excluded.event_count,
       awaits_children = excluded.awaits_children, saver = excluded.saver, left_at = NULL, lease_owner = NULL,
       lease_until = NULL, updated_at = clock_timestamp();

-- name: put_signal
-- A signal under a new number; they are put in the order in which they came.
INSERT INTO {schema}.workflow_signal (run_id, name, payload, key, interrupt_id, created_at, delivered_at)
VALUES (%(run_id)s, %(name)s, %(payload)s, %(key)s, %(interrupt_id)s, %(created_at)s, %(delivered_at)s);

-- name: put_hook
-- An address.
INSERT INTO {schema}.workflow_hook (token, run_id, key, name, multiple, uses, expires_at)
VALUES (%(token)s, %(run_id)s, %(key)s, %(name)s, %(multiple)s, %(uses)s, %(expires_at)s);

-- name: put_step
-- A step.
INSERT INTO {schema}.workflow_step (
    step_id, run_id, key, name, queue, priority, arguments, status, result, error, attempt, losses, retry_at, completed_at)
VALUES (
    %(step_id)s, %(run_id)s, %(key)s, %(name)s, %(queue)s, %(priority)s, %(arguments)s, %(status)s, %(result)s,
    %(error)s, %(attempt)s, %(losses)s, %(retry_at)s,
    CASE WHEN %(status)s IN ('completed', 'failed') THEN clock_timestamp() END);

-- name: put_activity
-- An activity.
INSERT INTO {schema}.workflow_activity (run_id, attempt, task_id, activity, status, error, started_at, ended_at)
VALUES (%(run_id)s, %(attempt)s, %(task_id)s, %(activity)s, %(status)s, %(error)s, %(started_at)s, %(ended_at)s);

-- name: put_events
-- Events that stand together.
INSERT INTO {schema}.workflow_event (run_id, number, first, events, at)
VALUES (%(run_id)s, %(number)s, %(first)s, %(events)s, %(at)s);

-- name: tell
-- Tells every process about runs; it goes out with the transaction.
SELECT pg_notify(%(channel)s, notice) FROM unnest(%(notices)s::text[]) AS given (notice);

-- name: marked
-- How many runs are marked as left, by state.
SELECT status, count(*) AS runs FROM {schema}.workflow_metadata WHERE left_at IS NOT NULL GROUP BY status;

-- name: reclaim
-- Lets marked runs go on from what they left with; of all of them, or of those given with the time they left.
WITH back AS MATERIALIZED (
    SELECT run.run_id, run.checkpoint_thread FROM {schema}.workflow_metadata AS run
     WHERE run.left_at IS NOT NULL
       AND (%(run_ids)s::uuid[] IS NULL OR (run.run_id, run.moves) IN (
            SELECT given.run_id, given.moves FROM unnest(%(run_ids)s::uuid[], %(moves)s::integer[])
                AS given (run_id, moves)))
     ORDER BY run.run_id FOR NO KEY UPDATE
), fenced AS (
    INSERT INTO {schema}.checkpoint_fences AS f (thread_id, epoch)
    SELECT DISTINCT checkpoint_thread, 1 FROM back ORDER BY 1
    ON CONFLICT (thread_id) DO UPDATE SET epoch = f.epoch + 1
    RETURNING f.thread_id, f.epoch
), reclaimed AS (
    UPDATE {schema}.workflow_metadata AS run
       SET left_at = NULL, saver = 'PostgresSaver', epoch = fenced.epoch, updated_at = clock_timestamp()
      FROM back JOIN fenced ON fenced.thread_id = back.checkpoint_thread
     WHERE run.run_id = back.run_id
    RETURNING run.status
), told AS (
    SELECT pg_notify(%(channel)s, 'free') FROM reclaimed HAVING count(*) > 0
)
SELECT status, count(*) AS runs, (SELECT count(*) FROM told) AS told FROM reclaimed GROUP BY status;

-- name: checkpoints_of_threads
-- The checkpoints of these threads without their values.
SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id FROM {schema}.checkpoints
 WHERE thread_id = ANY (%(threads)s);

-- name: writes_of_threads
-- Where the pending writes of these threads stand, without their values.
SELECT thread_id, checkpoint_ns, checkpoint_id, task_path, task_id, idx, channel FROM {schema}.checkpoint_writes
 WHERE thread_id = ANY (%(threads)s);
