//! Sources whose API is WireMock, told to fail: what others took for the ways in which HTTP goes wrong. The tables are
//! compared with the objects that its answers were made of, and `wh.fetch_runs` with the requests that it counted.
//! Skipped, with a message, only where its registry can't be reached.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use pg_test::counterparts::Counterpart;
use pg_test::sources::{assert_ledger, listing, literal, stored, Sources};
use pg_test::ClientExt;
use serde_json::{json, Value};

/// Objects of a listing, and how many a page has.
const PEOPLE: usize = 500;
const PAGE: usize = 100;
/// Tries after the first.
const RETRIES: usize = 3;

/// The ways in which WireMock breaks a connection instead of answering.
const FAULTS: [&str; 4] =
    ["CONNECTION_RESET_BY_PEER", "EMPTY_RESPONSE", "MALFORMED_RESPONSE_CHUNK", "RANDOM_DATA_THEN_CLOSE"];

/// One for all tests of this file, each with a path of its own.
fn wiremock() -> Option<&'static Counterpart> {
    static SERVER: OnceLock<Option<Counterpart>> = OnceLock::new();
    SERVER.get_or_init(Counterpart::wiremock).as_ref()
}

fn id(n: usize) -> String {
    format!("person-{n:04}")
}

/// A warehouse, and a listing `people` in WireMock that it fetches as source `api`.
struct Mock {
    server: &'static Counterpart,
    name: String,
    s: Sources,
    truth: BTreeMap<String, Value>,
}

impl Mock {
    /// `limits` are the stream's; a batch is a page.
    fn new(name: &str, limits: &Value) -> Option<Mock> {
        let server = wiremock()?;
        let person = |n: usize| json!({"id": id(n), "updated": 1_700_000_000 + n, "name": format!("Zoë {n}"), "big": 9_007_199_254_740_993_i64 + n as i64});
        let truth = (0..PEOPLE).map(|n| (id(n), person(n))).collect();
        let mut mock = Mock { server, name: name.into(), s: Sources::new(&format!("wiremock_{name}")), truth };
        for page in 0..PEOPLE / PAGE {
            let people: Vec<&Value> = mock.truth.values().skip(page * PAGE).take(PAGE).collect();
            let body = json!({"data": people, "has_more": (page + 1) * PAGE < PEOPLE}).to_string();
            let response = json!({"status": 200, "headers": {"Content-Type": "application/json"}, "body": body});
            mock.put(json!({"priority": 9, "request": mock.request(page), "response": response}));
        }
        let mut limits = limits.clone();
        limits["batch_rows"] = json!(PAGE);
        let spec = json!({
            "base_url": server.url(&format!("/{name}/")), "retry": {"max": RETRIES, "base_ms": 10, "max_ms": 20},
            "streams": [listing("people", &json!({"path": "people", "limits": limits}))],
        });
        mock.s.client.exec(&format!("SELECT wh.create_source('api', {})", literal(&spec.to_string())));
        Some(mock)
    }

    fn path(&self) -> String {
        format!("/{}/people", self.name)
    }

    /// What WireMock knows a page by.
    fn request(&self, page: usize) -> Value {
        let after = match page {
            0 => json!({"absent": true}),
            page => json!({"equalTo": id(page * PAGE - 1)}),
        };
        json!({"method": "GET", "urlPath": self.path(), "queryParameters": {"starting_after": after}})
    }

    /// Puts a stub in; its number.
    fn put(&self, stub: Value) -> String {
        let made = self.server.send_json("POST", "/__admin/mappings", &stub);
        made["id"].as_str().expect("the stub's number").to_owned()
    }

