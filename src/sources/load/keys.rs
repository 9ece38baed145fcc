//! Which keys a table may have, where it was empty when a run began and only that run writes: a filter (Bloom, 1970) that
//! never takes a key that is there for a new one.

use std::hash::{BuildHasher, RandomState};

/// Bits: two mebibytes.
const BITS: u64 = 1 << 24;
/// Of each key; with as many keys as are taken, one in fifty seems to be there and is not, and is looked up.
const MARKS: u64 = 4;
const MOST_KEYS: u64 = 2_000_000;

pub struct Keys {
    bits: Vec<u64>,
    count: u64,
    hashes: RandomState,
}

impl Default for Keys {
    fn default() -> Keys {
        Keys { bits: vec![0; (BITS / 64) as usize], count: 0, hashes: RandomState::new() }
    }
}

impl Keys {
    /// Takes a key; says whether it was not taken before, for sure.
    pub fn is_new(&mut self, key: &[String]) -> bool {
        let hash = self.hashes.hash_one(key);
        // Marks from two halves of a hash are as good as from many hashes.
        let (mut at, step) = (hash, (hash >> 32) | 1);
        let mut is_new = false;
        for _ in 0..MARKS {
            let bit = at % BITS;
            let word = &mut self.bits[(bit / 64) as usize];
            let mark = 1 << (bit % 64);
            is_new |= *word & mark == 0;
            *word |= mark;
            at = at.wrapping_add(step);
        }
        self.count += u64::from(is_new);
        is_new
    }

    /// Whether there are more than it can tell apart.
    pub fn is_full(&self) -> bool {
        self.count >= MOST_KEYS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_taken_is_never_new_and_most_others_are() {
        let mut keys = Keys::default();
        let key = |n: u64| [format!("cus_{n}"), "x".to_owned()];
        let new = (0..200_000).filter(|n| keys.is_new(&key(*n))).count();
        assert!(new > 199_000, "{new}");
        assert!((0..200_000).all(|n| !keys.is_new(&key(n))));
        assert!(!keys.is_full());
    }
}
