//! A command as a session would run it: as a portal at the top level, so that VACUUM, CALL with COMMIT and the like
//! work.
//!
//! The steps are those of `exec_simple_query` (src/backend/tcop/postgres.c); pg_cron does the same in its workers.

use std::time::{Duration, Instant};

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{pg_sys, PgList};

use super::sql::cstring;
use crate::error::{sqlstate, Error, Result};

/// Of enum TimeoutId (src/include/utils/timeout.h), the same in all versions.
const STATEMENT_TIMEOUT: std::ffi::c_int = 3;

unsafe extern "C-unwind" {
    fn enable_timeout_after(id: std::ffi::c_int, delay_ms: std::ffi::c_int);
    fn disable_timeout(id: std::ffi::c_int, keep_indicator: bool);
    /// src/backend/commands/async.c and sequence.c.
    fn Async_UnlistenAll();
    fn ResetSequenceCaches();
}

/// What a session has while it runs a command: its text for the log, and statement_timeout ticking, which only
/// PostgresMain would start.
struct Running {
    ticking: Option<(Duration, Instant)>,
    callback: Box<pg_sys::ErrorContextCallback>,
}

thread_local! {
    static TIMED_OUT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    static KEPT: std::cell::RefCell<Option<Kept>> = const { std::cell::RefCell::new(None) };
}

/// What pgrx's errors do not have: SQLSTATEs of a user's own, and the lines that psql shows as CONTEXT.
struct Kept {
    message: String,
    sqlstate: String,
    context: Option<String>,
}

/// Completes the error with which the last command of [`run`] failed. Returns its context.
pub fn complete(error: &mut Error) -> Option<String> {
    let kept = KEPT.with_borrow_mut(Option::take).filter(|kept| kept.message == error.message)?;
    error.sqlstate = kept.sqlstate;
    kept.context
}

/// An error context callback (src/backend/utils/error/elog.c, errfinish) below all others: it is called last, when the
/// context is complete.
unsafe extern "C-unwind" fn keep_context(_: *mut std::ffi::c_void) {
    // SAFETY: an error is being built; it is copied into a context that outlives this call and freed again.
    unsafe {
        let outer = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let error = pg_sys::CopyErrorData();
        if (*error).elevel >= pgrx::PgLogLevel::ERROR as i32 {
            let text = |at: *const std::ffi::c_char| {
                (!at.is_null()).then(|| std::ffi::CStr::from_ptr(at).to_string_lossy().into_owned())
            };
            let kept = Kept {
                message: text((*error).message).unwrap_or_default(),
                sqlstate: crate::error::unpack((*error).sqlerrcode),
                context: text((*error).context),
            };
            KEPT.with_borrow_mut(|last| *last = Some(kept));
        }
        pg_sys::FreeErrorData(error);
        pg_sys::MemoryContextSwitchTo(outer);
    }
}

impl Running {
    /// # Safety
    /// `source` outlives the value.
    unsafe fn new(source: &std::ffi::CStr) -> Self {
        // SAFETY: the callback is unhooked before it is dropped.
        unsafe {
            pg_sys::debug_query_string = source.as_ptr();
            let mut callback = Box::new(pg_sys::ErrorContextCallback {
                previous: pg_sys::error_context_stack,
                callback: Some(keep_context),
                arg: std::ptr::null_mut(),
            });
            pg_sys::error_context_stack = &mut *callback;
            TIMED_OUT.set(false);
            KEPT.set(None);
            Running { ticking: None, callback }
        }
    }

    /// Has statement_timeout tick for the next statement, which the one before may have set: as start_xact_command does
    /// (src/backend/tcop/postgres.c), it does not begin anew for each statement of a command.
    fn tick(&mut self) {
        // SAFETY: InitPostgres registered the timeout in every process with a database.
        unsafe {
            let timeout = pg_sys::StatementTimeout;
            if timeout <= 0 {
                self.stop();
            } else if self.ticking.is_none() {
                self.ticking = Some((Duration::from_millis(timeout as u64), Instant::now()));
                pg_guard_ffi_boundary(|| enable_timeout_after(STATEMENT_TIMEOUT, timeout));
            }
        }
    }

    fn stop(&mut self) {
        if let Some((timeout, begun)) = self.ticking.take() {
            // SAFETY: it ticks; disabling cannot fail.
            unsafe { disable_timeout(STATEMENT_TIMEOUT, false) }
            TIMED_OUT.set(begun.elapsed() >= timeout);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        // SAFETY: undoes what new did.
        unsafe {
            pg_sys::debug_query_string = std::ptr::null();
            pg_sys::error_context_stack = self.callback.previous;
        }
    }
}

/// Runs the statements of `command` in the open transaction, which must have no snapshot of the caller's. Returns how
/// many rows the last one touched or returned.
///
/// Several statements are one transaction, as with `psql -c`. BEGIN, COMMIT and the like are refused.
pub fn run(command: &str) -> Result<u64> {
    let source = cstring(command)?;
    // SAFETY: the calls and their order are those of exec_simple_query; `source` outlives them; the caller's memory
    // context outlives the transaction.
    unsafe {
        let mut running = Running::new(&source);
        running.tick();
        let statements = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::pg_parse_query(source.as_ptr()));
        refuse_what_needs_a_client(&statements)?;
        let at_top = statements.len() == 1;
        let last = statements.len().saturating_sub(1);
        let mut rows = 0;
        for (n, statement) in statements.iter_ptr().enumerate() {
            rows = run_one(statement, &source, at_top);
            if n < last {
                pg_sys::CommandCounterIncrement();
                running.tick();
            }
        }
        Ok(rows)
    }
}

