//! Values of all kinds, by hand and made up.

use serde_json::{value::RawValue, Value};

use super::*;
use crate::sources::generator::Generator;
use crate::sources::spec::{Format, Pointer};

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn rendered(text: &str, ty: &str, format: Option<Format>) -> Result<Option<String>, String> {
    render(raw(text).get(), &Type::named(ty), format).map(|text| text.map(|t| t.into_owned()))
}

#[test]
fn a_value_tells_its_type() {
    let digits = "7".repeat(400);
    for (text, expected) in [
        ("true", Some(Type::Boolean)),
        ("null", None),
        ("0", Some(Type::Bigint)),
        ("-0", Some(Type::Bigint)),
        ("9223372036854775807", Some(Type::Bigint)),
        ("-9223372036854775808", Some(Type::Bigint)),
        ("9223372036854775808", Some(Type::Numeric)),
        ("-9223372036854775809", Some(Type::Numeric)),
        ("1.0", Some(Type::Numeric)),
        ("1e3", Some(Type::Numeric)),
        (&digits, Some(Type::Numeric)),
        ("\"\"", Some(Type::Text)),
        ("\"12\"", Some(Type::Text)),
        ("\"2026-01-31\"", Some(Type::Date)),
        ("\"2026-01-31T12:00:00Z\"", Some(Type::Timestamptz)),
        ("\"2016-12-31T23:59:60Z\"", Some(Type::Timestamptz)),
        ("\"2026-01-31T12:00:00\"", Some(Type::Text)),
        ("\"2026-02-30\"", Some(Type::Text)),
        ("{}", Some(Type::Jsonb)),
        ("[1]", Some(Type::Jsonb)),
    ] {
        assert_eq!(infer(raw(text).get()), expected, "{text}");
    }
}

#[test]
fn values_are_stored_digit_by_digit() {
    let digits = format!("-{}.{}", "7".repeat(400), "3".repeat(400));
    for (text, ty, expected) in [
        ("1234567890123456789.123456789", "numeric", "1234567890123456789.123456789"),
        (digits.as_str(), "numeric", digits.as_str()),
        (digits.as_str(), "text", digits.as_str()),
        (digits.as_str(), "jsonb", digits.as_str()),
        ("1e400", "numeric", "1e400"),
        ("\"12.50\"", "numeric", "12.50"),
        ("9007199254740993", "bigint", "9007199254740993"),
        ("1.0", "bigint", "1"),
        ("12e2", "bigint", "1200"),
        ("-0", "bigint", "0"),
        ("\"-12\"", "bigint", "-12"),
        ("true", "boolean", "true"),
        ("\"false\"", "boolean", "false"),
        ("true", "text", "true"),
        ("1e3", "text", "1e3"),
        ("{\"a\": [1.10]}", "text", "{\"a\": [1.10]}"),
        ("\"a\\n\\t\\\\\\\"\\/\\b\\f\\r\\u00e9\\ud83d\\ude00\"", "text", "a\n\t\\\"/\u{8}\u{c}\ré😀"),
        ("\"\\\\N\"", "text", "\\N"),
        ("\"a\"", "jsonb", "\"a\""),
        ("\"2026-01-31\"", "date", "2026-01-31"),
        ("\"2026-01-31T12:00:00+01:00\"", "timestamptz", "2026-01-31T12:00:00+01:00"),
        ("\"2026-01-31T12:00:00\"", "timestamp", "2026-01-31T12:00:00"),
        // Postgres takes a whole leap second, and no part of one at the end of a day.
        ("\"2016-12-31T23:59:60.5Z\"", "timestamptz", "2017-01-01T00:00:00.5Z"),
        ("\"2016-12-31T23:59:60.5\"", "timestamp", "2017-01-01T00:00:00.5"),
        ("\"2016-12-31T24:00:00Z\"", "timestamptz", "2016-12-31T24:00:00Z"),
        ("-32768", "smallint", "-32768"),
        ("2147483647", "integer", "2147483647"),
        ("1e308", "double precision", "1e308"),
        ("0e-400", "double precision", "0e-400"),
        ("999.99", "numeric(5,2)", "999.99"),
        ("\"6F9619FF-8B86-D011-B42D-00CF4FC964FF\"", "uuid", "6F9619FF-8B86-D011-B42D-00CF4FC964FF"),
    ] {
        assert_eq!(rendered(text, ty, None), Ok(Some(expected.to_owned())), "{text} as {ty}");
    }
}

