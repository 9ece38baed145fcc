use super::*;
use serde_json::{json, Value};

fn paginator(value: Value) -> Paginator {
    serde_json::from_value(value).unwrap()
}

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

/// One page, given as the whole document and its records.
fn turn(pages: &mut Pages, document: &Value, records: &[Value]) -> Result<bool, PageError> {
    turn_with(pages, document, records, &[])
}

fn turn_with(pages: &mut Pages, document: &Value, records: &[Value], links: &[&str]) -> Result<bool, PageError> {
    let url = Url::parse("https://api.example/v1/list?limit=2").unwrap();
    let found: Vec<_> = pages.wanted().iter().map(|p| document.pointer(&p.to_string()).map(raw)).collect();
    let last = records.last().map(raw);
    let mut hasher = DefaultHasher::new();
    records.iter().for_each(|r| r.to_string().hash(&mut hasher));
    pages.turn(&Page {
        url: &url,
        records: records.len(),
        last: last.as_deref(),
        found: &found,
        links: links.to_vec(),
        fingerprint: hasher.finish(),
    })
}

fn ids(from: u64, n: u64) -> Vec<Value> {
    (from..from + n).map(|id| json!({"id": id, "at": 7})).collect()
}

fn query(pages: &Pages) -> Vec<(String, String)> {
    pages.ask().unwrap().query
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.into(), value.into())
}

#[test]
fn a_cursor_of_the_last_record_follows_has_more() {
    let p = paginator(json!({"type": "cursor", "param": "after", "from": "last_record:/id", "more": "/has_more"}));
    let mut pages = Pages::new(&p, Place::Start, 0);
    assert_eq!(query(&pages), []);
    assert_eq!(turn(&mut pages, &json!({"has_more": true}), &ids(1, 2)), Ok(true));
    assert_eq!(query(&pages), [pair("after", "2")]);
    for falsy in [json!({"has_more": false}), json!({"has_more": null}), json!({}), json!({"has_more": 0})] {
        let mut pages = Pages::new(&p, Place::Start, 0);
        assert_eq!(turn(&mut pages, &falsy, &ids(3, 2)), Ok(false), "{falsy}");
    }
}

#[test]
fn more_without_a_way_to_it_is_an_error() {
    let p = paginator(json!({"type": "cursor", "param": "after", "from": "last_record:/id", "more": "/has_more"}));
    for records in [vec![], vec![json!({"no": "id"})], vec![json!({"id": null})], vec![json!({"id": {}})]] {
        let mut pages = Pages::new(&p, Place::Start, 0);
        let e = turn(&mut pages, &json!({"has_more": true}), &records).unwrap_err();
        assert!(matches!(e, PageError::NoWay(_)), "{records:?}: {e:?}");
    }
    let p = paginator(json!({"type": "cursor", "param": "after", "from": "body:/next", "more": "/has_more"}));
    let e = turn(&mut Pages::new(&p, Place::Start, 0), &json!({"has_more": true}), &ids(1, 1)).unwrap_err();
    assert!(matches!(e, PageError::NoWay(_)));
}

#[test]
fn a_cursor_of_the_body_ends_where_it_is_missing_null_or_empty() {
    let p = paginator(json!({"type": "cursor", "param": "body:/page/after", "from": "body:/paging/next/after"}));
    let mut pages = Pages::new(&p, Place::Start, 0);
    assert_eq!(
        turn(&mut pages, &json!({"paging": {"next": {"after": 12345678901234567890u64}}}), &ids(1, 1)),
        Ok(true)
    );
    let ask = pages.ask().unwrap();
    assert_eq!(ask.body, [(Pointer::parse("/page/after").unwrap(), json!(12345678901234567890u64))]);
    for end in [
        json!({}),
        json!({"paging": null}),
        json!({"paging": {"next": {"after": null}}}),
        json!({"paging": {"next": {"after": ""}}}),
    ] {
        assert_eq!(turn(&mut Pages::new(&p, Place::Start, 0), &end, &ids(1, 1)), Ok(false), "{end}");
    }
}

#[test]
fn a_cursor_may_stand_in_an_address() {
    let p = paginator(json!({"type": "cursor", "param": "starting_after", "from": "body:/next", "url_param": "cur"}));
    for (next, expected) in [
        (json!("https://elsewhere.example/x?cur=a%20b&x=1"), "a b"),
        (json!("/x?cur=abc"), "abc"),
        (json!("WzE3"), "WzE3"),
    ] {
        let mut pages = Pages::new(&p, Place::Start, 0);
        assert_eq!(turn(&mut pages, &json!({"next": next}), &ids(1, 1)), Ok(true));
        assert_eq!(query(&pages), [pair("starting_after", expected)]);
    }
}

