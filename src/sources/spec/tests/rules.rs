//! What does not fit together.

use serde_json::{json, Value};

use super::{problems, with};

/// The rules that the schema can't say, each broken alone.
#[test]
fn what_does_not_fit_together_is_named() {
    let two = json!({"name": "others", "path": "others", "records": "", "primary_key": ["/id"]});
    let named = |name: &str| {
        let mut stream = two.clone();
        stream["name"] = json!(name);
        stream
    };
    let parent = |stream: &str, bind: &str| json!({"stream": stream, "bind": {bind: "/id"}});
    let keyset = |more: Value| {
        let mut paginator = json!({"type": "keyset", "pointer": "/t"});
        paginator.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        paginator
    };
    let since = json!({"cursor": "/t", "format": "iso", "start": "since"});
    let cases: Vec<(Vec<(&str, Value)>, &str, &str)> = vec![
        (vec![("/base_url", json!("http://api.example.com"))], "/base_url", "not encrypted"),
        (vec![("/base_url", json!("http://10.0.0.1/"))], "/base_url", "not encrypted"),
        (vec![("/base_url", json!("http://[fd00::1]/"))], "/base_url", "not encrypted"),
        (vec![("/base_url", json!("http://127.0.0.1.example.com"))], "/base_url", "not encrypted"),
        (vec![("/base_url", json!("https://a:b@example.com"))], "/base_url", "credentials"),
        (vec![("/base_url", json!("https://example.com/?a=b"))], "/base_url", "query"),
        (vec![("/base_url", json!("https://example.com/#a"))], "/base_url", "fragment"),
        (vec![("/base_url", json!("https://"))], "/base_url", "no URL"),
        (
            vec![(
                "/auth",
                json!({"type": "oauth2", "token_url": "http://x.com", "client_id": "a", "client_secret": "b"}),
            )],
            "/auth/token_url",
            "not encrypted",
        ),
        (
            vec![(
                "/auth",
                json!({"type": "oauth2", "token_url": "https://x.com", "client_id": "a", "client_secret": "b",
                    "grant": "refresh_token"}),
            )],
            "/auth/refresh_secret",
            "do not fit",
        ),
        (vec![("/auth", json!({"type": "bearer", "secret": "sk_live_51Habc"}))], "/auth/secret", "a secret itself"),
        (
            vec![("/auth", json!({"type": "basic", "user": "a", "secret": "b", "secret_is_user": true}))],
            "/auth/user",
            "already",
        ),
        (vec![("/headers", json!({"authorization": "x"}))], "/headers/authorization", "holds credentials"),
        (vec![("/headers", json!({"Host": "x"}))], "/headers/Host", "set by the extension"),
        (vec![("/headers", json!({"X": "Bearer abc"}))], "/headers/X", "looks like a secret"),
        (vec![("/headers", json!({"A": "1", "a": "2"}))], "/headers/a", "twice"),
        (vec![("/errors", json!([{"status": [200], "action": "retry"}]))], "/errors/0/status", "below 400"),
        (vec![("/retry", json!({"base_ms": 500, "max_ms": 100}))], "/retry/base_ms", "longer"),
        (vec![("/limits", json!({"max_body_bytes": 100, "max_record_bytes": 200}))], "/limits", "longer than a body"),
        // names
        (vec![("/streams/-", named("things"))], "/streams/1/name", "stands twice"),
        (vec![("/streams/-", named("Things"))], "/streams/1/name", "both be the table \"things\""),
        (
            vec![("/streams/0/children", json!([{"pointer": "/items", "name": "things"}]))],
            "/streams/0/children/0/name",
            "stands twice",
        ),
        (
            vec![("/streams/0/columns", json!({"order": {"path": "/order", "type": "text"}}))],
            "/streams/0/columns/order",
            "without quotes",
        ),
        (
            vec![("/streams/0/columns", json!({"a": {"path": "", "type": "jsonb"}}))],
            "/streams/0/columns/a/path",
            "whole record",
        ),
        (
            vec![("/streams/0/columns", json!({"a": {"path": "/a", "type": "text", "format": "iso"}}))],
            "/streams/0/columns/a/format",
            "has no format",
        ),
        (
            vec![("/streams/0/columns", json!({"a": {"path": "/a", "type": "numeric(2,3)"}}))],
            "/streams/0/columns/a/type",
            "is no type",
        ),
        (
            vec![
                ("/streams/0/columns", json!({"a": {"path": "/a", "type": "jsonb"}})),
                ("/streams/0/children", json!([{"pointer": "/b", "name": "a", "as": "jsonb"}])),
            ],
            "/streams/0/children/0/name",
            "stands twice",
        ),
        // paths
        (vec![("/streams/0/path", json!("/things"))], "/streams/0/path", "leaves base_url"),
        (vec![("/streams/0/path", json!("https://evil.example/"))], "/streams/0/path", "leaves base_url"),
        (vec![("/streams/0/path", json!("a//b"))], "/streams/0/path", "leaves base_url"),
        (vec![("/streams/0/path", json!("a/../../b"))], "/streams/0/path", "goes up"),
        (vec![("/streams/0/path", json!("a/%2E%2e/b"))], "/streams/0/path", "goes up"),
        (vec![("/streams/0/path", json!("a%2fb"))], "/streams/0/path", "hidden separator"),
        (vec![("/streams/0/path", json!("a\\b"))], "/streams/0/path", "hidden separator"),
        (vec![("/streams/0/path", json!("a?b=c"))], "/streams/0/path", "query"),
        (vec![("/streams/0/path", json!("a b"))], "/streams/0/path", "blank"),
        (vec![("/streams/0/path", json!("a/{id}"))], "/streams/0/path", "nothing fills {id}"),
        (vec![("/streams/0/params", json!({"q": "{start}"}))], "/streams/0/params/q", "nothing fills {start}"),
        // parents
        (
            vec![
                ("/streams/-", two.clone()),
                ("/streams/1/parent", parent("nobody", "id")),
                ("/streams/1/path", json!("o/{id}")),
            ],
            "/streams/1/parent/stream",
            "no stream \"nobody\"",
        ),
        (
            vec![("/streams/0/parent", parent("things", "id")), ("/streams/0/path", json!("o/{id}"))],
            "/streams/0/parent/stream",
            "in a circle",
        ),
        (
            vec![("/streams/-", two.clone()), ("/streams/1/parent", parent("things", "id"))],
            "/streams/1/parent/bind/id",
            "stands nowhere",
        ),
        (
            vec![
                ("/streams/-", two.clone()),
                ("/streams/1/parent", parent("things", "key")),
                ("/streams/1/path", json!("o/{key}")),
            ],
            "/streams/1/parent/bind/key",
            "something else",
        ),
        (
            vec![
                ("/streams/0/primary_key", Value::Null),
                ("/streams/-", two.clone()),
                ("/streams/1/parent", parent("things", "id")),
                ("/streams/1/path", json!("o/{id}")),
            ],
            "/streams/1/parent/stream",
            "has no primary_key",
        ),
        // keys and writing
        (
            vec![("/streams/0/primary_key", Value::Null), ("/streams/0/write", json!("merge"))],
            "/streams/0/write",
            "needs a key",
        ),
        (
            vec![("/streams/0/primary_key", Value::Null), ("/streams/0/incremental", since.clone())],
            "/streams/0/write",
            "replaces all",
        ),
        (vec![("/streams/0/primary_key", json!([""]))], "/streams/0/primary_key/0", "whole record"),
        (
            vec![("/streams/0/version", json!("/v")), ("/streams/0/write", json!("append"))],
            "/streams/0/version",
            "merge only",
        ),
        (
            vec![
                ("/streams/0/write", json!("append")),
                ("/streams/0/incremental", json!({"cursor": "/t", "format": "iso", "start": "since", "lookback_s": 5})),
            ],
            "/streams/0/incremental/lookback_s",
            "stand twice",
        ),
        (vec![("/streams/0/hide", json!(["/id"]))], "/streams/0/primary_key/0", "is hidden"),
        (vec![("/streams/0/body", json!({}))], "/streams/0/body", "a GET has no body"),
        // paginators
        (
            vec![("/streams/0/paginator", json!({"type": "page", "param": "p", "size_param": "n"}))],
            "/streams/0/paginator",
            "no size",
        ),
        (
            vec![("/streams/0/paginator", keyset(json!({"param": "q", "first": "a"})))],
            "/streams/0/paginator",
            "nothing to hold",
        ),
        (
            vec![("/streams/0/paginator", keyset(json!({"param": "q", "next": "a"})))],
            "/streams/0/paginator",
            "stands nowhere",
        ),
        (
            vec![("/streams/0/paginator", keyset(json!({"param": "q", "next": "{cursor}{key}"})))],
            "/streams/0/paginator/next",
            "nothing fills {key}",
        ),
        (
            vec![("/streams/0/paginator", keyset(json!({}))), ("/streams/0/params", json!({"after": "{cursor}"}))],
            "/streams/0/paginator",
            "on the first page",
        ),
        (
            vec![
                ("/streams/0/paginator", json!({"type": "cursor", "param": "limit", "from": "body:/n"})),
                ("/streams/0/params", json!({"limit": 1})),
            ],
            "/streams/0/paginator/param",
            "stands in params too",
        ),
        (
            vec![("/streams/0/paginator", json!({"type": "offset", "param": "a", "size_param": "a", "size": 1}))],
            "/streams/0/paginator/size_param",
            "put there already",
        ),
        (
            vec![("/streams/0/paginator", json!({"type": "cursor", "param": "body:/a/b", "from": "body:/n"}))],
            "/streams/0/paginator/param",
            "no body",
        ),
        (
            vec![
                ("/streams/0/paginator", json!({"type": "cursor", "param": "body:/a/b", "from": "body:/n"})),
                ("/streams/0/method", json!("POST")),
                ("/streams/0/body", json!({"a": 1})),
            ],
            "/streams/0/paginator/param",
            "no place \"/a\"",
        ),
        // incremental
        (
            vec![("/streams/0/incremental", json!({"cursor": "/t", "format": "iso"}))],
            "/streams/0/incremental",
            "everything again",
        ),
        (
            vec![(
                "/streams/0/incremental",
                json!({"cursor": "/t", "format": "integer", "start": "a", "lookback_s": 1}),
            )],
            "/streams/0/incremental/lookback_s",
            "no time",
        ),
        (
            vec![
                ("/streams/0/incremental", json!({"cursor": "/t", "format": "iso"})),
                ("/streams/0/params", json!({"q": "{start}"})),
            ],
            "/streams/0/incremental/initial",
            "first run",
        ),
        (
            vec![(
                "/streams/0/incremental",
                json!({"cursor": "/t", "format": "iso", "bound_format": "integer", "start": "a"}),
            )],
            "/streams/0/incremental/bound_format",
            "no time",
        ),
        // deletes and changes
        (vec![("/streams/0/deletes", json!({}))], "/streams/0/deletes", "nothing says"),
        (
            vec![("/streams/0/deletes", json!({"sweep": "1d", "confirm": "get"}))],
            "/streams/0/deletes/confirm",
            "no path",
        ),
        (
            vec![("/streams/0/deletes", json!({"sweep": "1d", "confirm": "get", "path": "things"}))],
            "/streams/0/deletes/path",
            "same for every record",
        ),
        (
            vec![("/streams/0/changes", json!({"stream": "events", "retention_s": 1, "object": "/o"}))],
            "/streams/0/changes/stream",
            "no stream \"events\"",
        ),
        (
            vec![
                ("/streams/-", named("events")),
                ("/streams/0/changes", json!({"stream": "events", "retention_s": 1, "object": "/o"})),
            ],
            "/streams/0/changes/stream",
            "read all of \"events\"",
        ),
    ];
    for (changes, place, message) in cases {
        let found = problems(&with(&changes));
        let told = found.iter().any(|problem| problem.pointer == place && problem.message.contains(message));
        assert!(told, "{changes:?} gave {found:#?}");
        assert!(found.iter().all(|problem| !problem.right.is_empty()), "{found:#?}");
    }
}

