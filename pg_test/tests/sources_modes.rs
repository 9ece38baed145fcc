//! What a stream's rows become: write modes, deletes, events, parents, children, and looks that write nothing.

use std::sync::OnceLock;

use pg_test::fake_api::{fill, FakeApi, Fault, Reply};
use pg_test::{wait_until, Client, ClientExt, Cluster};
use serde_json::{json, Value};

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    let settings = [("startup_wh.allow_private_network", "127.0.0.0/8"), ("synchronous_commit", "on")];
    CLUSTER.get_or_init(|| pg_test::warehouse::cluster("sources_modes", &settings))
}

fn database(name: &str) -> Client {
    pg_test::warehouse::create(cluster(), name)
}

fn source(c: &mut Client, api: &FakeApi, streams: Value) {
    let spec = json!({"base_url": api.url("/"), "streams": streams, "retry": {"max": 1, "base_ms": 1}});
    c.exec(&format!("SELECT wh.create_source('s', spec => $spec${spec}$spec$)"));
}

/// A listing of a collection of the fake API, with members over it.
fn things(over: Value) -> Value {
    let mut stream = json!({"name": "things", "path": "cursor/things", "params": {"limit": 10}, "records": "/data",
        "paginator": {"type": "cursor", "param": "starting_after", "from": "last_record:/id", "more": "/has_more"}});
    if let (Some(stream), Some(over)) = (stream.as_object_mut(), over.as_object()) {
        stream.extend(over.clone());
    }
    stream
}

/// `status|inserted|updated|unchanged|deleted|error` of a fetch of one stream.
#[track_caller]
fn fetch(c: &mut Client) -> String {
    c.table("SELECT status, inserted, updated, unchanged, deleted, error FROM wh.fetch('s') WHERE stream = 'things'")
}

/// The next run looks for deleted rows.
fn due(c: &mut Client) {
    c.exec("UPDATE wh.source_state SET last_full = now() - interval '2 days'");
}

/// What the API holds, and what the table does: ids and numbers.
fn truth(api: &FakeApi) -> Vec<String> {
    let mut rows: Vec<String> =
        api.objects("things").iter().map(|o| format!("{}|{}", o["id"].as_str().unwrap_or_default(), o["n"])).collect();
    rows.sort();
    rows
}

#[track_caller]
fn stored(c: &mut Client) -> Vec<String> {
    let rows = c.table("SELECT id, n FROM s.things WHERE _deleted_at IS NULL ORDER BY id COLLATE \"C\"");
    rows.lines().map(str::to_owned).collect()
}

#[test]
fn replaced_rows_come_all_at_once_into_the_same_table() {
    let (api, mut c) = (FakeApi::http(), database("replaced"));
    fill(&api, "things", 35, 1);
    source(&mut c, &api, json!([things(json!({"write": "replace", "limits": {"batch_rows": 10}}))]));
    assert_eq!(fetch(&mut c), "succeeded|35|0|0|0|");
    assert_eq!(stored(&mut c), truth(&api));
    let oid = c.value("SELECT 's.things'::regclass::oid");
    c.exec("CREATE VIEW v AS SELECT id FROM s.things; GRANT SELECT ON s.things TO ana");
    api.delete("things", "id_000003");
    api.put("things", json!({"id": "id_000004", "created": 1_700_000_004, "n": 400}));
    // One that fails in the middle changes nothing.
    api.fault("/cursor/things", 2, 2, Fault::Reply(Reply::text(500, "text/plain", "no")));
    assert_eq!(c.value("SELECT status FROM wh.fetch('s')"), "failed");
    assert_eq!(c.table("SELECT count(*), bool_or(n = 400) FROM s.things"), "35|f");
    assert_eq!(fetch(&mut c), "succeeded|14|0|0|35|");
    assert_eq!(stored(&mut c), truth(&api));
    assert_eq!(c.value("SELECT 's.things'::regclass::oid"), oid);
    assert_eq!(c.table("SELECT count(*), has_table_privilege('ana', 's.things', 'SELECT') FROM v"), "34|t");
    assert_eq!(c.value("SELECT count(*) FROM pg_class WHERE relname ~ '^_(aside|seen)_'"), "0");
    assert_eq!(c.value("SELECT rows FROM wh.source_streams"), "34");
}

