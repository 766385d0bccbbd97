-- name: create_runs
-- Adds many runs; adds nothing where an id or an idempotency key is there already, or where the batch is over. With an
-- owner, the run's first attempt is begun, and the fence of its thread, which is as new as the run.
WITH added AS (
    INSERT INTO {schema}.workflow_metadata (
        run_id, thread_id, organization_id, workflow_type, workflow_version, input, idempotency_key, max_attempts,
        retry, parent_run_id, fork_checkpoint_id, batch_id, queue, priority, start_at, trace_context, saver, status, attempt, epoch,
        lease_owner, lease_until, started_at, claimed_at)
    SELECT n.run_id, n.thread_id, n.organization_id, n.workflow_type, n.workflow_version, n.input::json,
           n.idempotency_key, n.max_attempts, n.retry::json, n.parent_run_id, n.fork_checkpoint_id, n.batch_id, n.queue, n.priority,
           n.start_at::timestamptz, n.trace_context::json,
           -- Where the thread's runs before it were: one that was in memory may have been lost with its process.
           CASE WHEN n.thread_id = n.run_id::text THEN 'PostgresSaver' ELSE coalesce(
               (SELECT other.saver FROM {schema}.workflow_metadata AS other
                 WHERE other.organization_id = n.organization_id AND other.thread_id = n.thread_id
                 ORDER BY other.created_at DESC, other.run_id DESC LIMIT 1), 'PostgresSaver') END,
           CASE WHEN n.owner IS NULL THEN 'pending' ELSE 'running' END, (n.owner IS NOT NULL)::int,
           (n.owner IS NOT NULL)::int, n.owner,
           CASE WHEN n.owner IS NOT NULL THEN clock_timestamp() + make_interval(secs => %(lease_s)s) END,
           CASE WHEN n.owner IS NOT NULL THEN clock_timestamp() END,
           CASE WHEN n.owner IS NOT NULL THEN clock_timestamp() END
      FROM unnest(%(run_id)s, %(thread_id)s, %(organization_id)s, %(workflow_type)s, %(workflow_version)s, %(input)s,
                  %(idempotency_key)s, %(max_attempts)s, %(retry)s, %(parent_run_id)s, %(fork_checkpoint_id)s,
                  %(batch_id)s, %(queue)s, %(priority)s, %(start_at)s, %(trace_context)s, %(owner)s)
           AS n (run_id, thread_id, organization_id, workflow_type, workflow_version, input, idempotency_key,
                 max_attempts, retry, parent_run_id, fork_checkpoint_id, batch_id, queue, priority, start_at, trace_context,
                 owner)
     WHERE n.batch_id IS NULL OR EXISTS (
            SELECT FROM {schema}.workflow_metadata AS batch
             WHERE batch.run_id = n.batch_id AND batch.status NOT IN ('completed', 'failed', 'cancelled'))
    ON CONFLICT DO NOTHING
    RETURNING run_id, organization_id, thread_id, checkpoint_thread, workflow_type, queue, priority, start_at, status, created_at, updated_at,
              lease_until, started_at, saver
), fenced AS (
    INSERT INTO {schema}.checkpoint_fences (thread_id, epoch)
    SELECT checkpoint_thread, 1 FROM added WHERE status = 'running' ON CONFLICT DO NOTHING
)
{pushed}
SELECT run_id, created_at, updated_at, lease_until, started_at, saver, {pushes} FROM added;

-- name: push_flows
-- Part of a statement that has `added` runs: a job of the postgres queue for each that is to be taken up by a worker.
-- For one whose thread is busy there is none: the end of the run before it tells the workers.
, pushed AS (
    SELECT {schema}.procrastinate_defer_jobs_v1(array_agg(ROW(
               %(queue_prefix)s::text || queue, 'holdfast.flow', priority, NULL, NULL,
               jsonb_build_object('message', jsonb_build_object(
                   'kind', 'flow', 'id', run_id, 'name', workflow_type, 'queue', queue, 'priority', priority,
                   'run_at', start_at)),
               start_at)::{schema}.procrastinate_job_to_defer_v1))
      FROM added
     WHERE status = 'pending' AND NOT EXISTS (
            SELECT FROM {schema}.workflow_metadata AS other
             WHERE other.organization_id = added.organization_id AND other.thread_id = added.thread_id
               AND other.status IN ('pending', 'running', 'waiting', 'paused', 'suspended'))
    HAVING count(*) > 0
)

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

-- name: get_runs
-- Some runs.
SELECT * FROM {schema}.workflow_metadata WHERE run_id = ANY (%(run_ids)s::uuid[]);

-- name: latest_of_thread
-- The newest run of a thread.
SELECT * FROM {schema}.workflow_metadata
 WHERE organization_id = %(organization_id)s AND thread_id = %(thread_id)s
 ORDER BY created_at DESC, run_id DESC LIMIT 1;

