//! Keeps what was measured: what each schema and relation weighs now, and what they weighed before.
//!
//! Of 80,000 relations few change between two snapshots, and only those are written, so that neither the tables nor the
//! log grow with the number of relations. What is stored is read along in pieces; all that is held is what was measured.

use std::time::Instant;

use pgrx::pg_sys::Oid;

use super::attribute::Relation;
use super::measure::{self, Measured};
use super::observe::{self, Seen};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{guc, spi, storage};
use crate::settings;

/// Rows that are read and written at once.
const PIECE: usize = 2000;

/// Relations whose counters are looked at in one snapshot. The server keeps some hundred bytes of each in the process that
/// looks; where there are more, the next snapshot goes on with them.
const COUNTED: usize = 10_000;

/// Catalogs are below (FirstNormalObjectId, src/include/access/transam.h), and read all the time.
const FIRST_NORMAL: u32 = 16_384;

/// Growth is told over this many days, so that long every change is kept, by hour or by day.
const DAYS_OF_RELATIONS: i32 = 31;

/// Where a gap between two snapshots is longer, and the counters began anew in it, what was read is not known.
const GAP: &str = "1 day";

pub struct Taken {
    pub as_of: i64,
    pub elapsed: i64,
    pub bytes: i64,
    pub relations: i64,
    pub changed: i64,
}

/// Whether to wait for a snapshot that somebody else is taking.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Yes,
    No,
}

/// Measures and writes it down; `None` where somebody else is about it and we don't wait. Runs as the extension's owner.
pub fn take(wait: Wait) -> Result<Option<Taken>> {
    let begun = Instant::now();
    let _surroundings = guc::Scope::new(OURS)?;
    let locked: Option<(Option<String>, i64, Option<i64>)> = spi::first(
        match wait {
            Wait::Yes => LOCK,
            Wait::No => LOCK_AT_ONCE,
        },
        &[],
    )?;
    let Some((counters, next_counted, system)) = locked else { return Ok(None) };
    let measured = measure::measure()?;
    let as_of = measured.as_of;

    let surroundings: Option<(String, bool, i64)> = spi::first(SURROUNDINGS, &[])?;
    let (stamp, counting, this_system) = surroundings
        .ok_or_else(|| Error::new(sqlstate::INTERNAL_ERROR, "the database that this session is in was not found"))?;
    let anew = counters.as_ref().is_some_and(|before| *before != stamp);
    if anew {
        // What is stored says nothing of what they count from now on.
        spi::run("UPDATE wh.relation_size SET reads = 0, writes = 0 WHERE (reads, writes) <> (0, 0)", &[])?;
    }
    schemas(&measured, system == Some(this_system))?;
    let mut counter = Counter { from: next_counted as u32, left: COUNTED, next: 0 };
    let changed = relations(&measured, &mut counter)?;
    let relations = measured.relations.iter().filter(|r| r.is_listed()).count() as i64;
    let elapsed = begun.elapsed().as_micros() as i64;
    spi::run(
        RECORD,
        &[
            as_of.into(),
            elapsed.into(),
            (measured.total as i64).into(),
            stamp.into(),
            i64::from(counter.next).into(),
            (!counting).into(),
            anew.into(),
            GAP.into(),
            this_system.into(),
        ],
    )?;
    trim(as_of)?;
    Ok(Some(Taken { as_of, elapsed, bytes: measured.total as i64, relations, changed }))
}

/// Our own queries are the same whatever the session has set.
const OURS: &[(&str, &str)] = &[
    ("search_path", "pg_catalog, pg_temp"),
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    // Tables that nobody has analysed yet are still read by their keys, piece by piece.
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    // A copy of each counter would stay until the end of the transaction.
    ("stats_fetch_consistency", "none"),
];

const LOCK: &str =
    "SELECT pg_catalog.json_build_array(counters, next_counted::int8, system)::text FROM wh.size_snapshot FOR UPDATE";
