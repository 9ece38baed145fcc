//! The views of a refreshing run: which they are, how each of them ended, and what that makes of the run.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::model::{Job, Status};
use super::promise::{self, Known, Next};
use super::store::{self, Ended};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{identity, lock, spi, worker};
use crate::refresh::{self, Graph, Refreshed};

/// How long a step waits for its locks, unless the job's timeout is shorter.
const PATIENCE: Duration = Duration::from_secs(300);

/// One view of a run.
#[derive(Debug, Serialize)]
pub struct Step {
    pub relation: u32,
    view: String,
    level: i32,
    /// Why it will not be refreshed.
    skipped: Option<String>,
    #[serde(skip)]
    pub after: HashSet<u32>,
}

/// The steps of a run of `job`, and their records: its view and those that it reads, as far as the job's owner may
/// refresh them.
pub fn plan(run: i64, job: &Job, graph: &Graph) -> Result<Vec<Step>> {
    let target = job.relation.filter(|r| graph.all().contains(r)).ok_or_else(|| {
        Error::new(
            sqlstate::UNDEFINED_TABLE,
            format!(
                "materialized view {}.{} does not exist",
                job.view_schema.as_deref().unwrap_or_default(),
                job.view_name.as_deref().unwrap_or_default()
            ),
        )
        .hint("wh.unschedule takes the job away; or make the view again under its name.")
    })?;
    let views = if job.upstream { graph.upstream(target) } else { vec![target] };
    let mut steps: Vec<Step> = Vec::with_capacity(views.len());
    for oid in views {
        let facts = {
            let _owner = identity::As::role(job.owner)?;
            refresh::facts(oid)?
        };
        let skipped = (!facts.permitted && oid != target).then(|| facts.not_permitted());
        let after =
            graph.reads(oid).iter().copied().filter(|r| steps.iter().any(|s| s.relation == *r && s.skipped.is_none()));
        let after = after.collect();
        steps.push(Step { relation: oid, view: facts.name, level: graph.level(oid) as i32, skipped, after });
    }
    spi::run(
        "INSERT INTO wh.job_step (run, relation, view, level, status, finished, detail)
         SELECT $1, s.relation, s.view, s.level, CASE WHEN s.skipped IS NULL THEN 'queued' ELSE 'skipped' END,
                CASE WHEN s.skipped IS NOT NULL THEN pg_catalog.clock_timestamp() END, s.skipped
         FROM pg_catalog.json_to_recordset($2::json) AS s (relation oid, view text, level int, skipped text)",
        &[run.into(), serde_json::to_string(&steps)?.into()],
    )?;
    steps.retain(|s| s.skipped.is_none());
    Ok(steps)
}

/// The steps of a run that have not ended.
pub fn left(run: i64, graph: &Graph) -> Result<Vec<Step>> {
    #[derive(Deserialize)]
    struct Row {
        relation: u32,
        view: String,
        level: i32,
    }
    let rows: Vec<Row> = spi::rows(
        "SELECT pg_catalog.json_build_object('relation', relation::int8, 'view', view, 'level', level)::text
         FROM wh.job_step WHERE run = $1 AND finished IS NULL ORDER BY level, view",
        &[run.into()],
    )?;
    let open: HashSet<u32> = rows.iter().map(|r| r.relation).collect();
    let step = |r: Row| Step {
        relation: r.relation,
        view: r.view,
        level: r.level,
        skipped: None,
        after: graph.reads(r.relation).iter().copied().filter(|read| open.contains(read)).collect(),
    };
    Ok(rows.into_iter().map(step).collect())
}

/// Writes down how a step ended, for all runs that it was part of.
pub fn ended(runs: &[i64], relation: u32, status: Status, started: Option<i64>, error: Option<&Error>) -> Result<()> {
    spi::run(
        "UPDATE wh.job_step SET status = $3, started = wh.instant($4), finished = pg_catalog.clock_timestamp(), sqlstate = $5,
           detail = $6 WHERE run = ANY ($1) AND relation = $2 AND finished IS NULL",
        &[
            runs.to_vec().into(),
            spi::oid(relation),
            status.name().into(),
            started.into(),
            error.map(|e| e.sqlstate.clone()).into(),
            error.map(|e| store::kept(&e.message)).into(),
        ],
    )?;
    Ok(())
}

