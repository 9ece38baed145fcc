//! The high-water mark: from where a run reads, and how far the next one may trust what this one saw.
//!
//! The mark comes from the data. It is compared inclusively and with a lookback, so that rows which became visible
//! late, or share the mark's own moment, are read again rather than missed.

use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, NaiveDate, NaiveTime};
use serde_json::value::RawValue;

use super::body::lookup;
use crate::sources::spec::{Format, Incremental, Order};

/// A value of the cursor that can be compared: nanoseconds since 1970, or a whole number.
pub type Moment = i128;

const SECOND: i128 = 1_000_000_000;

/// `None` where the text isn't what the format says.
pub fn moment(text: &str, format: Format) -> Option<Moment> {
    let text = text.trim();
    match format {
        Format::EpochS => decimal(text, SECOND),
        Format::EpochMs => decimal(text, 1_000_000),
        Format::Integer => text.parse().ok(),
        Format::Iso => {
            let time = DateTime::parse_from_rfc3339(text)
                .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z"))
                .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z"))
                .ok()?;
            Some(i128::from(time.timestamp()) * SECOND + i128::from(time.timestamp_subsec_nanos()))
        }
        Format::Date => {
            let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
            Some(i128::from(date.and_time(NaiveTime::MIN).and_utc().timestamp()) * SECOND)
        }
    }
}

/// As the API writes it, rounded down: reading too much is safe.
pub fn written(moment: Moment, format: Format) -> Option<String> {
    let seconds = i64::try_from(moment.div_euclid(SECOND)).ok()?;
    Some(match format {
        Format::EpochS => seconds.to_string(),
        Format::EpochMs => moment.div_euclid(1_000_000).to_string(),
        Format::Integer => moment.to_string(),
        Format::Iso => DateTime::from_timestamp(seconds, 0)?.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Format::Date => DateTime::from_timestamp(seconds, 0)?.format("%Y-%m-%d").to_string(),
    })
}

/// The same with all its digits, where the value itself is meant and not a bound.
pub fn exactly(moment: Moment, format: Format) -> Option<String> {
    match format {
        Format::Iso => {
            let seconds = i64::try_from(moment.div_euclid(SECOND)).ok()?;
            let nanoseconds = u32::try_from(moment.rem_euclid(SECOND)).ok()?;
            Some(DateTime::from_timestamp(seconds, nanoseconds)?.format("%Y-%m-%dT%H:%M:%S%.fZ").to_string())
        }
        other => written(moment, other),
    }
}

/// How bounds are written.
pub fn bound_format(rule: &Incremental) -> Format {
    rule.bound_format.unwrap_or(rule.format)
}

/// A decimal number times `unit`, without a float.
fn decimal(text: &str, unit: i128) -> Option<Moment> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || whole.len() > 18 || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut value = whole.parse::<i128>().ok()? * unit;
    let mut place = unit;
    for digit in fraction.bytes() {
        place /= 10;
        value += i128::from(digit - b'0') * place;
    }
    Some(sign * value)
}

/// One scan of an incremental stream.
pub struct Marking<'a> {
    rule: &'a Incremental,
    /// The lower bound of the first run.
    first: Option<Moment>,
    /// The lower bound, inclusive.
    from: Option<Moment>,
    /// The greatest value seen in this scan.
    greatest: Option<Moment>,
    /// The mark before this scan.
    mark: Option<Moment>,
    /// The mark gets no later than this. For a listing that isn't oldest first it is the scan's beginning, since a row
    /// that was read early may have changed while later ones were; else it is now, so that a record from the future
    /// hides nothing that happens until then.
    clock: Option<Moment>,
    /// Whether the listing has been as ascending as it says.
    ascending: bool,
    /// Whether everything on the page so far is older than the bound.
    page_is_old: bool,
    page_has_records: bool,
}

impl<'a> Marking<'a> {
    /// `mark` as stored; a full scan has no lower bound but that of the spec.
    pub fn new(rule: &'a Incremental, mark: Option<&str>, full: bool) -> Self {
        let mark = stored(mark);
        let lookback = match rule.format {
            Format::Integer => 0,
            _ => i128::from(rule.lookback_s) * SECOND,
        };
        let initial = rule.initial.as_deref().and_then(|text| moment(text, bound_format(rule)));
        let from = if full { initial } else { mark.map(|mark| mark - lookback).or(initial) };
        Marking {
            rule,
            first: initial,
            from,
            greatest: None,
            mark,
            clock: None,
            ascending: true,
            page_is_old: true,
            page_has_records: false,
        }
    }

