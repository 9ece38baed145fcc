//! Saying more in the error of a cancelled statement than Postgres does.
//!
//! A callback of the error context (src/include/utils/elog.h, ErrorContextCallback) stands around each statement while it
//! runs, and adds to the errors that mean an interrupt. It sees them in the middle of being reported, so it does no more
//! than look at the clock and write text.

use std::ffi::{c_char, c_int, c_void};
use std::sync::OnceLock;

use pgrx::pg_sys;

use super::hooks::standard_ExecutorRun;
use super::sql::cstring;

unsafe extern "C" {
    fn errdetail(format: *const c_char, ...) -> c_int;
    fn errhint(format: *const c_char, ...) -> c_int;
}

/// Detail and hint for a statement that is interrupted after so many microseconds, if there is something to say.
pub type Reason = fn(i64) -> Option<(String, String)>;

static REASON: OnceLock<Reason> = OnceLock::new();
static mut EARLIER: pg_sys::ExecutorRun_hook_type = None;

/// Installs it; called once, while the library is preloaded.
pub fn explain(reason: Reason) {
    if REASON.set(reason).is_ok() {
        // SAFETY: hooks are chained while the postmaster loads libraries, in one thread.
        unsafe {
            EARLIER = pg_sys::ExecutorRun_hook;
            pg_sys::ExecutorRun_hook = Some(run);
        }
    }
}

/// Errors of the statement pass through as they are: nothing here has a destructor, so they may jump over it.
#[link_section = ".text.hot"]
unsafe extern "C-unwind" fn run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    #[cfg(not(feature = "pg18"))] execute_once: bool,
) {
    let mut context = none();
    // SAFETY: the arguments are the server's, passed on as they came; the callback's frame outlives the call, and
    // whoever catches an error puts the stack of contexts back (PG_TRY, PostgresMain).
    unsafe {
        around(&mut context);
        match EARLIER {
            #[cfg(not(feature = "pg18"))]
            Some(earlier) => earlier(query, direction, count, execute_once),
            #[cfg(not(feature = "pg18"))]
            None => standard_ExecutorRun(query, direction, count, execute_once),
            #[cfg(feature = "pg18")]
            Some(earlier) => earlier(query, direction, count),
            #[cfg(feature = "pg18")]
            None => standard_ExecutorRun(query, direction, count),
        }
        over(&context);
    }
}

/// A frame for [`around`].
pub fn none() -> pg_sys::ErrorContextCallback {
    pg_sys::ErrorContextCallback { previous: std::ptr::null_mut(), callback: None, arg: std::ptr::null_mut() }
}

/// Puts the callback around what follows, until [`over`].
///
/// # Safety
/// The frame must live until then.
pub unsafe fn around(context: &mut pg_sys::ErrorContextCallback) {
    context.callback = Some(add);
    // SAFETY: a backend global; the caller keeps the frame.
    unsafe {
        context.previous = pg_sys::error_context_stack;
        pg_sys::error_context_stack = context;
    }
}

/// # Safety
/// The frame is the one that was put around last.
pub unsafe fn over(context: &pg_sys::ErrorContextCallback) {
    // SAFETY: as said.
    unsafe { pg_sys::error_context_stack = context.previous }
}

unsafe extern "C-unwind" fn add(_argument: *mut c_void) {
    // SAFETY: called while an error is being reported, so there is one to look at and to add to.
    unsafe {
        let code = pg_sys::geterrcode();
        let interrupts = [
            pgrx::PgSqlErrorCode::ERRCODE_QUERY_CANCELED as c_int,
            pgrx::PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN as c_int,
        ];
        if !interrupts.contains(&code) {
            return;
        }
        let Some(reason) = REASON.get() else { return };
        let elapsed = pg_sys::GetCurrentTimestamp() - pg_sys::GetCurrentStatementStartTimestamp();
        let Some((detail, hint)) = reason(elapsed) else { return };
        if let (Ok(detail), Ok(hint)) = (cstring(&detail), cstring(&hint)) {
            errdetail(c"%s".as_ptr(), detail.as_ptr());
            errhint(c"%s".as_ptr(), hint.as_ptr());
        }
    }
}
