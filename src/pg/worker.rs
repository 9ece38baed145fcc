//! Background workers: how they begin, wait, and run a transaction (src/backend/postmaster/bgworker.c).

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
#[cfg(not(feature = "pg18"))]
use pgrx::pg_sys::pqsignal;
// src/include/port.h of Postgres 18 defines pqsignal as pqsignal_be in the server.
use pgrx::pg_sys::panic::ErrorReport;
#[cfg(feature = "pg18")]
use pgrx::pg_sys::pqsignal_be as pqsignal;
use pgrx::{pg_sys, IntoDatum, PgLogLevel, PgSqlErrorCode, PgTryBuilder};

use crate::error::{sqlstate, Error, Result};

unsafe extern "C-unwind" {
    /// The handler that backends use (src/backend/tcop/postgres.c); pgrx's only sets a flag, which nothing looks at
    /// while SQL runs.
    fn die(signal: std::ffi::c_int);
    /// src/backend/postmaster/interrupt.c.
    fn SignalHandlerForConfigReload(signal: std::ffi::c_int);
}

/// Has SIGTERM end this worker at its next interrupt check, as it ends a backend, SIGHUP read the settings again, and
/// lets signals in. SIGINT cancels a statement from the start (StartBackgroundWorker).
pub fn obey_signals() {
    // SAFETY: both are signal handlers, and signals are still blocked when a worker's entry point begins.
    unsafe {
        pqsignal(pg_sys::SIGTERM as i32, Some(die));
        pqsignal(pg_sys::SIGHUP as i32, Some(SignalHandlerForConfigReload));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Connects the worker: to a database as a role, to a database as the bootstrap superuser, or, without a database, to
/// the shared catalogs alone.
pub fn connect(database: Option<u32>, role: Option<u32>) {
    let oid = |o: Option<u32>| o.map_or(pg_sys::InvalidOid, pg_sys::Oid::from);
    // SAFETY: called once, first thing, in a worker that asked for a database connection. An error ends the worker.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(oid(database), oid(role), 0) }
}

/// The argument that the worker was started with.
pub fn argument(datum: pg_sys::Datum) -> usize {
    datum.value()
}

/// Where a process can be woken. It lives in shared memory as long as the server; one that belongs to another process
/// by now wakes that for nothing.
pub fn my_latch() -> u64 {
    // SAFETY: reads a backend global.
    unsafe { pg_sys::MyLatch as u64 }
}

/// Wakes the process behind a latch of [`my_latch`]; 0 is nobody.
pub fn wake(latch: u64) {
    if latch != 0 {
        // SAFETY: addresses of process latches (PGPROC.procLatch) are the same in every process and are never
        // freed.
        unsafe { pg_sys::SetLatch(latch as *mut pg_sys::Latch) }
    }
}

/// Waits to be woken, for at most `timeout`; obeys interrupts and reads the settings again on SIGHUP.
pub fn wait(timeout: Option<Duration>) {
    let wanted = if timeout.is_some() { pg_sys::WL_TIMEOUT } else { 0 };
    let millis = timeout.map_or(-1, |t| t.as_millis().min(i32::MAX as u128) as i64);
    if millis == 0 {
        // A latch counts whole milliseconds. For what is left of one, nobody waits who wakes us.
        std::thread::sleep(timeout.unwrap_or_default());
    }
    // SAFETY: MyLatch is this process's own; the flags are those of every wait in a worker.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | wanted | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            millis as _,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
        pgrx::check_for_interrupts!();
        if std::ptr::addr_of!(pg_sys::ConfigReloadPending).read_volatile() != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// Like [`wait`], in the middle of a job: a cancel is an error as a value.
pub fn pause(pause: Duration) -> Result<()> {
    PgTryBuilder::new(|| {
        wait(Some(pause));
        Ok(())
    })
    .catch_others(|caught| Err(Error::from(&caught)))
    .execute()
}

/// Whether SIGINT does nothing (src/include/miscadmin.h, HOLD_CANCEL_INTERRUPTS): between jobs it means nobody.
/// An error ends the hold, so it is said again after each.
pub fn hold_cancel(hold: bool) {
    // SAFETY: backend globals, on the main thread.
    unsafe {
        if !hold {
            pg_sys::QueryCancelPending = 0;
        }
        pg_sys::QueryCancelHoldoffCount = u32::from(hold);
    }
}

/// What a transaction of a worker begins with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Snapshot {
    /// One for the whole of it: for queries of ours.
    Taken,
    /// None: commands that end transactions themselves would find it in their way (ForgetPortalSnapshots,
    /// src/backend/utils/mmgr/portalmem.c).
    None,
}

/// Runs `f` in a transaction of its own; an error of any kind rolls it back and becomes a value.
pub fn transaction<T>(snapshot: Snapshot, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let f = std::cell::Cell::new(Some(f));
    // SAFETY: no transaction is open: this is the only place where a worker begins one, and it ends it.
    unsafe {
        let memory = pg_sys::CurrentMemoryContext;
        pg_sys::SetCurrentStatementStartTimestamp();
        let result = PgTryBuilder::new(AssertUnwindSafe(|| {
            pg_sys::StartTransactionCommand();
            if snapshot == Snapshot::Taken {
                // What we write down for an owner does not fail by default_transaction_isolation of theirs.
                pg_sys::XactIsoLevel = pg_sys::XACT_READ_COMMITTED as i32;
                pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            } else {
                // Parse trees must outlive the transactions that a command ends.
                pg_sys::MemoryContextSwitchTo(memory);
            }
            let done = match f.take() {
                Some(f) => f()?,
                None => return Err(Error::new(sqlstate::INTERNAL_ERROR, "a transaction was entered twice")),
            };
            if snapshot == Snapshot::Taken {
                pg_sys::PopActiveSnapshot();
            }
            pg_sys::CommitTransactionCommand();
            Ok(done)
        }))
        .catch_others(|caught| Err(Error::from(&caught)))
        .catch_rust_panic(|caught| Err(Error::from(&caught)))
        .execute();
        if result.is_err() {
            pg_sys::AbortOutOfAnyTransaction();
        }
        pg_sys::MemoryContextSwitchTo(memory);
        result
    }
}

/// A memory context that is emptied after each round of a loop.
pub struct Round {
    context: pg_sys::MemoryContext,
    outer: pg_sys::MemoryContext,
}

impl Round {
    pub fn new(name: &'static std::ffi::CStr) -> Self {
        // SAFETY: a child of the context that lives as long as the process; sizes are ALLOCSET_DEFAULT_SIZES.
        unsafe {
            let context = pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                name.as_ptr(),
                0,
                8 * 1024,
                8 * 1024 * 1024,
            );
            Round { context, outer: pg_sys::CurrentMemoryContext }
        }
    }

    /// Runs one round.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        // SAFETY: nothing that a round allocates there is used after it; an error that unwinds ends the process.
        unsafe {
            pg_sys::MemoryContextSwitchTo(self.context);
            let done = f();
            pg_sys::MemoryContextSwitchTo(self.outer);
            pg_sys::MemoryContextReset(self.context);
            done
        }
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        // SAFETY: made by new and deleted here alone; nobody may be left standing in it.
        unsafe {
            if pg_sys::CurrentMemoryContext == self.context {
                pg_sys::MemoryContextSwitchTo(self.outer);
            }
            pg_sys::MemoryContextDelete(self.context);
        }
    }
}

