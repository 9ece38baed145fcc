//! A value as a column's text.

use std::borrow::Cow;

use super::number::{shown, Number};
use super::scan::{check_jsonb, decode};
use super::{time, Type};
use crate::sources::spec::Format;

/// What one JSON value looks like, from its raw text. None for null.
pub fn infer(raw: &str) -> Option<Type> {
    let text = raw.trim();
    Some(match text.as_bytes().first()? {
        b'n' => return None,
        b't' | b'f' => Type::Boolean,
        b'{' | b'[' => Type::Jsonb,
        b'"' => infer_text(text),
        _ if Number::parse(text).is_some_and(|number| number.is_plain_bigint()) => Type::Bigint,
        _ => Type::Numeric,
    })
}

/// Whether a value certainly changes nothing about a column's type, where that can be told at a glance; what is not told is
/// [inferred](infer).
pub fn surely_fits(raw: &str, ty: &str) -> bool {
    let text = raw.as_bytes();
    match (text.first(), ty) {
        (Some(b'n'), _) | (_, "jsonb") => true,
        (Some(b'{' | b'['), _) => false,
        // No blank before it: all scalars become text beside text.
        (Some(first), "text") => !first.is_ascii_whitespace(),
        (Some(b't' | b'f'), "boolean") => true,
        (Some(b'-' | b'0'..=b'9'), "numeric") => true,
        (_, "bigint") => text.len() <= 18 && text.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// A text is a time or a date only where it can be nothing else; one without a zone stays text.
fn infer_text(raw: &str) -> Type {
    // No time is written with escapes or is longer.
    let inner = raw.get(1..raw.len() - 1).filter(|inner| inner.len() <= 35).unwrap_or_default();
    if time::parse_date(inner).is_some() {
        Type::Date
    } else if time::parse(inner).is_some_and(|written| written.has_zone()) {
        Type::Timestamptz
    } else {
        Type::Text
    }
}

/// The value's parts that matter here.
enum Value<'a> {
    Boolean(&'a str),
    Number(&'a str),
    Text(Cow<'a, str>),
    /// An object or an array.
    Nested(&'a str),
}

/// The text of a value as this type, not yet escaped for COPY; None for null. An error says why it can't be stored.
/// Borrowed where it stands so in the value.
pub fn render<'a>(raw: &'a str, ty: &Type, format: Option<Format>) -> Result<Option<Cow<'a, str>>, String> {
    let text = raw.trim();
    if text == "null" {
        return Ok(None);
    }
    if *ty == Type::Jsonb {
        check_jsonb(text)?;
        return Ok(Some(Cow::Borrowed(text)));
    }
    let value = match text.as_bytes().first() {
        Some(b't' | b'f') => Value::Boolean(text),
        Some(b'"') => Value::Text(decode(text)?),
        Some(b'{' | b'[') => Value::Nested(text),
        _ if Number::parse(text).is_some() => Value::Number(text),
        _ => return Err(format!("{} is not a number", shown(text))),
    };
    let rendered = match ty {
        Type::Text => return as_text(value).map(Some),
        Type::Boolean => as_boolean(&value),
        Type::Bigint => match value {
            // What is written as it is stored, mostly.
            Value::Number(text) if is_short_integer(text) => Some(Cow::Borrowed(text)),
            _ => as_integer(&value, i64::MIN, i64::MAX).map(Cow::Owned),
        },
        Type::Numeric => return as_numeric(value, text).map(Some),
        Type::Timestamptz => as_time(&value, format, true).map(Cow::Owned),
        Type::Date => as_date(&value, format).map(Cow::Owned),
        Type::Declared(name) => as_declared(&value, name, format).map(Cow::Owned),
        Type::Jsonb => None,
    };
    rendered.map(Some).ok_or_else(|| format!("{} is not a value of type {}", shown(text), ty.sql()))
}

/// One of JSON that is as bigint writes it, for sure.
fn is_short_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.len() <= 18 && digits.bytes().all(|b| b.is_ascii_digit()) && text != "-0"
}

fn as_text(value: Value<'_>) -> Result<Cow<'_, str>, String> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Boolean(text) | Value::Number(text) => Ok(Cow::Borrowed(text)),
        Value::Nested(text) => check_jsonb(text).map(|()| Cow::Borrowed(text)),
    }
}

/// A text that says true or false is as good.
fn as_boolean<'a>(value: &Value<'a>) -> Option<Cow<'a, str>> {
    let text = match value {
        Value::Boolean(text) => Cow::Borrowed(*text),
        Value::Text(text) => text.clone(),
        _ => return None,
    };
    matches!(&*text, "true" | "false").then_some(text)
}