-- name: list_runs
-- A page of runs, newest first, without their inputs and outputs; null filters match everything.
SELECT run_id, thread_id, organization_id, workflow_type, workflow_version, status, current_activity,
       NULL::json AS input, NULL::json AS output, error, idempotency_key, batch_id, parent_run_id, attempt,
       max_attempts, epoch, lease_owner, lease_until, retry_at, failures, losses, retry, requested, awaiting,
       signal_count, fork_checkpoint_id, queue, priority, start_at, trace_context, saver, last_checkpoint_id, created_at, started_at,
       updated_at, completed_at, left_at
  FROM {schema}.workflow_metadata
 WHERE (%(organization_id)s::text IS NULL OR organization_id = %(organization_id)s)
   AND (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s))
   AND (%(workflow)s::text IS NULL OR workflow_type = %(workflow)s)
   AND (%(before_time)s::timestamptz IS NULL
        OR (created_at, run_id) < (%(before_time)s::timestamptz, %(before_id)s::uuid))
 ORDER BY created_at DESC, run_id DESC LIMIT %(limit)s;

-- name: turn_by_id
-- Part of a claim: those of the runs asked for that are still as they were seen.
SELECT run.run_id, run.checkpoint_thread
  FROM unnest(%(run_id)s, %(attempt)s, %(epoch)s) AS asked (run_id, attempt, epoch)
  JOIN {schema}.workflow_metadata AS run USING (run_id)
 WHERE run.status = 'pending' AND run.left_at IS NULL AND run.attempt = asked.attempt AND run.epoch = asked.epoch
   AND (run.start_at IS NULL OR run.start_at <= clock_timestamp()) AND {first}
   FOR NO KEY UPDATE OF run SKIP LOCKED

-- name: turn_by_age
-- Part of a claim: the runs of the workflows and queues at hand that come first. Those that are new are left to the
-- queue for a while, which will have told a worker of them. Runs that may lose no further worker are asked for apart,
-- and so may be those of batches.
SELECT run.run_id, run.checkpoint_thread FROM {schema}.workflow_metadata AS run
 WHERE run.status = 'pending' AND run.left_at IS NULL AND {kept} AND run.workflow_type = ANY (%(workflows)s)
   AND (%(queues)s::text[] IS NULL OR run.queue = ANY (%(queues)s))
   AND (run.start_at IS NULL OR run.start_at <= clock_timestamp() - make_interval(secs => %(older_than_s)s))
   AND (run.attempt > 0 OR run.created_at <= clock_timestamp() - make_interval(secs => %(older_than_s)s))
   AND (run.losses > 0 AND run.losses + 1 >= run.max_attempts) = %(last_chance)s AND {first}
 ORDER BY run.priority DESC, run.created_at, run.run_id LIMIT %(limit)s
   FOR NO KEY UPDATE OF run SKIP LOCKED

-- name: first_in_thread
-- Part of a claim: it is the run's turn, for its thread is idle and no other pending run of it comes first. One that
-- was begun does, for the thread's last checkpoint is its own; then the oldest. A thread that has left is not idle.
NOT EXISTS (
    SELECT FROM {schema}.workflow_metadata AS other
     WHERE other.organization_id = run.organization_id AND other.thread_id = run.thread_id
       AND other.run_id <> run.run_id AND other.status IN ('pending', 'running', 'waiting', 'paused', 'suspended')
       AND (other.status <> 'pending' OR other.left_at IS NOT NULL
            OR ((other.start_at IS NULL OR other.start_at <= clock_timestamp())
                AND (other.started_at IS NULL, other.created_at, other.run_id)
                    < (run.started_at IS NULL, run.created_at, run.run_id))))

-- name: claim_runs
-- Starts an attempt of the runs whose turn it is. What another claim is taking at this moment is left to it. The
-- fences are raised in the order of their keys, so that two claims never wait for each other crosswise.
WITH turn AS MATERIALIZED (
    {turn}
), fenced AS (
    INSERT INTO {schema}.checkpoint_fences AS f (thread_id, epoch)
    SELECT checkpoint_thread, 1 FROM turn ORDER BY checkpoint_thread
    ON CONFLICT (thread_id) DO UPDATE SET epoch = f.epoch + 1
    RETURNING f.thread_id, f.epoch
)
UPDATE {schema}.workflow_metadata AS run
   SET status = 'running', attempt = run.attempt + 1, epoch = fenced.epoch, lease_owner = %(owner)s,
       lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s), retry_at = NULL,
       awaiting = NULL,
       started_at = coalesce(run.started_at, clock_timestamp()), claimed_at = clock_timestamp(), event_mark = 0,
       updated_at = clock_timestamp()
  FROM turn JOIN fenced ON fenced.thread_id = turn.checkpoint_thread
 WHERE run.run_id = turn.run_id AND run.status = 'pending'
RETURNING run.*;

-- name: claimed_columns
-- What a claim tells of a run that its caller has seen before.
RETURNING run.run_id, run.attempt, run.epoch, run.lease_until, run.started_at, run.updated_at, run.signal_count,
          run.requested, run.failures, run.losses, run.error, run.last_checkpoint_id

-- name: claimed_before
-- Runs that a claim which was sent before has given us; its answer was lost.
SELECT run.run_id, run.attempt, run.epoch, run.lease_until, run.started_at, run.updated_at, run.signal_count,
       run.requested, run.failures, run.losses, run.error, run.last_checkpoint_id
  FROM unnest(%(run_id)s, %(attempt)s, %(epoch)s) AS asked (run_id, attempt, epoch)
  JOIN {schema}.workflow_metadata AS run USING (run_id)
 WHERE run.status = 'running' AND run.lease_owner = %(owner)s AND run.attempt = asked.attempt + 1
   AND run.epoch > asked.epoch;