#[test]
fn a_replaced_table_with_a_key_loses_what_the_api_no_longer_lists() {
    let (api, mut c) = (FakeApi::http(), database("replaced_keyed"));
    fill(&api, "things", 35, 1);
    source(&mut c, &api, json!([things(json!({"write": "replace", "primary_key": ["/id"]}))]));
    assert_eq!(fetch(&mut c), "succeeded|35|0|0|0|");
    api.change(|store| store.entry("things".into()).or_default().truncate(5));
    api.put("things", json!({"id": "id_000001", "created": 1_700_000_001, "n": 100}));
    assert_eq!(fetch(&mut c), "succeeded|0|1|4|30|");
    assert_eq!(c.value("SELECT count(*) FROM s.things"), "5");
    assert_eq!(stored(&mut c), truth(&api));
}

#[test]
fn an_appended_table_holds_each_record_once_a_run_whatever_breaks() {
    let (api, mut c) = (FakeApi::http(), database("appended"));
    fill(&api, "things", 35, 1);
    source(&mut c, &api, json!([things(json!({"write": "append", "limits": {"batch_rows": 10}}))]));
    api.fault("/cursor/things", 3, 2, Fault::Cut(40));
    assert_eq!(c.value("SELECT status FROM wh.fetch('s')"), "failed");
    assert_eq!(c.value("SELECT coalesce(sum(received), 0) FROM wh.fetch_runs"), "30");
    assert_eq!(c.value("SELECT count(*) FROM s.things"), "0");
    // It goes on with the page that broke.
    api.forget();
    assert_eq!(fetch(&mut c), "succeeded|5|0|0|0|");
    assert_eq!(api.asked("/cursor/things"), 1);
    assert_eq!(stored(&mut c), truth(&api));
    assert_eq!(fetch(&mut c), "succeeded|35|0|0|0|");
    assert_eq!(c.table("SELECT count(*), count(DISTINCT id) FROM s.things"), "70|35");
}

#[test]
fn half_of_a_page_that_is_larger_than_a_batch_never_counts() {
    let (api, mut c) = (FakeApi::http(), database("large_page"));
    fill(&api, "things", 5000, 1);
    let over = json!({"write": "append", "params": {"limit": 5000}, "limits": {"batch_rows": 100}});
    source(&mut c, &api, json!([things(over)]));
    api.fault("/cursor/things", 0, 1, Fault::Cut(200_000));
    assert_eq!(c.value("SELECT status FROM wh.fetch('s')"), "failed");
    assert_eq!(c.value("SELECT sum(inserted) > 0 FROM wh.fetch_runs"), "t", "it was not stored in parts");
    assert_eq!(c.value("SELECT count(*) FROM s.things"), "0");
    assert_eq!(fetch(&mut c), "succeeded|5000|0|0|0|");
    assert_eq!(stored(&mut c), truth(&api));
}

#[test]
fn a_failing_stream_names_itself_and_waits_as_long_as_it_was_told() {
    let (api, mut c) = (FakeApi::http(), database("waits"));
    fill(&api, "things", 35, 1);
    source(&mut c, &api, json!([things(json!({"primary_key": ["/id"]}))]));
    let later = Reply::text(429, "text/plain", "later").with("Retry-After", "3600");
    api.fault("/cursor/things", 2, 1, Fault::Reply(later));
    assert_eq!(c.value("SELECT status FROM wh.fetch('s')"), "failed");
    assert_eq!(c.value("SELECT count(*) FROM s.things"), "20");
    assert_eq!(
        c.value("SELECT (state->>'not_before')::numeric - extract(epoch FROM now()) BETWEEN 3500 AND 3700 FROM wh.source_streams"),
        "t"
    );
    let error = c.table("SELECT status, error FROM wh.job_runs ORDER BY run DESC LIMIT 1");
    assert!(error.contains("\"things\""), "{error}");
    api.forget();
    assert_eq!(c.value("SELECT status FROM wh.fetch('s')"), "failed");
    assert_eq!(api.log().len(), 0, "it was asked all the same");
    assert!(c.value("SELECT error FROM wh.job_runs ORDER BY run DESC LIMIT 1").contains("stream \"things\""));
    c.exec("UPDATE wh.source_state SET state = state || '{\"not_before\": 1}'");
    assert_eq!(fetch(&mut c), "succeeded|15|0|0|0|");
    assert_eq!(api.asked("/cursor/things"), 2, "the pages before are stored");
    assert_eq!(stored(&mut c), truth(&api));
}

