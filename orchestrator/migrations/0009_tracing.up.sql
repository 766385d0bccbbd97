-- Whose trace a run belongs to: what W3C Trace Context calls traceparent and tracestate, of whoever started it.
ALTER TABLE {schema}.workflow_metadata ADD COLUMN IF NOT EXISTS trace_context json;
