//! Taking grants back, whoever gave them. Postgres takes what the current user granted, so each is taken as its grantor,
//! and what was passed on goes before what it stands on.

use pgrx::datum::DatumWithOid;
use serde::Deserialize;

use crate::error::Result;
use crate::fdw::{as_grantor, in_order, left_over, Grant};
use crate::pg::spi;

/// A privilege that somebody other than the owner holds on a schema, a relation, routine or type of one, or a large object.
#[derive(Debug, Clone, Deserialize)]
pub struct Given {
    /// As REVOKE has it after ON.
    pub on: String,
    /// A large object is in none.
    schema: Option<String>,
    owner: u32,
    /// `SELECT`, or `SELECT (column)`.
    pub privilege: String,
    /// Quoted, or PUBLIC.
    pub grantee: String,
    pub grantor: u32,
    grantor_name: String,
    grantable: bool,
}

impl Given {
    /// The thing's name, without its kind.
    pub fn name(&self) -> &str {
        ["TABLE ", "ROUTINE ", "TYPE ", "SCHEMA "]
            .into_iter()
            .find_map(|kind| self.on.strip_prefix(kind))
            .unwrap_or(&self.on)
    }
}

/// A table of them, `given`: the columns above, and `class`, `object`, `grantee_oid`. Schemas come last: their USAGE is
/// needed to name what is in them.
const GIVEN: &str = "
    WITH acl (class, object, schema, thing, part, owner, list) AS (
      SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, c.relnamespace, 'TABLE ', NULL::name, c.relowner, c.relacl
      FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relacl IS NOT NULL
      UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, c.relnamespace, 'TABLE ', a.attname, c.relowner, a.attacl
      FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid WHERE a.attacl IS NOT NULL AND NOT a.attisdropped
      UNION ALL SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, p.pronamespace, 'ROUTINE ', NULL, p.proowner, coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))
      FROM pg_catalog.pg_proc p WHERE p.oid >= 16384
      UNION ALL SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, t.typnamespace, 'TYPE ', NULL, t.typowner, t.typacl
      FROM pg_catalog.pg_type t WHERE t.typacl IS NOT NULL
      UNION ALL SELECT 'pg_catalog.pg_largeobject'::pg_catalog.regclass, l.oid, NULL, 'LARGE OBJECT ', NULL, l.lomowner, l.lomacl
      FROM pg_catalog.pg_largeobject_metadata l WHERE l.lomacl IS NOT NULL
      UNION ALL SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass, n.oid, n.oid, 'SCHEMA ', NULL, n.nspowner, n.nspacl
      FROM pg_catalog.pg_namespace n WHERE n.nspacl IS NOT NULL
    ), given AS (
      SELECT a.class, a.object, a.thing || CASE a.thing WHEN 'SCHEMA ' THEN pg_catalog.quote_ident(n.nspname) WHEN 'ROUTINE ' THEN a.object::pg_catalog.regprocedure::text
               WHEN 'TYPE ' THEN a.object::pg_catalog.regtype::text WHEN 'LARGE OBJECT ' THEN a.object::text
               ELSE pg_catalog.format('%I.%I', n.nspname, (SELECT c.relname FROM pg_catalog.pg_class c WHERE c.oid = a.object)) END AS on,
             n.nspname AS schema, a.owner::int8, x.privilege_type || coalesce(' (' || pg_catalog.quote_ident(a.part) || ')', '') AS privilege,
             CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(g.rolname) END AS grantee, x.grantee AS grantee_oid,
             x.grantor::int8, pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantor)) AS grantor_name, x.is_grantable AS grantable
      FROM acl a LEFT JOIN pg_catalog.pg_namespace n ON n.oid = a.schema CROSS JOIN LATERAL pg_catalog.aclexplode(a.list) x
      LEFT JOIN pg_catalog.pg_roles g ON g.oid = x.grantee
      WHERE x.grantee <> a.owner AND (x.grantee = 0 OR g.oid IS NOT NULL)
    )";

/// Those that a condition on the columns of `given` chooses; a constant of ours, as is every word of it.
fn find(condition: &'static str, args: &[DatumWithOid]) -> Result<Vec<Given>> {
    spi::rows(
        &format!(
            "{GIVEN} SELECT pg_catalog.row_to_json(given)::text FROM given WHERE {condition}
             ORDER BY given.class = 'pg_catalog.pg_namespace'::pg_catalog.regclass, given.on"
        ),
        args,
    )
}

/// Takes them back, and with them whatever the grantees have passed on.
fn take(given: &[Given]) -> Result<()> {
    for one in given.chunk_by(|a, b| a.on == b.on) {
        let Some(first) = one.first() else { continue };
        let grants = one.iter().map(|g| Grant {
            privilege: g.privilege.clone(),
            grantee: g.grantee.clone(),
            grantor_name: g.grantor_name.clone(),
            grantor: g.grantor,
            grantable: g.grantable,
            statement: format!("REVOKE {} ON {} FROM {} CASCADE", g.privilege, g.on, g.grantee),
        });
        for grant in in_order(first.owner, grants.collect()).into_iter().rev() {
            if grant.grantor == first.owner {
                spi::run(&grant.statement, &[])?;
                continue;
            }
            as_grantor(&grant, first.schema.as_slice(), |g| spi::run(&g.statement, &[]))?;
        }
    }
    Ok(())
}

/// Takes those that a condition chooses ([`find`]), and fails where one of them is still there.
pub fn take_all(condition: &'static str, args: &[DatumWithOid]) -> Result<Vec<Given>> {
    let given = find(condition, args)?;
    take(&given)?;
    match find(condition, args)?.first() {
        None => Ok(given),
        Some(g) => Err(left_over(&g.privilege, &g.on, &g.grantee, &g.grantor_name, "call this again")),
    }
}