#[test]
fn what_goes_round_in_circles_is_an_error() {
    let p = paginator(json!({"type": "cursor", "param": "after", "from": "body:/next"}));
    let mut pages = Pages::new(&p, Place::Start, 0);
    assert_eq!(turn(&mut pages, &json!({"next": "a"}), &ids(1, 1)), Ok(true));
    assert_eq!(turn(&mut pages, &json!({"next": "b"}), &ids(2, 1)), Ok(true));
    assert!(matches!(turn(&mut pages, &json!({"next": "a"}), &ids(3, 1)), Err(PageError::Repeated(_))));
    // The API takes no notice of the page's number.
    let p = paginator(json!({"type": "page", "param": "page", "size": 2}));
    let mut pages = Pages::new(&p, Place::Start, 0);
    assert_eq!(turn(&mut pages, &json!({}), &ids(1, 2)), Ok(true));
    assert!(matches!(turn(&mut pages, &json!({}), &ids(1, 2)), Err(PageError::Repeated(_))));
    // A resumed scan knows the page that it goes on with.
    let p = paginator(json!({"type": "next_url", "pointer": "/next"}));
    let mut pages = Pages::new(&p, Place::Url("https://api.example/v1/list?at=2".into()), 0);
    assert!(matches!(turn(&mut pages, &json!({"next": "?at=2"}), &ids(1, 2)), Err(PageError::Repeated(_))));
}

#[test]
fn pages_are_counted_until_one_is_short_or_all_is_there() {
    let p = paginator(json!({"type": "page", "param": "page", "size_param": "per_page", "size": 2}));
    let mut pages = Pages::new(&p, Place::Start, 0);
    assert_eq!(query(&pages), [pair("page", "1"), pair("per_page", "2")]);
    assert_eq!(turn(&mut pages, &json!({}), &ids(1, 2)), Ok(true));
    assert_eq!(query(&pages), [pair("page", "2"), pair("per_page", "2")]);
    assert_eq!(turn(&mut pages, &json!({}), &ids(3, 1)), Ok(false));
    let p = paginator(json!({"type": "page", "param": "page", "start": 0, "pages": "/n"}));
    let mut pages = Pages::new(&p, Place::Start, 0);
    assert_eq!(turn(&mut pages, &json!({"n": 2}), &ids(1, 2)), Ok(true));
    assert_eq!(turn(&mut pages, &json!({"n": 2}), &ids(3, 2)), Ok(false));
}

#[test]
fn an_offset_moves_by_what_came_not_by_what_was_asked_for() {
    let p = paginator(json!({"type": "offset", "param": "o", "size": 100, "total": "/total"}));
    let mut pages = Pages::new(&p, Place::Start, 0);
    // The server caps its pages at 50.
    assert_eq!(turn(&mut pages, &json!({"total": 80}), &ids(0, 50)), Ok(true));
    assert_eq!(query(&pages), [pair("o", "50")]);
    assert_eq!(turn(&mut pages, &json!({"total": 80}), &ids(50, 30)), Ok(false));
}

#[test]
fn fewer_records_than_the_api_counts_is_an_error() {
    let p = paginator(json!({"type": "offset", "param": "o", "size": 2, "total": "/total"}));
    let mut pages = Pages::new(&p, Place::Start, 0);
    assert_eq!(turn(&mut pages, &json!({"total": 5}), &ids(0, 2)), Ok(true));
    assert_eq!(turn(&mut pages, &json!({"total": 5}), &[]), Err(PageError::TooFew { got: 2, of: 5 }));
}

#[test]
fn a_page_that_does_not_tell_the_total_is_not_the_end_of_what_one_before_told() {
    for kind in [json!({"type": "offset"}), json!({"type": "page"})] {
        let mut spec = kind.clone();
        for (name, value) in [("param", json!("p")), ("size", json!(2)), ("total", json!("/total"))] {
            spec[name] = value;
        }
        let p = paginator(spec);
        let told = || {
            let mut pages = Pages::new(&p, Place::Start, 0);
            assert_eq!(turn(&mut pages, &json!({"total": 5}), &ids(0, 2)), Ok(true));
            pages
        };
        assert_eq!(turn(&mut told(), &json!({}), &[]), Err(PageError::TooFew { got: 2, of: 5 }), "{kind}");
        let mut pages = told();
        // Shorter than a page, and not the last.
        assert_eq!(turn(&mut pages, &json!({}), &ids(2, 1)), Ok(true), "{kind}");
        assert_eq!(turn(&mut pages, &json!({"total": null}), &ids(3, 2)), Ok(false), "{kind}");
        // Where no page tells it, the pages do.
        assert_eq!(turn(&mut Pages::new(&p, Place::Start, 0), &json!({}), &ids(0, 1)), Ok(false), "{kind}");
    }
}

