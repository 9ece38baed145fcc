//! Whole runs against an API that misbehaves, without a database.

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime};

use serde_json::{json, Value};

use super::fake_api::{self, FakeApi, Fault, Reply};
use super::guard::Cidr;
use super::*;

mod faults;
mod manners;
mod reach;
mod side;

/// A spec for that API with one stream, laid over one that retries fast.
fn order(api: &FakeApi, stream: Value, more: Value) -> Order {
    let mut whole = json!({"base_url": api.url("/"), "retry": {"max": 2, "base_ms": 5, "max_ms": 20}});
    whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut described = json!({"name": "things", "records": "/data"});
    described.as_object_mut().unwrap().extend(stream.as_object().unwrap().clone());
    whole["streams"] = json!([described]);
    let spec: Spec = serde_json::from_value(whole).unwrap();
    let secrets = Arc::new(HashMap::from([("key".to_owned(), Secret::new("sesame-open"))]));
    Order {
        stream: 0,
        tokens: Tokens::alone(&spec, &secrets),
        spec: Arc::new(spec),
        secrets,
        state: State::default(),
        full: false,
        parents: None,
        network: Network {
            allowed: vec![Cidr::parse("127.0.0.0/8").unwrap(), Cidr::parse("::1").unwrap()],
            roots: None,
        },
        user_agent: "startup_wh test".into(),
        left: None,
    }
}

/// The stream that lists newest first by a cursor, as Stripe does.
fn cursor() -> Value {
    json!({"path": "cursor/things", "params": {"limit": 10},
        "paginator": {"type": "cursor", "param": "starting_after", "from": "last_record:/id", "more": "/has_more"}})
}

fn with(mut stream: Value, more: Value) -> Value {
    stream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    stream
}

/// What a run came to, as the side that stores would see it.
#[derive(Debug, Default)]
struct Ran {
    records: Vec<Value>,
    /// Of each checkpoint, with how many records came before it.
    checkpoints: Vec<(usize, State)>,
    parents: Vec<(usize, bool)>,
    rewinds: usize,
    requests: u64,
    waiting_ms: u64,
    end: Option<Result<State, Failure>>,
}

impl Ran {
    fn ids(&self) -> Vec<String> {
        self.records.iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect()
    }

    fn state(&self) -> &State {
        self.end.as_ref().unwrap().as_ref().unwrap_or_else(|e| panic!("{e:?}"))
    }

    fn failure(&self) -> &Failure {
        self.end.as_ref().unwrap().as_ref().expect_err("the run failed")
    }
}

fn run(order: Order) -> Ran {
    let fetching = start(order).unwrap();
    let mut ran = Ran::default();
    let mut safe = 0;
    loop {
        match fetching.events.recv_timeout(Duration::from_secs(60)).expect("an event") {
            Event::Records(chunk) => {
                ran.records.extend(chunk.iter().map(|r| serde_json::from_str::<Value>(r.get()).unwrap()));
            }
            Event::Rewind => {
                ran.records.truncate(safe);
                ran.rewinds += 1;
            }
            Event::Checkpoint(state) => {
                safe = ran.records.len();
                ran.checkpoints.push((safe, state));
            }
            Event::Scan { .. } => {}
            Event::Parent { .. } => safe = ran.records.len(),
            Event::ParentDone { index, gone } => ran.parents.push((index, gone)),
            Event::Progress { requests, waiting_ms, .. } => {
                ran.requests = requests;
                ran.waiting_ms = waiting_ms;
            }
            Event::Finished(state) => {
                ran.end = Some(Ok(state));
                return ran;
            }
            Event::Failed(failure) => {
                ran.records.truncate(safe);
                ran.end = Some(Err(failure));
                return ran;
            }
        }
    }
}

fn ids_of(api: &FakeApi) -> BTreeSet<String> {
    api.objects("things").iter().map(|o| o["id"].as_str().unwrap().to_owned()).collect()
}

