-- Foreign applications: the product databases that the warehouse follows.

-- What is kept ----------------------------------------------------------------------------------------------------

CREATE TABLE wh.fdw (
  name text PRIMARY KEY CHECK (name <> ''),
  server name NOT NULL,
  remote_schema text NOT NULL,
  local_schema name NOT NULL,
  only_tables text[],
  except_tables text[] NOT NULL DEFAULT '{}',
  lineage text,
  adopted boolean NOT NULL DEFAULT false,
  owns_server boolean NOT NULL DEFAULT false,
  owns_schema boolean NOT NULL DEFAULT false,
  -- Where the tables are that are masked, behind views of their names.
  raw_schema name,
  created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  created_by name NOT NULL DEFAULT session_user,
  UNIQUE (local_schema)
);
COMMENT ON TABLE wh.fdw IS 'The registered foreign applications; read it as wh.fdws';

CREATE TABLE wh.fdw_table (
  fdw text NOT NULL REFERENCES wh.fdw ON DELETE CASCADE,
  relation regclass NOT NULL PRIMARY KEY,
  remote_oid bigint,
  column_names name[] NOT NULL,
  column_nums int2[] NOT NULL,
  waiting_name name,
  waiting_columns name[] NOT NULL DEFAULT '{}',
  UNIQUE (fdw, remote_oid)
);
COMMENT ON TABLE wh.fdw_table IS 'The product''s identity of each foreign table: its OID, and the attribute number of each column';

CREATE TABLE wh.fdw_type (
  fdw text NOT NULL REFERENCES wh.fdw ON DELETE CASCADE,
  type regtype NOT NULL,
  remote_oid bigint NOT NULL,
  remote_name text NOT NULL,
  label_oids bigint[] NOT NULL DEFAULT '{}',
  labels text[] NOT NULL DEFAULT '{}',
  PRIMARY KEY (fdw, type)
);
COMMENT ON TABLE wh.fdw_type IS 'The product''s identity of each type mirrored here';

CREATE TABLE wh.fdw_run (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  fdw text NOT NULL,
  action text NOT NULL,
  role name NOT NULL,
  pid int NOT NULL,
  started timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  ended timestamptz,
  status text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'succeeded', 'failed')),
  attempts int,
  waited interval,
  tables int,
  changes int,
  broken int,
  healed int,
  sqlstate text,
  error text
);
COMMENT ON TABLE wh.fdw_run IS 'Every run; read it as wh.fdw_runs';
CREATE INDEX ON wh.fdw_run (fdw, id);

CREATE TABLE wh.fdw_change (
  run bigint NOT NULL REFERENCES wh.fdw_run ON DELETE CASCADE,
  n int NOT NULL,
  object text NOT NULL,
  kind text NOT NULL,
  action text NOT NULL,
  detail text,
  PRIMARY KEY (run, n)
);
COMMENT ON TABLE wh.fdw_change IS 'Every change that a run made; read it as wh.fdw_changes';

CREATE TABLE wh.hidden_pattern (
  fdw text NOT NULL REFERENCES wh.fdw ON DELETE CASCADE,
  table_pattern text NOT NULL,
  column_pattern text,
  created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  created_by name NOT NULL DEFAULT session_user,
  UNIQUE NULLS NOT DISTINCT (fdw, table_pattern, column_pattern)
);
COMMENT ON TABLE wh.hidden_pattern IS 'What never crosses the wire; read it as wh.hidden';

CREATE TABLE wh.broken (
  -- An OID and not a regclass: one view that a restore cannot make must not keep the others' definitions out.
  relation oid NOT NULL,
  schema name NOT NULL,
  name name NOT NULL,
  kind text NOT NULL,
  owner name NOT NULL,
  broken_since timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  reason text NOT NULL,
  missing text[] NOT NULL DEFAULT '{}',
  definition text NOT NULL,
  grants text,
  fdw text,
  run bigint,
  outputs jsonb NOT NULL,
  populated boolean NOT NULL DEFAULT true,
  -- What it reads: OIDs, attribute numbers, the names that its definition says, and those of now.
  reads jsonb NOT NULL DEFAULT '[]',
  properties jsonb NOT NULL DEFAULT '[]',
  -- The cluster and database that the OIDs and numbers are of: in a restored warehouse they are other objects'.
  place text NOT NULL,
  PRIMARY KEY (place, relation)
);
COMMENT ON TABLE wh.broken IS 'Views that cannot stand at present, with all that is needed to bring them back; read it as wh.broken_views';

