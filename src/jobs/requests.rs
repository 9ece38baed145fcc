//! What sessions ask of their database's scheduler: to run a job now, to cancel it, to cancel a run that they leave.

use std::sync::atomic::Ordering;

use super::dispatch;
use super::model::{Status, Trigger};
use super::scheduler::Scheduler;
use super::shared::{self, get, set, stop, wish, Jobs};
use super::store::{self, NewRun};
use crate::error::{Error, Result};
use crate::pg::{parcel, worker};

/// Whether somebody asks.
pub fn any(shared: &Jobs, database: u32) -> bool {
    shared.requests.iter().any(|r| is_open(r, database))
}

fn is_open(r: &shared::Request, database: u32) -> bool {
    matches!(get(&r.state), wish::RUN | wish::CANCEL | wish::LEAVE) && get(&r.database) == u64::from(database)
}

/// Answers all. The answer is seen at once, and the run only once this transaction has committed: whoever waits looks
/// until it is there.
pub fn answer(s: &mut Scheduler) -> Result<()> {
    let shared = s.shared;
    let database = s.database;
    if any(shared, database) && s.entry.changed.swap(0, Ordering::SeqCst) != 0 {
        // Whoever asks may have committed the job since this round looked for changes.
        s.load()?;
    }
    for r in shared.requests.iter().filter(|r| is_open(r, database)) {
        let job = get(&r.job) as i64;
        if !s.jobs.contains_key(&job) {
            // It may have been made since this round read the jobs.
            s.load()?;
        }
        let running = s.active.iter().find(|(_, a)| a.job == job).map(|(run, _)| *run);
        if get(&r.state) == wish::LEAVE {
            if let Some(run) = running.filter(|run| *run as u64 == get(&r.run)) {
                cancel(s, run, stop::LEFT)?;
            }
            set(&r.state, wish::FREE);
            continue;
        }
        let accepted = match (get(&r.state), running) {
            // Its runner has committed and will say so at once: the session may have waited for just that.
            (wish::RUN, Some(run)) if store::is_over(run)? => continue,
            (wish::RUN, Some(run)) => {
                set(&r.run, run as u64);
                false
            }
            (wish::RUN, None) if s.jobs.contains_key(&job) => {
                let now = shared::now() as i64;
                let argument = match get(&r.argument) {
                    0 => None,
                    handle => parcel::open(handle as u32).and_then(|text| serde_json::from_str(&text).ok()),
                };
                s.begin(&[NewRun { argument, ..NewRun::new(job, Trigger::Hand, now, 1, None) }])?;
                let run = store::last(job)?;
                set(&r.run, run as u64);
                s.waiting.entry(run).or_default().push(get(&r.latch));
                true
            }
            (wish::CANCEL, Some(run)) => {
                set(&r.run, run as u64);
                cancel(s, run, stop::CANCEL)?;
                true
            }
            _ => false,
        };
        set(&r.state, if accepted { wish::ACCEPTED } else { wish::REFUSED });
        worker::wake(get(&r.latch));
    }
    Ok(())
}

fn cancel(s: &mut Scheduler, run: i64, why: u64) -> Result<()> {
    s.stop(run, why);
    if s.runners.has(s.shared, s.database, run) {
        return Ok(());
    }
    if s.active.get(&run).is_some_and(|a| a.steps) {
        return s.conclude_if_done(run, None);
    }
    let (_, stopped) = dispatch::stopped(why);
    let error = Error { message: format!("{} before it began", stopped.message), ..stopped };
    s.end(run, Status::Cancelled, error)
}
