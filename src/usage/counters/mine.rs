//! The slot of this process, and what a statement that begins is told by its entry.

use std::ffi::CStr;
use std::sync::atomic::{fence, AtomicBool, Ordering};

use super::{add, entry_of, load, read, store, verdict, Entry, Slot, Verdict, ENTRIES, HEAD, SLOTS};
use crate::pg::hooks::statements::{self, Counts};
use crate::pg::shmem::Place;
use crate::pg::{activity, catalog, session};

pub static WATCHER: statements::Watcher = statements::Watcher { joins, begins, free: FREE, ended, worker_used, left };

/// Where one finds why one is refused, and what to do about it.
const FREE: &[&CStr] = &[c"budgets", c"my_usage", c"my_relations"];

/// The entry that this process's slot belongs to.
static ENTRY: Place<Entry> = Place::nowhere();
static TOLD: AtomicBool = AtomicBool::new(false);

/// Has this process's slot belong to a role's entry. Catalogs may be looked at when a statement begins, and not when one
/// has failed.
fn joins(role: u32, may_look: bool) -> Option<&'static Slot> {
    let slot = activity::my_slot().and_then(|n| SLOTS.get().get(n))?;
    // A ROLLBACK begins where catalogs may not be looked at any more.
    let name = if may_look && session::in_transaction() { session::name_of_role(role) } else { String::new() };
    let database = catalog::my_database();
    let first = ENTRY.get().is_none();
    let entry = HEAD.locked(|| {
        if !first {
            fold(slot);
        }
        let entry = entry_of(database, role, &name)?;
        slot.write(|slot| {
            if first {
                store(&slot.until, 0);
            }
            slot.counts.iter().for_each(|count| store(count, 0));
            store(&slot.pid, std::process::id().into());
            store(&slot.entry, entry as u64 + 1);
        });
        store(&slot.look, 1);
        Some(entry)
    })?;
    ENTRY.set(ENTRIES.get().get(entry));
    if first {
        statements::follow_to_the_end();
    }
    Some(slot)
}

/// Adds a slot to its entry, under the lock.
fn fold(slot: &Slot) {
    let entry = (load(&slot.entry) as usize).checked_sub(1).and_then(|n| ENTRIES.get().get(n));
    if let Some(entry) = entry {
        add(&entry.total, &read(&slot.counts));
    }
    slot.write(|slot| {
        store(&slot.entry, 0);
        slot.counts.iter().for_each(|count| store(count, 0));
    });
}

/// What a budget that is passed says.
fn begins(may_refuse: &dyn Fn() -> bool) {
    let Some(entry) = ENTRY.get().filter(|entry| load(&entry.verdict) != verdict::FINE) else { return };
    let verdict = load(&entry.verdict);
    let said = Verdict { verdict, per: load(&entry.per), used: load(&entry.used), budget: load(&entry.budget) };
    crate::usage::budget::tell(&said, may_refuse, &TOLD);
}

/// Wakes the scheduler, if it sleeps until something is counted, and looks no more until there is something new.
fn ended(slot: &Slot) {
    store(&slot.look, 0);
    // Whoever changes the entry from now on says so after it.
    fence(Ordering::SeqCst);
    let Some(entry) = ENTRY.get() else { return };
    if load(&entry.quiet) != 0 {
        store(&entry.quiet, 0);
        crate::jobs::rouse_scheduler(catalog::my_database());
    }
    if entry.calls() {
        store(&slot.look, 1);
    }
}

fn worker_used(leader: usize, counts: &Counts) {
    HEAD.locked(|| {
        let entry = SLOTS.get().get(leader).map_or(0, |slot| load(&slot.entry) as usize);
        if let Some(entry) = entry.checked_sub(1).and_then(|n| ENTRIES.get().get(n)) {
            add(&entry.total, counts);
        }
    });
}

/// Until when the slot has counted stays: what its process still does, it does not run.
fn left(slot: &Slot) {
    HEAD.locked(|| fold(slot));
}
