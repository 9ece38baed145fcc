-- What an analyst would miss if it went: one row per fact about each view of ana and ben, but its OID.
WITH v AS (
  SELECT c.*, format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('ana', 'ben') AND c.relkind IN ('v', 'm')
)
SELECT name, 'owner' AS fact, pg_get_userbyid(relowner)::text AS value FROM v
UNION ALL SELECT name, 'kind', relkind::text FROM v
UNION ALL SELECT name, 'options', reloptions::text FROM v WHERE reloptions IS NOT NULL
UNION ALL SELECT name, 'grant', x.item::text FROM v CROSS JOIN unnest(v.relacl) x(item)
UNION ALL SELECT v.name, 'grant on ' || a.attname, x.item::text
  FROM v JOIN pg_attribute a ON a.attrelid = v.oid CROSS JOIN unnest(a.attacl) x(item)
UNION ALL SELECT v.name, 'comment ' || coalesce('on ' || a.attname, ''), d.description
  FROM v JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = v.oid
  LEFT JOIN pg_attribute a ON a.attrelid = v.oid AND a.attnum = d.objsubid AND d.objsubid > 0
UNION ALL SELECT v.name, 'index', pg_get_indexdef(i.indexrelid) FROM v JOIN pg_index i ON i.indrelid = v.oid
UNION ALL SELECT v.name, 'comment on index', i.indexrelid::regclass || ': ' || obj_description(i.indexrelid, 'pg_class')
  FROM v JOIN pg_index i ON i.indrelid = v.oid WHERE obj_description(i.indexrelid, 'pg_class') IS NOT NULL
UNION ALL SELECT name, 'holds data', relispopulated::text FROM v
ORDER BY 1, 2, 3
