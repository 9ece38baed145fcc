//! Look-ups that go through the server's own caches instead of SQL.

use std::ffi::CStr;

use pgrx::pg_sys;

/// A type as DDL writes it: `format_type` of src/backend/utils/adt/format_type.c. What is not on the search_path is
/// qualified.
pub fn format_type(oid: u32, typmod: i32) -> String {
    // SAFETY: returns a palloc'd string, for an unknown OID too ("???").
    unsafe {
        let flags = (pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN | pg_sys::FORMAT_TYPE_ALLOW_INVALID) as u16;
        CStr::from_ptr(pg_sys::format_type_extended(oid.into(), typmod, flags)).to_string_lossy().into_owned()
    }
}

/// A database of this server.
pub struct Database {
    pub oid: u32,
    pub name: String,
    pub owner: u32,
    pub is_template: bool,
    /// Whether anybody may connect, and a DROP was not cut short in it.
    pub connectable: bool,
}

/// All databases, in a transaction that need not be in any of them (get_database_list,
/// src/backend/postmaster/autovacuum.c).
pub fn databases() -> Vec<Database> {
    let mut found = Vec::new();
    // SAFETY: a catalog scan; each tuple is read before the next one is fetched, under the struct of its catalog.
    unsafe {
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            found.push(Database {
                oid: (*row).oid.to_u32(),
                name: CStr::from_ptr((*row).datname.data.as_ptr()).to_string_lossy().into_owned(),
                owner: (*row).datdba.to_u32(),
                is_template: (*row).datistemplate,
                // -2 is DATCONNLIMIT_INVALID_DB (src/include/catalog/pg_database.h).
                connectable: (*row).datallowconn && (*row).datconnlimit != -2,
            });
        }
        pg_sys::table_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    found
}

/// Where the numbers of relations and columns hold: this database of this cluster and its copies, and not one that was
/// restored from a dump.
pub fn place() -> String {
    // SAFETY: reads shared memory that never changes, and a backend global.
    unsafe { format!("{}/{}", pg_sys::GetSystemIdentifier(), pg_sys::MyDatabaseId.to_u32()) }
}

/// OID of this database.
pub fn my_database() -> u32 {
    // SAFETY: reads a backend global.
    unsafe { pg_sys::MyDatabaseId.to_u32() }
}
