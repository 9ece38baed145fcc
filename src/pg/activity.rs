//! What the processes of this server do at the moment, from the entries that pg_stat_activity shows, without their texts
//! and without a copy of all (src/backend/utils/activity/backend_status.c).

use std::sync::atomic::{compiler_fence, fence, Ordering};

use pgrx::pg_sys;

/// A process that serves somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    pub pid: i32,
    pub database: u32,
    /// Of the session.
    pub role: u32,
    /// It serves a client, and is no background worker.
    pub client: bool,
    /// When the message began that it works on (microseconds, Postgres); `None`: it is idle.
    pub since: Option<i64>,
}

/// The slot of this process, below [`super::shmem::most_backends`].
pub fn my_slot() -> Option<usize> {
    // SAFETY: reads a backend global.
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    let slot = unsafe { pg_sys::MyBackendId } - 1;
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    // SAFETY: as above.
    let slot = unsafe { pg_sys::MyProcNumber };
    usize::try_from(slot).ok()
}

/// The slot of this parallel worker's leader.
pub fn leader() -> Option<usize> {
    // SAFETY: reads a backend global.
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    let slot = unsafe { pg_sys::ParallelLeaderBackendId } - 1;
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    // SAFETY: as above.
    let slot = unsafe { pg_sys::ParallelLeaderProcNumber };
    usize::try_from(slot).ok()
}

/// What the process in a slot does.
pub fn of(slot: usize) -> Option<Activity> {
    use pg_sys::BackendState as state;
    let mine = my_slot()?;
    // SAFETY: MyBEEntry points into an array of the server's with an entry for each slot (pgstat_beinit), in shared memory.
    let entry = unsafe {
        if pg_sys::MyBEEntry.is_null() || slot >= super::shmem::most_backends() {
            return None;
        }
        pg_sys::MyBEEntry.cast_const().offset(slot as isize - mine as isize)
    };
    // The writer makes the count odd, writes, and makes it even again; who is in the middle is soon through.
    for _ in 0..1000 {
        // SAFETY: reads of integers that another process may be writing; the counts tell whether it was.
        let (before, found, after) = unsafe {
            let before = (&raw const (*entry).st_changecount).read_volatile();
            fence(Ordering::Acquire);
            compiler_fence(Ordering::SeqCst);
            let kind = (&raw const (*entry).st_backendType).read_volatile();
            let state = (&raw const (*entry).st_state).read_volatile();
            let since = (&raw const (*entry).st_activity_start_timestamp).read_volatile();
            let found = Activity {
                pid: (&raw const (*entry).st_procpid).read_volatile(),
                database: (&raw const (*entry).st_databaseid).read_volatile().to_u32(),
                role: (&raw const (*entry).st_userid).read_volatile().to_u32(),
                client: kind == pg_sys::BackendType::B_BACKEND,
                since: [state::STATE_RUNNING, state::STATE_FASTPATH].contains(&state).then_some(since),
            };
            compiler_fence(Ordering::SeqCst);
            fence(Ordering::Acquire);
            (before, (kind, found), (&raw const (*entry).st_changecount).read_volatile())
        };
        if before == after && before & 1 == 0 {
            let serves = [pg_sys::BackendType::B_BACKEND, pg_sys::BackendType::B_BG_WORKER].contains(&found.0);
            return (found.1.pid > 0 && serves).then_some(found.1);
        }
    }
    None
}

/// What all processes do that serve somebody.
pub fn all() -> impl Iterator<Item = Activity> {
    (0..super::shmem::most_backends()).filter_map(of)
}

/// Microseconds since 2000, the server's clock.
pub fn now() -> i64 {
    // SAFETY: reads a clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Forgets what this process has read of the others, so that the next look is a new one.
pub fn look_again() {
    // SAFETY: frees the copy; whoever reads makes another one.
    unsafe { pg_sys::pgstat_clear_backend_activity_snapshot() }
}

/// Ends whatever runs in the name of a role: sessions, and jobs. Between transactions, so it cannot fail.
pub fn terminate(role: u32) {
    // SAFETY: reads a backend global.
    let mine = unsafe { pg_sys::MyProcPid };
    for found in all().filter(|found| found.role == role && found.pid != mine) {
        super::worker::signal(found.pid, pg_sys::SIGTERM);
    }
}
