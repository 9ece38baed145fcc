-- Usage: what each role's queries cost.

-- What is kept ------------------------------------------------------------------------------------------------------

-- Counted in shared memory, and written here by the scheduler. Times are microseconds. What is older than
-- startup_wh.usage_history is summed up in the hour '-infinity'. Role 0 is everybody beyond startup_wh.max_users.
-- Not dumped: roles of another server have other numbers.
CREATE TABLE wh.query_time (
  hour timestamptz NOT NULL,
  role oid NOT NULL,
  calls bigint NOT NULL,
  errors bigint NOT NULL,
  cancels bigint NOT NULL,
  total_time bigint NOT NULL,
  cpu_user_time bigint NOT NULL,
  cpu_system_time bigint NOT NULL,
  rows bigint NOT NULL,
  temp_bytes bigint NOT NULL,
  blocks_read bigint NOT NULL,
  blocks_hit bigint NOT NULL,
  wal_bytes bigint NOT NULL,
  PRIMARY KEY (hour, role)
) WITH (fillfactor = 50);
COMMENT ON TABLE wh.query_time IS 'What each role''s queries cost in each hour; read it as wh.user_query_time and wh.user_query_time_history';

-- A role that was dropped keeps its name. And how much of what the server has counted for it is in wh.query_time, written by
-- the same transaction: the number of its entry in shared memory, and as much of each of the entry's counters. Each snapshot
-- sees what it has in the table and adds what is counted beyond; entries of other numbers are other servers'.
CREATE TABLE wh.query_role (
  role oid PRIMARY KEY,
  name name NOT NULL,
  entry bigint NOT NULL DEFAULT 0,
  written bigint[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);
COMMENT ON TABLE wh.query_role IS 'The roles of wh.query_time, as they were called last, and how much of what the server has counted for them is in it';

-- How much a role may use. A role, so that a budget follows a rename.
CREATE TABLE wh.budget (
  role regrole PRIMARY KEY,
  query_time interval,
  bytes bigint,
  per text NOT NULL CHECK (per IN ('hour', 'day', 'week', 'month')),
  enforce boolean NOT NULL,
  CHECK (query_time IS NOT NULL OR bytes IS NOT NULL)
);
COMMENT ON TABLE wh.budget IS 'How much query time and how many bytes roles may use; read it as wh.budgets';

-- Apart from the budgets, because the scheduler writes it.
CREATE TABLE wh.budget_passed (
  role oid PRIMARY KEY,
  since timestamptz NOT NULL
);
COMMENT ON TABLE wh.budget_passed IS 'Budgets whose passing was told, and for which period; read it as wh.budgets';

SELECT pg_catalog.pg_extension_config_dump('wh.budget', 'WHERE role::pg_catalog.oid IN (SELECT oid FROM pg_catalog.pg_roles)');

-- What one calls ----------------------------------------------------------------------------------------------------

CREATE FUNCTION wh.sees_usage_of(role oid)
RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'sees_usage_of_wrapper';
COMMENT ON FUNCTION wh.sees_usage_of(oid) IS 'Internal: whether the caller may see what a role''s queries cost';

CREATE FUNCTION wh.query_time_now()
RETURNS TABLE (role bigint, name text, calls bigint, errors bigint, cancels bigint, total_time bigint, cpu_user_time bigint,
  cpu_system_time bigint, rows bigint, temp_bytes bigint, blocks_read bigint, blocks_hit bigint, wal_bytes bigint, running bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'query_time_now_wrapper';
COMMENT ON FUNCTION wh.query_time_now() IS
'Internal: what was counted and is not in wh.query_time yet, and what runs, from shared memory, as far as the caller may see it; the rest is one row without a role';

CREATE FUNCTION wh.reset_usage()
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'reset_usage_wrapper';
COMMENT ON FUNCTION wh.reset_usage() IS 'Forgets all query time that was counted in this database, and its history';

CREATE FUNCTION wh.set_budget(role regrole, query_time interval DEFAULT NULL, bytes bigint DEFAULT NULL,
  per text DEFAULT 'day', enforce boolean DEFAULT false)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'set_budget_wrapper';
COMMENT ON FUNCTION wh.set_budget(regrole, interval, bigint, text, boolean) IS
'Sets how much query time a role may use in an hour, day, week or month, and how many bytes its schemas and stored results may have. Who passes it is told, and the channel wh_budgets; with enforce, new statements are refused, but a plain look at wh.my_usage, wh.budgets or wh.my_relations, and never those of superusers and wh_admin. Without time and bytes the budget is taken away';

CREATE FUNCTION wh.my_statements()
RETURNS TABLE (fingerprint bigint, query text, calls bigint, total_time double precision, mean_time double precision,
  max_time double precision, rows bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY INVOKER
AS 'MODULE_PATHNAME', 'my_statements_wrapper';
COMMENT ON FUNCTION wh.my_statements() IS 'Internal: the caller''s statements in pg_stat_statements, which is asked as the caller';

-- What one sees -----------------------------------------------------------------------------------------------------

CREATE VIEW wh.user_query_time WITH (security_barrier) AS
WITH counted AS (
  SELECT t.hour, t.role, NULL::text AS name, t.calls, t.errors, t.cancels, t.total_time, t.cpu_user_time, t.cpu_system_time,
         t.rows, t.temp_bytes, t.blocks_read, t.blocks_hit, t.wal_bytes, 0::bigint AS running
  FROM wh.query_time t
  UNION ALL
  SELECT pg_catalog.now(), n.role::oid, n.name, n.calls, n.errors, n.cancels, n.total_time, n.cpu_user_time, n.cpu_system_time,
         n.rows, n.temp_bytes, n.blocks_read, n.blocks_hit, n.wal_bytes, n.running
  FROM wh.query_time_now() n
), summed AS (
  SELECT p.n, p.period, c.role, pg_catalog.max(c.name) AS name,
         sum(c.calls)::bigint AS calls, sum(c.errors)::bigint AS errors, sum(c.cancels)::bigint AS cancels,
         sum(c.total_time)::bigint AS total_time, sum(c.cpu_user_time)::bigint AS cpu_user_time,
         sum(c.cpu_system_time)::bigint AS cpu_system_time, sum(c.rows)::bigint AS rows, sum(c.temp_bytes)::bigint AS temp_bytes,
         sum(c.blocks_read)::bigint AS blocks_read, sum(c.blocks_hit)::bigint AS blocks_hit, sum(c.wal_bytes)::bigint AS wal_bytes,
         sum(c.running)::bigint AS running, sum(sum(c.total_time)) OVER (PARTITION BY p.period) AS whole
  FROM (VALUES (1, 'today', pg_catalog.date_trunc('day', pg_catalog.now())), (2, '7 days', pg_catalog.now() - interval '7 days'),
               (3, '30 days', pg_catalog.now() - interval '30 days'), (4, 'all time', '-infinity')) AS p (n, period, since)
  JOIN counted c ON c.hour >= p.since
  GROUP BY p.n, p.period, c.role
)
SELECT s.period, s.role AS user_id,
       CASE WHEN s.role = 0 THEN '(other)'::name ELSE coalesce(r.rolname, k.name, s.name::name, pg_catalog.format('(role %s)', s.role)::name) END AS user_name,
       s.calls, s.errors, s.cancels, s.total_time * interval '1 microsecond' AS total_time,
       s.cpu_user_time * interval '1 microsecond' AS cpu_user_time, s.cpu_system_time * interval '1 microsecond' AS cpu_system_time,
       s.rows, s.temp_bytes, s.blocks_read, s.blocks_hit, s.wal_bytes, s.running,
       pg_catalog.round(coalesce(100 * s.total_time / nullif(s.whole, 0), 0), 2) AS share_percent
FROM summed s LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.role LEFT JOIN wh.query_role k ON k.role = s.role
WHERE CASE WHEN s.role IS NULL THEN false ELSE wh.sees_usage_of(s.role) END
ORDER BY s.n, s.total_time DESC;
COMMENT ON VIEW wh.user_query_time IS
'What each role''s queries in this database cost today, in 7 and in 30 days and in all time, a row for each: statements at the top level (calls, of which errors failed and cancels were cancelled), the time they took, with what runs now, CPU time, rows, bytes of temporary files, blocks, WAL, and the share of all time';

CREATE VIEW wh.user_query_time_history WITH (security_barrier) AS
WITH counted AS (
  SELECT CASE WHEN t.hour < pg_catalog.date_trunc('day', pg_catalog.now() - interval '48 hours')
              THEN pg_catalog.date_trunc('day', t.hour) ELSE t.hour END AS from_time,
         CASE WHEN t.hour < pg_catalog.date_trunc('day', pg_catalog.now() - interval '48 hours')
              THEN interval '1 day' ELSE interval '1 hour' END AS span,
         t.role, NULL::text AS name, t.calls, t.errors, t.cancels, t.total_time, t.cpu_user_time, t.cpu_system_time,
         t.rows, t.temp_bytes, t.blocks_read, t.blocks_hit, t.wal_bytes
  FROM wh.query_time t WHERE t.hour > '-infinity'
  UNION ALL
  SELECT pg_catalog.date_trunc('hour', pg_catalog.now(), 'UTC'), interval '1 hour', n.role::oid, n.name, n.calls, n.errors,
         n.cancels, n.total_time, n.cpu_user_time, n.cpu_system_time, n.rows, n.temp_bytes, n.blocks_read, n.blocks_hit, n.wal_bytes
  FROM wh.query_time_now() n WHERE n.role IS NOT NULL AND (n.calls > 0 OR n.total_time > 0)
), summed AS (
  SELECT c.from_time, c.span, c.role, pg_catalog.max(c.name) AS name,
         sum(c.calls)::bigint AS calls, sum(c.errors)::bigint AS errors, sum(c.cancels)::bigint AS cancels,
         sum(c.total_time)::bigint AS total_time, sum(c.cpu_user_time)::bigint AS cpu_user_time,
         sum(c.cpu_system_time)::bigint AS cpu_system_time, sum(c.rows)::bigint AS rows, sum(c.temp_bytes)::bigint AS temp_bytes,
         sum(c.blocks_read)::bigint AS blocks_read, sum(c.blocks_hit)::bigint AS blocks_hit, sum(c.wal_bytes)::bigint AS wal_bytes
  FROM counted c GROUP BY c.from_time, c.span, c.role
)
SELECT s.from_time, s.span, s.role AS user_id,
       CASE WHEN s.role = 0 THEN '(other)'::name ELSE coalesce(r.rolname, k.name, s.name::name, pg_catalog.format('(role %s)', s.role)::name) END AS user_name,
       s.calls, s.errors, s.cancels, s.total_time * interval '1 microsecond' AS total_time,
       s.cpu_user_time * interval '1 microsecond' AS cpu_user_time, s.cpu_system_time * interval '1 microsecond' AS cpu_system_time,
       s.rows, s.temp_bytes, s.blocks_read, s.blocks_hit, s.wal_bytes
FROM summed s LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.role LEFT JOIN wh.query_role k ON k.role = s.role
WHERE wh.sees_usage_of(s.role)
ORDER BY s.from_time DESC, s.total_time DESC;
COMMENT ON VIEW wh.user_query_time_history IS
'What each role''s queries in this database cost, by hour for the last 48 hours and by day before, for startup_wh.usage_history days';

CREATE VIEW wh.my_queries AS
SELECT s.fingerprint, s.query, s.calls, s.total_time * interval '1 millisecond' AS total_time,
       s.mean_time * interval '1 millisecond' AS mean_time, s.max_time * interval '1 millisecond' AS max_time, s.rows
FROM wh.my_statements() s;
COMMENT ON VIEW wh.my_queries IS
'The asker''s own statements in this database by total time, where pg_stat_statements collects them; a notice says how to get it. It knows nothing of cancelled statements and forgets rare ones: wh.user_query_time has all';

-- Who may -----------------------------------------------------------------------------------------------------------

REVOKE ALL ON FUNCTION wh.sees_usage_of(oid), wh.query_time_now(), wh.reset_usage(),
  wh.set_budget(regrole, interval, bigint, text, boolean), wh.my_statements() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION wh.sees_usage_of(oid), wh.query_time_now(), wh.my_statements() TO wh_admin, wh_analyst;
GRANT EXECUTE ON FUNCTION wh.reset_usage(), wh.set_budget(regrole, interval, bigint, text, boolean) TO wh_admin;
GRANT SELECT ON wh.user_query_time, wh.user_query_time_history, wh.my_queries TO wh_admin, wh_analyst;

-- What was counted before is not the history of this database's warehouse.
SELECT wh.reset_usage();
