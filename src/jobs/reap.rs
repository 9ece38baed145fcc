//! What runners have finished: written down, and their places given back.

use std::sync::atomic::Ordering;

use super::dispatch::{drop_parcel, is_busy, stopped};
use super::model::Status;
use super::scheduler::Scheduler;
use super::shared::{self, get, outcome, phase, set, stop, Runner};
use super::store::{self, Ended};
use super::{parcel, steps};
use crate::error::{Error, Result};
use crate::pg::worker::Life;

impl Scheduler {
    /// Takes back runners of whose runs there is nothing to write down: each committed the record of its success with its
    /// work. That is most of them, and needs no transaction.
    pub fn reap_recorded(&mut self) {
        let shared = self.shared;
        for (slot, r) in shared.runners_of(self.database).filter(|(_, r)| get(&r.phase) == phase::DONE) {
            let run = get(&r.run) as i64;
            let command = get(&r.relation) == 0 && get(&r.parcel) == 0;
            let missed = self.active.get(&run).is_none_or(|a| a.missed > 0);
            if command && !missed && get(&r.outcome) == outcome::SUCCEEDED {
                self.runners.told.remove(&slot);
                self.runners.reaped.push(slot);
                self.over(run, Status::Succeeded);
            }
        }
        self.settle();
    }

    /// Writes down what runners have finished. Says whether jobs have to be read again. Their slots stay as they are
    /// until [`Scheduler::settle`]: should this transaction fail, the next scheduler finds them there.
    pub fn reap(&mut self) -> Result<bool> {
        let mut reload = false;
        let shared = self.shared;
        let slots: Vec<(usize, &Runner)> = shared.runners_of(self.database).collect();
        for (slot, r) in slots {
            let ended = self.runners.started.get(&slot).is_some_and(|s| s.life() == Life::Ended);
            let gone = ended || get(&r.phase) == phase::GONE;
            if get(&r.phase) != phase::DONE && !gone {
                continue;
            }
            self.runners.told.remove(&slot);
            self.runners.reaped.push(slot);
            if get(&r.run) != 0 {
                let how = get(&r.outcome);
                reload |= how != outcome::SUCCEEDED;
                self.finished(slot, r, how)?;
            }
        }
        Ok(reload)
    }

    /// Gives back the slots of [`Scheduler::reap`], after the commit.
    pub fn settle(&mut self) {
        let shared = self.shared;
        for slot in std::mem::take(&mut self.runners.reaped) {
            let r = &shared.runners[slot];
            drop_parcel(get(&r.parcel) as u32);
            self.runners.tasks.remove(&slot);
            for field in [&r.run, &r.relation, &r.parcel] {
                set(field, 0);
            }
            set(&r.stop, stop::NO);
            set(&r.outcome, outcome::NONE);
            let ended = self.runners.started.get(&slot).is_some_and(|s| s.life() == Life::Ended);
            // One that leaves at this moment says so in the same place.
            let idle = r.phase.compare_exchange(phase::DONE, phase::IDLE, Ordering::SeqCst, Ordering::SeqCst);
            if ended || idle.is_err() {
                self.runners.started.remove(&slot);
                shared.free_runner(r);
            }
        }
    }

    /// One task has ended.
    fn finished(&mut self, slot: usize, r: &Runner, how: u64) -> Result<()> {
        let first = get(&r.run) as i64;
        let relation = get(&r.relation) as u32;
        let started = (get(&r.started) != 0).then(|| get(&r.started) as i64);
        let pid = (get(&r.pid) != 0).then(|| get(&r.pid) as i32);
        let runs = self.runners.runs(slot, r);
        // What the runner could not write down itself.
        let unrecorded = how == outcome::UNRECORDED;
        let lost = |why: u64| match why {
            stop::TIMEOUT => (
                Status::TimedOut,
                Error::new("57014", "ended because it ran longer than its timeout and did not obey a cancel"),
            ),
            stop::CANCEL => (Status::Cancelled, Error::new("57014", "ended by wh.cancel_job")),
            stop::LEFT => stopped(stop::LEFT),
            _ if started.is_none() => {
                (Status::Failed, Error::new("58000", "its session could not begin").hint("The server's log says why."))
            }
            _ if unrecorded => (
                Status::Failed,
                Error::new("58000", "it failed, and why could not be written down").hint("The server's log says it."),
            ),
            _ => (
                Status::Crashed,
                Error::new("57P01", "its session was terminated").hint("The server's log says by whom."),
            ),
        };
        if relation == 0 {
            let answer = match get(&r.parcel) {
                0 => None,
                handle => parcel::ended(handle as u32, get(&r.stop), started, pid),
            };
            let status = match (how, answer) {
                (outcome::SUCCEEDED, _) => Status::Succeeded,
                (outcome::FAILED, _) => Status::Failed,
                (_, Some((Status::Succeeded, end))) => {
                    store::succeeded_and_recovered(first, &end)?;
                    Status::Succeeded
                }
                (_, Some((status, end))) => {
                    store::ended(first, status, &end)?;
                    status
                }
                (_, None) => {
                    let (status, error) = lost(get(&r.stop));
                    store::ended(first, status, &Ended { started, pid, error: Some(error), ..Ended::default() })?;
                    status
                }
            };
            self.count_missed(first)?;
            self.over(first, status);
            return Ok(());
        }
        if how != outcome::SUCCEEDED && how != outcome::FAILED {
            let (status, error) = lost(get(&r.stop));
            steps::ended(&runs, relation, status, started.or(Some(shared::now() as i64)), Some(&error))?;
        }
        let others: Vec<i64> = runs.iter().copied().filter(|run| *run != first).collect();
        if !others.is_empty() {
            steps::share(first, &others, relation)?;
        }
        self.queue.done(relation);
        if how != outcome::SUCCEEDED {
            for (runs, view, missing) in self.queue.fail(relation) {
                let why = Error::new("00000", format!("{} was not refreshed", steps::name(missing)?));
                steps::ended(&runs, view, Status::Skipped, None, Some(&why))?;
            }
        }
        // Any of the runs may have come to its end, those whose steps were skipped too.
        let open: Vec<i64> = self.active.iter().filter(|(_, a)| a.steps).map(|(run, _)| *run).collect();
        for run in open {
            self.conclude_if_done(run, Some(slot))?;
        }
        Ok(())
    }

    /// Ends a refreshing run none of whose steps waits or is with a runner but `slot`, which has just finished.
    pub fn conclude_if_done(&mut self, run: i64, slot: Option<usize>) -> Result<()> {
        let at_work = self.shared.runners_of(self.database).any(|(n, r)| {
            Some(n) != slot
                && get(&r.run) != 0
                && is_busy(r)
                && !self.runners.reaped.contains(&n)
                && self.runners.runs(n, r).contains(&run)
        });
        if at_work || self.queue.has(run) {
            return Ok(());
        }
        let Some(active) = self.active.get_mut(&run) else { return Ok(()) };
        let stopped = active.stopped.take();
        let job = match self.jobs.get(&active.job) {
            Some(p) => p.job.clone(),
            None => {
                let error = Error::new("57014", "the job was unscheduled while it ran");
                return self.end(run, Status::Cancelled, error);
            }
        };
        let status = steps::conclude(run, &job, stopped)?;
        self.count_missed(run)?;
        self.over(run, status);
        if status != Status::Succeeded {
            set(&self.entry.changed, 1);
        }
        Ok(())
    }

    fn count_missed(&self, run: i64) -> Result<()> {
        match self.active.get(&run) {
            Some(a) if a.missed > 0 => store::missed(run, a.missed),
            _ => Ok(()),
        }
    }
}
