//! Holds max_query_time: a user can lift statement_timeout with SET, but not this.
//!
//! The limit is a setting of the role, `startup_wh.max_query_time`, which only a superuser can change. One scheduler of
//! jobs looks at what the server's backends do, in all databases, as late as the limits allow, and cancels what runs too
//! long. Whatever catches that is ended with its session some seconds later. Jobs run in background workers, which are
//! not looked at: they have their own timeouts.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::pg::activity::{self, Activity};
use crate::pg::worker::{self, Snapshot};
use crate::pg::{guc, hooks, spi};

/// Limits are read again after this long, whether or not somebody said that they changed.
pub const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// The same, where they could not be read.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// How long a cancelled statement may take to end.
const GRACE: i64 = 5_000_000;

/// A statement that has yet to begin is looked for no more often than this.
const RARELY: i64 = 1_000_000;

/// A statement of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Running {
    pid: i32,
    /// Who logged in. SET ROLE does not change it.
    user: u32,
    database: u32,
    /// When it began, in microseconds as [`activity::now`] counts them.
    since: i64,
}

impl Running {
    /// What a backend of a client runs; no worker's, and with them no job's.
    fn of(a: Activity) -> Option<Self> {
        let since = a.since.filter(|_| a.client)?;
        Some(Running { pid: a.pid, user: a.role, database: a.database, since })
    }
}

/// A role's limit.
#[derive(Debug, Clone)]
struct Limit {
    name: String,
    millis: i32,
}

/// By role and database; database 0 is all of them.
type Limits = HashMap<(u32, u32), Limit>;

/// What is done about a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Cancel,
    Terminate,
}

/// A statement that was cancelled: when it began, when it was told, and whether its session was ended.
type Told = HashMap<i32, (i64, i64, bool)>;

#[derive(Default)]
pub struct Watchdog {
    limits: Limits,
    told: Told,
    next: Option<Instant>,
}

impl Watchdog {
    /// Looks, if it is time to; returns how long nothing is to be done.
    pub fn round(&mut self, changed: bool) -> Duration {
        let left = self.next.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        if !changed && !left.is_zero() {
            return left;
        }
        let pause = match worker::transaction(Snapshot::Taken, read) {
            Ok(limits) => {
                self.limits = limits;
                self.look()
            }
            Err(e) => {
                pgrx::warning!("the limits of analysts could not be read: {}", e.message);
                TRY_AGAIN
            }
        };
        self.next = Some(Instant::now() + pause);
        pause
    }

    fn look(&mut self) -> Duration {
        if self.limits.values().all(|l| l.millis == 0) {
            self.told.clear();
            return LOOK_AGAIN;
        }
        let running: Vec<Running> = activity::all().filter_map(Running::of).collect();
        let (steps, next) = decide(&running, &self.limits, &mut self.told, activity::now());
        for (running, step) in steps {
            let Some(limit) = limit(&self.limits, &running) else { continue };
            let (signal, what) = match step {
                Step::Cancel => (pgrx::pg_sys::SIGINT, "cancelling a statement"),
                Step::Terminate => (pgrx::pg_sys::SIGTERM, "ending a session whose statement goes on"),
            };
            let sent = worker::signal(running.pid, signal);
            pgrx::log!(
                "{what} of \"{}\", pid {}, which ran longer than {} (startup_wh.max_query_time){}",
                limit.name,
                running.pid,
                super::names::span(limit.millis),
                if sent { "" } else { ": it is gone" }
            );
        }
        Duration::from_micros(next.max(0) as u64).min(LOOK_AGAIN)
    }
}

fn read() -> Result<Limits> {
    let _surroundings = guc::Scope::new(guc::DEPARSE)?;
    let found: Vec<(u32, u32, String, String)> = spi::rows(
        "SELECT pg_catalog.json_build_array(s.setrole::int8, s.setdatabase::int8, r.rolname, pg_catalog.substr(c, 27))::text
         FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_roles r ON r.oid = s.setrole, pg_catalog.unnest(s.setconfig) c
         WHERE pg_catalog.starts_with(c, 'startup_wh.max_query_time=')",
        &[],
    )?;
    let millis = |text: &str| guc::milliseconds(text).unwrap_or(0);
    Ok(found.into_iter().map(|(role, db, name, text)| ((role, db), Limit { name, millis: millis(&text) })).collect())
}

/// The limit of a statement: that of its role in its database, or in all.
fn limit<'a>(limits: &'a Limits, running: &Running) -> Option<&'a Limit> {
    limits
        .get(&(running.user, running.database))
        .or_else(|| limits.get(&(running.user, 0)))
        .filter(|limit| limit.millis > 0)
}

