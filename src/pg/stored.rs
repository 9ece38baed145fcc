//! What a stored query reads and calls: a view's `ev_action` read back into nodes and walked.
//!
//! `contain_mutable_functions` (src/backend/optimizer/util/clauses.c) walks the same way, but answers yes for every
//! `timestamptz::date`, which only the time zone can change. So the functions are handed out, to be judged one by one.
//! The query comes as text because opening the view would take a lock on it.

use std::collections::BTreeSet;
use std::ffi::c_void;

use pgrx::pg_sys::Node;
use pgrx::{pg_guard, pg_sys, PgList, PgMemoryContexts};

use super::sql::cstring;
use super::walkers;
use crate::error::Result;

/// What one or more stored queries read and call.
#[derive(Debug, Default)]
pub struct Calls {
    /// Relations, by OID: also the system catalogs, for which pg_depend has no row
    /// (src/backend/catalog/pg_depend.c, isObjectPinned).
    pub relations: BTreeSet<u32>,
    /// Functions, by OID: also those under operators, casts and aggregates.
    pub functions: BTreeSet<u32>,
    /// CURRENT_DATE, CURRENT_USER and their kin, which are no functions.
    pub current_value: bool,
    /// nextval of an identity column.
    pub next_value: bool,
}

/// Adds what `action`, a `pg_rewrite.ev_action`, reads and calls.
pub fn add(calls: &mut Calls, action: &str) -> Result<()> {
    let action = cstring(action)?;
    let mut context = PgMemoryContexts::new("startup_wh stored query");
    // SAFETY: nodeToString wrote the text and this server reads it; the nodes live in a context that goes after the
    // walk; `calls` outlives it, and nothing else touches it meanwhile.
    unsafe {
        context.switch_to(|_| {
            let nodes = pg_sys::stringToNode(action.as_ptr()).cast::<Node>();
            walk(nodes, std::ptr::from_mut(calls).cast());
        });
    }
    Ok(())
}

/// SAFETY: called by [`add`] and by the server's walkers, with a node or null and a pointer to [`Calls`].
#[pg_guard]
unsafe extern "C-unwind" fn walk(node: *mut Node, calls: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: as above; a node's tag says what it is.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_SQLValueFunction => (*calls.cast::<Calls>()).current_value = true,
            pg_sys::NodeTag::T_NextValueExpr => (*calls.cast::<Calls>()).next_value = true,
            pg_sys::NodeTag::T_Query => {
                let query = node.cast::<pg_sys::Query>();
                for entry in PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).iter_ptr() {
                    if (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION {
                        (*calls.cast::<Calls>()).relations.insert((*entry).relid.to_u32());
                    }
                }
                return walkers::query(query, walk, calls);
            }
            _ => {}
        }
        pg_sys::check_functions_in_node(node, Some(note), calls);
        walkers::expression(node, walk, calls)
    }
}

/// SAFETY: called by check_functions_in_node with the pointer that [`walk`] passed.
#[pg_guard]
unsafe extern "C-unwind" fn note(function: pg_sys::Oid, calls: *mut c_void) -> bool {
    // SAFETY: as above.
    unsafe { (*calls.cast::<Calls>()).functions.insert(function.to_u32()) };
    false
}
