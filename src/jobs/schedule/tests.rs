//! Due times that people would name. [`super::walk`] compares many more with a walk over the time line.

use super::zone::named;
use super::Schedule;
use chrono::{DateTime, TimeDelta, Utc};

fn utc(text: &str) -> DateTime<Utc> {
    format!("{}Z", text.replace(' ', "T")).parse().unwrap()
}

/// The next `n` due times on the wall clock, each with its distance from UTC.
fn next(text: &str, zone: &str, after: &str, n: usize) -> Vec<String> {
    let schedule = Schedule::parse(text, zone).unwrap();
    let zone = named(zone).unwrap();
    let mut at = utc(after);
    let mut due = Vec::new();
    while due.len() < n {
        let Some(next) = schedule.next_after(at, at) else { break };
        assert!(next > at, "{text}: {next} does not follow {at}");
        assert_eq!(schedule.last_due(at, next, at), Some(next), "{text}");
        assert_eq!(schedule.last_due(at, next - TimeDelta::milliseconds(1), at), None, "{text}");
        due.push(next.with_timezone(&zone).format("%F %T %:z").to_string());
        at = next;
    }
    due
}

#[test]
fn time_that_is_jumped_over_runs_once_at_the_jump() {
    // 02:00 to 03:00 is missing.
    assert_eq!(
        next("30 2 * * *", "Europe/Berlin", "2026-03-28 00:00:00", 3),
        ["2026-03-28 02:30:00 +01:00", "2026-03-29 03:00:00 +02:00", "2026-03-30 02:30:00 +02:00"]
    );
    assert_eq!(
        next("0,30 2,3 * * *", "America/New_York", "2026-03-08 05:00:00", 3),
        ["2026-03-08 03:00:00 -04:00", "2026-03-08 03:30:00 -04:00", "2026-03-09 02:00:00 -04:00"]
    );
    // Half an hour is missing.
    assert_eq!(
        next("15 2 * * *", "Australia/Lord_Howe", "2026-10-03 00:00:00", 2),
        ["2026-10-04 02:30:00 +11:00", "2026-10-05 02:15:00 +11:00"]
    );
    // Midnight is missing.
    assert_eq!(
        next("@daily", "America/Sao_Paulo", "2018-11-03 12:00:00", 2),
        ["2018-11-04 01:00:00 -02:00", "2018-11-05 00:00:00 -02:00"]
    );
    // A day is missing.
    assert_eq!(
        next("30 3 * * *", "Pacific/Apia", "2011-12-29 00:00:00", 3),
        ["2011-12-29 03:30:00 -10:00", "2011-12-31 00:00:00 +14:00", "2011-12-31 03:30:00 +14:00"]
    );
    assert_eq!(next("30 3 30 12 *", "Pacific/Apia", "2011-12-01 00:00:00", 1), ["2011-12-31 00:00:00 +14:00"]);
    // Each second of a minute that is missing is one run.
    assert_eq!(
        next("0-59 30 2 29 3 *", "Europe/Berlin", "2026-03-28 12:00:00", 2),
        ["2026-03-29 03:00:00 +02:00", "2027-03-29 02:30:00 +02:00"]
    );
}

#[test]
fn time_that_is_shown_twice_runs_the_first_time() {
    assert_eq!(
        next("30 2 * * *", "Europe/Berlin", "2026-10-24 12:00:00", 2),
        ["2026-10-25 02:30:00 +02:00", "2026-10-26 02:30:00 +01:00"]
    );
    assert_eq!(
        next("0,30 1 * * *", "America/New_York", "2026-10-31 12:00:00", 3),
        ["2026-11-01 01:00:00 -04:00", "2026-11-01 01:30:00 -04:00", "2026-11-02 01:00:00 -05:00"]
    );
    assert_eq!(
        next("45 1 * * *", "Australia/Lord_Howe", "2026-04-04 00:00:00", 2),
        ["2026-04-05 01:45:00 +11:00", "2026-04-06 01:45:00 +10:30"]
    );
    // What comes when the second pass ends is not lost on it.
    assert_eq!(next("0 3 * * *", "Europe/Berlin", "2026-10-25 01:10:00", 1), ["2026-10-25 03:00:00 +01:00"]);
    // A server that comes up in the second pass finds the run of the first.
    let schedule = Schedule::parse("30 2 * * *", "Europe/Berlin").unwrap();
    let second_pass = utc("2026-10-25 01:10:00");
    assert_eq!(
        schedule.last_due(utc("2026-10-24 12:00:00"), second_pass, second_pass),
        Some(utc("2026-10-25 00:30:00"))
    );
}

