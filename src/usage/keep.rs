//! The history: what was counted since the last time is added to `wh.query_time`, every startup_wh.usage_interval seconds,
//! by the scheduler of each database.

use std::time::{Duration, Instant};

use serde_json::json;

use super::counters::{self, Seen};
use super::{budget, counter, Counts};
use crate::error::{sqlstate, Error, Result};
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

/// Adds what the table does not have yet to this hour.
fn write(database: u32) -> Result<()> {
    let seen: Vec<Seen> = counters::seen(database).into_iter().filter(|s| s.total != s.saved).collect();
    if seen.is_empty() {
        return Ok(());
    }
    let rows: Vec<serde_json::Value> = seen
        .iter()
        .map(|s| {
            let more = counters::difference(&s.total, &s.saved);
            let mut row = json!({ "role": s.role, "name": s.name });
            COLUMNS.iter().zip(more).for_each(|(column, n)| row[column] = json!(n));
            row
        })
        .collect();
    let rows = serde_json::Value::from(rows).to_string();
    spi::run(
        "INSERT INTO wh.query_role AS k (role, name)
         SELECT r.role, coalesce(a.rolname, r.name)
         FROM pg_catalog.json_to_recordset($1::text::json) AS r (role oid, name name)
         LEFT JOIN pg_catalog.pg_roles a ON a.oid = r.role
         ON CONFLICT (role) DO UPDATE SET name = EXCLUDED.name WHERE k.name <> EXCLUDED.name",
        &[rows.as_str().into()],
    )?;
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
        &[rows.as_str().into()],
    )?;
    hooks::at_end(hooks::When::Committed, move || seen.iter().for_each(|s| counters::saved(s.entry, &s.total)));
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

/// What a role has used in this database in the hours that began since `since` (microseconds, Unix), without what runs.
/// Only as the extension's owner.
pub fn used_since(role: u32, since: i64) -> Result<Counts> {
    let sums = COLUMNS.map(|c| format!("coalesce(pg_catalog.sum({c}), 0)::bigint")).join(", ");
    let written: Option<Counts> = spi::first(
        &format!(
            "SELECT pg_catalog.json_build_array({sums})::text FROM wh.query_time WHERE role = $1 AND hour >= wh.instant($2)"
        ),
        &[spi::oid(role), since.into()],
    )?;
    let mut used = written.unwrap_or_default();
    let unwritten = counters::seen(catalog::my_database()).into_iter().filter(|s| s.role == role);
    for more in unwritten.map(|s| counters::difference(&s.total, &s.saved)) {
        used.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
    Ok(used)
}

/// Forgets everything that was counted in this database, when the transaction commits.
pub fn reset() -> Result<()> {
    let database = catalog::my_database();
    // It keeps the schedulers from writing until then, and they do not wait for it.
    spi::run("LOCK TABLE wh.query_time IN SHARE ROW EXCLUSIVE MODE", &[])?;
    spi::run("DELETE FROM wh.query_time", &[])?;
    spi::run("DELETE FROM wh.query_role", &[])?;
    hooks::at_end(hooks::When::Committed, move || {
        counters::seen(database).iter().for_each(|s| counters::saved(s.entry, &s.total));
    });
    Ok(())
}

/// The error of figures that nobody counts.
pub fn off() -> Error {
    Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, "query time is not counted on this server")
        .detail("The library startup_wh was not loaded when the server started.")
        .hint("Add startup_wh to shared_preload_libraries in postgresql.conf, and restart the server.")
}
