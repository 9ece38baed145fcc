//! The text of a cron schedule: croner reads it, field by field, so that an error names the place.
//!
//! croner takes more than it should: it puts names in place of numbers anywhere in the text, and lets empty parts of a
//! list pass, and forgets `L` beside `LW`. What it would misread is refused here before.

use super::invalid;
use crate::error::{sqlstate, Error, Result};
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::Cron;

const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const FORMS: &str = "Write five fields (minute, hour, day of month, month, day of week) such as '30 3 * * MON-FRI', \
                     six with seconds first, a nickname such as @daily, or an interval such as '15 minutes'.";

struct Kind {
    name: &'static str,
    highest: u32,
    hint: &'static str,
}

const KINDS: [Kind; 6] = [
    Kind { name: "second", highest: 59, hint: "Seconds are 0 to 59: a number, *, a range such as 0-30, a step such as */10, or a list of these." },
    Kind { name: "minute", highest: 59, hint: "Minutes are 0 to 59: a number, *, a range such as 0-30, a step such as */15, or a list of these." },
    Kind { name: "hour", highest: 23, hint: "Hours are 0 to 23: a number, *, a range such as 9-17, a step such as */2, or a list of these." },
    Kind { name: "day-of-month", highest: 31, hint: "Days of the month are 1 to 31: a number, *, a range such as 1-7, a step such as */2, L for the last day, 15W for the weekday nearest the 15th, or a list of these." },
    Kind { name: "month", highest: 12, hint: "Months are 1 to 12 or JAN to DEC: one, *, a range such as APR-SEP, a step such as */3, or a list of these." },
    Kind { name: "day-of-week", highest: 7, hint: "Days of the week are 0 to 7 or SUN to SAT, with 0 and 7 both Sunday: one, *, a range such as MON-FRI, 5#3 for the third Friday of the month (1 to 5), 5L for the last, or a list of these." },
];
const MINUTE: usize = 1;
const HOUR: usize = 2;
const DAY: usize = 3;
const MONTH: usize = 4;
const WEEKDAY: usize = 5;

/// The texts of the six fields, in upper case; seconds are "0" where there were five.
#[derive(Debug, Clone)]
pub struct Fields(pub [String; 6]);

/// A schedule that is no interval.
pub fn parse(text: &str) -> Result<(Fields, Cron)> {
    let trimmed = text.trim();
    if trimmed.starts_with('@') {
        let known = NICKNAMES.iter().find(|(nickname, _)| nickname.eq_ignore_ascii_case(trimmed));
        let (_, fields) = known.ok_or_else(|| {
            let names: Vec<_> = NICKNAMES.iter().map(|(nickname, _)| *nickname).collect();
            invalid(text, format!("\"{trimmed}\" is not a nickname of a schedule."))
                .hint(format!("Nicknames are {}.", names.join(", ")))
        })?;
        return read(text, located(fields));
    }
    if let Some((index, strange)) = text.chars().enumerate().find(|(_, c)| !c.is_ascii()) {
        return Err(invalid(text, format!("Character {} is \"{strange}\".", index + 1)).hint(FORMS));
    }
    read(text, located(text))
}

/// Fields with their positions, in characters from 1. The text is ASCII.
fn located(text: &str) -> Vec<(usize, String)> {
    text.split_ascii_whitespace()
        .map(|field| (field.as_ptr() as usize - text.as_ptr() as usize + 1, field.to_owned()))
        .collect()
}

fn read(text: &str, mut fields: Vec<(usize, String)>) -> Result<(Fields, Cron)> {
    if fields.is_empty() {
        return Err(invalid(text, "It is empty.".into()).hint(FORMS));
    }
    if fields.len() == 5 {
        fields.insert(0, (0, "0".into()));
    }
    let found = fields.len();
    let fields: [(usize, String); 6] = fields.try_into().map_err(|_| {
        let plural = if found == 1 { "field" } else { "fields" };
        invalid(text, format!("It has {found} {plural}.")).hint(FORMS)
    })?;
    for (kind, (position, field)) in fields.iter().enumerate() {
        let mut at = *position;
        for item in field.split(',') {
            let checked = match item {
                "*" | "?" if item != field => Err(format!("{item} is more than a part of a list")),
                _ => check(kind, item),
            };
            checked.map_err(|reason| {
                invalid(text, format!("The {} field has \"{item}\" at character {at}: {reason}.", KINDS[kind].name))
                    .hint(KINDS[kind].hint)
            })?;
            at += item.len() + 1;
        }
    }
    let (day_at, day) = &fields[DAY];
    let has = |wanted: &str| day.split(',').any(|item| item.eq_ignore_ascii_case(wanted));
    if has("LW") && (has("L") || has("$")) {
        let what = format!("The day-of-month field \"{day}\" at character {day_at} has both L and LW.");
        return Err(invalid(text, what).hint("Make two schedules of it."));
    }
    let mut fields = Fields(fields.map(|(_, field)| field.to_ascii_uppercase()));
    fields.0[DAY] = with_last_day(&fields.0[DAY]);
    let cron =
        croner(&fields.0).map_err(|e| invalid(text, format!("It can't be read: {}.", reason(&e))).hint(FORMS))?;
    Ok((fields, cron))
}

