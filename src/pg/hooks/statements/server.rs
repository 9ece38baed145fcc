//! What the hooks need at each statement, in one place: the process's account, what they ask of the server, and the hooks
//! that were there before.

use std::cell::UnsafeCell;
use std::ffi::c_int;

use pgrx::pg_sys;

use super::account::Process;
use crate::pg::hooks::{standard_ExecutorRun, standard_ProcessUtility};

unsafe extern "C-unwind" {
    // Not pgrx's: its guard costs more than what is called.
    fn GetCurrentTimestamp() -> i64;
    fn GetCurrentStatementStartTimestamp() -> i64;
    fn GetCurrentTransactionStopTimestamp() -> i64;
    fn GetTopTransactionIdIfAny() -> pg_sys::TransactionId;
    fn IsTransactionBlock() -> bool;
    fn GetSessionUserId() -> pg_sys::Oid;
    fn GetOuterUserId() -> pg_sys::Oid;
    // Theirs would take each error apart besides.
    fn standard_planner(
        query: *mut pg_sys::Query,
        text: *const std::ffi::c_char,
        options: c_int,
        params: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
    fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
    fn standard_ExecutorFinish(query: *mut pg_sys::QueryDesc);
    fn standard_ExecutorEnd(query: *mut pg_sys::QueryDesc);
}

/// What the hooks ask of the server, and whom they call: the hooks that were there before, or what they stand for. Through
/// the library's own tables of addresses they would be on pages of their own, and most of what the hooks cost is that
/// nothing of theirs is in the processor's caches any more.
#[repr(C)]
pub struct Server {
    pub analyzed: pg_sys::post_parse_analyze_hook_type,
    pub planner: Planner,
    pub start: Start,
    pub run: Run,
    pub finish: End,
    pub end: End,
    pub utility: Utility,
    pub report: pg_sys::emit_log_hook_type,
    pub portal: *const pg_sys::Portal,
    pub context: *mut *mut pg_sys::ErrorContextCallback,
    pub message: unsafe extern "C-unwind" fn() -> i64,
    pub now: unsafe extern "C-unwind" fn() -> i64,
    pub stopped: unsafe extern "C-unwind" fn() -> i64,
    pub xid: unsafe extern "C-unwind" fn() -> pg_sys::TransactionId,
    pub in_block: unsafe extern "C-unwind" fn() -> bool,
    pub session_user: unsafe extern "C-unwind" fn() -> pg_sys::Oid,
    pub outer_user: unsafe extern "C-unwind" fn() -> pg_sys::Oid,
    pub buffers: *const pg_sys::BufferUsage,
    pub wal: *const pg_sys::WalUsage,
    pub entry: *const *mut pg_sys::PgBackendStatus,
}

pub type Planner = unsafe extern "C-unwind" fn(
    *mut pg_sys::Query,
    *const std::ffi::c_char,
    c_int,
    pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt;
pub type Start = unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc, c_int);
#[cfg(not(feature = "pg18"))]
pub type Run = unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc, pg_sys::ScanDirection::Type, u64, bool);
#[cfg(feature = "pg18")]
pub type Run = unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc, pg_sys::ScanDirection::Type, u64);
pub type End = unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc);
pub type Utility = unsafe extern "C-unwind" fn(
    *mut pg_sys::PlannedStmt,
    *const std::ffi::c_char,
    bool,
    pg_sys::ProcessUtilityContext::Type,
    pg_sys::ParamListInfo,
    *mut pg_sys::QueryEnvironment,
    *mut pg_sys::DestReceiver,
    *mut pg_sys::QueryCompletion,
);

/// Aligned so that it does not lie across two pages.
#[repr(C, align(512))]
struct Main {
    process: UnsafeCell<Process>,
    server: UnsafeCell<Server>,
}

// SAFETY: Postgres runs the hooks in the process's one main thread, and no reference is held over a call of them. What is
// known of the server is written while the postmaster loads libraries, and only read after that.
unsafe impl Sync for Main {}

// What lies in that section is shorter than a page, and so on one. In an optimised build, which is one unit; elsewhere it does nothing.
#[cfg(target_os = "linux")]
std::arch::global_asm!(".section .text.hot,\"ax\",%progbits", ".p2align 12", ".text");

static MAIN: Main = Main {
    process: UnsafeCell::new(Process::NEW),
    server: UnsafeCell::new(Server {
        analyzed: None,
        planner: standard_planner,
        start: standard_ExecutorStart,
        run: standard_ExecutorRun,
        finish: standard_ExecutorFinish,
        end: standard_ExecutorEnd,
        utility: standard_ProcessUtility,
        report: None,
        portal: &raw const pg_sys::ActivePortal,
        context: &raw mut pg_sys::error_context_stack,
        message: GetCurrentStatementStartTimestamp,
        now: GetCurrentTimestamp,
        stopped: GetCurrentTransactionStopTimestamp,
        xid: GetTopTransactionIdIfAny,
        in_block: IsTransactionBlock,
        session_user: GetSessionUserId,
        outer_user: GetOuterUserId,
        buffers: &raw const pg_sys::pgBufferUsage,
        wal: &raw const pg_sys::pgWalUsage,
        entry: &raw const pg_sys::MyBEEntry,
    }),
};

/// Chains the hooks that are there.
///
/// # Safety
/// The postmaster is loading libraries, and sets hooks of ours next.
pub unsafe fn chain() {
    // SAFETY: see Main.
    unsafe {
        let server = &mut *MAIN.server.get();
        server.analyzed = pg_sys::post_parse_analyze_hook;
        server.planner = pg_sys::planner_hook.unwrap_or(server.planner);
        server.start = pg_sys::ExecutorStart_hook.unwrap_or(server.start);
        server.run = pg_sys::ExecutorRun_hook.unwrap_or(server.run);
        server.finish = pg_sys::ExecutorFinish_hook.unwrap_or(server.finish);
        server.end = pg_sys::ExecutorEnd_hook.unwrap_or(server.end);
        server.utility = pg_sys::ProcessUtility_hook.unwrap_or(server.utility);
        server.report = pg_sys::emit_log_hook;
    }
}

#[inline]
pub fn server() -> &'static Server {
    // SAFETY: see Main.
    unsafe { &*MAIN.server.get() }
}

#[inline]
#[allow(clippy::mut_from_ref)]
pub fn process() -> &'static mut Process {
    // SAFETY: see Main.
    unsafe { &mut *MAIN.process.get() }
}
