//! A batch of rows into its table: what is new is copied, what differs is updated, and what is the same is not touched at
//! all. Runs in the transaction that also writes the stream's state.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use pgrx::datum::{DatumWithOid, Uuid};

use super::keys::Keys;
use super::layout::Layout;
use super::rows::{Batch, Rejected, Row, Written};
use super::table::Table;
use super::version::is_newer;
use crate::error::{Error, Result};
use crate::pg::insert::{self, Cell};
use crate::pg::{copy, guc, spi, sql, subxact};

/// What became of the records of a batch: they add up to what was received.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub received: u64,
    pub inserted: u64,
    pub updated: u64,
    pub unchanged: u64,
    /// Older than what is there.
    pub stale: u64,
    /// Another record of the batch has the same key, and is as new or newer.
    pub duplicate: u64,
    pub quarantined: u64,
    /// Rows that were marked as deleted by their own record; updated or inserted as well.
    pub deleted: u64,
    /// Rows that are no more, of those that were deleted.
    pub removed: u64,
    /// Rows that an earlier batch counted as inserted, and that were there already.
    pub again: u64,
}

/// What is there under a key.
struct There {
    hash: u128,
    version: Option<String>,
    deleted: bool,
}

/// Index lookups, whatever the planner thinks of a table that it has no statistics of: a batch costs what the batch is,
/// not what the table is.
const LOOKUPS: &[(&str, &str)] = &[
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
];

/// Merges a batch. Rows that the table refuses join `batch.rejected`. `only` is what the keys of the table are all among,
/// where that is known.
pub fn merge(table: &Table, layout: &Layout, batch: &mut Batch, only: Option<&mut Keys>) -> Result<Counts> {
    let rows = std::mem::take(&mut batch.rows);
    let mut counts = Counts { received: (rows.len() + batch.rejected.len()) as u64, ..Counts::default() };
    let mut rows = match table.keyed {
        true => newest(rows, layout, &mut batch.rejected, &mut counts),
        false => rows,
    };
    let columns = table.columns(layout);
    let mut new_for_sure = match only {
        Some(keys) => rows.iter().map(|row| keys.is_new(&row.key)).collect(),
        None => vec![!table.keyed; rows.len()],
    };
    let mut refused: HashMap<usize, String> = HashMap::new();
    let (fates, inserted) = loop {
        let there = look_up(table, layout, &rows, &new_for_sure)?;
        let mut fates = Vec::with_capacity(rows.len());
        for (n, row) in rows.iter_mut().enumerate() {
            let fate = fate(row, there.get(&n), layout.hard);
            let complete = if fate.is_written() { row.complete(layout) } else { Ok(()) };
            fates.push(if complete.is_ok() { fate } else { Fate::Refused });
            refused.extend(complete.err().map(|reason| (n, reason)));
        }
        let new = of(&rows, &fates, Fate::New);
        match subxact::run(|| insert(table, layout, &columns, &new)) {
            Ok(inserted) => break (fates, inserted),
            // Perhaps somebody else writes to the table too.
            Err(e) if is_of_data(&e) && table.keyed && new_for_sure.contains(&true) => new_for_sure.fill(false),
            Err(e) => {
                let refused = |rows: &[&Row]| insert(table, layout, &columns, rows);
                break (fates, halves(&new, e, &mut batch.rejected, &refused)?);
            }
        }
    };
    counts.inserted = inserted;
    batch.rejected.extend(refused.into_iter().map(|(n, reason)| rows[n].refused(reason)));
    let count = |fate| fates.iter().filter(|f| **f == fate).count() as u64;
    (counts.unchanged, counts.stale) = (count(Fate::Unchanged), count(Fate::Stale));
    let changed = of(&rows, &fates, Fate::Changed);
    let written = || rows.iter().zip(&fates).filter(|(_, f)| f.is_written()).map(|(row, _)| row);
    counts.deleted = written().filter(|r| r.deleted).count() as u64;
    counts.updated = apart(&changed, &mut batch.rejected, &|rows| update(table, layout, rows))?;
    let gone: Vec<&[String]> = of(&rows, &fates, Fate::Gone).iter().map(|r| r.key.as_slice()).collect();
    counts.removed = remove(table, layout, &gone, true)?;
    counts.updated += counts.removed;
    counts.deleted += counts.removed;
    counts.quarantined = batch.rejected.len() as u64;
    if !layout.arrays.is_empty() {
        let refused: HashSet<&[String]> = batch.rejected.iter().filter_map(|r| r.key.as_deref()).collect();
        let kept = written().filter(|row| !refused.contains(row.key.as_slice()));
        let keep = |row: &Row| Written { key: row.key.clone(), deleted: row.deleted, arrays: row.arrays.clone() };
        batch.written.extend(kept.map(keep));
        batch.written.extend(gone.iter().map(|key| Written { key: key.to_vec(), deleted: true, arrays: Vec::new() }));
    }
    Ok(counts)
}

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    New,
    Changed,
    Unchanged,
    Stale,
    /// It is to be removed.
    Gone,
    /// It cannot be stored.
    Refused,
}

