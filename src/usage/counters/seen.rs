//! What all processes have counted and nobody has written down, and what they run.

use super::{add, difference, entry_of, load, of_database, read, store, taken, ENTRIES, HEAD, SLOTS};
use crate::pg::activity;
use crate::pg::hooks::statements::{counter, Counts};

/// A role in a database, as far as this server has counted it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub entry: usize,
    pub role: u32,
    pub name: String,
    pub total: Counts,
    pub saved: Counts,
}

/// All roles of a database.
pub fn seen(database: u32) -> Vec<Seen> {
    HEAD.locked(|| {
        let mut found: Vec<Option<Seen>> = taken()
            .iter()
            .enumerate()
            .map(|(n, e)| {
                (load(&e.database) == u64::from(database)).then(|| Seen {
                    entry: n,
                    role: load(&e.role) as u32,
                    name: e.name(),
                    total: read(&e.total),
                    saved: read(&e.saved),
                })
            })
            .collect();
        for slot in SLOTS.get() {
            let (entry, counts, _) = slot.read();
            if let Some(Some(seen)) = (entry as usize).checked_sub(1).and_then(|n| found.get_mut(n)) {
                (0..counter::ALL).for_each(|n| seen.total[n] = seen.total[n].wrapping_add(counts[n]));
            }
        }
        found.into_iter().flatten().collect()
    })
}

/// Has whoever counts something in a database wake its scheduler. What is counted at this very moment may do so without a
/// word: who wants to sleep looks once more, a while later.
pub fn hush(database: u32) {
    of_database(database).for_each(|e| store(&e.quiet, 1));
}

/// Whether nobody has counted anything in a database since [`hush`].
pub fn is_quiet(database: u32) -> bool {
    of_database(database).all(|e| load(&e.quiet) != 0)
}

/// Says that the table has what was seen of an entry.
pub fn saved(entry: usize, total: &Counts) {
    if let Some(entry) = ENTRIES.get().get(entry) {
        HEAD.locked(|| entry.saved.iter().zip(total).for_each(|(field, value)| store(field, *value)));
    }
}

/// What an entry has that the table has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    pub database: u32,
    pub role: u32,
    pub name: String,
    pub counts: Counts,
}

/// All of it, when no process is left but this one.
pub fn left_over() -> Vec<Left> {
    let left = taken().iter().map(|e| Left {
        database: load(&e.database) as u32,
        role: load(&e.role) as u32,
        name: e.name(),
        counts: difference(&read(&e.total), &read(&e.saved)),
    });
    left.filter(|l| l.counts != [0; counter::ALL]).collect()
}

/// Takes up what another server left, before any process was started.
pub fn take_up(left: &Left) {
    if let Some(entry) = entry_of(left.database, left.role, &left.name).and_then(|n| ENTRIES.get().get(n)) {
        add(&entry.total, &left.counts);
    }
}

/// A statement that runs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    pub pid: i32,
    pub role: u32,
    /// For how long (microseconds).
    pub time: u64,
}

/// What runs in a database, by the clock's `now` (microseconds, Postgres). Statements of background workers are here if
/// one was counted before.
pub fn running(database: u32, now: i64) -> Vec<Running> {
    let entries = ENTRIES.get();
    let mut found = Vec::new();
    for (n, slot) in SLOTS.get().iter().enumerate() {
        let Some(active) = activity::of(n).filter(|a| a.database == database) else { continue };
        // The clock of what is counted is read first: a statement that ends meanwhile is missed, and not doubled.
        let (entry, _, until) = slot.read();
        let mine = load(&slot.pid) == active.pid as u64;
        let (entry, until) = if mine { (entry, until) } else { (0, 0) };
        let (Some(since), true) = (active.since, mine || active.client) else { continue };
        let role = (entry as usize).checked_sub(1).and_then(|n| entries.get(n)).map(|e| load(&e.role) as u32);
        let since = since.max(until as i64);
        if activity::of(n) == Some(active) {
            let time = (now - since).max(0) as u64;
            found.push(Running { pid: active.pid, role: role.unwrap_or(active.role), time });
        }
    }
    found
}
