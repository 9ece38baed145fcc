//! Shared memory: one block of atomics and one lock per capability, set up when the server starts.
//!
//! `RequestAddinShmemSpace` and `ShmemInitStruct` (src/backend/storage/ipc/ipci.c, shmem.c). The block is all zeroes
//! at first, and again after a crash, because the postmaster makes shared memory anew then.

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pgrx::pg_sys;

/// A type that is valid as zeroes, holds nothing but atomics, and points nowhere.
///
/// # Safety
/// All of the above. [`shared!`](crate::shared) makes such types.
pub unsafe trait Shared: Sync + 'static {}

// SAFETY: an array of such is such.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}
// SAFETY: an atomic, and 0 is a value.
unsafe impl Shared for std::sync::atomic::AtomicU64 {}

/// Declares structs of shared memory: every field is an `AtomicU64`, or an array or struct of them.
#[macro_export]
macro_rules! shared {
    ($($(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type),* }
        // SAFETY: each field is (the function does not compile otherwise).
        #[allow(unsafe_code)]
        unsafe impl $crate::pg::shmem::Shared for $name {}
        const _: fn() = || {
            fn is_shared<T: $crate::pg::shmem::Shared>() {}
            $(is_shared::<$type>();)*
        };
    )*};
}

/// Where something of shared memory is, or nowhere yet; of this process.
pub struct Place<T: 'static> {
    at: AtomicPtr<T>,
}

impl<T: Shared> Place<T> {
    pub const fn nowhere() -> Self {
        Place { at: AtomicPtr::new(std::ptr::null_mut()) }
    }

    pub fn set(&self, at: Option<&'static T>) {
        self.at.store(at.map_or(std::ptr::null_mut(), |at| std::ptr::from_ref(at).cast_mut()), Ordering::Relaxed);
    }

    #[inline]
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: null, or a reference that was handed in; T is nothing but atomics.
        unsafe { self.at.load(Ordering::Relaxed).as_ref() }
    }
}

/// A capability's block.
pub struct Area<T> {
    name: &'static CStr,
    at: AtomicPtr<T>,
    lock: AtomicPtr<pg_sys::LWLockPadded>,
}

impl<T: Shared> Area<T> {
    pub const fn new(name: &'static CStr) -> Self {
        Area { name, at: AtomicPtr::new(std::ptr::null_mut()), lock: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// The block, or `None` where the library was not preloaded.
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: set once by `start` to memory that lives as long as the process, and T is Sync.
        unsafe { self.at.load(Ordering::Relaxed).as_ref() }
    }

    /// Runs `f` while no other process does; it must be short, and cannot fail.
    pub fn locked<R>(&self, f: impl FnOnce() -> R) -> R {
        let lock = self.lock.load(Ordering::Relaxed);
        if lock.is_null() {
            return f();
        }
        // SAFETY: the lock was set by `start`. A panic in between ends in an ERROR, and that releases all of them
        // (LWLockReleaseAll, src/backend/storage/lmgr/lwlock.c).
        unsafe {
            let lock = &raw mut (*lock).lock;
            pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            let result = f();
            pg_sys::LWLockRelease(lock);
            result
        }
    }
}

/// As many values of a type as the server's settings say; whoever needs a lock takes that of an [`Area`].
pub struct Array<T> {
    name: &'static CStr,
    length: fn() -> usize,
    at: AtomicPtr<T>,
    reserved: AtomicUsize,
}

impl<T: Shared> Array<T> {
    /// `length` is asked when memory is requested: MaxBackends and all settings are known by then.
    pub const fn new(name: &'static CStr, length: fn() -> usize) -> Self {
        Array { name, length, at: AtomicPtr::new(std::ptr::null_mut()), reserved: AtomicUsize::new(0) }
    }

    /// Empty where the library was not preloaded.
    pub fn get(&self) -> &'static [T] {
        let at = self.at.load(Ordering::Relaxed);
        if at.is_null() {
            return &[];
        }
        // SAFETY: set once by `start` to memory of that many values, which lives as long as the process; T is Sync.
        unsafe { std::slice::from_raw_parts(at, self.reserved.load(Ordering::Relaxed)) }
    }
}

impl<T: Shared> Block for Array<T> {
    fn request(&self) {
        self.reserved.store((self.length)(), Ordering::Relaxed);
        // SAFETY: called from shmem_request_hook.
        unsafe { pg_sys::RequestAddinShmemSpace(size_of::<T>() * self.reserved.load(Ordering::Relaxed)) }
    }

    fn start(&self) {
        let length = self.reserved.load(Ordering::Relaxed);
        let mut found = false;
        // SAFETY: as for an area.
        unsafe {
            let at = pg_sys::ShmemInitStruct(self.name.as_ptr(), size_of::<T>() * length, &mut found).cast::<T>();
            if !found {
                std::ptr::write_bytes(at, 0, length);
            }
            self.at.store(at, Ordering::Relaxed);
        }
    }
}