/// A number, or a text that is one: some APIs write their numbers so.
fn number<'a>(value: &'a Value<'a>) -> Option<(Number<'a>, &'a str)> {
    match value {
        Value::Number(text) => Number::parse(text).map(|number| (number, *text)),
        Value::Text(text) => Number::parse(text).map(|number| (number, &**text)),
        _ => None,
    }
}

fn as_integer(value: &Value, least: i64, most: i64) -> Option<String> {
    let integer = number(value)?.0.integer()?;
    (least..=most).contains(&integer).then(|| integer.to_string())
}

fn as_numeric<'a>(value: Value<'a>, raw: &str) -> Result<Cow<'a, str>, String> {
    let (number, _) = number(&value).ok_or_else(|| format!("{} is not a value of type numeric", shown(raw)))?;
    number.check_numeric()?;
    as_text(value)
}

/// With a format since 1970, a text in strict ISO is taken as well: some APIs mix them.
fn as_time(value: &Value, format: Option<Format>, zone: bool) -> Option<String> {
    if let Value::Text(text) = value {
        if let Some(written) = time::parse(text) {
            return (written.has_zone() == zone).then(|| spelled(&written, text, zone))?;
        }
    }
    let format = format.filter(|format| matches!(format, Format::EpochS | Format::EpochMs))?;
    in_utc(time::instant(number(value)?.1, format)?, zone)
}

/// As it was written, but for a leap second: Postgres refuses a part of one at the end of a day.
fn spelled(written: &time::Written, text: &str, zone: bool) -> Option<String> {
    if written.is_leap_second() {
        in_utc(written.micros(), zone)
    } else {
        Some(text.to_owned())
    }
}

fn in_utc(micros: i64, zone: bool) -> Option<String> {
    let text = time::write_utc(micros)?;
    Some(if zone { text } else { text.trim_end_matches('Z').to_owned() })
}

/// The day in UTC for a time since 1970. A time in ISO is no date: its day depends on who looks.
fn as_date(value: &Value, format: Option<Format>) -> Option<String> {
    if let Value::Text(text) = value {
        if time::parse_date(text).is_some() {
            return Some(text.clone().into_owned());
        }
    }
    as_time(value, format, true).filter(|_| number(value).is_some()).and_then(|text| text.get(..10).map(str::to_owned))
}

fn as_declared(value: &Value, name: &str, format: Option<Format>) -> Option<String> {
    match name {
        "smallint" => as_integer(value, i16::MIN.into(), i16::MAX.into()),
        "integer" => as_integer(value, i32::MIN.into(), i32::MAX.into()),
        "double precision" => {
            let (number, text) = number(value)?;
            let float: f64 = text.parse().ok()?;
            (float.is_finite() && (float != 0.0 || number.is_zero())).then(|| text.to_owned())
        }
        "real" => {
            let (number, text) = number(value)?;
            let float: f32 = text.parse().ok()?;
            (float.is_finite() && (float != 0.0 || number.is_zero())).then(|| text.to_owned())
        }
        "timestamp" => as_time(value, format, false),
        "uuid" => match value {
            Value::Text(text) if is_uuid(text) => Some(text.clone().into_owned()),
            _ => None,
        },
        _ => {
            let (precision, scale) = name.strip_prefix("numeric(")?.strip_suffix(')')?.split_once(',')?;
            let (number, text) = number(value)?;
            number.fits(precision.parse().ok()?, scale.parse().ok()?).then(|| text.to_owned())
        }
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}