#[test]
fn wildcards_and_steps_follow_elapsed_time() {
    for text in ["*/15 * * * *", "0-59/15 */1 * * *", "0,15,30,45 0-23 * * *"] {
        for day in ["2026-03-29", "2026-10-25"] {
            let schedule = Schedule::parse(text, "Europe/Berlin").unwrap();
            let mut at = utc(&format!("{day} 00:00:00"));
            for _ in 0..20 {
                let due = schedule.next_after(at, at).unwrap();
                assert_eq!(due - at, TimeDelta::minutes(15), "{text} on {day}");
                at = due;
            }
        }
    }
    let after = "2026-10-25 00:30:00";
    assert_eq!(next("0-59 2 * * *", "Europe/Berlin", after, 90), next("* 2 * * *", "Europe/Berlin", after, 90));
    assert_eq!(next("0-59 2 * * *", "Europe/Berlin", after, 30).last().unwrap(), "2026-10-25 02:00:00 +01:00");
    assert_eq!(
        next("30 * * * *", "Europe/Berlin", "2026-10-24 23:45:00", 4),
        [
            "2026-10-25 02:30:00 +02:00",
            "2026-10-25 02:30:00 +01:00",
            "2026-10-25 03:30:00 +01:00",
            "2026-10-25 04:30:00 +01:00"
        ]
    );
    assert_eq!(
        next("30 * * * *", "Europe/Berlin", "2026-03-29 00:00:00", 2),
        ["2026-03-29 01:30:00 +01:00", "2026-03-29 03:30:00 +02:00"]
    );
}

#[test]
fn calendar_is_that_of_the_wall() {
    assert_eq!(
        next("0 0 L * *", "UTC", "2028-01-31 12:00:00", 2),
        ["2028-02-29 00:00:00 +00:00", "2028-03-31 00:00:00 +00:00"]
    );
    assert_eq!(next("0 0 $ 2 *", "UTC", "2027-01-01 00:00:00", 1), ["2027-02-28 00:00:00 +00:00"]);
    assert_eq!(
        next("0 9 * * 5#3", "UTC", "2026-01-01 00:00:00", 2),
        ["2026-01-16 09:00:00 +00:00", "2026-02-20 09:00:00 +00:00"]
    );
    assert_eq!(next("0 9 * * friL", "UTC", "2026-01-01 00:00:00", 1), ["2026-01-30 09:00:00 +00:00"]);
    assert_eq!(next("0 9 * 2 5#5", "UTC", "2026-01-01 00:00:00", 1), ["2036-02-29 09:00:00 +00:00"]);
    assert_eq!(
        next("0 9 1 jan,JUL *", "UTC", "2026-02-01 00:00:00", 2),
        ["2026-07-01 09:00:00 +00:00", "2027-01-01 09:00:00 +00:00"]
    );
    assert_eq!(next("0 0 29 2 *", "UTC", "2096-03-01 00:00:00", 1), ["2104-02-29 00:00:00 +00:00"]);
    assert_eq!(
        next("0 0 29 2 +MON", "UTC", "2024-03-01 00:00:00", 2),
        ["2044-02-29 00:00:00 +00:00", "2072-02-29 00:00:00 +00:00"]
    );
    assert_eq!(next("15 30 9 * * MON-FRI", "UTC", "2026-01-02 09:30:15", 1), ["2026-01-05 09:30:15 +00:00"]);
    assert_eq!(
        next("*/20 * * * * *", "UTC", "2026-01-02 09:30:15", 2),
        ["2026-01-02 09:30:20 +00:00", "2026-01-02 09:30:40 +00:00"]
    );
    for sunday in ["0 9 * * 0", "0 9 * * 7", "0 9 * * SUN", "0 9 * * 7-7"] {
        assert_eq!(next(sunday, "UTC", "2026-01-01 00:00:00", 1), ["2026-01-04 09:00:00 +00:00"], "{sunday}");
    }
    assert_eq!(next("0 9 * * SAT-SUN", "UTC", "2026-01-01 00:00:00", 3).last().unwrap(), "2026-01-10 09:00:00 +00:00");
}