/// Every object once, none twice, none missing.
#[track_caller]
fn assert_whole(ran: &Ran, api: &FakeApi) {
    ran.state();
    let ids = ran.ids();
    let once: BTreeSet<String> = ids.iter().cloned().collect();
    assert_eq!(once, ids_of(api));
    assert_eq!(ids.len(), once.len(), "some came twice");
}

#[test]
fn each_style_of_paging_reads_everything_once() {
    for (n, stream) in [
        cursor(),
        json!({"path": "offset/things", "records": "/items",
            "paginator": {"type": "offset", "param": "offset", "size_param": "limit", "size": 10, "total": "/total"}}),
        json!({"path": "offset/things", "records": "/items",
            "paginator": {"type": "offset", "param": "offset", "size_param": "limit", "size": 10}}),
        json!({"path": "page/things", "records": "/items",
            "paginator": {"type": "page", "param": "page", "size_param": "per_page", "size": 10}}),
        json!({"path": "page/things", "records": "/items", "params": {"per_page": 10},
            "paginator": {"type": "page", "param": "page", "pages": "/pages"}}),
        json!({"path": "link/things", "records": "", "params": {"per_page": 10}, "paginator": {"type": "link_header"}}),
        json!({"path": "next_url/things", "records": "/results", "params": {"limit": 10},
            "paginator": {"type": "next_url", "pointer": "/paging/next"}}),
        json!({"path": "next_path/things", "records": "/records", "params": {"limit": 10},
            "paginator": {"type": "next_path", "pointer": "/nextRecordsUrl"}}),
        json!({"path": "scroll/things", "params": {"limit": 10},
            "paginator": {"type": "scroll", "pointer": "/scroll_param", "param": "scroll_param"}}),
        json!({"path": "search/things", "method": "POST", "records": "/results", "body": {"limit": 10},
            "paginator": {"type": "cursor", "param": "body:/after", "from": "body:/paging/next/after"}}),
    ]
    .into_iter()
    .enumerate()
    {
        for objects in [0, 1, 10, 57] {
            let api = FakeApi::http();
            fake_api::fill(&api, "things", objects, 1);
            let ran = run(order(&api, stream.clone(), json!({})));
            assert_whole(&ran, &api);
            assert_eq!(ran.requests as usize, api.asked("/"), "style {n}");
            assert_eq!(ran.state(), &State::default());
        }
    }
}

fn by_created(order: &str) -> Value {
    json!({"params": {"limit": 10, "order": if order == "asc" { "asc" } else { "desc" }},
        "incremental": {"cursor": "/created", "format": "epoch_s", "start": "created[gte]", "order": order}})
}

#[test]
fn twelve_thousand_equal_timestamps_all_arrive_in_both_orders() {
    for direction in ["desc", "asc"] {
        let api = FakeApi::http();
        fake_api::fill(&api, "things", 12_000, 0);
        let stream =
            with(with(cursor(), by_created(direction)), json!({"params": {"limit": 1000, "order": direction}}));
        let ran = run(order(&api, stream.clone(), json!({})));
        assert_whole(&ran, &api);
        // The bound is inclusive: those of the mark's own second come again rather than get lost.
        api.put("things", json!({"id": "late", "created": 1_700_000_000}));
        let mut next = order(&api, stream, json!({}));
        next.state = ran.state().clone();
        assert_whole(&run(next), &api);
    }
}

#[test]
fn the_next_run_reads_what_is_new_and_nothing_else() {
    for direction in ["desc", "asc"] {
        let api = FakeApi::http();
        fake_api::fill(&api, "things", 57, 10);
        let stream = with(cursor(), by_created(direction));
        let first = run(order(&api, stream.clone(), json!({})));
        assert_whole(&first, &api);
        api.forget();
        api.put("things", json!({"id": "new", "created": 1_700_000_700}));
        let mut next = order(&api, stream, json!({}));
        next.state = first.state().clone();
        let ran = run(next);
        let ids: BTreeSet<_> = ran.ids().into_iter().collect();
        assert_eq!(ids, BTreeSet::from(["new".to_owned(), "id_000056".to_owned()]), "{direction}");
        assert_eq!(ran.requests, 1);
        assert_eq!(
            incremental::readable(ran.state().mark.as_deref().unwrap(), crate::sources::spec::Format::EpochS).unwrap(),
            "1700000700"
        );
    }
}

