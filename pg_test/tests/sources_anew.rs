//! Streams that begin anew: after a restore, a reset, a refresh, or the loss of their table. Nothing is left out, and
//! nobody else's table is taken for theirs.

use std::process::Stdio;

use pg_test::fake_api::{fill, Fault, Reply};
use pg_test::sources::{assert_equal, assert_ledger, listing, Sources};
use pg_test::ClientExt;
use serde_json::{json, Value};

/// A stream that asks for what is new.
fn incremental(name: &str, more: &Value) -> Value {
    let rule = json!({"cursor": "/created", "format": "epoch_s", "start": "created[gte]", "order": "desc"});
    let mut over = json!({"incremental": rule, "version": null});
    for (member, value) in more.as_object().into_iter().flatten() {
        over[member] = value.clone();
    }
    listing(name, &over)
}

fn later() -> Fault {
    Fault::Reply(Reply::text(503, "text/plain", "later"))
}

/// A session of another database of the cluster, a copy of the test's own by pg_dump.
fn restored(s: &Sources, name: &str) -> pg_test::Client {
    let dump = pg_test::place::base().expect("a place").join(format!("{name}-{}.dump", std::process::id()));
    let file = dump.to_str().expect("a name in UTF-8");
    let run = |program: &str, arguments: &[&str]| {
        let mut tool = s.cluster.tool(program).expect("a program");
        let out = tool.args(arguments).stdin(Stdio::null()).output().expect("it runs");
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    };
    run("pg_dump", &["-Fc", "-f", file, &s.database]);
    run("createdb", &[name]);
    run("pg_restore", &["--exit-on-error", "-d", name, file]);
    std::fs::remove_file(&dump).expect("to remove the dump");
    s.cluster.connect(name).expect("a connection")
}

#[test]
fn a_restored_source_finds_its_tables_by_name_and_no_others() {
    let mut s = Sources::new("restored_from");
    for list in ["people", "places", "gone"] {
        fill(&s.api, list, 5, 3600);
    }
    s.create(&[incremental("people", &json!({})), incremental("places", &json!({})), incremental("gone", &json!({}))]);
    s.fetch();
    s.client.exec("ALTER TABLE api.places RENAME TO locations; DROP TABLE api.gone");
    let mut copy = restored(&s, "restored_to");
    assert_eq!(
        copy.table("SELECT stream, \"table\", rows FROM wh.source_streams ORDER BY 1"),
        "gone||\npeople|api.people|5\nplaces|api.locations|5"
    );
    assert_eq!(
        pg_test::sources::fetch(&mut copy, "api"),
        "gone|succeeded|5|5|0|0|0|0|0\npeople|succeeded|1|0|0|1|0|0|0\nplaces|succeeded|1|0|0|1|0|0|0"
    );
    copy.exec("SELECT wh.drop_source('api', true)");
    assert_eq!(copy.value("SELECT to_regnamespace('api') IS NULL"), "t");
    drop(copy);
    s.client.exec("DROP DATABASE restored_to WITH (FORCE)");
}

#[test]
fn a_table_that_is_not_the_streams_is_neither_used_nor_dropped() {
    let mut s = Sources::new("not_theirs");
    fill(&s.api, "people", 5, 3600);
    fill(&s.api, "places", 5, 3600);
    s.create(&[incremental("people", &json!({})), incremental("places", &json!({}))]);
    s.fetch();
    s.client.exec(
        "CREATE TABLE public.payroll (id int); INSERT INTO public.payroll VALUES (1);
         CREATE TABLE public.alike (LIKE api.places INCLUDING ALL);
         DROP TABLE api.people;
         UPDATE wh.source_state SET relation = 'public.payroll' WHERE stream = 'people';
         UPDATE wh.source_state SET relation = 'public.alike' WHERE stream = 'places'",
    );
    assert_eq!(s.client.value("SELECT status FROM wh.fetch('api', '{people}')"), "succeeded");
    assert_equal(&mut s.client, "api.people", &s.api, "people");
    s.client.exec("UPDATE wh.source_state SET relation = 'public.payroll' WHERE stream = 'people'");
    s.client.exec("SELECT wh.drop_source('api', true)");
    assert_eq!(s.client.value("SELECT count(*) FROM public.payroll"), "1");
    assert_eq!(s.client.value("SELECT to_regclass('public.alike')"), "alike");
}

#[test]
fn a_dropped_table_is_filled_again_from_the_start() {
    let mut s = Sources::new("dropped_table");
    fill(&s.api, "people", 250, 3600);
    s.create(&[incremental("people", &json!({"limits": {"batch_rows": 100}}))]);
    assert_eq!(s.fetch(), "people|succeeded|250|250|0|0|0|0|0");
    s.client.exec("DROP TABLE api.people");
    // Also where the run that reads it again is interrupted.
    s.api.fault("/cursor/people", 2, 4, later());
    assert_eq!(s.client.value("SELECT status FROM wh.fetch('api')"), "failed");
    s.api.clear_faults();
    s.client.exec("DROP TABLE api.people");
    assert_eq!(s.fetch(), "people|succeeded|250|250|0|0|0|0|0");
    assert_equal(&mut s.client, "api.people", &s.api, "people");
    assert_eq!(s.client.value("SELECT rows FROM wh.source_streams"), "250");
    assert_eq!(s.fetch(), "people|succeeded|1|0|0|1|0|0|0");
}

