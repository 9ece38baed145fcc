//! Every setting (GUC) of the extension, with its doc, in one place.

use std::ffi::CString;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

/// Days for which finished runs and their changes are kept.
pub static RUN_HISTORY: GucSetting<i32> = GucSetting::<i32>::new(90);

/// Databases whose jobs run, separated by commas; empty: all that have the extension.
pub static DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Runs that may go on at the same time on this server.
pub static MAX_RUNNING_JOBS: GucSetting<i32> = GucSetting::<i32>::new(5);

/// Failures in a row after which a job is paused; 0: never.
pub static MAX_FAILURES: GucSetting<i32> = GucSetting::<i32>::new(0);

/// Seconds between two measurements of sizes; 0: none.
pub static SIZE_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(300);

/// Days without a read after which wh.my_relations has a line that drops.
pub static UNUSED_AFTER: GucSetting<i32> = GucSetting::<i32>::new(90);

/// Where secrets of sources may lie as files.
pub static SECRET_DIR: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Private networks that sources may reach.
pub static ALLOW_PRIVATE_NETWORK: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// A file of roots that sources trust besides the system's.
pub static CA_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Roles, each in each of its databases, whose query time has an entry of its own.
pub static MAX_USERS: GucSetting<i32> = GucSetting::<i32>::new(500);

/// Whom a statement's time counts for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PostgresGucEnum)]
pub enum UsageRole {
    /// Who logged in.
    #[name = c"session"]
    Session,
    /// Who that has become by SET ROLE: for poolers.
    #[name = c"current"]
    Current,
}

pub static USAGE_ROLE: GucSetting<UsageRole> = GucSetting::<UsageRole>::new(UsageRole::Session);

/// Whose figures everybody may see.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PostgresGucEnum)]
pub enum UsageVisibility {
    #[name = c"all"]
    All,
    #[name = c"own"]
    Own,
}

pub static USAGE_VISIBILITY: GucSetting<UsageVisibility> = GucSetting::<UsageVisibility>::new(UsageVisibility::All);

/// Seconds between two times that query time is written down; a crash loses no more.
pub static USAGE_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(10);

/// Days for which the history of usage is kept.
pub static USAGE_HISTORY: GucSetting<i32> = GucSetting::<i32>::new(400);

/// What comes before the name of a query or the number of a result in a link.
pub static LINK_BASE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Days for which results of queries are kept.
pub static RESULT_HISTORY: GucSetting<i32> = GucSetting::<i32>::new(90);

/// Kilobytes up to which a result is kept as JSON, and not as a table.
pub static RESULT_INLINE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(1024);

/// Megabytes that one result may have.
pub static MAX_RESULT_SIZE: GucSetting<i32> = GucSetting::<i32>::new(1024);

/// Megabytes that all results of one owner may take.
pub static RESULT_QUOTA: GucSetting<i32> = GucSetting::<i32>::new(10 * 1024);

/// Milliseconds after which a statement of a role is cancelled; 0: never. It counts where it is set for the role.
pub static MAX_QUERY_TIME: GucSetting<i32> = GucSetting::<i32>::new(0);

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
    GucRegistry::define_int_guc(
        c"startup_wh.size_interval",
        c"Time between two measurements of what schemas and relations weigh.",
        c"0: no worker measures.",
        &SIZE_INTERVAL,
        0,
        86_400,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"startup_wh.unused_after",
        c"Days without a read after which wh.my_relations has a line that drops.",
        c"",
        &UNUSED_AFTER,
        1,
        36_500,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"startup_wh.max_query_time",
        c"Time after which a statement of a role is cancelled.",
        c"0: never. Set for a role by wh.add_analyst, or by a superuser with ALTER ROLE; the role itself cannot lift it.",
        &MAX_QUERY_TIME,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MS,
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
    usage();
    GucRegistry::define_string_guc(
        c"startup_wh.link_base",
        c"What comes before the name of a query or the number of a result in a link.",
        c"For instance https://warehouse.example.com/q/",
        &LINK_BASE,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"startup_wh.result_history",
        c"Days for which results of queries are kept.",
        c"Older ones are removed by the scheduler, and by wh.expire_results().",
        &RESULT_HISTORY,
        1,
        36_500,
        GucContext::Suset,
        GucFlags::default(),
    );
    for (name, short, long, setting, most, unit) in [
        (
            c"startup_wh.result_inline_size",
            c"Size up to which a result is kept as JSON.",
            c"A larger one becomes a table in schema wh_results.",
            &RESULT_INLINE_SIZE,
            64 * 1024,
            GucFlags::UNIT_KB,
        ),
        (
            c"startup_wh.max_result_size",
            c"Size that one result may have.",
            c"A query that returns more fails.",
            &MAX_RESULT_SIZE,
            i32::MAX / 1024,
            GucFlags::UNIT_MB,
        ),
        (
            c"startup_wh.result_quota",
            c"Size that all results of one owner may have.",
            c"The oldest beyond it are removed by the scheduler, and by wh.expire_results().",
            &RESULT_QUOTA,
            i32::MAX / 1024,
            GucFlags::UNIT_MB,
        ),
    ] {
        GucRegistry::define_int_guc(name, short, long, setting, 0, most, GucContext::Suset, unit);
    }
    crate::pg::guc::reserve_prefix(c"startup_wh");
}

fn usage() {
    // Where the library comes later, nothing is counted, and no setting of the server's start can be defined any more.
    GucRegistry::define_int_guc(
        c"startup_wh.max_users",
        c"Roles, each in each of its databases, whose query time is counted apart.",
        c"Others share one entry for each database, so that totals stay exact.",
        &MAX_USERS,
        1,
        100_000,
        if crate::pg::shmem::is_preloading() { GucContext::Postmaster } else { GucContext::Sighup },
        GucFlags::default(),
    );
    crate::pg::guc::define_enum(
        c"startup_wh.usage_role",
        c"Whom a statement counts for: the session's user, or the current one after SET ROLE.",
        c"\"current\" is for poolers that log in as one role and become another. Functions of others never change it.",
        &USAGE_ROLE,
        GucContext::Sighup,
        crate::pg::hooks::statements::role_is_set,
    );
    GucRegistry::define_enum_guc(
        c"startup_wh.usage_visibility",
        c"Whose usage everybody sees who may read schema wh: of all, or only their own.",
        c"Members of wh_admin and of pg_read_all_stats see all. Texts of queries are never shown to others.",
        &USAGE_VISIBILITY,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"startup_wh.usage_interval",
        c"Time between two times that query time is written to its table.",
        c"A crash loses no more than that.",
        &USAGE_INTERVAL,
        1,
        3600,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"startup_wh.usage_history",
        c"Days for which the history of usage is kept.",
        c"What is older stays in the figures for all time.",
        &USAGE_HISTORY,
        31,
        36_500,
        GucContext::Sighup,
        GucFlags::default(),
    );
}
