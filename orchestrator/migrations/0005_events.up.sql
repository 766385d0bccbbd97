-- What a run shows while it goes on: events, numbered per run from 1, in rows of those that were written together.
-- `number` is the last one's. Each event is {"kind", "data", "ageMs"}: that long before `at` it happened.
-- Room for event_count and event_mark is kept in the run's row: its lock puts the writers of events in order.
ALTER TABLE {schema}.workflow_metadata
    -- A run begins with one event, its first state; those that were there before there were events lack it.
    ADD COLUMN IF NOT EXISTS event_count bigint NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS event_mark  bigint NOT NULL DEFAULT 0;

CREATE TABLE IF NOT EXISTS {schema}.workflow_event (
    run_id uuid        NOT NULL REFERENCES {schema}.workflow_metadata ON DELETE CASCADE,
    number bigint      NOT NULL,
    first  bigint      NOT NULL,
    events json        NOT NULL,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, number)
);

-- Every change of a run's state is an event, whoever makes it, in the transaction that makes it; and every process is
-- told of it (runs/store.py, Notice).
CREATE OR REPLACE FUNCTION {schema}.workflow_state_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        NEW.event_count := NEW.event_count + 1;
    END IF;
    INSERT INTO {schema}.workflow_event (run_id, number, first, events)
    VALUES (NEW.run_id, NEW.event_count, NEW.event_count, json_build_array(json_build_object(
        'kind', 'state', 'ageMs', 0,
        -- Values are put in whole: \u0000 is legal in json, and nothing that holds it can be taken apart here.
        'data', json_build_object(
            'status', NEW.status, 'attempt', NEW.attempt, 'activity', NEW.current_activity, 'retryAt', NEW.retry_at,
            'waitingFor', NEW.awaiting,
            'error', CASE WHEN NEW.status IN ('failed', 'suspended', 'cancelled') THEN NEW.error END))));
    IF TG_OP = 'UPDATE' THEN
        PERFORM pg_notify('holdfast_' || md5(TG_TABLE_SCHEMA), CASE
            WHEN NEW.status = 'pending' THEN 'free ' WHEN NEW.status IN ('running', 'suspended') THEN 'event '
            ELSE 'settled ' END || NEW.run_id);
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER workflow_state_begins AFTER INSERT ON {schema}.workflow_metadata
    FOR EACH ROW EXECUTE FUNCTION {schema}.workflow_state_event();

CREATE OR REPLACE TRIGGER workflow_state_changes BEFORE UPDATE OF status ON {schema}.workflow_metadata
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION {schema}.workflow_state_event();

-- What is sent to a run is an event of the run.
CREATE OR REPLACE FUNCTION {schema}.workflow_signal_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    counted bigint;
BEGIN
    UPDATE {schema}.workflow_metadata SET event_count = event_count + 1 WHERE run_id = NEW.run_id
    RETURNING event_count INTO counted;
    INSERT INTO {schema}.workflow_event (run_id, number, first, events)
    VALUES (NEW.run_id, counted, counted, json_build_array(json_build_object(
        'kind', 'signal', 'ageMs', 0, 'data', json_build_object('name', NEW.name, 'key', NEW.key))));
    PERFORM pg_notify('holdfast_' || md5(TG_TABLE_SCHEMA), 'event ' || NEW.run_id);
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER workflow_signal_arrives AFTER INSERT ON {schema}.workflow_signal
    FOR EACH ROW EXECUTE FUNCTION {schema}.workflow_signal_event();
