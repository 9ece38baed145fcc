//! The hooks, which pass everything on as it came and tell the account where statements begin and end.
//!
//! Those that every query comes through lie side by side (`.text.hot`): most of what they cost is that they are on pages of
//! the library where nobody was since the query before.
//!
//! Here: what plans and runs queries. `utility`: all other statements; `ends`: errors, and ends of transactions.

mod ends;
mod utility;

use std::ffi::c_int;

use pgrx::pg_sys;

use super::account::{begins, enters, goes_on_inside, returns, Kind};
use super::asked::in_block;
use super::free;
use super::server::{process, server};
use crate::pg::reason;

/// Sets the hooks; called once, while the library is preloaded, when the account knows those that were there.
///
/// # Safety
/// The postmaster is loading libraries.
pub unsafe fn install() {
    // SAFETY: in one thread; a callback that is registered there is that of every process.
    unsafe {
        pg_sys::planner_hook = Some(planner);
        pg_sys::post_parse_analyze_hook = Some(analyzed);
        pg_sys::ExecutorStart_hook = Some(start);
        pg_sys::ExecutorRun_hook = Some(run);
        pg_sys::ExecutorFinish_hook = Some(finish);
        pg_sys::ExecutorEnd_hook = Some(end);
        pg_sys::ProcessUtility_hook = Some(utility::utility);
        pg_sys::emit_log_hook = Some(ends::report);
        pg_sys::RegisterXactCallback(Some(ends::transaction), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(ends::subtransaction), std::ptr::null_mut());
    }
}

/// Whether the statement is the one that the client sent: a rule can have made several of it, and triggers that run at the
/// commit send theirs when no hook is around them.
fn is_sent(statement: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: reads of the portal that runs; its name ends with a NUL, and a list in it has at least one member.
    unsafe {
        let portal = *server().portal;
        if portal.is_null() {
            return process().kind == Kind::Worker;
        }
        let statements = (*portal).stmts;
        if statements.is_null() || (*(*statements).elements).ptr_value.cast() != statement {
            return false;
        }
        *(*portal).name == 0 || is_a_clients(portal)
    }
}

/// Whether a portal that has a name is a client's: neither SPI's (CreateNewPortal, src/backend/utils/mmgr/portalmem.c) nor a
/// cursor that a commit keeps.
///
/// # Safety
/// A portal that runs.
#[cold]
#[inline(never)]
unsafe fn is_a_clients(portal: pg_sys::Portal) -> bool {
    // SAFETY: its name ends with a NUL.
    unsafe {
        !std::ffi::CStr::from_ptr((*portal).name).to_bytes().starts_with(b"<unnamed portal ")
            && (*portal).cursorOptions & pg_sys::CURSOR_OPT_HOLD as c_int == 0
    }
}

/// Whether the portal that runs came over the extended protocol: only those share a plan with a prepared statement.
#[inline]
fn is_extended() -> bool {
    // SAFETY: a read of the portal that runs.
    unsafe { (*server().portal).as_ref() }.is_some_and(|portal| !portal.cplan.is_null())
}

/// Whether, besides, its executor begins with a Bind message, runs in one or more Execute messages, and ends with what
/// takes the portal away.
#[inline]
fn is_lasting() -> bool {
    // SAFETY: as above.
    unsafe { (*server().portal).as_ref() }
        .is_some_and(|portal| !portal.cplan.is_null() && portal.strategy == pg_sys::PortalStrategy::PORTAL_ONE_SELECT)
}

/// An address in the frame of a hook.
macro_rules! frame {
    () => {{
        let here = 0_u8;
        std::hint::black_box(&here) as *const u8 as usize
    }};
}
use frame;

#[link_section = ".text.hot"]
unsafe extern "C-unwind" fn planner(
    query: *mut pg_sys::Query,
    text: *const std::ffi::c_char,
    options: c_int,
    params: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    let outermost = enters(frame!());
    if outermost {
        // SAFETY: the server's query.
        begins(&|| !unsafe { free::shows_free(query) });
        process().begun = true;
    } else {
        goes_on_inside();
    }
    // SAFETY: passed on as it came, and planning may change it. Functions that are evaluated while planning run inside.
    let started_later = unsafe { (*query).commandType != pg_sys::CmdType::CMD_SELECT || (*query).hasModifyingCTE };
    // SAFETY: as above.
    let plan = unsafe { (server().planner)(query, text, options, params) };
    if outermost {
        // In the extended protocol a Bind message may have this planned, and nothing else is seen of it: what writes is
        // started by the Execute message, which begins later.
        returns(started_later);
    }
    plan
}

