//! startup_wh: one Postgres as a startup's data warehouse.
//!
//! - [`fdw`]: product databases through foreign tables that follow their migrations
//! - [`refresh`]: materialized views, refreshed in order
//! - [`jobs`]: what runs when
//! - [`sources`]: third-party APIs in tables
//! - [`usage`]: what each role's queries cost, and what each schema weighs
//! - [`policy`]: what must not reach analysts
//! - [`analysts`]: people, what they may read, and a place of their own
//! - [`queries`]: saved queries, and their results kept
//! - [`json`]: walking over JSON's text
//! - [`pg`]: safe wrappers, the only `unsafe`
//! - [`settings`], [`error`]: every setting; the one error type
//!
//! The SQL surface stands in `sql/`, loaded in the order below.

mod analysts;
mod error;
mod fdw;
mod jobs;
mod json;
mod pg;
mod policy;
mod queries;
mod refresh;
mod settings;
mod sources;
mod usage;

use pgrx::prelude::*;

pgrx::pg_module_magic!();

extension_sql_file!("../sql/bootstrap.sql", name = "bootstrap", bootstrap);
extension_sql_file!("../sql/fdw.sql", name = "fdw", requires = ["bootstrap"]);
extension_sql_file!("../sql/refresh.sql", name = "refresh", requires = ["fdw"]);
extension_sql_file!("../sql/jobs.sql", name = "jobs", requires = ["refresh"]);
extension_sql_file!("../sql/sources.sql", name = "sources", requires = ["jobs"]);
extension_sql_file!("../sql/usage.sql", name = "usage", requires = ["sources"]);
extension_sql_file!("../sql/sizes.sql", name = "sizes", requires = ["usage"]);
extension_sql_file!("../sql/queries.sql", name = "queries", requires = ["sizes"]);
extension_sql_file!("../sql/policy.sql", name = "policy", requires = ["queries"]);
extension_sql_file!("../sql/analysts.sql", name = "analysts", requires = ["policy"]);
extension_sql_file!("../sql/my_usage.sql", name = "my_usage", requires = ["analysts"]);

/// Where a server's environment asks for backtraces (RUST_BACKTRACE), pgrx would put one into the DETAIL of each error that
/// passes through us (pgrx-pg-sys, submodules/panic.rs). Nobody who reads an error has use for it, and taking it costs.
fn no_backtraces() {
    const SETTING: &str = "RUST_LIB_BACKTRACE";
    if std::env::var_os(SETTING).is_none() {
        // In a process that has one thread.
        std::env::set_var(SETTING, "0");
    }
}

#[pg_guard]
#[allow(non_snake_case)]
pub extern "C-unwind" fn _PG_init() {
    no_backtraces();
    settings::init();
    pg::watch::init();
    if pg::shmem::is_preloading() {
        static MEMORY: &[&dyn pg::shmem::Block] = &[jobs::MEMORY, &usage::HEAD, &usage::SLOTS, &usage::ENTRIES];
        pg::shmem::reserve(MEMORY, usage::begin);
        jobs::preload();
        usage::preload();
        analysts::preload();
    }
}
