-- A query is saved, run, and its result read again, whatever has changed since.
CREATE EXTENSION startup_wh;
CREATE SCHEMA q;
CREATE TABLE q.signups (day date, plan text, n int);
INSERT INTO q.signups VALUES ('2026-01-01', 'free', 10), ('2026-01-01', 'pro', 2), ('2026-01-02', 'free', 7), ('2026-01-03', 'pro', 5);
SET search_path = q, public;

-- What is no query.
SELECT wh.save_query('signups', 'DELETE FROM signups');
SELECT wh.save_query('signups', 'SELECT 1; SELECT 2');
SELECT wh.save_query('signups', '');
SELECT wh.save_query('signups', 'SELECT 1 INTO x');
SELECT wh.save_query('signups', 'WITH d AS (DELETE FROM signups RETURNING n) SELECT * FROM d');
SELECT wh.save_query('signups', 'SELECT n FROM signups FOR UPDATE');
SELECT wh.save_query('signups', 'SELECT nothing FROM signups');
SELECT wh.save_query('signups', 'SELECT $1');
SELECT wh.save_query('Sign ups', 'SELECT 1');
SELECT wh.save_query(NULL, 'SELECT 1');
-- What is wrong with parameters.
SELECT wh.save_query('signups', 'SELECT n FROM signups WHERE day >= :since AND plan = :plan', params => '{"since": "date"}');
SELECT wh.save_query('signups', 'SELECT 1', params => '{"since": "date"}');
SELECT wh.save_query('signups', 'SELECT :since', params => '{"since": {"type": "date", "defualt": 1}}');
SELECT wh.save_query('signups', 'SELECT :since', params => '{"since": "signups"}');
SELECT wh.save_query('signups', 'SELECT :since', params => '{"since": "no_type"}');
SELECT wh.save_query('signups', 'SELECT :since', params => '{"since": {"type": "date", "default": "x"}}');
SELECT * FROM wh.queries;

SELECT wh.save_query('signups', $$
  SELECT day, sum(n) AS n
  FROM signups
  WHERE day >= :since AND (plan = :plan OR :plan IS NULL)
  GROUP BY day ORDER BY day
$$, 'Signups by day', params => '{"since": {"type": "date", "default": "2026-01-02"}, "plan": {"type": "text", "default": null, "description": "all without"}}');
SELECT slug, title, description, owner = current_user AS mine, version, params, shared_with, last_result, link FROM wh.queries;
SELECT result, link, rows, bytes > 0 AS bytes, elapsed > '0' AS elapsed, read FROM wh.run_query('signups');
SELECT result FROM wh.run_query('signups', '{"since": "2026-01-01", "plan": "free"}');
SELECT id, query, version, runner = current_user AS mine, login = session_user AS login, params, rows, relation, job, columns FROM wh.results;
SELECT * FROM wh.result(1);
SELECT read FROM wh.results WHERE id = 2 \gexec
SELECT * FROM wh.result_diff(1, 2);
SELECT * FROM wh.result_diff(1, 2, '{day}');

-- Whatever has changed since.
UPDATE q.signups SET n = 0;
DROP TABLE q.signups;
SELECT * FROM wh.result(1);
SELECT result FROM wh.run_query('signups');
SELECT id FROM wh.results;

-- Versions: the same again is none.
CREATE TABLE q.signups (day date, n int);
SELECT wh.save_query('signups', $$
  SELECT day, sum(n) AS n
  FROM signups
  WHERE day >= :since
  GROUP BY day ORDER BY day
$$);
SELECT wh.save_query('signups', sql, description => 'All plans') FROM wh.queries;
SELECT wh.save_query('signups', sql) FROM wh.queries;
SELECT version, title, description, params, search_path, changes FROM wh.query_versions('signups');

-- Links.
SET startup_wh.link_base = 'https://warehouse.example.com/q/';
SELECT wh.link('signups'), wh.link(2), (SELECT link FROM wh.queries) AS of_query, (SELECT max(link) FROM wh.results) AS of_result;
SELECT wh.link('nothing');
SELECT wh.link(99);

-- A larger result is a table.
SET startup_wh.result_inline_size = 0;
INSERT INTO q.signups SELECT '2026-02-01'::date + i, i FROM generate_series(0, 2) i;
SELECT result, rows, read FROM wh.run_query('signups');
SELECT relation FROM wh.results WHERE id = (SELECT max(id) FROM wh.results) \gset
SELECT * FROM :relation ORDER BY day;
SELECT * FROM wh.result((SELECT max(id) FROM wh.results));
SELECT pg_catalog.pg_get_userbyid(relowner) FROM pg_catalog.pg_class WHERE oid = :'relation'::regclass;
EXPLAIN (COSTS OFF) SELECT * FROM :relation;

-- Shares.
CREATE ROLE wh_regress_reader;
SELECT wh.share_query('signups', 'wh_regress_reader'), wh.share_query('signups', 'wh_regress_reader');
SELECT shared_with FROM wh.queries;
SELECT wh.share_query('signups', 'wh_regress_nobody');
SELECT wh.unshare_query('signups', 'wh_regress_reader'), wh.unshare_query('signups', 'wh_regress_reader');
DROP ROLE wh_regress_reader;

-- It goes; its results stay until they expire.
SELECT wh.drop_query('signups');
SELECT wh.run_query('signups');
SELECT count(*) FROM wh.results;
SELECT result, query, reason FROM wh.expire_results(2);
SELECT result FROM wh.expire_results();
SELECT id FROM wh.results ORDER BY id;
-- The extension does not take results with it unasked.
DROP EXTENSION startup_wh;
\set VERBOSITY terse
DROP EXTENSION startup_wh CASCADE;
DROP SCHEMA q CASCADE;
