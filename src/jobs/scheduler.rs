//! One worker for each database: knows its jobs, begins runs when they are due, and has them done.
//!
//! It sleeps on its latch until the next thing is due, and is woken by a change of jobs, a session's request, or a
//! runner that has finished. What must not be lost is in the tables; a new scheduler picks up from there.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::dispatch::{drop_parcel, Runners};
use super::model::{Job, Kind, Status};
use super::plan::Planned;
use super::queue::Queue;
use super::shared::{self, get, phase, set, state, Database, Jobs};
use super::store;
use super::{recover, requests, EXTENSION};
use crate::analysts::watchdog::{self, Watchdog};
use crate::error::{sqlstate, Error, Result};
use crate::pg::worker::{self, Snapshot};
use crate::pg::{extension, guc};
use crate::usage;

/// How soon to look again whether those have ended that must.
const EVICTION: Duration = Duration::from_millis(20);
const TRIM_EVERY: Duration = Duration::from_secs(3600);
/// Microseconds: a clock that goes back further was set, and not only trimmed.
const CLOCK_SET: i64 = 60_000_000;

/// A run that has begun and not ended.
pub struct Active {
    pub job: i64,
    /// Times that came due meanwhile.
    pub missed: i32,
    /// When it is stopped, once it has a runner.
    pub timeout: Option<i64>,
    /// The database that it was recorded for, where that is another one.
    pub database: Option<String>,
    pub deadline: Option<i64>,
    /// It is made of views.
    pub steps: bool,
    /// Digest of the settings that a session of its owner begins with.
    pub session: u64,
    /// How it was stopped, if it was.
    pub stopped: Option<(Status, Error)>,
}

impl Active {
    /// One that has just been recorded, or is found; of its job as it is known now, if it is.
    pub fn new(record: &store::Begun, job: Option<&Job>) -> Self {
        Active {
            job: record.job,
            missed: 0,
            timeout: job.and_then(|j| j.timeout),
            database: record.database.clone(),
            deadline: None,
            steps: job.is_some_and(|j| j.kind.refreshes()),
            session: 0,
            stopped: None,
        }
    }
}

pub struct Scheduler {
    pub shared: &'static Jobs,
    pub database: u32,
    /// When this scheduler began.
    pub since: Instant,
    pub entry: &'static Database,
    /// The extension whose tables it has read; 0 before that.
    pub extension: u32,
    pub extension_owner: u32,
    pub jobs: HashMap<i64, Planned>,
    /// By run.
    pub active: HashMap<i64, Active>,
    pub queue: Queue,
    pub runners: Runners,
    /// Sessions that wait for a run.
    pub waiting: HashMap<i64, Vec<u64>>,
    /// What has sizes measured, in a process of its own.
    sizes: usage::SizeKeeper,
    trimmed: Option<Instant>,
    usage: crate::usage::Keeper,
    /// Some of what is due was begun before the rest.
    pub began_some: bool,
    /// Microseconds, Unix: the time of the last look.
    looked: i64,
}

fn gone(database: usize) {
    let Some(shared) = shared::jobs() else { return };
    if let Some(entry) = shared.database(database as u32) {
        set(&entry.latch, 0);
        set(&entry.wants_runner, 0);
        set(&entry.scheduler, 0);
    }
    shared.leave_watch();
    // The server tells only the launcher that started it, which may be gone.
    worker::wake(get(&shared.launcher));
}

