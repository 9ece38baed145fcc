//! The product's types, mirrored: each remote type gets a local one, and the local ones follow.
//!
//! Built-in types are the same by OID. Types of an extension are the local extension's where it is installed.
//! Enums, domains, composites and ranges are made in the local schema. Everything else is `text`, which any
//! value's text form fits (postgres_fdw moves values as text).
//!
//! A mirrored domain has no checks: the product enforces them, and here they could only make reads fail.

mod make;
mod trust;

use std::collections::{HashMap, HashSet};

use pgrx::datum::DatumWithOid;
use serde::Deserialize;

use super::model::{Change, ColumnType};
use super::registry::Registered;
use super::remote::{Remote, RemoteColumn, RemoteType, FIRST_GENERATED_OID};
use crate::error::Result;
use crate::pg::{session, spi, sql};

const TEXT: u32 = 25;
const DEFAULT_COLLATION: u32 = 100;

/// What a remote type is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Local {
    oid: u32,
    /// Whether the remote typmod means the same here.
    typmod: bool,
}

/// A type remembered from an earlier run.
#[derive(Debug, Clone, Deserialize)]
struct Remembered {
    oid: u32,
    schema: String,
    name: String,
    remote_oid: u32,
    remote_name: String,
    /// Of an enum, as the product had them.
    labels: Vec<(u32, String)>,
}

/// A type that had to make room for its successor.
#[derive(Debug, Clone)]
pub struct Replaced {
    /// Its name now, and the one that its successor has, as definitions write them.
    pub aside: String,
    pub name: String,
}

/// Resolves types for one run, and makes what is missing.
pub struct Types<'a> {
    app: &'a Registered,
    remote: &'a Remote,
    trust_oids: bool,
    remembered: Vec<Remembered>,
    /// Types that local columns of the same remote type already have: adopted rather than made.
    in_use: &'a HashMap<u32, u32>,
    resolved: HashMap<u32, Local>,
    /// Local types by the remote one that each stands for: of two with one name only one can have it.
    claimed: HashMap<u32, u32>,
    /// Local names of the ones that are here, by the remote one: a successor has the name of what it replaces.
    names: HashMap<u32, String>,
    /// Names that foreign tables are to have: their row types need them (src/backend/catalog/heap.c,
    /// heap_create_with_catalog).
    pub tables: HashSet<String>,
    collations: HashMap<u32, u32>,
    /// Extensions that are here, and that somebody could drop who must not take other people's columns with them.
    untrusted: HashSet<String>,
    pub changes: Vec<Change>,
    /// Types that were replaced by a new one of the same name.
    pub replaced: Vec<Replaced>,
}

