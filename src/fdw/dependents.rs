//! What stands on a relation: read from pg_depend, level by level.
//!
//! pg_depend has no row for a whole-row reference (`find_expr_references_walker`, src/backend/catalog/dependency.c),
//! so a view's stored query is searched for a Var of the relation's row type as well.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;

use crate::error::Result;
use crate::pg::spi;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    View,
    MaterializedView,
    /// A rule other than a view's own.
    Rule,
    /// A function or procedure with a SQL body (BEGIN ATOMIC or RETURN).
    Function,
    /// Anything else; `what` says it.
    Other,
}

/// One object that depends on one relation.
#[derive(Debug, Clone, Deserialize)]
pub struct Dependent {
    /// The relation that is depended on.
    pub on: u32,
    pub on_name: String,
    pub kind: Kind,
    /// The kind in words.
    pub what: String,
    /// `pg_class.oid` of a view or materialized view, else the object's own.
    pub oid: u32,
    /// The relation that must be locked to change it, 0 for a function.
    pub relation: u32,
    /// Qualified and quoted.
    pub name: String,
    pub owner: Option<String>,
    /// Attribute numbers of `on` that it uses.
    pub columns: Vec<i16>,
    pub column_names: Vec<String>,
    /// It uses the row as a whole.
    pub whole_row: bool,
    /// It has the row type, or an array of it, in an expression or a signature.
    pub row_type: bool,
}

/// Direct dependents of each relation, without what is part of the relation itself.
pub fn direct(relations: impl IntoIterator<Item = u32>) -> Result<Vec<Dependent>> {
    let relations: Vec<u32> = relations.into_iter().collect();
    match relations.is_empty() {
        true => Ok(Vec::new()),
        false => spi::prepared(DIRECT, &[spi::oids(relations)]),
    }
}

