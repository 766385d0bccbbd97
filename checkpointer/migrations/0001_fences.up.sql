-- The epoch of each thread that was ever taken over by a fenced writer; outlives the thread's checkpoints, so that
-- a late writer of a deleted thread stays locked out.
CREATE TABLE IF NOT EXISTS {schema}.checkpoint_fences (
    thread_id text   PRIMARY KEY,
    epoch     bigint NOT NULL
);
