//! The doors: each converts and checks its arguments, and calls one plain function. Declared in sql/policy.sql.

// pgrx reads the rows' type off each signature, and an alias hides it.
#![allow(clippy::type_complexity)]

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::{masks, sensitive};
use crate::error::{sqlstate, Error, Result};
use crate::fdw::Change;

fn given<T>(argument: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("{argument} must not be null")))
}

fn rows(
    changes: Vec<Change>,
) -> TableIterator<
    'static,
    (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
> {
    TableIterator::new(changes.into_iter().map(|c| (c.object, c.kind.to_owned(), c.action.to_owned(), c.detail)))
}

#[pg_extern(sql = false)]
fn mark_sensitive(
    pattern: Option<&str>,
    reason: Option<&str>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    let mark = (given("pattern", pattern)?.to_owned(), given("reason", reason)?.to_owned());
    Ok(rows(sensitive::mark(&[mark])?))
}

#[pg_extern(sql = false)]
fn unmark_sensitive(pattern: Option<&str>) -> core::result::Result<(), ErrorReport> {
    Ok(sensitive::unmark(given("pattern", pattern)?)?)
}

#[pg_extern(sql = false)]
fn apply_proposed_policy() -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    Ok(rows(sensitive::mark(&sensitive::proposed()?)?))
}

#[pg_extern(sql = false)]
fn mask(
    column: Option<&str>,
    mask: Option<&str>,
    characters: Option<i32>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    let wanted = masks::parse(given("mask", mask)?, characters)?;
    Ok(rows(masks::mask(given("column", column)?, wanted)?))
}

#[pg_extern(sql = false)]
fn unmask(
    column: Option<&str>,
) -> core::result::Result<
    TableIterator<
        'static,
        (name!(object, String), name!(kind, String), name!(action, String), name!(detail, Option<String>)),
    >,
    ErrorReport,
> {
    Ok(rows(masks::unmask(given("column", column)?)?))
}

#[pg_extern(sql = false)]
fn strip_record(record: &str, schema: &str, tables: Vec<String>, patterns: Vec<String>) -> Option<String> {
    crate::sources::strip_record(record, schema, &tables, patterns)
}
