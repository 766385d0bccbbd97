CREATE OR REPLACE TRIGGER workflow_child_ends AFTER UPDATE OF status ON {schema}.workflow_metadata
    FOR EACH ROW WHEN (NEW.batch_id IS NOT NULL AND OLD.status IS DISTINCT FROM NEW.status
                       AND NEW.status IN ('completed', 'failed', 'cancelled'))
    EXECUTE FUNCTION {schema}.workflow_child_ended();
CREATE OR REPLACE TRIGGER workflow_signal_arrives AFTER INSERT ON {schema}.workflow_signal
    FOR EACH ROW EXECUTE FUNCTION {schema}.workflow_signal_event();
CREATE OR REPLACE TRIGGER workflow_state_changes BEFORE UPDATE OF status ON {schema}.workflow_metadata
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION {schema}.workflow_state_event();
CREATE OR REPLACE TRIGGER workflow_state_begins AFTER INSERT ON {schema}.workflow_metadata
    FOR EACH ROW EXECUTE FUNCTION {schema}.workflow_state_event();
DROP INDEX {schema}.workflow_metadata_left;
ALTER TABLE {schema}.workflow_metadata DROP COLUMN moves, DROP COLUMN left_at;
