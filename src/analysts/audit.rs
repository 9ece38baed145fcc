//! Who can read which table of apps and sources, and by which grant; and what is open that should not be.
//!
//! The catalogs are read once, and the sets of roles are made here: to ask the server for each role and each table would
//! be millions of questions.

use std::collections::HashMap;
use std::rc::Rc;

use serde::Deserialize;

use super::rights;
use crate::error::Result;
use crate::pg::spi;

/// A row of wh.audit_access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub kind: &'static str,
    pub object: String,
    pub path: String,
    /// Empty where it is about everybody.
    pub roles: Names,
    pub detail: Option<String>,
    pub mend: Option<String>,
}

/// Names of roles, shared by the rows that have the same.
pub type Names = Rc<Vec<String>>;

/// A role that reads: one that can log in, or the one that was asked for. Superusers are told once, and not here.
#[derive(Debug, Clone, Deserialize)]
pub struct Reader {
    pub name: String,
    /// The grantees whose rights it has.
    pub of: Vec<u32>,
    /// The schemas that it may look into.
    pub schemas: Vec<u32>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Relation {
    pub oid: u32,
    pub name: String,
    pub schema: u32,
    pub owner: u32,
    pub owner_name: String,
    /// view, table, ...
    pub kind: String,
    /// Of apps and sources.
    pub open: bool,
    pub grants: Vec<Grant>,
}

/// SELECT, of all columns or some.
#[derive(Debug, Clone, Deserialize)]
pub struct Grant {
    /// 0 is PUBLIC.
    pub to: u32,
    pub to_name: String,
    pub columns: Option<Vec<String>>,
}

/// Readers by their place, a bit each: sets are joined and compared for each of ten thousand tables.
type Set = Vec<u64>;

fn join(all: &mut Set, more: &Set) {
    all.resize(all.len().max(more.len()), 0);
    all.iter_mut().zip(more).for_each(|(a, m)| *a |= m);
}

fn without(all: &mut Set, less: &Set) {
    all.iter_mut().zip(less).for_each(|(a, l)| *a &= !l);
}

fn is_empty(set: &Set) -> bool {
    set.iter().all(|word| *word == 0)
}

/// Sets of readers and their names, each made once.
struct Sets<'a> {
    readers: &'a [Reader],
    having: HashMap<(u32, u32), Set>,
    names: HashMap<Set, Names>,
}

impl Sets<'_> {
    /// Who has what a role was given (0 is PUBLIC), and may look into the schema.
    fn having(&mut self, to: u32, schema: u32) -> &Set {
        let readers = self.readers;
        self.having.entry((to, schema)).or_insert_with(|| {
            let mut set = vec![0; readers.len().div_ceil(64)];
            let may = |r: &Reader| (to == 0 || r.of.contains(&to)) && r.schemas.contains(&schema);
            readers.iter().enumerate().filter(|(_, r)| may(r)).for_each(|(n, _)| set[n / 64] |= 1 << (n % 64));
            set
        })
    }

    fn names(&mut self, set: &Set) -> Names {
        if let Some(known) = self.names.get(set) {
            return Rc::clone(known);
        }
        let all = self.readers.iter().enumerate().filter(|(n, _)| (set[n / 64] >> (n % 64)) & 1 == 1);
        let made: Names = Rc::new(all.map(|(_, r)| r.name.clone()).collect());
        self.names.insert(set.clone(), Rc::clone(&made));
        made
    }
}

