-- Everything that can hang on a view or materialized view, each thing at least once. Roles cora and dan cannot log in;
-- tablespace fast exists.
CREATE EXTENSION citext;
CREATE ACCESS METHOD heap_too TYPE TABLE HANDLER heap_tableam_handler;
CREATE SCHEMA lab;
GRANT USAGE ON SCHEMA lab, ana, app TO PUBLIC;
GRANT SELECT ON ALL TABLES IN SCHEMA app TO cora, dan;
GRANT USAGE, CREATE ON SCHEMA lab TO cora;
CREATE FUNCTION public.quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';

SET ROLE ana;
-- Literals whose text depends on the session's settings, made under strange ones and read back under others.
SET IntervalStyle = sql_standard;
SET DateStyle = 'German';
SET TimeZone = 'Asia/Kathmandu';
CREATE VIEW ana.literals AS
  SELECT id, email, '1 year -2 days +3:04:05'::interval AS mixed, '-1:30'::interval AS minus, '13.12.2025 04:05:06'::timestamptz AS at,
         '13.12.2025'::date AS day, 0.1::float8 + 0.2 AS float, '\x00ff'::bytea AS bytes, ARRAY['a"b', NULL] AS texts, E'back\\slash' AS slash
  FROM app.users WHERE seen > '01.01.2026 00:00'::timestamptz AND age > '-3 4:05'::interval;
RESET IntervalStyle; RESET DateStyle; RESET TimeZone;

-- The view that has everything.
CREATE VIEW ana.rich WITH (security_barrier, security_invoker = true, check_option = cascaded) AS
  SELECT id, user_id, note, total FROM app.orders WHERE id > 0 AND weight < 50;
COMMENT ON VIEW ana.rich IS 'it''s rich';
COMMENT ON COLUMN ana.rich.note IS 'a "note"';
ALTER VIEW ana.rich ALTER note SET DEFAULT 'none''s', ALTER total SET DEFAULT 1.5;
-- Postgres has no way to switch triggers and rules of a view off; those of foreign tables have a test of their own.
CREATE TRIGGER on_insert INSTEAD OF INSERT ON ana.rich FOR EACH ROW EXECUTE FUNCTION quiet('an argument');
CREATE TRIGGER on_update INSTEAD OF UPDATE ON ana.rich FOR EACH ROW EXECUTE FUNCTION quiet();
CREATE TRIGGER on_delete INSTEAD OF DELETE ON ana.rich FOR EACH ROW EXECUTE FUNCTION quiet();
CREATE TRIGGER "Quoted, ""twice""" INSTEAD OF INSERT OR UPDATE ON ana.rich FOR EACH ROW EXECUTE FUNCTION quiet();
COMMENT ON TRIGGER on_delete ON ana.rich IS 'never';
CREATE TABLE ana.log (what text, n bigint);
CREATE RULE reads AS ON UPDATE TO ana.rich DO ALSO INSERT INTO ana.log SELECT 'u', count(*) FROM app.orders o WHERE o.id = new.id AND o.weight > 0;
CREATE RULE off AS ON DELETE TO ana.rich DO INSTEAD NOTHING;
COMMENT ON RULE reads ON ana.rich IS 'reads the table';
GRANT SELECT, INSERT ON ana.rich TO ben WITH GRANT OPTION;
GRANT UPDATE (note), SELECT (id) ON ana.rich TO cora WITH GRANT OPTION;
GRANT REFERENCES ON ana.rich TO PUBLIC;
REVOKE TRUNCATE, TRIGGER ON ana.rich FROM ana;

-- NULL, default and emptied ACLs are three things.
CREATE VIEW ana.acl_null AS SELECT id FROM app.orders;
CREATE VIEW ana.acl_default AS SELECT id FROM app.orders;
GRANT SELECT ON ana.acl_default TO ben;
REVOKE SELECT ON ana.acl_default FROM ben;
CREATE VIEW ana.acl_revoked AS SELECT id FROM app.orders;
REVOKE ALL ON ana.acl_revoked FROM ana;

-- The materialized view that has everything.
CREATE MATERIALIZED VIEW ana.rich_mat USING heap_too
  WITH (fillfactor = 70, autovacuum_enabled = false, toast.autovacuum_enabled = false, toast.vacuum_index_cleanup = off)
  TABLESPACE fast AS SELECT id, note, total, status, repeat(note, 1) AS long FROM app.orders WHERE weight < 50;
