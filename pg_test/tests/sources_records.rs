//! From records to rows: types, names, numbers, what is hidden, and what cannot be stored.

use pg_test::fake_api::{fill, Reply};
use pg_test::sources::{assert_ledger, listing, literal, spec, Sources};
use pg_test::{ClientExt, Cluster};
use serde_json::json;

/// The API's listing of people is this text from now on.
fn answer(s: &Sources, records: &str) {
    let reply = Reply::text(200, "application/json", &format!("{{\"data\": [{records}], \"has_more\": false}}"));
    s.api.route("/cursor/people", move |_| reply.clone());
}

fn types(s: &mut Sources) -> String {
    s.client.table(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'api.people'::regclass
         AND attnum > 0 AND NOT attisdropped AND attname !~ '^_' ORDER BY attnum",
    )
}

#[test]
fn records_that_cannot_be_stored_are_kept_with_their_json_and_the_rest_goes_on() {
    let mut s = Sources::new("quarantine");
    answer(
        &s,
        r#"{"id": "a", "t": "fine"}, {"id": "b", "t": "nul \u0000 inside"}, {"t": "no key"}, {"id": null, "t": "null key"},
           {"id": "c", "t": "\ud800 alone"}, {"id": "d", "n": 12345678901234567890123456789012345678901234567890}, 7, {"id": "e", "at": "no time"}"#,
    );
    let at = json!({"at": {"path": "/at", "type": "timestamptz"}});
    s.create(&[listing("people", &json!({ "columns": at }))]);
    assert_eq!(s.fetch(), "people|succeeded|8|2|0|0|0|0|6");
    assert_eq!(s.client.table("SELECT id FROM api.people ORDER BY id"), "a\nd");
    let kept = s.client.rows("SELECT reason, record FROM wh.fetch_errors ORDER BY record");
    let records: Vec<&str> = kept.iter().filter_map(|r| r[1].as_deref()).collect();
    assert_eq!(
        records,
        [
            "7",
            r#"{"id":"b","t":"nul \u0000 inside"}"#,
            r#"{"id":"c","t":"\ud800 alone"}"#,
            r#"{"id":"e","at":"no time"}"#,
            r#"{"id":null,"t":"null key"}"#,
            r#"{"t":"no key"}"#,
        ]
    );
    let reasons: Vec<&str> = kept.iter().filter_map(|r| r[0].as_deref()).collect();
    for (reason, word) in reasons.iter().zip(["object", "t: ", "t: ", "at: ", "primary key id", "primary key id"]) {
        assert!(reason.contains(word), "{reason}");
    }
    assert_ledger(&mut s.client, "api");
}

