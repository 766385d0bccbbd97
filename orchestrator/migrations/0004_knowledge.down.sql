DROP TABLE {schema}.knowledge_merge;
DROP TABLE {schema}.knowledge_evidence;
DROP TABLE {schema}.knowledge_relation;
DROP TABLE {schema}.knowledge_mention;
DROP TABLE {schema}.knowledge_alias;
DROP TABLE {schema}.knowledge_entity;