COMMENT ON MATERIALIZED VIEW ana.rich_mat IS 'kept';
COMMENT ON COLUMN ana.rich_mat.total IS 'all of it';
CREATE UNIQUE INDEX rich_mat_key ON ana.rich_mat (id) INCLUDE (total) WITH (fillfactor = 60) TABLESPACE fast;
CREATE INDEX "Odd ""index""" ON ana.rich_mat (lower(note) COLLATE "C" DESC NULLS LAST, (total * 2)) WHERE total > 0;
CREATE INDEX rich_mat_hash ON ana.rich_mat USING hash (note);
ALTER INDEX ana."Odd ""index""" ALTER COLUMN 1 SET STATISTICS 77;
COMMENT ON INDEX ana.rich_mat_key IS 'the key';
ALTER MATERIALIZED VIEW ana.rich_mat CLUSTER ON rich_mat_key;
ALTER MATERIALIZED VIEW ana.rich_mat ALTER note SET STATISTICS 55, ALTER note SET (n_distinct = -0.5), ALTER total SET (n_distinct = 9);
ALTER MATERIALIZED VIEW ana.rich_mat ALTER long SET STORAGE EXTERNAL, ALTER note SET COMPRESSION pglz;
CREATE STATISTICS ana.rich_mat_stat (ndistinct, dependencies) ON note, status FROM ana.rich_mat;
CREATE STATISTICS ana.rich_mat_expr ON lower(note), (total + 1) FROM ana.rich_mat;
ALTER STATISTICS ana.rich_mat_stat SET STATISTICS 33;
COMMENT ON STATISTICS ana.rich_mat_stat IS 'together';
ALTER STATISTICS ana.rich_mat_expr SET STATISTICS 44;
COMMENT ON STATISTICS ana.rich_mat_expr IS 'soon another''s';
GRANT SELECT ON ana.rich_mat TO ben WITH GRANT OPTION;
GRANT SELECT (note) ON ana.rich_mat TO cora;
CREATE MATERIALIZED VIEW ana.replicated AS SELECT id, email FROM app.users;
CREATE UNIQUE INDEX replicated_key ON ana.replicated (id);
CREATE MATERIALIZED VIEW ana.empty AS SELECT id, note FROM app.orders WITH NO DATA;
CREATE INDEX empty_id ON ana.empty (id);
RESET ROLE;
ALTER TABLE ana.replicated REPLICA IDENTITY NOTHING;
ALTER MATERIALIZED VIEW ana.rich_mat DEPENDS ON EXTENSION citext;
ALTER INDEX ana.rich_mat_hash DEPENDS ON EXTENSION citext;
ALTER TRIGGER on_insert ON ana.rich DEPENDS ON EXTENSION citext;
CREATE STATISTICS lab.elsewhere ON id, total FROM ana.rich_mat;
ALTER STATISTICS ana.rich_mat_expr OWNER TO dan;

SECURITY LABEL FOR pg_test ON VIEW ana.rich IS 'secret';
SECURITY LABEL FOR pg_test ON COLUMN ana.rich.note IS 'it''s "top" secret';
SECURITY LABEL FOR pg_test ON MATERIALIZED VIEW ana.rich_mat IS 'kept secret';
SECURITY LABEL FOR pg_test ON COLUMN ana.rich_mat.total IS 'public';

-- Chains of grants.
SET ROLE ben;
GRANT SELECT ON ana.rich TO cora WITH GRANT OPTION;
GRANT SELECT ON ana.rich_mat TO PUBLIC;
SET ROLE cora;
GRANT SELECT ON ana.rich TO dan;
GRANT UPDATE (note) ON ana.rich TO dan;
-- An owner who may not make anything any more where the view is.
CREATE VIEW lab.stranded AS SELECT id, email FROM app.users;
CREATE MATERIALIZED VIEW lab.stranded_mat AS SELECT id, name FROM app.users;
CREATE INDEX stranded_index ON lab.stranded_mat (upper(name));
RESET ROLE;
GRANT SELECT ON lab.stranded TO ana;
REVOKE ALL ON SCHEMA lab FROM cora, PUBLIC;

SET ROLE ana;
-- Shapes of queries.
CREATE VIEW ana.star AS SELECT * FROM app.users;
CREATE VIEW ana.whole AS SELECT u FROM app.users u;
CREATE VIEW ana.fields AS SELECT (u).id, (u).email FROM ana.whole;
CREATE RECURSIVE VIEW ana.tree (id, depth, path) AS
  SELECT id, 1, ARRAY[id] FROM app.users WHERE boss IS NULL
  UNION ALL SELECT u.id, t.depth + 1, t.path || u.id FROM app.users u JOIN tree t ON u.boss = t.id;
CREATE VIEW ana.latest AS SELECT DISTINCT ON (user_id) user_id, id, at FROM app.orders ORDER BY user_id, at DESC NULLS LAST, id LIMIT 10 OFFSET 1;
CREATE VIEW ana.windows AS
  SELECT id, sum(total) OVER w AS running, rank() OVER (w ROWS BETWEEN 1 PRECEDING AND CURRENT ROW EXCLUDE TIES) AS place
  FROM app.orders WINDOW w AS (PARTITION BY user_id ORDER BY id);
