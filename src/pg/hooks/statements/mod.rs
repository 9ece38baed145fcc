//! What statements cost, seen from the hooks around them: of this process, at the top level, without a lock, a text or a
//! look at the statement.
//!
//! The time of a statement begins with its message (GetCurrentStatementStartTimestamp, src/backend/access/transam/xact.c)
//! or, behind another one of the same message, where that ended; so parsing, planning and waiting for locks belong to it
//! without a clock of ours. It ends where the last of it ends that can be seen: the executor's end, a utility's return, the
//! commit or the rollback. What lies between two messages belongs to nobody.
//!
//! Errors jump over the hooks (siglongjmp), and no PG_TRY stands in their way: a hook knows by the address of its frame
//! and by the message whether another one is still around it, and every error that ends a statement is reported
//! (EmitErrorReport, src/backend/utils/error/elog.c) before its transaction is rolled back.
//!
//! - `around`: the hooks; `account`: what a process used, and has counted in its `slot`; `asked`: what it asks for that;
//!   `free`: what is never refused; `server`: what all of them need at each statement, side by side

mod account;
mod around;
mod asked;
mod free;
mod server;
pub mod slot;

use std::ffi::{c_int, CStr};
use std::sync::OnceLock;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{pg_guard, pg_sys, PgLogLevel};

pub use account::{count, role_is_set, was_cancelled};

use crate::error::Error;
use slot::Slot;

/// What is counted, each a number that only grows.
pub mod counter {
    /// Statements at the top level, those included that failed.
    pub const CALLS: usize = 0;
    /// Those that failed, but for cancels.
    pub const ERRORS: usize = 1;
    /// Those that were cancelled, timed out, or ended with their session.
    pub const CANCELS: usize = 2;
    /// Microseconds.
    pub const TIME: usize = 3;
    pub const CPU_USER: usize = 4;
    pub const CPU_SYSTEM: usize = 5;
    /// Returned or touched.
    pub const ROWS: usize = 6;
    /// Written to temporary files.
    pub const TEMP_BYTES: usize = 7;
    pub const BLOCKS_READ: usize = 8;
    pub const BLOCKS_HIT: usize = 9;
    pub const WAL_BYTES: usize = 10;
    /// How many there are.
    pub const ALL: usize = 11;
}

/// One number for each of [`counter`].
pub type Counts = [u64; counter::ALL];

/// Whom counts are for. None of these may fail, but for `begins`.
pub struct Watcher {
    /// This process counts for a role from now on: where. Catalogs may not be looked at unless it says so.
    pub joins: fn(role: u32, may_look: bool) -> Option<&'static Slot>,
    /// A statement begins, and its slot has something to say. It may be refused, with an error, where it says so when
    /// asked: it does not end or set something, nor show one of `free`.
    pub begins: fn(may_refuse: &dyn Fn() -> bool),
    /// Views of the extension's that everybody may look at always.
    pub free: &'static [&'static CStr],
    /// A statement was counted in a slot that somebody wants to be told of.
    pub ended: fn(&Slot),
    /// A parallel worker of the process in `slot` used this much CPU.
    pub worker_used: fn(slot: usize, &Counts),
    /// The process ends, and everything is counted in its slot.
    pub left: fn(&Slot),
}

static WATCHER: OnceLock<&'static Watcher> = OnceLock::new();

/// Installs the hooks; called once, while the library is preloaded.
pub fn watch(watcher: &'static Watcher) {
    if WATCHER.set(watcher).is_ok() {
        // SAFETY: the postmaster is loading libraries.
        unsafe {
            server::chain();
            around::install();
        }
    }
}

#[inline]
fn watcher() -> Option<&'static Watcher> {
    WATCHER.get().copied()
}

/// Has [`Watcher::left`] called when this process ends, while its shared memory is still there.
pub fn follow_to_the_end() {
    unsafe extern "C-unwind" fn ends(_code: c_int, _argument: pg_sys::Datum) {
        account::leave();
    }
    // SAFETY: the callback lives as long as the library.
    unsafe { pg_sys::before_shmem_exit(Some(ends), pg_sys::Datum::from(0)) }
}

/// Ends the statement that begins now, from [`Watcher::begins`]. Nobody between here and there may have anything to drop.
pub fn refuse(error: Error) {
    #[pg_guard]
    unsafe extern "C-unwind" fn raise(error: *mut Option<Error>) {
        // SAFETY: below.
        if let Some(error) = unsafe { (*error).take() } {
            ErrorReport::from(error).report(PgLogLevel::ERROR);
        }
    }
    let mut error = Some(error);
    // SAFETY: a live value, which is empty when the error jumps over it.
    unsafe { raise(&mut error) }
}

/// Tells the client something, from [`Watcher::begins`].
pub fn tell(message: &str, detail: &str, hint: &str) {
    #[pg_guard]
    unsafe extern "C-unwind" fn notice(words: *const [&str; 3]) {
        // SAFETY: below.
        let [message, detail, hint] = unsafe { *words };
        crate::pg::session::notice(message, detail, hint);
    }
    // SAFETY: a live value.
    unsafe { notice(&[message, detail, hint]) }
}
