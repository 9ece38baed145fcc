//! Sources made, fetched, changed and forgotten; what a fetch writes, and what it leaves alone.

use pg_test::fake_api::{fill, Fault, Reply};
use pg_test::sources::{assert_equal, assert_ledger, create, failure, fetch, listing, literal, spec, Sources};
use pg_test::ClientExt;
use serde_json::{json, Value};

#[test]
fn a_source_is_made_fetched_altered_reset_and_dropped() {
    let mut s = Sources::new("life");
    fill(&s.api, "people", 250, 60);
    fill(&s.api, "places", 3, 60);
    s.create(&[listing("people", &json!({}))]);
    assert_eq!(
        s.client.table("SELECT name, owner, preset, schema, running FROM wh.sources"),
        "api|postgres||api|",
        "before the first run"
    );
    assert_eq!(
        s.client.table("SELECT stream, \"table\", key, rows, last_success FROM wh.source_streams"),
        "people||{/id}||"
    );
    assert_eq!(s.fetch(), "people|succeeded|250|250|0|0|0|0|0");
    assert_equal(&mut s.client, "api.people", &s.api, "people");
    assert_eq!(
        s.client.table("SELECT stream, \"table\", rows, lag < interval '1 minute' FROM wh.source_streams"),
        "people|api.people|250|t"
    );
    assert_eq!(s.client.value("SELECT last_status FROM wh.sources"), "succeeded");
    assert_eq!(s.client.error("SELECT wh.create_source('api', '{}')").code().code(), "22023");
    let again = literal(&spec(&s.api, &json!({"streams": [listing("people", &json!({}))]})).to_string());
    assert_eq!(s.client.error(&format!("SELECT wh.create_source('api', {again})")).code().code(), "42710");

    let both = json!({"streams": [listing("people", &json!({})), listing("places", &json!({}))]});
    s.client.exec(&format!("SELECT wh.alter_source('api', {})", literal(&spec(&s.api, &both).to_string())));
    assert_eq!(s.fetch(), "people|succeeded|250|0|0|250|0|0|0\nplaces|succeeded|3|3|0|0|0|0|0");
    s.client.exec("SELECT wh.alter_source('api', streams => '{places}')");
    assert_eq!(s.fetch(), "places|succeeded|3|0|0|3|0|0|0");
    let unknown = s.client.error("SELECT wh.alter_source('api', streams => '{planets}')");
    assert_eq!(unknown.code().code(), "42704", "{}", unknown.message());

    s.client.exec("SELECT wh.alter_source('api', schedule => '1 hour')");
    assert_eq!(s.client.value("SELECT next_run IS NOT NULL FROM wh.sources"), "t");
    s.client.exec("SELECT wh.alter_source('api', schedule => '')");
    assert_eq!(s.client.value("SELECT next_run IS NOT NULL FROM wh.sources"), "f");
    assert_ledger(&mut s.client, "api");

    s.client.exec("SELECT wh.drop_source('api')");
    assert_eq!(s.client.value("SELECT count(*) FROM api.people"), "250", "tables stay");
    assert_eq!(s.client.value("SELECT count(*) FROM wh.jobs"), "0");
    s.create(&[listing("people", &json!({}))]);
    let taken = failure(&mut s.client, "api");
    assert!(taken.starts_with("42710|api.people exists"), "{taken}");
    s.client.exec("SELECT wh.drop_source('api', true)");
    assert_eq!(s.client.value("SELECT count(*) FROM api.people"), "250", "a table that is not the source's");
}

#[test]
fn a_source_with_its_tables_goes_only_where_no_view_stands_on_them() {
    let mut s = Sources::new("dropped");
    fill(&s.api, "people", 3, 60);
    s.create(&[listing("people", &json!({}))]);
    s.fetch();
    s.client.exec("CREATE VIEW ana.people AS SELECT id FROM api.people");
    assert_eq!(s.client.error("SELECT wh.drop_source('api', true)").code().code(), "2BP01");
    assert_eq!(s.client.value("SELECT count(*) FROM wh.sources"), "1");
    s.client.exec("DROP VIEW ana.people; SELECT wh.drop_source('api', true)");
    assert_eq!(s.client.value("SELECT to_regnamespace('api') IS NULL"), "t");
    assert_eq!(s.client.table("SELECT * FROM wh.source_state"), "");
}

