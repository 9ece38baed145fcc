//! Tasks and runners: who gets what, and who has been at it for too long.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::model::Status;
use super::queue::{Queue, Task};
use super::scheduler::Scheduler;
use super::shared::{self, get, outcome, phase, set, stop, Jobs, Runner};
use super::store::{self, Ended};
use crate::error::{Error, Result};
use crate::pg::worker::{self, Life, Snapshot, Started};

/// How long a runner may take to obey before it is ended.
const GRACE: Duration = Duration::from_secs(5);

/// How long a process may take to come that the scheduler before asked for: nobody would hear that it cannot be started.
const COMING: Duration = Duration::from_secs(15);

/// When to try again what the server could not give us.
const NOT_NOW: Duration = Duration::from_millis(500);

/// How long another database, which waits and has none, may take to come for a runner's place.
const TURN: Duration = Duration::from_millis(100);

/// The runners of one scheduler.
#[derive(Default)]
pub struct Runners {
    pub(super) started: HashMap<usize, Started>,
    /// Tasks of more than one run, by runner.
    pub(super) tasks: HashMap<usize, Task>,
    pub(super) told: HashMap<usize, Instant>,
    /// Slots whose end stands in the open transaction; they are given back once that has committed.
    pub(super) reaped: Vec<usize>,
    /// No worker's slot was free: when to try again.
    pub(super) again: Option<Instant>,
    /// Took one since it last let another database go first.
    pub(super) owes_turn: bool,
    /// Until when it does.
    pub(super) stands_back: Option<Instant>,
    pub(super) warned: Option<Instant>,
}

impl Runners {
    /// Whether a runner has something to say.
    pub fn any_done(&self, shared: &Jobs, database: u32) -> bool {
        shared.runners_of(database).any(|(slot, r)| {
            matches!(get(&r.phase), phase::DONE | phase::GONE)
                || self.started.get(&slot).is_some_and(|s| s.life() == Life::Ended)
        })
    }

    /// Whether a runner has a run.
    pub fn has(&self, shared: &Jobs, database: u32, run: i64) -> bool {
        shared
            .runners_of(database)
            .any(|(slot, r)| is_busy(r) && !self.reaped.contains(&slot) && self.runs(slot, r).contains(&run))
    }

    /// Remembers a runner that was told to stop by the scheduler before.
    pub fn was_told(&mut self, slot: usize) {
        self.told.insert(slot, Instant::now());
    }

    /// The runs that a runner's task is for.
    pub fn runs(&self, slot: usize, runner: &Runner) -> Vec<i64> {
        self.tasks.get(&slot).map_or_else(|| vec![get(&runner.run) as i64], |t| t.runs.clone())
    }

    /// When to look again, whatever else happens.
    pub fn wakes_in(&self, queue: &Queue) -> Option<Duration> {
        // Whoever gives a runner back wakes us; the look in between is for one that nobody gave back.
        let at = self.again.or(self.stands_back);
        let again = (!queue.is_empty())
            .then(|| at.map_or(Duration::from_secs(1), |at| at.saturating_duration_since(Instant::now())));
        let told = self.told.values().map(|at| (*at + GRACE).saturating_duration_since(Instant::now())).min();
        [again, told].into_iter().flatten().min().map(|d| d.max(Duration::from_millis(10)))
    }
}

/// Whether a runner has a task.
pub fn is_busy(r: &Runner) -> bool {
    matches!(get(&r.phase), phase::STARTING | phase::ASSIGNED | phase::RUNNING | phase::DONE)
}

impl Scheduler {
    /// Gives out what can begin, and stops what has had its time. Touches no table.
    pub fn dispatch(&mut self) {
        self.stop_the_late();
        if self.runners.again.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.runners.again = None;
        // Said before looking, so that whoever gives one back meanwhile wakes us.
        set(&self.entry.wants_runner, u64::from(self.queue.has_ready()));
        let shared = self.shared;
        if self.runners.stands_back.is_some_and(|at| at > Instant::now()) && shared.should_yield(self.database) {
            return;
        }
        self.runners.stands_back = None;
        let most = crate::settings::MAX_RUNNING_JOBS.get() as usize;
        let mut given = false;
        loop {
            if self.queue.is_empty() || self.places() == 0 {
                break;
            }
            let Some(task) = self.queue.next(|_| true) else { break };
            if !self.give(task, most) {
                break;
            }
            given = true;
        }
        let waits = u64::from(self.queue.has_ready());
        let waited = self.entry.wants_runner.swap(waits, Ordering::SeqCst);
        // Others may have stood back for us, or need the place of one of ours that has nothing to do.
        let spare = |r: &Runner| get(&r.phase) == phase::IDLE && get(&r.leave) == 0;
        if given || waits < waited || shared.runners_of(self.database).any(|(_, r)| spare(r)) {
            shared.wake_waiting(self.database);
        }
    }

    /// How many more runs can be at work on the server.
    pub fn places(&self) -> usize {
        let busy = self.shared.runners.iter().filter(|r| is_busy(r)).count();
        (crate::settings::MAX_RUNNING_JOBS.get() as usize).saturating_sub(busy)
    }

