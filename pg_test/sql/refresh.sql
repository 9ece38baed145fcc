-- Materialized views are refreshed in order of dependency, each once, and a row says what became of each.
CREATE EXTENSION startup_wh;
CREATE SCHEMA r;
CREATE TABLE r.events (id int PRIMARY KEY, at timestamptz NOT NULL, kind text);
INSERT INTO r.events VALUES (1, '2026-01-01', 'a'), (2, '2026-01-02', 'b');
-- The names would sort the other way round, and a plain view lies between.
CREATE MATERIALIZED VIEW r.z_base AS SELECT id, at, kind FROM r.events;
CREATE UNIQUE INDEX ON r.z_base (id);
CREATE VIEW r.between AS SELECT kind, count(*) AS n FROM r.z_base GROUP BY kind;
CREATE MATERIALIZED VIEW r.m_left AS SELECT * FROM r.between;
CREATE MATERIALIZED VIEW r.k_right AS SELECT max(id) AS last FROM r.z_base WITH NO DATA;
CREATE UNIQUE INDEX ON r.k_right (last);
CREATE MATERIALIZED VIEW r.a_top AS SELECT l.kind, l.n, k.last FROM r.m_left l, r.k_right k, r.events e WHERE e.id = 1 WITH NO DATA;
CREATE MATERIALIZED VIEW "r"."Größe ""a"" %I; --" AS SELECT count(*) AS n FROM r.a_top WITH NO DATA;
-- A function with a SQL body is looked through.
CREATE FUNCTION r.n() RETURNS bigint LANGUAGE sql STABLE RETURN (SELECT count(*) FROM r.m_left);
CREATE MATERIALIZED VIEW r.by_function AS SELECT r.n() AS n;
SELECT * FROM wh.refresh_order WHERE owner = current_user;

INSERT INTO r.events VALUES (3, '2026-01-03', 'b');
SELECT view, level, status, concurrent, elapsed >= '0' AS timed, rows, bytes = pg_total_relation_size(view::regclass) AS bytes, detail
FROM wh.refresh('r."Größe ""a"" %I; --"', concurrently => 'never');
SELECT * FROM r.a_top ORDER BY kind;
SELECT * FROM r."Größe ""a"" %I; --";
SELECT view, rows FROM wh.refresh('r.by_function', concurrently => 'never');

-- Without what is upstream.
INSERT INTO r.events VALUES (4, '2026-01-04', 'c');
SELECT view, level, status, rows FROM wh.refresh('r.a_top', upstream => false, concurrently => 'never');
SELECT view, level, status, rows FROM wh.refresh('r.a_top', concurrently => 'never');

-- What CONCURRENTLY needs: a whole, valid, immediate unique index on plain columns, and a view that has been filled.
CREATE VIEW order_of AS SELECT view, concurrent, reason FROM wh.refresh_order WHERE view = 'r.index_kinds';
CREATE MATERIALIZED VIEW r.index_kinds AS SELECT id, kind FROM r.events;
CREATE INDEX ON r.index_kinds (id);
CREATE UNIQUE INDEX ON r.index_kinds ((id + 1));
CREATE UNIQUE INDEX ON r.index_kinds (id, (id + 1));
CREATE UNIQUE INDEX ON r.index_kinds (id) WHERE id > 0;
SELECT * FROM order_of;
REFRESH MATERIALIZED VIEW CONCURRENTLY r.index_kinds;
SELECT * FROM wh.refresh('r.index_kinds', concurrently => 'always');
\echo :SQLSTATE
CREATE UNIQUE INDEX ON r.index_kinds (id) INCLUDE (kind);
SELECT * FROM order_of;
SELECT view, status, concurrent, rows, detail FROM wh.refresh('r.index_kinds', concurrently => 'always');
REFRESH MATERIALIZED VIEW r.index_kinds WITH NO DATA;
SELECT * FROM order_of;
SELECT * FROM wh.refresh('r.index_kinds', concurrently => 'always');
\echo :SQLSTATE
SELECT view, status, concurrent, rows, detail FROM wh.refresh('r.index_kinds');
SELECT * FROM order_of;

-- A view that fails leaves what reads it as it was; the rest goes on, and the failure is heard.
CREATE MATERIALIZED VIEW r.fails AS SELECT id, 1 / (id - 5) AS x FROM r.events;
CREATE VIEW r.fails_too AS SELECT * FROM r.fails;
CREATE MATERIALIZED VIEW r.reads_it AS SELECT count(*) AS n FROM r.fails_too;
CREATE MATERIALIZED VIEW r.reads_both AS SELECT n FROM r.reads_it UNION ALL SELECT last FROM r.k_right;
INSERT INTO r.events VALUES (5, '2026-01-05', 'd');
SELECT view, level, status, concurrent, rows, detail FROM wh.refresh('r.reads_both', concurrently => 'never');
SELECT * FROM r.reads_it, r.k_right;
-- The target's own error is the call's, and takes back what came before it.
INSERT INTO r.events VALUES (6, '2026-01-06', 'e');
CREATE MATERIALIZED VIEW r.fails_above AS SELECT 1 / (last - 6) AS x FROM r.k_right;
SELECT * FROM wh.refresh('r.fails_above', concurrently => 'never');
\echo :SQLSTATE
SELECT * FROM r.k_right;

