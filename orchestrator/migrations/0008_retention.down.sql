DROP INDEX {schema}.workflow_metadata_forks;
DROP INDEX {schema}.workflow_metadata_failed;
DROP INDEX {schema}.workflow_metadata_over;