-- name: record_activities
-- Notes what running runs are doing, for those who hold them: the current activity, and rows of activities and
-- events. Events that were sent before (by their mark) are not counted again, so their number is taken, by themselves.
WITH held AS (
    UPDATE {schema}.workflow_metadata AS run
       SET current_activity = coalesce(seen.activity, run.current_activity),
           event_count = run.event_count + CASE WHEN run.event_mark < seen.mark THEN seen.events ELSE 0 END,
           event_mark = greatest(run.event_mark, seen.mark),
           updated_at = clock_timestamp()
      FROM unnest(%(run_id)s, %(epoch)s, %(current_activity)s, %(event_count)s, %(mark)s)
           AS seen (run_id, epoch, activity, events, mark)
     WHERE run.run_id = seen.run_id AND run.epoch = seen.epoch AND run.status = 'running'
    RETURNING run.run_id, run.epoch, run.event_count AS last_event
)
{noted}
, told AS (
    SELECT pg_notify(%(channel)s, 'event ' || string_agg(run_id::text, ' ')) FROM held HAVING count(*) > 0
)
SELECT run_id, (SELECT count(*) FROM told) AS told FROM held;

-- name: note_events
-- Part of a statement that has `held` runs: the rows of their events, up to `last_event`.
, shown AS (
    INSERT INTO {schema}.workflow_event (run_id, number, first, events)
    SELECT held.run_id, held.last_event, held.last_event - n.count + 1, n.events::json
      FROM unnest(%(shown_run_id)s, %(shown_epoch)s, %(shown_count)s, %(shown_events)s)
           AS n (run_id, epoch, count, events)
      JOIN held ON held.run_id = n.run_id AND held.epoch = n.epoch
    ON CONFLICT (run_id, number) DO NOTHING
)

-- name: note_activities
-- Part of a statement that has `held` runs: the rows of their activities. An activity that was begun is completed.
-- Times are those of the statement, less what has passed since: the earlier of two starts was told with less delay, and
-- no activity ends before it began.
, noted AS (
    INSERT INTO {schema}.workflow_activity AS known
           (run_id, attempt, task_id, activity, status, error, started_at, ended_at)
    SELECT held.run_id, n.attempt, n.task_id, n.activity, n.status, n.error,
           clock_timestamp() - make_interval(secs => n.began_s), clock_timestamp() - make_interval(secs => n.ended_s)
      FROM unnest(%(note_run_id)s, %(note_epoch)s, %(note_attempt)s, %(note_task_id)s, %(note_activity)s,
                  %(note_status)s, %(note_error)s, %(note_began_s)s, %(note_ended_s)s)
           AS n (run_id, epoch, attempt, task_id, activity, status, error, began_s, ended_s)
      JOIN held ON held.run_id = n.run_id AND held.epoch = n.epoch
    ON CONFLICT (run_id, attempt, task_id) DO UPDATE
       SET status = excluded.status, error = excluded.error, ended_at = excluded.ended_at,
           started_at = least(known.started_at, excluded.started_at)
     WHERE known.status = 'running'
)

-- name: finish_runs
-- Ends attempts, for those who hold the runs under these epochs. What was asked of a run, or sent to it, in the last
-- moment is heeded: one that is to wait and has a signal that its worker had not seen is pending; one that is to rest
-- where that was taken back, too; one that is to be retried rests where that was asked; and one that is not over
-- makes way where another run wants the thread. A pause stays asked of one that goes on by itself. Everyone is told where another run of the
-- thread may be claimed now; of the change itself the table's trigger tells.
WITH ended AS (
    SELECT *, status IN ('completed', 'failed', 'cancelled') AS is_final
      FROM unnest(%(run_id)s, %(owner)s, %(epoch)s, %(status)s, %(output)s, %(error)s, %(current_activity)s,
                  %(last_checkpoint_id)s, %(retry_after_s)s, %(awaiting)s, %(seen_signals)s, %(failed)s, %(event_count)s,
                  %(goes_on)s)
             AS e (run_id, owner, epoch, status, output, error, current_activity, last_checkpoint_id, retry_after_s,
                   awaiting, seen_signals, failed, events, goes_on)
), held AS (
    UPDATE {schema}.workflow_metadata AS run
       SET status = CASE WHEN e.is_final THEN e.status
                         WHEN run.requested = 'supersede' THEN 'cancelled'
                         WHEN e.status = 'waiting' AND run.signal_count > e.seen_signals THEN 'pending'
                         WHEN e.status = 'paused' AND run.requested IS DISTINCT FROM 'pause' THEN 'pending'
                         WHEN e.status = 'suspended' AND run.requested = 'pause' THEN 'paused'
                         ELSE e.status END,
           output = e.output::json,
           error = CASE WHEN run.requested = 'supersede' AND NOT e.is_final
                        THEN %(superseded)s::json ELSE e.error::json END,
           current_activity = e.current_activity,
           last_checkpoint_id = coalesce(
               e.last_checkpoint_id,
               (SELECT max(c.checkpoint_id) FROM {schema}.checkpoints AS c
                 WHERE c.thread_id = run.checkpoint_thread AND c.checkpoint_ns = ''),
               run.last_checkpoint_id),
           awaiting = CASE WHEN e.status = 'waiting' AND run.signal_count <= e.seen_signals
                            AND run.requested IS DISTINCT FROM 'supersede' THEN e.awaiting::json END,
           failures = run.failures + e.failed,
           event_count = run.event_count + e.events,
           retry_at = CASE WHEN e.status = 'suspended' AND run.requested IS NULL
                           THEN clock_timestamp() + make_interval(secs => e.retry_after_s) END,
           requested = CASE WHEN e.status = 'pending' OR e.goes_on > 0
                              OR (e.status = 'waiting' AND run.signal_count > e.seen_signals)
                            THEN nullif(run.requested, 'supersede') END,
           lease_owner = NULL,
           lease_until = NULL,
           completed_at = CASE WHEN e.is_final OR run.requested = 'supersede' THEN clock_timestamp() END,
           updated_at = clock_timestamp()
      FROM ended AS e
     WHERE run.run_id = e.run_id AND run.epoch = e.epoch AND run.status = 'running' AND run.lease_owner = e.owner
    RETURNING run.run_id, run.epoch, run.organization_id, run.thread_id, run.status, run.error, run.awaiting,
              run.signal_count, run.failures, run.last_checkpoint_id, run.retry_at, run.completed_at, run.updated_at,
              run.requested, run.event_count - 1 AS last_event
), freed AS (
    SELECT pg_notify(%(channel)s, 'free')
     WHERE EXISTS (SELECT FROM held JOIN {schema}.workflow_metadata AS other
                       ON other.organization_id = held.organization_id AND other.thread_id = held.thread_id
                      AND other.run_id <> held.run_id AND other.status = 'pending')
)
{noted}
SELECT run_id, status, error, awaiting, signal_count, failures, last_checkpoint_id, retry_at, completed_at, updated_at,
       requested, (SELECT count(*) FROM freed) AS told
  FROM held;

