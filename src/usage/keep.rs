//! The history: what was counted since the last time is added to `wh.query_time`, every startup_wh.usage_interval seconds,
//! by the scheduler of each database.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::counters::{self, Seen};
use super::{budget, counter, Counts};
use crate::error::{sqlstate, Error, Result};
use crate::pg::identity::As;
use crate::pg::{catalog, hooks, spi, subxact};
use crate::settings;

const TRIM_EVERY: Duration = Duration::from_secs(3600);

/// Names of the counters, in their order, as columns of `wh.query_time`.
pub const COLUMNS: [&str; counter::ALL] = [
    "calls",
    "errors",
    "cancels",
    "total_time",
    "cpu_user_time",
    "cpu_system_time",
    "rows",
    "temp_bytes",
    "blocks_read",
    "blocks_hit",
    "wal_bytes",
];

/// What a scheduler has to do for usage, and when.
#[derive(Default)]
pub struct Keeper {
    kept: Option<Instant>,
    trimmed: Option<Instant>,
    /// Changes of budgets that were looked at.
    hurried: u64,
    /// There are budgets, whose periods end by themselves.
    budgets: bool,
    /// Nothing is counted; whoever counts something wakes the scheduler.
    asleep: bool,
}

impl Keeper {
    /// How long there is nothing to do.
    pub fn due_in(&mut self) -> Duration {
        if !counters::are_on() {
            return Duration::MAX;
        }
        if self.hurried != counters::hurried() {
            return Duration::ZERO;
        }
        if self.asleep {
            if counters::is_quiet(catalog::my_database()) {
                return self.trimmed.map_or(Duration::ZERO, |at| TRIM_EVERY.saturating_sub(at.elapsed()));
            }
            // What is counted next is written together with it.
            self.asleep = false;
            self.kept = Some(Instant::now());
        }
        let every = Duration::from_secs(settings::USAGE_INTERVAL.get().max(1) as u64);
        self.kept.map_or(Duration::ZERO, |at| every.saturating_sub(at.elapsed()))
    }

    /// Whether there is anything to write or to look at. An idle server has no transaction for it.
    pub fn has_work(&mut self) -> bool {
        let unwritten = || counters::seen(catalog::my_database()).iter().any(|s| s.total != s.saved);
        let work = self.budgets
            || self.hurried != counters::hurried()
            || self.trimmed.is_none_or(|at| at.elapsed() > TRIM_EVERY)
            || unwritten();
        if !work {
            let database = catalog::my_database();
            self.kept = Some(Instant::now());
            self.asleep = counters::is_quiet(database);
            counters::hush(database);
        }
        work
    }

    /// Does it, in a transaction of the caller's.
    pub fn keep(&mut self) -> Result<()> {
        self.kept = Some(Instant::now());
        self.hurried = counters::hurried();
        let database = catalog::my_database();
        match subxact::run(|| spi::run("LOCK TABLE wh.query_time IN ROW EXCLUSIVE MODE NOWAIT", &[])) {
            // A reset that is not committed yet: what is counted meanwhile waits in shared memory.
            Err(e) if e.sqlstate == sqlstate::LOCK_NOT_AVAILABLE => return Ok(()),
            locked => locked?,
        };
        self.budgets = budget::judge(database)?;
        write(database)?;
        if self.trimmed.is_none_or(|at| at.elapsed() > TRIM_EVERY) {
            trim()?;
            self.trimmed = Some(Instant::now());
        }
        Ok(())
    }
}

/// How much of what a server has counted the table has, as one snapshot sees both: for each role the number of the entry
/// and its counts.
#[derive(Default)]
pub struct Written(HashMap<u32, (u64, Vec<u64>)>);

impl Written {
    fn of(rows: Vec<(u32, u64, Vec<u64>)>) -> Self {
        Written(rows.into_iter().map(|(role, birth, counts)| (role, (birth, counts))).collect())
    }

    /// Under the snapshot of the statement that asks, whoever asks.
    pub fn as_seen() -> Result<Self> {
        let (_caller, _owner) = As::on_behalf()?;
        // Names are looked up as the caller has set it.
        let rows = spi::peek(
            "SELECT pg_catalog.json_build_array(k.role::pg_catalog.int8, k.entry, k.written)::pg_catalog.text FROM wh.query_role k",
            &[],
        )?;
        Ok(Written::of(rows))
    }

    /// What was counted beyond that. It must have been seen later than the table, which has a part of it then.
    pub fn rest(&self, seen: &Seen) -> Counts {
        let written = self.0.get(&seen.role).filter(|(birth, _)| *birth == seen.birth);
        match written.and_then(|(_, counts)| counts.as_slice().try_into().ok()) {
            Some(written) => counters::difference(&seen.total, &written),
            // Of another server, or of a database that this one was copied from.
            None => seen.total,
        }
    }
}

