//! The analysts as the catalogs have them.

use super::standard::Analyst;
use crate::error::Result;
use crate::pg::spi;

/// Whether the default privileges of a role in a schema let another read. Arguments are SQL.
fn reads_by_default(owner: &str, schema: &str, grantee: &str) -> String {
    format!(
        "EXISTS (SELECT FROM pg_catalog.pg_default_acl d JOIN pg_catalog.pg_namespace dn ON dn.oid = d.defaclnamespace,
                        pg_catalog.aclexplode(d.defaclacl) x
                 WHERE d.defaclrole = {owner} AND dn.nspname = {schema} AND d.defaclobjtype = 'r'
                   AND x.grantee = {grantee} AND x.privilege_type = 'SELECT')"
    )
}

/// All analysts, or one, by name or the number of a role that is gone.
pub fn analysts(only: Option<u32>) -> Result<Vec<Analyst>> {
    let group_reads = reads_by_default("a.role::oid", "a.schema", "g.role::oid");
    let team_reads = format!(
        "({} AND (t.private OR {}))",
        reads_by_default("a.role::oid", "t.schema", "t.role::oid"),
        reads_by_default("a.role::oid", "t.schema", "g.role::oid"),
    );
    spi::rows(
        &format!(
            "WITH written AS MATERIALIZED (
               SELECT x.grantee, x.privilege_type, pg_catalog.format('%I.%I', n.nspname, c.relname) AS relation
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, pg_catalog.aclexplode(c.relacl) x
               WHERE n.nspname IN (SELECT local_schema FROM wh.fdw UNION ALL SELECT schema FROM wh.source)
                 AND x.privilege_type <> 'SELECT' AND x.grantee <> c.relowner AND x.grantee <> 0
             ), created AS MATERIALIZED (
               SELECT x.grantee, n.nspname FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) x
               WHERE x.privilege_type = 'CREATE' AND x.grantee <> n.nspowner AND x.grantee <> 0
             )
             SELECT pg_catalog.json_build_object(
               'oid', coalesce(r.oid::int8, 0), 'name', coalesce(r.rolname, a.schema), 'schema', a.schema,
               'can_login', coalesce(r.rolcanlogin, false), 'inherits', coalesce(r.rolinherit, false),
               'attributes', ARRAY(SELECT w FROM (VALUES (CASE WHEN r.rolsuper THEN 'SUPERUSER' END), (CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END),
                 (CASE WHEN r.rolcreatedb THEN 'CREATEDB' END), (CASE WHEN r.rolreplication THEN 'REPLICATION' END),
                 (CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END)) v (w) WHERE w IS NOT NULL),
               'in_group', EXISTS (SELECT FROM pg_catalog.pg_auth_members m WHERE m.roleid = g.role::oid AND m.member = r.oid),
               'team', CASE WHEN t.role IS NOT NULL THEN pg_catalog.json_build_object('name', pg_catalog.pg_get_userbyid(t.role::oid), 'schema', t.schema,
                 'member', EXISTS (SELECT FROM pg_catalog.pg_auth_members m WHERE m.roleid = t.role::oid AND m.member = r.oid)) END,
               'others', ARRAY(SELECT DISTINCT o.rolname FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles o ON o.oid = m.roleid
                 WHERE m.member = r.oid AND m.roleid <> g.role::oid AND m.roleid IS DISTINCT FROM t.role::oid AND o.rolname <> 'wh_analyst' ORDER BY 1),
               'schema_owner', pg_catalog.pg_get_userbyid(n.nspowner), 'private', a.private,
               'group_uses', EXISTS (SELECT FROM pg_catalog.aclexplode(n.nspacl) x WHERE x.grantee = g.role::oid AND x.privilege_type = 'USAGE'),
               'group_reads', {group_reads}, 'team_reads', {team_reads},
               'search_path', (SELECT pg_catalog.substr(c, 13) FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c
                 WHERE s.setrole = r.oid AND s.setdatabase = d.oid AND pg_catalog.starts_with(c, 'search_path=')),
               'set_search_path', a.search_path,
               'limited', EXISTS (SELECT FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c
                 WHERE s.setrole = r.oid AND s.setdatabase IN (0, d.oid) AND pg_catalog.starts_with(c, 'startup_wh.max_query_time=')),
               'writes', ARRAY(SELECT pg_catalog.json_build_array(w.privilege_type, w.relation) FROM written w WHERE w.grantee = r.oid ORDER BY w.relation, w.privilege_type LIMIT 50),
               'creates_in', ARRAY(SELECT c.nspname FROM created c WHERE c.grantee = r.oid AND c.nspname NOT IN (a.schema, coalesce(t.schema, '')) ORDER BY 1)
             )::text
             FROM wh.analyst a LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.role::oid LEFT JOIN wh.team t ON t.role = a.team
             LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = a.schema
             JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
             LEFT JOIN wh.reader_group g ON true
             WHERE $1 IS NULL OR a.role::oid = $1 ORDER BY a.schema"
        ),
        &[only.map(pgrx::pg_sys::Oid::from).into()],
    )
}

/// One analyst.
pub fn analyst(role: u32) -> Result<Option<Analyst>> {
    Ok(analysts(Some(role))?.pop())
}