/// Entry point of the worker.
// The postmaster finds it by its name.
#[allow(unsafe_code)]
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn startup_wh_scheduler(database: pgrx::pg_sys::Datum) {
    worker::obey_signals();
    crate::usage::count(false);
    let database = worker::argument(database) as u32;
    let Some(shared) = shared::jobs() else { return };
    let Some(entry) = shared.database(database) else { return };
    // A launcher that has just begun may not know of another one.
    if entry.scheduler.compare_exchange(0, std::process::id().into(), Ordering::SeqCst, Ordering::SeqCst).is_err() {
        return;
    }
    worker::at_exit(gone, database as usize);
    worker::connect(Some(database), None);
    set(&entry.latch, worker::my_latch());
    worker::hold_cancel(true);
    let round = worker::Round::new(c"startup_wh scheduler");
    let mut scheduler = Scheduler {
        shared,
        database,
        since: Instant::now(),
        entry,
        extension: 0,
        extension_owner: 0,
        jobs: HashMap::new(),
        active: HashMap::new(),
        queue: Queue::default(),
        runners: Runners::default(),
        waiting: HashMap::new(),
        sizes: usage::SizeKeeper::default(),
        trimmed: None,
        usage: crate::usage::Keeper::default(),
        began_some: false,
        looked: 0,
    };
    let mut first = true;
    let mut watchdog = Watchdog::default();
    loop {
        if get(&entry.hold_until) > shared::now() {
            // Somebody needs the database for themselves; the launcher starts another one later.
            set(&entry.state, state::WANTED);
            scheduler.sizes.let_go();
            return;
        }
        let done = round.run(|| scheduler.round(&mut first));
        worker::hold_cancel(true);
        worker::report(None);
        worker::report_statistics(false);
        let pause = match done {
            Ok(Some(pause)) => pause,
            Ok(None) => {
                set(&entry.state, state::ABSENT);
                if get(&entry.changed) != 0 {
                    // CREATE EXTENSION was committed since this round looked.
                    set(&entry.state, state::WANTED);
                }
                return;
            }
            Err(e) => {
                // What is in memory may be ahead of the tables: the launcher starts another one, which reads them.
                pgrx::warning!("the scheduler of jobs starts again: {}", e.message);
                return;
            }
        };
        let watch = match shared.is_watchdog() {
            true => round.run(|| watchdog.round(shared.limits_changed.swap(0, Ordering::SeqCst) != 0)),
            false => watchdog::LOOK_AGAIN,
        };
        worker::report(None);
        let pause = pause.min(watch);
        if !pause.is_zero() {
            worker::wait(Some(pause));
        }
    }
}

impl Scheduler {
    /// One look at everything. Returns how long there is nothing to do; `None` where the extension is gone.
    fn round(&mut self, first: &mut bool) -> Result<Option<Duration>> {
        if *first {
            let held = worker::transaction(Snapshot::Taken, || {
                let _surroundings = guc::Scope::new(OURS)?;
                extension::held(EXTENSION)
            })?;
            if self.evict(held.unwrap_or(0)) {
                return Ok(Some(EVICTION));
            }
        }
        let now = shared::now() as i64;
        let set_back = self.looked > now + CLOCK_SET;
        if set_back {
            self.forget_times(now);
        }
        self.looked = now;
        let changed = self.entry.changed.swap(0, Ordering::SeqCst) != 0 || set_back;
        if !*first {
            self.reap_recorded();
        }
        let work = *first
            || changed
            || self.runners.any_done(self.shared, self.database)
            || requests::any(self.shared, self.database)
            || self.next_due().is_some_and(|at| at <= now)
            || !self.stopped_steps().is_empty()
            || self.trimmed.is_none_or(|at| at.elapsed() > TRIM_EVERY);
        if work {
            let present = worker::transaction(Snapshot::Taken, || {
                let _surroundings = guc::Scope::new(OURS)?;
                self.in_transaction(*first, changed)
            })?;
            if !present {
                self.evict(0);
                return Ok(None);
            }
            self.settle();
            if *first {
                *first = false;
                set(&self.entry.known, 1);
                set(&self.entry.state, state::READY);
            }
        }
        self.dispatch();
        self.tell_waiters();
        // What is due comes first.
        if !self.began_some && self.usage.due_in().is_zero() && self.usage.has_work() && !self.keep_usage() {
            return Ok(None);
        }
        // Jobs come first where slots are few.
        if !self.queue.has_ready() {
            self.sizes.look(self.database);
        }
        Ok(Some(self.pause()))
    }

    /// Ends what runs for tables that went with another extension of the name, and says whether any of it is still there:
    /// its runs have no records, and the numbers of ours.
    fn evict(&self, extension: u32) -> bool {
        let mut left = false;
        for (_, r) in self.shared.runners_of(self.database).filter(|(_, r)| get(&r.extension) != u64::from(extension)) {
            // A process that does not come yet finds that it is too late.
            if get(&r.phase) == phase::GONE || r.give_up() {
                drop_parcel(get(&r.parcel) as u32);
                set(&r.parcel, 0);
                self.shared.free_runner(r);
                continue;
            }
            left = true;
            set(&r.leave, 1);
            worker::signal(get(&r.pid) as i32, pg_sys::SIGTERM);
        }
        left
    }

