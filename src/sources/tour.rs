//! Going through the rows of another stream: the parents of a stream, and the events that tell of its changes.
//!
//! They are gone through in the order in which they were fetched, so that one place says how far a stream has come.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::load::{Layout, Table};
use super::spec::{Changes, Parent, Pointer, Spec, Stream};
use super::store::{self, After};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{spi, sql};

/// How many rows are held at a time.
pub const MOST: usize = 20_000;

/// One row of the tour.
#[derive(Debug, Clone, Deserialize)]
pub struct Stop {
    /// What fills the places of the templates.
    pub places: Map<String, Value>,
    /// The key that the row in our own table has, where it is known.
    #[serde(default)]
    pub key: Vec<String>,
    /// An event says that it is gone.
    #[serde(default)]
    pub deleted: bool,
    pub at: Option<After>,
}

/// The table of another stream.
struct Other<'a> {
    stream: &'a Stream,
    layout: Layout,
    name: String,
}

impl<'a> Other<'a> {
    /// `None` where it was never fetched.
    fn open(source: &str, spec: &'a Spec, name: &str) -> Result<Option<Self>> {
        let Some(stream) = spec.streams.iter().find(|s| s.name == name) else { return Ok(None) };
        let known = store::seen(source, name)?;
        let Some(relation) = known.relation else { return Ok(None) };
        let found: Option<String> = spi::first(
            "SELECT pg_catalog.to_json(c.oid::pg_catalog.regclass::text)::text FROM pg_catalog.pg_class c WHERE c.oid = $1",
            &[spi::oid(relation)],
        )?;
        Ok(found.map(|name| Other { stream, layout: Layout::new(stream, known.columns), name }))
    }

    /// A value of a row `t` as jsonb.
    fn value(&self, tokens: &[String], wanted_by: &str) -> Result<String> {
        let path = |tokens: &[String]| {
            let tokens: Vec<String> = tokens.iter().map(|t| sql::literal(t)).collect();
            format!("ARRAY[{}]::text[]", tokens.join(", "))
        };
        if let Some(column) = Pointer::from_tokens(tokens).and_then(|p| self.layout.column_of(&p)) {
            return Ok(format!("pg_catalog.to_jsonb(t.{})", sql::ident(column)));
        }
        if self.stream.raw {
            return Ok(format!("t._raw #> {}", path(tokens)));
        }
        for n in (1..tokens.len()).rev() {
            if let Some(column) = Pointer::from_tokens(&tokens[..n]).and_then(|p| self.layout.column_of(&p)) {
                return Ok(format!("pg_catalog.to_jsonb(t.{}) #> {}", sql::ident(column), path(&tokens[n..])));
            }
        }
        Err(Error::new(
            sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!(
                "stream \"{wanted_by}\" needs /{} of stream \"{}\", which is not stored",
                tokens.join("/"),
                self.stream.name
            ),
        )
        .hint("Declare a column for it, or keep _raw."))
    }
}

fn after(after: Option<&After>) -> (i64, String) {
    after.cloned().unwrap_or((i64::MIN, String::new()))
}

const MICROSECONDS: &str = "(extract(epoch FROM t._fetched_at) * 1000000)::int8";

