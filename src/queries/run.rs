//! A saved query, run as the caller: who that is is taken first, and nothing of ours is lent to what runs.
//!
//! All that the query does is undone when it has ended: its rows are outside by then. It can read, and neither write nor
//! become somebody else. Where somebody else saved it, functions of others don't run either: they would with the rights
//! of whoever calls.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::params::{self, Declared, Shape};
use super::store::{self, bad, Query};
use super::{columns, keep, scan};
use crate::error::{sqlstate, Error, Result};
use crate::pg::identity::As;
use crate::pg::rows::{Rows, Rules};
use crate::pg::select::{self, Parameter, Type};
use crate::pg::trojan::Guard;
use crate::pg::watch::{Used, Watching};
use crate::pg::{guc, session, sql, subxact};

thread_local! {
    static SERIES: Cell<Option<(i64, Pin)>> = const { Cell::new(None) };
    static ROWS: Cell<i64> = const { Cell::new(0) };
}

/// The version of a query that was the newest when a job was made of it.
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct Pin {
    pub query: i64,
    pub version: i32,
}

/// The run of a job that results belong to, until dropped.
pub struct Series(());

impl Series {
    pub fn of(run: i64, pin: Pin) -> Self {
        SERIES.set(Some((run, pin)));
        Series(())
    }

    /// How many rows the last result had.
    pub fn rows() -> i64 {
        ROWS.get()
    }
}

impl Drop for Series {
    fn drop(&mut self) {
        SERIES.set(None);
    }
}

/// What a run gave.
pub struct Ran {
    pub query: Query,
    pub slug: String,
    pub caller: u32,
    pub rows: Rows,
    pub used: Used,
    /// Parameters as the types read them, JSON by name.
    pub params: serde_json::Map<String, serde_json::Value>,
    pub elapsed: Duration,
    /// The run of the job that it is of.
    pub run: Option<i64>,
}

/// Our own queries, whatever the caller has on their path.
pub const PATH: (&str, &str) = ("search_path", "pg_catalog, pg_temp");

/// Runs a query and stores what it returned.
pub fn run(slug: &str, given: &str) -> Result<keep::Kept> {
    session::refuse_restricted()?;
    session::refuse_read_only(c"wh.run_query()");
    let (caller, query) = {
        let (caller, _owner) = As::on_behalf()?;
        let _path = guc::Scope::new(&[PATH])?;
        (caller, chosen(caller, slug)?)
    };
    let from_a_superuser = query.author.is_some_and(session::is_superuser_role);
    if session::is_superuser_role(caller) && !from_a_superuser {
        return Err(Error::new(
            sqlstate::INSUFFICIENT_PRIVILEGE,
            format!("query \"{slug}\" was not saved by a superuser, and a superuser does not run it"),
        )
        .detail("It would run with all rights.")
        .hint("Run it in a session of a plain role, or save it again yourself once you have read it."));
    }
    let (rewritten, parameters) = bind(&query, given)?;
    let types: Vec<Type> = parameters.iter().map(|p| p.of).collect();
    let begun = Instant::now();
    let mut rows = Rows::new(rules());
    let used = subxact::run_as(subxact::Outcome::Discard, || {
        let _surroundings = guc::Scope::new(&[
            ("search_path", &path(&query.search_path)),
            ("standard_conforming_strings", "on"),
            ("max_parallel_workers_per_gather", "0"),
        ])?;
        let _confined = session::Confined::begin();
        let of_another = query.author != Some(caller);
        let guarded = of_another || session::is_superuser_role(caller);
        let watching = Watching::begin(guarded.then_some(Guard { of_another }));
        select::analyze(&rewritten.sql, &types)?.run(&parameters, &mut rows)?;
        Ok(watching.used())
    })?;
    let elapsed = begun.elapsed();
    let params = told(&rewritten.names, &parameters)?;
    let run = SERIES.get().map(|(run, _)| run);
    ROWS.set(rows.count as i64);
    keep::keep(&Ran { query, slug: slug.to_owned(), caller, rows, used, params, elapsed, run })
}

/// The version that runs: the newest. In a job what somebody else saved after the job was made does not: nobody has looked
/// at it who lends it their rights.
fn chosen(caller: u32, slug: &str) -> Result<Query> {
    let newest = store::find(caller, slug)?;
    let Some((_, pin)) = SERIES.get() else { return Ok(newest) };
    if newest.author == Some(caller) || (newest.id, newest.version) == (pin.query, pin.version) {
        return Ok(newest);
    }
    if newest.id != pin.query {
        return Err(Error::new(
            sqlstate::UNDEFINED_OBJECT,
            format!("query \"{slug}\" is another one than was scheduled"),
        )
        .detail("It was dropped since, and somebody else saved one of that name.")
        .hint("Read it, and call wh.schedule_query again."));
    }
    store::find_version(caller, slug, pin.version)
}