#[test]
fn a_listing_that_shrinks_is_read_again_from_where_it_moved() {
    let p = paginator(json!({"type": "offset", "param": "o", "size": 10, "total": "/total"}));
    let mut pages = Pages::new(&p, Place::Start, 0);
    assert_eq!(turn(&mut pages, &json!({"total": 30}), &ids(0, 10)), Ok(true));
    // Three are gone: three of the rest moved to the first page, unseen.
    assert_eq!(turn(&mut pages, &json!({"total": 27}), &ids(13, 10)), Ok(true));
    assert_eq!(query(&pages), [pair("o", "7")]);
    let p = paginator(json!({"type": "page", "param": "p", "size": 10, "total": "/total"}));
    let mut pages = Pages::new(&p, Place::Number(3), 20);
    pages.total = Some(40);
    assert_eq!(turn(&mut pages, &json!({"total": 29}), &ids(31, 9)), Ok(true));
    assert_eq!(query(&pages), [pair("p", "2")]);
}

#[test]
fn link_headers_are_read_as_rfc_8288_has_them() {
    let p = paginator(json!({"type": "link_header"}));
    for (header, expected) in [
        ("<https://api.example/v1/list?page=2>; rel=\"next\"", Some("https://api.example/v1/list?page=2")),
        (
            "<?page=1>; rel=\"prev first\", <?page=3>; title=\"a, <b>; rel=next\"; REL=\"last next\"",
            Some("https://api.example/v1/list?page=3"),
        ),
        ("</v2?a=1,2>;rel=next", Some("https://api.example/v2?a=1,2")),
        ("<?page=1>; rel=\"prev\"", None),
        ("<?page=1>; rel=\"nextish\"", None),
        ("rel=next", None),
        ("", None),
    ] {
        let mut pages = Pages::new(&p, Place::Start, 0);
        assert_eq!(turn_with(&mut pages, &json!([]), &ids(1, 1), &[header]), Ok(expected.is_some()), "{header}");
        assert_eq!(pages.ask().unwrap().url.map(String::from).as_deref(), expected, "{header}");
    }
}

#[test]
fn next_paths_stay_on_their_host() {
    let p = paginator(json!({"type": "next_path", "pointer": "/next"}));
    let address = |next: Value| {
        let mut pages = Pages::new(&p, Place::Start, 0);
        turn(&mut pages, &json!({"next": next}), &ids(1, 1)).map(|_| pages.ask().unwrap().url.map(String::from))
    };
    assert_eq!(address(json!("/services/q/1-2")).unwrap().unwrap(), "https://api.example/services/q/1-2");
    assert_eq!(address(json!("services/q")).unwrap().unwrap(), "https://api.example/services/q");
    assert_eq!(address(Value::Null), Ok(None));
    assert_eq!(address(json!("")), Ok(None));
    for foreign in ["//evil.example/x", "https://evil.example/x"] {
        let went = address(json!(foreign));
        let home = |url: &str| url.starts_with("https://api.example/");
        assert!(went.as_ref().map_or(true, |url| url.as_deref().is_some_and(home)), "{foreign}: {went:?}");
    }
    assert!(matches!(address(json!(17)), Err(PageError::BadAddress(_))));
}

#[test]
fn a_scroll_goes_on_until_a_page_is_empty() {
    let p = paginator(json!({"type": "scroll", "pointer": "/scroll_param", "param": "scroll_param"}));
    let mut pages = Pages::new(&p, Place::Start, 0);
    // Its name may stay the same while it moves.
    for i in 0..3 {
        assert_eq!(turn(&mut pages, &json!({"scroll_param": "s"}), &ids(i, 1)), Ok(true));
        assert_eq!(query(&pages), [pair("scroll_param", "s")]);
    }
    assert!(!pages.can_go_on_later());
    assert_eq!(turn(&mut pages, &json!({"scroll_param": "s"}), &[]), Ok(false));
    assert!(matches!(turn(&mut pages, &json!({}), &ids(9, 1)), Err(PageError::NoWay(_))));
}