#[test]
fn a_dropped_table_of_an_array_is_filled_again() {
    let mut s = Sources::new("dropped_array");
    for n in 0..5 {
        s.api.put("orders", json!({"id": format!("o{n}"), "created": n, "lines": [{"sku": "x", "n": n}]}));
    }
    s.create(&[incremental("orders", &json!({"children": [{"pointer": "/lines", "name": "lines"}]}))]);
    assert_eq!(s.fetch(), "orders|succeeded|5|5|0|0|0|0|0");
    s.client.exec("DROP TABLE api.lines");
    s.api.fault("/cursor/orders", 0, 4, later());
    assert_eq!(s.client.value("SELECT status FROM wh.fetch('api')"), "failed");
    s.api.clear_faults();
    assert_eq!(s.fetch(), "orders|succeeded|5|0|5|0|0|0|0");
    assert_eq!(
        s.client.value("SELECT string_agg(orders_id || sku || n, ' ' ORDER BY n) FROM api.lines"),
        "o0x0 o1x1 o2x2 o3x3 o4x4"
    );
    assert_eq!(s.client.value("SELECT rows FROM wh.source_streams WHERE stream = 'lines'"), "5");
    assert_eq!(s.client.table("SELECT * FROM wh.verify_source('api')"), "");
}

/// While a run reads its second page, somebody does something; then the run, and another one.
fn meanwhile(s: &mut Sources, what: &'static str) -> String {
    s.api.forget();
    let mut other = s.session();
    s.api.before_request("/cursor/people", 1, move |_| {
        // The first page is stored by then.
        pg_test::wait_until("a batch", || other.value("SELECT to_regclass('api.people') IS NOT NULL") == "t");
        other.exec(what);
    });
    s.client.table("SELECT status, split_part(error, E'\n', 1) FROM wh.fetch('api')")
}

#[test]
fn a_reset_during_a_run_holds() {
    let mut s = Sources::new("reset_meanwhile");
    fill(&s.api, "people", 250, 3600);
    s.create(&[incremental("people", &json!({"limits": {"batch_rows": 100}}))]);
    assert_eq!(
        meanwhile(&mut s, "SELECT wh.reset_source('api')"),
        "failed|stream \"people\" was reset or altered while it was fetched"
    );
    assert_eq!(s.fetch(), "people|succeeded|250|150|0|100|0|0|0");
    assert_ledger(&mut s.client, "api");
}

#[test]
fn a_table_that_is_dropped_during_a_run_is_no_success_of_that_run() {
    let mut s = Sources::new("dropped_meanwhile");
    fill(&s.api, "people", 250, 3600);
    s.create(&[incremental("people", &json!({"limits": {"batch_rows": 100}}))]);
    assert_eq!(
        meanwhile(&mut s, "DROP TABLE api.people"),
        "failed|the table of stream \"people\" was dropped while it was fetched"
    );
    assert_eq!(s.fetch(), "people|succeeded|250|250|0|0|0|0|0");
    assert_equal(&mut s.client, "api.people", &s.api, "people");
}

#[test]
fn a_full_refresh_reads_also_what_an_interrupted_one_has_read() {
    let mut s = Sources::new("refreshed");
    fill(&s.api, "people", 250, 3600);
    s.create(&[incremental("people", &json!({"limits": {"batch_rows": 100}, "deletes": {"sweep": "1d"}}))]);
    s.fetch();
    s.api.fault("/cursor/people", 1, 4, later());
    let refresh = "SELECT status, received, updated FROM wh.fetch('api', full_refresh => true)";
    assert_eq!(s.client.table(refresh), "failed|100|0");
    s.api.clear_faults();
    // Of the page that was read already.
    s.api.put("people", json!({"id": "id_000249", "created": 1_700_000_000 + 249 * 3600, "n": -1}));
    assert_eq!(s.client.table(refresh), "succeeded|250|1");
    assert_equal(&mut s.client, "api.people", &s.api, "people");
}

#[test]
fn a_parent_that_was_reset_still_takes_its_children_along() {
    let mut s = Sources::new("reset_parent");
    for n in 0..5 {
        s.api.put("orders", json!({"id": format!("o{n}"), "created": n, "gone": false}));
    }
    s.api.route("/notes/", |asked| Reply::json(&json!({"data": [{"id": asked.path}]})));
    let notes = json!({"name": "notes", "path": "notes/{of}", "records": "/data", "primary_key": ["/id"],
        "parent": {"stream": "orders", "bind": {"of": "/id"}, "changed_only": true}});
    s.create(&[listing("orders", &json!({"deletes": {"flag": "/gone"}, "version": null})), notes]);
    s.fetch();
    let gone = "SELECT string_agg(\"of\", ' ' ORDER BY \"of\") FROM api.notes WHERE _deleted_at IS NOT NULL";
    for (n, expected) in [(1, "o1"), (2, "o1 o2")] {
        s.api.put("orders", json!({"id": format!("o{n}"), "created": n, "gone": true}));
        s.fetch();
        assert_eq!(s.client.value(gone), expected);
        s.client.exec("SELECT wh.reset_source('api', 'orders')");
    }
}
