//! SQL from Rust: rows come as JSON, one object a row, and become plain structs.
//!
//! Statements run read-write, so each sees what the ones before it did. A SQL error unwinds as a panic that
//! pgrx turns back into the same `ERROR` (or [`super::subxact`] into a value).

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::{self, PgOid};
use pgrx::spi::{OwnedPreparedStatement, PreparedStatement, Spi, SpiHeapTupleData, SpiResult, SpiTupleTable};
use serde::de::DeserializeOwned;

use crate::error::Result;

/// Rows of a query whose one column is JSON as text.
pub fn rows<T: DeserializeOwned>(query: &str, args: &[DatumWithOid]) -> Result<Vec<T>> {
    Spi::connect_mut(|client| read(client.update(query, None, args)?))
}

fn read<T: DeserializeOwned>(table: SpiTupleTable) -> Result<Vec<T>> {
    let mut rows = Vec::with_capacity(table.len());
    for row in table {
        if let Some(json) = row.get::<&str>(1)? {
            rows.push(serde_json::from_str(json)?);
        }
    }
    Ok(rows)
}

/// Like [`rows`], without writing: where a transaction must not get a number for it, on a standby or beside parallel
/// workers.
pub fn look<T: DeserializeOwned>(query: &str, args: &[DatumWithOid]) -> Result<Vec<T>> {
    Spi::connect(|client| read(client.select(query, None, args)?))
}

/// Like [`first`], likewise.
pub fn look_first<T: DeserializeOwned>(query: &str, args: &[DatumWithOid]) -> Result<Option<T>> {
    Ok(look(query, args)?.into_iter().next())
}

/// Like [`columns`], likewise.
pub fn look_columns<T>(
    query: &str,
    args: &[DatumWithOid],
    read: impl Fn(&SpiHeapTupleData) -> SpiResult<Option<T>>,
) -> Result<Vec<T>> {
    Spi::connect(|client| read_columns(client.select(query, None, args)?, read))
}

/// Like [`look`], under the snapshot of the statement that asks: in a parallel worker nothing else can be had.
pub fn peek<T: DeserializeOwned>(query: &str, args: &[DatumWithOid]) -> Result<Vec<T>> {
    let query = super::sql::cstring(query)?;
    let mut types: Vec<pg_sys::Oid> = args.iter().map(DatumWithOid::oid).collect();
    let mut values: Vec<pg_sys::Datum> =
        args.iter().map(|a| a.datum().map_or(pg_sys::Datum::from(0), |d| d.sans_lifetime())).collect();
    let nulls: Vec<std::ffi::c_char> =
        args.iter().map(|a| if a.datum().is_none() { b'n' } else { b' ' } as std::ffi::c_char).collect();
    Spi::connect(|_| {
        let mut rows = Vec::new();
        // SAFETY: within an SPI connection; what is passed outlives the call, and what comes of it is read before the
        // connection ends.
        unsafe {
            pg_sys::SPI_execute_with_args(
                query.as_ptr(),
                args.len() as i32,
                types.as_mut_ptr(),
                values.as_mut_ptr(),
                nulls.as_ptr(),
                true,
                0,
            );
            let table = pg_sys::SPI_tuptable;
            for n in 0..pg_sys::SPI_processed as usize {
                let json = pg_sys::SPI_getvalue(*(*table).vals.add(n), (*table).tupdesc, 1);
                if !json.is_null() {
                    rows.push(serde_json::from_str(&std::ffi::CStr::from_ptr(json).to_string_lossy())?);
                }
            }
        }
        Ok(rows)
    })
}

/// Rows of a query with many, read column by column: JSON would cost more than the query.
pub fn columns<T>(
    query: &str,
    args: &[DatumWithOid],
    read: impl Fn(&SpiHeapTupleData) -> SpiResult<Option<T>>,
) -> Result<Vec<T>> {
    Spi::connect_mut(|client| read_columns(client.update(query, None, args)?, read))
}

fn read_columns<T>(table: SpiTupleTable, read: impl Fn(&SpiHeapTupleData) -> SpiResult<Option<T>>) -> Result<Vec<T>> {
    let mut rows = Vec::with_capacity(table.len());
    for row in table {
        rows.extend(read(&row)?);
    }
    Ok(rows)
}

/// Reads a query's rows some at a time, so that they are never all in memory.
pub fn each(query: &str, mut f: impl FnMut(&SpiHeapTupleData) -> SpiResult<()>) -> Result<()> {
    Spi::connect(|client| {
        let mut cursor = client.open_cursor(query, &[]);
        loop {
            let some = cursor.fetch(1000)?;
            if some.is_empty() {
                return Ok(());
            }
            for row in some {
                f(&row)?;
            }
        }
    })
}

/// The first row of a JSON query.
pub fn first<T: DeserializeOwned>(query: &str, args: &[DatumWithOid]) -> Result<Option<T>> {
    Ok(rows(query, args)?.into_iter().next())
}

/// Like [`rows`], for a query that a run asks again and again: planned once in the session's life.
pub fn prepared<T: DeserializeOwned>(query: &'static str, args: &[DatumWithOid]) -> Result<Vec<T>> {
    Spi::connect_mut(|client| {
        let plan = plan(query, args, |types| client.prepare_mut(query, types))?;
        read(client.update(plan, None, args)?)
    })
}

/// Like [`prepared`], without writing.
pub fn prepared_look<T: DeserializeOwned>(query: &'static str, args: &[DatumWithOid]) -> Result<Vec<T>> {
    Spi::connect(|client| {
        let plan = plan(query, args, |types| client.prepare(query, types))?;
        read(client.select(plan, None, args)?)
    })
}

/// Like [`columns`], likewise.
pub fn prepared_columns<T>(
    query: &'static str,
    args: &[DatumWithOid],
    read: impl Fn(&SpiHeapTupleData) -> SpiResult<Option<T>>,
) -> Result<Vec<T>> {
    Spi::connect_mut(|client| {
        let plan = plan(query, args, |types| client.prepare_mut(query, types))?;
        read_columns(client.update(plan, None, args)?, read)
    })
}

fn plan<'a>(
    query: &'static str,
    args: &[DatumWithOid],
    prepare: impl FnOnce(&[PgOid]) -> SpiResult<PreparedStatement<'a>>,
) -> SpiResult<&'static OwnedPreparedStatement> {
    thread_local! {
        // Leaked on purpose: a plan is freed with the process, and freeing it at thread exit would call a server
        // that has gone.
        static PLANS: RefCell<HashMap<&'static str, &'static OwnedPreparedStatement>> = RefCell::default();
    }
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(query).copied()) {
        return Ok(plan);
    }
    let types: Vec<PgOid> = args.iter().map(|a| PgOid::from(a.oid())).collect();
    let plan: &'static _ = Box::leak(Box::new(prepare(&types)?.keep()));
    PLANS.with_borrow_mut(|plans| plans.insert(query, plan));
    Ok(plan)
}

/// Runs a statement, returns the number of rows it touched.
pub fn run(statement: &str, args: &[DatumWithOid]) -> Result<usize> {
    Spi::connect_mut(|client| Ok(client.update(statement, None, args)?.len()))
}

/// OIDs as an array argument.
pub fn oids(oids: impl IntoIterator<Item = u32>) -> DatumWithOid<'static> {
    oids.into_iter().map(pgrx::pg_sys::Oid::from).collect::<Vec<_>>().into()
}

/// One OID as an argument.
pub fn oid(oid: u32) -> DatumWithOid<'static> {
    pgrx::pg_sys::Oid::from(oid).into()
}
