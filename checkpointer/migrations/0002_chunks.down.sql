ALTER TABLE {schema}.checkpoint_fences DROP COLUMN generation;
DROP TABLE {schema}.checkpoint_chunks;