#[test]
fn a_sweep_marks_what_is_gone_and_revives_what_is_back() {
    let (api, mut c) = (FakeApi::http(), database("swept"));
    fill(&api, "things", 30, 1);
    source(
        &mut c,
        &api,
        json!([things(json!({"primary_key": ["/id"], "deletes": {"sweep": "1d", "max_fraction": 0.2}}))]),
    );
    assert_eq!(fetch(&mut c), "succeeded|30|0|0|0|");
    assert_eq!(fetch(&mut c), "succeeded|0|0|30|0|", "not due");
    due(&mut c);
    let gone = api.objects("things").remove(7);
    api.delete("things", "id_000007");
    // A scan that does not come to its end says nothing of what it did not see.
    api.fault("/cursor/things", 1, 2, Fault::Reply(Reply::text(500, "text/plain", "no")));
    assert_eq!(c.value("SELECT status FROM wh.fetch('s')"), "failed");
    assert_eq!(c.value("SELECT count(*) FROM s.things WHERE _deleted_at IS NOT NULL"), "0");
    assert_eq!(fetch(&mut c), "succeeded|0|0|19|1|");
    assert_eq!(c.value("SELECT id FROM s.things WHERE _deleted_at IS NOT NULL"), "id_000007");
    assert_eq!(stored(&mut c), truth(&api));
    api.put("things", gone);
    due(&mut c);
    assert_eq!(fetch(&mut c), "succeeded|0|1|29|0|");
    assert_eq!(stored(&mut c), truth(&api));
    // Too much of the table.
    let all = api.objects("things");
    api.change(|store| store.entry("things".into()).or_default().truncate(10));
    due(&mut c);
    assert_eq!(c.value("SELECT status FROM wh.fetch('s')"), "failed");
    let error = c.value("SELECT error FROM wh.job_runs ORDER BY run DESC LIMIT 1");
    assert_eq!(error, "a sweep of stream \"things\" would delete 20 of 30 rows");
    assert_eq!(c.value("SELECT count(*) FROM s.things WHERE _deleted_at IS NULL"), "30");
    api.change(|store| *store.entry("things".into()).or_default() = all);
    assert_eq!(fetch(&mut c), "succeeded|0|0|30|0|");
    assert_eq!(c.value("SELECT count(*) FROM pg_class WHERE relname ~ '^_(aside|seen)_'"), "0");
}

#[test]
fn a_missing_record_is_asked_for_before_it_is_removed() {
    let (api, mut c) = (FakeApi::http(), database("confirmed"));
    fill(&api, "things", 30, 1);
    let deletes = json!({"sweep": "1d", "confirm": "get", "path": "one/things/{id}", "hard": true});
    source(&mut c, &api, json!([things(json!({"primary_key": ["/id"], "deletes": deletes}))]));
    assert_eq!(fetch(&mut c), "succeeded|30|0|0|0|");
    api.delete("things", "id_000007");
    due(&mut c);
    let page = api.objects("things");
    // A listing that forgets one that is there.
    api.route("/cursor/things", move |_| {
        let listed: Vec<Value> = page.iter().filter(|o| o["id"] != "id_000009").cloned().collect();
        Reply::json(&json!({"data": listed, "has_more": false}))
    });
    assert_eq!(fetch(&mut c), "succeeded|0|0|29|1|");
    assert_eq!(api.asked("/one/things"), 2);
    assert_eq!(c.value("SELECT count(*) FROM s.things"), "29");
    assert_eq!(stored(&mut c), truth(&api));
}

#[test]
fn the_time_of_a_run_is_that_of_all_its_parts() {
    let (api, mut c) = (FakeApi::http(), database("run_time"));
    fill(&api, "things", 30, 1);
    let deletes = json!({"sweep": "1d", "confirm": "get", "path": "one/things/{id}"});
    let over = json!({"primary_key": ["/id"], "deletes": deletes, "limits": {"run_ms": 2500}});
    source(&mut c, &api, json!([things(over)]));
    assert_eq!(fetch(&mut c), "succeeded|30|0|0|0|");
    api.delete("things", "id_000007");
    due(&mut c);
    let slow = |_: &mut pg_test::fake_api::Store| std::thread::sleep(std::time::Duration::from_millis(1600));
    // Each part alone would have had the time.
    api.before_request("/cursor/things", 0, slow);
    api.before_request("/one/things", 0, slow);
    assert!(fetch(&mut c).starts_with("failed|0|0|29|0|stream \"things\": the run's time is used up"));
    assert_eq!(fetch(&mut c), "succeeded|0|0|29|1|");
}

