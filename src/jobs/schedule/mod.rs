//! When a job runs. Pure: no server and no clock, every time comes in as an argument.
//!
//! The crate `croner` reads cron fields and searches the calendar. It searches on the wall clock, without a zone;
//! [`zone`] puts what it finds on the time line. That keeps one rule for daylight saving time, that of Vixie cron:
//!
//! - **Fixed times**, such as `30 2 * * *`: a time that the clock jumps over runs once, at the jump; one that the clock
//!   shows twice runs once, the first time.
//! - **With a wildcard or a step in the hour or the minute**, such as `*/15 * * * *` or `0 * * * *`: runs follow elapsed
//!   time. Whatever the clock shows counts, each time that it shows it, and what it jumps over is not made up for.
//!
//! Days combine as in Vixie cron and pg_cron: with day of month and day of week both restricted, either is enough; where
//! one of them begins with `*`, both must match. croner's `+` before the day of week (`0 0 29 2 +MON`) asks for both.

mod fields;
mod interval;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod walk;
mod zone;

use crate::error::{sqlstate, Error, Result};
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;

/// When a job runs: cron fields in a time zone, or an interval.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub(super) kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Every so many seconds.
    Interval(i64),
    Calendar(Box<Calendar>),
}

/// Cron fields in a time zone.
#[derive(Debug, Clone)]
pub(super) struct Calendar {
    pub cron: Cron,
    pub fields: fields::Fields,
    pub zone: Tz,
    /// Whether runs follow elapsed time, see the module.
    elapsed: bool,
}

/// Years that croner searches.
const YEARS: std::ops::Range<i32> = 1..5000;

impl Schedule {
    /// `text`: cron in five fields, or in six with the seconds first (ranges, steps, lists, names, `L`, `W`, `#`, and
    /// pg_cron's `$` for the last day of the month); a nickname such as `@daily`; or an interval such as `15 minutes`.
    pub fn parse(text: &str, zone: &str) -> Result<Schedule> {
        let zone = zone::named(zone)?;
        if interval::looks_like_one(text) {
            return Ok(Schedule { kind: Kind::Interval(interval::seconds(text)?) });
        }
        let (fields, cron) = fields::parse(text)?;
        let calendar = Calendar { elapsed: fields.follow_elapsed_time(&cron), cron, fields, zone };
        let start = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap_or_default().into();
        if calendar.next_local(start, true).is_none() {
            return Err(calendar.fields.never_come(text));
        }
        Ok(Schedule { kind: Kind::Calendar(Box::new(calendar)) })
    }

    /// The first due time after `after`. An interval counts from `anchor`: its due times are `anchor` and whole
    /// intervals from there. None: never again.
    pub fn next_after(&self, after: DateTime<Utc>, anchor: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.kind {
            Kind::Interval(seconds) => interval::at(anchor, *seconds, interval::count(after, anchor, *seconds) + 1),
            Kind::Calendar(calendar) => calendar.next_after(after),
        }
    }

    /// The last due time at or before `at` and after `since`: the run that was missed while the server was down. Costs
    /// the same however long that was.
    pub fn last_due(&self, since: DateTime<Utc>, at: DateTime<Utc>, anchor: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let due = match &self.kind {
            Kind::Interval(seconds) => interval::at(anchor, *seconds, interval::count(at, anchor, *seconds)),
            Kind::Calendar(calendar) => calendar.last_at(at),
        };
        due.filter(|due| *due > since)
    }

    /// What the clock of the schedule's zone shows at an instant; that of UTC for an interval.
    pub fn local(&self, at: DateTime<Utc>) -> NaiveDateTime {
        match &self.kind {
            Kind::Interval(_) => at.naive_utc(),
            Kind::Calendar(calendar) => zone::local(calendar.zone, at),
        }
    }

    /// The schedule in English: "every 15 minutes", "at 03:30 on weekdays, Europe/Berlin".
    pub fn words(&self) -> String {
        match &self.kind {
            Kind::Interval(seconds) => super::words::interval(*seconds),
            Kind::Calendar(calendar) => super::words::calendar(calendar),
        }
    }
}

impl Calendar {
    fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if !YEARS.contains(&after.year()) {
            return None;
        }
        let shown = zone::local(self.zone, after);
        let fold = zone::fold(self.zone, shown);
        let Some(fold) = fold else {
            return self.place_next(self.next_local(shown, false)?, after);
        };
        // The wall clock shows this hour twice.
        match (self.elapsed, after < fold.back) {
            (_, true) => {
                let next = self.next_local(shown, false)?;
                if next < fold.end || !self.elapsed {
                    return self.place_next(next, after);
                }
                // Nothing more in the first pass; the second begins where the first did.
                self.place_next(self.next_local(fold.start, true)?, fold.back - TimeDelta::seconds(1))
            }
            (true, false) => self.place_next(self.next_local(shown, false)?, after),
            // Fixed times ran in the first pass.
            (false, false) => self.place_next(self.next_local(fold.end, true)?, after),
        }
    }

    /// The instant after `after` at which the clock shows `local`, or something later that is due.
    fn place_next(&self, mut local: NaiveDateTime, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        loop {
            match zone::instants(self.zone, local) {
                zone::Shown::Once(at) => return Some(at),
                zone::Shown::Twice(first, second) => return Some(if first > after { first } else { second }),
                zone::Shown::Never(jump) if !self.elapsed => return Some(jump),
                zone::Shown::Never(jump) => local = self.next_local(zone::local(self.zone, jump), true)?,
            }
        }
    }

    fn last_at(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if !YEARS.contains(&at.year()) {
            return None;
        }
        let shown = zone::local(self.zone, at);
        match zone::fold(self.zone, shown).filter(|fold| at >= fold.back) {
            None => self.place_last(self.last_local(shown, true)?, at),
            // Fixed times of the whole first pass lie behind, also those that the clock has yet to show again.
            Some(fold) if !self.elapsed => self.place_last(self.last_local(fold.end, false)?, at),
            Some(fold) => {
                let last = self.last_local(shown, true)?;
                if last >= fold.start {
                    return self.place_last(last, at);
                }
                self.place_last(self.last_local(fold.end, false)?, fold.back - TimeDelta::seconds(1))
            }
        }
    }

    /// The last instant at or before `at` at which the clock shows `local`, or something earlier that is due.
    fn place_last(&self, mut local: NaiveDateTime, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        loop {
            match zone::instants(self.zone, local) {
                zone::Shown::Once(instant) => return Some(instant),
                zone::Shown::Twice(first, second) => {
                    return Some(if second > at || !self.elapsed { first } else { second })
                }
                zone::Shown::Never(jump) if !self.elapsed => return Some(jump),
                zone::Shown::Never(jump) => {
                    local = self.last_local(zone::local(self.zone, jump - TimeDelta::seconds(1)), true)?;
                }
            }
        }
    }

    /// The next time on the wall clock, or none up to the year 5000.
    fn next_local(&self, from: NaiveDateTime, inclusive: bool) -> Option<NaiveDateTime> {
        self.cron.find_next_occurrence(&from, inclusive).ok()
    }

    fn last_local(&self, from: NaiveDateTime, inclusive: bool) -> Option<NaiveDateTime> {
        self.cron.find_previous_occurrence(&from, inclusive).ok()
    }
}

/// What is wrong with a schedule, in one style.
fn invalid(text: &str, detail: String) -> Error {
    Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("invalid schedule \"{text}\"")).detail(detail)
}