impl Fate {
    fn is_written(self) -> bool {
        matches!(self, Fate::New | Fate::Changed)
    }
}

fn fate(row: &Row, there: Option<&There>, hard: bool) -> Fate {
    match there {
        // Where rows are removed, there is nothing to mark.
        None if row.deleted && hard => Fate::Unchanged,
        None => Fate::New,
        Some(t) if t.version.as_ref().zip(row.version.as_ref()).is_some_and(|(t, r)| is_newer(t, r)) => Fate::Stale,
        Some(_) if row.deleted && hard => Fate::Gone,
        Some(t) if t.hash == row.hash && t.deleted == row.deleted => Fate::Unchanged,
        Some(_) => Fate::Changed,
    }
}

fn of<'a>(rows: &'a [Row], fates: &[Fate], fate: Fate) -> Vec<&'a Row> {
    rows.iter().zip(fates).filter(|(_, f)| **f == fate).map(|(row, _)| row).collect()
}

/// One row a key: the newest, or the last.
fn newest(rows: Vec<Row>, layout: &Layout, rejected: &mut Vec<Rejected>, counts: &mut Counts) -> Vec<Row> {
    let superseded = superseded(&rows);
    if superseded.is_empty() {
        return rows;
    }
    // One that cannot be stored supersedes nothing.
    let mut storable = Vec::with_capacity(rows.len());
    for mut row in rows {
        match row.complete(layout) {
            Ok(()) => storable.push(row),
            Err(reason) => rejected.push(row.refused(reason)),
        }
    }
    let superseded = self::superseded(&storable);
    counts.duplicate = superseded.len() as u64;
    storable.into_iter().enumerate().filter(|(n, _)| !superseded.contains(n)).map(|(_, row)| row).collect()
}

/// The places of rows in whose place another one stays.
fn superseded(rows: &[Row]) -> HashSet<usize> {
    let mut places: HashMap<&[String], usize> = HashMap::with_capacity(rows.len());
    let mut superseded = HashSet::new();
    for (n, row) in rows.iter().enumerate() {
        match places.entry(&row.key) {
            Entry::Vacant(entry) => {
                entry.insert(n);
            }
            Entry::Occupied(mut entry) => {
                let kept = &rows[*entry.get()];
                let older = kept.version.as_ref().zip(row.version.as_ref()).is_some_and(|(k, r)| is_newer(k, r));
                superseded.insert(if older { n } else { entry.insert(n) });
            }
        }
    }
    superseded
}

