//! The asker's own statements by their texts, which only pg_stat_statements has.
//!
//! It is asked as the caller: it shows texts to whom they belong, and a function with more rights than the caller has would
//! show them to everybody.

use serde::Deserialize;

use crate::error::Result;
use crate::pg::{session, spi, sql};

/// A statement of the asker's. Times are milliseconds.
#[derive(Deserialize)]
pub struct Statement {
    pub fingerprint: Option<i64>,
    pub query: Option<String>,
    pub calls: i64,
    pub total_time: f64,
    pub mean_time: f64,
    pub max_time: f64,
    pub rows: i64,
}

/// Those of the current user in this database; none, and a NOTICE, where nobody collects them.
pub fn mine() -> Result<Vec<Statement>> {
    // The extension's own view, and nothing that somebody else called the same.
    let schema: Option<String> = spi::look_first(
        "SELECT pg_catalog.to_json(n.nspname)::text FROM pg_catalog.pg_extension e
         JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = e.oid
           AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'e'
         JOIN pg_catalog.pg_class c ON c.oid = d.objid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE e.extname = 'pg_stat_statements' AND c.relname = 'pg_stat_statements' AND c.relkind = 'v'",
        &[],
    )?;
    let loaded: Option<bool> = spi::look_first(
        "SELECT pg_catalog.to_json(pg_catalog.current_setting('pg_stat_statements.max', true) IS NOT NULL)::text",
        &[],
    )?;
    let Some(schema) = schema.filter(|_| loaded == Some(true)) else {
        session::notice(
            "statements by their texts are collected by pg_stat_statements, which is not installed here",
            "",
            "Add pg_stat_statements to shared_preload_libraries, restart the server, and CREATE EXTENSION pg_stat_statements in this database.",
        );
        return Ok(Vec::new());
    };
    spi::look(
        &format!(
            "SELECT pg_catalog.json_build_object('fingerprint', s.queryid, 'query', s.query, 'calls', s.calls,
                    'total_time', s.total_exec_time, 'mean_time', s.mean_exec_time, 'max_time', s.max_exec_time, 'rows', s.rows)::text
             FROM {} s WHERE s.userid = $1
               AND s.dbid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
             ORDER BY s.total_exec_time DESC",
            sql::qualified(&schema, "pg_stat_statements")
        ),
        &[spi::oid(session::current_user())],
    )
}
