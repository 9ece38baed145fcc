-- What is hidden never crosses the wire: it is not among the foreign table's columns.
CREATE EXTENSION startup_wh;
SELECT FROM product('DROP SCHEMA IF EXISTS hide CASCADE; CREATE SCHEMA hide; SET search_path = hide;
  CREATE TABLE users (id int, name text, password_hash text, "100%" int);
  CREATE TABLE sessions (token text);
  CREATE TABLE session_log (at timestamptz);
  INSERT INTO users VALUES (1, ''Ana'', ''sesame'', 100)');
SELECT object, action FROM wh.create_fdw('app', product_uri(), remote_schema => 'hide');
CREATE VIEW visible AS
SELECT c.relname AS "table", array_agg(a.attname ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind = 'f' GROUP BY 1 ORDER BY 1;
SELECT * FROM visible;

CREATE VIEW names AS SELECT id, name FROM app.users;
CREATE VIEW hashes AS SELECT id, password_hash FROM app.users;

-- Columns by pattern; a view that reads one breaks as carefully as if it had been dropped.
SELECT * FROM wh.hide('app', '%', '%password%');
SELECT * FROM visible;
SELECT * FROM names;
SELECT * FROM hashes;
SELECT view, reason, missing FROM wh.broken_views;
SELECT count(*) AS shown FROM pg_attribute WHERE attrelid = 'app.users'::regclass AND attname LIKE '%password%';

-- Tomorrow's columns are covered.
SELECT FROM product('ALTER TABLE hide.users ADD COLUMN old_password text, ADD COLUMN email text');
SELECT * FROM wh.recreate_fdw('app');
SELECT * FROM visible;
-- One that is renamed into a pattern, too.
SELECT FROM product('ALTER TABLE hide.users RENAME COLUMN email TO email_password');
SELECT * FROM wh.recreate_fdw('app');
SELECT * FROM visible;

-- Whole tables. In LIKE an underscore stands for any character, unless it is escaped.
SELECT * FROM wh.hide('app', 'session\_%');
SELECT * FROM visible;
SELECT * FROM wh.hide('app', 'session_');
SELECT * FROM visible;
SELECT * FROM wh.hide('app', 'users', '100\%');
SELECT * FROM visible;
SELECT app, table_pattern, column_pattern FROM wh.hidden ORDER BY table_pattern, column_pattern;
-- A pattern twice is a pattern.
SELECT * FROM wh.hide('app', 'session_');
SELECT count(*) FROM wh.hidden;

-- Taken back, and the next run heals the view.
SELECT wh.unhide('app', '%', '%password%');
SELECT wh.unhide('app', 'session_');
SELECT * FROM wh.recreate_fdw('app');
SELECT * FROM visible;
SELECT * FROM hashes;
SELECT count(*) AS broken FROM wh.broken_views;

-- The rest of what a made-again table would show stays hidden.
SELECT count(*) > 0 AS rebuilt FROM wh.recreate_fdw('app', rebuild => true);
SELECT * FROM visible;

DROP VIEW names, hashes, visible;
SELECT count(*) > 0 AS dropped FROM wh.drop_fdw('app');
SELECT count(*) AS hidden FROM wh.hidden;
DROP EXTENSION startup_wh;
