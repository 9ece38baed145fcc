//! A statement that carries a password, run so that its text reaches no log, no error context and no
//! statement statistics: parsed, and its node handed to the command itself (src/backend/commands/foreigncmds.c).

use pgrx::{pg_sys, PgList};

use super::sql::cstring;
use crate::error::{sqlstate, Error, Result};

/// Runs one CREATE USER MAPPING statement.
pub fn create_user_mapping(statement: &str) -> Result<()> {
    let source = cstring(statement)?;
    // SAFETY: the node is of the type that its checked tag says; the command reads it and keeps nothing of it.
    unsafe {
        let raw = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::raw_parser(
            source.as_ptr(),
            pg_sys::RawParseMode::RAW_PARSE_DEFAULT,
        ));
        let node = match (raw.len(), raw.get_ptr(0)) {
            (1, Some(stmt)) => (*stmt).stmt,
            _ => std::ptr::null_mut(),
        };
        if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_CreateUserMappingStmt {
            return Err(Error::new(sqlstate::INTERNAL_ERROR, "the user mapping could not be written as a statement"));
        }
        pg_sys::CreateUserMapping(node.cast());
        pg_sys::CommandCounterIncrement();
    }
    Ok(())
}

/// Takes the text of the running statement out of pg_stat_activity, and out of the log where the statement fails: it has
/// a secret in it. What log_statement writes was written before.
pub fn hide_statement() {
    const SHOWN: &std::ffi::CStr = c"<a statement with a secret>";
    // SAFETY: the text is static; PostgresMain sets the pointer anew for each statement.
    unsafe {
        pg_sys::debug_query_string = SHOWN.as_ptr();
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, SHOWN.as_ptr());
    }
}
