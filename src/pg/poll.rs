//! Whether a descriptor can be read, asked of the kernel. For tests: the backend waits with its latch.

use std::os::fd::{AsRawFd, BorrowedFd};

pub fn readable(fd: BorrowedFd) -> bool {
    let mut asked = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which outlives the call; the descriptor is borrowed, so it is open.
    let ready = unsafe { libc::poll(&mut asked, 1, 0) };
    ready == 1 && asked.revents & libc::POLLIN != 0
}