/// Refuses a command that [`run`] would: one with a syntax error, or with nothing in it. Nothing is looked up.
pub fn check(command: &str) -> Result<()> {
    let source = cstring(command)?;
    // SAFETY: parses text and nothing more.
    unsafe {
        let statements = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::pg_parse_query(source.as_ptr()));
        if statements.is_empty() {
            return Err(
                Error::new(sqlstate::SYNTAX_ERROR, "the command is empty").hint("For instance: 'VACUUM ANALYZE'")
            );
        }
        refuse_what_needs_a_client(&statements)
    }
}

/// Refuses BEGIN, COMMIT and the like, and COPY from and to a client: in a worker that is the server's own standard
/// output, its log as a rule (BeginCopyTo, src/backend/commands/copyto.c).
///
/// # Safety
/// The list comes from the parser.
unsafe fn refuse_what_needs_a_client(statements: &PgList<pg_sys::RawStmt>) -> Result<()> {
    for statement in statements.iter_ptr() {
        // SAFETY: as above; each cast follows the node's tag.
        let (tag, copies_to_client) = unsafe {
            let node = (*statement).stmt;
            let tag = (*node).type_;
            (tag, tag == pg_sys::NodeTag::T_CopyStmt && (*node.cast::<pg_sys::CopyStmt>()).filename.is_null())
        };
        if tag == pg_sys::NodeTag::T_TransactionStmt {
            let message = "transaction control statements are not allowed in a job";
            return Err(Error::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
                .hint("A job's command is one transaction. A procedure that is CALLed may commit in between."));
        }
        if copies_to_client {
            let message = "COPY from STDIN and to STDOUT is not possible in a job";
            return Err(Error::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
                .hint("A job has no client. COPY from and to a file or a program needs the rights for that."));
        }
    }
    Ok(())
}

/// # Safety
/// `statement` comes from the parse of `source`, and a transaction is open.
unsafe fn run_one(statement: *mut pg_sys::RawStmt, source: &std::ffi::CStr, at_top: bool) -> u64 {
    // SAFETY: as above.
    unsafe {
        let tag = pg_sys::CreateCommandTag((*statement).stmt);
        let snapshot = pg_sys::analyze_requires_snapshot(statement);
        if snapshot {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        let queries = pg_sys::pg_analyze_and_rewrite_fixedparams(
            statement,
            source.as_ptr(),
            std::ptr::null(),
            0,
            std::ptr::null_mut(),
        );
        let plans = pg_sys::pg_plan_queries(
            queries,
            source.as_ptr(),
            pg_sys::CURSOR_OPT_PARALLEL_OK as i32,
            std::ptr::null_mut(),
        );
        if snapshot {
            pg_sys::PopActiveSnapshot();
        }
        pgrx::check_for_interrupts!();
        let portal = pg_sys::CreatePortal(c"".as_ptr(), true, true);
        (*portal).visible = false;
        pg_sys::PortalDefineQuery(portal, std::ptr::null(), source.as_ptr(), tag, plans, std::ptr::null_mut());
        pg_sys::PortalStart(portal, std::ptr::null_mut(), 0, std::ptr::null_mut());
        let receiver = pg_sys::CreateDestReceiver(pg_sys::CommandDest::DestNone);
        let mut done = pg_sys::QueryCompletion::default();
        pg_sys::InitializeQueryCompletion(&mut done);
        // FETCH_ALL of src/include/nodes/parsenodes.h.
        const ALL: std::ffi::c_long = std::ffi::c_long::MAX;
        #[cfg(not(feature = "pg18"))]
        pg_sys::PortalRun(portal, ALL, at_top, true, receiver, receiver, &mut done);
        #[cfg(feature = "pg18")]
        pg_sys::PortalRun(portal, ALL, at_top, receiver, receiver, &mut done);
        if let Some(destroy) = (*receiver).rDestroy {
            destroy(receiver);
        }
        pg_sys::PortalDrop(portal, false);
        done.nprocessed
    }
}

/// Undoes what commands left in the session: what DISCARD ALL does (DiscardAll, src/backend/commands/discard.c), in its
/// order, but for the plans, which would have to be made again for each run. Needs a transaction with a snapshot.
pub fn discard_all() {
    // USER_LOCKMETHOD of src/include/storage/lock.h.
    const ADVISORY: pg_sys::LOCKMETHODID = 2;
    // SAFETY: what the statement calls, between commands as there.
    unsafe {
        // Closing a cursor can run code of its owner's: first, and as the session's user.
        pg_sys::PortalHashTableDeleteAll();
        pg_sys::SetPGVariable(c"session_authorization".as_ptr(), std::ptr::null_mut(), false);
        pg_sys::ResetAllOptions();
        pg_sys::DropAllPreparedStatements();
        pg_guard_ffi_boundary(|| Async_UnlistenAll());
        pg_sys::LockReleaseAll(ADVISORY, true);
        pg_sys::ResetTempTableNamespace();
        pg_guard_ffi_boundary(|| ResetSequenceCaches());
    }
}

/// Whether the last command of [`run`] ran into statement_timeout.
pub fn take_timed_out() -> bool {
    TIMED_OUT.take()
}

/// Whether the open transaction has written anything so far.
pub fn has_written() -> bool {
    // SAFETY: reads the transaction state.
    unsafe { pg_sys::GetTopTransactionIdIfAny() != pg_sys::TransactionId::from(0) }
}

/// Fires what the open transaction has deferred to its end, as its user, as CommitTransaction would
/// (src/backend/access/transam/xact.c); errors unwind.
pub fn fire_deferred() {
    // SAFETY: outside of a query; what is queued later fires at the commit.
    unsafe { pg_sys::AfterTriggerFireDeferred() }
}