const LOCK_AT_ONCE: &str =
    "SELECT pg_catalog.json_build_array(counters, next_counted::int8, system)::text FROM wh.size_snapshot FOR UPDATE SKIP LOCKED";

/// Since when counters count (a crash and pg_stat_reset set this anew), whether they do, and which server this is.
const SURROUNDINGS: &str = "
SELECT json_build_array(concat_ws(' ', pg_stat_get_db_stat_reset_time(d.oid), pg_stat_get_bgwriter_stat_reset_time()),
                        current_setting('track_counts') = 'on', (SELECT system_identifier FROM pg_control_system()))::text
FROM pg_database d WHERE d.datname = current_database()";

const RECORD: &str = "
UPDATE wh.size_snapshot s SET as_of = wh.instant($1), elapsed = $2 * interval '1 microsecond', bytes = $3, counters = $4,
  next_counted = $5::oid, system = $9, began = coalesce(began, wh.instant($1)),
  schemas_since = coalesce(schemas_since, (SELECT min(at) FROM wh.schema_size_point)),
  watched_since = CASE WHEN $6 OR $7 AND s.as_of < wh.instant($1) - $8::interval THEN wh.instant($1) ELSE watched_since END";

/// Writes the schemas, and the point of this hour.
fn schemas(measured: &Measured, same_system: bool) -> Result<()> {
    let rows: Vec<_> = measured
        .places
        .iter()
        .map(|p| {
            let sum = p.sum;
            (p.kind, &p.name, p.oid, &p.owner, sum.table, sum.index, sum.toast, sum.relations)
        })
        .collect();
    let rows = serde_json::to_string(&rows)?;
    // Schemas have other numbers after pg_upgrade.
    let renames = if same_system { RENAME_POINTS } else { &[] };
    for statement in renames.iter().chain(&[DROP_SCHEMAS, UPDATE_SCHEMAS, INSERT_SCHEMAS]) {
        spi::run(&format!("WITH {MEASURED} {statement}"), &[rows.as_str().into()])?;
    }
    spi::run(&format!("WITH {MEASURED} {POINTS}"), &[rows.as_str().into(), measured.as_of.into()])?;
    Ok(())
}

const MEASURED: &str = "n AS (
  SELECT e->>0 AS kind, e->>1 AS name, (e->>2)::oid AS oid, e->>3 AS owner, (e->>4)::int8 AS table_bytes,
         (e->>5)::int8 AS index_bytes, (e->>6)::int8 AS toast_bytes, (e->>7)::int8 AS relations
  FROM json_array_elements($1::json) e)";

/// A schema that has another name by now takes its history along, and what that name had before goes. Two may have
/// swapped names, so a renamed one waits under a name that none can have.
const RENAME_POINTS: &[&str] = &[
    "UPDATE wh.schema_size_point p SET name = E'\\x01' || n.name FROM wh.schema_size z JOIN n ON n.oid = z.oid AND n.name <> z.name
     WHERE n.kind = 'schema' AND z.kind = 'schema' AND p.kind = 'schema' AND p.name = z.name",
    "DELETE FROM wh.schema_size_point p USING wh.schema_size z JOIN n ON n.oid = z.oid AND n.name <> z.name
     WHERE n.kind = 'schema' AND z.kind = 'schema' AND p.kind = 'schema' AND p.name = n.name",
    "UPDATE wh.schema_size_point p SET name = n.name FROM n WHERE n.kind = 'schema' AND p.kind = 'schema' AND p.name = E'\\x01' || n.name",
];

const DROP_SCHEMAS: &str =
    "DELETE FROM wh.schema_size z WHERE NOT EXISTS (SELECT FROM n WHERE (n.kind, n.name) = (z.kind, z.name))";

const UPDATE_SCHEMAS: &str = "
UPDATE wh.schema_size z SET oid = n.oid, owner = n.owner, table_bytes = n.table_bytes, index_bytes = n.index_bytes,
  toast_bytes = n.toast_bytes, relations = n.relations
