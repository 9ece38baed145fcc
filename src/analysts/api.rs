//! The doors: each converts and checks its arguments, and calls one plain function. Declared in sql/analysts.sql.

// pgrx reads the rows' type off each signature, and an alias hides it.
#![allow(clippy::type_complexity)]

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::{audit, leave, list, names, provision, sharing, teams, Row};
use crate::error::{sqlstate, Error, Result};
use crate::pg::identity::As;
use crate::pg::{guc, secret, session, spi};

fn given<T>(argument: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("{argument} must not be null")))
}

fn rows(
    done: Vec<Row>,
) -> TableIterator<
    'static,
    (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
> {
    TableIterator::new(done.into_iter().map(|r| (r.object, r.kind.to_owned(), r.action.to_owned(), r.detail)))
}

/// Runs `f` with the caller as its argument, as the extension's owner, under settings that are always the same.
fn on_behalf<T>(f: impl FnOnce(u32) -> Result<T>) -> Result<T> {
    session::refuse_restricted()?;
    let (caller, _owner) = As::on_behalf()?;
    let _settings = guc::Scope::new(guc::DEPARSE)?;
    f(caller)
}

fn limit(interval: Option<Interval>) -> Result<i32> {
    interval.map_or(Ok(0), |i| names::limit(i.as_micros()))
}

/// An instant as statements write it.
fn instant(at: TimestampWithTimeZone) -> Result<Option<String>> {
    let _settings = guc::Scope::new(guc::DEPARSE)?;
    spi::first("SELECT pg_catalog.to_json($1::pg_catalog.timestamptz::text)::text", &[at.into()])
}

#[pg_extern(sql = false)]
fn add_analyst(
    name: Option<&str>,
    password: Option<&str>,
    team: Option<&str>,
    connection_limit: Option<i32>,
    max_query_time: Option<Interval>,
    valid_until: Option<TimestampWithTimeZone>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    if password.is_some() {
        secret::hide_statement();
    }
    let wish = provision::Wish {
        name: given("name", name)?,
        password,
        team,
        connection_limit: given("connection_limit", connection_limit)?,
        max_query_time: limit(max_query_time)?,
        valid_until: valid_until.map(instant).transpose()?.flatten(),
    };
    Ok(rows(on_behalf(|caller| provision::add(caller, &wish))?))
}

#[pg_extern(sql = false)]
fn alter_analyst(
    name: Option<&str>,
    password: Option<&str>,
    connection_limit: Option<i32>,
    max_query_time: Option<Interval>,
    valid_until: Option<TimestampWithTimeZone>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    if password.is_some_and(|p| !p.is_empty()) {
        secret::hide_statement();
    }
    let changes = provision::Changes {
        password,
        connection_limit,
        max_query_time: max_query_time.map(|i| limit(Some(i))).transpose()?,
        valid_until: valid_until.map(instant).transpose()?.flatten(),
    };
    let name = given("name", name)?;
    Ok(rows(on_behalf(|caller| provision::alter(caller, name, &changes))?))
}

#[pg_extern(sql = false)]
fn remove_analyst(
    name: Option<&str>,
    give_to: Option<&str>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    let (name, give_to) = (given("name", name)?, given("give_to", give_to)?);
    Ok(rows(on_behalf(|caller| leave::remove(caller, name, give_to))?))
}

#[pg_extern(sql = false)]
fn add_team(
    name: Option<&str>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    let name = given("name", name)?;
    Ok(rows(on_behalf(|caller| teams::add(caller, name))?))
}

#[pg_extern(sql = false)]
fn remove_team(
    name: Option<&str>,
    give_to: Option<&str>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    let (name, give_to) = (given("name", name)?, given("give_to", give_to)?);
    Ok(rows(on_behalf(|caller| leave::remove_team(caller, name, give_to))?))
}

#[pg_extern(sql = false)]
fn move_analyst(
    name: Option<&str>,
    team: Option<&str>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    let name = given("name", name)?;
    Ok(rows(on_behalf(|caller| teams::move_analyst(caller, name, team))?))
}

#[pg_extern(sql = false)]
fn share_schema(
    schema: Option<&str>,
    to_role: Option<&str>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    let (schema, to_role) = (given("schema", schema)?, given("to_role", to_role)?);
    Ok(rows(on_behalf(|caller| sharing::share(caller, schema, to_role))?))
}

#[pg_extern(sql = false)]
fn unshare_schema(
    schema: Option<&str>,
    to_role: Option<&str>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    let (schema, to_role) = (given("schema", schema)?, given("to_role", to_role)?);
    Ok(rows(on_behalf(|caller| sharing::unshare(caller, schema, to_role))?))
}

#[pg_extern(sql = false)]
fn make_private(
    schema: Option<&str>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    let schema = given("schema", schema)?;
    Ok(rows(on_behalf(|caller| sharing::make_private(caller, schema))?))
}

#[pg_extern(sql = false)]
fn close_public() -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    Ok(rows(on_behalf(sharing::close_public)?))
}

#[pg_extern(sql = false)]
fn list_analysts() -> core::result::Result<
    TableIterator<
        'static,
        (
            name!(oid, pg_sys::Oid),
            name!(role, String),
            name!(team, Option<String>),
            name!(schema, String),
            name!(private, bool),
            name!(max_query_ms, Option<i32>),
            name!(drift, Vec<String>),
            name!(mend, Vec<String>),
        ),
    >,
    ErrorReport,
> {
    let (caller, _owner) = As::on_behalf()?;
    let _settings = guc::Scope::new(guc::DEPARSE).map_err(ErrorReport::from)?;
    let found = list::all(caller)?;
    Ok(TableIterator::new(
        found.into_iter().map(|l| (l.oid.into(), l.role, l.team, l.schema, l.private, l.limit, l.drift, l.mend)),
    ))
}

#[pg_extern(sql = false)]
fn audit_access(
    role: Option<&str>,
) -> core::result::Result<
    TableIterator<
        'static,
        (
            name!(kind, String),
            name!(object, String),
            name!(path, String),
            name!(roles, Vec<String>),
            name!(detail, Option<String>),
            name!(mend, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let found = on_behalf(|_| audit::access(role))?;
    Ok(TableIterator::new(
        found.into_iter().map(|f| (f.kind.to_owned(), f.object, f.path, f.roles.to_vec(), f.detail, f.mend)),
    ))
}
