//! Marking what must not reach analysts: the policy first, then everything that is here already.

use super::patterns;
use super::store;
use crate::error::{sqlstate, Error, Result};
use crate::fdw::{self, Change};
use crate::pg::{guc, session, spi};
use crate::sources;

/// Adds patterns to the policy and makes it hold; each with its reason.
pub fn mark(marks: &[(String, String)]) -> Result<Vec<Change>> {
    for (pattern, reason) in marks {
        patterns::check(pattern)?;
        if reason.trim().is_empty() {
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "reason must not be empty")
                .hint("It is what wh.sensitive_columns tells whoever asks why."));
        }
    }
    session::refuse_restricted()?;
    let _surroundings = guc::Scope::new(guc::DEPARSE)?;
    lock_alone()?;
    for (pattern, reason) in marks {
        spi::run(
            "INSERT INTO wh.sensitive_pattern (pattern, reason) VALUES ($1, $2)
             ON CONFLICT (pattern) DO UPDATE SET reason = excluded.reason",
            &[pattern.as_str().into(), reason.as_str().into()],
        )?;
    }
    let mut changes = Vec::new();
    // One whose server is gone has no tables left.
    let apps: Vec<String> = spi::rows(
        "SELECT to_json(f.name)::text FROM wh.fdw f JOIN pg_foreign_server s ON s.srvname = f.server ORDER BY f.name",
        &[],
    )?;
    for app in apps {
        changes.extend(fdw::withhold(&app)?);
    }
    let patterns = store::read()?;
    for (table, column) in sources::empty_sensitive(&patterns)? {
        changes.push(Change::new(format!("{table}.{column}"), "column", "emptied").detail("not stored from now on"));
    }
    Ok(changes)
}

/// Takes a pattern out of the policy. What it kept out comes back by itself: with the next run, or with the next record.
pub fn unmark(pattern: &str) -> Result<()> {
    lock_alone()?;
    let gone: Vec<bool> = spi::rows(
        "DELETE FROM wh.sensitive_pattern WHERE pattern = $1 RETURNING pg_catalog.to_json(true)::text",
        &[pattern.into()],
    )?;
    if gone.is_empty() {
        return Err(Error::new(
            sqlstate::UNDEFINED_OBJECT,
            format!("pattern \"{pattern}\" is not marked as sensitive"),
        )
        .hint("SELECT DISTINCT pattern FROM wh.sensitive_columns lists the patterns; give one as it stands there."));
    }
    pgrx::notice!(
        "columns that no other pattern keeps out come back with the next wh.recreate_fdw, and fields of sources with the \
         next wh.fetch(..., full_refresh => true)"
    );
    Ok(())
}

/// All that is proposed.
pub fn proposed() -> Result<Vec<(String, String)>> {
    spi::rows(
        "SELECT json_build_array(p.pattern, p.reason)::text FROM wh.proposed_sensitive p WHERE NOT p.applied ORDER BY p.pattern",
        &[],
    )
}

/// Runs and fetches hold the policy while they work: they end first.
fn lock_alone() -> Result<()> {
    let _patience = guc::Scope::new(&[("lock_timeout", "300000")])?;
    crate::pg::subxact::run(store::hold_alone).map_err(|e| match e.is_lock_conflict() {
        true => Error::new(&e.sqlstate, "a run or a fetch that holds the policy did not end within 300 s")
            .hint("SELECT * FROM wh.fdw_runs WHERE status = 'running', or wh.job_runs, shows it."),
        false => e,
    })
}
