//! What belongs to a record: elements of its arrays, and lists that are asked for by it. Deleted with it, back with it,
//! compared with the API as everything else.

use pg_test::fake_api::Reply;
use pg_test::sources::{assert_ledger, listing, Sources};
use pg_test::{Client, ClientExt};
use serde_json::{json, Value};

fn order(id: &str, lines: Value) -> Value {
    json!({"id": id, "created": 1, "lines": lines, "tags": ["a", "b"]})
}

/// Orders with lines by key and tags by position, and notes that are asked for by order; `over` is laid over the orders.
fn orders(name: &str, over: &Value) -> Sources {
    let mut s = Sources::new(name);
    for n in 0..10 {
        s.api.put("orders", order(&format!("o{n}"), json!([{"sku": "x", "n": n}, {"sku": "y", "n": 1.5}])));
    }
    s.api.route("/notes/", |asked| {
        let of = asked.path.trim_start_matches("/notes/").to_owned();
        Reply::json(&json!({"data": [{"id": format!("{of}-1"), "text": of}, {"id": format!("{of}-2")}]}))
    });
    let children = json!([{"pointer": "/lines", "name": "order_lines", "primary_key": ["/sku"]}, {"pointer": "/tags", "name": "order_tags"}]);
    let mut all = listing("orders", &json!({"version": null, "children": children, "deletes": {"sweep": "1d"}}));
    for (member, value) in over.as_object().into_iter().flatten() {
        all[member] = value.clone();
    }
    let notes = json!({"name": "notes", "path": "notes/{order_ref}", "records": "/data", "primary_key": ["/id"],
        "parent": {"stream": "orders", "bind": {"order_ref": "/id"}, "changed_only": true}});
    let replies = json!({"name": "replies", "path": "notes/{note}", "records": "/data", "primary_key": ["/id"],
        "parent": {"stream": "notes", "bind": {"note": "/id"}, "changed_only": true}});
    s.create(&[all, notes, replies]);
    s.client.table("SELECT status FROM wh.fetch('api')");
    s
}

/// The next run looks for deleted rows.
fn due(client: &mut Client) {
    client.exec("UPDATE wh.source_state SET last_full = now() - interval '2 days'");
}

/// Of each table: rows that are there, and rows that are marked as deleted.
#[track_caller]
fn rows(client: &mut Client) -> String {
    let count = |table: &str| {
        format!("(SELECT count(*) FILTER (WHERE _deleted_at IS NULL) || '+' || count(_deleted_at) FROM api.{table})")
    };
    client.table(&format!(
        "SELECT {}, {}, {}, {}, {}",
        count("orders"),
        count("order_lines"),
        count("order_tags"),
        count("notes"),
        count("replies")
    ))
}

#[test]
fn what_belongs_to_a_deleted_record_is_marked_with_it_and_comes_back_with_it() {
    let mut s = orders("family", &json!({}));
    assert_eq!(rows(&mut s.client), "10+0|20+0|20+0|20+0|40+0");
    let gone = s.api.objects("orders").remove(3);
    s.api.delete("orders", "o3");
    due(&mut s.client);
    let fetched = "SELECT stream, status, deleted FROM wh.fetch('api') ORDER BY stream";
    assert_eq!(s.client.table(fetched), "notes|succeeded|2\norders|succeeded|1\nreplies|succeeded|4");
    assert_eq!(rows(&mut s.client), "9+1|18+2|18+2|18+2|36+4");
    for (table, column) in [("order_lines", "orders_id"), ("order_tags", "orders_id"), ("notes", "order_ref")] {
        assert_eq!(
            s.client.value(&format!(
                "SELECT string_agg(DISTINCT {column}, ' ') FROM api.{table} WHERE _deleted_at IS NOT NULL"
            )),
            "o3"
        );
    }
    assert_eq!(s.client.table("SELECT * FROM wh.verify_source('api')"), "");
    // Nothing more to follow: no row is written.
    let before = "SELECT md5(string_agg(ctid::text || xmin, ' ' ORDER BY id)) FROM api.notes";
    let wrote = s.client.value(before);
    assert_eq!(s.client.table(fetched), "notes|succeeded|0\norders|succeeded|0\nreplies|succeeded|0");
    assert_eq!(s.client.value(before), wrote);

    s.api.put("orders", gone);
    assert_eq!(s.client.table(fetched), "notes|succeeded|0\norders|succeeded|0\nreplies|succeeded|0");
    assert_eq!(rows(&mut s.client), "10+0|20+0|20+0|20+0|40+0");
    assert_eq!(s.client.table("SELECT * FROM wh.verify_source('api')"), "");
    assert_ledger(&mut s.client, "api");
}

