//! Jobs: commands and refreshes that run on time, by themselves.
//!
//! api (the doors) → write and alter (jobs), ask (a session's requests); launcher → scheduler → due (what begins) →
//! dispatch (who gets it) → runner (does it, as the job's owner) → reap (what came of it). Deciding is pure: schedule and
//! words, queue, promise, model. store and steps are the tables, plan what a scheduler knows of them, shared and slots the
//! memory between the processes, recover what a new scheduler finds, parcel a run in another database.

mod alter;
mod api;
mod ask;
mod dispatch;
mod due;
mod import;
mod launcher;
mod model;
mod parcel;
mod plan;
mod promise;
mod queue;
mod reap;
mod recover;
mod requests;
mod runner;
mod schedule;
mod scheduler;
mod shared;
mod slots;
mod steps;
mod store;
mod words;
mod write;

use std::time::Duration;

use crate::pg::{hooks, shmem, worker};

pub use ask::{run as run_now, Wait};
pub use shared::{limits_changed, rouse_scheduler, wake_scheduler};
pub use write::{cancel_fetch, fetch_job, forget_fetch_job, number_of_fetch, query_job, Options};

/// The most that startup_wh.max_running_jobs can be.
pub const MOST_RUNNERS: usize = shared::RUNNERS;

/// What jobs need of shared memory.
pub const MEMORY: &dyn shmem::Block = &shared::AREA;

/// What must be there for anything to be read or written down.
const EXTENSION: &std::ffi::CStr = c"startup_wh";

/// How long a scheduler stays away from a database that somebody needs for themselves, should they never say that they
/// are done.
const HOLD: Duration = Duration::from_secs(15);

/// Sets up what works only where the library is loaded with the server; called once, while it is.
pub fn preload() {
    worker::register("startup_wh launcher", "startup_wh_launcher", Duration::from_secs(5));
    hooks::utility(|utility| {
        if utility.changes_extensions {
            hooks::at_end(hooks::When::Committed, shared::wake_scheduler);
        }
        if utility.changes_settings_of_roles {
            hooks::at_end(hooks::When::Committed, shared::limits_changed);
        }
        if let Some(database) = utility.alone_in {
            if shared::let_go(database, HOLD) {
                hooks::at_end(hooks::When::Over, move || shared::take_up(database));
            }
        }
    });
}
