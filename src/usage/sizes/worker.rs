//! The process that measures: started by the scheduler of a database, each startup_wh.size_interval, for as long as one
//! snapshot takes.
//!
//! Not in the scheduler: a snapshot of many relations takes as long as a job may be late. Not for good either: what a
//! process has looked up of a hundred thousand relations stays in its memory.

use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::snapshot::{self, Wait};
use crate::error::Result;
use crate::pg::worker::{self, Life, Snapshot, Started};
use crate::pg::{extension, guc, spi};
use crate::settings;

/// When no slot was free, or somebody else was measuring.
const AGAIN: Duration = Duration::from_secs(10);

/// How long no slot may be free before the log says so, and how long until it says so again.
const SAY: Duration = Duration::from_secs(3600);

/// Has sizes measured when it is time; one for each scheduler.
#[derive(Default)]
pub struct SizeKeeper {
    started: Option<Started>,
    /// When the last measurement began.
    last: Option<Instant>,
    not_before: Option<Instant>,
    /// Since when no slot has been free.
    starved: Option<Instant>,
}

impl SizeKeeper {
    /// Takes up where another scheduler ended; in a transaction.
    pub fn take_up(&mut self) -> Result<()> {
        let age: Option<f64> = spi::first(
            "SELECT pg_catalog.to_json(extract(epoch FROM pg_catalog.clock_timestamp() - as_of)::float8)::text FROM wh.size_snapshot",
            &[],
        )?;
        self.last = age.and_then(|age| Instant::now().checked_sub(Duration::try_from_secs_f64(age.max(0.0)).ok()?));
        Ok(())
    }

    /// How long there is nothing to do; None: until something else happens.
    pub fn pause(&self) -> Option<Duration> {
        if self.started.as_ref().is_some_and(|s| s.life() != Life::Ended) {
            // Its end wakes us.
            return None;
        }
        let interval = interval()?;
        let due = self.last.map_or(Duration::ZERO, |last| interval.saturating_sub(last.elapsed()));
        let held = self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        Some(due.max(held))
    }

    /// Starts a measurement if it is time and none is going on.
    pub fn look(&mut self, database: u32) {
        if self.pause() != Some(Duration::ZERO) {
            return;
        }
        match worker::start("startup_wh sizes", "startup_wh sizes", "startup_wh_sizes", database as usize) {
            Some(started) => {
                self.started = Some(started);
                self.last = Some(Instant::now());
                self.not_before = None;
                self.starved = None;
            }
            None => {
                self.not_before = Some(Instant::now() + AGAIN);
                let since = *self.starved.get_or_insert_with(Instant::now);
                if since.elapsed() > SAY {
                    self.starved = Some(Instant::now());
                    worker::warn(
                        "sizes are not measured because every background worker is taken",
                        "Raise max_worker_processes, or lower startup_wh.max_running_jobs.",
                    );
                }
            }
        }
    }

    /// Ends a measurement that is going on: somebody needs the database for themselves.
    pub fn let_go(&self) {
        if let Some(started) = self.started.as_ref().filter(|s| s.life() != Life::Ended) {
            started.terminate();
        }
    }
}

fn interval() -> Option<Duration> {
    match settings::SIZE_INTERVAL.get() {
        0 => None,
        seconds => Some(Duration::from_secs(seconds.unsigned_abs().into())),
    }
}

/// Entry point of the process.
// The postmaster finds it by its name.
#[allow(unsafe_code)]
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn startup_wh_sizes(database: pg_sys::Datum) {
    worker::obey_signals();
    worker::connect(Some(worker::argument(database) as u32), None);
    worker::report(Some("measuring sizes"));
    let done = worker::transaction(Snapshot::Taken, || {
        // Nobody locks its tables for long; whoever does is not waited for.
        let _patience = guc::Scope::new(&[("lock_timeout", "10s"), ("synchronous_commit", "off")])?;
        if extension::hold(c"startup_wh")? {
            snapshot::take(Wait::No)?;
        }
        Ok(())
    });
    worker::report_statistics(true);
    if let Err(e) = done {
        pgrx::warning!("sizes were not measured: {}", e.message);
    }
}
