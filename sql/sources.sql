-- Sources: third-party APIs in tables.

-- What is kept ----------------------------------------------------------------------------------------------------

CREATE TABLE wh.source (
  name text PRIMARY KEY CHECK (name <> ''),
  owner regrole NOT NULL,
  preset text,
  settings jsonb NOT NULL DEFAULT '{}',
  -- As it is used: the given one, or the preset's with the settings over it.
  spec jsonb NOT NULL,
  schema name NOT NULL,
  streams text[],
  created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  created_by name NOT NULL DEFAULT session_user
);
COMMENT ON TABLE wh.source IS 'The sources; read it as wh.sources';

CREATE TABLE wh.source_state (
  source text NOT NULL REFERENCES wh.source ON DELETE CASCADE ON UPDATE CASCADE,
  stream text NOT NULL,
  -- By its name in a dump: a number would be another table's after a restore.
  relation regclass,
  state jsonb NOT NULL DEFAULT '{}',
  -- Grows with each reset: a run that began before it stores nothing more.
  epoch bigint NOT NULL DEFAULT 0,
  -- API member → column, in order of their coming; a name once given stays.
  columns jsonb NOT NULL DEFAULT '[]',
  rows bigint NOT NULL DEFAULT 0,
  last_success timestamptz,
  last_full timestamptz,
  PRIMARY KEY (source, stream)
);
COMMENT ON TABLE wh.source_state IS 'How far each stream has come, committed with the rows that it stands for; read it as wh.source_streams';

CREATE TABLE wh.fetch_run (
  run bigint PRIMARY KEY REFERENCES wh.job_run ON DELETE CASCADE,
  source text NOT NULL,
  full_refresh boolean NOT NULL
);
COMMENT ON TABLE wh.fetch_run IS 'Every run of a source; read it as wh.fetch_runs';

CREATE TABLE wh.fetch_stream (
  run bigint NOT NULL REFERENCES wh.fetch_run ON DELETE CASCADE,
  stream text NOT NULL,
  status text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'succeeded', 'failed', 'skipped')),
  started timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  finished timestamptz,
  requests bigint NOT NULL DEFAULT 0,
  received bigint NOT NULL DEFAULT 0,
  inserted bigint NOT NULL DEFAULT 0,
  updated bigint NOT NULL DEFAULT 0,
  unchanged bigint NOT NULL DEFAULT 0,
  stale bigint NOT NULL DEFAULT 0,
  duplicate bigint NOT NULL DEFAULT 0,
  quarantined bigint NOT NULL DEFAULT 0,
  deleted bigint NOT NULL DEFAULT 0,
  bytes bigint NOT NULL DEFAULT 0,
  -- For the API's limits, and before another try.
  waited interval NOT NULL DEFAULT '0',
  sqlstate text,
  error text,
  detail text,
  hint text,
  PRIMARY KEY (run, stream),
  -- The ledger balances in every committed batch.
  CONSTRAINT balance CHECK (received = inserted + updated + unchanged + stale + duplicate + quarantined)
) WITH (fillfactor = 70);
COMMENT ON TABLE wh.fetch_stream IS 'What became of every record of a run, by stream; read it as wh.fetch_runs';

CREATE TABLE wh.fetch_error (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run bigint NOT NULL,
  source text NOT NULL,
  stream text NOT NULL,
  at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  reason text NOT NULL,
  -- Text, because what jsonb refuses is here too.
  record text NOT NULL
);
COMMENT ON TABLE wh.fetch_error IS 'Records that could not be stored; read it as wh.fetch_errors';
CREATE INDEX ON wh.fetch_error (source, stream, id);
CREATE INDEX ON wh.fetch_error (at);

-- Not marked for pg_dump: a dump has no secrets.
CREATE TABLE wh.secret (
  name text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9_.-]{1,63}$'),
  value text NOT NULL CHECK (value <> ''),
  owner regrole NOT NULL,
  created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  changed_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE wh.secret IS 'Secrets of sources. Nobody is granted it; wh.secrets shows names and dates';

SELECT pg_catalog.pg_extension_config_dump('wh.source', 'WHERE owner::pg_catalog.oid IN (SELECT oid FROM pg_catalog.pg_roles)');
SELECT pg_catalog.pg_extension_config_dump('wh.source_state', 'WHERE source IN (SELECT name FROM wh.source WHERE owner::pg_catalog.oid IN (SELECT oid FROM pg_catalog.pg_roles)) AND (relation IS NULL OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation))');
SELECT pg_catalog.pg_extension_config_dump('wh.fetch_run', '');
SELECT pg_catalog.pg_extension_config_dump('wh.fetch_stream', '');
SELECT pg_catalog.pg_extension_config_dump('wh.fetch_error', '');
SELECT pg_catalog.pg_extension_config_dump('wh.fetch_error_id_seq', '');

