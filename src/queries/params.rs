//! Parameters of a saved query: what is declared of them, and which text each of them gets in a run.
//!
//! JSON is read token by token and numbers stay as they are spelled, so that a numeric of forty digits arrives whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{sqlstate, Error, Result};

/// What is declared of one parameter.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// As in a CREATE TABLE; one of the server's own types.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is where a run does not say; `null` is NULL, none at all makes the parameter one that a run must give.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub default: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// `"default": null` is a default. An Option by itself would take it for none.
fn present<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(d).map(Some)
}

pub type Declared = BTreeMap<String, Parameter>;

/// What a type wants of its JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Scalar,
    /// Its elements may be documents.
    Array,
    /// json and jsonb: the JSON itself.
    Document,
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
}

const EXAMPLE: &str =
    "For instance: params => '{\"since\": {\"type\": \"date\", \"default\": \"yesterday\"}, \"n\": \"int\"}'";

fn object(json: &str) -> Result<BTreeMap<String, Box<RawValue>>> {
    serde_json::from_str(json).map_err(|_| bad("params must be a JSON object").hint(EXAMPLE))
}

/// Reads a declaration; a string is short for an object with that type.
pub fn declare(json: &str) -> Result<Declared> {
    let mut declared = Declared::new();
    for (name, value) in object(json)? {
        let parameter = match serde_json::from_str::<String>(value.get()) {
            Ok(kind) => Parameter { kind, default: None, description: None },
            Err(_) => serde_json::from_str(value.get()).map_err(|e| {
                bad(format!("the declaration of parameter \"{name}\" is not valid: {}", place(&e))).hint(EXAMPLE)
            })?,
        };
        declared.insert(name, parameter);
    }
    Ok(declared)
}

