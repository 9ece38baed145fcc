//! What a process has counted, where all others see it.

use std::sync::atomic::{fence, AtomicU64, Ordering};

use super::{counter, Counts};

crate::shared! {
    /// A process; two cache lines.
    pub struct Slot {
        /// Odd while it is written.
        change: AtomicU64,
        pid: AtomicU64,
        /// Whose its counts are, as [`Watcher`](super::Watcher) knows them; 0: nobody's.
        entry: AtomicU64,
        /// Until when (microseconds, Postgres) everything is counted.
        until: AtomicU64,
        /// 1: its entry has something to say, or to be told. Others set it, so that a statement need not look there.
        look: AtomicU64,
        counts: [AtomicU64; counter::ALL],
    }
}

#[inline]
pub fn load(field: &AtomicU64) -> u64 {
    field.load(Ordering::Relaxed)
}

#[inline]
pub fn store(field: &AtomicU64, value: u64) {
    field.store(value, Ordering::Relaxed);
}

/// Of a field that one process writes at a time: no need for a locked instruction.
#[inline]
pub fn add(field: &AtomicU64, more: u64) {
    store(field, load(field).wrapping_add(more));
}

pub fn read(fields: &[AtomicU64; counter::ALL]) -> Counts {
    std::array::from_fn(|n| load(&fields[n]))
}

impl Slot {
    /// Changes it; only its process may, and only one that ends, or changes its role, more than counts.
    #[inline]
    pub fn write(&self, f: impl FnOnce(&Slot)) {
        let change = load(&self.change);
        store(&self.change, change.wrapping_add(1));
        fence(Ordering::Release);
        f(self);
        self.change.store(change.wrapping_add(2), Ordering::Release);
    }

    /// Its entry, its counts and until when they count, of one moment.
    pub fn read(&self) -> (u64, Counts, u64) {
        let mut last = (0, [0; counter::ALL], 0);
        // A writer that was stopped in the middle must not stop readers: each number is right for itself.
        for _ in 0..1000 {
            let before = self.change.load(Ordering::Acquire);
            last = (load(&self.entry), read(&self.counts), load(&self.until));
            fence(Ordering::Acquire);
            if before & 1 == 0 && load(&self.change) == before {
                break;
            }
            std::hint::spin_loop();
        }
        last
    }
}
