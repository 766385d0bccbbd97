DROP TABLE {schema}.workflow_metadata;
