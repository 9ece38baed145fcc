-- The script that people use today, written well: it saves every view above a schema of foreign tables, drops the
-- schema with all of them, imports it anew and makes the views again, lowest first. It keeps definitions, owners,
-- table grants, comments on views, options, and the indexes of materialized views. It loses OIDs, column grants
-- and comments, rules, triggers, column defaults, what people added to foreign tables, and whatever depends on a
-- view without being one.
CREATE SCHEMA script;

CREATE FUNCTION script.refresh(app name, server name, remote_schema name, readers name) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
  v record;
  saved int := 0;
BEGIN
  CREATE TEMP TABLE saved ON COMMIT DROP AS
  WITH RECURSIVE edge AS MATERIALIZED (
    SELECT DISTINCT d.refobjid AS below, w.ev_class AS above
    FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> w.ev_class
  ), above AS (
    SELECT e.above AS oid, 1 AS depth
    FROM edge e JOIN pg_class c ON c.oid = e.below JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = app
    UNION
    SELECT e.above, a.depth + 1 FROM above a JOIN edge e ON e.below = a.oid
  ), deepest AS (
    SELECT oid, max(depth) AS depth FROM above GROUP BY oid
  )
  SELECT d.depth, d.oid, format('%I.%I', n.nspname, c.relname) AS name,
         CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END AS kind,
         CASE WHEN c.reloptions IS NULL THEN '' ELSE format(' WITH (%s)', array_to_string(c.reloptions, ', ')) END AS options,
         pg_get_viewdef(c.oid) AS definition, pg_get_userbyid(c.relowner) AS owner,
         obj_description(c.oid, 'pg_class') AS comment,
         (SELECT string_agg(format('GRANT %s ON %I.%I TO %s%s', x.privilege_type, n.nspname, c.relname,
                    CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
                    CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), '; ')
          FROM aclexplode(c.relacl) x WHERE x.grantee <> c.relowner) AS grants,
         CASE WHEN c.relkind = 'm' THEN (SELECT string_agg(pg_get_indexdef(i.indexrelid), '; ') FROM pg_index i WHERE i.indrelid = c.oid)
         END AS indexes
  FROM deepest d JOIN pg_class c ON c.oid = d.oid JOIN pg_namespace n ON n.oid = c.relnamespace;

  EXECUTE format('DROP SCHEMA %I CASCADE', app);
  EXECUTE format('CREATE SCHEMA %I', app);
  EXECUTE format('IMPORT FOREIGN SCHEMA %I FROM SERVER %I INTO %I', remote_schema, server, app);
  EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', app, readers);
  EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO %I', app, readers);

  FOR v IN SELECT * FROM saved ORDER BY depth, oid LOOP
    EXECUTE format('CREATE %s %s%s AS %s', v.kind, v.name, v.options, v.definition);
    EXECUTE format('ALTER %s %s OWNER TO %I', v.kind, v.name, v.owner);
    IF v.grants IS NOT NULL THEN EXECUTE v.grants; END IF;
    IF v.comment IS NOT NULL THEN EXECUTE format('COMMENT ON %s %s IS %L', v.kind, v.name, v.comment); END IF;
    IF v.indexes IS NOT NULL THEN EXECUTE v.indexes; END IF;
    saved := saved + 1;
  END LOOP;
  RETURN saved;
END
$$;
