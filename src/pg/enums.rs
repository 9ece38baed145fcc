//! Enum values that this very transaction added, usable inside a run.
//!
//! Postgres bans them ("unsafe use of new value") because an index on an old table could keep the value's OID
//! after a rollback: `check_safe_enum_use`, src/backend/utils/adt/enum.c. What a run writes with them goes only
//! into relations' files that the same transaction makes and rules that it stores: a rollback takes both away.
//! So the ban is lifted for the length of a run, and put back as it was before the caller goes on.

use pgrx::pg_sys;

/// Lifts the ban until dropped.
pub struct BanLifted {
    banned: Vec<u64>,
}

impl BanLifted {
    pub fn new() -> Self {
        // SAFETY: the backend's own copy protocol for parallel workers (src/backend/catalog/pg_enum.c); the
        // buffer is 8-byte aligned and of the size that was asked for.
        unsafe {
            let size = pg_sys::EstimateUncommittedEnumsSpace();
            let mut banned = vec![0_u64; size.div_ceil(8) + 2];
            pg_sys::SerializeUncommittedEnums(banned.as_mut_ptr().cast(), size);
            pg_sys::AtEOXact_Enum();
            BanLifted { banned }
        }
    }
}

impl Drop for BanLifted {
    fn drop(&mut self) {
        // SAFETY: RestoreUncommittedEnums wants no table, which AtEOXact_Enum leaves.
        unsafe {
            pg_sys::AtEOXact_Enum();
            pg_sys::RestoreUncommittedEnums(self.banned.as_mut_ptr().cast());
        }
    }
}
