//! Budgets: how much query time a role may use in an hour, a day, a week or a month, and how many bytes it may own.
//!
//! The scheduler looks who has passed theirs and writes it into shared memory, where a statement that begins reads one
//! number.

use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::datum::Interval;
use serde::Deserialize;

use super::counters::{self, verdict, Verdict};
use super::keep;
use crate::error::{sqlstate, Error, Result};
use crate::pg::hooks::{self, statements};
use crate::pg::{spi, sql};

/// Spans of time that a budget can be for, as date_trunc knows them.
const PERIODS: [&str; 4] = ["hour", "day", "week", "month"];

/// Says what a role's budget says, when a statement of its begins.
#[cold]
pub fn tell(said: &Verdict, may_refuse: &dyn Fn() -> bool, told: &AtomicBool) {
    if said.verdict == verdict::REFUSED {
        if may_refuse() {
            statements::refuse(refusal(said));
        }
        return;
    }
    if !told.swap(true, Ordering::Relaxed) {
        statements::tell("your budget is passed", &facts(said), "SELECT * FROM wh.budgets shows it.");
    }
}

fn refusal(said: &Verdict) -> Error {
    // configuration_limit_exceeded
    Error::new("53400", "your budget is passed, and new statements are refused").detail(facts(said)).hint(
        match said.per() {
            Some(per) => {
                format!("Wait for the next {per}, or ask a member of wh_admin to change it with wh.set_budget.")
            }
            None => String::from("DROP or TRUNCATE what you need no more, which counts with the next measurement, or ask a member of wh_admin to change it with wh.set_budget."),
        },
    )
}

fn facts(said: &Verdict) -> String {
    match said.per() {
        Some(per) => format!("{} of {} of query time are used in this {per}.", clock(said.used), clock(said.budget)),
        None => format!("{} of {} bytes are used.", said.used, said.budget),
    }
}

impl Verdict {
    /// The period of a budget of time; one of bytes has none.
    fn per(&self) -> Option<&'static str> {
        (self.per as usize).checked_sub(1).and_then(|n| PERIODS.get(n)).copied()
    }
}

/// Hours, minutes and seconds of microseconds.
fn clock(micros: u64) -> String {
    let seconds = micros / 1_000_000;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A budget and what is used of it.
#[derive(Deserialize)]
struct Budget {
    role: u32,
    name: String,
    per: String,
    enforce: bool,
    /// Microseconds.
    query_time: Option<u64>,
    bytes: Option<u64>,
    /// When this period began (microseconds, Unix).
    since: i64,
    /// Superusers and wh_admin are told, and never refused.
    above: bool,
    /// That was told for this period.
    told: bool,
}

impl Budget {
    fn verdict(&self, used: u64, used_bytes: u64) -> Verdict {
        let fine = Verdict { verdict: verdict::FINE, per: 0, used: 0, budget: 0 };
        let passed = if self.enforce && !self.above { verdict::REFUSED } else { verdict::PASSED };
        if let Some(budget) = self.query_time.filter(|budget| used > *budget) {
            let per = PERIODS.iter().position(|p| *p == self.per).map_or(0, |n| n as u64 + 1);
            return Verdict { verdict: passed, per, used, budget };
        }
        match self.bytes.filter(|budget| used_bytes > *budget) {
            Some(budget) => Verdict { verdict: passed, per: 0, used: used_bytes, budget },
            None => fine,
        }
    }
}

/// Looks who has passed what, and tells those who listen, once for each period. Says whether there are any budgets.
pub fn judge(database: u32) -> Result<bool> {
    let budgets: Vec<Budget> = spi::rows(
        "SELECT pg_catalog.json_build_object('role', b.role::pg_catalog.oid::int8, 'name', r.rolname, 'per', b.per, 'enforce', b.enforce,
                  'query_time', wh.micros(least(b.query_time, interval '100000 years')), 'bytes', b.bytes, 'since', wh.micros(p.since),
                  'above', r.rolsuper OR pg_catalog.pg_has_role(r.oid, 'wh_admin', 'MEMBER'),
                  'told', EXISTS (SELECT FROM wh.budget_passed x WHERE x.role = b.role::pg_catalog.oid AND x.since = p.since))::text
         FROM wh.budget b JOIN pg_catalog.pg_roles r ON r.oid = b.role::pg_catalog.oid
         CROSS JOIN LATERAL (SELECT pg_catalog.date_trunc(b.per, pg_catalog.now(), pg_catalog.current_setting('log_timezone')) AS since) p",
        &[],
    )?;
    let mut verdicts = Vec::with_capacity(budgets.len());
    for b in budgets {
        let used = keep::time_since(database, b.role, b.since)?;
        let bytes = if b.bytes.is_some() { bytes_of(b.role)? } else { 0 };
        let said = b.verdict(used, bytes);
        if said.verdict != verdict::FINE && !b.told {
            announce(&b, &said)?;
        }
        verdicts.push((b.role, b.name, said));
    }
    counters::judge(database, &verdicts);
    Ok(!verdicts.is_empty())
}

