-- Schema, roles and grants that come first.

-- CREATE EXTENSION makes schema wh where it is missing. One that somebody else made could be theirs to change.
DO $$
DECLARE
  owner_name name := (SELECT pg_catalog.pg_get_userbyid(nspowner) FROM pg_catalog.pg_namespace WHERE nspname = 'wh');
BEGIN
  IF owner_name <> current_user AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = owner_name) THEN
    RAISE EXCEPTION 'schema "wh" belongs to "%"', owner_name
      USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = 'Whoever owns the schema could replace the objects of startup_wh.',
            HINT = 'Rename that schema, or ALTER SCHEMA wh OWNER TO a superuser.';
  END IF;
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'wh_admin') THEN
    CREATE ROLE wh_admin NOLOGIN;
    COMMENT ON ROLE wh_admin IS 'startup_wh: may change the warehouse (create_fdw, recreate_fdw, hide, ...)';
  END IF;
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'wh_analyst') THEN
    CREATE ROLE wh_analyst NOLOGIN;
    COMMENT ON ROLE wh_analyst IS 'startup_wh: may read the views of schema wh';
  END IF;
END
$$;

COMMENT ON SCHEMA wh IS 'startup_wh: one Postgres as a startup''s data warehouse';
GRANT USAGE ON SCHEMA wh TO wh_admin, wh_analyst;
