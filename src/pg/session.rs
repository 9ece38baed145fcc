//! Facts about the session and its transaction.

use pgrx::pg_sys;

use crate::error::{sqlstate, Error, Result};

/// OID of the current user: inside a definer function, its owner.
pub fn current_user() -> u32 {
    // SAFETY: reads a backend global.
    unsafe { pg_sys::GetUserId().to_u32() }
}

/// OID of the role that called the definer function: after SET ROLE the role that was set.
pub fn outer_user() -> u32 {
    // SAFETY: reads a backend global.
    unsafe { pg_sys::GetOuterUserId().to_u32() }
}

/// Whether a role has every right.
pub fn is_superuser_role(role: u32) -> bool {
    // SAFETY: a catalog look-up inside a transaction.
    unsafe { pg_sys::superuser_arg(role.into()) }
}

/// Name of the user who logged in.
pub fn session_user_name() -> String {
    // SAFETY: reads a backend global.
    name_of_role(unsafe { pg_sys::GetSessionUserId() }.to_u32())
}

/// Name of a role, from the catalog.
pub fn name_of_role(role: u32) -> String {
    // SAFETY: GetUserNameFromId with noerr returns NULL or a palloc'd string.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role.into(), true);
        if name.is_null() {
            return String::from("unknown");
        }
        let found = std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned();
        pg_sys::pfree(name.cast());
        found
    }
}

/// Now, in the server's time: microseconds since 2000.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// A NOTICE to the client.
pub fn notice(message: &str, detail: &str, hint: &str) {
    let mut report = pg_sys::panic::ErrorReport::new(
        pgrx::PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        message.to_owned(),
        "startup_wh",
    )
    .set_hint(hint.to_owned());
    if !detail.is_empty() {
        report = report.set_detail(detail.to_owned());
    }
    report.report(pgrx::PgLogLevel::NOTICE);
}

/// Whether a transaction is open and has not failed: catalogs may be looked at.
pub fn in_transaction() -> bool {
    // SAFETY: reads a static.
    unsafe { pg_sys::IsTransactionState() }
}

/// Whether each statement sees what others have committed by then (XACT_READ_COMMITTED or below, src/include/access/xact.h).
pub fn is_read_committed() -> bool {
    // SAFETY: reads a backend global.
    unsafe { pg_sys::XactIsoLevel <= pg_sys::XACT_READ_COMMITTED as i32 }
}

/// Refuses a call from within a security-restricted operation: somebody's view is refreshed or analysed there, and who it
/// is that calls cannot be known.
pub fn refuse_restricted() -> Result<()> {
    // SAFETY: reads a backend global.
    if !unsafe { pg_sys::InSecurityRestrictedOperation() } {
        return Ok(());
    }
    Err(Error::new(
        sqlstate::INSUFFICIENT_PRIVILEGE,
        "cannot call this function within a security-restricted operation",
    )
    .hint("A materialized view, an index or a rule must not call it. Call it by itself."))
}

/// Ends a statement whose statement_timeout is over.
///
/// Where lock_timeout fires just before it, ProcessInterrupts (src/backend/tcop/postgres.c) reports that alone and forgets
/// the other: whoever goes on after 55P03 must look.
pub fn obey_statement_timeout() -> Result<()> {
    // SAFETY: reads of backend globals.
    let (limit, begun, now) = unsafe {
        (pg_sys::StatementTimeout, pg_sys::GetCurrentStatementStartTimestamp(), pg_sys::GetCurrentTimestamp())
    };
    if limit <= 0 || now - begun < i64::from(limit) * 1000 {
        return Ok(());
    }
    Err(Error::new("57014", "canceling statement due to statement timeout"))
}

/// Lets the open transaction write until dropped, where its user asked for READ ONLY: the record of what it did is not
/// the user's. Nothing that a user wrote may run meanwhile.
pub struct Writable {
    read_only: bool,
}

impl Writable {
    pub fn new() -> Self {
        // SAFETY: a backend global. `SET` would refuse the way back from READ ONLY (check_transaction_read_only,
        // src/backend/commands/variable.c), which protects users' code from users' code.
        unsafe {
            let read_only = pg_sys::XactReadOnly;
            pg_sys::XactReadOnly = false;
            Writable { read_only }
        }
    }
}

impl Drop for Writable {
    fn drop(&mut self) {
        // SAFETY: as in new. The next transaction sets it anew.
        unsafe { pg_sys::XactReadOnly = self.read_only }
    }
}

/// Refuses what writes, where the transaction may not (src/backend/tcop/utility.c).
pub fn refuse_read_only(what: &std::ffi::CStr) {
    // SAFETY: raises an error, or does nothing.
    unsafe { pg_sys::PreventCommandIfReadOnly(what.as_ptr()) }
}

/// What somebody's query runs in: nothing can be written, and nobody can become somebody else, whatever their code does.
///
/// Within a subtransaction READ ONLY can't be taken back (check_XactReadOnly, src/backend/commands/variable.c), and
/// SET ROLE and its kin are refused in a security-restricted operation.
pub struct Confined {
    user: pg_sys::Oid,
    context: i32,
    read_only: bool,
}

impl Confined {
    /// In a subtransaction; until dropped.
    pub fn begin() -> Self {
        let mut confined = Confined { user: pg_sys::InvalidOid, context: 0, read_only: false };
        // SAFETY: out-parameters point at live fields; drop undoes it, and so does the end of the subtransaction.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut confined.user, &mut confined.context);
            let context = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
            pg_sys::SetUserIdAndSecContext(confined.user, confined.context | context as i32);
            confined.read_only = pg_sys::XactReadOnly;
            pg_sys::XactReadOnly = true;
        }
        confined
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        // SAFETY: restores what begin read.
        unsafe {
            pg_sys::SetUserIdAndSecContext(self.user, self.context);
            pg_sys::XactReadOnly = self.read_only;
        }
    }
}

/// Whether the current user has the rights of a role; of one that is gone, only a superuser.
pub fn has_rights_of(role: u32) -> bool {
    // SAFETY: a catalog look-up inside a transaction.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), role.into()) }
}

/// Whether the current user has the rights of a role by its name.
pub fn has_rights_of_named(role: &std::ffi::CStr) -> bool {
    // SAFETY: as above; the name is copied by nobody and looked up at once. InvalidOid is no role.
    let oid = unsafe { pg_sys::get_role_oid(role.as_ptr(), true) };
    oid != pg_sys::InvalidOid && has_rights_of(oid.to_u32())
}

/// Whether the current user has every right.
pub fn is_superuser() -> bool {
    // SAFETY: a catalog look-up inside a transaction.
    unsafe { pg_sys::superuser() }
}

/// Whether somebody else has a session in this database: who can be in the middle of reading. Background workers
/// don't count. pg_stat_activity would hide from an analyst what kind the other sessions are.
pub fn others_are_connected() -> bool {
    // SAFETY: reads backend globals, and shared memory under its own lock (src/backend/storage/ipc/procarray.c).
    unsafe {
        let myself = pg_sys::MyBackendType == pg_sys::BackendType::B_BACKEND;
        pg_sys::CountDBConnections(pg_sys::MyDatabaseId) > i32::from(myself)
    }
}