SELECT pg_catalog.pg_extension_config_dump('wh.fdw', '');
SELECT pg_catalog.pg_extension_config_dump('wh.fdw_table', '');
SELECT pg_catalog.pg_extension_config_dump('wh.fdw_type', '');
SELECT pg_catalog.pg_extension_config_dump('wh.fdw_run', '');
SELECT pg_catalog.pg_extension_config_dump('wh.fdw_run_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('wh.fdw_change', '');
SELECT pg_catalog.pg_extension_config_dump('wh.hidden_pattern', '');
SELECT pg_catalog.pg_extension_config_dump('wh.broken', '');

-- What one sees ---------------------------------------------------------------------------------------------------

CREATE VIEW wh.fdws AS
SELECT f.name, f.server, f.remote_schema, f.local_schema, f.only_tables, f.except_tables,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_foreign_table t
        JOIN pg_catalog.pg_class c ON c.oid = t.ftrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_foreign_server s ON s.oid = t.ftserver
        WHERE n.nspname IN (f.local_schema, f.raw_schema) AND s.srvname = f.server) AS tables,
       (SELECT pg_catalog.max(r.ended) FROM wh.fdw_run r WHERE r.fdw = f.name AND r.status = 'succeeded') AS last_success,
       f.created_at, f.created_by
FROM wh.fdw f;
COMMENT ON VIEW wh.fdws IS 'The foreign applications: product databases that wh.recreate_fdw follows';

-- A run locks its row from its start to the end of its transaction, which puts the transaction's number there. A row that
-- says "running" and whose transaction does not go on belongs to one that is gone. The number is the lower half of the one
-- that pg_xact_status takes, and less than half of all numbers away from the present one.
CREATE VIEW wh.fdw_runs AS
SELECT r.id AS run, r.fdw, r.action, r.role, r.pid, r.started, r.ended,
       CASE WHEN r.status <> 'running' THEN r.status
            WHEN r.xmax::text <> '0' AND pg_catalog.pg_xact_status((n.next
                   + (((r.xmax::text::bigint - n.next + 2147483648) & 4294967295) - 2147483648))::text::pg_catalog.xid8) = 'in progress'
            THEN 'running' ELSE 'aborted' END AS status,
       r.attempts, r.waited, r.tables, r.changes, r.broken, r.healed, r.sqlstate, r.error
FROM wh.fdw_run r
CROSS JOIN (SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint AS next) n;
COMMENT ON VIEW wh.fdw_runs IS 'Every run of create_fdw, recreate_fdw, hide and repair_views: start, end, status (running, succeeded, failed, aborted: its session died or its transaction rolled back), attempts and time spent waiting for locks, counts, error';

CREATE VIEW wh.fdw_changes AS
SELECT c.run, r.fdw, r.started, c.n, c.object, c.kind, c.action, c.detail
FROM wh.fdw_change c JOIN wh.fdw_run r ON r.id = c.run;
COMMENT ON VIEW wh.fdw_changes IS 'Every change that a run made, in order';

CREATE VIEW wh.hidden AS
SELECT h.fdw AS app, h.table_pattern, h.column_pattern, h.created_at, h.created_by FROM wh.hidden_pattern h;
COMMENT ON VIEW wh.hidden IS 'Tables and columns that never cross the wire, as LIKE patterns';

