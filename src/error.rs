//! The one error type: SQLSTATE, message, detail, hint. A value until the door turns it into an `ERROR`.
//!
//! Message style: <https://www.postgresql.org/docs/current/error-style-guide.html>.

use pgrx::pg_sys::panic::{CaughtError, ErrorReport, ErrorReportWithLevel};
use pgrx::PgSqlErrorCode;

/// SQLSTATEs that the extension raises or reacts to, under the names of Postgres's `errcodes.txt`.
pub mod sqlstate {
    pub const INVALID_PARAMETER_VALUE: &str = "22023";
    pub const ACTIVE_SQL_TRANSACTION: &str = "25001";
    pub const DEPENDENT_OBJECTS_STILL_EXIST: &str = "2BP01";
    pub const DEADLOCK_DETECTED: &str = "40P01";
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
    pub const SYNTAX_ERROR: &str = "42601";
    pub const UNDEFINED_COLUMN: &str = "42703";
    pub const UNDEFINED_TABLE: &str = "42P01";
    pub const UNDEFINED_OBJECT: &str = "42704";
    pub const DUPLICATE_OBJECT: &str = "42710";
    pub const WRONG_OBJECT_TYPE: &str = "42809";
    pub const QUERY_CANCELED: &str = "57014";
    pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
    pub const OBJECT_IN_USE: &str = "55006";
    pub const LOCK_NOT_AVAILABLE: &str = "55P03";
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub const IO_ERROR: &str = "58030";
    pub const FDW_NO_SCHEMAS: &str = "HV00P";
    pub const UNDEFINED_SCHEMA: &str = "3F000";
    pub const DUPLICATE_SCHEMA: &str = "42P06";
    pub const RESERVED_NAME: &str = "42939";
    pub const INTERNAL_ERROR: &str = "XX000";
}

/// An error on its way to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Five characters, see [`sqlstate`].
    pub sqlstate: String,
    /// One lower-case sentence without a full stop.
    pub message: String,
    /// Facts, in full sentences.
    pub detail: Option<String>,
    /// What to do, in full sentences.
    pub hint: Option<String>,
    /// Somebody's code raised it, under a code of its own choice.
    pub raised: bool,
}

pub type Result<T> = core::result::Result<T, Error>;