/// Writes down that a step was done, in the transaction of the refresh.
pub fn succeeded(run: i64, relation: u32, started: i64, mark: Option<&str>, done: &Refreshed) -> Result<()> {
    let open = spi::prepared::<bool>(
        "UPDATE wh.job_step SET status = 'succeeded', started = wh.instant($3), finished = pg_catalog.clock_timestamp(),
           concurrent = $4, rows = $5, bytes = $6, detail = $7
         WHERE run = $1 AND relation = $2 AND finished IS NULL RETURNING 'true'",
        &[
            run.into(),
            spi::oid(relation),
            started.into(),
            done.concurrent.into(),
            done.rows.into(),
            done.bytes.into(),
            done.why.as_str().into(),
        ],
    )?;
    if open.is_empty() {
        return Err(store::is_over_already());
    }
    // Had the promise been broken by now?
    spi::prepared::<bool>(
        "INSERT INTO wh.promise_missed (job, missed_from, missed_until)
         SELECT j.id, s.stale + j.max_lag, pg_catalog.clock_timestamp()
         FROM wh.job j JOIN (SELECT v.relation, CASE WHEN v.mark IS NULL THEN v.refreshed WHEN v.mark IS DISTINCT FROM $2 THEN coalesce(v.dirty_since, v.seen_clean) END AS stale
                             FROM wh.view_state v) s ON s.relation = j.relation
         WHERE j.relation = $1 AND j.kind = 'keep_fresh' AND s.stale + j.max_lag < pg_catalog.clock_timestamp()
         ON CONFLICT DO NOTHING RETURNING 'true'",
        &[spi::oid(relation), mark.map(str::to_owned).into()],
    )?;
    spi::prepared::<bool>(
        "INSERT INTO wh.view_state (relation, refreshed, elapsed, mark, seen_clean)
         VALUES ($1, wh.instant($2), $3 * interval '1 microsecond', $4, wh.instant($2))
         ON CONFLICT (relation) DO UPDATE SET refreshed = excluded.refreshed, elapsed = excluded.elapsed, mark = excluded.mark,
           seen_clean = excluded.seen_clean, dirty_since = NULL RETURNING 'true'",
        &[spi::oid(relation), started.into(), (done.elapsed.as_micros() as i64).into(), mark.map(str::to_owned).into()],
    )?;
    Ok(())
}

/// Copies a step's end to the other runs that share it.
pub fn share(first: i64, others: &[i64], relation: u32) -> Result<()> {
    spi::run(
        "UPDATE wh.job_step s SET status = f.status, started = f.started, finished = f.finished, concurrent = f.concurrent,
           rows = f.rows, bytes = f.bytes, sqlstate = f.sqlstate, detail = f.detail
         FROM wh.job_step f WHERE f.run = $1 AND f.relation = $2 AND s.run = ANY ($3) AND s.relation = $2",
        &[first.into(), spi::oid(relation), others.to_vec().into()],
    )?;
    Ok(())
}

/// Ends a run whose steps have all ended (or never will: `why` says how the run was stopped).
pub fn conclude(run: i64, job: &Job, why: Option<(Status, Error)>) -> Result<Status> {
    #[derive(Deserialize)]
    struct Row {
        relation: u32,
        view: String,
        status: String,
        started: Option<i64>,
        rows: Option<i64>,
        sqlstate: Option<String>,
        detail: Option<String>,
    }
    let (stopped, reason) = match &why {
        Some((status, error)) => (status.name(), error.message.clone()),
        None => ("skipped", String::from("it was not reached")),
    };
    spi::run(
        "UPDATE wh.job_step SET status = CASE WHEN started IS NULL THEN 'skipped' ELSE $2 END,
           finished = pg_catalog.clock_timestamp(), detail = $3 WHERE run = $1 AND finished IS NULL",
        &[run.into(), stopped.into(), reason.into()],
    )?;
    let steps: Vec<Row> = spi::rows(
        "SELECT pg_catalog.json_build_object('relation', relation::int8, 'view', view, 'status', status, 'started', wh.micros(started),
                'rows', rows, 'sqlstate', sqlstate, 'detail', detail)::text FROM wh.job_step WHERE run = $1 ORDER BY level, view",
        &[run.into()],
    )?;
    let target = steps.iter().find(|s| Some(s.relation) == job.relation);
    let mut end = Ended {
        started: steps.iter().filter_map(|s| s.started).min(),
        rows: target.and_then(|t| t.rows),
        ..Ended::default()
    };
    if let Some((status, error)) = why {
        end.error = Some(error);
        store::ended(run, status, &end)?;
        return Ok(status);
    }
    if target.is_some_and(|t| t.status == "succeeded") {
        store::succeeded_and_recovered(run, &end)?;
        return Ok(Status::Succeeded);
    }
    let failed: Vec<&Row> = steps.iter().filter(|s| s.status != "succeeded" && s.status != "skipped").collect();
    let status = match failed.first().map(|s| s.status.as_str()) {
        Some("cancelled") => Status::Cancelled,
        Some(_) => Status::Failed,
        None => Status::Skipped,
    };
    let first = failed.first().copied().or(target);
    let message = first.map_or_else(
        || String::from("there was nothing to refresh"),
        |s| format!("{}: {}", s.view, s.detail.as_deref().unwrap_or(&s.status)),
    );
    let code = first.and_then(|s| s.sqlstate.clone()).unwrap_or_else(|| String::from("00000"));
    let mut error = Error::new(&code, message);
    if steps.len() > 1 {
        let lines = steps.iter().map(|s| format!("{} {}: {}", s.view, s.status, s.detail.as_deref().unwrap_or("done")));
        error = error.detail(lines.collect::<Vec<_>>().join("\n"));
    }
    end.error = Some(error);
    store::ended(run, status, &end)?;
    Ok(status)
}

