-- What a run needs to outlive its worker: counts of what went wrong, what it waits for, who asked it to stop; the
-- signals sent to it, the addresses it gave out, the activities it went through, and who is alive to drive it.
ALTER TABLE {schema}.workflow_metadata
    ADD COLUMN IF NOT EXISTS failures           integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS losses             integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS claimed_at         timestamptz,
    ADD COLUMN IF NOT EXISTS retry              json,
    ADD COLUMN IF NOT EXISTS requested          text CHECK (requested IN ('pause', 'supersede')),
    ADD COLUMN IF NOT EXISTS awaiting           json,
    ADD COLUMN IF NOT EXISTS signal_count       bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS fork_checkpoint_id text,
    -- The id that the thread's checkpoints and its fence are kept under; Run.checkpoint_thread_id is the same.
    ADD COLUMN IF NOT EXISTS checkpoint_thread  text GENERATED ALWAYS AS (
        CASE WHEN organization_id = 'default' AND left(thread_id, 1) <> '@' THEN thread_id
             ELSE '@' || organization_id || '/' || thread_id END) STORED;

CREATE INDEX IF NOT EXISTS workflow_metadata_pending ON {schema}.workflow_metadata (created_at, run_id)
    WHERE status = 'pending';

CREATE INDEX IF NOT EXISTS workflow_metadata_due ON {schema}.workflow_metadata (retry_at) WHERE status = 'suspended';

-- One row per execution of a node: a node that runs again in a later attempt has another.
CREATE TABLE IF NOT EXISTS {schema}.workflow_activity (
    run_id     uuid        NOT NULL REFERENCES {schema}.workflow_metadata ON DELETE CASCADE,
    attempt    integer     NOT NULL,
    task_id    text        NOT NULL,
    activity   text        NOT NULL,
    status     text        NOT NULL CHECK (status IN ('running', 'completed', 'failed', 'interrupted', 'lost')),
    error      text,
    started_at timestamptz NOT NULL,
    ended_at   timestamptz,
    PRIMARY KEY (run_id, attempt, task_id)
);

-- What was sent to a run. interrupt_id is set when it is handed over to the wait of that id.
CREATE TABLE IF NOT EXISTS {schema}.workflow_signal (
    signal_id    bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id       uuid        NOT NULL REFERENCES {schema}.workflow_metadata ON DELETE CASCADE,
    name         text        NOT NULL,
    payload      json,
    key          text,
    interrupt_id text,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    delivered_at timestamptz,
    CONSTRAINT workflow_signal_key UNIQUE (run_id, key)
);

CREATE INDEX IF NOT EXISTS workflow_signal_of_run ON {schema}.workflow_signal (run_id, signal_id);

-- Addresses that runs gave out. key is the node's, so that a node that runs again finds the one it made.
CREATE TABLE IF NOT EXISTS {schema}.workflow_hook (
    token      text        PRIMARY KEY,
    run_id     uuid        NOT NULL REFERENCES {schema}.workflow_metadata ON DELETE CASCADE,
    key        text        NOT NULL,
    name       text        NOT NULL,
    multiple   boolean     NOT NULL,
    uses       bigint      NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT workflow_hook_key UNIQUE (run_id, key)
);

-- The processes that drive runs. A row outlives its process until the lease has lapsed.
CREATE TABLE IF NOT EXISTS {schema}.workflow_runner (
    owner       bigint      PRIMARY KEY,
    kind        text        NOT NULL,
    hostname    text        NOT NULL,
    pid         integer     NOT NULL,
    version     text        NOT NULL,
    workflows   text[]      NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_until timestamptz NOT NULL
);
