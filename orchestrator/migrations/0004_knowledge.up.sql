-- What was extracted from documents. An entity row is one spelling of a thing: one per organization, type and normal
-- form. Spellings of the same thing have the same root_id, and whatever is known of a thing stays with the spelling it
-- was read under: taking two things apart again is a change of root_id alone.
CREATE TABLE IF NOT EXISTS {schema}.knowledge_entity (
    entity_id       uuid        PRIMARY KEY,
    organization_id text        NOT NULL,
    type            text        NOT NULL,
    normal          text        NOT NULL,
    name            text        NOT NULL,
    root_id         uuid        NOT NULL,
    -- Hashes; two spellings that could be the same thing have one in common.
    blocks          bigint[]    NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT knowledge_entity_spelling UNIQUE (organization_id, type, normal)
);

CREATE INDEX IF NOT EXISTS knowledge_entity_root ON {schema}.knowledge_entity (root_id);

CREATE INDEX IF NOT EXISTS knowledge_entity_normal ON {schema}.knowledge_entity (organization_id, normal);

CREATE INDEX IF NOT EXISTS knowledge_entity_listed ON {schema}.knowledge_entity (organization_id, entity_id)
    WHERE root_id = entity_id;

CREATE INDEX IF NOT EXISTS knowledge_entity_blocks ON {schema}.knowledge_entity USING gin (blocks);

-- How a document writes an entity. spelled_out: the document says that this other name means the entity.
CREATE TABLE IF NOT EXISTS {schema}.knowledge_alias (
    alias_id        bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text    NOT NULL,
    entity_id       uuid    NOT NULL REFERENCES {schema}.knowledge_entity,
    batch_id        uuid    NOT NULL,
    document_key    text    NOT NULL,
    surface         text    NOT NULL,
    normal          text    NOT NULL,
    spelled_out     boolean NOT NULL
);

CREATE INDEX IF NOT EXISTS knowledge_alias_entity ON {schema}.knowledge_alias (entity_id, batch_id);

CREATE INDEX IF NOT EXISTS knowledge_alias_document ON {schema}.knowledge_alias (batch_id, document_key);

CREATE INDEX IF NOT EXISTS knowledge_alias_spelled_out ON {schema}.knowledge_alias (organization_id, normal)
    WHERE spelled_out;

-- A place in a document; span_start and span_end count characters, span_end exclusive.
CREATE TABLE IF NOT EXISTS {schema}.knowledge_mention (
    mention_id      bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text    NOT NULL,
    entity_id       uuid    NOT NULL REFERENCES {schema}.knowledge_entity,
    batch_id        uuid    NOT NULL,
    document_key    text    NOT NULL,
    span_start      integer NOT NULL,
    span_end        integer NOT NULL,
    text            text    NOT NULL
);

CREATE INDEX IF NOT EXISTS knowledge_mention_entity ON {schema}.knowledge_mention (entity_id, batch_id);

CREATE INDEX IF NOT EXISTS knowledge_mention_document ON {schema}.knowledge_mention (batch_id, document_key);

-- A statement, whoever makes it. An end that its document does not list is null, for the validation to find.
CREATE TABLE IF NOT EXISTS {schema}.knowledge_relation (
    relation_id     uuid PRIMARY KEY,
    organization_id text NOT NULL,
    subject_id      uuid REFERENCES {schema}.knowledge_entity,
    predicate       text NOT NULL,
    object_id       uuid REFERENCES {schema}.knowledge_entity,
    kind            text NOT NULL
);

CREATE UNIQUE INDEX IF NOT EXISTS knowledge_relation_once ON {schema}.knowledge_relation (
    organization_id, coalesce(subject_id, '00000000-0000-0000-0000-000000000000'::uuid), predicate,
    coalesce(object_id, '00000000-0000-0000-0000-000000000000'::uuid), kind);

CREATE TABLE IF NOT EXISTS {schema}.knowledge_evidence (
    evidence_id     bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text    NOT NULL,
    relation_id     uuid    NOT NULL REFERENCES {schema}.knowledge_relation,
    batch_id        uuid    NOT NULL,
    document_key    text    NOT NULL,
    span_start      integer NOT NULL,
    span_end        integer NOT NULL,
    sentence        text    NOT NULL
);

CREATE INDEX IF NOT EXISTS knowledge_evidence_relation ON {schema}.knowledge_evidence (relation_id);

CREATE INDEX IF NOT EXISTS knowledge_evidence_document ON {schema}.knowledge_evidence (batch_id, document_key);

-- Why two entities are one: left_id and right_id are the spellings that were found to be the same, survivor_id and
-- absorbed_id the entities that they belonged to. The rows that are not undone make a forest.
CREATE TABLE IF NOT EXISTS {schema}.knowledge_merge (
    merge_id        uuid             PRIMARY KEY,
    organization_id text             NOT NULL,
    survivor_id     uuid             NOT NULL REFERENCES {schema}.knowledge_entity,
    absorbed_id     uuid             NOT NULL REFERENCES {schema}.knowledge_entity,
    left_id         uuid             NOT NULL REFERENCES {schema}.knowledge_entity,
    right_id        uuid             NOT NULL REFERENCES {schema}.knowledge_entity,
    score           double precision NOT NULL,
    rule            text             NOT NULL CHECK (rule IN ('spelling', 'spelled_out', 'untyped')),
    reason          text             NOT NULL,
    batch_id        uuid             NOT NULL,
    at              timestamptz      NOT NULL DEFAULT clock_timestamp(),
    undone_at       timestamptz,
    undone_why      text             CHECK (undone_why IN ('asked', 'ambiguous'))
);

CREATE INDEX IF NOT EXISTS knowledge_merge_left ON {schema}.knowledge_merge (left_id);

CREATE INDEX IF NOT EXISTS knowledge_merge_right ON {schema}.knowledge_merge (right_id);

CREATE INDEX IF NOT EXISTS knowledge_merge_batch ON {schema}.knowledge_merge (batch_id);
