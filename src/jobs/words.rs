//! A schedule in English, as `wh.jobs` shows it. A shape for which there is no phrase is told field by field.
//!
//! croner's own description reads less well ("At every 15 minutes.", "At 03:30, on Monday, Tuesday, Wednesday, Thursday,
//! and Friday."), and takes 3-59/7 for a step from the full hour; so only its reading of the fields is used.

use super::schedule::Calendar;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const ORDINALS: [&str; 5] = ["first", "second", "third", "fourth", "fifth"];
const UTC: [&str; 12] = [
    "UTC",
    "UCT",
    "Universal",
    "Zulu",
    "GMT",
    "GMT0",
    "Greenwich",
    "Etc/UTC",
    "Etc/UCT",
    "Etc/Universal",
    "Etc/Zulu",
    "Etc/GMT",
];
/// Times of day, or days, that a phrase lists before it is clearer to name the fields.
const LISTED: usize = 6;

pub(super) fn interval(seconds: i64) -> String {
    match &parts(seconds)[..] {
        [(1, unit)] => format!("every {unit}"),
        parts => format!("every {}", counted(parts)),
    }
}

/// A promise of so many microseconds.
pub(super) fn at_most(micros: i64) -> String {
    let span = match micros % 1_000_000 {
        0 => counted(&parts(micros / 1_000_000)),
        _ => format!("{} seconds", micros as f64 / 1e6),
    };
    format!("at most {span} behind")
}

fn parts(seconds: i64) -> Vec<(i64, &'static str)> {
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, size) in [("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)] {
        if rest / size > 0 {
            parts.push((rest / size, unit));
        }
        rest %= size;
    }
    parts
}

fn counted(parts: &[(i64, &str)]) -> String {
    let word = |(n, unit): &(i64, &str)| format!("{n} {unit}{}", if *n == 1 { "" } else { "s" });
    parts.iter().map(word).collect::<Vec<_>>().join(" ")
}

pub(super) fn calendar(calendar: &Calendar) -> String {
    let time = Time::of(calendar);
    let time = time.phrase().unwrap_or_else(|| time.fields());
    let days = Days::of(calendar);
    let mut words = match days.phrase() {
        Some(days) if days.is_empty() => time,
        Some(days) => format!("{time} {days}"),
        None => format!("{time}, {}", days.fields()),
    };
    let zone = calendar.zone.name();
    if !UTC.contains(&zone) {
        words.push_str(&format!(", {zone}"));
    }
    words
}

/// Which values a field of the time takes.
#[derive(Clone, Copy)]
enum Shape {
    All,
    /// Every so many, from 0, with a whole number of steps to the turn.
    Step(u16),
    One(u16),
    /// From and to, without a gap.
    Range(u16, u16),
    Other,
}

fn shape(values: &[u16], turn: u16) -> Shape {
    let (Some(&first), Some(&last)) = (values.first(), values.last()) else { return Shape::Other };
    let apart = values.get(1).map_or(turn, |second| second - first);
    match values.len() {
        1 => Shape::One(first),
        all if all == usize::from(turn) => Shape::All,
        _ if values.windows(2).any(|pair| pair[1] - pair[0] != apart) => Shape::Other,
        _ if first == 0 && last + apart == turn => Shape::Step(apart),
        _ if apart == 1 => Shape::Range(first, last),
        _ => Shape::Other,
    }
}

struct Time {
    seconds: Vec<u16>,
    minutes: Vec<u16>,
    hours: Vec<u16>,
}

impl Time {
    fn of(calendar: &Calendar) -> Time {
        let pattern = &calendar.cron.pattern;
        Time { seconds: pattern.seconds.values(), minutes: pattern.minutes.values(), hours: pattern.hours.values() }
    }

