//! Saved queries: run by those they are shared with, as themselves, and their results kept as they were.
//!
//! api (the doors) → store (queries, versions, shares) → run (a query, as the caller) → keep (its rows, as the extension's
//! owner); read (results again, and who may), expire. Deciding is pure: scan (over lexemes) and params (parameters), columns,
//! lines.

mod api;
mod columns;
mod expire;
mod keep;
mod lexemes;
mod lines;
mod params;
mod read;
mod run;
mod scan;
mod store;

// What jobs are built on.
pub use expire::expire_due;
pub use run::{Pin, Series};
// For those who leave.
pub use store::hand_over;