/// How many backends and background workers there can be at a time.
pub fn most_backends() -> usize {
    // SAFETY: reads a backend global, set before memory is requested (src/backend/postmaster/postmaster.c).
    usize::try_from(unsafe { pg_sys::MaxBackends }).unwrap_or(0)
}

/// What the hooks need of an area, whatever its type.
pub trait Block: Sync {
    fn request(&self);
    fn start(&self);
}

impl<T: Shared> Block for Area<T> {
    fn request(&self) {
        // SAFETY: called from shmem_request_hook.
        unsafe {
            pg_sys::RequestAddinShmemSpace(size_of::<T>());
            pg_sys::RequestNamedLWLockTranche(self.name.as_ptr(), 1);
        }
    }

    fn start(&self) {
        let mut found = false;
        // SAFETY: called from shmem_startup_hook; the block has the size that was requested, is aligned as
        // ShmemAlloc aligns (a cache line), and zeroes are a valid T.
        unsafe {
            let at = pg_sys::ShmemInitStruct(self.name.as_ptr(), size_of::<T>(), &mut found).cast::<T>();
            if !found {
                std::ptr::write_bytes(at, 0, 1);
            }
            self.at.store(at, Ordering::Relaxed);
            self.lock.store(pg_sys::GetNamedLWLockTranche(self.name.as_ptr()), Ordering::Relaxed);
        }
    }
}

/// What there is to set up, and what is done then, by the postmaster alone.
type Reserved = (&'static [&'static dyn Block], fn());

static BLOCKS: std::sync::OnceLock<Reserved> = std::sync::OnceLock::new();

/// Sets the areas up, and calls `ready` in the postmaster whenever they were made: at the start, and after a crash.
/// Called once, while the library is preloaded.
pub fn reserve(blocks: &'static [&'static dyn Block], ready: fn()) {
    static mut EARLIER_REQUEST: Option<unsafe extern "C-unwind" fn()> = None;
    static mut EARLIER_STARTUP: Option<unsafe extern "C-unwind" fn()> = None;

    #[pgrx::pg_guard]
    unsafe extern "C-unwind" fn request() {
        // SAFETY: set before this was installed; the postmaster has one thread.
        unsafe {
            if let Some(earlier) = EARLIER_REQUEST {
                earlier();
            }
        }
        BLOCKS.get().into_iter().flat_map(|(b, _)| b.iter()).for_each(|b| b.request());
    }

    #[pgrx::pg_guard]
    unsafe extern "C-unwind" fn startup() {
        // SAFETY: as above.
        unsafe {
            if let Some(earlier) = EARLIER_STARTUP {
                earlier();
            }
        }
        if let Some((blocks, ready)) = BLOCKS.get() {
            blocks.iter().for_each(|b| b.start());
            // SAFETY: reads a backend global. Where processes are started anew instead of forked, each comes here.
            if !unsafe { pg_sys::IsUnderPostmaster } {
                ready();
            }
        }
    }

    if BLOCKS.set((blocks, ready)).is_ok() {
        // SAFETY: hooks are chained while the postmaster loads libraries, in one thread.
        unsafe {
            EARLIER_REQUEST = pg_sys::shmem_request_hook;
            pg_sys::shmem_request_hook = Some(request);
            EARLIER_STARTUP = pg_sys::shmem_startup_hook;
            pg_sys::shmem_startup_hook = Some(startup);
        }
    }
}

/// Has `f` run in the postmaster when the server has stopped: every other process has ended, and it did not crash. It must
/// not fail.
pub fn at_stop(f: fn()) {
    static STOP: std::sync::OnceLock<fn()> = std::sync::OnceLock::new();

    #[pgrx::pg_guard]
    unsafe extern "C-unwind" fn stopped(code: i32, _argument: pg_sys::Datum) {
        // After a crash shared memory may be anything.
        if let (0, Some(f)) = (code, STOP.get()) {
            f();
        }
    }

    let _ = STOP.set(f);
    // SAFETY: called by the postmaster, whenever shared memory was made: the one before took the callback with it.
    unsafe { pg_sys::on_shmem_exit(Some(stopped), pg_sys::Datum::from(0)) }
}

/// The number that a data directory got when it was made.
pub fn system_identifier() -> u64 {
    // SAFETY: the control file is read before shared memory is made.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// Whether the library was loaded with the server.
pub fn is_preloaded() -> bool {
    BLOCKS.get().is_some()
}

/// Whether the server is loading its shared_preload_libraries.
pub fn is_preloading() -> bool {
    // SAFETY: reads a backend global.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}
