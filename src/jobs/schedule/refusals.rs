//! What is refused, and how the error tells it.

use super::Schedule;
use crate::error::Error;

fn refused(text: &str, zone: &str) -> Error {
    let error = Schedule::parse(text, zone).expect_err(text);
    assert_eq!(error.sqlstate, "22023", "{text}");
    assert!(error.hint.as_ref().is_some_and(|hint| hint.ends_with('.')), "{text}: {error:?}");
    assert!(error.detail.as_ref().is_some_and(|detail| detail.ends_with('.')), "{text}: {error:?}");
    error
}

#[test]
fn bad_field_is_named_with_its_place() {
    for (text, detail) in [
        ("61 * * * *", "The minute field has \"61\" at character 1: number out of bounds."),
        ("  0  24 * * *", "The hour field has \"24\" at character 6: number out of bounds."),
        ("0 0 1,32,x * *", "The day-of-month field has \"32\" at character 7: number out of bounds."),
        ("0 0 * 13 *", "The month field has \"13\" at character 7: number out of bounds."),
        ("0 0 * * 8", "The day-of-week field has \"8\" at character 9: number out of bounds."),
        ("60 0 0 * * *", "The second field has \"60\" at character 1: number out of bounds."),
        ("0 0 * * FRI-MON", "The day-of-week field has \"FRI-MON\" at character 9: range out of bounds."),
        ("0 0 * * 5#6", "The day-of-week field has \"5#6\" at character 9: nth specifier out of bounds."),
        ("0 17-9 * * *", "The hour field has \"17-9\" at character 3: range out of bounds."),
        ("*/0 * * * *", "The minute field has \"*/0\" at character 1: step cannot be zero."),
        ("*/60 * * * *", "The minute field has \"*/60\" at character 1: the step is larger than 59."),
        ("5/15 * * * *", "The minute field has \"5/15\" at character 1: invalid step syntax."),
        ("*,5 * * * *", "The minute field has \"*\" at character 1: * is more than a part of a list."),
        ("0 0 * * MON,?", "The day-of-week field has \"?\" at character 13: ? is more than a part of a list."),
        ("1,,2 * * * *", "The minute field has \"\" at character 3: a part of the list is missing."),
        ("1, * * * *", "The minute field has \"\" at character 3: a part of the list is missing."),
        // croner would take each of these, for something else.
        ("MON * * * *", "The minute field has \"MON\" at character 1: \"MON\" means nothing here."),
        ("0 0 * JANFEB *", "The month field has \"JANFEB\" at character 7: \"JANFEB\" means nothing here."),
        ("0 0 * 1JAN *", "The month field has \"1JAN\" at character 7: \"JAN\" means nothing here."),
        ("0 0 * * JAN", "The day-of-week field has \"JAN\" at character 9: \"JAN\" means nothing here."),
        ("0 0 * MON *", "The month field has \"MON\" at character 7: \"MON\" means nothing here."),
        ("0 0 * * Monday", "The day-of-week field has \"Monday\" at character 9: \"Monday\" means nothing here."),
        ("0 0 1 * L", "The day-of-week field has \"L\" at character 9: the last of which day of the week is not said."),
        ("0 L * * *", "The hour field has \"L\" at character 3: \"L\" means nothing here."),
        ("$ 0 * * *", "The minute field has \"$\" at character 1: illegal character."),
        ("0 0 * * @daily", "The day-of-week field has \"@daily\" at character 9: \"daily\" means nothing here."),
        ("-1 * * * *", "The minute field has \"-1\" at character 1: invalid start of range."),
        ("0 0 1,L,lw * *", "The day-of-month field \"1,L,lw\" at character 5 has both L and LW."),
        ("0 0 * * 65536", "The day-of-week field has \"65536\" at character 9: invalid number."),
    ] {
        let error = refused(text, "UTC");
        assert_eq!(error.message, format!("invalid schedule \"{text}\""));
        assert_eq!(error.detail.as_deref(), Some(detail), "{text}");
    }
    assert_eq!(
        refused("0 25 * * *", "UTC").hint.as_deref(),
        Some("Hours are 0 to 23: a number, *, a range such as 9-17, a step such as */2, or a list of these.")
    );
}

