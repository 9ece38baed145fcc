//! One worker for the server: keeps a scheduler in each database that has the extension.
//!
//! Whether a database has it can be seen only from inside, so its scheduler looks first and ends where it is not there.
//! CREATE EXTENSION wakes the launcher when it commits, and so does every change of jobs.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::shared::{self, get, phase, set, state, Jobs};
use crate::pg::catalog::{self, Database};
use crate::pg::worker::{self, Life, Snapshot, Started};

/// Databases come and go without a word to us; none of them is in a hurry.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Schedulers that look for the extension at the same time: each takes a worker's slot.
const LOOKING: usize = 2;

/// One that looks for longer waits for somebody who has locked our tables, and not for the next one's sake.
const LOOKS: Duration = Duration::from_secs(2);

struct Scheduler {
    started: Option<Started>,
    since: Instant,
    not_before: Instant,
    ended: u32,
    /// The extension was not there.
    absent: bool,
}

fn gone(_: usize) {
    if let Some(shared) = shared::jobs() {
        set(&shared.launcher, 0);
    }
}

/// Entry point of the worker.
// The postmaster finds it by its name.
#[allow(unsafe_code)]
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn startup_wh_launcher(_argument: pgrx::pg_sys::Datum) {
    worker::obey_signals();
    crate::usage::count(false);
    let Some(shared) = shared::jobs() else { return };
    worker::connect(None, None);
    worker::at_exit(gone, 0);
    set(&shared.launcher, worker::my_latch());
    let round = worker::Round::new(c"startup_wh launcher");
    let mut schedulers: HashMap<u32, Scheduler> = HashMap::new();
    let mut warned = None;
    loop {
        let pause = round.run(|| look(shared, &mut schedulers, &mut warned));
        worker::report(None);
        worker::wait(Some(pause));
    }
}

/// Whether startup_wh.databases allows a database.
fn allowed(list: Option<&str>, name: &str) -> bool {
    let mut names = list.unwrap_or_default().split(',').map(|n| n.trim().trim_matches('"')).filter(|n| !n.is_empty());
    let mut any = false;
    names.any(|n| {
        any = true;
        n == name
    }) || !any
}

/// Starts what should run, forgets what is gone; returns how long nothing else is to be done.
fn look(shared: &'static Jobs, schedulers: &mut HashMap<u32, Scheduler>, warned: &mut Option<Instant>) -> Duration {
    let databases = match worker::transaction(Snapshot::Taken, || Ok(catalog::databases())) {
        Ok(databases) => databases,
        Err(e) => {
            pgrx::warning!("the databases could not be read: {}", e.message);
            return LOOK_AGAIN;
        }
    };
    crate::usage::forget_others(&databases.iter().map(|d| d.oid).collect::<Vec<_>>());
    let setting = crate::settings::DATABASES.get();
    let setting = setting.as_ref().map(|s| s.to_string_lossy());
    let serves = |d: &&Database| d.connectable && !d.is_template && allowed(setting.as_deref(), &d.name);
    let served: Vec<&Database> = databases.iter().filter(serves).collect();
    forget(shared, schedulers, &served);
    sweep(shared);

    let mut pause = LOOK_AGAIN;
    // One that has found nothing has its slot until it has ended.
    let looks = |entry: Option<&shared::Database>| entry.is_none_or(|e| get(&e.state) != state::READY);
    let all = schedulers.iter().map(|(oid, s)| (s, shared.database(*oid)));
    let mut looking = all.filter(|(s, entry)| lives(s, *entry) && looks(*entry) && s.since.elapsed() < LOOKS).count();
    for database in served {
        let s = schedulers.entry(database.oid).or_insert_with(|| Scheduler {
            started: None,
            since: Instant::now(),
            not_before: Instant::now(),
            ended: 0,
            absent: false,
        });
        let entry = shared.database(database.oid);
        if lives(s, entry) {
            continue;
        }
        let hold = entry.map_or(0, |e| get(&e.hold_until)).saturating_sub(shared::now());
        match entry.map(|e| get(&e.state)) {
            // Databases without the extension may be many, and take no entry.
            Some(state::ABSENT) => {
                s.started = None;
                s.absent = true;
                shared.leave_absent(database.oid);
                continue;
            }
            // Nobody has asked for it since.
            None if s.absent => continue,
            _ => s.absent = false,
        }
        if s.started.take().is_some() && entry.is_some_and(|e| get(&e.state) != state::WANTED) {
            // It should not have ended. One that lived for a while met something new, and not what ended the one before.
            s.ended = if s.since.elapsed() > LOOK_AGAIN { 1 } else { (s.ended + 1).min(7) };
            s.not_before = Instant::now() + Duration::from_millis(500 << s.ended);
        }
        let wait = s.not_before.saturating_duration_since(Instant::now()).max(Duration::from_micros(hold));
        if !wait.is_zero() || looking >= LOOKING {
            pause = pause.min(wait.max(Duration::from_millis(200)));
            continue;
        }
        let Some(entry) = shared.enter(database.oid) else {
            warn(
                warned,
                &format!("database \"{}\" has no scheduler of jobs", database.name),
                &format!(
                    "No more than {} databases are served: name those that have jobs in startup_wh.databases.",
                    shared::DATABASES
                ),
            );
            continue;
        };
        set(&entry.state, state::STARTED);
        s.since = Instant::now();
        let name = format!("startup_wh scheduler: {}", database.name);
        s.started = worker::start(&name, "startup_wh scheduler", "startup_wh_scheduler", database.oid as usize);
        if s.started.is_none() {
            warn(
                warned,
                &format!("the scheduler of jobs in \"{}\" waits because no background worker is free", database.name),
                "Raise max_worker_processes, or lower startup_wh.max_running_jobs.",
            );
            set(&entry.state, state::WANTED);
            pause = pause.min(Duration::from_secs(5));
        } else {
            looking += 1;
        }
    }
    pause
}

