-- What retention looks for: runs that have been over for a while, and what keeps them from going.
CREATE INDEX IF NOT EXISTS workflow_metadata_over ON {schema}.workflow_metadata (status, completed_at, run_id)
    WHERE status IN ('completed', 'failed', 'cancelled');

CREATE INDEX IF NOT EXISTS workflow_metadata_failed ON {schema}.workflow_metadata (organization_id, thread_id)
    WHERE status = 'failed';

CREATE INDEX IF NOT EXISTS workflow_metadata_forks ON {schema}.workflow_metadata (parent_run_id)
    WHERE fork_checkpoint_id IS NOT NULL;
