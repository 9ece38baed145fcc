//! From a document to a spec.

use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::{check, schema, settings, Problem, Spec};

/// A spec, or every problem that it has: of the first kind that has any (settings that are missing, the schema, then
/// whether the parts fit), because the later kinds are about what the earlier ones found right.
pub fn parse(spec: &Value) -> Result<Spec, Vec<Problem>> {
    none(settings::unfilled(spec))?;
    none(schema::check(spec))?;
    let mut spec = spec.clone();
    whole_numbers(&mut spec);
    none(urls(&mut spec))?;
    lay_over(&mut spec);
    let spec = Spec::deserialize(&spec).map_err(|error| {
        vec![Problem {
            pointer: String::new(),
            message: error.to_string(),
            right: "values that the documentation of specs shows".into(),
        }]
    })?;
    none(check::check(&spec))?;
    Ok(spec)
}

fn none(problems: Vec<Problem>) -> Result<(), Vec<Problem>> {
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// `100.0` is a whole number to JSON schema, and to a reader of whole numbers it must look like one.
fn whole_numbers(value: &mut Value) {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(float) = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() <= EXACT) {
                *number = (float as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(members) => members.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// URLs that can be read, and a slash at the end of base_url.
fn urls(spec: &mut Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    for pointer in ["/base_url", "/auth/token_url"] {
        let Some(Value::String(text)) = spec.pointer_mut(pointer) else { continue };
        match Url::parse(text) {
            Ok(mut url) => {
                if pointer == "/base_url" && !url.path().ends_with('/') {
                    url.set_path(&format!("{}/", url.path()));
                    *text = url.into();
                }
            }
            Err(error) => problems.push(Problem {
                pointer: pointer.into(),
                message: format!("this is no URL: {error}"),
                right: "https://api.example.com/v1/".into(),
            }),
        }
    }
    problems
}

/// The source's limits under each stream's, but for the concurrency, which is that of streams there and of one stream's
/// parents here; and how a stream without a key is written: a full list replaces the table,
/// since nothing tells its rows apart.
fn lay_over(spec: &mut Value) {
    let limits = spec.get("limits").and_then(Value::as_object).cloned().unwrap_or_default();
    for stream in spec.get_mut("streams").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(stream) = stream.as_object_mut() else { continue };
        let mut own = limits.clone();
        own.insert("concurrency".into(), 1.into());
        if let Some(Value::Object(over)) = stream.remove("limits") {
            own.extend(over);
        }
        stream.insert("limits".into(), Value::Object(own));
        if !stream.contains_key("primary_key") {
            stream.entry("write").or_insert_with(|| "replace".into());
        }
    }
}
