ALTER TABLE {schema}.workflow_metadata DROP COLUMN trace_context;