#[test]
fn a_reset_stream_is_read_from_its_start_and_keeps_its_rows() {
    let mut s = Sources::new("reset");
    fill(&s.api, "people", 250, 3600);
    let incremental = json!({"cursor": "/created", "format": "epoch_s", "start": "created[gte]", "order": "desc"});
    s.create(&[listing("people", &json!({ "incremental": incremental }))]);
    assert_eq!(s.fetch(), "people|succeeded|250|250|0|0|0|0|0");
    // The bound is inclusive: the newest comes again.
    assert_eq!(s.fetch(), "people|succeeded|1|0|0|1|0|0|0");
    s.client.exec("SELECT wh.reset_source('api', 'people')");
    assert_eq!(s.fetch(), "people|succeeded|250|0|0|250|0|0|0");
    assert_eq!(s.client.error("SELECT wh.reset_source('api', 'planets')").code().code(), "42704");
    assert_eq!(
        s.client.table("SELECT status, received, unchanged FROM wh.fetch('api', full_refresh => true)"),
        "succeeded|250|250"
    );
}

#[test]
fn every_preset_makes_a_source_with_its_streams() {
    let mut s = Sources::new("presets");
    let presets = s.client.rows("SELECT name, spec FROM wh.presets ORDER BY name");
    let names: Vec<&str> = presets.iter().filter_map(|p| p[0].as_deref()).collect();
    assert_eq!(names, ["front", "github", "hubspot", "intercom", "salesforce", "stripe"]);
    for preset in &presets {
        let (name, text) = (preset[0].as_deref().unwrap_or_default(), preset[1].as_deref().unwrap_or_default());
        let found: Value = serde_json::from_str(text).expect("a preset");
        let wanted = found["settings"].as_object().cloned().unwrap_or_default();
        let settings: Value = wanted
            .into_iter()
            .filter(|(_, s)| !s["example"].is_null())
            .map(|(n, s)| (n, s["example"].clone()))
            .collect();
        for (member, secret) in found["auth"].as_object().into_iter().flatten() {
            if member.contains("secret") {
                let secret = secret.as_str().unwrap_or_default();
                s.client.exec(&format!("SELECT wh.set_secret({}, 'made up')", literal(secret)));
            }
        }
        s.client.exec(&format!(
            "SELECT wh.create_source('{name}', preset => '{name}', settings => {})",
            literal(&settings.to_string())
        ));
        assert_eq!(
            s.client.value(&format!(
                "SELECT array_agg(stream ORDER BY stream) FROM wh.source_streams WHERE source = '{name}'"
            )),
            s.client.value(&format!(
                "SELECT array_agg(x ORDER BY x) FROM wh.presets, unnest(streams) x WHERE name = '{name}'"
            ))
        );
    }
}

#[test]
fn a_second_run_writes_nothing_into_a_table_where_nothing_changed() {
    let mut s = Sources::new("unchanged");
    fill(&s.api, "people", 1500, 60);
    s.create(&[listing("people", &json!({}))]);
    s.fetch();
    s.client.exec("CREATE EXTENSION pageinspect");
    // Sets hint bits and freezes, which write pages too.
    s.client.exec("VACUUM (FREEZE) api.people");
    let pages = "SELECT string_agg(lsn::text, ' ' ORDER BY p) FROM generate_series(0, pg_relation_size('api.people') / 8192 - 1) p,
                 LATERAL page_header(get_raw_page('api.people', p::int))";
    let before = s.client.value(pages);
    assert_eq!(s.fetch(), "people|succeeded|1500|0|0|1500|0|0|0");
    assert_eq!(s.client.value(pages), before, "a page was written");
    // The same question sees a write.
    s.client.exec("UPDATE api.people SET n = n WHERE id = 'id_000000'");
    assert_ne!(s.client.value(pages), before);
}

#[test]
fn an_update_replaces_its_row_and_touches_no_other() {
    let mut s = Sources::new("updated");
    fill(&s.api, "people", 300, 60);
    s.create(&[listing("people", &json!({}))]);
    s.fetch();
    let others = "SELECT md5(string_agg(ctid::text || xmin, ' ' ORDER BY id)) FROM api.people WHERE id <> 'id_000007'";
    let before = s.client.value(others);
    s.api.put("people", json!({"id": "id_000007", "created": 1_700_000_420, "n": 99, "updated": 1}));
    assert_eq!(s.fetch(), "people|succeeded|300|0|1|299|0|0|0");
    assert_eq!(s.client.value(others), before);
    assert_eq!(s.client.value("SELECT n FROM api.people WHERE id = 'id_000007'"), "99");
    assert_equal(&mut s.client, "api.people", &s.api, "people");
}