-- What one calls ----------------------------------------------------------------------------------------------------

CREATE FUNCTION wh.create_source(
  name text, spec jsonb DEFAULT NULL, preset text DEFAULT NULL, settings jsonb DEFAULT '{}', schema text DEFAULT NULL,
  schedule text DEFAULT NULL, streams text[] DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'create_source_wrapper';
COMMENT ON FUNCTION wh.create_source(text, jsonb, text, jsonb, text, text, text[]) IS
'Makes a source from a spec, or from a preset with settings over it; with a schedule, a job that fetches it. Its streams become tables of schema (by default the source''s name)';

CREATE FUNCTION wh.alter_source(
  name text, spec jsonb DEFAULT NULL, settings jsonb DEFAULT NULL, schedule text DEFAULT NULL, streams text[] DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'alter_source_wrapper';
COMMENT ON FUNCTION wh.alter_source(text, jsonb, jsonb, text, text[]) IS
'Changes what is given of a source and leaves the rest. Tables stay: their columns follow the spec at once, or it is refused with what to do. schedule => '''' takes the schedule away';

CREATE FUNCTION wh.drop_source(name text, drop_tables boolean DEFAULT false)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'drop_source_wrapper';
COMMENT ON FUNCTION wh.drop_source(text, boolean) IS
'Forgets a source and its job. Its tables stay, unless drop_tables; then it refuses while views depend on them';

CREATE FUNCTION wh.reset_source(name text, stream text DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'reset_source_wrapper';
COMMENT ON FUNCTION wh.reset_source(text, text) IS
'Forgets how far a stream (or all) has come: the next fetch reads it from the start. Its rows stay';

CREATE FUNCTION wh.fetch(name text, streams text[] DEFAULT NULL, full_refresh boolean DEFAULT false)
RETURNS TABLE (stream text, status text, requests bigint, received bigint, inserted bigint, updated bigint, unchanged bigint,
               stale bigint, duplicate bigint, quarantined bigint, deleted bigint, bytes bigint, seconds numeric, error text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'fetch_wrapper';
COMMENT ON FUNCTION wh.fetch(text, text[], boolean) IS
'Fetches a source now, in a worker, and waits; tells by NOTICE how far it is. A row a stream. full_refresh reads everything again. A cancel cancels the run as well';

CREATE FUNCTION wh.test_source(name text, stream text DEFAULT NULL)
RETURNS TABLE (stream text, url text, status int, records bigint, bytes bigint, milliseconds bigint, next_page text,
               columns jsonb, sample text, error text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'test_source_wrapper';
COMMENT ON FUNCTION wh.test_source(text, text) IS
'Asks for one page of a stream (or of each) and shows what would become of it: address and credentials, the columns, a record. Writes nothing';

CREATE FUNCTION wh.verify_source(name text)
RETURNS TABLE (stream text, key text, difference text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'verify_source_wrapper';
COMMENT ON FUNCTION wh.verify_source(text) IS
'Reads the API again, end to end, and compares with the tables by key and content: a row a difference, none where all is well. Writes nothing';

CREATE FUNCTION wh.set_secret(name text, value text)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'set_secret_wrapper';
COMMENT ON FUNCTION wh.set_secret(text, text) IS 'Sets a secret for the sources of the role that calls. It is shown to nobody and in no dump. Settings that log statements log this one too: docs/sources.md says how to set it then';

CREATE FUNCTION wh.drop_secret(name text)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'drop_secret_wrapper';
COMMENT ON FUNCTION wh.drop_secret(text) IS 'Forgets a secret';

CREATE FUNCTION wh.list_presets()
RETURNS TABLE (name text, title text, streams text[], spec jsonb)
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'list_presets_wrapper';
COMMENT ON FUNCTION wh.list_presets() IS 'Internal: the rows of wh.presets';

-- What one sees -----------------------------------------------------------------------------------------------------

CREATE VIEW wh.presets AS SELECT name, title, streams, spec FROM wh.list_presets();
COMMENT ON VIEW wh.presets IS 'Specs that ship: each is an ordinary one, to read and to write your own by';

CREATE VIEW wh.secrets AS
SELECT s.name, s.owner::text AS owner, s.created_at, s.changed_at FROM wh.secret s;
COMMENT ON VIEW wh.secrets IS 'Names and dates of the secrets; never their values';

CREATE VIEW wh.sources AS
SELECT s.name, s.owner::text AS owner, s.preset, s.schema, s.spec->>'base_url' AS base_url, j.words AS schedule,
       CASE WHEN j.enabled THEN coalesce(p.next_run, j.first_run) END AS next_run, l.status AS last_status, l.finished AS last_finished, l.error AS last_error,
       x.run AS running, x.requests AS running_requests, x.records AS running_records, s.created_at, s.created_by
FROM wh.source s LEFT JOIN wh.job j ON j.name = 'fetch ' || s.name AND j.kind = 'fetch'
LEFT JOIN wh.job_plan p ON p.job = j.id AND p.anchor = j.anchor
LEFT JOIN LATERAL (SELECT r.* FROM wh.job_run r WHERE r.job = j.id AND r.finished IS NOT NULL ORDER BY r.id DESC LIMIT 1) l ON true
LEFT JOIN wh.running_jobs() x ON x.job = j.id;
COMMENT ON VIEW wh.sources IS 'The sources: where they come from, when they are fetched, how the last fetch ended; of one that runs, how many pages it has asked for and records it has stored so far';

CREATE VIEW wh.source_streams AS
SELECT s.name AS source, d.stream, t.relation::text AS "table", d.key, d.cursor, t.state, t.rows, f.last_success,
       pg_catalog.now() - f.last_success AS lag, v.next_run, d.parent, d.pointer
FROM wh.source s
CROSS JOIN LATERAL (
  SELECT e->>'name' AS stream, ARRAY(SELECT pg_catalog.jsonb_array_elements_text(e->'primary_key')) AS key,
         e#>>'{incremental,cursor}' AS cursor, e#>>'{parent,stream}' AS parent, NULL AS pointer, e->>'name' AS fetched
  FROM pg_catalog.jsonb_array_elements(s.spec->'streams') e
  UNION ALL
  SELECT c->>'name', ARRAY(SELECT pg_catalog.jsonb_array_elements_text(c->'primary_key')), NULL, e->>'name', c->>'pointer', e->>'name'
  FROM pg_catalog.jsonb_array_elements(s.spec->'streams') e, pg_catalog.jsonb_array_elements(e->'children') c
  WHERE coalesce(c->>'as', 'table') = 'table') d
LEFT JOIN wh.source_state t ON t.source = s.name AND t.stream = d.stream
-- Elements come with their records.
LEFT JOIN wh.source_state f ON f.source = s.name AND f.stream = d.fetched
LEFT JOIN wh.sources v ON v.name = s.name
WHERE s.streams IS NULL OR d.fetched = ANY (s.streams) OR t.source IS NOT NULL;
COMMENT ON VIEW wh.source_streams IS 'Each stream of the sources: its table, key, cursor, how far it has come, rows, and the time since its last success. A table of an array has the stream as its parent whose records hold the array, and where in them';

CREATE VIEW wh.fetch_runs AS
SELECT f.run, f.source, s.stream, s.status, s.started, s.finished, s.requests, s.received, s.inserted, s.updated, s.unchanged, s.stale,
       s.duplicate, s.quarantined, s.deleted, s.bytes, s.waited, s.sqlstate, s.error,
       -- The API's own words, which can quote what analysts may not see.
       CASE WHEN pg_catalog.pg_has_role('wh_admin', 'USAGE') THEN s.detail END AS detail, s.hint
FROM wh.fetch_run f JOIN wh.fetch_stream s ON s.run = f.run;
COMMENT ON VIEW wh.fetch_runs IS 'Every fetch by stream: what became of every record that was received';

CREATE VIEW wh.fetch_errors AS
SELECT e.run, e.source, e.stream, e.at, e.reason, e.record FROM wh.fetch_error e;
COMMENT ON VIEW wh.fetch_errors IS 'Records that could not be stored, as they came, and why';

-- Who may -----------------------------------------------------------------------------------------------------------

REVOKE ALL ON FUNCTION
  wh.create_source(text, jsonb, text, jsonb, text, text, text[]), wh.alter_source(text, jsonb, jsonb, text, text[]),
  wh.drop_source(text, boolean), wh.reset_source(text, text), wh.fetch(text, text[], boolean),
  wh.test_source(text, text), wh.verify_source(text),
  wh.set_secret(text, text), wh.drop_secret(text), wh.list_presets()
FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
  wh.create_source(text, jsonb, text, jsonb, text, text, text[]), wh.alter_source(text, jsonb, jsonb, text, text[]),
  wh.drop_source(text, boolean), wh.reset_source(text, text), wh.fetch(text, text[], boolean),
  wh.test_source(text, text), wh.verify_source(text),
  wh.set_secret(text, text), wh.drop_secret(text)
TO wh_admin;
GRANT EXECUTE ON FUNCTION wh.list_presets() TO wh_admin, wh_analyst;
GRANT SELECT ON wh.presets, wh.sources, wh.source_streams, wh.fetch_runs TO wh_admin, wh_analyst;
-- Records that were not stored can hold what analysts must not see.
GRANT SELECT ON wh.fetch_errors, wh.secrets TO wh_admin;
