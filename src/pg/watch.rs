//! Watches what runs in this process while somebody's query does: the columns that are read, also in functions, and whose
//! code runs.
//!
//! Every plan asks for its rights when it starts (ExecCheckRTPerms, src/backend/executor/execMain.c): with views expanded,
//! so that what lies under them is there too. Every function that an expression is about to call is announced
//! (InvokeFunctionExecuteHook, src/include/catalog/objectaccess.h); one whose body was taken into the plan is not, and what
//! the body calls is. What the server calls by itself, such as the functions of a range type, is not announced: those pass
//! by the function manager, which asks for each that is no built-in (FmgrHookIsNeeded in fmgr_info_cxt_security, and
//! FHET_START in fmgr_security_definer, src/backend/utils/fmgr/fmgr.c).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{pg_guard, pg_sys, PgList, PgLogLevel};

use super::trojan::{self, Guard};
use crate::error::Error;

/// Relations by OID, and the role whose rights counted (a view's owner, 0: whoever asked), with the numbers of the columns
/// that were read; 0 is the whole row. None at all: that there are rows. Views are there besides what lies under them.
pub type Used = BTreeMap<(u32, u32), BTreeSet<i16>>;

struct Watch {
    used: Used,
    guard: Option<Guard>,
}

thread_local! {
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

/// Watches until dropped.
pub struct Watching(());

impl Watching {
    pub fn begin(guard: Option<Guard>) -> Self {
        install();
        WATCH.set(Some(Watch { used: Used::new(), guard }));
        Watching(())
    }

    /// What was read so far.
    pub fn used(&self) -> Used {
        WATCH.with_borrow(|w| w.as_ref().map(|w| w.used.clone()).unwrap_or_default())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        WATCH.set(None);
    }
}

static mut EARLIER_CHECK: pg_sys::ExecutorCheckPerms_hook_type = None;
static mut EARLIER_ACCESS: pg_sys::object_access_hook_type = None;
static mut EARLIER_NEEDED: pg_sys::needs_fmgr_hook_type = None;
static mut EARLIER_CALL: pg_sys::fmgr_hook_type = None;

fn install() {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if INSTALLED.swap(true, Ordering::Relaxed) {
        return;
    }
    // SAFETY: hooks are chained once, on the main thread, and stay for the life of the process, as the library does.
    unsafe {
        EARLIER_CHECK = pg_sys::ExecutorCheckPerms_hook;
        pg_sys::ExecutorCheckPerms_hook = Some(versions::check);
        EARLIER_ACCESS = pg_sys::object_access_hook;
        pg_sys::object_access_hook = Some(accessed);
    }
}

/// Looks at the function manager's calls from the library's loading on: what it looked up earlier, a session keeps.
pub fn init() {
    // SAFETY: as in install; the library is loaded once a process.
    unsafe {
        EARLIER_NEEDED = pg_sys::needs_fmgr_hook;
        pg_sys::needs_fmgr_hook = Some(looked_up);
        EARLIER_CALL = pg_sys::fmgr_hook;
        pg_sys::fmgr_hook = Some(called);
    }
}

/// # Safety
/// `columns` is a set of the server's.
unsafe fn note(relation: pg_sys::Oid, role: pg_sys::Oid, permissions: u64, columns: *mut pg_sys::Bitmapset) {
    if let Some(guard) = guard() {
        // SAFETY: within the transaction of the plan.
        refuse(unsafe { guard.refuses_relation(relation, role) });
    }
    if permissions & u64::from(pg_sys::ACL_SELECT) == 0 {
        return;
    }
    WATCH.with_borrow_mut(|watch| {
        let Some(watch) = watch else { return };
        // SAFETY: as above.
        unsafe {
            let found = watch.used.entry((relation.to_u32(), role.to_u32())).or_default();
            let mut member = pg_sys::bms_next_member(columns, -1);
            while member >= 0 {
                found.insert((member + pg_sys::FirstLowInvalidHeapAttributeNumber) as i16);
                member = pg_sys::bms_next_member(columns, member);
            }
        }
    });
}

/// Where a plan has its permissions: in the range table up to Postgres 15, in a list of their own since.
#[cfg(feature = "pg15")]
mod versions {
    use super::{note, pg_guard, pg_sys, PgList, EARLIER_CHECK};

    /// SAFETY: called by the executor.
    #[pg_guard]
    pub unsafe extern "C-unwind" fn check(range: *mut pg_sys::List, report: bool) -> bool {
        // SAFETY: the server's list, which stays its own.
        unsafe {
            for entry in PgList::<pg_sys::RangeTblEntry>::from_pg(range).iter_ptr() {
                if (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION {
                    note(
                        (*entry).relid,
                        (*entry).checkAsUser,
                        u64::from((*entry).requiredPerms),
                        (*entry).selectedCols,
                    );
                }
            }
            EARLIER_CHECK.is_none_or(|earlier| earlier(range, report))
        }
    }
}

#[cfg(not(feature = "pg15"))]
mod versions {
    use super::{note, pg_guard, pg_sys, PgList, EARLIER_CHECK};

    /// SAFETY: called by the executor.
    #[pg_guard]
    pub unsafe extern "C-unwind" fn check(
        range: *mut pg_sys::List,
        permissions: *mut pg_sys::List,
        report: bool,
    ) -> bool {
        // SAFETY: the server's list, which stays its own.
        unsafe {
            for entry in PgList::<pg_sys::RTEPermissionInfo>::from_pg(permissions).iter_ptr() {
                note((*entry).relid, (*entry).checkAsUser, u64::from((*entry).requiredPerms), (*entry).selectedCols);
            }
            // Children of a table have none of their own, and can be foreign.
            for entry in PgList::<pg_sys::RangeTblEntry>::from_pg(range).iter_ptr() {
                if (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION && (*entry).perminfoindex == 0 {
                    note((*entry).relid, pg_sys::InvalidOid, 0, std::ptr::null_mut());
                }
            }
            EARLIER_CHECK.is_none_or(|earlier| earlier(range, permissions, report))
        }
    }
}

/// SAFETY: called by the server.
#[pg_guard]
unsafe extern "C-unwind" fn accessed(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: std::ffi::c_int,
    argument: *mut std::ffi::c_void,
) {
    // SAFETY: as above.
    unsafe {
        if let Some(earlier) = EARLIER_ACCESS {
            earlier(access, class, object, sub, argument);
        }
        if access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE && class == pg_sys::ProcedureRelationId {
            check_function(object);
        }
    }
}

/// SAFETY: called by the server.
#[pg_guard]
unsafe extern "C-unwind" fn looked_up(function: pg_sys::Oid) -> bool {
    // SAFETY: as above.
    unsafe {
        check_function(function);
        trojan::is_kept_for_later(function) || EARLIER_NEEDED.is_some_and(|earlier| earlier(function))
    }
}

/// SAFETY: called by the server.
#[pg_guard]
unsafe extern "C-unwind" fn called(
    event: pg_sys::FmgrHookEventType::Type,
    function: *mut pg_sys::FmgrInfo,
    argument: *mut pg_sys::Datum,
) {
    // SAFETY: as above.
    unsafe {
        if event == pg_sys::FmgrHookEventType::FHET_START {
            check_function((*function).fn_oid);
        }
        if let Some(earlier) = EARLIER_CALL {
            earlier(event, function, argument);
        }
    }
}

fn guard() -> Option<Guard> {
    WATCH.with_borrow(|w| w.as_ref().and_then(|w| w.guard))
}

/// # Safety
/// Within a transaction.
unsafe fn check_function(function: pg_sys::Oid) {
    if let Some(guard) = guard() {
        // SAFETY: as above.
        refuse(unsafe { guard.refuses_function(function) });
    }
}

fn refuse(reason: Option<Error>) {
    if let Some(error) = reason {
        ErrorReport::from(error).report(PgLogLevel::ERROR);
    }
}
