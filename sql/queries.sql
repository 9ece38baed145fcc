-- Queries: saved under a name, run by those they are shared with, and their results kept as they were.

-- Whose the tables of results are. Nobody can log in as it, and nobody should be a member.
DO $$
DECLARE
  found record;
BEGIN
  SELECT rolcanlogin OR rolsuper OR EXISTS (SELECT FROM pg_catalog.pg_auth_members m WHERE m.roleid = r.oid) AS usable
    INTO found FROM pg_catalog.pg_roles r WHERE rolname = 'wh_results';
  IF found.usable THEN
    RAISE EXCEPTION 'role "wh_results" is in use'
      USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = 'Results of queries belong to that role, so whoever can become it could read and change them all.',
            HINT = 'Rename the role, or ALTER ROLE wh_results NOLOGIN NOSUPERUSER and take its members away.';
  ELSIF found.usable IS NULL THEN
    CREATE ROLE wh_results NOLOGIN;
    COMMENT ON ROLE wh_results IS 'startup_wh: owns the stored results of queries';
  END IF;
END
$$;
CREATE SCHEMA wh_results AUTHORIZATION wh_results;
COMMENT ON SCHEMA wh_results IS 'startup_wh: results of queries that are tables; read them through the views r<number>';
GRANT USAGE ON SCHEMA wh_results TO wh_admin, wh_analyst;
GRANT USAGE ON SCHEMA wh TO wh_results;

-- What is kept ----------------------------------------------------------------------------------------------------

