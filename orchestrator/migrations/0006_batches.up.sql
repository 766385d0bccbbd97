-- Batches: one run that starts many others, and waits for them. A run that has a batch_id was started by that run.
ALTER TABLE {schema}.workflow_metadata
    -- Set while the run waits, or is about to, for all that it has started to be over; it is told so once.
    ADD COLUMN IF NOT EXISTS awaits_children boolean NOT NULL DEFAULT false;

-- Runs of batches are asked for apart, so that thousands that wait for their turn hold up nobody who looks for others;
-- and so are the few that have lost workers.
DROP INDEX IF EXISTS {schema}.workflow_metadata_turn;

CREATE INDEX IF NOT EXISTS workflow_metadata_turn_single ON {schema}.workflow_metadata
    (priority DESC, created_at, run_id) WHERE status = 'pending' AND batch_id IS NULL;

CREATE INDEX IF NOT EXISTS workflow_metadata_turn_batched ON {schema}.workflow_metadata
    (priority DESC, created_at, run_id) WHERE status = 'pending' AND batch_id IS NOT NULL;

CREATE INDEX IF NOT EXISTS workflow_metadata_turn_lost ON {schema}.workflow_metadata
    (priority DESC, created_at, run_id) WHERE status = 'pending' AND losses > 0;

CREATE INDEX IF NOT EXISTS workflow_metadata_children ON {schema}.workflow_metadata (batch_id)
    WHERE batch_id IS NOT NULL AND status IN ('pending', 'running', 'waiting', 'paused', 'suspended');

-- A batch is known by the id of its own run. state is how far that run has come; whether it is over, the run says.
CREATE TABLE IF NOT EXISTS {schema}.workflow_batch (
    batch_id        uuid        PRIMARY KEY REFERENCES {schema}.workflow_metadata ON DELETE CASCADE,
    organization_id text        NOT NULL,
    title           text,
    policy          text        NOT NULL CHECK (policy IN ('all', 'some')),
    state           text        NOT NULL CHECK (state IN
        ('pending', 'preprocessing', 'extracting', 'resolving', 'validating', 'ingesting')),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- source says where the document is read; run_id is the run that extracts it. position is its place in the batch.
CREATE TABLE IF NOT EXISTS {schema}.workflow_batch_document (
    batch_id     uuid    NOT NULL REFERENCES {schema}.workflow_batch ON DELETE CASCADE,
    key          text    NOT NULL,
    position     integer NOT NULL,
    name         text    NOT NULL,
    source       json    NOT NULL,
    title        text,
    content_hash text,
    state        text    NOT NULL CHECK (state IN
        ('pending', 'extracting', 'extracted', 'resolved', 'validated', 'ingested', 'failed')),
    error        json,
    run_id       uuid,
    PRIMARY KEY (batch_id, key)
);

CREATE UNIQUE INDEX IF NOT EXISTS workflow_batch_document_order ON {schema}.workflow_batch_document (batch_id, position);

-- When a run of a batch is over, the batch's own run shows it; and when it was the last one, and is waited for, that
-- run is sent the signal `children`. The parent's row is locked first: of two that end at the same time, the second
-- sees that the first has.
CREATE OR REPLACE FUNCTION {schema}.workflow_child_ended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    parent  record;
    counted bigint;
    heard   boolean;
BEGIN
    SELECT status, awaiting, awaits_children INTO parent
      FROM {schema}.workflow_metadata WHERE run_id = NEW.batch_id FOR NO KEY UPDATE;
    IF NOT FOUND OR parent.status IN ('completed', 'failed', 'cancelled') THEN
        RETURN NULL;
    END IF;
    UPDATE {schema}.workflow_metadata SET event_count = event_count + 1 WHERE run_id = NEW.batch_id
    RETURNING event_count INTO counted;
    INSERT INTO {schema}.workflow_event (run_id, number, first, events)
    VALUES (NEW.batch_id, counted, counted, json_build_array(json_build_object(
        'kind', 'document', 'ageMs', 0,
        'data', json_strip_nulls(json_build_object('childRunId', NEW.run_id, 'status', NEW.status,
            'key', (SELECT key FROM {schema}.workflow_batch_document
                     WHERE batch_id = NEW.batch_id AND run_id = NEW.run_id LIMIT 1))))));
    PERFORM pg_notify('holdfast_' || md5(TG_TABLE_SCHEMA), 'event ' || NEW.batch_id);
    IF NOT parent.awaits_children OR EXISTS (
        SELECT FROM {schema}.workflow_metadata
         WHERE batch_id = NEW.batch_id AND status IN ('pending', 'running', 'waiting', 'paused', 'suspended')) THEN
        RETURN NULL;
    END IF;
    INSERT INTO {schema}.workflow_signal (run_id, name) VALUES (NEW.batch_id, 'children');
    heard := parent.status = 'waiting' AND EXISTS (
        SELECT FROM json_array_elements(parent.awaiting) AS wait
         WHERE coalesce(wait->>'signal', '*') IN ('*', 'children'));
    UPDATE {schema}.workflow_metadata
       SET signal_count = signal_count + 1, awaits_children = false, updated_at = clock_timestamp(),
           status = CASE WHEN heard THEN 'pending' ELSE status END,
           awaiting = CASE WHEN NOT heard THEN awaiting END
     WHERE run_id = NEW.batch_id;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER workflow_child_ends AFTER UPDATE OF status ON {schema}.workflow_metadata
    FOR EACH ROW WHEN (NEW.batch_id IS NOT NULL AND OLD.status IS DISTINCT FROM NEW.status
                       AND NEW.status IN ('completed', 'failed', 'cancelled'))
    EXECUTE FUNCTION {schema}.workflow_child_ended();
