//! Requests a second, over all threads of this process that talk to one source.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Slots in time, handed out one after another.
#[derive(Debug)]
pub struct Pace {
    next: Mutex<Instant>,
}

impl Pace {
    /// The one of that source.
    pub fn of(source: &str) -> Arc<Pace> {
        static ALL: OnceLock<Mutex<HashMap<String, Weak<Pace>>>> = OnceLock::new();
        let mut all = ALL.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pace) = all.get(source).and_then(Weak::upgrade) {
            return pace;
        }
        all.retain(|_, pace| pace.strong_count() > 0);
        let pace = Arc::new(Pace { next: Mutex::new(Instant::now()) });
        all.insert(source.to_owned(), Arc::downgrade(&pace));
        pace
    }

    /// Takes the next slot, and says how long it is until then.
    pub fn slot(&self, rps: f64, now: Instant) -> Duration {
        if rps.is_nan() || rps <= 0.0 {
            return Duration::ZERO;
        }
        let gap =
            Duration::try_from_secs_f64(1.0 / rps).unwrap_or(Duration::from_secs(3600)).min(Duration::from_secs(3600));
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (*next).max(now);
        *next = at + gap;
        at - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_source_share_its_requests() {
        let (one, same, other) = (Pace::of("a"), Pace::of("a"), Pace::of("b"));
        let now = Instant::now() + Duration::from_secs(1);
        let waits: Vec<_> = [&one, &same, &one, &other].iter().map(|p| p.slot(20.0, now).as_millis()).collect();
        assert_eq!(waits, [0, 50, 100, 0]);
        // What wasn't used in time is not saved up.
        assert_eq!(one.slot(20.0, now + Duration::from_secs(60)), Duration::ZERO);
        assert_eq!(same.slot(20.0, now + Duration::from_secs(60)), Duration::from_millis(50));
    }
}
