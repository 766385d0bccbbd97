DROP TRIGGER workflow_signal_arrives ON {schema}.workflow_signal;
DROP FUNCTION {schema}.workflow_signal_event();
DROP TRIGGER workflow_state_changes ON {schema}.workflow_metadata;
DROP TRIGGER workflow_state_begins ON {schema}.workflow_metadata;
DROP FUNCTION {schema}.workflow_state_event();
DROP TABLE {schema}.workflow_event;
ALTER TABLE {schema}.workflow_metadata
    DROP COLUMN event_mark,
    DROP COLUMN event_count;