/// Rows that are there, by place in `rows`; those that are new for sure are not looked for.
fn look_up(table: &Table, layout: &Layout, rows: &[Row], new_for_sure: &[bool]) -> Result<HashMap<usize, There>> {
    let places: Vec<usize> = (0..rows.len()).filter(|n| !new_for_sure[*n]).collect();
    if places.is_empty() {
        return Ok(HashMap::new());
    }
    let _plans = guc::Scope::new(LOOKUPS)?;
    let keys: Vec<&[String]> = places.iter().map(|n| rows[*n].key.as_slice()).collect();
    let (given, join, args) = by_key(layout, &keys);
    let query = format!(
        "SELECT k.n, t._hash, t._version, t._deleted_at IS NOT NULL FROM {given} JOIN {} t ON {join}",
        table.name
    );
    let found = spi::columns(&query, &args, |row| {
        let Some(n) = row.get::<i64>(1)? else { return Ok(None) };
        let hash = row.get::<Uuid>(2)?.map(|uuid| u128::from_be_bytes(*uuid.as_bytes())).unwrap_or_default();
        let there = There { hash, version: row.get::<String>(3)?, deleted: row.get::<bool>(4)?.unwrap_or_default() };
        Ok(places.get(n as usize - 1).map(|n| (*n, there)))
    })?;
    Ok(found.into_iter().collect())
}

/// Keys as a relation `k` with their number `n` (from 1), how `t` is joined to it, and the arguments of both.
pub fn by_key(layout: &Layout, keys: &[&[String]]) -> (String, String, Vec<DatumWithOid<'static>>) {
    by_columns(layout, &layout.key, keys)
}

/// The same by other columns.
pub fn by_columns(
    layout: &Layout,
    columns: &[usize],
    keys: &[&[String]],
) -> (String, String, Vec<DatumWithOid<'static>>) {
    let (mut names, mut arrays, mut join, mut args) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (k, at) in columns.iter().enumerate() {
        let field = &layout.fields[*at];
        names.push(format!("k{k}"));
        arrays.push(format!("pg_catalog.unnest(${}::text[])", k + 1));
        join.push(format!("t.{} = k.k{k}::{}", sql::ident(&field.column), field.ty));
        args.push(keys.iter().map(|key| key.get(k).cloned()).collect::<Vec<Option<String>>>().into());
    }
    let given = format!("ROWS FROM ({}) WITH ORDINALITY AS k ({}, n)", arrays.join(", "), names.join(", "));
    (given, join.join(" AND "), args)
}

/// Removes rows by key, or marks them as deleted; returns how many that were.
pub fn remove<K: AsRef<[String]>>(table: &Table, layout: &Layout, keys: &[K], hard: bool) -> Result<u64> {
    if keys.is_empty() {
        return Ok(0);
    }
    let _plans = guc::Scope::new(LOOKUPS)?;
    let keys: Vec<&[String]> = keys.iter().map(AsRef::as_ref).collect();
    let (given, join, args) = by_key(layout, &keys);
    let statement = match hard {
        true => format!("DELETE FROM {} t USING {given} WHERE {join}", table.name),
        false => format!(
            "UPDATE {} t SET _deleted_at = pg_catalog.now(), _fetched_at = pg_catalog.now()
             FROM {given} WHERE t._deleted_at IS NULL AND {join}",
            table.name
        ),
    };
    Ok(spi::run(&statement, &args)? as u64)
}

/// Runs `f` over rows; where the table refuses some of them, over ever smaller parts, until each of those is alone.
fn apart(rows: &[&Row], rejected: &mut Vec<Rejected>, f: &impl Fn(&[&Row]) -> Result<u64>) -> Result<u64> {
    if rows.is_empty() {
        return Ok(0);
    }
    match subxact::run(|| f(rows)) {
        Ok(n) => Ok(n),
        Err(e) => halves(rows, e, rejected, f),
    }
}

/// Bad data (22), a constraint of the table's (23), or more than a row or an index holds (54).
fn is_of_data(e: &Error) -> bool {
    ["22", "23", "54"].iter().any(|class| e.sqlstate.starts_with(class))
}

