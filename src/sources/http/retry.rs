//! When to ask again, as a pure decision: what the API said, else exponential back-off with jitter, and never beyond
//! the run's own time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::NaiveDateTime;

use crate::sources::spec::{Reset, ResetUnit, Retry};

/// An API that says "in a year" must not put a stream to sleep for one.
const LONGEST_PROMISE: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// In this run, after so long.
    Wait(Duration),
    /// Not before then: longer than this run may wait.
    NotBefore(SystemTime),
    /// All tries are used up, or the API says that asking again is useless.
    GiveUp,
}

/// What an answer says about asking again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    pub wait: Option<Duration>,
    /// The API's own word on whether it helps to ask again.
    pub helps: Option<bool>,
}

/// Reads the headers that the spec names. Times are compared with the server's own clock where it tells it.
pub fn told<'a>(retry: &Retry, header: impl Fn(&str) -> Option<&'a str>, now: SystemTime) -> Told {
    let servers_now = header("Date").and_then(http_date).unwrap_or(now);
    let until = |at: SystemTime| at.duration_since(servers_now).unwrap_or_default();
    let after = header(&retry.retry_after).and_then(|value| {
        let value = value.trim();
        seconds(value).or_else(|| http_date(value).map(until))
    });
    let reset = retry.reset.as_ref().and_then(|Reset { header: name, unit }| {
        let value = seconds(header(name)?.trim())?;
        Some(match unit {
            ResetUnit::EpochS => UNIX_EPOCH.checked_add(value).map_or(LONGEST_PROMISE, until),
            ResetUnit::EpochMs => UNIX_EPOCH.checked_add(value / 1000).map_or(LONGEST_PROMISE, until),
            ResetUnit::Seconds => value,
            ResetUnit::Ms => value / 1000,
        })
    });
    let helps = retry.should_retry.as_deref().and_then(&header).and_then(|value| match value.trim() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    });
    Told { wait: after.or(reset).map(|wait| wait.min(LONGEST_PROMISE)), helps }
}

/// `tries` were made, `left` is what the run still has, `dice` is a random number from 0 to 1.
pub fn decide(retry: &Retry, tries: u32, told: Told, left: Duration, now: SystemTime, dice: f64) -> Decision {
    if told.helps == Some(false) || tries > retry.max {
        // What the API promised still holds for the next run.
        return match told.wait {
            Some(wait) if told.helps != Some(false) && !wait.is_zero() => Decision::NotBefore(now + wait),
            _ => Decision::GiveUp,
        };
    }
    let doubled = 1u64.checked_shl(tries.saturating_sub(1)).unwrap_or(u64::MAX);
    let backoff = retry.base_ms.saturating_mul(doubled).min(retry.max_ms);
    let backoff = Duration::from_millis(backoff).mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0);
    let wait = match told.wait {
        // A little later than told, so that not all who were told the same come back at the same moment.
        Some(wait) => wait + backoff.min(Duration::from_secs(1)).mul_f64(dice.clamp(0.0, 1.0) / 2.0),
        None => backoff,
    };
    if wait >= left {
        Decision::NotBefore(now + wait)
    } else {
        Decision::Wait(wait)
    }
}

/// Digits with or without a fraction.
fn seconds(value: &str) -> Option<Duration> {
    let plain =
        value.bytes().all(|b| b.is_ascii_digit() || b == b'.') && value.starts_with(|c: char| c.is_ascii_digit());
    let number: f64 = if plain { value.parse().ok()? } else { return None };
    Some(Duration::try_from_secs_f64(number).unwrap_or(Duration::MAX))
}

