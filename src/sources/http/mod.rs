//! Threads and network of a fetch. Nothing here calls Postgres.
//!
//! - [`paginate`], [`incremental`], [`retry`]: what to ask for next, from where, and when, as pure decisions
//! - [`body`]: records out of a body of any size
//! - [`guard`], [`secret`]: where a request may go, and what must not be seen

pub mod body;
pub mod guard;
pub mod incremental;
mod paginate;
mod retry;
mod secret;
