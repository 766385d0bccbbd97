-- Runs that left for the memory of a server (`holdfast runs export --leave`) and may come back.
ALTER TABLE {schema}.workflow_metadata
    -- Since when the run is driven elsewhere: nothing here claims, wakes, signals or changes a row that has it.
    ADD COLUMN IF NOT EXISTS left_at timestamptz,
    -- How often it left: what comes back from an earlier time is refused.
    ADD COLUMN IF NOT EXISTS moves   integer NOT NULL DEFAULT 0;

CREATE INDEX IF NOT EXISTS workflow_metadata_left ON {schema}.workflow_metadata (run_id) WHERE left_at IS NOT NULL;

-- A run that comes back brings its events and signals along: the triggers are still while holdfast.moving is on.
CREATE OR REPLACE TRIGGER workflow_state_begins AFTER INSERT ON {schema}.workflow_metadata
    FOR EACH ROW WHEN (current_setting('holdfast.moving', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION {schema}.workflow_state_event();

CREATE OR REPLACE TRIGGER workflow_state_changes BEFORE UPDATE OF status ON {schema}.workflow_metadata
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status
                       AND current_setting('holdfast.moving', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION {schema}.workflow_state_event();

CREATE OR REPLACE TRIGGER workflow_signal_arrives AFTER INSERT ON {schema}.workflow_signal
    FOR EACH ROW WHEN (current_setting('holdfast.moving', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION {schema}.workflow_signal_event();

CREATE OR REPLACE TRIGGER workflow_child_ends AFTER UPDATE OF status ON {schema}.workflow_metadata
    FOR EACH ROW WHEN (NEW.batch_id IS NOT NULL AND OLD.status IS DISTINCT FROM NEW.status
                       AND NEW.status IN ('completed', 'failed', 'cancelled')
                       AND current_setting('holdfast.moving', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION {schema}.workflow_child_ended();
