//! Third-party APIs in tables.
//!
//! - [`spec`]: what a source is: where the API is, how it is spoken to, and which of its lists become tables
//! - [`names`]: from a name in an API to an identifier
//! - [`presets`]: specs that ship
//! - [`columns`]: from a value of JSON to a column
//! - [`http`]: reads a stream, in a thread of its own

pub mod columns;
#[cfg(test)]
mod generator;
pub mod http;
pub mod names;
pub mod presets;
pub mod spec;
