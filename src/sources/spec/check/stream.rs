//! One stream: whether its parts fit each other.

use super::{source, Problems};
use crate::sources::spec::{
    Confirm, Deletes, Format, Incremental, Method, Order, Paginator, Pointer, Spec, Stream, Target, Write,
};

pub fn check(spec: &Spec, stream: &Stream, at: &str, problems: &mut Problems) {
    source::headers(at, &stream.headers, problems);
    if stream.body.is_some() && stream.method == Method::Get {
        problems.add(format!("{at}/body"), "a GET has no body", "\"method\": \"POST\"");
    }
    if stream.limits.max_record_bytes as u64 > stream.limits.max_body_bytes {
        problems.add(
            if spec.limits.max_record_bytes as u64 > spec.limits.max_body_bytes { "/limits" } else { at },
            "a record may be longer than a body",
            "max_record_bytes up to max_body_bytes",
        );
    }
    let one_by_one = stream.changes.is_some() || stream.deletes.as_ref().is_some_and(|d| d.confirm == Confirm::Get);
    if stream.limits.concurrency > 1 && stream.parent.is_none() && !one_by_one {
        problems.add(
            format!("{at}/limits/concurrency"),
            "this stream is one list, whose pages are read one after another",
            "concurrency in the source's limits, for streams at the same time; here, with parent, changes or \"confirm\": \"get\"",
        );
    }
    keys(stream, at, problems);
    hidden(stream, at, problems);
    paginator(stream, at, problems);
    targets(stream, at, problems);
    if let Some(incremental) = &stream.incremental {
        bounds(stream, incremental, at, problems);
    }
    if let Some(parent) = stream.parent.as_ref().filter(|parent| parent.changed_only) {
        let at = format!("{at}/parent/changed_only");
        if stream.write != Write::Merge {
            problems.add(&at, "only a part of the parents is asked for", "primary_key and \"write\": \"merge\"");
        }
        if stream.deletes.as_ref().is_some_and(|deletes| deletes.sweep_s.is_some()) {
            problems.add(&at, format!("a sweep asks for the children of each \"{}\"", parent.stream), "no sweep");
        }
        if stream.incremental.is_some() {
            problems.add(&at, "a parent that is new may have older children than the mark", "no incremental");
        }
    }
    if stream.changes.as_ref().is_some_and(|changes| changes.refetch.is_none()) {
        let at = format!("{at}/changes/refetch");
        problems.add(
            at,
            "objects inside events are not stored (not supported yet)",
            "the path of one record, to ask for it again",
        );
    }
    if let Some(deletes) = &stream.deletes {
        deleted(stream, deletes, at, problems);
    }
}

fn keys(stream: &Stream, at: &str, problems: &mut Problems) {
    let keyed = !stream.primary_key.is_empty();
    match stream.write {
        Write::Merge if !keyed => {
            let right = "primary_key, or \"write\": \"append\" or \"replace\"";
            problems.add(format!("{at}/write"), "a merge needs a key to find rows by", right);
        }
        Write::Replace if stream.incremental.is_some() => problems.add(
            format!("{at}/write"),
            "each run replaces all, and incremental fetches a part only",
            if keyed { "\"write\": \"merge\"" } else { "primary_key, or no incremental" },
        ),
        Write::Append if stream.incremental.as_ref().is_some_and(|incremental| incremental.lookback_s > 0) => problems
            .add(
                format!("{at}/incremental/lookback_s"),
                "what is read again would stand twice in a table that is appended to",
                "0, or primary_key and \"write\": \"merge\"",
            ),
        _ => {}
    }
    for (index, pointer) in stream.primary_key.iter().enumerate().filter(|(_, pointer)| pointer.is_root()) {
        problems.add(format!("{at}/primary_key/{index}"), format!("\"{pointer}\" is the whole record"), "\"/id\"");
    }
    if stream.version.is_some() && stream.write != Write::Merge {
        problems.add(format!("{at}/version"), "versions matter to a merge only", "\"write\": \"merge\"");
    }
    for (c, child) in stream.children.iter().enumerate() {
        let at = format!("{at}/children/{c}");
        if child.pointer.is_root() {
            problems.add(format!("{at}/pointer"), "this is the whole record", "\"/items\"");
        }
        if stream.write == Write::Append && child.into == crate::sources::spec::ChildAs::Table {
            problems.add(
                &at,
                "rows that are appended have no table of elements (not supported yet)",
                "\"as\": \"jsonb\"",
            );
        }
        if !keyed {
            problems.add(at, "its table refers to the record's key, and there is none", "primary_key in the stream");
        }
    }
}

/// Nothing that is used may be hidden.
fn hidden(stream: &Stream, at: &str, problems: &mut Problems) {
    let hides = |used: &Pointer| stream.hide.iter().any(|hidden| used.tokens().starts_with(hidden.tokens()));
    let mut used: Vec<(String, &Pointer)> = Vec::new();
    used.extend(stream.primary_key.iter().enumerate().map(|(i, p)| (format!("{at}/primary_key/{i}"), p)));
    used.extend(stream.version.iter().map(|p| (format!("{at}/version"), p)));
    used.extend(stream.incremental.iter().map(|i| (format!("{at}/incremental/cursor"), &i.cursor)));
    used.extend(stream.columns.iter().map(|(name, c)| (format!("{at}/columns/{name}/path"), &c.path)));
    used.extend(stream.children.iter().enumerate().map(|(c, p)| (format!("{at}/children/{c}/pointer"), &p.pointer)));
    used.extend(stream.deletes.iter().flat_map(|d| &d.flag).map(|flag| (format!("{at}/deletes/flag"), flag)));
    for (place, pointer) in used.into_iter().filter(|(_, pointer)| hides(pointer)) {
        problems.add(place, format!("\"{pointer}\" is hidden, and used here"), "another member, or not to hide it");
    }
    if let Some(index) = stream.hide.iter().position(Pointer::is_root) {
        problems.add(format!("{at}/hide/{index}"), "this hides the whole record", "members of it");
    }
}

