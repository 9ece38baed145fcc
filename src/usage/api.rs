//! The doors: each converts and checks its arguments, and calls one plain function. Declared in sql/usage.sql.

// pgrx reads the rows' type off each signature, and an alias hides it.
#![allow(clippy::type_complexity)]

use pgrx::datum::Interval;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::{budget, counter, counters, keep, report, texts};
use crate::error::{sqlstate, Error};
use crate::pg::identity::As;
use crate::pg::{catalog, session};
use crate::settings::{UsageVisibility, USAGE_VISIBILITY};

/// Whether the caller may see figures of everybody.
fn sees_all() -> bool {
    USAGE_VISIBILITY.get() == UsageVisibility::All
        || session::has_rights_of_named(c"wh_admin")
        || session::has_rights_of_named(c"pg_read_all_stats")
}

/// Whether the caller may see the figures of a role.
#[pg_extern(sql = false)]
fn sees_usage_of(role: pg_sys::Oid) -> bool {
    sees_all() || session::has_rights_of(role.to_u32())
}

/// What this server has counted in this database and the table does not have, and what runs. Roles that the caller may not
/// see are one row, without a role: it belongs to the whole, of which each has a share.
#[pg_extern(sql = false)]
fn query_time_now() -> core::result::Result<
    TableIterator<
        'static,
        (
            // Not an OID: pgrx makes 0 of it null.
            name!(role, Option<i64>),
            name!(name, Option<String>),
            name!(calls, i64),
            name!(errors, i64),
            name!(cancels, i64),
            name!(total_time, i64),
            name!(cpu_user_time, i64),
            name!(cpu_system_time, i64),
            name!(rows, i64),
            name!(temp_bytes, i64),
            name!(blocks_read, i64),
            name!(blocks_hit, i64),
            name!(wal_bytes, i64),
            name!(running, i64),
        ),
    >,
    ErrorReport,
> {
    if !counters::are_on() {
        let off = keep::off();
        session::notice(
            &off.message,
            off.detail.as_deref().unwrap_or_default(),
            off.hint.as_deref().unwrap_or_default(),
        );
    }
    // What the table has is looked at first: what is counted meanwhile is more than that.
    let written = keep::Written::as_seen()?;
    let all = sees_all();
    let visible = |role: u32| all || (role != 0 && session::has_rights_of(role));
    let found = counters::seen(catalog::my_database()).into_iter().map(|s| {
        let mut counts = written.rest(&s);
        counts[counter::TIME] = counts[counter::TIME].wrapping_add(s.running_time);
        (Some(s.role), Some(s.name), counts, s.running)
    });
    let (mut rows, hidden): (Vec<_>, Vec<_>) = found.partition(|f: &(Option<u32>, _, _, _)| f.0.is_none_or(visible));
    if !hidden.is_empty() {
        let mut others = (None, None, [0; counter::ALL], 0);
        hidden.iter().for_each(|(_, _, counts, _)| counters::sum(&mut others.2, counts));
        rows.push(others);
    }
    let rows = rows.into_iter().map(|(role, name, counts, running)| {
        let n = |which: usize| counts[which] as i64;
        (
            role.map(i64::from),
            name.filter(|n| !n.is_empty()),
            n(counter::CALLS),
            n(counter::ERRORS),
            n(counter::CANCELS),
            n(counter::TIME),
            n(counter::CPU_USER),
            n(counter::CPU_SYSTEM),
            n(counter::ROWS),
            n(counter::TEMP_BYTES),
            n(counter::BLOCKS_READ),
            n(counter::BLOCKS_HIT),
            n(counter::WAL_BYTES),
            running,
        )
    });
    Ok(TableIterator::new(rows.collect::<Vec<_>>()))
}

#[pg_extern(sql = false)]
fn reset_usage() -> core::result::Result<(), ErrorReport> {
    let (_caller, _owner) = As::on_behalf()?;
    Ok(keep::reset()?)
}

#[pg_extern(sql = false)]
fn set_budget(
    role: Option<pg_sys::Oid>,
    query_time: Option<Interval>,
    bytes: Option<i64>,
    per: Option<&str>,
    enforce: Option<bool>,
) -> core::result::Result<(), ErrorReport> {
    let missing = |what: &str| Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("{what} must not be null"));
    let role = role.ok_or_else(|| missing("role"))?;
    let per = per.ok_or_else(|| missing("per"))?;
    let enforce = enforce.ok_or_else(|| missing("enforce"))?;
    let (_caller, _owner) = As::on_behalf()?;
    Ok(budget::set(role.to_u32(), query_time, bytes, per, enforce)?)
}

#[pg_extern(sql = false)]
fn my_statements() -> core::result::Result<
    TableIterator<
        'static,
        (
            name!(fingerprint, Option<i64>),
            name!(query, Option<String>),
            name!(calls, i64),
            name!(total_time, f64),
            name!(mean_time, f64),
            name!(max_time, f64),
            name!(rows, i64),
        ),
    >,
    ErrorReport,
> {
    let statements = texts::mine()?.into_iter();
    let rows = statements.map(|s| (s.fingerprint, s.query, s.calls, s.total_time, s.mean_time, s.max_time, s.rows));
    Ok(TableIterator::new(rows.collect::<Vec<_>>()))
}

#[pg_extern(sql = false)]
fn usage_report(days: Option<i32>) -> core::result::Result<String, ErrorReport> {
    let missing = || Error::new(sqlstate::INVALID_PARAMETER_VALUE, "days must not be null");
    Ok(report::report(days.ok_or_else(missing)?)?)
}