/// Adds what the table does not have yet to this hour, and says how much of each entry it has then.
fn write(database: u32) -> Result<()> {
    let due: Vec<u32> = counters::seen(database).iter().filter(|s| s.total != s.saved).map(|s| s.role).collect();
    if due.is_empty() {
        return Ok(());
    }
    let written = Written::of(spi::rows(
        "SELECT pg_catalog.json_build_array(role::int8, entry, written)::text FROM wh.query_role
         WHERE role = ANY ($1) ORDER BY role FOR UPDATE",
        &[spi::oids(due.iter().copied())],
    )?);
    let seen: Vec<Seen> = counters::seen(database).into_iter().filter(|s| due.contains(&s.role)).collect();
    let rows: Vec<serde_json::Value> = seen
        .iter()
        .map(|s| (s, written.rest(s)))
        .filter(|(_, more)| *more != [0; counter::ALL])
        .map(|(s, more)| {
            let mut row = json!({ "role": s.role });
            COLUMNS.iter().zip(more).for_each(|(column, n)| row[column] = json!(n as i64));
            row
        })
        .collect();
    let list = COLUMNS.join(", ");
    let types = COLUMNS.map(|c| format!("{c} bigint")).join(", ");
    let sums = COLUMNS.map(|c| format!("{c} = q.{c} + EXCLUDED.{c}")).join(", ");
    spi::run(
        &format!(
            "INSERT INTO wh.query_time AS q (hour, role, {list})
             SELECT pg_catalog.date_trunc('hour', pg_catalog.now(), 'UTC'), r.role, {list}
             FROM pg_catalog.json_to_recordset($1::text::json) AS r (role oid, {types})
             ON CONFLICT (hour, role) DO UPDATE SET {sums}"
        ),
        &[serde_json::Value::from(rows).to_string().as_str().into()],
    )?;
    record(&seen)?;
    hooks::at_end(hooks::When::Committed, move || seen.iter().for_each(counters::saved));
    Ok(())
}

/// Says that the table has what was seen.
fn record(seen: &[Seen]) -> Result<()> {
    let rows: Vec<serde_json::Value> = seen
        .iter()
        .filter(|s| s.entry.is_some())
        .map(|s| json!({ "role": s.role, "name": s.name, "entry": s.birth, "written": s.total.map(|n| n as i64) }))
        .collect();
    spi::run(
        "INSERT INTO wh.query_role AS k (role, name, entry, written)
         SELECT r.role, coalesce(a.rolname, r.name), r.entry, r.written
         FROM pg_catalog.json_to_recordset($1::text::json) AS r (role oid, name name, entry bigint, written bigint[])
         LEFT JOIN pg_catalog.pg_roles a ON a.oid = r.role
         ON CONFLICT (role) DO UPDATE SET name = EXCLUDED.name, entry = EXCLUDED.entry, written = EXCLUDED.written",
        &[serde_json::Value::from(rows).to_string().as_str().into()],
    )?;
    Ok(())
}

/// Moves what is older than the history into the figures for all time.
fn trim() -> Result<()> {
    let list = COLUMNS.join(", ");
    let sums = COLUMNS.map(|c| format!("pg_catalog.sum({c})::bigint")).join(", ");
    let added = COLUMNS.map(|c| format!("{c} = q.{c} + EXCLUDED.{c}")).join(", ");
    let days = settings::USAGE_HISTORY.get();
    spi::run(
        &format!(
            "WITH old AS (DELETE FROM wh.query_time
               WHERE hour < pg_catalog.now() - pg_catalog.make_interval(days => $1) AND hour > '-infinity' RETURNING *)
             INSERT INTO wh.query_time AS q (hour, role, {list})
             SELECT '-infinity', role, {sums} FROM old GROUP BY role
             ON CONFLICT (hour, role) DO UPDATE SET {added}"
        ),
        &[days.into()],
    )?;
    Ok(())
}

/// For how long (microseconds) a role's statements have run in the hours that began since `since` (microseconds, Unix), with
/// those that run. Only as the extension's owner.
pub fn time_since(database: u32, role: u32, since: i64) -> Result<u64> {
    // One statement, so one snapshot.
    let found: Option<(i64, Vec<(u32, u64, Vec<u64>)>)> = spi::first(
        "SELECT pg_catalog.json_build_array(
           (SELECT coalesce(pg_catalog.sum(q.total_time), 0)::bigint FROM wh.query_time q WHERE q.role = $1 AND q.hour >= wh.instant($2)),
           (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(k.role::int8, k.entry, k.written)), '[]'::json)
            FROM wh.query_role k WHERE k.role = $1))::text",
        &[spi::oid(role), since.into()],
    )?;
    let (time, written) = found.unwrap_or_default();
    let written = Written::of(written);
    let of_role = counters::seen(database).into_iter().filter(|s| s.role == role);
    let rest = of_role.map(|s| written.rest(&s)[counter::TIME].wrapping_add(s.running_time));
    Ok(rest.fold(time as u64, u64::wrapping_add))
}

/// Forgets everything that was counted in this database until now, when the transaction commits.
pub fn reset() -> Result<()> {
    let database = catalog::my_database();
    // It keeps the schedulers from writing until then, and they do not wait for it.
    spi::run("LOCK TABLE wh.query_time IN SHARE ROW EXCLUSIVE MODE", &[])?;
    spi::run("DELETE FROM wh.query_time", &[])?;
    spi::run("DELETE FROM wh.query_role", &[])?;
    record(&counters::seen(database))
}

/// The error of figures that nobody counts.
pub fn off() -> Error {
    Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, "query time is not counted on this server")
        .detail("The library startup_wh was not loaded when the server started.")
        .hint("Add startup_wh to shared_preload_libraries in postgresql.conf, and restart the server.")
}
