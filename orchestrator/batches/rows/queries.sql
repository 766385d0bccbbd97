-- name: begin_batch
-- Keeps a batch, unless it is there.
INSERT INTO {schema}.workflow_batch (batch_id, organization_id, title, policy, state)
VALUES (%(batch_id)s, %(organization_id)s, %(title)s, %(policy)s, %(state)s) ON CONFLICT DO NOTHING;

-- name: enter_state
-- Says how far a batch has come.
UPDATE {schema}.workflow_batch SET state = %(state)s, updated_at = clock_timestamp() WHERE batch_id = %(batch_id)s::uuid;

-- name: find_batch
-- One batch.
SELECT batch_id, organization_id, title, policy, state FROM {schema}.workflow_batch WHERE batch_id = %(batch_id)s::uuid;

-- name: add_documents
-- Keeps documents, but for those that are there.
INSERT INTO {schema}.workflow_batch_document
       (batch_id, key, position, name, source, title, content_hash, state, error, run_id)
SELECT %(batch_id)s::uuid, n.key, n.position, n.name, n.source::json, n.title, n.content_hash, n.state, n.error::json,
       n.run_id::uuid
  FROM unnest(%(keys)s::text[], %(positions)s::int[], %(names)s::text[], %(sources)s::text[], %(titles)s::text[],
              %(content_hashes)s::text[], %(states)s::text[], %(errors)s::text[], %(run_ids)s::text[])
       AS n (key, position, name, source, title, content_hash, state, error, run_id)
ON CONFLICT DO NOTHING;

-- name: document_keys
-- The keys of a batch's documents.
SELECT key FROM {schema}.workflow_batch_document WHERE batch_id = %(batch_id)s::uuid;

-- name: documents_now
-- Part of a statement: a batch's documents, those whose runs are over as if that were written down already. A json
-- value that holds \u0000 can't be taken apart.
SELECT document.batch_id, document.key, document.position, document.name, document.source, document.title,
       document.content_hash, document.run_id,
       CASE WHEN document.state <> 'extracting' THEN document.state
            WHEN run.status = 'completed' THEN 'extracted'
            WHEN run.status IN ('failed', 'cancelled') THEN 'failed'
            ELSE document.state END AS state,
       CASE WHEN document.state = 'extracting' AND run.status IN ('failed', 'cancelled')
            THEN json_build_object('type', coalesce(told.error->>'type', 'CancelledError'),
                                   'message', coalesce(told.error->>'message', 'the run was cancelled'),
                                   'state', 'extracting')
            ELSE document.error END AS error
  FROM {schema}.workflow_batch_document AS document
  LEFT JOIN {schema}.workflow_metadata AS run ON run.run_id = document.run_id AND document.state = 'extracting'
  LEFT JOIN LATERAL (SELECT replace(run.error::text, '\u0000', '\ufffd')::json AS error) AS told ON true
 WHERE document.batch_id = %(batch_id)s::uuid

-- name: list_documents
-- A page of a batch's documents, in their order.
SELECT * FROM ({now}) AS document
 WHERE position > %(after)s AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s))
 ORDER BY position LIMIT %(limit)s;

-- name: tally_documents
-- How many documents of a batch are in each state.
SELECT state, CASE WHEN state = 'failed' THEN error->>'state' END AS failed_in, count(*) AS count
  FROM ({now}) AS document GROUP BY 1, 2;

-- name: advance_documents
-- Notes how far documents have come that are where they were when this was found out: what a worker sends that was
-- taken for lost, and is not, moves nothing back.
UPDATE {schema}.workflow_batch_document AS document
   SET state = n.state, error = n.error::json, title = coalesce(n.title, document.title),
       content_hash = coalesce(n.content_hash, document.content_hash)
  FROM unnest(%(keys)s::text[], %(titles)s::text[], %(content_hashes)s::text[], %(states)s::text[], %(errors)s::text[])
       AS n (key, title, content_hash, state, error)
 WHERE document.batch_id = %(batch_id)s::uuid AND document.key = n.key AND document.state = %(was)s;

-- name: settle_documents
-- Writes down how the runs of documents ended.
UPDATE {schema}.workflow_batch_document AS document SET state = now.state, error = now.error
  FROM ({now}) AS now
 WHERE document.batch_id = now.batch_id AND document.key = now.key AND document.state = 'extracting'
   AND now.state <> 'extracting';
