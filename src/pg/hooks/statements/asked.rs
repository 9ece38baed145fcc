//! What the account asks the server and the system: what time it is, and what the process has used so far.

use pgrx::pg_sys;

use super::server::server;

/// When the message came that is worked at (microseconds, Postgres).
#[inline]
pub fn message() -> i64 {
    // SAFETY: returns a static.
    unsafe { (server().message)() }
}

/// Microseconds, Postgres.
#[inline]
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { (server().now)() }
}

/// Whether no commit of the same message follows that would be counted as well.
#[inline]
pub fn in_block() -> bool {
    // SAFETY: reads a static.
    unsafe { (server().in_block)() }
}

/// The time at which a transaction has ended that has just done so. From Postgres 16 on the server asks for it again when it
/// reports statistics, and has not to look at the clock then (GetCurrentTransactionStopTimestamp,
/// src/backend/access/transam/xact.c). Where something was written it was before the wait for the disk.
#[inline]
pub fn stopped() -> i64 {
    // SAFETY: reads statics and the clock, in a callback at the end of a transaction.
    unsafe {
        match (server().xid)() {
            pg_sys::InvalidTransactionId => (server().stopped)(),
            _ => (server().now)(),
        }
    }
}

/// [`Process::used`](super::account::Process).
#[inline]
pub fn used() -> [u64; 4] {
    // SAFETY: reads of backend globals, which parallel workers' parts are added to (InstrAccumParallelQuery,
    // src/backend/executor/instrument.c).
    unsafe {
        let (buffers, wal) = (server().buffers, server().wal);
        [
            (*buffers).temp_blks_written as u64,
            (*buffers).shared_blks_read as u64,
            (*buffers).shared_blks_hit as u64,
            (*wal).wal_bytes,
        ]
    }
}

/// CPU time of the process so far: user and system, microseconds.
pub fn cpu() -> [u64; 2] {
    // SAFETY: getrusage(2) fills a struct of integers.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let micros = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
    [micros(usage.ru_utime), micros(usage.ru_stime)]
}
