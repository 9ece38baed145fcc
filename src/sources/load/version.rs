//! Which of two versions of a record is the newer one. Pure.

use std::cmp::Ordering;

use crate::sources::columns::Number;
use crate::sources::http::incremental::moment;
use crate::sources::spec::Format;

/// Whether version `a` is newer than `b`: numbers by their value, times by their instant, everything else by its text. Of
/// two of different kinds neither is: nothing says so, and the later one to come stays.
pub fn is_newer(a: &str, b: &str) -> bool {
    match (kind(a), kind(b)) {
        (Kind::Number(a), Kind::Number(b)) => a.value_cmp(&b) == Ordering::Greater,
        (Kind::Instant(a), Kind::Instant(b)) => a > b,
        (Kind::Text, Kind::Text) => a > b,
        _ => false,
    }
}

enum Kind<'a> {
    Number(Number<'a>),
    /// Nanoseconds since 1970.
    Instant(i128),
    Text,
}

fn kind(version: &str) -> Kind<'_> {
    if let Some(number) = Number::parse(version) {
        return Kind::Number(number);
    }
    moment(version, Format::Iso).map_or(Kind::Text, Kind::Instant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_what_they_are() {
        for (newer, older) in [
            ("10", "9"),
            ("10.5", "9.75"),
            ("1.10", "1.09"),
            ("1700000000.5", "1700000000.25"),
            ("0.1", "-7"),
            ("-1", "-1.5"),
            ("1e3", "999.99"),
            ("340282366920938463463374607431768211456.5", "340282366920938463463374607431768211456"),
            ("2026-01-31T12:00:00Z", "2026-01-31T12:30:00+01:00"),
            ("2026-01-31T12:00:00.5Z", "2026-01-31T12:00:00Z"),
            ("2026-01-31T12:00:00.10Z", "2026-01-31T12:00:00.09Z"),
            ("2026-02-01T00:30:00+0100", "2026-01-31T23:00:00Z"),
            ("b", "a"),
            ("2026-02-01", "2026-01-31"),
        ] {
            assert!(is_newer(newer, older) && !is_newer(older, newer), "{newer} and {older}");
        }
        for (one, other) in [
            ("1", "1.0"),
            ("100", "1e2"),
            ("0", "-0.0"),
            ("2026-01-31T12:00:00Z", "2026-01-31T13:00:00.000+01:00"),
            ("v1", "v1"),
            ("7", "2026-01-31T12:00:00Z"),
            ("7", "v6"),
            ("2026-01-31", "2026-01-31T12:00:00Z"),
        ] {
            assert!(!is_newer(one, other) && !is_newer(other, one), "{one} and {other}");
        }
    }
}