    /// Finds a runner for a task; puts it back where there is none.
    fn give(&mut self, task: Task, most: usize) -> bool {
        let shared = self.shared;
        let (database, handle) = match self.address(&task) {
            Ok(Some(found)) => found,
            Ok(None) => return true,
            Err(e) => {
                let why =
                    format!("a run of job {} waits, because it could not be handed over: {}", task.job, e.message);
                self.put_off(task, &why, "It is tried again.");
                return false;
            }
        };
        // One whose session began with other settings than a new one would is left to end by itself.
        let session = task.runs.first().and_then(|run| self.active.get(run)).map_or(0, |a| a.session);
        let fits = |r: &&(usize, &Runner)| {
            get(&r.1.phase) == phase::IDLE
                && get(&r.1.owner) == u64::from(task.owner)
                && get(&r.1.database) == u64::from(database)
                && get(&r.1.session) == session
                && get(&r.1.leave) == 0
        };
        let idle: Vec<(usize, &Runner)> = shared.runners_of(self.database).filter(|r| fits(&r)).collect();
        for (slot, r) in idle {
            if shared.should_yield(self.database) {
                set(&r.leave, 1);
                worker::wake(get(&r.latch));
                continue;
            }
            // It must not leave, nor look, while it is given the task.
            if r.phase.compare_exchange(phase::IDLE, phase::STARTING, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                self.fill(slot, r, &task, handle);
                let given =
                    r.phase.compare_exchange(phase::STARTING, phase::ASSIGNED, Ordering::SeqCst, Ordering::SeqCst);
                if given.is_ok() {
                    worker::wake(get(&r.latch));
                    return true;
                }
                // It was terminated just now, and has begun nothing.
                self.runners.tasks.remove(&slot);
                set(&r.run, 0);
                set(&r.parcel, 0);
            }
        }
        // Both are woken when a place is free, and whoever is quicker would be so each time.
        if self.runners.owes_turn && shared.should_yield(self.database) {
            self.runners.owes_turn = false;
            self.runners.stands_back = Some(Instant::now() + TURN);
            self.make_room();
            self.queue.put_back(task);
            drop_parcel(handle);
            return false;
        }
        let Some((slot, r)) = shared.take_runner(self.database, most) else {
            self.make_room();
            self.queue.put_back(task);
            drop_parcel(handle);
            return false;
        };
        self.runners.owes_turn = true;
        set(&r.database, database.into());
        set(&r.owner, task.owner.into());
        set(&r.session, session);
        self.fill(slot, r, &task, handle);
        let name = format!("startup_wh runner: {}", self.jobs.get(&task.job).map_or("", |p| p.job.name.as_str()));
        match worker::start(&name, "startup_wh runner", "startup_wh_runner", r.argument(slot)) {
            Some(started) => {
                self.runners.started.insert(slot, started);
                true
            }
            None => {
                self.runners.tasks.remove(&slot);
                set(&r.run, 0);
                shared.free_runner(r);
                drop_parcel(handle);
                self.put_off(
                    task,
                    "jobs wait because no background worker is free",
                    "Raise max_worker_processes, or lower startup_wh.max_running_jobs.",
                );
                false
            }
        }
    }

