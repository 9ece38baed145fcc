//! A note that outlives the transaction: a short-lived background worker writes it and commits.
//!
//! The text travels in a dynamic shared memory segment (src/backend/storage/ipc/dsm.c); the worker connects as
//! the extension's owner, runs one function of ours with the text bound as its parameter, and ends. It needs a
//! free slot of max_worker_processes, and no preloading.

use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BackgroundWorkerStatus};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::{pg_sys, IntoDatum};

use crate::error::{sqlstate, Error, Result};

/// Header of the segment, written by the caller; `answer` by the worker.
#[repr(C)]
struct Note {
    answer: i64,
    database: u32,
    owner: u32,
    length: u64,
}

/// Commits `text` through `wh.record_run(text)` in a transaction of its own and returns the function's answer.
pub fn commit(owner: u32, text: &str) -> Result<i64> {
    let size = size_of::<Note>() + text.len();
    // SAFETY: the segment is at least `size` long and mapped until dsm_detach below or the end of the resource
    // owner; the header is written before the worker starts, and read again after it has ended.
    unsafe {
        let segment = pg_sys::dsm_create(size, 0);
        let note = pg_sys::dsm_segment_address(segment).cast::<Note>();
        note.write(Note { answer: 0, database: pg_sys::MyDatabaseId.to_u32(), owner, length: text.len() as u64 });
        std::ptr::copy_nonoverlapping(text.as_ptr(), note.add(1).cast::<u8>(), text.len());
        let handle = pg_sys::dsm_segment_handle(segment);
        let worker = BackgroundWorkerBuilder::new("startup_wh recorder")
            .set_type("startup_wh recorder")
            .set_library("startup_wh")
            .set_function("startup_wh_recorder")
            .enable_spi_access()
            .set_restart_time(None)
            .set_argument(i64::from(handle).into_datum())
            .set_notify_pid(pg_sys::MyProcPid)
            .load_dynamic()
            .map_err(|_| {
                Error::new("53400", "could not start a background worker to record the run")
                    .hint("Raise max_worker_processes.")
            })?;
        match worker.wait_for_shutdown() {
            Ok(()) | Err(BackgroundWorkerStatus::Stopped) => {}
            Err(_) => return Err(Error::new("57P02", "the postmaster died while a run was being recorded")),
        }
        let answer = (*note).answer;
        pg_sys::dsm_detach(segment);
        if answer == 0 {
            return Err(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, "the run could not be recorded")
                .hint("The server's log says why the startup_wh recorder failed."));
        }
        Ok(answer)
    }
}

/// Entry point of the worker.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn startup_wh_recorder(handle: pg_sys::Datum) {
    super::worker::obey_signals();
    // SAFETY: runs once, on the worker's main thread, before anything else needs an owner.
    unsafe {
        // A worker starts without a resource owner, and attaching needs one (test/modules/test_shm_mq/worker.c).
        pg_sys::CurrentResourceOwner =
            pg_sys::ResourceOwnerCreate(std::ptr::null_mut(), c"startup_wh recorder".as_ptr());
    }
    // SAFETY: the argument is the int8 that commit passed.
    let handle = unsafe { i64::from_datum(handle, false) }.unwrap_or_default();
    // SAFETY: the segment lives until its creator detaches, which is after this worker has ended; the length is
    // the one its creator wrote.
    let (note, text) = unsafe {
        let segment = pg_sys::dsm_attach(handle as u32);
        if segment.is_null() {
            return;
        }
        pg_sys::dsm_pin_mapping(segment);
        let note = pg_sys::dsm_segment_address(segment).cast::<Note>();
        let bytes = std::slice::from_raw_parts(note.add(1).cast::<u8>(), (*note).length as usize);
        (note, String::from_utf8_lossy(bytes).into_owned())
    };
    // SAFETY: as above.
    let (database, owner) = unsafe { ((*note).database, (*note).owner) };
    BackgroundWorker::connect_worker_to_spi_by_oid(Some(database.into()), Some(owner.into()));
    let answer = BackgroundWorker::transaction(std::panic::AssertUnwindSafe(|| {
        Spi::connect_mut(|client| {
            let args: [DatumWithOid; 1] = [text.as_str().into()];
            client
                .update("SELECT wh.record_run($1::pg_catalog.text)", None, &args)
                .and_then(|rows| rows.first().get::<i64>(1))
        })
    }));
    // SAFETY: as above; only now, after the commit.
    unsafe { (*note).answer = answer.ok().flatten().unwrap_or(0) };
}
