//! One worker for each database: knows its jobs, begins runs when they are due, and has them done.
//!
//! It sleeps on its latch until the next thing is due, and is woken by a change of jobs, a session's request, or a
//! runner that has finished. What must not be lost is in the tables; a new scheduler picks up from there.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use pgrx::prelude::*;

use super::dispatch::Runners;
use super::model::{CatchUp, Job, Kind, Status, Trigger};
use super::promise::Next;
use super::queue::{Queue, Task};
use super::schedule::Schedule;
use super::shared::{self, get, set, state, Database, Jobs};
use super::store::{self, Ended, NewRun};
use super::{recover, requests, steps, EXTENSION};
use crate::analysts::watchdog::{self, Watchdog};
use crate::error::{Error, Result};
use crate::pg::worker::{self, Snapshot};
use crate::pg::{catalog, guc, spi, sql, subxact};
use crate::usage;

const TRIM_EVERY: Duration = Duration::from_secs(3600);

/// A job with what is known of it between runs.
pub struct Planned {
    pub job: Job,
    pub enabled: bool,
    pub schedule: Option<Schedule>,
    /// When it comes next (microseconds, Unix).
    pub next: Option<i64>,
}

/// A run that has begun and not ended.
pub struct Active {
    pub job: i64,
    /// Times that came due meanwhile.
    pub missed: i32,
    /// When it is stopped, once it has a runner.
    pub timeout: Option<i64>,
    pub deadline: Option<i64>,
    /// It is made of views.
    pub steps: bool,
    /// Digest of the settings that a session of its owner begins with.
    pub session: u64,
    /// How it was stopped, if it was.
    pub stopped: Option<(Status, Error)>,
}

