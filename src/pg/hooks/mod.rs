//! Hooks into other people's statements, and into the end of our own transactions.
//!
//! - [`statements`]: what they cost

pub mod statements;

use std::cell::RefCell;
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{pg_guard, pg_sys, PgList, PgLogLevel};

use crate::error::Result;

/// What of a utility statement concerns us.
pub struct Utility {
    /// The database that it needs for itself alone (`CountOtherDBBackends`, src/backend/storage/ipc/procarray.c).
    pub alone_in: Option<u32>,
    /// It may bring this extension, change it or take it away.
    pub changes_extensions: bool,
    /// It changes what sessions of a role begin with, or what it is called.
    pub changes_settings_of_roles: bool,
}

/// Called before such a statement.
pub type Before = fn(&Utility);

/// Called before DROP OWNED and REASSIGN OWNED with the roles that they are about; may refuse it.
pub type Disowns = fn(roles: &[u32]) -> Result<()>;

static DISOWNS: OnceLock<Disowns> = OnceLock::new();
static BEFORE: OnceLock<Before> = OnceLock::new();
static mut EARLIER: pg_sys::ProcessUtility_hook_type = None;

unsafe extern "C-unwind" {
    // Not pgrx's: its guard would take every error of every utility statement apart, and lose its position and context.
    pub(super) fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        query: *const std::ffi::c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        dest: *mut pg_sys::DestReceiver,
        done: *mut pg_sys::QueryCompletion,
    );
    #[cfg(not(feature = "pg18"))]
    pub(super) fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: std::ffi::c_int,
        count: u64,
        once: bool,
    );
    #[cfg(feature = "pg18")]
    pub(super) fn standard_ExecutorRun(query: *mut pg_sys::QueryDesc, direction: std::ffi::c_int, count: u64);
}

/// Installs the hook; called once, while the library is preloaded.
pub fn utility(before: Before) {
    if BEFORE.set(before).is_ok() {
        // SAFETY: hooks are chained while the postmaster loads libraries, in one thread.
        unsafe {
            EARLIER = pg_sys::ProcessUtility_hook;
            pg_sys::ProcessUtility_hook = Some(process_utility);
        }
    }
}

/// Has DROP OWNED and REASSIGN OWNED looked at by the hook that [`utility`] installs.
pub fn disowning(before: Disowns) {
    // Called once.
    let _ = DISOWNS.set(before);
}

