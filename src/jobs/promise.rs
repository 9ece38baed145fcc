//! When a view that is kept fresh is refreshed: as late as its promise allows, and not while nothing changed. Pure.
//!
//! A source is looked at from time to time. While it looks as it did when the refresh began, the view is as good as new.
//! Once it differs, it may have changed right after the last look at which it did not; from there the promise counts.

/// What is known of a view. Times are microseconds since 1970, spans microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    pub max_lag: i64,
    /// When the last refresh began, and how long it took; `None` before the first.
    pub refreshed: Option<(i64, i64)>,
    /// Whether what it reads is as it was then; `None` where that cannot be seen.
    pub unchanged: Option<bool>,
    /// When that was last so.
    pub seen_clean: i64,
    /// Since when it may not have been so, as far as an earlier look found.
    pub dirty_since: Option<i64>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Refresh,
    /// Nothing yet; look again at this time. `dirty_since` is what is known by now.
    Look {
        at: i64,
        dirty_since: Option<i64>,
    },
}

const SECOND: i64 = 1_000_000;

/// Time before the promise ends at which a refresh must begin: half as long again as the last one took, and some for a
/// busy server; never more than half of the promise, or a slow view would do nothing else.
fn allowance(max_lag: i64, elapsed: i64) -> i64 {
    (elapsed + elapsed / 2 + SECOND.min(max_lag / 5)).min(max_lag / 2)
}

/// How often a source is looked at: seldom, for it costs little and yet something.
fn pause(max_lag: i64) -> i64 {
    (max_lag / 8).clamp(SECOND / 4, 60 * SECOND)
}

/// Decides at `now`.
pub fn next(known: &Known, now: i64) -> Next {
    let Some((began, elapsed)) = known.refreshed else { return Next::Refresh };
    let due = |since: i64| since + known.max_lag - allowance(known.max_lag, elapsed);
    match known.unchanged {
        Some(true) => Next::Look { at: now + pause(known.max_lag), dirty_since: None },
        Some(false) => {
            let since = known.dirty_since.unwrap_or(known.seen_clean);
            match due(since) {
                at if at <= now => Next::Refresh,
                at => Next::Look { at, dirty_since: Some(since) },
            }
        }
        None => match due(began) {
            at if at <= now => Next::Refresh,
            at => Next::Look { at, dirty_since: Some(began) },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60 * SECOND;
    const KNOWN: Known = Known {
        max_lag: 10 * MINUTE,
        refreshed: Some((0, 20 * SECOND)),
        unchanged: Some(true),
        seen_clean: 0,
        dirty_since: None,
    };

    #[test]
    fn the_first_refresh_is_at_once() {
        assert_eq!(next(&Known { refreshed: None, ..KNOWN }, 5), Next::Refresh);
    }

    #[test]
    fn nothing_is_done_while_nothing_changes() {
        for now in [0, MINUTE, 100 * MINUTE] {
            let Next::Look { at, dirty_since } = next(&KNOWN, now) else { panic!("refreshed for nothing") };
            assert!(at > now && at <= now + MINUTE && dirty_since.is_none());
        }
    }

    #[test]
    fn a_change_is_followed_as_late_as_the_promise_allows_and_not_later() {
        let changed = Known { unchanged: Some(false), seen_clean: 30 * MINUTE, ..KNOWN };
        let Next::Look { at, dirty_since } = next(&changed, 31 * MINUTE) else { panic!("too early") };
        assert_eq!(dirty_since, Some(30 * MINUTE));
        // A refresh that takes as long as the last one ends within the promise, and begins in its last minute.
        assert!(at + 20 * SECOND <= 40 * MINUTE && at >= 39 * MINUTE, "{at}");
        assert_eq!(next(&changed, at), Next::Refresh);
        // The first sight of the change counts, not the last look.
        let later = Known { dirty_since, seen_clean: 31 * MINUTE, ..changed };
        assert_eq!(next(&later, at), Next::Refresh);
    }

    #[test]
    fn where_changes_cannot_be_seen_time_decides() {
        let blind = Known { unchanged: None, ..KNOWN };
        let Next::Look { at, .. } = next(&blind, MINUTE) else { panic!("too early") };
        assert!(at > 9 * MINUTE && at < 10 * MINUTE);
        assert_eq!(next(&blind, 10 * MINUTE), Next::Refresh);
    }

    #[test]
    fn a_view_slower_than_its_promise_is_not_refreshed_without_a_pause() {
        let slow = Known { refreshed: Some((0, 60 * MINUTE)), unchanged: None, ..KNOWN };
        assert_eq!(next(&slow, MINUTE), Next::Look { at: 5 * MINUTE, dirty_since: Some(0) });
    }
}
