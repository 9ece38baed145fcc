//! Views outside of a schema that was closed: those that stop working, and those that go on showing what is in it.

use super::Row;
use crate::error::Result;
use crate::pg::spi;

/// Views elsewhere that go on showing what is in the schema, because their owner still reads it, and materialized views,
/// which hold what they read: with those who read them and neither own the schema nor are of the team.
pub fn still_shown(schema: &str, stays: &str) -> Result<Vec<Row>> {
    let views: Vec<(String, bool, String, String, String)> = spi::rows(
        "WITH RECURSIVE seen (relation, reads, shows) AS (
           SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), true
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
           UNION SELECT v.oid, s.reads, v.relkind = 'm' OR (s.shows AND pg_catalog.has_any_column_privilege(v.relowner, s.relation, 'SELECT')
             -- One that asks with its reader's rights lends none, whatever stands on it.
             AND NOT EXISTS (SELECT FROM pg_catalog.pg_options_to_table(v.reloptions) o WHERE o.option_name = 'security_invoker' AND o.option_value::boolean))
           FROM seen s JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = s.relation
             AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
           JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid AND w.rulename = '_RETURN' JOIN pg_catalog.pg_class v ON v.oid = w.ev_class AND v.oid <> s.relation
         )
         SELECT pg_catalog.json_build_array(pg_catalog.format('%I.%I', n.nspname, v.relname), v.relkind = 'm',
           pg_catalog.pg_get_userbyid(v.relowner), s.reads, r.readers)::text
         FROM (SELECT relation, pg_catalog.string_agg(DISTINCT reads, ', ') AS reads FROM seen GROUP BY relation HAVING pg_catalog.bool_and(shows)) s
         JOIN pg_catalog.pg_class v ON v.oid = s.relation JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
         CROSS JOIN LATERAL (
           SELECT pg_catalog.string_agg(DISTINCT CASE g.role WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.role)) END, ', ') AS readers
           FROM (SELECT v.relowner UNION ALL SELECT x.grantee FROM pg_catalog.aclexplode(v.relacl) x WHERE x.privilege_type = 'SELECT'
                 UNION ALL SELECT x.grantee FROM pg_catalog.pg_attribute a, pg_catalog.aclexplode(a.attacl) x
                 WHERE a.attrelid = v.oid AND x.privilege_type = 'SELECT') g (role)
           LEFT JOIN pg_catalog.pg_roles o ON o.oid = g.role
           WHERE CASE WHEN o.oid IS NULL THEN g.role = 0 ELSE NOT pg_catalog.pg_has_role(o.oid, $2, 'USAGE') END) r
         WHERE v.relkind IN ('v', 'm') AND n.nspname <> $1 AND r.readers IS NOT NULL ORDER BY n.nspname, v.relname",
        &[schema.into(), stays.into()],
    )?;
    Ok(views
        .into_iter()
        .map(|(view, materialized, owner, reads, readers)| {
            Row::new(view, if materialized { "materialized view" } else { "view" }, "still shows")
                .detail(format!("of \"{owner}\", to {readers}: it reads {reads}; its owner can close or drop it"))
        })
        .collect())
}

/// Views elsewhere that read from the schema and whose owners may not any more.
pub fn broken(schema: &str) -> Result<Vec<Row>> {
    let views: Vec<(String, String, String)> = spi::rows(
        "SELECT DISTINCT pg_catalog.json_build_array(pg_catalog.format('%I.%I', vn.nspname, v.relname), pg_catalog.pg_get_userbyid(v.relowner),
                pg_catalog.format('%I.%I', n.nspname, c.relname))::text
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = c.oid
           AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
         JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid JOIN pg_catalog.pg_class v ON v.oid = w.ev_class
         JOIN pg_catalog.pg_namespace vn ON vn.oid = v.relnamespace
         WHERE n.nspname = $1 AND v.relnamespace <> n.oid AND NOT pg_catalog.has_table_privilege(v.relowner, c.oid, 'SELECT')
           AND NOT pg_catalog.has_any_column_privilege(v.relowner, c.oid, 'SELECT')",
        &[schema.into()],
    )?;
    Ok(views
        .into_iter()
        .map(|(view, owner, reads)| {
            Row::new(view, "view", "cannot read").detail(format!("of \"{owner}\": it reads {reads}"))
        })
        .collect())
}