/// The end of a Parse message: what follows in it is short, and the next message will have another beginning.
#[link_section = ".text.hot"]
unsafe extern "C-unwind" fn analyzed(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumbled: *mut pg_sys::JumbleState,
) {
    // SAFETY: passed on as it came; only a Parse message has its parameters' types guessed
    // (setup_parse_variable_parameters, src/backend/parser/parse_param.c), and PREPARE, inside its hook.
    unsafe {
        if let Some(earlier) = server().analyzed {
            earlier(state, query, jumbled);
        }
        if (*state).p_coerce_param_hook.is_some() && enters(frame!()) {
            returns(true);
        }
    }
}

#[link_section = ".text.hot"]
unsafe extern "C-unwind" fn start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    let outermost = enters(frame!());
    if !outermost {
        goes_on_inside();
    } else if !std::mem::take(&mut process().begun) {
        begins(&|| true);
    }
    // SAFETY: passed on as it came; the portal is the one that starts.
    unsafe {
        (server().start)(query, flags);
        if outermost {
            let lasting = is_lasting();
            process().lasting = lasting;
            returns(lasting);
        }
    }
}

/// What the executor is about to run for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    /// Something inside of the outermost hook.
    Inside,
    First,
    /// Another Execute message of a portal.
    Again,
}

/// Enters the hook that runs a query. A function of its own, so that what follows is compiled once, and not for each answer.
///
/// # Safety
/// `query` is about to be run.
#[inline(never)]
#[link_section = ".text.hot"]
unsafe fn enters_run(query: *mut pg_sys::QueryDesc, frame: usize) -> Run {
    if !enters(frame) {
        return Run::Inside;
    }
    // SAFETY: a query that was started.
    if unsafe { (*query).already_executed } {
        begins(&|| true);
        return Run::Again;
    }
    Run::First
}

/// The executor has run for the outermost hook.
///
/// # Safety
/// `query` was run.
#[inline]
unsafe fn ran(query: *mut pg_sys::QueryDesc, first: bool) {
    let p = process();
    // SAFETY: a query that was run has its state and its plan.
    unsafe {
        if first && is_sent((*query).plannedstmt) {
            p.calls += 1;
            p.counted = p.message;
            p.open = true;
        }
        if (*(*query).plannedstmt).canSetTag {
            p.rows += (*(*query).estate).es_processed;
        }
    }
    returns(is_lasting());
}

#[link_section = ".text.hot"]
unsafe extern "C-unwind" fn run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    #[cfg(not(feature = "pg18"))] once: bool,
) {
    let mut context = reason::none();
    // SAFETY: passed on as it came; the frame of the context outlives the call, and whoever catches an error puts the stack
    // of contexts back (PG_TRY, PostgresMain).
    unsafe {
        let run = enters_run(query, frame!());
        reason::around(server().context, &mut context);
        #[cfg(not(feature = "pg18"))]
        (server().run)(query, direction, count, once);
        #[cfg(feature = "pg18")]
        (server().run)(query, direction, count);
        reason::over(server().context, &context);
        if run != Run::Inside {
            ran(query, run == Run::First);
        }
    }
}

#[link_section = ".text.hot"]
unsafe extern "C-unwind" fn finish(query: *mut pg_sys::QueryDesc) {
    let outermost = enters(frame!());
    // SAFETY: passed on as it came. Triggers run inside.
    unsafe { (server().finish)(query) };
    if outermost {
        returns(false);
    }
}

#[link_section = ".text.hot"]
unsafe extern "C-unwind" fn end(query: *mut pg_sys::QueryDesc) {
    let outermost = enters(frame!());
    // SAFETY: passed on as it came.
    unsafe { (server().end)(query) };
    if outermost {
        let p = process();
        p.open = false;
        // A portal that outlived its message ends in another one, or in the commit: both are counted.
        let lasting = std::mem::take(&mut p.lasting);
        returns(!lasting && (in_block() || is_extended()));
    }
}