const DIRECT: &str = "
WITH on_rel AS (
  SELECT c.oid, c.reltype, t.typarray, format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_type t ON t.oid = c.reltype
  WHERE c.oid = ANY ($1)
), d AS (
  SELECT o.oid AS on_oid, d.classid, d.objid, d.objsubid, d.refobjsubid, false AS by_type, false AS in_signature
  FROM on_rel o JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = o.oid AND d.deptype IN ('n', 'a', 'i', 'P', 'S')
  UNION ALL
  SELECT o.oid, d.classid, d.objid, d.objsubid, 0, true, d.classid = 'pg_proc'::regclass AND EXISTS (SELECT FROM pg_proc f
    WHERE f.oid = d.objid AND array[o.reltype, o.typarray] && (f.prorettype || coalesce(f.proallargtypes, f.proargtypes::oid[])))
  FROM on_rel o JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid IN (o.reltype, o.typarray) AND d.deptype IN ('n', 'a')
), resolved AS (
  SELECT d.on_oid, d.refobjsubid, d.by_type,
    CASE WHEN d.classid = 'pg_rewrite'::regclass AND w.rulename = '_RETURN' THEN w.ev_class ELSE d.objid END AS oid,
    CASE WHEN d.classid = 'pg_rewrite'::regclass THEN w.ev_class WHEN d.classid = 'pg_class'::regclass THEN d.objid
         WHEN d.classid = 'pg_policy'::regclass THEN p.polrelid WHEN d.classid = 'pg_trigger'::regclass THEN tg.tgrelid
         WHEN d.classid = 'pg_constraint'::regclass THEN k.conrelid WHEN d.classid = 'pg_attrdef'::regclass THEN ad.adrelid
         WHEN d.classid = 'pg_statistic_ext'::regclass THEN se.stxrelid ELSE 0 END AS relation,
    CASE WHEN d.classid = 'pg_rewrite'::regclass AND w.rulename <> '_RETURN' THEN 'rule'
         WHEN d.classid = 'pg_rewrite'::regclass THEN CASE wc.relkind WHEN 'v' THEN 'view' ELSE 'materialized_view' END
         WHEN d.classid = 'pg_proc'::regclass AND f.prosqlbody IS NOT NULL AND NOT (d.by_type AND d.in_signature) THEN 'function' ELSE 'other' END AS kind,
    CASE WHEN d.classid = 'pg_rewrite'::regclass THEN w.rulename END AS rulename,
    d.classid, d.objid, d.objsubid
  FROM d
  LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
  LEFT JOIN pg_class wc ON wc.oid = w.ev_class
  LEFT JOIN pg_proc f ON d.classid = 'pg_proc'::regclass AND f.oid = d.objid
  LEFT JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
  LEFT JOIN pg_trigger tg ON d.classid = 'pg_trigger'::regclass AND tg.oid = d.objid
  LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
  LEFT JOIN pg_attrdef ad ON d.classid = 'pg_attrdef'::regclass AND ad.oid = d.objid
  LEFT JOIN pg_statistic_ext se ON d.classid = 'pg_statistic_ext'::regclass AND se.oid = d.objid
), grouped AS (
  SELECT on_oid, oid, relation, kind, min(classid::int8)::oid AS classid, min(objid::int8)::oid AS objid, min(objsubid) AS objsubid,
         min(rulename) AS rulename, bool_or(by_type) AS by_type,
         array_agg(DISTINCT refobjsubid) FILTER (WHERE refobjsubid > 0) AS columns
  FROM resolved
  WHERE relation <> on_oid AND NOT (classid = 'pg_type'::regclass)
    -- Indexes, sequences and toast tables are part of their table.
    AND NOT (classid = 'pg_class'::regclass AND EXISTS (SELECT FROM pg_class x WHERE x.oid = objid AND x.relkind IN ('i', 'I', 't', 'S')))
    -- A view's own column of the row type comes with the view.
    AND NOT (by_type AND classid = 'pg_class'::regclass AND EXISTS (SELECT FROM pg_class x WHERE x.oid = objid AND x.relkind IN ('v', 'm')))
  GROUP BY on_oid, oid, relation, kind
)
SELECT json_build_object('on', g.on_oid::int8, 'on_name', o.name, 'kind', g.kind, 'oid', g.oid::int8, 'relation', g.relation::int8,
         'what', CASE g.kind WHEN 'materialized_view' THEN 'materialized view' WHEN 'function' THEN 'SQL-body function'
                 WHEN 'other' THEN pg_identify.type ELSE g.kind END,
         'name', CASE WHEN g.kind IN ('view', 'materialized_view') THEN (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
                        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = g.oid)
                 WHEN g.kind = 'rule' THEN format('%I on %s', g.rulename, (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
                        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = g.relation))
                 ELSE pg_identify.identity END,
         'owner', CASE WHEN g.relation <> 0 THEN (SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = g.relation)
                  WHEN g.classid = 'pg_proc'::regclass THEN (SELECT pg_get_userbyid(f.proowner) FROM pg_proc f WHERE f.oid = g.objid) END,
         'columns', coalesce(g.columns, '{}'),
         'column_names', coalesce((SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
                                   WHERE a.attrelid = g.on_oid AND a.attnum = ANY (g.columns)), '{}'),
         'whole_row', g.by_type OR g.kind IN ('view', 'materialized_view', 'rule') AND EXISTS (
             SELECT FROM pg_rewrite w
             WHERE w.ev_class = g.relation AND strpos(w.ev_action::text, format(':vartype %s ', o.reltype)) > 0),
         'row_type', g.by_type)::text
FROM grouped g JOIN on_rel o ON o.oid = g.on_oid
CROSS JOIN LATERAL pg_identify_object(g.classid, g.objid, g.objsubid) AS pg_identify
ORDER BY g.on_oid, g.kind, g.oid";

/// The row types of relations and the arrays of them.
pub fn row_types(relations: impl IntoIterator<Item = u32>) -> Result<HashSet<u32>> {
    let types: Vec<Vec<u32>> = spi::prepared(
        "SELECT json_build_array(t.oid::int8, t.typarray::int8)::text FROM pg_type t JOIN pg_class c ON c.reltype = t.oid
         WHERE c.oid = ANY ($1)",
        &[spi::oids(relations)],
    )?;
    Ok(types.into_iter().flatten().filter(|t| *t != 0).collect())
}

/// Every relation above some others, with its level: one more than the highest of what it reads.
#[derive(Debug, Default)]
pub struct Above {
    pub edges: Vec<Dependent>,
    pub level: HashMap<u32, usize>,
}

impl Above {
    /// The level of one of them; what is none of them comes last.
    pub fn level_of(&self, oid: u32) -> usize {
        self.level.get(&oid).copied().unwrap_or(usize::MAX)
    }

