//! What a new scheduler finds: runs without an end, and times that passed while nothing could run.

use super::dispatch::is_busy;
use super::model::{Status, Trigger};
use super::scheduler::{last_due, makes_up, upcoming, Active, Scheduler};
use super::shared::{self, get, set};
use super::steps;
use super::store::{self, Ended, NewRun};
use crate::error::{Error, Result};

/// Ends the runs whose runners are gone, and takes over those that go on.
pub fn open_runs(s: &mut Scheduler) -> Result<()> {
    for (run, job) in store::open()? {
        let refreshes = s.jobs.get(&job).is_some_and(|p| p.job.kind.refreshes());
        let goes_on = s.shared.runners_of(s.database).any(|(_, r)| is_busy(r) && get(&r.run) as i64 == run);
        let active =
            Active { job, missed: 0, timeout: None, deadline: None, steps: refreshes, session: 0, stopped: None };
        if goes_on {
            s.active.insert(run, active);
            continue;
        }
        let crashed = || Error::new("57P02", "the server or the scheduler ended while it ran");
        match s.jobs.get(&job).filter(|_| refreshes) {
            // Views that were refreshed are, and say so.
            Some(p) => {
                let planned = p.job.clone();
                steps::conclude(run, &planned, Some((Status::Crashed, crashed())))?;
            }
            None => store::ended(run, Status::Crashed, &Ended { error: Some(crashed()), ..Ended::default() })?,
        }
    }
    // What follows from that for the jobs.
    s.load()
}

/// Looks at times that passed while there was no scheduler: made up for once, or recorded as skipped.
pub fn missed_runs(s: &mut Scheduler) -> Result<()> {
    let now = shared::now() as i64;
    let mut new = Vec::new();
    for p in s.jobs.values_mut().filter(|p| p.enabled && p.schedule.is_some()) {
        let Some(due) = p.job.next_run.filter(|at| *at < now) else { continue };
        let last = last_due(&p.job, p.schedule.as_ref(), due - 1, now).unwrap_or(due);
        let next = upcoming(&p.job, p.schedule.as_ref(), now);
        p.next = next;
        if makes_up(&p.job) {
            new.push(NewRun::new(p.job.id, Trigger::CatchUp, last, 1, next));
            continue;
        }
        let why = if last == due {
            String::from("it came due while the server or the scheduler was down")
        } else {
            String::from(
                "it came due several times while the server or the scheduler was down; this is the last of them",
            )
        };
        store::skip(p.job.id, last, 0, &why)?;
        store::postpone(p.job.id, next)?;
    }
    s.begin(&new)?;
    set(&s.entry.changed, 0);
    Ok(())
}