#[test]
fn what_belongs_to_a_removed_record_goes_with_it() {
    let mut s = orders("family_removed", &json!({"deletes": {"sweep": "1d", "hard": true}}));
    s.api.delete("orders", "o3");
    due(&mut s.client);
    s.client.table("SELECT status FROM wh.fetch('api')");
    // Notes keep their own rule, which is to mark.
    assert_eq!(rows(&mut s.client), "9+0|18+0|18+0|18+2|36+4");
    assert_eq!(s.client.table("SELECT * FROM wh.verify_source('api')"), "");
}

#[test]
fn elements_of_a_record_that_says_itself_that_it_is_deleted_are_marked() {
    let mut s = orders("family_flagged", &json!({"deletes": {"flag": "/gone"}}));
    let mut flagged = order("o3", json!([{"sku": "x", "n": 3}]));
    flagged["gone"] = json!(true);
    s.api.put("orders", flagged);
    s.client.table("SELECT status FROM wh.fetch('api')");
    // As the record says: one line less, and the other marked.
    assert_eq!(rows(&mut s.client), "9+1|18+1|18+2|18+2|36+4");
    assert_eq!(s.client.table("SELECT * FROM wh.verify_source('api')"), "");
}

#[test]
fn a_parent_whose_table_was_emptied_takes_nothing_along() {
    let mut s = orders("family_emptied", &json!({}));
    s.client.exec("TRUNCATE api.orders; SELECT wh.reset_source('api', 'orders')");
    s.api.delete("orders", "o3");
    s.client.table("SELECT status FROM wh.fetch('api')");
    assert_eq!(s.client.value("SELECT count(*) FROM api.notes WHERE _deleted_at IS NOT NULL"), "0");
}

#[test]
fn tables_of_arrays_are_shown_and_verified() {
    let mut s = orders("family_verified", &json!({}));
    assert_eq!(
        s.client.table(
            "SELECT stream, \"table\", key, rows, parent, pointer, last_success IS NOT NULL FROM wh.source_streams ORDER BY stream"
        ),
        "notes|api.notes|{/id}|20|orders||t\norder_lines|api.order_lines|{/sku}|20|orders|/lines|t
order_tags|api.order_tags|{}|20|orders|/tags|t\norders|api.orders|{/id}|10|||t\nreplies|api.replies|{/id}|40|notes||t"
    );
    assert_eq!(s.client.table("SELECT * FROM wh.verify_source('api')"), "");
    s.client.exec(
        "DELETE FROM api.order_lines WHERE orders_id = 'o1' AND sku = 'x';
         UPDATE api.order_lines SET _hash = gen_random_uuid() WHERE orders_id = 'o2' AND sku = 'y';
         UPDATE api.order_lines SET _deleted_at = now() WHERE orders_id = 'o4' AND sku = 'y';
         INSERT INTO api.order_lines (orders_id, sku, _hash) VALUES ('o5', 'made up', gen_random_uuid()), ('nobody', 'x', gen_random_uuid());
         DELETE FROM api.order_tags WHERE orders_id = 'o6' AND _position = 1",
    );
    assert_eq!(
        s.client
            .table("SELECT stream, key, difference FROM wh.verify_source('api') ORDER BY stream, key COLLATE \"C\""),
        "order_lines|nobody, x|without a row that it belongs to
order_lines|o1, x|missing in the table
order_lines|o2, y|different
order_lines|o4, y|deleted in the table, and not in the API
order_lines|o5, made up|not in the API
order_tags|o6, 1|missing in the table"
    );
}
