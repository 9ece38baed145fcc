//! Time zones: their names, and the wall clock against the time line.
//!
//! The zones are compiled in, with their changes up to the year 2100; after that a place keeps its last offset.

use crate::error::{sqlstate, Error, Result};
use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::{Tz, TZ_VARIANTS};

/// The zone of that name, in any case, as the server takes it.
pub fn named(name: &str) -> Result<Tz> {
    let wanted = name.trim();
    TZ_VARIANTS.iter().copied().find(|zone| zone.name().eq_ignore_ascii_case(wanted)).ok_or_else(|| {
        let error = Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("unknown time zone \"{name}\""))
            .detail("Time zones are those of the IANA database.");
        let nearest = nearest(wanted);
        if nearest.is_empty() {
            error.hint("Name a place such as \"Europe/Berlin\", or \"UTC\".")
        } else {
            error.hint(format!("Perhaps you mean {}.", nearest.join(" or ")))
        }
    })
}

/// Up to three names that differ from `wanted` by a slip, as a whole or in their last part.
fn nearest(wanted: &str) -> Vec<String> {
    let wanted = wanted.to_ascii_lowercase().replace(' ', "_");
    let wanted_place = wanted.rsplit('/').next().unwrap_or(&wanted);
    let mut near: Vec<(u32, &str)> = TZ_VARIANTS
        .iter()
        .filter_map(|zone| {
            let name = zone.name().to_ascii_lowercase();
            let place = name.rsplit('/').next().unwrap_or(&name);
            // A right place under a wrong region is near, but not so near as a slip in both.
            let whole = strsim::normalized_damerau_levenshtein(&name, &wanted);
            let part = strsim::normalized_damerau_levenshtein(place, wanted_place) * 0.95;
            let likeness = (whole.max(part) * 1000.0) as u32;
            (likeness >= 750).then_some((likeness, zone.name()))
        })
        .collect();
    near.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    let best = near.first().map_or(0, |(likeness, _)| *likeness);
    near.iter()
        .take_while(|(likeness, _)| likeness + 60 >= best)
        .take(3)
        .map(|(_, name)| format!("\"{name}\""))
        .collect()
}

/// What the wall clock shows at an instant.
pub fn local(zone: Tz, at: DateTime<Utc>) -> NaiveDateTime {
    at.with_timezone(&zone).naive_local()
}

/// When the wall clock shows a time.
pub enum Shown {
    Once(DateTime<Utc>),
    Twice(DateTime<Utc>, DateTime<Utc>),
    /// Never: at this instant it jumps over it.
    Never(DateTime<Utc>),
}

pub fn instants(zone: Tz, local: NaiveDateTime) -> Shown {
    match zone.from_local_datetime(&local) {
        LocalResult::Single(at) => Shown::Once(at.to_utc()),
        LocalResult::Ambiguous(first, second) => Shown::Twice(first.to_utc(), second.to_utc()),
        LocalResult::None => Shown::Never(jump_over(zone, local)),
    }
}

/// An hour that the wall clock shows twice, `start` to `end` without `end`; at `back` it goes from `end` to `start`.
pub struct Fold {
    pub start: NaiveDateTime,
    pub end: NaiveDateTime,
    pub back: DateTime<Utc>,
}

/// The repeated hour that holds `shown`, if one does.
pub fn fold(zone: Tz, shown: NaiveDateTime) -> Option<Fold> {
    let Shown::Twice(first, second) = instants(zone, shown) else { return None };
    let offset = |at: DateTime<Utc>| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    let after = offset(second);
    let back = first_instant(first, second, |at| offset(at) == after);
    let start = local(zone, back);
    Some(Fold { start, end: start + (second - first), back })
}

/// The instant at which the wall clock jumps over `missing`.
fn jump_over(zone: Tz, missing: NaiveDateTime) -> DateTime<Utc> {
    // No place is 16 hours from UTC, so one bound shows less than `missing`, the other more.
    let reach = TimeDelta::hours(16);
    let utc = missing.and_utc();
    first_instant(utc - reach, utc + reach, |at| local(zone, at) > missing)
}

/// The first whole second in `(no, yes]` at which `holds`, given that it changes once there.
fn first_instant(no: DateTime<Utc>, yes: DateTime<Utc>, holds: impl Fn(DateTime<Utc>) -> bool) -> DateTime<Utc> {
    let (mut no, mut yes) = (no.timestamp(), yes.timestamp());
    let instant = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    while yes - no > 1 {
        let middle = no + (yes - no) / 2;
        if holds(instant(middle)) {
            yes = middle;
        } else {
            no = middle;
        }
    }
    instant(yes)
}
