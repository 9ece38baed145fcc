//! Rows of a scan that counts only as a whole: they wait in a table beside the stream's, until all of them are there.
//!
//! It is an ordinary table, so that it is as the stream's state is after a crash, and a scan that was interrupted goes on.

use super::table::Table;
use crate::error::{sqlstate, Error, Result};
use crate::pg::{spi, sql};

/// The name of a table that belongs to `table` for a while.
pub fn name(table: &Table, what: &str) -> Result<String> {
    let schema: Option<String> = spi::first(
        "SELECT pg_catalog.to_json(n.nspname)::text FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
        &[spi::oid(table.oid)],
    )?;
    Ok(sql::qualified(&schema.unwrap_or_default(), &format!("_{what}_{}", table.oid)))
}

/// The number of a table that we made, if there is one of this name. Who may create tables here may have put another one
/// in its place, whose triggers would run with our rights.
pub fn find(name: &str) -> Result<Option<u32>> {
    let there: Option<(u32, bool)> = spi::first(
        "SELECT pg_catalog.json_build_array(c.oid::int8, pg_catalog.pg_get_userbyid(c.relowner) = CURRENT_USER AND c.relkind = 'r')::text
         FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass($1)",
        &[name.into()],
    )?;
    match there {
        Some((_, false)) => {
            Err(Error::new(sqlstate::DUPLICATE_OBJECT, format!("{name} exists, and is not of startup_wh"))
                .hint("Drop it: the name is kept for rows of unfinished fetches."))
        }
        there => Ok(there.map(|(oid, _)| oid)),
    }
}

/// The table aside, empty where the scan is a new one. The flag says whether it was made just now.
pub fn open(table: &Table, fresh: bool) -> Result<(Table, bool)> {
    let name = name(table, "aside")?;
    let there = find(&name)?;
    if let (Some(oid), false) = (there, fresh) {
        return Ok((Table { oid, name, keyed: false }, false));
    }
    if there.is_some() {
        spi::run(&format!("DROP TABLE {name}"), &[])?;
    }
    spi::run(&format!("CREATE TABLE {name} (LIKE {} INCLUDING DEFAULTS)", table.name), &[])?;
    spi::run(&format!("COMMENT ON TABLE {name} IS 'Rows of an unfinished fetch, kept by startup_wh'"), &[])?;
    let oid = find(&name)?.unwrap_or_default();
    Ok((Table { oid, name, keyed: false }, true))
}

/// How what waits gets into the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// In the place of what was there.
    Instead,
    Beside,
    /// Beside it, but for what an earlier run has read already: a bound is inclusive.
    BesideOnce,
}

/// Moves what waits into the table. Returns how many rows came, how many went, and how many were there already.
pub fn take_over(table: &Table, aside: &Table, into: Into) -> Result<(u64, u64, u64)> {
    let removed = match into {
        Into::Instead => spi::run(&format!("DELETE FROM {}", table.name), &[])? as u64,
        _ => 0,
    };
    // As often as it is there already, a content is not new: records without a key may be alike.
    let again = match into {
        Into::BesideOnce => spi::run(
            &format!(
                "DELETE FROM {0} a USING (SELECT ctid AS at, _hash, pg_catalog.row_number() OVER (PARTITION BY _hash) AS n FROM {0}) r
                   JOIN (SELECT _hash, pg_catalog.count(*) AS n FROM {1} WHERE _hash IN (SELECT _hash FROM {0}) GROUP BY 1) t ON t._hash = r._hash
                 WHERE a.ctid = r.at AND r.n <= t.n",
                aside.name, table.name
            ),
            &[],
        )? as u64,
        _ => 0,
    };
    let columns: Vec<String> = spi::rows(
        "SELECT pg_catalog.to_json(a.attname)::text FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
        &[spi::oid(aside.oid)],
    )?;
    let columns: Vec<String> = columns.iter().map(|c| sql::ident(c)).collect();
    let columns = columns.join(", ");
    let came =
        spi::run(&format!("INSERT INTO {} ({columns}) SELECT {columns} FROM {}", table.name, aside.name), &[])? as u64;
    spi::run(&format!("DROP TABLE {}", aside.name), &[])?;
    Ok((came, removed, again))
}
