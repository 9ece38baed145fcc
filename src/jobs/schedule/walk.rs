//! Due times against a truth computed another way: a walk over the time line, minute by minute, that reads the wall
//! clock and knows nothing of cron text.

use super::zone::{local, named};
use super::Schedule;
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;
use std::collections::BTreeSet;

/// Deterministic numbers (splitmix64), so that a failure comes again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(limit)) as u32
    }

    /// A field's text and the values that it means.
    fn field(&mut self, low: u32, high: u32, star: u32) -> (String, BTreeSet<u32>) {
        let span = high - low + 1;
        let values = |from: u32, to: u32, step: u32| (from..=to).step_by(step as usize).collect::<BTreeSet<_>>();
        if self.below(100) < star {
            return ("*".into(), values(low, high, 1));
        }
        let a = low + self.below(span);
        let b = low + self.below(span);
        let step = 1 + self.below(span / 2);
        match self.below(5) {
            0 => (format!("*/{step}"), values(low, high, step)),
            1 => (format!("{}-{}", a.min(b), a.max(b)), values(a.min(b), a.max(b), 1)),
            2 => (format!("{}-{}/{step}", a.min(b), a.max(b)), values(a.min(b), a.max(b), step)),
            3 => (format!("{a},{b}"), BTreeSet::from([a, b])),
            _ => (a.to_string(), BTreeSet::from([a])),
        }
    }
}

/// What a wall clock shows, minute by minute.
struct Clock {
    zone: Tz,
    minutes: Vec<(DateTime<Utc>, NaiveDateTime)>,
}

impl Clock {
    fn new(zone: &str, from: &str, hours: i64) -> Clock {
        let zone = named(zone).unwrap();
        let from = from.parse::<NaiveDate>().unwrap().and_hms_opt(0, 0, 0).unwrap().and_utc();
        let minutes = (0..=hours * 60).map(|minute| from + TimeDelta::minutes(minute));
        Clock { zone, minutes: minutes.map(|at| (at, local(zone, at))).collect() }
    }
}

/// A schedule as sets of values.
struct Truth {
    text: String,
    minutes: BTreeSet<u32>,
    hours: BTreeSet<u32>,
    days: BTreeSet<u32>,
    months: BTreeSet<u32>,
    weekdays: BTreeSet<u32>,
    either_day: bool,
    elapsed: bool,
}

impl Truth {
    fn random(random: &mut Random, star: u32) -> Truth {
        let (minute, minutes) = random.field(0, 59, 10);
        let (hour, hours) = random.field(0, 23, 20);
        let (day, days) = random.field(1, 31, star);
        let (month, months) = random.field(1, 12, star);
        let (weekday, weekdays) = random.field(0, 7, star);
        Truth {
            text: format!("{minute} {hour} {day} {month} {weekday}"),
            either_day: !day.starts_with('*') && !weekday.starts_with('*'),
            elapsed: [&minute, &hour].iter().any(|field| field.contains(['*', '/']))
                || minutes.len() == 60
                || hours.len() == 24,
            minutes,
            hours,
            days,
            months,
            weekdays: weekdays.into_iter().map(|day| day % 7).collect(),
        }
    }

    fn matches(&self, at: NaiveDateTime) -> bool {
        let day = self.days.contains(&at.day());
        let weekday = self.weekdays.contains(&at.weekday().num_days_from_sunday());
        self.minutes.contains(&at.minute())
            && self.hours.contains(&at.hour())
            && self.months.contains(&at.month())
            && if self.either_day { day || weekday } else { day && weekday }
    }

    /// What is due after the clock's first minute. A fixed time is due when the clock first reaches or passes it.
    fn walk(&self, clock: &Clock) -> Vec<DateTime<Utc>> {
        let mut due = Vec::new();
        let mut furthest = clock.minutes[0].1;
        for &(at, shown) in &clock.minutes[1..] {
            let mut reached = self.elapsed && self.matches(shown);
            while furthest < shown {
                furthest += TimeDelta::minutes(1);
                reached |= !self.elapsed && self.matches(furthest);
            }
            if reached {
                due.push(at);
            }
        }
        due
    }