-- name: ended_before
-- A run whose attempt under this epoch is over: who has the epoch of a run that is not running was the last to hold it.
SELECT * FROM {schema}.workflow_metadata
 WHERE run_id = %(run_id)s::uuid AND epoch = %(epoch)s AND status <> 'running';

-- name: release_all
-- Puts everything that an owner still drives back to pending.
WITH released AS (
    UPDATE {schema}.workflow_metadata
       SET status = 'pending', lease_owner = NULL, lease_until = NULL, updated_at = clock_timestamp()
     WHERE lease_owner = %(owner)s AND status = 'running'
    RETURNING run_id
), ended AS (
    UPDATE {schema}.workflow_activity AS activity SET status = 'interrupted', ended_at = clock_timestamp()
      FROM released WHERE activity.run_id = released.run_id AND activity.status = 'running'
)
SELECT run_id FROM released;

-- name: hold_owner_lock
-- Takes the lock that says an owner is alive, for the session, if it is free.
SELECT pg_try_advisory_lock(%(owner)s::bigint) AS held;

-- name: renew
-- Renews the leases of everything an owner drives, and says it is alive; gives what it drives. A row that a
-- transition has locked is renewed the next time: nobody waits for anybody here.
WITH mine AS (
    SELECT run_id FROM {schema}.workflow_metadata
     WHERE lease_owner = %(owner)s AND status = 'running' ORDER BY run_id FOR NO KEY UPDATE SKIP LOCKED
), renewed AS (
    UPDATE {schema}.workflow_metadata AS run
       SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
      FROM mine WHERE run.run_id = mine.run_id
), steps AS (
    UPDATE {schema}.workflow_step SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
     WHERE step_id IN (SELECT step_id FROM {schema}.workflow_step
                        WHERE lease_owner = %(owner)s AND status = 'running'
                        ORDER BY step_id FOR NO KEY UPDATE SKIP LOCKED)
), seen AS (
    INSERT INTO {schema}.workflow_runner AS runner (owner, kind, hostname, pid, version, workflows, lease_until)
    VALUES (%(owner)s, %(kind)s, %(hostname)s, %(pid)s, %(version)s, %(workflows)s,
            clock_timestamp() + make_interval(secs => %(lease_s)s))
    ON CONFLICT (owner) DO UPDATE SET seen_at = clock_timestamp(), lease_until = excluded.lease_until
)
SELECT run_id, epoch, requested FROM {schema}.workflow_metadata WHERE lease_owner = %(owner)s AND status = 'running';

-- name: remove_runner
-- Forgets a process that stopped in good order.
DELETE FROM {schema}.workflow_runner WHERE owner = %(owner)s;

-- name: forget_runners
-- Forgets processes that have been gone for a while.
DELETE FROM {schema}.workflow_runner WHERE lease_until < clock_timestamp() - interval '1 hour';

-- name: runners
-- The processes that drive runs, and what each drives.
SELECT runner.*, runner.lease_until > clock_timestamp() AS alive,
       (SELECT count(*) FROM {schema}.workflow_metadata AS run
         WHERE run.lease_owner = runner.owner AND run.status = 'running') AS running
  FROM {schema}.workflow_runner AS runner ORDER BY started_at, owner;

