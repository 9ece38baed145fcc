//! The policy of sensitive data: what must not reach analysts, said once, and kept everywhere.
//!
//! api (the doors) → sensitive (marking: foreign tables, then sources), masks (the key; the views are fdw's) → store;
//! patterns (pure). Foreign applications and
//! sources read the policy under a lock that marking excludes, so that none of them ends with an old one.

mod api;
mod masks;
mod patterns;
mod sensitive;
mod store;

pub use masks::ensure_key;
pub use patterns::Patterns;
pub use store::{hold, propose, read, remember_unstored, remember_withheld, Withheld};
