//! Keeping a secret whatever becomes of the session's own transaction: a look at a source may fail, or be rolled back, after
//! the API has given a new refresh token in the place of the one that is kept.
//!
//! A background worker does it, in a transaction of its own; it needs no preloaded library.

use std::time::Duration;

use pgrx::prelude::*;
use serde::{Deserialize, Serialize};

use super::{of, rotate, Errand, Secret};
use crate::error::{sqlstate, Error, Result};
use crate::pg::worker::{self, Life, Snapshot};
use crate::pg::{catalog, extension, guc, identity, latch, parcel};

/// What the worker gets, over shared memory.
#[derive(Serialize, Deserialize)]
struct Task {
    name: String,
    old: String,
    new: String,
}

impl Drop for Task {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.old);
        zeroize::Zeroize::zeroize(&mut self.new);
    }
}

/// As [`super::errand`], in a session.
pub fn errand(owner: u32, errand: &Errand) -> Result<Secret> {
    let Some((old, new)) = &errand.rotated else { return super::errand(owner, errand) };
    let name = &errand.name;
    let task = Task { name: name.clone(), old: old.expose().to_owned(), new: new.expose().to_owned() };
    let text = zeroize::Zeroizing::new(serde_json::to_string(&task)?);
    let handle = parcel::leave(&text);
    let argument = u64::from(handle) | u64::from(catalog::my_database()) << 32;
    let kind = "startup_wh keeper";
    match worker::start(kind, kind, "startup_wh_keeper", argument as usize) {
        Some(started) => {
            while started.life() != Life::Ended {
                latch::pause_through_interrupts(Duration::from_millis(100));
            }
        }
        None => {
            parcel::remove(handle);
            pgrx::warning!("no worker could be started (max_worker_processes): the new refresh token of secret \"{name}\" is kept only if this transaction commits");
            rotate(name, old, new)?;
        }
    }
    let now = of(owner, std::slice::from_ref(name))?.remove(name);
    now.filter(|now| now != old).ok_or_else(|| {
        Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, "the server's log says why")
            .hint("A secret that was set in the same transaction is not there yet for others: commit it first.")
    })
}

/// Entry point of the worker.
// The postmaster finds it by its name.
#[allow(unsafe_code)]
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn startup_wh_keeper(argument: pgrx::pg_sys::Datum) {
    worker::obey_signals();
    let argument = worker::argument(argument) as u64;
    let handle = argument as u32;
    worker::connect(Some((argument >> 32) as u32), None);
    let done = worker::transaction(Snapshot::Taken, || {
        let task = parcel::open(handle).map(zeroize::Zeroizing::new);
        parcel::remove(handle);
        let Some(task) = task else { return Ok(()) };
        let task: Task = serde_json::from_str(&task)?;
        let Some(owner) = extension::owner(c"startup_wh") else { return Ok(()) };
        let _owner = identity::As::extension_owner(owner);
        // The session that waits may hold the row itself.
        let _surroundings = guc::Scope::new(&[("search_path", "pg_catalog, pg_temp"), ("lock_timeout", "5s")])?;
        rotate(&task.name, &Secret::new(task.old.as_str()), &Secret::new(task.new.as_str()))
    });
    if let Err(e) = done {
        pgrx::warning!("a new refresh token cannot be kept: {}", e.message);
    }
}
