//! A limit on how long somebody else's code may run while a run holds locks that readers wait for.
//!
//! A timer of our own (src/backend/utils/misc/timeout.c) asks for a cancel. That is all a signal can ask for, and code may
//! catch it (WHEN query_canceled). So with each error another one is asked for, until the code has let go: a handler gets
//! as far as its first statement.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use super::{session, subxact};
use crate::error::{sqlstate, Error, Result};

/// What the first one has that takes too long.
const FIRST: Duration = Duration::from_secs(1);
/// What each has at least, however many took too long before it in the transaction.
const LEAST: Duration = Duration::from_millis(250);
/// From USER_TIMEOUT on a number asks for a free one (RegisterTimeout); 12 in Postgres 15 and 16, 13 since.
const ANY_USER_TIMEOUT: std::ffi::c_int = 13;

unsafe extern "C-unwind" {
    fn RegisterTimeout(id: std::ffi::c_int, handler: unsafe extern "C-unwind" fn()) -> std::ffi::c_int;
    fn enable_timeout_after(id: std::ffi::c_int, delay_ms: std::ffi::c_int);
    fn disable_timeout(id: std::ffi::c_int, keep_indicator: bool);
}

/// Whether the cancel that is pending, or was raised, is ours.
static OVER: AtomicBool = AtomicBool::new(false);
static ARMED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static TIMER: std::cell::Cell<Option<std::ffi::c_int>> = const { std::cell::Cell::new(None) };
    /// Transaction, by its start, and how often the limit was passed in it.
    static PASSED: std::cell::Cell<(pg_sys::TimestampTz, u32)> = const { std::cell::Cell::new((0, 0)) };
}

/// In a signal handler, which has set the latch (handle_sig_alrm). A cancel that somebody asked for before stays theirs.
unsafe extern "C-unwind" fn over() {
    // SAFETY: flags that signal handlers set (StatementCancelHandler, src/backend/tcop/postgres.c).
    unsafe {
        if pg_sys::QueryCancelPending == 0 {
            OVER.store(true, Ordering::Relaxed);
            pg_sys::QueryCancelPending = 1;
            pg_sys::InterruptPending = 1;
        }
    }
}

/// An error context callback below all others (src/backend/utils/error/elog.c, errfinish): an error is about to be thrown.
unsafe extern "C-unwind" fn again(_: *mut std::ffi::c_void) {
    if OVER.load(Ordering::Relaxed) {
        // SAFETY: as in over.
        unsafe {
            pg_sys::QueryCancelPending = 1;
            pg_sys::InterruptPending = 1;
        }
    }
}

/// The timer, ticking until dropped.
pub struct Armed {
    timer: std::ffi::c_int,
    callback: Box<pg_sys::ErrorContextCallback>,
}

impl Armed {
    fn new(limit: Duration) -> Self {
        // SAFETY: in a backend, on its main thread; the handler lives as long as the library, which is never unloaded.
        let timer =
            TIMER.get().unwrap_or_else(|| unsafe { pg_guard_ffi_boundary(|| RegisterTimeout(ANY_USER_TIMEOUT, over)) });
        TIMER.set(Some(timer));
        OVER.store(false, Ordering::Relaxed);
        ARMED.store(true, Ordering::Relaxed);
        // SAFETY: the callback is unhooked before it is dropped; the timer is registered, and does not tick yet.
        unsafe {
            let mut callback = Box::new(pg_sys::ErrorContextCallback {
                previous: pg_sys::error_context_stack,
                callback: Some(again),
                arg: std::ptr::null_mut(),
            });
            pg_guard_ffi_boundary(|| enable_timeout_after(timer, limit.as_millis() as std::ffi::c_int));
            pg_sys::error_context_stack = &mut *callback;
            Armed { timer, callback }
        }
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        // SAFETY: disabling cannot fail. What was asked for in vain is ours, since the handler leaves a cancel of
        // somebody's alone.
        unsafe {
            pg_sys::error_context_stack = self.callback.previous;
            disable_timeout(self.timer, false);
            if OVER.load(Ordering::Relaxed) {
                pg_sys::QueryCancelPending = 0;
            }
            // Where it ended by itself in the last moment, no error follows.
            if !std::thread::panicking() {
                OVER.store(false, Ordering::Relaxed);
            }
        }
        ARMED.store(false, Ordering::Relaxed);
    }
}

/// Limits what runs until it is dropped, and may be an owner's code, to a second: over it, the code's error is 54000 for the
/// subtransaction that catches it. Each time that happens in a transaction halves the limit, so that many such owners have
/// no more than a few. `None` within another one, which counts already.
///
/// A cancel or statement_timeout that comes meanwhile stays what it is.
pub fn arm() -> Option<Armed> {
    if ARMED.load(Ordering::Relaxed) {
        return None;
    }
    Some(Armed::new((FIRST / 2_u32.saturating_pow(passed())).max(LEAST)))
}

/// Runs what may run an owner's code within the limit, in a subtransaction.
pub fn run<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    subxact::run(|| {
        let _armed = arm();
        f()
    })
}

/// How often the limit was passed in this transaction.
fn passed() -> u32 {
    match PASSED.get() {
        (then, passed) if then == transaction() => passed,
        _ => 0,
    }
}

fn transaction() -> pg_sys::TimestampTz {
    // SAFETY: reads a backend global.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}

/// An error that a subtransaction has caught, as what it is: a cancel may be the limit's.
pub fn explain(error: Error) -> Error {
    if error.sqlstate != sqlstate::QUERY_CANCELED || !OVER.swap(false, Ordering::Relaxed) {
        return error;
    }
    if let Err(timeout) = session::obey_statement_timeout() {
        return timeout;
    }
    PASSED.set((transaction(), passed() + 1));
    Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, "analysing it took too long, in a type's check or input function")
        .hint("Others wait meanwhile: have the type's code be quick, or do without a value of it.")
}