    fn phrase(&self) -> Option<String> {
        let hours = shape(&self.hours, 24);
        let minutes = shape(&self.minutes, 60);
        let seconds = shape(&self.seconds, 60);
        // From the first to the last time of day, where the hours between have no gap.
        let span = |from: &str, to: String| match hours {
            Shape::All => Some(String::new()),
            Shape::One(hour) => Some(format!(" from {hour:02}:{from} to {hour:02}:{to}")),
            Shape::Range(first, last) => Some(format!(" from {first:02}:{from} to {last:02}:{to}")),
            _ => None,
        };
        let last = |values: &[u16]| values.last().copied().unwrap_or_default();
        let often = match (seconds, minutes) {
            (Shape::One(0), Shape::All) => span("00", "59".into()).map(|span| format!("every minute{span}")),
            (Shape::One(0), Shape::Step(step)) => {
                span("00", format!("{:02}", last(&self.minutes))).map(|span| format!("every {step} minutes{span}"))
            }
            (Shape::One(second), Shape::All) => {
                span("00", "59".into()).map(|span| format!("every minute at second {second}{span}"))
            }
            (Shape::All, Shape::All) => span("00:00", "59:59".into()).map(|span| format!("every second{span}")),
            (Shape::Step(step), Shape::All) => span("00:00", format!("59:{:02}", last(&self.seconds)))
                .map(|span| format!("every {step} seconds{span}")),
            _ => None,
        };
        if often.is_some() {
            return often;
        }
        match (seconds, minutes, hours) {
            (Shape::One(0), Shape::One(0), Shape::Step(step)) => Some(format!("every {step} hours")),
            (Shape::One(0), Shape::One(minute), Shape::Step(step)) => {
                Some(format!("every {step} hours at minute {minute}"))
            }
            (Shape::One(0), Shape::One(0), Shape::All) => Some("hourly".into()),
            (Shape::One(0), Shape::One(minute), Shape::All) => Some(format!("hourly at minute {minute}")),
            (Shape::One(0), Shape::One(minute), Shape::Range(first, last)) if last - first > 1 => {
                Some(format!("hourly from {first:02}:{minute:02} to {last:02}:{minute:02}"))
            }
            (Shape::One(0), _, Shape::All) => Some(format!("hourly at minutes {}", numbers(&self.minutes))),
            (Shape::One(second), _, _) if self.hours.len() * self.minutes.len() <= LISTED => {
                let times = self.hours.iter().flat_map(|hour| {
                    self.minutes.iter().map(move |minute| match second {
                        0 => format!("{hour:02}:{minute:02}"),
                        _ => format!("{hour:02}:{minute:02}:{second:02}"),
                    })
                });
                Some(format!("at {}", list(&times.collect::<Vec<_>>(), "and")))
            }
            _ => None,
        }
    }

    fn fields(&self) -> String {
        let mut parts = Vec::new();
        if self.seconds != [0] {
            parts.push(field("second", &self.seconds, 60));
        }
        parts.push(field("minute", &self.minutes, 60));
        parts.push(field("hour", &self.hours, 24));
        parts.join(", ")
    }
}

/// "minutes 1-5", "every hour".
fn field(name: &str, values: &[u16], turn: u16) -> String {
    match shape(values, turn) {
        Shape::All => format!("every {name}"),
        Shape::Step(step) => format!("every {step} {name}s"),
        Shape::One(value) => format!("{name} {value}"),
        _ => format!("{name}s {}", numbers(values).replace(" and ", ", ")),
    }
}

struct Days<'a> {
    /// The texts of the fields, in upper case.
    day: &'a str,
    month: &'a str,
    weekday: &'a str,
    days: Vec<u16>,
    months: Vec<u16>,
    weekdays: Vec<u16>,
    /// Whether day of month and day of week must match both.
    both: bool,
}

