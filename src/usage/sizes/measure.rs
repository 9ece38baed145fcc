//! Measures the whole database: walks its directories, then reads pg_class, pg_index and pg_inherits once.
//!
//! Files and catalogs are read one after the other while others work. A relation whose file is not among those that were
//! seen was made or rewritten in between, so both are read again; one whose row was written since the files were read may
//! have been seen half written, so its files are looked at once more; a file without a relation is looked at once more, since
//! a relation may have been dropped in between.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgrx::pg_sys;

use super::attribute::{attribute, sums, Place, Relation, Sum};
use super::files::{self, Files, Node, NO_BACKEND};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{latch, spi, storage};

/// Readings until files and catalogs agree. Where tables are rewritten faster than that, the last one stands.
const READINGS: usize = 5;

/// What was measured.
pub struct Measured {
    /// Microseconds, Unix.
    pub as_of: i64,
    /// In the order of OIDs; also indexes and TOAST relations.
    pub relations: Vec<Relation>,
    pub places: Vec<Weighed>,
    /// All of it.
    pub total: u64,
}

/// A schema, or one of the places that are none, and its bytes.
pub struct Weighed {
    pub kind: &'static str,
    /// OID of the schema, or of the role of temporary tables; 0 of others.
    pub oid: u32,
    /// Name of the schema, or of the role of temporary tables.
    pub name: String,
    pub owner: Option<String>,
    pub sum: Sum,
}

impl Weighed {
    /// As views show it.
    pub fn schema(self) -> (String, Option<String>, Sum) {
        let schema = if self.kind == "schema" { self.name } else { format!("({})", self.kind) };
        (schema, self.owner, self.sum)
    }
}

pub fn micros(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}

/// A share of the whole in percent, to two digits.
pub fn percent(part: u64, whole: u64) -> Option<String> {
    (whole > 0).then(|| format!("{:.2}", 100.0 * part as f64 / whole as f64))
}

/// Measures now. The current user must be one who sees the transactions of all.
pub fn measure() -> Result<Measured> {
    let begun = SystemTime::now();
    let directories = storage::directories()?;
    let mut reading = 1;
    let (mut relations, orphans, uncommitted) = loop {
        let oldest = oldest_transaction()?;
        let since = storage::oldest_running();
        let mut files = walk(&directories)?;
        let (relations, missing) = relations(&mut files, &directories, since)?;
        if missing && reading < READINGS {
            reading += 1;
            continue;
        }
        let (orphans, uncommitted) = unmatched(&directories, files, oldest);
        break (relations, orphans, uncommitted);
    };
    let mut indexes = Vec::new();
    storage::each_index(|index, table| indexes.push((index, table)));
    let mut parents = Vec::new();
    if relations.iter().any(|r| r.partition) {
        storage::each_inheritance(|child, parent| parents.push((child, parent)));
    }
    attribute(&mut relations, &indexes, &mut parents);
    let mut sums = sums(&relations);
    for (place, bytes) in [(Place::Uncommitted, uncommitted), (Place::Orphaned, orphans)] {
        if bytes > 0 {
            sums.insert(place, Sum { table: bytes, ..Sum::default() });
        }
    }
    let places = named(sums)?;
    let total = places.iter().map(|p| p.sum.total()).sum();
    Ok(Measured { as_of: micros(begun), relations, places, total })
}

fn walk(directories: &[(u32, PathBuf)]) -> Result<Files> {
    let mut found = Vec::new();
    for (tablespace, directory) in directories {
        files::walk(&mut found, *tablespace, directory, latch::obey_interrupts).map_err(|e| {
            Error::new(sqlstate::IO_ERROR, format!("could not measure directory \"{}\": {e}", directory.display()))
        })?;
    }
    Ok(Files::new(found))
}

/// The relations of this database with the bytes of their own, and whether a file that should be there was not.
/// What is found is taken out of `files`; of relations written `since` then, the files are looked at now.
fn relations(
    files: &mut Files,
    directories: &[(u32, PathBuf)],
    since: pg_sys::TransactionId,
) -> Result<(Vec<Relation>, bool)> {
    let default = storage::default_tablespace();
    let backends = temporary_schemas()?;
    let mut relations = Vec::new();
    let mut mapped = Vec::new();
    let mut late = Vec::new();
    let mut missing = false;
    storage::each_class(|c| {
        if c.shared || !matches!(c.kind, b'r' | b'm' | b'p' | b'f' | b'i' | b'I' | b'S' | b't') {
            return;
        }
        let stored = !matches!(c.kind, b'p' | b'f' | b'I');
        let node = Node {
            tablespace: if c.tablespace == 0 { default } else { c.tablespace },
            number: c.file_number,
            backend: if c.temporary { backends.get(&c.schema).copied().unwrap_or(NO_BACKEND) } else { NO_BACKEND },
        };
        let mut relation = Relation {
            oid: c.oid,
            schema: c.schema,
            owner: c.owner,
            toast: c.toast,
            kind: c.kind,
            temporary: c.temporary,
            partition: c.partition,
            ..Relation::default()
        };
        if stored && c.file_number != 0 {
            match files.take(&node) {
                Some(bytes) if !c.written_since(since) => relation.table = bytes,
                _ => late.push((relations.len(), node)),
            }
        } else if stored {
            mapped.push((relations.len(), node));
        }
        relations.push(relation);
    });
    for (n, node) in mapped {
        // A look-up, so not in the middle of a scan.
        if let Some(number) = storage::file_number(relations[n].oid) {
            let node = Node { number, ..node };
            files.take(&node);
            late.push((n, node));
        }
    }
    for (n, node) in late {
        let directory = directories.iter().find(|(t, _)| *t == node.tablespace);
        match directory.and_then(|(_, directory)| files::weigh(directory, node)) {
            // A rewritten or dropped relation leaves an empty file until the next checkpoint (mdunlinkfork,
            // src/backend/storage/smgr/md.c).
            Some(0) if storage::file_number(relations[n].oid) != Some(node.number) => missing = true,
            Some(bytes) => relations[n].table = bytes,
            None => missing = true,
        }
    }
    relations.sort_unstable_by_key(|r| r.oid);
    Ok((relations, missing))
}

