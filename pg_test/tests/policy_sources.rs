//! The policy of sensitive data over sources: what it names is not stored, and what was stored is emptied.

use pg_test::fake_api::Reply;
use pg_test::sources::{failure, listing, Sources};
use pg_test::ClientExt;
use serde_json::json;

fn answer(s: &Sources, records: &str) {
    let reply = Reply::text(200, "application/json", &format!("{{\"data\": [{records}], \"has_more\": false}}"));
    s.api.route("/cursor/people", move |_| reply.clone());
}

/// Every cell of every table and view of a schema, and of the statistics.
const EVERY_CELL: &str = "
    SELECT string_agg(query_to_xml(format('SELECT * FROM %s', c.oid::regclass), true, false, '')::text, '')
    FROM pg_class c WHERE relnamespace IN ('api'::regnamespace, 'wh'::regnamespace, 'ana'::regnamespace)
      AND relkind IN ('r', 'v', 'm') AND relname <> 'secret'";

const RECORD: &str = r#"{"id": "a", "name": "Ida", "apiToken": "xyzzy-1", "deep": {"list": [{"password": "xyzzy-2", "n": 1.50}]}},
    {"id": null, "api_token": "xyzzy-3", "note": "no key"}"#;

#[test]
fn what_is_marked_is_not_stored_at_any_depth() {
    let mut s = Sources::new("unstored");
    s.client.exec("SELECT FROM wh.mark_sensitive('%.%.%password%', 'x'); SELECT FROM wh.mark_sensitive('api.people.api\\_token', 'y')");
    answer(&s, RECORD);
    s.create(&[listing("people", &json!({}))]);
    assert_eq!(s.fetch(), "people|succeeded|2|1|0|0|0|0|1");
    assert_eq!(
        s.client.table("SELECT name, deep, _raw FROM api.people"),
        r#"Ida|{"list": [{"n": 1.50}]}|{"id": "a", "deep": {"list": [{"n": 1.50}]}, "name": "Ida"}"#
    );
    assert_eq!(
        s.client
            .value("SELECT count(*) FROM pg_attribute WHERE attname ~ 'token' AND attrelid = 'api.people'::regclass"),
        "0"
    );
    assert_eq!(
        s.client.table("SELECT \"column\", kind, state FROM wh.sensitive_columns ORDER BY 1"),
        "api.people.api_token|source|not stored\napi.people.password|source|not stored"
    );
    assert!(!s.client.value(EVERY_CELL).contains("xyzzy"));
    assert_eq!(s.fetch(), "people|succeeded|2|0|0|1|0|0|1");
    // Only the record that has no key is missing here.
    assert_eq!(s.client.table("SELECT count(*), min(difference) ~ 'primary key' FROM wh.verify_source('api')"), "1|t");
    let sample = s.client.value("SELECT sample FROM wh.test_source('api')");
    assert!(sample.contains("Ida") && !sample.contains("xyzzy"), "{sample}");
}

