-- The foreign tables become what the product's tables are, by the smallest changes.
CREATE EXTENSION startup_wh;
SELECT FROM product('DROP SCHEMA IF EXISTS follow CASCADE; CREATE SCHEMA follow; SET search_path = follow;
  CREATE TYPE mood AS ENUM (''sad'', ''happy'');
  CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL, mood mood, age smallint);
  CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY, user_id int REFERENCES users, total numeric(10,2));
  CREATE TABLE "Odd ""name""" ("select" int, "é" text COLLATE "C");
  CREATE TABLE nothing ();
  CREATE TABLE events (at date) PARTITION BY RANGE (at);
  CREATE TABLE events_2024 PARTITION OF events FOR VALUES FROM (''2024-01-01'') TO (''2025-01-01'');
  CREATE VIEW totals AS SELECT user_id, sum(total) FROM orders GROUP BY 1;
  INSERT INTO users VALUES (1, ''Ana'', ''happy'', 30), (2, ''Ben'', ''sad'', 40);
  INSERT INTO orders (user_id, total) VALUES (1, 9.99), (1, 0.01), (2, 5)');

SELECT * FROM wh.create_fdw('app', product_uri(), remote_schema => 'follow', except_tables => '{nothing}');
SELECT name, server, remote_schema, local_schema, only_tables, except_tables, tables FROM wh.fdws;

-- Every column as it is now, as one line a table.
CREATE VIEW shape AS
SELECT c.relname AS "table",
       string_agg(format('%I %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                         CASE WHEN a.attcollation <> 0 AND a.attcollation <> 100 THEN ' COLLATE ' || a.attcollation::regcollation END,
                         CASE WHEN a.attnotnull THEN ' NOT NULL' END), ', ' ORDER BY a.attnum) AS columns
FROM pg_foreign_table f JOIN pg_class c ON c.oid = f.ftrelid
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'app'::regnamespace GROUP BY c.oid, c.relname ORDER BY c.relname COLLATE "C";
SELECT * FROM shape;
SELECT * FROM app.users ORDER BY id;
SELECT * FROM app.totals ORDER BY user_id;

-- Where nothing differs, nothing is done.
SELECT * FROM wh.plan_recreate_fdw('app');
SELECT * FROM wh.recreate_fdw('app');

-- What people add to a foreign table stays.
CREATE ROLE wh_regress_reader;
GRANT USAGE ON SCHEMA app TO wh_regress_reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO wh_regress_reader;
GRANT SELECT ON app.users TO wh_regress_reader;
GRANT SELECT (total) ON app.orders TO wh_regress_reader;
COMMENT ON FOREIGN TABLE app.users IS 'who buys';
COMMENT ON COLUMN app.users.name IS 'as on the card';
ALTER FOREIGN TABLE app.users OPTIONS (ADD fetch_size '1000');
ALTER FOREIGN TABLE app.users ALTER COLUMN age SET DEFAULT 18;
ALTER FOREIGN TABLE app.users ALTER COLUMN mood SET STATISTICS 7;

-- Views on top of one another, whose identity must not change.
CREATE VIEW happy AS SELECT id, name FROM app.users WHERE mood = 'happy';
CREATE VIEW happy_totals AS SELECT h.name, sum(o.total) AS total FROM happy h JOIN app.orders o ON o.user_id = h.id GROUP BY 1;
CREATE TABLE before AS
  SELECT c.oid, c.relname FROM pg_class c WHERE relname IN ('happy', 'happy_totals')
  UNION ALL SELECT ftrelid, ftrelid::regclass::text FROM pg_foreign_table;

