//! What a relation can do with its new owner's rights that it could not with the old one's: a view reads and writes with
//! its owner's, and so do the rules of a table.

use super::{grants, rights, Row};
use crate::error::Result;
use crate::pg::spi;

/// Relations of `$1` that reach something which `$1` may not, and `$2` may: through their queries and rules, each other,
/// and views of anybody that look as who looks (security_invoker). With row security it depends on the role what is
/// there at all.
const REACHES: &str = "
    WITH RECURSIVE edge (above, base) AS (
      SELECT DISTINCT w.ev_class, d.refobjid FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_class v ON v.oid = w.ev_class
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> w.ev_class
      WHERE v.relowner = $1 OR EXISTS (SELECT FROM pg_catalog.unnest(v.reloptions) o WHERE o ~* '^security_invoker=(t|y|on|1)')
    ), reach (relation, base) AS (
      SELECT e.above, e.base FROM edge e JOIN pg_catalog.pg_class c ON c.oid = e.base
      WHERE c.relowner <> $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND (c.relrowsecurity
        OR EXISTS (SELECT FROM (VALUES ('SELECT'), ('INSERT'), ('UPDATE')) p (privilege)
                   WHERE NOT pg_catalog.has_table_privilege($1, c.oid, p.privilege) AND pg_catalog.has_any_column_privilege($2, c.oid, p.privilege))
        OR (NOT pg_catalog.has_table_privilege($1, c.oid, 'DELETE') AND pg_catalog.has_table_privilege($2, c.oid, 'DELETE')))
      UNION SELECT e.above, r.base FROM reach r JOIN edge e ON e.base = r.relation
    )
    SELECT pg_catalog.json_build_array(c.oid::int8, pg_catalog.format('%I.%I', n.nspname, c.relname), CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'table' END,
             pg_catalog.string_agg(pg_catalog.format('%I.%I', bn.nspname, b.relname), ', ' ORDER BY bn.nspname, b.relname))::text
    FROM reach r JOIN pg_catalog.pg_class c ON c.oid = r.relation AND c.relowner = $1 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_class b ON b.oid = r.base JOIN pg_catalog.pg_namespace bn ON bn.oid = b.relnamespace
    GROUP BY c.oid, n.nspname, c.relname, c.relkind ORDER BY n.nspname, c.relname";

/// Takes from everybody what they were given on such relations: else whom the old owner chose would reach it.
pub fn close(role: &rights::Role, heir: &rights::Role, done: &mut Vec<Row>) -> Result<()> {
    let found: Vec<(u32, String, String, String)> = spi::rows(REACHES, &[spi::oid(role.oid), spi::oid(heir.oid)])?;
    for (relation, name, kind, base) in found {
        grants::take_all(
            "given.class = 'pg_catalog.pg_class'::pg_catalog.regclass AND given.object = $1",
            &[spi::oid(relation)],
        )?;
        let kind = ["view", "materialized view"].into_iter().find(|k| *k == kind).unwrap_or("table");
        done.push(Row::new(name, kind, "closed").detail(format!(
            "it reads or writes {base}, where \"{}\" can do more than \"{}\" could; look at it before you share it again",
            heir.name, role.name
        )));
    }
    Ok(())
}
