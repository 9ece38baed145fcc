//! From a value of JSON to a column: its type, and the text that COPY gets. Numbers never pass through f64.
//!
//! What [`render`] gives, Postgres takes: a value that it would refuse is an error here, so that one record and not
//! the whole COPY fails. The text is plain; who writes COPY's format escapes it.

mod number;
mod record;
mod render;
mod scan;
mod time;
mod types;

#[cfg(test)]
mod tests;

pub use number::Number;
pub use record::{members, pointer, without, without_named, Member};
pub use render::{infer, render, surely_fits};
pub use types::Type;
