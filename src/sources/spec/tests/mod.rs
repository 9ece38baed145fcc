//! Documents that are right, and every way to be wrong that is known.

use serde_json::{json, Value};

use super::*;

mod documentation;
mod parts;
mod rules;
mod settings;
mod unions;

/// The least spec there is, with one stream.
fn least() -> Value {
    json!({
        "base_url": "https://api.example.com/v1",
        "streams": [{"name": "things", "path": "things", "records": "/data", "primary_key": ["/id"]}],
    })
}

/// The least spec with values put at pointers; null takes a member out.
pub fn with(changes: &[(&str, Value)]) -> Value {
    let mut spec = least();
    for (pointer, value) in changes {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        match spec.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}")) {
            Value::Object(members) if value.is_null() => drop(members.remove(name)),
            Value::Object(members) => drop(members.insert(name.replace("~1", "/"), value.clone())),
            Value::Array(items) if name == "-" => items.push(value.clone()),
            Value::Array(items) => items[name.parse::<usize>().unwrap()] = value.clone(),
            _ => panic!("{parent} holds nothing"),
        }
    }
    spec
}

pub fn problems(spec: &Value) -> Vec<Problem> {
    parse(spec).err().unwrap_or_default()
}

/// The one problem that these changes make.
fn problem(changes: &[(&str, Value)]) -> Problem {
    let found = problems(&with(changes));
    assert_eq!(found.len(), 1, "{changes:?} gave {found:#?}");
    found.into_iter().next().unwrap()
}

#[test]
fn the_schema_is_a_schema_and_describes_each_member() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    assert!(jsonschema::meta::validate(&schema).is_ok());
    let mut described = 0;
    visit(&schema, "", &mut |at, value| {
        let Some(properties) = value.get("properties").and_then(Value::as_object) else { return };
        if at.ends_with("/if") {
            return;
        }
        for (name, member) in properties {
            let described_by = match member.get("$ref").and_then(Value::as_str) {
                Some(to) => schema.pointer(&to[1..]).unwrap_or_else(|| panic!("{to} is nowhere")),
                None => member,
            };
            assert!(described_by.get("description").is_some(), "{at} {name} has no description");
            described += 1;
        }
        let open = value.get("additionalProperties").is_none() && value.get("allOf").is_none();
        assert!(!open, "{at} takes unknown members");
    });
    assert!(described > 100, "{described}");
}

fn visit(value: &Value, at: &str, each: &mut impl FnMut(&str, &Value)) {
    each(at, value);
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, member)| visit(member, &format!("{at}/{name}"), each))
        }
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| visit(item, &format!("{at}/{i}"), each)),
        _ => {}
    }
}

/// What the schema calls the default is what the structs take.
#[test]
fn the_defaults_of_the_schema_are_those_of_the_code() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut explicit = with(&[
        ("/limits", json!({})),
        ("/retry", json!({})),
        ("/streams/0/deletes", json!({"flag": "/deleted"})),
        ("/streams/0/incremental", json!({"cursor": "/t", "format": "iso", "start": "since"})),
        (
            "/streams/-",
            json!({"name": "parts", "path": "x/{id}", "records": "", "primary_key": ["/id"],
            "parent": {"stream": "things", "bind": {"id": "/id"}}}),
        ),
    ]);
    let implicit = parse(&explicit).unwrap();
    for (member, of) in [
        ("/limits", "/$defs/limits"),
        ("/retry", "/properties/retry"),
        ("/streams/0", "/$defs/stream"),
        ("/streams/0/deletes", "/$defs/stream/properties/deletes"),
        ("/streams/0/incremental", "/$defs/stream/properties/incremental"),
        ("/streams/1/parent", "/$defs/stream/properties/parent"),
    ] {
        let properties = schema.pointer(of).unwrap()["properties"].as_object().unwrap().clone();
        let target = explicit.pointer_mut(member).unwrap().as_object_mut().unwrap();
        for (name, property) in properties {
            if let Some(default) = property.get("default") {
                target.entry(name).or_insert_with(|| default.clone());
            }
        }
    }
    assert_eq!(explicit.pointer("/limits/run_ms"), Some(&json!(14_400_000)));
    assert_eq!(parse(&explicit).unwrap(), implicit);
}

