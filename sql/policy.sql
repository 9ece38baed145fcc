-- The policy of sensitive data: what must not reach analysts.

-- What is kept ----------------------------------------------------------------------------------------------------

CREATE TABLE wh.sensitive_pattern (
  pattern text PRIMARY KEY CHECK (pattern <> ''),
  reason text NOT NULL CHECK (reason <> ''),
  created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  created_by name NOT NULL DEFAULT session_user
);
COMMENT ON TABLE wh.sensitive_pattern IS 'What must not reach analysts; read it as wh.sensitive_columns';

-- Names alone: what was never stored can be told of in no other way.
CREATE TABLE wh.withheld_column (
  fdw text REFERENCES wh.fdw ON DELETE CASCADE,
  source text REFERENCES wh.source ON DELETE CASCADE ON UPDATE CASCADE,
  schema text NOT NULL,
  "table" text NOT NULL,
  "column" text NOT NULL,
  -- Of a product's: its own names. The others are those by which a pattern matches it.
  remote_table text,
  remote_column text,
  since timestamptz NOT NULL DEFAULT pg_catalog.now(),
  UNIQUE NULLS NOT DISTINCT (fdw, source, schema, "table", "column", remote_table, remote_column),
  CHECK ((fdw IS NULL) <> (source IS NULL))
);
COMMENT ON TABLE wh.withheld_column IS 'Columns of products and members of sources that the policy has kept out; read it as wh.sensitive_columns';

CREATE TABLE wh.column_mask (
  fdw text NOT NULL REFERENCES wh.fdw ON DELETE CASCADE,
  -- The product's names.
  table_name text NOT NULL,
  column_name text NOT NULL,
  mask text NOT NULL CHECK (mask IN ('hidden', 'null', 'hashed', 'first', 'year')),
  characters int CHECK (characters > 0),
  created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  created_by name NOT NULL DEFAULT session_user,
  PRIMARY KEY (fdw, table_name, column_name),
  CHECK ((mask = 'first') = (characters IS NOT NULL))
);
COMMENT ON TABLE wh.column_mask IS 'Masks of columns; read it as wh.masked';

CREATE TABLE wh.masked_table (
  fdw text NOT NULL REFERENCES wh.fdw ON DELETE CASCADE,
  relation regclass PRIMARY KEY,
  view regclass NOT NULL,
  -- The columns of the view, each with its mask.
  shown jsonb NOT NULL
);
COMMENT ON TABLE wh.masked_table IS 'Foreign tables that a view stands in place of, and what it shows';
CREATE INDEX ON wh.masked_table (fdw);

-- Made from the secret mask_key, and not marked for pg_dump, as secrets are not. The views read it as their owner.
CREATE TABLE wh.mask_key (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  inner_pad bytea NOT NULL,
  outer_pad bytea NOT NULL
);
COMMENT ON TABLE wh.mask_key IS 'The key of hashed columns, as HMAC-SHA-256 uses it. Nobody is granted it';

SELECT pg_catalog.pg_extension_config_dump('wh.column_mask', '');
SELECT pg_catalog.pg_extension_config_dump('wh.masked_table', '');
SELECT pg_catalog.pg_extension_config_dump('wh.sensitive_pattern', '');
SELECT pg_catalog.pg_extension_config_dump('wh.withheld_column', 'WHERE source IS NULL OR source IN (SELECT name FROM wh.source WHERE owner::pg_catalog.oid IN (SELECT oid FROM pg_catalog.pg_roles))');

-- What one sees ---------------------------------------------------------------------------------------------------

