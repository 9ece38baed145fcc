//! What is due: which runs begin, and what they are made of.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};

use super::model::{CatchUp, Job, Kind, Status, Trigger};
use super::plan::Planned;
use super::promise::Next;
use super::queue::Task;
use super::schedule::Schedule;
use super::scheduler::{Active, Scheduler};
use super::shared::{self, set};
use super::steps;
use super::store::{self, NewRun};
use crate::error::{Error, Result};
use crate::pg::{spi, sql, subxact};

impl Scheduler {
    /// The earliest time at which a job is due.
    pub fn next_due(&self) -> Option<i64> {
        self.jobs.values().filter(|p| p.enabled).filter_map(Planned::due).min()
    }

    /// Begins the runs of jobs that are due: of all of them, or first of those that have a runner's place at once. The
    /// records of the others are written while those are at work.
    pub fn begin_due(&mut self) -> Result<()> {
        let now = shared::now() as i64;
        let running: HashMap<i64, i64> = self.active.iter().map(|(run, a)| (a.job, *run)).collect();
        let is_due = |p: &&Planned| p.enabled && p.due().is_some_and(|at| at <= now);
        let due = self.jobs.values().filter(is_due).filter(|p| !running.contains_key(&p.job.id));
        let due = due.map(|p| Due { at: p.due().unwrap_or(now), job: p.job.id, owner: p.job.owner }).collect();
        let places = (!self.began_some).then(|| self.places());
        let (first, left) = first_of(due, places.unwrap_or(0));
        self.began_some = left;
        let mut new = Vec::new();
        let mut looks = Vec::new();
        for p in self.jobs.values_mut().filter(|p| p.enabled) {
            let scheduled = p.next.filter(|at| *at <= now);
            let retry = p.job.retry_at.filter(|at| *at <= now);
            let running = running.get(&p.job.id);
            if (scheduled.is_none() && retry.is_none()) || (running.is_none() && !first.contains(&p.job.id)) {
                continue;
            }
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
            match running.and_then(|run| self.active.get_mut(run)) {
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
        for begun in store::begin(new)? {
            let (id, run) = (begun.job, begun.run);
            let Some(p) = self.jobs.get_mut(&id) else { continue };
            p.job.retry_at = None;
            // Of a job that was changed since it was read: what stands in the record is what runs.
            let job = Job { owner: begun.owner, database: begun.database.clone(), ..p.job.clone() };
            let mut active = Active::new(&begun, Some(&job));
            let planned = if active.steps {
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
                .or_insert_with(|| may_run(job.owner, job.database.as_deref(), self.database))
                .clone();
            match planned.and_then(|tasks: Vec<Task>| may.map(|session| (tasks, session))) {
                Ok((tasks, session)) => {
                    active.session = session;
                    self.active.insert(run, active);
                    tasks.into_iter().for_each(|t| self.queue.push(t));
                }
                Err(error) => {
                    self.active.insert(run, active);
                    self.end(run, Status::Failed, error)?;
                    set(&self.entry.changed, 1);
                }
            }
        }
        Ok(())
    }
}

/// A job that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: i64,
    job: i64,
    owner: u32,
}

/// The jobs that begin first where `places` runs can begin at once, and whether others are left: those that have been due
/// longest, owners in turn. Where none can begin, waiting for a place is all that there is: all of them.
fn first_of(mut due: Vec<Due>, places: usize) -> (HashSet<i64>, bool) {
    due.sort_unstable();
    let mut of_owner: HashMap<u32, usize> = HashMap::new();
    let mut in_turns: Vec<(usize, Due)> = due
        .into_iter()
        .map(|d| {
            let turn = of_owner.entry(d.owner).or_default();
            *turn += 1;
            (*turn, d)
        })
        .collect();
    let left = places > 0 && in_turns.len() > places;
    if left {
        in_turns.sort_unstable();
        in_turns.truncate(places);
    }
    (in_turns.into_iter().map(|(_, d)| d.job).collect(), left)
}

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
pub fn may_run(owner: u32, database: Option<&str>, here: u32) -> Result<u64> {
    let found: Vec<(String, bool, bool, Option<bool>, Option<i64>)> = spi::prepared(
        "SELECT pg_catalog.json_build_array(r.rolname, r.rolcanlogin, pg_catalog.now() >= r.rolvaliduntil IS TRUE,
                pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT'),
                (SELECT pg_catalog.hashtextextended(pg_catalog.string_agg(pg_catalog.concat_ws(' ', s.setdatabase, s.setrole, s.setconfig), ' '
                          ORDER BY s.setdatabase, s.setrole), 0)
                 FROM pg_catalog.pg_db_role_setting s WHERE s.setrole IN (0, r.oid) AND s.setdatabase IN (0, d.oid)))::text
         FROM pg_catalog.pg_roles r LEFT JOIN pg_catalog.pg_database d
           ON CASE WHEN $2 IS NULL THEN d.oid = $3 ELSE d.datname = $2 END AND d.datallowconn
         WHERE r.oid = $1",
        &[spi::oid(owner), database.map(str::to_owned).into(), spi::oid(here)],
    )?;
    let name = database.unwrap_or("this database");
    match found.into_iter().next() {
        None => Err(Error::new("42704", format!("the job's owner, role {owner}, does not exist"))),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn due(jobs: &[(i64, i64, u32)]) -> Vec<Due> {
        jobs.iter().map(|&(at, job, owner)| Due { at, job, owner }).collect()
    }

    #[test]
    fn those_that_have_a_place_begin_first_and_the_rest_in_one_go() {
        let jobs = due(&[(7, 1, 10), (7, 2, 10), (6, 3, 10), (7, 4, 10)]);
        assert_eq!(first_of(jobs.clone(), 2), (HashSet::from([3, 1]), true));
        for places in [0, 4, 9] {
            assert_eq!(first_of(jobs.clone(), places), (HashSet::from([1, 2, 3, 4]), false));
        }
    }

    #[test]
    fn an_owner_of_many_jobs_does_not_take_all_places() {
        let jobs = due(&[(5, 1, 10), (5, 2, 10), (5, 3, 10), (6, 4, 20), (7, 5, 30)]);
        assert_eq!(first_of(jobs, 3), (HashSet::from([1, 4, 5]), true));
    }
}