impl<'a> Types<'a> {
    pub fn new(
        app: &'a Registered,
        remote: &'a Remote,
        trust_oids: bool,
        in_use: &'a HashMap<u32, u32>,
    ) -> Result<Self> {
        let remembered = spi::rows(
            "SELECT json_build_object('oid', t.oid::int8, 'schema', n.nspname, 'name', t.typname, 'remote_oid', m.remote_oid,
                    'remote_name', m.remote_name,
                    'labels', coalesce((SELECT json_agg(json_build_array(o, l)) FROM unnest(m.label_oids, m.labels) u (o, l)), '[]'))::text
             FROM wh.fdw_type m JOIN pg_type t ON t.oid = m.type JOIN pg_namespace n ON n.oid = t.typnamespace
             WHERE m.fdw = $1",
            &[app.name.as_str().into()],
        )?;
        Ok(Types {
            app,
            remote,
            trust_oids,
            remembered,
            in_use,
            resolved: HashMap::new(),
            claimed: HashMap::new(),
            names: HashMap::new(),
            tables: HashSet::new(),
            collations: HashMap::new(),
            untrusted: HashSet::new(),
            changes: Vec::new(),
            replaced: Vec::new(),
        })
    }

    /// The local type of a remote column.
    pub fn column(&mut self, column: &RemoteColumn) -> Result<ColumnType> {
        let local = self.resolve(column.2)?;
        let collation = match column.5 {
            0 => 0,
            _ if local.oid == TEXT && column.2 != TEXT => DEFAULT_COLLATION,
            other => self.collation(other)?,
        };
        let collation = match collation {
            // The remote type has no collation, but what stands for it may be made of text.
            0 if local.oid == TEXT => DEFAULT_COLLATION,
            0 if local.oid >= FIRST_GENERATED_OID => spi::first(
                "SELECT to_json(typcollation::int8)::text FROM pg_type WHERE oid = $1",
                &[spi::oid(local.oid)],
            )?
            .unwrap_or(0),
            other => other,
        };
        Ok(ColumnType { oid: local.oid, typmod: if local.typmod { column.3 } else { -1 }, collation })
    }

    /// Whether a remote type has no better form here than text, and why.
    pub fn as_text_because(&self, remote: u32) -> Option<String> {
        let local = self.resolved.get(&remote)?;
        if remote == TEXT || local.oid != TEXT {
            return None;
        }
        let t = self.remote.types.get(&remote)?;
        let t = self.remote.types.get(&t.element).unwrap_or(t);
        Some(match &t.extension {
            Some(extension) if self.untrusted.contains(extension) => format!(
                "type \"{}\" is text here: extension \"{extension}\" can be dropped by somebody who is not of wh_admin",
                t.name
            ),
            Some(extension) => format!("type \"{}\" is text here: extension \"{extension}\" is not installed", t.name),
            None => format!("type \"{}\" is text here: it cannot be mirrored", t.name),
        })
    }

    fn collation(&mut self, remote: u32) -> Result<u32> {
        if remote < FIRST_GENERATED_OID {
            return Ok(remote);
        }
        if let Some(local) = self.collations.get(&remote) {
            return Ok(*local);
        }
        let found: Option<u32> = match self.remote.collations.get(&remote) {
            Some((_, name)) => trust::collation(self.app, name)?,
            None => None,
        };
        let local = found.unwrap_or(DEFAULT_COLLATION);
        self.collations.insert(remote, local);
        Ok(local)
    }

    fn resolve(&mut self, remote: u32) -> Result<Local> {
        if remote < FIRST_GENERATED_OID {
            return Ok(Local { oid: remote, typmod: true });
        }
        if let Some(local) = self.resolved.get(&remote) {
            return Ok(*local);
        }
        let as_text = Local { oid: TEXT, typmod: false };
        // A type that contains itself through an array of composites ends here.
        self.resolved.insert(remote, as_text);
        let local = match self.remote.types.get(&remote).cloned() {
            None => None,
            Some(t) if t.schema == "pg_catalog" => named("pg_catalog", &t.name)?,
            Some(t) if t.element != 0 => match self.resolve(t.element)? {
                Local { oid: TEXT, typmod: false } => None,
                element => spi::first(
                    "SELECT to_json(typarray::int8)::text FROM pg_type WHERE oid = $1 AND typarray <> 0",
                    &[spi::oid(element.oid)],
                )?,
            },
            Some(RemoteType { extension: Some(extension), name, .. }) => {
                let found = trust::of_extension(self.app, &extension, &name)?;
                if found.is_some_and(|(_, trusted)| !trusted) {
                    self.untrusted.insert(extension);
                }
                found.filter(|(_, trusted)| *trusted).map(|(oid, _)| oid)
            }
            Some(t) => match t.kind {
                'e' => self.r#enum(&t)?,
                'd' => self.domain(&t)?,
                'c' if t.relation != 0 => self.composite(&t)?,
                'r' => self.range(&t)?,
                'm' => {
                    let range = self.resolve(t.range)?;
                    spi::first(
                        "SELECT to_json(rngmultitypid::int8)::text FROM pg_range WHERE rngtypid = $1",
                        &[spi::oid(range.oid)],
                    )?
                }
                _ => None,
            },
        };
        let local = local.map_or(as_text, |oid| Local { oid, typmod: true });
        self.resolved.insert(remote, local);
        Ok(local)
    }

    /// The local type that stands for `t` so far, renamed if the product renamed it.
    fn known(&mut self, t: &RemoteType) -> Result<Option<Remembered>> {
        let free = |local: u32| self.claimed.get(&local).is_none_or(|remote| *remote == t.oid);
        // One whose own remote type is still there is that one's, whatever the names.
        let others =
            |r: &Remembered| self.trust_oids && r.remote_oid != t.oid && self.remote.types.contains_key(&r.remote_oid);
        let by_oid = self.remembered.iter().position(|r| self.trust_oids && r.remote_oid == t.oid);
        let at = by_oid
            .or_else(|| self.remembered.iter().position(|r| r.remote_name == t.name && free(r.oid) && !others(r)));
        if let Some(at) = at {
            let known = self.settle(self.remembered[at].clone(), t)?;
            self.remembered[at] = known.clone();
            self.claimed.insert(known.oid, t.oid);
            return Ok(Some(known));
        }
        let adopted = self.in_use.get(&t.oid).copied();
        let found: Option<Remembered> = spi::first(
            &format!(
                "SELECT json_build_object('oid', t.oid::int8, 'schema', n.nspname, 'name', t.typname, 'remote_oid', 0,
                        'remote_name', t.typname, 'labels', '[]'::json)::text
                 FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
                 WHERE t.typtype::text = $3 AND (t.oid = $4 OR n.nspname = $1 AND t.typname = $5 AND {})
                   AND (t.typrelid = 0 OR (SELECT relkind FROM pg_class WHERE oid = t.typrelid) = 'c')
                 ORDER BY t.oid = $4 DESC LIMIT 1",
                trust::is_trusted("t.typowner")
            ),
            &[
                self.app.local_schema.as_str().into(),
                spi::oid(session::current_user()),
                t.kind.to_string().into(),
                spi::oid(adopted.unwrap_or(0)),
                t.name.as_str().into(),
            ],
        )?;
        let theirs: Vec<u32> = self.remembered.iter().filter(|r| others(r)).map(|r| r.oid).collect();
        let found = found.filter(|f| f.name == t.name && free(f.oid) && !theirs.contains(&f.oid));
        let Some(found) = found else { return Ok(None) };
        let found = self.settle(found, t)?;
        self.claimed.insert(found.oid, t.oid);
        Ok(Some(found))
    }

    /// Gives a type that is here the name that it should have: the product's, unless a person chose another one or a table
    /// needs it. Where that is taken it keeps its own.
    fn settle(&mut self, mut known: Remembered, t: &RemoteType) -> Result<Remembered> {
        let follows = [known.remote_name.clone(), beside_a_table(&known.remote_name)].contains(&known.name);
        let name = self.beside_tables(if follows { &t.name } else { &known.name });
        let ours = known.schema == self.app.local_schema;
        if name != known.name && (ours || known.remote_name != t.name) && !is_taken(&known.schema, &name, t.kind)? {
            let from = sql::qualified(&known.schema, &known.name);
            spi::run(&format!("ALTER TYPE {from} RENAME TO {}", sql::ident(&name)), &[])?;
            self.changes.push(
                Change::new(sql::qualified(&known.schema, &name), "type", "renamed")
                    .detail(format!("from \"{}\"", known.name)),
            );
            known.name = name;
        }
        self.names.insert(t.oid, known.name.clone());
        Ok(known)
    }

    /// The name itself, or the one that goes with it where a table needs it.
    fn beside_tables(&self, name: &str) -> String {
        match self.tables.contains(name) {
            true => beside_a_table(name),
            false => name.to_owned(),
        }
    }

    fn remember(&mut self, local: u32, t: &RemoteType) -> Result<()> {
        let same = self
            .remembered
            .iter()
            .any(|r| r.oid == local && r.remote_oid == t.oid && r.remote_name == t.name && r.labels == t.labels);
        let labels: Vec<String> = t.labels.iter().map(|(_, l)| l.clone()).collect();
        let oids: Vec<i64> = t.labels.iter().map(|(o, _)| i64::from(*o)).collect();
        if same {
            return Ok(());
        }
        let args: [DatumWithOid; 6] = [
            self.app.name.as_str().into(),
            spi::oid(local),
            i64::from(t.oid).into(),
            t.name.as_str().into(),
            oids.into(),
            labels.into(),
        ];
        spi::run(
            "INSERT INTO wh.fdw_type (fdw, type, remote_oid, remote_name, label_oids, labels) VALUES ($1, $2::regtype, $3, $4, $5, $6)
             ON CONFLICT (fdw, type) DO UPDATE SET remote_oid = excluded.remote_oid, remote_name = excluded.remote_name,
                label_oids = excluded.label_oids, labels = excluded.labels",
            &args,
        )?;
        Ok(())
    }

    /// Drops replaced types that nothing uses any more, from earlier runs too; what is made of one goes before it.
    pub fn drop_unused(schema: &str) -> Result<()> {
        loop {
            let unused: Vec<String> = spi::rows(
                &format!(
                    "SELECT to_json(format('%I.%I', n.nspname, t.typname))::text
                     FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
                     WHERE n.nspname = $1 AND t.typname LIKE 'wh\\_replaced\\_%' AND t.typtype IN ('e', 'd', 'c', 'r')
                       AND (t.typrelid = 0 OR c.relkind = 'c') AND {UNUSED}"
                ),
                &[schema.into()],
            )?;
            if unused.is_empty() {
                return Ok(());
            }
            for name in unused {
                spi::run(&format!("DROP TYPE {name}"), &[])?;
            }
        }
    }
}