#[test]
fn days_combine_as_in_pg_cron() {
    // Both restricted: the 13th, and each Friday.
    assert_eq!(
        next("0 0 13 * FRI", "UTC", "2026-01-08 00:00:00", 3),
        ["2026-01-09 00:00:00 +00:00", "2026-01-13 00:00:00 +00:00", "2026-01-16 00:00:00 +00:00"]
    );
    // One begins with a star: Mondays with an odd date.
    assert_eq!(
        next("0 0 */2 * MON", "UTC", "2026-01-01 00:00:00", 3),
        ["2026-01-05 00:00:00 +00:00", "2026-01-19 00:00:00 +00:00", "2026-02-09 00:00:00 +00:00"]
    );
}

#[test]
fn nicknames_stand_for_their_fields() {
    for (nickname, fields) in [
        ("@yearly", "0 0 1 1 *"),
        ("@Annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        (" @MIDNIGHT ", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
    ] {
        let after = "2026-03-01 10:00:00";
        assert_eq!(next(nickname, "Asia/Tokyo", after, 3), next(fields, "Asia/Tokyo", after, 3));
    }
}

#[test]
fn intervals_count_from_their_anchor() {
    let anchor = utc("2026-01-01 00:00:10.25");
    let schedule = Schedule::parse("1 minute 30 seconds", "Europe/Berlin").unwrap();
    for (after, due) in [
        ("2026-01-01 00:00:10.25", "2026-01-01 00:01:40.25"),
        ("2026-01-01 00:01:40.249", "2026-01-01 00:01:40.25"),
        ("2026-01-01 00:01:40.25", "2026-01-01 00:03:10.25"),
        ("2026-01-01 00:00:10.2", "2026-01-01 00:00:10.25"),
        ("2025-12-31 23:57:00", "2025-12-31 23:57:10.25"),
    ] {
        assert_eq!(schedule.next_after(utc(after), anchor), Some(utc(due)), "{after}");
    }
    let last = |since, at| schedule.last_due(utc(since), utc(at), anchor);
    assert_eq!(last("2026-01-01 00:00:00", "2026-01-01 00:01:40.25"), Some(utc("2026-01-01 00:01:40.25")));
    assert_eq!(last("2026-01-01 00:00:00", "2026-01-01 00:01:40.24"), Some(anchor));
    assert_eq!(last("2026-01-01 00:01:40.25", "2026-01-01 00:03:10"), None);
    for (text, seconds) in [
        ("30 seconds", 30),
        ("45s", 45),
        ("+5 min", 300),
        ("2 HOURS", 7200),
        ("1 day", 86_400),
        ("1 hour 30 minutes", 5400),
        (" 1h30m ", 5400),
        ("1 day 2 hours 3 minutes", 93_780),
        ("2 weeks", 1_209_600),
    ] {
        let due = Schedule::parse(text, "UTC").unwrap().next_after(anchor, anchor).unwrap();
        assert_eq!((due - anchor).num_seconds(), seconds, "{text}");
    }
}

#[test]
fn missed_run_is_found_at_once_after_years() {
    let at = utc("2026-10-25 01:30:00.5");
    let began = std::time::Instant::now();
    for _ in 0..100 {
        for (text, zone) in [("* * * * * *", "Europe/Berlin"), ("1 second", "UTC"), ("*/5 * * * * *", "UTC")] {
            let last = Schedule::parse(text, zone).unwrap().last_due(
                utc("2016-01-01 00:00:00"),
                at,
                at - TimeDelta::milliseconds(500),
            );
            assert_eq!(last, Some(utc("2026-10-25 01:30:00")), "{text}");
        }
    }
    // A walk over ten years of seconds would take hours.
    assert!(began.elapsed().as_secs() < 20);
}

#[test]
fn ends_of_time_are_no_panic() {
    for text in ["* * * * * *", "0 0 29 2 *", "1 day"] {
        let schedule = Schedule::parse(text, "Pacific/Apia").unwrap();
        for at in
            [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC, utc("4999-12-31 23:59:59"), utc("0001-01-01 00:00:00")]
        {
            for anchor in [utc("2026-01-01 00:00:00"), at] {
                schedule.next_after(at, anchor);
                schedule.last_due(DateTime::<Utc>::MIN_UTC, at, anchor);
            }
        }
        assert_eq!(
            schedule.last_due(utc("2026-01-02 00:00:00"), utc("2026-01-01 00:00:00"), utc("2026-01-01 00:00:00")),
            None
        );
    }
}