CREATE TABLE wh.saved_query (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  slug text NOT NULL UNIQUE CHECK (slug ~ '^[a-z][a-z0-9_-]{0,62}$'),
  -- A role and not its name: a query follows a rename, and never falls to somebody who gets an old name.
  owner regrole NOT NULL,
  version int NOT NULL,
  created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE wh.saved_query IS 'The saved queries; read it as wh.queries';

CREATE TABLE wh.query_version (
  query bigint NOT NULL REFERENCES wh.saved_query ON DELETE CASCADE,
  version int NOT NULL,
  sql text NOT NULL,
  params jsonb NOT NULL,
  -- Where its names are looked up, whoever runs it.
  search_path text[] NOT NULL,
  title text,
  description text,
  -- Whose code it is: a role, and what it was called, since in a restored database another may have its number.
  author regrole NOT NULL,
  author_name name NOT NULL,
  saved_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  PRIMARY KEY (query, version)
);
COMMENT ON TABLE wh.query_version IS 'Every version of a saved query; read it by wh.query_versions';

CREATE TABLE wh.query_share (
  query bigint NOT NULL REFERENCES wh.saved_query ON DELETE CASCADE,
  role regrole NOT NULL,
  shared_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  PRIMARY KEY (query, role)
);
COMMENT ON TABLE wh.query_share IS 'With whom a query is shared; read it as wh.queries';

CREATE TABLE wh.result (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- No reference: results outlive their query.
  query bigint NOT NULL,
  slug text NOT NULL,
  version int NOT NULL,
  sql text NOT NULL,
  runner regrole NOT NULL,
  -- Somebody else ran it, who left.
  inherited boolean NOT NULL DEFAULT false,
  -- The runner owned the query when it ran: shares of the query are of such results.
  of_owner boolean NOT NULL,
  login name NOT NULL,
  ran_at timestamptz NOT NULL,
  elapsed interval NOT NULL,
  params jsonb NOT NULL,
  columns jsonb NOT NULL,
  rows bigint NOT NULL,
  bytes bigint NOT NULL DEFAULT 0,
  -- The rows as objects, or null: then they are the table wh_results.data_<id>.
  content jsonb,
  -- How many relations it was computed from, and in which database their numbers hold.
  uses int NOT NULL,
  place text NOT NULL,
  -- Row security of a table that was read let through what the runner may see.
  by_rows boolean NOT NULL,
  job bigint,
  job_name text,
  run bigint
);
COMMENT ON TABLE wh.result IS 'Stored results; read it as wh.results, and the rows by wh.result';
CREATE INDEX ON wh.result (query, id);
CREATE INDEX ON wh.result (ran_at);
CREATE INDEX ON wh.result (runner, id);

CREATE TABLE wh.result_use (
  result bigint NOT NULL REFERENCES wh.result ON DELETE CASCADE,
  relation oid NOT NULL,
  schema name NOT NULL,
  name name NOT NULL,
  owner name NOT NULL,
  columns int2[] NOT NULL,
  column_names name[] NOT NULL,
  PRIMARY KEY (result, relation)
);
COMMENT ON TABLE wh.result_use IS 'The relations and columns that each stored result was computed from';

-- A role that is gone cannot be restored, and nobody could do anything with what was its.
SELECT pg_catalog.pg_extension_config_dump('wh.saved_query', 'WHERE owner::pg_catalog.oid IN (SELECT oid FROM pg_catalog.pg_roles)');
SELECT pg_catalog.pg_extension_config_dump('wh.saved_query_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('wh.query_version', 'WHERE query IN (SELECT id FROM wh.saved_query WHERE owner::pg_catalog.oid IN (SELECT oid FROM pg_catalog.pg_roles))');
SELECT pg_catalog.pg_extension_config_dump('wh.query_share', 'WHERE role::pg_catalog.oid IN (SELECT oid FROM pg_catalog.pg_roles) AND query IN (SELECT id FROM wh.saved_query WHERE owner::pg_catalog.oid IN (SELECT oid FROM pg_catalog.pg_roles))');
SELECT pg_catalog.pg_extension_config_dump('wh.result', 'WHERE runner::pg_catalog.oid IN (SELECT oid FROM pg_catalog.pg_roles)');
SELECT pg_catalog.pg_extension_config_dump('wh.result_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('wh.result_use', 'WHERE result IN (SELECT id FROM wh.result WHERE runner::pg_catalog.oid IN (SELECT oid FROM pg_catalog.pg_roles))');

-- What one calls ----------------------------------------------------------------------------------------------------

-- None is SECURITY DEFINER: inside one Postgres does not say who called it, and a query must run as who called. They take
-- the caller's identity first, run what is the caller's to run, and take the rights of the extension's owner then. No
-- function stores rows that it is given.

CREATE FUNCTION wh.save_query(slug text, sql text, title text DEFAULT NULL, description text DEFAULT NULL, params jsonb DEFAULT NULL)
RETURNS int
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'save_query_wrapper';
COMMENT ON FUNCTION wh.save_query(text, text, text, text, jsonb) IS
'Saves a SELECT under a name; saved again, it gets a new version. Parameters stand in it as :name and are declared in params: {"since": {"type": "date", "default": "yesterday"}, "n": "int"}. Names are looked up in the schemas that are on the caller''s search_path now. Returns the version''s number';

CREATE FUNCTION wh.drop_query(slug text)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'drop_query_wrapper';
COMMENT ON FUNCTION wh.drop_query(text) IS
'Forgets a query, its versions, and with whom it was shared. Its results stay for whoever ran it';

CREATE FUNCTION wh.share_query(slug text, role text)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'share_query_wrapper';
COMMENT ON FUNCTION wh.share_query(text, text) IS
'Lets a role (or all members of one) see a query, run it as themselves, and read the results of its owner''s runs, each as long as they hold SELECT on every column that it was computed from';

CREATE FUNCTION wh.unshare_query(slug text, role text)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'unshare_query_wrapper';
COMMENT ON FUNCTION wh.unshare_query(text, text) IS 'Takes back wh.share_query; false if it was not shared with that role';

CREATE FUNCTION wh.run_query(slug text, params jsonb DEFAULT '{}')
RETURNS TABLE (result bigint, link text, rows bigint, bytes bigint, elapsed interval, read text)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'run_query_wrapper';
COMMENT ON FUNCTION wh.run_query(text, jsonb) IS
'Runs a saved query as the caller, reading only, and stores its result for good. Returns the result''s number and link, and the statement that reads it';

CREATE FUNCTION wh.result(id bigint)
RETURNS SETOF jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'result_wrapper';
COMMENT ON FUNCTION wh.result(bigint) IS
'The rows of a stored result as they were, each as a JSON object. wh.results.read has the statement that gives columns';

CREATE FUNCTION wh.result_diff(before bigint, after bigint, key text[] DEFAULT NULL)
RETURNS TABLE (change text, before jsonb, after jsonb)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'result_diff_wrapper';
COMMENT ON FUNCTION wh.result_diff(bigint, bigint, text[]) IS
'What changed from one result to another: columns and rows that were removed and added, and, with the columns of a key, rows that changed';

CREATE FUNCTION wh.query_versions(slug text)
RETURNS TABLE (version int, author text, saved_at timestamptz, title text, description text, params jsonb, search_path text[], sql text, changes text)
LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'query_versions_wrapper';
COMMENT ON FUNCTION wh.query_versions(text) IS
'All versions of a query, the newest first, each with the lines that differ from the one before';

CREATE FUNCTION wh.link(slug text)
RETURNS text
LANGUAGE c STABLE PARALLEL UNSAFE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'link_query_wrapper';
COMMENT ON FUNCTION wh.link(text) IS 'The link of a query: startup_wh.link_base and its name';

CREATE FUNCTION wh.link(id bigint)
RETURNS text
LANGUAGE c STABLE PARALLEL UNSAFE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'link_result_wrapper';
COMMENT ON FUNCTION wh.link(bigint) IS 'The link of a stored result: startup_wh.link_base and its number';

CREATE FUNCTION wh.expire_results(result bigint DEFAULT NULL)
RETURNS TABLE (result bigint, query text, owner text, bytes bigint, reason text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'expire_results_wrapper';
COMMENT ON FUNCTION wh.expire_results(bigint) IS
'Removes results that are older than startup_wh.result_history days, and the oldest of owners who have more than startup_wh.result_quota; or the one that is named. The caller''s own; all, of a wh_admin. Those that somebody is reading stay for the next time';

CREATE FUNCTION wh.schedule_query(
  slug text, schedule text, params jsonb DEFAULT '{}', timezone text DEFAULT NULL, timeout interval DEFAULT NULL,
  max_retries int DEFAULT 0, retry_delay interval DEFAULT '1 minute', catch_up text DEFAULT 'once',
  enabled boolean DEFAULT true, job_name text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'schedule_query_wrapper';
COMMENT ON FUNCTION wh.schedule_query(text, text, jsonb, text, interval, int, interval, text, boolean, text) IS
'Runs a saved query on a schedule, as the role that calls this, and keeps each result; of somebody else''s query the version that is the newest now. The job is called "query" and the query''s name unless job_name says otherwise. Returns the job''s number';

-- Its body is parsed here and now: it is asked in the middle of others' queries, where search_path may be anything and
-- can't be set.
-- A set of one, so that it becomes a part of the query that calls it (inline_set_returning_function,
-- src/backend/optimizer/util/clauses.c): else it would be planned anew for each result and each role.
CREATE FUNCTION wh.result_access(id bigint, viewer oid, place text)
RETURNS SETOF json
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
  SELECT pg_catalog.json_build_object('own', o.own, 'shared', h.shared, 'as_table', r.content IS NULL, 'columns', r.columns::text,
    'lacking', CASE WHEN o.own OR NOT h.shared THEN '{}' ELSE ARRAY(
      SELECT DISTINCT w.what
      FROM wh.result_use u
      -- Where a relation has another number, in a restored database, it is found by its name and its owner's.
      LEFT JOIN pg_catalog.pg_class c
        ON c.oid = CASE WHEN r.place = result_access.place THEN u.relation
                   ELSE pg_catalog.to_regclass(pg_catalog.format('%I.%I', u.schema, u.name))::oid END
       AND (r.place = result_access.place OR pg_catalog.pg_get_userbyid(c.relowner) = u.owner)
      CROSS JOIN LATERAL (
        SELECT pg_catalog.format('%I.%I, which is gone', u.schema, u.name) WHERE c.oid IS NULL
        UNION ALL
        SELECT pg_catalog.format('schema %I', u.schema) WHERE NOT pg_catalog.has_schema_privilege(viewer, c.relnamespace, 'USAGE')
        UNION ALL
        SELECT pg_catalog.format('%I.%I', u.schema, u.name)
        WHERE u.columns = '{}' AND NOT pg_catalog.has_any_column_privilege(viewer, c.oid, 'SELECT')
        UNION ALL
        SELECT pg_catalog.format('all rows of %I.%I', u.schema, u.name)
        WHERE (c.relrowsecurity OR r.by_rows) AND NOT (SELECT v.rolbypassrls FROM pg_catalog.pg_roles v WHERE v.oid = viewer)
        UNION ALL
        SELECT pg_catalog.format('%I.%I.%I', u.schema, u.name, k.name)
        FROM ROWS FROM (pg_catalog.unnest(u.columns), pg_catalog.unnest(u.column_names)) AS k (number, name)
        LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
          AND CASE WHEN r.place = result_access.place THEN a.attnum = k.number ELSE a.attname = k.name END
        WHERE c.oid IS NOT NULL AND (a.attnum IS NULL OR NOT pg_catalog.has_column_privilege(viewer, c.oid, a.attnum, 'SELECT'))
      ) AS w (what)
      WHERE u.result = r.id
      UNION ALL
      SELECT 'something that is not known any more'
      WHERE r.uses <> (SELECT pg_catalog.count(*) FROM wh.result_use u WHERE u.result = r.id)) END)
  FROM wh.result r
  CROSS JOIN LATERAL (SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles v WHERE v.oid = r.runner::oid)
                             THEN pg_catalog.pg_has_role(viewer, r.runner::oid, 'USAGE') ELSE false END AS runs) m
  CROSS JOIN LATERAL (SELECT m.runs AND NOT r.inherited AS own) o
  -- Shared where its runner owned the query: a run of somebody else's is the runner's alone. What one inherited is like
  -- shared with one.
  CROSS JOIN LATERAL (SELECT (m.runs AND r.inherited) OR (r.of_owner AND EXISTS (
      SELECT FROM wh.saved_query q JOIN wh.query_share s ON s.query = q.id JOIN pg_catalog.pg_roles v ON v.oid = s.role::oid
      WHERE q.id = r.query AND q.owner = r.runner AND pg_catalog.pg_has_role(viewer, v.oid, 'USAGE'))) AS shared) h
  WHERE r.id = result_access.id;
END;
COMMENT ON FUNCTION wh.result_access(bigint, oid, text) IS
'Internal: whose a result is, whether it is shared with a role, and what it was computed from and the role may not read now';

CREATE FUNCTION wh.may_read_result(id bigint)
RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED STRICT COST 1000
AS 'MODULE_PATHNAME', 'may_read_result_wrapper';
COMMENT ON FUNCTION wh.may_read_result(bigint) IS 'Internal: whether the caller may read a stored result';

CREATE FUNCTION wh.check_result(id bigint)
RETURNS boolean
LANGUAGE c STABLE PARALLEL SAFE STRICT
AS 'MODULE_PATHNAME', 'check_result_wrapper';
COMMENT ON FUNCTION wh.check_result(bigint) IS 'Internal: true where the caller may read a stored result, and the reason as an error where not; once a query, in the views of schema wh_results';

CREATE FUNCTION wh.read_result(id bigint, columns jsonb, stored_as_table boolean)
RETURNS text
LANGUAGE c STABLE PARALLEL SAFE STRICT
AS 'MODULE_PATHNAME', 'read_result_wrapper';
COMMENT ON FUNCTION wh.read_result(bigint, jsonb, boolean) IS 'Internal: the statement that reads a stored result as columns';

-- What one sees -----------------------------------------------------------------------------------------------------

CREATE VIEW wh.queries WITH (security_barrier) AS
SELECT q.slug, v.title, v.description, q.owner::text AS owner, q.version, v.saved_at, v.author_name AS author, v.params, v.sql,
       CASE WHEN o.mine THEN ARRAY(SELECT s.role::text FROM wh.query_share s JOIN pg_catalog.pg_roles r ON r.oid = s.role::oid
                                   WHERE s.query = q.id ORDER BY 1) END AS shared_with,
       l.id AS last_result, l.ran_at AS last_run, coalesce(pg_catalog.current_setting('startup_wh.link_base', true), '') || q.slug AS link
FROM wh.saved_query q JOIN wh.query_version v ON v.query = q.id AND v.version = q.version
CROSS JOIN LATERAL (SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles WHERE oid = q.owner::oid)
                           THEN pg_catalog.pg_has_role(q.owner::oid, 'USAGE') ELSE false END AS mine) o
LEFT JOIN LATERAL (SELECT r.id, r.ran_at FROM wh.result r WHERE r.query = q.id AND wh.may_read_result(r.id) ORDER BY r.id DESC LIMIT 1) l ON true
WHERE o.mine OR EXISTS (SELECT FROM wh.query_share s JOIN pg_catalog.pg_roles r ON r.oid = s.role::oid
                        WHERE s.query = q.id AND pg_catalog.pg_has_role(r.oid, 'USAGE'));
COMMENT ON VIEW wh.queries IS 'The saved queries that are the reader''s own or shared with them, as they are now, with the newest result that they may read';

CREATE VIEW wh.results WITH (security_barrier) AS
SELECT r.id, r.slug AS query, r.version, r.runner::text AS runner, r.login, r.ran_at, r.elapsed, r.params, r.rows, r.bytes,
       CASE WHEN r.content IS NULL THEN pg_catalog.format('wh_results.r%s', r.id) END AS relation, r.job_name AS job, r.run, r.columns, r.sql,
       coalesce(pg_catalog.current_setting('startup_wh.link_base', true), '') || r.id AS link,
       wh.read_result(r.id, r.columns, r.content IS NULL) AS read
FROM wh.result r
CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM pg_catalog.pg_roles v WHERE v.oid = r.runner::oid) AS there) t
CROSS JOIN LATERAL (SELECT CASE WHEN t.there THEN pg_catalog.pg_has_role(r.runner::oid, 'USAGE') ELSE false END AS runs) m
-- Most are one's own, or nobody was ever given them: only of the others is more to be asked.
WHERE CASE WHEN m.runs AND NOT r.inherited THEN true
           WHEN t.there AND NOT m.runs AND NOT (r.of_owner AND EXISTS (SELECT FROM wh.query_share s WHERE s.query = r.query)) THEN false
           ELSE wh.may_read_result(r.id) END;
COMMENT ON VIEW wh.results IS 'The stored results that the reader may read: who ran which version when, with which parameters, rows, duration, and the statement that reads it again';

CREATE VIEW wh.result_usage WITH (security_barrier) AS
SELECT r.runner::text AS owner, pg_catalog.count(*) AS results, pg_catalog.sum(r.bytes)::bigint AS bytes, pg_catalog.min(r.ran_at) AS oldest
FROM wh.result r
WHERE CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles WHERE oid = r.runner::oid) THEN pg_catalog.pg_has_role(r.runner::oid, 'USAGE') ELSE false END
   OR pg_catalog.pg_has_role('wh_admin', 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')
GROUP BY r.runner;
COMMENT ON VIEW wh.result_usage IS 'How many bytes the stored results of each owner take. An analyst sees their own';

-- Who may -----------------------------------------------------------------------------------------------------------

REVOKE ALL ON FUNCTION wh.result_access(bigint, oid, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION
  wh.save_query(text, text, text, text, jsonb), wh.drop_query(text), wh.share_query(text, text), wh.unshare_query(text, text),
  wh.run_query(text, jsonb), wh.result(bigint), wh.result_diff(bigint, bigint, text[]), wh.query_versions(text), wh.link(text),
  wh.link(bigint), wh.expire_results(bigint), wh.may_read_result(bigint), wh.check_result(bigint),
  wh.read_result(bigint, jsonb, boolean),
  wh.schedule_query(text, text, jsonb, text, interval, int, interval, text, boolean, text)
FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
  wh.save_query(text, text, text, text, jsonb), wh.drop_query(text), wh.share_query(text, text), wh.unshare_query(text, text),
  wh.run_query(text, jsonb), wh.result(bigint), wh.result_diff(bigint, bigint, text[]), wh.query_versions(text), wh.link(text),
  wh.link(bigint), wh.expire_results(bigint), wh.may_read_result(bigint), wh.check_result(bigint),
  wh.read_result(bigint, jsonb, boolean),
  wh.schedule_query(text, text, jsonb, text, interval, int, interval, text, boolean, text)
TO wh_admin, wh_analyst;
GRANT SELECT ON wh.queries, wh.results, wh.result_usage TO wh_admin, wh_analyst;
