//! What budgets say to statements that begin.

use std::sync::atomic::Ordering;

use super::{call, entry_of, load, of_database, store, ENTRIES, HEAD};

pub const FINE: u64 = 0;
/// It is passed: say so, once in a session.
pub const PASSED: u64 = 1;
/// It is passed, and new statements are refused.
pub const REFUSED: u64 = 2;

/// What a budget says of a role, with the facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// [`FINE`], [`PASSED`] or [`REFUSED`].
    pub verdict: u64,
    /// Number of its period, or 0 for one of bytes.
    pub per: u64,
    pub used: u64,
    pub budget: u64,
}

/// Has new statements of roles told what their budgets say; those of others go on.
pub fn judge(database: u32, verdicts: &[(u32, String, Verdict)]) {
    HEAD.locked(|| {
        for (role, name, said) in verdicts.iter().filter(|(.., said)| said.verdict != FINE) {
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
                said.verdict != FINE && load(&entry.role) == u64::from(*role)
            };
            if !verdicts.iter().any(passed) {
                store(&entry.verdict, FINE);
            }
        }
        call();
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
