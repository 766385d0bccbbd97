-- name: lock
-- Waits for locks in the order of the array, and holds them until the end of the transaction.
SELECT pg_advisory_xact_lock(wanted.key) FROM unnest(%(keys)s::bigint[]) WITH ORDINALITY AS wanted (key, position)
 ORDER BY wanted.position;

-- name: spelling
-- Part of statements: a spelling's columns, and whether a document has it now.
entity.entity_id, entity.type, entity.normal, entity.name, entity.root_id,
EXISTS (SELECT FROM {schema}.knowledge_alias AS alias WHERE alias.entity_id = entity.entity_id) AS seen

-- name: spellings_with_keys
-- The spellings with these types and forms.
SELECT {spelling} FROM {schema}.knowledge_entity AS entity
  JOIN unnest(%(types)s::text[], %(normals)s::text[]) AS wanted (type, normal)
    ON entity.type = wanted.type AND entity.normal = wanted.normal
 WHERE entity.organization_id = %(organization_id)s;

-- name: spellings_with_forms
-- The spellings with these forms, whatever their type.
SELECT {spelling} FROM {schema}.knowledge_entity AS entity
 WHERE entity.organization_id = %(organization_id)s AND entity.normal = ANY(%(forms)s::text[]);

-- name: spellings_near
-- The spellings with one of these blocks, as far as a document has them.
SELECT * FROM (
    SELECT {spelling} FROM {schema}.knowledge_entity AS entity
     WHERE entity.organization_id = %(organization_id)s AND entity.blocks && %(blocks)s::bigint[]) AS near
 WHERE near.seen;

-- name: claims
-- The forms that documents spell out as other names, and what for.
SELECT DISTINCT claim.normal AS form, {spelling} FROM {schema}.knowledge_alias AS claim
  JOIN {schema}.knowledge_entity AS entity ON entity.entity_id = claim.entity_id
 WHERE claim.organization_id = %(organization_id)s AND claim.normal = ANY(%(forms)s::text[]) AND claim.spelled_out;

-- name: members
-- All spellings of the entities that some spellings belong to.
SELECT {spelling} FROM {schema}.knowledge_entity AS entity
 WHERE entity.root_id IN (SELECT one.root_id FROM {schema}.knowledge_entity AS one
                           WHERE one.entity_id = ANY(%(ids)s::uuid[]));

-- name: live_links
-- The links of some spellings that hold.
SELECT * FROM {schema}.knowledge_merge
 WHERE (left_id = ANY(%(ids)s::uuid[]) OR right_id = ANY(%(ids)s::uuid[])) AND undone_at IS NULL;

-- name: apart
-- The links of some spellings that a person has undone.
SELECT left_id, right_id FROM {schema}.knowledge_merge
 WHERE (left_id = ANY(%(ids)s::uuid[]) OR right_id = ANY(%(ids)s::uuid[])) AND undone_why = 'asked';

-- name: aliases_of_document
-- How a document writes its entities.
SELECT entity_id, surface, normal, spelled_out FROM {schema}.knowledge_alias
 WHERE batch_id = %(batch_id)s::uuid AND document_key = %(document_key)s AND organization_id = %(organization_id)s;

-- name: add_spellings
-- Adds spellings that are not there yet, in one order for everybody.
INSERT INTO {schema}.knowledge_entity (entity_id, organization_id, type, normal, name, root_id, blocks)
SELECT n.entity_id, %(organization_id)s, n.type, n.normal, n.name, n.entity_id, n.blocks::bigint[]
  FROM unnest(%(ids)s::uuid[], %(types)s::text[], %(normals)s::text[], %(names)s::text[], %(blocks)s::text[])
       WITH ORDINALITY AS n (entity_id, type, normal, name, blocks, position)
 ORDER BY n.position
ON CONFLICT DO NOTHING;

-- name: remove_aliases
-- Forgets how a document writes its entities.
DELETE FROM {schema}.knowledge_alias
 WHERE batch_id = %(batch_id)s::uuid AND document_key = %(document_key)s AND organization_id = %(organization_id)s;

