//! Between the thread that fetches and the side that stores: a bounded queue, and a descriptor that can be waited for
//! together with a latch.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use std::sync::mpsc::{RecvTimeoutError, TryRecvError};

struct Inner<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    /// Bytes in them.
    bytes: usize,
    bound: usize,
    sender_gone: bool,
    receiver_gone: bool,
    /// Holds a byte while there is something to receive.
    bell: UnixStream,
}

impl<T> State<T> {
    fn ring(&mut self) {
        // Full is rung as well as can be.
        let _ = self.bell.write(&[1]);
    }
}

pub struct Sender<T>(Arc<Inner<T>>);

pub struct Receiver<T> {
    inner: Arc<Inner<T>>,
    heard: UnixStream,
}

/// A queue whose sender waits while what it holds would pass so many bytes.
pub fn queue<T>(bound: usize) -> io::Result<(Sender<T>, Receiver<T>)> {
    let (bell, heard) = UnixStream::pair()?;
    bell.set_nonblocking(true)?;
    heard.set_nonblocking(true)?;
    let state = State { items: VecDeque::new(), bytes: 0, bound, sender_gone: false, receiver_gone: false, bell };
    let inner = Arc::new(Inner { state: Mutex::new(state), changed: Condvar::new() });
    Ok((Sender(Arc::clone(&inner)), Receiver { inner, heard }))
}

/// How many bytes an item has. What has none never waits.
pub trait Weight {
    fn bytes(&self) -> usize;
}

fn lock<T>(inner: &Inner<T>) -> MutexGuard<'_, State<T>> {
    inner.state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Weight> Sender<T> {
    /// Waits for room, looking up now and then: `go_on` says whether to wait longer. `false` where the item was not
    /// taken, because nobody receives any more or `go_on` said no.
    pub fn send(&self, item: T, slice: Duration, go_on: impl Fn() -> bool) -> bool {
        let bytes = item.bytes();
        let mut state = lock(&self.0);
        // One that is larger than the bound goes alone.
        while bytes > 0 && state.bytes > 0 && state.bytes + bytes > state.bound && !state.receiver_gone {
            if !go_on() {
                return false;
            }
            state = self.0.changed.wait_timeout(state, slice).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.receiver_gone {
            return false;
        }
        state.bytes += bytes;
        state.items.push_back(item);
        if state.items.len() == 1 {
            state.ring();
        }
        drop(state);
        self.0.changed.notify_all();
        true
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.sender_gone = true;
        // The end is something to hear about.
        state.ring();
        drop(state);
        self.0.changed.notify_all();
    }
}

impl<T: Weight> Receiver<T> {
    pub fn fd(&self) -> RawFd {
        self.heard.as_raw_fd()
    }

    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut state = lock(&self.inner);
        let Some(item) = state.items.pop_front() else {
            return Err(if state.sender_gone { TryRecvError::Disconnected } else { TryRecvError::Empty });
        };
        state.bytes -= item.bytes();
        if state.items.is_empty() && !state.sender_gone {
            let mut bytes = [0; 64];
            while matches!((&self.heard).read(&mut bytes), Ok(n) if n > 0) {}
        }
        drop(state);
        self.inner.changed.notify_all();
        Ok(item)
    }

    /// Waits; who has a latch to wait for as well waits for the descriptor instead.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        let ends = std::time::Instant::now() + timeout;
        loop {
            match self.try_recv() {
                Ok(item) => return Ok(item),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => {}
            }
            let state = lock(&self.inner);
            if state.items.is_empty() && !state.sender_gone {
                let left = ends.saturating_duration_since(std::time::Instant::now());
                if left.is_zero() {
                    return Err(RecvTimeoutError::Timeout);
                }
                drop(self.inner.changed.wait_timeout(state, left));
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.inner);
        state.receiver_gone = true;
        state.items.clear();
        drop(state);
        self.inner.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    const BOUND: usize = 1 << 20;

    impl Weight for u32 {
        fn bytes(&self) -> usize {
            match self {
                0..100 => BOUND / 2,
                100..1000 => 0,
                _ => BOUND * 2,
            }
        }
    }

    #[test]
    fn the_descriptor_is_readable_exactly_while_there_is_something() {
        let (sender, receiver) = queue::<u32>(BOUND).unwrap();
        let readable = || crate::pg::poll::readable(receiver.heard.as_fd());
        assert!(!readable());
        assert!(sender.send(1, Duration::ZERO, || true) && sender.send(2, Duration::ZERO, || true));
        assert!(readable());
        assert_eq!(receiver.try_recv(), Ok(1));
        assert!(readable());
        assert_eq!(receiver.try_recv(), Ok(2));
        assert!(!readable());
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        drop(sender);
        assert!(readable());
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
        assert!(readable());
    }

    #[test]
    fn a_full_queue_holds_its_sender_until_there_is_room() {
        let (sender, receiver) = queue::<u32>(BOUND).unwrap();
        assert!(sender.send(1, Duration::ZERO, || true) && sender.send(2, Duration::ZERO, || true));
        assert!(!sender.send(3, Duration::from_millis(1), || false), "a third heavy item was taken");
        assert!(sender.send(100, Duration::ZERO, || false), "a light one has to wait");
        let waiting = std::thread::spawn(move || sender.send(3, Duration::from_secs(60), || true));
        assert_eq!(receiver.try_recv(), Ok(1));
        assert!(waiting.join().unwrap());
        let rest: Vec<_> = std::iter::from_fn(|| receiver.recv_timeout(Duration::from_secs(60)).ok()).collect();
        assert_eq!(rest, [2, 100, 3]);
    }

    #[test]
    fn what_is_larger_than_the_bound_goes_alone() {
        let (sender, receiver) = queue::<u32>(BOUND).unwrap();
        assert!(sender.send(1000, Duration::ZERO, || false));
        assert!(!sender.send(1000, Duration::from_millis(1), || false), "two of them were taken");
        assert!(!sender.send(1, Duration::from_millis(1), || false), "one more was taken");
        assert_eq!(receiver.try_recv(), Ok(1000));
        assert!(sender.send(1, Duration::ZERO, || false));
        assert!(!sender.send(1000, Duration::from_millis(1), || false), "it was not alone");
    }

    #[test]
    fn a_sender_ends_when_nobody_receives() {
        let (sender, receiver) = queue::<u32>(BOUND).unwrap();
        assert!(sender.send(1, Duration::ZERO, || true) && sender.send(2, Duration::ZERO, || true));
        let waiting = std::thread::spawn(move || sender.send(3, Duration::from_secs(60), || true));
        drop(receiver);
        assert!(!waiting.join().unwrap());
    }
}
