//! What a source is: a JSON document, checked and turned into plain structs. `docs/sources-spec.md` explains each
//! member, `schema.json` is its published schema.
//!
//! The structs mirror the document; what the schema guarantees is not checked again.

mod auth;
mod check;
mod limits;
mod paginator;
mod parse;
mod pointer;
mod read;
mod schema;
mod settings;
mod stream;
mod template;
#[cfg(test)]
mod tests;

use serde::Deserialize;

pub use auth::{Algorithm, Auth, ClientAuth, Grant};
pub use limits::{Action, ErrorRule, Limits, Reset, ResetUnit, Retry};
pub use paginator::{From, Paginator, Target};
pub use parse::parse;
pub use pointer::Pointer;
#[cfg(test)]
pub use schema::TEXT as SCHEMA;
pub use settings::with_settings;
pub use stream::{
    Changes, Child, ChildAs, Confirm, Deletes, Drift, Format, Incremental, Method, OnBadRow, Order, Parent, Stream,
    Write,
};
pub use template::{Piece, Template};

/// A source: an API, how it is spoken to, and its streams.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Spec {
    /// Ends with a slash, so that a stream's path is joined below it.
    pub base_url: url::Url,
    /// Hosts that a request may go to besides that of `base_url`: lower case, without a port.
    #[serde(default)]
    pub allow_hosts: Vec<String>,
    #[serde(default)]
    pub auth: Auth,
    #[serde(default, deserialize_with = "read::pairs")]
    pub headers: Vec<(String, String)>,
    #[serde(default)]
    pub limits: Limits,
    /// The first rule that fits an answer decides. After them: 429 and 5xx are tried again, everything else fails.
    #[serde(default)]
    pub errors: Vec<ErrorRule>,
    #[serde(default)]
    pub retry: Retry,
    pub streams: Vec<Stream>,
}

/// One thing that is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, as a JSON pointer into the spec.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub right: String,
}