#[test]
fn text_that_is_no_schedule_is_told_what_one_looks_like() {
    for (text, detail) in [
        ("", "It is empty."),
        (" \t", "It is empty."),
        ("*", "It has 1 field."),
        ("0 0 * *", "It has 4 fields."),
        ("0 0 0 * * * 2026", "It has 7 fields."),
        ("every monday", "It has 2 fields."),
        ("0 0 * * ＊", "Character 9 is \"＊\"."),
    ] {
        let error = refused(text, "UTC");
        assert_eq!(error.detail.as_deref(), Some(detail), "{text}");
        assert!(error.hint.unwrap().contains("five fields"), "{text}");
    }
    for nickname in ["@reboot", "@fortnightly", "@", "@daily 5"] {
        let error = refused(nickname, "UTC");
        assert_eq!(error.detail, Some(format!("\"{nickname}\" is not a nickname of a schedule.")));
        assert!(error.hint.unwrap().contains("@hourly"));
    }
}

#[test]
fn schedule_that_never_comes_is_refused() {
    for text in ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 0 30-31 FEB *", "0 0 31 4 +MON"] {
        let error = refused(text, "UTC");
        assert_eq!(error.message, format!("schedule \"{text}\" never comes"));
    }
    assert_eq!(
        refused("0 0 30 2 *", "UTC").detail.as_deref(),
        Some("No date matches day of month \"30\", month \"2\" and day of week \"*\".")
    );
    // Mondays in February come.
    assert!(Schedule::parse("0 0 30 2 MON", "UTC").is_ok());
}

#[test]
fn bad_interval_is_named_with_its_place() {
    for (text, detail) in [
        ("0 seconds", "The interval is zero."),
        ("-5 minutes", "\"-5\" at character 1 is negative."),
        ("1 hour -30 minutes", "\"-30\" at character 8 is negative."),
        ("0.5 seconds", "\"0.5\" at character 1 is not a whole number."),
        ("1 month", "\"month\" at character 3 has no fixed length."),
        ("1 day 2 Years", "\"Years\" at character 9 has no fixed length."),
        ("15 fortnights", "\"fortnights\" at character 4 is not a unit of time."),
        ("5 µs", "\"µs\" at character 3 is not a unit of time."),
        ("100 ms", "\"ms\" at character 5 is not a unit of time."),
        ("1 hour and 5 minutes", "A number is expected at character 8, not \"and\"."),
        ("1 hour 30", "The unit of \"30\" is missing at character 10."),
        ("99999999999999999999 days", "The interval is longer than 100 years."),
        ("36526 days", "The interval is longer than 100 years."),
        ("9223372036854775807 s 1 s", "The interval is longer than 100 years."),
    ] {
        let error = refused(text, "UTC");
        assert_eq!(error.message, format!("invalid schedule \"{text}\""));
        assert_eq!(error.detail.as_deref(), Some(detail), "{text}");
    }
    assert!(refused("1 month", "UTC").hint.unwrap().contains("cron"));
}

#[test]
fn unknown_zone_is_told_the_nearest() {
    for (zone, near) in [
        ("Europe/Berln", "\"Europe/Berlin\""),
        ("Berlin", "\"Europe/Berlin\""),
        ("Amercia/New York", "\"America/New_York\""),
        ("Asia/Sydney", "\"Australia/Sydney\""),
        ("Etc/UCT1", "\"Etc/UCT\""),
    ] {
        let error = refused("@daily", zone);
        assert_eq!(error.message, format!("unknown time zone \"{zone}\""));
        let hint = error.hint.unwrap();
        assert!(hint.starts_with(&format!("Perhaps you mean {near}")), "{zone}: {hint}");
    }
    for zone in ["", "+02:00", "Middle Earth"] {
        assert_eq!(
            refused("@daily", zone).hint.as_deref(),
            Some("Name a place such as \"Europe/Berlin\", or \"UTC\"."),
            "{zone}"
        );
    }
}

#[test]
fn any_text_is_a_schedule_or_an_error() {
    let alphabet: Vec<char> = "0159*/-,#LWMONJAN@$?+ \té.s".chars().collect();
    let mut state: u64 = 1;
    for _ in 0..20_000 {
        let text: String = (0..state % 17)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                alphabet[(state >> 33) as usize % alphabet.len()]
            })
            .collect();
        state = state.wrapping_add(1);
        match Schedule::parse(&text, "UTC") {
            Ok(schedule) => assert!(!schedule.words().is_empty(), "{text}"),
            Err(_) => drop(refused(&text, "UTC")),
        }
    }
}
