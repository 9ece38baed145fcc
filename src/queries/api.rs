//! The doors: each converts and checks its arguments, and calls one plain function. Declared in sql/queries.sql.

// pgrx reads the rows' type off each signature, and an alias hides it.
#![allow(clippy::type_complexity, clippy::too_many_arguments)]

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{AnyElement, JsonB};

use super::store::{bad, Draft};
use super::{expire, keep, lines, read, run, store};
use crate::error::Result;
use crate::jobs;
use crate::pg::identity::As;
use crate::pg::rows::Sink;
use crate::pg::select::json_text;
use crate::pg::{guc, spi};

fn given<T>(argument: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| bad(format!("{argument} must not be null")))
}

/// The schemas in which the caller's names are looked up. Those of temporary tables are nobody else's.
fn current_path() -> Result<Vec<String>> {
    let path =
        spi::look::<Vec<String>>("SELECT pg_catalog.to_json(pg_catalog.current_schemas(false))::pg_catalog.text", &[])?;
    Ok(path.into_iter().flatten().filter(|s| !s.starts_with("pg_temp")).collect())
}

#[pg_extern(sql = false)]
fn save_query(
    slug: Option<&str>,
    sql: Option<&str>,
    title: Option<&str>,
    description: Option<&str>,
    params: Option<AnyElement>,
) -> core::result::Result<i32, ErrorReport> {
    let (slug, sql) = (given("slug", slug)?, given("sql", sql)?);
    let params = params.map(json_text);
    let search_path = current_path()?;
    let before = {
        let (caller, _owner) = As::on_behalf()?;
        let _path = guc::Scope::new(&[run::PATH])?;
        store::before(caller, slug)?
    };
    // As the caller, before anything is lent.
    let declared = run::check(sql, &search_path, params.as_deref(), before.as_ref())?;
    let (caller, _owner) = As::on_behalf()?;
    let _path = guc::Scope::new(&[run::PATH])?;
    let kept = |new: Option<&str>, old: Option<&String>| new.or(old.map(String::as_str)).map(str::to_owned);
    let draft = Draft {
        slug,
        sql,
        title: kept(title, before.as_ref().and_then(|b| b.title.as_ref())),
        description: kept(description, before.as_ref().and_then(|b| b.description.as_ref())),
        params: &declared,
        search_path: &search_path,
    };
    Ok(store::save(caller, before.as_ref(), &draft)?)
}

#[pg_extern(sql = false)]
fn drop_query(slug: Option<&str>) -> core::result::Result<(), ErrorReport> {
    let (caller, _owner) = As::on_behalf()?;
    Ok(store::drop(caller, given("slug", slug)?)?)
}

#[pg_extern(sql = false)]
fn share_query(slug: Option<&str>, role: Option<&str>) -> core::result::Result<(), ErrorReport> {
    let (caller, _owner) = As::on_behalf()?;
    Ok(store::share(caller, given("slug", slug)?, given("role", role)?)?)
}

#[pg_extern(sql = false)]
fn unshare_query(slug: Option<&str>, role: Option<&str>) -> core::result::Result<bool, ErrorReport> {
    let (caller, _owner) = As::on_behalf()?;
    Ok(store::unshare(caller, given("slug", slug)?, given("role", role)?)?)
}

#[pg_extern(sql = false)]
fn run_query(
    slug: Option<&str>,
    params: Option<AnyElement>,
) -> core::result::Result<
    TableIterator<
        'static,
        (
            name!(result, i64),
            name!(link, String),
            name!(rows, i64),
            name!(bytes, i64),
            name!(elapsed, Interval),
            name!(read, String),
        ),
    >,
    ErrorReport,
> {
    let params = params.map_or_else(|| String::from("{}"), json_text);
    let kept = run::run(given("slug", slug)?, &params)?;
    let elapsed = Interval::from_micros(i64::try_from(kept.elapsed.as_micros()).unwrap_or(i64::MAX));
    Ok(TableIterator::once((kept.id, kept.link, kept.rows, kept.bytes, elapsed, kept.read)))
}

/// A set-returning function that hands its rows over by itself: what it returns is looked at by nobody.
#[pg_extern(sql = false)]
fn result(id: i64, call: pg_sys::FunctionCallInfo) -> core::result::Result<i64, ErrorReport> {
    let sink = Sink::new(call);
    let (caller, _owner) = As::on_behalf()?;
    // A table that somebody else reads from its middle on would come in another order.
    let _in_order = guc::Scope::new(&[("synchronize_seqscans", "off")])?;
    read::authorize(caller, id)?.read(&sink)?;
    Ok(0)
}

