//! The doors: each converts and checks its arguments, and calls one plain function. Declared in sql/fdw.sql.

// pgrx reads the rows' type off each signature, and an alias hides it.
#![allow(clippy::type_complexity)]

use pgrx::datum::Interval;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::model::Change;
use super::run::{self, Options};
use super::standing::{OnBroken, TypePolicy};
use super::{alter, dependents, setup};
use crate::error::{sqlstate, Error, Result};

fn rows(
    changes: Vec<Change>,
) -> TableIterator<
    'static,
    (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
> {
    TableIterator::new(changes.into_iter().map(|c| (c.object, c.kind.to_owned(), c.action.to_owned(), c.detail)))
}

fn given<T>(argument: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("{argument} must not be null")))
}

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn create_fdw(
    name: Option<&str>,
    uri: Option<&str>,
    server: Option<&str>,
    remote_schema: Option<&str>,
    local_schema: Option<&str>,
    only_tables: Option<Vec<Option<String>>>,
    except_tables: Option<Vec<Option<String>>>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    let name = given("name", name)?;
    let wish = setup::Wish {
        name,
        uri,
        server,
        remote_schema: given("remote_schema", remote_schema)?,
        local_schema: local_schema.unwrap_or(name),
        only_tables: only_tables.map(|t| t.into_iter().flatten().collect()),
        except_tables: except_tables.unwrap_or_default().into_iter().flatten().collect(),
    };
    Ok(rows(setup::create(&wish)?))
}

#[pg_extern(sql = false)]
fn recreate_fdw(
    name: Option<&str>,
    rebuild: Option<bool>,
    on_broken: Option<&str>,
    lock_timeout: Option<Interval>,
    max_wait: Option<Interval>,
    types: Option<&str>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    let options = Options {
        rebuild: given("rebuild", rebuild)?,
        on_broken: match given("on_broken", on_broken)? {
            "keep" => OnBroken::Keep,
            "fail" => OnBroken::Fail,
            other => return Err(one_of("on_broken", other, "keep", "fail").into()),
        },
        types: match given("types", types)? {
            "follow" => TypePolicy::Follow,
            "pin" => TypePolicy::Pin,
            other => return Err(one_of("types", other, "follow", "pin").into()),
        },
        lock_timeout: run::duration("lock_timeout", given("lock_timeout", lock_timeout)?)?,
        max_wait: run::duration("max_wait", given("max_wait", max_wait)?)?,
        plan: false,
    };
    Ok(rows(run::recreate(given("name", name)?, &options)?))
}

fn one_of(argument: &str, value: &str, a: &str, b: &str) -> Error {
    Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("invalid value for {argument}: \"{value}\""))
        .hint(format!("It is '{a}' or '{b}'."))
}

#[pg_extern(sql = false)]
fn plan_recreate_fdw(
    name: Option<&str>,
    max_wait: Option<Interval>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    let max_wait = run::duration("max_wait", given("max_wait", max_wait)?)?;
    let options = Options { plan: true, max_wait, ..Options::default() };
    Ok(rows(run::recreate(given("name", name)?, &options)?))
}

#[pg_extern(sql = false)]
fn drop_fdw(
    name: Option<&str>,
    cascade: Option<bool>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    Ok(rows(setup::drop(given("name", name)?, given("cascade", cascade)?)?))
}

#[pg_extern(sql = false)]
fn hide(
    app: Option<&str>,
    table_pattern: Option<&str>,
    column_pattern: Option<&str>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    Ok(rows(setup::hide(given("app", app)?, given("table_pattern", table_pattern)?, column_pattern)?))
}

#[pg_extern(sql = false)]
fn unhide(
    app: Option<&str>,
    table_pattern: Option<&str>,
    column_pattern: Option<&str>,
) -> core::result::Result<(), ErrorReport> {
    Ok(setup::unhide(given("app", app)?, given("table_pattern", table_pattern)?, column_pattern)?)
}

#[pg_extern(sql = false)]
fn repair_views(
    fdw: Option<&str>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    Ok(rows(run::repair(fdw)?))
}

#[pg_extern(sql = false)]
fn alter_with_dependents(
    relation: pg_sys::Oid,
    ddl: &str,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    Ok(rows(alter::with_dependents(relation.to_u32(), ddl)?))
}

#[pg_extern(sql = false)]
fn dependents(
    relation: pg_sys::Oid,
) -> core::result::Result<
    TableIterator<
        'static,
        (
            name!(depth, i32),
            name!(object, String),
            name!(kind, String),
            name!(owner, Option<String>),
            name!(columns, Vec<String>),
            name!(reads, String),
        ),
    >,
    ErrorReport,
> {
    let above = dependents::above([relation.to_u32()])?;
    let mut found: Vec<(i32, dependents::Dependent)> =
        above.edges.into_iter().map(|d| (above.level.get(&d.oid).copied().unwrap_or(1) as i32, d)).collect();
    found.sort_by(|a, b| (a.0, &a.1.name, &a.1.on_name).cmp(&(b.0, &b.1.name, &b.1.on_name)));
    Ok(TableIterator::new(found.into_iter().map(|(depth, d)| {
        let mut columns = d.column_names;
        if d.whole_row {
            columns.push(String::from("*"));
        }
        (depth, d.name, d.what, d.owner, columns, d.on_name)
    })))
}

#[pg_extern(sql = false)]
fn raise_broken(view: &str, run: i64, reason: &str) -> core::result::Result<(), ErrorReport> {
    Err(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("view {view} is broken since run {run}: {reason}"))
        .detail("Its definition is kept in wh.broken_views, and nothing of it is lost.")
        .hint("It heals by itself at the first wh.recreate_fdw after what it misses is back. Its owner can also write it anew with CREATE OR REPLACE VIEW.")
        .into())
}