-- name: absent_owners
-- Owners of running runs whose lock is free at this moment, or one of whose leases has lapsed.
WITH owners AS MATERIALIZED (
    SELECT lease_owner AS owner, bool_or(lease_until < clock_timestamp()) AS lapsed
      FROM {schema}.workflow_metadata
     WHERE status = 'running' AND lease_owner <> %(owner)s GROUP BY lease_owner
), probed AS MATERIALIZED (
    SELECT owner, lapsed, pg_try_advisory_xact_lock(owner) AS free FROM owners
)
SELECT owner, CASE WHEN free THEN 'lock' ELSE 'lease' END AS reason FROM probed WHERE free OR lapsed;

-- name: take_over
-- Takes an absent owner's runs from it and locks it out of their threads; a run that has lost as many workers as it
-- may fails. Of several that would, only the one begun last is charged: the others had gone well beside each other
-- before (dispatcher.py), and one of them may be what kills workers. Leaves what is not absent any more.
WITH free AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(%(absent)s::bigint) AS free
), lost AS MATERIALIZED (
    SELECT run.run_id, run.checkpoint_thread, run.claimed_at, run.losses + 1 >= run.max_attempts AS would_fail,
           run.losses > 0 AND run.losses + 1 >= run.max_attempts AS last_chance
      FROM {schema}.workflow_metadata AS run, free
     WHERE run.lease_owner = %(absent)s AND run.status = 'running'
       AND (free.free OR run.lease_until < clock_timestamp())
     ORDER BY run.checkpoint_thread FOR NO KEY UPDATE OF run SKIP LOCKED
), judged AS (
    SELECT *, charged AND would_fail AS spent
      FROM (SELECT *, NOT last_chance OR claimed_at >= max(claimed_at) FILTER (WHERE last_chance) OVER () AS charged
              FROM lost) AS lost
), fenced AS (
    INSERT INTO {schema}.checkpoint_fences AS f (thread_id, epoch)
    SELECT checkpoint_thread, 1 FROM lost ORDER BY checkpoint_thread
    ON CONFLICT (thread_id) DO UPDATE SET epoch = f.epoch + 1
    RETURNING f.thread_id, f.epoch
), ended AS (
    UPDATE {schema}.workflow_activity AS activity SET status = 'lost', ended_at = clock_timestamp()
      FROM lost WHERE activity.run_id = lost.run_id AND activity.status = 'running'
), taken AS (
    UPDATE {schema}.workflow_metadata AS run
       SET status = CASE WHEN lost.spent THEN 'failed' ELSE 'pending' END,
           error = CASE WHEN lost.spent THEN json_build_object(
               'type', 'AttemptsExhaustedError',
               'message', format('the worker was lost %%s times (last in activity %%s); see RUN_MAX_ATTEMPTS',
                                 run.losses + 1, coalesce(run.current_activity, 'none'))) ELSE run.error END,
           losses = run.losses + lost.charged::int,
           requested = CASE WHEN NOT lost.spent THEN run.requested END,
           epoch = fenced.epoch,
           lease_owner = NULL,
           lease_until = NULL,
           completed_at = CASE WHEN lost.spent THEN clock_timestamp() END,
           updated_at = clock_timestamp()
      FROM judged AS lost JOIN fenced ON fenced.thread_id = lost.checkpoint_thread
     WHERE run.run_id = lost.run_id
    RETURNING run.*
)
SELECT * FROM taken;

-- name: push_again
-- Runs whose message may have been lost: pending, their turn, and nothing has happened to them for a while.
UPDATE {schema}.workflow_metadata AS run SET pushed_at = clock_timestamp()
 WHERE run.run_id IN (
    SELECT run.run_id FROM {schema}.workflow_metadata AS run
     WHERE run.status = 'pending' AND run.left_at IS NULL
       AND greatest(run.updated_at, run.start_at, run.pushed_at)
           <= clock_timestamp() - make_interval(secs => %(older_than_s)s)
       AND {first}
     ORDER BY run.priority DESC, run.created_at, run.run_id LIMIT 200 FOR NO KEY UPDATE SKIP LOCKED)
RETURNING run.*;

-- name: wake_due
-- Makes suspended runs pending whose time has come.
UPDATE {schema}.workflow_metadata SET status = 'pending', retry_at = NULL, updated_at = clock_timestamp()
 WHERE run_id IN (
    SELECT run_id FROM {schema}.workflow_metadata
     WHERE status = 'suspended' AND retry_at <= clock_timestamp() AND left_at IS NULL ORDER BY retry_at LIMIT 500
       FOR NO KEY UPDATE SKIP LOCKED)
RETURNING run_id;

-- name: moved_on
-- The run that went on on the thread of another since that one began.
SELECT other.run_id FROM {schema}.workflow_metadata AS run
  JOIN {schema}.workflow_metadata AS other
    ON other.organization_id = run.organization_id AND other.thread_id = run.thread_id AND other.run_id <> run.run_id
 WHERE run.run_id = %(run_id)s::uuid AND other.started_at > run.started_at LIMIT 1;

-- name: memory_of_thread
-- What is known of a thread's runs in memory: their last checkpoint, and whether any had one, or was lost before it told.
SELECT max(last_checkpoint_id) AS head,
       bool_or(run_id <> %(run_id)s::uuid OR losses > 0 OR last_checkpoint_id IS NOT NULL) AS has_begun
  FROM {schema}.workflow_metadata
 WHERE organization_id = %(organization_id)s AND thread_id = %(thread_id)s AND saver = 'MemorySaver'
   AND started_at IS NOT NULL;