-- name: add_aliases
-- Keeps how a document writes its entities.
INSERT INTO {schema}.knowledge_alias
       (organization_id, entity_id, batch_id, document_key, surface, normal, spelled_out)
SELECT %(organization_id)s, n.entity_id, %(batch_id)s::uuid, %(document_key)s, n.surface, n.normal, n.spelled_out
  FROM unnest(%(ids)s::uuid[], %(surfaces)s::text[], %(normals)s::text[], %(spelled_out)s::boolean[])
       AS n (entity_id, surface, normal, spelled_out);

-- name: remove_mentions
-- Forgets the mentions of a document.
DELETE FROM {schema}.knowledge_mention
 WHERE batch_id = %(batch_id)s::uuid AND document_key = %(document_key)s AND organization_id = %(organization_id)s;

-- name: add_mentions
-- Keeps the mentions of a document.
INSERT INTO {schema}.knowledge_mention
       (organization_id, entity_id, batch_id, document_key, span_start, span_end, text)
SELECT %(organization_id)s, n.entity_id, %(batch_id)s::uuid, %(document_key)s, n.span_start, n.span_end, n.text
  FROM unnest(%(ids)s::uuid[], %(starts)s::int[], %(ends)s::int[], %(texts)s::text[])
       AS n (entity_id, span_start, span_end, text);

-- name: remove_evidence
-- Forgets where a document states its relations. A relation that nobody states is not listed.
DELETE FROM {schema}.knowledge_evidence
 WHERE batch_id = %(batch_id)s::uuid AND document_key = %(document_key)s AND organization_id = %(organization_id)s;

-- name: add_relations
-- Adds relations that are not there yet, in one order for everybody.
INSERT INTO {schema}.knowledge_relation (relation_id, organization_id, subject_id, predicate, object_id, kind)
SELECT n.relation_id, %(organization_id)s, n.subject_id, n.predicate, n.object_id, n.kind
  FROM unnest(%(relation_ids)s::uuid[], %(subjects)s::uuid[], %(predicates)s::text[], %(objects)s::uuid[],
              %(kinds)s::text[]) AS n (relation_id, subject_id, predicate, object_id, kind)
 ORDER BY n.subject_id, n.object_id, n.predicate COLLATE "C", n.kind COLLATE "C"
ON CONFLICT DO NOTHING;

-- name: add_evidence
-- Keeps where a document states its relations.
INSERT INTO {schema}.knowledge_evidence
       (organization_id, relation_id, batch_id, document_key, span_start, span_end, sentence)
SELECT %(organization_id)s, relation.relation_id, %(batch_id)s::uuid, %(document_key)s, n.span_start, n.span_end,
       n.sentence
  FROM unnest(%(subjects)s::uuid[], %(predicates)s::text[], %(objects)s::uuid[], %(kinds)s::text[],
              %(starts)s::int[], %(ends)s::int[], %(sentences)s::text[])
       AS n (subject_id, predicate, object_id, kind, span_start, span_end, sentence)
  JOIN {schema}.knowledge_relation AS relation
    ON relation.organization_id = %(organization_id)s AND relation.predicate = n.predicate AND relation.kind = n.kind
   AND coalesce(relation.subject_id, '00000000-0000-0000-0000-000000000000'::uuid)
       = coalesce(n.subject_id, '00000000-0000-0000-0000-000000000000'::uuid)
   AND coalesce(relation.object_id, '00000000-0000-0000-0000-000000000000'::uuid)
       = coalesce(n.object_id, '00000000-0000-0000-0000-000000000000'::uuid);

-- name: add_links
-- Records merges.
INSERT INTO {schema}.knowledge_merge (merge_id, organization_id, survivor_id, absorbed_id, left_id, right_id, score, rule,
                                      reason, batch_id)
