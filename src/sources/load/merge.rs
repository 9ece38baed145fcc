//! A batch of rows into its table: what is new is copied, what differs is updated, and what is the same is not touched at
//! all. Runs in the transaction that also writes the stream's state.

use std::collections::{HashMap, HashSet};

use pgrx::datum::DatumWithOid;

use super::layout::Layout;
use super::rows::{is_newer, Batch, Rejected, Row, Written};
use super::table::Table;
use crate::error::Result;
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
}

/// What is there under a key.
struct There {
    hash: String,
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

/// Merges a batch. Rows that the table refuses join `batch.rejected`.
pub fn merge(table: &Table, layout: &Layout, batch: &mut Batch) -> Result<Counts> {
    let rows = std::mem::take(&mut batch.rows);
    let mut counts = Counts { received: (rows.len() + batch.rejected.len()) as u64, ..Counts::default() };
    let rows = match table.keyed {
        true => newest(rows, &mut counts),
        false => rows,
    };
    let there = match table.keyed {
        true => look_up(table, layout, &rows)?,
        false => HashMap::new(),
    };
    let (mut new, mut changed): (Vec<Row>, Vec<Row>) = (Vec::new(), Vec::new());
    let mut gone: Vec<Vec<String>> = Vec::new();
    for (n, row) in rows.into_iter().enumerate() {
        match there.get(&n) {
            // Where rows are removed, there is nothing to mark.
            None if row.deleted && layout.hard => counts.unchanged += 1,
            None => new.push(row),
            Some(t) if t.version.as_ref().zip(row.version.as_ref()).is_some_and(|(t, r)| is_newer(t, r)) => {
                counts.stale += 1
            }
            Some(_) if row.deleted && layout.hard => gone.push(row.key),
            Some(t) if t.hash == row.hash && t.deleted == row.deleted => counts.unchanged += 1,
            Some(_) => changed.push(row),
        }
    }
    counts.deleted = new.iter().chain(&changed).filter(|r| r.deleted).count() as u64;
    let columns = table.columns(layout);
    counts.inserted = apart(&new, &mut batch.rejected, &mut |rows| insert(table, &columns, rows))?;
    counts.updated = apart(&changed, &mut batch.rejected, &mut |rows| update(table, layout, rows))?;
    counts.removed = remove(table, layout, &gone, true)?;
    counts.updated += counts.removed;
    counts.deleted += counts.removed;
    counts.quarantined = batch.rejected.len() as u64;
    if !layout.arrays.is_empty() {
        let refused: HashSet<&[String]> = batch.rejected.iter().filter_map(|r| r.key.as_deref()).collect();
        let written = new.into_iter().chain(changed).filter(|row| !refused.contains(row.key.as_slice()));
        batch.written.extend(written.map(|row| Written { key: row.key, deleted: row.deleted, arrays: row.arrays }));
        batch.written.extend(gone.into_iter().map(|key| Written { key, deleted: true, arrays: Vec::new() }));
    }
    Ok(counts)
}

/// One row a key: the newest, or the last.
fn newest(rows: Vec<Row>, counts: &mut Counts) -> Vec<Row> {
    let mut kept: Vec<Row> = Vec::with_capacity(rows.len());
    let mut places: HashMap<Vec<String>, usize> = HashMap::with_capacity(rows.len());
    for row in rows {
        match places.get(&row.key) {
            None => {
                places.insert(row.key.clone(), kept.len());
                kept.push(row);
            }
            Some(at) => {
                counts.duplicate += 1;
                let older = kept[*at].version.as_ref().zip(row.version.as_ref()).is_some_and(|(k, r)| is_newer(k, r));
                if !older {
                    kept[*at] = row;
                }
            }
        }
    }
    kept
}

/// Rows that are there, by place in `rows`.
fn look_up(table: &Table, layout: &Layout, rows: &[Row]) -> Result<HashMap<usize, There>> {
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let _plans = guc::Scope::new(LOOKUPS)?;
    let keys: Vec<&[String]> = rows.iter().map(|r| r.key.as_slice()).collect();
    let (given, join, args) = by_key(layout, &keys);
    let query = format!(
        "SELECT k.n, t._hash::text, t._version, t._deleted_at IS NOT NULL FROM {given} JOIN {} t ON {join}",
        table.name
    );
    let found = spi::columns(&query, &args, |row| {
        let Some(n) = row.get::<i64>(1)? else { return Ok(None) };
        let hash = row.get::<String>(2)?.unwrap_or_default().replace('-', "");
        let there = There { hash, version: row.get::<String>(3)?, deleted: row.get::<bool>(4)?.unwrap_or_default() };
        Ok(Some((n as usize - 1, there)))
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
fn apart(rows: &[Row], rejected: &mut Vec<Rejected>, f: &mut impl FnMut(&[Row]) -> Result<u64>) -> Result<u64> {
    if rows.is_empty() {
        return Ok(0);
    }
    match subxact::run(|| f(rows)) {
        Ok(n) => Ok(n),
        // Bad data (22), or a constraint of the table's (23).
        Err(e) if e.sqlstate.starts_with("22") || e.sqlstate.starts_with("23") => match rows {
            [row] => {
                let record = row.raw.clone().unwrap_or_else(|| format!("{:?}", row.cells));
                let key = Some(row.key.clone()).filter(|k| !k.is_empty());
                rejected.push(Rejected { record, reason: e.message, key });
                Ok(0)
            }
            _ => {
                let (a, b) = rows.split_at(rows.len() / 2);
                Ok(apart(a, rejected, f)? + apart(b, rejected, f)?)
            }
        },
        Err(e) => Err(e),
    }
}

/// The text of a COPY is held in memory beside the rows, so it is cut at this.
const COPY_BYTES: usize = 1 << 20;

fn insert(table: &Table, columns: &[String], rows: &[Row]) -> Result<u64> {
    let mut copied = copy::Rows::default();
    let mut count = 0;
    for row in rows {
        row.cells.iter().for_each(|c| copied.value(c.as_deref()));
        // Cells of columns that came with a later record of the batch.
        if let Some(raw) = &row.raw {
            copied.value(Some(raw));
        }
        copied.value(Some(&row.hash));
        copied.value(row.version.as_deref());
        copied.value(row.deleted.then_some("now"));
        copied.end_row();
        if copied.bytes() >= COPY_BYTES {
            count += copy::into(table.oid, columns, std::mem::take(&mut copied))?;
        }
    }
    Ok(count + copy::into(table.oid, columns, copied)?)
}

fn update(table: &Table, layout: &Layout, rows: &[Row]) -> Result<u64> {
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
        let c = column(rows.iter().map(|r| r.cells.get(at).cloned().flatten()).collect());
        match layout.key.contains(&at) {
            true => join.push(format!("t.{} = s.{c}::{}", sql::ident(&field.column), field.ty)),
            false => set.push(format!("{} = s.{c}::{}", sql::ident(&field.column), field.ty)),
        }
    }
    if layout.raw {
        let c = column(rows.iter().map(|r| r.raw.clone()).collect());
        set.push(format!("_raw = s.{c}::jsonb"));
    }
    let c = column(rows.iter().map(|r| Some(r.hash.clone())).collect());
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