/// What is known of a view that is kept fresh, by now.
pub fn known(relation: u32, max_lag: i64) -> Result<Known> {
    let state: Option<(i64, i64, Option<String>, i64, Option<i64>)> = spi::first(
        "SELECT pg_catalog.json_build_array(wh.micros(refreshed), wh.micros(elapsed), mark, wh.micros(seen_clean), wh.micros(dirty_since))::text
         FROM wh.view_state WHERE relation = $1",
        &[spi::oid(relation)],
    )?;
    // What a clock wrote that was ahead is no time to count from.
    let now = super::shared::now() as i64;
    let state = state.map(|(refreshed, elapsed, mark, clean, dirty)| {
        (refreshed.min(now), elapsed, mark, clean.min(now), dirty.map(|at| at.min(now)))
    });
    let Some((refreshed, elapsed, mark, seen_clean, dirty_since)) = state else {
        return Ok(Known { max_lag, refreshed: None, unchanged: None, seen_clean: 0, dirty_since: None });
    };
    // A view without data, after REFRESH … WITH NO DATA, is like one that was never refreshed.
    if !refresh::facts(relation)?.populated {
        return Ok(Known { max_lag, refreshed: None, unchanged: None, seen_clean: 0, dirty_since: None });
    }
    let now = refresh::mark(relation)?;
    let unchanged = now.zip(mark).map(|(now, then)| now == then);
    Ok(Known { max_lag, refreshed: Some((refreshed, elapsed)), unchanged, seen_clean, dirty_since })
}

/// Decides about a view that is kept fresh, and remembers what was seen.
pub fn look(relation: u32, max_lag: i64) -> Result<Next> {
    let now = super::shared::now() as i64;
    let known = known(relation, max_lag)?;
    let next = promise::next(&known, now);
    let (clean, dirty) = match next {
        Next::Look { dirty_since: None, .. } => (Some(now), None),
        Next::Look { dirty_since, .. } => (None, dirty_since),
        Next::Refresh => (None, known.dirty_since.or(known.refreshed.map(|_| known.seen_clean))),
    };
    spi::run(
        "UPDATE wh.view_state SET seen_clean = least(coalesce(wh.instant($2), seen_clean), wh.instant($4)), dirty_since = wh.instant($3),
           refreshed = least(refreshed, wh.instant($4)) WHERE relation = $1",
        &[spi::oid(relation), clean.into(), dirty.into(), now.into()],
    )?;
    Ok(next)
}

/// Refreshes the view of a step as its runner: the session's user is the job's owner. `record` writes things down as the
/// extension's owner, in the same transaction. Waits for its lock in transactions of their own.
pub fn run(
    run: i64,
    relation: u32,
    how: refresh::Concurrently,
    only_if_changed: bool,
    extension_owner: u32,
    started: i64,
) -> Result<()> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        let done = worker::transaction(worker::Snapshot::Taken, || {
            let mark = {
                super::runner::hold_extension()?;
                let _owner = identity::As::extension_owner(extension_owner);
                let known = if only_if_changed { known(relation, i64::MAX / 4)?.unchanged } else { None };
                if known == Some(true) {
                    let nothing = Error::new("00000", "nothing that it reads has changed");
                    ended(&[run], relation, Status::Skipped, Some(started), Some(&nothing))?;
                    return Ok(());
                }
                refresh::mark(relation)?
            };
            let done = refresh::refresh(relation, how)?;
            let _owner = identity::As::extension_owner(extension_owner);
            succeeded(run, relation, started, mark.as_deref(), &done)
        });
        match done {
            // A lock that is not to be had for a moment.
            Err(e) if e.is_lock_conflict() && begun.elapsed() < PATIENCE => {
                worker::pause(pause)?;
                pause = (pause * 2).min(Duration::from_millis(500));
            }
            Err(e) if e.is_lock_conflict() => {
                return worker::transaction(worker::Snapshot::Taken, || {
                    let _owner = identity::As::extension_owner(extension_owner);
                    Err(lock::not_available(e, relation, begun.elapsed(), "or let the next run try again"))
                })
            }
            other => return other,
        }
    }
}

/// A view's name, for a sentence.
pub fn name(relation: u32) -> Result<String> {
    let name: Option<String> =
        spi::first("SELECT pg_catalog.to_json($1::pg_catalog.regclass::text)::text", &[spi::oid(relation)])?;
    Ok(name.unwrap_or_default())
}