SELECT n.merge_id, %(organization_id)s, n.survivor_id, n.absorbed_id, n.left_id, n.right_id, n.score, n.rule, n.reason,
       %(batch_id)s::uuid
  FROM unnest(%(merge_ids)s::uuid[], %(survivors)s::uuid[], %(absorbed)s::uuid[], %(lefts)s::uuid[], %(rights)s::uuid[],
              %(scores)s::float8[], %(rules)s::text[], %(reasons)s::text[])
       AS n (merge_id, survivor_id, absorbed_id, left_id, right_id, score, rule, reason);

-- name: end_links
-- Undoes merges; of one that is undone already, only the reason changes.
UPDATE {schema}.knowledge_merge SET undone_at = coalesce(undone_at, clock_timestamp()), undone_why = %(why)s
 WHERE merge_id = ANY(%(merge_ids)s::uuid[]);

-- name: set_roots
-- Says which entities spellings belong to.
UPDATE {schema}.knowledge_entity AS entity SET root_id = n.root_id
  FROM unnest(%(ids)s::uuid[], %(roots)s::uuid[]) AS n (entity_id, root_id) WHERE entity.entity_id = n.entity_id;

-- name: get_merge
-- A merge by its id.
SELECT merge.*, one.name AS left_name, other.name AS right_name
  FROM {schema}.knowledge_merge AS merge
  JOIN {schema}.knowledge_entity AS one ON one.entity_id = merge.left_id
  JOIN {schema}.knowledge_entity AS other ON other.entity_id = merge.right_id
 WHERE merge.merge_id = %(merge_id)s::uuid;

-- name: merges_of_batch
-- The merges that a batch made, those that were undone too, by id, which is by time.
SELECT merge.*, one.name AS left_name, other.name AS right_name
  FROM {schema}.knowledge_merge AS merge
  JOIN {schema}.knowledge_entity AS one ON one.entity_id = merge.left_id
  JOIN {schema}.knowledge_entity AS other ON other.entity_id = merge.right_id
 WHERE merge.batch_id = %(batch_id)s::uuid AND merge.organization_id = %(organization_id)s
   AND merge.merge_id > coalesce(%(after)s::uuid, '00000000-0000-0000-0000-000000000000'::uuid)
 ORDER BY merge.merge_id LIMIT %(limit)s;

-- name: merges_of_entity
-- The merges of all spellings of an entity, those that were undone too, oldest first.
WITH member AS MATERIALIZED (
    SELECT array_agg(entity_id) AS ids FROM {schema}.knowledge_entity WHERE root_id = %(root_id)s::uuid
)
SELECT merge.*, one.name AS left_name, other.name AS right_name
  FROM {schema}.knowledge_merge AS merge
  JOIN {schema}.knowledge_entity AS one ON one.entity_id = merge.left_id
  JOIN {schema}.knowledge_entity AS other ON other.entity_id = merge.right_id
 WHERE merge.left_id = ANY((SELECT ids FROM member)::uuid[]) OR merge.right_id = ANY((SELECT ids FROM member)::uuid[])
 ORDER BY merge.at, merge.merge_id;

-- name: root_of
-- The entity that an id belongs to.
SELECT root_id, organization_id FROM {schema}.knowledge_entity WHERE entity_id = %(entity_id)s::uuid;