impl Error {
    pub fn new(sqlstate: &str, message: impl Into<String>) -> Self {
        Error { sqlstate: sqlstate.into(), message: message.into(), detail: None, hint: None, raised: false }
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether another attempt may succeed where this one met somebody else's lock.
    pub fn is_lock_conflict(&self) -> bool {
        !self.raised && [sqlstate::LOCK_NOT_AVAILABLE, sqlstate::DEADLOCK_DETECTED].contains(&self.sqlstate.as_str())
    }

    /// Whether somebody wants this session to stop: a cancel, a timeout, a shutdown (class 57). Work goes on after
    /// other errors, never after these.
    pub fn is_an_interrupt(&self) -> bool {
        !self.raised && (self.sqlstate == sqlstate::QUERY_CANCELED || self.sqlstate.starts_with("57P"))
    }

    /// Whether a session on another server is gone, in the middle of it or for idling in a transaction.
    pub fn is_a_lost_connection(&self) -> bool {
        self.sqlstate.starts_with("08") || self.sqlstate == "25P03"
    }

    /// Whether the text of a definition is at fault (class 42, bad literals of class 22, unsupported
    /// constructs), and not the server, the session or the network.
    pub fn is_about_the_definition(&self) -> bool {
        ["42", "22", "0A"].iter().any(|class| self.sqlstate.starts_with(class))
            && self.sqlstate != sqlstate::INSUFFICIENT_PRIVILEGE
    }

    /// What others may be told of an error in somebody's materialized view: a message can quote what the view reads (`invalid
    /// input syntax for type integer: "…"`, also of class 42: `relation "…" does not exist`). What is denied is a name.
    pub fn without_values(&self) -> String {
        match self.sqlstate == sqlstate::INSUFFICIENT_PRIVILEGE {
            true => self.message.clone(),
            false => format!("SQLSTATE {}; REFRESH MATERIALIZED VIEW tells its owner more", self.sqlstate),
        }
    }

    /// Whether it comes of what a relation's owner wrote or may not do, and is no reason for a run to fail: anything but
    /// the classes that speak of the server, the session, a lock or the network, unless code raised them: it can raise what it
    /// likes. Codes that are nobody's reach us as XX000.
    pub fn is_the_owners(&self) -> bool {
        let others = ["08", "25", "40", "53", "55", "57", "58", "F0", "XX001", "XX002"];
        self.raised || !others.iter().any(|class| self.sqlstate.starts_with(class))
    }

    /// Whether it may quote values of rows: whatever rows are at fault for, and what code that runs over them can raise.
    /// What speaks of definitions, rights, the server, the session, a lock or the network quotes none.
    pub fn may_quote_rows(&self) -> bool {
        self.is_the_owners() && !["0A", "2B", "3F", "42"].iter().any(|class| self.sqlstate.starts_with(class))
    }
}

/// Five characters to the packed integer of `MAKE_SQLSTATE` (src/include/utils/elog.h).
fn pack(sqlstate: &str) -> i32 {
    sqlstate
        .bytes()
        .take(5)
        .enumerate()
        .fold(0, |code, (i, c)| code | (i32::from(c.wrapping_sub(b'0') & 0x3f) << (6 * i)))
}

/// The inverse of [`pack`], `unpack_sql_state` of src/backend/utils/error/elog.c.
pub fn unpack(code: i32) -> String {
    (0..5).map(|i| char::from(((code >> (6 * i)) & 0x3f) as u8 + b'0')).collect()
}

impl From<Error> for ErrorReport {
    fn from(e: Error) -> Self {
        let mut report = ErrorReport::new(PgSqlErrorCode::from(pack(&e.sqlstate)), e.message, "startup_wh");
        if let Some(detail) = e.detail {
            report = report.set_detail(detail);
        }
        if let Some(hint) = e.hint {
            report = report.set_hint(hint);
        }
        report
    }
}

impl From<&ErrorReportWithLevel> for Error {
    fn from(report: &ErrorReportWithLevel) -> Self {
        Error {
            sqlstate: unpack(report.sql_error_code() as i32),
            message: report.message().to_owned(),
            detail: report.detail().map(str::to_owned),
            hint: report.hint().map(str::to_owned),
            // RAISE of PL/pgSQL (src/pl/plpgsql/src/pl_exec.c).
            raised: report.function_name() == Some("exec_stmt_raise"),
        }
    }
}

impl From<&CaughtError> for Error {
    fn from(caught: &CaughtError) -> Self {
        match caught {
            CaughtError::PostgresError(report)
            | CaughtError::ErrorReport(report)
            | CaughtError::RustPanic { ereport: report, .. } => report.into(),
        }
    }
}

impl From<pgrx::spi::SpiError> for Error {
    fn from(e: pgrx::spi::SpiError) -> Self {
        Error::new(sqlstate::INTERNAL_ERROR, format!("SPI failed: {e}"))
    }
}

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        Error::new(sqlstate::INTERNAL_ERROR, format!("a catalog row has an unexpected shape: {e}"))
    }
}

/// At most so many characters of a text; where there are more, it says so.
pub fn cut(text: String, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}... (cut)", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_survive_packing() {
        for state in [sqlstate::LOCK_NOT_AVAILABLE, sqlstate::DEADLOCK_DETECTED, "00000", "XX000", "HV00P"] {
            assert_eq!(unpack(pack(state)), state);
        }
        // ERRCODE_LOCK_NOT_AVAILABLE as errcodes.h packs it.
        assert_eq!(pack("55P03"), 5 | (5 << 6) | ((b'P' - b'0') as i32) << 12 | (3 << 24));
    }

    #[test]
    fn only_interrupts_stop_the_work() {
        for interrupt in ["57014", "57P01", "57P02", "57P03"] {
            assert!(Error::new(interrupt, "").is_an_interrupt(), "{interrupt}");
        }
        for other in ["55P03", "40P01", "53100", "22012", "57000"] {
            assert!(!Error::new(other, "").is_an_interrupt(), "{other}");
        }
    }

    #[test]
    fn an_owners_code_cannot_stop_a_run_with_a_code_of_its_own() {
        for raised in ["P0001", "42501", "22012", "XX000", "WH001", "23505"] {
            assert!(Error::new(raised, "").is_the_owners(), "{raised}");
        }
        for other in ["57014", "53100", "08006", "40P01", "55P03", "58030", "25006", "XX001"] {
            assert!(!Error::new(other, "").is_the_owners(), "{other}");
            let raised = Error { raised: true, ..Error::new(other, "") };
            assert!(raised.is_the_owners() && !raised.is_an_interrupt() && !raised.is_lock_conflict(), "{other}");
        }
    }

    #[test]
    fn only_errors_of_the_definition_break_a_view() {
        assert!(Error::new("42703", "").is_about_the_definition());
        assert!(Error::new("22P02", "").is_about_the_definition());
        for other in ["57014", "57P01", "53100", "08006", "40P01", "42501"] {
            assert!(!Error::new(other, "").is_about_the_definition(), "{other}");
        }
    }
}