#[test]
fn the_example_of_the_design_is_read_member_by_member() {
    let spec = parse(&json!({
        "base_url": "https://api.stripe.com/v1/", "allow_hosts": ["api.stripe.com"],
        "auth": {"type": "bearer", "secret": "stripe_key"}, "headers": {"Stripe-Version": "2022-11-15"},
        "limits": {"rps": 20, "request_ms": 60000, "max_body_bytes": 67108864, "max_pages": 100000.0},
        "errors": [{"status": [429, 500, 502, 503, 504], "action": "retry"},
                   {"status": [403], "body": {"pointer": "/code", "equals": 7}, "action": "fail"}],
        "retry": {"max": 6, "retry_after": "Retry-After", "reset": {"header": "X-RateLimit-Reset", "unit": "epoch_s"}},
        "streams": [{"name": "customers", "path": "customers", "params": {"limit": 100, "types[]": ["a", "b"]},
            "records": "/data", "primary_key": ["/id"], "limits": {"rps": 5},
            "paginator": {"type": "cursor", "param": "starting_after", "from": "last_record:/id", "more": "/has_more"},
            "incremental": {"cursor": "/created", "format": "epoch_s", "start": "created[gte]", "lookback_s": 600,
                "order": "desc"},
            "changes": {"stream": "events", "types": ["customer.*"], "retention_s": 2500000, "object": "/data/object",
                "refetch": "customers/{id}"},
            "deletes": {"flag": "/deleted", "sweep": "7d", "confirm": "get", "max_fraction": 0.2},
            "columns": {"balance": {"path": "/balance", "type": "numeric"}}, "on_bad_row": "quarantine", "drift": "add"},
           {"name": "events", "path": "events", "records": "/data", "primary_key": ["/id"],
            "incremental": {"cursor": "/created", "format": "epoch_s", "start": "created[gte]"}}],
    }))
    .unwrap();
    let pointer = |text| Pointer::parse(text).unwrap();
    assert_eq!(spec.auth, Auth::Bearer { secret: "stripe_key".into() });
    assert_eq!(spec.errors[1].body, Some((pointer("/code"), "7".into())));
    assert_eq!(spec.retry.reset, Some(Reset { header: "X-RateLimit-Reset".into(), unit: ResetUnit::EpochS }));
    let stream = &spec.streams[0];
    let params: Vec<_> = stream.params.iter().map(|(name, t)| (name.as_str(), t.fill(|_| None).unwrap())).collect();
    assert_eq!(params, [("limit", "100".into()), ("types[]", "a".into()), ("types[]", "b".into())]);
    assert_eq!(
        stream.paginator,
        Paginator::Cursor {
            param: Target::Query("starting_after".into()),
            from: From::LastRecord(pointer("/id")),
            more: Some(pointer("/has_more")),
            url_param: None,
        }
    );
    assert_eq!((stream.limits.rps, stream.limits.request_ms, stream.limits.max_pages), (Some(5.0), 60_000, 100_000));
    assert_eq!(spec.streams[1].limits.rps, Some(20.0));
    let deletes = stream.deletes.as_ref().unwrap();
    assert_eq!((deletes.sweep_s, deletes.confirm), (Some(7 * 86_400), Confirm::Get));
    assert_eq!(stream.columns["balance"].ty, crate::sources::columns::Type::Numeric);
    assert_eq!(stream.write, Write::Merge);
}

#[test]
fn paths_are_joined_below_base_url() {
    let spec = parse(&least()).unwrap();
    assert_eq!(spec.base_url.join("things").unwrap().as_str(), "https://api.example.com/v1/things");
}

#[test]
fn a_stream_without_a_key_replaces_its_table() {
    assert_eq!(parse(&with(&[("/streams/0/primary_key", Value::Null)])).unwrap().streams[0].write, Write::Replace);
}