/// Says what the process does, in pg_stat_activity; `None` is idle.
pub fn report(activity: Option<&str>) {
    let text = activity.and_then(|a| super::sql::cstring(a).ok());
    let state = match activity {
        Some(_) => pg_sys::BackendState::STATE_RUNNING,
        None => pg_sys::BackendState::STATE_IDLE,
    };
    // SAFETY: the text is copied.
    unsafe { pg_sys::pgstat_report_activity(state, text.as_ref().map_or(std::ptr::null(), |t| t.as_ptr())) }
}

/// A WARNING in the server's log.
pub fn warn(message: &str, hint: &str) {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES, message.to_owned(), "worker")
        .set_hint(hint.to_owned())
        .report(PgLogLevel::WARNING);
}

/// Hands what this process has counted to the statistics system; without `now` at most once a second.
pub fn report_statistics(now: bool) {
    // SAFETY: outside a transaction.
    unsafe { pg_sys::pgstat_report_stat(now) };
}

/// Registers a worker that starts with the server, when recovery has finished, and again `restart` after it ended.
pub fn register(name: &str, function: &str, restart: Duration) {
    BackgroundWorkerBuilder::new(name)
        .set_type(name)
        .set_library("startup_wh")
        .set_function(function)
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(restart))
        .load();
}

/// A worker that was started.
pub struct Started {
    handle: *mut pg_sys::BackgroundWorkerHandle,
}

/// How a started worker is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    NotYet,
    Running,
    Ended,
}

impl Started {
    pub fn life(&self) -> Life {
        let mut pid = 0;
        // SAFETY: the handle is live until drop.
        match unsafe { pg_sys::GetBackgroundWorkerPid(self.handle, &mut pid) } {
            pg_sys::BgwHandleStatus::BGWH_STARTED => Life::Running,
            pg_sys::BgwHandleStatus::BGWH_NOT_YET_STARTED => Life::NotYet,
            _ => Life::Ended,
        }
    }

