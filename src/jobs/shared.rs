//! What launcher, schedulers, runners and sessions share: who is there, what runs, and who is to be woken.
//!
//! Everything durable is in the tables; this is lost with the server and made again from them. Each field has one
//! writer at a time: a slot is taken under the area's lock, and then belongs to whoever its state names.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::pg::shmem::Area;
use crate::pg::worker;

/// As many as one server can serve.
pub const DATABASES: usize = 64;
/// The most that startup_wh.max_running_jobs can be.
pub const RUNNERS: usize = 128;
const REQUESTS: usize = 64;

crate::shared! {
    pub struct Jobs {
        /// Latch of the launcher.
        launcher: AtomicU64,
        /// Process of the scheduler that holds the analysts' limits, for all databases, or 0; and its latch.
        watchdog: AtomicU64,
        watchdog_latch: AtomicU64,
        /// Limits were changed since it read them.
        limits_changed: AtomicU64,
        databases: [Database; DATABASES],
        runners: [Runner; RUNNERS],
        requests: [Request; REQUESTS],
    }

    /// A database, from the time that somebody asked for it.
    pub struct Database {
        /// 0: the entry is free.
        oid: AtomicU64,
        /// [`state`].
        state: AtomicU64,
        /// Process of its scheduler, or 0: there is never more than one.
        scheduler: AtomicU64,
        /// Latch of its scheduler, while it runs.
        latch: AtomicU64,
        /// Jobs were changed since the scheduler read them.
        changed: AtomicU64,
        /// Until when (microseconds, Unix) its scheduler and idle runners stay away.
        hold_until: AtomicU64,
        /// Its scheduler has runs and found no runner free.
        wants_runner: AtomicU64,
        /// A scheduler has been here before: what the runners' slots say of its runs is complete.
        known: AtomicU64,
    }

    /// A runner: a worker that runs one job's command at a time, all of one owner in one database.
    pub struct Runner {
        /// [`phase`].
        phase: AtomicU64,
        /// How often the slot was given back, and, in the lowest bit, whether the process that it was taken for is there.
        ticket: AtomicU64,
        /// The database whose scheduler has it.
        home: AtomicU64,
        /// The database that it is connected to.
        database: AtomicU64,
        owner: AtomicU64,
        /// The extension whose tables have the run.
        extension: AtomicU64,
        extension_owner: AtomicU64,
        pid: AtomicU64,
        latch: AtomicU64,
        job: AtomicU64,
        run: AtomicU64,
        /// The view of a step, or 0.
        relation: AtomicU64,
        /// Handle of the segment with a command for another database, or 0.
        parcel: AtomicU64,
        /// Microseconds, Unix: when the command began.
        started: AtomicU64,
        /// Why it was told to stop: [`stop`].
        stop: AtomicU64,
        /// [`outcome`], once its phase is DONE.
        outcome: AtomicU64,
        /// Digest of the settings of role and database that its session began with.
        session: AtomicU64,
        /// It should end when it has nothing to do.
        leave: AtomicU64,
        /// How far a fetch has come.
        requests: AtomicU64,
        records: AtomicU64,
    }

    /// A session's wish: run this job now, or cancel it.
    pub struct Request {
        /// [`wish`].
        state: AtomicU64,
        database: AtomicU64,
        job: AtomicU64,
        /// Latch of the session.
        latch: AtomicU64,
        /// The segment with what a fetch is asked for besides, or 0.
        argument: AtomicU64,
        /// The run to leave; or the answer: the run's number, or 0.
        run: AtomicU64,
        /// When it was made (microseconds, Unix): a session that was killed does not give it back.
        since: AtomicU64,
    }
}

/// States of a database.
pub mod state {
    /// The launcher should start a scheduler.
    pub const WANTED: u64 = 0;
    /// It was started, and has not found the extension yet.
    pub const STARTED: u64 = 1;
    /// The extension is not there.
    pub const ABSENT: u64 = 2;
    pub const READY: u64 = 3;
}

/// Phases of a runner.
pub mod phase {
    pub const FREE: u64 = 0;
    pub const STARTING: u64 = 1;
    pub const IDLE: u64 = 2;
    /// It has been given a run.
    pub const ASSIGNED: u64 = 3;
    pub const RUNNING: u64 = 4;
    /// It has finished, and its scheduler has not looked yet.
    pub const DONE: u64 = 5;
    /// Its process ended.
    pub const GONE: u64 = 6;
}

/// Why a runner was told to stop.
pub mod stop {
    pub const NO: u64 = 0;
    pub const TIMEOUT: u64 = 1;
    pub const CANCEL: u64 = 2;
    /// The session that waited for the run was canceled.
    pub const LEFT: u64 = 3;
}

/// How a runner's task ended.
pub mod outcome {
    pub const NONE: u64 = 0;
    pub const SUCCEEDED: u64 = 1;
    pub const FAILED: u64 = 2;
    /// It could not be recorded by the runner itself.
    pub const UNRECORDED: u64 = 3;
}

/// States of a request.
pub mod wish {
    pub const FREE: u64 = 0;
    pub const TAKEN: u64 = 1;
    pub const RUN: u64 = 2;
    pub const CANCEL: u64 = 3;
    pub const ACCEPTED: u64 = 4;
    pub const REFUSED: u64 = 5;
    /// Cancel this run. Nobody waits for the answer, so the scheduler frees the place.
    pub const LEAVE: u64 = 6;
}

pub static AREA: Area<Jobs> = Area::new(c"startup_wh jobs");

/// The block, or `None` where the library was not preloaded.
pub fn jobs() -> Option<&'static Jobs> {
    AREA.get()
}

pub fn get(field: &AtomicU64) -> u64 {
    field.load(Ordering::SeqCst)
}

