//! What a changed spec asks of tables that are there: it is carried out at once, or refused with what to do instead.

use serde_json::value::RawValue;

use super::load::{self, Change, Field, Layout, Table};
use super::spec::{Child, ChildAs, Pointer, Spec, Stream, Write};
use super::{columns, store};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{guc, spi, sql, subxact};

/// Brings the tables of a source from one spec to another. Streams of which other things are stored than before are read
/// from their start by the next fetch.
pub fn follow(source: &str, old: &Spec, new: &Spec) -> Result<()> {
    let _surroundings = guc::Scope::new(guc::DEPARSE)?;
    for stream in &new.streams {
        let Some(was) = old.streams.iter().find(|s| s.name == stream.name).filter(|was| *was != stream) else {
            continue;
        };
        refuse_another_shape(source, was, stream)?;
        let known = store::known(source, &stream.name)?;
        let Some(table) = known.relation.map(|oid| Table::find(oid, true)).transpose()?.flatten() else { continue };
        table.refuse_others_code()?;
        let (changes, fields) = changes(stream, known.columns)?;
        retype(&table, &stream.name, &changes)?;
        let hidden: Vec<&Pointer> = stream.hide.iter().filter(|pointer| !was.hide.contains(pointer)).collect();
        if !hidden.is_empty() {
            empty(&table, &fields, stream.raw, &hidden)?;
            empty_errors(source, stream)?;
        }
        if load::salt(was) != load::salt(stream) {
            store::reset(source, Some(&stream.name))?;
            store::remember_columns(source, &stream.name, &fields)?;
            pgrx::notice!("stream \"{}\" is read from its start by the next fetch", stream.name);
        }
    }
    Ok(())
}

/// What a table cannot follow, in the words of the spec.
fn refuse_another_shape(source: &str, was: &Stream, stream: &Stream) -> Result<()> {
    let in_key = |s: &Stream| -> Vec<String> {
        let parent = s.parent.iter().filter(|p| p.in_key);
        parent.flat_map(|p| p.bind.iter().map(|(place, _)| place.clone())).collect()
    };
    let key = |s: &Stream| (in_key(s), s.primary_key.clone());
    let keyed = |s: &Stream| s.write != Write::Append && key(s) != <(Vec<String>, Vec<Pointer>)>::default();
    let refuse = |member: &str, name: &str| -> Result<()> {
        let known = store::known(source, name)?;
        let Some(table) = known.relation.map(|oid| Table::find(oid, true)).transpose()?.flatten() else {
            return Ok(());
        };
        let message =
            format!("{member} of stream \"{name}\" cannot change while {} is as the old one has it", table.name);
        Err(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message).hint(format!(
            "Drop the table first (DROP TABLE {}): the next fetch makes it anew, and reads everything.",
            table.name
        )))
    };
    if key(was) != key(stream) {
        refuse("primary_key", &stream.name)?;
    }
    if keyed(was) != keyed(stream) {
        refuse("write", &stream.name)?;
    }
    if was.raw != stream.raw {
        refuse("raw", &stream.name)?;
    }
    let tables =
        |s: &'_ Stream| s.children.iter().filter(|c| c.into == ChildAs::Table).cloned().collect::<Vec<Child>>();
    for child in tables(stream) {
        let before = tables(was).into_iter().find(|c| c.name == child.name);
        if before.is_some_and(|b| b.primary_key != child.primary_key || key(was) != key(stream)) {
            refuse("primary_key", &child.name)?;
        }
    }
    Ok(())
}

