-- Analysts: a person gets a role, a schema and the data they may see, in one line.

-- What is kept ----------------------------------------------------------------------------------------------------

-- Roles belong to the server and the data to this database: one group of this database's own reads it.
CREATE TABLE wh.reader_group (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  role regrole NOT NULL,
  -- The schemas of apps and sources that it was let into once: what is taken from it there stays taken.
  covered name[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE wh.reader_group IS 'The group role that all analysts of this database are members of: it reads apps, sources and the analysts'' schemas';

CREATE TABLE wh.team (
  role regrole PRIMARY KEY,
  schema name NOT NULL UNIQUE,
  private boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  created_by name NOT NULL DEFAULT session_user
);
COMMENT ON TABLE wh.team IS 'The teams; read it as wh.teams';

CREATE TABLE wh.analyst (
  role regrole PRIMARY KEY,
  schema name NOT NULL UNIQUE,
  team regrole,
  private boolean NOT NULL DEFAULT false,
  -- The search_path that was set last. One that differs was chosen by somebody, and stays.
  search_path text,
  created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  created_by name NOT NULL DEFAULT session_user
);
COMMENT ON TABLE wh.analyst IS 'The analysts; read it as wh.analysts';

-- A role that is gone cannot be restored.
SELECT pg_catalog.pg_extension_config_dump('wh.reader_group', 'WHERE role::pg_catalog.oid IN (SELECT oid FROM pg_catalog.pg_roles)');
SELECT pg_catalog.pg_extension_config_dump('wh.team', 'WHERE role::pg_catalog.oid IN (SELECT oid FROM pg_catalog.pg_roles)');
SELECT pg_catalog.pg_extension_config_dump('wh.analyst', 'WHERE role::pg_catalog.oid IN (SELECT oid FROM pg_catalog.pg_roles)');

-- What one calls --------------------------------------------------------------------------------------------------

-- None of these is SECURITY DEFINER: inside one Postgres does not say who called it. They take the caller's identity
-- first and the rights of the extension's owner then.

CREATE FUNCTION wh.add_analyst(
  name text, password text DEFAULT NULL, team text DEFAULT NULL, connection_limit int DEFAULT 10,
  max_query_time interval DEFAULT '10min', valid_until timestamptz DEFAULT NULL)
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'add_analyst_wrapper';
COMMENT ON FUNCTION wh.add_analyst(text, text, text, int, interval, timestamptz) IS
'Makes an analyst: a role that can log in, a schema of the same name, and the right to read every app, every source and the other analysts'' schemas, now and later. Without a password one is made and returned, this once. Called again it puts back what is missing and changes nothing else';

CREATE FUNCTION wh.alter_analyst(
  name text, password text DEFAULT NULL, connection_limit int DEFAULT NULL, max_query_time interval DEFAULT NULL,
  valid_until timestamptz DEFAULT NULL)
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'alter_analyst_wrapper';
COMMENT ON FUNCTION wh.alter_analyst(text, text, int, interval, timestamptz) IS
'Changes what is given of an analyst and leaves the rest. password => '''' has one made and returned, max_query_time => ''0'' takes the limit away, valid_until => ''infinity'' the end';

CREATE FUNCTION wh.remove_analyst(name text, give_to text)
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'remove_analyst_wrapper';
COMMENT ON FUNCTION wh.remove_analyst(text, text) IS
'Ends an analyst''s sessions, gives what they own to another analyst or a team, makes their SECURITY DEFINER functions plain ones, and drops the role; where it owns something in another database, it stays, disabled, and what is left is listed. Nothing that they made is dropped';

CREATE FUNCTION wh.add_team(name text)
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'add_team_wrapper';
COMMENT ON FUNCTION wh.add_team(text) IS
'Makes a team: a group role, and a schema of the same name that its members may create in and all analysts read. Called again it puts back what is missing';

CREATE FUNCTION wh.remove_team(name text, give_to text)
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'remove_team_wrapper';
COMMENT ON FUNCTION wh.remove_team(text, text) IS
'Removes a team that nobody is in, and gives what it owns to an analyst or another team. Its schema and what members made in it stay';

CREATE FUNCTION wh.move_analyst(name text, team text)
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'move_analyst_wrapper';
COMMENT ON FUNCTION wh.move_analyst(text, text) IS 'Moves an analyst into a team, out of the one before; a null: into none';

CREATE FUNCTION wh.share_schema(schema text, to_role text)
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'share_schema_wrapper';
COMMENT ON FUNCTION wh.share_schema(text, text) IS
'Lets a role read a schema, what is in it now and what its owner makes in it later; of what others than the caller made, only what analysts or the team read. wh_analyst as the role stands for all analysts of this database, and takes wh.make_private back';

CREATE FUNCTION wh.unshare_schema(schema text, to_role text)
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'unshare_schema_wrapper';
COMMENT ON FUNCTION wh.unshare_schema(text, text) IS 'Takes wh.share_schema back';

CREATE FUNCTION wh.make_private(schema text)
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'make_private_wrapper';
COMMENT ON FUNCTION wh.make_private(text) IS
'Lets nobody but its owner read an analyst''s schema, nobody but its members a team''s. Lists the views of others that read from it and stop working, and what elsewhere still shows it. wh.share_schema(schema, ''wh_analyst'') takes it back';

CREATE FUNCTION wh.audit_access(role text DEFAULT NULL)
RETURNS TABLE (kind text, object text, path text, roles text[], detail text, mend text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'audit_access_wrapper';
COMMENT ON FUNCTION wh.audit_access(text) IS
'Who can read which table of apps and sources, and by which grant (kind "access"); and what is open that should not be, with the line that closes it (kind "danger"). Of one role, or of all that can log in';

CREATE FUNCTION wh.close_public()
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'close_public_wrapper';
COMMENT ON FUNCTION wh.close_public() IS
'Takes CREATE on schema public from PUBLIC, as Postgres 15 has it from the start and a server that was upgraded does not; lists who made something there';

CREATE FUNCTION wh.list_analysts()
RETURNS TABLE (oid oid, role text, team text, schema text, private boolean, max_query_ms int, drift text[], mend text[])
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'list_analysts_wrapper';
COMMENT ON FUNCTION wh.list_analysts() IS 'Internal: the rows of wh.analysts that the caller may see';

-- What one sees -----------------------------------------------------------------------------------------------------

CREATE VIEW wh.analysts WITH (security_barrier) AS
SELECT l.role, l.team, l.schema, l.private, r.rolconnlimit AS connection_limit,
       nullif(l.max_query_ms, 0) * interval '1 millisecond' AS max_query_time, r.rolvaliduntil AS valid_until,
       (SELECT z.table_bytes + z.index_bytes + z.toast_bytes FROM wh.schema_size z WHERE z.kind = 'schema' AND z.name = l.schema) AS bytes,
       u.total_time AS query_time_7d,
       CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_stat_activity s WHERE s.usesysid = l.oid) THEN pg_catalog.now()
            -- Query time is counted by the hour.
            ELSE (SELECT pg_catalog.max(least(t.hour + interval '1 hour', pg_catalog.now())) FROM wh.query_time t
                  WHERE t.role = l.oid AND t.hour > '-infinity') END AS last_seen,
       l.drift, l.mend, a.created_at, a.created_by
FROM wh.list_analysts() l JOIN wh.analyst a ON a.schema = l.schema
LEFT JOIN pg_catalog.pg_roles r ON r.oid = l.oid
LEFT JOIN wh.user_query_time u ON u.user_id = l.oid AND u.period = '7 days';
COMMENT ON VIEW wh.analysts IS
'The analysts: team, schema, limits, bytes of the schema when sizes were last measured, query time of 7 days, when they were last seen (to the hour), and what differs from the standard (drift), each with the line that mends it. An analyst sees their own row';

CREATE VIEW wh.teams WITH (security_barrier) AS
SELECT pg_catalog.pg_get_userbyid(t.role)::text AS team, t.schema, t.private,
       ARRAY(SELECT pg_catalog.pg_get_userbyid(a.role)::text FROM wh.analyst a WHERE a.team = t.role ORDER BY 1) AS members, t.created_at, t.created_by
FROM wh.team t;
COMMENT ON VIEW wh.teams IS 'The teams, their schemas and members';

-- Who may -----------------------------------------------------------------------------------------------------------

REVOKE ALL ON FUNCTION
  wh.add_analyst(text, text, text, int, interval, timestamptz), wh.alter_analyst(text, text, int, interval, timestamptz),
  wh.remove_analyst(text, text), wh.add_team(text), wh.remove_team(text, text), wh.move_analyst(text, text), wh.share_schema(text, text),
  wh.unshare_schema(text, text), wh.make_private(text), wh.audit_access(text), wh.close_public(), wh.list_analysts()
FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
  wh.add_analyst(text, text, text, int, interval, timestamptz), wh.alter_analyst(text, text, int, interval, timestamptz),
  wh.remove_analyst(text, text), wh.add_team(text), wh.remove_team(text, text), wh.move_analyst(text, text), wh.audit_access(text), wh.close_public()
TO wh_admin;
-- A schema's owner decides about it.
GRANT EXECUTE ON FUNCTION
  wh.share_schema(text, text), wh.unshare_schema(text, text), wh.make_private(text), wh.list_analysts()
TO wh_admin, wh_analyst;
GRANT SELECT ON wh.analysts, wh.teams TO wh_admin, wh_analyst;
