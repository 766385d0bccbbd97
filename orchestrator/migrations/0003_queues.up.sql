-- When and by whom a run is to be taken up, and steps that are run by any worker.
ALTER TABLE {schema}.workflow_metadata
    ADD COLUMN IF NOT EXISTS queue    text    NOT NULL DEFAULT 'flow',
    ADD COLUMN IF NOT EXISTS priority integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS start_at timestamptz,
    ADD COLUMN IF NOT EXISTS pushed_at timestamptz;

DROP INDEX IF EXISTS {schema}.workflow_metadata_pending;

CREATE INDEX IF NOT EXISTS workflow_metadata_turn ON {schema}.workflow_metadata (priority DESC, created_at, run_id)
    WHERE status = 'pending';

-- A function called by a node and run by any worker. key is the call's, the same on every attempt of the node.
CREATE TABLE IF NOT EXISTS {schema}.workflow_step (
    step_id      uuid        PRIMARY KEY,
    run_id       uuid        NOT NULL REFERENCES {schema}.workflow_metadata ON DELETE CASCADE,
    key          text        NOT NULL,
    name         text        NOT NULL,
    queue        text        NOT NULL,
    priority     integer     NOT NULL DEFAULT 0,
    arguments    json        NOT NULL,
    status       text        NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'running', 'completed', 'failed')),
    result       json,
    error        json,
    attempt      integer     NOT NULL DEFAULT 0,
    losses       integer     NOT NULL DEFAULT 0,
    lease_owner  bigint,
    lease_until  timestamptz,
    retry_at     timestamptz,
    pushed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    completed_at timestamptz,
    CONSTRAINT workflow_step_key UNIQUE (run_id, key)
);

CREATE INDEX IF NOT EXISTS workflow_step_pending ON {schema}.workflow_step (priority DESC, created_at, step_id)
    WHERE status = 'pending';

CREATE INDEX IF NOT EXISTS workflow_step_owner ON {schema}.workflow_step (lease_owner) WHERE status = 'running';