pub fn set(field: &AtomicU64, value: u64) {
    field.store(value, Ordering::SeqCst);
}

impl Jobs {
    /// The entry of a database.
    pub fn database(&self, oid: u32) -> Option<&Database> {
        self.databases.iter().find(|d| get(&d.oid) == u64::from(oid))
    }

    /// The entry of a database, taken if there is none yet; `None` when all are taken.
    pub fn enter(&self, oid: u32) -> Option<&Database> {
        AREA.locked(|| self.entered(oid))
    }

    fn entered(&self, oid: u32) -> Option<&Database> {
        if let Some(known) = self.database(oid) {
            return Some(known);
        }
        let free = self.databases.iter().find(|d| get(&d.oid) == 0)?;
        for field in [
            &free.state,
            &free.scheduler,
            &free.latch,
            &free.changed,
            &free.hold_until,
            &free.wants_runner,
            &free.known,
        ] {
            set(field, 0);
        }
        set(&free.oid, oid.into());
        Some(free)
    }

    /// Says that something changed in a database, whoever serves it.
    fn changed(&self, oid: u32) -> Option<&Database> {
        AREA.locked(|| {
            let entry = self.entered(oid)?;
            set(&entry.changed, 1);
            if get(&entry.state) == state::ABSENT {
                set(&entry.state, state::WANTED);
            }
            Some(entry)
        })
    }

    /// Gives back the entry of a database that does not have the extension, unless something has changed there.
    pub fn leave_absent(&self, oid: u32) {
        AREA.locked(|| {
            let absent = |d: &&Database| get(&d.state) == state::ABSENT && get(&d.scheduler) == 0;
            if let Some(entry) = self.database(oid).filter(absent) {
                set(&entry.oid, 0);
            }
        });
    }

    /// Whether the scheduler that asks is the one that holds the limits. The first one that asks is, until it ends.
    pub fn is_watchdog(&self) -> bool {
        let me = u64::from(std::process::id());
        let taken = self.watchdog.compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst);
        if taken.is_ok() {
            set(&self.limits_changed, 1);
            set(&self.watchdog_latch, worker::my_latch());
        }
        taken.is_ok() || taken == Err(me)
    }

    /// Wakes the scheduler of a database, if it has one.
    fn rouse(&self, database: u32) {
        if let Some(entry) = self.database(database) {
            worker::wake(get(&entry.latch));
        }
    }

    /// Leaves it to another scheduler, if it was this process's.
    pub fn leave_watch(&self) {
        if get(&self.watchdog) == u64::from(std::process::id()) {
            set(&self.watchdog_latch, 0);
            set(&self.watchdog, 0);
            self.databases.iter().for_each(|d| worker::wake(get(&d.latch)));
        }
    }

    /// Puts a wish before the scheduler of this database; `None` when too many are.
    pub fn request(&self, database: u32, job: i64, what: u64, run: i64, argument: u32) -> Option<&Request> {
        let request = AREA.locked(|| {
            let old = now().saturating_sub(60_000_000);
            let free = self.requests.iter().find(|r| get(&r.state) == wish::FREE || get(&r.since) < old)?;
            set(&free.since, now());
            set(&free.state, wish::TAKEN);
            Some(free)
        })?;
        set(&request.database, database.into());
        set(&request.job, job as u64);
        set(&request.latch, worker::my_latch());
        set(&request.argument, argument.into());
        set(&request.run, run as u64);
        set(&request.state, what);
        self.rouse(database);
        Some(request)
    }
}

/// Microseconds since 1970, now.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

/// Tells the scheduler of this database, at once, that something changed; and the launcher, where it has none.
pub fn wake_scheduler() {
    let Some(shared) = jobs() else { return };
    let Some(entry) = shared.changed(crate::pg::catalog::my_database()) else { return };
    match get(&entry.latch) {
        0 => worker::wake(get(&shared.launcher)),
        latch => worker::wake(latch),
    }
}

/// Has the scheduler of a database, if it has one, look at what it does besides jobs.
pub fn rouse_scheduler(database: u32) {
    if let Some(shared) = jobs() {
        shared.rouse(database);
    }
}

/// Tells whoever holds the limits that there are new ones.
pub fn limits_changed() {
    let Some(shared) = jobs() else { return };
    set(&shared.limits_changed, 1);
    worker::wake(get(&shared.watchdog_latch));
}

/// Has the scheduler and the idle runners of a database end, and waits until they have; says whether there were any.
/// DROP DATABASE and the like need it for themselves, and give up after five seconds.
pub fn let_go(database: u32, hold: std::time::Duration) -> bool {
    let Some(shared) = jobs() else { return false };
    let Some(entry) = shared.enter(database) else { return false };
    set(&entry.hold_until, now() + hold.as_micros() as u64);
    let begun = std::time::Instant::now();
    loop {
        worker::wake(get(&entry.latch));
        let idle = shared
            .runners
            .iter()
            .filter(|r| matches!(get(&r.phase), phase::IDLE | phase::DONE) && get(&r.database) == u64::from(database));
        let mut anybody = get(&entry.latch) != 0;
        for r in idle {
            anybody = true;
            set(&r.leave, 1);
            worker::wake(get(&r.latch));
        }
        if !anybody || begun.elapsed() > std::time::Duration::from_secs(5) {
            return true;
        }
        crate::pg::latch::pause_until_woken(std::time::Duration::from_millis(10));
    }
}

/// Undoes [`let_go`].
pub fn take_up(database: u32) {
    let Some(shared) = jobs() else { return };
    if let Some(entry) = shared.database(database) {
        set(&entry.hold_until, 0);
    }
    worker::wake(get(&shared.launcher));
}