/// pg_cron writes `$` for the last day of the month.
fn with_last_day(field: &str) -> String {
    field.split(',').map(|item| if item == "$" { "L" } else { item }).collect::<Vec<_>>().join(",")
}

/// Whether one part of a field's list can stand there; the reason if not.
fn check(kind: usize, item: &str) -> std::result::Result<(), String> {
    if item.is_empty() {
        return Err("a part of the list is missing".into());
    }
    check_letters(kind, item)?;
    if let Some(step) = item.split_once('/').and_then(|(_, step)| step.parse::<u32>().ok()) {
        if step > KINDS[kind].highest {
            return Err(format!("the step is larger than {}", KINDS[kind].highest));
        }
    }
    let mut alone: [String; 6] = std::array::from_fn(|_| "*".into());
    alone[kind] = if kind == DAY { with_last_day(item) } else { item.into() };
    croner(&alone).map(drop).map_err(|e| reason(&e))
}

/// Names and letters stand alone, and where they mean something.
fn check_letters(kind: usize, item: &str) -> std::result::Result<(), String> {
    let mut previous = None;
    let mut rest = item;
    while let Some(c) = rest.chars().next() {
        let length = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        if length == 0 {
            previous = Some(c);
            rest = &rest[1..];
            continue;
        }
        let word = &rest[..length];
        rest = &rest[length..];
        let beside_digit =
            previous.is_some_and(|c| c.is_ascii_digit()) || rest.starts_with(|c: char| c.is_ascii_digit());
        let upper = word.to_ascii_uppercase();
        let upper = upper.as_str();
        let known = match kind {
            DAY => matches!(upper, "L" | "W" | "LW"),
            MONTH => MONTHS.contains(&upper) && !beside_digit,
            // "FRIL" is the last Friday, as "5L".
            WEEKDAY if upper == "L" => {
                if item == word {
                    return Err("the last of which day of the week is not said".into());
                }
                true
            }
            WEEKDAY => WEEKDAYS.contains(&upper.strip_suffix('L').unwrap_or(upper)) && !beside_digit,
            _ => false,
        };
        if !known {
            return Err(format!("\"{word}\" means nothing here"));
        }
        previous = word.chars().last();
    }
    Ok(())
}

fn croner(fields: &[String; 6]) -> std::result::Result<Cron, CronError> {
    // Where a day field begins with a star, Vixie cron and pg_cron want both to match.
    let both = [DAY, WEEKDAY].iter().any(|day| fields[*day].starts_with(['*', '?']));
    CronParser::builder()
        .seconds(Seconds::Required)
        .year(Year::Disallowed)
        .dom_and_dow(both)
        .build()
        .parse(&fields.join(" "))
}

/// What croner says, to go on in a sentence.
fn reason(error: &CronError) -> String {
    let said = match error {
        CronError::ComponentError(said) => said.clone(),
        CronError::IllegalCharacters(_) => "illegal character".to_owned(),
        other => other.to_string(),
    };
    // "Invalid step syntax: …" goes on to advise, which is for the hint.
    let said = said.split(':').next().unwrap_or_default().trim_end_matches('.');
    let mut chars = said.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

impl Fields {
    /// Whether runs follow elapsed time through a change of the clock: see the module `schedule`.
    pub fn follow_elapsed_time(&self, cron: &Cron) -> bool {
        let free = |field: &str| field.contains(['*', '/']);
        free(&self.0[MINUTE])
            || free(&self.0[HOUR])
            || cron.pattern.minutes.values().len() == 60
            || cron.pattern.hours.values().len() == 24
    }

    pub fn never_come(&self, text: &str) -> Error {
        let [_, _, _, day, month, weekday] = &self.0;
        Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("schedule \"{text}\" never comes"))
            .detail(format!("No date matches day of month \"{day}\", month \"{month}\" and day of week \"{weekday}\"."))
            .hint("For the last day of each month write L as the day of the month.")
    }
}