#[test]
fn longer_circles_of_parents_are_found() {
    let stream = |name: &str, parent: &str| {
        json!({"name": name, "path": "x/{id}", "records": "", "primary_key": ["/id"],
            "parent": {"stream": parent, "bind": {"id": "/id"}}})
    };
    let streams = json!([stream("a", "b"), stream("b", "c"), stream("c", "a"), stream("d", "a")]);
    let places: Vec<String> = problems(&with(&[("/streams", streams)])).into_iter().map(|p| p.pointer).collect();
    assert_eq!(places, ["/streams/0/parent/stream", "/streams/1/parent/stream", "/streams/2/parent/stream"]);
}

#[test]
fn http_is_for_this_machine() {
    for url in ["http://127.0.0.1:4400/v1", "http://localhost", "http://[::1]:1/", "http://api.localhost"] {
        assert_eq!(problems(&with(&[("/base_url", json!(url))])), [], "{url}");
    }
}

#[test]
fn no_problem_repeats_a_secret() {
    let secret = "sk_live_51HabcDEF";
    for changes in [
        [("/auth", json!({"type": "bearer", "secret": secret}))],
        [("/auth", json!({"type": "bearer", "secret": format!("{secret} {}", "x".repeat(70))}))],
        [("/headers", json!({"X": format!("{secret}\n")}))],
        [("/streams/0/records", json!(secret))],
        [("/auth", json!({"type": "bearer", "secret": "51Habc with a blank, of a vendor that nobody knows"}))],
        [("/auth", json!({"type": "bearer", "secret": ["51Habc"]}))],
        [("/headers", json!({"X": "51Habc\u{e9}"}))],
        [("/streams/0/headers", json!({"X": "51Habc\u{e9}"}))],
    ] {
        let found = problems(&with(&changes));
        assert!(!found.is_empty() && !format!("{found:?}").contains("51Habc"), "{found:?}");
    }
}
