//! docs/sources-spec.md: its examples are specs, and it leaves no member out.

use serde_json::Value;

use super::visit;
use crate::sources::spec::{parse, SCHEMA};

const TEXT: &str = include_str!("../../../../docs/sources-spec.md");

#[test]
fn each_example_of_the_documentation_is_a_spec() {
    let mut examples = 0;
    for block in TEXT.split("```json\n").skip(1) {
        let (example, _) = block.split_once("```").unwrap();
        let spec: Value = serde_json::from_str(example).unwrap_or_else(|error| panic!("{error} in {example}"));
        parse(&spec).unwrap_or_else(|problems| panic!("{problems:#?} in {example}"));
        examples += 1;
    }
    assert!(examples >= 4, "{examples}");
}

#[test]
fn each_member_stands_in_the_documentation() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut members = std::collections::BTreeSet::new();
    visit(&schema, "", &mut |at, value| {
        let properties = value.get("properties").and_then(Value::as_object);
        if !at.ends_with("/if") {
            members.extend(properties.into_iter().flat_map(|properties| properties.keys().cloned()));
        }
    });
    let missing: Vec<_> = members.iter().filter(|name| !names(name)).collect();
    assert!(members.len() > 80 && missing.is_empty(), "{missing:?}");
}

/// As code, alone or after a dot, or as a member of an example.
fn names(member: &str) -> bool {
    [format!("`{member}`"), format!(".{member}`"), format!("`.{member}`"), format!("\"{member}\"")]
        .iter()
        .any(|word| TEXT.contains(word))
}
