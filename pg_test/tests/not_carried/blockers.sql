-- What blocks DROP VIEW, and what CASCADE would take with it.
SET ROLE ana;
CREATE VIEW ana.people AS SELECT id, email FROM app.users;
CREATE FUNCTION ana.greet(p ana.people) RETURNS text LANGUAGE sql AS $$ SELECT 'hello ' || p.email $$;
CREATE FUNCTION ana.everybody() RETURNS SETOF ana.people LANGUAGE sql AS 'SELECT * FROM ana.people';
CREATE VIEW ana.boxed AS SELECT id, email FROM app.users;
CREATE TABLE ana.box (n int, one ana.boxed, many ana.boxed[]);
INSERT INTO ana.box VALUES (1, (1, 'kept'), ARRAY[(2, 'too')::ana.boxed]);
CREATE VIEW ana.allowed AS SELECT id FROM app.users WHERE id < 3;
CREATE TABLE ana.guarded (id int);
INSERT INTO ana.guarded VALUES (1), (9);
ALTER TABLE ana.guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY by_view ON ana.guarded USING (id IN (SELECT a.id FROM ana.allowed a));
RESET ROLE;