/// That nothing depends on type `t`, its array or its multirange, but what comes and goes with them.
pub const UNUSED: &str = "NOT EXISTS (
    WITH family AS (SELECT u.oid FROM pg_type u LEFT JOIN pg_range r ON r.rngtypid = t.oid
                    WHERE u.oid IN (t.oid, t.typarray, r.rngmultitypid) OR u.typelem = r.rngmultitypid)
    SELECT FROM pg_depend d WHERE d.refclassid = 'pg_type'::regclass AND d.deptype = 'n' AND d.refobjid IN (TABLE family)
      AND NOT EXISTS (SELECT FROM pg_depend i WHERE i.classid = d.classid AND i.objid = d.objid AND i.deptype = 'i'
                        AND i.refclassid = 'pg_type'::regclass AND i.refobjid IN (TABLE family)))";

/// What a type is called whose name a table has.
fn beside_a_table(name: &str) -> String {
    const END: &str = "_type";
    // NAMEDATALEN (src/include/pg_config_manual.h)
    let mut fits = name.len().min(63 - END.len());
    while !name.is_char_boundary(fits) {
        fits -= 1;
    }
    format!("{}{END}", &name[..fits])
}

/// Whether a name is taken for a type of this kind: composites share theirs with all relations, the rest with row types.
fn is_taken(schema: &str, name: &str, kind: char) -> Result<bool> {
    let taken: Option<bool> = spi::first(
        "SELECT to_json(true)::text FROM pg_namespace n WHERE n.nspname = $2 AND (
           EXISTS (SELECT FROM pg_type t WHERE t.typnamespace = n.oid AND t.typname = $1 AND t.typelem = 0)
           OR $3 AND EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = $1))",
        &[name.into(), schema.into(), (kind == 'c').into()],
    )?;
    Ok(taken.is_some())
}

fn named(schema: &str, name: &str) -> Result<Option<u32>> {
    spi::first(
        "SELECT to_json(t.oid::int8)::text FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = $1 AND t.typname = $2",
        &[schema.into(), name.into()],
    )
}