    /// Waits with a task for what the server could not give us now, and says so, not again for a minute.
    fn put_off(&mut self, task: Task, why: &str, hint: &str) {
        self.queue.put_back(task);
        self.runners.again = Some(Instant::now() + NOT_NOW);
        if self.runners.warned.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) {
            self.runners.warned = Some(Instant::now());
            worker::warn(why, hint);
        }
    }

    /// One that only waits for more of its owner's work leaves.
    fn make_room(&self) {
        if let Some(idle) = self.shared.runners.iter().find(|r| get(&r.phase) == phase::IDLE) {
            set(&idle.leave, 1);
            worker::wake(get(&idle.latch));
        }
    }

    /// The database that a task runs in, and the segment with its command where that is another one. `None`: it cannot be
    /// had, and the run has been failed.
    fn address(&mut self, task: &Task) -> Result<Option<(u32, u32)>> {
        let run = task.runs.first().copied().unwrap_or_default();
        let Some(name) = self.active.get(&run).and_then(|a| a.database.clone()) else {
            return Ok(Some((self.database, 0)));
        };
        let found = worker::transaction(Snapshot::Taken, || {
            let found = crate::pg::catalog::databases().into_iter().find(|d| d.name == name && d.connectable);
            match found {
                Some(d) if d.oid == self.database => Ok(Some((d.oid, 0))),
                Some(d) => Ok(Some((d.oid, crate::pg::parcel::leave(&store::work(run)?.command)))),
                None => {
                    let error = Error::new("3D000", format!("database \"{name}\" does not exist"));
                    store::ended(run, Status::Failed, &Ended { error: Some(error), ..Ended::default() })?;
                    Ok(None)
                }
            }
        })?;
        if found.is_none() {
            self.over(run, Status::Failed);
            set(&self.entry.changed, 1);
        }
        Ok(found)
    }

    fn fill(&mut self, slot: usize, r: &Runner, task: &Task, handle: u32) {
        let first = task.runs.first().copied().unwrap_or_default();
        for (field, value) in [
            (&r.extension, self.extension.into()),
            (&r.extension_owner, self.extension_owner.into()),
            (&r.job, task.job as u64),
            (&r.run, first as u64),
            (&r.relation, task.relation.into()),
            (&r.parcel, handle.into()),
            (&r.started, 0),
            (&r.stop, stop::NO),
            (&r.outcome, outcome::NONE),
        ] {
            set(field, value);
        }
        if task.relation != 0 {
            self.runners.tasks.insert(slot, task.clone());
        }
        let now = shared::now() as i64;
        for run in &task.runs {
            if let Some(a) = self.active.get_mut(run).filter(|a| a.deadline.is_none()) {
                a.deadline = a.timeout.filter(|t| *t > 0).map(|t| now + t);
            }
        }
    }

    /// Runners that the scheduler before asked for, and that have not come.
    fn awaited(&self) -> impl Iterator<Item = &Runner> {
        let shared = self.shared;
        let comes =
            |(slot, r): &(usize, &Runner)| get(&r.phase) == phase::STARTING && !self.runners.started.contains_key(slot);
        shared.runners_of(self.database).filter(comes).map(|(_, r)| r)
    }

    /// How long they may still take, where there are any.
    pub fn awaits_for(&self) -> Option<Duration> {
        self.awaited().next().map(|_| COMING.saturating_sub(self.since.elapsed()))
    }

    /// Stops runs whose time is over, and ends runners that did not obey.
    fn stop_the_late(&mut self) {
        let now = shared::now() as i64;
        let shared = self.shared;
        let late = self.awaits_for().is_some_and(|left| left.is_zero());
        if late && self.awaited().filter(|r| r.give_up()).count() > 0 {
            // To write down that their runs did not begin.
            worker::wake(get(&self.entry.latch));
        }
        for (_, r) in shared.runners_of(self.database).filter(|(_, r)| is_busy(r) && get(&r.relation) == 0) {
            // The time that its session took to begin is not the command's.
            let begun = match get(&r.started) {
                0 => now,
                begun => now.min(begun as i64),
            };
            let Some(a) = self.active.get_mut(&(get(&r.run) as i64)) else { continue };
            if let (Some(at), Some(timeout)) = (a.deadline.filter(|at| *at <= now), a.timeout) {
                a.deadline = Some(at.max(begun + timeout));
            }
        }
        let late: Vec<i64> =
            self.active.iter().filter(|(_, a)| a.deadline.is_some_and(|at| at <= now)).map(|(run, _)| *run).collect();
        for run in late {
            self.stop(run, stop::TIMEOUT);
        }
        let late: Vec<usize> =
            self.runners.told.iter().filter(|(_, at)| at.elapsed() >= GRACE).map(|(slot, _)| *slot).collect();
        for slot in late {
            self.runners.told.remove(&slot);
            worker::signal(get(&shared.runners[slot].pid) as i32, pgrx::pg_sys::SIGTERM);
        }
    }

    /// Stops a run that has begun, in all of its parts. The steps that wait are ended by whoever looks next.
    pub fn stop(&mut self, run: i64, why: u64) {
        let Some(active) = self.active.get_mut(&run) else { return };
        active.deadline = None;
        active.stopped.get_or_insert_with(|| stopped(why));
        self.queue.forget(run);
        let shared = self.shared;
        let active = &self.active;
        for (slot, r) in shared.runners_of(self.database).filter(|(_, r)| get(&r.run) != 0 && is_busy(r)) {
            if self.runners.reaped.contains(&slot) {
                continue;
            }
            let runs = self.runners.runs(slot, r);
            // A view that others need too goes on.
            if runs.contains(&run) && runs.iter().all(|other| active.get(other).is_none_or(|a| a.stopped.is_some())) {
                set(&r.stop, why);
                worker::signal(get(&r.pid) as i32, pgrx::pg_sys::SIGINT);
                self.runners.told.entry(slot).or_insert_with(Instant::now);
            }
        }
    }
}

/// How a run ends that was told to stop.
pub fn stopped(why: u64) -> (Status, Error) {
    match why {
        stop::TIMEOUT => (Status::TimedOut, Error::new("57014", "canceled because it ran longer than its timeout")),
        stop::LEFT => (Status::Cancelled, Error::new("57014", "canceled with the session that waited for it")),
        _ => (Status::Cancelled, Error::new("57014", "canceled by wh.cancel_job")),
    }
}

/// Gives back the segment with a command; 0 is none.
pub fn drop_parcel(handle: u32) {
    if handle != 0 {
        let gone = worker::transaction(Snapshot::Taken, || {
            crate::pg::parcel::remove(handle);
            Ok(())
        });
        if let Err(e) = gone {
            pgrx::warning!("a command's segment could not be given back: {}", e.message);
        }
    }
}
