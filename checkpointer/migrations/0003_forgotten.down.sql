DROP INDEX {schema}.checkpoint_fences_forgotten;
ALTER TABLE {schema}.checkpoint_fences DROP COLUMN forgotten_at;
