//! Places in templates: which there are, and paths that stay below base_url.

use serde_json::Value;

use super::{token, Problems};
use crate::sources::spec::{Paginator, Piece, Spec, Stream, Template};

/// Names that a parent can't bind.
const OURS: &[&str] = &["start", "end", "cursor", "key"];

pub fn check(_spec: &Spec, stream: &Stream, at: &str, problems: &mut Problems) {
    path(&format!("{at}/path"), &stream.path, problems);
    let bound: Vec<&str> = stream.parent.iter().flat_map(|p| p.bind.iter().map(|(name, _)| name.as_str())).collect();
    let mut known = bound.clone();
    known_only(&format!("{at}/path"), &stream.path, &known, problems);
    if stream.incremental.is_some() {
        known.extend(["start", "end"]);
    }
    if let Paginator::Keyset { key, param, first, next, .. } = &stream.paginator {
        if let Some(first) = first {
            known_only(&format!("{at}/paginator/first"), first, &known, problems);
        }
        let mut further = known.clone();
        further.push("cursor");
        further.extend(key.iter().map(|_| "key"));
        if let Some(next) = next {
            known_only(&format!("{at}/paginator/next"), next, &further, problems);
        }
        if param.is_none() {
            known = further;
        }
        keyset(stream, key.is_some(), at, problems);
    }
    for (name, template) in &stream.params {
        known_only(&format!("{at}/params/{}", token(name)), template, &known, problems);
    }
    if let Some(body) = &stream.body {
        body_texts(body, &mut format!("{at}/body"), &mut |at, text| match Template::parse(text) {
            Ok(template) => known_only(at, &template, &known, problems),
            Err(why) => problems.add(at, why, "{name} for a place, {{ and }} for braces"),
        });
    }
    for name in bound {
        let place = format!("{at}/parent/bind/{}", token(name));
        if OURS.contains(&name) {
            problems.add(place, format!("{{{name}}} means something else"), "another name");
        } else if !uses(stream, name) {
            problems.add(place, format!("{{{name}}} stands nowhere"), format!("path with {{{name}}} in it"));
        }
    }
    let of_record = [
        ("changes/refetch", stream.changes.as_ref().and_then(|changes| changes.refetch.as_ref())),
        ("deletes/path", stream.deletes.as_ref().and_then(|deletes| deletes.path.as_ref())),
    ];
    for (member, template) in of_record {
        let Some(template) = template else { continue };
        let at = format!("{at}/{member}");
        path(&at, template, problems);
        if template.places().next().is_none() {
            problems.add(at, "this path is the same for every record", "{id}, or another member of the record, in it");
        }
    }
}

fn keyset(stream: &Stream, key: bool, at: &str, problems: &mut Problems) {
    let wanted = if key { "key" } else { "cursor" };
    if !uses(stream, wanted) {
        problems.add(
            format!("{at}/paginator"),
            format!("{{{wanted}}} stands nowhere, so that each page would be the first"),
            format!("{{{wanted}}} in next, or in params or body"),
        );
    }
}

/// Whether a place of this name stands in anything that is sent for a page.
pub fn uses(stream: &Stream, name: &str) -> bool {
    let in_template = |template: &Template| template.places().any(|place| place == name);
    let mut found = in_template(&stream.path) || stream.params.iter().any(|(_, template)| in_template(template));
    if let Paginator::Keyset { first, next, .. } = &stream.paginator {
        found |= [first, next].into_iter().flatten().any(in_template);
    }
    if let Some(body) = &stream.body {
        body_texts(body, &mut String::new(), &mut |_, text| {
            found |= Template::parse(text).is_ok_and(|template| in_template(&template));
        });
    }
    found
}

fn known_only(at: &str, template: &Template, known: &[&str], problems: &mut Problems) {
    for place in template.places().filter(|place| !known.contains(place)) {
        let right = match known {
            [] => "a parent that binds it".to_owned(),
            known => format!("one of {{{}}}", known.join("}, {")),
        };
        problems.add(at, format!("nothing fills {{{place}}}"), right);
    }
}

fn body_texts(value: &Value, at: &mut String, each: &mut impl FnMut(&str, &str)) {
    let length = at.len();
    match value {
        Value::String(text) => each(at, text),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                at.push_str(&format!("/{index}"));
                body_texts(item, at, each);
                at.truncate(length);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                at.push_str(&format!("/{}", token(name)));
                body_texts(member, at, each);
                at.truncate(length);
            }
        }
        _ => {}
    }
}

/// A path that is joined to base_url and stays below it, whatever fills its places (each fills a part of one segment).
fn path(at: &str, template: &Template, problems: &mut Problems) {
    let text: String = template
        .pieces()
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => text.as_str(),
            Piece::Place(_) => "x",
        })
        .collect();
    let lower = text.to_ascii_lowercase().replace("%2e", ".");
    if lower.starts_with('/') || lower.contains("//") || lower.split('/').next().is_some_and(|s| s.contains(':')) {
        problems.add(at, "this path leaves base_url", "a path below it, without a slash before it");
    }
    if lower.split('/').any(|segment| segment == "." || segment == "..") {
        problems.add(at, "a path goes up or nowhere", "no segment . or ..");
    }
    if lower.contains('\\') || lower.contains("%2f") || lower.contains("%5c") {
        problems.add(at, "a path has a hidden separator in it", "slashes");
    }
    if lower.contains(['?', '#']) {
        problems.add(at, "a path has a query or a fragment in it", "params");
    }
    if text.chars().any(|c| c.is_control() || c == ' ') {
        problems.add(at, "a path has a blank or a control character in it", "%20, if a blank is meant");
    }
}
