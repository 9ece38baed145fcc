//! A text for another process, and its answer, in a dynamic shared memory segment (src/backend/storage/ipc/dsm.c): for
//! a worker in another database, which cannot read our tables.

use pgrx::pg_sys;

/// What fits into an answer.
const ANSWER: usize = 16 * 1024;

/// Header of the segment; the answer follows, then the text.
#[repr(C)]
struct Header {
    text: u64,
    answer: u64,
}

/// Leaves a text; it stays until [`remove`] is called with its handle. Inside a transaction.
pub fn leave(text: &str) -> u32 {
    // SAFETY: the segment is as long as what is written; pinned, it survives our detaching.
    unsafe {
        let segment = pg_sys::dsm_create(size_of::<Header>() + ANSWER + text.len(), 0);
        let header = pg_sys::dsm_segment_address(segment).cast::<Header>();
        header.write(Header { text: text.len() as u64, answer: 0 });
        std::ptr::copy_nonoverlapping(text.as_ptr(), header.add(1).cast::<u8>().add(ANSWER), text.len());
        pg_sys::dsm_pin_segment(segment);
        let handle = pg_sys::dsm_segment_handle(segment);
        pg_sys::dsm_detach(segment);
        handle
    }
}

/// The text behind a handle. Inside a transaction.
pub fn open(handle: u32) -> Option<String> {
    attached(handle, |header| {
        // SAFETY: the length is the one that was written.
        let text =
            unsafe { std::slice::from_raw_parts(header.add(1).cast::<u8>().add(ANSWER), (*header).text as usize) };
        String::from_utf8_lossy(text).into_owned()
    })
}

/// Writes the answer; what does not fit is refused. Inside a transaction.
pub fn answer(handle: u32, answer: &str) -> bool {
    answer.len() <= ANSWER
        && attached(handle, |header| {
            // SAFETY: the room is ANSWER bytes, and nobody reads it before its length is there.
            unsafe {
                std::ptr::copy_nonoverlapping(answer.as_ptr(), header.add(1).cast::<u8>(), answer.len());
                (*header).answer = answer.len() as u64;
            }
        })
        .is_some()
}

/// The answer, if there is one. Inside a transaction.
pub fn answered(handle: u32) -> Option<String> {
    attached(handle, |header| {
        // SAFETY: the length is the one that was written.
        let bytes = unsafe { std::slice::from_raw_parts(header.add(1).cast::<u8>(), (*header).answer as usize) };
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
    })
    .flatten()
}

/// Takes the segment away.
pub fn remove(handle: u32) {
    // SAFETY: pinned once by leave, unpinned once here.
    unsafe { pg_sys::dsm_unpin_segment(handle) };
}

fn attached<T>(handle: u32, f: impl FnOnce(*mut Header) -> T) -> Option<T> {
    // SAFETY: the segment is mapped between attach and detach, and begins with the header.
    unsafe {
        let segment = pg_sys::dsm_attach(handle);
        if segment.is_null() {
            return None;
        }
        let result = f(pg_sys::dsm_segment_address(segment).cast());
        pg_sys::dsm_detach(segment);
        Some(result)
    }
}
