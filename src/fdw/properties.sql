-- Everything about a relation that its definition does not say, one row a property: what it is (compared before
-- and after a run) and the statement that makes it so again. Parameter: an array of OIDs of views, materialized
-- views and foreign tables. Columns: relation, place in the order of restoring, key, value, statement, role that
-- must run it (0: whoever may, there is no expression in it), whether a plain view can have it too.
-- Sources: pg_dump's getters (src/bin/pg_dump/pg_dump.c) for what there is, ruleutils.c for the texts.
WITH r AS (
  SELECT c.oid, c.relkind, c.relowner, c.relacl, c.reloptions, c.reltoastrelid, c.reltablespace, c.relam, c.relispopulated,
         c.relreplident, c.relispartition, c.relpartbound, c.relnamespace, n.nspname, c.relname,
         format('%I.%I', n.nspname, c.relname) AS q,
         CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'FOREIGN TABLE' END AS kw
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1)
), a AS (
  SELECT r.oid, r.relkind, r.relowner, r.q, r.kw, a.attnum, a.attname, format('%I', a.attname) AS col, a.attacl,
         a.atttypid, a.atttypmod, a.attcollation, a.attnotnull, a.attstattarget, a.attstorage, a.attcompression::text AS attcompression,
         a.attoptions, a.attfdwoptions, a.attgenerated, t.typstorage
  FROM r JOIN pg_attribute a ON a.attrelid = r.oid JOIN pg_type t ON t.oid = a.atttypid
  WHERE a.attnum > 0 AND NOT a.attisdropped
), i AS (
  -- code: it has expressions, and functions, operators or types of somebody who is no superuser in them.
  SELECT r.oid, r.relowner, r.q, x.indexrelid, (x.indexprs IS NOT NULL OR x.indpred IS NOT NULL) AND EXISTS (
           SELECT FROM pg_depend d LEFT JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
           LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
           LEFT JOIN pg_type y ON d.refclassid = 'pg_type'::regclass AND y.oid = d.refobjid
           LEFT JOIN pg_opclass k ON d.refclassid = 'pg_opclass'::regclass AND k.oid = d.refobjid
           JOIN pg_roles w ON w.oid = coalesce(p.proowner, o.oprowner, y.typowner, k.opcowner) AND NOT w.rolsuper
           WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid) AS code,
         x.indisclustered, x.indisreplident, x.indkey, ic.relname AS iname, ic.reltablespace,
         format('%I.%I', r.nspname, ic.relname) AS iq
  FROM r JOIN pg_index x ON x.indrelid = r.oid JOIN pg_class ic ON ic.oid = x.indexrelid
), theirs AS MATERIALIZED (
  -- Values of types of people's own, in triggers and in expressions of columns: the input of such a value can check a domain.
  SELECT e.classid, e.objid, t.typowner
  FROM (SELECT 'pg_trigger'::regclass AS classid, t.oid AS objid FROM r JOIN pg_trigger t ON t.tgrelid = r.oid WHERE t.tgqual IS NOT NULL
        UNION ALL
        SELECT 'pg_attrdef'::regclass, f.oid FROM r JOIN pg_attrdef f ON f.adrelid = r.oid) e
  JOIN pg_depend d ON d.classid = e.classid AND d.objid = e.objid AND d.refclassid = 'pg_type'::regclass
  JOIN pg_type t ON t.oid = d.refobjid
  WHERE NOT (SELECT rolsuper FROM pg_roles o WHERE o.oid = t.typowner)
)
SELECT json_build_array(p.oid::int8, p.place, p.key, p.value, p.ddl, coalesce(p.role, 0)::int8, p.in_view)::text
FROM (
  SELECT oid, 10 AS place, 'owner' AS key, pg_get_userbyid(relowner)::text AS value,
         format('ALTER TABLE %s OWNER TO %I', q, pg_get_userbyid(relowner)) AS ddl, NULL::oid AS role, true AS in_view FROM r
  UNION ALL
  SELECT r.oid, 20, concat_ws(chr(31), 'grant', x.privilege_type, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
                quote_ident(pg_get_userbyid(x.grantor))), CASE WHEN x.is_grantable THEN 'with grant option' ELSE '' END,
         format('GRANT %s ON %s TO %s%s', x.privilege_type, r.q, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
                CASE WHEN x.is_grantable AND x.grantee <> r.relowner THEN ' WITH GRANT OPTION' ELSE '' END), x.grantor, true
  FROM r CROSS JOIN aclexplode(coalesce(r.relacl, acldefault('r', r.relowner))) x
  UNION ALL
  SELECT a.oid, 21, concat_ws(chr(31), 'grant', format('%s (%s)', x.privilege_type, a.col), CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
                quote_ident(pg_get_userbyid(x.grantor))), CASE WHEN x.is_grantable THEN 'with grant option' ELSE '' END,
         format('GRANT %s (%s) ON %s TO %s%s', x.privilege_type, a.col, a.q, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
                CASE WHEN x.is_grantable AND x.grantee <> a.relowner THEN ' WITH GRANT OPTION' ELSE '' END), x.grantor, true
  FROM a CROSS JOIN aclexplode(a.attacl) x
  UNION ALL
  SELECT r.oid, 30, 'option ' || split_part(o, '=', 1), substr(o, strpos(o, '=') + 1),
         format('ALTER %s %s SET (%I = %L)', r.kw, r.q, split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), NULL, r.relkind = 'v'
  FROM r CROSS JOIN unnest(r.reloptions) o
  UNION ALL
  SELECT r.oid, 30, 'option toast.' || split_part(o, '=', 1), substr(o, strpos(o, '=') + 1),
         format('ALTER %s %s SET (toast.%I = %L)', r.kw, r.q, split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), NULL, false
  FROM r JOIN pg_class t ON t.oid = r.reltoastrelid CROSS JOIN unnest(t.reloptions) o
  UNION ALL
  SELECT r.oid, 31, 'tablespace', coalesce((SELECT spcname FROM pg_tablespace s WHERE s.oid = r.reltablespace), ''), NULL, NULL, false
  FROM r WHERE r.relkind = 'm'
  UNION ALL
  SELECT r.oid, 31, 'access method', (SELECT amname FROM pg_am m WHERE m.oid = r.relam), NULL, NULL, false FROM r WHERE r.relkind = 'm'
  UNION ALL
  -- Columns.
  SELECT oid, 40, 'type of ' || col, format_type(atttypid, atttypmod) || coalesce((SELECT ' collate ' || collname FROM pg_collation k WHERE k.oid = attcollation AND k.oid <> 100), ''), NULL, NULL, true FROM a
  UNION ALL
  SELECT a.oid, 41, 'default of ' || a.col, pg_get_expr(d.adbin, d.adrelid),
         CASE WHEN a.attgenerated = '' THEN format('ALTER %s %s ALTER COLUMN %s SET DEFAULT %s', a.kw, a.q, a.col, pg_get_expr(d.adbin, d.adrelid)) END,
         CASE WHEN a.attgenerated = '' OR EXISTS (SELECT FROM theirs y WHERE y.classid = 'pg_attrdef'::regclass AND y.objid = d.oid) THEN a.relowner END, true
  FROM a JOIN pg_attrdef d ON d.adrelid = a.oid AND d.adnum = a.attnum
  UNION ALL
  SELECT oid, 42, 'not null of ' || col, 'true', format('ALTER FOREIGN TABLE %s ALTER COLUMN %s SET NOT NULL', q, col), NULL, false
  FROM a WHERE relkind = 'f' AND attnotnull
  UNION ALL
  SELECT oid, 43, 'statistics target of ' || col, attstattarget::text,
         format('ALTER %s %s ALTER COLUMN %s SET STATISTICS %s', kw, q, col, attstattarget), NULL, false
  FROM a WHERE relkind IN ('m', 'f') AND attstattarget >= 0
  UNION ALL
  SELECT oid, 44, 'storage of ' || col, attstorage::text,
         format('ALTER %s %s ALTER COLUMN %s SET STORAGE %s', kw, q, col,
                CASE attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'x' THEN 'EXTENDED' ELSE 'MAIN' END), NULL, false
  FROM a WHERE relkind IN ('m', 'f') AND attstorage <> typstorage
  UNION ALL
  SELECT oid, 45, 'compression of ' || col, attcompression,
         format('ALTER %s %s ALTER COLUMN %s SET COMPRESSION %s', kw, q, col, CASE attcompression WHEN 'l' THEN 'lz4' ELSE 'pglz' END), NULL, false
  FROM a WHERE relkind = 'm' AND attcompression <> ''
  UNION ALL
  -- attoptions may hold a reserved mark of the server's own; pg_dump passes over it as well.
  SELECT a.oid, 46, format('option %s of %s', split_part(o, '=', 1), a.col), substr(o, strpos(o, '=') + 1),
         format('ALTER %s %s ALTER COLUMN %s SET (%I = %L)', a.kw, a.q, a.col, split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), NULL, false
  FROM a CROSS JOIN unnest(a.attoptions) o WHERE a.relkind IN ('m', 'f') AND split_part(o, '=', 1) IN ('n_distinct', 'n_distinct_inherited')
  UNION ALL
  SELECT a.oid, 47, format('fdw option %s of %s', o.option_name, a.col), o.option_value, NULL, NULL, false
  FROM a CROSS JOIN pg_options_to_table(a.attfdwoptions) o WHERE a.relkind = 'f'
  UNION ALL
  SELECT r.oid, 48, 'fdw option ' || o.option_name, o.option_value, NULL, NULL, false
  FROM r JOIN pg_foreign_table f ON f.ftrelid = r.oid CROSS JOIN pg_options_to_table(f.ftoptions) o
  UNION ALL
  -- Constraints of a foreign table, then its place.
  SELECT r.oid, 50, 'constraint ' || quote_ident(k.conname), pg_get_constraintdef(k.oid),
         format('ALTER FOREIGN TABLE %s ADD CONSTRAINT %I %s', r.q, k.conname, pg_get_constraintdef(k.oid)), NULL, false
  FROM r JOIN pg_constraint k ON k.conrelid = r.oid WHERE r.relkind = 'f' AND k.contype = 'c' AND k.conislocal
  UNION ALL
  SELECT r.oid, 51, 'parent', h.inhparent::regclass::text,
         CASE WHEN r.relispartition
              THEN format('ALTER TABLE %s ATTACH PARTITION %s %s', h.inhparent::regclass, r.q, pg_get_expr(r.relpartbound, r.oid))
              ELSE format('ALTER FOREIGN TABLE %s INHERIT %s', r.q, h.inhparent::regclass) END,
         -- Attaching plans the partition's constraint, and with it what the parent's owner wrote into the key.
         CASE WHEN r.relispartition THEN (SELECT o.oid FROM pg_class c JOIN pg_roles o ON o.oid = c.relowner AND NOT o.rolsuper
                                          JOIN pg_partitioned_table k ON k.partrelid = c.oid AND k.partexprs IS NOT NULL
                                          WHERE c.oid = h.inhparent) END, false
  FROM r JOIN pg_inherits h ON h.inhrelid = r.oid
  UNION ALL
  -- Rules and triggers.
  SELECT r.oid, 60, 'rule ' || quote_ident(w.rulename), pg_get_ruledef(w.oid), pg_get_ruledef(w.oid), NULL, true
  FROM r JOIN pg_rewrite w ON w.ev_class = r.oid WHERE w.rulename <> '_RETURN'
  UNION ALL
  SELECT r.oid, 61, 'state of rule ' || quote_ident(w.rulename), w.ev_enabled::text,
         CASE w.ev_enabled WHEN 'D' THEN format('ALTER TABLE %s DISABLE RULE %I', r.q, w.rulename)
              WHEN 'R' THEN format('ALTER TABLE %s ENABLE REPLICA RULE %I', r.q, w.rulename)
              WHEN 'A' THEN format('ALTER TABLE %s ENABLE ALWAYS RULE %I', r.q, w.rulename) END, NULL, true
  FROM r JOIN pg_rewrite w ON w.ev_class = r.oid WHERE w.rulename <> '_RETURN'
  UNION ALL
  -- Whoever made a trigger need not own the relation. A condition that holds a value of their type runs their code when it
  -- is read, and nobody can read it safely: it has no statement.
  SELECT r.oid, 62, 'trigger ' || quote_ident(t.tgname), pg_get_triggerdef(t.oid),
         CASE WHEN NOT EXISTS (SELECT FROM theirs y WHERE y.classid = 'pg_trigger'::regclass AND y.objid = t.oid AND y.typowner <> r.relowner)
              THEN pg_get_triggerdef(t.oid) END, NULL, true
  FROM r JOIN pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal
  UNION ALL
  SELECT r.oid, 63, 'state of trigger ' || quote_ident(t.tgname), t.tgenabled::text,
         CASE t.tgenabled WHEN 'D' THEN format('ALTER TABLE %s DISABLE TRIGGER %I', r.q, t.tgname)
              WHEN 'R' THEN format('ALTER TABLE %s ENABLE REPLICA TRIGGER %I', r.q, t.tgname)
              WHEN 'A' THEN format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', r.q, t.tgname) END, NULL, true
  FROM r JOIN pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal
  UNION ALL
  -- Indexes.
  SELECT i.oid, 70, 'index ' || quote_ident(i.iname), pg_get_indexdef(i.indexrelid), pg_get_indexdef(i.indexrelid),
         CASE WHEN i.code THEN i.relowner END, false FROM i
  UNION ALL
  SELECT i.oid, 71, 'tablespace of index ' || quote_ident(i.iname), s.spcname::text, format('ALTER INDEX %s SET TABLESPACE %I', i.iq, s.spcname), NULL, false
  FROM i JOIN pg_tablespace s ON s.oid = i.reltablespace
  UNION ALL
  SELECT i.oid, 72, format('statistics target of index %I, column %s', i.iname, t.attnum), t.attstattarget::text,
         format('ALTER INDEX %s ALTER COLUMN %s SET STATISTICS %s', i.iq, t.attnum, t.attstattarget), NULL, false
  FROM i JOIN pg_attribute t ON t.attrelid = i.indexrelid WHERE t.attstattarget >= 0 AND i.indkey[t.attnum - 1] = 0
  UNION ALL
  SELECT i.oid, 73, 'cluster mark', i.iname::text, format('ALTER MATERIALIZED VIEW %s CLUSTER ON %I', i.q, i.iname), NULL, false FROM i WHERE i.indisclustered
  UNION ALL
  SELECT r.oid, 74, 'replica identity', r.relreplident::text || coalesce((SELECT ' ' || i.iname FROM i WHERE i.oid = r.oid AND i.indisreplident), ''),
         CASE r.relreplident WHEN 'f' THEN format('ALTER MATERIALIZED VIEW %s REPLICA IDENTITY FULL', r.q)
              WHEN 'n' THEN CASE WHEN r.relkind = 'm' THEN format('ALTER MATERIALIZED VIEW %s REPLICA IDENTITY NOTHING', r.q) END
              WHEN 'i' THEN format('ALTER MATERIALIZED VIEW %s REPLICA IDENTITY USING INDEX %I', r.q, (SELECT i.iname FROM i WHERE i.oid = r.oid AND i.indisreplident)) END, NULL, false
  FROM r WHERE r.relkind = 'm'
  UNION ALL
  -- Extended statistics: definition, target, and last, since the rest is the relation's owner's to do, owner.
  SELECT r.oid, 79, format('schema of statistics %I.%I', n.nspname, s.stxname), n.nspname::text, NULL, NULL, false
  FROM r JOIN pg_statistic_ext s ON s.stxrelid = r.oid JOIN pg_namespace n ON n.oid = s.stxnamespace
  UNION ALL
  SELECT r.oid, 80, format('statistics %I.%I', n.nspname, s.stxname), pg_get_statisticsobjdef(s.oid), pg_get_statisticsobjdef(s.oid),
         CASE WHEN s.stxexprs IS NOT NULL AND EXISTS (
           SELECT FROM pg_depend d LEFT JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
           LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
           LEFT JOIN pg_type y ON d.refclassid = 'pg_type'::regclass AND y.oid = d.refobjid
           LEFT JOIN pg_opclass k ON d.refclassid = 'pg_opclass'::regclass AND k.oid = d.refobjid
           JOIN pg_roles w ON w.oid = coalesce(p.proowner, o.oprowner, y.typowner, k.opcowner) AND NOT w.rolsuper
           WHERE d.classid = 'pg_statistic_ext'::regclass AND d.objid = s.oid)
              THEN r.relowner END, false
  FROM r JOIN pg_statistic_ext s ON s.stxrelid = r.oid JOIN pg_namespace n ON n.oid = s.stxnamespace
  UNION ALL
  SELECT r.oid, 99, format('owner of statistics %I.%I', n.nspname, s.stxname), pg_get_userbyid(s.stxowner)::text,
         format('ALTER STATISTICS %I.%I OWNER TO %I', n.nspname, s.stxname, pg_get_userbyid(s.stxowner)), NULL, false
  FROM r JOIN pg_statistic_ext s ON s.stxrelid = r.oid JOIN pg_namespace n ON n.oid = s.stxnamespace
  UNION ALL
  SELECT r.oid, 82, format('target of statistics %I.%I', n.nspname, s.stxname), s.stxstattarget::text,
         format('ALTER STATISTICS %I.%I SET STATISTICS %s', n.nspname, s.stxname, s.stxstattarget), NULL, false
  FROM r JOIN pg_statistic_ext s ON s.stxrelid = r.oid JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxstattarget >= 0
  UNION ALL
  -- Comments and labels.
  SELECT r.oid, 90, 'comment', d.description, format('COMMENT ON %s %s IS %L', r.kw, r.q, d.description), NULL, true
  FROM r JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = r.oid AND d.objsubid = 0
  UNION ALL
  SELECT a.oid, 91, 'comment on ' || a.col, d.description, format('COMMENT ON COLUMN %s.%s IS %L', a.q, a.col, d.description), NULL, true
  -- By relation first: the planner takes a list of OIDs for a short one, and would read all comments for each column.
  FROM r CROSS JOIN LATERAL (SELECT * FROM pg_description d WHERE d.classoid = 'pg_class'::regclass AND d.objoid = r.oid AND d.objsubid > 0 OFFSET 0) d
  JOIN a ON a.oid = r.oid AND a.attnum = d.objsubid
  UNION ALL
  SELECT i.oid, 92, 'comment on index ' || quote_ident(i.iname), d.description, format('COMMENT ON INDEX %s IS %L', i.iq, d.description), NULL, false
  FROM i JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = i.indexrelid AND d.objsubid = 0
  UNION ALL
  SELECT r.oid, 93, 'comment on trigger ' || quote_ident(t.tgname), d.description, format('COMMENT ON TRIGGER %I ON %s IS %L', t.tgname, r.q, d.description), NULL, true
  FROM r JOIN pg_trigger t ON t.tgrelid = r.oid JOIN pg_description d ON d.classoid = 'pg_trigger'::regclass AND d.objoid = t.oid
  UNION ALL
  SELECT r.oid, 94, 'comment on rule ' || quote_ident(w.rulename), d.description, format('COMMENT ON RULE %I ON %s IS %L', w.rulename, r.q, d.description), NULL, true
  FROM r JOIN pg_rewrite w ON w.ev_class = r.oid AND w.rulename <> '_RETURN' JOIN pg_description d ON d.classoid = 'pg_rewrite'::regclass AND d.objoid = w.oid
  UNION ALL
  SELECT r.oid, 95, format('comment on statistics %I.%I', n.nspname, s.stxname), d.description, format('COMMENT ON STATISTICS %I.%I IS %L', n.nspname, s.stxname, d.description), NULL, false
  FROM r JOIN pg_statistic_ext s ON s.stxrelid = r.oid JOIN pg_namespace n ON n.oid = s.stxnamespace
  JOIN pg_description d ON d.classoid = 'pg_statistic_ext'::regclass AND d.objoid = s.oid
  UNION ALL
  SELECT r.oid, 96, 'comment on constraint ' || quote_ident(k.conname), d.description, format('COMMENT ON CONSTRAINT %I ON %s IS %L', k.conname, r.q, d.description), NULL, false
  FROM r JOIN pg_constraint k ON k.conrelid = r.oid JOIN pg_description d ON d.classoid = 'pg_constraint'::regclass AND d.objoid = k.oid
  UNION ALL
  SELECT r.oid, 97, format('label %s on %s', l.provider, coalesce(quote_ident((SELECT attname FROM pg_attribute t WHERE t.attrelid = r.oid AND t.attnum = l.objsubid AND l.objsubid > 0)), 'it')), l.label,
         CASE WHEN l.objsubid = 0 THEN format('SECURITY LABEL FOR %I ON %s %s IS %L', l.provider, r.kw, r.q, l.label)
              ELSE format('SECURITY LABEL FOR %I ON COLUMN %s.%I IS %L', l.provider, r.q, (SELECT attname FROM pg_attribute t WHERE t.attrelid = r.oid AND t.attnum = l.objsubid), l.label) END, NULL, true
  FROM r JOIN pg_seclabel l ON l.classoid = 'pg_class'::regclass AND l.objoid = r.oid
  UNION ALL
  SELECT r.oid, 98, CASE d.deptype WHEN 'e' THEN 'member of extension' ELSE format('depends on extension %I', e.extname) END, e.extname::text,
         CASE WHEN d.deptype = 'x' THEN format('ALTER %s %s DEPENDS ON EXTENSION %I', r.kw, r.q, e.extname) END, NULL, false
  FROM r JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.objsubid = 0 AND d.refclassid = 'pg_extension'::regclass AND d.deptype IN ('e', 'x')
  JOIN pg_extension e ON e.oid = d.refobjid
  UNION ALL
  SELECT i.oid, 98, format('dependency of index %I on %I', i.iname, e.extname), '', format('ALTER INDEX %s DEPENDS ON EXTENSION %I', i.iq, e.extname), NULL, false
  FROM i JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'x'
  JOIN pg_extension e ON e.oid = d.refobjid
  UNION ALL
  SELECT r.oid, 98, format('dependency of trigger %I on %I', t.tgname, e.extname), '', format('ALTER TRIGGER %I ON %s DEPENDS ON EXTENSION %I', t.tgname, r.q, e.extname), NULL, true
  FROM r JOIN pg_trigger t ON t.tgrelid = r.oid
  JOIN pg_depend d ON d.classid = 'pg_trigger'::regclass AND d.objid = t.oid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'x'
  JOIN pg_extension e ON e.oid = d.refobjid
) p
ORDER BY p.oid, p.place, p.key
