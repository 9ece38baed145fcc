//! The counters in shared memory: a slot for each process, which it alone writes, and an entry for each role in each
//! database, into which slots are folded when their process ends or works for another role.
//!
//! An entry's total only grows. How much of it is in the table `wh.query_time` stands in `wh.query_role`, written by the same
//! transaction, so that each snapshot sees both or neither. What one sees is the total of the entry and of the slots that
//! belong to it, read together under the lock that folding takes, less what one's own snapshot has of it in the table.
//!
//! - `mine`: this process's slot; `seen`: what all have counted, and what runs; `verdict`: what budgets say to statements

mod mine;
mod seen;
pub mod verdict;

use std::sync::atomic::{fence, AtomicU64, Ordering};

use crate::pg::hooks::statements::slot::{self, load, read, store, Slot};
use crate::pg::hooks::statements::{counter, Counts};
use crate::pg::shmem::{self, Area, Array};
use crate::pg::{password, session};

pub use mine::WATCHER;
pub use seen::{hush, is_quiet, left_over, saved, seen, take_up, Left, Seen};
pub use verdict::{hurried, hurry, judge, Verdict};

/// Bytes of a role's name, NAMEDATALEN.
const NAME: usize = 64;

/// The role of an entry that was given back.
const FREE: u64 = u64::MAX;

/// How long (seconds) a database must have been gone before its entries are given back.
const GONE_FOR: u64 = 60;

/// Entries beyond startup_wh.max_users for what is left over: one for a database, and one for all that have none.
const SPARE: usize = 65;

crate::shared! {
    pub struct Head {
        /// Entries that are or were taken.
        entries: AtomicU64,
        /// Of them, those that count for startup_wh.max_users.
        users: AtomicU64,
        /// Counts changes of budgets.
        hurry: AtomicU64,
        /// The number that the last entry got.
        births: AtomicU64,
    }

    /// A role in a database; role 0 is everybody for whom there was no entry left.
    pub struct Entry {
        database: AtomicU64,
        role: AtomicU64,
        /// Its number, which no other entry of this or another server has: what a table says of another is not about it.
        birth: AtomicU64,
        /// Since when (seconds) the launcher has not seen its database; 0: it is there.
        absent: AtomicU64,
        /// What a budget says to new statements: [`verdict`].
        verdict: AtomicU64,
        /// 1: its database's scheduler sleeps until something is counted ([`hush`]).
        quiet: AtomicU64,
        /// The facts of it: [`Verdict`].
        per: AtomicU64,
        used: AtomicU64,
        budget: AtomicU64,
        /// Its name when it was first seen, for those that are dropped before anybody wrote it down.
        name: [AtomicU64; NAME / 8],
        total: [AtomicU64; counter::ALL],
        /// As much of the total as the table has at least: nothing is due to be written where both are the same.
        saved: [AtomicU64; counter::ALL],
    }
}

pub static HEAD: Area<Head> = Area::new(c"startup_wh usage");
pub static SLOTS: Array<Slot> = Array::new(c"startup_wh usage slots", shmem::most_backends);
pub static ENTRIES: Array<Entry> = Array::new(c"startup_wh usage entries", most_entries);

fn most_entries() -> usize {
    crate::settings::MAX_USERS.get().max(1) as usize + SPARE
}

/// Whether anything is counted: the library was loaded with the server.
pub fn are_on() -> bool {
    HEAD.get().is_some()
}

/// Adds to what one process writes at a time.
fn add(fields: &[AtomicU64; counter::ALL], counts: &Counts) {
    fields.iter().zip(counts).for_each(|(field, more)| slot::add(field, *more));
}

impl Entry {
    /// Whether the processes that it counts for must look at it.
    fn calls(&self) -> bool {
        load(&self.verdict) != verdict::FINE || load(&self.quiet) != 0
    }

    fn name(&self) -> String {
        let bytes: Vec<u8> = self.name.iter().flat_map(|word| load(word).to_le_bytes()).collect();
        String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
    }

    fn set_name(&self, name: &str) {
        let mut bytes = [0; NAME];
        let length = name.len().min(NAME - 1);
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        for (word, part) in self.name.iter().zip(bytes.chunks_exact(8)) {
            store(word, u64::from_le_bytes(std::array::from_fn(|n| part[n])));
        }
    }