#[test]
fn a_flag_deletes() {
    let (api, mut c) = (FakeApi::http(), database("flagged"));
    fill(&api, "things", 3, 1);
    source(&mut c, &api, json!([things(json!({"primary_key": ["/id"], "deletes": {"flag": "/gone", "hard": true}}))]));
    api.put("things", json!({"id": "id_000001", "created": 1, "n": 1, "gone": true}));
    assert_eq!(fetch(&mut c), "succeeded|2|0|1|0|");
    api.put("things", json!({"id": "id_000002", "created": 2, "n": 2, "gone": true}));
    assert_eq!(fetch(&mut c), "succeeded|0|1|2|1|");
    assert_eq!(c.table("SELECT id FROM s.things"), "id_000000");
    assert_eq!(c.value("SELECT rows FROM wh.source_streams"), "1");
}

#[test]
fn events_say_which_records_are_asked_for_again() {
    let (api, mut c) = (FakeApi::http(), database("events"));
    fill(&api, "things", 30, 1);
    let events = json!({"name": "events", "path": "cursor/events", "records": "/data", "primary_key": ["/id"],
        "paginator": {"type": "cursor", "param": "starting_after", "from": "last_record:/id", "more": "/has_more"},
        "incremental": {"cursor": "/created", "format": "epoch_s", "start": "created[gte]", "order": "desc"}});
    let listed = things(json!({"primary_key": ["/id"],
        "incremental": {"cursor": "/created", "format": "epoch_s", "start": "created[gte]", "order": "desc"},
        "changes": {"stream": "events", "types": ["thing.*"], "deleted_types": ["thing.deleted"], "retention_s": 86400,
                    "object": "/data/object", "refetch": "one/things/{id}"}}));
    source(&mut c, &api, json!([listed, events]));
    let event = |n: u64, kind: &str, thing: &str| json!({"id": format!("e{n}"), "created": 1_700_000_000 + n, "type": kind, "data": {"object": {"id": thing, "n": -1}}});
    api.put("events", event(0, "thing.updated", "id_000001"));
    assert_eq!(fetch(&mut c), "succeeded|30|0|0|0|");
    assert_eq!(api.asked("/one/things"), 0);
    api.put("things", json!({"id": "id_000003", "created": 1_700_000_003, "n": 300}));
    api.delete("things", "id_000004");
    api.put("events", event(1, "thing.updated", "id_000003"));
    api.put("events", event(2, "thing.deleted", "id_000004"));
    api.put("events", event(3, "other.updated", "id_000005"));
    assert_eq!(fetch(&mut c), "succeeded|0|1|1|1|");
    assert_eq!(api.asked("/one/things"), 2);
    assert_eq!(stored(&mut c), truth(&api));
    api.forget();
    assert_eq!(fetch(&mut c), "succeeded|0|0|1|0|");
    assert_eq!(api.asked("/one/things"), 0);
    // Events that were missed are made up for by reading everything.
    c.exec("UPDATE wh.source_state SET last_success = now() - interval '2 days' WHERE stream = 'things'");
    assert_eq!(fetch(&mut c), "succeeded|0|0|29|0|");
}

#[test]
fn a_look_at_a_source_shows_columns_and_writes_nothing() {
    let (api, mut c) = (FakeApi::http(), database("looked"));
    fill(&api, "things", 35, 1);
    let notes = json!({"name": "notes", "path": "one/things/{thing}", "records": "", "primary_key": ["/id"],
        "parent": {"stream": "things", "bind": {"thing": "/id"}}});
    let refused = json!({"name": "refused", "path": "one/things/none", "records": "", "primary_key": ["/id"]});
    source(&mut c, &api, json!([things(json!({"primary_key": ["/id"], "hide": ["/n"]})), notes, refused]));
    assert_eq!(
        c.table("SELECT stream, status, records, columns->1->>'column', columns->1->>'type', sample FROM wh.test_source('s', 'things')"),
        "things|200|10|created|bigint|{\"created\":1700000034,\"id\":\"id_000034\"}"
    );
    assert_eq!(
        c.table("SELECT stream, records, error ~ '404' FROM wh.test_source('s')"),
        "things|10|\nnotes|1|\nrefused||t"
    );
    assert_eq!(c.table("SELECT to_regclass('s.things'), count(*) FROM wh.source_state"), "|0");
    assert_eq!(c.error("SELECT * FROM wh.test_source('s', 'no')").code().code(), "42704");
    // A cancel is obeyed while nothing answers.
    api.fault("/cursor/things", 0, 1, Fault::Hang);
    let error = c.error("SET statement_timeout = '300ms'; SELECT * FROM wh.test_source('s', 'things')");
    assert_eq!(error.code().code(), "57014");
}

