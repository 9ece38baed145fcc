use super::*;
use serde_json::Value;

fn pointer(text: &str) -> Pointer {
    Pointer::parse(text).unwrap()
}

/// Gives one byte at a time, so that every boundary between two reads is met.
struct Drip<'a>(&'a [u8]);

impl Read for Drip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
        buffer[0] = *first;
        self.0 = rest;
        Ok(1)
    }
}

type Page = (Vec<String>, Vec<Option<String>>);

fn read(text: &[u8], shape: Shape, records: &str, wanted: &[&str]) -> Result<Page> {
    let mut reader =
        Records::new(Drip(text), shape, pointer(records), wanted.iter().map(|w| pointer(w)).collect(), 1 << 20);
    let mut all = Vec::new();
    while let Some(record) = reader.next()? {
        all.push(record.get().to_owned());
    }
    let found = reader.found().iter().map(|f| f.as_ref().map(|f| f.get().to_owned())).collect();
    Ok((all, found))
}

fn page(text: &str, records: &str, wanted: &[&str]) -> Page {
    read(text.as_bytes(), Shape::Array, records, wanted).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn refusal(text: &str, records: &str) -> String {
    read(text.as_bytes(), Shape::Array, records, &["/more"]).unwrap_err().to_string()
}

const PAGE: &str = r#" {"a":[1,{"data":[9]}],"more":true,"deep":{"x":{"records":[{"id":12345678901234567890.10,"s":"\u00e9\"}"},
    [1], null , "two" ]},"next":{"cursor":"abc"}}, "total" : 4 ,"z":{"list":[10,{"k":"v"}]}}
 "#;

