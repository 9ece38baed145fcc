//! Where relations' files lie, and what the catalogs and the statistics say of relations: read for all of them at once,
//! without opening one, so without a lock on any.
//!
//! Catalogs are read as get_database_list (src/backend/postmaster/autovacuum.c) reads one. SQL would do, and take four
//! times as long and as much memory.

use std::ffi::CStr;
use std::path::PathBuf;

use pgrx::{direct_function_call, pg_sys, IntoDatum};

use crate::error::{sqlstate, Error, Result};

/// A row of pg_class.
#[derive(Debug, Clone, Copy)]
pub struct Class {
    pub oid: u32,
    pub schema: u32,
    pub owner: u32,
    /// 0: none, or one that changes its file without changing this row (a mapped catalog).
    pub file_number: u32,
    /// 0: that of the database.
    pub tablespace: u32,
    pub toast: u32,
    pub kind: u8,
    pub temporary: bool,
    pub partition: bool,
    /// It belongs to the server and not to this database.
    pub shared: bool,
    /// The transaction that wrote this version of the row; a frozen one's is before all others.
    pub written_by: pg_sys::TransactionId,
}

/// The oldest transaction that runs now: what it or a later one commits was not there before this moment. That of a
/// plain VACUUM does not count, and makes no new rows of pg_class (GetSnapshotData, src/backend/storage/ipc/procarray.c).
pub fn oldest_running() -> pg_sys::TransactionId {
    // SAFETY: returns a static snapshot that is valid until the next one is taken; its number is read at once.
    unsafe { (*pg_sys::GetLatestSnapshot()).xmin }
}

impl Class {
    /// Whether its row was written by `transaction` or a later one.
    pub fn written_since(&self, transaction: pg_sys::TransactionId) -> bool {
        // SAFETY: compares two numbers.
        unsafe { pg_sys::TransactionIdFollowsOrEquals(self.written_by, transaction) }
    }
}

/// Directories of this database, one in each tablespace that it may use: the tablespace's OID and the path.
pub fn directories() -> Result<Vec<(u32, PathBuf)>> {
    let unreadable =
        |e: std::io::Error| Error::new(sqlstate::IO_ERROR, format!("could not read directory \"pg_tblspc\": {e}"));
    let mut tablespaces = vec![default_tablespace()];
    // 1663 is DEFAULTTABLESPACE_OID: a database that was moved may still have tables there.
    tablespaces.push(1663);
    for entry in std::fs::read_dir("pg_tblspc").map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        tablespaces.extend(name.to_str().and_then(|n| n.parse::<u32>().ok()));
    }
    tablespaces.sort_unstable();
    tablespaces.dedup();
    let path = |tablespace: u32| {
        // SAFETY: returns a palloc'd string for any pair; the path is relative to the data directory, which is where
        // every process of the server stands.
        unsafe {
            let path = pg_sys::GetDatabasePath(pg_sys::MyDatabaseId, tablespace.into());
            let owned = CStr::from_ptr(path).to_string_lossy().into_owned();
            pg_sys::pfree(path.cast());
            PathBuf::from(owned)
        }
    };
    Ok(tablespaces.into_iter().map(|t| (t, path(t))).collect())
}

/// The tablespace of relations that name none.
pub fn default_tablespace() -> u32 {
    // SAFETY: reads a backend global.
    unsafe { pg_sys::MyDatabaseTableSpace.to_u32() }
}

/// Which rows of a catalog are read.
enum Rows {
    /// Those that a snapshot of this moment sees.
    Now,
    /// Each version that is still there, whoever made or deleted it.
    AllVersions,
}

/// Calls `f` with each row of a catalog.
///
/// # Safety
/// `T` is the struct of the catalog's rows, up to its last column that is always there.
unsafe fn scan<T>(catalog: pg_sys::Oid, rows: Rows, mut f: impl FnMut(&T, pg_sys::HeapTupleHeader)) {
    // SAFETY: a catalog scan; each tuple is read before the next one is fetched.
    unsafe {
        let relation = pg_sys::table_open(catalog, pg_sys::AccessShareLock as i32);
        let none = std::ptr::null_mut();
        let scan = match rows {
            Rows::Now => pg_sys::table_beginscan_catalog(relation, 0, none),
            Rows::AllVersions => {
                let any = &raw mut pg_sys::SnapshotAnyData;
                let how = pg_sys::ScanOptions::SO_TYPE_SEQSCAN;
                pg_sys::heap_beginscan(relation, any, 0, none, std::ptr::null_mut(), how)
            }
        };
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            f(&*pg_sys::GETSTRUCT(tuple).cast::<T>(), (*tuple).t_data);
        }
        pg_sys::table_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
}

/// The transaction that wrote a tuple (HeapTupleHeaderGetXmin, src/include/access/htup_details.h); pgrx has it twice for
/// Postgres 18.
///
/// # Safety
/// The tuple is one that is held.
unsafe fn xmin(tuple: pg_sys::HeapTupleHeader) -> pg_sys::TransactionId {
    let frozen = (pg_sys::HEAP_XMIN_COMMITTED | pg_sys::HEAP_XMIN_INVALID) as u16;
    // SAFETY: a stored tuple has the members of the heap.
    unsafe {
        match (*tuple).t_infomask & frozen == frozen {
            true => pg_sys::FrozenTransactionId,
            false => (*tuple).t_choice.t_heap.t_xmin,
        }
    }
}

