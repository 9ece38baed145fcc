//! Stored results, read again, and who may.

use serde::Deserialize;
use serde_json::json;

use super::keep::Column;
use super::store::bad;
use crate::error::{sqlstate, Error, Result};
use crate::pg::rows::Sink;
use crate::pg::{catalog, session, spi, sql};

/// A result as far as the caller may know of it; see wh.result_access in sql/queries.sql.
#[derive(Debug, Deserialize)]
struct Found {
    own: bool,
    shared: bool,
    as_table: bool,
    columns: String,
    /// What it was computed from and the caller may not read.
    lacking: Vec<String>,
}

// Whatever is on the caller's path: the function was parsed when it was made, and nothing here is looked up on it.
const ACCESS: &str = "SELECT x::pg_catalog.text FROM wh.result_access($1, $2, $3) AS x";

fn find(caller: u32, id: i64) -> Result<Option<Found>> {
    judge(caller, spi::prepared_look(ACCESS, &[id.into(), spi::oid(caller), catalog::place().into()])?)
}

fn judge(caller: u32, found: Vec<Found>) -> Result<Option<Found>> {
    Ok(found.into_iter().next().map(|mut f| {
        f.own |= session::is_superuser_role(caller);
        f
    }))
}

/// Whether a role may read a result.
pub fn may(caller: u32, id: i64) -> Result<bool> {
    Ok(find(caller, id)?.is_some_and(|f| f.own || (f.shared && f.lacking.is_empty())))
}

/// A result that may be read.
pub struct Readable {
    id: i64,
    as_table: bool,
    columns: Vec<Column>,
}

/// Refuses whoever may not read a result, with the reason; whom it was never shared with does not learn that it is there.
pub fn authorize(caller: u32, id: i64) -> Result<Readable> {
    readable(id, find(caller, id)?)
}

/// The same in the middle of a query on the result's table, which a parallel worker may be running.
pub fn check(caller: u32, id: i64) -> Result<()> {
    let found = spi::peek(ACCESS, &[id.into(), spi::oid(caller), catalog::place().into()])?;
    readable(id, judge(caller, found)?).map(|_| ())
}

fn readable(id: i64, found: Option<Found>) -> Result<Readable> {
    let found = found.filter(|f| f.own || f.shared).ok_or_else(|| {
        Error::new(sqlstate::UNDEFINED_OBJECT, format!("result {id} does not exist"))
            .hint("SELECT id, query, ran_at FROM wh.results lists those that you may read.")
    })?;
    if !found.own && !found.lacking.is_empty() {
        return Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("permission denied for result {id}"))
            .detail(format!("It was computed from what you may not read: {}.", found.lacking.join(", ")))
            .hint("A stored result is for those who could read all that it was computed from. Ask for those rights, or run the query yourself."));
    }
    Ok(Readable { id, as_table: found.as_table, columns: serde_json::from_str(&found.columns)? })
}

/// The statement that reads a result as columns.
pub fn statement(id: i64, columns: &[Column], as_table: bool) -> String {
    if as_table {
        return format!("SELECT * FROM wh_results.r{id}");
    }
    if columns.is_empty() {
        return format!("SELECT FROM wh.result({id})");
    }
    format!("SELECT c.* FROM wh.result({id}) r, jsonb_to_record(r) AS c ({})", declared(columns))
}

/// Columns as a statement declares those of a record.
pub fn declared(columns: &[Column]) -> String {
    columns.iter().map(|c| format!("{} {}", sql::ident(&c.name), c.kind)).collect::<Vec<_>>().join(", ")
}

impl Readable {
    /// A query that returns its rows as objects, under the name `row`, in their order.
    fn rows(&self) -> String {
        match self.as_table {
            true => format!("SELECT pg_catalog.to_jsonb(t.*) AS row FROM wh_results.data_{} t", self.id),
            false => format!(
                "SELECT e.row FROM wh.result x, pg_catalog.jsonb_array_elements(x.content) AS e (row) WHERE x.id = {}",
                self.id
            ),
        }
    }

    /// Hands its rows over.
    pub fn read(&self, sink: &Sink) -> Result<()> {
        sink.fill(&self.rows(), &[])
    }
}

/// What changed from one result to another.
pub fn diff(before: &Readable, after: &Readable, key: Option<Vec<String>>, sink: &Sink) -> Result<()> {
    columns(before, after, sink)?;
    let (a, b) = (before.rows(), after.rows());
    let Some(key) = key else {
        return sink.fill(
            &format!(
                "SELECT 'row removed', d.row, NULL::jsonb FROM (SELECT row FROM ({a}) x EXCEPT ALL SELECT row FROM ({b}) y) d
                 UNION ALL
                 SELECT 'row added', NULL::jsonb, d.row FROM (SELECT row FROM ({b}) y EXCEPT ALL SELECT row FROM ({a}) x) d"
            ),
            &[],
        );
    };
    for (result, rows) in [(before, &a), (after, &b)] {
        if let Some(unknown) = key.iter().find(|k| !result.columns.iter().any(|c| c.name == **k)) {
            return Err(bad(format!("result {} has no column \"{unknown}\"", result.id)));
        }
        let twice: Option<serde_json::Value> = spi::look(
            &format!("SELECT {}::text FROM ({rows}) x GROUP BY {} HAVING pg_catalog.count(*) > 1 LIMIT 1", KEY, KEY),
            &[key.clone().into()],
        )?
        .into_iter()
        .next();
        if let Some(value) = twice {
            return Err(Error::new("21000", format!("the key is not unique in result {}", result.id))
                .detail(format!("{} is there more than once.", json!(value)))
                .hint("Name more columns, or none: then whole rows are compared."));
        }
    }
    sink.fill(
        &format!(
            "SELECT CASE WHEN y.row IS NULL THEN 'row removed' WHEN x.row IS NULL THEN 'row added' ELSE 'row changed' END, x.row, y.row
             FROM (SELECT row, {KEY} AS key FROM ({a}) x) x FULL JOIN (SELECT row, {KEY} AS key FROM ({b}) x) y ON y.key = x.key
             WHERE x.row IS DISTINCT FROM y.row"
        ),
        &[key.into()],
    )
}

/// The values of the columns that $1 names, as one.
const KEY: &str =
    "(SELECT pg_catalog.jsonb_agg(x.row -> k.name ORDER BY k.n) FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS k (name, n))";

/// Columns that only one of them has, or that have another type.
fn columns(before: &Readable, after: &Readable, sink: &Sink) -> Result<()> {
    let mut changes: Vec<(&str, Option<&Column>, Option<&Column>)> = Vec::new();
    let in_other = |other: &Readable, name: &str| other.columns.iter().position(|c| c.name == name);
    for column in &before.columns {
        match in_other(after, &column.name).map(|n| &after.columns[n]) {
            None => changes.push(("column removed", Some(column), None)),
            Some(now) if now.kind != column.kind => changes.push(("column retyped", Some(column), Some(now))),
            Some(_) => {}
        }
    }
    let added = after.columns.iter().filter(|c| in_other(before, &c.name).is_none());
    changes.extend(added.map(|c| ("column added", None, Some(c))));
    if changes.is_empty() {
        return Ok(());
    }
    sink.fill(
        "SELECT c.change, nullif(c.before, 'null'), nullif(c.after, 'null')
         FROM pg_catalog.jsonb_to_recordset($1::jsonb) AS c (change text, before jsonb, after jsonb)",
        &[json!(changes
            .iter()
            .map(|(change, before, after)| json!({"change": change, "before": before, "after": after}))
            .collect::<Vec<_>>())
        .to_string()
        .into()],
    )
}
