//! The server's walkers of node trees: functions of these names up to Postgres 15, macros over others since
//! (src/include/nodes/nodeFuncs.h).

use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::pg_sys::Node;

pub type Walker = unsafe extern "C-unwind" fn(*mut Node, *mut c_void) -> bool;

#[cfg(feature = "pg15")]
mod of_the_server {
    use super::{c_void, pg_sys, Node, Walker};
    use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

    unsafe extern "C-unwind" {
        fn expression_tree_walker(node: *mut Node, walker: Walker, context: *mut c_void) -> bool;
        fn query_tree_walker(query: *mut pg_sys::Query, walker: Walker, context: *mut c_void, flags: i32) -> bool;
        fn raw_expression_tree_walker(node: *mut Node, walker: Walker, context: *mut c_void) -> bool;
    }

    pub unsafe fn expression(node: *mut Node, walker: Walker, context: *mut c_void) -> bool {
        // SAFETY: the caller's.
        unsafe { pg_guard_ffi_boundary(|| expression_tree_walker(node, walker, context)) }
    }

    pub unsafe fn query(query: *mut pg_sys::Query, walker: Walker, context: *mut c_void) -> bool {
        // SAFETY: the caller's.
        unsafe { pg_guard_ffi_boundary(|| query_tree_walker(query, walker, context, 0)) }
    }

    pub unsafe fn raw(node: *mut Node, walker: Walker, context: *mut c_void) -> bool {
        // SAFETY: the caller's.
        unsafe { pg_guard_ffi_boundary(|| raw_expression_tree_walker(node, walker, context)) }
    }
}

#[cfg(not(feature = "pg15"))]
mod of_the_server {
    use super::{c_void, pg_sys, Node, Walker};

    pub unsafe fn expression(node: *mut Node, walker: Walker, context: *mut c_void) -> bool {
        // SAFETY: the caller's.
        unsafe { pg_sys::expression_tree_walker_impl(node, Some(walker), context) }
    }

    pub unsafe fn query(query: *mut pg_sys::Query, walker: Walker, context: *mut c_void) -> bool {
        // SAFETY: the caller's.
        unsafe { pg_sys::query_tree_walker_impl(query, Some(walker), context, 0) }
    }

    pub unsafe fn raw(node: *mut Node, walker: Walker, context: *mut c_void) -> bool {
        // SAFETY: the caller's.
        unsafe { pg_sys::raw_expression_tree_walker_impl(node, Some(walker), context) }
    }
}

pub use of_the_server::{expression, query, raw};