FROM n WHERE (n.kind, n.name) = (z.kind, z.name)
  AND (n.oid, n.owner, n.table_bytes, n.index_bytes, n.toast_bytes, n.relations)
      IS DISTINCT FROM (z.oid, z.owner, z.table_bytes, z.index_bytes, z.toast_bytes, z.relations)";

const INSERT_SCHEMAS: &str = "
INSERT INTO wh.schema_size SELECT * FROM n
WHERE NOT EXISTS (SELECT FROM wh.schema_size z WHERE (n.kind, n.name) = (z.kind, z.name))";

const POINTS: &str = "
INSERT INTO wh.schema_size_point AS p
SELECT kind, name, date_trunc('hour', wh.instant($2)), owner, table_bytes, index_bytes, toast_bytes, relations FROM n
ON CONFLICT (kind, name, at) DO UPDATE SET owner = excluded.owner, table_bytes = excluded.table_bytes,
  index_bytes = excluded.index_bytes, toast_bytes = excluded.toast_bytes, relations = excluded.relations
WHERE (p.owner, p.table_bytes, p.index_bytes, p.toast_bytes, p.relations)
      IS DISTINCT FROM (excluded.owner, excluded.table_bytes, excluded.index_bytes, excluded.toast_bytes, excluded.relations)";

/// Looks at the counters of some relations.
struct Counter {
    from: u32,
    left: usize,
    /// Where the next snapshot begins.
    next: u32,
}

impl Counter {
    /// Of a relation, if it is its turn. Relations come in the order of OIDs.
    fn look(&mut self, r: &Relation) -> Option<observe::Counts> {
        if r.oid < self.from.max(FIRST_NORMAL) || self.next != 0 || !matches!(r.kind, b'r' | b'm' | b'i') {
            return None;
        }
        if self.left == 0 {
            self.next = r.oid;
            return None;
        }
        let found = storage::counts(r.oid);
        // Where nothing was counted, nothing stays in this process.
        self.left -= usize::from(found.is_some());
        let found = found.unwrap_or(storage::Counts { reads: 0, writes: 0, last_read: None });
        Some(observe::Counts { reads: found.reads, writes: found.writes, last_read: found.last_read })
    }
}

/// A row of wh.relation_size.
struct Stored {
    oid: u32,
    belongs_to: u32,
    bytes: [i64; 3],
    counts: observe::Counts,
}

fn stored(after: u32) -> Result<std::vec::IntoIter<Stored>> {
    let rows = spi::columns(
        "SELECT relation::int8, belongs_to::int8, table_bytes, index_bytes, toast_bytes, reads, writes
         FROM wh.relation_size WHERE relation > $1::oid ORDER BY relation LIMIT $2",
        &[i64::from(after).into(), (PIECE as i64).into()],
        |row| {
            let number = |n: usize| Ok::<_, pgrx::spi::SpiError>(row.get::<i64>(n)?.unwrap_or_default());
            Ok(Some(Stored {
                oid: number(1)? as u32,
                belongs_to: number(2)? as u32,
                bytes: [number(3)?, number(4)?, number(5)?],
                counts: observe::Counts { reads: number(6)?, writes: number(7)?, last_read: None },
            }))
        },
    )?;
    Ok(rows.into_iter())
}

/// Rows to be written, as arrays.
#[derive(Default)]
struct Rows {
    relation: Vec<Oid>,
    belongs_to: Vec<Oid>,
    table: Vec<i64>,
    index: Vec<i64>,
    toast: Vec<i64>,
    reads: Vec<i64>,
    writes: Vec<i64>,
    read: Vec<Option<i64>>,
    written: Vec<Option<i64>>,
    /// There is a point to be made of it: its bytes have changed, and it is no index.
    point: Vec<bool>,
}

impl Rows {
    fn push(&mut self, r: &Relation, counts: observe::Counts, seen: Seen, resized: bool) {
        self.relation.push(r.oid.into());
        self.belongs_to.push(r.belongs_to.into());
        self.table.push(r.table as i64);
        self.index.push(r.index as i64);
        self.toast.push(r.toasted as i64);
        self.reads.push(counts.reads);
        self.writes.push(counts.writes);
        self.read.push(seen.read);
        self.written.push(seen.written);
        self.point.push(resized && !r.is_index());
    }