/// The same, of rows that were refused together.
fn halves(rows: &[&Row], e: Error, rejected: &mut Vec<Rejected>, f: &impl Fn(&[&Row]) -> Result<u64>) -> Result<u64> {
    if !is_of_data(&e) {
        return Err(e);
    }
    match rows {
        [row] => {
            rejected.push(row.refused(e.message));
            Ok(0)
        }
        _ => {
            let (a, b) = rows.split_at(rows.len() / 2);
            Ok(apart(a, rejected, f)? + apart(b, rejected, f)?)
        }
    }
}

/// The text of a COPY is held in memory beside the rows, so it is cut at this.
const COPY_BYTES: usize = 1 << 20;

fn insert(table: &Table, layout: &Layout, columns: &[String], rows: &[&Row]) -> Result<u64> {
    if rows.is_empty() {
        return Ok(0);
    }
    let width = layout.fields.len();
    if let Some(mut target) = insert::Target::new(table.oid, columns, "_fetched_at")? {
        return target.write(rows.iter().map(|row| {
            let raw = layout.raw.then(|| Cell::of(Some(row.record.get())));
            let kept = [
                Cell::Uuid(row.hash.to_be_bytes()),
                Cell::of(row.version.as_deref()),
                Cell::of(row.deleted.then_some("now")),
            ];
            (0..width).map(|at| Cell::of(row.cell(at))).chain(raw).chain(kept)
        }));
    }
    let mut copied = copy::Rows::default();
    let mut count = 0;
    for row in rows {
        (0..width).for_each(|at| copied.value(row.cell(at)));
        if layout.raw {
            copied.value(Some(row.record.get()));
        }
        copied.value(Some(&format!("{:032x}", row.hash)));
        copied.value(row.version.as_deref());
        copied.value(row.deleted.then_some("now"));
        copied.end_row();
        if copied.bytes() >= COPY_BYTES {
            count += copy::into(table.oid, columns, std::mem::take(&mut copied))?;
        }
    }
    Ok(count + copy::into(table.oid, columns, copied)?)
}

fn update(table: &Table, layout: &Layout, rows: &[&Row]) -> Result<u64> {
    let _plans = guc::Scope::new(LOOKUPS)?;
    let mut args: Vec<DatumWithOid> = Vec::new();
    let (mut names, mut arrays, mut set) = (Vec::new(), Vec::new(), Vec::new());
    let mut column = |values: Vec<Option<String>>| -> String {
        args.push(values.into());
        let name = format!("c{}", args.len());
        // One each: the grammar knows unnest of several only by its bare name.
        arrays.push(format!("pg_catalog.unnest(${}::text[])", args.len()));
        names.push(name.clone());
        name
    };
    let mut join = Vec::new();
    for (at, field) in layout.fields.iter().enumerate() {
        let c = column(rows.iter().map(|r| r.cell(at).map(str::to_owned)).collect());
        match layout.key.contains(&at) {
            true => join.push(format!("t.{} = s.{c}::{}", sql::ident(&field.column), field.ty)),
            false => set.push(format!("{} = s.{c}::{}", sql::ident(&field.column), field.ty)),
        }
    }
    if layout.raw {
        let c = column(rows.iter().map(|r| Some(r.record.get().to_owned())).collect());
        set.push(format!("_raw = s.{c}::jsonb"));
    }
    let c = column(rows.iter().map(|r| Some(format!("{:032x}", r.hash))).collect());
    set.push(format!("_hash = s.{c}::uuid"));
    let c = column(rows.iter().map(|r| r.version.clone()).collect());
    set.push(format!("_version = s.{c}"));
    let c = column(rows.iter().map(|r| r.deleted.then(|| String::from("now"))).collect());
    set.push(format!(
        "_deleted_at = CASE WHEN s.{c} IS NOT NULL THEN pg_catalog.now() END, _fetched_at = pg_catalog.now()"
    ));
    let statement = format!(
        "UPDATE {} t SET {} FROM ROWS FROM ({}) AS s ({}) WHERE {}",
        table.name,
        set.join(", "),
        arrays.join(", "),
        names.join(", "),
        join.join(" AND ")
    );
    Ok(spi::run(&statement, &args)? as u64)
}