#[test]
fn a_newest_first_scan_keeps_the_old_mark_until_it_is_complete() {
    let api = FakeApi::http();
    fake_api::fill(&api, "things", 57, 10);
    let ran = run(order(&api, with(cursor(), by_created("desc")), json!({})));
    assert_eq!(ran.checkpoints.len(), 5);
    for (_, state) in &ran.checkpoints {
        assert_eq!(state.mark, None);
        assert!(state.scan.is_some());
    }
    assert!(ran.state().mark.is_some() && ran.state().scan.is_none());
}

#[test]
fn a_broken_run_goes_on_where_it_stopped() {
    for direction in ["desc", "asc"] {
        let api = FakeApi::http();
        fake_api::fill(&api, "things", 57, 10);
        let stream = with(cursor(), by_created(direction));
        api.fault("/cursor", 3, 3, Fault::Reply(Reply::text(500, "text/plain", "boom")));
        let broken = run(order(&api, stream.clone(), json!({})));
        assert_eq!(broken.failure().sqlstate, "08006");
        assert_eq!(broken.records.len(), 30);
        let (_, state) = broken.checkpoints.last().unwrap().clone();
        // The state survives being stored.
        let state: State = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        api.forget();
        let mut next = order(&api, stream, json!({}));
        next.state = state;
        let rest = run(next);
        assert_eq!(api.asked("/cursor"), 3);
        assert_eq!(rest.state().scan, None);
        let mut all = broken.ids();
        all.extend(rest.ids());
        assert_eq!(all.len(), 57);
        assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), ids_of(&api));
        assert_eq!(
            incremental::readable(rest.state().mark.as_deref().unwrap(), crate::sources::spec::Format::EpochS).unwrap(),
            "1700000560"
        );
    }
}

#[test]
fn a_place_that_the_api_forgot_makes_the_scan_begin_again() {
    let api = FakeApi::http();
    fake_api::fill(&api, "things", 25, 10);
    let mut gone = order(&api, cursor(), json!({}));
    gone.state.scan =
        Some(Scan { place: Place::Cursor("\"no such id\"".into()), pages: 2, records: 20, ..Scan::default() });
    assert_whole(&run(gone), &api);
}

#[test]
fn a_listing_that_changes_while_it_is_read_loses_nothing() {
    // A cursor holds its place when objects come in front, or go.
    let api = FakeApi::http();
    fake_api::fill(&api, "things", 57, 10);
    api.before_request("/cursor", 2, |store| {
        fake_api::put(store, "things", json!({"id": "newest", "created": 1_800_000_000}));
        fake_api::delete(store, "things", "id_000050");
    });
    let ran = run(order(&api, cursor(), json!({})));
    let ids: BTreeSet<_> = ran.ids().into_iter().collect();
    assert!((0..57).all(|i| ids.contains(&format!("id_{i:06}"))));
    // An offset does not: the API's own count gives the shrinking away.
    let api = FakeApi::http();
    fake_api::fill(&api, "things", 57, 10);
    api.before_request("/offset", 3, |store| {
        for i in [56, 55, 40] {
            fake_api::delete(store, "things", &format!("id_{i:06}"));
        }
    });
    let ran = run(order(
        &api,
        json!({"path": "offset/things", "records": "/items",
            "paginator": {"type": "offset", "param": "offset", "size_param": "limit", "size": 10, "total": "/total"}}),
        json!({}),
    ));
    ran.state();
    let ids: BTreeSet<_> = ran.ids().into_iter().collect();
    assert!(ids.is_superset(&ids_of(&api)), "missing: {:?}", ids_of(&api).difference(&ids));
}

