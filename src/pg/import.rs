//! What a foreign-data wrapper can do.

use pgrx::pg_sys;

/// Whether the server's wrapper implements IMPORT FOREIGN SCHEMA (src/include/foreign/fdwapi.h).
pub fn supports_import(server: u32) -> bool {
    // SAFETY: raises an ERROR for a server that does not exist or has no handler; else a valid struct.
    unsafe { (*pg_sys::GetFdwRoutineByServerId(server.into())).ImportForeignSchema.is_some() }
}
