//! A record and its members, as slices of its text.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

use super::scan::{decode, decode_lossy, string_end, value_end};
use crate::json::blanks;
use crate::sources::spec::Pointer;

/// Members up to which they are told apart by comparing.
const FEW: usize = 48;

/// A member: its name, borrowed where it is written without escapes, and its value's text.
pub type Member<'a> = (Cow<'a, str>, &'a str);

/// The top-level members, each once: of duplicates the last counts, as jsonb has it, in the place of the first.
pub fn members(record: &RawValue) -> Result<Vec<Member<'_>>, String> {
    let mut members: Vec<Member> = Vec::with_capacity(FEW / 2);
    let mut places: HashMap<Cow<str>, usize> = HashMap::new();
    // Names that share no trait with those before need no comparison.
    let mut seen = 0u64;
    for (name, value) in Pairs::of(record.get()).ok_or("a record is an object")? {
        let name = match plain(name) {
            Some(name) => Cow::Borrowed(name),
            None => decode(name).map_err(|why| format!("in the name of a member, {why}"))?,
        };
        // Comparing with a few names is faster than hashing them.
        let bytes = name.as_bytes();
        let trait_of = |b: Option<&u8>| b.map_or(0, |b| u32::from(*b));
        let bit = 1u64 << ((trait_of(bytes.first()) * 31 + trait_of(bytes.last()) * 7 + bytes.len() as u32) % 64);
        let is_new = seen & bit == 0;
        seen |= bit;
        let place = if is_new {
            None
        } else if members.len() < FEW {
            members.iter().position(|(known, _)| *known == name)
        } else {
            places.extend((places.len()..members.len()).map(|at| (members[at].0.clone(), at)));
            places.get(&name).copied()
        };
        match place {
            Some(place) => members[place].1 = value,
            None => members.push((name, value)),
        }
    }
    Ok(members)
}

/// The members of an object as they are written: names with their quotes, and values.
struct Pairs<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Pairs<'a> {
    /// `None` where it is no object.
    fn of(text: &'a str) -> Option<Pairs<'a>> {
        let start = blanks(text.as_bytes(), 0);
        (text.as_bytes().get(start) == Some(&b'{')).then(|| Pairs { text, at: blanks(text.as_bytes(), start + 1) })
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) != Some(&b'"') {
            return None;
        }
        let name = string_end(bytes, self.at);
        // Past the colon.
        let value = blanks(bytes, blanks(bytes, name) + 1);
        let end = value_end(bytes, value);
        let pair = (self.text.get(self.at..name)?, self.text.get(value..end)?);
        self.at = blanks(bytes, end);
        if bytes.get(self.at) == Some(&b',') {
            self.at = blanks(bytes, self.at + 1);
        }
        Some(pair)
    }
}

/// What a string (with its quotes) says, where that is what stands there.
fn plain(raw: &str) -> Option<&str> {
    raw.get(1..raw.len().checked_sub(1)?).filter(|inner| !inner.contains('\\'))
}

/// The value at a pointer, as its text; of duplicate members the last.
pub fn pointer<'a>(record: &'a RawValue, p: &Pointer) -> Option<&'a str> {
    p.tokens().iter().try_fold(record.get(), |value, token| step(value, token))
}

fn step<'a>(value: &'a str, token: &str) -> Option<&'a str> {
    let bytes = value.as_bytes();
    let start = blanks(bytes, 0);
    match bytes.get(start)? {
        b'{' => Pairs::of(value)?.filter(|(name, _)| is(name, token)).map(|(_, value)| value).last(),
        b'[' => {
            let wanted = index(token)?;
            let (mut at, mut number) = (blanks(bytes, start + 1), 0);
            while !matches!(bytes.get(at)?, b']') {
                let end = value_end(bytes, at);
                if number == wanted {
                    return value.get(at..end);
                }
                number += 1;
                at = blanks(bytes, end);
                if bytes.get(at) == Some(&b',') {
                    at = blanks(bytes, at + 1);
                }
            }
            None
        }
        _ => None,
    }
}

