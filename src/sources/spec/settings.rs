//! A preset with settings laid over it.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{schema, Problem};

/// Members of a spec, which a setting of that name replaces or extends.
const MEMBERS: &[&str] = &["base_url", "allow_hosts", "auth", "headers", "limits", "errors", "retry", "streams"];

/// Settings that are members of a spec are merged into the preset's (RFC 7396: objects member by member, null removes,
/// anything else replaces); `streams` by the streams' names, and a new name is a new stream. Others fill `${name}` in
/// the preset's texts: a text that is nothing else becomes the value itself, whatever its type.
pub fn with_settings(preset: &Value, settings: &Value) -> Result<Value, Vec<Problem>> {
    let Some(settings) = settings.as_object() else {
        return Err(vec![problem("", "settings are no object", "{\"name\": value, …}")]);
    };
    let mut spec = preset.clone();
    let Some(document) = spec.as_object_mut() else {
        return Err(vec![problem("", "a preset is no object", "a source's spec")]);
    };
    let declared = document.remove("settings").unwrap_or_default();
    let mut values = Map::new();
    let mut problems = Vec::new();
    for (name, value) in settings {
        if name == "streams" {
            merge_streams(document, value, &mut problems);
        } else if MEMBERS.contains(&name.as_str()) {
            merge(document.entry(name).or_insert(Value::Null), value);
            // Merging null removes.
            document.retain(|member, value| member != name || !value.is_null());
        } else {
            values.insert(name.clone(), value.clone());
        }
    }
    for (name, setting) in declared.as_object().into_iter().flatten() {
        if let (false, Some(default)) = (values.contains_key(name), setting.get("default")) {
            values.insert(name.clone(), default.clone());
        }
    }
    let mut filling = Filling { values: &values, declared: &declared, used: BTreeSet::new(), problems };
    filling.fill(&mut spec, &mut String::new());
    let Filling { used, mut problems, .. } = filling;
    for name in settings.keys().filter(|name| values.contains_key(*name) && !used.contains(*name)) {
        problems.push(unknown(name, &declared));
    }
    // A setting that is used in several places is missing once.
    let mut told = BTreeSet::new();
    problems.retain(|problem| told.insert(problem.message.clone()));
    if problems.is_empty() {
        Ok(spec)
    } else {
        Err(problems)
    }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

fn merge_streams(document: &mut Map<String, Value>, patches: &Value, problems: &mut Vec<Problem>) {
    let right = "a list of streams, each with its name: [{\"name\": \"customers\", …}]";
    let streams = document.entry("streams").or_insert_with(|| Value::Array(Vec::new()));
    let (Some(streams), Some(patches)) = (streams.as_array_mut(), patches.as_array()) else {
        return problems.push(problem("/streams", "the setting \"streams\" is no list", right));
    };
    for (at, patch) in patches.iter().enumerate() {
        let Some(name) = patch.get("name").and_then(Value::as_str) else {
            problems.push(problem(&format!("/streams/{at}"), "a stream without a name", right));
            continue;
        };
        match streams.iter_mut().find(|stream| stream.get("name").and_then(Value::as_str) == Some(name)) {
            Some(stream) => merge(stream, patch),
            None => {
                let mut stream = Value::Null;
                merge(&mut stream, patch);
                streams.push(stream);
            }
        }
    }
}

struct Filling<'a> {
    values: &'a Map<String, Value>,
    declared: &'a Value,
    used: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Filling<'_> {
    fn fill(&mut self, value: &mut Value, at: &mut String) {
        let length = at.len();
        match value {
            Value::String(text) if text.contains("${") => {
                if let Some(filled) = self.filled(text, at) {
                    *value = filled;
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    at.push_str(&format!("/{index}"));
                    self.fill(item, at);
                    at.truncate(length);
                }
            }
            Value::Object(members) => {
                for (name, member) in members.iter_mut() {
                    at.push_str(&format!("/{}", name.replace('~', "~0").replace('/', "~1")));
                    self.fill(member, at);
                    at.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn filled(&mut self, text: &str, at: &str) -> Option<Value> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let end = rest[start..].find('}').map(|end| start + end);
            let name = &rest[start + 2..end.unwrap_or(rest.len())];
            self.used.insert(name.to_owned());
            let Some(value) = self.values.get(name) else {
                self.problems.push(missing(at, name, self.declared));
                return None;
            };
            let end = end.map_or(rest.len(), |end| end + 1);
            if start == 0 && end == text.len() {
                return Some(value.clone());
            }
            out.push_str(&rest[..start]);
            match value {
                Value::String(value) => out.push_str(value),
                Value::Number(_) | Value::Bool(_) => out.push_str(&value.to_string()),
                _ => {
                    let message = format!("the setting \"{name}\" stands inside a text");
                    self.problems.push(problem(at, &message, "a text, a number or a boolean"));
                    return None;
                }
            }
            rest = &rest[end..];
        }
        out.push_str(rest);
        Some(Value::String(out))
    }
}

fn missing(at: &str, name: &str, declared: &Value) -> Problem {
    let setting = declared.get(name);
    let what = setting.and_then(|setting| setting.get("description")).and_then(Value::as_str).unwrap_or("a value");
    let right = match setting.and_then(|setting| setting.get("example")) {
        Some(example) => format!("in settings, \"{name}\": {example} ({what})"),
        None => format!("in settings, \"{name}\": {what}"),
    };
    problem(at, &format!("the setting \"{name}\" is missing"), &right)
}

fn unknown(name: &str, declared: &Value) -> Problem {
    let own = declared.as_object().into_iter().flat_map(|declared| declared.keys().map(String::as_str));
    let known: Vec<&str> = own.chain(MEMBERS.iter().copied()).collect();
    let right = match schema::nearest(name, &known) {
        Some(near) => format!("\"{near}\", if that was meant"),
        None => format!("one of {}", known.join(", ")),
    };
    problem(&format!("/{name}"), &format!("the setting \"{name}\" is not known"), &right)
}

/// Places of settings that nobody filled.
pub fn unfilled(spec: &Value) -> Vec<Problem> {
    let declared = spec.get("settings").cloned().unwrap_or_default();
    let mut rest = spec.clone();
    if let Some(document) = rest.as_object_mut() {
        document.remove("settings");
    }
    let none = Map::new();
    let mut filling = Filling { values: &none, declared: &declared, used: BTreeSet::new(), problems: Vec::new() };
    filling.fill(&mut rest, &mut String::new());
    filling.problems
}

fn problem(pointer: &str, message: &str, right: &str) -> Problem {
    Problem { pointer: pointer.into(), message: message.into(), right: right.into() }
}
