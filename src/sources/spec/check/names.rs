//! Names of streams, tables and columns, and what refers to them.

use std::collections::HashMap;

use super::Problems;
use crate::sources::names::identifier;
use crate::sources::spec::{ChildAs, Spec, Stream};

pub fn check(spec: &Spec, problems: &mut Problems) {
    tables(spec, problems);
    for (at, stream) in spec.streams.iter().enumerate() {
        columns(stream, &format!("/streams/{at}"), problems);
        parents(spec, at, problems);
        changes(spec, at, problems);
    }
}

/// No two tables of one name; the identifier counts.
fn tables(spec: &Spec, problems: &mut Problems) {
    let mut taken: HashMap<String, &str> = HashMap::new();
    for (at, stream) in spec.streams.iter().enumerate() {
        let own = (format!("/streams/{at}/name"), stream.name.as_str());
        let children = stream.children.iter().enumerate().filter(|(_, child)| child.into == ChildAs::Table);
        let children = children.map(|(c, child)| (format!("/streams/{at}/children/{c}/name"), child.name.as_str()));
        for (pointer, name) in std::iter::once(own).chain(children) {
            let table = identifier(name);
            match taken.get(&table) {
                Some(other) if *other == name => {
                    problems.add(pointer, format!("the name \"{name}\" stands twice"), "each name once");
                }
                Some(other) => problems.add(
                    pointer,
                    format!("\"{name}\" and \"{other}\" would both be the table \"{table}\""),
                    "names that differ in more than case and punctuation",
                ),
                None => drop(taken.insert(table, name)),
            }
        }
    }
}

fn columns(stream: &Stream, at: &str, problems: &mut Problems) {
    for (name, column) in &stream.columns {
        let at = format!("{at}/columns/{name}");
        let right = identifier(name);
        if right != *name {
            problems.add(&at, format!("\"{name}\" can't name a column without quotes"), format!("\"{right}\""));
        }
        if column.path.is_root() {
            problems.add(format!("{at}/path"), "this is the whole record", "a member of it; the whole is in _raw");
        }
        if column.format.is_some() && !matches!(column.ty.sql(), "timestamptz" | "timestamp" | "date") {
            problems.add(
                format!("{at}/format"),
                format!("type {} has no format", column.ty.sql()),
                "a format with timestamptz, timestamp and date only",
            );
        }
        if let Some((precision, scale)) = precision_and_scale(column.ty.sql()) {
            if !(1..=1000).contains(&precision) || scale > precision {
                problems.add(
                    format!("{at}/type"),
                    format!("{} is no type", column.ty.sql()),
                    "a precision from 1 to 1000, and a scale up to it",
                );
            }
        }
    }
    let mut taken: HashMap<String, String> = HashMap::new();
    for (c, child) in stream.children.iter().enumerate().filter(|(_, child)| child.into == ChildAs::Jsonb) {
        let column = identifier(&child.name);
        if stream.columns.contains_key(&column) || taken.insert(column.clone(), child.name.clone()).is_some() {
            let pointer = format!("{at}/children/{c}/name");
            problems.add(pointer, format!("the column \"{column}\" stands twice"), "another name");
        }
    }
}

fn precision_and_scale(ty: &str) -> Option<(u32, u32)> {
    let (precision, scale) = ty.strip_prefix("numeric(")?.strip_suffix(')')?.split_once(',')?;
    Some((precision.parse().ok()?, scale.parse().ok()?))
}

fn find<'a>(spec: &'a Spec, name: &str) -> Option<&'a Stream> {
    spec.streams.iter().find(|stream| stream.name == name)
}

fn names(spec: &Spec) -> String {
    format!("one of {}", spec.streams.iter().map(|stream| stream.name.as_str()).collect::<Vec<_>>().join(", "))
}

fn parents(spec: &Spec, at: usize, problems: &mut Problems) {
    let stream = &spec.streams[at];
    let Some(parent) = &stream.parent else { return };
    let pointer = format!("/streams/{at}/parent/stream");
    let Some(found) = find(spec, &parent.stream) else {
        return problems.add(pointer, format!("there is no stream \"{}\"", parent.stream), names(spec));
    };
    // Up to this stream again, or as many steps as there are streams (another circle, which is told of there).
    let mut above = Some(found);
    for _ in 0..spec.streams.len() {
        let Some(stream_above) = above else { break };
        if stream_above.name == stream.name {
            problems.add(
                &pointer,
                format!("\"{}\" is its own parent, in a circle", stream.name),
                "a stream without it",
            );
            break;
        }
        above = stream_above.parent.as_ref().and_then(|parent| find(spec, &parent.stream));
    }
    if found.primary_key.is_empty() {
        problems.add(
            &pointer,
            format!("the stream \"{}\" has no primary_key, so its rows can't be told apart", found.name),
            format!("primary_key in \"{}\"", found.name),
        );
    }
    if parent.in_key && stream.primary_key.is_empty() {
        problems.add(format!("/streams/{at}/parent/in_key"), "there is no primary_key to belong to", "primary_key");
    }
}

fn changes(spec: &Spec, at: usize, problems: &mut Problems) {
    let stream = &spec.streams[at];
    let Some(changes) = &stream.changes else { return };
    let pointer = format!("/streams/{at}/changes");
    match find(spec, &changes.stream) {
        None => {
            problems.add(format!("{pointer}/stream"), format!("there is no stream \"{}\"", changes.stream), names(spec))
        }
        Some(events) if events.changes.is_some() || events.name == stream.name => problems.add(
            format!("{pointer}/stream"),
            format!("\"{}\" is told of its changes itself", events.name),
            "a stream of events",
        ),
        Some(events) if events.incremental.is_none() => problems.add(
            format!("{pointer}/stream"),
            format!("each run would read all of \"{}\"", events.name),
            format!("incremental in \"{}\"", events.name),
        ),
        Some(_) => {}
    }
    if stream.primary_key.is_empty() {
        problems.add(&pointer, "changes are found by a key, and there is none", "primary_key in the stream");
    }
}