    /// The first answers for a page, each once; then the page comes.
    fn first(&mut self, page: usize, answers: &[Value]) {
        // A scenario that was played to its end stays there, so each is another one.
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let scenario = format!("{} {}", self.name, COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        for (n, answer) in answers.iter().enumerate() {
            let state = if n == 0 { "Started".into() } else { n.to_string() };
            self.put(json!({
                "priority": 1, "request": self.request(page), "response": answer, "scenarioName": scenario,
                "requiredScenarioState": state, "newScenarioState": (n + 1).to_string(),
            }));
        }
    }

    /// The answer for a page until it is taken back; by this number.
    fn always(&self, page: usize, answer: &Value) -> String {
        self.put(json!({"priority": 2, "request": self.request(page), "response": answer}))
    }

    fn take_back(&self, stub: &str) {
        self.server.ask("DELETE", &format!("/__admin/mappings/{stub}"), "text/plain", "");
    }

    /// As if nothing had been fetched, nor asked.
    fn forget(&mut self) {
        self.s.client.exec("DROP TABLE IF EXISTS api.people; DELETE FROM wh.source_state; DELETE FROM wh.fetch_stream");
        self.server.send_json("POST", "/__admin/requests/remove", &json!({"urlPath": self.path()}));
    }

    /// Requests that WireMock counted.
    fn counted(&self, request: &Value) -> u64 {
        let answer = self.server.send_json("POST", "/__admin/requests/count", request);
        answer["count"].as_u64().expect("a count")
    }

    /// What WireMock counted in all is what the runs say that they asked for.
    #[track_caller]
    fn assert_counted(&mut self, requests: usize) {
        let counted = self.counted(&json!({"urlPath": self.path()}));
        let said = self.s.client.value("SELECT sum(requests) FROM wh.fetch_runs");
        assert_eq!((counted, said), (requests as u64, requests.to_string()), "requests, counted and said");
    }

    /// The table holds all people as they are, and the run says so.
    #[track_caller]
    fn assert_complete(&mut self) {
        assert_eq!(stored(&mut self.s.client, "api.people"), self.truth);
        assert_ledger(&mut self.s.client, "api");
    }

    /// Everything that the last run's error says, after its SQLSTATE.
    fn said(&mut self) -> String {
        self.s.client.value(
            "SELECT concat_ws(' ', sqlstate || '|', error, detail, hint) FROM wh.fetch_runs ORDER BY run DESC LIMIT 1",
        )
    }
}

const ALL: &str = "people|succeeded|500|500|0|0|0|0|0";

#[test]
fn a_429_is_asked_again_after_what_it_says_and_not_before() {
    let Some(mut mock) = Mock::new("limited", &json!({})) else { return };
    mock.first(2, &vec![json!({"status": 429, "headers": {"Retry-After": "1"}, "body": "slow down"}); 2]);
    assert_eq!(mock.s.fetch(), ALL);
    mock.assert_complete();
    mock.assert_counted(7);
    let find = mock.server.send_json("POST", "/__admin/requests/find", &mock.request(2));
    let mut at: Vec<i64> =
        find["requests"].as_array().expect("requests").iter().filter_map(|r| r["loggedDate"].as_i64()).collect();
    at.sort();
    assert!(at.len() == 3 && at[1] - at[0] >= 1000 && at[2] - at[1] >= 1000, "milliseconds {at:?}");
    let waited = mock.s.client.value("SELECT waited >= '2 seconds' FROM wh.fetch_runs");
    assert_eq!(waited, "t", "what the run says that it waited");
}

#[test]
fn a_503_is_asked_again_on_any_page() {
    let Some(mut mock) = Mock::new("unavailable", &json!({})) else { return };
    for page in 0..PEOPLE / PAGE {
        mock.forget();
        mock.first(page, &[json!({"status": 503, "body": "<html>busy</html>"})]);
        assert_eq!(mock.s.fetch(), ALL, "page {page}");
        mock.assert_complete();
        mock.assert_counted(6);
    }
}

#[test]
fn a_connection_that_breaks_in_any_way_is_asked_again() {
    let Some(mut mock) = Mock::new("broken", &json!({})) else { return };
    for fault in FAULTS {
        for times in [1, RETRIES] {
            mock.forget();
            mock.first(2, &vec![json!({"fault": fault}); times]);
            assert_eq!(mock.s.fetch(), ALL, "{fault}");
            mock.assert_complete();
            mock.assert_counted(5 + times);
        }
    }
    // All of them, one after another, on the first page and the last.
    mock.forget();
    let each: Vec<Value> = FAULTS[..RETRIES].iter().map(|fault| json!({"fault": fault})).collect();
    mock.first(0, &each);
    mock.first(4, &each);
    assert_eq!(mock.s.fetch(), ALL);
    mock.assert_complete();
    mock.assert_counted(5 + 2 * RETRIES);
}

#[test]
fn a_fault_that_stays_fails_the_run_which_the_next_one_completes() {
    let Some(mut mock) = Mock::new("lasting", &json!({})) else { return };
    let down = json!({"status": 503, "body": "down for maintenance"});
    for fault in FAULTS.map(|fault| json!({"fault": fault})).into_iter().chain([down]) {
        mock.forget();
        let stub = mock.always(3, &fault);
        assert_eq!(mock.s.fetch(), "people|failed|300|300|0|0|0|0|0", "{fault}");
        let said = mock.said();
        assert!(said.starts_with("08006|") && said.contains("\"localhost:"), "{fault}: {said}");
        assert!(said.contains("It was tried 4 times."), "{fault}: {said}");
        assert!(fault["status"].is_null() || said.contains("status 503. It says: down for maintenance"), "{said}");
        mock.assert_counted(3 + 1 + RETRIES);
        let there: Vec<String> = stored(&mut mock.s.client, "api.people").into_keys().collect();
        assert_eq!(there, (0..300).map(id).collect::<Vec<_>>(), "{fault}: what came before is kept");
        mock.take_back(&stub);
        assert_eq!(mock.s.fetch(), "people|succeeded|200|200|0|0|0|0|0", "{fault}");
        mock.assert_complete();
        mock.assert_counted(3 + 1 + RETRIES + 2);
    }
}

#[test]
fn a_body_that_comes_in_drips_is_read_to_its_end() {
    let Some(mut mock) = Mock::new("dribble", &json!({})) else { return };
    let people: Vec<&Value> = mock.truth.values().skip(2 * PAGE).take(PAGE).collect();
    let body = json!({"data": people, "has_more": true}).to_string();
    let drips = json!({"numberOfChunks": 15, "totalDuration": 1500});
    mock.first(2, &[json!({"status": 200, "body": body, "chunkedDribbleDelay": drips})]);
    assert_eq!(mock.s.fetch(), ALL);
    mock.assert_complete();
    mock.assert_counted(5);
    assert_eq!(mock.s.client.value("SELECT finished - started >= '1.4 seconds' FROM wh.fetch_runs"), "t");
}

#[test]
fn an_answer_beyond_its_time_is_given_up_and_asked_for_again() {
    let Some(mut mock) = Mock::new("late", &json!({"request_ms": 1500})) else { return };
    let people: Vec<&Value> = mock.truth.values().skip(2 * PAGE).take(PAGE).collect();
    let body = json!({"data": people, "has_more": true}).to_string();
    let late = json!({"status": 200, "body": body, "fixedDelayMilliseconds": 30_000});
    let drips = json!({"numberOfChunks": 60, "totalDuration": 30_000});
    let slow = json!({"status": 200, "body": body, "chunkedDribbleDelay": drips});
    for answer in [late, slow] {
        mock.forget();
        mock.first(2, std::slice::from_ref(&answer));
        assert_eq!(mock.s.fetch(), ALL, "{answer}");
        mock.assert_complete();
        mock.assert_counted(6);
        // Always late.
        mock.forget();
        let stub = mock.always(2, &answer);
        assert_eq!(mock.s.fetch(), "people|failed|200|200|0|0|0|0|0");
        let said = mock.said();
        assert!(said.starts_with("08006|") && said.contains("\"localhost:") && said.contains("is too slow"), "{said}");
        assert!(said.contains("The time for the answer is 1500 ms. It was tried 4 times."), "{said}");
        mock.take_back(&stub);
        assert_eq!(mock.s.fetch(), "people|succeeded|300|300|0|0|0|0|0");
        mock.assert_complete();
        mock.assert_counted(2 + 1 + RETRIES + 3);
    }
}