    /// Goes on with a scan: its bound, what it saw, and its clock stay what they were.
    pub fn resume(&mut self, from: Option<&str>, greatest: Option<&str>, clock: Option<&str>) {
        self.from = stored(from);
        self.greatest = stored(greatest);
        self.clock = stored(clock);
    }

    /// The lower bound as the API writes it. The very first one is taken as the spec writes it.
    pub fn start(&self) -> Option<String> {
        match self.from {
            Some(from) if Some(from) != self.first => written(from, bound_format(self.rule)),
            _ => self.rule.initial.clone(),
        }
    }

    /// For the bound at the other end: now, by the server's clock or ours.
    pub fn end(&self, now: SystemTime) -> Option<String> {
        match self.rule.format {
            Format::Integer => None,
            // Rounded up: nothing that exists is left out.
            _ => written(nanoseconds(now)? + SECOND, bound_format(self.rule)),
        }
    }

    /// A page begins, at this time of the server's clock.
    pub fn page(&mut self, now: SystemTime) {
        if self.rule.format != Format::Integer && (self.clock.is_none() || self.rule.order == Order::Asc) {
            self.clock = nanoseconds(now);
        }
        self.page_is_old = true;
        self.page_has_records = false;
    }

    /// Takes notice of a record. One without a value, or with one that can't be read, moves nothing.
    pub fn see(&mut self, record: &RawValue) {
        self.page_has_records = true;
        let value = lookup(record, self.rule.cursor.tokens()).ok().flatten();
        let text = value.as_deref().and_then(|value| match value.get().as_bytes() {
            [b'"', ..] => serde_json::from_str::<String>(value.get()).ok(),
            [b'-' | b'0'..=b'9', ..] => Some(value.get().to_owned()),
            _ => None,
        });
        let Some(moment) = text.and_then(|text| moment(&text, self.rule.format)) else {
            // Nothing is known about its place in the order.
            self.page_is_old = false;
            self.ascending = false;
            return;
        };
        if self.from.is_none_or(|from| moment >= from) {
            self.page_is_old = false;
        }
        if self.greatest.is_some_and(|greatest| moment < greatest) {
            self.ascending = false;
        }
        self.greatest = self.greatest.max(Some(moment));
    }

    /// A newest-first listing that the API can't filter has ended for us where a whole page is older than the bound.
    pub fn has_read_enough(&self) -> bool {
        self.rule.order == Order::Desc && self.from.is_some() && self.page_has_records && self.page_is_old
    }

    /// The mark that may be stored now, in the middle of a scan: it moves only where the listing is oldest first, and
    /// has kept to it so far.
    pub fn mark_so_far(&self) -> Option<String> {
        let may_move = self.rule.order == Order::Asc && self.ascending;
        if may_move {
            self.mark_at_end()
        } else {
            self.mark.map(|mark| mark.to_string())
        }
    }

    /// The mark once the scan is complete.
    pub fn mark_at_end(&self) -> Option<String> {
        let greatest = match (self.greatest, self.clock) {
            (Some(greatest), Some(clock)) => Some(greatest.min(clock)),
            (greatest, _) => greatest,
        };
        greatest.max(self.mark).map(|mark| mark.to_string())
    }

    /// Bound, greatest value and clock, to be stored with a scan.
    pub fn parts(&self) -> [Option<String>; 3] {
        [self.from, self.greatest, self.clock].map(|moment| moment.map(|moment| moment.to_string()))
    }
}

fn stored(text: Option<&str>) -> Option<Moment> {
    text?.parse().ok()
}

fn nanoseconds(time: SystemTime) -> Option<Moment> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    i128::try_from(since.as_nanos()).ok()
}

/// A stored mark, for people: as the API writes it.
pub fn readable(mark: &str, format: Format) -> Option<String> {
    written(mark.parse().ok()?, format)
}

#[cfg(test)]
mod tests;
