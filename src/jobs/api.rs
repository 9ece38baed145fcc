//! The doors: each converts and checks its arguments, and calls one plain function. Declared in sql/jobs.sql.

// pgrx reads the rows' type off each signature, and an alias hides it.
#![allow(clippy::type_complexity, clippy::too_many_arguments)]

use chrono::{DateTime, Utc};
use pgrx::datum::{Interval, Timestamp, TimestampWithTimeZone};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::alter::{alter, Changes};
use super::model::Kind;
use super::shared::{self, get, phase};
use super::write::{self, Options, What};
use super::{ask, import, steps};
use crate::error::{sqlstate, Error, Result};
use crate::pg::identity::As;
use crate::pg::{catalog, hooks, session, sql};

fn given<T>(argument: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("{argument} must not be null")))
}

/// Microseconds; a month is thirty days.
fn micros(interval: Interval) -> i64 {
    i64::try_from(interval.as_micros()).unwrap_or(i64::MAX)
}

fn instant(micros: i64) -> Option<TimestampWithTimeZone> {
    // Microseconds between 1970 and 2000 (POSTGRES_EPOCH_JDATE, src/include/datatype/timestamp.h).
    TimestampWithTimeZone::try_from(micros - 946_684_800_000_000).ok()
}

fn options<'a>(
    schedule: Option<&'a str>,
    timezone: Option<&'a str>,
    timeout: Option<Interval>,
    max_retries: Option<i32>,
    retry_delay: Option<Interval>,
    catch_up: Option<&'a str>,
    enabled: Option<bool>,
) -> Result<Options<'a>> {
    Ok(Options {
        schedule,
        timezone,
        timeout: timeout.map(micros),
        max_retries: given("max_retries", max_retries)?,
        retry_delay: micros(given("retry_delay", retry_delay)?),
        catch_up: given("catch_up", catch_up)?,
        enabled: given("enabled", enabled)?,
    })
}

#[pg_extern(sql = false)]
fn schedule(
    job_name: Option<&str>,
    schedule: Option<&str>,
    command: Option<&str>,
    timezone: Option<&str>,
    timeout: Option<Interval>,
    max_retries: Option<i32>,
    retry_delay: Option<Interval>,
    catch_up: Option<&str>,
    database: Option<&str>,
    enabled: Option<bool>,
) -> core::result::Result<i64, ErrorReport> {
    let o =
        options(Some(given("schedule", schedule)?), timezone, timeout, max_retries, retry_delay, catch_up, enabled)?;
    let what = What {
        kind: Kind::Sql,
        command: given("command", command)?.to_owned(),
        database,
        relation: None,
        upstream: false,
        concurrently: "auto",
        max_lag: None,
    };
    let (caller, _owner) = As::on_behalf()?;
    Ok(write::make(caller, given("job_name", job_name)?, caller, &what, &o)?)
}

#[pg_extern(sql = false)]
fn schedule_refresh(
    view: Option<pg_sys::Oid>,
    schedule: Option<&str>,
    timezone: Option<&str>,
    timeout: Option<Interval>,
    max_retries: Option<i32>,
    retry_delay: Option<Interval>,
    catch_up: Option<&str>,
    enabled: Option<bool>,
    concurrently: Option<&str>,
    upstream: Option<bool>,
    job_name: Option<&str>,
) -> core::result::Result<i64, ErrorReport> {
    let o =
        options(Some(given("schedule", schedule)?), timezone, timeout, max_retries, retry_delay, catch_up, enabled)?;
    let relation = given("view", view)?.to_u32();
    let upstream = given("upstream", upstream)?;
    let concurrently = given("concurrently", concurrently)?;
    Ok(refresh_job(Kind::Refresh, relation, upstream, concurrently, None, job_name, &o)?)
}

#[pg_extern(sql = false)]
fn keep_fresh(
    view: Option<pg_sys::Oid>,
    max_lag: Option<Interval>,
    timeout: Option<Interval>,
    max_retries: Option<i32>,
    retry_delay: Option<Interval>,
    enabled: Option<bool>,
    concurrently: Option<&str>,
    job_name: Option<&str>,
) -> core::result::Result<i64, ErrorReport> {
    let o = options(None, None, timeout, max_retries, retry_delay, Some("skip"), enabled)?;
    let lag = micros(given("max_lag", max_lag)?);
    write::check_lag(lag)?;
    let relation = given("view", view)?.to_u32();
    let concurrently = given("concurrently", concurrently)?;
    Ok(refresh_job(Kind::KeepFresh, relation, true, concurrently, Some(lag), job_name, &o)?)
}