-- name: note_saver
-- Notes where a thread's checkpoints are, for the one who holds its run: in that, and in those that are to follow it.
UPDATE {schema}.workflow_metadata AS run SET saver = %(saver)s
  FROM {schema}.workflow_metadata AS held
 WHERE held.run_id = %(run_id)s::uuid AND held.epoch = %(epoch)s AND held.status = 'running'
   AND run.organization_id = held.organization_id AND run.thread_id = held.thread_id
   AND run.status IN ('pending', 'running', 'waiting', 'paused', 'suspended')
RETURNING run.run_id;

-- name: rivals
-- The other processes that are alive: their lock is not free.
SELECT kind, hostname, pid FROM {schema}.workflow_runner
 WHERE owner <> %(owner)s AND lease_until > clock_timestamp() AND NOT pg_try_advisory_xact_lock(owner)
 ORDER BY started_at, owner;

-- name: lock_run
-- One run, held until the end of the transaction.
SELECT * FROM {schema}.workflow_metadata WHERE run_id = %(run_id)s::uuid FOR NO KEY UPDATE;

-- name: request
-- Notes what a run was asked to do at its next checkpoint; null takes it back.
UPDATE {schema}.workflow_metadata SET requested = %(requested)s, updated_at = clock_timestamp()
 WHERE run_id = %(run_id)s::uuid RETURNING *;

-- name: rest
-- A suspended run is not retried any more.
UPDATE {schema}.workflow_metadata
   SET status = 'paused', retry_at = NULL, requested = NULL, updated_at = clock_timestamp()
 WHERE run_id = %(run_id)s::uuid RETURNING *;

-- name: make_pending
-- A run that rested, or failed, goes on; with `anew` its failures and lost workers are forgotten.
UPDATE {schema}.workflow_metadata
   SET status = 'pending', awaiting = NULL, retry_at = NULL, completed_at = NULL,
       requested = CASE WHEN status = 'waiting' THEN requested END,
       error = CASE WHEN %(anew)s THEN NULL ELSE error END,
       failures = CASE WHEN %(anew)s THEN 0 ELSE failures END,
       losses = CASE WHEN %(anew)s THEN 0 ELSE losses END,
       updated_at = clock_timestamp()
 WHERE run_id = %(run_id)s::uuid RETURNING *;

-- name: cancel_run
-- Ends a run and locks its worker out of the thread. A pending one has no worker, and another run may be on the thread.
WITH fenced AS (
    INSERT INTO {schema}.checkpoint_fences AS f (thread_id, epoch)
    SELECT checkpoint_thread, 1 FROM {schema}.workflow_metadata
     WHERE run_id = %(run_id)s::uuid AND status <> 'pending'
    ON CONFLICT (thread_id) DO UPDATE SET epoch = f.epoch + 1
    RETURNING f.epoch
), ended AS (
    UPDATE {schema}.workflow_activity SET status = 'interrupted', ended_at = clock_timestamp()
     WHERE run_id = %(run_id)s::uuid AND status = 'running'
)
UPDATE {schema}.workflow_metadata AS run
   SET status = 'cancelled', epoch = coalesce((SELECT epoch FROM fenced), run.epoch), error = %(error)s,
       requested = NULL, awaiting = NULL, lease_owner = NULL, lease_until = NULL, retry_at = NULL,
       completed_at = clock_timestamp(), updated_at = clock_timestamp()
 WHERE run.run_id = %(run_id)s::uuid RETURNING run.*;

-- name: cancel_children
-- Ends some of the unfinished runs of a batch, as cancel_run does. A notice of all of them fits into 8,000 bytes.
WITH child AS MATERIALIZED (
    SELECT run_id, checkpoint_thread, status FROM {schema}.workflow_metadata
     WHERE batch_id = %(run_id)s::uuid AND status IN ('pending', 'running', 'waiting', 'paused', 'suspended')
     ORDER BY run_id LIMIT 200 FOR NO KEY UPDATE
), fenced AS (
    INSERT INTO {schema}.checkpoint_fences AS f (thread_id, epoch)
    SELECT checkpoint_thread, 1 FROM child WHERE status <> 'pending' ORDER BY checkpoint_thread
    ON CONFLICT (thread_id) DO UPDATE SET epoch = f.epoch + 1
    RETURNING f.thread_id, f.epoch
), ended AS (
    UPDATE {schema}.workflow_activity AS activity SET status = 'interrupted', ended_at = clock_timestamp()
      FROM child WHERE activity.run_id = child.run_id AND activity.status = 'running'
)
UPDATE {schema}.workflow_metadata AS run
   SET status = 'cancelled', epoch = coalesce(fenced.epoch, run.epoch), requested = NULL, awaiting = NULL,
       error = json_build_object('type', 'CancelledError', 'message', 'the batch was cancelled'),
       lease_owner = NULL, lease_until = NULL, retry_at = NULL,
       completed_at = clock_timestamp(), updated_at = clock_timestamp()
  FROM child LEFT JOIN fenced ON fenced.thread_id = child.checkpoint_thread
 WHERE run.run_id = child.run_id
RETURNING run.run_id, child.status = 'running' AS was_running;

