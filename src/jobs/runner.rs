//! Runs one task after another for one owner in one database, as that owner: the session's user, so that nothing in a
//! command can become more.
//!
//! What a run did and the record of its success are one transaction; a failure is recorded in the next one. A runner
//! waits some seconds for more work of its owner, and then ends.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use pgrx::prelude::*;

use super::dispatch::stopped as stopped_by;
use super::model::Status;
use super::shared::{self, get, outcome, phase, set, stop, Runner};
use super::store::{self, Ended};
use super::{parcel, steps};
use crate::error::{sqlstate, Error, Result};
use crate::pg::worker::{self, Snapshot};
use crate::pg::{extension, guc, identity, portal, session};
use crate::{queries, usage};

/// How long a runner waits for another run of its owner.
const PATIENCE: Duration = Duration::from_secs(5);

/// The ticket by which this process has its slot.
static TICKET: AtomicU64 = AtomicU64::new(0);

/// Says that the process has ended, whatever ended it. One that has said that it leaves may still drop its temporary tables
/// when its slot was given back already.
fn gone(slot: usize) {
    let Some(shared) = shared::jobs() else { return };
    let Some(runner) = shared.runners.get(slot) else { return };
    if get(&runner.ticket) != get(&TICKET) {
        return;
    }
    set(&runner.latch, 0);
    set(&runner.phase, phase::GONE);
    wake_home(runner);
}

/// Wakes the runner's scheduler, or, where there is none, the launcher: it looks after what schedulers leave behind.
fn wake_home(runner: &Runner) {
    let Some(shared) = shared::jobs() else { return };
    match shared.database(get(&runner.home) as u32).map_or(0, |home| get(&home.latch)) {
        0 => worker::wake(get(&shared.launcher)),
        latch => worker::wake(latch),
    }
}

/// Entry point of the worker.
// The postmaster finds it by its name.
#[allow(unsafe_code)]
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn startup_wh_runner(argument: pgrx::pg_sys::Datum) {
    worker::obey_signals();
    usage::count(false);
    let argument = worker::argument(argument);
    let Some((slot, runner)) = shared::jobs().and_then(|s| Runner::claimed(s, argument)) else { return };
    set(&TICKET, get(&runner.ticket));
    worker::at_exit(gone, slot);
    set(&runner.pid, std::process::id().into());
    worker::connect(Some(get(&runner.database) as u32), Some(get(&runner.owner) as u32));
    worker::hold_cancel(true);
    set(&runner.latch, worker::my_latch());
    // Whoever started it gave it a task with it.
    set(&runner.phase, phase::ASSIGNED);
    let round = worker::Round::new(c"startup_wh runner");
    let mut idle_since = std::time::Instant::now();
    loop {
        if get(&runner.phase) == phase::ASSIGNED {
            set(&runner.started, shared::now());
            set(&runner.requests, 0);
            set(&runner.records, 0);
            set(&runner.phase, phase::RUNNING);
            round.run(|| {
                let end = run(runner);
                set(&runner.outcome, end);
                if let Err(e) = forget() {
                    // The next command has another session.
                    pgrx::warning!("a session of jobs ends, because it cannot be reset: {}", e.message);
                    set(&runner.leave, 1);
                }
            });
            worker::hold_cancel(true);
            set(&runner.phase, phase::DONE);
            wake_home(runner);
            worker::report(None);
            worker::report_statistics(false);
            idle_since = std::time::Instant::now();
            continue;
        }
        let left = PATIENCE.saturating_sub(idle_since.elapsed());
        if left.is_zero() || get(&runner.leave) != 0 {
            // A task that comes at this moment is done first. One that is done and that no scheduler has looked at stays
            // in the slot.
            let leaves = |from| runner.phase.compare_exchange(from, phase::GONE, Ordering::SeqCst, Ordering::SeqCst);
            if leaves(phase::IDLE).is_ok() || leaves(phase::DONE).is_ok() {
                return;
            }
        }
        worker::wait(Some(left.max(Duration::from_millis(100))));
    }
}

/// The next command finds the session as the first one did.
fn forget() -> Result<()> {
    worker::hold_cancel(true);
    worker::transaction(Snapshot::Taken, || {
        portal::discard_all();
        Ok(())
    })
}

/// Does the task and records how it ended; says what its scheduler still has to know.
fn run(runner: &Runner) -> u64 {
    let run = get(&runner.run) as i64;
    EXTENSION.store(get(&runner.extension) as u32, Ordering::Relaxed);
    let result = match get(&runner.parcel) {
        0 => uncounted(here(runner, run)),
        handle => return parcel::run(handle as u32, || stopped(runner)),
    };
    worker::hold_cancel(true);
    let Err(error) = result else { return outcome::SUCCEEDED };
    let why = error.message.clone();
    let recorded = recording(get(&runner.extension_owner) as u32, || failed(runner, run, error));
    match recorded {
        Ok(()) => outcome::FAILED,
        Err(e) => {
            pgrx::warning!("run {run} failed: {why}; that could not be recorded: {}", e.message);
            outcome::UNRECORDED
        }
    }
}

/// What its owner wrote is over: what we do now is nobody's usage.
pub fn uncounted<T>(result: Result<T>) -> Result<T> {
    if result.as_ref().is_err_and(|e| e.sqlstate == sqlstate::QUERY_CANCELED) {
        usage::was_cancelled();
    }
    usage::count(false);
    result
}

/// The extension whose tables have the run: where it was made again since, a number means another run.
static EXTENSION: AtomicU32 = AtomicU32::new(0);