-- Which view stands for a broken one: it calls wh.raise_broken. The place is written as by place() of src/pg/catalog.rs. In
-- a restored warehouse the number that was written down is another relation's, and until the first run only the name leads
-- to it. No function here looks up anything on the path of
-- whoever reads this: pg_get_viewdef would, for one, and to_regclass wants them to be allowed to use the schema.
CREATE VIEW wh.broken_stub AS
SELECT b.place, b.relation, c.oid AS stub
FROM wh.broken b
JOIN pg_catalog.pg_class c ON c.relkind = 'v' AND CASE
  WHEN b.place = (SELECT pg_catalog.format('%s/%s', s.system_identifier, d.oid) FROM pg_catalog.pg_control_system() s, pg_catalog.pg_database d
                  WHERE d.datname = pg_catalog.current_database())
  THEN c.oid = b.relation
  ELSE c.relname = b.name AND c.relnamespace = (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = b.schema) END
WHERE EXISTS (SELECT FROM pg_catalog.pg_rewrite w
              JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
              JOIN pg_catalog.pg_proc p ON d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.refobjid = p.oid
              WHERE w.ev_class = c.oid AND p.proname = 'raise_broken' AND p.pronamespace = 'wh'::pg_catalog.regnamespace);
COMMENT ON VIEW wh.broken_stub IS 'Internal: the view that stands in the place of each broken one';

CREATE VIEW wh.broken_views AS
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS view, b.kind, b.owner, b.broken_since, b.reason, b.missing,
       b.definition, b.grants, b.fdw, b.run
-- A view that its owner has written anew since then no longer calls wh.raise_broken.
FROM wh.broken b JOIN wh.broken_stub s USING (place, relation)
JOIN pg_catalog.pg_class c ON c.oid = s.stub JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace;
COMMENT ON VIEW wh.broken_views IS 'Views that cannot stand at present, because a column or table that they read is gone. Their definitions are kept here, and every run tries them again';

-- What one calls --------------------------------------------------------------------------------------------------

CREATE FUNCTION wh.create_fdw(
  name text, uri text DEFAULT NULL, server text DEFAULT NULL, remote_schema text DEFAULT 'public',
  local_schema text DEFAULT NULL, only_tables text[] DEFAULT NULL, except_tables text[] DEFAULT '{}')
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'create_fdw_wrapper';
COMMENT ON FUNCTION wh.create_fdw(text, text, text, text, text, text[], text[]) IS
'Registers a product database under a name and imports it. uri (postgresql://user:password@host:port/db) makes a server and a PUBLIC user mapping; server names an existing one of any wrapper that supports IMPORT FOREIGN SCHEMA. local_schema defaults to name';

CREATE FUNCTION wh.recreate_fdw(
  name text, rebuild boolean DEFAULT false, on_broken text DEFAULT 'keep', lock_timeout interval DEFAULT '5s',
  max_wait interval DEFAULT '5min', types text DEFAULT 'follow')
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'recreate_fdw_wrapper';
COMMENT ON FUNCTION wh.recreate_fdw(text, boolean, text, interval, interval, text) IS
'Makes the foreign tables equal to the product''s, in one transaction, and keeps every view; returns a row per change. on_broken: keep (a view that lost its column raises a clear error until it heals) or fail. types: follow, or pin (views keep their old output types)';

CREATE FUNCTION wh.plan_recreate_fdw(name text, max_wait interval DEFAULT '5min')
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'plan_recreate_fdw_wrapper';
COMMENT ON FUNCTION wh.plan_recreate_fdw(text, interval) IS
'The rows that wh.recreate_fdw would return now, with nothing changed: says which views would break, who owns them, and why';

CREATE FUNCTION wh.drop_fdw(name text, cascade boolean DEFAULT false)
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'drop_fdw_wrapper';
COMMENT ON FUNCTION wh.drop_fdw(text, boolean) IS
'Forgets a foreign application and drops its foreign tables. Refuses while views depend on them and lists them; with cascade those views stay, broken, with their definitions in wh.broken_views';

