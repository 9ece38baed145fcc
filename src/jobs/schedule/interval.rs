//! Intervals: '30 seconds', '15 minutes', '1 hour 30 minutes'.

use super::invalid;
use crate::error::Result;
use chrono::{DateTime, TimeDelta, Utc};

const UNITS: [(&str, &[&str], i64); 5] = [
    ("second", &["s", "sec", "secs", "second", "seconds"], 1),
    ("minute", &["m", "min", "mins", "minute", "minutes"], 60),
    ("hour", &["h", "hr", "hrs", "hour", "hours"], 3600),
    ("day", &["d", "day", "days"], 86_400),
    ("week", &["w", "week", "weeks"], 604_800),
];
/// Units whose length the calendar decides.
const CALENDAR_UNITS: [&str; 10] = ["mon", "mons", "month", "months", "y", "yr", "yrs", "year", "years", "quarter"];

const LONGEST_DAYS: i64 = 36_525;
const FORM: &str = "Write numbers with units, such as '30 seconds', '15 minutes', '1 hour 30 minutes' or '1 day'.";

/// Whether a text begins with a number and a word, which no cron fields do.
pub fn looks_like_one(text: &str) -> bool {
    if text.contains('*') {
        return false;
    }
    let text = text.trim_start().trim_start_matches(['+', '-']);
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    rest.len() < text.len() && rest.trim_start().starts_with(|c: char| c.is_alphabetic())
}

/// The length of an interval.
pub fn seconds(text: &str) -> Result<i64> {
    let mut total: i64 = 0;
    let mut rest = text;
    let too_long = || {
        invalid(text, "The interval is longer than 100 years.".into())
            .hint("Write a shorter interval, or cron fields such as '0 0 1 1 *' for once a year.")
    };
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            break;
        }
        // Where a number or a unit stands, counted in characters from 1.
        let position = |part: &str| text[..text.len() - part.len()].chars().count() + 1;
        let signed = rest;
        let sign_length = signed.len() - signed.trim_start_matches(['+', '-']).len();
        let digits =
            signed[sign_length..].find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len() - sign_length);
        let number = &signed[..sign_length + digits];
        if digits == 0 {
            let word = rest.split_whitespace().next().unwrap_or(rest);
            return Err(invalid(
                text,
                format!("A number is expected at character {}, not \"{word}\".", position(rest)),
            )
            .hint(FORM));
        }
        let after_number = &rest[number.len()..];
        let word_at = after_number.trim_start();
        let length = word_at.find(|c: char| !c.is_alphabetic()).unwrap_or(word_at.len());
        let word = &word_at[..length];
        let unit = word.to_lowercase();
        if CALENDAR_UNITS.contains(&unit.as_str()) {
            return Err(invalid(text, format!("\"{word}\" at character {} has no fixed length.", position(word_at)))
                .hint("Use cron fields: '0 0 1 * *' for the first of each month, '0 0 1 1 *' for once a year."));
        }
        let Some((_, _, size)) = UNITS.iter().find(|(_, spellings, _)| spellings.contains(&unit.as_str())) else {
            let what = if word.is_empty() {
                format!("The unit of \"{number}\" is missing at character {}.", position(word_at))
            } else {
                format!("\"{word}\" at character {} is not a unit of time.", position(word_at))
            };
            return Err(invalid(text, what).hint("Units are seconds, minutes, hours, days and weeks."));
        };
        if number.contains('.') {
            let what = format!("\"{number}\" at character {} is not a whole number.", position(rest));
            return Err(invalid(text, what).hint("Use a smaller unit, such as '90 minutes' for one and a half hours."));
        }
        if number.starts_with('-') {
            let what = format!("\"{number}\" at character {} is negative.", position(rest));
            return Err(invalid(text, what).hint("An interval is one second or longer."));
        }
        let count: i64 = number.trim_start_matches('+').parse().map_err(|_| too_long())?;
        total = count.checked_mul(*size).and_then(|more| total.checked_add(more)).ok_or_else(too_long)?;
        rest = &word_at[length..];
    }
    match total {
        0 => Err(invalid(text, "The interval is zero.".into()).hint("An interval is one second or longer.")),
        _ if total > LONGEST_DAYS * 86_400 => Err(too_long()),
        _ => Ok(total),
    }
}

/// How many whole intervals lie between `anchor` and `at`; negative before it.
pub fn count(at: DateTime<Utc>, anchor: DateTime<Utc>, seconds: i64) -> i64 {
    let passed = at.signed_duration_since(anchor);
    let whole = passed.num_seconds();
    let floor = if passed < TimeDelta::seconds(whole) { whole - 1 } else { whole };
    floor.div_euclid(seconds)
}

pub fn at(anchor: DateTime<Utc>, seconds: i64, count: i64) -> Option<DateTime<Utc>> {
    anchor.checked_add_signed(TimeDelta::try_seconds(seconds.checked_mul(count)?)?)
}
