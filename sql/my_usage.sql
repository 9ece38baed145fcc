-- What is whose: sizes, stored results and query time together, for whoever asks.

CREATE VIEW wh.budgets WITH (security_barrier) AS
SELECT r.rolname AS role, b.query_time, b.bytes, b.per, b.enforce, p.since, u.used_time * interval '1 microsecond' AS used_time, w.used_bytes,
       coalesce(u.used_time > (extract(epoch FROM b.query_time) * 1000000), false) OR coalesce(w.used_bytes > b.bytes, false) AS passed
FROM wh.budget b JOIN pg_catalog.pg_roles r ON r.oid = b.role::oid
CROSS JOIN LATERAL (SELECT pg_catalog.date_trunc(b.per, pg_catalog.now(), pg_catalog.current_setting('log_timezone')) AS since) p
CROSS JOIN LATERAL (
  SELECT coalesce(sum(t.total_time), 0) AS used_time
  FROM (SELECT q.total_time FROM wh.query_time q WHERE q.role = r.oid AND q.hour >= p.since
        UNION ALL SELECT n.total_time FROM wh.query_time_now() n WHERE n.role = r.oid::bigint) t) u
CROSS JOIN LATERAL (
  SELECT CASE WHEN b.bytes IS NOT NULL THEN
    (SELECT coalesce(sum(z.total_bytes), 0) FROM wh.schema_sizes z WHERE z.owner::text = r.rolname::text)
    + (SELECT coalesce(sum(x.bytes), 0) FROM wh.result x WHERE x.runner::oid = r.oid) END::bigint AS used_bytes) w
WHERE wh.sees_usage_of(r.oid);
COMMENT ON VIEW wh.budgets IS
'How much query time and how many bytes (of schemas and stored results) each role may use, how much of it is used since the period began, and whether it is passed. Periods begin by the server''s log_timezone';

-- A row for each role, whoever asks; read as wh.my_usage and wh.my_team_usage, which leave out what is not the asker's.
CREATE VIEW wh.role_usage AS
SELECT r.oid AS role_id, r.rolname AS role,
       coalesce(o.schemas, 0) AS schemas, coalesce(o.bytes, 0) AS bytes, o.bytes_rank,
       pg_catalog.round(100 * coalesce(o.bytes, 0) / nullif(s.bytes, 0)::numeric, 2) AS bytes_percent, o.growth_7_days,
       l.relation AS largest_relation, l.bytes AS largest_relation_bytes, w.results, w.result_bytes,
       q.*, b.query_time AS budget_query_time, b.bytes AS budget_bytes, b.per AS budget_per, b.enforce AS budget_enforced, b.passed AS budget_passed,
       s.as_of AS sizes_as_of
FROM pg_catalog.pg_roles r CROSS JOIN (SELECT * FROM wh.size_snapshot LIMIT 1) s
LEFT JOIN (
  SELECT z.owner, pg_catalog.count(*) FILTER (WHERE z.schema <> '(temporary)') AS schemas, sum(z.total_bytes)::bigint AS bytes,
         pg_catalog.rank() OVER (ORDER BY sum(z.total_bytes) DESC) AS bytes_rank, sum(z.growth_7_days)::bigint AS growth_7_days
  FROM wh.schema_sizes z WHERE z.owner IS NOT NULL GROUP BY z.owner) o ON o.owner = r.rolname
LEFT JOIN LATERAL (
  SELECT pg_catalog.format('%I.%I', cn.nspname, c.relname) AS relation, z.table_bytes + z.index_bytes + z.toast_bytes AS bytes
  FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class t ON t.relnamespace = n.oid JOIN wh.relation_size z ON z.belongs_to = t.oid
  JOIN pg_catalog.pg_class c ON c.oid = z.relation AND c.relkind NOT IN ('i', 'I') JOIN pg_catalog.pg_namespace cn ON cn.oid = c.relnamespace
  WHERE n.nspowner = r.oid ORDER BY 2 DESC, 1 LIMIT 1) l ON true
CROSS JOIN LATERAL (
  SELECT pg_catalog.count(*) AS results, coalesce(sum(x.bytes), 0)::bigint AS result_bytes FROM wh.result x WHERE x.runner::oid = r.oid) w
