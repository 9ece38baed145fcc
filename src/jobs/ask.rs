//! A session asks its scheduler, through shared memory: the scheduler commits what it does, whatever becomes of the
//! session's own transaction.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::shared::{self, get, set, wish, Request};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{catalog, latch, session, spi};

/// How long a scheduler may take to answer; it does nothing for long.
const PATIENCE: Duration = Duration::from_secs(10);

/// A run, as far as it has come. Times in microseconds since 1970.
#[derive(Deserialize)]
pub struct Run {
    pub run: i64,
    pub status: String,
    pub started: Option<i64>,
    pub finished: Option<i64>,
    pub rows: Option<i64>,
    pub error: Option<String>,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// A request that is given back however its session ends up.
struct Held(&'static Request);

impl Drop for Held {
    fn drop(&mut self) {
        set(&self.0.latch, 0);
        set(&self.0.state, wish::FREE);
    }
}

/// A segment that is taken away however its session ends up.
struct Left(u32);

impl Drop for Left {
    fn drop(&mut self) {
        if self.0 != 0 {
            crate::pg::parcel::remove(self.0);
        }
    }
}

/// What becomes of a run whose session is canceled while it waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Nobody waits.
    No,
    /// It goes on: it is the job's.
    Yes,
    /// It is canceled as well: somebody asked for it here and now, and pressed Ctrl-C.
    Together,
}

/// A run that ends with its session's wait.
struct Together {
    job: i64,
    run: i64,
}

impl Drop for Together {
    /// An ERROR comes as a panic through here, a cancel and a timeout among them. What the run itself came to does not.
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Some(shared) = shared::jobs() {
                // Where there is no place, the run goes on, and can be canceled as any other.
                let _ = shared.request(catalog::my_database(), self.job, wish::LEAVE, self.run, 0);
            }
        }
    }
}

/// Asks, and waits for the answer: whether it was accepted, and the run.
fn ask(job: i64, what: u64, argument: u32) -> Result<(bool, i64)> {
    let Some(shared) = shared::jobs() else { return Err(no_scheduler()) };
    let database = catalog::my_database();
    let request = shared.request(database, job, what, 0, argument).map(Held).ok_or_else(|| {
        Error::new("53400", "too many sessions wait for their jobs at this moment").hint("Try again in a moment.")
    })?;
    let begun = Instant::now();
    loop {
        match get(&request.0.state) {
            wish::ACCEPTED => return Ok((true, get(&request.0.run) as i64)),
            wish::REFUSED => return Ok((false, get(&request.0.run) as i64)),
            _ if begun.elapsed() > PATIENCE => return Err(no_scheduler()),
            _ => latch::pause_until_woken(Duration::from_millis(200)),
        }
    }
}

fn no_scheduler() -> Error {
    Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, "the scheduler of this database does not answer")
        .hint("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup_wh scheduler' AND datname = current_database() shows it. If there is none: does startup_wh.databases leave this database out? Is max_worker_processes large enough? The server's log says more.")
}

/// Runs a job now.
pub fn run(name: &str, job: i64, wait: Wait, argument: Option<&str>) -> Result<Run> {
    if !session::is_read_committed() {
        return Err(Error::new(
            sqlstate::ACTIVE_SQL_TRANSACTION,
            "this function needs transaction isolation level READ COMMITTED",
        )
        .hint("Call it in a transaction of its own."));
    }
    let left = Left(argument.map_or(0, crate::pg::parcel::leave));
    let (accepted, run) = ask(job, wish::RUN, left.0)?;
    drop(left);
    if !accepted && run != 0 {
        return Err(Error::new(sqlstate::OBJECT_IN_USE, format!("job \"{name}\" is running already"))
            .detail(format!("It is run {run}."))
            .hint("Wait for its end, or SELECT wh.cancel_job(...)."));
    }
    if !accepted {
        return Err(Error::new(
            sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("the scheduler does not know job \"{name}\" yet"),
        )
        .hint("Commit the transaction that made it, and try again."));
    }
    let _together = (wait == Wait::Together).then_some(Together { job, run });
    let begun = Instant::now();
    let mut told = Instant::now();
    loop {
        let found: Option<Run> = spi::first(
            "SELECT pg_catalog.json_build_object('run', id, 'status', status, 'started', wh.micros(started), 'finished', wh.micros(finished),
                    'rows', rows, 'error', error, 'detail', detail, 'hint', hint)::text FROM wh.job_run WHERE id = $1",
            &[run.into()],
        )?;
        match found {
            Some(found) if found.finished.is_some() || wait == Wait::No => return Ok(found),
            None if begun.elapsed() > PATIENCE => {
                return Err(Error::new(
                    sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("run {run} was not recorded"),
                )
                .hint("The server's log says why."))
            }
            // The scheduler wakes us when it is over; looking is for a scheduler that is gone.
            Some(_) => {
                latch::pause_until_woken(Duration::from_secs(1));
                refuse_to_be_waited_for(run)?;
                tell_progress(run, &mut told);
            }
            None => latch::pause_until_woken(Duration::from_millis(5)),
        }
    }
}

/// Says by NOTICE each few seconds how far a fetch has come.
fn tell_progress(run: i64, told: &mut Instant) {
    if told.elapsed() < Duration::from_secs(3) {
        return;
    }
    *told = Instant::now();
    let here = catalog::my_database();
    let runners = shared::jobs().into_iter().flat_map(|s| s.runners_of(here));
    for (_, r) in runners.filter(|(_, r)| get(&r.run) as i64 == run && get(&r.requests) > 0) {
        pgrx::notice!("{} requests, {} records stored", get(&r.requests), get(&r.records));
    }
}

/// A run may need what this transaction holds: its locks, or, for CREATE INDEX CONCURRENTLY, its end. The deadlock
/// detector does not know that we wait for the run.
fn refuse_to_be_waited_for(run: i64) -> Result<()> {
    let here = catalog::my_database();
    let runners = shared::jobs().into_iter().flat_map(|s| s.runners_of(here));
    for (_, runner) in runners.filter(|(_, r)| get(&r.run) as i64 == run) {
        let waits: Option<bool> = spi::first(
            "SELECT pg_catalog.to_json(pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) ANY (pg_catalog.pg_blocking_pids($1)))::text",
            &[(get(&runner.pid) as i32).into()],
        )?;
        if waits == Some(true) {
            return Err(Error::new(
                sqlstate::DEADLOCK_DETECTED,
                format!("run {run} waits for this transaction, which waits for it"),
            )
            .detail("The run goes on when this transaction has ended.")
            .hint("SELECT wh.run_job(..., wait => false), in a transaction of its own."));
        }
    }
    Ok(())
}

/// Cancels what runs or waits of a job; false where nothing does.
pub fn cancel(job: i64) -> Result<bool> {
    Ok(ask(job, wish::CANCEL, 0)?.0)
}
