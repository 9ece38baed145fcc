//! The slot of this process, and what a statement that begins is told by its entry.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::{add, entry_of, load, read, store, verdict, Entry, Slot, Verdict, ENTRIES, HEAD, SLOTS};
use crate::pg::hooks::statements::{self, Counts};
use crate::pg::{activity, catalog, session};

pub static WATCHER: statements::Watcher = statements::Watcher { begins, free: FREE, used, worker_used, left };

/// Where one finds why one is refused, and what to do about it.
const FREE: &[&CStr] = &[c"budgets", c"my_usage", c"my_relations"];

/// What this process knows of its own slot.
static MINE: AtomicUsize = AtomicUsize::new(usize::MAX);
static ROLE: AtomicU64 = AtomicU64::new(0);
static ENTRY: AtomicUsize = AtomicUsize::new(usize::MAX);
static TOLD: AtomicBool = AtomicBool::new(false);

/// Has this process's slot belong to a role's entry. Catalogs may be looked at when a statement begins, and not when one
/// has failed.
#[cold]
fn join(role: u32, may_look: bool) {
    let Some(slot) = activity::my_slot().and_then(|n| SLOTS.get().get(n)) else { return };
    // A ROLLBACK begins where catalogs may not be looked at any more.
    let name = if may_look && session::in_transaction() { session::name_of_role(role) } else { String::new() };
    let database = catalog::my_database();
    let first = ENTRY.load(Ordering::Relaxed) == usize::MAX;
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
        Some(entry)
    });
    let Some(entry) = entry else { return };
    MINE.store(activity::my_slot().unwrap_or(usize::MAX), Ordering::Relaxed);
    ENTRY.store(entry, Ordering::Relaxed);
    ROLE.store(role.into(), Ordering::Relaxed);
    if first {
        statements::follow_to_the_end();
    }
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

/// The entry that this process's slot belongs to.
#[inline]
fn my_entry() -> Option<&'static Entry> {
    ENTRIES.get().get(ENTRY.load(Ordering::Relaxed))
}

fn begins(role: u32, may_refuse: &dyn Fn() -> bool) {
    if load(&ROLE) != u64::from(role) {
        join(role, true);
    }
    let Some(entry) = my_entry() else { return };
    match load(&entry.verdict) {
        verdict::FINE => {}
        verdict => {
            let said = Verdict { verdict, per: load(&entry.per), used: load(&entry.used), budget: load(&entry.budget) };
            crate::usage::budget::tell(&said, may_refuse, &TOLD);
        }
    }
}

fn used(role: u32, counts: &Counts, until: i64) {
    if load(&ROLE) != u64::from(role) {
        join(role, false);
    }
    if let Some(slot) = SLOTS.get().get(MINE.load(Ordering::Relaxed)) {
        slot.write(|slot| {
            add(&slot.counts, counts);
            store(&slot.until, until as u64);
        });
    }
    if let Some(entry) = my_entry().filter(|entry| load(&entry.quiet) != 0) {
        rouse(entry);
    }
}

/// Wakes the scheduler that sleeps until something is counted.
#[cold]
fn rouse(entry: &Entry) {
    store(&entry.quiet, 0);
    crate::jobs::rouse_scheduler(catalog::my_database());
}

fn worker_used(leader: usize, counts: &Counts) {
    HEAD.locked(|| {
        let entry = SLOTS.get().get(leader).map_or(0, |slot| load(&slot.entry) as usize);
        if let Some(entry) = entry.checked_sub(1).and_then(|n| ENTRIES.get().get(n)) {
            add(&entry.total, counts);
        }
    });
}

fn left() {
    if let Some(slot) = SLOTS.get().get(MINE.load(Ordering::Relaxed)) {
        // Until when it has counted stays: what it still does, it does not run.
        HEAD.locked(|| fold(slot));
    }
    MINE.store(usize::MAX, Ordering::Relaxed);
    ROLE.store(0, Ordering::Relaxed);
}
