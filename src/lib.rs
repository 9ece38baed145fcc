//! startup_wh: one Postgres as a startup's data warehouse.
//!
//! - [`fdw`]: product databases through foreign tables that follow their migrations
//! - [`refresh`]: materialized views, refreshed in order
//! - [`jobs`]: what runs when
//! - [`sources`]: third-party APIs in tables
//! - [`pg`]: safe wrappers, the only `unsafe`
//! - [`settings`], [`error`]: every setting; the one error type
//!
//! The SQL surface stands in `sql/`, loaded in the order below.

mod error;
mod fdw;
mod jobs;
mod pg;
mod refresh;
mod settings;
mod sources;

use pgrx::prelude::*;

pgrx::pg_module_magic!();

extension_sql_file!("../sql/bootstrap.sql", name = "bootstrap", bootstrap);
extension_sql_file!("../sql/fdw.sql", name = "fdw", requires = ["bootstrap"]);
extension_sql_file!("../sql/refresh.sql", name = "refresh", requires = ["fdw"]);
extension_sql_file!("../sql/jobs.sql", name = "jobs", requires = ["refresh"]);
extension_sql_file!("../sql/sources.sql", name = "sources", requires = ["jobs"]);

#[pg_guard]
#[allow(non_snake_case)]
pub extern "C-unwind" fn _PG_init() {
    settings::init();
    if pg::shmem::is_preloading() {
        jobs::preload();
    }
}
