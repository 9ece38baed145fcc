//! What a new scheduler finds: runs without an end, and times that passed while nothing could run.
//!
//! After a stop or a crash of the server nothing is known of an open run but its record: it crashed. A scheduler that
//! follows another one finds its runs in the runners' slots, and takes them over; what stands in none has not begun.

use super::dispatch::stopped;
use super::due::{last_due, makes_up, may_run, upcoming};
use super::model::{Status, Trigger};
use super::queue::Task;
use super::scheduler::{Active, Scheduler};
use super::shared::{self, get, stop};
use super::steps;
use super::store::{self, Ended, NewRun};
use crate::error::{Error, Result};
use crate::pg::subxact;

/// The first scheduler since the server started, or since the database is served again.
pub fn after_a_stop(s: &mut Scheduler) -> Result<()> {
    for begun in store::open()? {
        let store::Begun { run, job, .. } = begun;
        // It went on where only the scheduler was ended.
        if let Some(active) = held(s, &begun) {
            s.active.insert(run, active);
            continue;
        }
        let crashed = Error::new("57P02", "the server ended before it did")
            .detail("Nothing of it was committed; it may not have begun.");
        match s.jobs.get(&job).filter(|p| p.job.kind.refreshes()) {
            // Views that were refreshed are, and say so.
            Some(p) => {
                let planned = p.job.clone();
                let crashed = Error { detail: None, ..crashed };
                steps::conclude(run, &planned, Some((Status::Crashed, crashed)))?;
            }
            None => store::ended(run, Status::Crashed, &Ended { error: Some(crashed), ..Ended::default() })?,
        }
    }
    // What follows from that for the jobs.
    s.load()?;
    missed_runs(s)
}

/// A scheduler after another one: what came due meanwhile is late, and not missed.
pub fn take_over(s: &mut Scheduler) -> Result<()> {
    for record in store::open()? {
        let here = held(s, &record);
        let (begun, active) = match here {
            Some(active) => (true, active),
            None => (false, active(s, &record)),
        };
        let refreshes = active.steps;
        let store::Begun { run, job, owner, database } = record;
        s.active.insert(run, active);
        if !s.jobs.contains_key(&job) {
            if !begun {
                let error = Error::new("57014", "the job was unscheduled before it began");
                s.end(run, Status::Cancelled, error)?;
            }
            continue;
        }
        if !begun {
            // It may be long since it was allowed.
            match may_run(owner, database.as_deref(), s.database) {
                Ok(session) => {
                    if let Some(active) = s.active.get_mut(&run) {
                        active.session = session;
                    }
                }
                Err(error) => {
                    s.end(run, Status::Failed, error)?;
                    continue;
                }
            }
        }
        let task = |relation, after| Task { runs: vec![run], job, owner, relation, after };
        if !refreshes {
            if !begun {
                s.queue.push(task(0, Default::default()));
            }
            continue;
        }
        let left = subxact::run(|| steps::left(run, &crate::refresh::load()?))?;
        let at_work: Vec<u32> = slots(s, run).map(|(_, r)| get(&r.relation) as u32).collect();
        for step in left {
            if at_work.contains(&step.relation) {
                s.queue.at_work(step.relation, run);
            } else if s.active.get(&run).is_some_and(|a| a.stopped.is_none()) {
                s.queue.push(task(step.relation, step.after));
            }
        }
        s.conclude_if_done(run, None)?;
    }
    s.load()
}

fn slots(s: &Scheduler, run: i64) -> impl Iterator<Item = (usize, &'static shared::Runner)> {
    s.shared.runners_of(s.database).filter(move |(_, r)| get(&r.run) as i64 == run)
}

fn active(s: &Scheduler, record: &store::Begun) -> Active {
    Active::new(record, s.jobs.get(&record.job).map(|p| &p.job))
}

/// A run that a runner has, at work or ended: it goes on, with what is left of its timeout.
fn held(s: &mut Scheduler, record: &store::Begun) -> Option<Active> {
    let slots: Vec<_> = slots(s, record.run).collect();
    let mut active = active(s, record);
    let since = slots.iter().map(|(_, r)| get(&r.started)).filter(|at| *at != 0).min();
    // The clock may have been set back since.
    let now = shared::now();
    let since = since.unwrap_or(now).min(now) as i64;
    active.deadline = active.timeout.filter(|t| *t > 0).map(|t| since + t);
    for (slot, r) in &slots {
        if get(&r.stop) != stop::NO {
            active.stopped = Some(stopped(get(&r.stop)));
            active.deadline = None;
            s.runners.was_told(*slot);
        }
    }
    (!slots.is_empty()).then_some(active)
}

/// Looks at times that passed while there was no scheduler: made up for once, or recorded as skipped.
fn missed_runs(s: &mut Scheduler) -> Result<()> {
    let now = shared::now() as i64;
    let mut new = Vec::new();
    for p in s.jobs.values_mut().filter(|p| p.enabled && p.schedule.is_some()) {
        let Some(due) = p.job.next_run.filter(|at| *at < now) else { continue };
        let last = last_due(&p.job, p.schedule.as_ref(), due - 1, now).unwrap_or(due);
        let next = upcoming(&p.job, p.schedule.as_ref(), now);
        p.next = next;
        // A run never overlaps itself.
        if let Some(running) = s.active.values_mut().find(|a| a.job == p.job.id) {
            running.missed += 1;
            store::postpone(p.job.id, next)?;
            continue;
        }
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
    s.begin(&new)
}
