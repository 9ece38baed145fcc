//! Keeps what was measured: what each schema and relation weighs now, and what they weighed before.
//!
//! Of 80,000 relations few change between two snapshots, and only those are written, so that neither the tables nor the
//! log grow with the number of relations. What is stored is read along in pieces; all that is held is what was measured.

mod relations;
mod schemas;

use std::time::Instant;

use super::measure;
use crate::error::{sqlstate, Error, Result};
use crate::pg::{guc, spi};
use crate::settings;

use relations::Counter;

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
    schemas::write(&measured, system == Some(this_system))?;
    let mut counter = Counter::new(next_counted as u32);
    let changed = relations::write(&measured, &mut counter)?;
    let relations = measured.relations.iter().filter(|r| r.is_listed()).count() as i64;
    let elapsed = begun.elapsed().as_micros() as i64;
    spi::run(
        RECORD,
        &[
            as_of.into(),
            elapsed.into(),
            (measured.total as i64).into(),
            stamp.into(),
            i64::from(counter.next()).into(),
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
