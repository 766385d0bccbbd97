-- name: runs
-- Every run, with what it was given and what came of it.
SELECT run_id::text, thread_id, workflow_type, status, input, output, error, attempt, losses, failures, event_count,
       awaiting, parent_run_id::text, extract(epoch FROM completed_at)::float8 AS completed_at
  FROM {schema}.workflow_metadata ORDER BY created_at, run_id

-- name: states
-- When each run came to a state that it does not leave for a worker, in seconds since 1970.
SELECT run_id::text, extract(epoch FROM at)::float8 AS at
  FROM {schema}.workflow_event CROSS JOIN LATERAL json_array_elements(events) AS event
 WHERE event->>'kind' = 'state' AND event->'data'->>'status' IN ('completed', 'failed', 'cancelled', 'waiting')
 ORDER BY at

-- name: events
-- Every row of events: which numbers it says it holds, and how many it does.
SELECT run_id::text, first, number, json_array_length(events) AS held
  FROM {schema}.workflow_event ORDER BY run_id, number

-- name: steps
-- Every step and its end.
SELECT run_id::text, status, attempt, result->>'token' AS token FROM {schema}.workflow_step ORDER BY created_at

-- name: unfinished
-- Runs that are still to go on by themselves; a run that waits for steps or for runs of its own is one.
SELECT run_id::text FROM {schema}.workflow_metadata
 WHERE status IN ('pending', 'running', 'suspended')
    OR (status = 'waiting' AND NOT (workflow_type = 'asking' AND input->>'answer' IS NULL))

-- name: waiting_jobs
-- Jobs that nobody has taken yet.
SELECT id FROM {schema}.procrastinate_jobs WHERE status = 'todo'

-- name: heads
-- Threads with more than one checkpoint that nothing follows.
SELECT thread_id, checkpoint_ns, count(*) AS heads
  FROM {schema}.checkpoints AS head
 WHERE NOT EXISTS (
       SELECT FROM {schema}.checkpoints AS next
        WHERE next.thread_id = head.thread_id AND next.checkpoint_ns = head.checkpoint_ns
          AND next.parent_checkpoint_id = head.checkpoint_id)
 GROUP BY thread_id, checkpoint_ns HAVING count(*) > 1

-- name: backward
-- Checkpoints whose id is not above their parent's: whoever asks for the latest would get an earlier one.
SELECT thread_id, checkpoint_id, parent_checkpoint_id FROM {schema}.checkpoints
 WHERE parent_checkpoint_id >= checkpoint_id

-- name: shared_threads
-- Threads that two runs have under way.
SELECT thread_id FROM {schema}.workflow_metadata WHERE status IN ('running', 'waiting', 'paused', 'suspended')
 GROUP BY organization_id, thread_id HAVING count(*) > 1

-- name: activities
-- Executions that are shown wrongly: under way in a run that is over, or completed more than once.
SELECT run_id::text, activity, 'is shown as running in a run that is over' AS what
  FROM {schema}.workflow_activity AS activity JOIN {schema}.workflow_metadata AS run USING (run_id)
 WHERE activity.status = 'running' AND run.status IN ('completed', 'failed', 'cancelled')
 UNION ALL
SELECT run_id::text, min(activity), 'is shown as completed ' || count(*) || ' times'
  FROM {schema}.workflow_activity WHERE status = 'completed' GROUP BY run_id, task_id HAVING count(*) > 1

-- name: orphans
-- Rows that belong to nothing, per table.
SELECT 'workflow_activity' AS "table", count(*) AS n, min(run_id::text) AS example FROM {schema}.workflow_activity
 WHERE run_id NOT IN (SELECT run_id FROM {schema}.workflow_metadata)
 UNION ALL
SELECT 'workflow_signal', count(*), min(run_id::text) FROM {schema}.workflow_signal
 WHERE run_id NOT IN (SELECT run_id FROM {schema}.workflow_metadata)
 UNION ALL
SELECT 'workflow_event', count(*), min(run_id::text) FROM {schema}.workflow_event
 WHERE run_id NOT IN (SELECT run_id FROM {schema}.workflow_metadata)
 UNION ALL
SELECT 'workflow_step', count(*), min(run_id::text) FROM {schema}.workflow_step
 WHERE run_id NOT IN (SELECT run_id FROM {schema}.workflow_metadata)
 UNION ALL
SELECT 'procrastinate_jobs', count(*), min(args->'message'->>'id') FROM {schema}.procrastinate_jobs
 WHERE args->'message'->>'id' NOT IN (
       SELECT run_id::text FROM {schema}.workflow_metadata UNION SELECT step_id::text FROM {schema}.workflow_step)
 UNION ALL
SELECT 'workflow_metadata', count(*), min(run_id::text) FROM {schema}.workflow_metadata
 WHERE parent_run_id NOT IN (SELECT run_id FROM {schema}.workflow_metadata)
 UNION ALL
SELECT 'checkpoints', count(*), min(thread_id) FROM {schema}.checkpoints
 WHERE thread_id NOT IN (SELECT checkpoint_thread FROM {schema}.workflow_metadata)
 UNION ALL
SELECT 'checkpoints without their parent', count(*), min(thread_id) FROM {schema}.checkpoints AS child
 WHERE parent_checkpoint_id IS NOT NULL AND NOT EXISTS (
       SELECT FROM {schema}.checkpoints AS parent
        WHERE parent.thread_id = child.thread_id AND parent.checkpoint_ns = child.checkpoint_ns
          AND parent.checkpoint_id = child.parent_checkpoint_id)
 UNION ALL
SELECT 'checkpoint_blobs', count(*), min(thread_id) FROM {schema}.checkpoint_blobs AS blob
 WHERE NOT EXISTS (
       SELECT FROM {schema}.checkpoints AS holder
        WHERE holder.thread_id = blob.thread_id AND holder.checkpoint_ns = blob.checkpoint_ns
          AND holder.checkpoint->'channel_versions'->>blob.channel = blob.version)
 UNION ALL
SELECT 'checkpoint_writes', count(*), min(thread_id) FROM {schema}.checkpoint_writes AS written
 WHERE NOT EXISTS (
       SELECT FROM {schema}.checkpoints AS holder
        WHERE holder.thread_id = written.thread_id AND holder.checkpoint_ns = written.checkpoint_ns
          AND holder.checkpoint_id = written.checkpoint_id)
 UNION ALL
SELECT 'checkpoint_fences', count(*), min(thread_id) FROM {schema}.checkpoint_fences
 WHERE thread_id NOT IN (SELECT checkpoint_thread FROM {schema}.workflow_metadata)
