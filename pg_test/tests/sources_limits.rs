//! Records at the limits of Postgres, of this database, and of ours: each goes in, or to wh.fetch_errors, and the rest goes on.

use pg_test::sources::{listing, literal, spec, Sources};
use pg_test::ClientExt;
use serde_json::{json, Map, Value};

/// Text that does not get shorter when it is compressed.
fn noise(bytes: usize) -> String {
    let mut dice = 7u64;
    let next = |dice: &mut u64| {
        *dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        char::from(b'a' + ((*dice >> 33) % 26) as u8)
    };
    (0..bytes).map(|_| next(&mut dice)).collect()
}

/// A record with `n` numbers of eight bytes.
fn wide(id: &str, n: usize) -> Value {
    let mut record: Map<String, Value> =
        (0..n).map(|i| (format!("m{i}"), json!(1_700_000_000_000_u64 + i as u64))).collect();
    record.insert("id".into(), json!(id));
    Value::Object(record)
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}

#[test]
fn a_record_that_no_table_holds_goes_to_fetch_errors_and_stops_nothing() {
    let mut s = Sources::new("limits");
    s.create(&[listing("people", &json!({"version": null, "limits": {"max_record_bytes": 100_000}}))]);
    let good = |n: u64| json!({"id": format!("good{n}"), "created": n, "name": "x"});
    (0..5).for_each(|n| s.api.put("people", good(n)));
    let bad = [
        ("a key too long for an index", json!({"id": noise(9000), "created": 10}), "index row"),
        ("more members than a table has columns", wide("many", 1700), "1700 new members"),
        ("more values than a page holds", wide("wide", 1200), "row is too big"),
        ("too deep for jsonb", json!({"id": "deep", "created": 12, "of": nested(600)}), "nested deeper"),
        ("too long for us", json!({"id": "long", "created": 13, "of": noise(200_000)}), "max_record_bytes"),
    ];
    for (name, record, reason) in &bad {
        s.api.put("people", record.clone());
        assert_eq!(s.client.value("SELECT status FROM wh.fetch('api')"), "succeeded", "{name}");
        let found = s.client.value("SELECT reason FROM wh.fetch_errors ORDER BY at DESC LIMIT 1");
        assert!(found.contains(reason), "{name}: {found}");
        s.client.exec("DELETE FROM wh.fetch_error");
        s.api.change(|store| drop(store.get_mut("people").map(Vec::pop)));
    }
    bad.iter().for_each(|(_, record, _)| s.api.put("people", record.clone()));
    s.api.put("people", good(5));
    assert_eq!(s.fetch(), "people|succeeded|11|1|0|5|0|0|5");
    assert_eq!(s.client.value("SELECT count(*) FROM api.people"), "6");
    // Of what was too long only its key is kept, since hidden members may be anywhere in it.
    assert_eq!(
        s.client
            .value("SELECT max(length(record)) FILTER (WHERE reason ~ 'max_record_bytes') < 100 FROM wh.fetch_errors"),
        "t"
    );
    pg_test::sources::assert_ledger(&mut s.client, "api");
}

#[test]
fn an_appended_list_that_asks_for_what_is_new_gets_no_record_twice() {
    let mut s = Sources::new("append_once");
    let event = |n: u64, created: u64| json!({"id": n, "created": created, "kind": "click"});
    (0..25).for_each(|n| s.api.put("people", event(n, 1_700_000_000 + n / 2)));
    let rule = |order: &str| {
        listing(
            "people",
            &json!({"write": "append", "primary_key": null, "version": null, "params": {"limit": 10, "order": order},
            "paginator": {"type": "cursor", "param": "starting_after", "from": "last_record:/id", "more": "/has_more"},
            "incremental": {"cursor": "/created", "format": "epoch_s", "start": "created[gte]", "order": order}}),
        )
    };
    s.create(&[rule("asc")]);
    assert_eq!(s.fetch(), "people|succeeded|25|25|0|0|0|0|0");
    // The bound is inclusive.
    assert_eq!(s.fetch(), "people|succeeded|1|0|0|1|0|0|0");
    s.api.put("people", event(25, 1_700_000_012));
    s.api.put("people", event(26, 1_700_000_020));
    assert_eq!(s.fetch(), "people|succeeded|3|2|0|1|0|0|0");
    assert_eq!(s.client.value("SELECT status FROM wh.fetch('api', full_refresh => true)"), "succeeded");
    assert_eq!(s.client.table("SELECT count(*), count(DISTINCT id) FROM api.people"), "27|27");
    pg_test::sources::assert_ledger(&mut s.client, "api");
}

