//! One materialized view, refreshed in the current transaction as the current user.
//!
//! REFRESH itself becomes the owner in a security-restricted operation before anything that the owner wrote runs
//! (`ExecRefreshMatView`, src/backend/commands/matview.c), so a superuser may refresh anybody's view.

use std::time::{Duration, Instant};

use super::catalog::{self, Facts};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{guc, lock, session, spi, utility};

/// Whether readers may go on meanwhile, which costs more work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrently {
    /// Where it can be done, and somebody could be reading.
    Auto,
    /// Or not at all.
    Always,
    Never,
}

impl std::str::FromStr for Concurrently {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Concurrently::Auto),
            "always" => Ok(Concurrently::Always),
            "never" => Ok(Concurrently::Never),
            other => Err(Error::new(
                sqlstate::INVALID_PARAMETER_VALUE,
                format!("invalid value for concurrently: \"{other}\""),
            )
            .hint("It is 'auto', 'always' or 'never'.")),
        }
    }
}

/// What a refresh did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refreshed {
    /// Rows that the view has now.
    pub rows: i64,
    /// Bytes that it takes now, with its indexes.
    pub bytes: i64,
    pub concurrent: bool,
    /// Why it was concurrent, or was not.
    pub why: String,
    pub elapsed: Duration,
}

/// How a refresh is done, and why so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Choice {
    concurrent: bool,
    why: &'static str,
}

/// Decides; `not_concurrently` is the reason for which CONCURRENTLY is impossible, where it is.
fn choose(how: Concurrently, not_concurrently: Option<&'static str>, read_by_others: bool) -> Option<Choice> {
    let (concurrent, why) = match (how, not_concurrently) {
        (Concurrently::Never, _) => (false, "asked for"),
        (Concurrently::Always, None) => (true, "asked for"),
        (Concurrently::Always, Some(_)) => return None,
        (Concurrently::Auto, Some(reason)) => (false, reason),
        (Concurrently::Auto, None) if read_by_others => (true, "somebody could be reading"),
        (Concurrently::Auto, None) => (false, "nobody else is connected"),
    };
    Some(Choice { concurrent, why })
}

fn choice(how: Concurrently, facts: &Facts) -> Result<Choice> {
    let impossible = facts.not_concurrently();
    choose(how, impossible, session::others_are_connected()).ok_or_else(|| {
        Error::new(
            sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!(
                "materialized view {} cannot be refreshed concurrently: {}",
                facts.name,
                impossible.unwrap_or("unknown reason")
            ),
        )
        .hint(match facts.unique_index {
            false => format!(
                "CREATE UNIQUE INDEX ON {} (...), on plain columns and without WHERE; or concurrently => 'auto'.",
                facts.name
            ),
            true => String::from("The first refresh must be a plain one: concurrently => 'auto'."),
        })
    })
}

impl Choice {
    fn mode(self) -> lock::Mode {
        if self.concurrent {
            lock::Mode::Exclusive
        } else {
            lock::Mode::AccessExclusive
        }
    }
}

/// Takes the lock that [`refresh`] will need, as briefly as that does. Where the refresh is impossible it takes none:
/// the refresh will say why.
pub fn try_lock(facts: &Facts, how: Concurrently) -> Result<()> {
    match choose(how, facts.not_concurrently(), session::others_are_connected()) {
        Some(chosen) if facts.permitted => lock::briefly(facts.oid, chosen.mode()),
        _ => Ok(()),
    }
}

/// Refreshes the materialized view `oid`. Its lock is asked for briefly, so that nobody queues behind the request for
/// longer than [`lock::QUEUE_MS`]: where it is not to be had this raises 55P03, and the caller tries again
/// ([`lock::patiently`]). The same holds for whatever the view reads, since the view is locked by then.
pub fn refresh(oid: u32, how: Concurrently) -> Result<Refreshed> {
    let begun = Instant::now();
    let facts = catalog::facts(oid)?;
    // Before any lock is asked for: who may not refresh it must not be able to keep others out.
    facts.require_permission()?;
    let mut chosen = choice(how, &facts)?;
    lock::briefly(oid, chosen.mode())?;
    // Under the lock nothing of this changes any more: the name, the owner, the indexes.
    let facts = catalog::facts(oid)?;
    facts.require_permission()?;
    let again = choice(how, &facts)?;
    if again.mode() != chosen.mode() {
        chosen = again;
        lock::briefly(oid, chosen.mode())?;
    }
    let concurrently = if chosen.concurrent { "CONCURRENTLY " } else { "" };
    let rows = {
        let _timeout = guc::Scope::new(&[("lock_timeout", &lock::QUEUE_MS.to_string())])?;
        utility::run(&format!("REFRESH MATERIALIZED VIEW {concurrently}{}", facts.name))?
    };
    let bytes: Vec<i64> = spi::prepared(
        "SELECT pg_catalog.to_json(pg_catalog.pg_total_relation_size($1))::pg_catalog.text",
        &[spi::oid(oid)],
    )?;
    Ok(Refreshed {
        rows: i64::try_from(rows).unwrap_or(i64::MAX),
        bytes: bytes.first().copied().unwrap_or_default(),
        concurrent: chosen.concurrent,
        why: chosen.why.to_owned(),
        elapsed: begun.elapsed(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_concurrent_only_where_it_can_be_and_matters() {
        let concurrent = |how, impossible, others| choose(how, impossible, others).map(|c| c.concurrent);
        let no_index = Some("no unique index on plain columns");
        assert_eq!(concurrent(Concurrently::Auto, None, true), Some(true));
        assert_eq!(concurrent(Concurrently::Auto, None, false), Some(false));
        assert_eq!(concurrent(Concurrently::Auto, no_index, true), Some(false));
        assert_eq!(concurrent(Concurrently::Always, None, false), Some(true));
        assert_eq!(concurrent(Concurrently::Always, no_index, true), None);
        assert_eq!(concurrent(Concurrently::Never, None, true), Some(false));
        assert_eq!(choose(Concurrently::Auto, no_index, true).map(|c| c.why), no_index);
    }

    #[test]
    fn other_words_are_refused_with_the_right_ones() {
        assert_eq!("never".parse::<Concurrently>(), Ok(Concurrently::Never));
        let refused = "Always".parse::<Concurrently>().unwrap_err();
        assert_eq!(refused.sqlstate, "22023");
        assert!(refused.message.contains("\"Always\"") && refused.hint.unwrap().contains("'always'"));
    }
}