CREATE VIEW ana.joined AS SELECT id, email, total FROM app.users FULL JOIN app.orders USING (id) AS j;
CREATE VIEW ana.sets AS SELECT user_id, status, count(*), grouping(user_id, status) FROM app.orders GROUP BY GROUPING SETS ((user_id, status), (user_id), ());
CREATE VIEW ana.lateral AS
  SELECT u.id, l.last FROM app.users u LEFT JOIN LATERAL (SELECT max(o.id) AS last FROM app.orders o WHERE o.user_id = u.id) l ON true;
CREATE VIEW ana.sample AS SELECT id FROM ana.rich_mat TABLESAMPLE system (100) REPEATABLE (7);
CREATE VIEW ana.ctes AS WITH a AS MATERIALIZED (SELECT id FROM app.users), b(n) AS NOT MATERIALIZED (SELECT id FROM app.orders)
  SELECT id FROM a UNION SELECT n FROM b EXCEPT ALL VALUES (1) ORDER BY 1 DESC FETCH FIRST 3 ROWS WITH TIES;
CREATE VIEW ana."Odd ""name""; --" AS SELECT id AS "select", email AS "é "" x" FROM app.users AS "table";
CREATE VIEW ana.functions AS SELECT f.ordinality AS n, f.a, f.b FROM ROWS FROM (unnest(ARRAY(SELECT id FROM app.users)), generate_series(1, 2)) WITH ORDINALITY f(a, b);
CREATE VIEW ana.expressions AS
  SELECT CASE id WHEN 1 THEN 'one' ELSE email END AS e, id IN (1, 2, NULL) AS i, id = ANY (ARRAY[3, 4]) AS a, coalesce(name, 'x') AS c,
         EXISTS (SELECT FROM app.orders o WHERE o.user_id = u.id AND o.status = 'paid') AS p, row(id, email)::text AS r, extract(year FROM born) AS y,
         email COLLATE "C" AS coll, id IS DISTINCT FROM 2 AS d, array_agg(name) FILTER (WHERE id > 1) OVER () AS agg, email ~~ 'a%' AS l,
         percentile_cont(0.5) WITHIN GROUP (ORDER BY id) AS median
  FROM app.users u GROUP BY id, email, name, born;

-- Levels, and cycles through rules.
CREATE VIEW ana.level1 AS SELECT id, email FROM app.users;
GRANT SELECT ON ana.level1 TO ben;
SET ROLE ben;
CREATE VIEW ben.level2 AS SELECT * FROM ana.level1;
GRANT SELECT ON ben.level2 TO ana; GRANT USAGE ON SCHEMA ben TO ana;
SET ROLE ana;
CREATE MATERIALIZED VIEW ana.level3 AS SELECT id, count(*) FROM ben.level2 GROUP BY id;
CREATE UNIQUE INDEX level3_key ON ana.level3 (id);
GRANT SELECT ON ana.level3 TO ben;
SET ROLE ben;
CREATE VIEW ben.level4 AS SELECT id FROM ana.level3;
SET ROLE ana;
CREATE VIEW ana.round AS SELECT id FROM app.users;
CREATE VIEW ana.about AS SELECT id FROM ana.round;
CREATE RULE turn AS ON INSERT TO ana.round DO INSTEAD INSERT INTO ana.log SELECT 'r', a.id FROM ana.about a WHERE a.id = new.id;

-- SQL bodies.
CREATE FUNCTION ana.how_many(above int DEFAULT 3) RETURNS bigint STABLE SECURITY DEFINER SET work_mem = '4MB'
  BEGIN ATOMIC SELECT count(*) FROM app.users u WHERE u.id > above AND u.id IN (SELECT o.weight FROM app.orders o); END;
CREATE FUNCTION ana.notes(OUT n bigint, OUT last text) BEGIN ATOMIC SELECT count(*), max(r.note) FROM ana.rich_mat r WHERE r.id > 0; END;
COMMENT ON FUNCTION ana.how_many IS 'many';
REVOKE ALL ON FUNCTION ana.how_many FROM PUBLIC;
CREATE PROCEDURE ana.prune() BEGIN ATOMIC DELETE FROM ana.log WHERE n IN (SELECT l.id FROM ana.level1 l); END;
RESET ROLE;

-- Grants that would leak onto whatever is made from now on, and a publication of what stands on it all.
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO dan;
ALTER DEFAULT PRIVILEGES IN SCHEMA ana GRANT INSERT ON TABLES TO PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE ana IN SCHEMA ana GRANT TRIGGER ON TABLES TO ben WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE ana REVOKE SELECT ON TABLES FROM ana;
ALTER DEFAULT PRIVILEGES FOR ROLE cora GRANT SELECT ON TABLES TO ben;
CREATE PUBLICATION pub FOR TABLES IN SCHEMA ana, TABLE ONLY ana.log;
