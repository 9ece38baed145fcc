//! Where statements end without their hook: with an error, with their transaction, and in parallel workers.

use std::ffi::c_int;

use pgrx::{pg_sys, PgLogLevel};

use super::frame;
use crate::pg::activity;
use crate::pg::hooks::statements::account::{close_at, failed, known_kind, not_of_an_idle_one, runs, Kind, Process};
use crate::pg::hooks::statements::asked::{cpu, message, stopped};
use crate::pg::hooks::statements::server::{process, server};
use crate::pg::hooks::statements::{counter, watcher, Counts};

/// A message is reported. An error gets here when it has ended its statement, and not where somebody caught it.
pub unsafe extern "C-unwind" fn report(error: *mut pg_sys::ErrorData) {
    // SAFETY: the server's error, passed on as it came.
    unsafe {
        let level = (*error).elevel;
        if level >= PgLogLevel::ERROR as c_int {
            reported(level, (*error).sqlerrcode);
        }
        if let Some(earlier) = server().report {
            earlier(error);
        }
    }
}

#[cold]
#[inline(never)]
fn reported(level: c_int, sqlstate: c_int) {
    let p = process();
    // One that ends the process is counted where it ends, if anything ever was.
    let counts = level == PgLogLevel::ERROR as c_int || (level == PgLogLevel::FATAL as c_int && p.role == 0);
    if known_kind(p) == Kind::Client && counts && runs(p) {
        let cancelled =
            level > PgLogLevel::ERROR as c_int || sqlstate == pgrx::PgSqlErrorCode::ERRCODE_QUERY_CANCELED as c_int;
        failed(p, cancelled);
        p.failed = true;
    }
}

/// Whether errors are not reported to the server's log, and so not to its hook (is_log_level_output, elog.c).
fn errors_are_hidden() -> bool {
    // SAFETY: reads a setting.
    let level = unsafe { pg_sys::log_min_messages };
    level > PgLogLevel::ERROR as c_int || [pg_sys::LOG, pg_sys::LOG_SERVER_ONLY].contains(&(level as u32))
}

#[link_section = ".text.hot"]
pub unsafe extern "C-unwind" fn transaction(event: pg_sys::XactEvent::Type, _argument: *mut std::ffi::c_void) {
    use pg_sys::XactEvent as event;
    let p = process();
    // No `match` of all of them: its table of jumps would lie on a page of its own.
    if !matches!(event, event::XACT_EVENT_COMMIT | event::XACT_EVENT_PREPARE | event::XACT_EVENT_ABORT) {
        if matches!(event, event::XACT_EVENT_PARALLEL_COMMIT | event::XACT_EVENT_PARALLEL_ABORT) {
            worker_ends(p);
        }
        return;
    }
    p.nested = 0;
    let kind = known_kind(p);
    if !kind.has_statements() {
        return;
    }
    let over = event == event::XACT_EVENT_ABORT;
    if (over || p.frame != 0) && goes_on(p, over, frame!()) {
        return;
    }
    p.frame = 0;
    p.open = false;
    p.ending = false;
    p.begun = false;
    p.failed = false;
    if kind == Kind::Client {
        let at = stopped();
        if over || p.message == 0 {
            not_of_an_idle_one(p, at);
        }
        close_at(p, None, at);
    }
}

/// Whether the statement goes on that ends the transaction: COMMIT and ROLLBACK inside of a procedure, VACUUM, CREATE INDEX
/// CONCURRENTLY. If not, and it has failed, that is counted, where nobody has reported it.
#[cold]
#[inline(never)]
fn goes_on(p: &mut Process, over: bool, frame: usize) -> bool {
    let around = p.frame != 0 && frame < p.frame && message() == p.message;
    // SAFETY: reads a backend global. PL handlers have a callback there, and nothing has where an error has arrived.
    let arrived = over && unsafe { (*server().context).is_null() };
    let unreported = p.kind == Kind::Worker || errors_are_hidden();
    if around && !(arrived && unreported) {
        return true;
    }
    let outside = || match p.kind {
        Kind::Client => !p.ending && !p.failed && runs(p),
        _ => p.all,
    };
    if over && unreported && (p.frame != 0 || outside()) {
        failed(p, false);
    }
    false
}

/// A subtransaction is rolled back: an error has jumped over every hook that was entered inside of it, and who caught it may
/// go on from a place on the stack that is below theirs.
pub unsafe extern "C-unwind" fn subtransaction(
    event: pg_sys::SubXactEvent::Type,
    _mine: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut std::ffi::c_void,
) {
    let p = process();
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_START_SUB => p.nested += 1,
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => p.nested = p.nested.saturating_sub(1),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
            if p.frame != 0 && p.depth >= p.nested && p.kind == Kind::Client {
                p.frame = 0;
                p.begun = false;
            }
            p.nested = p.nested.saturating_sub(1);
        }
        _ => {}
    }
}

/// A parallel worker has done its part; its leader waits for that.
#[cold]
#[inline(never)]
fn worker_ends(p: &mut Process) {
    if known_kind(p) != Kind::Parallel {
        return;
    }
    let mut counts: Counts = [0; counter::ALL];
    let cpu = cpu();
    counts[counter::CPU_USER] = cpu[0];
    counts[counter::CPU_SYSTEM] = cpu[1];
    p.kind = Kind::Silent;
    if let (Some(watcher), Some(leader)) = (watcher(), activity::leader()) {
        (watcher.worker_used)(leader, &counts);
    }
}
