DROP TABLE {schema}.checkpoint_fences;
