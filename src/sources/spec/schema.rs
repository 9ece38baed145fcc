//! Checking a document against the published schema, and saying what would be right.

use std::sync::LazyLock;

use jsonschema::error::ValidationErrorKind as Kind;
use jsonschema::{ValidationError, Validator};
use serde_json::Value;

use super::Problem;

/// The schema as it is published.
pub const TEXT: &str = include_str!("schema.json");

struct Schema {
    document: Value,
    validator: Validator,
}

/// An error would be one of ours, which the tests see.
static SCHEMA: LazyLock<Result<Schema, String>> = LazyLock::new(|| {
    let document: Value = serde_json::from_str(TEXT).map_err(|error| error.to_string())?;
    let validator = jsonschema::draft202012::new(&document).map_err(|error| error.to_string())?;
    Ok(Schema { document, validator })
});

/// Everything that the schema says is wrong.
pub fn check(spec: &Value) -> Vec<Problem> {
    match &*SCHEMA {
        Ok(schema) => schema.validator.iter_errors(spec).flat_map(|error| schema.problems(&error)).collect(),
        Err(error) => vec![Problem {
            pointer: String::new(),
            message: format!("the published schema can't be read: {error}"),
            right: "an extension whose files belong together".into(),
        }],
    }
}

impl Schema {
    fn problems(&self, error: &ValidationError) -> Vec<Problem> {
        let at = error.instance_path().as_str();
        let schema = self.around(error.schema_path().as_str());
        let value = if may_be_secret(at) { "this value".to_owned() } else { shown(error.instance()) };
        let one = |message: String, right: String| vec![Problem { pointer: at.to_owned(), message, right }];
        match error.kind() {
            Kind::AdditionalProperties { unexpected } => unexpected
                .iter()
                .map(|name| Problem {
                    pointer: format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")),
                    message: format!("the member \"{name}\" is not known here"),
                    right: known_members(schema, name),
                })
                .collect(),
            Kind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                let member = self.member(schema, name);
                one(format!("the member \"{name}\" is missing"), format!("\"{name}\": {}", described(member)))
            }
            Kind::PropertyNames { error } => {
                let schema = self.around(error.schema_path().as_str());
                one(format!("the name {} is not allowed here", shown(error.instance())), described(schema))
            }
            Kind::Type { .. } => one(
                format!("{value} is {}", kind(error.instance())),
                format!("{}: {}", wanted_type(schema), described(schema)),
            ),
            Kind::Enum { options } => one(
                format!("{value} is not one of the values known here"),
                choices(error.instance(), options.as_array().map_or(&[][..], Vec::as_slice)),
            ),
            Kind::Minimum { limit } => one(format!("{value} is too small"), format!("{limit} or more")),
            Kind::Maximum { limit } => one(format!("{value} is too great"), format!("{limit} or less")),
            Kind::ExclusiveMinimum { limit } => one(format!("{value} is too small"), format!("more than {limit}")),
            Kind::MaxLength { limit } => one(format!("{value} is too long"), format!("at most {limit} characters")),
            Kind::MinLength { .. } => one("the text is empty".into(), described(schema)),
            Kind::MinItems { .. } => one("the list is empty".into(), described(schema)),
            Kind::MinProperties { .. } => one("the object is empty".into(), described(schema)),
            Kind::UniqueItems => one("an item stands twice".into(), "each item once".into()),
            Kind::Pattern { .. } => one(format!("{value} is not written as it must be"), described(schema)),
            _ => one(error.to_string(), described(schema)),
        }
    }

    /// The schema that holds the keyword at this path.
    fn around(&self, keyword: &str) -> Option<&Value> {
        let (schema, _) = keyword.rsplit_once('/')?;
        self.document.pointer(schema)
    }

    /// The schema of a member, through a reference.
    fn member<'a>(&'a self, schema: Option<&'a Value>, name: &str) -> Option<&'a Value> {
        let member = schema?.get("properties")?.get(name)?;
        match member.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix('#')) {
            Some(to) => self.document.pointer(to),
            None => Some(member),
        }
    }
}

/// Its description and an example.
fn described(schema: Option<&Value>) -> String {
    let description = schema.and_then(|s| s.get("description")).and_then(Value::as_str).unwrap_or("see the schema");
    let description = description.trim_end_matches('.');
    match schema.and_then(|schema| schema.pointer("/examples/0")) {
        Some(example) => format!("{description}, for example {example}"),
        None => description.to_owned(),
    }
}

fn known_members(schema: Option<&Value>, wrong: &str) -> String {
    let members: Vec<&str> = schema
        .and_then(|schema| schema.get("properties"))
        .and_then(Value::as_object)
        .map(|properties| properties.keys().map(String::as_str).collect())
        .unwrap_or_default();
    match nearest(wrong, &members) {
        Some(near) => format!("\"{near}\", if that was meant"),
        None => format!("one of {}", members.join(", ")),
    }
}

fn choices(value: &Value, options: &[Value]) -> String {
    let texts: Vec<&str> = options.iter().filter_map(Value::as_str).collect();
    match value.as_str().and_then(|wrong| nearest(wrong, &texts)) {
        Some(near) => format!("\"{near}\", if that was meant"),
        None => format!("one of {}", texts.join(", ")),
    }
}

pub fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let likeness = |name: &str| strsim::jaro_winkler(&wrong.to_lowercase(), &name.to_lowercase());
    let nearest = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(nearest) > 0.85).then_some(nearest)
}

fn wanted_type(schema: Option<&Value>) -> String {
    match schema.and_then(|schema| schema.get("type")) {
        Some(Value::String(name)) => with_article(name).to_owned(),
        Some(Value::Array(names)) => {
            names.iter().filter_map(Value::as_str).map(with_article).collect::<Vec<_>>().join(" or ")
        }
        _ => "another type".into(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn with_article(name: &str) -> &'static str {
    match name {
        "string" => "a text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "an object",
        _ => "null",
    }
}

/// Where people paste a secret instead of its name.
fn may_be_secret(at: &str) -> bool {
    at.contains("/headers/") || (at.starts_with("/auth/") && at != "/auth/type")
}

/// A value in a message; a long one by its start. A text that may be a secret is not repeated.
fn shown(value: &Value) -> String {
    if value.as_str().is_some_and(super::check::looks_like_a_secret) {
        return "a text that looks like a secret".into();
    }
    let text = value.to_string();
    let start: String = text.chars().take(60).collect();
    if start.len() < text.len() {
        format!("{start}…")
    } else {
        text
    }
}
