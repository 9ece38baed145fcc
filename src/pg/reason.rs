//! Saying more in the error of a cancelled statement than Postgres does.
//!
//! A callback of the error context (src/include/utils/elog.h, ErrorContextCallback) stands around each statement while it
//! runs, and adds to the errors that mean an interrupt. It sees them in the middle of being reported, so it does no more
//! than look at the clock and write text.

use std::ffi::{c_char, c_int, c_void};
use std::sync::OnceLock;

use pgrx::pg_sys;

use super::sql::cstring;

unsafe extern "C" {
    fn errdetail(format: *const c_char, ...) -> c_int;
    fn errhint(format: *const c_char, ...) -> c_int;
}

/// Detail and hint for a statement that is interrupted after so many microseconds, if there is something to say.
pub type Reason = fn(i64) -> Option<(String, String)>;

static REASON: OnceLock<Reason> = OnceLock::new();

/// Has it said from now on; called once, while the library is preloaded.
pub fn explain(reason: Reason) {
    // The hooks are those around every statement: each one more would be in the way of all of them.
    let _ = REASON.set(reason);
}

/// A frame for [`around`].
#[inline]
pub fn none() -> pg_sys::ErrorContextCallback {
    pg_sys::ErrorContextCallback { previous: std::ptr::null_mut(), callback: None, arg: std::ptr::null_mut() }
}

/// Puts the callback around what follows, until [`over`].
///
/// # Safety
/// `stack` is the server's error_context_stack, and the frame must live until then.
#[inline]
pub unsafe fn around(stack: *mut *mut pg_sys::ErrorContextCallback, context: &mut pg_sys::ErrorContextCallback) {
    context.callback = Some(add);
    // SAFETY: a backend global; the caller keeps the frame.
    unsafe {
        context.previous = *stack;
        *stack = context;
    }
}

/// # Safety
/// The frame is the one that was put around last.
#[inline]
pub unsafe fn over(stack: *mut *mut pg_sys::ErrorContextCallback, context: &pg_sys::ErrorContextCallback) {
    // SAFETY: as said.
    unsafe { *stack = context.previous }
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