-- Bad input.
SELECT * FROM wh.refresh('r.between');
\echo :SQLSTATE
SELECT * FROM wh.refresh('r.events');
\echo :SQLSTATE
SELECT * FROM wh.refresh('r.nothing');
\echo :SQLSTATE
SELECT * FROM wh.refresh(1::oid);
\echo :SQLSTATE
SELECT * FROM wh.refresh(NULL);
\echo :SQLSTATE
SELECT * FROM wh.refresh('r.a_top', concurrently => 'maybe');
\echo :SQLSTATE
SELECT * FROM wh.refresh('r.a_top', concurrently => NULL);
\echo :SQLSTATE
SELECT * FROM wh.refresh('r.a_top', upstream => NULL);
\echo :SQLSTATE

-- Who may: the owner. Another's upstream view is read as it is.
CREATE ROLE wh_regress_ana;
GRANT wh_analyst TO wh_regress_ana;
GRANT USAGE ON SCHEMA r TO wh_regress_ana;
GRANT CREATE ON SCHEMA r TO wh_regress_ana;
GRANT SELECT ON r.k_right TO wh_regress_ana;
SET ROLE wh_regress_ana;
CREATE MATERIALIZED VIEW r.ana_own AS SELECT last FROM r.k_right;
CREATE MATERIALIZED VIEW r.ana_top AS SELECT * FROM r.ana_own;
SELECT view, level, status, rows, detail FROM wh.refresh('r.ana_top', concurrently => 'never');
SELECT * FROM wh.refresh('r.k_right');
\echo :SQLSTATE
SELECT count(*) FROM wh.refresh_order;
SELECT * FROM wh.change_mark('r.ana_own');
RESET ROLE;

-- What can't be watched, and why not.
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw;
CREATE FOREIGN TABLE r.far (id int) SERVER elsewhere;
CREATE FUNCTION r.any_time() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN 1; END';
CREATE FUNCTION r.always() RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 1; END';
CREATE FUNCTION r.any_add(int, int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1 + $2';
CREATE AGGREGATE r.any_sum(int) (sfunc = r.any_add, stype = int, initcond = '0');
CREATE TABLE r.guarded (id int);
ALTER TABLE r.guarded ENABLE ROW LEVEL SECURITY;
CREATE SEQUENCE r.seq;
CREATE FUNCTION watched(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text;
BEGIN
  EXECUTE 'CREATE MATERIALIZED VIEW r.asked AS ' || query || ' WITH NO DATA';
  SELECT coalesce(why_not, CASE WHEN length(mark) = 64 THEN 'watched' END) INTO answer FROM wh.change_mark('r.asked');
  DROP MATERIALIZED VIEW r.asked;
  RETURN answer;
END $$;
CREATE VIEW r.recent AS SELECT * FROM r.events WHERE at > now() - interval '1 day';
SELECT query, watched(query) FROM (VALUES
  ('SELECT * FROM r.events'),
  ('SELECT at::date AS day, date_trunc(''month'', at) AS m, to_char(at, ''HH24'') AS h, count(*) FROM r.events GROUP BY 1, 2, 3'),
  ('SELECT at::text || '' '' || id AS t, to_jsonb(e) AS j FROM r.events e'),
  ('SELECT jsonb_agg(e) AS j, string_agg(kind, '','') AS s, concat(min(at), 1) AS c FROM r.events e'),
  ('SELECT at + interval ''1 day'' AS t FROM r.events WHERE at > date ''2026-01-01'''),
  ('SELECT r.always() AS n'),
  ('SELECT * FROM r.a_top'),
  ('SELECT now() AS t'),
  ('SELECT current_date AS d'),
  ('SELECT current_user::text AS u'),
  ('SELECT id FROM r.events WHERE at > clock_timestamp() - interval ''1 day'''),
  ('SELECT id FROM (SELECT id FROM r.events WHERE EXISTS (SELECT FROM r.events e WHERE e.at < now())) s'),
  ('WITH w AS (SELECT random() AS x) SELECT x FROM w'),
  ('SELECT age(at) AS a FROM r.events'),
  ('SELECT kind::date AS d FROM r.events'),
  ('SELECT kind::timestamptz AS t FROM r.events'),
  ('SELECT id FROM r.events ORDER BY random()'),
  ('SELECT id, row_number() OVER (ORDER BY now()) AS n FROM r.events'),
  ('SELECT g FROM generate_series(now(), now(), ''1 day'') g'),
  ('SELECT l.x FROM r.events e, LATERAL (SELECT e.at < now() AS x) l'),
  ('SELECT * FROM r.recent'),
  ('SELECT r.any_time() AS n'),
  ('SELECT r.any_sum(id) AS n FROM r.events'),
  ('SELECT * FROM r.far'),
  ('SELECT * FROM r.guarded'),
  ('SELECT last_value FROM r.seq'),
  ('SELECT relname::text FROM pg_class'),
  ('SELECT id FROM r.events WHERE kind IN (SELECT rolname FROM pg_roles)'),
  ('SELECT pid FROM pg_stat_activity')) q(query);
SET track_counts = off;
SELECT watched('SELECT * FROM r.events');
RESET track_counts;
SELECT * FROM wh.change_mark('r.events');
\echo :SQLSTATE

SET client_min_messages = warning;
DROP FUNCTION watched(text);
DROP VIEW order_of;
DROP SCHEMA r CASCADE;
DROP OWNED BY wh_regress_ana;
DROP ROLE wh_regress_ana;
DROP SERVER elsewhere;
DROP EXTENSION startup_wh;
