-- One row a run. The row is the authority on a run's state; what a run resumes from is LangGraph's checkpoint.
-- input, output and error are json, not jsonb: jsonb refuses \u0000, which is legal in a Python string.
-- Room in each page lets the frequent updates of current_activity stay on the page without touching an index.
CREATE TABLE IF NOT EXISTS {schema}.workflow_metadata (
    run_id             uuid        PRIMARY KEY,
    thread_id          text        NOT NULL,
    organization_id    text        NOT NULL,
    workflow_type      text        NOT NULL,
    workflow_version   text,
    status             text        NOT NULL CHECK (status IN
        ('pending', 'running', 'completed', 'failed', 'cancelled', 'waiting', 'paused', 'suspended')),
    current_activity   text,
    input              json,
    output             json,
    error              json,
    idempotency_key    text,
    batch_id           uuid,
    parent_run_id      uuid,
    attempt            integer     NOT NULL DEFAULT 0,
    max_attempts       integer     NOT NULL,
    epoch              bigint      NOT NULL DEFAULT 0,
    lease_owner        bigint,
    lease_until        timestamptz,
    retry_at           timestamptz,
    saver              text        NOT NULL,
    last_checkpoint_id text,
    created_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at         timestamptz,
    updated_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    completed_at       timestamptz,
    CONSTRAINT workflow_metadata_idempotency UNIQUE (organization_id, workflow_type, idempotency_key)
) WITH (fillfactor = 80);

-- One run at a time per thread, whatever two claims see of each other.
CREATE UNIQUE INDEX IF NOT EXISTS workflow_metadata_one_per_thread ON {schema}.workflow_metadata (organization_id, thread_id)
    WHERE status IN ('running', 'waiting', 'paused', 'suspended');

CREATE INDEX IF NOT EXISTS workflow_metadata_unfinished ON {schema}.workflow_metadata
    (organization_id, thread_id, created_at, run_id)
    WHERE status IN ('pending', 'running', 'waiting', 'paused', 'suspended');

CREATE INDEX IF NOT EXISTS workflow_metadata_owner ON {schema}.workflow_metadata (lease_owner)
    WHERE status IN ('pending', 'running');

CREATE INDEX IF NOT EXISTS workflow_metadata_thread ON {schema}.workflow_metadata
    (organization_id, thread_id, created_at DESC, run_id DESC);

CREATE INDEX IF NOT EXISTS workflow_metadata_newest ON {schema}.workflow_metadata
    (organization_id, created_at DESC, run_id DESC);