-- name: list_entities
-- Entities that a document has, of all batches or of one, by id; each with its spellings.
WITH page AS MATERIALIZED (
    SELECT root.entity_id FROM {schema}.knowledge_entity AS root
     WHERE root.organization_id = %(organization_id)s AND root.root_id = root.entity_id
       AND root.entity_id > coalesce(%(after)s::uuid, '00000000-0000-0000-0000-000000000000'::uuid)
       AND (%(root_id)s::uuid IS NULL OR root.entity_id = %(root_id)s::uuid)
       AND EXISTS (SELECT FROM {schema}.knowledge_entity AS member
                     JOIN {schema}.knowledge_alias AS alias ON alias.entity_id = member.entity_id
                    WHERE member.root_id = root.entity_id
                      AND (%(batch_id)s::uuid IS NULL OR alias.batch_id = %(batch_id)s::uuid))
     ORDER BY root.entity_id LIMIT %(limit)s
), sighted AS MATERIALIZED (
    SELECT DISTINCT member.root_id, member.entity_id, member.name, member.type, alias.batch_id, alias.document_key
      FROM page
      JOIN {schema}.knowledge_entity AS member ON member.root_id = page.entity_id
      JOIN {schema}.knowledge_alias AS alias ON alias.entity_id = member.entity_id
     WHERE %(batch_id)s::uuid IS NULL OR alias.batch_id = %(batch_id)s::uuid
), mentioned AS MATERIALIZED (
    SELECT mention.entity_id, count(*) AS mentions FROM {schema}.knowledge_mention AS mention
     WHERE mention.entity_id IN (SELECT sighted.entity_id FROM sighted)
       AND (%(batch_id)s::uuid IS NULL OR mention.batch_id = %(batch_id)s::uuid)
     GROUP BY mention.entity_id
), spelled AS MATERIALIZED (
    SELECT one.root_id, array_agg(one.name) AS names, array_agg(one.type) AS types,
           array_agg(coalesce(mentioned.mentions, 0)) AS mentions
      FROM (SELECT DISTINCT root_id, entity_id, name, type FROM sighted) AS one
      LEFT JOIN mentioned ON mentioned.entity_id = one.entity_id
     GROUP BY one.root_id
), counted AS MATERIALIZED (
    SELECT root_id, count(DISTINCT (batch_id, document_key)) AS documents FROM sighted GROUP BY root_id
)
SELECT spelled.root_id AS entity_id, spelled.names, spelled.types, spelled.mentions, counted.documents
  FROM spelled JOIN counted ON counted.root_id = spelled.root_id
 ORDER BY spelled.root_id;

-- name: list_relations
-- Relations between different entities that a document states, of all batches or of one, by id.
SELECT min(relation.relation_id::text) AS relation_id, subject.root_id AS subject_id, relation.predicate,
       object.root_id AS object_id, relation.kind, sum(stated.evidence)::bigint AS evidence
  FROM {schema}.knowledge_relation AS relation
  JOIN {schema}.knowledge_entity AS subject ON subject.entity_id = relation.subject_id
  JOIN {schema}.knowledge_entity AS object ON object.entity_id = relation.object_id
  JOIN (SELECT evidence.relation_id, count(*) AS evidence FROM {schema}.knowledge_evidence AS evidence
         WHERE evidence.organization_id = %(organization_id)s
           AND (%(batch_id)s::uuid IS NULL OR evidence.batch_id = %(batch_id)s::uuid)
         GROUP BY evidence.relation_id) AS stated ON stated.relation_id = relation.relation_id
 WHERE relation.organization_id = %(organization_id)s AND subject.root_id <> object.root_id
 GROUP BY subject.root_id, relation.predicate, object.root_id, relation.kind
HAVING %(after)s::text IS NULL OR min(relation.relation_id::text) COLLATE "C" > %(after)s::text
 ORDER BY min(relation.relation_id::text) COLLATE "C" LIMIT %(limit)s;