fn refresh_job(
    kind: Kind,
    relation: u32,
    upstream: bool,
    concurrently: &str,
    max_lag: Option<i64>,
    job_name: Option<&str>,
    o: &Options,
) -> Result<i64> {
    let (caller, _owner) = As::on_behalf()?;
    let (owner, view) = write::owner_of_refresh(caller, relation)?;
    let verb = if kind == Kind::KeepFresh { "keep fresh" } else { "refresh" };
    let name = job_name.map_or_else(|| format!("{verb} {view}"), str::to_owned);
    let command = format!("REFRESH MATERIALIZED VIEW {view}");
    let what = What { kind, command, database: None, relation: Some(relation), upstream, concurrently, max_lag };
    write::make(caller, &name, owner, &what, o)
}

#[pg_extern(sql = false)]
fn schedule_recreate_fdw(
    name: Option<&str>,
    schedule: Option<&str>,
    timezone: Option<&str>,
    timeout: Option<Interval>,
    max_retries: Option<i32>,
    retry_delay: Option<Interval>,
    catch_up: Option<&str>,
    enabled: Option<bool>,
    job_name: Option<&str>,
) -> core::result::Result<i64, ErrorReport> {
    let o =
        options(Some(given("schedule", schedule)?), timezone, timeout, max_retries, retry_delay, catch_up, enabled)?;
    let name = given("name", name)?;
    let (caller, _owner) = As::on_behalf()?;
    crate::fdw::refuse_unknown(name)?;
    let what = What {
        kind: Kind::RecreateFdw,
        command: format!("SELECT * FROM wh.recreate_fdw({})", sql::literal(name)),
        database: None,
        relation: None,
        upstream: false,
        concurrently: "auto",
        max_lag: None,
    };
    let job = job_name.map_or_else(|| format!("recreate_fdw {name}"), str::to_owned);
    Ok(write::make(caller, &job, caller, &what, &o)?)
}

#[pg_extern(sql = false)]
fn alter_job(
    job_name: Option<&str>,
    schedule: Option<&str>,
    command: Option<&str>,
    timezone: Option<&str>,
    timeout: Option<Interval>,
    max_retries: Option<i32>,
    retry_delay: Option<Interval>,
    catch_up: Option<&str>,
    database: Option<&str>,
    enabled: Option<bool>,
    max_lag: Option<Interval>,
    concurrently: Option<&str>,
    upstream: Option<bool>,
    owner: Option<&str>,
    new_name: Option<&str>,
) -> core::result::Result<(), ErrorReport> {
    let changes = Changes {
        schedule,
        command,
        timezone,
        timeout: timeout.map(micros),
        max_retries,
        retry_delay: retry_delay.map(micros),
        catch_up,
        database,
        enabled,
        max_lag: max_lag.map(micros),
        concurrently,
        upstream,
        owner,
        new_name,
    };
    let (caller, _owner) = As::on_behalf()?;
    Ok(alter(caller, given("job_name", job_name)?, &changes)?)
}

#[pg_extern(sql = false)]
fn unschedule(job_name: Option<&str>) -> core::result::Result<bool, ErrorReport> {
    let (caller, _owner) = As::on_behalf()?;
    write::unschedule(caller, given("job_name", job_name)?)?;
    Ok(true)
}

#[pg_extern(sql = false)]
fn run_job(
    job_name: Option<&str>,
    wait: Option<bool>,
) -> core::result::Result<
    TableIterator<
        'static,
        (
            name!(run, i64),
            name!(status, String),
            name!(started, Option<TimestampWithTimeZone>),
            name!(finished, Option<TimestampWithTimeZone>),
            name!(rows, Option<i64>),
            name!(error, Option<String>),
        ),
    >,
    ErrorReport,
> {
    session::refuse_read_only(c"wh.run_job()");
    session::refuse_restricted()?;
    let name = given("job_name", job_name)?;
    let wait = if given("wait", wait)? { ask::Wait::Yes } else { ask::Wait::No };
    let (caller, _owner) = As::on_behalf()?;
    let run = ask::run(name, write::number(caller, name)?, wait, None)?;
    let at = |micros: Option<i64>| micros.and_then(instant);
    Ok(TableIterator::once((run.run, run.status, at(run.started), at(run.finished), run.rows, run.error)))
}

