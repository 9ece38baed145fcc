//! Settings over a preset.

use serde_json::{json, Value};

use crate::sources::spec::with_settings;

fn preset() -> Value {
    json!({
        "settings": {
            "host": {"description": "the host", "example": "acme.example.com"},
            "size": {"description": "the size of pages", "default": 100},
            "owner": {"description": "who owns it", "default": "acme"},
        },
        "base_url": "https://${host}/v1/",
        "headers": {"A": "1", "B": "2"},
        "limits": {"rps": 5},
        "streams": [
            {"name": "a", "path": "repos/${owner}/a", "records": "/data", "params": {"limit": "${size}"}},
            {"name": "b", "path": "b", "records": "", "hide": ["/x"]},
        ],
    })
}

#[test]
fn a_setting_that_is_used_in_several_places_is_missing_once() {
    let preset = json!({"base_url": "https://${host}/", "headers": {"A": "${host}", "B": "${host}"}, "streams": []});
    let problems = with_settings(&preset, &json!({})).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[test]
fn settings_fill_texts_and_keep_their_types() {
    let spec = with_settings(&preset(), &json!({"host": "acme.example.com"})).unwrap();
    assert_eq!(spec["base_url"], "https://acme.example.com/v1/");
    assert_eq!(spec["streams"][0]["path"], "repos/acme/a");
    assert_eq!(spec["streams"][0]["params"]["limit"], 100);
    assert_eq!(spec.get("settings"), None);
    assert!(super::parse(&spec).is_ok());
}

#[test]
fn members_are_merged_and_streams_by_name() {
    let settings = json!({
        "host": "h", "base_url": "http://127.0.0.1:4400/", "headers": {"A": null, "C": "3"}, "limits": {"concurrency": 2},
        "streams": [{"name": "b", "hide": ["/y"], "drift": "ignore"}, {"name": "c", "path": "c", "records": "", "body": null}],
    });
    let mut preset = preset();
    preset["headers"]["H"] = json!("${host}");
    let spec = with_settings(&preset, &settings).unwrap();
    assert_eq!(spec["base_url"], "http://127.0.0.1:4400/");
    assert_eq!(spec["headers"], json!({"B": "2", "C": "3", "H": "h"}));
    assert_eq!(spec["limits"], json!({"rps": 5, "concurrency": 2}));
    let b = json!({"name": "b", "path": "b", "records": "", "hide": ["/y"], "drift": "ignore"});
    assert_eq!(spec["streams"][1], b);
    assert_eq!(spec["streams"][2], json!({"name": "c", "path": "c", "records": ""}));
    let gone = with_settings(&preset, &json!({"host": "h", "limits": null})).unwrap();
    assert_eq!(gone.get("limits"), None);
}

#[test]
fn what_settings_lack_or_have_too_much_is_named() {
    for (settings, pointer, message, right) in [
        (json!({}), "/base_url", "\"host\" is missing", "\"host\": \"acme.example.com\" (the host)"),
        (json!({"host": "h", "ownr": "x"}), "/ownr", "\"ownr\" is not known", "\"owner\", if that was meant"),
        (json!({"host": ["h"]}), "/base_url", "inside a text", "a text, a number or a boolean"),
        (json!({"host": "h", "streams": {}}), "/streams", "no list", "a list of streams"),
        (json!({"host": "h", "streams": [{"path": "x"}]}), "/streams/0", "without a name", "a list of streams"),
        (json!([]), "", "no object", "name"),
    ] {
        let found = with_settings(&preset(), &settings).unwrap_err();
        assert_eq!(found.len(), 1, "{found:#?}");
        let fits = found[0].pointer == pointer && found[0].message.contains(message) && found[0].right.contains(right);
        assert!(fits, "{settings} gave {found:#?}");
    }
}

#[test]
fn a_preset_without_its_settings_is_no_spec() {
    let found = super::problems(&preset());
    let places: Vec<&str> = found.iter().map(|problem| problem.pointer.as_str()).collect();
    assert_eq!(places, ["/base_url", "/streams/0/params/limit", "/streams/0/path"]);
    assert!(found[0].right.contains("acme.example.com"), "{found:#?}");
}