-- name: evidence
-- The first places that state a relation, or one that is the same now that its ends are what they are.
WITH asked AS MATERIALIZED (
    SELECT subject.root_id AS subject_root, object.root_id AS object_root, relation.predicate, relation.kind
      FROM {schema}.knowledge_relation AS relation
      JOIN {schema}.knowledge_entity AS subject ON subject.entity_id = relation.subject_id
      JOIN {schema}.knowledge_entity AS object ON object.entity_id = relation.object_id
     WHERE relation.relation_id = %(relation_id)s::uuid
       AND (%(organization_id)s::text IS NULL OR relation.organization_id = %(organization_id)s::text)
)
SELECT evidence.batch_id, evidence.document_key, evidence.span_start, evidence.span_end, evidence.sentence
  FROM asked
  JOIN {schema}.knowledge_entity AS subject ON subject.root_id = asked.subject_root
  JOIN {schema}.knowledge_entity AS object ON object.root_id = asked.object_root
  JOIN {schema}.knowledge_relation AS relation
    ON relation.organization_id = subject.organization_id AND relation.kind = asked.kind
   AND coalesce(relation.subject_id, '00000000-0000-0000-0000-000000000000'::uuid) = subject.entity_id
   AND relation.predicate = asked.predicate
   AND coalesce(relation.object_id, '00000000-0000-0000-0000-000000000000'::uuid) = object.entity_id
  JOIN {schema}.knowledge_evidence AS evidence ON evidence.relation_id = relation.relation_id
 WHERE %(batch_id)s::uuid IS NULL OR evidence.batch_id = %(batch_id)s::uuid
 ORDER BY evidence.batch_id, evidence.document_key COLLATE "C", evidence.span_start, evidence.span_end,
          evidence.evidence_id
 LIMIT %(limit)s;

-- name: provenance
-- The first mentions of an entity.
SELECT mention.batch_id, mention.document_key, mention.span_start, mention.span_end, mention.text
  FROM {schema}.knowledge_entity AS member
  JOIN {schema}.knowledge_mention AS mention ON mention.entity_id = member.entity_id
 WHERE member.root_id = %(root_id)s::uuid
   AND (%(batch_id)s::uuid IS NULL OR mention.batch_id = %(batch_id)s::uuid)
 ORDER BY mention.batch_id, mention.document_key COLLATE "C", mention.span_start, mention.span_end, mention.mention_id
 LIMIT %(limit)s;

-- name: places_of_entities
-- The first mentions of each of some entities.
SELECT wanted.root_id, place.*
  FROM unnest(%(ids)s::uuid[]) AS wanted (root_id)
 CROSS JOIN LATERAL (
    SELECT mention.batch_id, mention.document_key, mention.span_start, mention.span_end, mention.text
      FROM {schema}.knowledge_entity AS member
      JOIN {schema}.knowledge_mention AS mention ON mention.entity_id = member.entity_id
     WHERE member.root_id = wanted.root_id
       AND (%(batch_id)s::uuid IS NULL OR mention.batch_id = %(batch_id)s::uuid)
     ORDER BY mention.batch_id, mention.document_key COLLATE "C", mention.span_start, mention.span_end,
              mention.mention_id
     LIMIT %(limit)s) AS place;

-- name: statements_of_relations
-- The first places that state each of some relations, as `evidence` finds them.
SELECT asked.relation_id AS listed_id, place.*
  FROM {schema}.knowledge_relation AS asked
  JOIN {schema}.knowledge_entity AS one ON one.entity_id = asked.subject_id
  JOIN {schema}.knowledge_entity AS other ON other.entity_id = asked.object_id
 CROSS JOIN LATERAL (
    SELECT evidence.batch_id, evidence.document_key, evidence.span_start, evidence.span_end, evidence.sentence
      FROM {schema}.knowledge_entity AS subject
      JOIN {schema}.knowledge_relation AS relation
        ON relation.organization_id = asked.organization_id AND relation.kind = asked.kind
       AND coalesce(relation.subject_id, '00000000-0000-0000-0000-000000000000'::uuid) = subject.entity_id
       AND relation.predicate = asked.predicate
      JOIN {schema}.knowledge_entity AS object
        ON object.entity_id = relation.object_id AND object.root_id = other.root_id
      JOIN {schema}.knowledge_evidence AS evidence ON evidence.relation_id = relation.relation_id
     WHERE subject.root_id = one.root_id
       AND (%(batch_id)s::uuid IS NULL OR evidence.batch_id = %(batch_id)s::uuid)
     ORDER BY evidence.batch_id, evidence.document_key COLLATE "C", evidence.span_start, evidence.span_end,
              evidence.evidence_id
     LIMIT %(limit)s) AS place
 WHERE asked.relation_id = ANY(%(ids)s::uuid[]);

