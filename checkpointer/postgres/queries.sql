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
-- LangGraph's indexes left half-built by a CREATE INDEX CONCURRENTLY that was cut off; IF NOT EXISTS would keep
-- them so. Others may be under construction by someone else.
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS index
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT i.indisvalid AND n.nspname = %(schema)s AND c.relname = ANY (%(names)s);

-- name: save_guard
-- What the fences say to a batch of saves (`group_commit.py` joins this and the parts below that the batch needs into
-- one statement). Gives a row for each save that is refused: `stale` when the thread was taken over, `moved` when its
-- chunks were pruned (with their generation, null where there is no row), `busy` when either is under way.
claimed AS (
    SELECT * FROM unnest(%(fence_save)s, %(fence_thread)s, %(fence_epoch)s, %(fence_generation)s)
                  AS c (save, thread_id, epoch, generation)
), held AS MATERIALIZED (
    -- Held until this commits, so that a takeover waits for us. A fence that is being moved right now is skipped:
    -- one slow takeover must not stall the other threads' saves.
    SELECT f.thread_id, f.epoch, f.generation FROM {schema}.checkpoint_fences f
     WHERE f.thread_id = ANY (%(fence_thread)s) FOR SHARE SKIP LOCKED
), judged AS (
    SELECT c.save, h.generation,
           CASE WHEN c.epoch IS NOT NULL AND coalesce(h.epoch, f.epoch) IS DISTINCT FROM c.epoch THEN 'stale'
                WHEN h.thread_id IS NULL AND f.thread_id IS NOT NULL THEN 'busy'
                WHEN h.thread_id IS NULL OR h.generation <> c.generation THEN 'moved'
           END AS verdict
      FROM claimed c
      LEFT JOIN held h USING (thread_id)
      LEFT JOIN {schema}.checkpoint_fences f USING (thread_id)
), refused AS MATERIALIZED (
    SELECT save, verdict, generation FROM judged WHERE verdict IS NOT NULL
)

-- name: save_chunks
-- The chunks of a batch; `{allowed}` leaves out what the fences refuse.
INSERT INTO {schema}.checkpoint_chunks (thread_id, hash, type, blob)
SELECT thread_id, hash, type, blob
  FROM unnest(%(chunk_save)s, %(chunk_thread)s, %(chunk_hash)s, %(chunk_type)s, %(chunk_blob)s)
       AS n (save, thread_id, hash, type, blob)
 WHERE {allowed}
ON CONFLICT (thread_id, hash) DO NOTHING

-- name: save_blobs
-- The values of a batch.
INSERT INTO {schema}.checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT thread_id, checkpoint_ns, channel, version, type, blob
  FROM unnest(%(blob_save)s, %(blob_thread)s, %(blob_ns)s, %(blob_channel)s, %(blob_version)s,
              %(blob_type)s, %(blob_blob)s)
       AS n (save, thread_id, checkpoint_ns, channel, version, type, blob)
 WHERE {allowed}
ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING

