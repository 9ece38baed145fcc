//! What an analyst wrote and Postgres runs by itself: ANALYZE, and so autovacuum, evaluates the expressions of indexes and
//! of extended statistics as the table's owner. With another owner it runs with other rights, and nobody has to do anything.

use super::rights;
use crate::error::{sqlstate, Error, Result};
use crate::pg::spi;

/// Indexes and statistics of relations of `$1` with somebody's functions, operators or domains in them, neither a
/// superuser's nor those of `$2`, and what those are.
const RUNS: &str = "
    SELECT pg_catalog.json_build_array(i.kind, pg_catalog.format('%I.%I', n.nspname, i.name), pg_catalog.string_agg(DISTINCT w.what, ', '))::text
    FROM (SELECT 'INDEX' AS kind, 'pg_catalog.pg_class'::pg_catalog.regclass AS class, x.indexrelid AS oid, k.relname AS name, k.relnamespace AS schema, c.relowner AS owner
          FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class k ON k.oid = x.indexrelid JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
          WHERE x.indexprs IS NOT NULL OR x.indpred IS NOT NULL
          UNION ALL SELECT 'STATISTICS', 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, s.oid, s.stxname, s.stxnamespace, c.relowner
          FROM pg_catalog.pg_statistic_ext s JOIN pg_catalog.pg_class c ON c.oid = s.stxrelid WHERE s.stxexprs IS NOT NULL) i
    JOIN pg_catalog.pg_namespace n ON n.oid = i.schema
    JOIN pg_catalog.pg_depend d ON d.classid = i.class AND d.objid = i.oid
    LEFT JOIN pg_catalog.pg_proc p ON d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid = d.refobjid
    LEFT JOIN pg_catalog.pg_operator o ON d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND o.oid = d.refobjid
    LEFT JOIN pg_catalog.pg_type t ON d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND t.oid = d.refobjid
    JOIN pg_catalog.pg_roles r ON r.oid = coalesce(p.proowner, o.oprowner, t.typowner) AND NOT r.rolsuper AND r.oid <> $2
    CROSS JOIN LATERAL pg_catalog.pg_describe_object(d.refclassid, d.refobjid, 0) w (what)
    WHERE i.owner = $1 GROUP BY i.kind, n.nspname, i.name ORDER BY i.kind, n.nspname, i.name LIMIT 1";

/// Refuses an heir as whom such code would run, but for a team that nobody is in: there is nothing to be had with its
/// rights.
pub fn refuse(role: &rights::Role, heir: &rights::Role) -> Result<()> {
    let nobody: Option<bool> = spi::first(
        "SELECT 'true' FROM wh.team t WHERE t.role::oid = $1 AND NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members m WHERE m.roleid = $1)",
        &[spi::oid(heir.oid)],
    )?;
    if nobody.is_some() {
        return Ok(());
    }
    let found: Option<(String, String, String)> = spi::first(RUNS, &[spi::oid(role.oid), spi::oid(heir.oid)])?;
    let Some((kind, name, what)) = found else { return Ok(()) };
    Err(Error::new(
        sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("what \"{}\" wrote would run by itself with the rights of \"{}\"", role.name, heir.name),
    )
    .detail(format!(
        "ANALYZE and autovacuum evaluate {} {name} as the owner of its table, and in it {what}.",
        kind.to_lowercase()
    ))
    .hint(format!(
        "DROP {kind} {name}, or give it to a team that nobody is in: SELECT * FROM wh.add_team('archive') makes one."
    )))
}
