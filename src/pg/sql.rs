//! The one place where identifiers and literals become SQL text.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use crate::error::{sqlstate, Error, Result};

/// A C string; names and definitions never hold a NUL, user input is refused where it does.
pub fn cstring(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(sqlstate::INVALID_PARAMETER_VALUE, "a name must not contain a NUL byte"))
}

/// Quotes an identifier where it needs it: `quote_identifier` of src/backend/utils/adt/ruleutils.c.
pub fn ident(name: &str) -> String {
    let Ok(name) = cstring(name) else {
        return String::from("\"\"");
    };
    // SAFETY: quote_identifier reads a NUL-terminated string and returns it or a palloc'd copy.
    unsafe { CStr::from_ptr(pg_sys::quote_identifier(name.as_ptr())) }.to_string_lossy().into_owned()
}

/// `schema.name`, both quoted where needed.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", ident(schema), ident(name))
}

/// Quotes a literal as `quote_literal_cstr` of src/backend/utils/adt/quote.c does: quotes doubled, and `E''`
/// where a backslash occurs, so that it holds whatever `standard_conforming_strings` is.
pub fn literal(text: &str) -> String {
    let escape = if text.contains('\\') { "E" } else { "" };
    format!("{escape}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
