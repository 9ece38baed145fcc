-- Catalog rows of all that is in {schemas}, whole, less what identifies or measures: numbers of objects become names.
-- What the catalog gains in another version is compared without being named here.
WITH s AS (SELECT oid, nspname FROM pg_namespace WHERE nspname = ANY ('{schemas}')),
c AS (SELECT c.* FROM pg_class c JOIN s ON s.oid = c.relnamespace WHERE c.relkind IN ('v', 'm', 'i', 'r', 'f')),
f AS (
  SELECT 'class' AS what, c.oid::regclass::text AS name,
         (to_jsonb(c) - '{oid,relfilenode,reltype,reloftype,reltoastrelid,relfrozenxid,relminmxid,relpages,reltuples,relallvisible,relacl,relowner,relam,reltablespace,relrewrite,relnamespace,reloptions,relnatts,relpartbound}'::text[])
         || jsonb_build_object('owner', c.relowner::regrole, 'bound', pg_get_expr(c.relpartbound, c.oid), 'reloptions', array(SELECT o FROM unnest(c.reloptions) o ORDER BY 1), 'am', (SELECT amname FROM pg_am WHERE oid = c.relam),
              'tablespace', (SELECT spcname FROM pg_tablespace WHERE oid = c.reltablespace),
              'toast', array(SELECT o FROM pg_class t CROSS JOIN unnest(t.reloptions) o WHERE t.oid = c.reltoastrelid ORDER BY 1),
              'reads', (SELECT relpages > 0 FROM pg_class p WHERE p.oid = c.oid AND c.relkind = 'm')) AS fact
  FROM c
  UNION ALL
  SELECT 'acl', c.oid::regclass::text, to_jsonb(array(SELECT x::text FROM unnest(coalesce(c.relacl, acldefault('r', c.relowner))) x ORDER BY 1))
  FROM c WHERE relkind <> 'i'
  UNION ALL
  SELECT 'schema', nspname, to_jsonb(array(SELECT x::text FROM unnest(coalesce(nspacl, acldefault('n', nspowner))) x ORDER BY 1))
  FROM pg_namespace WHERE nspname = ANY ('{schemas}') OR nspname IN ('app', 'public')
  UNION ALL
  SELECT 'column', c.oid::regclass || '.' || a.attname,
         (to_jsonb(a) - '{attrelid,atttypid,attcacheoff,attacl,attoptions,attmissingval,attnum,attcollation,attlen,attbyval,attalign}'::text[]) - CASE c.relkind WHEN 'i' THEN 'attcompression' ELSE '' END
         || jsonb_build_object('type', format_type(a.atttypid, a.atttypmod), 'collation', a.attcollation::regcollation,
              'place', row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum), 'default', pg_get_expr(d.adbin, d.adrelid),
              'options', array(SELECT o FROM unnest(a.attoptions) o WHERE o NOT LIKE 'pg\_attver%' ORDER BY 1),
              'acl', array(SELECT x::text FROM unnest(a.attacl) x ORDER BY 1))
  FROM c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  UNION ALL
  SELECT 'index', x.indexrelid::regclass::text, (to_jsonb(x) - '{indexrelid,indrelid,indclass,indcollation,indexprs,indpred,indcheckxmin,indkey}'::text[]) || jsonb_build_object('def', pg_get_indexdef(x.indexrelid))
  FROM pg_index x JOIN c ON c.oid = x.indrelid
  UNION ALL
  SELECT 'trigger', t.tgrelid::regclass || '.' || t.tgname, (to_jsonb(t) - '{oid,tgrelid,tgfoid,tgqual}'::text[]) || jsonb_build_object('def', pg_get_triggerdef(t.oid))
  FROM pg_trigger t JOIN c ON c.oid = t.tgrelid
  UNION ALL
  SELECT 'rule', w.ev_class::regclass || '.' || w.rulename, (to_jsonb(w) - '{oid,ev_class,ev_qual,ev_action}'::text[]) || jsonb_build_object('def', pg_get_ruledef(w.oid))
  FROM pg_rewrite w JOIN c ON c.oid = w.ev_class
  UNION ALL
  SELECT 'statistics', e.stxname, (to_jsonb(e) - '{oid,stxrelid,stxowner,stxnamespace,stxkeys,stxexprs}'::text[])
         || jsonb_build_object('owner', e.stxowner::regrole, 'schema', e.stxnamespace::regnamespace, 'def', pg_get_statisticsobjdef(e.oid))
  FROM pg_statistic_ext e JOIN c ON c.oid = e.stxrelid
  UNION ALL
  SELECT 'function', p.oid::regprocedure::text, (to_jsonb(p) - '{oid,prosqlbody,proargdefaults,proacl,proowner,proargtypes,prorettype}'::text[])
         || jsonb_build_object('owner', p.proowner::regrole, 'def', pg_get_functiondef(p.oid), 'acl', array(SELECT x::text FROM unnest(p.proacl) x ORDER BY 1))
  FROM pg_proc p JOIN s ON s.oid = p.pronamespace
  UNION ALL
  SELECT 'comment', i.type || ' ' || i.identity, to_jsonb(d.description)
  FROM pg_description d CROSS JOIN pg_identify_object(d.classoid, d.objoid, d.objsubid) i
  WHERE i.schema = ANY ('{schemas}') OR i.identity ~ (SELECT string_agg('\m' || nspname || '\.', '|') FROM s)
  UNION ALL
  SELECT 'label', i.type || ' ' || i.identity, to_jsonb(d.provider || ' ' || d.label)
  FROM pg_seclabel d CROSS JOIN pg_identify_object(d.classoid, d.objoid, d.objsubid) i
  UNION ALL
  SELECT 'extension', i.type || ' ' || i.identity, jsonb_build_array(d.deptype, d.refobjid::int8)
  FROM pg_depend d CROSS JOIN pg_identify_object(d.classid, d.objid, d.objsubid) i
  WHERE d.refclassid = 'pg_extension'::regclass AND (d.deptype = 'x' OR i.schema = ANY ('{schemas}'))
  UNION ALL
  SELECT 'foreign table', c.oid::regclass::text, jsonb_build_array((SELECT srvname FROM pg_foreign_server v WHERE v.oid = t.ftserver),
         array(SELECT o FROM unnest(t.ftoptions) o ORDER BY 1), c.reltuples, c.relpages, array(SELECT inhparent::regclass || ' ' || inhseqno FROM pg_inherits WHERE inhrelid = c.oid))
  FROM c JOIN pg_foreign_table t ON t.ftrelid = c.oid
  UNION ALL
  SELECT 'constraint', c.oid::regclass || '.' || k.conname, (to_jsonb(k) - '{oid,conrelid,connamespace,conbin,conkey}'::text[]) || jsonb_build_object('def', pg_get_constraintdef(k.oid))
  FROM c JOIN pg_constraint k ON k.conrelid = c.oid
  UNION ALL
  SELECT 'collected', format('%s.%s.%s', p.schemaname, p.tablename, p.attname), to_jsonb(p)
  FROM pg_stats p JOIN c ON p.schemaname = c.relnamespace::regnamespace::text AND p.tablename = c.relname AND c.relkind = 'f'
  UNION ALL
  SELECT 'collected', format('%s.%s', p.schemaname, p.statistics_name), to_jsonb(p)
  FROM pg_stats_ext p JOIN c ON p.schemaname = c.relnamespace::regnamespace::text AND p.tablename = c.relname AND c.relkind = 'f'
  UNION ALL
  SELECT 'collected', format('%s.%s: %s', p.schemaname, p.statistics_name, p.expr), to_jsonb(p)
  FROM pg_stats_ext_exprs p JOIN c ON p.schemaname = c.relnamespace::regnamespace::text AND p.tablename = c.relname AND c.relkind = 'f'
  UNION ALL
  SELECT 'publication', p.pubname, jsonb_build_array(p.puballtables, array(SELECT tablename::text FROM pg_publication_tables t WHERE t.pubname = p.pubname ORDER BY 1))
  FROM pg_publication p
)
SELECT what, name, fact FROM f ORDER BY what, name, fact::text
