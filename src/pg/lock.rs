//! Relation locks by OID (`LOCK TABLE` refuses foreign tables and materialized views), and patience for them.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::{asked, guc, latch, session, subxact};
use crate::error::{Error, Result};

/// How long one request may stand in a lock queue, where it makes every later reader wait behind it.
pub const QUEUE_MS: u32 = 20;

/// As the value of a setting in milliseconds, which is an int there.
pub fn milliseconds(of: Duration) -> String {
    of.as_millis().clamp(1, i32::MAX as u128).to_string()
}

/// What is being asked for; a backend asks for one lock at a time.
static WAITING_FOR: AtomicU32 = AtomicU32::new(0);

/// The relation whose lock was asked for last and not to be had, 0 where all were; forgotten by this.
fn waiting_for() -> u32 {
    WAITING_FOR.swap(0, Ordering::Relaxed)
}

/// Takes ACCESS EXCLUSIVE on each relation, in the order that they come in: what reads others before what it reads, as
/// its readers do. Then nobody who holds one of them waits for another that is held already. Each request stands in the
/// queue for `lock_timeout` at most, which a unit of work sets to [`QUEUE_MS`] or less.
///
/// Call it inside [`patiently`]: the first request that fails raises 55P03, and the rollback gives
/// back the locks taken before it.
pub fn access_exclusive(relations: impl IntoIterator<Item = u32>) -> Result<()> {
    let mut seen = HashSet::new();
    for oid in relations.into_iter().filter(|oid| seen.insert(*oid)) {
        WAITING_FOR.store(oid, Ordering::Relaxed);
        // SAFETY: a lock by OID may be taken whether or not the relation still is; callers read it again.
        unsafe { pg_sys::LockRelationOid(oid.into(), pg_sys::AccessExclusiveLock as i32) };
    }
    WAITING_FOR.store(0, Ordering::Relaxed);
    Ok(())
}

/// Locks that are taken one by one; a refresh takes the last two itself (src/backend/commands/matview.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Lets readers go on, and nobody else who takes this one.
    ShareRowExclusive,
    /// Lets readers go on, and nobody else who writes: REFRESH CONCURRENTLY.
    Exclusive,
    /// Alone: a plain REFRESH.
    AccessExclusive,
}

/// Takes one lock, or raises 55P03 where it is not to be had within [`QUEUE_MS`]. What the current user may do with
/// the relation must be known before.
pub fn briefly(relation: u32, mode: Mode) -> Result<()> {
    let _timeout = guc::Scope::new(&[("lock_timeout", &QUEUE_MS.to_string())])?;
    let mode = match mode {
        Mode::ShareRowExclusive => pg_sys::ShareRowExclusiveLock,
        Mode::Exclusive => pg_sys::ExclusiveLock,
        Mode::AccessExclusive => pg_sys::AccessExclusiveLock,
    };
    WAITING_FOR.store(relation, Ordering::Relaxed);
    // SAFETY: as in access_exclusive.
    unsafe { pg_sys::LockRelationOid(relation.into(), mode as i32) };
    WAITING_FOR.store(0, Ordering::Relaxed);
    Ok(())
}

/// How long, and how, to try for locks.
pub struct Patience<'a> {
    /// Upper limit for one request, which is [`QUEUE_MS`] at most.
    pub lock_timeout: Duration,
    /// When to give up.
    pub max_wait: Duration,
    /// Counts the attempts.
    pub attempts: &'a Cell<i32>,
    /// Time since the first attempt, at the last one.
    pub waited: &'a Cell<Duration>,
    /// What else the caller could do than end the session in the way: the end of the hint.
    pub otherwise: &'a str,
}

/// Tries a unit of work, each time in a subtransaction, until its locks are to be had or `max_wait` is over.
pub fn patiently<T>(patience: &Patience, mut unit: impl FnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    let each = patience.lock_timeout.min(Duration::from_millis(QUEUE_MS.into())).as_millis().max(1);
    let _timeout = guc::Scope::new(&[("lock_timeout", &each.to_string())])?;
    let mut pause = Duration::from_millis(10);
    let listening = asked::Listening::begin();
    loop {
        waiting_for();
        patience.attempts.set(patience.attempts.get() + 1);
        let error = match subxact::run(&mut unit) {
            Err(e) if e.is_lock_conflict() => e,
            other => return other,
        };
        session::obey_statement_timeout()?;
        listening.obey()?;
        let left = patience.max_wait.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(match waiting_for() {
                0 => error,
                relation => not_available(error, relation, begun.elapsed(), patience.otherwise),
            });
        }
        latch::pause(pause.min(left));
        patience.waited.set(begun.elapsed());
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// Who stands in the way of a lock on `relation`.
#[derive(serde::Deserialize)]
struct Holder {
    pid: i32,
    user: Option<String>,
    age: Option<String>,
    query_start: Option<String>,
}

/// The sessions that hold a lock on `relation`, the oldest transaction first.
fn holders(relation: u32) -> Result<Vec<Holder>> {
    super::spi::rows(
        "SELECT pg_catalog.json_build_object('pid', l.pid,
                'user', a.usename, 'age', pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() - a.xact_start)::text,
                'query_start', a.query_start::text)::text
         FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_get_activity(l.pid) s ON true
         LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'relation' AND l.relation = $1 AND l.granted AND l.pid <> pg_catalog.pg_backend_pid()
           AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
         GROUP BY l.pid, a.usename, a.xact_start, a.query_start ORDER BY a.xact_start",
        &[super::spi::oid(relation)],
    )
}

fn name_of(relation: u32) -> Result<String> {
    let name: Option<String> = super::spi::first(
        "SELECT pg_catalog.to_json($1::pg_catalog.regclass::text)::text",
        &[super::spi::oid(relation)],
    )?;
    Ok(name.unwrap_or_default())
}

/// The error of work that gave up on a lock: names who holds it.
pub fn not_available(cause: Error, relation: u32, waited: Duration, otherwise: &str) -> Error {
    // A caller that runs as itself may have anything on its path by now, and operators are looked up there.
    let found = guc::Scope::new(guc::DEPARSE).and_then(|_path| Ok((name_of(relation)?, holders(relation)?)));
    let Ok((name, holders)) = found else {
        return cause;
    };
    let error = Error::new(&cause.sqlstate, format!("could not lock \"{name}\" within {:.1} s", waited.as_secs_f64()));
    let Some(first) = holders.first() else {
        return error
            .detail("Whoever stood in the way has let go since.")
            .hint(format!("Nothing was changed. Run it again, {otherwise}."));
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
    error.detail(sessions.join("\n")).hint(format!(
        "Nothing was changed. Wait for the session, end it with SELECT pg_cancel_backend({}), {otherwise}.",
        first.pid
    ))
}
