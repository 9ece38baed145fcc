//! Third-party APIs in tables.
//!
//! A source is described by a [`spec`]: where the API is, how it is spoken to, and which of its lists become tables.

pub mod columns;
pub mod spec;
