-- When everything that a thread had saved was deleted for good. Its fence stays for a while, for a late writer.
ALTER TABLE {schema}.checkpoint_fences ADD COLUMN IF NOT EXISTS forgotten_at timestamptz;

CREATE INDEX IF NOT EXISTS checkpoint_fences_forgotten ON {schema}.checkpoint_fences (forgotten_at)
    WHERE forgotten_at IS NOT NULL;
