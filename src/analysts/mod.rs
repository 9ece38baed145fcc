//! Analysts: a person gets a role, a schema and the data they may see, in one line.
//!
//! api (the doors) → facts (what the catalogs have) → standard (what is missing, what is too much; pure) → provision,
//! teams, sharing, leave, code, reach (do it); list and audit tell. group holds the right to read, grants takes rights
//! back, rights says who may do what to whom, turn waits for locks, watchdog holds max_query_time.

mod api;
mod audit;
mod code;
mod dangers;
mod elsewhere;
mod facts;
mod grants;
mod group;
mod leave;
mod list;
mod names;
mod provision;
mod reach;
mod rights;
mod sharing;
mod standard;
mod teams;
mod turn;
pub mod watchdog;

pub use group::{reader, schemas_changed};
pub use teams::refuse_team_schema;

/// One row of what was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub object: String,
    pub kind: &'static str,
    pub action: &'static str,
    pub detail: Option<String>,
}

impl Row {
    pub fn new(object: impl Into<String>, kind: &'static str, action: &'static str) -> Self {
        Row { object: object.into(), kind, action, detail: None }
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

/// Sets up what works only where the library is loaded with the server; called once, while it is.
pub fn preload() {
    crate::pg::reason::explain(watchdog::reason);
    crate::pg::hooks::disowning(rights::refuse_to_disown);
}
