-- Elements of long lists, each once per thread under the hash of its bytes (CHECKPOINT_STORAGE=shared).
CREATE TABLE IF NOT EXISTS {schema}.checkpoint_chunks (
    thread_id text  NOT NULL,
    hash      uuid  NOT NULL,
    type      text  NOT NULL,
    blob      bytea NOT NULL,
    PRIMARY KEY (thread_id, hash)
);

-- Raised whenever chunks of the thread may have been deleted.
ALTER TABLE {schema}.checkpoint_fences ADD COLUMN IF NOT EXISTS generation bigint NOT NULL DEFAULT 0;
