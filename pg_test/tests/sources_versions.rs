//! What decides whether a record replaces the row that is there: its version, its content, its parent, its last event.

use pg_test::fake_api::Reply;
use pg_test::sources::{assert_ledger, listing, Sources};
use pg_test::ClientExt;
use serde_json::json;

#[test]
fn the_newer_version_stays_however_versions_are_written() {
    let mut s = Sources::new("versions");
    s.create(&[listing("people", &json!({}))]);
    let cases = [
        ("number", json!(9.5), json!(10.25), "new"),
        ("digits", json!("9"), json!("10"), "new"),
        ("fraction", json!(10.25), json!(9.5), "old"),
        ("zone", json!("2026-01-31T12:00:00Z"), json!("2026-01-31T11:30:00-01:00"), "new"),
        ("fold", json!("2026-01-31T12:00:00+00:00"), json!("2026-01-31T12:30:00+01:00"), "old"),
        ("micros", json!("2026-01-31T12:00:00Z"), json!("2026-01-31T12:00:00.5Z"), "new"),
        ("kinds", json!("2026-01-31T12:00:00Z"), json!(1), "new"),
        ("text", json!("b"), json!("a"), "old"),
    ];
    for (id, old, _, _) in &cases {
        s.api.put("people", json!({"id": id, "created": 1, "updated": old, "name": "old"}));
    }
    assert_eq!(s.fetch(), "people|succeeded|8|8|0|0|0|0|0");
    for (id, _, new, _) in &cases {
        s.api.put("people", json!({"id": id, "created": 1, "updated": new, "name": "new"}));
    }
    assert_eq!(s.fetch(), "people|succeeded|8|0|5|0|3|0|0");
    for (id, _, _, expected) in &cases {
        assert_eq!(s.client.value(&format!("SELECT name FROM api.people WHERE id = '{id}'")), *expected, "{id}");
    }
    assert_ledger(&mut s.client, "api");
}

#[test]
fn a_child_that_moves_to_another_parent_moves_here_too() {
    let mut s = Sources::new("moved");
    for id in ["a", "b"] {
        s.api.put("boards", json!({"id": id, "created": 1}));
    }
    let card = |of: &str| {
        let of = of.to_owned();
        move |asked: &pg_test::fake_api::Asked| {
            let cards = if asked.path.ends_with(&of) { json!([{"id": 1, "text": "a card"}]) } else { json!([]) };
            Reply::json(&json!({ "data": cards }))
        }
    };
    s.api.route("/cards/", card("a"));
    let cards = json!({"name": "cards", "path": "cards/{board}", "records": "/data", "primary_key": ["/id"],
        "parent": {"stream": "boards", "bind": {"board": "/id"}}});
    s.create(&[listing("boards", &json!({"version": null})), cards]);
    s.fetch();
    assert_eq!(s.client.table("SELECT id, board FROM api.cards"), "1|a");
    s.api.route("/cards/", card("b"));
    assert_eq!(s.client.table("SELECT key, difference FROM wh.verify_source('api')"), "1|different");
    assert_eq!(s.fetch(), "boards|succeeded|2|0|0|2|0|0|0\ncards|succeeded|1|0|1|0|0|0|0");
    assert_eq!(s.client.table("SELECT id, board FROM api.cards"), "1|b");
    assert_eq!(s.client.table("SELECT * FROM wh.verify_source('api')"), "");
    assert_eq!(s.fetch(), "boards|succeeded|2|0|0|2|0|0|0\ncards|succeeded|1|0|0|1|0|0|0");
}

#[test]
fn a_record_of_several_parents_is_written_once_and_is_no_difference() {
    for (name, batch_rows) in [("together", 100), ("apart", 1)] {
        let mut s = Sources::new(&format!("shared_{name}"));
        for id in ["a", "b", "c"] {
            s.api.put("boards", json!({"id": id, "created": 1}));
        }
        s.api.route("/cards/", |_| Reply::json(&json!({"data": [{"id": 1, "text": "a card"}]})));
        let cards = json!({"name": "cards", "path": "cards/{board}", "records": "/data", "primary_key": ["/id"],
            "parent": {"stream": "boards", "bind": {"board": "/id"}}, "limits": {"batch_rows": batch_rows}});
        s.create(&[listing("boards", &json!({"version": null})), cards]);
        assert!(s.fetch().ends_with("cards|succeeded|3|1|0|0|0|2|0"), "{name}");
        let row = "SELECT ctid, xmin, board FROM api.cards";
        let stored = s.client.table(row);
        for _ in 0..2 {
            assert!(s.fetch().ends_with("cards|succeeded|3|0|0|1|0|2|0"), "{name}");
            assert_eq!(s.client.table(row), stored, "{name}");
        }
        assert_eq!(s.client.table("SELECT * FROM wh.verify_source('api')"), "", "{name}");
        // A change that the second of them shows is no other parent's record.
        s.api.route("/cards/", |asked| {
            let text = if asked.path.ends_with('a') { "a card" } else { "changed meanwhile" };
            Reply::json(&json!({"data": [{"id": 1, "text": text}]}))
        });
        s.fetch();
        assert_eq!(s.client.value("SELECT text FROM api.cards"), "changed meanwhile", "{name}");
        assert_ledger(&mut s.client, "api");
    }
}

#[test]
fn a_record_that_was_deleted_and_restored_between_two_runs_is_there() {
    let mut s = Sources::new("restored_event");
    for n in 0..4 {
        s.api.put("things", json!({"id": format!("t{n}"), "created": n, "n": n}));
    }
    let rule = json!({"cursor": "/created", "format": "epoch_s", "start": "created[gte]", "order": "desc"});
    let things = listing(
        "things",
        &json!({"version": null, "incremental": rule,
        "changes": {"stream": "events", "types": ["thing.*"], "deleted_types": ["thing.deleted"], "retention_s": 86400,
                    "object": "/data/object", "refetch": "one/things/{id}"}}),
    );
    s.create(&[things, listing("events", &json!({"version": null, "incremental": rule}))]);
    let event = |n: u64, kind: &str, thing: &str| json!({"id": format!("e{n}"), "created": 1_700_000_000 + n, "type": kind, "data": {"object": {"id": thing}}});
    s.api.put("events", event(0, "thing.updated", "t0"));
    s.fetch();
    let deleted = "SELECT string_agg(id, ' ' ORDER BY id) FROM api.things WHERE _deleted_at IS NOT NULL";
    // Deleted and restored; deleted in the end, where the API still answers with what is left of it.
    for (n, kind, thing) in [(2, "restored", "t1"), (1, "deleted", "t1"), (3, "updated", "t2"), (4, "deleted", "t2")] {
        s.api.put("events", event(n, &format!("thing.{kind}"), thing));
    }
    s.api.put("things", json!({"id": "t1", "created": 1, "n": 100}));
    assert_eq!(s.client.value("SELECT string_agg(DISTINCT status, ' ') FROM wh.fetch('api')"), "succeeded");
    assert_eq!(s.client.value(deleted), "t2");
    assert_eq!(s.client.value("SELECT n FROM api.things WHERE id = 't1'"), "100");
    s.api.put("events", event(9, "thing.deleted", "t0"));
    s.api.delete("things", "t0");
    assert_eq!(s.client.value("SELECT string_agg(DISTINCT status, ' ') FROM wh.fetch('api')"), "succeeded");
    assert_eq!(s.client.value(deleted), "t0 t2");
}