#[test]
fn verification_finds_each_difference_and_none_where_there_is_none() {
    let (api, mut c) = (FakeApi::http(), database("verified"));
    fill(&api, "things", 35, 1);
    let listed = json!({"name": "listed", "path": "cursor/things", "params": {"limit": 100}, "records": "/data"});
    source(&mut c, &api, json!([things(json!({"primary_key": ["/id"]})), listed]));
    assert_eq!(c.value("SELECT count(*) FROM wh.verify_source('s')"), "70", "nothing is stored yet");
    c.exec("SELECT wh.fetch('s')");
    assert_eq!(c.table("SELECT * FROM wh.verify_source('s')"), "");
    api.put("things", json!({"id": "id_000003", "created": 1_700_000_003, "n": 300}));
    api.put("things", json!({"id": "id_new", "created": 1_700_000_103, "n": 1}));
    api.delete("things", "id_000004");
    c.exec("UPDATE s.things SET _deleted_at = now() WHERE id = 'id_000005'");
    let before = c.value("SELECT string_agg(t::text, ',' ORDER BY stream) FROM wh.source_state t");
    assert_eq!(
        c.table("SELECT key, difference FROM wh.verify_source('s') WHERE stream = 'things' ORDER BY key COLLATE \"C\""),
        "id_000003|different\nid_000004|not in the API\nid_000005|deleted in the table, and not in the API\nid_new|missing in the table"
    );
    assert_eq!(
        c.table("SELECT difference, count(*) FROM wh.verify_source('s') WHERE stream = 'listed' GROUP BY 1 ORDER BY 1"),
        "missing in the table, 1 times|2\nnot in the API, 1 times|2"
    );
    assert_eq!(c.value("SELECT string_agg(t::text, ',' ORDER BY stream) FROM wh.source_state t"), before);
    api.fault("/cursor/things", 1, 2, Fault::Reply(Reply::text(500, "text/plain", "no")));
    assert_eq!(c.error("SELECT * FROM wh.verify_source('s')").code().code(), "08006", "a part is no whole");
}

#[test]
fn children_are_asked_for_by_parent_and_go_on_where_a_run_ended() {
    let (api, mut c) = (FakeApi::http(), database("parents"));
    fill(&api, "things", 20, 1);
    api.route("/notes/", |asked| {
        let thing = asked.path.trim_start_matches("/notes/");
        Reply::json(&json!({"data": [{"no": 1, "of": thing}, {"no": 2, "of": thing}]}))
    });
    let notes = json!({"name": "notes", "path": "notes/{thing_id}", "records": "/data", "primary_key": ["/no"],
        "parent": {"stream": "things", "bind": {"thing_id": "/id"}, "changed_only": true, "in_key": true}});
    source(&mut c, &api, json!([notes, things(json!({"primary_key": ["/id"]}))]));
    api.fault("/notes/", 12, 2, Fault::Reply(Reply::text(500, "text/plain", "no")));
    assert_eq!(c.table("SELECT stream, status FROM wh.fetch('s') ORDER BY 1"), "notes|failed\nthings|succeeded");
    assert_eq!(c.value("SELECT count(*) FROM s.notes"), "24");
    api.forget();
    assert_eq!(c.table("SELECT stream, inserted FROM wh.fetch('s') ORDER BY 1"), "notes|16\nthings|0");
    assert_eq!(api.asked("/notes/"), 8);
    assert_eq!(
        c.table("SELECT count(*), count(DISTINCT thing_id), bool_and(thing_id = \"of\") FROM s.notes"),
        "40|20|t"
    );
    api.forget();
    api.put("things", json!({"id": "id_000003", "created": 1_700_000_003, "n": 300}));
    assert_eq!(
        c.table("SELECT stream, status, unchanged FROM wh.fetch('s') WHERE stream = 'notes'"),
        "notes|succeeded|2"
    );
    assert_eq!(api.asked("/notes/"), 1, "one parent changed");
    assert_eq!(c.table("SELECT * FROM wh.verify_source('s')"), "");
}