impl Days<'_> {
    fn of(calendar: &Calendar) -> Days<'_> {
        let pattern = &calendar.cron.pattern;
        let [_, _, _, day, month, weekday] = &calendar.fields.0;
        Days {
            day,
            month,
            weekday: weekday.trim_start_matches('+'),
            days: pattern.days.values(),
            months: pattern.months.values(),
            weekdays: pattern.days_of_week.values(),
            both: pattern.matches_dom_and_dow() && !any(day) && !any(weekday),
        }
    }

    fn phrase(&self) -> Option<String> {
        let months = match shape(&self.months.iter().map(|month| month - 1).collect::<Vec<_>>(), 12) {
            Shape::All => String::new(),
            Shape::Range(first, last) if last - first > 1 => {
                format!(" from {} to {}", MONTHS[usize::from(first)], MONTHS[usize::from(last)])
            }
            _ => format!(" in {}", self.month_names()),
        };
        let dates = || match self.month_dates() {
            Some(dates) => Some(dates),
            None => self.day_phrase().map(|days| format!("{days}{months}")),
        };
        Some(match (any(self.day), any(self.weekday)) {
            (true, true) => months.trim_start().to_owned(),
            (true, false) => format!("on {}{months}", self.weekday_phrase()?),
            (false, true) => format!("on {}", dates()?),
            (false, false) if self.both => format!("on {} if it is {}", dates()?, self.weekday_phrase()?),
            (false, false) => {
                let comma = if months.is_empty() { "" } else { "," };
                format!("on {} or on {}{comma}{months}", self.day_phrase()?, self.weekday_phrase()?)
            }
        })
    }

    fn month_names(&self) -> String {
        let names = self.months.iter().filter_map(|month| MONTHS.get(usize::from(month - 1)));
        list(&names.map(|name| (*name).to_owned()).collect::<Vec<_>>(), "and")
    }

    /// "1 January", where the days are few and no more than numbers.
    fn month_dates(&self) -> Option<String> {
        let plain = self.day.split(',').all(|item| item.parse::<u16>().is_ok());
        let dates = self.days.len() * self.months.len();
        if !plain || self.months.len() == 12 || dates > LISTED {
            return None;
        }
        let dates = self
            .months
            .iter()
            .flat_map(|month| self.days.iter().map(move |day| format!("{day} {}", MONTHS[usize::from(month - 1)])));
        Some(list(&dates.collect::<Vec<_>>(), "and"))
    }

    /// "the 1st and 15th of the month", "the last day of the month".
    fn day_phrase(&self) -> Option<String> {
        let mut said = Vec::new();
        for item in self.day.split(',') {
            said.push(match item {
                "L" => "last day".to_owned(),
                "LW" => "last weekday".to_owned(),
                _ => match (item.strip_suffix('W'), item.split_once('-')) {
                    (Some(day), _) => format!("weekday nearest the {}", ordinal(day.parse().ok()?)),
                    (None, Some((from, to))) => {
                        format!("{} to {}", ordinal(from.parse().ok()?), ordinal(to.parse().ok()?))
                    }
                    (None, None) => ordinal(item.parse().ok()?),
                },
            });
        }
        (said.len() <= LISTED).then(|| format!("the {} of the month", list(&said, "and")))
    }

    /// "weekdays", "Monday and Thursday", "the third Friday".
    fn weekday_phrase(&self) -> Option<String> {
        let plain = !self.weekday.contains(['#', 'L', '*']);
        match &self.weekdays[..] {
            [1, 2, 3, 4, 5] if plain && self.both => return Some("a weekday".into()),
            [1, 2, 3, 4, 5] if plain => return Some("weekdays".into()),
            [0, 6] if plain && !self.both => return Some("weekends".into()),
            _ => {}
        }
        let name = |index: u16| WEEKDAYS.get(usize::from(index % 7)).copied();
        if plain {
            // The week begins on Monday where more than one day is listed.
            let mut days = self.weekdays.clone();
            days.sort_by_key(|day| (day + 6) % 7);
            let names: Option<Vec<_>> = days.into_iter().map(|day| name(day).map(str::to_owned)).collect();
            return Some(match self.both {
                true => format!("a {}", list(&names?, "or")),
                false => list(&names?, "and"),
            });
        }
        let index = |text: &str| {
            let named = WEEKDAYS.iter().position(|weekday| weekday[..3].eq_ignore_ascii_case(text));
            named.and_then(|at| u16::try_from(at).ok()).or_else(|| text.parse().ok()).and_then(name)
        };
        let mut said = Vec::new();
        for item in self.weekday.split(',') {
            said.push(match (item.split_once('#'), item.strip_suffix('L')) {
                (Some((day, "L")), _) | (None, Some(day)) => format!("the last {}", index(day)?),
                (Some((day, nth)), _) => {
                    let nth = nth.parse::<usize>().ok()?.checked_sub(1)?;
                    format!("the {} {}", ORDINALS.get(nth)?, index(day)?)
                }
                (None, None) => index(item)?.to_owned(),
            });
        }
        (said.len() <= LISTED).then(|| list(&said, if self.both { "or" } else { "and" }))
    }

    fn fields(&self) -> String {
        let parts = [("days of month", self.day), ("months", self.month), ("days of week", self.weekday)];
        let said = parts.iter().filter(|(_, text)| !any(text));
        let said: Vec<_> = said.map(|(name, text)| format!("{name} {text}")).collect();
        // Several fields must match together, save the two kinds of day.
        match (self.both, &said[..]) {
            (false, [day, weekday]) if self.month == "*" => format!("{day} or {weekday}"),
            (false, [day, month, weekday]) => format!("{day} or {weekday}, {month}"),
            _ => said.join(", "),
        }
    }
}

fn any(field: &str) -> bool {
    ["*", "?"].contains(&field)
}

fn ordinal(day: u16) -> String {
    let suffix = match (day % 10, day % 100) {
        (1, 1 | 21 | 31) => "st",
        (2, 2 | 22) => "nd",
        (3, 3 | 23) => "rd",
        _ => "th",
    };
    format!("{day}{suffix}")
}

/// "1-5, 10 and 20".
fn numbers(values: &[u16]) -> String {
    let mut parts: Vec<(u16, u16)> = Vec::new();
    for &value in values {
        match parts.last_mut() {
            Some((_, to)) if *to + 1 == value => *to = value,
            _ => parts.push((value, value)),
        }
    }
    let parts = parts.into_iter().flat_map(|(from, to)| match to - from {
        0 => vec![from.to_string()],
        1 => vec![from.to_string(), to.to_string()],
        _ => vec![format!("{from}-{to}")],
    });
    list(&parts.collect::<Vec<_>>(), "and")
}

fn list(items: &[String], last: &str) -> String {
    match items {
        [front @ .., end] if !front.is_empty() => format!("{} {last} {end}", front.join(", ")),
        _ => items.concat(),
    }
}

#[cfg(test)]
mod tests;
