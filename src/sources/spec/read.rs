//! Shapes of the document that differ from those of the structs.

use std::collections::BTreeMap;

use serde::{de::Error, Deserialize, Deserializer};
use serde_json::Value;

use super::{Pointer, Template};

pub fn pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    Ok(BTreeMap::<String, String>::deserialize(deserializer)?.into_iter().collect())
}

pub fn bind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, Pointer)>, D::Error> {
    Ok(BTreeMap::<String, Pointer>::deserialize(deserializer)?.into_iter().collect())
}

/// Scalars as their text; a list is the same parameter several times.
pub fn params<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, Template)>, D::Error> {
    let mut params = Vec::new();
    for (name, value) in BTreeMap::<String, Value>::deserialize(deserializer)? {
        let values = match value {
            Value::Array(values) => values,
            value => vec![value],
        };
        for value in values {
            let template = Template::parse(&scalar_text(&value)).map_err(D::Error::custom)?;
            params.push((name.clone(), template));
        }
    }
    Ok(params)
}

pub fn scalar<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<Value>::deserialize(deserializer)?.map(|value| scalar_text(&value)))
}

fn scalar_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

#[derive(Deserialize)]
struct BodyEquals {
    pointer: Pointer,
    #[serde(deserialize_with = "scalar")]
    equals: Option<String>,
}

pub fn body_equals<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<(Pointer, String)>, D::Error> {
    let Some(body) = Option::<BodyEquals>::deserialize(deserializer)? else { return Ok(None) };
    let equals = body.equals.ok_or_else(|| D::Error::missing_field("equals"))?;
    Ok(Some((body.pointer, equals)))
}

/// `7d`, `12h`, `30m`, `45s` as seconds.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let error = || D::Error::custom(format!("not a duration: \"{text}\""));
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return Err(error()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| error())?;
    count.checked_mul(unit).map(Some).ok_or_else(error)
}
