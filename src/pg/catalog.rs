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
