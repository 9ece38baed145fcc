//! Specs that change under tables that are there: what is asked for is carried out, or refused with what to do.

use pg_test::sources::{listing, literal, spec, Sources};
use pg_test::{Client, ClientExt};
use serde_json::{json, Value};

/// A stream that asks for what is new: what is there already does not come again by itself.
fn people(more: &Value) -> Value {
    let rule = json!({"cursor": "/created", "format": "epoch_s", "start": "created[gte]", "order": "desc"});
    let mut over = json!({"incremental": rule, "version": null});
    for (member, value) in more.as_object().into_iter().flatten() {
        over[member] = value.clone();
    }
    listing("people", &over)
}

fn source(name: &str, more: &Value) -> Sources {
    let mut s = Sources::new(name);
    for n in 0..3 {
        let person = json!({"id": format!("p{n}"), "created": n, "amount": format!("{n}.50"), "at": "2026-01-31",
            "address": {"town": "Ulm", "street": format!("{n} Lane")}});
        s.api.put("people", person);
    }
    s.create(&[people(more)]);
    s.fetch();
    s
}

fn alter(s: &Sources, more: &Value) -> String {
    format!(
        "SELECT wh.alter_source('api', {})",
        literal(&spec(&s.api, &json!({"streams": [people(more)]})).to_string())
    )
}

#[track_caller]
fn types(client: &mut Client) -> String {
    client.value(
        "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attname COLLATE \"C\") FROM pg_attribute
         WHERE attrelid = 'api.people'::regclass AND attnum > 0 AND NOT attisdropped AND attname !~ '^_|^(id|created|address)$'",
    )
}

#[test]
fn a_declared_type_is_given_to_a_column_that_is_there() {
    let mut s = source("altered_type", &json!({}));
    assert_eq!(types(&mut s.client), "amount text, at date");
    s.client.exec("CREATE VIEW ana.amounts AS SELECT id, amount FROM api.people");
    // One that the API lists no more keeps its value.
    s.api.delete("people", "p0");
    let columns =
        json!({"amount": {"path": "/amount", "type": "numeric"}, "town": {"path": "/address/town", "type": "text"}});
    let statement = alter(&s, &json!({ "columns": columns }));
    s.client.exec(&statement);
    assert_eq!(types(&mut s.client), "amount numeric, at date, town text");
    assert_eq!(s.fetch(), "people|succeeded|2|0|2|0|0|0|0");
    assert_eq!(
        s.client.table("SELECT id, amount + 1, town FROM api.people ORDER BY id"),
        "p0|1.50|\np1|2.50|Ulm\np2|3.50|Ulm"
    );
    assert_eq!(s.client.table("SELECT pg_typeof(amount) FROM ana.amounts LIMIT 1"), "numeric");
    assert_eq!(s.fetch(), "people|succeeded|1|0|0|1|0|0|0");
}

#[test]
fn a_type_that_does_not_fit_what_is_there_is_refused_with_what_to_do() {
    let mut s = source("altered_unfit", &json!({}));
    s.api.put("people", json!({"id": "p9", "created": 9, "amount": "many"}));
    s.fetch();
    let statement = alter(&s, &json!({"columns": {"amount": {"path": "/amount", "type": "numeric"}}}));
    let error = s.client.error(&statement);
    assert_eq!(error.code().code(), "22P02", "{}", error.message());
    assert!(error.hint().is_some_and(|h| h.contains("DROP TABLE api.people")), "{:?}", error.hint());
    assert_eq!(types(&mut s.client), "amount text, at date");
    // A name that is taken is not given to other values.
    let statement = alter(&s, &json!({"columns": {"amount": {"path": "/address/town", "type": "text"}}}));
    let error = s.client.error(&statement);
    assert!(error.message().contains("\"amount\"") && error.hint().is_some(), "{}", error.message());
    assert_eq!(s.fetch(), "people|succeeded|1|0|0|1|0|0|0");
}

#[test]
fn members_that_were_ignored_become_columns_once_drift_says_so() {
    let mut s = source("altered_drift", &json!({"drift": "ignore"}));
    assert_eq!(types(&mut s.client), "");
    let statement = alter(&s, &json!({"drift": "add"}));
    s.client.exec(&statement);
    assert_eq!(s.fetch(), "people|succeeded|3|0|3|0|0|0|0");
    assert_eq!(s.client.table("SELECT id, amount FROM api.people ORDER BY id"), "p0|0.50\np1|1.50\np2|2.50");
}

#[test]
fn a_member_that_is_hidden_later_is_gone_from_all_rows_at_once() {
    let mut s = source("altered_hide", &json!({"columns": {"street": {"path": "/address/street", "type": "text"}}}));
    s.api.put("people", json!({"id": null, "created": 5, "amount": "hush"}));
    s.fetch();
    assert_eq!(s.client.value("SELECT count(*) FROM wh.fetch_errors WHERE record LIKE '%hush%'"), "1");
    s.api.change(|store| store.clear());
    let statement = alter(&s, &json!({"hide": ["/amount", "/address/street"]}));
    s.client.exec(&statement);
    assert_eq!(
        s.client.table(
            "SELECT id, amount, street, address, _raw->'address', _raw ? 'amount' FROM api.people WHERE id = 'p1'"
        ),
        "p1|||{\"town\": \"Ulm\"}|{\"town\": \"Ulm\"}|f"
    );
    assert_eq!(s.client.value("SELECT count(*) FROM api.people WHERE amount IS NOT NULL OR street IS NOT NULL OR _raw::text ~ 'Lane|amount'"), "0");
    assert_eq!(s.client.value("SELECT count(*) FROM wh.fetch_errors WHERE record LIKE '%hush%'"), "0");
}

#[test]
fn another_key_or_shape_of_a_table_that_is_there_is_refused_with_what_to_do() {
    let mut s = source(
        "altered_key",
        &json!({"children": [{"pointer": "/address", "name": "addresses", "primary_key": ["/town"]}]}),
    );
    let child = |key: &str| json!({"children": [{"pointer": "/address", "name": "addresses", "primary_key": [key]}]});
    for (member, more) in [
        ("primary_key", json!({"primary_key": ["/id", "/created"]})),
        ("write", json!({"write": "append", "primary_key": ["/id"], "children": []})),
        ("raw", json!({"raw": false})),
        ("primary_key of stream \"addresses\"", child("/street")),
    ] {
        let statement = alter(&s, &more);
        let error = s.client.error(&statement);
        assert_eq!(error.code().code(), "55000", "{member}: {}", error.message());
        assert!(error.message().starts_with(member), "{}", error.message());
        assert!(error.hint().is_some_and(|h| h.contains("DROP TABLE api.")), "{:?}", error.hint());
    }
    // What the hint says works.
    s.client.exec("DROP TABLE api.people, api.addresses");
    let statement = alter(&s, &json!({"primary_key": ["/id", "/created"]}));
    s.client.exec(&statement);
    assert_eq!(s.fetch(), "people|succeeded|3|3|0|0|0|0|0");
}