CREATE FUNCTION wh.hide(app text, table_pattern text, column_pattern text DEFAULT NULL)
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'hide_wrapper';
COMMENT ON FUNCTION wh.hide(text, text, text) IS
'Hides tables, or columns of tables, that match LIKE patterns, now and in every later run: they never cross the wire';

CREATE FUNCTION wh.unhide(app text, table_pattern text, column_pattern text DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'unhide_wrapper';
COMMENT ON FUNCTION wh.unhide(text, text, text) IS
'Takes back a wh.hide of the same patterns; the next wh.recreate_fdw brings the tables and columns back';

CREATE FUNCTION wh.repair_views(fdw text DEFAULT NULL)
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'repair_views_wrapper';
COMMENT ON FUNCTION wh.repair_views(text) IS
'Tries the definitions of the broken views again and returns a row for each that healed; every wh.recreate_fdw does it too';

CREATE FUNCTION wh.dependents(relation regclass)
RETURNS TABLE (depth int, object text, kind text, owner text, columns text[], reads text)
LANGUAGE c STABLE PARALLEL UNSAFE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'dependents_wrapper';
COMMENT ON FUNCTION wh.dependents(regclass) IS
'Everything that depends on a relation, all levels: views, materialized views, rules, functions, policies and so on, with depth, owner, and which columns of what it reads';

CREATE FUNCTION wh.alter_with_dependents(relation regclass, ddl text)
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT SECURITY INVOKER
AS 'MODULE_PATHNAME', 'alter_with_dependents_wrapper';
COMMENT ON FUNCTION wh.alter_with_dependents(regclass, text) IS
'Runs one ALTER statement on a relation whose views block it, and keeps the views; as the caller, who must own them all';

CREATE FUNCTION wh.raise_broken(view text, run bigint, reason text)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT
AS 'MODULE_PATHNAME', 'raise_broken_wrapper';
COMMENT ON FUNCTION wh.raise_broken(text, bigint, text) IS
'Raises the error of a broken view; stands in the definition of such a view until it heals';

CREATE FUNCTION wh.record_run(note text)
RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
BEGIN ATOMIC
  WITH n AS (
    SELECT note::pg_catalog.jsonb AS j
  ), failed AS (
    UPDATE wh.fdw_run r
    SET status = 'failed', ended = pg_catalog.clock_timestamp(), sqlstate = j->>'sqlstate', error = j->>'error',
        attempts = (j->>'attempts')::int, waited = (j->>'waited')::interval
    FROM n WHERE r.id = (j->>'run')::bigint AND r.status = 'running'
    RETURNING r.id
  ), begun AS (
    INSERT INTO wh.fdw_run (fdw, action, role, pid)
    SELECT j->>'fdw', j->>'action', j->>'role', (j->>'pid')::int FROM n WHERE NOT j ? 'run'
    RETURNING id
  )
  SELECT pg_catalog.max(id) FROM (SELECT id FROM failed UNION ALL SELECT id FROM begun) u;
END;
COMMENT ON FUNCTION wh.record_run(text) IS
'Internal: writes the start or the failure of a run, called by the recorder in a transaction of its own';

-- Who may --------------------------------------------------------------------------------------------------------

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA wh FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
  wh.create_fdw(text, text, text, text, text, text[], text[]),
  wh.recreate_fdw(text, boolean, text, interval, interval, text),
  wh.plan_recreate_fdw(text, interval), wh.drop_fdw(text, boolean), wh.hide(text, text, text), wh.unhide(text, text, text),
  wh.repair_views(text)
TO wh_admin;
GRANT EXECUTE ON FUNCTION wh.dependents(regclass), wh.alter_with_dependents(regclass, text) TO wh_admin, wh_analyst;
-- A view's functions are checked against who reads the view, so everyone must be able to meet this error.
GRANT EXECUTE ON FUNCTION wh.raise_broken(text, bigint, text) TO PUBLIC;

GRANT SELECT ON wh.fdws, wh.fdw_runs, wh.fdw_changes, wh.hidden, wh.broken_views TO wh_admin, wh_analyst;
