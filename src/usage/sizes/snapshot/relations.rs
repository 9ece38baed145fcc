//! What each relation weighs, and when it was read and written last.

use pgrx::pg_sys::Oid;

use super::super::attribute::Relation;
use super::super::measure::Measured;
use super::super::observe::{self, Seen};
use crate::error::Result;
use crate::pg::{spi, storage};

/// Rows that are read and written at once.
const PIECE: usize = 2000;

/// Relations whose counters are looked at in one snapshot. The server keeps some hundred bytes of each in the process that
/// looks; where there are more, the next snapshot goes on with them.
const COUNTED: usize = 10_000;

/// Catalogs are below (FirstNormalObjectId, src/include/access/transam.h), and read all the time.
const FIRST_NORMAL: u32 = 16_384;

/// Looks at the counters of some relations.
pub struct Counter {
    from: u32,
    left: usize,
    /// Where the next snapshot begins.
    next: u32,
}

impl Counter {
    pub fn new(from: u32) -> Self {
        Counter { from, left: COUNTED, next: 0 }
    }

    /// Where the next snapshot goes on.
    pub fn next(&self) -> u32 {
        self.next
    }

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
pub fn write(measured: &Measured, counter: &mut Counter) -> Result<i64> {
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
