//! Listings whose records move from page to page while they are read: none of them is passed by.

use pg_test::fake_api::{fill, Asked, Fault, Reply, Store};
use pg_test::sources::{assert_equal, assert_ledger, listing, Sources};
use pg_test::ClientExt;
use serde_json::{json, Value};

/// A listing of `people`, in pages of 10 that have numbers, in each of the ways in which APIs do that.
fn numbered() -> Vec<(&'static str, Value)> {
    let pages = json!({"type": "page", "param": "page", "size_param": "per_page", "size": 10, "pages": "/pages"});
    let offsets = json!({"type": "offset", "param": "offset", "size_param": "limit", "size": 10, "total": "/total"});
    let cursor = json!({"type": "cursor", "param": "offset", "from": "body:/next"});
    vec![
        ("page", json!({"records": "/items", "paginator": pages})),
        ("offset", json!({"records": "/items", "paginator": offsets})),
        ("link", json!({"records": "", "paginator": {"type": "link_header"}})),
        ("next_url", json!({"records": "/results", "paginator": {"type": "next_url", "pointer": "/paging/next"}})),
        ("next_path", json!({"records": "/records", "paginator": {"type": "next_path", "pointer": "/nextRecordsUrl"}})),
        ("counted", json!({"records": "/items", "paginator": cursor})),
    ]
}

/// What the fake API has no style for: the next offset as a cursor in the body.
fn counted(asked: &Asked, objects: &[Value]) -> Reply {
    let at: usize = asked.param("offset").and_then(|v| v.parse().ok()).unwrap_or(0);
    let page: Vec<&Value> = objects.iter().rev().skip(at).take(10).collect();
    let next = if at + 10 < objects.len() { json!(at + 10) } else { Value::Null };
    Reply::json(&json!({"items": page, "next": next}))
}

/// The newest ones go, so that all the others move up.
fn shrink(store: &mut Store) {
    let people = store.entry("people".into()).or_default();
    people.truncate(people.len() - 15);
}

#[test]
fn a_numbered_listing_that_shrinks_between_two_runs_loses_no_row() {
    for (style, over) in numbered() {
        let mut s = Sources::new(&format!("shrunk_{style}"));
        fill(&s.api, "people", 100, 60);
        let mut over = over;
        over["path"] = json!(format!("{style}/people"));
        over["limits"] = json!({"batch_rows": 10});
        over["deletes"] = json!({"sweep": "1d", "max_fraction": 1});
        over["version"] = Value::Null;
        over["params"] = json!({});
        s.create(&[listing("people", &over)]);
        let path = format!("/{style}/people");
        let route = |s: &Sources| {
            let objects = s.api.objects("people");
            if style == "counted" {
                s.api.route("/counted/people", move |asked| counted(asked, &objects));
            }
        };
        route(&s);
        s.api.fault(&path, 4, 1, Fault::Reply(Reply::text(429, "text/plain", "later").with("Retry-After", "3600")));
        assert_eq!(s.client.value("SELECT status FROM wh.fetch('api')"), "failed", "{style}");
        assert_eq!(s.client.value("SELECT count(*) FROM api.people"), "40", "{style}: what came before is kept");
        s.client.exec("UPDATE wh.source_state SET state = state - 'not_before'");
        s.api.change(shrink);
        route(&s);
        // The first scan of all: nothing is looked for that could be gone.
        assert_eq!(s.client.value("SELECT status FROM wh.fetch('api')"), "succeeded", "{style}");
        s.client.exec("UPDATE wh.source_state SET last_full = now() - interval '2 days'");
        s.api.fault(&path, 4, 1, Fault::Reply(Reply::text(429, "text/plain", "later").with("Retry-After", "3600")));
        assert_eq!(s.client.value("SELECT status FROM wh.fetch('api')"), "failed", "{style}");
        s.client.exec("UPDATE wh.source_state SET state = state - 'not_before'");
        s.api.change(shrink);
        route(&s);
        // The scan that looks for deleted rows.
        assert_eq!(s.client.value("SELECT status FROM wh.fetch('api')"), "succeeded", "{style}");
        assert_equal(&mut s.client, "api.people", &s.api, "people");
        assert_ledger(&mut s.client, "api");
    }
}

/// GitHub's way to list: pages with numbers, and everything by its last change.
fn github(asked: &Asked, objects: &[Value]) -> Reply {
    let (page, size) = (asked.param("page").and_then(|p| p.parse().ok()).unwrap_or(1), 4);
    let since = asked.param("since").unwrap_or_default();
    let mut all: Vec<&Value> = objects.iter().filter(|o| o["updated_at"].as_str() >= Some(since)).collect();
    all.sort_by_key(|o| o["updated_at"].as_str());
    if asked.param("direction") == Some("desc") {
        all.reverse();
    }
    let shown: Vec<&&Value> = all.iter().skip((page - 1) * size).take(size).collect();
    let reply = Reply::json(&json!(shown));
    match page * size < all.len() {
        true => reply.with("Link", &format!("<{}?{}>; rel=\"next\"", asked.path, next_query(asked, page + 1))),
        false => reply,
    }
}

fn next_query(asked: &Asked, page: usize) -> String {
    let others = asked.query.iter().filter(|(name, _)| name != "page");
    others.map(|(n, v)| format!("{n}={v}&")).collect::<String>() + &format!("page={page}")
}

#[test]
fn what_changes_while_github_is_read_hides_no_other_row() {
    let mut s = Sources::new("github_moves");
    let object = |id: u64, hour: u64| json!({"id": id, "updated_at": format!("2026-01-01T{hour:02}:00:00Z")});
    let lists = [("issues", "issues"), ("comments", "issues/comments"), ("review_comments", "pulls/comments")];
    s.client.exec("SELECT wh.set_secret('github_token', 'made up')");
    s.client.exec(&format!(
        "SELECT wh.create_source('api', preset => 'github', streams => '{{issues,comments,review_comments}}',
           settings => '{{\"owner\": \"acme\", \"repo\": \"product\", \"base_url\": \"{}\"}}')",
        s.api.url("/")
    ));
    for (_, path) in lists {
        let path = format!("/repos/acme/product/{path}");
        let objects = std::sync::Mutex::new((1..=12).map(|n| object(n, n)).collect::<Vec<_>>());
        let whole = path.clone();
        s.api.route(&path, move |asked| {
            let mut objects = objects.lock().expect("a lock");
            if asked.path != whole {
                return Reply::text(404, "application/json", "{}");
            }
            let reply = github(asked, &objects);
            // After the first page, two that were not changed for long are: they move.
            if asked.param("page").is_none_or(|page| page == "1") {
                for (id, hour) in [(1, 20), (2, 21)] {
                    objects[id as usize - 1] = object(id, hour);
                }
            }
            reply
        });
    }
    for _ in 0..2 {
        assert_eq!(s.client.value("SELECT string_agg(DISTINCT status, ' ') FROM wh.fetch('api')"), "succeeded");
    }
    for (stream, _) in lists {
        assert_eq!(
            s.client.value(&format!(
                "SELECT string_agg(id || ' ' || extract(hour FROM updated_at AT TIME ZONE 'UTC'), ', ' ORDER BY id) FROM api.{stream}"
            )),
            "1 20, 2 21, 3 3, 4 4, 5 5, 6 6, 7 7, 8 8, 9 9, 10 10, 11 11, 12 12",
            "{stream}"
        );
    }
}