/// As [`result`].
#[pg_extern(sql = false)]
fn result_diff(
    before: Option<i64>,
    after: Option<i64>,
    key: Option<Vec<Option<String>>>,
    call: pg_sys::FunctionCallInfo,
) -> core::result::Result<i64, ErrorReport> {
    let sink = Sink::new(call);
    let key = key.map(|k| k.into_iter().flatten().collect::<Vec<_>>()).filter(|k| !k.is_empty());
    let (caller, _owner) = As::on_behalf()?;
    let before = read::authorize(caller, given("before", before)?)?;
    let after = read::authorize(caller, given("after", after)?)?;
    read::diff(&before, &after, key, &sink)?;
    Ok(0)
}

#[pg_extern(sql = false)]
fn query_versions(
    slug: &str,
) -> core::result::Result<
    TableIterator<
        'static,
        (
            name!(version, i32),
            name!(author, String),
            name!(saved_at, Option<TimestampWithTimeZone>),
            name!(title, Option<String>),
            name!(description, Option<String>),
            name!(params, JsonB),
            name!(search_path, Vec<String>),
            name!(sql, String),
            name!(changes, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let (caller, _owner) = As::on_behalf()?;
    let versions = store::versions(store::find(caller, slug)?.id)?;
    let mut rows = Vec::with_capacity(versions.len());
    let mut earlier: Option<String> = None;
    for v in versions {
        let changes = earlier.as_deref().map(|e| lines::diff(e, &v.sql));
        earlier = Some(v.sql.clone());
        // Microseconds between 1970 and 2000 (POSTGRES_EPOCH_JDATE, src/include/datatype/timestamp.h).
        let at = TimestampWithTimeZone::try_from(v.saved_at - 946_684_800_000_000).ok();
        rows.push((v.version, v.author, at, v.title, v.description, JsonB(v.params), v.search_path, v.sql, changes));
    }
    rows.reverse();
    Ok(TableIterator::new(rows))
}

#[pg_extern(sql = false)]
fn link_query(slug: &str) -> core::result::Result<String, ErrorReport> {
    let (caller, _owner) = As::on_behalf()?;
    store::find(caller, slug)?;
    Ok(keep::link(slug))
}

#[pg_extern(sql = false)]
fn link_result(id: i64) -> core::result::Result<String, ErrorReport> {
    let (caller, _owner) = As::on_behalf()?;
    read::authorize(caller, id)?;
    Ok(keep::link(&id.to_string()))
}

#[pg_extern(sql = false)]
fn expire_results(
    result: Option<i64>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(result, i64), name!(query, String), name!(owner, String), name!(bytes, i64), name!(reason, String)),
    >,
    ErrorReport,
> {
    let (caller, _owner) = As::on_behalf()?;
    let gone = expire::expire(caller, result)?;
    Ok(TableIterator::new(gone.into_iter().map(|e| (e.id, e.slug, e.owner, e.bytes, e.reason))))
}

#[pg_extern(sql = false)]
fn schedule_query(
    slug: Option<&str>,
    schedule: Option<&str>,
    params: Option<AnyElement>,
    timezone: Option<&str>,
    timeout: Option<Interval>,
    max_retries: Option<i32>,
    retry_delay: Option<Interval>,
    catch_up: Option<&str>,
    enabled: Option<bool>,
    job_name: Option<&str>,
) -> core::result::Result<i64, ErrorReport> {
    let micros = |i: Interval| i64::try_from(i.as_micros()).unwrap_or(i64::MAX);
    let slug = given("slug", slug)?;
    let params = params.map_or_else(|| String::from("{}"), json_text);
    let options = jobs::Options {
        schedule: Some(given("schedule", schedule)?),
        timezone,
        timeout: timeout.map(micros),
        max_retries: given("max_retries", max_retries)?,
        retry_delay: micros(given("retry_delay", retry_delay)?),
        catch_up: given("catch_up", catch_up)?,
        enabled: given("enabled", enabled)?,
    };
    let (caller, _owner) = As::on_behalf()?;
    let query = store::find(caller, slug)?;
    run::check_values(&query, &params)?;
    let pin = run::Pin { query: query.id, version: query.version };
    Ok(jobs::query_job(caller, slug, &pin, &params, &options, job_name)?)
}

#[pg_extern(sql = false)]
fn may_read_result(id: i64) -> core::result::Result<bool, ErrorReport> {
    let (caller, _owner) = As::on_behalf()?;
    Ok(read::may(caller, id)?)
}

#[pg_extern(sql = false)]
fn check_result(id: i64) -> core::result::Result<bool, ErrorReport> {
    let (caller, _owner) = As::on_behalf()?;
    read::check(caller, id)?;
    Ok(true)
}

#[pg_extern(sql = false)]
fn read_result(id: i64, columns: JsonB, stored_as_table: bool) -> core::result::Result<String, ErrorReport> {
    let columns: Vec<keep::Column> = serde_json::from_value(columns.0).map_err(crate::error::Error::from)?;
    Ok(read::statement(id, &columns, stored_as_table))
}
