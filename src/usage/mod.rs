//! Usage: what each role's queries cost, counted by us and exactly.
//!
//! pg::hooks::statements (what a statement used) → counters (shared memory) → keep (the table `wh.query_time`, written by
//! each database's scheduler) → sql/usage.sql (what one sees). file carries over a restart what was not written yet; budget
//! says who has used too much; texts asks pg_stat_statements; api are the doors. See docs/usage.md.
//!
//! [`sizes`]: what schemas and relations weigh, measured from their files. See docs/sizes.md. report puts both into a text.

mod api;
mod budget;
mod counters;
mod file;
mod keep;
mod report;
mod sizes;
mod texts;

use crate::pg::hooks::statements;

pub use counters::{forget_others, ENTRIES, HEAD, SLOTS};
pub use keep::Keeper;
pub use sizes::SizeKeeper;
pub use statements::{count, counter, was_cancelled, Counts};

/// Sets up what works only where the library is loaded with the server; called once, while it is.
pub fn preload() {
    statements::watch(&counters::WATCHER);
}

/// Called by the postmaster when shared memory is there and empty.
pub fn begin() {
    counters::begin();
    file::load();
    file::save_at_exit();
}

/// Takes away the budget of a role that goes.
pub fn forget_budget(role: u32) -> crate::error::Result<()> {
    budget::set(role, None, None, "day", false)
}
