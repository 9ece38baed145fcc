//! Frees memory once the transaction's locks are released: others wait for those meanwhile.

use std::any::Any;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys;
use pgrx::prelude::*;

thread_local! {
    static WAITING: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// Things that wait at a time: in a transaction that goes on and on they would be ever more.
const MOST: usize = 2;

/// Drops something that takes long to free, when the transaction that is open now has ended; what waits longer than
/// [`MOST`] others is dropped for the next. Its `drop` must touch nothing of the server's.
pub fn drop(thing: impl Any) {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    WAITING.with_borrow_mut(|waiting| {
        if waiting.len() == MOST {
            waiting.remove(0);
        }
        waiting.push(Box::new(thing));
    });
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: the callback stays for the life of the process.
        unsafe { pg_sys::RegisterResourceReleaseCallback(Some(released), std::ptr::null_mut()) }
    }
}

/// Called in each phase of each resource owner's end (ResourceOwnerReleaseInternal, src/backend/utils/resowner/resowner.c).
#[pg_guard]
unsafe extern "C-unwind" fn released(
    phase: pg_sys::ResourceReleasePhase::Type,
    _committed: bool,
    top_level: bool,
    _argument: *mut std::ffi::c_void,
) {
    if top_level && phase == pg_sys::ResourceReleasePhase::RESOURCE_RELEASE_AFTER_LOCKS {
        WAITING.with_borrow_mut(std::mem::take);
    }
}
