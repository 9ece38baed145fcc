//! Walking over the text of a value that is known to be JSON.

use std::borrow::Cow;

use super::number::Number;
use crate::json::plain;

/// Levels of nesting that are stored. Postgres reads JSON by recursion, and its stack is bounded by a setting.
pub const MOST_DEPTH: usize = 512;
/// What one string, and one value as a whole, may take in jsonb.
pub const MOST_JSONB_BYTES: usize = (1 << 28) - 1;

/// The end of the string that starts at `at` (at its quote), after the closing quote.
pub fn string_end(text: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    loop {
        at += plain(text.get(at..).unwrap_or_default());
        match text.get(at) {
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
            None => return text.len(),
        }
    }
}

/// The end of the value that starts at `at`. Iterative, so that no nesting is too deep.
pub fn value_end(text: &[u8], at: usize) -> usize {
    let mut depth = 0usize;
    let mut at = at;
    while let Some(&b) = text.get(at) {
        match b {
            b'"' => at = string_end(text, at),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            b',' if depth == 0 => return at,
            b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return at,
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

/// Whether jsonb can hold this.
pub fn check_jsonb(text: &str) -> Result<(), String> {
    let bytes = text.as_bytes();
    if bytes.len() > MOST_JSONB_BYTES {
        return Err(format!("{} bytes are more than jsonb holds", bytes.len()));
    }
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        match b {
            b'"' => {
                let end = string_end(bytes, at);
                check_string(&text[at..end])?;
                at = end;
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > MOST_DEPTH {
                    return Err(format!("nested deeper than {MOST_DEPTH} levels"));
                }
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let end = value_end(bytes, at);
                let number = Number::parse(&text[at..end]).ok_or("not a number of JSON")?;
                number.check_numeric()?;
                at = end;
            }
            _ => at += 1,
        }
    }
    Ok(())
}

/// Whether Postgres can store what a string (with its quotes) says.
fn check_string(raw: &str) -> Result<(), String> {
    if raw.contains('\\') {
        decode(raw).map(drop)
    } else {
        Ok(())
    }
}

/// What a string (with its quotes) says. An error where Postgres can't store it.
pub fn decode(raw: &str) -> Result<Cow<'_, str>, String> {
    decode_with(raw, |why| Err(why.to_owned()))
}

/// The same for comparing: what can't be stored becomes U+FFFD.
pub fn decode_lossy(raw: &str) -> Cow<'_, str> {
    decode_with(raw, |_| Ok('\u{FFFD}')).unwrap_or_default()
}

fn decode_with(raw: &str, bad: impl Fn(&str) -> Result<char, String>) -> Result<Cow<'_, str>, String> {
    let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = rest[at + 1..].chars().next().unwrap_or('\\');
        rest = rest.get(at + 1 + escape.len_utf8()..).unwrap_or_default();
        let c = match escape {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let (c, read) = unicode(rest);
                rest = rest.get(read..).unwrap_or_default();
                match c {
                    Some('\0') => bad("\\u0000 can't be stored as text")?,
                    Some(c) => c,
                    None => bad("half of a surrogate pair can't be stored as text")?,
                }
            }
            c => c,
        };
        out.push(c);
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}

/// The character of `XXXX` (or of `XXXX\uXXXX`, a pair), and how many bytes it takes; none for half a pair.
fn unicode(text: &str) -> (Option<char>, usize) {
    let hex = |at: usize| text.get(at..at + 4).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let Some(first) = hex(0) else { return (None, 4) };
    if !(0xD800..0xDC00).contains(&first) {
        return (char::from_u32(first), 4);
    }
    match (text.get(4..6), hex(6)) {
        (Some("\\u"), Some(second @ 0xDC00..=0xDFFF)) => {
            (char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00)), 10)
        }
        _ => (None, 4),
    }
}
