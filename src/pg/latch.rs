//! Waiting as a backend should: on its latch, open to interrupts.

use std::time::Duration;

use pgrx::pg_sys;

/// Sleeps for `pause`, or raises the error of a cancel, a timeout or a shutdown at once.
pub fn pause(pause: Duration) {
    let until = std::time::Instant::now() + pause;
    loop {
        pgrx::check_for_interrupts!();
        let left = until.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return;
        }
        wait(left);
    }
}

/// Sleeps until somebody wakes this process, for `most`; interrupts are obeyed.
pub fn pause_until_woken(most: Duration) {
    wait(most);
    pgrx::check_for_interrupts!();
}

/// The same, where interrupts have to wait: for what is over in a moment, and must be.
pub fn pause_through_interrupts(most: Duration) {
    wait(most);
}

/// Raises the error of a cancel, a timeout or a shutdown, in the middle of work that never waits.
pub fn obey_interrupts() {
    pgrx::check_for_interrupts!();
}

fn wait(most: Duration) {
    // SAFETY: MyLatch is this backend's own; the flags are those of every wait in a backend.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            most.as_millis().max(1) as _,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}