#[test]
fn null_is_null_in_every_type() {
    for ty in ["boolean", "bigint", "numeric", "text", "jsonb", "timestamptz", "date", "uuid", "integer"] {
        assert_eq!(rendered("null", ty, None), Ok(None), "{ty}");
    }
    assert_eq!(rendered("\"null\"", "text", None), Ok(Some("null".into())));
}

#[test]
fn what_postgres_would_refuse_is_refused() {
    let deep = format!("{}{}", "[".repeat(513), "]".repeat(513));
    for (text, ty) in [
        ("\"a\\u0000b\"", "text"),
        ("\"a\\u0000b\"", "jsonb"),
        ("{\"a\\u0000\": 1}", "jsonb"),
        ("{\"a\": [\"\\u0000\"]}", "text"),
        ("\"\\ud800\"", "text"),
        ("\"\\ude00\"", "jsonb"),
        ("\"\\ud83dx\"", "jsonb"),
        ("\"\\ud83d\\u0041\"", "text"),
        ("[\"\\ud83d\\ud83d\\ude00\"]", "jsonb"),
        ("1e131072", "numeric"),
        ("[1e131072]", "jsonb"),
        ("1e-16384", "jsonb"),
        ("9223372036854775808", "bigint"),
        ("1.5", "bigint"),
        ("\"1.5 \"", "numeric"),
        ("\"NaN\"", "numeric"),
        ("\"\"", "numeric"),
        ("true", "bigint"),
        ("[]", "bigint"),
        ("1", "boolean"),
        ("\"yes\"", "boolean"),
        ("\"2026-01-31T12:00:00\"", "timestamptz"),
        ("\"2026-01-31T12:00:00Z\"", "timestamp"),
        ("\"2026-01-31T12:00:00Z\"", "date"),
        ("\"now\"", "timestamptz"),
        ("\"infinity\"", "date"),
        ("1767225600", "timestamptz"),
        ("32768", "smallint"),
        ("2147483648", "integer"),
        ("1e309", "double precision"),
        ("1e-400", "double precision"),
        ("1e39", "real"),
        ("0.001", "numeric(5,2)"),
        ("\"6F9619FF8B86D011B42D00CF4FC964FF\"", "uuid"),
        ("1", "an unknown type"),
        (deep.as_str(), "jsonb"),
    ] {
        assert!(rendered(text, ty, None).is_err(), "{text} as {ty}");
    }
}

#[test]
fn messages_show_the_start_of_long_values_only() {
    let message = rendered(&format!("\"{}\"", "x".repeat(5000)), "bigint", None).unwrap_err();
    assert!(message.len() < 120 && message.ends_with("… is not a value of type bigint"), "{message}");
}

