//! Cancels that Postgres forgets.
//!
//! A lock's timeout and a cancel are the same signal, SIGINT, and set the same flag. Where both come before that is looked
//! at, the timeout's error is raised and the cancel is forgotten (ProcessInterrupts, src/backend/tcop/postgres.c). That is
//! all the same where the error ends the statement. Whoever goes on after it must know: the signal says who sent it.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::error::{sqlstate, Error, Result};

static ASKED: AtomicBool = AtomicBool::new(false);
/// The server's handler.
static EARLIER: AtomicUsize = AtomicUsize::new(0);

/// Notes the cancels that others send, until dropped. Within another one, it is that one's to listen.
pub struct Listening {
    earlier: Option<libc::sigaction>,
    /// Signals belong to the thread that runs Postgres.
    thread: PhantomData<*const ()>,
}

impl Listening {
    pub fn begin() -> Self {
        let mut listening = Listening { earlier: None, thread: PhantomData };
        // SAFETY: sigaction(2) reads and writes structures of ours. A handler that is none of the server's (it takes more
        // than the signal's number, or is no function) is left alone.
        unsafe {
            let mut action = std::mem::zeroed::<libc::sigaction>();
            let found = libc::sigaction(libc::SIGINT, std::ptr::null(), &mut action) == 0;
            let theirs = action.sa_flags & libc::SA_SIGINFO == 0
                && ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction);
            if found && theirs {
                ASKED.store(false, Ordering::Relaxed);
                EARLIER.store(action.sa_sigaction, Ordering::Relaxed);
                let earlier = action;
                action.sa_sigaction = received as *const () as usize;
                action.sa_flags |= libc::SA_SIGINFO;
                if libc::sigaction(libc::SIGINT, &action, std::ptr::null_mut()) == 0 {
                    listening.earlier = Some(earlier);
                }
            }
        }
        listening
    }

    /// Ends a statement that somebody asked to cancel meanwhile.
    pub fn obey(&self) -> Result<()> {
        match ASKED.load(Ordering::Relaxed) {
            true => Err(Error::new(sqlstate::QUERY_CANCELED, "canceling statement due to user request")),
            false => Ok(()),
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(earlier) = &self.earlier {
            // SAFETY: what begin found.
            unsafe { libc::sigaction(libc::SIGINT, earlier, std::ptr::null_mut()) };
        }
    }
}

/// In a signal handler: timeouts are sent by this process itself (LockTimeoutHandler, src/backend/utils/init/postinit.c).
unsafe extern "C" fn received(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel's; EARLIER is a handler that takes the signal's number, stored before this one was there.
    unsafe {
        if (*info).si_pid() != libc::getpid() {
            ASKED.store(true, Ordering::Relaxed);
        }
        let earlier: unsafe extern "C" fn(c_int) = std::mem::transmute(EARLIER.load(Ordering::Relaxed));
        earlier(signal);
    }
}
