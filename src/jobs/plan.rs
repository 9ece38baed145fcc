//! What a scheduler knows of the jobs between runs: read from the tables, and planned by the clock.

use std::sync::atomic::Ordering;

use super::due::upcoming;
use super::model::{Job, Kind, Status};
use super::schedule::Schedule;
use super::scheduler::Scheduler;
use super::shared::{self, get};
use super::store;
use crate::error::{Error, Result};

/// A job with what is known of it between runs.
pub struct Planned {
    pub job: Job,
    pub enabled: bool,
    pub schedule: Option<Schedule>,
    /// When it comes next (microseconds, Unix).
    pub next: Option<i64>,
}

impl Planned {
    /// When it is due, by its schedule or for another attempt.
    pub fn due(&self) -> Option<i64> {
        [self.next, self.job.retry_at].into_iter().flatten().min()
    }
}

impl Scheduler {
    /// Reads the jobs again.
    pub fn load(&mut self) -> Result<()> {
        let mut known = std::mem::take(&mut self.jobs);
        let loaded = store::load()?;
        // Not before that: a job that was just made would be one of the future.
        let now = shared::now() as i64;
        for store::Loaded { mut job, enabled } in loaded {
            let latest = now.saturating_add(job.retry_delay);
            if job.retry_at.is_some_and(|at| at > latest) {
                // The clock was ahead when it was written.
                job.retry_at = Some(latest);
                store::retry(job.id, latest)?;
            }
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
                (None, Kind::KeepFresh) => Some(now),
                // What came due while it was held does not run.
                (None, _) if was_held => upcoming(&job, schedule.as_ref(), now),
                (None, _) => {
                    let next = upcoming(&job, schedule.as_ref(), now);
                    // A later one was written by a clock that was ahead.
                    let ahead = job.next_run.zip(next).is_some_and(|(written, next)| written > next.max(now));
                    if ahead {
                        store::postpone(job.id, next)?;
                    }
                    job.next_run.filter(|_| !ahead).or(next)
                }
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
                self.end(run, Status::Cancelled, error)?;
            }
        }
        Ok(())
    }

    /// The clock was set back: times that were worked out from the one before would be too far away.
    pub fn forget_times(&mut self, now: i64) {
        // What is read again is planned by the clock.
        self.jobs.clear();
        for (_, r) in self.shared.runners_of(self.database) {
            let begun = get(&r.started);
            if begun > now as u64 {
                // Its runner writes it when it begins.
                let _ = r.started.compare_exchange(begun, now as u64, Ordering::SeqCst, Ordering::SeqCst);
            }
        }
        for active in self.active.values_mut() {
            let latest = active.timeout.map(|t| now + t);
            active.deadline = active.deadline.zip(latest).map(|(at, latest)| at.min(latest));
        }
    }
}
