-- Sizes: what each schema and each relation weighs, and who still reads it.

-- What is kept ----------------------------------------------------------------------------------------------------

CREATE TABLE wh.size_snapshot (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  as_of timestamptz,
  -- The first one of all: before it nothing is known of relations. A restored history of schemas goes back further.
  began timestamptz,
  schemas_since timestamptz,
  elapsed interval,
  bytes bigint NOT NULL DEFAULT 0,
  -- The server: in another one schemas have other numbers.
  system bigint,
  -- Since when the server's counters count, and of which relation they are looked at next.
  counters text,
  next_counted oid NOT NULL DEFAULT 0,
  -- What was read before this may not have been counted.
  watched_since timestamptz,
  -- When the history was last thinned out.
  trimmed timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE wh.size_snapshot IS 'When sizes were last measured; read it as wh.schema_sizes';
INSERT INTO wh.size_snapshot DEFAULT VALUES;

-- Schemas by name: numbers are others after pg_upgrade or a restore. The number follows a rename.
CREATE TABLE wh.schema_size (
  kind text NOT NULL CHECK (kind IN ('schema', 'temporary', 'uncommitted', 'orphaned')),
  -- Of temporary relations the role's name.
  name text NOT NULL,
  oid oid NOT NULL,
  owner text,
  table_bytes bigint NOT NULL,
  index_bytes bigint NOT NULL,
  toast_bytes bigint NOT NULL,
  relations bigint NOT NULL,
  PRIMARY KEY (kind, name)
) WITH (fillfactor = 50);
COMMENT ON TABLE wh.schema_size IS 'Bytes of each schema when they were last measured; read it as wh.schema_sizes';

CREATE TABLE wh.schema_size_point (
  kind text NOT NULL,
  name text NOT NULL,
  -- The hour in which it was measured, the last time: of older days one hour is left.
  at timestamptz NOT NULL,
  owner text,
  table_bytes bigint NOT NULL,
  index_bytes bigint NOT NULL,
  toast_bytes bigint NOT NULL,
  relations bigint NOT NULL,
  PRIMARY KEY (kind, name, at)
) WITH (fillfactor = 70);
COMMENT ON TABLE wh.schema_size_point IS 'Bytes of each schema by hour and by day; read it as wh.schema_size_history';

-- Written only where something has changed. Indexes have rows of their own, TOAST has none.
CREATE TABLE wh.relation_size (
  relation oid PRIMARY KEY,
  -- Of an index its table, of a partition the partitioned table at the top, else itself.
  belongs_to oid NOT NULL,
  table_bytes bigint NOT NULL,
  index_bytes bigint NOT NULL,
  toast_bytes bigint NOT NULL,
  first_seen timestamptz NOT NULL,
  -- The server's counters when they were last looked at, and when they were seen to have moved.
  reads bigint NOT NULL DEFAULT 0,
  writes bigint NOT NULL DEFAULT 0,
  last_read timestamptz,
  last_written timestamptz
) WITH (fillfactor = 80);
COMMENT ON TABLE wh.relation_size IS 'Bytes of each relation when they were last measured; read it as wh.relation_sizes';
CREATE INDEX ON wh.relation_size (belongs_to) WHERE belongs_to <> relation;

CREATE TABLE wh.relation_size_point (
  relation oid NOT NULL,
  at timestamptz NOT NULL,
  bytes bigint NOT NULL,
  PRIMARY KEY (relation, at)
) WITH (fillfactor = 80);
COMMENT ON TABLE wh.relation_size_point IS 'Bytes of a relation from an hour on, where they had changed; read it as wh.relation_sizes';

-- Relations have other numbers in a restored database, so theirs stay behind.
-- Nor does the hour that is not over: where the dump is restored, the scheduler may have written that one already.
SELECT pg_catalog.pg_extension_config_dump('wh.schema_size_point', 'WHERE at <= pg_catalog.now() - interval ''1 hour''');

-- What one calls --------------------------------------------------------------------------------------------------

CREATE FUNCTION wh.schema_sizes_now()
RETURNS TABLE (schema text, owner text, table_bytes bigint, index_bytes bigint, toast_bytes bigint, total_bytes bigint,
               relations bigint, share_percent numeric, as_of timestamptz)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'schema_sizes_now_wrapper';
COMMENT ON FUNCTION wh.schema_sizes_now() IS
'The sizes of wh.schema_sizes, measured now. Takes no lock on any table, and writes nothing';

CREATE FUNCTION wh.snapshot_usage()
RETURNS TABLE (as_of timestamptz, elapsed interval, bytes bigint, relations bigint, changed bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'snapshot_usage_wrapper';
COMMENT ON FUNCTION wh.snapshot_usage() IS
'Measures now and keeps it, as the worker does each startup_wh.size_interval. changed: relations of which something was written down';

CREATE FUNCTION wh.sizes_are_kept()
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'sizes_are_kept_wrapper';
COMMENT ON FUNCTION wh.sizes_are_kept() IS
'Internal: true; says in a NOTICE where sizes have not been measured, or not for long, and what to do about it';

CREATE FUNCTION wh.unused_after()
RETURNS interval
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'unused_after_wrapper';
COMMENT ON FUNCTION wh.unused_after() IS 'Internal: the setting startup_wh.unused_after';

-- Apart from the view: inside of it the planner would think it so costly that it would compile it first.
CREATE FUNCTION wh.needed_by(relation oid)
RETURNS text[]
LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY INVOKER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
SELECT ARRAY(
  SELECT DISTINCT y.why FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_index x ON x.indexrelid = c.oid CROSS JOIN LATERAL (
    SELECT (SELECT o.type || ' ' || o.identity FROM pg_catalog.pg_identify_object('pg_catalog.pg_class'::pg_catalog.regclass, w.ev_class, 0) o)
    FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid AND w.ev_class <> c.oid
    WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = c.oid
    UNION ALL
    SELECT (SELECT o.type || ' ' || o.identity FROM pg_catalog.pg_identify_object('pg_catalog.pg_constraint'::pg_catalog.regclass, f.oid, 0) o)
    FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_constraint f ON f.oid = d.objid AND f.conrelid <> c.oid
    WHERE d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = c.oid
    UNION ALL
    SELECT (SELECT o.type || ' ' || o.identity FROM pg_catalog.pg_identify_object(d.classid, d.objid, d.objsubid) o) FROM pg_catalog.pg_depend d
    WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = c.oid AND d.deptype = 'n'
      AND (d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
           OR d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
              AND NOT EXISTS (SELECT FROM pg_catalog.pg_policy o WHERE o.oid = d.objid AND o.polrelid = c.oid))
    UNION ALL
    -- Columns, functions and the like of its row type.
    SELECT (SELECT o.type || ' ' || o.identity FROM pg_catalog.pg_identify_object(d.classid, d.objid, d.objsubid) o)
    FROM pg_catalog.pg_type y JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.refobjid IN (y.oid, y.typarray)
    WHERE y.oid = c.reltype AND d.deptype = 'n' AND NOT (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid)
    UNION ALL
    SELECT (SELECT o.type || ' ' || o.identity FROM pg_catalog.pg_identify_object('pg_catalog.pg_class'::pg_catalog.regclass, i.inhrelid, 0) o) FROM pg_catalog.pg_inherits i
    WHERE i.inhparent = c.oid AND c.relkind = 'r'
    UNION ALL
    SELECT 'partition of ' || pg_catalog.format('%I.%I', pn.nspname, pc.relname) FROM pg_catalog.pg_class pc JOIN pg_catalog.pg_namespace pn ON pn.oid = pc.relnamespace
    WHERE c.relispartition AND c.relkind IN ('r', 'p') AND pc.oid = (SELECT i.inhparent FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid LIMIT 1)
    UNION ALL
    SELECT 'unique: it keeps duplicates out' WHERE x.indisunique OR x.indisexclusion
    UNION ALL
    SELECT 'replica identity of its table' WHERE x.indisreplident
    UNION ALL
    SELECT 'its table is clustered on it' WHERE x.indisclustered
    UNION ALL
    SELECT 'part of a partitioned index' WHERE c.relispartition AND c.relkind = 'i'
    UNION ALL
    SELECT (SELECT o.type || ' ' || o.identity FROM pg_catalog.pg_identify_object('pg_catalog.pg_extension'::pg_catalog.regclass, d.refobjid, 0) o) FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid IN (c.oid, x.indrelid) AND d.deptype = 'e'
  ) y (why) WHERE c.oid = relation AND y.why IS NOT NULL ORDER BY y.why);
END;
COMMENT ON FUNCTION wh.needed_by(oid) IS 'Internal: what stands on a relation, or why it must stay';

-- What one sees ---------------------------------------------------------------------------------------------------

-- Everybody sees all of it, on purpose, as they can with pg_total_relation_size. A schema's growth is its bytes less
-- those of the newest point that is old enough; all of them where it was not there yet, and null where nobody looked.
CREATE VIEW wh.schema_sizes AS
SELECT CASE z.kind WHEN 'schema' THEN z.name ELSE '(' || z.kind || ')' END AS schema, z.owner,
       z.table_bytes, z.index_bytes, z.toast_bytes, z.table_bytes + z.index_bytes + z.toast_bytes AS total_bytes, z.relations,
       pg_catalog.round(100 * (z.table_bytes + z.index_bytes + z.toast_bytes) / nullif(s.bytes, 0)::numeric, 2) AS share_percent,
       g.growth[1] AS growth_1_day, g.growth[2] AS growth_7_days, g.growth[3] AS growth_30_days, s.as_of
FROM wh.schema_size z CROSS JOIN (SELECT * FROM wh.size_snapshot LIMIT 1) s
CROSS JOIN LATERAL (
  SELECT ARRAY(
    SELECT CASE WHEN s.schemas_since <= s.as_of - d.days * interval '24 hours' THEN
      z.table_bytes + z.index_bytes + z.toast_bytes - coalesce((
        SELECT p.table_bytes + p.index_bytes + p.toast_bytes FROM wh.schema_size_point p
        WHERE p.kind = z.kind AND p.name = z.name AND p.at <= s.as_of - d.days * interval '24 hours'
        ORDER BY p.at DESC LIMIT 1), 0) END
    FROM (VALUES (1, 1), (2, 7), (3, 30)) d (n, days) ORDER BY d.n) AS growth) g
WHERE (SELECT wh.sizes_are_kept());
COMMENT ON VIEW wh.schema_sizes IS
'Every schema: owner, bytes of tables, indexes and TOAST, number of relations, share of the database, growth in bytes. (temporary): temporary tables by owner; (uncommitted): files of transactions that had not committed; (orphaned): files that a crash left. As of as_of';

CREATE VIEW wh.relation_sizes AS
SELECT CASE WHEN c.relpersistence = 't' THEN '(temporary)' ELSE tn.nspname::text END AS schema,
       pg_catalog.format('%I.%I', n.nspname, c.relname) AS relation,
       CASE WHEN c.relpersistence = 't' THEN 'temporary ' ELSE '' END || CASE c.relkind WHEN 'r' THEN 'table' WHEN 'm' THEN 'materialized view' WHEN 'p' THEN 'partitioned table'
         WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence' WHEN 't' THEN 'TOAST table' END AS kind,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       CASE WHEN t.oid <> c.oid THEN pg_catalog.format('%I.%I', tn.nspname, t.relname) END AS partition_of,
       z.table_bytes, z.index_bytes, z.toast_bytes, z.table_bytes + z.index_bytes + z.toast_bytes AS total_bytes,
       pg_catalog.round(100 * (z.table_bytes + z.index_bytes + z.toast_bytes) / nullif(s.bytes, 0)::numeric, 2) AS share_percent,
       CASE WHEN s.began <= s.as_of - interval '24 hours' THEN z.table_bytes + z.index_bytes + z.toast_bytes - coalesce((
         SELECT p.bytes FROM wh.relation_size_point p WHERE p.relation = z.relation AND p.at <= s.as_of - interval '24 hours'
         ORDER BY p.at DESC LIMIT 1), 0) END AS growth_1_day,
       CASE WHEN s.began <= s.as_of - 7 * interval '24 hours' THEN z.table_bytes + z.index_bytes + z.toast_bytes - coalesce((
         SELECT p.bytes FROM wh.relation_size_point p WHERE p.relation = z.relation AND p.at <= s.as_of - 7 * interval '24 hours'
         ORDER BY p.at DESC LIMIT 1), 0) END AS growth_7_days,
       CASE WHEN s.began <= s.as_of - 30 * interval '24 hours' THEN z.table_bytes + z.index_bytes + z.toast_bytes - coalesce((
         SELECT p.bytes FROM wh.relation_size_point p WHERE p.relation = z.relation AND p.at <= s.as_of - 30 * interval '24 hours'
         ORDER BY p.at DESC LIMIT 1), 0) END AS growth_30_days,
       s.as_of
FROM wh.relation_size z CROSS JOIN (SELECT * FROM wh.size_snapshot LIMIT 1) s
JOIN pg_catalog.pg_class c ON c.oid = z.relation AND c.relkind <> 'i' AND c.relkind <> 'I'
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class t ON t.oid = z.belongs_to JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
WHERE (SELECT wh.sizes_are_kept());
COMMENT ON VIEW wh.relation_sizes IS
'Every table, materialized view and sequence: the schema to which it counts, bytes of itself, its indexes and its TOAST, share of the database, growth in bytes. A partitioned table has no bytes of its own; its partitions name it. As of as_of';

CREATE VIEW wh.schema_size_history AS
SELECT p.from_time, p.span, CASE p.kind WHEN 'schema' THEN p.name ELSE '(' || p.kind || ')' END AS schema, p.owner,
       p.table_bytes, p.index_bytes, p.toast_bytes, p.table_bytes + p.index_bytes + p.toast_bytes AS total_bytes, p.relations
FROM (
  SELECT DISTINCT ON (q.kind, q.name, d.from_time) q.*, d.from_time, d.span
  FROM wh.schema_size_point q
  -- As it will be thinned out: the last hour of a day.
  CROSS JOIN LATERAL (SELECT q.at < pg_catalog.date_trunc('day', pg_catalog.now() - interval '48 hours', 'UTC') AS old) o
  CROSS JOIN LATERAL (SELECT CASE WHEN o.old THEN pg_catalog.date_trunc('day', q.at, 'UTC') ELSE q.at END AS from_time,
                             CASE WHEN o.old THEN interval '1 day' ELSE interval '1 hour' END AS span) d
  ORDER BY q.kind, q.name, d.from_time, q.at DESC) p
WHERE (SELECT wh.sizes_are_kept());
COMMENT ON VIEW wh.schema_size_history IS
'What each schema weighed at the end of each hour of the last 48 hours, and of each day (UTC) before that; nothing of hours in which nobody measured. Kept for startup_wh.usage_history days';

-- The asker's own, as they are now; a security barrier, since what is not theirs is left out by a condition.
CREATE VIEW wh.my_relations WITH (security_barrier) AS
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS relation, k.kind,
       CASE WHEN c.relkind = 'i' THEN pg_catalog.format('%I.%I', n.nspname, t.relname) END AS index_of,
       z.table_bytes + z.index_bytes + z.toast_bytes AS bytes,
       CASE WHEN c.relkind <> 'i' AND c.reltuples >= 0 THEN c.reltuples::bigint END AS rows,
       u.last_read, u.last_written, u.days_unused,
       CASE WHEN u.unused AND w.needed_by = '{}' THEN pg_catalog.format('DROP %s %I.%I;', pg_catalog.upper(k.drops), n.nspname, c.relname) END AS "drop",
       w.needed_by, s.as_of
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN (SELECT * FROM wh.size_snapshot LIMIT 1) s
LEFT JOIN wh.relation_size z ON z.relation = c.oid
LEFT JOIN pg_catalog.pg_index x ON x.indexrelid = c.oid
LEFT JOIN pg_catalog.pg_class t ON t.oid = x.indrelid
CROSS JOIN LATERAL (SELECT CASE WHEN c.relpersistence = 't' THEN 'temporary ' ELSE '' END || d.drops AS kind, d.drops
  FROM (SELECT CASE c.relkind WHEN 'm' THEN 'materialized view' WHEN 'i' THEN 'index' ELSE 'table' END AS drops) d) k
-- A table is read where an index or a partition of it is, too.
CROSS JOIN LATERAL (
  SELECT pg_catalog.max(m.last_read) AS last_read, pg_catalog.max(m.last_written) AS last_written
  FROM (SELECT z.last_read, z.last_written
        UNION ALL
        SELECT b.last_read, b.last_written FROM wh.relation_size b WHERE b.belongs_to = c.oid AND b.belongs_to <> b.relation
        UNION ALL
        SELECT b.last_read, NULL FROM wh.relation_size p JOIN wh.relation_size b ON b.belongs_to = p.relation AND b.belongs_to <> b.relation
        WHERE c.relkind = 'p' AND p.belongs_to = c.oid AND p.belongs_to <> p.relation) m) r
CROSS JOIN LATERAL (SELECT greatest(r.last_read, z.first_seen, s.watched_since) AS since) a
CROSS JOIN LATERAL (
  SELECT r.last_read, r.last_written, extract(day FROM s.as_of - a.since)::int AS days_unused,
         coalesce(s.as_of - a.since >= wh.unused_after() AND c.relpersistence <> 't', false) AS unused) u
-- Only where there would be something to drop.
CROSS JOIN LATERAL (SELECT CASE WHEN u.unused THEN wh.needed_by(c.oid)
  || ARRAY(SELECT pg_catalog.format('job "%s"', j.name) FROM wh.job j WHERE j.relation = c.oid ORDER BY 1) ELSE '{}' END AS needed_by OFFSET 0) w
WHERE c.relkind IN ('r', 'm', 'p', 'i') AND c.relowner = (SELECT o.oid FROM pg_catalog.pg_roles o WHERE o.rolname = current_user)
  AND n.nspname <> 'pg_catalog' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_toast'
  AND (SELECT wh.sizes_are_kept());
COMMENT ON VIEW wh.my_relations IS
'The asker''s own tables, materialized views and indexes: bytes, rows as last estimated, when last read and written, whole days unused; and for what nobody has read for startup_wh.unused_after days a DROP line, unless something in needed_by stands on it';

-- Who may ---------------------------------------------------------------------------------------------------------

REVOKE ALL ON FUNCTION wh.schema_sizes_now(), wh.snapshot_usage(), wh.sizes_are_kept(), wh.unused_after(), wh.needed_by(oid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION wh.schema_sizes_now(), wh.sizes_are_kept(), wh.unused_after(), wh.needed_by(oid) TO wh_admin, wh_analyst;
GRANT EXECUTE ON FUNCTION wh.snapshot_usage() TO wh_admin;
GRANT SELECT ON wh.schema_sizes, wh.relation_sizes, wh.schema_size_history, wh.my_relations TO wh_admin, wh_analyst;
