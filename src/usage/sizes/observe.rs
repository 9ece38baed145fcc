//! When a relation was last read and written: told from counters that only grow, looked at again and again. Up to
//! Postgres 15 the server keeps no dates.

/// What the server has counted of a relation since its counters began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Scans, and rows fetched through an index.
    pub reads: i64,
    /// Rows inserted, updated and deleted.
    pub writes: i64,
    /// When it was last scanned (microseconds, Unix), where the server knows.
    pub last_read: Option<i64>,
}

/// What two looks tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// When it was read and written since the look before, as far as it was (microseconds, Unix).
    pub read: Option<i64>,
    pub written: Option<i64>,
    /// There is something to be written down.
    pub changed: bool,
}

/// Compares the counters at `now` with those of the look before. A counter that is less than it was began anew (a
/// crash, pg_stat_reset), so what it shows has happened since.
pub fn observe(before: Counts, counts: Counts, now: i64) -> Seen {
    let moved = |before: i64, count: i64| count != before && count > 0;
    let read = moved(before.reads, counts.reads).then(|| counts.last_read.unwrap_or(now));
    let written = moved(before.writes, counts.writes).then_some(now);
    Seen { read, written, changed: (before.reads, before.writes) != (counts.reads, counts.writes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(reads: i64, writes: i64) -> Counts {
        Counts { reads, writes, last_read: None }
    }

    #[test]
    fn a_counter_that_grew_is_a_read_or_a_write() {
        let nothing = Seen::default();
        assert_eq!(observe(counts(3, 4), counts(3, 4), 9), nothing);
        assert_eq!(observe(counts(3, 4), counts(5, 4), 9), Seen { read: Some(9), written: None, changed: true });
        assert_eq!(observe(counts(3, 4), counts(3, 5), 9), Seen { read: None, written: Some(9), changed: true });
    }

    #[test]
    fn a_counter_that_began_anew_tells_what_has_happened_since() {
        assert_eq!(observe(counts(8, 8), counts(0, 0), 9), Seen { read: None, written: None, changed: true });
        assert_eq!(observe(counts(8, 8), counts(2, 0), 9), Seen { read: Some(9), written: None, changed: true });
    }

    #[test]
    fn the_servers_own_date_is_better_than_that_of_the_look() {
        let now = Counts { last_read: Some(7), ..counts(5, 0) };
        assert_eq!(observe(counts(3, 0), now, 9), Seen { read: Some(7), written: None, changed: true });
    }
}
