//! The doors: each converts and checks its arguments, and calls one plain function. Declared in sql/sizes.sql.

// pgrx reads the rows' type off each signature, and an alias hides it.
#![allow(clippy::type_complexity)]

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::snapshot::{self, Wait};
use super::{measure, notice};
use crate::settings;

/// An instant of microseconds since 1970; Postgres counts from 2000.
fn instant(micros: i64) -> Option<TimestampWithTimeZone> {
    TimestampWithTimeZone::try_from(micros - 946_684_800_000_000).ok()
}

#[pg_extern(sql = false)]
fn schema_sizes_now() -> core::result::Result<
    TableIterator<
        'static,
        (
            name!(schema, String),
            name!(owner, Option<String>),
            name!(table_bytes, i64),
            name!(index_bytes, i64),
            name!(toast_bytes, i64),
            name!(total_bytes, i64),
            name!(relations, i64),
            name!(share_percent, Option<AnyNumeric>),
            name!(as_of, Option<TimestampWithTimeZone>),
        ),
    >,
    ErrorReport,
> {
    let measured = measure::measure()?;
    let (total, as_of) = (measured.total, instant(measured.as_of));
    Ok(TableIterator::new(measured.places.into_iter().map(move |place| {
        let (schema, owner, sum) = place.schema();
        let share = measure::percent(sum.total(), total).and_then(|s| AnyNumeric::try_from(s.as_str()).ok());
        let bytes = [sum.table, sum.index, sum.toast, sum.total()].map(|b| b as i64);
        (schema, owner, bytes[0], bytes[1], bytes[2], bytes[3], sum.relations.into(), share, as_of)
    })))
}

#[pg_extern(sql = false)]
fn snapshot_usage() -> core::result::Result<
    TableIterator<
        'static,
        (
            name!(as_of, Option<TimestampWithTimeZone>),
            name!(elapsed, Interval),
            name!(bytes, i64),
            name!(relations, i64),
            name!(changed, i64),
        ),
    >,
    ErrorReport,
> {
    let taken = snapshot::take(Wait::Yes)?;
    Ok(TableIterator::new(
        taken
            .into_iter()
            .map(|t| (instant(t.as_of), Interval::from_micros(t.elapsed), t.bytes, t.relations, t.changed)),
    ))
}

#[pg_extern(sql = false)]
fn sizes_are_kept() -> core::result::Result<bool, ErrorReport> {
    notice::unless_kept()?;
    Ok(true)
}

#[pg_extern(sql = false)]
fn unused_after() -> Interval {
    Interval::from_micros(i64::from(settings::UNUSED_AFTER.get()) * 86_400_000_000)
}
