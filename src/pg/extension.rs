//! The extension itself: whether it is there, whose it is, and how it is kept while a transaction needs it.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::{guc, spi, worker};
use crate::error::Result;

/// Keeps an extension from being dropped until this transaction ends; false where it is not installed.
pub fn hold(name: &CStr) -> Result<bool> {
    Ok(held(name)?.is_some())
}

/// The same, with its OID: one that was dropped and made again has another.
pub fn held(name: &CStr) -> Result<Option<u32>> {
    while let Some(found) = oid(name) {
        keep(found)?;
        if oid(name) == Some(found) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The same, of an extension that was there before: false where it is gone, or was made again.
pub fn hold_that(name: &CStr, extension: u32) -> Result<bool> {
    keep(extension)?;
    Ok(oid(name) == Some(extension))
}

fn oid(name: &CStr) -> Option<u32> {
    // SAFETY: a catalog look-up inside a transaction.
    let found = unsafe { pg_sys::get_extension_oid(name.as_ptr(), true) };
    (found != pg_sys::InvalidOid).then(|| found.to_u32())
}

/// Waits for whoever drops an extension, and for nobody else, and keeps it there from now on.
///
/// DROP EXTENSION locks it before its tables (get_object_address, src/backend/catalog/objectaddress.c): who asks here
/// before touching one of them waits behind it, and never the other way round, which would be a deadlock. But everybody
/// who has a function may lock an extension (ALTER FUNCTION ... DEPENDS ON EXTENSION: ExecAlterObjectDependsStmt,
/// src/backend/commands/alter.c). So where it is locked its tables are held instead, all or none: whoever has it has not
/// come to them, and will wait there.
fn keep(extension: u32) -> Result<()> {
    loop {
        if lock_extension(extension) {
            return Ok(());
        }
        let mut held = Vec::new();
        let taken = tables(extension)?.into_iter().find(|table| {
            let mode = pg_sys::AccessShareLock as i32;
            // SAFETY: a lock by OID may be taken whether or not the relation still is.
            let had = unsafe { pg_sys::ConditionalLockRelationOid((*table).into(), mode) };
            if had {
                held.push(*table);
            }
            !had
        });
        let Some(taken) = taken else { return Ok(()) };
        // SAFETY: gives back what was taken above; then waits as the server does, with its eye on deadlocks.
        unsafe {
            let mode = pg_sys::AccessShareLock as i32;
            held.into_iter().for_each(|table| pg_sys::UnlockRelationOid(table.into(), mode));
            pg_sys::LockRelationOid(taken.into(), mode);
            pg_sys::UnlockRelationOid(taken.into(), mode);
        }
        pgrx::check_for_interrupts!();
    }
}

/// Locks an extension as LockDatabaseObject does (src/backend/storage/lmgr/lmgr.c), if nobody has to be waited for.
fn lock_extension(extension: u32) -> bool {
    // SAFETY: the tag is SET_LOCKTAG_OBJECT's (src/include/storage/lock.h); the transaction releases the lock.
    unsafe {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: pg_sys::MyDatabaseId.to_u32(),
            locktag_field2: pg_sys::ExtensionRelationId.to_u32(),
            locktag_field3: extension,
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        };
        let had = pg_sys::LockAcquire(&tag, pg_sys::AccessShareLock as i32, false, true);
        pg_sys::AcceptInvalidationMessages();
        had != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}

/// The tables that belong to an extension.
fn tables(extension: u32) -> Result<Vec<u32>> {
    // A command may have set what it likes.
    let _path = guc::Scope::new(&[("search_path", "pg_catalog, pg_temp")])?;
    worker::with_snapshot(|| {
        spi::look(
            "SELECT pg_catalog.to_json(c.oid::int8)::text FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid
             WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = $1 AND d.deptype = 'e'
               AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.relkind = 'r'",
            &[spi::oid(extension)],
        )
    })
}

/// The owner of an extension in this database, or `None` where it is not installed.
pub fn owner(name: &CStr) -> Option<u32> {
    let mut owner = None;
    // SAFETY: a scan of a catalog of few rows, each read under its struct; it works in parallel workers too.
    unsafe {
        let relation = pg_sys::table_open(pg_sys::ExtensionRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        while owner.is_none() {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_extension>();
            if CStr::from_ptr((*row).extname.data.as_ptr()) == name {
                owner = Some((*row).extowner.to_u32());
            }
        }
        pg_sys::table_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    owner
}
