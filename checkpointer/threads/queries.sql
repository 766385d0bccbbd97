-- name: checkpoints_of_thread
-- A thread's checkpoints without their values.
SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id FROM {schema}.checkpoints
 WHERE thread_id = %(thread)s;

-- name: writes_of_thread
-- Where a thread's pending writes stand, without their values.
SELECT checkpoint_ns, checkpoint_id, task_path, task_id, idx, channel FROM {schema}.checkpoint_writes
 WHERE thread_id = %(thread)s;

-- name: thread_ids
-- A page of the threads that have checkpoints, in order.
SELECT DISTINCT thread_id FROM {schema}.checkpoints
 WHERE %(after)s::text IS NULL OR thread_id > %(after)s ORDER BY thread_id LIMIT %(limit)s;

-- name: sqlite_checkpoints_of_thread
-- The same in SQLite.
SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id FROM checkpoints
 WHERE thread_id = :thread;

-- name: sqlite_writes_of_thread
-- The same in SQLite.
SELECT checkpoint_ns, checkpoint_id, task_path, task_id, idx, channel FROM writes WHERE thread_id = :thread;

-- name: sqlite_thread_ids
-- The same in SQLite.
SELECT DISTINCT thread_id FROM checkpoints
 WHERE :after IS NULL OR thread_id > :after ORDER BY thread_id LIMIT :limit;

-- name: tables_found
-- Whether the schema holds Holdfast's tables, and whether the search path leads to LangGraph's own.
SELECT to_regclass('{schema}.holdfast_migrations') IS NOT NULL AS ours, to_regclass('checkpoints') IS NOT NULL AS stock;
