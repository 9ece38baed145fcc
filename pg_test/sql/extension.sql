-- The extension arrives whole, in schema wh, and leaves nothing behind.
CREATE EXTENSION startup_wh;
SELECT e.extversion, e.extrelocatable, n.nspname AS schema
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'startup_wh';
ALTER EXTENSION startup_wh SET SCHEMA public;

-- Each object explains itself to \df+, \dv+ and the like.
SELECT pg_catalog.pg_describe_object(d.classid, d.objid, 0) AS unexplained
FROM pg_catalog.pg_depend d
WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass
  AND d.refobjid = (SELECT oid FROM pg_catalog.pg_extension WHERE extname = 'startup_wh')
  AND d.deptype = 'e'
  AND d.classid IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_class'::regclass)
  AND pg_catalog.obj_description(d.objid, d.classid::regclass::name) IS NULL
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = d.objid AND c.relkind IN ('S', 'i'))
ORDER BY 1;

-- Nobody may call what is not granted by name, but for the error that a broken view raises.
SELECT p.oid::regprocedure AS everybody_may
FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
WHERE p.pronamespace = 'wh'::regnamespace AND a.grantee = 0 AND a.privilege_type = 'EXECUTE'
ORDER BY 1;

-- What runs as its owner must not look names up in the caller's schemas.
SELECT p.oid::regprocedure AS open_to_the_search_path
FROM pg_catalog.pg_proc p
WHERE p.pronamespace = 'wh'::regnamespace AND p.prosecdef
  AND p.proconfig IS DISTINCT FROM ARRAY['search_path=pg_catalog, pg_temp']
ORDER BY 1;

-- The two roles, that nobody can log in as.
SELECT rolname, rolcanlogin, rolsuper, rolcreaterole, rolcreatedb
FROM pg_catalog.pg_roles WHERE rolname IN ('wh_admin', 'wh_analyst') ORDER BY 1;

-- A schema that somebody else made first could be theirs to change.
DROP EXTENSION startup_wh;
SELECT pg_catalog.count(*) AS left_behind FROM pg_catalog.pg_class WHERE relnamespace = 'wh'::regnamespace;
DROP SCHEMA wh;
CREATE ROLE wh_regress_squatter;
CREATE SCHEMA wh AUTHORIZATION wh_regress_squatter;
CREATE EXTENSION startup_wh;
DROP SCHEMA wh;
DROP ROLE wh_regress_squatter;
