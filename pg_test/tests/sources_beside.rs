//! Fetches beside others at work: a second fetch, readers that hold the table, changes of the source meanwhile.

use pg_test::fake_api::{fill, Fault, Reply};
use pg_test::jobs;
use pg_test::sources::{assert_equal, assert_ledger, listing, Sources};
use pg_test::{wait_until, ClientExt};
use serde_json::json;

const OVER: &str = "SELECT NOT EXISTS (SELECT FROM wh.job_runs WHERE finished IS NULL)";

/// A source whose second page does not come, and a run that waits for it.
fn held_up(name: &str) -> Sources {
    let mut s = Sources::new(name);
    fill(&s.api, "people", 300, 60);
    s.create(&[listing("people", &json!({"limits": {"batch_rows": 100}}))]);
    s.api.fault("/cursor/people", 1, 1, Fault::Stall(100));
    s.client.exec("SELECT wh.run_job('fetch api', wait => false)");
    jobs::wait_for_true(&mut s.client, "SELECT coalesce(sum(received), 0) = 100 FROM wh.fetch_runs");
    wait_until("the second page is asked for", || s.api.asked("/cursor/people") == 2);
    s
}

#[test]
fn a_run_is_seen_while_it_goes_on_and_no_second_one_begins() {
    let mut s = held_up("seen");
    assert_eq!(s.client.table("SELECT running IS NOT NULL, last_status FROM wh.sources"), "t|");
    assert_eq!(
        s.client.table("SELECT stream, status, received, inserted FROM wh.fetch_runs"),
        "people|running|100|100"
    );
    assert_eq!(s.client.value("SELECT count(*) FROM api.people"), "100", "what came is there at once");
    let error = s.client.error("SELECT * FROM wh.fetch('api')");
    assert_eq!(error.code().code(), "55006", "{}", error.message());
    s.client.exec("SELECT wh.cancel_job('fetch api')");
    jobs::wait_for_true(&mut s.client, OVER);
    assert_eq!(s.client.table("SELECT running, last_status FROM wh.sources"), "|cancelled");
    let rest = s.fetch();
    assert!(rest.contains("|200|0|"), "the next run stores the rest: {rest}");
    assert_equal(&mut s.client, "api.people", &s.api, "people");
    assert_ledger(&mut s.client, "api");
}

#[test]
fn a_source_that_is_dropped_while_it_is_fetched_is_gone() {
    let mut s = held_up("dropped_meanwhile");
    s.client.exec("SELECT wh.drop_source('api', true)");
    // The API still does not answer; nobody could cancel a job that is no more.
    jobs::wait_for_true(&mut s.client, OVER);
    assert_eq!(s.client.value("SELECT to_regclass('api.people') IS NULL"), "t");
    assert_eq!(s.client.table("SELECT * FROM wh.source_state"), "");
    assert_eq!(s.client.table("SELECT status FROM wh.fetch_runs WHERE status = 'running'"), "");
    s.create(&[listing("people", &json!({}))]);
    assert_eq!(s.fetch(), "people|succeeded|300|300|0|0|0|0|0", "made again, from the start");
}

#[test]
fn a_reset_meanwhile_is_not_undone_by_the_run() {
    let mut s = held_up("reset_meanwhile");
    s.client.exec("SELECT wh.reset_source('api')");
    s.client.exec("SELECT wh.cancel_job('fetch api')");
    jobs::wait_for_true(&mut s.client, OVER);
    assert_eq!(s.fetch(), "people|succeeded|300|200|0|100|0|0|0");
    assert_equal(&mut s.client, "api.people", &s.api, "people");
}

#[test]
fn a_reader_that_holds_the_table_delays_a_new_column_and_no_other_reader() {
    let mut s = Sources::new("reader");
    fill(&s.api, "people", 3, 60);
    s.create(&[listing("people", &json!({}))]);
    s.fetch();
    let mut reader = s.session();
    reader.exec("BEGIN; SELECT count(*) FROM api.people");
    s.api.put("people", json!({"id": "new", "created": 1, "new_field": "x", "n": 1.5}));
    s.client.exec("SELECT wh.run_job('fetch api', wait => false)");
    let attempts = "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'api.people'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted";
    jobs::wait_for_true(&mut s.client, attempts);
    // It gives way at once: a reader that comes now is not kept waiting behind it.
    let mut other = s.session();
    other.exec("SET lock_timeout = '1s'");
    for _ in 0..5 {
        assert_eq!(other.value("SELECT count(*) FROM api.people"), "3");
    }
    assert_eq!(s.client.value("SELECT status FROM wh.job_runs ORDER BY run DESC LIMIT 1"), "running");
    reader.exec("COMMIT");
    jobs::wait_for_true(&mut s.client, OVER);
    assert_eq!(s.client.value("SELECT status FROM wh.job_runs ORDER BY run DESC LIMIT 1"), "succeeded");
    assert_eq!(s.client.table("SELECT new_field, n FROM api.people WHERE id = 'new'"), "x|1.5");
    assert_ledger(&mut s.client, "api");
}

#[test]
fn keys_of_several_members_tell_rows_apart_with_and_without_raw() {
    let mut s = Sources::new("composite");
    for raw in [true, false] {
        let name = if raw { "with_raw" } else { "without_raw" };
        let page = |n: i64| {
            Reply::json(&json!({"has_more": false, "data": [
                {"team": 1, "user": {"id": "a"}, "n": n}, {"team": 2, "user": {"id": "a"}, "n": 5}, {"team": 1, "user": {"id": "b"}, "n": 6}]}))
        };
        let (before, after) = (page(4), page(7));
        let path = format!("/cursor/{name}");
        s.api.route(&path, move |_| before.clone());
        let stream = listing(name, &json!({"primary_key": ["/team", "/user/id"], "version": null, "raw": raw}));
        pg_test::sources::create(&mut s.client, &s.api, name, &json!({"streams": [stream]}));
        let fetch = |s: &mut Sources| pg_test::sources::fetch(&mut s.client, name);
        assert_eq!(fetch(&mut s), format!("{name}|succeeded|3|3|0|0|0|0|0"));
        assert_eq!(fetch(&mut s), format!("{name}|succeeded|3|0|0|3|0|0|0"));
        s.api.route(&path, move |_| after.clone());
        assert_eq!(fetch(&mut s), format!("{name}|succeeded|3|0|1|2|0|0|0"));
        assert_eq!(s.client.value(&format!("SELECT string_agg(n::text, ',' ORDER BY n) FROM {name}.{name}")), "5,6,7");
        let key = s.client.value(&format!(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = '{name}.{name}'::regclass AND contype = 'p'"
        ));
        assert_eq!(key, "PRIMARY KEY (team, id)");
        assert_eq!(
            s.client.value(&format!(
                "SELECT count(*) FROM pg_attribute WHERE attrelid = '{name}.{name}'::regclass AND attname = '_raw'"
            )),
            if raw { "1" } else { "0" }
        );
        assert_ledger(&mut s.client, name);
    }
}
