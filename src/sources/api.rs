//! The doors: each converts and checks its arguments, and calls one plain function. Declared in sql/sources.sql.

// pgrx reads the rows' type off each signature, and an alias hides it.
#![allow(clippy::type_complexity)]

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{AnyNumeric, JsonB};
use serde::Deserialize;
use serde_json::{json, Value};

use super::{define, look, presets, secrets};
use crate::error::{sqlstate, Error, Result};
use crate::pg::identity::As;
use crate::pg::{secret, session, spi};

fn given<T>(argument: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("{argument} must not be null")))
}

fn texts(array: Option<Vec<Option<String>>>) -> Option<Vec<String>> {
    array.map(|a| a.into_iter().flatten().collect())
}

#[pg_extern(sql = false)]
fn create_source(
    name: Option<&str>,
    spec: Option<JsonB>,
    preset: Option<&str>,
    settings: Option<JsonB>,
    schema: Option<&str>,
    schedule: Option<&str>,
    streams: Option<Vec<Option<String>>>,
) -> core::result::Result<(), ErrorReport> {
    let name = given("name", name)?;
    let wish = define::Wish {
        name,
        spec: spec.map(|s| s.0),
        preset,
        settings: settings.map_or_else(|| json!({}), |s| s.0),
        schema: schema.unwrap_or(name),
        schedule,
        streams: texts(streams),
    };
    let (caller, _owner) = As::on_behalf()?;
    Ok(define::create(caller, &wish)?)
}

#[pg_extern(sql = false)]
fn alter_source(
    name: Option<&str>,
    spec: Option<JsonB>,
    settings: Option<JsonB>,
    schedule: Option<&str>,
    streams: Option<Vec<Option<String>>>,
) -> core::result::Result<(), ErrorReport> {
    let changes =
        define::Changes { spec: spec.map(|s| s.0), settings: settings.map(|s| s.0), schedule, streams: texts(streams) };
    let (caller, _owner) = As::on_behalf()?;
    Ok(define::alter(caller, given("name", name)?, &changes)?)
}

#[pg_extern(sql = false)]
fn drop_source(name: Option<&str>, drop_tables: Option<bool>) -> core::result::Result<(), ErrorReport> {
    let (caller, _owner) = As::on_behalf()?;
    Ok(define::drop(caller, given("name", name)?, given("drop_tables", drop_tables)?)?)
}

#[pg_extern(sql = false)]
fn reset_source(name: Option<&str>, stream: Option<&str>) -> core::result::Result<(), ErrorReport> {
    let (caller, _owner) = As::on_behalf()?;
    Ok(define::reset(caller, given("name", name)?, stream)?)
}

#[pg_extern(sql = false)]
fn set_secret(name: &str, value: &str) -> core::result::Result<(), ErrorReport> {
    secret::hide_statement();
    let (caller, _owner) = As::on_behalf()?;
    Ok(secrets::set(caller, name, value)?)
}

#[pg_extern(sql = false)]
fn drop_secret(name: &str) -> core::result::Result<(), ErrorReport> {
    let (caller, _owner) = As::on_behalf()?;
    Ok(secrets::forget(caller, name)?)
}

#[pg_extern(sql = false)]
fn list_presets() -> TableIterator<
    'static,
    (name!(name, String), name!(title, Option<String>), name!(streams, Vec<String>), name!(spec, JsonB)),
> {
    let rows: Vec<_> = presets::names()
        .filter_map(|name| {
            let spec = presets::find(name)?;
            let text = |v: Option<&Value>| v.and_then(Value::as_str).map(str::to_owned);
            let streams =
                spec["streams"].as_array().into_iter().flatten().filter_map(|s| text(s.get("name"))).collect();
            Some((name.to_owned(), text(spec.get("title")), streams, JsonB(spec)))
        })
        .collect();
    TableIterator::new(rows)
}