    /// Relations that a change of what `touched` stand on has to lock, the highest first. A view's readers lock it before
    /// what it reads (parserOpenTable, then AcquireRewriteLocks): in another order each would wait for the other.
    pub fn highest_first(&self, touched: &[&Dependent]) -> Vec<u32> {
        let mut all: Vec<(usize, u32)> = touched.iter().map(|d| (self.level_of(d.oid), d.relation)).collect();
        all.retain(|(_, relation)| *relation != 0);
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.into_iter().map(|(_, relation)| relation).collect()
    }

    /// Those above `touched` that may have to change, too, and cannot be read while those are locked: plain views,
    /// through plain views. What stands on a materialized view is read without what that reads.
    pub fn with_views_above<'a>(&'a self, touched: Vec<&'a Dependent>) -> Vec<&'a Dependent> {
        let mut views_on: HashMap<u32, Vec<&Dependent>> = HashMap::new();
        for d in self.edges.iter().filter(|d| d.kind == Kind::View) {
            views_on.entry(d.on).or_default().push(d);
        }
        let mut seen: HashSet<u32> = touched.iter().map(|d| d.oid).collect();
        let (mut all, mut next) = (touched, 0);
        while let Some(d) = all.get(next) {
            let above = views_on.get(&d.oid).into_iter().flatten().filter(|v| seen.insert(v.oid));
            let above: Vec<&Dependent> = above.copied().collect();
            all.extend(above);
            next += 1;
        }
        all
    }
}

/// Walks up from `relations` through views, materialized views, rules and functions.
pub fn above(relations: impl IntoIterator<Item = u32>) -> Result<Above> {
    let mut above = Above::default();
    let mut seen: HashSet<u32> = HashSet::new();
    let mut next: Vec<u32> = relations.into_iter().collect();
    while !next.is_empty() {
        seen.extend(&next);
        let found = direct(next.iter().copied())?;
        next = found
            .iter()
            .filter(|d| matches!(d.kind, Kind::View | Kind::MaterializedView) && !seen.contains(&d.oid))
            .map(|d| d.oid)
            .collect();
        next.sort_unstable();
        next.dedup();
        above.edges.extend(found);
    }
    above.level = levels(&above.edges.iter().map(|d| (d.oid, d.on)).collect::<Vec<_>>());
    Ok(above)
}

/// Longest path from the bottom for each node of `(above, below)` edges. A cycle (views can be brought into one
/// through functions) ends at the number of nodes instead of running on.
fn levels(edges: &[(u32, u32)]) -> HashMap<u32, usize> {
    let mut readers: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (above, below) in edges {
        readers.entry(*below).or_default().push(*above);
    }
    let nodes: HashSet<u32> = edges.iter().map(|e| e.0).collect();
    let mut level: HashMap<u32, usize> = HashMap::new();
    let mut waiting: HashMap<u32, usize> = HashMap::new();
    for (above, below) in edges {
        if nodes.contains(below) {
            *waiting.entry(*above).or_default() += 1;
        }
    }
    // Kahn's algorithm: a node is placed when all that it reads is.
    let mut ready: Vec<u32> = nodes.iter().copied().filter(|n| !waiting.contains_key(n)).collect();
    for node in &ready {
        level.insert(*node, 1);
    }
    while let Some(node) = ready.pop() {
        let at = level.get(&node).copied().unwrap_or(1);
        for reader in readers.get(&node).into_iter().flatten() {
            let l = level.entry(*reader).or_default();
            *l = (*l).max(at + 1);
            if let Some(left) = waiting.get_mut(reader) {
                *left -= 1;
                if *left == 0 {
                    ready.push(*reader);
                }
            }
        }
    }
    for node in &nodes {
        if waiting.get(node).is_some_and(|left| *left > 0) {
            level.insert(*node, nodes.len() + 1);
        }
    }
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_the_longest_path() {
        // 1 is the table; 4 reads it directly and through 2 and 3.
        let level = levels(&[(2, 1), (3, 2), (4, 3), (4, 1), (5, 1)]);
        assert_eq!((level[&2], level[&3], level[&4], level[&5]), (1, 2, 3, 1));
    }

    #[test]
    fn a_cycle_ends() {
        let level = levels(&[(2, 1), (2, 3), (3, 2)]);
        assert_eq!((level[&2], level[&3]), (3, 3));
    }
}