    /// Writes them with this statement.
    fn write(&mut self, statement: &'static str, as_of: i64) -> Result<()> {
        let rows = std::mem::take(self);
        if rows.relation.is_empty() {
            return Ok(());
        }
        spi::run(
            statement,
            &[
                rows.relation.into(),
                rows.belongs_to.into(),
                rows.table.into(),
                rows.index.into(),
                rows.toast.into(),
                rows.reads.into(),
                rows.writes.into(),
                rows.read.into(),
                rows.written.into(),
                rows.point.into(),
                as_of.into(),
            ],
        )?;
        Ok(())
    }

    fn write_full(&mut self, statement: &'static str, as_of: i64) -> Result<()> {
        if self.relation.len() < PIECE {
            return Ok(());
        }
        self.write(statement, as_of)
    }
}

const UPDATE: &str = "
WITH n AS (SELECT * FROM unnest($1::oid[], $2::oid[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[], $9::int8[], $10::bool[])
           n(relation, belongs_to, table_bytes, index_bytes, toast_bytes, reads, writes, read, written, point)),
z AS (
  UPDATE wh.relation_size z SET belongs_to = n.belongs_to, table_bytes = n.table_bytes, index_bytes = n.index_bytes,
    toast_bytes = n.toast_bytes, reads = n.reads, writes = n.writes, last_read = greatest(z.last_read, wh.instant(n.read)),
    last_written = greatest(z.last_written, wh.instant(n.written))
  FROM n WHERE z.relation = n.relation)
INSERT INTO wh.relation_size_point SELECT relation, date_trunc('hour', wh.instant($11)), table_bytes + index_bytes + toast_bytes
FROM n WHERE point ON CONFLICT (relation, at) DO UPDATE SET bytes = excluded.bytes";

const INSERT: &str = "
WITH n AS (SELECT * FROM unnest($1::oid[], $2::oid[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[], $9::int8[], $10::bool[])
           n(relation, belongs_to, table_bytes, index_bytes, toast_bytes, reads, writes, read, written, point)),
z AS (
  INSERT INTO wh.relation_size
  SELECT relation, belongs_to, table_bytes, index_bytes, toast_bytes, wh.instant($11), reads, writes, wh.instant(read), wh.instant(written) FROM n)
INSERT INTO wh.relation_size_point SELECT relation, date_trunc('hour', wh.instant($11)), table_bytes + index_bytes + toast_bytes
FROM n WHERE point ON CONFLICT (relation, at) DO UPDATE SET bytes = excluded.bytes";

/// Goes through what is stored and what was measured side by side, and writes where they differ. Returns how often.
fn relations(measured: &Measured, counter: &mut Counter) -> Result<i64> {
    let as_of = measured.as_of;
    let (mut changed, mut new, mut gone) = (Rows::default(), Rows::default(), Vec::<u32>::new());
    let mut differences = 0;
    let mut piece = stored(0)?;
    let mut before = piece.next();
    let mut forward = |before: &Stored| -> Result<Option<Stored>> {
        match piece.next() {
            Some(next) => Ok(Some(next)),
            None => {
                piece = stored(before.oid)?;
                Ok(piece.next())
            }
        }
    };
    let no_counts = observe::Counts::default();
    // Rows of indexes and of TOAST say nothing that is not in their table's, but when an index was used.
    for r in measured.relations.iter().filter(|r| r.is_listed() || r.kind == b'i' && !is_of_toast(measured, r)) {
        while let Some(other) = before.take_if(|b| b.oid < r.oid) {
            gone.push(other.oid);
            before = forward(&other)?;
        }
        let counts = counter.look(r);
        let bytes = [r.table as i64, r.index as i64, r.toasted as i64];
        match before.take_if(|b| b.oid == r.oid) {
            Some(known) => {
                let seen = counts.map(|c| observe::observe(known.counts, c, as_of)).unwrap_or_default();
                let resized = bytes != known.bytes;
                if resized || seen.changed || known.belongs_to != r.belongs_to {
                    differences += 1;
                    changed.push(r, counts.unwrap_or(known.counts), seen, resized);
                    changed.write_full(UPDATE, as_of)?;
                }
                before = forward(&known)?;
            }
            None => {
                differences += 1;
                let seen = counts.map(|c| observe::observe(no_counts, c, as_of)).unwrap_or_default();
                new.push(r, counts.unwrap_or_default(), seen, true);
                new.write_full(INSERT, as_of)?;
            }
        }
    }
    while let Some(other) = before.take() {
        gone.push(other.oid);
        before = forward(&other)?;
    }
    differences += gone.len() as i64;
    changed.write(UPDATE, as_of)?;
    new.write(INSERT, as_of)?;
    for piece in gone.chunks(PIECE) {
        let piece = || spi::oids(piece.iter().copied());
        spi::run("DELETE FROM wh.relation_size WHERE relation = ANY ($1)", &[piece()])?;
        spi::run("DELETE FROM wh.relation_size_point WHERE relation = ANY ($1)", &[piece()])?;
    }
    Ok(differences)
}

fn is_of_toast(measured: &Measured, index: &Relation) -> bool {
    let relations = &measured.relations;
    relations.binary_search_by_key(&index.belongs_to, |r| r.oid).is_ok_and(|n| relations[n].kind == b't')
}

/// Thins the history out, once an hour: by day what is older than two days, and nothing of what is older still.
fn trim(as_of: i64) -> Result<()> {
    // The first snapshot of an hour is the one that made its points.
    let first: Option<bool> = spi::first(
        "SELECT to_json(NOT EXISTS (SELECT FROM wh.size_snapshot WHERE trimmed >= date_trunc('hour', wh.instant($1))))::text",
        &[as_of.into()],
    )?;
    if first != Some(true) {
        return Ok(());
    }
    let days = settings::USAGE_HISTORY.get();
    for statement in [TRIM_SCHEMAS, THIN_SCHEMAS, TRIM_RELATIONS, THIN_RELATIONS] {
        let days = if statement == TRIM_RELATIONS { DAYS_OF_RELATIONS } else { days };
        spi::run(statement, &[as_of.into(), days.into()])?;
    }
    spi::run("UPDATE wh.size_snapshot SET trimmed = wh.instant($1)", &[as_of.into()])?;
    Ok(())
}

const TRIM_SCHEMAS: &str = "DELETE FROM wh.schema_size_point WHERE at < wh.instant($1) - $2 * interval '24 hours'";

const THIN_SCHEMAS: &str = "
DELETE FROM wh.schema_size_point p USING (
  SELECT kind, name, date_trunc('day', at) AS day, max(at) AS last FROM wh.schema_size_point
  WHERE at < date_trunc('day', wh.instant($1) - interval '48 hours') AND $2 > 0 GROUP BY 1, 2, 3 HAVING count(*) > 1) d
WHERE (p.kind, p.name) = (d.kind, d.name) AND p.at >= d.day AND p.at < d.last";

/// The newest of those that are too old says what a relation weighed since.
const TRIM_RELATIONS: &str = "
DELETE FROM wh.relation_size_point p USING (
  SELECT relation, max(at) AS last FROM wh.relation_size_point
  WHERE at < wh.instant($1) - $2 * interval '24 hours' GROUP BY 1 HAVING count(*) > 1) d
WHERE p.relation = d.relation AND p.at < d.last";

const THIN_RELATIONS: &str = "
DELETE FROM wh.relation_size_point p USING (
  SELECT relation, date_trunc('day', at) AS day, max(at) AS last FROM wh.relation_size_point
  WHERE at < date_trunc('day', wh.instant($1) - interval '48 hours') AND $2 > 0 GROUP BY 1, 2 HAVING count(*) > 1) d
WHERE p.relation = d.relation AND p.at >= d.day AND p.at < d.last";