#[pg_extern(sql = false)]
fn test_source(
    name: Option<&str>,
    stream: Option<&str>,
) -> core::result::Result<
    TableIterator<
        'static,
        (
            name!(stream, String),
            name!(url, Option<String>),
            name!(status, Option<i32>),
            name!(records, Option<i64>),
            name!(bytes, Option<i64>),
            name!(milliseconds, Option<i64>),
            name!(next_page, Option<String>),
            name!(columns, JsonB),
            name!(sample, Option<String>),
            name!(error, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let (caller, _owner) = As::on_behalf()?;
    let samples = look::test(caller, given("name", name)?, stream)?;
    Ok(TableIterator::new(samples.into_iter().map(|s| {
        let (page, error) = match s.page {
            Ok(page) => (Some(page), None),
            Err(e) => {
                (None, Some([Some(e.message), e.detail, e.hint].into_iter().flatten().collect::<Vec<_>>().join("\n")))
            }
        };
        let p = page.as_ref();
        (
            s.stream,
            p.map(|p| p.url.clone()),
            p.map(|p| p.status.into()),
            p.map(|p| p.read as i64),
            p.map(|p| p.bytes as i64),
            p.map(|p| p.milliseconds as i64),
            p.and_then(|p| p.next.clone()),
            JsonB(s.columns),
            s.record,
            error,
        )
    })))
}

#[pg_extern(sql = false)]
fn verify_source(
    name: Option<&str>,
) -> core::result::Result<
    TableIterator<'static, (name!(stream, String), name!(key, String), name!(difference, String))>,
    ErrorReport,
> {
    let (caller, _owner) = As::on_behalf()?;
    let found = look::verify(caller, given("name", name)?)?;
    Ok(TableIterator::new(found.into_iter().map(|d| (d.stream, d.key, d.difference))))
}

/// A row of wh.fetch.
#[derive(Deserialize)]
struct Row {
    stream: String,
    status: String,
    counts: [i64; 10],
    seconds: Option<f64>,
    error: Option<String>,
}

#[pg_extern(sql = false)]
fn fetch(
    name: Option<&str>,
    streams: Option<Vec<Option<String>>>,
    full_refresh: Option<bool>,
) -> core::result::Result<
    TableIterator<
        'static,
        (
            name!(stream, String),
            name!(status, String),
            name!(requests, i64),
            name!(received, i64),
            name!(inserted, i64),
            name!(updated, i64),
            name!(unchanged, i64),
            name!(stale, i64),
            name!(duplicate, i64),
            name!(quarantined, i64),
            name!(deleted, i64),
            name!(bytes, i64),
            name!(seconds, Option<AnyNumeric>),
            name!(error, Option<String>),
        ),
    >,
    ErrorReport,
> {
    session::refuse_read_only(c"wh.fetch()");
    let name = given("name", name)?;
    let (caller, _owner) = As::on_behalf()?;
    let known: Option<bool> = spi::first("SELECT 'true' FROM wh.source WHERE name = $1", &[name.into()])?;
    if known.is_none() {
        return Err(super::missing(name).into());
    }
    let job = crate::jobs::number_of_fetch(caller, name)?;
    let argument = json!({ "streams": texts(streams), "full_refresh": given("full_refresh", full_refresh)? });
    let run = crate::jobs::run_now(name, job, crate::jobs::Wait::Together, Some(&argument.to_string()))?;
    let rows: Vec<Row> = spi::rows(
        "SELECT pg_catalog.json_build_object('stream', s.stream, 'status', s.status, 'error', pg_catalog.concat_ws(E'\\n', s.error, s.detail, s.hint),
                'counts', ARRAY[s.requests, s.received, s.inserted, s.updated, s.unchanged, s.stale, s.duplicate, s.quarantined, s.deleted, s.bytes],
                'seconds', extract(epoch FROM s.finished - s.started))::text
         FROM wh.fetch_stream s WHERE s.run = $1 ORDER BY s.started, s.stream",
        &[run.run.into()],
    )?;
    if rows.is_empty() {
        let message = run.error.unwrap_or_else(|| format!("run {} {}", run.run, run.status));
        let more = || format!("SELECT * FROM wh.job_runs WHERE run = {} says more.", run.run);
        let hint = run.hint.unwrap_or_else(more);
        let failed = Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message).hint(hint);
        return Err(Error { detail: run.detail, ..failed }.into());
    }
    Ok(TableIterator::new(rows.into_iter().map(|r| {
        let [requests, received, inserted, updated, unchanged, stale, duplicate, quarantined, deleted, bytes] =
            r.counts;
        let seconds = r.seconds.and_then(|s| AnyNumeric::try_from((s * 1000.0).round() / 1000.0).ok());
        (
            r.stream,
            r.status,
            requests,
            received,
            inserted,
            updated,
            unchanged,
            stale,
            duplicate,
            quarantined,
            deleted,
            bytes,
            seconds,
            r.error.filter(|error| !error.is_empty()),
        )
    })))
}