#[test]
fn one_listing_for_each_parent_and_one_that_is_gone() {
    let api = FakeApi::http();
    for parent in ["a", "c"] {
        fake_api::fill(&api, parent, 12, 1);
    }
    api.route("/cursor/b", |_| Reply::text(404, "application/json", "{}"));
    let stream = with(cursor(), json!({"path": "cursor/{id}", "parent": {"stream": "others", "bind": {"id": "/id"}}}));
    let rules = json!({"errors": [{"status": [404], "action": "skip"}]});
    let mut three = order(&api, stream.clone(), rules);
    three.parents = Some(["a", "b", "c"].iter().map(|id| json!({"id": id}).as_object().unwrap().clone()).collect());
    let ran = run(three);
    ran.state();
    assert_eq!(ran.parents, [(0, false), (1, true), (2, false)]);
    assert!(api.log().iter().all(|asked| asked.method == "GET"));
    assert_eq!(ran.records.len(), 24);
    let mut none = order(&api, stream, json!({}));
    none.parents = None;
    assert!(run(none).failure().message.contains("needs the rows of \"others\""));
}

#[test]
fn a_sample_tells_what_is_there_and_what_would_come_next() {
    let api = FakeApi::http();
    fake_api::fill(&api, "things", 57, 10);
    let page = one_page(order(&api, cursor(), json!({}))).unwrap();
    assert_eq!((page.status, page.read, page.records.len()), (200, 10, 10));
    assert_eq!(page.next.as_deref(), Some("id_000047"));
    assert_eq!(page.url, api.url("/cursor/things?limit=10"));
    api.delete("things", "id_000056");
    assert_eq!(api.asked("/"), 1);
    api.fault("/", 0, 9, Fault::Reply(Reply::text(403, "application/json", "{\"error\":\"no\"}")));
    assert_eq!(one_page(order(&api, cursor(), json!({}))).unwrap_err().sqlstate, "42501");
}

#[test]
fn each_stream_that_ships_makes_a_first_request_below_its_base() {
    use crate::sources::{presets, spec};
    let mut asked = 0;
    for name in presets::names() {
        let preset = presets::find(name).unwrap();
        let mut settings = serde_json::Map::new();
        for (name, setting) in preset.get("settings").and_then(Value::as_object).into_iter().flatten() {
            if setting.get("default").is_none() {
                settings.insert(name.clone(), setting["example"].clone());
            }
        }
        let spec = spec::parse(&spec::with_settings(&preset, &settings.into()).unwrap()).unwrap();
        for stream in &spec.streams {
            let marking = stream.incremental.as_ref().map(|rule| incremental::Marking::new(rule, None, false));
            let bounds = request::Bounds {
                start: marking.as_ref().and_then(|marking| marking.start()),
                end: marking.as_ref().and_then(|marking| marking.end(SystemTime::now())),
            };
            let parent: Map<String, Value> = stream
                .parent
                .iter()
                .flat_map(|parent| parent.bind.iter().map(|(place, _)| (place.clone(), json!("p/1"))))
                .collect();
            let pages = paginate::Pages::new(&stream.paginator, Place::Start, 0).with(run::around(stream, &bounds));
            let ask = pages.ask().unwrap_or_else(|e| panic!("{name} {}: {e:?}", stream.name));
            let made = request::build(&spec, stream, &parent, &bounds, &ask)
                .unwrap_or_else(|e| panic!("{name} {}: {e:?}", stream.name));
            let whole =
                format!("{} {}", made.url, String::from_utf8(made.body.map(|b| b.1).unwrap_or_default()).unwrap());
            assert!(made.url.as_str().starts_with(spec.base_url.as_str()), "{whole}");
            for place in ["{start}", "{cursor}", "{key}", "%7Bstart", "%7Bcursor", "p/1"] {
                assert!(!whole.contains(place), "{name} {}: {whole}", stream.name);
            }
            asked += 1;
        }
    }
    assert!(asked > 20, "{asked}");
}
