//! How a request or a run failed, in words for the user, and what may be done about it.

use std::time::SystemTime;

/// The end of a run. It holds no secret: texts pass through a [`super::secret::Scrubber`] before they get here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub sqlstate: &'static str,
    /// One lower-case sentence without a full stop.
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Not before then, where the API said so.
    pub retry_at: Option<SystemTime>,
}

/// SQLSTATEs of fetches, under the names of Postgres's `errcodes.txt`.
pub mod code {
    pub const CONNECTION_FAILURE: &str = "08006";
    pub const CANNOT_CONNECT: &str = "08001";
    pub const PROTOCOL_VIOLATION: &str = "08P01";
    pub const INVALID_AUTHORIZATION: &str = "28000";
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
    pub const UNDEFINED_OBJECT: &str = "42704";
    pub const PROGRAM_LIMIT: &str = "54000";
    pub const INSUFFICIENT_RESOURCES: &str = "53000";
    pub const CANCELED: &str = "57014";
    pub const INVALID_JSON: &str = "22032";
    pub const INVALID_VALUE: &str = "22023";
    pub const FDW_ERROR: &str = "HV000";
}

impl Failure {
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Failure { sqlstate, message: message.into(), detail: None, hint: None, retry_at: None }
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn retry_at(mut self, at: SystemTime) -> Self {
        self.retry_at = Some(at);
        self
    }

    /// The same with each text changed.
    pub fn map(self, change: impl Fn(&str) -> String) -> Self {
        Failure {
            message: change(&self.message),
            detail: self.detail.as_deref().map(&change),
            hint: self.hint.as_deref().map(&change),
            ..self
        }
    }
}

/// A request that failed: whether another try may help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub failure: Failure,
    /// The network's or the server's mood, not the request's fault.
    pub passing: bool,
}

impl Trouble {
    pub fn passing(failure: Failure) -> Self {
        Trouble { failure, passing: true }
    }

    pub fn lasting(failure: Failure) -> Self {
        Trouble { failure, passing: false }
    }
}
