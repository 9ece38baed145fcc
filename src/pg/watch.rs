//! Watches what runs in this process while somebody's query does: the columns that are read, also in functions, and whose
//! functions run.
//!
//! Every plan asks for its rights when it starts (ExecCheckRTPerms, src/backend/executor/execMain.c): with views expanded,
//! so that what lies under them is there too. Every function that is about to be called is announced
//! (InvokeFunctionExecuteHook, src/include/catalog/objectaccess.h); one whose body was taken into the plan is not, and what
//! the body calls is.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{pg_guard, pg_sys, PgList, PgLogLevel};

use crate::error::{sqlstate, Error};

/// Relations by OID, and the role whose rights counted (a view's owner, 0: whoever asked), with the numbers of the columns
/// that were read; 0 is the whole row. None at all: that there are rows. Views are there besides what lies under them.
pub type Used = BTreeMap<(u32, u32), BTreeSet<i16>>;

struct Watch {
    used: Used,
    /// The query is somebody else's.
    of_another: bool,
}

thread_local! {
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

/// Watches until dropped.
pub struct Watching(());

impl Watching {
    /// `of_another`: functions that neither a superuser nor the current user has made are refused, but for those that
    /// run as their own owner.
    pub fn begin(of_another: bool) -> Self {
        install();
        WATCH.set(Some(Watch { used: Used::new(), of_another }));
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

/// # Safety
/// `columns` is a set of the server's.
unsafe fn note(relation: pg_sys::Oid, role: pg_sys::Oid, permissions: u64, columns: *mut pg_sys::Bitmapset) {
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
        let another = WATCH.with_borrow(|w| w.as_ref().is_some_and(|w| w.of_another));
        if another && access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE && class == pg_sys::ProcedureRelationId {
            if let Some(error) = refused(object) {
                ErrorReport::from(error).report(PgLogLevel::ERROR);
            }
        }
    }
}

/// Why a function must not be called with the current user's rights.
///
/// # Safety
/// Within a transaction.
unsafe fn refused(function: pg_sys::Oid) -> Option<Error> {
    // SAFETY: a syscache look-up; the tuple is read under its catalog's struct before it is released.
    unsafe {
        let key = pg_sys::Datum::from(function);
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::PROCOID as i32, key);
        if tuple.is_null() {
            return None;
        }
        let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
        let (owner, definer) = ((*row).proowner, (*row).prosecdef);
        pg_sys::ReleaseSysCache(tuple);
        if definer || pg_sys::superuser_arg(owner) || pg_sys::has_privs_of_role(pg_sys::GetUserId(), owner) {
            return None;
        }
        let name = CStr::from_ptr(pg_sys::format_procedure_qualified(function)).to_string_lossy().into_owned();
        let owner = CStr::from_ptr(pg_sys::GetUserNameFromId(owner, false)).to_string_lossy().into_owned();
        let message = format!("function {name} of \"{owner}\" would run with your rights");
        Some(
            Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, message)
                .detail("A query that somebody else saved runs functions of superusers, and of yours, and no others.")
                .hint("Read what the function does. If you trust it, save the query under a name of your own and run that."),
        )
    }
}