    /// Asks the postmaster to end it.
    pub fn terminate(&self) {
        // SAFETY: the handle is live until drop.
        unsafe { pg_sys::TerminateBackgroundWorker(self.handle) }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // SAFETY: allocated by RegisterDynamicBackgroundWorker, and freed here alone.
        unsafe { pg_sys::pfree(self.handle.cast()) }
    }
}

/// Starts a worker that is never restarted; this process is woken when it starts and ends. `None`: no slot of
/// max_worker_processes is free.
pub fn start(name: &str, kind: &str, function: &str, argument: usize) -> Option<Started> {
    let builder = BackgroundWorkerBuilder::new(name)
        .set_type(kind)
        .set_library("startup_wh")
        .set_function(function)
        .enable_spi_access()
        .set_restart_time(None)
        .set_argument(pg_sys::Datum::from(argument).into_datum())
        // SAFETY: reads a backend global.
        .set_notify_pid(unsafe { pg_sys::MyProcPid });
    let mut worker: pg_sys::BackgroundWorker = (&builder).into();
    let mut handle = std::ptr::null_mut();
    // SAFETY: both point at locals; the handle is allocated where it stays until Started is dropped.
    let registered = unsafe {
        let outer = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let registered = pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle);
        pg_sys::MemoryContextSwitchTo(outer);
        registered
    };
    // Not then_some: what it was given would be dropped, and with it a handle that is none.
    registered.then(|| Started { handle })
}

/// Sends a signal to a process of this server: SIGINT cancels its statement, SIGTERM ends it.
pub fn signal(pid: i32, signal: u32) -> bool {
    // SAFETY: kill(2) takes any numbers. The pid was written by a worker of ours that has not said that it ended.
    pid > 0 && unsafe { libc_kill(pid, signal as i32) == 0 }
}

unsafe extern "C" {
    #[link_name = "kill"]
    fn libc_kill(pid: i32, signal: i32) -> i32;
}

/// Has `function` run when this process ends, while its shared memory is still there. It must do no more than that.
pub fn at_exit(function: fn(usize), argument: usize) {
    static FUNCTION: std::sync::OnceLock<fn(usize)> = std::sync::OnceLock::new();

    unsafe extern "C-unwind" fn call(_code: i32, argument: pg_sys::Datum) {
        if let Some(function) = FUNCTION.get() {
            function(argument.value());
        }
    }

    if FUNCTION.set(function).is_ok() {
        // SAFETY: `call` lives as long as the library.
        unsafe { pg_sys::before_shmem_exit(Some(call), pg_sys::Datum::from(argument)) }
    }
}

/// Runs `f` under a snapshot of its own, in the open transaction.
pub fn with_snapshot<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    // SAFETY: pushed and popped in pairs; an error that passes by rolls the transaction back, and that pops all.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = f();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// Sets application_name, as far as its 63 bytes go.
pub fn name_session(name: &str) {
    let Ok(name) = super::sql::cstring(name) else { return };
    // SAFETY: both strings live through the call; any user may set it.
    unsafe {
        pg_sys::SetConfigOption(
            c"application_name".as_ptr(),
            name.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
        )
    }
}

/// Waits for one of some file descriptors to become readable, for at most `timeout`; interrupts are obeyed, as a value.
pub fn wait_for_any(fds: &[std::os::fd::RawFd], timeout: Duration) -> Result<()> {
    PgTryBuilder::new(|| {
        // SAFETY: the set lives in the current memory context and is freed here; the descriptors are open over the wait.
        unsafe {
            #[cfg(any(feature = "pg15", feature = "pg16"))]
            let set = pg_sys::CreateWaitEventSet(pg_sys::CurrentMemoryContext, fds.len() as i32 + 2);
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            let set = pg_sys::CreateWaitEventSet(std::ptr::null_mut(), fds.len() as i32 + 2);
            let none = std::ptr::null_mut();
            let no_fd = pg_sys::PGINVALID_SOCKET;
            pg_sys::AddWaitEventToSet(set, pg_sys::WL_LATCH_SET, no_fd, pg_sys::MyLatch, none);
            pg_sys::AddWaitEventToSet(set, pg_sys::WL_EXIT_ON_PM_DEATH, no_fd, std::ptr::null_mut(), none);
            for fd in fds {
                pg_sys::AddWaitEventToSet(set, pg_sys::WL_SOCKET_READABLE, *fd, std::ptr::null_mut(), none);
            }
            let mut event = pg_sys::WaitEvent::default();
            pg_sys::WaitEventSetWait(set, timeout.as_millis() as _, &mut event, 1, pg_sys::PG_WAIT_EXTENSION);
            pg_sys::FreeWaitEventSet(set);
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
        pgrx::check_for_interrupts!();
        Ok(())
    })
    .catch_others(|caught| Err(Error::from(&caught)))
    .execute()
}