/// Whether a name (with its quotes) is this one.
fn is(raw: &str, name: &str) -> bool {
    if raw.contains('\\') {
        decode_lossy(raw) == name
    } else {
        raw.get(1..raw.len() - 1) == Some(name)
    }
}

/// RFC 6901: no sign, no leading zero.
fn index(token: &str) -> Option<usize> {
    let right = token == "0" || (!token.starts_with('0') && token.bytes().all(|b| b.is_ascii_digit()));
    right.then(|| token.parse().ok()).flatten()
}

/// The record without the members at these pointers, whatever stands beside them: also without duplicates of them, and
/// out of a record that can't be stored. Everything else keeps its text, every digit.
pub fn without(record: &RawValue, hide: &[Pointer]) -> String {
    let text = record.get();
    let hidden: Vec<&[String]> = hide.iter().map(Pointer::tokens).filter(|tokens| !tokens.is_empty()).collect();
    let mut out = String::with_capacity(text.len());
    copy(text, &hidden, &mut out);
    out
}

/// The record without members of some names, at any depth; none where there are no such members. All else keeps its text,
/// but for blanks. Iterative, so that no nesting is too deep.
pub fn without_named(record: &RawValue, hides: &mut impl FnMut(&str) -> bool) -> Option<String> {
    let text = record.get();
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    // Of each open object or list: whether it is an object, and whether nothing of it is written yet.
    let mut open: Vec<(bool, bool)> = Vec::new();
    let (mut at, mut found) = (0, false);
    loop {
        at = blanks(bytes, at);
        match bytes.get(at) {
            None => break,
            Some(b',') => {
                at += 1;
                continue;
            }
            Some(b @ (b'}' | b']')) => {
                open.pop();
                out.push(char::from(*b));
                at += 1;
                continue;
            }
            Some(_) => {}
        }
        if let Some((is_object, first)) = open.last_mut() {
            let item = at;
            if *is_object {
                let end = string_end(bytes, at);
                let name = plain(&text[at..end]).map_or_else(|| decode_lossy(&text[at..end]), Cow::Borrowed);
                at = blanks(bytes, blanks(bytes, end) + 1);
                if hides(&name) {
                    found = true;
                    at = value_end(bytes, at);
                    continue;
                }
            }
            if !std::mem::take(first) {
                out.push(',');
            }
            out.push_str(&text[item..at]);
        }
        match bytes.get(at) {
            Some(b @ (b'{' | b'[')) => {
                open.push((*b == b'{', true));
                out.push(char::from(*b));
                at += 1;
            }
            _ => {
                let end = value_end(bytes, at);
                out.push_str(&text[at..end]);
                if end == at {
                    break;
                }
                at = end;
            }
        }
    }
    found.then_some(out)
}

/// Recurses as deep as the pointers are long.
fn copy(text: &str, hidden: &[&[String]], out: &mut String) {
    let bytes = text.as_bytes();
    let start = blanks(bytes, 0);
    let close = match bytes.get(start) {
        Some(b'{') if !hidden.is_empty() => '}',
        Some(b'[') if !hidden.is_empty() => ']',
        _ => return out.push_str(text),
    };
    out.push_str(&text[..=start]);
    let (mut at, mut number, mut first) = (start + 1, 0usize, true);
    loop {
        at = blanks(bytes, at);
        match bytes.get(at) {
            Some(b',') => {
                at += 1;
                continue;
            }
            None | Some(b'}' | b']') => break,
            _ => {}
        }
        let item = at;
        let mut name = None;
        if close == '}' {
            let end = string_end(bytes, at);
            name = Some(&text[at..end]);
            // Past the colon.
            at = blanks(bytes, blanks(bytes, end) + 1);
        }
        let value = at;
        at = value_end(bytes, at);
        let matches = |token: &String| name.map_or(index(token) == Some(number), |name| is(name, token));
        let below: Vec<&[String]> = hidden.iter().filter(|p| matches(&p[0])).map(|p| &p[1..]).collect();
        number += 1;
        if below.iter().any(|rest| rest.is_empty()) {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        out.push_str(&text[item..value]);
        copy(&text[value..at], &below, out);
    }
    out.push(close);
}