CREATE VIEW wh.proposed_sensitive AS
SELECT p.pattern, p.reason, EXISTS (SELECT FROM wh.sensitive_pattern s WHERE s.pattern = p.pattern) AS applied
FROM (VALUES
  ('%.%.%password%', 'password'), ('%.%.%passwd%', 'password'), ('%.%.%passphrase%', 'password'), ('%.%.pwd', 'password'),
  ('%.%.%\_pwd', 'password'), ('%.%.salt', 'password'),
  ('%.%.%token%', 'token'), ('%.%.%otp\_secret%', 'token'), ('%.%.%recovery\_code%', 'token'), ('%.%.%session\_key%', 'token'),
  ('%.%.%secret%', 'secret'), ('%.%.%api\_key%', 'secret'), ('%.%.%apikey%', 'secret'), ('%.%.%private\_key%', 'secret'),
  ('%.%.%privatekey%', 'secret'), ('%.%.%access\_key%', 'secret'), ('%.%.%accesskey%', 'secret'),
  ('%.%.%encryption\_key%', 'secret'), ('%.%.%credential%', 'secret'),
  ('%.%.%card\_number%', 'card number'), ('%.%.%cardnumber%', 'card number'), ('%.%.%card\_no', 'card number'),
  ('%.%.pan', 'card number'), ('%.%.cvc', 'card number'), ('%.%.cvv', 'card number'), ('%.%.%\_cvc', 'card number'),
  ('%.%.%\_cvv', 'card number'), ('%.%.iban', 'account number'), ('%.%.%\_iban', 'account number'),
  ('%.%.%account\_number%', 'account number'), ('%.%.%accountnumber%', 'account number'),
  ('%.%.ssn', 'national number'), ('%.%.ssn\_%', 'national number'), ('%.%.%\_ssn', 'national number'),
  ('%.%.%social\_security%', 'national number'), ('%.%.%socialsecurity%', 'national number'),
  ('%.%.%national\_id%', 'national number'), ('%.%.%nationalid%', 'national number'), ('%.%.%national\_number%', 'national number'),
  ('%.%.%passport%', 'national number'), ('%.%.%tax\_id%', 'national number'), ('%.%.%taxid%', 'national number'),
  ('%.%.%tax\_number%', 'national number'), ('%.%.%driv%licen_e%', 'national number')
) AS p (pattern, reason);
COMMENT ON VIEW wh.proposed_sensitive IS 'Patterns to begin a policy with: passwords, tokens, secrets, card, account and national numbers; wh.apply_proposed_policy applies them';

CREATE VIEW wh.masked AS
SELECT m.fdw AS app, pg_catalog.format('%I.%I.%I', f.local_schema, m.table_name, m.column_name) AS "column", m.mask, m.characters,
       t.view::text AS view,
       CASE WHEN t.view IS NULL THEN 'no such table at present'
            WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                             WHERE a.attrelid = t.relation AND a.attnum > 0 AND NOT a.attisdropped
                               AND coalesce((SELECT o.option_value FROM pg_catalog.pg_options_to_table(a.attfdwoptions) o
                                             WHERE o.option_name = 'column_name'), a.attname) = m.column_name) THEN 'no such column at present'
            ELSE 'masked' END AS state,
       m.created_at, m.created_by
FROM wh.column_mask m JOIN wh.fdw f ON f.name = m.fdw
LEFT JOIN wh.masked_table t ON t.fdw = m.fdw AND m.table_name = coalesce(
  (SELECT o.option_value FROM pg_catalog.pg_foreign_table x CROSS JOIN pg_catalog.pg_options_to_table(x.ftoptions) o
   WHERE x.ftrelid = t.relation AND o.option_name = 'table_name'),
  (SELECT c.relname FROM pg_catalog.pg_class c WHERE c.oid = t.relation));
COMMENT ON VIEW wh.masked IS 'Masked columns, by the product''s names: what is shown of each (hidden: nothing; null; hashed; first: so many characters; year), and the view in the table''s place';