#[test]
fn nesting_is_stored_down_to_the_bound() {
    let deep = format!("{}{}", "[".repeat(512), "]".repeat(512));
    assert_eq!(rendered(&deep, "jsonb", None), Ok(Some(deep)));
    // Reading a record is not bounded by its depth.
    let deeper = format!("{{\"id\":1,\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    let record = raw(&deeper);
    assert_eq!(members(&record).unwrap().len(), 2);
    assert_eq!(without(&record, &[Pointer::parse("/a").unwrap()]), "{\"id\":1}");
}

#[test]
fn formats_since_1970_become_times() {
    for (text, ty, format, expected) in [
        ("1767225600", "timestamptz", Format::EpochS, "2026-01-01T00:00:00Z"),
        ("\"1767225600\"", "timestamptz", Format::EpochS, "2026-01-01T00:00:00Z"),
        ("1767225600.25", "timestamptz", Format::EpochS, "2026-01-01T00:00:00.25Z"),
        ("1767225600123", "timestamptz", Format::EpochMs, "2026-01-01T00:00:00.123Z"),
        ("-1", "timestamptz", Format::EpochS, "1969-12-31T23:59:59Z"),
        ("0", "date", Format::EpochS, "1970-01-01"),
        ("1767225600123", "timestamp", Format::EpochMs, "2026-01-01T00:00:00.123"),
        // One API writes both.
        ("\"2026-01-01T00:00:00Z\"", "timestamptz", Format::EpochMs, "2026-01-01T00:00:00Z"),
    ] {
        assert_eq!(rendered(text, ty, Some(format)), Ok(Some(expected.to_owned())), "{text} as {ty}");
    }
    for (text, format) in [("1e15", Format::EpochS), ("1767225600", Format::Iso), ("true", Format::EpochS)] {
        assert!(rendered(text, "timestamptz", Some(format)).is_err(), "{text}");
    }
}

#[test]
fn of_duplicate_members_the_last_counts() {
    let record = raw("{\"a\":1,\"b\":2,\"\\u0061\":3}");
    let found: Vec<_> = members(&record).unwrap().into_iter().collect();
    assert_eq!(found, [("a".into(), "3"), ("b".into(), "2")]);
    assert_eq!(pointer(&record, &Pointer::parse("/a").unwrap()).unwrap(), "3");
    assert_eq!(without(&record, &[Pointer::parse("/a").unwrap()]), "{\"b\":2}");
}

#[test]
fn duplicates_among_many_members_are_found() {
    let names: Vec<String> = (0..500).map(|at| format!("m{}", at % 300)).collect();
    let text: Vec<String> = names.iter().enumerate().map(|(at, name)| format!("\"{name}\":{at}")).collect();
    let record = raw(&format!("{{{}}}", text.join(",")));
    let found: Vec<_> = members(&record).unwrap().into_iter().collect();
    let expected = (0..300).map(|at| (format!("m{at}"), if at < 200 { at + 300 } else { at }.to_string()));
    assert!(found.into_iter().map(|(name, value)| (name.into_owned(), value.to_owned())).eq(expected));
}

#[test]
fn only_objects_are_records() {
    for text in ["1", "[]", "\"a\"", "null"] {
        assert!(members(&raw(text)).is_err(), "{text}");
    }
    assert!(members(&raw("{\"\\u0000\":1}")).is_err());
    assert!(members(&raw("{\"\\ud800\":1}")).is_err());
    assert_eq!(members(&raw("{}")).unwrap().len(), 0);
}

#[test]
fn hidden_members_go_even_from_what_cannot_be_stored() {
    for (record, hide, expected) in [
        ("{ \"a\" : 1 , \"b\" : 2 }", "/a", "{\"b\" : 2}"),
        ("{\"a\":{\"b\":1,\"c\":1.0}}", "/a/b", "{\"a\":{\"c\":1.0}}"),
        ("{\"a\":[{\"b\":1},{\"b\":2}]}", "/a/1/b", "{\"a\":[{\"b\":1},{}]}"),
        ("{\"a\":[1,2,3]}", "/a/1", "{\"a\":[1,3]}"),
        ("{\"x/y\":1,\"z\":2}", "/x~1y", "{\"z\":2}"),
        ("{\"\\u0061\":\"pii\",\"\\ud800\":\"\\u0000\"}", "/a", "{\"\\ud800\":\"\\u0000\"}"),
        ("{\"a\":\"},{\\\"\",\"b\":[]}", "/a", "{\"b\":[]}"),
        ("{\"a\":1}", "/b", "{\"a\":1}"),
        ("[1]", "/b", "[1]"),
    ] {
        assert_eq!(without(&raw(record), &[Pointer::parse(hide).unwrap()]), expected, "{record}");
    }
}

/// serde_json's own tree as the truth, which keeps the last of duplicates too.
#[test]
fn slices_agree_with_a_parsed_document() {
    let mut generator = Generator::new(3);
    for _ in 0..5_000 {
        let text =
            format!("{{{}}}", (0..generator.below(6)).map(|_| generator.member(3)).collect::<Vec<_>>().join(","));
        let record = raw(&text);
        let parsed: Value = serde_json::from_str(&text).unwrap();
        let found = members(&record).unwrap();
        assert_eq!(found.len(), parsed.as_object().unwrap().len(), "{text}");
        for (name, value) in &found {
            let same: Value = serde_json::from_str(value).unwrap();
            assert_eq!(parsed.get(name.as_ref()), Some(&same), "{name} of {text}");
        }
        for at in ["/a", "/b/c", "/c/0", "/x~1y/a", "/~0z", "/a/1/b", "/a/b/c", "/a/01", ""] {
            let at = Pointer::parse(at).unwrap();
            let found = pointer(&record, &at).map(|value| serde_json::from_str::<Value>(value).unwrap());
            assert_eq!(found.as_ref(), parsed.pointer(&at.to_string()), "{at} of {text}");
        }
    }
}

#[test]
fn what_is_hidden_is_gone_and_the_rest_is_not() {
    let mut generator = Generator::new(4);
    let hide: Vec<Pointer> = ["/a", "/b/c", "/c/0", "/x~1y/a"].iter().map(|p| Pointer::parse(p).unwrap()).collect();
    let mut removed = 0;
    for _ in 0..5_000 {
        let text =
            format!("{{{}}}", (0..generator.below(6)).map(|_| generator.member(3)).collect::<Vec<_>>().join(","));
        let kept: Value = serde_json::from_str(&without(&raw(&text), &hide)).unwrap();
        let mut expected: Value = serde_json::from_str(&text).unwrap();
        for at in &hide {
            let (parent, last) = at.tokens().split_at(at.tokens().len() - 1);
            let parent: String = parent.iter().map(|token| format!("/{}", token.replace('/', "~1"))).collect();
            removed += usize::from(match expected.pointer_mut(&parent) {
                Some(Value::Object(map)) => map.remove(&last[0]).is_some(),
                Some(Value::Array(list)) if last[0] == "0" && !list.is_empty() => {
                    list.remove(0);
                    true
                }
                _ => false,
            });
        }
        assert_eq!(kept, expected, "{text}");
    }
    assert!(removed > 1_000, "only {removed} were there to hide");
}

#[test]
fn made_up_values_fit_the_types_that_they_tell() {
    let mut generator = Generator::new(5);
    for _ in 0..20_000 {
        let text = generator.json(2);
        let value = raw(text.trim());
        let Some(ty) = infer(value.get()) else { continue };
        assert!(render(value.get(), &ty, None).is_ok(), "{text} as {ty:?}");
        for wider in [Type::Text, Type::Jsonb] {
            assert!(render(value.get(), &ty.clone().widen(wider.clone()), None).is_ok(), "{text} as {wider:?}");
        }
    }
}

#[test]
fn what_surely_fits_widens_nothing() {
    let values = [
        "null",
        "true",
        "false",
        "0",
        "-1",
        "123456789012345678",
        "9223372036854775807",
        "9223372036854775808",
        "1e3",
        "1.5",
        "\"a\"",
        "\"2026-01-31\"",
        "\"2026-01-31T12:00:00Z\"",
        "{}",
        "[]",
    ];
    let mut fitting = 0;
    for value in values.map(raw) {
        for ty in ["boolean", "bigint", "numeric", "text", "jsonb", "timestamptz", "date"] {
            if surely_fits(value.get(), ty) {
                fitting += 1;
                let had = Type::named(ty);
                let found = infer(value.get()).unwrap_or(had.clone());
                assert_eq!(had.clone().widen(found), had, "{value} in {ty}");
            }
        }
    }
    // What the shortcut is for.
    assert!(surely_fits("12", "bigint") && surely_fits("\"a\"", "text") && surely_fits("{}", "jsonb"));
    assert!(fitting > values.len(), "{fitting}");
}