pub struct Scheduler {
    pub shared: &'static Jobs,
    pub database: u32,
    pub entry: &'static Database,
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
        entry,
        extension_owner: 0,
        jobs: HashMap::new(),
        active: HashMap::new(),
        queue: Queue::default(),
        runners: Runners::default(),
        waiting: HashMap::new(),
        sizes: usage::SizeKeeper::default(),
        trimmed: None,
        usage: crate::usage::Keeper::default(),
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
        let changed = self.entry.changed.swap(0, Ordering::SeqCst) != 0;
        let now = shared::now() as i64;
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
        if self.usage.due_in().is_zero() && self.usage.has_work() && !self.keep_usage() {
            return Ok(None);
        }
        // Jobs come first where slots are few.
        if !self.queue.has_ready() {
            self.sizes.look(self.database);
        }
        Ok(Some(self.pause()))
    }

    /// Writes down what was used; says whether the extension is there. What cannot be written stays in shared memory, and
    /// is no reason for jobs not to run.
    fn keep_usage(&mut self) -> bool {
        let kept = worker::transaction(Snapshot::Taken, || {
            let _surroundings = guc::Scope::new(OURS)?;
            match catalog::hold_extension(EXTENSION) {
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
        if !catalog::hold_extension(EXTENSION) {
            return Ok(false);
        }
        let Some(owner) = catalog::extension_owner(EXTENSION)? else { return Ok(false) };
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

    /// Reads the jobs again.
    pub fn load(&mut self) -> Result<()> {
        let mut known = std::mem::take(&mut self.jobs);
        for store::Loaded { job, enabled } in store::load()? {
            let zone = job.timezone.as_deref().unwrap_or("UTC");
            let known = known.remove(&job.id);
            let was_held = known.as_ref().is_some_and(|p| !p.enabled) && enabled;
            let same = known.filter(|p| {
                (&p.job.schedule, &p.job.timezone, p.job.anchor, p.enabled)
                    == (&job.schedule, &job.timezone, job.anchor, enabled)
            });
            let schedule = match same {
                Some(ref planned) => planned.schedule.clone(),
                // It was checked when it was written; the rules may have changed since.
                None => match job.schedule.as_deref().map(|s| Schedule::parse(s, zone)).transpose() {
                    Ok(schedule) => schedule,
                    Err(e) => {
                        pgrx::warning!("the schedule of job \"{}\" cannot be read: {}", job.name, e.message);
                        None
                    }
                },
            };
            let next = match (same, job.kind) {
                (Some(planned), _) => planned.next.or(job.next_run),
                (None, Kind::KeepFresh) => Some(shared::now() as i64),
                // What came due while it was held does not run.
                (None, _) if was_held => upcoming(&job, schedule.as_ref(), shared::now() as i64),
                (None, _) => job.next_run.or_else(|| upcoming(&job, schedule.as_ref(), shared::now() as i64)),
            };
            self.jobs.insert(job.id, Planned { job, enabled, schedule, next });
        }
        // What waits of jobs that are gone does not begin.
        let gone: Vec<i64> =
            self.active.iter().filter(|(_, a)| !self.jobs.contains_key(&a.job)).map(|(run, _)| *run).collect();
        for run in gone {
            if !self.runners.has(self.shared, self.database, run) && self.queue.has(run) {
                self.queue.forget(run);
                let error = Error::new("57014", "the job was unscheduled before it began");
                store::ended(run, Status::Cancelled, &Ended { error: Some(error), ..Ended::default() })?;
                self.over(run, Status::Cancelled);
            }
        }
        Ok(())
    }

    /// Refreshing runs that were stopped and have no part that goes on.
    fn stopped_steps(&self) -> Vec<i64> {
        let stopped = self.active.iter().filter(|(_, a)| a.steps && a.stopped.is_some()).map(|(run, _)| *run);
        stopped.filter(|run| !self.queue.has(*run) && !self.runners.has(self.shared, self.database, *run)).collect()
    }

    /// The earliest time at which a job is due.
    fn next_due(&self) -> Option<i64> {
        self.jobs
            .values()
            .filter(|p| p.enabled)
            .filter_map(|p| [p.next, p.job.retry_at].into_iter().flatten().min())
            .min()
    }

    /// Begins the runs of all jobs that are due.
    fn begin_due(&mut self) -> Result<()> {
        let now = shared::now() as i64;
        let mut new = Vec::new();
        let mut looks = Vec::new();
        for p in self.jobs.values_mut().filter(|p| p.enabled) {
            let scheduled = p.next.filter(|at| *at <= now);
            let retry = p.job.retry_at.filter(|at| *at <= now);
            if scheduled.is_none() && retry.is_none() {
                continue;
            }
            let running = self.active.values_mut().find(|a| a.job == p.job.id);
            if p.job.kind == Kind::KeepFresh {
                p.job.retry_at = None;
                match running {
                    Some(_) => p.next = Some(now + 60_000_000),
                    None => looks.push(p.job.id),
                }
                continue;
            }
            if let Some(at) = scheduled {
                p.next = upcoming(&p.job, p.schedule.as_ref(), now.max(at));
            }
            match running {
                // A run never overlaps itself.
                Some(active) => {
                    active.missed += i32::from(scheduled.is_some());
                    p.job.retry_at = None;
                }
                None => new.push(match (scheduled, retry) {
                    (None, Some(_)) => {
                        let due = p.job.retry_for.unwrap_or(now);
                        NewRun::new(p.job.id, Trigger::Retry, due, p.job.attempt, p.next)
                    }
                    _ => NewRun::new(p.job.id, Trigger::Schedule, scheduled.unwrap_or(now), 1, p.next),
                }),
            }
        }
        for id in looks {
            new.extend(self.look(id)?);
        }
        self.begin(&new)
    }

    /// Looks at a view that is kept fresh; a run, if it is time.
    fn look(&mut self, id: i64) -> Result<Option<NewRun<'static>>> {
        let Some(p) = self.jobs.get_mut(&id) else { return Ok(None) };
        let now = shared::now() as i64;
        let (Some(relation), Some(max_lag)) = (p.job.relation, p.job.max_lag) else {
            p.next = None;
            return Ok(None);
        };
        let next = match subxact::run(|| steps::look(relation, max_lag)) {
            Ok(next) => next,
            // The run will say what is wrong with it.
            Err(_) => Next::Refresh,
        };
        match next {
            Next::Look { at, .. } => {
                p.next = Some(at.max(now + 1000));
                Ok(None)
            }
            Next::Refresh => {
                // The end of the run sets the next look; this one is for a run that does not end.
                p.next = Some(now + max_lag.clamp(1_000_000, 60_000_000));
                Ok(Some(NewRun::new(id, Trigger::Schedule, now, p.job.attempt, p.next)))
            }
        }
    }

    /// Records runs and queues what they are made of.
    pub fn begin(&mut self, new: &[NewRun]) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let mut graph = None;
        // Many jobs of one owner are due together as a rule.
        let mut allowed: HashMap<(u32, Option<String>), Result<u64>> = HashMap::new();
        if new.iter().any(|n| self.jobs.get(&n.job).is_some_and(|p| p.job.kind.refreshes())) {
            // Nobody tells us when a view is renamed or made again.
            if store::follow()? {
                self.load()?;
            }
            graph = Some(subxact::run(crate::refresh::load));
        }
        for (id, run) in store::begin(new)? {
            let Some(p) = self.jobs.get_mut(&id) else { continue };
            p.job.retry_at = None;
            let job = p.job.clone();
            let mut active = Active {
                job: id,
                missed: 0,
                timeout: job.timeout,
                deadline: None,
                steps: false,
                session: 0,
                stopped: None,
            };
            let planned = if job.kind.refreshes() {
                active.steps = true;
                match &graph {
                    Some(Ok(graph)) => subxact::run(|| steps::plan(run, &job, graph)),
                    Some(Err(e)) => Err(e.clone()),
                    None => Ok(Vec::new()),
                }
                .map(|steps| {
                    let task = |s: steps::Step| Task {
                        runs: vec![run],
                        job: id,
                        owner: job.owner,
                        relation: s.relation,
                        after: s.after,
                    };
                    steps.into_iter().map(task).collect()
                })
            } else {
                Ok(vec![Task { runs: vec![run], job: id, owner: job.owner, relation: 0, after: Default::default() }])
            };
            let may = allowed
                .entry((job.owner, job.database.clone()))
                .or_insert_with(|| may_run(&job, self.database))
                .clone();
            match planned.and_then(|tasks: Vec<Task>| may.map(|session| (tasks, session))) {
                Ok((tasks, session)) => {
                    active.session = session;
                    self.active.insert(run, active);
                    tasks.into_iter().for_each(|t| self.queue.push(t));
                }
                Err(error) => {
                    store::ended(run, Status::Failed, &Ended { error: Some(error), ..Ended::default() })?;
                    self.active.insert(run, active);
                    self.over(run, Status::Failed);
                    set(&self.entry.changed, 1);
                }
            }
        }
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
    fn pause(&self) -> Duration {
        let now = shared::now() as i64;
        let due = self.next_due().map(|at| at - now);
        let deadline = self.active.values().filter_map(|a| a.deadline).map(|at| at - now).min();
        let runner = self.runners.wakes_in(&self.queue).map(|d| d.as_micros() as i64);
        let usage = Some(self.usage.due_in().as_micros().min(i64::MAX as u128) as i64);
        // While jobs wait for a runner, its end wakes us.
        let sizes = self.sizes.pause().filter(|_| !self.queue.has_ready()).map(|d| d.as_micros() as i64);
        let least = [due, deadline, runner, usage, sizes].into_iter().flatten().min().unwrap_or(i64::MAX);
        Duration::from_micros(least.clamp(0, TRIM_EVERY.as_micros() as i64) as u64)
    }
}

const OURS: &[(&str, &str)] = &[
    ("search_path", "pg_catalog, pg_temp"),
    ("synchronous_commit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
];

/// When a job comes after `now`.
pub fn upcoming(job: &Job, schedule: Option<&Schedule>, now: i64) -> Option<i64> {
    let time = |micros| DateTime::<Utc>::from_timestamp_micros(micros);
    schedule?.next_after(time(now)?, time(job.anchor)?).map(|at| at.timestamp_micros())
}

/// The last time at which a job was due until `now`, and how often since `since`.
pub fn last_due(job: &Job, schedule: Option<&Schedule>, since: i64, now: i64) -> Option<i64> {
    let time = |micros| DateTime::<Utc>::from_timestamp_micros(micros);
    schedule?.last_due(time(since)?, time(now)?, time(job.anchor)?).map(|at| at.timestamp_micros())
}

/// Whether missed runs of a job are made up for.
pub fn makes_up(job: &Job) -> bool {
    job.catch_up == CatchUp::Once
}

/// Refuses a run whose owner could not connect: the worker could only say so in the server's log. Returns a digest of
/// the settings with which a session of the owner begins (ALTER ROLE, ALTER DATABASE ... SET).
fn may_run(job: &Job, here: u32) -> Result<u64> {
    let database = job.database.clone();
    let found: Option<(String, bool, bool, Option<bool>, Option<i64>)> = spi::first(
        "SELECT pg_catalog.json_build_array(r.rolname, r.rolcanlogin, pg_catalog.now() >= r.rolvaliduntil IS TRUE,
                pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT'),
                (SELECT pg_catalog.hashtextextended(pg_catalog.string_agg(pg_catalog.concat_ws(' ', s.setdatabase, s.setrole, s.setconfig), ' '
                          ORDER BY s.setdatabase, s.setrole), 0)
                 FROM pg_catalog.pg_db_role_setting s WHERE s.setrole IN (0, r.oid) AND s.setdatabase IN (0, d.oid)))::text
         FROM pg_catalog.pg_roles r LEFT JOIN pg_catalog.pg_database d
           ON CASE WHEN $2 IS NULL THEN d.oid = $3 ELSE d.datname = $2 END AND d.datallowconn
         WHERE r.oid = $1",
        &[spi::oid(job.owner), database.clone().into(), spi::oid(here)],
    )?;
    let name = database.as_deref().unwrap_or("this database");
    match found {
        None => Err(Error::new("42704", format!("the job's owner, role {}, does not exist", job.owner))),
        Some((role, false, ..)) => Err(Error::new("28000", format!("role \"{role}\" is not permitted to log in"))
            .hint("A job runs in a session of its owner: ALTER ROLE ... LOGIN, or wh.alter_job(..., owner => ...).")),
        Some((role, _, true, ..)) => {
            Err(Error::new("28000", format!("role \"{role}\" was valid only until a time that is over")))
        }
        Some((_, _, _, None, _)) => Err(Error::new("3D000", format!("database \"{name}\" does not exist"))),
        Some((role, _, _, Some(false), _)) => {
            Err(Error::new("42501", format!("role \"{role}\" may not connect to {name}"))
                .hint(format!("GRANT CONNECT ON DATABASE ... TO {}", sql::ident(&role))))
        }
        Some((_, _, _, Some(true), settings)) => Ok(settings.unwrap_or_default() as u64),
    }
}