#[test]
fn what_was_stored_is_emptied_and_the_views_on_it_stand() {
    let mut s = Sources::new("emptied");
    answer(&s, RECORD);
    s.create(&[listing("people", &json!({}))]);
    s.fetch();
    // Values that come several times stand in statistics.
    let often: Vec<String> = (0..5).map(|n| format!(r#"{{"id": "z{n}", "apiToken": "xyzzy-1"}}"#)).collect();
    answer(&s, &format!("{RECORD},{}", often.join(",")));
    s.fetch();
    s.client.exec(
        "GRANT USAGE ON SCHEMA api TO ana; GRANT SELECT ON api.people TO ana; SET ROLE ana;
         CREATE VIEW ana.tokens AS SELECT id, api_token FROM api.people;
         CREATE MATERIALIZED VIEW ana.copied AS SELECT * FROM ana.tokens; ANALYZE ana.copied; RESET ROLE; ANALYZE api.people;
         CREATE TABLE before AS SELECT oid, relname FROM pg_class WHERE relname IN ('tokens', 'copied')",
    );
    assert!(s.client.value(EVERY_CELL).contains("xyzzy-1"), "there is something to empty");
    assert_ne!(s.client.value("SELECT count(*) FROM pg_statistic x WHERE x::text ~ 'xyzzy'"), "0");
    let done = s.client.changes("SELECT * FROM wh.mark_sensitive('%.%.%token', 'x')");
    let done: Vec<String> = done.iter().map(|c| format!("{} {}", c.object, c.action)).collect();
    assert_eq!(done, ["api.people.api_token emptied", "api.people._raw emptied"]);
    s.client.changes("SELECT * FROM wh.mark_sensitive('%.%.%password%', 'x')");
    assert!(!s.client.value(EVERY_CELL).contains("xyzzy"));
    assert_eq!(
        s.client.value(
            "SELECT count(*) FROM pg_stats WHERE most_common_vals::text ~ 'xyzzy' OR histogram_bounds::text ~ 'xyzzy'"
        ),
        "0"
    );
    assert_eq!(s.client.value("SELECT count(*) FROM pg_statistic x WHERE x::text ~ 'xyzzy'"), "0");
    assert_eq!(s.client.table("SELECT * FROM ana.copied ORDER BY id LIMIT 1"), "a|");
    assert_eq!(s.client.value("SELECT count(*) FROM before b JOIN pg_class c USING (oid, relname)"), "2");
    assert_eq!(
        s.client.table("SELECT DISTINCT \"column\", state FROM wh.sensitive_columns WHERE kind = 'source' ORDER BY 1"),
        "api.people.api_token|not stored"
    );
    // The next fetch leaves it out as well; taken back, everything comes again.
    assert_eq!(s.fetch(), "people|succeeded|7|0|6|0|0|0|1");
    assert!(!s.client.value(EVERY_CELL).contains("xyzzy"));
    s.client.exec("SELECT wh.unmark_sensitive('%.%.%token')");
    s.client.exec("SELECT FROM wh.fetch('api', full_refresh => true)");
    assert_eq!(s.client.table("SELECT * FROM ana.tokens ORDER BY id LIMIT 1"), "a|xyzzy-1");
}

#[test]
fn what_a_stream_cannot_do_without_is_not_taken_from_it() {
    let mut s = Sources::new("needed");
    answer(&s, r#"{"id": "a", "name": "Ida"}"#);
    s.create(&[listing("people", &json!({}))]);
    s.fetch();
    let error = s.client.error("SELECT * FROM wh.mark_sensitive('api.people.%', 'all of it')");
    assert_eq!(error.code().code(), "55000", "{error:?}");
    assert!(error.message().contains("\"id\""), "{error:?}");
    assert_eq!(s.client.value("SELECT count(*) FROM wh.sensitive_columns"), "0");
    // Marked before there was a source: it is not fetched.
    s.client.exec("SELECT wh.drop_source('api', true); SELECT FROM wh.mark_sensitive('api.people.id', 'x')");
    s.create(&[listing("people", &json!({}))]);
    let failure = failure(&mut s.client, "api");
    assert!(failure.starts_with("55000|") && failure.contains("\"id\""), "{failure}");
}

#[test]
fn a_fetch_that_began_before_the_marking_stores_nothing_after_it() {
    let mut s = Sources::new("fetching");
    s.create(&[listing("people", &json!({}))]);
    // The page comes only after the policy has changed.
    let (asked, was_asked) = std::sync::mpsc::channel();
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let (asked, may_go) = (std::sync::Mutex::new(asked), std::sync::Mutex::new(may_go));
    let first = std::sync::atomic::AtomicBool::new(true);
    s.api.route("/cursor/people", move |_| {
        if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            asked.lock().expect("a sender").send(()).expect("a test");
            may_go.lock().expect("a receiver").recv().expect("a test");
        }
        Reply::text(200, "application/json", r#"{"data": [{"id": "a", "token": "xyzzy"}], "has_more": false}"#)
    });
    let mut other = s.session();
    let fetching = std::thread::spawn(move || failure(&mut other, "api"));
    was_asked.recv().expect("a request");
    s.client.exec("SELECT FROM wh.mark_sensitive('%.%.token', 'x')");
    go.send(()).expect("the API");
    let failure = fetching.join().expect("a fetch");
    assert!(failure.contains("the policy of sensitive data changed"), "{failure}");
    assert_eq!(s.client.value("SELECT to_regclass('api.people') IS NULL"), "t");
    assert_eq!(s.fetch(), "people|succeeded|1|1|0|0|0|0|0");
    assert!(!s.client.value(EVERY_CELL).contains("xyzzy"));
}
