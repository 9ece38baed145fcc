-- Whatever is asked for wrongly is refused with the reason and what would help, and nothing is changed.
CREATE EXTENSION startup_wh;
SELECT FROM product('DROP SCHEMA IF EXISTS bad_input CASCADE; CREATE SCHEMA bad_input;
  CREATE TABLE bad_input.users (id int, name text)');
-- A table of somebody else's, which the product's user may not read.
\c wh_regress_product
CREATE TABLE bad_input.salaries (id int);
\c wh_regress

-- Where the message varies with the server and its port, only its kind is shown. The password stands nowhere in it.
CREATE FUNCTION refusal(command text) RETURNS TABLE (code text, password_shown boolean) LANGUAGE plpgsql AS $$
DECLARE
  message text;
  detail text;
  hint text;
BEGIN
  EXECUTE command;
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
    hint = PG_EXCEPTION_HINT;
  password_shown := message || detail || hint LIKE '%sesame%';
  RETURN NEXT;
END $$;

-- How the product is reached.
SELECT * FROM wh.create_fdw('app');
\echo :SQLSTATE
SELECT * FROM wh.create_fdw('app', 'postgresql://reader@localhost/shop', server => 'shop');
\echo :SQLSTATE
SELECT * FROM wh.create_fdw('app', 'mysql://reader:sesame@localhost/shop');
\echo :SQLSTATE
SELECT * FROM wh.create_fdw('app', 'reader:sesame@localhost');
\echo :SQLSTATE
SELECT * FROM wh.create_fdw('app', 'postgresql://reader:sesame@localhost:99999/shop');
\echo :SQLSTATE
SELECT * FROM wh.create_fdw('app', 'postgresql://localhost/shop?password=sesame');
\echo :SQLSTATE
SELECT * FROM wh.create_fdw('app', 'postgresql://reader:sesame%zz@localhost/shop');
\echo :SQLSTATE
-- No such option; nobody listens there; nobody has that password; no such database.
SELECT * FROM refusal($$SELECT FROM wh.create_fdw('app', 'postgresql://reader:sesame@localhost/shop?no_such_option=1')$$);
SELECT * FROM refusal($$SELECT FROM wh.create_fdw('app', 'postgresql://reader:sesame@127.0.0.1:1/shop')$$);
SELECT * FROM refusal(format('SELECT FROM wh.create_fdw(%L, %L)', 'app', regexp_replace(product_uri(), ':[^:@]*@', ':sesame@')));
SELECT * FROM refusal(format('SELECT FROM wh.create_fdw(%L, %L)', 'app', product_uri() || '_nowhere'));

-- Servers that don't exist, or whose wrapper can't import.
SELECT * FROM wh.create_fdw('app', server => 'nowhere');
\echo :SQLSTATE
CREATE FOREIGN DATA WRAPPER idle;
CREATE SERVER idle FOREIGN DATA WRAPPER idle;
SELECT * FROM wh.create_fdw('app', server => 'idle');
\echo :SQLSTATE

-- What is imported.
SELECT * FROM wh.create_fdw('app', product_uri(), remote_schema => 'nowhere');
\echo :SQLSTATE
SELECT * FROM wh.create_fdw('app', product_uri(), remote_schema => 'bad_input', only_tables => '{users,orders,Users,salaries}');
\echo :SQLSTATE
SELECT * FROM wh.create_fdw('app', product_uri(), remote_schema => 'bad_input', only_tables => '{}');
\echo :SQLSTATE

-- Names.
SELECT * FROM wh.create_fdw(NULL, product_uri());
\echo :SQLSTATE
SELECT * FROM wh.create_fdw('', product_uri());
\echo :SQLSTATE
SELECT * FROM wh.create_fdw(repeat('x', 64), product_uri());
\echo :SQLSTATE
SELECT * FROM wh.create_fdw('app', product_uri(), remote_schema => NULL);
\echo :SQLSTATE
SELECT * FROM wh.create_fdw('app', product_uri(), local_schema => 'pg_app');
\echo :SQLSTATE
SELECT * FROM wh.create_fdw('app', product_uri(), local_schema => 'wh');
\echo :SQLSTATE

-- None of these left anything behind.
SELECT (SELECT count(*) FROM wh.fdws) AS fdws,
       (SELECT count(*) FROM pg_foreign_server WHERE srvname <> 'idle') AS servers,
       (SELECT count(*) FROM pg_user_mappings) AS mappings,
       (SELECT count(*) FROM pg_namespace WHERE nspname IN ('app', 'pg_app')) AS schemas,
       (SELECT count(*) FROM wh.fdw_changes) AS changes;
-- Each that got as far as a run is recorded, without the password.
SELECT DISTINCT fdw, action, status, sqlstate, error LIKE '%sesame%' AS password_shown FROM wh.fdw_runs ORDER BY sqlstate;

-- A table that may not be read is reported, and the rest imported.
SELECT * FROM wh.create_fdw('app', product_uri(), remote_schema => 'bad_input');

-- What is there already.
SELECT * FROM wh.create_fdw('app', product_uri());
\echo :SQLSTATE
SELECT * FROM wh.create_fdw('other', product_uri(), local_schema => 'app');
\echo :SQLSTATE
CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw;
SELECT * FROM wh.create_fdw('other', product_uri());
\echo :SQLSTATE

-- Names that are not registered.
SELECT * FROM wh.recreate_fdw('nothing');
\echo :SQLSTATE
SELECT * FROM wh.plan_recreate_fdw('nothing');
\echo :SQLSTATE
SELECT * FROM wh.drop_fdw('nothing');
\echo :SQLSTATE
SELECT * FROM wh.hide('nothing', '%');
\echo :SQLSTATE
SELECT wh.unhide('nothing', '%');
\echo :SQLSTATE
SELECT * FROM wh.repair_views('nothing');
\echo :SQLSTATE

-- Arguments of a run.
SELECT * FROM wh.recreate_fdw(NULL);
\echo :SQLSTATE
SELECT * FROM wh.recreate_fdw('app', on_broken => 'drop');
\echo :SQLSTATE
SELECT * FROM wh.recreate_fdw('app', types => 'cast');
\echo :SQLSTATE
SELECT * FROM wh.recreate_fdw('app', rebuild => NULL);
\echo :SQLSTATE
SELECT * FROM wh.recreate_fdw('app', lock_timeout => '-1s');
\echo :SQLSTATE
SELECT * FROM wh.recreate_fdw('app', max_wait => '-1s');
\echo :SQLSTATE
SELECT wh.unhide('app', 'never_hidden');
\echo :SQLSTATE

-- A transaction that would see an old state.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM wh.recreate_fdw('app');
\echo :SQLSTATE
ROLLBACK;
BEGIN;
SELECT count(*) FROM app.users;
SELECT * FROM wh.recreate_fdw('app');
\echo :SQLSTATE
ROLLBACK;

-- Tables that something stands on.
CREATE VIEW names AS SELECT name FROM app.users;
SELECT * FROM wh.drop_fdw('app');
\echo :SQLSTATE
DROP VIEW names;

-- One ALTER statement, about the relation that was named.
CREATE TABLE t (a int);
SELECT * FROM wh.alter_with_dependents('t', 'DROP TABLE t');
\echo :SQLSTATE
SELECT * FROM wh.alter_with_dependents('t', 'ALTER TABLE t ALTER a TYPE bigint; DROP TABLE t');
\echo :SQLSTATE
SELECT * FROM wh.alter_with_dependents('t', 'ALTER TABLE');
\echo :SQLSTATE
SELECT * FROM wh.alter_with_dependents('pg_class', 'ALTER TABLE t ALTER a TYPE bigint');
\echo :SQLSTATE
SELECT pg_typeof(a) FROM t RIGHT JOIN (VALUES (1)) one ON true;
DROP TABLE t;

-- Whoever is neither wh_admin nor wh_analyst may do nothing here.
CREATE ROLE wh_regress_stranger;
SET ROLE wh_regress_stranger;
SELECT * FROM wh.recreate_fdw('app');
\echo :SQLSTATE
RESET ROLE;
GRANT wh_analyst TO wh_regress_stranger;
SET ROLE wh_regress_stranger;
SELECT * FROM wh.recreate_fdw('app');
\echo :SQLSTATE
SELECT name FROM wh.fdws;
SELECT * FROM wh.fdw;
\echo :SQLSTATE
RESET ROLE;
DROP ROLE wh_regress_stranger;

SELECT * FROM wh.drop_fdw('app');
DROP SERVER other;
DROP FOREIGN DATA WRAPPER idle CASCADE;
DROP FUNCTION refusal(text);
DROP EXTENSION startup_wh;
\c wh_regress_product
DROP TABLE bad_input.salaries;