CREATE VIEW wh.sensitive_columns AS
WITH analyst AS MATERIALIZED (
  SELECT r.oid, r.rolname FROM pg_catalog.pg_roles r
  WHERE NOT r.rolsuper AND pg_catalog.pg_has_role(r.oid, 'wh_analyst', 'MEMBER')
), there AS MATERIALIZED (
  SELECT pg_catalog.concat_ws('.', w.schema, w."table", w."column") AS name, pg_catalog.format('%I.%I.%I', w.schema, w."table", w."column") AS "column",
         CASE WHEN w.fdw IS NOT NULL THEN 'foreign table' ELSE 'source' END AS kind,
         CASE WHEN w.fdw IS NOT NULL THEN 'hidden' ELSE 'not stored' END AS state,
         NULL::oid AS relation, NULL::int2 AS attnum, NULL::oid AS namespace, NULL::bigint AS result
  FROM wh.withheld_column w
  WHERE w.source IS NULL OR NOT EXISTS (
    SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = w.schema AND c.relname = w."table" AND a.attname = w."column" AND NOT a.attisdropped)
  UNION ALL
  SELECT pg_catalog.concat_ws('.', f.local_schema, m.table_name, m.column_name), pg_catalog.format('%I.%I.%I', f.local_schema, m.table_name, m.column_name),
         'foreign table', 'masked', NULL, NULL, NULL, NULL
  FROM wh.column_mask m JOIN wh.fdw f ON f.name = m.fdw WHERE m.mask = 'hidden'
  UNION ALL
  SELECT pg_catalog.concat_ws('.', n.nspname, c.relname, a.attname), pg_catalog.format('%I.%I.%I', n.nspname, c.relname, a.attname),
         CASE WHEN s.relation IS NOT NULL THEN 'source' ELSE CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
              WHEN 'f' THEN 'foreign table' ELSE 'table' END END,
         CASE WHEN s.relation IS NOT NULL AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey))
              THEN 'not stored'
              WHEN k.mask IS NOT NULL THEN 'masked' END, c.oid, a.attnum, n.oid, NULL
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN (SELECT DISTINCT relation FROM wh.source_state) s ON s.relation = c.oid
  LEFT JOIN (SELECT t.view, e->>'column' AS "column", e#>>'{mask,mask}' AS mask FROM wh.masked_table t CROSS JOIN pg_catalog.jsonb_array_elements(t.shown) e) k
    ON k.view = c.oid AND k."column" = a.attname
  -- Of stored results grants say nothing; they come below.
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'wh', 'wh_results') AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)'
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
    -- What is behind a view is out of reach by its schema.
    AND NOT EXISTS (SELECT FROM wh.masked_table t WHERE t.relation = c.oid)
    -- A broken view shows nothing.
    AND NOT EXISTS (SELECT FROM wh.broken_stub b WHERE b.stub = c.oid)
  UNION ALL
  -- Whoever may not read a result does not learn that it is there.
  SELECT r.place || r.name, r.place || pg_catalog.quote_ident(r.name), 'stored result', 'kept', NULL, NULL, NULL, r.id
  FROM (SELECT x.id, pg_catalog.format('wh_results.r%s.', x.id) AS place, e.name
        FROM wh.result x CROSS JOIN LATERAL (SELECT DISTINCT c->>'name' AS name FROM pg_catalog.jsonb_array_elements(x.columns) c) e) r
  WHERE CASE WHEN pg_catalog.pg_has_role('wh_admin', 'USAGE') THEN true
             WHEN EXISTS (SELECT FROM wh.sensitive_pattern p
                          WHERE pg_catalog.lower((r.place || r.name) COLLATE "C") LIKE pg_catalog.lower(p.pattern COLLATE "C")) THEN wh.may_read_result(r.id)
             ELSE false END
)
SELECT p.pattern, p.reason, m."column", m.kind, coalesce(m.state, CASE WHEN m.relation IS NULL THEN NULL WHEN r.roles = '{}' THEN 'out of reach' ELSE 'readable' END) AS state,
       CASE WHEN m.result IS NULL THEN r.roles END AS readable_by,
       CASE WHEN m.name IS NULL THEN 'nothing has such a name at present'
            WHEN m.state = 'hidden' THEN 'nothing; wh.unmark_sensitive and wh.recreate_fdw bring it back'
            WHEN m.state = 'masked' THEN 'nothing; wh.unmask shows it, or hides it where no mask is left'
            WHEN m.state = 'not stored' THEN 'nothing; wh.unmark_sensitive and a full refresh bring it back'
            WHEN m.state = 'kept' THEN pg_catalog.format('SELECT * FROM wh.expire_results(%s) removes it; wh.audit_access() says who may read it', m.result)
            WHEN r.roles = '{}' THEN 'nothing, as long as no analyst is granted it'
            ELSE pg_catalog.format('REVOKE SELECT ON %s FROM whoever need not read it, or drop the column', m.relation::pg_catalog.regclass) END AS advice,
       p.created_at, p.created_by