#[test]
fn a_place_that_counts_is_another_one_later_on() {
    let can = |spec: Value, place: Place| Pages::new(&paginator(spec), place, 20).can_go_on_later();
    let url = |query: &str| Place::Url(format!("https://api.example/v1/list?{query}"));
    let cursor = |value: &str| Place::Cursor(value.into());
    assert!(!can(json!({"type": "page", "param": "n", "size": 10}), Place::Number(3)));
    assert!(!can(json!({"type": "offset", "param": "n", "size": 10}), Place::Number(20)));
    for query in ["per_page=100&page=3", "page%5Bnumber%5D=3", "$skip=100", "startAt=50&maxResults=50", "at=20"] {
        assert!(!can(json!({"type": "link_header"}), url(query)), "{query}");
        assert!(!can(json!({"type": "next_url", "pointer": "/next"}), url(query)), "{query}");
    }
    for query in ["after=abc&per_page=100", "page=eyJpZCI6Mn0", "since_id=17", "page_size=10&cursor=3", ""] {
        assert!(can(json!({"type": "link_header"}), url(query)), "{query}");
    }
    let by = |param: &str| json!({"type": "cursor", "param": param, "from": "body:/next"});
    assert!(!can(by("page"), cursor("3")) && !can(by("body:/paging/offset"), cursor("\"20\"")));
    assert!(can(by("page"), cursor("\"WzE3\"")) && can(by("starting_after"), cursor("17")));
}

#[test]
fn a_keyset_asks_for_what_comes_after_the_last_record() {
    let p = paginator(json!({"type": "keyset", "pointer": "/at", "key": "/id", "param": "q",
        "first": "ORDER", "next": "(t = {cursor} AND id > {key}) OR t > {cursor}"}));
    let mut pages = Pages::new(&p, Place::Start, 0);
    assert_eq!(query(&pages), [pair("q", "ORDER")]);
    assert_eq!(turn(&mut pages, &json!({}), &ids(1, 2)), Ok(true));
    assert_eq!(query(&pages), [pair("q", "(t = 7 AND id > 2) OR t > 7")]);
    assert_eq!(turn(&mut pages, &json!({}), &[]), Ok(false));
    let p = paginator(json!({"type": "keyset", "pointer": "/id", "initial": "0"}));
    let mut pages = Pages::new(&p, Place::Start, 0);
    assert!(pages.ask().unwrap().places.contains(&("cursor", "0".into())));
    assert_eq!(turn(&mut pages, &json!({}), &ids(41, 2)), Ok(true));
    assert!(pages.ask().unwrap().places.contains(&("cursor", "42".into())));
    assert!(matches!(turn(&mut pages, &json!({}), &ids(42, 1)), Err(PageError::Repeated(_))));
}

#[test]
fn a_keyset_knows_the_bounds_and_writes_its_cursor_as_they_are_written() {
    let p = paginator(json!({"type": "keyset", "pointer": "/at", "key": "/id", "param": "q",
        "first": "t >= {start}", "next": "(t = {cursor} AND id > {key}) OR t > {cursor}"}));
    let around = Around { start: Some("S".into()), end: None, formats: Some((Format::Iso, Format::Iso)) };
    let mut pages = Pages::new(&p, Place::Start, 0).with(around.clone());
    assert_eq!(query(&pages), [pair("q", "t >= S")]);
    let last = json!({"id": 2, "at": "2026-01-31T23:59:59.125+0200"});
    assert_eq!(turn(&mut pages, &json!({}), std::slice::from_ref(&last)), Ok(true));
    let cursor = "2026-01-31T21:59:59.125Z";
    assert_eq!(query(&pages), [pair("q", &format!("(t = {cursor} AND id > 2) OR t > {cursor}"))]);
    let mut pages =
        Pages::new(&p, Place::Start, 0).with(Around { formats: Some((Format::Iso, Format::EpochMs)), ..around });
    assert_eq!(turn(&mut pages, &json!({}), &[last]), Ok(true));
    assert!(query(&pages)[0].1.contains("(t = 1769896799125 AND"), "{:?}", query(&pages));
}

#[test]
fn places_survive_being_stored() {
    for place in [
        Place::Start,
        Place::Cursor("\"é\\u0000\"".into()),
        Place::Cursor("12345678901234567890.10".into()),
        Place::Number(7),
        Place::Url("https://x/".into()),
        Place::Keyset { cursor: "1".into(), key: Some("\"a\"".into()) },
    ] {
        let text = serde_json::to_string(&place).unwrap();
        assert_eq!(serde_json::from_str::<Place>(&text).unwrap(), place, "{text}");
    }
    assert_eq!(text(&json("12345678901234567890.10")), "12345678901234567890.10");
}

#[test]
fn a_secret_in_the_next_address_is_not_kept() {
    let p = paginator(json!({"type": "next_url", "pointer": "/next"}));
    let mut pages = Pages::new(&p, Place::Start, 0);
    assert_eq!(turn(&mut pages, &json!({"next": "?api_key=sesame&page=2"}), &ids(1, 1)), Ok(true));
    pages.forget_parameter("api_key");
    assert_eq!(pages.place(), &Place::Url("https://api.example/v1/list?page=2".into()));
}