-- name: batches_left_over
-- Batches that were cancelled and still have unfinished runs. Goes from batch to batch through the index of such runs,
-- however many each has.
WITH RECURSIVE batch (id) AS (
    (SELECT batch_id FROM {schema}.workflow_metadata
      WHERE batch_id IS NOT NULL AND status IN ('pending', 'running', 'waiting', 'paused', 'suspended')
      ORDER BY batch_id LIMIT 1)
    UNION ALL
    SELECT (SELECT batch_id FROM {schema}.workflow_metadata
             WHERE batch_id > batch.id AND batch_id IS NOT NULL
               AND status IN ('pending', 'running', 'waiting', 'paused', 'suspended')
             ORDER BY batch_id LIMIT 1)
      FROM batch WHERE batch.id IS NOT NULL
)
SELECT run.run_id FROM batch JOIN {schema}.workflow_metadata AS run ON run.run_id = batch.id
 WHERE run.status = 'cancelled';

-- name: supersede
-- Has a thread's other unfinished runs make way for a newer one: gives those that are resting or have not begun.
WITH others AS (
    SELECT run_id, status FROM {schema}.workflow_metadata
     WHERE organization_id = %(organization_id)s AND thread_id = %(thread_id)s AND run_id <> %(run_id)s::uuid
       AND status IN ('pending', 'running', 'waiting', 'paused', 'suspended') AND left_at IS NULL
       AND (created_at, run_id) < (SELECT created_at, run_id FROM {schema}.workflow_metadata
                                    WHERE run_id = %(run_id)s::uuid)
     ORDER BY run_id FOR NO KEY UPDATE
), asked AS (
    UPDATE {schema}.workflow_metadata AS run SET requested = 'supersede', updated_at = clock_timestamp()
      FROM others WHERE run.run_id = others.run_id AND others.status = 'running'
    RETURNING run.run_id
), told AS (
    SELECT pg_notify(%(channel)s, 'asked ' || string_agg(run_id::text, ' ')) FROM asked HAVING count(*) > 0
)
SELECT others.run_id, counted.told
  FROM (SELECT count(*) AS told FROM told) AS counted
  LEFT JOIN others ON others.status <> 'running';

-- name: notify
-- Tells every process something about runs; it goes out with the transaction.
SELECT pg_notify(%(channel)s, %(notice)s);

-- name: add_signal
-- Keeps a signal; with an interrupt id it is handed over at once.
WITH counted AS (
    UPDATE {schema}.workflow_metadata SET signal_count = signal_count + 1, updated_at = clock_timestamp()
     WHERE run_id = %(run_id)s::uuid
)
INSERT INTO {schema}.workflow_signal (run_id, name, payload, key, interrupt_id, delivered_at)
VALUES (%(run_id)s::uuid, %(name)s, %(payload)s, %(key)s, %(interrupt_id)s,
        CASE WHEN %(interrupt_id)s::text IS NOT NULL THEN clock_timestamp() END);

-- name: signals_of_run
-- What was sent to a run, oldest first.
SELECT * FROM {schema}.workflow_signal WHERE run_id = %(run_id)s::uuid ORDER BY signal_id;

-- name: expect_children
-- Has a run told when all that it has started is over. Its row is locked, as by a child that ends: what was committed
-- before is seen by the next statement, what comes later sees this.
UPDATE {schema}.workflow_metadata SET awaits_children = true WHERE run_id = %(run_id)s::uuid;

-- name: count_children
-- How many runs of a batch are unfinished.
SELECT count(*) AS unfinished FROM {schema}.workflow_metadata
 WHERE batch_id = %(run_id)s::uuid AND status IN ('pending', 'running', 'waiting', 'paused', 'suspended');

-- name: deliver_signals
-- Hands signals over to waits, each once, for the one who holds the run.
WITH held AS (
    SELECT run_id FROM {schema}.workflow_metadata
     WHERE run_id = %(run_id)s::uuid AND status = 'running' AND lease_owner = %(owner)s AND epoch = %(epoch)s FOR SHARE
), given AS (
    UPDATE {schema}.workflow_signal AS signal
       SET interrupt_id = answer.interrupt_id, delivered_at = clock_timestamp()
      FROM held, unnest(%(signal_ids)s::bigint[], %(interrupt_ids)s::text[]) AS answer (signal_id, interrupt_id)
     WHERE signal.run_id = held.run_id AND signal.signal_id = answer.signal_id AND signal.interrupt_id IS NULL
)
SELECT run_id FROM held;

-- name: activities_of_run
-- What a run went through, oldest first.
SELECT * FROM {schema}.workflow_activity WHERE run_id = %(run_id)s::uuid ORDER BY started_at, attempt, task_id;

-- name: events_after
-- A run's events after a number, in rows of those that were written together.
SELECT number, first, events, at FROM {schema}.workflow_event
 WHERE run_id = %(run_id)s::uuid AND number > %(after)s ORDER BY number LIMIT %(limit)s;

-- name: add_hook
-- Keeps an address, unless the run made one under the same key before.
INSERT INTO {schema}.workflow_hook (token, run_id, key, name, multiple, expires_at)
VALUES (%(token)s, %(run_id)s::uuid, %(key)s, %(name)s, %(multiple)s,
        clock_timestamp() + make_interval(secs => %(expires_in_s)s))