#[test]
fn arrays_inside_records_are_replaced_with_their_row() {
    let (api, mut c) = (FakeApi::http(), database("arrays"));
    let order = |id: u64, lines: Value| json!({"id": id, "created": id, "lines": lines, "tags": ["a", 2, null], "log": [{"at": 1}]});
    api.put("things", order(1, json!([{"sku": "x", "n": 1}, {"sku": "y", "n": 2.25}])));
    api.put("things", order(2, json!([{"sku": "x", "n": 9}])));
    let children = json!([{"pointer": "/lines", "name": "thing_lines", "primary_key": ["/sku"]},
        {"pointer": "/tags", "name": "thing_tags"}, {"pointer": "/log", "name": "history", "as": "jsonb"}]);
    let over = json!({"primary_key": ["/id"], "children": children, "limits": {"batch_rows": 1},
        "deletes": {"sweep": "1d", "max_fraction": 1, "hard": true}});
    source(&mut c, &api, json!([things(over)]));
    assert_eq!(fetch(&mut c), "succeeded|2|0|0|0|");
    let lines = "SELECT things_id, sku, n FROM s.thing_lines ORDER BY 1, 2";
    assert_eq!(c.table(lines), "1|x|1\n1|y|2.25\n2|x|9");
    assert_eq!(
        c.table("SELECT things_id, _position, value FROM s.thing_tags ORDER BY 1, 2"),
        "1|0|a\n1|1|2\n2|0|a\n2|1|2"
    );
    assert_eq!(
        c.table(
            "SELECT t.id, l.sku, t.history FROM s.things t JOIN s.thing_lines l ON l.things_id = t.id WHERE t.id = 2"
        ),
        "2|x|[{\"at\": 1}]"
    );
    assert_eq!(
        c.value("SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 's.things'::regclass AND attnum > 0"),
        "id history created _raw _hash _version _fetched_at _deleted_at"
    );
    // Only what changed is written.
    c.exec("CREATE TABLE before AS SELECT things_id, ctid AS at FROM s.thing_lines");
    api.put("things", order(1, json!([{"sku": "y", "n": 3}, {"sku": "z", "n": 4}])));
    assert_eq!(fetch(&mut c), "succeeded|0|1|1|0|");
    assert_eq!(c.table(lines), "1|y|3\n1|z|4\n2|x|9");
    assert_eq!(
        c.value("SELECT count(*) FROM s.thing_lines l JOIN before b ON b.at = l.ctid AND b.things_id = l.things_id"),
        "1"
    );
    api.delete("things", "1");
    due(&mut c);
    assert_eq!(fetch(&mut c), "succeeded|0|0|1|1|");
    assert_eq!(c.table(lines), "2|x|9");
    assert_eq!(c.table("SELECT source, rows FROM wh.source_state WHERE stream = 'thing_lines'").len(), 3);
}

#[test]
fn a_running_fetch_shows_its_pages_and_rows_and_ends_when_it_is_cancelled() {
    let (api, mut c) = (FakeApi::http(), database("shown"));
    fill(&api, "things", 35, 1);
    source(&mut c, &api, json!([things(json!({"primary_key": ["/id"], "limits": {"batch_rows": 10}}))]));
    api.fault("/cursor/things", 2, 1, Fault::Hang);
    let waiting = std::thread::spawn(|| {
        let mut other = cluster().connect("shown").expect("a connection");
        other.simple_query("SELECT wh.fetch('s')").is_ok()
    });
    let running = "SELECT count(*) = 1 FROM wh.sources WHERE running_requests >= 2 AND running_records = 20";
    wait_until("two pages are shown", || c.value(running) == "t");
    assert_eq!(c.value("SELECT count(*) FROM s.things"), "20");
    c.exec("SELECT wh.cancel_job('fetch s')");
    waiting.join().expect("a thread");
    wait_until("the run has ended", || c.value("SELECT status FROM wh.fetch_runs") == "failed");
    assert_eq!(c.table("SELECT running, running_requests, last_status FROM wh.sources"), "||cancelled");
    assert_eq!(fetch(&mut c), "succeeded|15|0|10|0|");
    assert_eq!(stored(&mut c), truth(&api));
}