/// Whether a database has a scheduler: one that was started here, or by a launcher before this one.
fn lives(s: &Scheduler, entry: Option<&shared::Database>) -> bool {
    entry.is_some_and(|e| get(&e.scheduler) != 0) || s.started.as_ref().is_some_and(|w| w.life() != Life::Ended)
}

/// Lets go of databases that are gone or not to be served any more.
fn forget(shared: &Jobs, schedulers: &mut HashMap<u32, Scheduler>, served: &[&Database]) {
    let is_served = |oid: u32| served.iter().any(|d| d.oid == oid);
    schedulers.retain(|oid, s| {
        if is_served(*oid) {
            return true;
        }
        if let Some(started) = s.started.as_ref().filter(|w| w.life() != Life::Ended) {
            started.terminate();
            return true;
        }
        false
    });
    for entry in &shared.databases {
        let oid = get(&entry.oid) as u32;
        if oid == 0 || is_served(oid) || schedulers.contains_key(&oid) {
            continue;
        }
        match get(&entry.scheduler) {
            0 => shared::AREA.locked(|| set(&entry.oid, 0)),
            earlier => {
                worker::signal(earlier as i32, pgrx::pg_sys::SIGTERM);
            }
        }
    }
}

/// Gives back the slots of runners that ended after their scheduler did, where there will be no other one.
fn sweep(shared: &Jobs) {
    for r in shared.runners.iter().filter(|r| get(&r.phase) == phase::GONE) {
        if shared.database(get(&r.home) as u32).is_none_or(|d| get(&d.state) == state::ABSENT) {
            super::dispatch::drop_parcel(get(&r.parcel) as u32);
            set(&r.parcel, 0);
            shared.free_runner(r);
        }
    }
}

/// Warns, and not again for a minute.
fn warn(last: &mut Option<Instant>, message: &str, hint: &str) {
    if last.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) {
        *last = Some(Instant::now());
        worker::warn(message, hint);
    }
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn an_empty_list_allows_all_and_another_only_its_own() {
        assert!(allowed(None, "a") && allowed(Some(""), "a") && allowed(Some(" , "), "a"));
        assert!(allowed(Some("b, a"), "a") && allowed(Some("\"A b\""), "A b"));
        assert!(!allowed(Some("b"), "a"));
    }
}
