//! Every setting (GUC) of the extension, with its doc, in one place.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

/// Days for which finished runs and their changes are kept.
pub static RUN_HISTORY: GucSetting<i32> = GucSetting::<i32>::new(90);

/// Defines the settings; called once, when the library is loaded.
pub fn init() {
    GucRegistry::define_int_guc(
        c"startup_wh.run_history",
        c"Days for which wh.fdw_runs and wh.fdw_changes keep a run.",
        c"Older runs are removed by the next run. The newest run of each name is always kept.",
        &RUN_HISTORY,
        1,
        36_500,
        GucContext::Suset,
        GucFlags::default(),
    );
    crate::pg::guc::reserve_prefix(c"startup_wh");
}
