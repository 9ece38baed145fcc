//! What every background worker of ours begins with.

use pgrx::pg_sys;
#[cfg(not(feature = "pg18"))]
use pgrx::pg_sys::pqsignal;
// src/include/port.h of Postgres 18 defines pqsignal as pqsignal_be in the server.
#[cfg(feature = "pg18")]
use pgrx::pg_sys::pqsignal_be as pqsignal;

unsafe extern "C-unwind" {
    /// The handler that backends use (src/backend/tcop/postgres.c); pgrx's only sets a flag, which nothing looks at
    /// while SQL runs.
    fn die(signal: std::ffi::c_int);
}

/// Has SIGTERM end this worker at its next interrupt check, as it ends a backend, and lets signals in.
pub fn obey_sigterm() {
    // SAFETY: `die` is a signal handler, and signals are still blocked when a worker's entry point begins
    // (src/backend/postmaster/bgworker.c, StartBackgroundWorker).
    unsafe {
        pqsignal(pg_sys::SIGTERM as i32, Some(die));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}
