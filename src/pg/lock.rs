//! Relation locks by OID: `LOCK TABLE` refuses foreign tables and materialized views.

use pgrx::pg_sys;

use crate::error::{Error, Result};

/// How long one request may stand in a lock queue, where it makes every later reader wait behind it.
pub const QUEUE_MS: u32 = 20;

/// Takes ACCESS EXCLUSIVE on each relation, in the order of OIDs. Each request stands in the queue for `lock_timeout`
/// at most, which a unit of work sets to [`QUEUE_MS`] or less.
///
/// Call it inside [`super::subxact::run`]: the first request that fails raises 55P03, and the rollback gives
/// back the locks taken before it. The relation that was not to be had is the message's.
pub fn access_exclusive(relations: impl IntoIterator<Item = u32>, waiting_for: &std::cell::Cell<u32>) -> Result<()> {
    let mut relations: Vec<u32> = relations.into_iter().collect();
    relations.sort_unstable();
    relations.dedup();
    for oid in relations {
        waiting_for.set(oid);
        // SAFETY: a lock by OID may be taken whether or not the relation still is; callers read it again.
        unsafe { pg_sys::LockRelationOid(oid.into(), pg_sys::AccessExclusiveLock as i32) };
    }
    waiting_for.set(0);
    Ok(())
}

/// Who stands in the way of a lock on `relation`.
#[derive(serde::Deserialize)]
pub struct Holder {
    pub relation: String,
    pub pid: i32,
    pub user: Option<String>,
    pub age: Option<String>,
    pub query_start: Option<String>,
}

/// The sessions that hold a lock on `relation`, the oldest transaction first.
pub fn holders(relation: u32) -> Result<Vec<Holder>> {
    super::spi::rows(
        "SELECT pg_catalog.json_build_object('relation', l.relation::pg_catalog.regclass::text, 'pid', l.pid,
                'user', a.usename, 'age', pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() - a.xact_start)::text,
                'query_start', a.query_start::text)::text
         FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_get_activity(l.pid) s ON true
         LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'relation' AND l.relation = $1 AND l.granted AND l.pid <> pg_catalog.pg_backend_pid()
           AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
         GROUP BY l.relation, l.pid, a.usename, a.xact_start, a.query_start ORDER BY a.xact_start",
        &[super::spi::oid(relation)],
    )
}

/// The error of a run that gave up on a lock: names who holds it.
pub fn not_available(cause: Error, relation: u32, waited: std::time::Duration) -> Error {
    let Ok(holders) = holders(relation) else {
        return cause;
    };
    let Some(first) = holders.first() else {
        return cause;
    };
    let sessions: Vec<String> = holders
        .iter()
        .map(|h| {
            format!(
                "User \"{}\", pid {}, in a transaction for {}, its query began at {}.",
                h.user.as_deref().unwrap_or("unknown"),
                h.pid,
                h.age.as_deref().unwrap_or("an unknown time"),
                h.query_start.as_deref().unwrap_or("an unknown time")
            )
        })
        .collect();
    Error::new(&cause.sqlstate, format!("could not lock \"{}\" within {:.1} s", first.relation, waited.as_secs_f64()))
        .detail(sessions.join("\n"))
        .hint(format!(
            "Nothing was changed. Wait for the session, end it with SELECT pg_cancel_backend({}), or raise max_wait.",
            first.pid
        ))
}
