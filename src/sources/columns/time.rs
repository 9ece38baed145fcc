//! Times: strict ISO 8601, and seconds or milliseconds since 1970.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike};

use super::number::Number;
use crate::sources::spec::Format;

/// A time as it is written: `2026-01-31T12:00:00.5+01:00`.
pub struct Written {
    date: NaiveDate,
    /// Microseconds since midnight; a leap second and 24:00 reach into what follows, as Postgres has it.
    micros: i64,
    /// Seconds east of Greenwich.
    zone: Option<i64>,
    leap_second: bool,
}

/// `YYYY-MM-DD`, a `T`, `HH:MM:SS`, up to nine digits of a fraction, and `Z`, `+HH:MM` or `+HHMM`. A leap second and
/// 24:00:00 are right where ISO 8601 has them.
pub fn parse(text: &str) -> Option<Written> {
    let date = parse_date(text.get(..10)?)?;
    let rest = text.get(10..)?.strip_prefix('T')?;
    let (clock, rest) = (rest.get(..8)?.as_bytes(), rest.get(8..)?);
    if clock[2] != b':' || clock[5] != b':' {
        return None;
    }
    let (hour, minute, second) = (two(&clock[0..2])?, two(&clock[3..5])?, two(&clock[6..8])?);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            if end == 0 || end > 9 {
                return None;
            }
            let nanos: i64 = format!("{:0<9}", &rest[..end]).parse().ok()?;
            (nanos / 1000, &rest[end..])
        }
        None => (0, rest),
    };
    let in_range = match (hour, minute, second) {
        (24, 0, 0) => fraction == 0,
        (0..=23, 59, 60) => true,
        (0..=23, 0..=59, 0..=59) => true,
        _ => false,
    };
    let micros = ((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction;
    in_range.then_some(Written { date, micros, zone: parse_zone(rest)?, leap_second: second == 60 })
}

/// None: neither a zone nor nothing. Some(None): nothing.
fn parse_zone(text: &str) -> Option<Option<i64>> {
    let bytes = text.as_bytes();
    let (sign, hours, minutes) = match *bytes {
        [] => return Some(None),
        [b'Z'] => return Some(Some(0)),
        [sign, a, b, b':', c, d] | [sign, a, b, c, d] => (sign, two(&[a, b])?, two(&[c, d])?),
        _ => return None,
    };
    let sign = match sign {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    // Postgres goes no further east or west.
    (hours <= 15 && minutes <= 59).then_some(Some(sign * (hours * 60 + minutes) * 60))
}

/// `YYYY-MM-DD`, years from 1 on.
pub fn parse_date(text: &str) -> Option<NaiveDate> {
    let b = text.as_bytes();
    if b.len() != 10 || b[4] != b'-' || b[7] != b'-' {
        return None;
    }
    let year = two(&b[0..2])? * 100 + two(&b[2..4])?;
    let (month, day) = (two(&b[5..7])?, two(&b[8..10])?);
    if year == 0 {
        return None;
    }
    NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, u32::try_from(month).ok()?, u32::try_from(day).ok()?)
}

fn two(digits: &[u8]) -> Option<i64> {
    match *digits {
        [a, b] if a.is_ascii_digit() && b.is_ascii_digit() => Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')),
        _ => None,
    }
}

impl Written {
    pub fn has_zone(&self) -> bool {
        self.zone.is_some()
    }

    pub fn is_leap_second(&self) -> bool {
        self.leap_second
    }

    /// Microseconds since 1970 in UTC; without a zone, as if in UTC.
    pub fn micros(&self) -> i64 {
        let midnight = self.date.and_time(NaiveTime::MIN).and_utc().timestamp();
        (midnight - self.zone.unwrap_or(0)) * 1_000_000 + self.micros
    }
}

/// The instant that a value of the cursor means, in microseconds since 1970, cut to them: a number or text as the API wrote it (without quotes). None for [`Format::Integer`], which has no time.
pub fn instant(text: &str, format: Format) -> Option<i64> {
    match format {
        Format::EpochS if text.len() <= 12 && text.bytes().all(|b| b.is_ascii_digit()) => {
            Some(text.parse::<i64>().ok()? * 1_000_000)
        }
        Format::EpochS => Number::parse(text)?.scaled(6),
        Format::EpochMs => Number::parse(text)?.scaled(3),
        Format::Iso => parse(text).filter(Written::has_zone).map(|written| written.micros()),
        Format::Date => Some(parse_date(text)?.and_time(NaiveTime::MIN).and_utc().timestamp_micros()),
        Format::Integer => None,
    }
}

/// For timestamptz, and as ISO 8601 has it: years 1 to 9999 only.
pub fn write_utc(micros: i64) -> Option<String> {
    let at: NaiveDateTime = DateTime::from_timestamp_micros(micros)?.naive_utc();
    if !(1..=9999).contains(&at.year()) {
        return None;
    }
    // Digit by digit: a format string is read again for each value.
    let year = at.year() as u32;
    let pairs = [year / 100, year % 100, at.month(), at.day(), at.hour(), at.minute(), at.second()];
    let mut text = String::with_capacity(28);
    for (pair, after) in pairs.into_iter().zip(["", "-", "-", "T", ":", ":", ""]) {
        text.extend([pair / 10, pair % 10].map(|digit| char::from(b'0' + digit as u8)));
        text.push_str(after);
    }
    let fraction = at.nanosecond() / 1000;
    if fraction > 0 {
        text.push('.');
        text.push_str(format!("{fraction:06}").trim_end_matches('0'));
    }
    text.push('Z');
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::generator::Generator;

    #[test]
    fn strict_times_are_taken_and_others_are_not() {
        for text in [
            "2026-01-31T12:00:00Z",
            "2026-01-31T12:00:00.1Z",
            "2026-01-31T12:00:00.123456789Z",
            "2024-02-29T00:00:00+00:00",
            "2026-01-31T12:00:00.000+0000",
            "2026-01-31T12:00:00-12:30",
            "2016-12-31T23:59:60Z",
            "2016-12-31T24:00:00Z",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
        ] {
            assert!(parse(text).is_some_and(|written| written.has_zone()), "{text}");
        }
        assert!(parse("2026-01-31T12:00:00").is_some_and(|written| !written.has_zone()));
        for text in [
            "",
            "2026-01-31",
            "2026-01-31 12:00:00Z",
            "2026-01-31t12:00:00Z",
            "2026-01-31T12:00Z",
            "2026-01-31T12:00:00z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00.1234567890Z",
            "2026-01-31T12:00:00 Z",
            "2026-01-31T12:00:00+1",
            "2026-01-31T12:00:00+16:00",
            "2026-01-31T12:00:00+01:60",
            "2026-02-30T12:00:00Z",
            "2023-02-29T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "2026-01-31T24:00:01Z",
            "2026-01-31T24:00:00.1Z",
            "2026-01-31T25:00:00Z",
            "2026-01-31T12:60:00Z",
            "2026-01-31T12:58:60Z",
            "2026-01-31T12:00:61Z",
            "2026-1-31T12:00:00Z",
            "+2026-01-31T12:00:00Z",
            "2026-01-31T1२:00:00Z",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (text, right) in [
            ("2024-02-29", true),
            ("2023-02-29", false),
            ("1900-02-29", false),
            ("2026-13-01", false),
            ("20260131", false),
        ] {
            assert_eq!(parse_date(text).is_some(), right, "{text}");
        }
    }

    #[test]
    fn instants_are_exact() {
        for (text, format, micros) in [
            ("1767225600", Format::EpochS, 1_767_225_600_000_000),
            ("1767225600.5", Format::EpochS, 1_767_225_600_500_000),
            ("1.7672256e9", Format::EpochS, 1_767_225_600_000_000),
            ("1767225600123", Format::EpochMs, 1_767_225_600_123_000),
            ("-1", Format::EpochS, -1_000_000),
            ("2026-01-01T01:00:00.25+01:00", Format::Iso, 1_767_225_600_250_000),
            ("2016-12-31T23:59:60Z", Format::Iso, 1_483_228_800_000_000),
            ("2016-12-31T24:00:00Z", Format::Iso, 1_483_228_800_000_000),
            ("2026-01-01", Format::Date, 1_767_225_600_000_000),
        ] {
            assert_eq!(instant(text, format), Some(micros), "{text}");
        }
        for (text, format) in [
            ("2026-01-01T00:00:00", Format::Iso),
            ("soon", Format::EpochS),
            ("1e30", Format::EpochS),
            ("12", Format::Integer),
        ] {
            assert_eq!(instant(text, format), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_as_the_same_instant() {
        let mut generator = Generator::new(7);
        for _ in 0..10_000 {
            // Years 1 to 9999.
            let micros = (generator.next() % 315_537_897_600_000_000) as i64 - 62_135_596_800_000_000;
            let text = write_utc(micros).unwrap();
            assert_eq!(instant(&text, Format::Iso), Some(micros), "{text}");
        }
    }
}