/// Errors of the statement pass through as they are: nothing here has a destructor, so they may jump over it.
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const std::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    done: *mut pg_sys::QueryCompletion,
) {
    let mut reason = super::reason::none();
    // SAFETY: the arguments are the server's, passed on as they came; the frame of the context outlives the call.
    unsafe {
        let node = (*statement).utilityStmt;
        if matches!(
            (*node).type_,
            pg_sys::NodeTag::T_DropdbStmt
                | pg_sys::NodeTag::T_CreatedbStmt
                | pg_sys::NodeTag::T_AlterDatabaseStmt
                | pg_sys::NodeTag::T_RenameStmt
                | pg_sys::NodeTag::T_DropStmt
                | pg_sys::NodeTag::T_CreateExtensionStmt
                | pg_sys::NodeTag::T_AlterExtensionStmt
                | pg_sys::NodeTag::T_AlterRoleSetStmt
        ) {
            look_at(node);
        } else if matches!((*node).type_, pg_sys::NodeTag::T_DropOwnedStmt | pg_sys::NodeTag::T_ReassignOwnedStmt) {
            disowns(node);
        }
        let next = EARLIER.unwrap_or(standard_ProcessUtility);
        super::reason::around(&raw mut pg_sys::error_context_stack, &mut reason);
        next(statement, query, read_only_tree, context, params, environment, dest, done);
        super::reason::over(&raw mut pg_sys::error_context_stack, &reason);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn look_at(node: *mut pg_sys::Node) {
    if let Some(before) = BEFORE.get() {
        // SAFETY: the server's statement.
        before(&unsafe { concerns(node) });
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn disowns(node: *mut pg_sys::Node) {
    let Some(before) = DISOWNS.get() else { return };
    // SAFETY: each cast follows the node's tag; a role that is missing is the statement's own to refuse.
    let roles: Vec<u32> = unsafe {
        let roles = match (*node).type_ {
            pg_sys::NodeTag::T_DropOwnedStmt => (*node.cast::<pg_sys::DropOwnedStmt>()).roles,
            _ => (*node.cast::<pg_sys::ReassignOwnedStmt>()).roles,
        };
        PgList::<pg_sys::RoleSpec>::from_pg(roles)
            .iter_ptr()
            .map(|role| pg_sys::get_rolespec_oid(role, true).to_u32())
            .collect()
    };
    if let Err(e) = before(&roles) {
        ErrorReport::from(e).report(PgLogLevel::ERROR);
    }
}

/// # Safety
/// `node` is a utility statement of the server's.
unsafe fn concerns(node: *mut pg_sys::Node) -> Utility {
    // SAFETY: each cast follows the node's tag; strings are the parser's.
    unsafe {
        let database = |name: *const std::ffi::c_char| {
            (!name.is_null()).then(|| pg_sys::get_database_oid(name, true).to_u32()).filter(|oid| owned(*oid))
        };
        let ours = |name: *const std::ffi::c_char| !name.is_null() && CStr::from_ptr(name) == c"startup_wh";
        let option = |options: *mut pg_sys::List, wanted: &CStr| {
            PgList::<pg_sys::DefElem>::from_pg(options)
                .iter_ptr()
                .find(|o| CStr::from_ptr((**o).defname) == wanted)
                .filter(|o| !(**o).arg.is_null())
                .map(|o| pg_sys::defGetString(o).cast_const())
        };
        let alone_in = match (*node).type_ {
            pg_sys::NodeTag::T_DropdbStmt => database((*node.cast::<pg_sys::DropdbStmt>()).dbname),
            pg_sys::NodeTag::T_CreatedbStmt => {
                option((*node.cast::<pg_sys::CreatedbStmt>()).options, c"template").and_then(database)
            }
            pg_sys::NodeTag::T_AlterDatabaseStmt => {
                let alter = node.cast::<pg_sys::AlterDatabaseStmt>();
                option((*alter).options, c"tablespace").and_then(|_| database((*alter).dbname))
            }
            pg_sys::NodeTag::T_RenameStmt => {
                let rename = node.cast::<pg_sys::RenameStmt>();
                match (*rename).renameType {
                    pg_sys::ObjectType::OBJECT_DATABASE => database((*rename).subname),
                    _ => None,
                }
            }
            _ => None,
        };
        let changes_extensions = match (*node).type_ {
            pg_sys::NodeTag::T_DropStmt => {
                (*node.cast::<pg_sys::DropStmt>()).removeType == pg_sys::ObjectType::OBJECT_EXTENSION
            }
            pg_sys::NodeTag::T_CreateExtensionStmt => ours((*node.cast::<pg_sys::CreateExtensionStmt>()).extname),
            pg_sys::NodeTag::T_AlterExtensionStmt => ours((*node.cast::<pg_sys::AlterExtensionStmt>()).extname),
            _ => false,
        };
        let changes_settings_of_roles = match (*node).type_ {
            pg_sys::NodeTag::T_AlterRoleSetStmt => true,
            pg_sys::NodeTag::T_RenameStmt => {
                (*node.cast::<pg_sys::RenameStmt>()).renameType == pg_sys::ObjectType::OBJECT_ROLE
            }
            _ => false,
        };
        Utility { alone_in, changes_extensions, changes_settings_of_roles }
    }
}

/// Whether the user owns the database: nobody else's statement about it will succeed, but for a template's copy.
fn owned(database: u32) -> bool {
    let Some(owner) = super::catalog::databases().into_iter().find(|d| d.oid == database).map(|d| d.owner) else {
        return false;
    };
    // SAFETY: look-ups by OID inside a transaction.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), owner.into()) }
}

type Pending = Vec<(When, Box<dyn FnOnce()>)>;

/// When something that waits for the end of a transaction is done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum When {
    Committed,
    /// However it ends.
    Over,
}

thread_local! {
    static PENDING: RefCell<Pending> = const { RefCell::new(Vec::new()) };
}

/// Has `f` run when the transaction that is open now has ended. It must be short and cannot fail.
pub fn at_end(when: When, f: impl FnOnce() + 'static) {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    PENDING.with_borrow_mut(|pending| pending.push((when, Box::new(f))));
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: the callback stays for the life of the process.
        unsafe { pg_sys::RegisterXactCallback(Some(ended), std::ptr::null_mut()) }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn ended(event: pg_sys::XactEvent::Type, _argument: *mut std::ffi::c_void) {
    let committed = match event {
        pg_sys::XactEvent::XACT_EVENT_COMMIT => true,
        pg_sys::XactEvent::XACT_EVENT_ABORT | pg_sys::XactEvent::XACT_EVENT_PREPARE => false,
        _ => return,
    };
    for (when, f) in PENDING.with_borrow_mut(std::mem::take) {
        if committed || when == When::Over {
            f();
        }
    }
}
