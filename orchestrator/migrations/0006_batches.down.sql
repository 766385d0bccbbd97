DROP TRIGGER workflow_child_ends ON {schema}.workflow_metadata;
DROP FUNCTION {schema}.workflow_child_ended();
DROP TABLE {schema}.workflow_batch_document;
DROP TABLE {schema}.workflow_batch;
DROP INDEX {schema}.workflow_metadata_children;
DROP INDEX {schema}.workflow_metadata_turn_lost;
DROP INDEX {schema}.workflow_metadata_turn_batched;
DROP INDEX {schema}.workflow_metadata_turn_single;
CREATE INDEX workflow_metadata_turn ON {schema}.workflow_metadata (priority DESC, created_at, run_id)
    WHERE status = 'pending';
ALTER TABLE {schema}.workflow_metadata DROP COLUMN awaits_children;