/// What the table needs, and its columns afterwards: declared columns that are new, and other types.
fn changes(stream: &Stream, known: Vec<Field>) -> Result<(Vec<Change>, Vec<Field>)> {
    let there: Vec<String> = known.iter().map(|f| f.column.clone()).collect();
    let layout = Layout::new(stream, known);
    let declared = |column: &str| {
        stream.columns.values().find(|c| layout.column_of(&c.path) == Some(column)).map(|c| (c.ty.clone(), &c.path))
    };
    let (mut changes, mut fields) = (Vec::new(), Vec::<Field>::new());
    for field in &layout.fields {
        if fields.iter().any(|f| f.column == field.column) {
            let message =
                format!("column \"{}\" of stream \"{}\" holds other values already", field.column, stream.name);
            return Err(Error::new(sqlstate::DUPLICATE_OBJECT, message)
                .hint("Declare the new path under another name: a column keeps what it was made for."));
        }
        let mut field = field.clone();
        if !there.contains(&field.column) {
            changes.push(Change::Add { column: field.column.clone(), ty: field.ty() });
        } else if let Some((to, path)) = declared(&field.column).filter(|(to, _)| to.sql() != field.ty) {
            let (column, from, empty) = (field.column.clone(), field.ty(), field.empty);
            field.ty = to.sql().to_owned();
            let path = stream.raw.then(|| path.tokens().to_vec());
            changes.push(Change::Retype { column, from, to, empty, path });
        }
        fields.push(field);
    }
    Ok((changes, fields))
}

fn retype(table: &Table, stream: &str, changes: &[Change]) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    subxact::run(|| table.follow(changes)).map_err(|e| {
        if !e.sqlstate.starts_with("22") && e.sqlstate != "42846" {
            return e;
        }
        let message = format!("what {} holds does not fit the columns that stream \"{stream}\" declares", table.name);
        Error::new(&e.sqlstate, message).detail(e.message).hint(format!(
            "Leave the column's type as it is, or drop the table (DROP TABLE {}): the next fetch makes it anew, and reads everything.",
            table.name
        ))
    })
}

/// Takes hidden members out of rows that are there; those that the API lists no more would keep them for ever.
fn empty(table: &Table, fields: &[Field], raw: bool, hidden: &[&Pointer]) -> Result<()> {
    let path = |tokens: &[String]| {
        let tokens: Vec<String> = tokens.iter().map(|t| sql::literal(t)).collect();
        format!("ARRAY[{}]::text[]", tokens.join(", "))
    };
    let mut columns: Vec<(String, String)> = Vec::new();
    for field in fields.iter().filter(|f| !f.member.starts_with('{')) {
        let tokens = field.path.as_ref().map_or_else(|| vec![field.member.clone()], |p| p.tokens().to_vec());
        let column = sql::ident(&field.column);
        let inside: Vec<&[String]> = hidden.iter().filter_map(|h| h.tokens().strip_prefix(tokens.as_slice())).collect();
        if hidden.iter().any(|h| tokens.starts_with(h.tokens())) {
            columns.push((column, "NULL".into()));
        } else if field.ty == "jsonb" && !inside.is_empty() {
            let less = inside.iter().fold(column.clone(), |v, p| format!("{v} OPERATOR(pg_catalog.#-) {}", path(p)));
            columns.push((column, less));
        }
    }
    if raw {
        let less =
            hidden.iter().fold("_raw".to_owned(), |v, h| format!("{v} OPERATOR(pg_catalog.#-) {}", path(h.tokens())));
        columns.push(("_raw".into(), less));
    }
    if columns.is_empty() {
        return Ok(());
    }
    let set: Vec<String> = columns.iter().map(|(column, value)| format!("{column} = {value}")).collect();
    let differs: Vec<String> =
        columns.iter().map(|(column, value)| format!("{column} IS DISTINCT FROM {value}")).collect();
    spi::run(&format!("UPDATE {} SET {} WHERE {}", table.name, set.join(", "), differs.join(" OR ")), &[])?;
    Ok(())
}

/// The same in records that could not be stored. A reason may quote a value.
fn empty_errors(source: &str, stream: &Stream) -> Result<()> {
    let kept: Vec<(i64, String)> = spi::rows(
        "SELECT pg_catalog.json_build_array(id, record)::text FROM wh.fetch_error WHERE source = $1 AND stream = $2",
        &[source.into(), stream.name.as_str().into()],
    )?;
    for (id, record) in kept {
        let less = match RawValue::from_string(record.clone()) {
            Ok(raw) => columns::without(&raw, &stream.hide),
            Err(_) => "(withheld)".into(),
        };
        if less != record {
            spi::run(
                "UPDATE wh.fetch_error SET record = $2, reason = 'withheld, because hide was changed' WHERE id = $1",
                &[id.into(), less.into()],
            )?;
        }
    }
    Ok(())
}