ON CONFLICT (run_id, key) DO NOTHING;

-- name: find_hook
-- The address that a run made under a key.
SELECT * FROM {schema}.workflow_hook WHERE run_id = %(run_id)s::uuid AND key = %(key)s;

-- name: use_hook
-- Counts a use of an address that may be used; gives nothing for one that may not.
UPDATE {schema}.workflow_hook SET uses = uses + 1
 WHERE token = %(token)s AND expires_at > clock_timestamp() AND (multiple OR uses = 0)
RETURNING *;

-- name: add_step
-- Keeps a call of a step, unless the same call was made before.
INSERT INTO {schema}.workflow_step (step_id, run_id, key, name, queue, priority, arguments)
VALUES (%(step_id)s::uuid, %(run_id)s::uuid, %(key)s, %(name)s, %(queue)s, %(priority)s, %(arguments)s)
ON CONFLICT (run_id, key) DO NOTHING
RETURNING step_id;

-- name: find_step
-- The call of a step that a run has made under a key.
SELECT * FROM {schema}.workflow_step WHERE run_id = %(run_id)s::uuid AND key = %(key)s;

-- name: get_step
-- One step.
SELECT * FROM {schema}.workflow_step WHERE step_id = %(step_id)s::uuid;

-- name: push_step
-- A job of the postgres queue for a step.
SELECT {schema}.procrastinate_defer_jobs_v1(ARRAY[ROW(
    %(job_queue)s::text, 'holdfast.step', %(priority)s, NULL, NULL, %(arguments)s, NULL
)::{schema}.procrastinate_job_to_defer_v1]);

-- name: claim_step
-- Begins an attempt of a step that is still as it was seen, pending, and whose run is not over.
UPDATE {schema}.workflow_step AS step
   SET status = 'running', attempt = step.attempt + 1, lease_owner = %(owner)s, retry_at = NULL,
       lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
 WHERE step.step_id = %(step_id)s::uuid AND step.status = 'pending' AND step.attempt = %(attempt)s
   AND (step.retry_at IS NULL OR step.retry_at <= clock_timestamp())
   AND EXISTS (SELECT FROM {schema}.workflow_metadata AS run
                WHERE run.run_id = step.run_id AND run.status NOT IN ('completed', 'failed', 'cancelled')
                  AND run.left_at IS NULL)
RETURNING step.*;

-- name: claimed_step_before
-- A step that a claim which was sent before has given us; its answer was lost.
SELECT * FROM {schema}.workflow_step
 WHERE step_id = %(step_id)s::uuid AND status = 'running' AND lease_owner = %(owner)s AND attempt = %(attempt)s + 1;

-- name: due_steps
-- Steps whose message may have been lost, or whose retry is due: pending, nothing has happened for a while, and their
-- run is not over.
UPDATE {schema}.workflow_step AS step SET pushed_at = clock_timestamp()
 WHERE step.step_id IN (
    SELECT step.step_id FROM {schema}.workflow_step AS step
     WHERE step.status = 'pending' AND coalesce(step.retry_at, step.pushed_at + make_interval(secs => %(older_than_s)s))
           <= clock_timestamp()
       AND (step.retry_at IS NULL OR step.pushed_at < step.retry_at
            OR step.pushed_at <= clock_timestamp() - make_interval(secs => %(older_than_s)s))
       AND EXISTS (SELECT FROM {schema}.workflow_metadata AS run
                    WHERE run.run_id = step.run_id AND run.status NOT IN ('completed', 'failed', 'cancelled')
                      AND run.left_at IS NULL)
     ORDER BY step.priority DESC, step.created_at, step.step_id LIMIT 200 FOR NO KEY UPDATE SKIP LOCKED)
RETURNING step.*;

-- name: end_step
-- Ends an attempt of a step, for the one who holds it. One that is handed back does not count.
UPDATE {schema}.workflow_step
   SET status = %(status)s, attempt = attempt - %(handed_back)s::int, result = %(result)s, error = %(error)s, lease_owner = NULL, lease_until = NULL,
       retry_at = clock_timestamp() + make_interval(secs => %(retry_after_s)s::float8),
       completed_at = CASE WHEN %(status)s IN ('completed', 'failed') THEN clock_timestamp() END
 WHERE step_id = %(step_id)s::uuid AND status = 'running' AND lease_owner = %(owner)s AND attempt = %(attempt)s
RETURNING *;

-- name: take_over_steps
-- Takes steps from workers that were lost: their lease has lapsed, or their lock is free. Whoever claims one that has
-- lost as many workers as it may ends it.
WITH owners AS MATERIALIZED (
    SELECT DISTINCT lease_owner AS owner FROM {schema}.workflow_step
     WHERE status = 'running' AND lease_owner <> %(owner)s
), absent AS MATERIALIZED (
    SELECT owner FROM owners WHERE pg_try_advisory_xact_lock(owner)
)
UPDATE {schema}.workflow_step AS step
   SET status = 'pending', losses = step.losses + 1, lease_owner = NULL, lease_until = NULL,
       retry_at = clock_timestamp()
 WHERE step.status = 'running' AND step.lease_owner <> %(owner)s
   AND (step.lease_until < clock_timestamp() OR step.lease_owner IN (SELECT owner FROM absent))
RETURNING step.*;