-- name: save_checkpoints
-- The checkpoints of a batch.
INSERT INTO {schema}.checkpoints
       (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
  FROM unnest(%(cp_save)s, %(cp_thread)s, %(cp_ns)s, %(cp_id)s, %(cp_parent)s, %(cp_checkpoint)s,
              %(cp_metadata)s)
       AS n (save, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
 WHERE {allowed}
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id) DO UPDATE
   SET parent_checkpoint_id = EXCLUDED.parent_checkpoint_id,
       checkpoint = EXCLUDED.checkpoint, metadata = EXCLUDED.metadata

-- name: save_writes
-- The task writes of a batch. LangGraph's special writes (an error, an interrupt, a resume) have a negative idx and
-- replace an earlier one; a task's ordinary writes stay as they were first saved.
INSERT INTO {schema}.checkpoint_writes
       (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
  FROM unnest(%(w_save)s, %(w_thread)s, %(w_ns)s, %(w_checkpoint)s, %(w_task)s, %(w_idx)s, %(w_path)s,
              %(w_channel)s, %(w_type)s, %(w_blob)s)
       AS n (save, thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, type, blob)
 WHERE {allowed}
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE
   SET task_path = EXCLUDED.task_path, channel = EXCLUDED.channel, type = EXCLUDED.type, blob = EXCLUDED.blob
 WHERE EXCLUDED.idx < 0

-- name: load_batch
-- One checkpoint for each asked thread and namespace: the one with the asked id, or the latest where that is null.
-- Continued by `checkpoint_rows`.
WITH wanted AS MATERIALIZED (
    SELECT a.n::int4 AS n, c.*
      FROM unnest(%(threads)s, %(namespaces)s, %(ids)s) WITH ORDINALITY
           AS a (thread_id, checkpoint_ns, checkpoint_id, n)
     CROSS JOIN LATERAL (
           (SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
              FROM {schema}.checkpoints
             WHERE a.checkpoint_id IS NULL
               AND thread_id = a.thread_id AND checkpoint_ns = a.checkpoint_ns
             ORDER BY checkpoint_id DESC LIMIT 1)
           UNION ALL
           (SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
              FROM {schema}.checkpoints
             WHERE thread_id = a.thread_id AND checkpoint_ns = a.checkpoint_ns
               AND checkpoint_id = a.checkpoint_id)) c
)

-- name: places_of_threads
-- Of the threads those that anything was saved of, and whether the checkpoint given for each is there.
SELECT a.thread_id,
       EXISTS (SELECT FROM {schema}.checkpoints c
                WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = '' AND c.checkpoint_id = a.head) AS has_head
  FROM unnest(%(threads)s::text[], %(heads)s::text[]) AS a (thread_id, head)
 WHERE EXISTS (SELECT FROM {schema}.checkpoints c WHERE c.thread_id = a.thread_id)
    OR EXISTS (SELECT FROM {schema}.checkpoint_writes w WHERE w.thread_id = a.thread_id);

-- name: load_chunks
-- The asked chunks by their position from 1, and at negative positions the generations of the threads.
SELECT a.n::int4 AS n, c.type, c.blob, NULL::int8 AS generation
  FROM unnest(%(threads)s, %(hashes)s) WITH ORDINALITY AS a (thread_id, hash, n)
 CROSS JOIN LATERAL (
       SELECT type, blob FROM {schema}.checkpoint_chunks
        WHERE thread_id = a.thread_id AND hash = a.hash LIMIT 1) c
UNION ALL
SELECT -a.n::int4, NULL, NULL, f.generation
  FROM unnest(%(fences)s) WITH ORDINALITY AS a (thread_id, n) JOIN {schema}.checkpoint_fences f USING (thread_id);

-- name: ensure_fence
-- Makes sure of a thread's row and gives the generation of its chunks; nothing where another one is just making it.
WITH made AS (
    INSERT INTO {schema}.checkpoint_fences (thread_id, epoch) VALUES (%(thread)s, 0)
    ON CONFLICT DO NOTHING RETURNING generation
)
SELECT generation FROM made
UNION ALL SELECT generation FROM {schema}.checkpoint_fences WHERE thread_id = %(thread)s;

-- name: list_page
-- A page of checkpoints, newest first, all filters optional. Continued by `checkpoint_rows`.
WITH wanted AS MATERIALIZED (
    SELECT (row_number() OVER (ORDER BY checkpoint_id DESC, thread_id, checkpoint_ns))::int4 AS n,
           thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
      FROM {schema}.checkpoints
     WHERE (%(thread)s::text IS NULL OR thread_id = %(thread)s)
       AND (%(namespace)s::text IS NULL OR checkpoint_ns = %(namespace)s)
       AND (%(id)s::text IS NULL OR checkpoint_id = %(id)s)
       AND (%(before)s::text IS NULL OR checkpoint_id < %(before)s)
       AND (%(filter)s::jsonb IS NULL OR metadata @> %(filter)s)
       AND (%(after_id)s::text IS NULL OR checkpoint_id < %(after_id)s
            OR (checkpoint_id = %(after_id)s AND (thread_id, checkpoint_ns) > (%(after_thread)s, %(after_ns)s)))
     ORDER BY checkpoint_id DESC, thread_id, checkpoint_ns
     LIMIT %(limit)s
)

-- name: checkpoint_rows
-- The wanted checkpoints as flat rows: the checkpoint itself (kind 0: thread, namespace, id, parent), a row per
-- stored channel value (kind 1: channel, type, version) and one per pending write (kind 2: task, type, channel, path).
SELECT n, 0::int2 AS kind, thread_id AS a, checkpoint_ns AS b, checkpoint_id AS c, parent_checkpoint_id AS d,
       NULL::int4 AS idx, checkpoint, metadata, NULL::bytea AS blob
  FROM wanted
UNION ALL
SELECT w.n, 1::int2, v.key, b.type, v.value, NULL, NULL, NULL, NULL, b.blob
  FROM wanted w
 CROSS JOIN LATERAL jsonb_each_text(w.checkpoint -> 'channel_versions') v
 CROSS JOIN LATERAL (
       SELECT type, blob FROM {schema}.checkpoint_blobs
        WHERE thread_id = w.thread_id AND checkpoint_ns = w.checkpoint_ns
          AND channel = v.key AND version = v.value
        LIMIT 1) b
UNION ALL
SELECT w.n, 2::int2, cw.task_id, cw.type, cw.channel, cw.task_path, cw.idx, NULL, NULL, cw.blob
  FROM wanted w
  JOIN {schema}.checkpoint_writes cw
    ON cw.thread_id = w.thread_id AND cw.checkpoint_ns = w.checkpoint_ns AND cw.checkpoint_id = w.checkpoint_id;

-- name: pending_sends
-- What tasks sent (Send) under a parent checkpoint: where checkpoints older than version 4 keep them.
SELECT type, blob, task_id, idx FROM {schema}.checkpoint_writes
 WHERE thread_id = %(thread)s AND checkpoint_ns = %(namespace)s AND checkpoint_id = %(parent)s
   AND channel = %(tasks)s
 ORDER BY task_path, task_id, idx;

-- name: delta_history
-- Walks from a checkpoint's parent upwards, for each asked channel to the nearest stored value (its seed). Gives
-- the writes met on the way (kind 0) and the seeds: a blob (kind 1) or a value in the checkpoint's JSON (kind 2).
WITH RECURSIVE chain AS (
    (SELECT 0 AS depth, NULL::text AS checkpoint_id, h.parent_checkpoint_id AS parent,
            '{}'::text[] AS wanted, %(channels)s::text[] AS unseeded, NULL::jsonb AS versions, NULL::jsonb AS inline
       FROM {schema}.checkpoints h
      WHERE h.thread_id = %(thread)s AND h.checkpoint_ns = %(namespace)s
        AND (%(id)s::text IS NULL OR h.checkpoint_id = %(id)s)
      ORDER BY h.checkpoint_id DESC LIMIT 1)
    UNION ALL
    SELECT c.depth + 1, p.checkpoint_id, p.parent_checkpoint_id, c.unseeded,
           ARRAY(SELECT asked.name FROM unnest(c.unseeded) AS asked (name)
                  WHERE coalesce(p.checkpoint -> 'channel_values' -> asked.name, 'null') = 'null'
                    AND NOT EXISTS (
                        SELECT FROM {schema}.checkpoint_blobs b
                         WHERE b.thread_id = p.thread_id AND b.checkpoint_ns = p.checkpoint_ns
                           AND b.channel = asked.name AND b.type <> 'empty'
                           AND b.version = p.checkpoint -> 'channel_versions' ->> asked.name)),
           p.checkpoint -> 'channel_versions', p.checkpoint -> 'channel_values'
      FROM chain c
      JOIN {schema}.checkpoints p
        ON p.thread_id = %(thread)s AND p.checkpoint_ns = %(namespace)s AND p.checkpoint_id = c.parent
     WHERE c.unseeded <> '{}' AND c.parent IS DISTINCT FROM c.checkpoint_id
)
SELECT 0::int2 AS kind, c.depth, c.checkpoint_id, w.channel, w.task_id, w.task_path, w.idx, w.type, w.blob,
       NULL::text AS version, NULL::jsonb AS value
  FROM chain c
  JOIN {schema}.checkpoint_writes w
    ON w.thread_id = %(thread)s AND w.checkpoint_ns = %(namespace)s AND w.checkpoint_id = c.checkpoint_id
   AND w.channel = ANY (c.wanted)
UNION ALL
SELECT CASE WHEN b.type IS NULL THEN 2 ELSE 1 END, c.depth, c.checkpoint_id, seeded.channel, NULL, NULL, NULL,
       b.type, b.blob, c.versions ->> seeded.channel, jsonb_build_object('seed', c.inline -> seeded.channel)
  FROM chain c
 CROSS JOIN LATERAL (SELECT unnest(c.wanted) EXCEPT SELECT unnest(c.unseeded)) AS seeded (channel)
  LEFT JOIN {schema}.checkpoint_blobs b
    ON b.thread_id = %(thread)s AND b.checkpoint_ns = %(namespace)s AND b.channel = seeded.channel
   AND b.version = c.versions ->> seeded.channel AND b.type <> 'empty';

-- name: one_snapshot
-- Has every statement of the transaction see the same rows.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;

-- name: delete_threads
-- Deletes everything that threads saved, and the rows that `raise_fences` made: those it raised are past 0.
WITH checkpoints AS (
    DELETE FROM {schema}.checkpoints WHERE thread_id = ANY (%(threads)s)
), blobs AS (
    DELETE FROM {schema}.checkpoint_blobs WHERE thread_id = ANY (%(threads)s)
), chunks AS (
    DELETE FROM {schema}.checkpoint_chunks WHERE thread_id = ANY (%(threads)s)
), fences AS (
    DELETE FROM {schema}.checkpoint_fences WHERE thread_id = ANY (%(threads)s) AND generation = 0
)
DELETE FROM {schema}.checkpoint_writes WHERE thread_id = ANY (%(threads)s);

-- name: raise_fences
-- Locks out the writers of threads that are about to be deleted, and those who know their chunks. An epoch of 0 says
-- that the thread was never taken over. A thread without a row gets one until it is deleted, so that nobody else makes
-- it, and saves chunks, meanwhile.
INSERT INTO {schema}.checkpoint_fences AS f (thread_id, epoch, generation)
SELECT DISTINCT thread_id, 0, 0 FROM unnest(%(threads)s::text[]) AS t (thread_id) ORDER BY thread_id
ON CONFLICT (thread_id) DO UPDATE
   SET epoch = CASE WHEN f.epoch > 0 THEN f.epoch + 1 ELSE 0 END, generation = f.generation + 1;

-- name: thread_outline
-- Every checkpoint of a thread without its values, newest first, with what pruning goes by: its run, the root
-- checkpoint that a subgraph's call began from, and the DeltaChannels that it counts updates of.
SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id AS parent, (checkpoint ->> 'v')::int AS v,
       metadata ->> 'run_id' AS run_id, metadata -> 'parents' ->> '' AS root,
       metadata ? 'delta_writes_versioned' AS delta_writes,
       ARRAY(SELECT jsonb_object_keys(CASE jsonb_typeof(metadata -> 'counters_since_delta_snapshot')
             WHEN 'object' THEN metadata -> 'counters_since_delta_snapshot' ELSE '{}' END)) AS counted,
       ARRAY(SELECT v.key FROM jsonb_each(CASE jsonb_typeof(checkpoint -> 'channel_values')
             WHEN 'object' THEN checkpoint -> 'channel_values' ELSE '{}' END) v
              WHERE v.value = 'true' AND EXISTS (
                    SELECT FROM {schema}.checkpoint_blobs b
                     WHERE b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns AND b.channel = v.key
                       AND b.version = c.checkpoint -> 'channel_versions' ->> v.key)) AS marked
  FROM {schema}.checkpoints c
 WHERE thread_id = %(thread)s
 ORDER BY checkpoint_ns, checkpoint_id DESC;

-- name: senders
-- The checkpoints of a thread under which something was sent to tasks.
SELECT DISTINCT checkpoint_ns, checkpoint_id FROM {schema}.checkpoint_writes
 WHERE thread_id = %(thread)s AND channel = %(tasks)s;

-- name: written_channels
-- The channels that a thread's tasks wrote under each checkpoint.
SELECT checkpoint_ns, checkpoint_id, array_agg(DISTINCT channel) AS channels
  FROM {schema}.checkpoint_writes WHERE thread_id = %(thread)s
 GROUP BY checkpoint_ns, checkpoint_id;

-- name: stored_values
-- Which checkpoints of a thread hold a value of their own for the given channels.
SELECT c.checkpoint_ns, c.checkpoint_id, array_agg(asked.name) AS channels
  FROM {schema}.checkpoints c
 CROSS JOIN unnest(%(channels)s::text[]) AS asked (name)
 WHERE c.thread_id = %(thread)s
   AND (coalesce(c.checkpoint -> 'channel_values' -> asked.name, 'null') <> 'null'
        OR EXISTS (SELECT FROM {schema}.checkpoint_blobs b
                    WHERE b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns
                      AND b.channel = asked.name AND b.type <> 'empty'
                      AND b.version = c.checkpoint -> 'channel_versions' ->> asked.name))
 GROUP BY c.checkpoint_ns, c.checkpoint_id;

-- name: delete_checkpoints
-- Deletes checkpoints of a namespace with their writes, unlinks those that had them as parents, and then deletes
-- the values that only they referred to. Gives how many rows of each table went, and about how many bytes.
WITH gone AS (
    DELETE FROM {schema}.checkpoints
     WHERE thread_id = %(thread)s AND checkpoint_ns = %(namespace)s AND checkpoint_id = ANY (%(ids)s)
    RETURNING checkpoint -> 'channel_versions' AS versions,
              pg_column_size(checkpoint) + pg_column_size(metadata) + 150 AS bytes
), writes AS (
    DELETE FROM {schema}.checkpoint_writes
     WHERE thread_id = %(thread)s AND checkpoint_ns = %(namespace)s AND checkpoint_id = ANY (%(ids)s)
    RETURNING pg_column_size(blob) + 200 AS bytes
), unlinked AS (
    UPDATE {schema}.checkpoints SET parent_checkpoint_id = NULL
     WHERE thread_id = %(thread)s AND checkpoint_ns = %(namespace)s
       AND parent_checkpoint_id = ANY (%(ids)s) AND NOT checkpoint_id = ANY (%(ids)s)
), kept AS MATERIALIZED (
    SELECT DISTINCT v.key AS channel, v.value AS version
      FROM {schema}.checkpoints c CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') v
     WHERE c.thread_id = %(thread)s AND c.checkpoint_ns = %(namespace)s AND NOT c.checkpoint_id = ANY (%(ids)s)
), garbage AS MATERIALIZED (
    SELECT v.key AS channel, v.value AS version
      FROM gone CROSS JOIN LATERAL jsonb_each_text(gone.versions) v
    EXCEPT SELECT channel, version FROM kept
), blobs AS (
    DELETE FROM {schema}.checkpoint_blobs b USING garbage g
     WHERE b.thread_id = %(thread)s AND b.checkpoint_ns = %(namespace)s
       AND b.channel = g.channel AND b.version = g.version
    RETURNING pg_column_size(b.blob) + 150 AS bytes
)
SELECT 'checkpoints' AS name, count(*) AS rows, coalesce(sum(bytes), 0)::bigint AS bytes FROM gone
UNION ALL SELECT 'checkpoint_blobs', count(*), coalesce(sum(bytes), 0)::bigint FROM blobs
UNION ALL SELECT 'checkpoint_writes', count(*), coalesce(sum(bytes), 0)::bigint FROM writes;

-- name: raise_generation
-- Takes a thread's row, which waits for saves that are committing, and has savers forget which chunks they know.
UPDATE {schema}.checkpoint_fences SET generation = generation + 1 WHERE thread_id = %(thread)s;

-- name: shared_values
-- A thread's values that are roots of shared lists.
SELECT thread_id, checkpoint_ns, channel, version, type, blob FROM {schema}.checkpoint_blobs
 WHERE thread_id = %(thread)s AND split_part(type, '+', 1) = 'shared';

-- name: nodes
-- A thread's chunks that hold hashes of others.
SELECT hash, type, blob FROM {schema}.checkpoint_chunks
 WHERE thread_id = %(thread)s AND split_part(type, '+', 1) = 'node';

-- name: chunk_hashes
-- The hashes of all of a thread's chunks.
SELECT hash FROM {schema}.checkpoint_chunks WHERE thread_id = %(thread)s;

-- name: delete_chunks
-- Deletes chunks of a thread. Gives how many, and about how many bytes.
WITH gone AS (
    DELETE FROM {schema}.checkpoint_chunks WHERE thread_id = %(thread)s AND hash = ANY (%(hashes)s::uuid[])
    RETURNING pg_column_size(blob) + 100 AS bytes
)
SELECT 'checkpoint_chunks' AS name, count(*) AS rows, coalesce(sum(bytes), 0)::bigint AS bytes FROM gone;

-- name: threads_of_runs
-- The threads in which runs saved something.
SELECT DISTINCT thread_id FROM {schema}.checkpoints WHERE metadata ->> 'run_id' = ANY (%(runs)s);

-- name: copy_rows
-- Copies a thread's checkpoints, and those of its values, writes and chunks that are not encrypted.
WITH checkpoints AS (
    INSERT INTO {schema}.checkpoints
           (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
    SELECT %(target)s, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
      FROM {schema}.checkpoints WHERE thread_id = %(source)s
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id) DO UPDATE
       SET parent_checkpoint_id = EXCLUDED.parent_checkpoint_id,
           checkpoint = EXCLUDED.checkpoint, metadata = EXCLUDED.metadata
), blobs AS (
    INSERT INTO {schema}.checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT %(target)s, checkpoint_ns, channel, version, type, blob
      FROM {schema}.checkpoint_blobs WHERE thread_id = %(source)s AND strpos(type, '+gcm.') = 0
    ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO UPDATE
       SET type = EXCLUDED.type, blob = EXCLUDED.blob
), chunks AS (
    INSERT INTO {schema}.checkpoint_chunks (thread_id, hash, type, blob)
    SELECT %(target)s, hash, type, blob
      FROM {schema}.checkpoint_chunks WHERE thread_id = %(source)s AND strpos(type, '+gcm.') = 0
    ON CONFLICT (thread_id, hash) DO NOTHING
)
INSERT INTO {schema}.checkpoint_writes
       (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
SELECT %(target)s, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
  FROM {schema}.checkpoint_writes WHERE thread_id = %(source)s AND strpos(coalesce(type, ''), '+gcm.') = 0
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE
   SET task_path = EXCLUDED.task_path, channel = EXCLUDED.channel, type = EXCLUDED.type, blob = EXCLUDED.blob;

-- name: sealed_blobs
-- A thread's encrypted values.
SELECT thread_id, checkpoint_ns, channel, version, type, blob FROM {schema}.checkpoint_blobs
 WHERE thread_id = %(thread)s AND strpos(type, '+gcm.') > 0;

-- name: sealed_writes
-- A thread's encrypted writes.
SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
  FROM {schema}.checkpoint_writes WHERE thread_id = %(thread)s AND strpos(coalesce(type, ''), '+gcm.') > 0;

-- name: sealed_chunks
-- A thread's encrypted chunks.
SELECT thread_id, hash, type, blob FROM {schema}.checkpoint_chunks
 WHERE thread_id = %(thread)s AND strpos(type, '+gcm.') > 0;

-- name: put_chunk
-- Adds or replaces one chunk.
INSERT INTO {schema}.checkpoint_chunks (thread_id, hash, type, blob)
VALUES (%(thread_id)s, %(hash)s, %(type)s, %(blob)s)
ON CONFLICT (thread_id, hash) DO UPDATE SET type = EXCLUDED.type, blob = EXCLUDED.blob;

-- name: hold_fence
-- Holds a thread's row shared: its chunks stay until this transaction ends.
SELECT generation FROM {schema}.checkpoint_fences WHERE thread_id = %(thread)s FOR SHARE;

-- name: put_blob
-- Adds or replaces one value.
INSERT INTO {schema}.checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
VALUES (%(thread_id)s, %(checkpoint_ns)s, %(channel)s, %(version)s, %(type)s, %(blob)s)
ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO UPDATE SET type = EXCLUDED.type, blob = EXCLUDED.blob;

-- name: put_write
-- Adds or replaces one write.
INSERT INTO {schema}.checkpoint_writes
       (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
VALUES (%(thread_id)s, %(checkpoint_ns)s, %(checkpoint_id)s, %(task_id)s, %(task_path)s, %(idx)s, %(channel)s,
        %(type)s, %(blob)s)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE
   SET task_path = EXCLUDED.task_path, channel = EXCLUDED.channel, type = EXCLUDED.type, blob = EXCLUDED.blob;

-- name: acquire_fence
-- Raises a thread's epoch by one, or begins at 1.
INSERT INTO {schema}.checkpoint_fences AS f (thread_id, epoch) VALUES (%(thread)s, 1)
ON CONFLICT (thread_id) DO UPDATE SET epoch = f.epoch + 1
RETURNING epoch;

-- name: blobs_sealed_otherwise
-- A page of values whose encryption is not the wanted one (`%%+gcm.KEY`, or none at all), locked for a change.
SELECT thread_id, checkpoint_ns, channel, version, type, blob FROM {schema}.checkpoint_blobs
 WHERE (thread_id, checkpoint_ns, channel, version) > (%(a)s, %(b)s, %(c)s, %(d)s)
   AND coalesce(substring(type FROM '[+]gcm[.](.*)$'), '') <> %(key)s AND type <> 'empty'
 ORDER BY thread_id, checkpoint_ns, channel, version LIMIT %(limit)s FOR UPDATE;

-- name: writes_sealed_otherwise
-- The same for writes.
SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
  FROM {schema}.checkpoint_writes
 WHERE (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) > (%(a)s, %(b)s, %(c)s, %(d)s, %(e)s)
   AND coalesce(substring(type FROM '[+]gcm[.](.*)$'), '') <> %(key)s
 ORDER BY thread_id, checkpoint_ns, checkpoint_id, task_id, idx LIMIT %(limit)s FOR UPDATE;

-- name: checkpoints_in_clear
-- A page of checkpoints with values in their JSON (but for the marker of a snapshot), locked for a change.
SELECT thread_id, checkpoint_ns, checkpoint_id, checkpoint,
       ARRAY(SELECT v.key FROM jsonb_each(c.checkpoint -> 'channel_values') v
              WHERE v.value <> 'true' OR NOT EXISTS (
                    SELECT FROM {schema}.checkpoint_blobs b
                     WHERE b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns AND b.channel = v.key
                       AND b.version = c.checkpoint -> 'channel_versions' ->> v.key)) AS channels
  FROM {schema}.checkpoints c
 WHERE (thread_id, checkpoint_ns, checkpoint_id) > (%(a)s, %(b)s, %(c)s)
   AND jsonb_typeof(checkpoint -> 'channel_values') = 'object' AND checkpoint -> 'channel_values' <> '{}'
 ORDER BY thread_id, checkpoint_ns, checkpoint_id LIMIT %(limit)s FOR UPDATE;

-- name: take_out_values
-- Takes values out of a checkpoint's JSON.
UPDATE {schema}.checkpoints
   SET checkpoint = jsonb_set(checkpoint, '{channel_values}', (checkpoint -> 'channel_values') - %(channels)s::text[])
 WHERE thread_id = %(thread_id)s AND checkpoint_ns = %(checkpoint_ns)s AND checkpoint_id = %(checkpoint_id)s;

-- name: chunks_sealed_otherwise
-- The same for chunks.
SELECT thread_id, hash, type, blob FROM {schema}.checkpoint_chunks
 WHERE (thread_id, hash) > (%(a)s, %(b)s)
   AND coalesce(substring(type FROM '[+]gcm[.](.*)$'), '') <> %(key)s
 ORDER BY thread_id, hash LIMIT %(limit)s FOR UPDATE;

-- name: sharing_threads
-- Threads, in order, that have chunks.
SELECT DISTINCT thread_id FROM {schema}.checkpoint_chunks WHERE thread_id > %(after)s
 ORDER BY thread_id LIMIT %(limit)s;

-- name: shared_page
-- Some of a thread's values that are roots of shared lists, locked for a change.
SELECT thread_id, checkpoint_ns, channel, version, type, blob FROM {schema}.checkpoint_blobs
 WHERE thread_id = %(thread)s AND split_part(type, '+', 1) = 'shared' LIMIT %(limit)s FOR UPDATE;

-- name: archive_waits
-- Takes the limits of a role or database off the time that a backup or a restore may take, until its transaction ends.
SELECT set_config(name, '0', true) FROM pg_catalog.pg_settings
 WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout');

-- name: archive_lock_wait
-- How long to wait for the tables, in milliseconds, until the transaction ends.
SELECT set_config('lock_timeout', %(ms)s::text, true);

-- name: archive_tables
-- The tables of the schema that hold rows, in order, without the lists of migrations: those say what a schema is, and
-- not what is in it.
SELECT c.relname AS name
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relkind = 'r' AND c.relname NOT IN ('checkpoint_migrations', 'holdfast_migrations')
 ORDER BY c.relname;

-- name: archive_columns
-- The columns of those tables. A generated one is computed anew; a required one has no default; one that is not
-- portable has a type whose binary form names types by this database's numbers.
SELECT c.relname AS "table", a.attname AS name,
       CASE WHEN t.typnamespace = n.oid THEN t.typname ELSE format_type(a.atttypid, NULL) END AS type,
       a.attgenerated <> '' AS generated,
       a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS required,
       t.typnamespace = 'pg_catalog'::regnamespace
           OR (t.typtype NOT IN ('c', 'r', 'm') AND t.typcategory <> 'A') AS portable
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
 WHERE n.nspname = %(schema)s AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY c.relname, a.attnum;

-- name: archive_references
-- Which table has rows that refer to rows of which other.
SELECT DISTINCT f.relname AS "from", t.relname AS "to"
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class f ON f.oid = k.conrelid
  JOIN pg_catalog.pg_class t ON t.oid = k.confrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = f.relnamespace AND n.oid = t.relnamespace
 WHERE n.nspname = %(schema)s AND k.contype = 'f' AND f.oid <> t.oid;

-- name: archive_triggered
-- The tables that have triggers besides those of foreign keys.
SELECT DISTINCT c.relname AS name
  FROM pg_catalog.pg_trigger t
  JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND NOT t.tgisinternal;

-- name: archive_sequences
-- Where the sequences of the schema stand. Without the privilege, one looks like one that was never used.
SELECT s.sequencename AS name, coalesce(s.last_value, s.start_value) AS last, s.last_value IS NOT NULL AS called,
       has_sequence_privilege(quote_ident(s.schemaname) || '.' || quote_ident(s.sequencename), 'SELECT, USAGE') AS readable
  FROM pg_catalog.pg_sequences s WHERE s.schemaname = %(schema)s ORDER BY s.sequencename;

-- name: archive_set_sequence
-- Has a sequence go on from where another stood.
SELECT setval(%(name)s::regclass, %(last)s, %(called)s);

-- name: archive_look_again
-- Within a transaction the next look at who is connected would show the first one's answer.
SELECT pg_stat_clear_snapshot();

-- name: archive_users
-- Who is connected to this database as one of our processes, backups and restores aside.
SELECT pid FROM pg_catalog.pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name IN ('holdfast', 'holdfast queue')
 ORDER BY pid;

-- name: make_fences
-- Makes sure that threads have rows to be held; an epoch of 0 says that the thread was never taken over.
INSERT INTO {schema}.checkpoint_fences (thread_id, epoch)
SELECT DISTINCT thread_id, 0 FROM unnest(%(threads)s::text[]) AS t (thread_id) ORDER BY thread_id
ON CONFLICT DO NOTHING;

-- name: hold_threads
-- Takes the rows of threads: until this transaction ends nobody takes them over, and no fenced write of theirs
-- commits. Leaves out those that somebody else has at this moment.
SELECT thread_id FROM {schema}.checkpoint_fences WHERE thread_id = ANY (%(threads)s)
 ORDER BY thread_id FOR UPDATE SKIP LOCKED;

-- name: forget_threads
-- Deletes everything that threads saved, locks their writers out, and notes when. Gives how many rows of each table
-- went, and about how many bytes.
WITH fences AS (
    UPDATE {schema}.checkpoint_fences
       SET epoch = CASE WHEN epoch > 0 THEN epoch + 1 ELSE 0 END, generation = generation + 1,
           forgotten_at = clock_timestamp()
     WHERE thread_id = ANY (%(threads)s)
), gone AS (
    DELETE FROM {schema}.checkpoints WHERE thread_id = ANY (%(threads)s)
    RETURNING pg_column_size(checkpoint) + pg_column_size(metadata) + 150 AS bytes
), blobs AS (
    DELETE FROM {schema}.checkpoint_blobs WHERE thread_id = ANY (%(threads)s)
    RETURNING pg_column_size(blob) + 150 AS bytes
), writes AS (
    DELETE FROM {schema}.checkpoint_writes WHERE thread_id = ANY (%(threads)s)
    RETURNING pg_column_size(blob) + 200 AS bytes
), chunks AS (
    DELETE FROM {schema}.checkpoint_chunks WHERE thread_id = ANY (%(threads)s)
    RETURNING pg_column_size(blob) + 100 AS bytes
)
SELECT 'checkpoints' AS name, count(*) AS rows, coalesce(sum(bytes), 0)::bigint AS bytes FROM gone
UNION ALL SELECT 'checkpoint_blobs', count(*), coalesce(sum(bytes), 0)::bigint FROM blobs
UNION ALL SELECT 'checkpoint_writes', count(*), coalesce(sum(bytes), 0)::bigint FROM writes
UNION ALL SELECT 'checkpoint_chunks', count(*), coalesce(sum(bytes), 0)::bigint FROM chunks;

-- name: measure_threads
-- What threads have saved: how many rows of each table, and about how many bytes.
SELECT 'checkpoints' AS name, count(*) AS rows,
       coalesce(sum(pg_column_size(checkpoint) + pg_column_size(metadata) + 150), 0)::bigint AS bytes
  FROM {schema}.checkpoints WHERE thread_id = ANY (%(threads)s)
UNION ALL
SELECT 'checkpoint_blobs', count(*), coalesce(sum(pg_column_size(blob) + 150), 0)::bigint
  FROM {schema}.checkpoint_blobs WHERE thread_id = ANY (%(threads)s)
UNION ALL
SELECT 'checkpoint_writes', count(*), coalesce(sum(pg_column_size(blob) + 200), 0)::bigint
  FROM {schema}.checkpoint_writes WHERE thread_id = ANY (%(threads)s)
UNION ALL
SELECT 'checkpoint_chunks', count(*), coalesce(sum(pg_column_size(blob) + 100), 0)::bigint
  FROM {schema}.checkpoint_chunks WHERE thread_id = ANY (%(threads)s);

-- name: measure_checkpoints
-- Some checkpoints of a namespace and their writes: how many rows, and about how many bytes. Their values are left
-- out, for which of them nobody else needs is only known once they are deleted.
SELECT 'checkpoints' AS name, count(*) AS rows,
       coalesce(sum(pg_column_size(checkpoint) + pg_column_size(metadata) + 150), 0)::bigint AS bytes
  FROM {schema}.checkpoints
 WHERE thread_id = %(thread)s AND checkpoint_ns = %(namespace)s AND checkpoint_id = ANY (%(ids)s)
UNION ALL
SELECT 'checkpoint_writes', count(*), coalesce(sum(pg_column_size(blob) + 200), 0)::bigint
  FROM {schema}.checkpoint_writes
 WHERE thread_id = %(thread)s AND checkpoint_ns = %(namespace)s AND checkpoint_id = ANY (%(ids)s);

-- name: orphaned_threads
-- Walks over the threads of a table after one, each looked up once in its index; says whether the thread is one that no
-- checkpoint is of. `{table}` is put in by `forgetting.py`.
WITH RECURSIVE walk AS (
    (SELECT thread_id FROM {schema}.{table} WHERE thread_id > %(after)s ORDER BY thread_id LIMIT 1)
    UNION ALL
    SELECT (SELECT thread_id FROM {schema}.{table} WHERE thread_id > walk.thread_id ORDER BY thread_id LIMIT 1)
      FROM walk WHERE walk.thread_id IS NOT NULL
)
SELECT walk.thread_id,
       NOT EXISTS (SELECT FROM {schema}.checkpoints c WHERE c.thread_id = walk.thread_id) AS orphaned
  FROM walk WHERE walk.thread_id IS NOT NULL LIMIT %(limit)s;

-- name: without_checkpoints
-- Of some threads those that have no checkpoint.
SELECT t.thread_id FROM unnest(%(threads)s::text[]) AS t (thread_id)
 WHERE NOT EXISTS (SELECT FROM {schema}.checkpoints c WHERE c.thread_id = t.thread_id);

-- name: table_sizes
-- Our tables' size on disk, with what VACUUM has not given back yet (rows that are dead, by the statistics).
SELECT c.relname AS name, pg_relation_size(c.oid) AS bytes, pg_total_relation_size(c.oid) AS total_bytes,
       coalesce(s.n_live_tup, 0) AS live_rows, coalesce(s.n_dead_tup, 0) AS dead_rows
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
 WHERE n.nspname = %(schema)s AND c.relkind = 'r' ORDER BY c.relname;

-- name: archive_share_tables
-- Keeps tables in shape while they are copied; rows come and go beside it.
LOCK TABLE {tables} IN ACCESS SHARE MODE;

-- name: archive_take_tables
-- Keeps everyone else out of tables.
LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE;

-- name: archive_any_row
-- Whether a table holds anything.
SELECT FROM {tables} LIMIT 1;

-- name: archive_empty_tables
-- Deletes every row.
TRUNCATE {tables};

-- name: archive_copy_out
-- The rows of a table, in the form that does not depend on the server's version.
COPY {tables} ({columns}) TO STDOUT (FORMAT binary);

-- name: archive_copy_in
-- Loads such rows.
COPY {tables} ({columns}) FROM STDIN (FORMAT binary);

-- name: archive_triggers_off
-- For the owner of a table, who need not be a superuser; foreign keys are checked all the same.
ALTER TABLE {tables} DISABLE TRIGGER USER;

-- name: archive_triggers_on
-- The way back.
ALTER TABLE {tables} ENABLE TRIGGER USER;

-- name: archive_analyze
-- Without it the first queries after a restore would be planned for empty tables.
ANALYZE {tables};