/// Tells the channel `wh_budgets`, and remembers that it did.
fn announce(b: &Budget, said: &Verdict) -> Result<()> {
    let what = if said.per().is_some() { "query_time" } else { "bytes" };
    let mut told = serde_json::json!({ "budget_of": what, "per": b.per, "refused": said.verdict == verdict::REFUSED });
    // Every role may listen to every channel: where each sees their own, wh.budgets says whose it is to those who may know.
    if crate::settings::USAGE_VISIBILITY.get() == crate::settings::UsageVisibility::All {
        told["role"] = b.name.as_str().into();
        told["used"] = said.used.into();
        told["budget"] = said.budget.into();
    }
    spi::run("SELECT pg_catalog.pg_notify('wh_budgets', $1)", &[told.to_string().as_str().into()])?;
    spi::run(
        "INSERT INTO wh.budget_passed AS p (role, since) VALUES ($1, wh.instant($2))
         ON CONFLICT (role) DO UPDATE SET since = EXCLUDED.since",
        &[spi::oid(b.role), b.since.into()],
    )?;
    Ok(())
}

/// Bytes of the schemas that a role owns and of its stored results, as wh.budgets has them.
fn bytes_of(role: u32) -> Result<u64> {
    let bytes: Option<u64> = spi::first(
        "SELECT ((SELECT coalesce(pg_catalog.sum(s.total_bytes), 0) FROM wh.schema_sizes s
                  WHERE s.owner::text = (SELECT rolname::text FROM pg_catalog.pg_roles WHERE oid = $1))
               + (SELECT coalesce(pg_catalog.sum(x.bytes), 0) FROM wh.result x WHERE x.runner::pg_catalog.oid = $1))::bigint::text",
        &[spi::oid(role)],
    )?;
    Ok(bytes.unwrap_or(0))
}

/// Sets a role's budget, or takes it away where there is neither time nor bytes.
pub fn set(role: u32, query_time: Option<Interval>, bytes: Option<i64>, per: &str, enforce: bool) -> Result<()> {
    if !PERIODS.contains(&per) {
        let known: Vec<String> = PERIODS.iter().map(|p| sql::literal(p)).collect();
        return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("per must not be \"{per}\""))
            .hint(format!("It is one of {}.", known.join(", "))));
    }
    if bytes.is_some_and(|b| b < 0) || query_time.is_some_and(|t| t.as_micros() < 0) {
        return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "a budget must not be negative"));
    }
    spi::run("DELETE FROM wh.budget_passed WHERE role = $1", &[spi::oid(role)])?;
    if query_time.is_none() && bytes.is_none() {
        spi::run("DELETE FROM wh.budget WHERE role = $1", &[spi::oid(role)])?;
    } else {
        spi::run(
            "INSERT INTO wh.budget (role, query_time, bytes, per, enforce) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (role) DO UPDATE SET query_time = EXCLUDED.query_time, bytes = EXCLUDED.bytes,
               per = EXCLUDED.per, enforce = EXCLUDED.enforce",
            &[spi::oid(role), query_time.into(), bytes.into(), per.into(), enforce.into()],
        )?;
    }
    hooks::at_end(hooks::When::Committed, || {
        counters::hurry();
        crate::jobs::wake_scheduler();
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(query_time: Option<u64>, bytes: Option<u64>, enforce: bool, above: bool) -> Budget {
        Budget {
            role: 10,
            name: "ana".into(),
            per: "day".into(),
            enforce,
            query_time,
            bytes,
            since: 0,
            above,
            told: false,
        }
    }

    #[test]
    fn a_budget_is_passed_when_more_is_used_and_refuses_only_who_is_not_above() {
        let said = |b: &Budget, running, bytes| b.verdict(running, bytes).verdict;
        let time = budget(Some(100), None, false, false);
        assert_eq!((said(&time, 100, 1 << 40), said(&time, 101, 0)), (verdict::FINE, verdict::PASSED));
        let bytes = budget(None, Some(1000), true, false);
        assert_eq!((said(&bytes, 1 << 40, 1000), said(&bytes, 0, 1001)), (verdict::FINE, verdict::REFUSED));
        assert_eq!(said(&budget(Some(0), None, true, true), 1, 0), verdict::PASSED);
    }

    #[test]
    fn what_is_said_names_what_is_used() {
        let time = budget(Some(60_000_000), None, true, false).verdict(3_723_000_000, 0);
        assert_eq!(facts(&time), "1:02:03 of 0:01:00 of query time are used in this day.");
        let bytes = budget(None, Some(7), true, false).verdict(0, 8);
        assert_eq!(facts(&bytes), "8 of 7 bytes are used.");
    }
}
