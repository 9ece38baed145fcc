//! A view and what is upstream of it, refreshed one after the other in the caller's transaction.
//!
//! Its locks are held until the transaction ends. So that readers of the first view don't wait for a reader of the last,
//! nothing is refreshed before all locks were to be had at once; they are given back then, since the last view need not
//! be closed while the first is being filled.
//!
//! Each view that isn't the target is refreshed in a subtransaction of its own: where it fails, what reads it is
//! skipped and the rest goes on. The target's own error is the call's, and takes everything back. Nobody goes on after
//! a cancel.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::catalog::{self, Facts};
use super::one::{self, Concurrently, Refreshed};
use crate::error::{Error, Result};
use crate::pg::{lock, subxact};

/// For how long the locks are tried for: those of all views once, then each again.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// What became of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Refreshed(Refreshed),
    /// The current user may not refresh it, or it reads one that failed.
    Skipped(String),
    Failed(String),
}

/// One view of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub view: String,
    pub level: usize,
    pub outcome: Outcome,
    /// With the time spent waiting for the lock.
    pub elapsed: Duration,
}

/// Refreshes `target`, after everything that it reads where `upstream` says so; one row a view, in order.
pub fn walk(target: u32, upstream: bool, how: Concurrently) -> Result<Vec<Step>> {
    catalog::facts(target)?.require_permission()?;
    let graph = catalog::load()?;
    let order = if upstream { graph.upstream(target) } else { vec![target] };
    let known: HashMap<u32, Facts> = catalog::all_facts(&order)?.into_iter().map(|f| (f.oid, f)).collect();
    if order.len() > 1 {
        patiently(|| {
            subxact::run_as(subxact::Outcome::Discard, || {
                for facts in order.iter().filter_map(|oid| known.get(oid)) {
                    one::try_lock(facts, how)?;
                }
                Ok(())
            })
        })?;
    }
    let mut stale: HashMap<u32, String> = HashMap::new();
    let mut steps = Vec::with_capacity(order.len());
    for oid in order {
        let begun = Instant::now();
        let facts = known.get(&oid);
        let view = facts.map_or_else(|| oid.to_string(), |f| f.name.clone());
        let broken_below = graph.reads(oid).iter().find_map(|below| stale.get(below));
        let outcome = match (broken_below, facts) {
            (Some(below), _) => Outcome::Skipped(format!("reads {below}, which was not refreshed")),
            (None, Some(f)) if !f.permitted && oid != target => Outcome::Skipped(f.not_permitted()),
            _ => match patiently(|| one::refresh(oid, how)) {
                Ok(done) => Outcome::Refreshed(done),
                Err(e) if oid == target || e.is_an_interrupt() => return Err(e),
                Err(e) => {
                    let error = in_words(&e);
                    pgrx::warning!("materialized view {view} could not be refreshed, nor what reads it: {error}");
                    Outcome::Failed(error)
                }
            },
        };
        // What the caller may not refresh is read as it is.
        if broken_below.is_some() || matches!(outcome, Outcome::Failed(_)) {
            stale.insert(oid, view.clone());
        }
        steps.push(Step { view, level: graph.level(oid), outcome, elapsed: begun.elapsed() });
    }
    Ok(steps)
}

fn patiently<T>(unit: impl FnMut() -> Result<T>) -> Result<T> {
    let patience = lock::Patience {
        lock_timeout: Duration::from_millis(lock::QUEUE_MS.into()),
        max_wait: MAX_WAIT,
        attempts: &Cell::new(0),
        waited: &Cell::new(Duration::ZERO),
        otherwise: "or call wh.refresh again later",
    };
    lock::patiently(&patience, unit)
}

fn in_words(e: &Error) -> String {
    let mut words = format!("{} (SQLSTATE {})", e.message, e.sqlstate);
    if let Some(detail) = &e.detail {
        words.push_str(": ");
        words.push_str(detail);
    }
    words
}
