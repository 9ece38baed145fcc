//! Third-party APIs in tables.
//!
//! - [`spec`]: what a source is: where the API is, how it is spoken to, and which of its lists become tables
//! - [`names`]: from a name in an API to an identifier
//! - [`presets`]: specs that ship
//! - [`columns`]: from a value of JSON to a column
//! - [`http`]: reads a stream, in a thread of its own

mod alter;
mod api;
pub mod columns;
mod define;
mod fetch;
#[cfg(test)]
mod generator;
pub mod http;
mod load;
mod look;
pub mod names;
pub mod presets;
mod secrets;
pub mod spec;
mod store;
mod tour;
mod withhold;

pub use fetch::{run as fetch, Wish};
pub use secrets::find as find_secret;
pub use withhold::{empty_sensitive, strip_record};

/// The error for a name that is not a source.
pub(crate) fn missing(name: &str) -> crate::error::Error {
    crate::error::Error::new(crate::error::sqlstate::UNDEFINED_OBJECT, format!("source \"{name}\" does not exist"))
        .hint("SELECT name FROM wh.sources lists those that do; wh.create_source makes one.")
}