#[pg_extern(sql = false)]
fn cancel_job(job_name: Option<&str>) -> core::result::Result<bool, ErrorReport> {
    session::refuse_read_only(c"wh.cancel_job()");
    session::refuse_restricted()?;
    let name = given("job_name", job_name)?;
    let (caller, _owner) = As::on_behalf()?;
    Ok(ask::cancel(write::number(caller, name)?)?)
}

#[pg_extern(sql = false)]
fn pause(job_name: Option<&str>) -> core::result::Result<(), ErrorReport> {
    let (caller, _owner) = As::on_behalf()?;
    Ok(write::hold(caller, job_name, true)?)
}

#[pg_extern(sql = false)]
fn resume(job_name: Option<&str>) -> core::result::Result<(), ErrorReport> {
    let (caller, _owner) = As::on_behalf()?;
    Ok(write::hold(caller, job_name, false)?)
}

#[pg_extern(sql = false)]
fn schedule_preview(
    schedule: Option<&str>,
    timezone: Option<&str>,
    n: Option<i32>,
) -> core::result::Result<
    TableIterator<
        'static,
        (
            name!(n, i32),
            name!(at, Option<TimestampWithTimeZone>),
            name!(local, Option<Timestamp>),
            name!(words, String),
        ),
    >,
    ErrorReport,
> {
    let (schedule, times) = write::preview(given("schedule", schedule)?, timezone, given("n", n)?)?;
    let words = schedule.words();
    let rows: Vec<_> = times
        .into_iter()
        .zip(1..)
        .map(|(at, n)| {
            let local = DateTime::<Utc>::from_timestamp_micros(at).map(|t| schedule.local(t));
            let local =
                local.and_then(|l| Timestamp::try_from(l.and_utc().timestamp_micros() - 946_684_800_000_000).ok());
            (n, instant(at), local, words.clone())
        })
        .collect();
    Ok(TableIterator::new(rows))
}

#[pg_extern(sql = false)]
fn import_pg_cron() -> core::result::Result<
    TableIterator<
        'static,
        (
            name!(job_name, String),
            name!(schedule, String),
            name!(command, String),
            name!(owner, String),
            name!(status, String),
            name!(detail, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let taken = import::pg_cron()?;
    Ok(TableIterator::new(
        taken.into_iter().map(|t| (t.name, t.schedule, t.command, t.owner, t.status.to_owned(), t.detail)),
    ))
}

#[pg_extern(sql = false)]
fn running_jobs() -> TableIterator<
    'static,
    (
        name!(run, i64),
        name!(job, i64),
        name!(pid, Option<i32>),
        name!(started, Option<TimestampWithTimeZone>),
        name!(relation, Option<pg_sys::Oid>),
        name!(requests, i64),
        name!(records, i64),
    ),
> {
    let here = catalog::my_database();
    // The same who see the jobs in wh.jobs.
    let sees_all = session::has_rights_of_named(c"wh_admin") || session::has_rights_of_named(c"pg_read_all_stats");
    let rows: Vec<_> = shared::jobs()
        .into_iter()
        .flat_map(|s| s.runners_of(here))
        .filter(|(_, r)| matches!(get(&r.phase), phase::ASSIGNED | phase::RUNNING) && get(&r.run) != 0)
        .filter(|(_, r)| sees_all || session::has_rights_of(get(&r.owner) as u32))
        .map(|(_, r)| {
            let some = |value: u64| (value != 0).then_some(value);
            (
                get(&r.run) as i64,
                get(&r.job) as i64,
                some(get(&r.pid)).map(|p| p as i32),
                some(get(&r.started)).and_then(|at| instant(at as i64)),
                some(get(&r.relation)).map(|o| pg_sys::Oid::from(o as u32)),
                get(&r.requests) as i64,
                get(&r.records) as i64,
            )
        })
        .collect();
    TableIterator::new(rows)
}

/// See sql/jobs.sql.
#[pg_extern(sql = false)]
fn view_lag(relation: pg_sys::Oid) -> core::result::Result<Option<TimestampWithTimeZone>, ErrorReport> {
    let known = steps::known(relation.to_u32(), 0)?;
    let Some((refreshed, _)) = known.refreshed else { return Ok(None) };
    Ok(match known.unchanged {
        Some(true) => None,
        Some(false) => instant(known.dirty_since.unwrap_or(known.seen_clean)),
        None => instant(refreshed),
    })
}

/// A trigger function: its result is a row that nobody looks at, so it is no null and no row.
#[pg_extern(sql = false)]
fn jobs_changed() -> i64 {
    hooks::at_end(hooks::When::Committed, shared::wake_scheduler);
    0
}