#[test]
fn on_bad_row_fail_ends_the_run_and_stores_nothing_of_its_batch() {
    let mut s = Sources::new("bad_row_fails");
    answer(&s, r#"{"id": "a"}, {"t": "no key"}"#);
    s.create(&[listing("people", &json!({"on_bad_row": "fail"}))]);
    let failure = pg_test::sources::failure(&mut s.client, "api");
    assert!(failure.contains("\"people\" cannot be stored"), "{failure}");
    assert_eq!(s.client.value("SELECT reason FROM wh.fetch_errors"), "primary key id is missing or null");
    assert_eq!(s.client.value("SELECT to_regclass('api.people') IS NULL"), "t");
    assert_ledger(&mut s.client, "api");
}

#[test]
fn on_bad_row_fail_shows_a_value_to_nobody_who_may_not_see_it() {
    let mut s = Sources::new("bad_row_told");
    answer(&s, r#"{"id": "a", "n": 1}"#);
    let columns = json!({"n": {"path": "/n", "type": "bigint"}});
    s.create(&[listing("people", &json!({"on_bad_row": "fail", "columns": columns}))]);
    s.fetch();
    // What we refuse, and what the table does.
    s.client.exec("ALTER TABLE api.people ADD CONSTRAINT short CHECK (length(id) < 5)");
    for record in [r#"{"id": "b", "n": "hush-hush"}"#, r#"{"id": "hush-hush", "n": 2}"#] {
        answer(&s, &format!(r#"{{"id": "c", "n": 3}}, {record}"#));
        let failure = pg_test::sources::failure(&mut s.client, "api");
        assert!(failure.contains("\"people\" cannot be stored"), "{failure}");
        let seen =
            "SELECT count(*) FROM (SELECT t::text FROM wh.fetch_runs t UNION ALL SELECT t::text FROM wh.sources t
                    UNION ALL SELECT t::text FROM wh.job_runs t) x (t) WHERE t ~ 'hush-hush'";
        assert_eq!(s.client.value(seen), "0", "{record}");
        let kept = "SELECT count(*) FROM wh.fetch_errors WHERE record ~ 'hush-hush' AND run = (SELECT max(run) FROM wh.fetch_runs)";
        assert_eq!(s.client.value(kept), "1", "{record}");
        assert_eq!(s.client.value("SELECT string_agg(id, ' ') FROM api.people"), "a", "nothing of its batch");
    }
    assert_ledger(&mut s.client, "api");
}

#[test]
fn a_column_is_widened_in_place_and_the_views_on_it_survive() {
    let mut s = Sources::new("widened");
    answer(&s, r#"{"id": "a", "n": 1, "x": true, "mixed": 1, "at": "2026-01-02T03:04:05Z"}"#);
    s.create(&[listing("people", &json!({}))]);
    s.fetch();
    assert_eq!(types(&mut s), "id|text\nn|bigint\nx|boolean\nmixed|bigint\nat|timestamp with time zone");
    s.client.exec(
        "GRANT USAGE ON SCHEMA api TO ana; GRANT SELECT ON api.people TO ana; SET ROLE ana;
         CREATE VIEW ana.sums AS SELECT id, n * 2 AS twice, x, mixed FROM api.people WHERE n IS NOT NULL;
         CREATE VIEW ana.above AS SELECT twice FROM ana.sums; GRANT SELECT ON ana.above TO ben; RESET ROLE;
         CREATE TABLE before AS SELECT oid, relname FROM pg_class WHERE relname IN ('people', 'above')",
    );
    answer(
        &s,
        r#"{"id": "a", "n": 1, "x": true, "mixed": 1, "at": "2026-01-02T03:04:05Z"},
           {"id": "b", "n": 1.50, "x": "yes", "mixed": {"deep": [1, 2.10]}, "at": "some day"}"#,
    );
    assert_eq!(s.fetch(), "people|succeeded|2|1|0|1|0|0|0");
    assert_eq!(types(&mut s), "id|text\nn|numeric\nx|text\nmixed|jsonb\nat|text");
    assert_eq!(s.client.table("SELECT twice FROM ana.above ORDER BY 1"), "2\n3.00");
    assert_eq!(s.client.table("SELECT x, mixed FROM ana.sums ORDER BY id"), "true|1\nyes|{\"deep\": [1, 2.10]}");
    assert_eq!(
        s.client.table("SELECT id, at FROM api.people ORDER BY id"),
        "a|2026-01-02T03:04:05Z\nb|some day",
        "a time that becomes text is spelled as it came"
    );
    assert_eq!(
        s.client.table("SELECT b.relname FROM before b LEFT JOIN pg_class c USING (oid) WHERE c.oid IS NULL AND b.relname = 'people'"),
        "",
        "the table is the same one"
    );
    assert_eq!(s.client.value("SELECT has_table_privilege('ben', 'ana.above', 'SELECT')"), "t");
    assert_eq!(s.client.value("SELECT viewowner FROM pg_views WHERE viewname = 'above'"), "ana");
    // What is narrower again narrows nothing.
    answer(&s, r#"{"id": "a", "n": 1, "x": true, "mixed": 1}"#);
    s.fetch();
    assert_eq!(types(&mut s), "id|text\nn|numeric\nx|text\nmixed|jsonb\nat|text");
}

#[test]
fn a_column_that_was_null_so_far_becomes_what_comes() {
    let mut s = Sources::new("nulls");
    answer(&s, r#"{"id": "a", "n": null, "o": null, "b": null}"#);
    s.create(&[listing("people", &json!({}))]);
    s.fetch();
    assert_eq!(types(&mut s), "id|text\nn|text\no|text\nb|text");
    s.client.exec("CREATE VIEW ana.nulls AS SELECT id, n, o FROM api.people");
    answer(&s, r#"{"id": "b", "n": 5, "o": {"k": 1}, "b": false}"#);
    assert_eq!(s.fetch(), "people|succeeded|1|1|0|0|0|0|0");
    assert_eq!(types(&mut s), "id|text\nn|bigint\no|jsonb\nb|boolean");
    assert_eq!(s.client.table("SELECT n + 1, o->'k' FROM ana.nulls WHERE id = 'b'"), "6|1");
}

#[test]
fn new_fields_become_columns_and_vanished_ones_keep_theirs() {
    let mut s = Sources::new("drift");
    answer(&s, r#"{"id": "a", "old": "was"}"#);
    s.create(&[listing("people", &json!({}))]);
    s.fetch();
    answer(&s, r#"{"id": "b", "new": "is"}, {"id": "c"}"#);
    assert_eq!(s.fetch(), "people|succeeded|2|2|0|0|0|0|0");
    assert_eq!(s.client.table("SELECT id, old, new FROM api.people ORDER BY id"), "a|was|\nb||is\nc||");
    assert_eq!(
        s.client.table("SELECT id, _raw FROM api.people WHERE id = 'c'"),
        "c|{\"id\": \"c\"}",
        "missing is not null"
    );
}

#[test]
fn numbers_keep_every_digit() {
    let mut s = Sources::new("digits");
    let numbers = [
        "1234567890123456789.123456789",
        "0.1000",
        "1e30",
        "9223372036854775807",
        "9223372036854775808",
        "-0.00000000000000000001",
        "100000000000000000000000000000000.01",
    ];
    let records: Vec<String> =
        numbers.iter().enumerate().map(|(i, n)| format!("{{\"id\": {i}, \"n\": {n}}}")).collect();
    answer(&s, &records.join(","));
    s.create(&[listing("people", &json!({}))]);
    s.fetch();
    assert_eq!(types(&mut s), "id|bigint\nn|numeric");
    for (i, n) in numbers.iter().enumerate() {
        let same = format!("SELECT n::text = '{n}'::numeric::text AND (_raw->>'n') = '{n}'::numeric::text FROM api.people WHERE id = {i}");
        assert_eq!(s.client.value(&same), "t", "{n}");
    }
}

#[test]
fn field_names_become_identifiers_by_one_rule() {
    let mut s = Sources::new("names");
    let long = "x".repeat(80);
    answer(
        &s,
        &format!(
            r#"{{"id": 1, "firstName": 2, "first_name": 3, "select": 4, "_raw": 5, "Größe in cm": 6, "{long}": 7, "": 8, "a\"b": 9}}"#
        ),
    );
    s.create(&[listing("people", &json!({}))]);
    s.fetch();
    let columns = types(&mut s);
    for wanted in ["first_name|", "first_name_2|", "select_|", "raw_2|", "größe_in_cm|", "unnamed|", "a_b|"] {
        assert!(columns.lines().any(|l| l.starts_with(wanted)), "{wanted} in {columns}");
    }
    assert_eq!(s.client.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'api.people'::regclass AND attnum > 0 AND octet_length(attname) > 63"), "0");
    // Every value has a column of its own, whatever its name.
    let values: Vec<String> = (1..=9).map(|v| v.to_string()).collect();
    let row = s.client.value(
        "SELECT string_agg(value, ',' ORDER BY value::int) FROM api.people p, jsonb_each_text(to_jsonb(p) - '{_raw,_hash,_version,_fetched_at,_deleted_at}'::text[])",
    );
    assert_eq!(row, values.join(","));
    // They are the same ones in the next run.
    assert_eq!(s.fetch(), "people|succeeded|1|0|0|1|0|0|0");
    assert_eq!(types(&mut s), columns);
}

/// Where a text stands in the database: every column of every table, as text.
fn places_of(s: &mut Sources, text: &str) -> String {
    let tables = s.client.rows(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'm') AND n.nspname <> 'information_schema' ORDER BY 1",
    );
    let mut found = Vec::new();
    for relation in tables.into_iter().flatten().flatten() {
        let hits = s.client.value(&format!("SELECT count(*) FROM {relation} t WHERE t::text LIKE '%{text}%'"));
        if hits != "0" {
            found.push(relation);
        }
    }
    found.join(" ")
}

#[test]
fn hidden_fields_are_stored_nowhere() {
    let mut s = Sources::new("hidden");
    answer(
        &s,
        r#"{"id": "a", "ssn": "hide-me-1", "card": {"number": "hide-me-2", "brand": "visa"}, "plain": "see-me"},
           {"id": "b", "ssn": {"deep": "hide-me-3"}, "card": {"number": "hide-me-4"}, "bad": "\u0000 see-me"},
           {"ssn": "hide-me-5", "no": "key see-me"}, {"id": "c", "ssn": "hide-me-6", "ssn": "hide-me-7"}"#,
    );
    s.create(&[listing("people", &json!({"hide": ["/ssn", "/card/number"]}))]);
    assert_eq!(s.fetch(), "people|succeeded|4|2|0|0|0|0|2");
    assert_eq!(places_of(&mut s, "see-me"), "api.people wh.fetch_error", "what is not hidden");
    assert_eq!(places_of(&mut s, "hide-me"), "");
    let log = Cluster::log(s.cluster);
    assert!(!log.contains("hide-me"), "the server's log");
    assert_eq!(s.client.value("SELECT card FROM api.people WHERE id = 'a'"), "{\"brand\": \"visa\"}");
}

/// A wrong pointer is no success: nothing is there, and nothing ever will be.
#[test]
fn a_list_of_which_nothing_can_be_stored_fails_and_is_read_again_once_the_spec_is_right() {
    let mut s = Sources::new("nothing_stored");
    fill(&s.api, "people", 5, 60);
    let since = json!({"cursor": "/created", "format": "epoch_s", "start": "created[gte]", "order": "desc"});
    s.create(&[listing("people", &json!({"primary_key": ["/uuid"], "incremental": since}))]);
    assert_eq!(s.fetch(), "people|failed|5|0|0|0|0|0|5");
    let said = s.client.table("SELECT sqlstate, error, detail FROM wh.fetch_runs");
    assert!(said.starts_with("22000|no record of stream \"people\" can be stored|All 5 that came"), "{said}");
    assert_eq!(s.client.value("SELECT DISTINCT reason FROM wh.fetch_errors"), "primary key uuid is missing or null");
    let right = json!({"streams": [listing("people", &json!({"incremental": since}))]});
    let right = literal(&spec(&s.api, &right).to_string());
    s.client.exec(&format!("DROP TABLE api.people; SELECT wh.alter_source('api', {right})"));
    assert_eq!(s.fetch(), "people|succeeded|5|5|0|0|0|0|0");
    // One bad record at the end of a good list is all that the next run meets, and no reason to fail.
    s.api.put("people", json!({"id": null, "created": 1_800_000_000}));
    assert_eq!(s.fetch(), "people|succeeded|2|0|0|1|0|0|1");
    assert_eq!(s.fetch(), "people|succeeded|1|0|0|0|0|0|1");
    assert_ledger(&mut s.client, "api");
}
