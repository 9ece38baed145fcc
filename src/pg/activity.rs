//! Who is running what for how long, as pg_stat_activity knows it (src/backend/utils/activity/backend_status.c).

use pgrx::pg_sys;

/// A client's backend in the middle of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    pub pid: i32,
    /// Who logged in. SET ROLE does not change it.
    pub user: u32,
    pub database: u32,
    /// When the statement began, in microseconds as [`now`] counts them.
    pub since: i64,
}

/// Microseconds since 2000, the server's clock.
pub fn now() -> i64 {
    // SAFETY: reads a clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// The clients' backends that are running a statement. Background workers, and with them jobs, are none.
pub fn running() -> Vec<Running> {
    let mut found = Vec::new();
    // SAFETY: the server copies its shared entries to memory of this process, which lives until the snapshot is cleared.
    unsafe {
        pg_sys::pgstat_clear_backend_activity_snapshot();
        for n in 1..=pg_sys::pgstat_fetch_stat_numbackends() {
            let entry = entry(n);
            if entry.is_null() {
                continue;
            }
            let status = &(*entry).backendStatus;
            let busy = [pg_sys::BackendState::STATE_RUNNING, pg_sys::BackendState::STATE_FASTPATH];
            if status.st_backendType == pg_sys::BackendType::B_BACKEND && busy.contains(&status.st_state) {
                found.push(Running {
                    pid: status.st_procpid,
                    user: status.st_userid.to_u32(),
                    database: status.st_databaseid.to_u32(),
                    since: status.st_activity_start_timestamp,
                });
            }
        }
        pg_sys::pgstat_clear_backend_activity_snapshot();
    }
    found
}

/// Forgets what this process has read of the others, so that the next look is a new one.
pub fn look_again() {
    // SAFETY: frees the copy; whoever reads makes another one.
    unsafe { pg_sys::pgstat_clear_backend_activity_snapshot() }
}

/// Ends whatever runs in the name of a role: sessions, and jobs. Between transactions, so it cannot fail.
pub fn terminate(role: u32) {
    let mut pids = Vec::new();
    // SAFETY: as in running.
    unsafe {
        pg_sys::pgstat_clear_backend_activity_snapshot();
        for n in 1..=pg_sys::pgstat_fetch_stat_numbackends() {
            let entry = entry(n);
            if entry.is_null() {
                continue;
            }
            let status = &(*entry).backendStatus;
            if status.st_userid.to_u32() == role && status.st_procpid != pg_sys::MyProcPid {
                pids.push(status.st_procpid);
            }
        }
        pg_sys::pgstat_clear_backend_activity_snapshot();
    }
    for pid in pids {
        super::worker::signal(pid, pg_sys::SIGTERM);
    }
}

/// # Safety
/// `n` is between 1 and the number of backends of the current snapshot.
unsafe fn entry(n: i32) -> *mut pg_sys::LocalPgBackendStatus {
    // SAFETY: as the caller says.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pgstat_fetch_stat_local_beentry(n);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::pgstat_get_local_beentry_by_index(n);
    }
}