/// Bytes in files of no relation: those that a crash left, and those of transactions that may be running.
fn unmatched(directories: &[(u32, PathBuf)], files: Files, oldest: Option<SystemTime>) -> (u64, u64) {
    let (mut orphans, mut uncommitted) = (0, 0);
    let left: Vec<(Node, u64)> = files.left().filter(|(_, bytes)| *bytes > 0).collect();
    if left.is_empty() {
        return (0, 0);
    }
    // A DROP or TRUNCATE may not have committed yet, or not have come to the file.
    let mut named = BTreeSet::new();
    storage::each_version(|number| {
        named.insert(number);
    });
    for (node, bytes) in left {
        let Some((_, directory)) = directories.iter().find(|(t, _)| *t == node.tablespace) else { continue };
        match (files::still_there(directory, node), oldest) {
            (None, _) => {}
            (Some(written), Some(oldest)) if written < oldest && !named.contains(&node.number) => orphans += bytes,
            (Some(_), _) => uncommitted += bytes,
        }
    }
    (orphans, uncommitted)
}

/// When the oldest of the transactions that run now began, or now: no running one has made a file that was last written
/// before that. None where transactions are prepared, whose beginning nobody knows, and on a standby, where those of the
/// primary are not seen.
fn oldest_transaction() -> Result<Option<SystemTime>> {
    storage::forget_statistics();
    let found: Option<i64> = spi::look_first(
        "SELECT pg_catalog.to_json(CASE WHEN NOT (pg_catalog.pg_is_in_recovery() OR EXISTS (SELECT FROM pg_catalog.pg_prepared_xact())) THEN
           (SELECT wh.micros(least(pg_catalog.min(xact_start), pg_catalog.clock_timestamp()))
            FROM pg_catalog.pg_stat_get_activity(NULL) WHERE pid <> pg_catalog.pg_backend_pid()) END)::text",
        &[],
    )?;
    Ok(found.map(|micros| UNIX_EPOCH + Duration::from_micros(micros.max(0) as u64)))
}

/// Temporary schemas, and the backends in the names of their files.
fn temporary_schemas() -> Result<BTreeMap<u32, i32>> {
    let rows = spi::look_columns(
        "SELECT oid::int8, pg_catalog.substring(nspname::text, '^pg_(?:toast_)?temp_([0-9]{1,9})$')::int4
         FROM pg_catalog.pg_namespace WHERE nspname::text ~ '^pg_(toast_)?temp_[0-9]{1,9}$'",
        &[],
        |row| Ok(row.get::<i64>(1)?.zip(row.get::<i32>(2)?)),
    )?;
    Ok(rows.into_iter().map(|(oid, backend)| (oid as u32, backend)).collect())
}

/// Gives places their names: every schema, also an empty one, and what else has bytes.
fn named(mut sums: BTreeMap<Place, Sum>) -> Result<Vec<Weighed>> {
    let schemas: Vec<(u32, String, Option<String>)> = spi::look(
        "SELECT pg_catalog.json_build_array(n.oid::int8, n.nspname, r.rolname)::text
         FROM pg_catalog.pg_namespace n LEFT JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner ORDER BY n.nspname",
        &[],
    )?;
    let mut places = Vec::new();
    for (oid, name, owner) in schemas {
        let sum = sums.remove(&Place::Schema(oid));
        // Those for temporary and TOAST relations have nothing of their own.
        let internal = ["pg_toast", "pg_temp_", "pg_toast_temp_"].iter().any(|p| name.starts_with(p));
        if sum.is_some() || !internal {
            places.push(Weighed { kind: "schema", oid, name, owner, sum: sum.unwrap_or_default() });
        }
    }
    let roles: Vec<u32> =
        sums.keys().filter_map(|place| if let Place::Temporary(role) = place { Some(*role) } else { None }).collect();
    let roles: BTreeMap<u32, String> = spi::look::<(u32, String)>(
        "SELECT pg_catalog.json_build_array(oid::int8, rolname)::text FROM pg_catalog.pg_roles WHERE oid = ANY ($1)",
        &[spi::oids(roles)],
    )?
    .into_iter()
    .collect();
    let mut uncommitted = Sum::default();
    for (place, sum) in sums {
        let (kind, oid, owner) = match place {
            Place::Temporary(role) => {
                ("temporary", role, Some(roles.get(&role).cloned().unwrap_or_else(|| role.to_string())))
            }
            Place::Orphaned => ("orphaned", 0, None),
            // Or a schema that was made since the names were read.
            Place::Uncommitted | Place::Schema(_) => {
                uncommitted.add(&sum);
                continue;
            }
        };
        places.push(Weighed { kind, oid, name: owner.clone().unwrap_or_default(), owner, sum });
    }
    if uncommitted.total() > 0 {
        places.push(Weighed { kind: "uncommitted", oid: 0, name: String::new(), owner: None, sum: uncommitted });
    }
    Ok(places)
}
