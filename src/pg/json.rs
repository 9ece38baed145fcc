//! JSON's text that was checked already.

use serde_json::value::RawValue;

/// A value as [`crate::json::well_formed`] gives it.
pub fn well_formed(text: String) -> Box<RawValue> {
    // SAFETY: it is one well-formed value, without white space around it. Debug builds check that.
    unsafe { RawValue::from_string_unchecked(text) }
}