/// Who reads what, by grants, by ownership, and through views. Pure.
pub fn decide(readers: &[Reader], relations: &[Relation], reads: &[(u32, u32)]) -> Vec<Finding> {
    let mut sets = Sets { readers, having: HashMap::new(), names: HashMap::new() };
    let access = |object: &str, path: String, roles: Names| Finding {
        kind: "access",
        object: object.to_owned(),
        path,
        roles,
        detail: None,
        mend: None,
    };
    let mut found = Vec::new();
    for r in relations.iter().filter(|r| r.open) {
        let owners = sets.having(r.owner, r.schema).clone();
        if !is_empty(&owners) {
            found.push(access(&r.name, format!("owned by \"{}\"", r.owner_name), sets.names(&owners)));
        }
        for g in &r.grants {
            let set = sets.having(g.to, r.schema).clone();
            if is_empty(&set) {
                continue;
            }
            let to = if g.to == 0 { String::from("PUBLIC") } else { format!("\"{}\"", g.to_name) };
            let what = g.columns.as_ref().map_or(String::new(), |c| format!(" ({})", c.join(", ")));
            found.push(access(&r.name, format!("SELECT{what} to {to}"), sets.names(&set)));
        }
    }
    // A view reads with its owner's rights: whoever may read it sees what the owner may.
    let by_oid: HashMap<u32, &Relation> = relations.iter().map(|r| (r.oid, r)).collect();
    for (base, view) in reads.iter().filter(|(base, view)| base != view) {
        let (Some(base), Some(view)) = (by_oid.get(base), by_oid.get(view)) else { continue };
        let mut set: Set = Vec::new();
        for g in &view.grants {
            join(&mut set, sets.having(g.to, view.schema));
        }
        if view.kind == "materialized view" {
            join(&mut set, sets.having(view.owner, view.schema));
        }
        // Those who read all of it anyway.
        without(&mut set, sets.having(base.owner, base.schema));
        for g in base.grants.iter().filter(|g| g.columns.is_none()) {
            without(&mut set, sets.having(g.to, base.schema));
        }
        if !is_empty(&set) {
            let path = format!("through {} {} of \"{}\"", view.kind, view.name, view.owner_name);
            found.push(access(&base.name, path, sets.names(&set)));
        }
    }
    found.sort_by(|a, b| (&a.object, &a.path).cmp(&(&b.object, &b.path)));
    found
}

