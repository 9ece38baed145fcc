//! A subtransaction around a closure: all of its effects or none, and its error as a value.
//!
//! The pattern is that of PL/pgSQL's `exec_stmt_block` (src/pl/plpgsql/src/pl_exec.c): begin, run, release or
//! roll back, and put the memory context and the resource owner back each time.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;

use pgrx::{pg_sys, PgTryBuilder};

use super::limit;
use crate::error::{sqlstate, Error, Result};

/// What to do with the effects of a closure that succeeded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Keep,
    Discard,
}

/// Runs `f`; keeps its effects if it returns `Ok`, undoes them (its locks too) if it fails in any way.
pub fn run<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    run_as(Outcome::Keep, f)
}

/// Like [`run`], and undoes the effects of a success as well where `outcome` says so.
pub fn run_as<T>(outcome: Outcome, f: impl FnOnce() -> Result<T>) -> Result<T> {
    // SAFETY: reads of backend globals on the main thread.
    let (memory, owner) = unsafe { (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner) };
    // SAFETY: we are inside a transaction: the doors are only called from SQL.
    unsafe {
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(memory);
    }
    let f = Cell::new(Some(f));
    let released = Cell::new(false);
    let result = PgTryBuilder::new(AssertUnwindSafe(|| {
        let done = match f.take() {
            Some(f) => f()?,
            None => return Err(Error::new(sqlstate::INTERNAL_ERROR, "a subtransaction was entered twice")),
        };
        if outcome == Outcome::Keep {
            // SAFETY: ends the subtransaction begun above. What others do at its end can fail, and does so before anything
            // is ended: postgres_fdw releases its savepoint on a connection that may be gone (CommitSubTransaction,
            // src/backend/access/transam/xact.c, calls back first).
            unsafe { pg_sys::ReleaseCurrentSubTransaction() };
            released.set(true);
        }
        Ok(done)
    }))
    .catch_others(|caught| Err(Error::from(&caught)))
    .catch_rust_panic(|caught| Err(Error::from(&caught)))
    .execute();
    // SAFETY: as above, then restores what it found.
    unsafe {
        if !released.get() {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(memory);
        pg_sys::CurrentResourceOwner = owner;
    }
    result.map_err(limit::explain)
}