fn paginator(stream: &Stream, at: &str, problems: &mut Problems) {
    let at = format!("{at}/paginator");
    match &stream.paginator {
        Paginator::Page { size_param: Some(_), size: None, .. } => {
            problems.add(&at, "there is no size to put into size_param", "size");
        }
        Paginator::Keyset { param: Some(_), next: None, .. } => {
            problems.add(&at, "param has nothing to hold on a further page", "next");
        }
        Paginator::Keyset { param: None, first, next, initial, .. } => {
            if first.is_some() || next.is_some() {
                problems.add(&at, "first and next have no place to go", "param");
            }
            if initial.is_none() {
                problems.add(&at, "nothing fills {cursor} and {key} on the first page", "initial");
            }
        }
        Paginator::Keyset { param: Some(_), initial: Some(_), .. } => {
            problems.add(format!("{at}/initial"), "first says what the first page asks for", "first alone");
        }
        _ => {}
    }
}

/// Where values are put: each place once, and places in a body only where there is one.
fn targets(stream: &Stream, at: &str, problems: &mut Problems) {
    let mut targets: Vec<(&str, &Target)> = Vec::new();
    match &stream.paginator {
        Paginator::Cursor { param, .. } | Paginator::Scroll { param, .. } => targets.push(("paginator/param", param)),
        Paginator::Page { param, size_param, .. } | Paginator::Offset { param, size_param, .. } => {
            targets.push(("paginator/param", param));
            targets.extend(size_param.iter().map(|param| ("paginator/size_param", param)));
        }
        Paginator::Keyset { param: Some(param), .. } => targets.push(("paginator/param", param)),
        _ => {}
    }
    if let Some(incremental) = &stream.incremental {
        targets.extend(incremental.start.iter().map(|start| ("incremental/start", start)));
        targets.extend(incremental.end.iter().map(|end| ("incremental/end", end)));
    }
    for (index, (member, target)) in targets.iter().enumerate() {
        let place = format!("{at}/{member}");
        if targets[..index].iter().any(|(_, other)| other == target) {
            problems.add(&place, "another value is put there already", "a place of its own");
        }
        match target {
            Target::Query(name) if stream.params.iter().any(|(param, _)| param == name) => {
                problems.add(&place, format!("\"{name}\" stands in params too"), "it in one of them");
            }
            Target::Body(_) if stream.body.is_none() => {
                problems.add(&place, "there is no body to put it into", "body");
            }
            Target::Body(pointer) => {
                let text = pointer.to_string();
                let parent = text.rsplit_once('/').map_or("", |(parent, _)| parent);
                let container = stream.body.as_ref().and_then(|body| body.pointer(parent));
                if !container.is_some_and(|value| value.is_object() || value.is_array()) {
                    let right = format!("a body that has an object at \"{parent}\"");
                    problems.add(&place, format!("the body has no place \"{parent}\" to hold it"), right);
                }
            }
            Target::Query(_) => {}
        }
    }
}

fn bounds(stream: &Stream, incremental: &Incremental, at: &str, problems: &mut Problems) {
    let at = format!("{at}/incremental");
    if incremental.cursor.is_root() {
        problems.add(format!("{at}/cursor"), "this is the whole record", "\"/updated_at\"");
    }
    if incremental
        .bound_format
        .is_some_and(|bound| (bound == Format::Integer) != (incremental.format == Format::Integer))
    {
        problems.add(
            format!("{at}/bound_format"),
            "an integer is no time, and a time no integer",
            "a format of a time",
        );
    }
    if incremental.lookback_s > 0 && incremental.format == Format::Integer {
        problems.add(format!("{at}/lookback_s"), "an integer is no time to look back from", "0");
    }
    if incremental.start.is_none() && !super::places::uses(stream, "start") && incremental.order != Order::Desc {
        problems.add(
            &at,
            "nothing keeps a run from reading everything again",
            "start (the parameter of the lower bound), {start} in params or body, or \"order\": \"desc\" if the API \
             lists the newest first",
        );
    }
    if super::places::uses(stream, "start") && incremental.initial.is_none() {
        problems.add(format!("{at}/initial"), "nothing fills {start} in the first run", "initial, for example 0");
    }
}

fn deleted(stream: &Stream, deletes: &Deletes, at: &str, problems: &mut Problems) {
    let at = format!("{at}/deletes");
    if stream.write != Write::Merge {
        problems.add(&at, "deletes are found by key", "primary_key and \"write\": \"merge\"");
    }
    let refetched = stream.changes.as_ref().is_some_and(|changes| changes.refetch.is_some());
    if deletes.confirm == Confirm::Get && deletes.path.is_none() && !refetched {
        problems.add(format!("{at}/confirm"), "there is no path to ask for one record", "path");
    }
    if deletes.confirm == Confirm::None && deletes.path.is_some() {
        problems.add(format!("{at}/path"), "nothing asks for one record", "\"confirm\": \"get\"");
    }
    if deletes.confirm == Confirm::Get && deletes.sweep_s.is_none() {
        problems.add(format!("{at}/confirm"), "only a sweep finds something to confirm", "sweep");
    }
    if deletes.sweep_s.is_none() && deletes.flag.is_none() {
        let told = stream.changes.as_ref().is_some_and(|changes| !changes.deleted_types.is_empty());
        if !told {
            problems.add(&at, "nothing says that a record is deleted", "flag or sweep");
        }
    }
}
