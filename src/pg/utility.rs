//! One utility statement, and how many rows it says that it processed: SPI gives that for few of them.
//!
//! The way is that of `_SPI_execute_plan` (src/backend/executor/spi.c): parse, wrap, and hand to `ProcessUtility` with
//! a fresh snapshot, as a statement that is complete but not the client's own.

use pgrx::{pg_sys, PgList};

use super::sql::cstring;
use crate::error::{sqlstate, Error, Result};

/// Runs `statement` as the current user.
pub fn run(statement: &str) -> Result<u64> {
    let not_one = || Error::new(sqlstate::INTERNAL_ERROR, "exactly one utility statement was expected");
    let source = cstring(statement)?;
    // SAFETY: the server's own entry points, in their order, on a string that outlives them; the nodes are of the
    // type that their checked tags say. An error leaves the snapshot to the abort of the transaction.
    unsafe {
        pg_sys::CommandCounterIncrement();
        let raw = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::pg_parse_query(source.as_ptr()));
        let (1, Some(raw)) = (raw.len(), raw.get_ptr(0)) else {
            return Err(not_one());
        };
        let none = std::ptr::null_mut();
        let queries = pg_sys::pg_analyze_and_rewrite_fixedparams(raw, source.as_ptr(), std::ptr::null(), 0, none);
        let plans = pg_sys::pg_plan_queries(queries, source.as_ptr(), 0, std::ptr::null_mut());
        let plans = PgList::<pg_sys::PlannedStmt>::from_pg(plans);
        let (1, Some(plan)) = (plans.len(), plans.get_ptr(0)) else {
            return Err(not_one());
        };
        if (*plan).utilityStmt.is_null() {
            return Err(not_one());
        }
        let mut completion = pg_sys::QueryCompletion::default();
        pg_sys::InitializeQueryCompletion(&mut completion);
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        pg_sys::ProcessUtility(
            plan,
            source.as_ptr(),
            false,
            pg_sys::ProcessUtilityContext::PROCESS_UTILITY_QUERY,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            pg_sys::None_Receiver,
            &mut completion,
        );
        // A utility that commits has popped it (PortalRunUtility, src/backend/tcop/pquery.c).
        if pg_sys::ActiveSnapshotSet() {
            pg_sys::PopActiveSnapshot();
        }
        pg_sys::CommandCounterIncrement();
        Ok(completion.nprocessed)
    }
}
