//! Signals belong to the thread that runs Postgres. Its handlers touch the backend's state, so a thread of ours that
//! took one would corrupt it.

use std::io;

/// Blocks every signal in the calling thread, and in the threads that it starts.
pub fn block_all() -> io::Result<()> {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` initialises the set that `pthread_sigmask` reads; neither keeps the pointer.
    let code = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut())
    };
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(code))
    }
}

/// Runs `spawn` with every signal blocked, so that the thread it starts never has a moment in which it could take one,
/// and gives this thread its own mask back.
pub fn blocked<T>(spawn: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: with no set to apply, `pthread_sigmask` only writes the present mask to `before`.
    let code = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), before.as_mut_ptr()) };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    block_all()?;
    let spawned = spawn();
    // SAFETY: `before` was written by the call above.
    let code = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    spawned
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mask as the kernel tells it, not as we set it.
    fn blocked_signals() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let mask = status.lines().find_map(|l| l.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap()
    }

    #[test]
    fn a_thread_of_ours_takes_no_signal_and_the_caller_keeps_its_own() {
        let before = blocked_signals();
        let inside = blocked(|| std::thread::Builder::new().spawn(blocked_signals)).unwrap().join().unwrap();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGHUP, libc::SIGQUIT, libc::SIGALRM] {
            assert_eq!(inside >> (signal - 1) & 1, 1, "signal {signal}");
        }
        assert_eq!(blocked_signals(), before);
    }
}
