//! Settings for the length of a scope, whatever the caller's session has.

use std::ffi::{c_int, c_void, CStr};

use pgrx::guc::{GucContext, GucEnum, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;

use super::sql::cstring;
use crate::error::Result;

/// Defines a setting that tells a function of the server's when it is set; that one must not fail.
pub fn define_enum<T: GucEnum>(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<T>,
    context: GucContext,
    is_set: unsafe extern "C-unwind" fn(c_int, *mut c_void),
) {
    // SAFETY: the function only stores what it is told, as the caller promises.
    unsafe {
        let flags = GucFlags::default();
        GucRegistry::define_enum_guc_with_hooks(name, short, long, setting, context, flags, None, Some(is_set), None)
    }
}

/// Restores every setting changed through it when dropped.
///
/// The nesting is that of function `SET` clauses (`fmgr_security_definer`, src/backend/utils/fmgr/fmgr.c). An
/// error that leaves the transaction undoes it as well.
pub struct Scope {
    level: i32,
}

impl Scope {
    pub fn new(settings: &[(&str, &str)]) -> Result<Self> {
        // SAFETY: opens a level that drop closes.
        let scope = Scope { level: unsafe { pg_sys::NewGUCNestLevel() } };
        for (name, value) in settings {
            scope.set(name, value)?;
        }
        Ok(scope)
    }

    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        set(name, value, pg_sys::GucAction::GUC_ACTION_SAVE)
    }
}

/// SET LOCAL: until the transaction ends.
pub fn set_local(name: &str, value: &str) -> Result<()> {
    set(name, value, pg_sys::GucAction::GUC_ACTION_LOCAL)
}

fn set(name: &str, value: &str, action: pg_sys::GucAction::Type) -> Result<()> {
    let (name, value) = (cstring(name)?, cstring(value)?);
    // SAFETY: both strings live through the call; PGC_SUSET, since the doors run as the extension's owner
    // or set only what any user may.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            if pg_sys::superuser() { pg_sys::GucContext::PGC_SUSET } else { pg_sys::GucContext::PGC_USERSET },
            pg_sys::GucSource::PGC_S_SESSION,
            action,
            true,
            0,
            false,
        );
    }
    Ok(())
}

impl Drop for Scope {
    fn drop(&mut self) {
        // SAFETY: closes the level opened by new; a rollback in between has closed it already, and then this
        // does nothing, since AtEOXact_GUC takes levels from `level` upwards.
        unsafe {
            if !std::thread::panicking() {
                pg_sys::AtEOXact_GUC(true, self.level);
            }
        }
    }
}

/// What deparsed definitions and their replay depend on, and what our own queries need, fixed.
pub const DEPARSE: &[(&str, &str)] = &[
    ("search_path", "pg_catalog, pg_temp"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("quote_all_identifiers", "off"),
    ("transform_null_equals", "off"),
    ("standard_conforming_strings", "on"),
    ("array_nulls", "on"),
    ("xmloption", "content"),
    ("default_tablespace", ""),
    ("default_table_access_method", "heap"),
    ("default_toast_compression", "pglz"),
    ("check_function_bodies", "on"),
    ("row_security", "on"),
    // Our own catalog queries: one plan each, and no compiler for a hundred milliseconds of work.
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
];

/// Refuses unknown settings under our prefix.
pub fn reserve_prefix(prefix: &CStr) {
    // SAFETY: called once while the library is loaded.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) }
}

/// Milliseconds of a setting in whatever unit it was written (parse_int, src/backend/utils/misc/guc.c).
pub fn milliseconds(value: &str) -> Option<i32> {
    let value = cstring(value).ok()?;
    let mut found = 0;
    // SAFETY: reads a string, writes an int; the hint is not asked for.
    let read =
        unsafe { pg_sys::parse_int(value.as_ptr(), &mut found, pg_sys::GUC_UNIT_MS as i32, std::ptr::null_mut()) };
    read.then_some(found)
}