    fn holds(&self, clock: &Clock) {
        let Clock { zone, minutes } = clock;
        let (from, to) = (minutes[0].0, minutes[minutes.len() - 1].0);
        let Ok(schedule) = Schedule::parse(&self.text, zone.name()) else {
            // It can't come: 30 February.
            let first = NaiveDate::from_ymd_opt(2000, 1, 1).unwrap();
            let noon = |day: NaiveDate| {
                let (hour, minute) = (self.hours.first().unwrap(), self.minutes.first().unwrap());
                day.and_hms_opt(*hour, *minute, 0).unwrap()
            };
            assert!(first.iter_days().take(146_097).all(|day| !self.matches(noon(day))), "{} is refused", self.text);
            return;
        };
        let truth = self.walk(clock);
        let mut found = Vec::new();
        let mut at = from;
        while let Some(next) = schedule.next_after(at, from).filter(|next| *next <= to) {
            found.push(next);
            at = next;
        }
        assert_eq!(found, truth, "{} in {zone}", self.text);

        let some = truth.iter().step_by(truth.len() / 40 + 1);
        let about = some.flat_map(|due| [-1, 0, 1, 1800].map(|s| *due + TimeDelta::milliseconds(s * 1000 + 7)));
        let steps = minutes.iter().map(|(at, _)| *at).step_by(minutes.len() / 100);
        for at in about.chain(steps).filter(|at| (from..to).contains(at)) {
            let last = truth.iter().rev().find(|due| **due <= at).copied();
            assert_eq!(schedule.last_due(from, at, from), last, "{} in {zone}, last at {at}", self.text);
            let next = truth.iter().find(|due| **due > at).copied();
            let found = schedule.next_after(at, from).filter(|next| *next <= to);
            assert_eq!(found, next, "{} in {zone}, next after {at}", self.text);
        }
    }
}

#[test]
fn due_times_equal_a_walk_through_changes_of_the_clock() {
    let mut random = Random(20260329);
    // Each from the day before its change of the clock.
    for (zone, day) in [
        ("Europe/Berlin", "2026-03-28"),
        ("Europe/Berlin", "2026-10-24"),
        ("Europe/Berlin", "2031-10-25"),
        ("America/New_York", "2026-03-07"),
        ("America/New_York", "2026-10-31"),
        ("America/New_York", "2007-11-03"),
        ("Australia/Lord_Howe", "2026-04-04"),
        ("Australia/Lord_Howe", "2026-10-03"),
        ("Pacific/Apia", "2011-12-29"),
        ("Pacific/Kwajalein", "1969-09-29"),
        ("America/Sao_Paulo", "2018-11-03"),
        ("America/Sao_Paulo", "2018-02-17"),
        ("America/Havana", "2026-10-31"),
        ("Asia/Kathmandu", "1985-12-31"),
        ("Africa/Casablanca", "2026-03-21"),
        ("Europe/Dublin", "2026-10-24"),
        ("Antarctica/Troll", "2026-03-28"),
        ("Antarctica/Troll", "2026-10-24"),
        ("Asia/Tokyo", "2025-12-31"),
    ] {
        let clock = Clock::new(zone, day, 60);
        for _ in 0..40 {
            Truth::random(&mut random, 75).holds(&clock);
        }
    }
}

#[test]
fn due_times_equal_a_walk_through_years() {
    let mut random = Random(7);
    let clock = Clock::new("Europe/Berlin", "2027-06-01", 366 * 24);
    for _ in 0..12 {
        let mut truth = Truth::random(&mut random, 40);
        // Once a day, so that days are what is tested.
        let (hour, minute) = (random.below(24), random.below(60));
        let days = truth.text.splitn(3, ' ').nth(2).unwrap().to_owned();
        truth.text = format!("{minute} {hour} {days}");
        (truth.minutes, truth.hours, truth.elapsed) = ([minute].into(), [hour].into(), false);
        truth.holds(&clock);
    }
}
