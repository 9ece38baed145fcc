//! Whose turn it is: one change at a time, and none that waits without end.

use std::cell::Cell;
use std::time::Duration;

use crate::error::{sqlstate, Error, Result};
use crate::pg::{lock, spi};

/// How long a change waits for locks: one that is not to be had by then is somebody's to give back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tries a change until its locks are to be had, each as briefly as all of ours, so that no reader queues behind it.
pub fn with_locks<T>(unit: impl FnMut() -> Result<T>) -> Result<T> {
    let patience = lock::Patience {
        lock_timeout: PATIENCE,
        max_wait: PATIENCE,
        attempts: &Cell::new(0),
        waited: &Cell::new(Duration::ZERO),
        otherwise: "or call this later",
    };
    lock::patiently(&patience, unit)
}

/// One change of analysts and teams at a time; readers of the tables go on.
pub fn one_at_a_time() -> Result<()> {
    let table: Option<u32> =
        spi::first("SELECT 'wh.analyst'::pg_catalog.regclass::pg_catalog.oid::pg_catalog.int8::text", &[])?;
    let table = table.ok_or_else(|| Error::new(sqlstate::UNDEFINED_TABLE, "table wh.analyst does not exist"))?;
    with_locks(|| lock::briefly(table, lock::Mode::ShareRowExclusive))
}