    fn is(&self, database: u32, role: u32) -> bool {
        load(&self.database) == u64::from(database) && load(&self.role) == u64::from(role)
    }
}

/// Has the processes whose entries changed look at them; after the change.
fn call() {
    fence(Ordering::SeqCst);
    for slot in SLOTS.get() {
        let entry = (load(&slot.entry) as usize).checked_sub(1).and_then(|n| ENTRIES.get().get(n));
        if entry.is_some_and(Entry::calls) {
            store(&slot.look, 1);
        }
    }
}

/// Called by the postmaster when shared memory is there and empty: a start for the numbers of entries that leaves room
/// for all, and that a bigint holds.
pub fn begin() {
    let random = password::random().map(u64::from_le_bytes);
    let start = random.unwrap_or_else(|_| session::now() as u64) >> 2;
    if let Some(head) = HEAD.get() {
        store(&head.births, start);
    }
}

fn taken() -> &'static [Entry] {
    let taken = HEAD.get().map_or(0, |head| load(&head.entries) as usize);
    ENTRIES.get().get(..taken).unwrap_or_default()
}

fn of_database(database: u32) -> impl Iterator<Item = &'static Entry> {
    taken().iter().filter(move |e| load(&e.database) == u64::from(database))
}

/// The entry of a role, under the lock; a new one if there is room, or else that of all others.
pub fn entry_of(database: u32, role: u32, name: &str) -> Option<usize> {
    if let Some((known, entry)) = taken().iter().enumerate().find(|(_, e)| e.is(database, role)) {
        if !name.is_empty() {
            entry.set_name(name);
        }
        return Some(known);
    }
    let head = HEAD.get()?;
    let entries = ENTRIES.get();
    let next = load(&head.entries) as usize;
    let is_user = role != 0;
    if is_user && load(&head.users) as usize + SPARE >= entries.len() {
        return entry_of(database, 0, "");
    }
    let free = taken().iter().position(|e| load(&e.role) == FREE);
    let next = free.unwrap_or(next);
    // The last one is for databases that come when all others are taken.
    let (database, next) = match next + 1 < entries.len() {
        true => (database, next),
        false if database == 0 => (0, next),
        false => return entry_of(0, 0, ""),
    };
    let entry = entries.get(next)?;
    store(&head.births, load(&head.births) + 1);
    store(&entry.birth, load(&head.births));
    store(&entry.database, database.into());
    store(&entry.role, role.into());
    store(&entry.absent, 0);
    store(&entry.quiet, 1);
    entry.set_name(name);
    if free.is_none() {
        store(&head.entries, next as u64 + 1);
    }
    if is_user {
        store(&head.users, load(&head.users) + 1);
    }
    Some(next)
}

/// Gives back the entries of databases that are gone, and have been for a while: one that was made since the list was
/// read is none of them.
pub fn forget_others(databases: &[u32]) {
    let now = (session::now() / 1_000_000) as u64;
    HEAD.locked(|| {
        let Some(head) = HEAD.get() else { return };
        for (n, entry) in taken().iter().enumerate() {
            let database = load(&entry.database) as u32;
            if database == 0 || load(&entry.role) == FREE || databases.contains(&database) {
                store(&entry.absent, 0);
                continue;
            }
            let in_use = SLOTS.get().iter().any(|slot| load(&slot.entry) == n as u64 + 1);
            if load(&entry.absent) == 0 || in_use {
                store(&entry.absent, now);
            }
            if now.saturating_sub(load(&entry.absent)) < GONE_FOR {
                continue;
            }
            if load(&entry.role) != 0 {
                store(&head.users, load(&head.users).saturating_sub(1));
            }
            store(&entry.role, FREE);
            store(&entry.database, 0);
            store(&entry.verdict, verdict::FINE);
            entry.total.iter().chain(&entry.saved).for_each(|field| store(field, 0));
        }
    });
}

/// What `a` has more than `b`; a failure that turns out to be a cancel is an error less.
pub fn difference(a: &Counts, b: &Counts) -> Counts {
    std::array::from_fn(|n| a[n].wrapping_sub(b[n]))
}

/// Adds up.
pub fn sum(a: &mut Counts, b: &Counts) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a = a.wrapping_add(*b));
}
