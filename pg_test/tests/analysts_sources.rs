//! What a source brings is read by all analysts, but for the rows of unfinished fetches.

use pg_test::fake_api::{fill, Fault, Reply};
use pg_test::sources::{listing, Sources};
use pg_test::{Client, ClientExt};
use serde_json::json;

fn connect(s: &Sources, name: &str, password: &str) -> Client {
    s.cluster.connect_as(&s.database, name, password).expect("a connection")
}

fn analyst(s: &mut Sources, name: &str) -> Client {
    let made = s.client.value(&format!("SELECT detail FROM wh.add_analyst('{name}') WHERE kind = 'password'"));
    connect(s, name, &made)
}

#[test]
fn tables_of_a_source_are_read_at_once_whenever_they_come() {
    let mut s = Sources::new("analysts_read");
    // One that is there before there is an analyst, and one that comes after.
    fill(&s.api, "customers", 5, 1);
    s.create(&[listing("customers", &json!({})), listing("orders", &json!({}))]);
    s.fetch();
    let mut gus = analyst(&mut s, "gus");
    assert_eq!(gus.value("SELECT count(*) FROM api.customers"), "5");
    assert_eq!(gus.value("SHOW search_path"), "gus, api, public");
    fill(&s.api, "orders", 7, 1);
    s.fetch();
    assert_eq!(gus.value("SELECT count(*) FROM api.orders"), "7");
    // Another source.
    let spec = pg_test::sources::spec(&s.api, &json!({"streams": [listing("refunds", &json!({}))]}));
    fill(&s.api, "refunds", 3, 1);
    s.client.exec(&format!("SELECT wh.create_source('more', $spec${spec}$spec$)"));
    pg_test::sources::fetch(&mut s.client, "more");
    assert_eq!(gus.value("SELECT count(*) FROM more.refunds"), "3");
    assert_eq!(gus.error("INSERT INTO more.refunds (id) VALUES ('x')").code().code(), "42501");
    // Where one was taken from all, what comes is read none the less.
    let group = s.client.value("SELECT role::text FROM wh.reader_group");
    s.client.exec(&format!("REVOKE SELECT ON api.customers FROM {group}"));
    let spec = pg_test::sources::spec(
        &s.api,
        &json!({"streams": [listing("customers", &json!({})), listing("orders", &json!({})), listing("late", &json!({}))]}),
    );
    fill(&s.api, "late", 2, 1);
    s.client.exec(&format!("SELECT wh.alter_source('api', $spec${spec}$spec$)"));
    s.fetch();
    assert_eq!(gus.value("SELECT count(*) FROM api.late"), "2");
    assert_eq!(gus.error("SELECT * FROM api.customers").code().code(), "42501");
    let mut hal = analyst(&mut s, "hal");
    assert_eq!(hal.error("SELECT * FROM api.customers").code().code(), "42501");
    assert_eq!(hal.value("SELECT count(*) FROM api.late"), "2");
}

#[test]
fn rows_of_an_unfinished_fetch_are_nobodys_to_stand_on() {
    let mut s = Sources::new("analysts_aside");
    fill(&s.api, "things", 35, 1);
    s.create(&[listing("things", &json!({"write": "replace", "params": {"limit": 10}, "version": null, "primary_key": null, "limits": {"batch_rows": 10}}))]);
    s.fetch();
    let mut ian = analyst(&mut s, "ian");
    s.api.fault("/cursor/things", 2, 1000, Fault::Reply(Reply::text(500, "text/plain", "no")));
    assert!(s.fetch().starts_with("things|failed"));
    let aside = s.client.value("SELECT relname FROM pg_class WHERE relname ~ '^_aside_'");
    // A view on it would keep the next fetch from ending. Neither who was there before nor who comes now can make one.
    let mut jil = analyst(&mut s, "jil");
    for who in [&mut ian, &mut jil] {
        assert_eq!(who.error(&format!("SELECT * FROM api.{aside}")).code().code(), "42501");
        assert_eq!(who.value("SELECT count(*) FROM api.things"), "35");
    }
    s.client.exec("DELETE FROM wh.reader_group");
    let mut kit = analyst(&mut s, "kit");
    assert_eq!(kit.error(&format!("SELECT * FROM api.{aside}")).code().code(), "42501");
    assert_eq!(kit.value("SELECT count(*) FROM api.things"), "35");
    s.api.clear_faults();
    assert!(s.fetch().starts_with("things|succeeded"));
}