LEFT JOIN LATERAL (
  SELECT coalesce(sum(u.calls) FILTER (WHERE u.period = 'today'), 0)::bigint AS queries_today,
         coalesce(sum(u.calls) FILTER (WHERE u.period = '7 days'), 0)::bigint AS queries_7_days,
         coalesce(sum(u.calls) FILTER (WHERE u.period = '30 days'), 0)::bigint AS queries_30_days,
         coalesce(sum(u.total_time) FILTER (WHERE u.period = 'today'), '0') AS total_time_today,
         coalesce(sum(u.total_time) FILTER (WHERE u.period = '7 days'), '0') AS total_time_7_days,
         coalesce(sum(u.total_time) FILTER (WHERE u.period = '30 days'), '0') AS total_time_30_days,
         coalesce(sum(u.cpu_user_time + u.cpu_system_time) FILTER (WHERE u.period = 'today'), '0') AS cpu_time_today,
         coalesce(sum(u.cpu_user_time + u.cpu_system_time) FILTER (WHERE u.period = '7 days'), '0') AS cpu_time_7_days,
         coalesce(sum(u.cpu_user_time + u.cpu_system_time) FILTER (WHERE u.period = '30 days'), '0') AS cpu_time_30_days,
         coalesce(sum(u.rows) FILTER (WHERE u.period = 'today'), 0)::bigint AS rows_today,
         coalesce(sum(u.rows) FILTER (WHERE u.period = '7 days'), 0)::bigint AS rows_7_days,
         coalesce(sum(u.rows) FILTER (WHERE u.period = '30 days'), 0)::bigint AS rows_30_days,
         coalesce(sum(u.temp_bytes) FILTER (WHERE u.period = 'today'), 0)::bigint AS temp_bytes_today,
         coalesce(sum(u.temp_bytes) FILTER (WHERE u.period = '7 days'), 0)::bigint AS temp_bytes_7_days,
         coalesce(sum(u.temp_bytes) FILTER (WHERE u.period = '30 days'), 0)::bigint AS temp_bytes_30_days,
         coalesce(sum(u.blocks_read) FILTER (WHERE u.period = 'today'), 0)::bigint AS blocks_read_today,
         coalesce(sum(u.blocks_read) FILTER (WHERE u.period = '7 days'), 0)::bigint AS blocks_read_7_days,
         coalesce(sum(u.blocks_read) FILTER (WHERE u.period = '30 days'), 0)::bigint AS blocks_read_30_days,
         coalesce(sum(u.errors) FILTER (WHERE u.period = 'today'), 0)::bigint AS errors_today,
         coalesce(sum(u.errors) FILTER (WHERE u.period = '7 days'), 0)::bigint AS errors_7_days,
         coalesce(sum(u.errors) FILTER (WHERE u.period = '30 days'), 0)::bigint AS errors_30_days,
         coalesce(sum(u.cancels) FILTER (WHERE u.period = 'today'), 0)::bigint AS cancels_today,
         coalesce(sum(u.cancels) FILTER (WHERE u.period = '7 days'), 0)::bigint AS cancels_7_days,
         coalesce(sum(u.cancels) FILTER (WHERE u.period = '30 days'), 0)::bigint AS cancels_30_days,
         coalesce(sum(u.share_percent) FILTER (WHERE u.period = '30 days'), 0) AS time_percent_30_days
  FROM wh.user_query_time u WHERE u.user_id = r.oid) q ON true
LEFT JOIN wh.budgets b ON b.role = r.rolname;
COMMENT ON VIEW wh.role_usage IS 'Internal: what each role has and what its queries cost; read it as wh.my_usage and wh.my_team_usage';

CREATE VIEW wh.my_usage WITH (security_barrier) AS
SELECT u.* FROM wh.role_usage u WHERE u.role = current_user;
COMMENT ON VIEW wh.my_usage IS
'One row for the role that asks: its schemas, what they weigh, their rank among those of all owners, their share of the database and growth, the largest relation in them; its stored results of queries; what its queries cost today, in 7 and in 30 days, and their share of everybody''s time; its budget';

CREATE VIEW wh.my_team_usage WITH (security_barrier) AS
WITH RECURSIVE team(role_id) AS (
  SELECT m.roleid FROM pg_catalog.pg_auth_members m WHERE m.member = (SELECT o.oid FROM pg_catalog.pg_roles o WHERE o.rolname = current_user)
  UNION
  SELECT m.roleid FROM team t JOIN pg_catalog.pg_auth_members m ON m.member = t.role_id)
SELECT u.* FROM wh.role_usage u JOIN team t ON t.role_id = u.role_id;
COMMENT ON VIEW wh.my_team_usage IS 'The rows of wh.my_usage for each role that the asker is a member of, directly or through others';

CREATE VIEW wh.unused_relations AS
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS relation, CASE c.relkind WHEN 'm' THEN 'materialized view' ELSE 'table' END AS kind,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS owner, z.table_bytes + z.index_bytes + z.toast_bytes AS bytes,
       r.last_read, extract(day FROM s.as_of - greatest(r.last_read, z.first_seen, s.watched_since))::int AS days_unused, s.as_of
FROM wh.relation_size z CROSS JOIN (SELECT * FROM wh.size_snapshot LIMIT 1) s
JOIN pg_catalog.pg_class c ON c.oid = z.relation AND c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND NOT c.relispartition
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'wh', 'pg_toast')
CROSS JOIN LATERAL (
  SELECT greatest(z.last_read, pg_catalog.max(i.last_read)) AS last_read FROM wh.relation_size i
  WHERE i.belongs_to = z.relation AND i.belongs_to <> i.relation) r
WHERE s.as_of - greatest(z.last_read, z.first_seen, s.watched_since) >= wh.unused_after()
  AND s.as_of - greatest(r.last_read, z.first_seen, s.watched_since) >= wh.unused_after()
  AND (SELECT wh.sizes_are_kept());
COMMENT ON VIEW wh.unused_relations IS
'Tables and materialized views that nobody has read for startup_wh.unused_after days, everybody''s. Their owners find lines to drop them in wh.my_relations';

CREATE FUNCTION wh.usage_report(days int DEFAULT 7)
RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY INVOKER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'usage_report_wrapper';
COMMENT ON FUNCTION wh.usage_report(int) IS
'A text to paste into chat: the largest schemas, who used most time, what grew fastest, and what nobody has read, with bars';

REVOKE ALL ON FUNCTION wh.usage_report(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION wh.usage_report(int) TO wh_admin, wh_analyst;
GRANT SELECT ON wh.budgets, wh.my_usage, wh.my_team_usage, wh.unused_relations TO wh_admin, wh_analyst;
