//! SQL from Rust: rows come as JSON, one object a row, and become plain structs.
//!
//! Statements run read-write, so each sees what the ones before it did. A SQL error unwinds as a panic that
//! pgrx turns back into the same `ERROR` (or [`super::subxact`] into a value).

use pgrx::datum::DatumWithOid;
use pgrx::spi::Spi;
use serde::de::DeserializeOwned;

use crate::error::Result;

/// Rows of a query whose one column is JSON as text.
pub fn rows<T: DeserializeOwned>(query: &str, args: &[DatumWithOid]) -> Result<Vec<T>> {
    Spi::connect_mut(|client| {
        let table = client.update(query, None, args)?;
        let mut rows = Vec::with_capacity(table.len());
        for row in table {
            if let Some(json) = row.get::<&str>(1)? {
                rows.push(serde_json::from_str(json)?);
            }
        }
        Ok(rows)
    })
}

/// The first row of such a query.
pub fn first<T: DeserializeOwned>(query: &str, args: &[DatumWithOid]) -> Result<Option<T>> {
    Ok(rows(query, args)?.into_iter().next())
}

/// Runs a statement, returns the number of rows it touched.
pub fn run(statement: &str, args: &[DatumWithOid]) -> Result<usize> {
    Spi::connect_mut(|client| Ok(client.update(statement, None, args)?.len()))
}

/// OIDs as an array argument.
pub fn oids(oids: impl IntoIterator<Item = u32>) -> DatumWithOid<'static> {
    oids.into_iter()
        .map(pgrx::pg_sys::Oid::from)
        .collect::<Vec<_>>()
        .into()
}

/// One OID as an argument.
pub fn oid(oid: u32) -> DatumWithOid<'static> {
    pgrx::pg_sys::Oid::from(oid).into()
}