-- name: surfaces_of_entities
-- The ways in which documents write each of some entities.
SELECT member.root_id, array_agg(DISTINCT alias.surface) AS surfaces
  FROM {schema}.knowledge_entity AS member
  JOIN {schema}.knowledge_alias AS alias ON alias.entity_id = member.entity_id
 WHERE member.root_id = ANY(%(ids)s::uuid[])
 GROUP BY member.root_id;

-- name: aliases_of_entity
-- The ways in which documents write an entity.
SELECT alias.surface, alias.normal, bool_or(alias.spelled_out) AS spelled_out,
       count(DISTINCT (alias.batch_id, alias.document_key)) AS documents
  FROM {schema}.knowledge_entity AS member
  JOIN {schema}.knowledge_alias AS alias ON alias.entity_id = member.entity_id
 WHERE member.root_id = %(root_id)s::uuid
 GROUP BY alias.surface, alias.normal
 ORDER BY documents DESC, alias.surface COLLATE "C", alias.normal COLLATE "C";

-- name: batch_counts
-- What a batch holds.
SELECT (SELECT count(DISTINCT document_key) FROM {schema}.knowledge_alias
         WHERE batch_id = %(batch_id)s::uuid) AS documents,
       (SELECT count(DISTINCT entity.root_id) FROM {schema}.knowledge_alias AS alias
          JOIN {schema}.knowledge_entity AS entity ON entity.entity_id = alias.entity_id
         WHERE alias.batch_id = %(batch_id)s::uuid) AS entities,
       (SELECT count(*) FROM {schema}.knowledge_mention WHERE batch_id = %(batch_id)s::uuid) AS mentions,
       (SELECT count(DISTINCT (subject.root_id, relation.predicate, object.root_id, relation.kind))
          FROM {schema}.knowledge_evidence AS evidence
          JOIN {schema}.knowledge_relation AS relation ON relation.relation_id = evidence.relation_id
          JOIN {schema}.knowledge_entity AS subject ON subject.entity_id = relation.subject_id
          JOIN {schema}.knowledge_entity AS object ON object.entity_id = relation.object_id
         WHERE evidence.batch_id = %(batch_id)s::uuid AND subject.root_id <> object.root_id) AS relations,
       (SELECT count(*) FROM {schema}.knowledge_evidence WHERE batch_id = %(batch_id)s::uuid) AS evidence,
       (SELECT count(*) FROM {schema}.knowledge_merge
         WHERE batch_id = %(batch_id)s::uuid AND undone_at IS NULL) AS merges;

-- name: missing_entities
-- Relations of a batch with an end that their document does not list.
SELECT DISTINCT evidence.document_key, relation.predicate, relation.subject_id IS NULL AS lacks_subject,
       relation.object_id IS NULL AS lacks_object
  FROM {schema}.knowledge_evidence AS evidence
  JOIN {schema}.knowledge_relation AS relation ON relation.relation_id = evidence.relation_id
 WHERE evidence.batch_id = %(batch_id)s::uuid AND (relation.subject_id IS NULL OR relation.object_id IS NULL);

-- name: dangling_mentions
-- Mentions of a batch that are no place in a text, or of an entity that their document does not have.
SELECT mention.document_key, mention.span_start, mention.span_end FROM {schema}.knowledge_mention AS mention
 WHERE mention.batch_id = %(batch_id)s::uuid
   AND (mention.span_start < 0 OR mention.span_end <= mention.span_start
        OR NOT EXISTS (SELECT FROM {schema}.knowledge_alias AS alias
                        WHERE alias.entity_id = mention.entity_id AND alias.batch_id = mention.batch_id
                          AND alias.document_key = mention.document_key));

-- name: empty_names
-- Entities without a name that a batch's documents have.
SELECT DISTINCT alias.document_key, entity.type FROM {schema}.knowledge_alias AS alias
  JOIN {schema}.knowledge_entity AS entity ON entity.entity_id = alias.entity_id
 WHERE alias.batch_id = %(batch_id)s::uuid AND entity.normal = '';