/// What to do now, and after how many microseconds to look again. Pure.
fn decide(running: &[Running], limits: &Limits, told: &mut Told, now: i64) -> (Vec<(Running, Step)>, i64) {
    told.retain(|pid, (since, _, _)| running.iter().any(|r| r.pid == *pid && r.since == *since));
    // One that begins right after this look.
    let shortest = limits.values().filter(|l| l.millis > 0).map(|l| i64::from(l.millis) * 1000).min();
    let mut next = shortest.unwrap_or(i64::MAX / 2).max(RARELY);
    let mut steps = Vec::new();
    for r in running {
        let Some(limit) = limit(limits, r) else { continue };
        let end = r.since + i64::from(limit.millis) * 1000;
        if now < end {
            next = next.min(end - now);
            continue;
        }
        match told.get_mut(&r.pid) {
            None => {
                told.insert(r.pid, (r.since, now, false));
                steps.push((*r, Step::Cancel));
                next = next.min(GRACE);
            }
            Some((_, at, ended @ false)) if now - *at >= GRACE => {
                *ended = true;
                steps.push((*r, Step::Terminate));
            }
            Some((_, at, false)) => next = next.min(GRACE - (now - *at)),
            Some(_) => {}
        }
    }
    (steps, next.max(10_000))
}

/// Has new limits looked at when they are committed.
pub fn limits_changed() {
    hooks::at_end(hooks::When::Committed, crate::jobs::limits_changed);
}

/// What an interrupted statement is told besides, after so many microseconds.
pub fn reason(elapsed: i64) -> Option<(String, String)> {
    let limit = crate::settings::MAX_QUERY_TIME.get();
    if limit == 0 || elapsed < i64::from(limit) * 1000 {
        return None;
    }
    Some((
        format!("The statement ran longer than {}, the most that this role is given (startup_wh.max_query_time).", super::names::span(limit)),
        String::from("What takes long can run as a job (wh.schedule), or be kept in a materialized view (wh.keep_fresh). A wh_admin can raise the limit with wh.alter_analyst."),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    fn limits(of: &[(u32, u32, i32)]) -> Limits {
        of.iter().map(|(role, db, s)| ((*role, *db), Limit { name: "alice".into(), millis: s * 1000 })).collect()
    }

    fn running(pid: i32, user: u32, since: i64) -> Running {
        Running { pid, user, database: 5, since }
    }

    #[test]
    fn who_has_no_limit_is_left_alone() {
        let all = [running(1, 10, 0), running(2, 11, 0)];
        let (steps, _) = decide(&all, &limits(&[(11, 0, 0)]), &mut Told::new(), 1000 * S);
        assert_eq!(steps, []);
    }

    #[test]
    fn the_next_look_is_when_the_first_statement_is_over_its_limit() {
        let all = [running(1, 10, 0), running(2, 10, 3 * S)];
        let (steps, next) = decide(&all, &limits(&[(10, 0, 10)]), &mut Told::new(), 4 * S);
        assert_eq!((steps, next), (vec![], 6 * S));
        // One that begins now.
        assert_eq!(decide(&[], &limits(&[(10, 0, 10)]), &mut Told::new(), 0).1, 10 * S);
        let short: Limits = [((10, 0), Limit { name: "alice".into(), millis: 1 })].into();
        assert_eq!(decide(&[], &short, &mut Told::new(), 0).1, RARELY);
    }

    #[test]
    fn a_database_of_its_own_limit_goes_first() {
        let both = limits(&[(10, 0, 10), (10, 5, 0)]);
        assert_eq!(decide(&[running(1, 10, 0)], &both, &mut Told::new(), 1000 * S).0, []);
        let both = limits(&[(10, 0, 0), (10, 5, 10)]);
        assert_eq!(decide(&[running(1, 10, 0)], &both, &mut Told::new(), 10 * S).0.len(), 1);
    }

    #[test]
    fn what_does_not_end_is_ended_once() {
        let (all, limits, mut told) = ([running(1, 10, 0)], limits(&[(10, 0, 10)]), Told::new());
        assert_eq!(decide(&all, &limits, &mut told, 10 * S), (vec![(all[0], Step::Cancel)], GRACE));
        assert_eq!(decide(&all, &limits, &mut told, 12 * S), (vec![], 3 * S));
        assert_eq!(decide(&all, &limits, &mut told, 15 * S).0, [(all[0], Step::Terminate)]);
        assert_eq!(decide(&all, &limits, &mut told, 60 * S).0, []);
    }

    #[test]
    fn the_next_statement_of_a_session_has_its_own_time() {
        let (limits, mut told) = (limits(&[(10, 0, 10)]), Told::new());
        decide(&[running(1, 10, 0)], &limits, &mut told, 10 * S);
        let another = running(1, 10, 11 * S);
        assert_eq!(decide(&[another], &limits, &mut told, 16 * S).0, []);
        assert_eq!(decide(&[another], &limits, &mut told, 21 * S).0, [(another, Step::Cancel)]);
    }
}