-- A migration.
SELECT FROM product('SET search_path = follow;
  ALTER TABLE users ADD COLUMN email text;
  ALTER TABLE users RENAME COLUMN name TO full_name;
  ALTER TABLE orders RENAME TO purchases;
  ALTER TABLE users ALTER COLUMN age TYPE int;
  ALTER TABLE purchases DROP COLUMN id;
  ALTER TYPE mood ADD VALUE ''calm'' BEFORE ''happy'';
  CREATE TABLE refunds (id int, amount numeric);
  DROP TABLE events');
SELECT * FROM wh.plan_recreate_fdw('app');
SELECT * FROM shape WHERE "table" IN ('users', 'orders');
SELECT * FROM wh.recreate_fdw('app');
SELECT * FROM shape;
SELECT * FROM wh.recreate_fdw('app');

-- Every view still stands, under the columns' old names where it gave them out so.
SELECT * FROM happy_totals;
SELECT attname, atttypid::regtype FROM pg_attribute WHERE attrelid = 'happy'::regclass ORDER BY attnum;
SELECT count(*) AS same_oid FROM before JOIN pg_class USING (oid);
SELECT relname AS gone FROM before WHERE oid NOT IN (SELECT oid FROM pg_class);
SELECT enum_range(NULL::app.mood);

-- So does what was added.
SELECT obj_description('app.users'::regclass, 'pg_class') AS "table",
       col_description('app.users'::regclass, 2) AS full_name,
       (SELECT ftoptions FROM pg_foreign_table WHERE ftrelid = 'app.users'::regclass) AS options,
       (SELECT attstattarget FROM pg_attribute WHERE attrelid = 'app.users'::regclass AND attname = 'mood') AS target,
       (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'app.users'::regclass) AS "default";
SELECT t, has_table_privilege('wh_regress_reader', 'app.' || t, 'SELECT') AS "table",
       has_any_column_privilege('wh_regress_reader', 'app.' || t, 'SELECT') AS "column"
FROM unnest('{users,purchases,refunds}'::text[]) t;

-- What was done is kept, run by run.
SELECT run, action, status, tables, changes, broken, healed, ended >= started AS in_order FROM wh.fdw_runs ORDER BY run;
SELECT run, n, object, kind, action FROM wh.fdw_changes WHERE run = (SELECT max(run) FROM wh.fdw_changes) ORDER BY n;

-- Everything made again on request, and every view still there.
SELECT action, count(*) > 0 AS some FROM wh.recreate_fdw('app', rebuild => true) WHERE kind = 'foreign table' GROUP BY 1;
SELECT * FROM happy_totals;
SELECT relname FROM before JOIN pg_class USING (oid, relname) ORDER BY 1;
SELECT * FROM wh.recreate_fdw('app');

-- The product restored from a dump: all of its OIDs are new, and names decide.
SELECT FROM product('SET search_path = follow; CREATE TABLE again AS TABLE users; ALTER TABLE again ALTER full_name SET NOT NULL;
  DROP TABLE users CASCADE; ALTER TABLE again RENAME TO users');
SELECT * FROM wh.recreate_fdw('app');
SELECT * FROM happy_totals;

-- A local object that has the name of a new remote table is left alone, and reported.
CREATE VIEW app.invoices AS SELECT 1 AS mine;
SELECT FROM product('CREATE TABLE follow.invoices (id int); CREATE TABLE follow.payments (id int)');
SELECT * FROM wh.recreate_fdw('app');
SELECT * FROM app.invoices;
DROP VIEW app.invoices;
SELECT object, kind, action FROM wh.recreate_fdw('app');

-- Foreign tables that were made by hand are taken on as they stand, and from then on renames are followed.
CREATE SCHEMA byhand;
IMPORT FOREIGN SCHEMA follow LIMIT TO (purchases, refunds) FROM SERVER app INTO byhand;
CREATE VIEW by_hand AS SELECT user_id, total FROM byhand.purchases;
SELECT FROM product('ALTER TABLE follow.refunds ADD COLUMN reason text');
SELECT object, kind, action FROM wh.recreate_fdw('byhand') WHERE object LIKE '%purchases%' OR object LIKE '%refunds%';
SELECT name, server, remote_schema, local_schema FROM wh.fdws ORDER BY name;
SELECT FROM product('ALTER TABLE follow.purchases RENAME COLUMN total TO net');
SELECT object, kind, action, detail FROM wh.recreate_fdw('byhand');
SELECT * FROM by_hand ORDER BY 1, 2;

-- Forgotten: the server goes with the last that uses it.
DROP VIEW by_hand, happy_totals, happy, shape;
SELECT action, count(*) > 0 AS some FROM wh.drop_fdw('byhand') GROUP BY 1;
SELECT action, count(*) > 0 AS some FROM wh.drop_fdw('app') GROUP BY 1;
SELECT count(*) AS servers FROM pg_foreign_server;
SELECT nspname FROM pg_namespace WHERE nspname IN ('app', 'byhand') ORDER BY 1;
DROP TABLE before;
DROP OWNED BY wh_regress_reader;
DROP SCHEMA IF EXISTS app, byhand;
DROP ROLE wh_regress_reader;
DROP EXTENSION startup_wh;
