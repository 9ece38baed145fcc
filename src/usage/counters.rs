//! The counters in shared memory: a slot for each process, which it alone writes, and an entry for each role in each
//! database, into which slots are folded when their process ends or works for another role.
//!
//! An entry's total only grows; how much of it is in the table `wh.query_time` stands beside it. What one sees is the total
//! of the entry and of the slots that belong to it, read together under the lock that folding takes.

use std::sync::atomic::{fence, AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::pg::activity;
use crate::pg::hooks::statements::{self, counter, Counts};
use crate::pg::shmem::{self, Area, Array};
use crate::pg::{catalog, session};

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
    }

    /// A process; two cache lines.
    pub struct Slot {
        /// Odd while it is written.
        change: AtomicU64,
        pid: AtomicU64,
        /// Number of its entry, plus one; 0: none.
        entry: AtomicU64,
        /// Until when (microseconds, Postgres) everything is counted.
        until: AtomicU64,
        counts: [AtomicU64; counter::ALL],
        _pad: AtomicU64,
    }

    /// A role in a database; role 0 is everybody for whom there was no entry left.
    pub struct Entry {
        database: AtomicU64,
        role: AtomicU64,
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
        /// As much of the total as the table has.
        saved: [AtomicU64; counter::ALL],
    }
}

/// What a budget says to a role's statements.
pub mod verdict {
    pub const FINE: u64 = 0;
    /// It is passed: say so, once in a session.
    pub const PASSED: u64 = 1;
    /// It is passed, and new statements are refused.
    pub const REFUSED: u64 = 2;
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

pub static WATCHER: statements::Watcher = statements::Watcher { begins, used, worker_used, left };

/// What this process knows of its own slot.
static MINE: AtomicUsize = AtomicUsize::new(usize::MAX);
static ROLE: AtomicU64 = AtomicU64::new(0);
static ENTRY: AtomicUsize = AtomicUsize::new(usize::MAX);
static TOLD: AtomicBool = AtomicBool::new(false);

fn load(field: &AtomicU64) -> u64 {
    field.load(Ordering::Relaxed)
}

fn store(field: &AtomicU64, value: u64) {
    field.store(value, Ordering::Relaxed);
}

fn read(fields: &[AtomicU64; counter::ALL]) -> Counts {
    std::array::from_fn(|n| load(&fields[n]))
}

fn add(fields: &[AtomicU64; counter::ALL], counts: &Counts) {
    for (field, more) in fields.iter().zip(counts) {
        // One writer: no need for a locked instruction.
        store(field, load(field).wrapping_add(*more));
    }
}

impl Slot {
    /// Changes it; only its process may, and only one that ends, or changes its role, more than counts.
    #[inline]
    fn write(&self, f: impl FnOnce(&Slot)) {
        let change = load(&self.change);
        store(&self.change, change.wrapping_add(1));
        fence(Ordering::Release);
        f(self);
        self.change.store(change.wrapping_add(2), Ordering::Release);
    }

    /// Its entry, its counts and until when they count, of one moment.
    fn read(&self) -> (u64, Counts, u64) {
        let mut last = (0, [0; counter::ALL], 0);
        // A writer that was stopped in the middle must not stop readers: each number is right for itself.
        for _ in 0..1000 {
            let before = self.change.load(Ordering::Acquire);
            last = (load(&self.entry), read(&self.counts), load(&self.until));
            fence(Ordering::Acquire);
            if before & 1 == 0 && load(&self.change) == before {
                break;
            }
            std::hint::spin_loop();
        }
        last
    }
}

impl Entry {
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

/// Has this process's slot belong to a role's entry. Catalogs may be looked at when a statement begins, and not when one
/// has failed.
#[cold]
fn join(role: u32, may_look: bool) {
    let Some(slot) = activity::my_slot().and_then(|n| SLOTS.get().get(n)) else { return };
    let name = if may_look { session::name_of_role(role) } else { String::new() };
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

fn begins(role: u32, may_refuse: bool) {
    if load(&ROLE) != u64::from(role) {
        join(role, true);
    }
    let Some(entry) = my_entry() else { return };
    match load(&entry.verdict) {
        verdict::FINE => {}
        verdict => {
            let said = Verdict { verdict, per: load(&entry.per), used: load(&entry.used), budget: load(&entry.budget) };
            super::budget::tell(&said, may_refuse, &TOLD);
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
        HEAD.locked(|| fold(slot));
        store(&slot.pid, 0);
    }
    MINE.store(usize::MAX, Ordering::Relaxed);
    ROLE.store(0, Ordering::Relaxed);
}

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

/// What `a` has more than `b`.
pub fn difference(a: &Counts, b: &Counts) -> Counts {
    std::array::from_fn(|n| a[n].saturating_sub(b[n]))
}

/// What a budget says of a role, with the facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// [`verdict`].
    pub verdict: u64,
    /// Number of its period, or 0 for one of bytes.
    pub per: u64,
    pub used: u64,
    pub budget: u64,
}

/// Has new statements of roles told what their budgets say; those of others go on.
pub fn judge(database: u32, verdicts: &[(u32, String, Verdict)]) {
    HEAD.locked(|| {
        for (role, name, said) in verdicts.iter().filter(|(.., said)| said.verdict != verdict::FINE) {
            let entry = entry_of(database, *role, name).and_then(|n| ENTRIES.get().get(n));
            // Nobody is held to account for what all others use.
            if let Some(entry) = entry.filter(|e| load(&e.role) == u64::from(*role)) {
                store(&entry.per, said.per);
                store(&entry.used, said.used);
                store(&entry.budget, said.budget);
                store(&entry.verdict, said.verdict);
            }
        }
        for entry in of_database(database) {
            let passed = |(role, _, said): &(u32, String, Verdict)| {
                said.verdict != verdict::FINE && load(&entry.role) == u64::from(*role)
            };
            if !verdicts.iter().any(passed) {
                store(&entry.verdict, verdict::FINE);
            }
        }
    });
}

/// Budgets have changed: schedulers look at once.
pub fn hurry() {
    if let Some(head) = HEAD.get() {
        head.hurry.fetch_add(1, Ordering::Relaxed);
    }
}

/// How often budgets have changed.
pub fn hurried() -> u64 {
    HEAD.get().map_or(0, |head| load(&head.hurry))
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
