//! The doors: each converts and checks its arguments, and calls one plain function. Declared in sql/refresh.sql.

// pgrx reads the rows' type off each signature, and an alias hides it.
#![allow(clippy::type_complexity)]

use std::collections::HashMap;
use std::time::Duration;

use pgrx::datum::Interval;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::walk::{self, Outcome};
use super::{catalog, watch};
use crate::error::{sqlstate, Error, Result};

fn given<T>(argument: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("{argument} must not be null")))
}

fn interval(elapsed: Duration) -> Interval {
    Interval::from_micros(i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
}

#[pg_extern(sql = false)]
fn refresh(
    view: Option<pg_sys::Oid>,
    upstream: Option<bool>,
    concurrently: Option<&str>,
) -> core::result::Result<
    TableIterator<
        'static,
        (
            name!(view, String),
            name!(level, i32),
            name!(status, &'static str),
            name!(concurrent, Option<bool>),
            name!(elapsed, Interval),
            name!(rows, Option<i64>),
            name!(bytes, Option<i64>),
            name!(detail, String),
        ),
    >,
    ErrorReport,
> {
    let how = given("concurrently", concurrently)?.parse()?;
    let steps = walk::walk(given("view", view)?.to_u32(), given("upstream", upstream)?, how)?;
    Ok(TableIterator::new(steps.into_iter().map(|step| {
        let elapsed = interval(step.elapsed);
        let (status, done, detail) = match step.outcome {
            Outcome::Refreshed(done) => ("refreshed", Some((done.concurrent, done.rows, done.bytes)), done.why),
            Outcome::Skipped(reason) => ("skipped", None, reason),
            Outcome::Failed(error) => ("failed", None, error),
        };
        let (concurrent, rows, bytes) = (done.map(|d| d.0), done.map(|d| d.1), done.map(|d| d.2));
        (step.view, step.level as i32, status, concurrent, elapsed, rows, bytes, detail)
    })))
}

#[pg_extern(sql = false)]
fn list_refresh_order() -> core::result::Result<
    TableIterator<
        'static,
        (
            name!(view, String),
            name!(owner, String),
            name!(level, i32),
            name!(reads, Vec<String>),
            name!(concurrent, bool),
            name!(reason, Option<&'static str>),
        ),
    >,
    ErrorReport,
> {
    let graph = catalog::load()?;
    let all = graph.all();
    let mut reads: HashMap<u32, Vec<String>> = HashMap::new();
    for (view, relation) in catalog::named_in(&all)? {
        reads.entry(view).or_default().push(relation);
    }
    let mut facts = catalog::all_facts(&all)?;
    facts.sort_by(|a, b| (graph.level(a.oid), &a.name).cmp(&(graph.level(b.oid), &b.name)));
    Ok(TableIterator::new(facts.into_iter().map(move |f| {
        let reason = f.not_concurrently();
        let reads = reads.remove(&f.oid).unwrap_or_default();
        (f.name, f.owner_name, graph.level(f.oid) as i32, reads, reason.is_none(), reason)
    })))
}

#[pg_extern(sql = false)]
fn change_mark(
    view: pg_sys::Oid,
) -> core::result::Result<
    TableIterator<'static, (name!(mark, Option<String>), name!(why_not, Option<String>))>,
    ErrorReport,
> {
    let oid = view.to_u32();
    Ok(TableIterator::once((watch::mark(oid)?, watch::why_not(oid)?)))
}