/// Keeps our tables where they are for the transaction.
pub fn hold_extension() -> Result<()> {
    match extension::hold_that(super::EXTENSION, EXTENSION.load(Ordering::Relaxed))? {
        true => Ok(()),
        false => Err(Error::new(sqlstate::UNDEFINED_OBJECT, "the extension was dropped while the job ran")),
    }
}

/// A run in this database.
fn here(runner: &Runner, run: i64) -> Result<()> {
    let owner = get(&runner.extension_owner) as u32;
    let work = worker::transaction(Snapshot::Taken, || {
        hold_extension()?;
        let _owner = identity::As::extension_owner(owner);
        let _path = guc::Scope::new(&[("search_path", "pg_catalog, pg_temp")])?;
        store::work(run)
    })?;
    if u64::from(work.owner) != get(&runner.owner) {
        return Err(Error::new(sqlstate::INTERNAL_ERROR, "the run is another role's"));
    }
    worker::report(Some(&work.command));
    // Every role sees it: the number says nothing to those who may not see the run.
    worker::name_session(&format!("startup_wh: run {run}"));
    worker::hold_cancel(false);
    stopped(runner)?;
    // What its owner wrote is the owner's usage.
    usage::count(true);
    let started = get(&runner.started) as i64;
    if get(&runner.relation) != 0 {
        let how = work.concurrently.as_deref().unwrap_or("auto").parse()?;
        let only_if_changed = work.kind == super::model::Kind::KeepFresh;
        return steps::run(run, get(&runner.relation) as u32, how, only_if_changed, owner, started);
    }
    if work.kind == super::model::Kind::Fetch {
        return fetch(runner, run, work.argument, owner);
    }
    worker::transaction(Snapshot::None, || {
        let series = match work.kind {
            super::model::Kind::Query => Some(queries::Series::of(run, serde_json::from_value(work.argument)?)),
            _ => None,
        };
        let mut rows = portal::run(&work.command)? as i64;
        if series.is_some() {
            // The command returns one row, and the result's are what counts.
            rows = queries::Series::rows();
        }
        drop(series);
        portal::fire_deferred();
        usage::count(false);
        hold_extension()?;
        worker::with_snapshot(|| {
            let _owner = identity::As::extension_owner(owner);
            let _writable = session::Writable::new();
            let _surroundings = guc::Scope::new(RECORDING)?;
            if !portal::has_written() {
                // Nothing but the record would be lost.
                guc::set_local("synchronous_commit", "off")?;
            }
            let end = Ended {
                started: Some(started),
                rows: Some(rows),
                pid: Some(std::process::id() as i32),
                ..Ended::default()
            };
            store::succeeded(run, &end, Some(&work.place))?.then_some(()).ok_or_else(store::is_over_already)
        })
    })?;
    // In a transaction of its own: others of its owner's may look at the same records.
    if work.failing {
        // The run has succeeded, whatever becomes of this.
        if let Err(e) = recording(owner, || store::recovered(run)) {
            pgrx::warning!("the failures before run {run} are still counted: {}", e.message);
        }
    }
    Ok(())
}

/// A transaction of ours that writes into the tables of jobs, as the extension's owner.
fn recording<T>(owner: u32, f: impl FnOnce() -> Result<T>) -> Result<T> {
    worker::transaction(Snapshot::Taken, || {
        hold_extension()?;
        let _owner = identity::As::extension_owner(owner);
        let _writable = session::Writable::new();
        let _surroundings = guc::Scope::new(RECORDING)?;
        f()
    })
}

/// A source is fetched: its rows are committed batch by batch, the run's record at the end.
fn fetch(runner: &Runner, run: i64, argument: serde_json::Value, owner: u32) -> Result<()> {
    let wish: crate::sources::Wish = serde_json::from_value(argument)?;
    let rows = crate::sources::fetch(run, &wish, owner, |requests, records| {
        set(&runner.requests, requests);
        set(&runner.records, records);
    })?;
    recording(owner, || {
        let started = Some(get(&runner.started) as i64);
        let pid = Some(std::process::id() as i32);
        let end = Ended { started, rows: Some(rows), pid, ..Ended::default() };
        store::succeeded_and_recovered(run, &end)?.then_some(()).ok_or_else(store::is_over_already)
    })
}

/// Whatever the command has set in its transaction.
const RECORDING: &[(&str, &str)] =
    &[("search_path", "pg_catalog, pg_temp"), ("plan_cache_mode", "force_generic_plan"), ("lock_timeout", "0")];

/// The error of a run that was told to stop before it began.
fn stopped(runner: &Runner) -> Result<()> {
    match get(&runner.stop) {
        stop::NO => Ok(()),
        _ => Err(Error::new("57014", "canceling statement due to user request")),
    }
}

/// Records a failure: of the whole run, or of its step.
fn failed(runner: &Runner, run: i64, mut error: Error) -> Result<()> {
    let started = Some(get(&runner.started) as i64);
    let context = portal::complete(&mut error);
    let (status, error) = judge(error, get(&runner.stop));
    if get(&runner.relation) != 0 {
        return steps::ended(&[run], get(&runner.relation) as u32, status, started, Some(&error));
    }
    let pid = Some(std::process::id() as i32);
    store::ended(run, status, &Ended { started, rows: None, pid, error: Some(error), context })
}

/// A cancelled statement: by whom decides what it was.
pub fn judge(error: Error, stop: u64) -> (Status, Error) {
    if error.sqlstate != "57014" {
        return (Status::Failed, error);
    }
    match stop {
        stop::TIMEOUT | stop::CANCEL | stop::LEFT => stopped_by(stop),
        _ if portal::take_timed_out() => (Status::TimedOut, error),
        _ => (Status::Cancelled, error),
    }
}
