//! Values of a page as its paginator reads them: cursors, counts, addresses, links.

use serde_json::value::RawValue;
use url::Url;

use super::{Page, PageError};
use crate::sources::http::body::lookup;
use crate::sources::spec::Pointer;

/// What a place holds was written by [`RawValue`]; an old state that isn't JSON is taken as text.
pub fn json(raw: &str) -> serde_json::Value {
    match serde_json::from_str::<serde_json::Value>(raw) {
        // Digits that don't fit a machine number stay as they are.
        Ok(serde_json::Value::Number(n)) if n.to_string() != raw => raw.into(),
        Ok(value) => value,
        Err(_) => raw.into(),
    }
}

pub fn text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub fn at(record: Option<&RawValue>, pointer: &Pointer) -> Option<Box<RawValue>> {
    lookup(record?, pointer.tokens()).ok().flatten()
}

/// A string that isn't empty, or a number.
pub fn scalar(value: &RawValue) -> bool {
    matches!(value.get().as_bytes(), [b'-' | b'0'..=b'9', ..])
        || matches!(value.get().as_bytes(), [b'"', b, ..] if *b != b'"')
}

/// Not missing, null, false, 0 or "".
pub fn truthy(value: Option<&RawValue>) -> bool {
    let Some(value) = value else { return false };
    match value.get() {
        "null" | "false" | "\"\"" => false,
        number if number.starts_with(['-', '0']) => number.bytes().any(|b| (b'1'..=b'9').contains(&b)),
        _ => true,
    }
}

pub fn whole(value: &RawValue) -> Option<u64> {
    value.get().trim_matches('"').parse().ok()
}

pub fn address(page: &Page, pointer: &Pointer) -> Result<Option<String>, PageError> {
    let Some(Some(value)) = page.found.first() else { return Ok(None) };
    match serde_json::from_str(value.get()) {
        Ok(serde_json::Value::Null | serde_json::Value::Bool(false)) => Ok(None),
        Ok(serde_json::Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        _ => Err(PageError::BadAddress(format!("\"{pointer}\" holds no address"))),
    }
}

pub fn join(base: &Url, target: &str) -> Result<Url, PageError> {
    base.join(target).map_err(|e| PageError::BadAddress(e.to_string()))
}

/// Where the value is an address, its parameter of that name; else the value itself.
pub fn url_parameter(base: &Url, value: &RawValue, name: &str) -> Option<Box<RawValue>> {
    let Ok(text) = serde_json::from_str::<String>(value.get()) else { return Some(value.to_owned()) };
    if !text.contains("://") && !text.starts_with('/') {
        return Some(value.to_owned());
    }
    let url = base.join(&text).ok()?;
    let found = url.query_pairs().find(|(n, _)| n == name)?.1.into_owned();
    serde_json::value::to_raw_value(&found).ok()
}

/// Names of parameters that count pages or records, without what is no letter. One too many costs a listing that starts
/// over where it could have gone on; one too few costs records.
const COUNTS: [&str; 21] = [
    "at",
    "currentpage",
    "from",
    "index",
    "offset",
    "p",
    "page",
    "pageindex",
    "pageno",
    "pagenum",
    "pagenumber",
    "pageoffset",
    "pg",
    "pos",
    "position",
    "record",
    "row",
    "skip",
    "start",
    "startat",
    "startindex",
];

/// Whether a parameter says how many pages or records come before.
pub fn is_a_count(name: &str, value: &str) -> bool {
    let letters: String = name.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_lowercase()).collect();
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) && COUNTS.contains(&letters.as_str())
}

/// The target of the link with that relation (RFC 8288).
pub fn link(header: &str, rel: &str) -> Option<String> {
    let mut rest = header;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        // Parameters go on until a comma that stands outside of quotes.
        let mut quoted = false;
        let end = after
            .char_indices()
            .find(|(_, c)| {
                quoted ^= *c == '"';
                *c == ',' && !quoted
            })
            .map_or(after.len(), |(i, _)| i);
        let is_it = after[..end].split(';').filter_map(|p| p.split_once('=')).any(|(name, value)| {
            name.trim().eq_ignore_ascii_case("rel")
                && value.trim().trim_matches('"').split_ascii_whitespace().any(|r| r.eq_ignore_ascii_case(rel))
        });
        if is_it {
            return Some(target.trim().to_owned());
        }
        rest = &after[end..];
    }
}