#[test]
fn records_come_out_as_they_are_written() {
    let (records, _) = page(PAGE, "/deep/x/records", &[]);
    assert_eq!(records, [r#"{"id":12345678901234567890.10,"s":"\u00e9\"}"}"#, "[1]", "null", "\"two\""]);
}

#[test]
fn values_before_beside_and_after_the_records_are_found() {
    let wanted =
        ["/more", "/deep/next/cursor", "/total", "/z/list/1/k", "/deep/x/records/0/s", "/missing", "/a/1/data"];
    let (_, found) = page(PAGE, "/deep/x/records", &wanted);
    let whole: Value = serde_json::from_str(PAGE).unwrap();
    for (pointer, found) in wanted.iter().zip(found) {
        let found = found.map(|f| serde_json::from_str::<Value>(&f).unwrap());
        assert_eq!(found.as_ref(), whole.pointer(pointer), "{pointer}");
    }
}

#[test]
fn a_value_and_what_it_holds_are_both_found() {
    let (_, found) = page(r#"{"p":{"next":{"url":7}},"d":[]}"#, "/d", &["/p/next/url", "/p/next", "/p"]);
    assert_eq!(found, [Some("7".into()), Some("{\"url\":7}".into()), Some("{\"next\":{\"url\":7}}".into())]);
}

#[test]
fn escaped_names_are_met() {
    let (records, found) = page(r#"{"a/b":{"m~n":[1]},"\u0041":2}"#, "/a~1b/m~0n", &["/A"]);
    assert_eq!((records, found), (vec!["1".to_owned()], vec![Some("2".to_owned())]));
}

#[test]
fn the_document_itself_may_be_the_array() {
    assert_eq!(page("[{\"a\":1}, 2]", "", &[]).0, ["{\"a\":1}", "2"]);
    assert_eq!(page(" [ ] ", "", &[]).0, Vec::<String>::new());
}

#[test]
fn an_object_is_a_record_only_where_no_page_can_follow() {
    let one = |shape| read(b"{\"d\":{\"id\":1}}", shape, "/d", &[]);
    assert_eq!(one(Shape::ArrayOrOne).unwrap().0, ["{\"id\":1}"]);
    assert_eq!(one(Shape::One).unwrap().0, ["{\"id\":1}"]);
    assert!(matches!(one(Shape::Array), Err(BodyError::NoRecords { .. })));
    assert_eq!(read(b"[{\"id\":1}]", Shape::One, "", &[]).unwrap().0, ["[{\"id\":1}]"]);
}

#[test]
fn a_page_cut_anywhere_is_an_error() {
    let text = PAGE.trim();
    for end in 0..text.len() {
        let cut = read(&text.as_bytes()[..end], Shape::Array, "/deep/x/records", &["/total"]);
        assert!(matches!(cut, Err(BodyError::Cut { .. })), "cut after {end}: {cut:?}");
    }
}

#[test]
fn a_page_without_its_records_is_an_error() {
    for text in [
        r#"{"error":"x"}"#,
        r#"{"data":null}"#,
        r#"{"data":{}}"#,
        r#"{"data":"[]"}"#,
        r#"{"x":{"data":[]}}"#,
        "[]",
        "null",
        "17",
    ] {
        let e = read(text.as_bytes(), Shape::Array, "/data", &[]).unwrap_err();
        assert!(matches!(e, BodyError::NoRecords { .. }), "{text}: {e}");
    }
    assert!(refusal(r#"{"data":[1],"data":[2]}"#, "/data").contains("a second value for \"/data\""));
}

#[test]
fn what_is_not_json_is_an_error_beside_the_records_too() {
    for broken in [
        "<html></html>",
        r#"{"data":[]} x"#,
        r#"{"data":[]}{}"#,
        r#"{"data":[],}"#,
        r#"{"data":[1,]}"#,
        r#"{"data":[1 2]}"#,
        r#"{"x":[1,],"data":[]}"#,
        r#"{"x":{"a" 1},"data":[]}"#,
        r#"{"x":{a:1},"data":[]}"#,
        r#"{"x":{"a":1 "b":2},"data":[]}"#,
        r#"{"x":[1}],"data":[]}"#,
        r#"{"x":01,"data":[]}"#,
        r#"{"x":1.,"data":[]}"#,
        r#"{"x":1e,"data":[]}"#,
        r#"{"x":-,"data":[]}"#,
        r#"{"x":+1,"data":[]}"#,
        r#"{"x":nul,"data":[]}"#,
        r#"{"x":NaN,"data":[]}"#,
        r#"{"x":"\x","data":[]}"#,
        r#"{"x":"\u12g4","data":[]}"#,
        "{\"x\":\"\n\",\"data\":[]}",
        r#"{"data":[{"a":tru}]}"#,
        r#"{,"data":[]}"#,
    ] {
        assert!(serde_json::from_str::<Value>(broken).is_err(), "serde_json takes {broken}");
        let e = read(broken.as_bytes(), Shape::Array, "/data", &[]).unwrap_err();
        assert!(matches!(e, BodyError::Malformed { .. }), "{broken}: {e}");
    }
    let latin = read(b"{\"data\":[\"\xe9\"]}", Shape::Array, "/data", &[]).unwrap_err();
    assert!(latin.to_string().contains("not UTF-8"), "{latin}");
}

#[test]
fn a_record_of_any_depth_is_one_and_a_longer_one_is_passed_over() {
    let nested = |n: usize| {
        format!("{{\"x\":{}{},\"data\":[{}{}]}}", "[".repeat(n), "]".repeat(n), "[".repeat(n), "]".repeat(n))
    };
    for n in [511, 512, 513, 100_000] {
        assert_eq!(page(&nested(n), "/data", &[]).0, ["[".repeat(n) + &"]".repeat(n)]);
    }
    assert!(matches!(read("[".repeat(100_000).as_bytes(), Shape::Array, "", &[]), Err(BodyError::Cut { .. })));
    let long = format!("{{\"data\":[1,\"{}\",{{\"id\":2}}],\"more\":7}}", "a".repeat(1 << 20));
    let (records, found) = page(&long, "/data", &["/more"]);
    assert_eq!((records[0].as_str(), records[2].as_str(), found), ("1", "{\"id\":2}", vec![Some("7".to_owned())]));
    let stand_in = RawValue::from_string(records[1].clone()).unwrap();
    assert!(is_too_long(&stand_in) && stand_in.get().contains("1048578 bytes"), "{stand_in}");
    assert!(!is_too_long(&RawValue::from_string("{}".into()).unwrap()));
    // One that breaks off is no record, be it too long or not.
    assert!(matches!(read(&long.as_bytes()[..1 << 20], Shape::Array, "/data", &[]), Err(BodyError::Cut { .. })));
    assert!(matches!(read(&long.as_bytes()[..100], Shape::Array, "/data", &[]), Err(BodyError::Cut { .. })));
    let long = format!("{{\"more\":\"{}\",\"data\":[]}}", "a".repeat(1 << 20));
    assert!(refusal(&long, "/data").contains("more than 1048576 bytes"));
}

#[test]
fn a_paginator_that_asks_for_the_records_is_told() {
    let e = read(b"{\"data\":{\"list\":[]}}", Shape::Array, "/data/list", &["/data"]).unwrap_err();
    assert!(e.to_string().contains("holds the records"), "{e}");
}

/// Numbers of a fixed sequence: a failure comes again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 5 } else { 7 }) {
            0 => Value::Null,
            1 => Value::Bool(self.below(2) == 0),
            2 => Value::from(self.below(1 << 31) as i64 - (1 << 30)),
            3 => Value::from(self.below(1000) as f64 / 8.0 * 1e-9),
            4 => Value::from(["", "plain", "q\"uote\\", "line\nbreak \u{1}", "é😀", "[{,}]:"][self.below(6) as usize]),
            5 => (0..self.below(4)).map(|_| self.value(depth - 1)).collect(),
            _ => Value::Object((0..self.below(4)).map(|i| (format!("k{i}"), self.value(depth - 1))).collect()),
        }
    }
}

#[test]
fn any_page_reads_as_serde_json_reads_it() {
    let mut dice = Dice(7);
    for round in 0..300 {
        let records: Vec<Value> = (0..dice.below(5)).map(|_| dice.value(4)).collect();
        let mut whole = serde_json::json!({"before": dice.value(4), "in": {"data": records, "more": dice.value(2)}});
        whole["zlast"] = dice.value(3);
        for text in [whole.to_string(), serde_json::to_string_pretty(&whole).unwrap()] {
            let (got, found) = page(&text, "/in/data", &["/in/more", "/before", "/zlast"]);
            let whole: Value = serde_json::from_str(&text).unwrap();
            let got: Vec<Value> = got.iter().map(|r| serde_json::from_str(r).unwrap()).collect();
            assert_eq!(Value::from(got), whole["in"]["data"], "round {round}");
            let found: Vec<Value> = found.iter().map(|f| serde_json::from_str(f.as_ref().unwrap()).unwrap()).collect();
            assert_eq!(found, [whole["in"]["more"].clone(), whole["before"].clone(), whole["zlast"].clone()]);
        }
    }
}

/// A document that is made as it is read.
struct Endless {
    records: u64,
    made: Vec<u8>,
    at: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.made.len() {
            self.made = match self.records {
                0 => return Ok(0),
                1 => b"{}]}".to_vec(),
                _ => format!("{{\"pad\":\"{}\"}},", "x".repeat(4000)).into_bytes(),
            };
            self.records -= 1;
            self.at = 0;
        }
        let n = buffer.len().min(self.made.len() - self.at);
        buffer[..n].copy_from_slice(&self.made[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[test]
fn the_first_record_of_a_huge_page_is_there_at_once() {
    let source = Endless { records: 10_000, made: b"{\"data\":[".to_vec(), at: 0 };
    let mut reader = Records::new(source, Shape::Array, pointer("/data"), vec![], 8192);
    assert!(reader.next().unwrap().is_some());
    assert!(reader.scan.before + reader.scan.end as u64 <= 64 << 10, "more was read than one buffer");
    let mut n = 1;
    while reader.next().unwrap().is_some() {
        n += 1;
    }
    assert_eq!(n, 10_000);
    assert!(reader.position() > 40_000_000);
    assert_eq!(reader.scan.buffer.len(), 64 << 10);
}

/// The records of a page, where one of more than `max` bytes is too long, and these pointers are kept of it.
fn within(max: usize, record: &str, kept: &[&str]) -> Box<RawValue> {
    let page = format!("{{\"data\":[ {record} ,7]}}");
    let mut reader = Records::new(Drip(page.as_bytes()), Shape::Array, pointer("/data"), vec![], max)
        .keeping(kept.iter().map(|p| pointer(p)).collect());
    let found = reader.next().unwrap().unwrap();
    assert_eq!(reader.next().unwrap().unwrap().get(), "7", "{record}");
    assert!(reader.next().unwrap().is_none(), "{record}");
    found
}

#[test]
fn of_a_record_that_is_too_long_the_key_is_kept_wherever_it_stands() {
    let record = r#"{"pad":["x",{"id":0},{},[]],"a":{"b~c":[{"k":"\u0041\"}"},-1.50e7],"z":null},"id":"ü1","big":12345678901234567890,"t":true,"o":{"p":{}},"id":2,"\u0061t":"2026-01-31","end":"]}"}"#;
    let kept =
        ["/id", "/a/b~0c/0/k", "/a/b~0c/1", "/a/b~0c", "/big", "/at", "/t", "/o/p", "/missing", "/id/0", "/pad/1/id"];
    let there = ["/id", "/a/b~0c/0/k", "/a/b~0c/1", "/big", "/at", "/pad/1/id"];
    // Of two members with one name it takes the last, and we the first.
    let mut truth: Value = serde_json::from_str(record).unwrap();
    truth["id"] = "ü1".into();
    for max in 1..record.len() + 2 {
        let found = within(max, record, &kept);
        if max >= record.len() {
            assert_eq!(found.get(), record);
            continue;
        }
        assert!(is_too_long(&found), "{max}: {found}");
        let stub: Value = serde_json::from_str(found.get()).unwrap();
        assert!(found.get().contains(&format!("a record of {} bytes", record.len())), "{found}");
        for at in kept {
            let found = lookup(&found, pointer(at).tokens()).unwrap().filter(|v| !v.get().starts_with('{'));
            let expected = truth.pointer(at).filter(|_| there.contains(&at));
            let found = found.map(|v| serde_json::from_str::<Value>(v.get()).unwrap());
            // A name or a value that alone is longer than a record is not kept.
            if max >= 40 || found.is_some() {
                assert_eq!(found.as_ref(), expected, "{at} of {stub} at {max}");
            }
        }
    }
}

#[test]
fn of_a_record_that_is_too_long_no_long_value_is_kept() {
    let long = "x".repeat(5000);
    let stub = within(100, &format!(r#"{{"id":"{long}","n":1,"s":"secret"}}"#), &["/id", "/n"]);
    assert!(is_too_long(&stub) && stub.get().ends_with(",\"n\":1}") && stub.get().len() < 100, "{stub}");
    for other in [format!("\"{long}\""), format!("[{}1]", "1,".repeat(200))] {
        let stub = within(100, &other, &["/id", "/0"]);
        assert!(is_too_long(&stub) && !stub.get().contains('x'.to_string().repeat(9).as_str()), "{stub}");
    }
}

#[test]
fn what_is_not_json_is_an_error_in_a_record_that_is_too_long_too() {
    for broken in [
        "{,}",
        "{\"id\" 1}",
        "{\"id\":1,}",
        "{\"id\":1 \"b\":2}",
        "{\"a\":[1 2]}",
        "{\"a\":[1,]}",
        "{\"id\":tru}",
        "{\"a\":[,1]}",
        "{id:1}",
        "{\"a\":[1}]",
    ] {
        for max in [3, 1000] {
            let page = format!("{{\"data\":[{broken}]}}");
            let mut reader = Records::new(Drip(page.as_bytes()), Shape::Array, pointer("/data"), vec![], max)
                .keeping(vec![pointer("/id"), pointer("/a/1")]);
            let e = reader.next().unwrap_err();
            assert!(matches!(e, BodyError::Malformed { .. }), "{broken}: {e}");
        }
    }
}

#[test]
fn a_cursor_inside_of_a_record_that_is_too_long_is_no_end() {
    let read = |last: &str| {
        let page = format!("[{{\"id\":1}},{last}]");
        let mut reader = Records::new(Drip(page.as_bytes()), Shape::Array, pointer(""), vec![pointer("/1/id")], 20);
        while reader.next()?.is_some() {}
        Ok::<_, BodyError>(reader.found()[0].as_deref().map(|v| v.get().to_owned()))
    };
    assert_eq!(read("{\"id\":2}").unwrap(), Some("2".into()));
    assert_eq!(read("{\"no\":2}").unwrap(), None);
    let e = read("{\"id\":2,\"pad\":\"xxxxxxxxxxxxxxxxx\"}").unwrap_err().to_string();
    assert!(e.contains("\"/1/id\" is in a record that is longer than max_record_bytes"), "{e}");
}