/// A query as the server parses it, and the values of its parameters.
fn bind(query: &Query, given: &str) -> Result<(scan::Rewritten, Vec<Parameter>)> {
    let declared = params::declare(&query.params)?;
    let rewritten = scan::rewrite(&query.sql, |name| declared.contains_key(name))?;
    let types = types(&rewritten.names, &declared)?;
    let chosen = params::choose(&declared, given)?;
    let mut parameters = Vec::with_capacity(types.len());
    for (name, of) in rewritten.names.iter().zip(&types) {
        parameters.push(Parameter::read(*of, params::text(name, &chosen[name], shape(*of))?.as_deref())?);
    }
    Ok((rewritten, parameters))
}

/// Refuses values that a run would refuse.
pub fn check_values(query: &Query, given: &str) -> Result<()> {
    bind(query, given).map(|_| ())
}

/// What is too large is refused while it comes.
fn rules() -> Rules {
    let most = super::expire::megabytes(&crate::settings::MAX_RESULT_SIZE)
        .min(super::expire::megabytes(&crate::settings::RESULT_QUOTA));
    Rules {
        how: columns::how,
        names: columns::names,
        most_bytes: most,
        too_many: |most| {
            Error::new("54000", format!("the result has more than {} MB", most / (1024 * 1024)))
                .detail("That is the limit of startup_wh.max_result_size, or of startup_wh.result_quota.")
                .hint("Let the query return less, or CREATE TABLE ... AS in a schema of yours.")
        },
    }
}

/// Schemas as a setting.
fn path(schemas: &[String]) -> String {
    match schemas.is_empty() {
        true => String::from("\"\""),
        false => schemas.iter().map(|s| sql::ident(s)).collect::<Vec<_>>().join(", "),
    }
}

fn shape(of: Type) -> Shape {
    // json and jsonb (src/include/catalog/pg_type.dat).
    match of {
        Type { element, .. } if element != 0 => Shape::Array,
        Type { oid: 114 | 3802, .. } => Shape::Document,
        _ => Shape::Scalar,
    }
}

/// The types of parameters, in order: the server's own, so that nobody's code reads a value.
fn types(names: &[String], declared: &Declared) -> Result<Vec<Type>> {
    let _path = guc::Scope::new(&[PATH])?;
    names
        .iter()
        .map(|name| {
            let kind = declared.get(name).map_or("", |p| p.kind.as_str());
            let of = Type::parse(kind)?;
            let own = if of.element == 0 { of.oid } else { of.element };
            match columns::is_kept(own) {
                true => Ok(of),
                false => Err(bad(format!("parameter \"{name}\" can't be of type {kind}"))
                    .detail("Parameters are of the server's own types that stand for themselves, or arrays of them.")
                    .hint("Take text, and cast it in the query.")),
            }
        })
        .collect()
}

/// The values that were bound, as their types print them.
fn told(names: &[String], parameters: &[Parameter]) -> Result<serde_json::Map<String, serde_json::Value>> {
    let _surroundings = guc::Scope::new(guc::DEPARSE)?;
    let mut told = serde_json::Map::new();
    for (name, parameter) in names.iter().zip(parameters) {
        told.insert(name.clone(), parameter.print().into());
    }
    Ok(told)
}

/// Checks a query that the caller is about to save, as the caller: it is analysed and does not run. Returns what is
/// declared of its parameters.
pub fn check(sql: &str, search_path: &[String], given: Option<&str>, before: Option<&Query>) -> Result<Declared> {
    let given = given.map(params::declare).transpose()?;
    let earlier = before.map(|b| params::declare(&b.params)).transpose()?;
    let known = given.as_ref().or(earlier.as_ref());
    let rewritten = scan::rewrite(sql, |name| known.is_some_and(|k| k.contains_key(name)))?;
    let declared = params::settle(&rewritten.names, given, earlier)?;
    let types = types(&rewritten.names, &declared)?;
    for (name, of) in rewritten.names.iter().zip(&types) {
        // A default that can't be read would be found by the first who relies on it.
        if let Some(text) = declared[name].default.as_deref().map(|d| params::text(name, d, shape(*of))).transpose()? {
            Parameter::read(*of, text.as_deref())?;
        }
    }
    let _surroundings = guc::Scope::new(&[("search_path", &path(search_path)), ("standard_conforming_strings", "on")])?;
    select::analyze(&rewritten.sql, &types)?;
    Ok(declared)
}