/// Calls `f` for every relation.
pub fn each_class(mut f: impl FnMut(Class)) {
    // SAFETY: the struct is that of the catalog.
    unsafe {
        scan(pg_sys::RelationRelationId, Rows::Now, |row: &pg_sys::FormData_pg_class, header| {
            f(Class {
                oid: row.oid.to_u32(),
                schema: row.relnamespace.to_u32(),
                owner: row.relowner.to_u32(),
                file_number: row.relfilenode.to_u32(),
                tablespace: row.reltablespace.to_u32(),
                toast: row.reltoastrelid.to_u32(),
                kind: row.relkind as u8,
                temporary: row.relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP,
                partition: row.relispartition,
                shared: row.relisshared,
                written_by: xmin(header),
            })
        })
    }
}

/// Calls `f` with the file number of each version of a relation's row that is or was one: also of those that are gone and
/// not yet vacuumed, and not of those that a transaction made that was rolled back or did not survive a crash.
pub fn each_version(mut f: impl FnMut(u32)) {
    // SAFETY: the struct is that of the catalog; the tuple is held meanwhile.
    unsafe {
        scan(pg_sys::RelationRelationId, Rows::AllVersions, |row: &pg_sys::FormData_pg_class, header| {
            let by = xmin(header);
            // In this order (TransactionIdIsInProgress, src/backend/storage/ipc/procarray.c).
            if by == pg_sys::FrozenTransactionId
                || pg_sys::TransactionIdIsInProgress(by)
                || pg_sys::TransactionIdDidCommit(by)
            {
                f(row.relfilenode.to_u32());
            }
        })
    }
}

/// Has what is asked of the statistics from now on be of now.
pub fn forget_statistics() {
    // SAFETY: frees this backend's copies; no reference to one is held.
    unsafe { pg_sys::pgstat_clear_snapshot() }
}

/// Calls `f` with each index and its table.
pub fn each_index(mut f: impl FnMut(u32, u32)) {
    // SAFETY: the struct is that of the catalog; only its first columns are read.
    unsafe {
        scan(pg_sys::IndexRelationId, Rows::Now, |row: &pg_sys::FormData_pg_index, _| {
            f(row.indexrelid.to_u32(), row.indrelid.to_u32())
        })
    }
}

/// Calls `f` with each relation that inherits, and what it inherits from.
pub fn each_inheritance(mut f: impl FnMut(u32, u32)) {
    /// The first columns of pg_inherits (src/include/catalog/pg_inherits.h), which pgrx has no binding for.
    #[repr(C)]
    struct Inherits {
        child: pg_sys::Oid,
        parent: pg_sys::Oid,
    }
    const INHERITS: u32 = 2611;
    // SAFETY: both columns are fixed and never null.
    unsafe { scan(INHERITS.into(), Rows::Now, |row: &Inherits, _| f(row.child.to_u32(), row.parent.to_u32())) }
}

/// The file number that a relation has now, also a mapped catalog (src/backend/utils/cache/relmapper.c).
pub fn file_number(oid: u32) -> Option<u32> {
    let argument = pg_sys::Oid::from(oid).into_datum();
    // SAFETY: what others have changed is heard of without a lock; pg_relation_filenode takes one OID, looks it up and
    // opens nothing.
    unsafe {
        pg_sys::AcceptInvalidationMessages();
        direct_function_call::<pg_sys::Oid>(pg_sys::pg_relation_filenode, &[argument])
    }
    .map(|n| n.to_u32())
}

/// What the statistics system has counted of a relation: scans and rows fetched, rows written, and when it was last
/// scanned (microseconds, Unix), where the server knows.
pub struct Counts {
    pub reads: i64,
    pub writes: i64,
    pub last_read: Option<i64>,
}

/// Of one relation; `None` where nothing was counted yet. Under stats_fetch_consistency = none nothing of it stays but a
/// reference of some hundred bytes, which the server keeps for the life of the process (pgstat_get_entry_ref,
/// src/backend/utils/activity/pgstat_shmem.c).
pub fn counts(oid: u32) -> Option<Counts> {
    // SAFETY: a copy in the current memory context, freed here, or null.
    unsafe {
        let entry = pg_sys::pgstat_fetch_stat_tabentry_ext(false, oid.into());
        let found = entry.as_ref()?;
        let counts = Counts {
            reads: found.numscans.wrapping_add(found.tuples_fetched),
            writes: found.tuples_inserted.wrapping_add(found.tuples_updated).wrapping_add(found.tuples_deleted),
            last_read: last_scan(found),
        };
        pg_sys::pfree(entry.cast());
        Some(counts)
    }
}

#[cfg(feature = "pg15")]
fn last_scan(_entry: &pg_sys::PgStat_StatTabEntry) -> Option<i64> {
    None
}

#[cfg(not(feature = "pg15"))]
fn last_scan(entry: &pg_sys::PgStat_StatTabEntry) -> Option<i64> {
    // Microseconds between 1970 and 2000, where timestamps of Postgres begin.
    (entry.lastscan != 0).then_some(entry.lastscan + 946_684_800_000_000)
}
