//! Materialized views as the catalogs have them: who reads whom, and what a refresh must know of each.
//!
//! A function with a SQL body (BEGIN ATOMIC, RETURN) is looked through like a view, since pg_depend has what it reads.
//! What a function with a text body reads is known to nobody.

use serde::Deserialize;

use super::graph::Graph;
use crate::error::{sqlstate, Error, Result};
use crate::pg::{guc, spi, sql};

/// Functions' numbers in a graph begin here: their OIDs are those of another catalog.
const FUNCTIONS: i64 = 1 << 32;

/// From 17 on the privilege MAINTAIN lets others than the owner refresh (src/backend/commands/tablecmds.c,
/// RangeVarCallbackMaintainsTable).
const HAS_MAINTAIN: bool = cfg!(not(any(feature = "pg15", feature = "pg16")));

/// Up to 17 only a btree will do (src/backend/commands/matview.c, is_usable_unique_index).
const ANY_ACCESS_METHOD: bool = cfg!(not(any(feature = "pg15", feature = "pg16", feature = "pg17")));

/// What there is to know of one materialized view before it is refreshed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Facts {
    pub oid: u32,
    /// Qualified and quoted.
    pub name: String,
    /// OID of its owner.
    pub owner: u32,
    pub owner_name: String,
    pub populated: bool,
    /// There is an index that CONCURRENTLY can match rows by.
    pub unique_index: bool,
    /// The current user may refresh it.
    pub permitted: bool,
    kind: String,
}

impl Facts {
    /// Why CONCURRENTLY can't be used, where it can't.
    pub fn not_concurrently(&self) -> Option<&'static str> {
        match (self.unique_index, self.populated) {
            (false, _) => Some("no unique index on plain columns"),
            (true, false) => Some("not populated"),
            (true, true) => None,
        }
    }

    /// Refuses a user who may not refresh it.
    pub fn require_permission(&self) -> Result<()> {
        if self.permitted {
            return Ok(());
        }
        Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("permission denied to refresh {}", self.name))
            .detail(self.not_permitted())
            .hint(format!("Ask the owner, or a superuser for: GRANT {} TO ...", sql::ident(&self.owner_name))))
    }

    /// Why the current user may not refresh it.
    pub fn not_permitted(&self) -> String {
        let or = if HAS_MAINTAIN { ", one with MAINTAIN on it," } else { "" };
        format!("Only the owner \"{}\", a member of that role{or} or a superuser may refresh it.", self.owner_name)
    }
}

/// The materialized views of this database.
pub fn load() -> Result<Graph> {
    let _surroundings = guc::Scope::new(guc::DEPARSE)?;
    let materialized =
        spi::columns("SELECT oid::int8 FROM pg_class WHERE relkind = 'm'", &[], |row| row.get::<i64>(1))?;
    if materialized.is_empty() {
        return Ok(Graph::default());
    }
    let edges = spi::columns(EDGES, &[FUNCTIONS.into()], |row| Ok(row.get::<i64>(1)?.zip(row.get::<i64>(2)?)))?;
    let materialized: Vec<u32> = materialized.into_iter().map(|oid| oid as u32).collect();
    let edges: Vec<(u64, u64)> = edges.into_iter().map(|(above, below)| (above as u64, below as u64)).collect();
    Ok(Graph::new(&materialized, &edges, u64::from))
}

const EDGES: &str = "
SELECT DISTINCT v.ev_class::int8, r.oid::int8
FROM pg_rewrite v JOIN pg_class c ON c.oid = v.ev_class AND c.relkind IN ('v', 'm')
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = v.oid AND d.deptype = 'n' AND d.refclassid = 'pg_class'::regclass
JOIN pg_class r ON r.oid = d.refobjid AND r.relkind IN ('v', 'm') AND r.oid <> c.oid
WHERE v.rulename = '_RETURN'
UNION ALL
SELECT DISTINCT v.ev_class::int8, $1 + f.oid::int8
FROM pg_rewrite v JOIN pg_class c ON c.oid = v.ev_class AND c.relkind IN ('v', 'm')
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = v.oid AND d.deptype = 'n' AND d.refclassid = 'pg_proc'::regclass
JOIN pg_proc f ON f.oid = d.refobjid AND f.prosqlbody IS NOT NULL
WHERE v.rulename = '_RETURN'
UNION ALL
SELECT DISTINCT $1 + f.oid::int8, CASE WHEN d.refclassid = 'pg_proc'::regclass THEN $1 ELSE 0 END + d.refobjid::int8
FROM pg_proc f JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'n'
  AND d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass)
WHERE f.prosqlbody IS NOT NULL";

/// Facts about several materialized views; one that is gone or is none is left out.
pub fn all_facts(oids: &[u32]) -> Result<Vec<Facts>> {
    Ok(any_facts(oids)?.into_iter().filter(|f| f.kind == "m").collect())
}

/// Facts about one.
pub fn facts(oid: u32) -> Result<Facts> {
    match any_facts(&[oid])?.into_iter().next() {
        Some(facts) if facts.kind == "m" => Ok(facts),
        Some(other) => {
            Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, format!("{} is not a materialized view", other.name))
                .hint("SELECT view FROM wh.refresh_order lists the materialized views."))
        }
        None => Err(Error::new(sqlstate::UNDEFINED_TABLE, format!("materialized view with OID {oid} does not exist"))
            .detail("It may have been dropped a moment ago.")),
    }
}

fn any_facts(oids: &[u32]) -> Result<Vec<Facts>> {
    let _surroundings = guc::Scope::new(guc::DEPARSE)?;
    spi::prepared(FACTS, &[spi::oids(oids.iter().copied()), HAS_MAINTAIN.into(), ANY_ACCESS_METHOD.into()])
}

const FACTS: &str = "
SELECT json_build_object('oid', c.oid::int8, 'name', format('%I.%I', n.nspname, c.relname), 'kind', c.relkind,
  'owner', c.relowner::int8, 'owner_name', pg_get_userbyid(c.relowner), 'populated', c.relispopulated,
  'unique_index', EXISTS (
    SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indislive
      AND i.indpred IS NULL AND i.indexprs IS NULL AND NOT 0 = ANY (i.indkey)
      AND ($3 OR x.relam = (SELECT a.oid FROM pg_am a WHERE a.amname = 'btree'))),
  'permitted', CASE WHEN $2 THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE pg_has_role(c.relowner, 'USAGE') END)::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY ($1)";

/// What each materialized view names in its query: `(view, relation)`, both by OID, the relation's name last.
pub fn named_in(oids: &[u32]) -> Result<Vec<(u32, String)>> {
    let _surroundings = guc::Scope::new(guc::DEPARSE)?;
    spi::columns(NAMED, &[spi::oids(oids.iter().copied())], |row| {
        Ok(row.get::<i64>(1)?.map(|oid| oid as u32).zip(row.get::<String>(2)?))
    })
}

const NAMED: &str = "
SELECT DISTINCT v.ev_class::int8, format('%I.%I', n.nspname, c.relname) COLLATE \"C\"
FROM pg_rewrite v
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = v.oid AND d.deptype = 'n' AND d.refclassid = 'pg_class'::regclass
JOIN pg_class c ON c.oid = d.refobjid AND c.oid <> v.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE v.rulename = '_RETURN' AND v.ev_class = ANY ($1)
ORDER BY 1, 2";
