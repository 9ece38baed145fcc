//! A record and its members, as slices of its text.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::scan::{decode, decode_lossy, skip_blanks, string_end, value_end};
use crate::sources::spec::Pointer;

/// Members up to which they are told apart by comparing.
const FEW: usize = 48;

/// A member: its name, borrowed where it is written without escapes, and its value.
pub type Member<'a> = (Cow<'a, str>, &'a RawValue);

/// The top-level members, each once: of duplicates the last counts, as jsonb has it, in the place of the first.
pub fn members(record: &RawValue) -> Result<Vec<Member<'_>>, String> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(&'de RawValue, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry::<&RawValue, &RawValue>()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    let raw = serde_json::Deserializer::from_str(record.get())
        .deserialize_map(Members)
        .map_err(|_| "a record is an object".to_owned())?;
    let mut members: Vec<Member> = Vec::with_capacity(raw.len());
    let mut places: HashMap<Cow<str>, usize> = HashMap::new();
    for (name, value) in raw {
        let name = match plain(name.get()) {
            Some(name) => Cow::Borrowed(name),
            None => decode(name.get()).map_err(|why| format!("in the name of a member, {why}"))?.into(),
        };
        // Comparing with a few names is faster than hashing them.
        let place = if members.len() < FEW {
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

/// What a string (with its quotes) says, where that is what stands there.
fn plain(raw: &str) -> Option<&str> {
    raw.get(1..raw.len().checked_sub(1)?).filter(|inner| !inner.contains('\\'))
}

/// The value at a pointer; of duplicate members the last.
pub fn pointer<'a>(record: &'a RawValue, p: &Pointer) -> Option<&'a RawValue> {
    p.tokens().iter().try_fold(record, |value, token| step(value, token))
}

fn step<'a>(value: &'a RawValue, token: &str) -> Option<&'a RawValue> {
    struct Step<'t>(&'t str);
    impl<'de> Visitor<'de> for Step<'_> {
        type Value = Option<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object or a list")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            while let Some(name) = map.next_key::<&RawValue>()? {
                if is(name.get(), self.0) {
                    found = Some(map.next_value()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(found)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let wanted = index(self.0);
            let mut found = None;
            let mut at = 0;
            while let Some(value) = seq.next_element()? {
                if Some(at) == wanted {
                    found = Some(value);
                }
                at += 1;
            }
            Ok(found)
        }
    }
    serde_json::Deserializer::from_str(value.get()).deserialize_any(Step(token)).ok().flatten()
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
        at = skip_blanks(bytes, at);
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
                let name = plain(&text[at..end]).map_or_else(|| decode_lossy(&text[at..end]).into(), Cow::Borrowed);
                at = skip_blanks(bytes, skip_blanks(bytes, end) + 1);
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
    let start = skip_blanks(bytes, 0);
    let close = match bytes.get(start) {
        Some(b'{') if !hidden.is_empty() => '}',
        Some(b'[') if !hidden.is_empty() => ']',
        _ => return out.push_str(text),
    };
    out.push_str(&text[..=start]);
    let (mut at, mut number, mut first) = (start + 1, 0usize, true);
    loop {
        at = skip_blanks(bytes, at);
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
            at = skip_blanks(bytes, skip_blanks(bytes, end) + 1);
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