/// The schema's part: each kind of error says where, what, and what would be right.
#[test]
fn what_the_schema_refuses_is_named() {
    for (pointer, value, place, message, right) in [
        ("/stream", json!([]), "/stream", "the member \"stream\" is not known here", "\"streams\", if that was meant"),
        ("/streams/0/a~1b", json!(1), "/streams/0/a~1b", "\"a/b\" is not known", "one of "),
        ("/streams/0/name", Value::Null, "/streams/0", "\"name\" is missing", "\"name\": Its name"),
        ("/auth", json!({"type": "baerer"}), "/auth/type", "\"baerer\" is not one of", "\"bearer\", if that was meant"),
        ("/auth", json!({"type": "bearer"}), "/auth", "\"secret\" is missing", "wh.set_secret"),
        ("/auth", json!({"type": "none", "secret": "x"}), "/auth/secret", "not known here", "one of type"),
        ("/auth", json!({}), "/auth", "\"type\" is missing", "\"type\": What kind"),
        ("/base_url", json!("ftp://x"), "/base_url", "\"ftp://x\" is not written", "https://api.stripe.com/v1/"),
        ("/limits", json!({"rps": "20"}), "/limits/rps", "\"20\" is a text", "a number: Requests a second"),
        ("/limits", json!({"rps": 0}), "/limits/rps", "0 is too small", "more than 0"),
        ("/limits", json!({"concurrency": 1.5}), "/limits/concurrency", "1.5 is a number", "a whole number"),
        ("/limits", json!({"batch_rows": 0}), "/limits/batch_rows", "0 is too small", "1 or more"),
        ("/limits", json!({"max_redirects": 99}), "/limits/max_redirects", "99 is too great", "20 or less"),
        ("/streams/0/records", json!("data"), "/streams/0/records", "is not written", "/data"),
        ("/streams/0/records", json!("/a~2"), "/streams/0/records", "is not written", "/data"),
        ("/streams/0/primary_key", json!(["id"]), "/streams/0/primary_key/0", "is not written", "RFC 6901"),
        ("/streams/0/primary_key", json!([]), "/streams/0/primary_key", "the list is empty", "record the same one"),
        ("/streams/0/primary_key", json!(["/a", "/a"]), "/streams/0/primary_key", "twice", "each item once"),
        (
            "/streams/0/write",
            json!("upsert"),
            "/streams/0/write",
            "\"upsert\" is not one",
            "one of merge, append, replace",
        ),
        ("/streams/0/path", json!("a/{b"), "/streams/0/path", "is not written", "{name} is a place"),
        ("/streams/0/params", json!({"a": {}}), "/streams/0/params/a", "{} is an object", "a text or a number"),
        ("/streams/0/params", json!({"a": [[]]}), "/streams/0/params/a/0", "[] is a list", "a text or a number"),
        ("/streams", json!([]), "/streams", "the list is empty", "lists that become tables"),
        ("/headers", json!({"a b": "c"}), "/headers", "the name \"a b\" is not allowed", "Stripe-Version"),
        ("/headers", json!({"a": "b\r\nc"}), "/headers/a", "is not written", "Printable ASCII"),
        (
            "/streams/0/deletes",
            json!({"flag": "/d", "max_fraction": 1.1}),
            "/streams/0/deletes/max_fraction",
            "too great",
            "1 or less",
        ),
        (
            "/streams/0/deletes",
            json!({"flag": "/d", "max_fraction": -0.1}),
            "/streams/0/deletes/max_fraction",
            "too small",
            "0 or more",
        ),
        ("/streams/0/deletes", json!({"sweep": "weekly"}), "/streams/0/deletes/sweep", "is not written", "7d"),
        (
            "/streams/0/columns",
            json!({"A": {"path": "/a", "type": "text"}}),
            "/streams/0/columns",
            "\"A\" is not allowed",
            "snake case",
        ),
        (
            "/streams/0/columns",
            json!({"a": {"path": "/a", "type": "text; DROP TABLE x"}}),
            "/streams/0/columns/a/type",
            "is not written",
            "SQL type",
        ),
        (
            "/streams/0/paginator",
            json!({"type": "cursor", "param": "a", "from": "header:/x"}),
            "/streams/0/paginator/from",
            "is not written",
            "last_record:/id",
        ),
        (
            "/streams/0/paginator",
            json!({"type": "cursor", "param": "a"}),
            "/streams/0/paginator",
            "\"from\" is missing",
            "last_record:/pointer",
        ),
        (
            "/streams/0/paginator",
            json!({"type": "cursor", "from": "body:/next"}),
            "/streams/0/paginator",
            "\"param\" is missing",
            "starting_after",
        ),
        ("/allow_hosts", json!(["https://x.com"]), "/allow_hosts/0", "is not written", "without scheme"),
        (
            "/errors",
            json!([{"status": [42], "action": "retry"}]),
            "/errors/0/status/0",
            "42 is too small",
            "100 or more",
        ),
    ] {
        let found = problem(&[(pointer, value.clone())]);
        let fits = found.pointer == place && found.message.contains(message) && found.right.contains(right);
        assert!(fits, "{pointer} {value} gave {found:#?}");
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let found =
        problems(&with(&[("/limits", json!({"rps": 0, "bogus": 1, "more": 2})), ("/auth", json!({"type": "x"}))]));
    let mut places: Vec<&str> = found.iter().map(|problem| problem.pointer.as_str()).collect();
    places.sort_unstable();
    assert_eq!(places, ["/auth/type", "/limits/bogus", "/limits/more", "/limits/rps"]);
}

#[test]
fn a_spec_that_is_no_object_is_refused() {
    for spec in [json!(null), json!([]), json!("x"), json!(1)] {
        assert_eq!(problems(&spec).len(), 1, "{spec}");
    }
}
