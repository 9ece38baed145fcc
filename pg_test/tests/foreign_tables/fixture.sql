-- Everything that people can add to a foreign table, each thing at least once. Roles fay and gus cannot log in.
CREATE EXTENSION citext;
GRANT USAGE ON SCHEMA app TO fay, gus;
GRANT USAGE ON SCHEMA ben TO PUBLIC;
-- Statistics with expressions are made again as the table's owner, who must be able to.
GRANT CREATE ON SCHEMA ben TO fay;
ALTER FOREIGN TABLE app.items OWNER TO fay;
CREATE FUNCTION public.quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN coalesce(NEW, OLD); END';
GRANT EXECUTE ON FUNCTION public.quiet() TO fay;

-- Options, and names that somebody chose here.
ALTER FOREIGN TABLE app.items OPTIONS (ADD fetch_size '77', ADD use_remote_estimate 'true');
ALTER FOREIGN TABLE app.items RENAME note TO remark;
ALTER FOREIGN TABLE app.items ALTER remark OPTIONS (ADD column_name 'note');
ALTER FOREIGN TABLE app.aliased RENAME TO chosen;

COMMENT ON FOREIGN TABLE app.items IS 'it''s for sale';
COMMENT ON COLUMN app.items.price IS 'with "tax"';
ALTER FOREIGN TABLE app.items ALTER price SET DEFAULT 9.99, ALTER remark SET DEFAULT 'none''s', ALTER made SET DEFAULT '2026-01-02 03:04+00';
-- The product has it as well: postgres_fdw reads and writes it there.
ALTER FOREIGN TABLE app.items DROP twice, ADD twice numeric GENERATED ALWAYS AS (price * 2) STORED;
ALTER FOREIGN TABLE app.items ALTER remark SET STATISTICS 55, ALTER remark SET STORAGE EXTERNAL, ALTER price SET (n_distinct = -0.5, n_distinct_inherited = 7);
ALTER FOREIGN TABLE app.items ADD CONSTRAINT positive CHECK (price > 0), ADD CONSTRAINT "not ""valid" CHECK (remark <> '') NOT VALID,
  ADD CONSTRAINT own CHECK (id > 0 AND amount < 1000) NO INHERIT;
COMMENT ON CONSTRAINT positive ON app.items IS 'always';

CREATE TRIGGER plain BEFORE INSERT ON app.items FOR EACH ROW WHEN (new.name = 'x' AND new.price > 1) EXECUTE FUNCTION quiet('an argument');
CREATE TRIGGER "Of ""columns""" AFTER UPDATE OF price, remark ON app.items FOR EACH STATEMENT EXECUTE FUNCTION quiet();
CREATE TRIGGER never AFTER DELETE ON app.items FOR EACH ROW EXECUTE FUNCTION quiet();
CREATE TRIGGER replica BEFORE UPDATE ON app.items FOR EACH ROW EXECUTE FUNCTION quiet();
CREATE TRIGGER always AFTER INSERT ON app.items FOR EACH STATEMENT EXECUTE FUNCTION quiet();
ALTER FOREIGN TABLE app.items DISABLE TRIGGER never, ENABLE REPLICA TRIGGER replica, ENABLE ALWAYS TRIGGER always;
COMMENT ON TRIGGER plain ON app.items IS 'a plain one';
ALTER TRIGGER plain ON app.items DEPENDS ON EXTENSION citext;

CREATE STATISTICS app.together (ndistinct, dependencies) ON name, price FROM app.items;
CREATE STATISTICS ben.elsewhere ON lower(name), (amount + 1) FROM app.items;
ALTER STATISTICS app.together SET STATISTICS 33;
ALTER STATISTICS ben.elsewhere OWNER TO gus;
COMMENT ON STATISTICS app.together IS 'together';

SECURITY LABEL FOR pg_test ON FOREIGN TABLE app.items IS 'secret';
SECURITY LABEL FOR pg_test ON COLUMN app.items.price IS 'top secret';

SET ROLE fay;
GRANT SELECT, INSERT ON app.items TO gus WITH GRANT OPTION;
GRANT UPDATE (price), SELECT (id) ON app.items TO ana WITH GRANT OPTION;
REVOKE TRIGGER, TRUNCATE ON app.items FROM fay;
SET ROLE gus;
GRANT SELECT ON app.items TO PUBLIC;
SET ROLE ana;
GRANT UPDATE (price) ON app.items TO ben;
RESET ROLE;
REVOKE ALL ON app.chosen FROM CURRENT_USER, ana, ben;
ANALYZE app.items;

-- Grants that would leak onto whatever is made from now on.
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO gus;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT INSERT ON TABLES TO ben;