FROM wh.sensitive_pattern p
LEFT JOIN there m ON pg_catalog.lower(m.name COLLATE "C") LIKE pg_catalog.lower(p.pattern COLLATE "C")
LEFT JOIN LATERAL (
  SELECT ARRAY(SELECT x.rolname::text FROM analyst x
               WHERE m.relation IS NOT NULL AND m.state IS NULL AND pg_catalog.has_schema_privilege(x.oid, m.namespace, 'USAGE')
                 AND pg_catalog.has_column_privilege(x.oid, m.relation, m.attnum, 'SELECT') ORDER BY 1) AS roles) r ON true;
COMMENT ON VIEW wh.sensitive_columns IS 'The policy: each pattern with its reason, each column that it matches now, where that stands (hidden, masked, not stored, readable by which analysts, out of reach, kept in a stored result), and what to do';

-- What one calls --------------------------------------------------------------------------------------------------

CREATE FUNCTION wh.mark_sensitive(pattern text, reason text)
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mark_sensitive_wrapper';
COMMENT ON FUNCTION wh.mark_sensitive(text, text) IS
'Marks columns as sensitive by a LIKE pattern over schema.table.column, now and from now on: foreign tables lose them, sources do not store them. Upper and lower case are the same';

CREATE FUNCTION wh.unmark_sensitive(pattern text)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'unmark_sensitive_wrapper';
COMMENT ON FUNCTION wh.unmark_sensitive(text) IS
'Takes back a wh.mark_sensitive of the same pattern; the next wh.recreate_fdw and the next full refresh bring the columns back';

CREATE FUNCTION wh.apply_proposed_policy()
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'apply_proposed_policy_wrapper';
COMMENT ON FUNCTION wh.apply_proposed_policy() IS 'Marks all patterns of wh.proposed_sensitive as sensitive';

CREATE FUNCTION wh.mask("column" text, mask text, characters int DEFAULT NULL)
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mask_wrapper';
COMMENT ON FUNCTION wh.mask(text, text, int) IS
'Masks a column of a foreign application (schema.table.column): hidden, null, hashed (with a key that nobody sees, so that joins still work), first (so many characters) or year. A view takes the table''s place, and every run keeps it';

CREATE FUNCTION wh.unmask("column" text)
RETURNS TABLE (object text, kind text, action text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'unmask_wrapper';
COMMENT ON FUNCTION wh.unmask(text) IS 'Takes the mask off a column; with the last one, the foreign table itself is in its place again';

CREATE FUNCTION wh.strip_record(record text, schema text, tables text[], patterns text[])
RETURNS text
LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT
AS 'MODULE_PATHNAME', 'strip_record_wrapper';
COMMENT ON FUNCTION wh.strip_record(text, text, text[], text[]) IS
'Internal: a record of a source without the members that patterns name; null where it has none';

-- Who may ---------------------------------------------------------------------------------------------------------

REVOKE ALL ON FUNCTION
  wh.mark_sensitive(text, text), wh.unmark_sensitive(text), wh.apply_proposed_policy(), wh.mask(text, text, int), wh.unmask(text),
  wh.strip_record(text, text, text[], text[])
FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
  wh.mark_sensitive(text, text), wh.unmark_sensitive(text), wh.apply_proposed_policy(), wh.mask(text, text, int), wh.unmask(text)
TO wh_admin;
GRANT SELECT ON wh.proposed_sensitive, wh.sensitive_columns, wh.masked TO wh_admin, wh_analyst;
