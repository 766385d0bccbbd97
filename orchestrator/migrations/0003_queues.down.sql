DROP TABLE {schema}.workflow_step;
DROP INDEX {schema}.workflow_metadata_turn;
CREATE INDEX workflow_metadata_pending ON {schema}.workflow_metadata (created_at, run_id) WHERE status = 'pending';
ALTER TABLE {schema}.workflow_metadata
    DROP COLUMN pushed_at,
    DROP COLUMN start_at,
    DROP COLUMN priority,
    DROP COLUMN queue;