#[test]
fn an_older_version_never_overwrites_a_newer_one() {
    let mut s = Sources::new("stale");
    let old = json!({"id": "a", "created": 1, "updated": 9, "n": "old"});
    let new = json!({"id": "a", "created": 1, "updated": 10, "n": "new"});
    s.create(&[listing("people", &json!({}))]);
    for (object, counts) in [(&new, "1|1|0|0|0|0|0"), (&old, "1|0|0|0|1|0|0"), (&new, "1|0|0|1|0|0|0")] {
        s.api.put("people", object.clone());
        assert_eq!(s.fetch(), format!("people|succeeded|{counts}"));
        assert_eq!(s.client.value("SELECT n FROM api.people"), "new");
    }
}

#[test]
fn of_duplicates_in_a_page_the_newest_version_stays() {
    let mut s = Sources::new("twice");
    let page = |versions: &[i64]| {
        let data: Vec<Value> = versions.iter().map(|v| json!({"id": "a", "updated": v, "n": v})).collect();
        Reply::json(&json!({"data": data, "has_more": false}))
    };
    let (first, second) = (page(&[9, 10, 8]), page(&[11, 3]));
    s.api.route("/cursor/people", move |_| first.clone());
    s.create(&[listing("people", &json!({}))]);
    assert_eq!(s.fetch(), "people|succeeded|3|1|0|0|0|2|0");
    assert_eq!(s.client.value("SELECT n FROM api.people"), "10");
    s.api.route("/cursor/people", move |_| second.clone());
    assert_eq!(s.fetch(), "people|succeeded|2|0|1|0|0|1|0");
    assert_eq!(s.client.value("SELECT n FROM api.people"), "11");
    assert_ledger(&mut s.client, "api");
}

/// More rows than a page with one timestamp, in both orders of the listing.
#[test]
fn twelve_thousand_equal_timestamps_are_all_read() {
    let mut s = Sources::new("equal");
    fill(&s.api, "oldest", 12_000, 0);
    fill(&s.api, "newest", 12_000, 0);
    let stream = |name: &str, order: &str| {
        listing(
            name,
            &json!({"params": {"limit": 1000, "order": order},
                    "incremental": {"cursor": "/created", "format": "epoch_s", "start": "created[gte]", "order": order}}),
        )
    };
    s.create(&[stream("oldest", "asc"), stream("newest", "desc")]);
    assert_eq!(s.fetch(), "newest|succeeded|12000|12000|0|0|0|0|0\noldest|succeeded|12000|12000|0|0|0|0|0");
    for name in ["oldest", "newest"] {
        assert_equal(&mut s.client, &format!("api.{name}"), &s.api, name);
        s.api.put(name, json!({"id": "late", "created": 1_700_000_000, "n": 1}));
    }
    assert_eq!(s.fetch(), "newest|succeeded|12001|1|0|12000|0|0|0\noldest|succeeded|12001|1|0|12000|0|0|0");
}

#[test]
fn a_newest_first_listing_that_broke_off_loses_nothing() {
    let mut s = Sources::new("newest_first");
    fill(&s.api, "people", 1000, 60);
    let incremental = json!({"cursor": "/created", "format": "epoch_s", "start": "created[gte]", "order": "desc"});
    s.create(&[listing("people", &json!({ "incremental": incremental, "limits": {"batch_rows": 100} }))]);
    s.api.fault("/cursor/people", 4, 4, Fault::Reply(Reply::text(500, "text/plain", "no")));
    failure(&mut s.client, "api");
    assert_eq!(s.client.value("SELECT count(*) FROM api.people"), "400", "what came before the failure is kept");
    assert_eq!(s.client.value("SELECT state->>'mark' FROM wh.source_streams"), "", "the mark waits for the end");
    s.api.put("people", json!({"id": "new", "created": 1_800_000_000}));
    s.api.forget();
    assert_eq!(s.fetch(), "people|succeeded|600|600|0|0|0|0|0");
    assert_eq!(s.api.log()[0].param("starting_after"), Some("id_000600"), "it goes on where it broke off");
    // What came meanwhile is newer than where the listing began.
    fetch(&mut s.client, "api");
    assert_equal(&mut s.client, "api.people", &s.api, "people");
    assert_ledger(&mut s.client, "api");
}

#[test]
fn two_sources_of_one_warehouse_keep_apart() {
    let mut s = Sources::new("apart");
    fill(&s.api, "people", 5, 60);
    for name in ["one", "two"] {
        create(&mut s.client, &s.api, name, &json!({"streams": [listing("people", &json!({}))]}));
    }
    assert_eq!(fetch(&mut s.client, "one"), "people|succeeded|5|5|0|0|0|0|0");
    assert_eq!(fetch(&mut s.client, "two"), "people|succeeded|5|5|0|0|0|0|0");
    s.client.exec("SELECT wh.drop_source('one', true)");
    assert_eq!(s.client.value("SELECT count(*) FROM two.people"), "5");
}
