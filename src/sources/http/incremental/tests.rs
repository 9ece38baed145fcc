use super::*;
use serde_json::{json, Value};
use std::time::Duration;

fn rule(more: Value) -> Incremental {
    let mut rule = json!({"cursor": "/t", "format": "epoch_s"});
    rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(rule).unwrap()
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn see(marking: &mut Marking, values: &[Value]) {
    for value in values {
        marking.see(&serde_json::value::to_raw_value(&json!({"t": value})).unwrap());
    }
}

fn seconds(mark: Option<String>) -> Option<String> {
    mark.and_then(|mark| readable(&mark, Format::EpochS))
}

#[test]
fn values_are_compared_as_times_and_written_as_they_came() {
    for (text, format, expected) in [
        ("1700000000", Format::EpochS, "1700000000"),
        ("1700000000.999", Format::EpochS, "1700000000"),
        ("1700000000123", Format::EpochMs, "1700000000123"),
        ("123456789012345678901", Format::Integer, "123456789012345678901"),
        ("2026-01-31T23:59:59.999Z", Format::Iso, "2026-01-31T23:59:59Z"),
        ("2026-01-31T23:59:59+02:00", Format::Iso, "2026-01-31T21:59:59Z"),
        ("2026-01-31T21:59:59.000+0000", Format::Iso, "2026-01-31T21:59:59Z"),
        ("2026-01-31", Format::Date, "2026-01-31"),
        ("-5", Format::EpochS, "-5"),
    ] {
        let moment = moment(text, format).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(written(moment, format).as_deref(), Some(expected), "{text}");
    }
    for (text, format) in [
        ("", Format::EpochS),
        ("1e9", Format::EpochS),
        ("tomorrow", Format::Iso),
        ("2026-01-31T00:00:00", Format::Iso),
        ("2026-02-30", Format::Date),
        ("1.5", Format::Integer),
        ("99999999999999999999", Format::EpochS),
    ] {
        assert_eq!(moment(text, format), None, "{text}");
    }
}

#[test]
fn the_next_run_starts_a_lookback_before_the_mark() {
    let rule = rule(json!({"lookback_s": 600, "initial": 5}));
    let marking = Marking::new(&rule, None, false);
    assert_eq!(marking.start().as_deref(), Some("5"));
    let mark = (1_700_000_000i128 * SECOND).to_string();
    assert_eq!(Marking::new(&rule, Some(&mark), false).start().as_deref(), Some("1699999400"));
    assert_eq!(Marking::new(&rule, Some(&mark), true).start().as_deref(), Some("5"));
    let ids = self::rule(json!({"format": "integer", "lookback_s": 600}));
    assert_eq!(Marking::new(&ids, Some("41"), false).start().as_deref(), Some("41"));
}

#[test]
fn a_bound_may_be_written_in_another_way_than_the_values() {
    let rule = rule(json!({"format": "iso", "bound_format": "epoch_ms", "initial": 0, "lookback_s": 1}));
    let mut marking = Marking::new(&rule, None, false);
    assert_eq!(marking.start().as_deref(), Some("0"));
    marking.page(at(2_000_000_000));
    see(&mut marking, &[json!("2026-01-31T21:59:59.125Z")]);
    let mark = marking.mark_at_end();
    assert_eq!(Marking::new(&rule, mark.as_deref(), false).start().as_deref(), Some("1769896798125"));
    assert_eq!(marking.end(at(5)).as_deref(), Some("6000"));
    let verbatim = self::rule(json!({"format": "iso", "initial": "1970-01-01T00:00:00.000+00:00"}));
    assert_eq!(Marking::new(&verbatim, None, false).start().as_deref(), Some("1970-01-01T00:00:00.000+00:00"));
}

#[test]
fn a_newest_first_scan_moves_its_mark_only_at_its_end() {
    let rule = rule(json!({"order": "desc"}));
    let old = (100 * SECOND).to_string();
    let mut marking = Marking::new(&rule, Some(&old), false);
    marking.page(at(1000));
    see(&mut marking, &[json!(900), json!("800"), json!(700.5)]);
    assert_eq!(seconds(marking.mark_so_far()), Some("100".into()));
    assert_eq!(seconds(marking.mark_at_end()), Some("900".into()));
    // The rest of the scan, in another run.
    let [from, candidate, clock] = marking.parts();
    let mut later = Marking::new(&rule, Some(&old), false);
    later.resume(from.as_deref(), candidate.as_deref(), clock.as_deref());
    later.page(at(5000));
    see(&mut later, &[json!(600)]);
    assert_eq!(seconds(later.mark_at_end()), Some("900".into()));
}

#[test]
fn an_oldest_first_scan_moves_its_mark_as_it_goes_while_it_keeps_its_order() {
    let rule = rule(json!({"order": "asc"}));
    let mut marking = Marking::new(&rule, None, false);
    marking.page(at(1000));
    see(&mut marking, &[json!(1), json!(2), json!(2)]);
    assert_eq!(seconds(marking.mark_so_far()), Some("2".into()));
    see(&mut marking, &[json!(9), json!(3)]);
    assert_eq!(marking.mark_so_far(), None, "the order was broken");
    assert_eq!(seconds(marking.mark_at_end()), Some("9".into()));
}

#[test]
fn the_mark_never_passes_the_beginning_of_a_scan_that_is_not_oldest_first() {
    for order in ["desc", "none"] {
        let rule = rule(json!({"order": order}));
        let mut marking = Marking::new(&rule, None, false);
        marking.page(at(500));
        see(&mut marking, &[json!(400)]);
        // A row that changed while later pages were read: one before it may have changed too.
        marking.page(at(600));
        see(&mut marking, &[json!(590)]);
        assert_eq!(seconds(marking.mark_at_end()), Some("500".into()), "{order}");
    }
}

#[test]
fn a_record_from_the_future_hides_nothing() {
    let rule = rule(json!({"order": "asc"}));
    let mut marking = Marking::new(&rule, None, false);
    marking.page(at(1000));
    see(&mut marking, &[json!(4_000_000_000u64)]);
    assert_eq!(seconds(marking.mark_at_end()), Some("1000".into()));
}

#[test]
fn the_mark_never_goes_back() {
    let rule = rule(json!({}));
    let old = (5000 * SECOND).to_string();
    let mut marking = Marking::new(&rule, Some(&old), true);
    marking.page(at(9000));
    see(&mut marking, &[json!(10)]);
    assert_eq!(seconds(marking.mark_at_end()), Some("5000".into()));
}

#[test]
fn a_newest_first_listing_ends_early_only_where_a_whole_page_is_older() {
    let rule = rule(json!({"order": "desc", "lookback_s": 10}));
    let mark = (100 * SECOND).to_string();
    let mut marking = Marking::new(&rule, Some(&mark), false);
    for (page, enough) in [
        (vec![json!(120), json!(80)], false),
        (vec![json!(90)], false),
        (vec![json!(89), json!(88)], true),
        (vec![json!(50), Value::Null], false),
        (vec![], false),
    ] {
        marking.page(at(1000));
        see(&mut marking, &page);
        assert_eq!(marking.has_read_enough(), enough, "{page:?}");
    }
    let mut first = Marking::new(&rule, None, false);
    first.page(at(1000));
    see(&mut first, &[json!(1)]);
    assert!(!first.has_read_enough(), "a first run reads everything");
}