/// The next parents of a stream.
pub fn parents(
    source: &str,
    parent: &Parent,
    spec: &Spec,
    child: &str,
    done: Option<&After>,
    most: usize,
) -> Result<Vec<Stop>> {
    let Some(other) = Other::open(source, spec, &parent.stream)? else { return Ok(Vec::new()) };
    let mut members = Vec::new();
    for (place, pointer) in &parent.bind {
        members.push(format!("{}, {}", sql::literal(place), other.value(pointer.tokens(), child)?));
    }
    let (at, text) = after(done);
    spi::rows(
        &format!(
            "SELECT pg_catalog.json_build_object('places', p.b, 'at', pg_catalog.json_build_array(p.at, p.b::text))::text
             FROM (SELECT pg_catalog.jsonb_build_object({}) AS b, pg_catalog.max({MICROSECONDS}) AS at FROM {} t
                   WHERE t._deleted_at IS NULL GROUP BY 1) p
             WHERE (p.at, p.b::text COLLATE \"C\") > ($1, $2 COLLATE \"C\") ORDER BY p.at, p.b::text COLLATE \"C\" LIMIT {most}",
            members.join(", "),
            other.name
        ),
        &[at.into(), text.into()],
    )
}

/// Marks or removes (`hard`) rows whose parent is marked or `removed`, and that belong to no other.
pub fn follow_deleted(
    source: &str,
    stream: &Stream,
    spec: &Spec,
    table: &Table,
    layout: &Layout,
    removed: bool,
    hard: bool,
) -> Result<u64> {
    let Some(parent) = &stream.parent else { return Ok(0) };
    let Some(other) = Other::open(source, spec, &parent.stream)? else { return Ok(0) };
    let (mut values, mut same, mut known) = (Vec::new(), Vec::new(), Vec::new());
    for (n, ((_, pointer), at)) in parent.bind.iter().zip(&layout.bound).enumerate() {
        let column = format!("c.{}", sql::ident(&layout.fields[*at].column));
        values.push(format!("({}) #>> ARRAY[]::text[] AS v{n}", other.value(pointer.tokens(), &stream.name)?));
        same.push(format!("p.v{n} = {column}::text"));
        known.push(format!("{column} IS NOT NULL"));
    }
    let among = |state: &str| {
        format!(
            "EXISTS (SELECT FROM (SELECT {} FROM {} t WHERE t._deleted_at {state}) p WHERE {})",
            values.join(", "),
            other.name,
            same.join(" AND ")
        )
    };
    // Of rows that were removed nothing is left to say so.
    let gone = if removed { String::new() } else { format!("AND {}", among("IS NOT NULL")) };
    let which = format!("{} {gone} AND NOT {}", known.join(" AND "), among("IS NULL"));
    let statement = match hard {
        true => format!("DELETE FROM {} c WHERE {which}", table.name),
        false => format!(
            "UPDATE {} c SET _deleted_at = pg_catalog.now(), _fetched_at = pg_catalog.now() WHERE c._deleted_at IS NULL AND {which}",
            table.name
        ),
    };
    Ok(spi::run(&statement, &[])? as u64)
}

/// Where a tour through the events would end now.
pub fn tip(source: &str, changes: &Changes, spec: &Spec) -> Result<After> {
    let Some(other) = Other::open(source, spec, &changes.stream)? else { return Ok((0, String::new())) };
    let at: Option<Option<i64>> = spi::first(
        &format!("SELECT pg_catalog.to_json(pg_catalog.max({MICROSECONDS}))::text FROM {} t", other.name),
        &[],
    )?;
    // Behind everything of that moment: what a complete scan has read is not asked for again.
    Ok((at.flatten().unwrap_or_default(), "~".into()))
}

/// The next records that events tell of.
pub fn changed(
    source: &str,
    stream: &Stream,
    changes: &Changes,
    spec: &Spec,
    done: Option<&After>,
    most: usize,
) -> Result<Vec<Stop>> {
    let Some(other) = Other::open(source, spec, &changes.stream)? else { return Ok(Vec::new()) };
    let object = changes.object.tokens();
    let inside = |tokens: &[String]| -> Result<String> { other.value(&[object, tokens].concat(), &stream.name) };
    let mut places = Vec::new();
    for place in changes.refetch.iter().flat_map(|path| path.places()) {
        places.push(format!("{}, {}", sql::literal(place), inside(&[place.to_owned()])?));
    }
    let mut key = Vec::new();
    for pointer in &stream.primary_key {
        key.push(format!("({}) #>> ARRAY[]::text[]", inside(pointer.tokens())?));
    }
    let kind = format!("({}) #>> ARRAY[]::text[]", other.value(changes.type_at.tokens(), &stream.name)?);
    // Of a record's events the last one says whether it is deleted: it may have been restored since.
    let when = match &other.stream.incremental {
        Some(rule) => other.value(rule.cursor.tokens(), &stream.name)?,
        None => "NULL::jsonb".to_owned(),
    };
    let like = |patterns: &[String]| -> Vec<String> { patterns.iter().map(|p| pattern(p)).collect() };
    let mut wanted = like(&changes.types);
    if !wanted.is_empty() {
        wanted.extend(like(&changes.deleted_types));
    }
    let (at, text) = after(done);
    spi::rows(
        &format!(
            "SELECT pg_catalog.json_build_object('places', p.b, 'key', p.k, 'deleted', p.gone, 'at', pg_catalog.json_build_array(p.at, p.b::text))::text
             FROM (SELECT e.b, e.k, pg_catalog.max(e.at) AS at, pg_catalog.bool_or(e.last AND coalesce(e.kind LIKE ANY ($4), false)) AS gone
                   FROM (SELECT e.*, pg_catalog.rank() OVER (PARTITION BY e.b, e.k ORDER BY e.c DESC NULLS LAST) = 1 AS last
                         FROM (SELECT pg_catalog.jsonb_build_object({}) AS b, ARRAY[{}] AS k, {kind} AS kind, {when} AS c, {MICROSECONDS} AS at FROM {} t) e
                         WHERE ($3 = '{{}}' OR e.kind LIKE ANY ($3)) AND pg_catalog.array_position(e.k, NULL) IS NULL
                           AND (e.at, e.b::text COLLATE \"C\") > ($1, $2 COLLATE \"C\")) e
                   GROUP BY e.b, e.k) p
             ORDER BY p.at, p.b::text COLLATE \"C\" LIMIT {most}",
            places.join(", "),
            key.join(", "),
            other.name
        ),
        &[at.into(), text.into(), wanted.into(), like(&changes.deleted_types).into()],
    )
}

/// A pattern with stars, as LIKE reads it.
fn pattern(stars: &str) -> String {
    let mut out = String::new();
    for c in stars.chars() {
        match c {
            '*' => out.push('%'),
            '%' | '_' | '\\' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_star_stands_for_any_text() {
        assert_eq!(pattern("charge.*"), "charge.%");
        assert_eq!(pattern("payment_intent.100%\\"), "payment\\_intent.100\\%\\\\");
    }
}
