//! Results that are too old, or too much: the only way in which they go.

use pgrx::GucSetting;
use serde::Deserialize;

use super::read;
use crate::error::{sqlstate, Error, Result};
use crate::pg::{guc, lock, spi, sql, subxact};

pub fn kilobytes(setting: &GucSetting<i32>) -> u64 {
    u64::from(setting.get().max(0).unsigned_abs()) * 1024
}

pub fn megabytes(setting: &GucSetting<i32>) -> u64 {
    kilobytes(setting) * 1024
}

/// A result that goes.
#[derive(Debug, Clone, Deserialize)]
pub struct Expired {
    pub id: i64,
    pub slug: String,
    pub owner: String,
    pub bytes: i64,
    pub reason: String,
    data: Option<u32>,
}

/// Results that are due: older than the setting says, or the oldest of whoever has more than the quota. `$1`: whose, null
/// for all; `$4`: one that was named.
const DUE: &str = "
    SELECT pg_catalog.json_build_object('id', d.id, 'slug', d.slug, 'owner', d.runner::text, 'bytes', d.bytes, 'reason', d.reason,
             'data', pg_catalog.to_regclass('wh_results.data_' || d.id)::oid::int8)::text
    FROM (SELECT r.id, r.slug, r.runner, r.bytes,
            CASE WHEN r.id = $4 THEN 'asked for'
                 WHEN r.ran_at < pg_catalog.now() - pg_catalog.make_interval(days => $2) THEN pg_catalog.format('older than %s days', $2)
                 WHEN pg_catalog.sum(r.bytes) OVER (PARTITION BY r.runner ORDER BY r.id DESC) > $3
                 THEN pg_catalog.format('%s has more than %s', r.runner, pg_catalog.pg_size_pretty($3)) END AS reason
          FROM wh.result r) d
    WHERE d.reason IS NOT NULL AND ($4 IS NULL OR d.id = $4)
      AND ($1 IS NULL OR CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles v WHERE v.oid = d.runner::oid)
                         THEN pg_catalog.pg_has_role($1, d.runner::oid, 'USAGE') ELSE false END)
    ORDER BY d.id LIMIT 1000";

fn due(whose: Option<u32>, one: Option<i64>) -> Result<Vec<Expired>> {
    let days = crate::settings::RESULT_HISTORY.get();
    let quota = megabytes(&crate::settings::RESULT_QUOTA) as i64;
    spi::rows(DUE, &[whose.map(pgrx::pg_sys::Oid::from).into(), days.into(), quota.into(), one.into()])
}

/// Removes one. Whoever reads it is not made to end, nor does anybody queue behind this.
fn remove(expired: &Expired) -> Result<()> {
    if let Some(data) = expired.data {
        let _timeout = guc::Scope::new(&[("lock_timeout", &lock::QUEUE_MS.to_string())])?;
        lock::briefly(data, lock::Mode::AccessExclusive)?;
        match subxact::run(|| drop_table(expired.id)) {
            // What somebody made on the view stays, and the rows do not.
            Err(e) if e.sqlstate == sqlstate::DEPENDENT_OBJECTS_STILL_EXIST => {
                spi::run(&format!("TRUNCATE wh_results.data_{}", expired.id), &[])?;
                let mark = sql::literal(EXPIRED);
                spi::run(&format!("COMMENT ON TABLE wh_results.data_{} IS {mark}", expired.id), &[])?;
            }
            other => other?,
        }
    }
    spi::run("DELETE FROM wh.result WHERE id = $1", &[expired.id.into()])?;
    Ok(())
}

fn drop_table(id: i64) -> Result<()> {
    spi::run(&format!("DROP VIEW wh_results.r{id}"), &[])?;
    spi::run(&format!("DROP TABLE wh_results.data_{id}"), &[])?;
    Ok(())
}

/// What the table of a result is marked with whose rows are gone. That it has no record says nothing: while a dump is
/// restored, tables come before records.
const EXPIRED: &str = "startup_wh: this result has expired, and something still reads its view";

/// Drops the empty tables of results that are gone, on whose views nothing stands any more.
fn drop_empty() -> Result<()> {
    let left: Vec<(i64, u32)> = spi::rows(
        "SELECT pg_catalog.json_build_array(n.id, c.oid::int8)::text
         FROM pg_catalog.pg_class c CROSS JOIN LATERAL (SELECT pg_catalog.substr(c.relname, 6)::bigint AS id) n
         WHERE c.relnamespace = 'wh_results'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^data_[0-9]{1,18}$'
           AND pg_catalog.obj_description(c.oid, 'pg_class') = $1",
        &[EXPIRED.into()],
    )?;
    for (id, data) in left {
        match subxact::run(|| {
            let _timeout = guc::Scope::new(&[("lock_timeout", &lock::QUEUE_MS.to_string())])?;
            lock::briefly(data, lock::Mode::AccessExclusive)?;
            drop_table(id)
        }) {
            Err(e) if e.is_an_interrupt() => return Err(e),
            // It is still in use, and takes no room.
            _ => {}
        }
    }
    Ok(())
}

/// Removes what is due of a role's results, or of all; or the one that is named. Those that somebody is reading stay.
pub fn expire(caller: u32, one: Option<i64>) -> Result<Vec<Expired>> {
    let admin: Vec<bool> = spi::prepared(
        "SELECT pg_catalog.to_json(pg_catalog.pg_has_role($1, 'wh_admin', 'USAGE'))::text",
        &[spi::oid(caller)],
    )?;
    // One by its number is its runner's alone to remove, as long as it is not due.
    let whose = (one.is_some() || admin != [true]).then_some(caller);
    let due = due(whose, one)?;
    if let (Some(id), true) = (one, due.is_empty()) {
        let readable = read::may(caller, id)?;
        let (code, message) = match readable {
            true => (sqlstate::INSUFFICIENT_PRIVILEGE, format!("result {id} is somebody else's")),
            false => (sqlstate::UNDEFINED_OBJECT, format!("result {id} does not exist")),
        };
        return Err(
            Error::new(code, message).hint("SELECT id, query, runner FROM wh.results lists those that you may read.")
        );
    }
    let mut gone = Vec::new();
    for expired in due {
        match subxact::run(|| remove(&expired)) {
            Ok(()) => gone.push(expired),
            Err(e) if one.is_some() || e.is_an_interrupt() => return Err(e),
            Err(e) => pgrx::notice!("result {} stays: {}", expired.id, e.message),
        }
    }
    if one.is_none() {
        drop_empty()?;
    }
    Ok(gone)
}

/// The scheduler's turn: all that is due, as the extension's owner. Says whether there may be more.
pub fn expire_due() -> Result<bool> {
    let due = due(None, None)?;
    let many = due.len() == 1000;
    drop_empty()?;
    for expired in due {
        match subxact::run(|| remove(&expired)) {
            Ok(()) => {}
            Err(e) if e.is_an_interrupt() => return Err(e),
            Err(e) => pgrx::log!("result {} stays for now: {}", expired.id, e.message),
        }
    }
    Ok(many)
}
