//! Members that would do nothing, or harm, beside others.

use serde_json::{json, Value};

use super::{problems, with};

/// Each broken alone; the rules for single members are in `rules`.
#[test]
fn members_that_do_not_go_together_are_refused() {
    let others = json!({"name": "others", "path": "others", "records": "", "primary_key": ["/id"]});
    let child = |more: Value, parent: Value| {
        let mut of = json!({"stream": "things", "bind": {"thing": "/id"}});
        let mut stream = json!({"name": "notes", "path": "notes/{thing}", "records": "", "primary_key": ["/id"]});
        of.as_object_mut().unwrap().extend(parent.as_object().unwrap().clone());
        stream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        stream["parent"] = of;
        stream.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        vec![("/streams/-", stream)]
    };
    let changed_only = |more: Value| child(more, json!({"changed_only": true}));
    let since = json!({"cursor": "/t", "format": "iso", "start": "since"});
    let mut events = others.clone();
    events["name"] = json!("events");
    events["incremental"] = since.clone();
    let changes = json!({"stream": "events", "retention_s": 1, "object": "/o", "refetch": "things/{id}"});
    let mut without_refetch = changes.clone();
    without_refetch["refetch"] = Value::Null;
    without_refetch.as_object_mut().unwrap().remove("refetch");
    let told = |changes: &Value| vec![("/streams/-", events.clone()), ("/streams/0/changes", changes.clone())];
    let lines = |over: Value| {
        let mut array = json!({"pointer": "/lines", "name": "lines"});
        array.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        json!([array])
    };
    let cases: Vec<(Vec<(&str, Value)>, &str, &str)> = vec![
        // side by side
        (
            vec![("/streams/0/limits", json!({"concurrency": 4}))],
            "/streams/0/limits/concurrency",
            "read one after another",
        ),
        // parents
        (
            changed_only(json!({"write": "append"})),
            "/streams/1/parent/changed_only",
            "only a part of the parents is asked for",
        ),
        (
            changed_only(json!({"write": "replace"})),
            "/streams/1/parent/changed_only",
            "only a part of the parents is asked for",
        ),
        (
            changed_only(json!({"deletes": {"sweep": "1d"}})),
            "/streams/1/parent/changed_only",
            "a sweep asks for the children of each \"things\"",
        ),
        (changed_only(json!({"incremental": since})), "/streams/1/parent/changed_only", "older children than the mark"),
        (child(json!({"primary_key": null}), json!({"in_key": true})), "/streams/1/parent/in_key", "no primary_key"),
        // children
        (vec![("/streams/0/children", lines(json!({"pointer": ""})))], "/streams/0/children/0/pointer", "whole record"),
        (
            vec![("/streams/0/children", lines(json!({}))), ("/streams/0/write", json!("append"))],
            "/streams/0/children/0",
            "have no table of elements",
        ),
        (
            vec![("/streams/0/children", lines(json!({}))), ("/streams/0/primary_key", Value::Null)],
            "/streams/0/children/0",
            "refers to the record's key",
        ),
        (vec![("/streams/0/hide", json!([""]))], "/streams/0/hide/0", "hides the whole record"),
        // changes and deletes
        (told(&without_refetch), "/streams/0/changes/refetch", "objects inside events are not stored"),
        (
            {
                let mut both = told(&changes);
                both.push(("/streams/0/primary_key", Value::Null));
                both
            },
            "/streams/0/changes",
            "there is none",
        ),
        (
            vec![("/streams/0/changes", {
                let mut own = changes.clone();
                own["stream"] = json!("things");
                own
            })],
            "/streams/0/changes/stream",
            "told of its changes itself",
        ),
        (
            vec![("/streams/0/deletes", json!({"sweep": "1d"})), ("/streams/0/write", json!("replace"))],
            "/streams/0/deletes",
            "found by key",
        ),
        (
            vec![("/streams/0/deletes", json!({"sweep": "1d", "path": "things/{id}"}))],
            "/streams/0/deletes/path",
            "nothing asks for one record",
        ),
        (
            vec![("/streams/0/deletes", json!({"flag": "/gone", "confirm": "get", "path": "things/{id}"}))],
            "/streams/0/deletes/confirm",
            "only a sweep",
        ),
        // paginators and bounds
        (
            vec![("/streams/0/paginator", json!({"type": "keyset", "pointer": "/t", "next": "a", "initial": "0"}))],
            "/streams/0/paginator",
            "have no place to go",
        ),
        (
            vec![(
                "/streams/0/paginator",
                json!({"type": "keyset", "pointer": "/t", "param": "q", "next": "{cursor}", "initial": "0"}),
            )],
            "/streams/0/paginator/initial",
            "first says",
        ),
        (
            vec![("/streams/0/incremental", json!({"cursor": "", "format": "iso", "start": "since"}))],
            "/streams/0/incremental/cursor",
            "whole record",
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
fn concurrency_goes_with_what_is_asked_for_one_by_one() {
    let limits = ("/streams/0/limits", json!({"concurrency": 8}));
    let deletes = json!({"sweep": "1d", "confirm": "get", "path": "things/{id}"});
    let spec = with(&[limits, ("/limits", json!({"concurrency": 2})), ("/streams/0/deletes", deletes)]);
    assert_eq!(problems(&spec), []);
    let spec = crate::sources::spec::parse(&spec).unwrap();
    assert_eq!((spec.limits.concurrency, spec.streams[0].limits.concurrency), (2, 8));
    // The source's is how many streams there are at a time, and no stream's.
    let spec = crate::sources::spec::parse(&with(&[("/limits", json!({"concurrency": 2}))])).unwrap();
    assert_eq!((spec.limits.concurrency, spec.streams[0].limits.concurrency), (2, 1));
}