/// The readers, of all or of one. `$1` is the role or null.
const READERS: &str = "
    WITH grantee AS MATERIALIZED (
      SELECT DISTINCT x.grantee AS oid FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) x WHERE x.privilege_type = 'SELECT' AND x.grantee <> 0 AND c.oid >= 16384
      UNION SELECT x.grantee FROM pg_catalog.pg_attribute a, pg_catalog.aclexplode(a.attacl) x WHERE x.privilege_type = 'SELECT' AND x.grantee <> 0
      UNION SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f'))
    SELECT pg_catalog.json_build_object('name', r.rolname,
      'of', ARRAY(SELECT g.oid::int8 FROM grantee g WHERE EXISTS (SELECT FROM pg_catalog.pg_roles p WHERE p.oid = g.oid) AND pg_catalog.pg_has_role(r.oid, g.oid, 'USAGE')),
      'schemas', ARRAY(SELECT n.oid::int8 FROM pg_catalog.pg_namespace n WHERE n.nspname NOT LIKE 'pg\\_%' AND pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE')))::text
    FROM pg_catalog.pg_roles r WHERE NOT r.rolsuper AND CASE WHEN $1::text IS NULL THEN r.rolcanlogin ELSE r.rolname = $1 END ORDER BY r.rolname";

/// What stands on the tables of apps and sources, at any height: base, view.
const READS: &str = "
    WITH RECURSIVE edge AS (
      SELECT DISTINCT d.refobjid AS base, w.ev_class AS view FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid
      WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        AND d.refobjid <> w.ev_class AND d.refobjid >= 16384
    ), above (base, view) AS (
      SELECT e.base, e.view FROM edge e JOIN pg_catalog.pg_class c ON c.oid = e.base JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname IN (SELECT local_schema FROM wh.fdw UNION ALL SELECT schema FROM wh.source)
      UNION SELECT a.base, e.view FROM above a JOIN edge e ON e.base = a.view
    )";

const RELATIONS: &str = "
    SELECT pg_catalog.json_build_object('oid', c.oid::int8, 'name', pg_catalog.format('%I.%I', n.nspname, c.relname), 'schema', n.oid::int8,
      'owner', c.relowner::int8, 'owner_name', pg_catalog.pg_get_userbyid(c.relowner),
      'kind', CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'table' END,
      'open', n.nspname IN (SELECT local_schema FROM wh.fdw UNION ALL SELECT schema FROM wh.source),
      'grants', (SELECT coalesce(pg_catalog.json_agg(g), '[]') FROM (
        SELECT x.grantee::int8 AS to, pg_catalog.pg_get_userbyid(x.grantee) AS to_name, NULL::text[] AS columns
        FROM pg_catalog.aclexplode(c.relacl) x WHERE x.privilege_type = 'SELECT' AND x.grantee <> c.relowner
        UNION ALL SELECT x.grantee::int8, pg_catalog.pg_get_userbyid(x.grantee), pg_catalog.array_agg(a.attname::text ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a, pg_catalog.aclexplode(a.attacl) x
        WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL AND NOT a.attisdropped AND x.privilege_type = 'SELECT' AND x.grantee <> c.relowner GROUP BY x.grantee) g))::text
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'wh'
      AND (n.nspname IN (SELECT local_schema FROM wh.fdw UNION ALL SELECT schema FROM wh.source) OR c.oid IN (SELECT view FROM above))";

/// Everything, of all roles that can log in or of one.
pub fn access(role: Option<&str>) -> Result<Vec<Finding>> {
    if let Some(name) = role {
        rights::named(name)?.ok_or_else(|| rights::missing(name))?;
    }
    let one = || role.map(str::to_owned).into();
    let readers: Vec<Reader> = spi::rows(READERS, &[one()])?;
    let relations: Vec<Relation> = spi::rows(&format!("{READS} {RELATIONS}"), &[])?;
    let reads: Vec<(u32, u32)> = spi::rows(
        &format!("{READS} SELECT pg_catalog.json_build_array(base::int8, view::int8)::text FROM above"),
        &[],
    )?;
    let mut found = everything(role)?;
    found.extend(decide(&readers, &relations, &reads));
    found.extend(super::dangers::all(role)?);
    Ok(found)
}

/// Those who read all there is, whatever is granted.
fn everything(role: Option<&str>) -> Result<Vec<Finding>> {
    let who: Vec<(String, Vec<String>)> = spi::rows(
        "SELECT pg_catalog.json_build_array(w.path, pg_catalog.array_agg(r.rolname ORDER BY r.rolname))::text
         FROM pg_catalog.pg_roles r CROSS JOIN LATERAL (VALUES (CASE WHEN r.rolsuper THEN 'superuser'
           WHEN pg_catalog.pg_has_role(r.oid, 'pg_read_all_data', 'USAGE') THEN 'member of \"pg_read_all_data\"' END)) w (path)
         WHERE w.path IS NOT NULL AND CASE WHEN $1::text IS NULL THEN r.rolcanlogin ELSE r.rolname = $1 END GROUP BY w.path ORDER BY w.path DESC",
        &[role.map(str::to_owned).into()],
    )?;
    Ok(who
        .into_iter()
        .map(|(path, roles)| Finding {
            kind: "access",
            object: String::from("*"),
            path,
            roles: Rc::new(roles),
            detail: Some(String::from("every table, whatever is granted")),
            mend: None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(name: &str, of: &[u32]) -> Reader {
        Reader { name: name.into(), of: of.to_vec(), schemas: vec![1, 2] }
    }

    fn relation(oid: u32, name: &str, kind: &str, owner: u32, grants: &[(u32, Option<&str>)]) -> Relation {
        Relation {
            oid,
            name: name.into(),
            schema: 1,
            owner,
            owner_name: format!("r{owner}"),
            kind: kind.into(),
            open: kind == "table",
            grants: grants
                .iter()
                .map(|(to, columns)| Grant {
                    to: *to,
                    to_name: format!("r{to}"),
                    columns: columns.map(|c| vec![c.to_owned()]),
                })
                .collect(),
        }
    }

    fn told(found: &[Finding]) -> Vec<String> {
        found.iter().map(|f| format!("{} {}: {}", f.object, f.path, f.roles.join(" "))).collect()
    }

    #[test]
    fn grants_to_a_group_are_its_members() {
        let readers = [reader("alice", &[100, 7]), reader("bob", &[101, 7]), reader("carol", &[102])];
        let relations = [relation(1, "app.users", "table", 10, &[(7, None), (102, Some("id"))])];
        assert_eq!(
            told(&decide(&readers, &relations, &[])),
            ["app.users SELECT (id) to \"r102\": carol", "app.users SELECT to \"r7\": alice bob"]
        );
    }

    #[test]
    fn who_may_not_look_into_the_schema_reads_nothing() {
        let mut bob = reader("bob", &[7]);
        bob.schemas = vec![2];
        let relations = [relation(1, "app.users", "table", 10, &[(7, None), (0, None)])];
        assert_eq!(told(&decide(&[bob, reader("eve", &[])], &relations, &[])), ["app.users SELECT to PUBLIC: eve"]);
    }

    #[test]
    fn a_view_shows_what_its_owner_reads_to_those_who_do_not() {
        let readers = [reader("alice", &[100]), reader("carol", &[102]), reader("owner", &[10, 102])];
        let relations = [
            relation(1, "app.users", "table", 10, &[(100, None)]),
            relation(2, "alice.v", "view", 100, &[(102, None), (100, None)]),
        ];
        assert_eq!(
            told(&decide(&readers, &relations, &[(1, 2)])),
            [
                "app.users SELECT to \"r100\": alice",
                "app.users owned by \"r10\": owner",
                "app.users through view alice.v of \"r100\": carol"
            ]
        );
    }
}