    /// Writes down what was used; says whether the extension is there. What cannot be written stays in shared memory, and
    /// is no reason for jobs not to run.
    fn keep_usage(&mut self) -> bool {
        let kept = worker::transaction(Snapshot::Taken, || {
            let _surroundings = guc::Scope::new(OURS)?;
            match extension::hold(EXTENSION)? {
                true => self.usage.keep().map(|()| true),
                false => Ok(false),
            }
        });
        kept.unwrap_or_else(|e| {
            pgrx::warning!("query time could not be written down: {}", e.message);
            true
        })
    }

    /// Everything that needs the tables. Says whether the extension is there.
    fn in_transaction(&mut self, first: bool, changed: bool) -> Result<bool> {
        let Some(extension) = extension::held(EXTENSION)? else { return Ok(false) };
        if self.extension != 0 && self.extension != extension {
            set(&self.entry.known, 0);
            return Err(Error::new(sqlstate::UNDEFINED_OBJECT, "the extension was dropped and made again"));
        }
        self.extension = extension;
        let Some(owner) = extension::owner(EXTENSION) else { return Ok(false) };
        self.extension_owner = owner;
        if first {
            self.sizes.take_up()?;
            self.load()?;
            if get(&self.entry.known) == 0 {
                recover::after_a_stop(self)?;
            } else {
                recover::take_over(self)?;
            }
        } else if changed {
            self.load()?;
        }
        if self.reap()? {
            self.load()?;
        }
        for run in self.stopped_steps() {
            self.conclude_if_done(run, None)?;
        }
        requests::answer(self)?;
        self.begin_due()?;
        if self.trimmed.is_none_or(|at| at.elapsed() > TRIM_EVERY) {
            let more = store::trim()?;
            let more = crate::queries::expire_due()? || more;
            self.trimmed = (!more).then(Instant::now);
        }
        Ok(true)
    }

    /// Refreshing runs that were stopped and have no part that goes on.
    fn stopped_steps(&self) -> Vec<i64> {
        let stopped = self.active.iter().filter(|(_, a)| a.steps && a.stopped.is_some()).map(|(run, _)| *run);
        stopped.filter(|run| !self.queue.has(*run) && !self.runners.has(self.shared, self.database, *run)).collect()
    }

    /// Ends a run that no runner will say anything of, and writes it down.
    pub fn end(&mut self, run: i64, status: Status, error: Error) -> Result<()> {
        store::ended(run, status, &store::Ended { error: Some(error), ..Default::default() })?;
        self.over(run, status);
        Ok(())
    }

    /// A run has ended, and is written down.
    pub fn over(&mut self, run: i64, status: Status) {
        let Some(active) = self.active.remove(&run) else { return };
        if let Some(p) = self.jobs.get_mut(&active.job).filter(|p| p.job.kind == Kind::KeepFresh) {
            // One that failed is not tried without a pause.
            let pause = match status.is_failure() {
                true => p.job.retry_delay.min(p.job.max_lag.unwrap_or(i64::MAX)).max(1_000_000),
                false => 0,
            };
            p.next = Some(shared::now() as i64 + pause);
        }
    }

    /// Wakes the sessions whose runs have ended; after the commit that says so.
    fn tell_waiters(&mut self) {
        let active = &self.active;
        self.waiting.retain(|run, latches| {
            let over = !active.contains_key(run);
            if over {
                latches.iter().for_each(|l| worker::wake(*l));
            }
            !over
        });
    }

    /// How long there is nothing to do.
    fn pause(&mut self) -> Duration {
        let now = shared::now() as i64;
        let due = self.next_due().map(|at| at - now);
        let deadline = self.active.values().filter_map(|a| a.deadline).map(|at| at - now).min();
        let runner = self.runners.wakes_in(&self.queue).map(|d| d.as_micros() as i64);
        let awaited = self.awaits_for().map(|d| d.as_micros() as i64);
        let usage = Some(self.usage.due_in().as_micros().min(i64::MAX as u128) as i64);
        // While jobs wait for a runner, its end wakes us.
        let sizes = self.sizes.pause().filter(|_| !self.queue.has_ready()).map(|d| d.as_micros() as i64);
        let least = [due, deadline, runner, awaited, usage, sizes].into_iter().flatten().min().unwrap_or(i64::MAX);
        Duration::from_micros(least.clamp(0, TRIM_EVERY.as_micros() as i64) as u64)
    }
}

const OURS: &[(&str, &str)] = &[
    ("search_path", "pg_catalog, pg_temp"),
    ("synchronous_commit", "off"),
    // Nobody but an administrator can lock our tables for long. Another scheduler tries again; until then this database
    // holds up no other one.
    ("lock_timeout", "10s"),
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
];
