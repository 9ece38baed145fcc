//! What all processes have counted and nobody has written down, and what they run.

use super::{add, call, difference, entry_of, load, of_database, read, store, sum, taken, Slot, ENTRIES, HEAD, SLOTS};
use crate::pg::activity::{self, Activity};
use crate::pg::hooks::statements::{counter, Counts};

/// A role in a database, as far as this server has counted it, and what it runs.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// None: it runs something, and nothing of it was ever counted.
    pub entry: Option<usize>,
    pub birth: u64,
    pub role: u32,
    pub name: String,
    pub total: Counts,
    /// [`Entry::saved`](super::Entry).
    pub saved: Counts,
    /// Statements that run, and for how long they have (microseconds), beyond what is counted of them.
    pub running: i64,
    pub running_time: u64,
}

/// All roles of a database. Statements of background workers run here if one was counted before.
pub fn seen(database: u32) -> Vec<Seen> {
    // What ends from here on is counted up to its end, which is later.
    let now = activity::now();
    HEAD.locked(|| {
        let entries = taken().iter().enumerate().map(|(n, e)| Seen {
            entry: Some(n),
            birth: load(&e.birth),
            role: load(&e.role) as u32,
            name: e.name(),
            total: read(&e.total),
            saved: read(&e.saved),
            ..Seen::default()
        });
        let mut found: Vec<Seen> = entries.filter(|s| of(s, database)).collect();
        for (n, slot) in SLOTS.get().iter().enumerate() {
            let (active, entry, counts, until) = look(n, slot);
            let entry = (entry as usize).checked_sub(1);
            if let Some(seen) = found.iter_mut().find(|s| entry.is_some() && s.entry == entry) {
                sum(&mut seen.total, &counts);
            }
            let Some((active, since)) = active.and_then(|a| Some((a, a.since?))) else { continue };
            let mine = load(&slot.pid) == active.pid as u64;
            if active.database != database || !(mine || active.client) {
                continue;
            }
            let since = if mine { since.max(until as i64) } else { since };
            let known = found.iter_mut().position(|s| match entry.filter(|_| mine) {
                Some(_) => s.entry == entry,
                None => s.role == active.role,
            });
            let known = known.unwrap_or_else(|| {
                found.push(Seen { role: active.role, ..Seen::default() });
                found.len() - 1
            });
            found[known].running += 1;
            found[known].running_time += (now - since).max(0) as u64;
        }
        found
    })
}

fn of(seen: &Seen, database: u32) -> bool {
    let entry = seen.entry.and_then(|n| ENTRIES.get().get(n));
    entry.is_some_and(|e| load(&e.database) == u64::from(database))
}

/// What a process runs, for which entry it counts, its counts, and until when they count: of one moment, so that a
/// statement that ends is in its counts or runs, and never both or neither.
fn look(n: usize, slot: &Slot) -> (Option<Activity>, u64, Counts, u64) {
    let mut last = (0, [0; counter::ALL], 0);
    for _ in 0..100 {
        let active = activity::of(n);
        last = slot.read();
        if activity::of(n) == active {
            return (active, last.0, last.1, last.2);
        }
    }
    // It runs one short statement after the other.
    (None, last.0, last.1, last.2)
}

/// Has whoever counts something in a database wake its scheduler. What is counted at this very moment may do so without a
/// word: who wants to sleep looks once more, a while later.
pub fn hush(database: u32) {
    of_database(database).for_each(|e| store(&e.quiet, 1));
    call();
}

/// Whether nobody has counted anything in a database since [`hush`].
pub fn is_quiet(database: u32) -> bool {
    of_database(database).all(|e| load(&e.quiet) != 0)
}

/// Says that the table has what was seen.
pub fn saved(seen: &Seen) {
    if let Some(entry) = seen.entry.and_then(|n| ENTRIES.get().get(n)) {
        HEAD.locked(|| entry.saved.iter().zip(&seen.total).for_each(|(field, value)| store(field, *value)));
    }
}

/// An entry of which the table may not have all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    pub database: u32,
    pub role: u32,
    pub birth: u64,
    pub name: String,
    pub total: Counts,
    pub saved: Counts,
}

/// All of them, when no process is left but this one.
pub fn left_over() -> Vec<Left> {
    let left = taken().iter().map(|e| Left {
        database: load(&e.database) as u32,
        role: load(&e.role) as u32,
        birth: load(&e.birth),
        name: e.name(),
        total: read(&e.total),
        saved: read(&e.saved),
    });
    left.filter(|l| l.total != l.saved).collect()
}

/// Takes up what another server left, before any process was started. An entry is the same one then, so that what the
/// table says of it holds on.
pub fn take_up(left: &Left) {
    let Some(entry) = entry_of(left.database, left.role, &left.name).and_then(|n| ENTRIES.get().get(n)) else { return };
    if entry.is(left.database, left.role) {
        store(&entry.birth, left.birth);
        add(&entry.total, &left.total);
        add(&entry.saved, &left.saved);
    } else {
        // There is less room than there was.
        add(&entry.total, &difference(&left.total, &left.saved));
    }
}