/// What serde says, without the line and column of a text that nobody has seen.
fn place(e: &serde_json::Error) -> String {
    let text = e.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

/// The declarations of the parameters that a query uses: those that are given, or else what the version before had.
pub fn settle(used: &[String], given: Option<Declared>, before: Option<Declared>) -> Result<Declared> {
    let told = given.is_some();
    let mut known = given.or(before).unwrap_or_default();
    let unused: Vec<&String> = known.keys().filter(|name| !used.contains(name)).collect();
    if told && !unused.is_empty() {
        return Err(bad(format!("parameter \"{}\" is declared and not used", unused[0]))
            .hint(format!("In the query it is written :{}", unused[0])));
    }
    known.retain(|name, _| used.contains(name));
    let missing: Vec<&String> = used.iter().filter(|name| !known.contains_key(*name)).collect();
    if let Some(first) = missing.first() {
        let lines: Vec<String> = missing.iter().map(|name| format!("\"{name}\": \"text\"")).collect();
        return Err(bad(format!("parameter :{first} has no type"))
            .detail(format!(
                "The query uses {}.",
                missing.iter().map(|n| format!(":{n}")).collect::<Vec<_>>().join(", ")
            ))
            .hint(format!("Declare it: params => '{{{}}}', with the type that it has.", lines.join(", "))));
    }
    Ok(known)
}

/// The JSON of each parameter in a run, by name: what was given, or its default.
pub fn choose(declared: &Declared, given: &str) -> Result<BTreeMap<String, Box<RawValue>>> {
    let mut given = object(given)?;
    let mut chosen = BTreeMap::new();
    for (name, parameter) in declared {
        let value = given.remove(name).or_else(|| parameter.default.clone()).ok_or_else(|| {
            bad(format!("parameter \"{name}\" needs a value"))
                .detail(format!("It is of type {} and has no default.", parameter.kind))
                .hint(format!("wh.run_query('...', '{{\"{name}\": ...}}')"))
        })?;
        chosen.insert(name.clone(), value);
    }
    if let Some(unknown) = given.keys().next() {
        let names: Vec<&str> = declared.keys().map(String::as_str).collect();
        return Err(bad(format!("the query has no parameter \"{unknown}\"")).hint(match names.is_empty() {
            true => String::from("It has none at all."),
            false => format!("It has {}.", names.join(", ")),
        }));
    }
    Ok(chosen)
}

/// The text that the type's input function gets; `None` is NULL.
pub fn text(name: &str, value: &RawValue, shape: Shape) -> Result<Option<String>> {
    let json = value.get();
    match (json.as_bytes().first(), shape) {
        // A JSON null: NULL for a document as well, as everywhere in SQL.
        (Some(b'n'), _) => Ok(None),
        (_, Shape::Document) => Ok(Some(json.to_owned())),
        (Some(b'"'), _) => Ok(Some(string(json)?)),
        (Some(b'['), Shape::Array) => Ok(Some(array(json)?)),
        (Some(b'[' | b'{'), _) => {
            Err(bad(format!("the value of parameter \"{name}\" must be a string, a number, true, false or null")))
        }
        _ => Ok(Some(json.to_owned())),
    }
}

fn string(json: &str) -> Result<String> {
    Ok(serde_json::from_str(json)?)
}

/// An array as array_in reads it (src/backend/utils/adt/arrayfuncs.c): every element quoted but NULL.
fn array(json: &str) -> Result<String> {
    let elements: Vec<Box<RawValue>> = serde_json::from_str(json)?;
    let mut out = String::from("{");
    for (n, element) in elements.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        let json = element.get();
        match json.as_bytes().first() {
            Some(b'n') => out.push_str("NULL"),
            Some(b'[') => out.push_str(&array(json)?),
            Some(b'"') => quote(&mut out, &string(json)?),
            _ => quote(&mut out, json),
        }
    }
    out.push('}');
    Ok(out)
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    fn declared(json: &str) -> Declared {
        match declare(json) {
            Ok(d) => d,
            Err(e) => panic!("{json}: {}", e.message),
        }
    }

    fn chosen(d: &Declared, given: &str, name: &str, shape: Shape) -> Option<String> {
        match choose(d, given).and_then(|c| text(name, &c[name], shape)) {
            Ok(t) => t,
            Err(e) => panic!("{given}: {}", e.message),
        }
    }

    #[test]
    fn a_default_of_null_is_a_default_and_none_is_none() {
        let d = declared(
            r#"{"a": "int", "b": {"type": "date", "default": null}, "c": {"type": "numeric(50,2)", "default": 12345678901234567890123.25, "description": "how many"}}"#,
        );
        assert_eq!(choose(&d, "{}").map_err(|e| e.message).err(), Some("parameter \"a\" needs a value".into()));
        assert_eq!(chosen(&d, r#"{"a": 1}"#, "b", Shape::Scalar), None);
        // A number is what was written, not what a float makes of it.
        assert_eq!(chosen(&d, r#"{"a": 1}"#, "c", Shape::Scalar).as_deref(), Some("12345678901234567890123.25"));
        assert_eq!(chosen(&d, r#"{"a": null}"#, "a", Shape::Scalar), None);
        assert!(choose(&d, r#"{"a": 1, "d": 2}"#).is_err());
        // And so once it was stored and read again.
        let again = declared(&serde_json::to_string(&d).unwrap_or_default());
        assert_eq!(chosen(&again, r#"{"a": 1}"#, "c", Shape::Scalar).as_deref(), Some("12345678901234567890123.25"));
        assert!(again["a"].default.is_none() && again["b"].default.is_some());
    }

    #[test]
    fn what_is_declared_and_what_is_used_must_agree() {
        assert!(settle(&names(&["a"]), Some(declared(r#"{"a": "int"}"#)), None).is_ok());
        let missing = settle(&names(&["a", "b"]), Some(declared(r#"{"a": "int"}"#)), None).err();
        assert_eq!(missing.map(|e| e.message), Some("parameter :b has no type".into()));
        assert!(settle(&names(&["a"]), Some(declared(r#"{"a": "int", "b": "int"}"#)), None).is_err());
        // Saved again without params: what was declared before holds, as far as it is still used.
        let before = Some(declared(r#"{"a": "int", "b": "int"}"#));
        assert_eq!(settle(&names(&["a"]), None, before).map(|d| d.len()).ok(), Some(1));
        assert!(settle(&names(&["c"]), None, Some(declared(r#"{"a": "int"}"#))).is_err());
    }

    #[test]
    fn wrong_declarations_are_refused() {
        for json in [
            "[]",
            "1",
            "{\"a\": 1}",
            "{\"a\": {}}",
            "{\"a\": {\"type\": \"int\", \"defualt\": 1}}",
            "{\"a\": {\"type\": 1}}",
            "nonsense",
        ] {
            assert_eq!(declare(json).map_err(|e| e.sqlstate).err().as_deref(), Some("22023"), "{json}");
        }
    }

    #[test]
    fn arrays_become_arrays_whatever_is_in_them() {
        let d = declared(r#"{"a": "text[]"}"#);
        let given = r#"{"a": ["x", "a\"b\\c,{}", "", null, "NULL", 1.50, true, ["ü"]]}"#;
        assert_eq!(
            chosen(&d, given, "a", Shape::Array).as_deref(),
            Some(r#"{"x","a\"b\\c,{}","",NULL,"NULL","1.50","true",{"ü"}}"#)
        );
        assert_eq!(chosen(&d, r#"{"a": []}"#, "a", Shape::Array).as_deref(), Some("{}"));
        assert_eq!(chosen(&d, r#"{"a": "{1,2}"}"#, "a", Shape::Array).as_deref(), Some("{1,2}"));
        let c = choose(&d, r#"{"a": [1]}"#).ok();
        assert!(c.is_some_and(|c| text("a", &c["a"], Shape::Scalar).is_err()));
        assert_eq!(
            chosen(&d, r#"{"a": {"x": [1, "y"]}}"#, "a", Shape::Document).as_deref(),
            Some(r#"{"x": [1, "y"]}"#)
        );
    }
}
