//! Every setting (GUC) of the extension, with its doc, in one place.

use std::ffi::CString;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

/// Days for which finished runs and their changes are kept.
pub static RUN_HISTORY: GucSetting<i32> = GucSetting::<i32>::new(90);

/// Databases whose jobs run, separated by commas; empty: all that have the extension.
pub static DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Runs that may go on at the same time on this server.
pub static MAX_RUNNING_JOBS: GucSetting<i32> = GucSetting::<i32>::new(5);

/// Failures in a row after which a job is paused; 0: never.
pub static MAX_FAILURES: GucSetting<i32> = GucSetting::<i32>::new(0);

/// Where secrets of sources may lie as files.
pub static SECRET_DIR: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Private networks that sources may reach.
pub static ALLOW_PRIVATE_NETWORK: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// A file of roots that sources trust besides the system's.
pub static CA_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Defines the settings; called once, when the library is loaded.
pub fn init() {
    GucRegistry::define_int_guc(
        c"startup_wh.run_history",
        c"Days for which wh.fdw_runs, wh.fdw_changes and wh.job_runs keep a run.",
        c"Older runs of a foreign application are removed by its next run, and the newest is always kept; those of jobs by the scheduler.",
        &RUN_HISTORY,
        1,
        36_500,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"startup_wh.databases",
        c"Databases whose jobs run, separated by commas.",
        c"Empty: every one that has the extension.",
        &DATABASES,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"startup_wh.max_running_jobs",
        c"Jobs that may run at the same time on this server.",
        c"Each takes a slot of max_worker_processes. Others wait.",
        &MAX_RUNNING_JOBS,
        1,
        crate::jobs::MOST_RUNNERS as i32,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"startup_wh.pause_after_failures",
        c"Failures in a row after which a job is paused.",
        c"0: never. wh.resume('job') takes the pause back.",
        &MAX_FAILURES,
        0,
        1_000_000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    for (name, short, long, setting) in [
        (
            c"startup_wh.secret_dir",
            c"Directory of the server with a file for each secret of sources.",
            c"A secret that wh.set_secret did not set is read from the file of its name.",
            &SECRET_DIR,
        ),
        (
            c"startup_wh.allow_private_network",
            c"Private networks that sources may reach, as CIDR ranges separated by commas.",
            c"Loopback, link-local and private addresses are refused otherwise.",
            &ALLOW_PRIVATE_NETWORK,
        ),
        (
            c"startup_wh.ca_file",
            c"File with PEM certificates of authorities that sources trust besides the system's.",
            c"",
            &CA_FILE,
        ),
    ] {
        GucRegistry::define_string_guc(name, short, long, setting, GucContext::Sighup, GucFlags::SUPERUSER_ONLY);
    }
    crate::pg::guc::reserve_prefix(c"startup_wh");
}