#[test]
fn a_database_that_cannot_hold_what_comes_gets_no_source() {
    let s = Sources::new("encoding");
    let mut postgres = s.cluster.connect("postgres").expect("a connection");
    postgres.exec("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
    let mut latin = s.cluster.connect("latin").expect("a connection");
    latin.exec("CREATE EXTENSION startup_wh");
    let spec = literal(&spec(&s.api, &json!({"streams": [listing("people", &json!({}))]})).to_string());
    let error = latin.error(&format!("SELECT wh.create_source('api', {spec})"));
    assert_eq!(error.code().code(), "0A000", "{}", error.message());
    assert!(
        error.message().contains("LATIN1") && error.hint().is_some_and(|h| h.contains("UTF8")),
        "{}",
        error.message()
    );
    // One that came with a dump.
    latin.exec(&format!("CREATE SCHEMA api; INSERT INTO wh.source (name, owner, spec, schema) VALUES ('api', 'postgres', {spec}, 'api')"));
    latin.exec("SELECT wh.alter_source('api', schedule => '1 day')");
    let error = latin.error("SELECT * FROM wh.fetch('api')");
    assert!(error.message().contains("LATIN1"), "{}", error.message());
    assert_eq!(latin.value("SELECT to_regclass('api.people') IS NULL"), "t");
    drop(latin);
    postgres.exec("DROP DATABASE latin WITH (FORCE)");
}

#[test]
fn a_row_that_somebody_changed_is_found_whatever_its_hash_says() {
    let mut s = Sources::new("forged");
    for n in 0..5 {
        s.api.put(
            "people",
            json!({"id": format!("p{n}"), "created": n, "updated": 1, "amount": 1.50, "at": "2026-01-31T12:00:00+01:00",
            "of": {"b": 1, "a": [1.0, null]}, "lines": [{"sku": "x", "n": n}]}),
        );
    }
    let columns = json!({"total": {"path": "/amount", "type": "numeric"}, "deep": {"path": "/of/b", "type": "bigint"}});
    s.create(&[listing("people", &json!({"columns": columns, "children": [{"pointer": "/lines", "name": "lines"}]}))]);
    s.fetch();
    // What the API has besides by now is learned, and compared with nothing.
    s.api.put("people", json!({"id": "p0", "created": "soon", "updated": 1, "new": 1}));
    assert_eq!(s.client.table("SELECT stream, key, difference FROM wh.verify_source('api') WHERE key ~ '^p[1-9]'"), "");
    s.client.exec(
        "UPDATE api.people SET total = 1000 WHERE id = 'p1'; UPDATE api.people SET _raw = _raw - 'of' WHERE id = 'p2';
         UPDATE api.people SET at = at + interval '1 microsecond' WHERE id = 'p3'; UPDATE api.people SET _version = '9' WHERE id = 'p4';
         UPDATE api.lines SET n = -1 WHERE people_id = 'p3'",
    );
    assert_eq!(
        s.client.table("SELECT stream, key, difference FROM wh.verify_source('api') WHERE key !~ 'p0' ORDER BY 1, 2"),
        "lines|p3, 0|changed in the table\npeople|p1|changed in the table\npeople|p2|changed in the table
people|p3|changed in the table\npeople|p4|changed in the table"
    );
}

/// 250 records in pages of 100, the newest first, of which the last one of a page is too long to be held.
fn with_a_long_one(name: &str, more: &Value) -> Sources {
    let mut s = Sources::new(name);
    for n in 0..250_u64 {
        s.api.put("people", json!({"id": format!("p{n}"), "created": n, "updated": 1}));
    }
    let mut stream = json!({"limits": {"max_record_bytes": 100_000, "batch_rows": 100}});
    more.as_object().into_iter().flatten().for_each(|(name, value)| stream[name] = value.clone());
    s.create(&[listing("people", &stream)]);
    s
}

#[test]
fn a_record_that_is_too_long_ends_no_listing_whose_cursor_it_is() {
    let keyset =
        json!({"type": "keyset", "pointer": "/id", "param": "starting_after", "next": "{cursor}", "more": "/has_more"});
    for (name, more) in [("long_last", json!({})), ("long_last_keyset", json!({"paginator": keyset}))] {
        let mut s = with_a_long_one(name, &more);
        // Its key comes after the text that makes it long.
        s.api.put("people", json!({"a": noise(200_000), "id": "p150", "created": 150, "updated": 2}));
        assert_eq!(s.fetch(), "people|succeeded|250|249|0|0|0|0|1", "{name}");
        let missing = "SELECT string_agg('p' || n, ' ') FROM generate_series(0, 249) n WHERE NOT EXISTS (SELECT FROM api.people WHERE id = 'p' || n)";
        assert_eq!(s.client.value(missing), "p150", "{name}");
        let kept = s.client.value("SELECT record FROM wh.fetch_errors");
        let kept: Value = serde_json::from_str(&kept).expect("a document");
        assert_eq!((&kept["id"], kept.as_object().map(Map::len)), (&json!("p150"), Some(2)), "{kept}");
        pg_test::sources::assert_ledger(&mut s.client, "api");
    }
}

#[test]
fn a_row_whose_record_became_too_long_is_not_taken_for_deleted() {
    let mut s = with_a_long_one("long_sweep", &json!({"deletes": {"sweep": "1d"}}));
    assert_eq!(s.fetch(), "people|succeeded|250|250|0|0|0|0|0");
    s.api.put("people", json!({"a": noise(200_000), "id": "p150", "created": 150, "updated": 2}));
    s.api.delete("people", "p7");
    s.client.exec("SELECT wh.fetch('api', full_refresh => true)");
    let gone = "SELECT string_agg(id, ' ') FROM api.people WHERE _deleted_at IS NOT NULL";
    assert_eq!(s.client.value(gone), "p7");
}

#[test]
fn a_record_that_is_too_long_and_leads_nowhere_fails_the_run() {
    let mut s = with_a_long_one("long_nowhere", &json!({"limits": {"max_record_bytes": 1000, "batch_rows": 100}}));
    s.api.put("people", json!({"id": noise(5000), "created": 50, "updated": 1}));
    s.api.delete("people", "p50");
    assert_eq!(s.fetch(), "people|failed|100|100|0|0|0|0|0");
    let said = s.client.value("SELECT concat_ws(' ', sqlstate, error, detail) FROM wh.fetch_runs");
    assert!(said.starts_with("08P01 stream \"people\" has more pages, but no way to the next"), "{said}");
    assert!(said.contains("longer than max_record_bytes") && said.contains("\"/id\""), "{said}");
    // Where one may be longer, the next run goes on.
    let longer =
        json!({"streams": [listing("people", &json!({"limits": {"max_record_bytes": 10_000, "batch_rows": 100}}))]});
    s.client.exec(&format!("SELECT wh.alter_source('api', spec => {})", literal(&spec(&s.api, &longer).to_string())));
    assert_eq!(s.fetch(), "people|succeeded|150|149|0|0|0|0|1");
}

#[test]
fn what_a_table_refuses_is_told_without_the_values_of_its_rows() {
    const CARD: &str = "4111111111111111";
    let mut s = Sources::new("refused");
    s.api.put("people", json!({"id": "p1", "created": 1, "updated": 1, "card": CARD}));
    s.api.put("people", json!({"id": "p2", "created": 2, "updated": 1, "card": CARD}));
    let list = json!({"name": "list", "write": "append", "primary_key": null, "version": null});
    s.create(&[listing("people", &json!({})), listing("people", &list)]);
    s.client.exec("SELECT * FROM wh.fetch('api', streams => '{people}')");
    // The column becomes another type, of which the constraint makes nothing.
    s.client.exec("ALTER TABLE api.people ADD CHECK (concat(card)::bigint > 0)");
    s.api.put("people", json!({"id": "p3", "created": 3, "updated": 1, "card": {"last4": "1111"}}));
    assert_eq!(s.client.value("SELECT status FROM wh.fetch('api', streams => '{people}')"), "failed");
    // What waits aside breaks an index when it comes in.
    s.api.change(|store| store.get_mut("people").map(|people| people.truncate(1)));
    s.client.exec("SELECT * FROM wh.fetch('api', streams => '{list}'); CREATE UNIQUE INDEX ON api.list (card)");
    assert_eq!(s.client.value("SELECT status FROM wh.fetch('api', streams => '{list}')"), "failed");
    for (stream, sqlstate, why) in
        [("people", "22P02", "invalid input syntax for type bigint"), ("list", "23505", CARD)]
    {
        let said = s.client.table(&format!(
            "SELECT sqlstate, error, detail, hint FROM wh.fetch_runs WHERE stream = '{stream}' AND status = 'failed'"
        ));
        let expected = format!("{sqlstate}|stream \"{stream}\" cannot be stored as it came|Why is in the last line of wh.fetch_errors for it, since that may quote rows.|");
        let reason = s.client.value(&format!("SELECT reason FROM wh.fetch_errors WHERE stream = '{stream}'"));
        assert!(said.starts_with(&expected), "{said}: {reason}");
        assert!(reason.contains(why) && reason.contains(CARD), "{reason}");
    }
    let places = pg_test::sources::places_of(&mut s.client, CARD);
    assert_eq!(places, ["api.list", "api.people", "wh.fetch_error", "wh.fetch_errors"]);
}