/// RFC 9110, section 5.6.7: the form in use and the two that must still be understood.
pub fn http_date(value: &str) -> Option<SystemTime> {
    let value = value.trim();
    let time = ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"]
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(value, form).ok())?;
    let seconds = u64::try_from(time.and_utc().timestamp()).ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_784_541_600; // Mon, 20 Jul 2026 10:00:00 GMT

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn wait(retry: &Retry, headers: &[(&str, &str)]) -> Option<f64> {
        let header = |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| *v);
        told(retry, header, now()).wait.map(|w| w.as_secs_f64())
    }

    fn with_reset(unit: ResetUnit) -> Retry {
        Retry { reset: Some(Reset { header: "X-Reset".into(), unit }), ..Retry::default() }
    }

    #[test]
    fn retry_after_is_understood_in_seconds_and_in_all_three_forms_of_a_date() {
        let retry = Retry::default();
        for (value, expected) in [
            ("7", Some(7.0)),
            (" 0 ", Some(0.0)),
            ("1.5", Some(1.5)),
            ("Mon, 20 Jul 2026 10:00:30 GMT", Some(30.0)),
            ("Monday, 20-Jul-26 10:00:30 GMT", Some(30.0)),
            ("Mon Jul 20 10:00:30 2026", Some(30.0)),
            // In the past: at once.
            ("Mon, 20 Jul 2026 09:00:00 GMT", Some(0.0)),
            ("99999999999999999999999999", Some(86400.0)),
            ("-5", None),
            ("soon", None),
            ("", None),
            ("NaN", None),
            ("inf", None),
        ] {
            assert_eq!(wait(&retry, &[("retry-after", value)]), expected, "{value}");
        }
        assert_eq!(wait(&retry, &[]), None);
    }

    #[test]
    fn a_date_is_read_by_the_clock_of_the_server() {
        let headers = [("Date", "Mon, 20 Jul 2026 12:00:00 GMT"), ("Retry-After", "Mon, 20 Jul 2026 12:00:05 GMT")];
        assert_eq!(wait(&Retry::default(), &headers), Some(5.0));
    }

    #[test]
    fn reset_headers_are_understood_in_each_unit_and_retry_after_comes_first() {
        for (unit, value) in [
            (ResetUnit::EpochS, (NOW + 12).to_string()),
            (ResetUnit::EpochMs, ((NOW + 12) * 1000).to_string()),
            (ResetUnit::Seconds, "12".into()),
            (ResetUnit::Ms, "12000".into()),
        ] {
            assert_eq!(wait(&with_reset(unit), &[("X-Reset", &value)]), Some(12.0), "{unit:?}");
            assert_eq!(wait(&with_reset(unit), &[("X-Reset", &value), ("Retry-After", "3")]), Some(3.0));
            assert_eq!(wait(&with_reset(unit), &[("X-Reset", "tomorrow")]), None);
        }
        assert_eq!(wait(&with_reset(ResetUnit::EpochS), &[("X-Reset", "1")]), Some(0.0));
        assert_eq!(wait(&with_reset(ResetUnit::EpochS), &[("X-Reset", "18446744073709551615")]), Some(86400.0));
    }

    fn at(tries: u32, told: Told, dice: f64) -> Decision {
        let retry = Retry { max: 6, base_ms: 500, max_ms: 60_000, ..Retry::default() };
        decide(&retry, tries, told, Duration::from_secs(3600), now(), dice)
    }

    #[test]
    fn back_off_doubles_up_to_its_bound_with_half_of_it_left_to_chance() {
        for (tries, longest) in [(1, 500), (2, 1000), (3, 2000), (4, 4000), (6, 16_000)] {
            assert_eq!(at(tries, Told::default(), 1.0), Decision::Wait(Duration::from_millis(longest)));
            assert_eq!(at(tries, Told::default(), 0.0), Decision::Wait(Duration::from_millis(longest / 2)));
        }
        let patient = Retry { max: 1000, ..Retry::default() };
        for tries in [8, 63, 64, 65, 900] {
            let decision = decide(&patient, tries, Told::default(), Duration::from_secs(3600), now(), 1.0);
            assert_eq!(decision, Decision::Wait(Duration::from_secs(60)), "{tries}");
        }
    }

    #[test]
    fn what_the_api_told_is_never_undercut() {
        for dice in [0.0, 0.3, 1.0] {
            let told = Told { wait: Some(Duration::from_secs(7)), helps: None };
            let Decision::Wait(wait) = at(1, told, dice) else { panic!() };
            assert!((7.0..=8.0).contains(&wait.as_secs_f64()), "{wait:?}");
        }
    }

    #[test]
    fn a_wait_beyond_the_run_is_left_to_the_next_one() {
        let told = Told { wait: Some(Duration::from_secs(3600)), helps: None };
        assert_eq!(at(1, told, 0.0), Decision::NotBefore(now() + Duration::from_secs(3600)));
        let short = decide(&Retry::default(), 1, Told::default(), Duration::from_millis(100), now(), 1.0);
        assert!(matches!(short, Decision::NotBefore(_)));
    }

    #[test]
    fn tries_end_and_so_does_hope_where_the_api_says_so() {
        assert!(matches!(at(6, Told::default(), 0.5), Decision::Wait(_)));
        assert_eq!(at(7, Told::default(), 0.5), Decision::GiveUp);
        assert_eq!(at(1, Told { wait: None, helps: Some(false) }, 0.5), Decision::GiveUp);
        let told = Told { wait: Some(Duration::from_secs(9)), helps: None };
        assert_eq!(at(7, told, 0.5), Decision::NotBefore(now() + Duration::from_secs(9)));
    }

    #[test]
    fn the_api_may_say_whether_asking_again_helps() {
        let retry = Retry { should_retry: Some("Stripe-Should-Retry".into()), ..Retry::default() };
        for (value, expected) in [("true", Some(true)), ("false", Some(false)), ("perhaps", None)] {
            assert_eq!(told(&retry, |name| (name == "Stripe-Should-Retry").then_some(value), now()).helps, expected);
        }
    }
}
