//! Jobs and runs in their tables. All of it runs as the extension's owner.
//!
//! Times cross as microseconds since 1970. The scheduler's commits are asynchronous: whatever a run makes durable is
//! later in the log than its record, and so makes that durable too.

use serde::{Deserialize, Serialize};

use super::model::{self, Job, Status, Trigger};
use crate::error::{cut, sqlstate, Error, Result};
use crate::pg::{spi, subxact};

const JOBS: &str = "
    SELECT pg_catalog.json_build_object('id', j.id, 'name', j.name, 'owner', j.owner::oid::int8, 'kind', j.kind,
             'schedule', j.schedule, 'timezone', j.timezone, 'database', j.database,
             'relation', j.relation::int8, 'view_schema', j.view_schema, 'view_name', j.view_name, 'upstream', j.upstream,
             'max_lag', wh.micros(j.max_lag), 'timeout', wh.micros(j.timeout), 'max_retries', j.max_retries,
             'retry_delay', wh.micros(j.retry_delay), 'catch_up', j.catch_up, 'anchor', wh.micros(j.anchor),
             'next_run', wh.micros(coalesce(p.next_run, j.first_run)), 'retry_at', wh.micros(p.retry_at), 'retry_for', wh.micros(p.retry_for),
             'attempt', coalesce(p.attempt, 1), 'failures', coalesce(p.failures, 0),
             'enabled', j.enabled AND NOT s.paused AND p.paused IS NULL AND EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = j.owner::oid))::text
    FROM wh.job j CROSS JOIN wh.job_state s LEFT JOIN wh.job_plan p ON p.job = j.id AND p.anchor = j.anchor";

/// A job, and whether it may run by itself.
#[derive(Deserialize)]
pub struct Loaded {
    #[serde(flatten)]
    pub job: Job,
    pub enabled: bool,
}

/// Follows the views of jobs: they are found by name, since numbers change when a view is made again and mean nothing in a
/// restored database; renamed ones by number. But for jobs that a session is changing. Says whether there were any.
pub fn follow() -> Result<bool> {
    // Asked first: an UPDATE of no row fires the trigger that wakes us as well.
    let moved: Vec<i64> = spi::rows(
        "SELECT k.id::text FROM wh.job k
         JOIN pg_catalog.pg_class c ON c.relkind = 'm' AND c.oid = coalesce(
           (SELECT o.oid FROM pg_catalog.pg_class o WHERE o.relkind = 'm'
              AND o.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', k.view_schema, k.view_name))),
           (SELECT o.oid FROM pg_catalog.pg_class o WHERE o.oid = k.relation AND o.relkind = 'm'))
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE k.view_name IS NOT NULL
           AND (k.relation, k.view_schema, k.view_name) IS DISTINCT FROM (c.oid, n.nspname, c.relname)
         FOR UPDATE OF k SKIP LOCKED",
        &[],
    )?;
    if moved.is_empty() {
        return Ok(false);
    }
    spi::run(
        "UPDATE wh.job k SET relation = c.oid, view_schema = n.nspname, view_name = c.relname
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE k.id = ANY ($1) AND c.relkind = 'm' AND c.oid = coalesce(
           (SELECT o.oid FROM pg_catalog.pg_class o WHERE o.relkind = 'm'
              AND o.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', k.view_schema, k.view_name))),
           (SELECT o.oid FROM pg_catalog.pg_class o WHERE o.oid = k.relation AND o.relkind = 'm'))",
        &[moved.into()],
    )?;
    Ok(true)
}

/// All jobs.
pub fn load() -> Result<Vec<Loaded>> {
    follow()?;
    spi::run("DELETE FROM wh.job_plan p WHERE NOT EXISTS (SELECT FROM wh.job j WHERE j.id = p.job)", &[])?;
    spi::rows(JOBS, &[])
}

/// One job, as it is now.
pub fn job(id: i64) -> Result<Option<Loaded>> {
    spi::first(&format!("{JOBS} WHERE j.id = $1"), &[id.into()])
}

/// A run that is about to begin.
#[derive(Serialize)]
pub struct NewRun<'a> {
    pub job: i64,
    pub trigger: &'a str,
    pub scheduled_for: i64,
    pub attempt: i32,
    /// The job's next time.
    pub next_run: Option<i64>,
    /// By hand: the schedule stays as it is.
    pub keep_schedule: bool,
    /// Laid over the job's own, JSON.
    pub argument: Option<serde_json::Value>,
}

impl NewRun<'_> {
    pub fn new(job: i64, trigger: Trigger, scheduled_for: i64, attempt: i32, next_run: Option<i64>) -> Self {
        let keep_schedule = trigger == Trigger::Hand;
        NewRun { job, trigger: trigger.name(), scheduled_for, attempt, next_run, keep_schedule, argument: None }
    }
}

/// A run that has been recorded: as whom it runs, and where, if not here.
#[derive(Deserialize)]
pub struct Begun {
    pub job: i64,
    pub run: i64,
    pub owner: u32,
    pub database: Option<String>,
}

/// Records runs before they begin, and when their jobs come next.
pub fn begin(runs: &[NewRun]) -> Result<Vec<Begun>> {
    spi::prepared(
        "WITH n AS (
           SELECT * FROM pg_catalog.json_to_recordset($1::json)
             AS n (job int8, trigger text, scheduled_for int8, attempt int, next_run int8, keep_schedule bool, argument jsonb)
         ), p AS (
           INSERT INTO wh.job_plan AS p (job, anchor, next_run, attempt)
           SELECT j.id, j.anchor, wh.instant(n.next_run), n.attempt FROM n JOIN wh.job j ON j.id = n.job WHERE NOT n.keep_schedule
           ON CONFLICT (job) DO UPDATE SET anchor = excluded.anchor, next_run = excluded.next_run, attempt = excluded.attempt,
             retry_at = NULL, retry_for = NULL, failures = CASE WHEN p.anchor = excluded.anchor THEN p.failures ELSE 0 END,
             paused = CASE WHEN p.anchor = excluded.anchor THEN p.paused END
         ), r AS (
           INSERT INTO wh.job_run (job, job_name, owner, owner_name, kind, command, database, argument, trigger, scheduled_for, attempt)
           SELECT j.id, j.name, j.owner, pg_catalog.pg_get_userbyid(j.owner), j.kind, j.command, j.database, j.argument || coalesce(n.argument, '{}'), n.trigger,
                  wh.instant(n.scheduled_for), n.attempt
           FROM n JOIN wh.job j ON j.id = n.job ORDER BY n.scheduled_for, j.id
           RETURNING job, id, owner, database)
         SELECT pg_catalog.json_build_object('job', job, 'run', id, 'owner', owner::int8, 'database', database)::text FROM r ORDER BY id",
        &[serde_json::to_string(runs)?.into()],
    )
}

/// Sets when a job is tried again.
pub fn retry(job: i64, at: i64) -> Result<()> {
    spi::run("UPDATE wh.job_plan SET retry_at = wh.instant($2) WHERE job = $1", &[job.into(), at.into()])?;
    Ok(())
}

/// Sets when a job comes next, where no run begins.
pub fn postpone(job: i64, next_run: Option<i64>) -> Result<()> {
    spi::run(
        "INSERT INTO wh.job_plan AS p (job, anchor, next_run) SELECT id, anchor, wh.instant($2) FROM wh.job WHERE id = $1
         ON CONFLICT (job) DO UPDATE SET next_run = excluded.next_run WHERE p.anchor = excluded.anchor",
        &[job.into(), next_run.into()],
    )?;
    Ok(())
}

/// Records one run that did not happen, for times that were missed.
pub fn skip(job: i64, scheduled_for: i64, missed: i32, why: &str) -> Result<()> {
    spi::run(
        "INSERT INTO wh.job_run (job, job_name, owner, owner_name, kind, command, trigger, scheduled_for, status, finished, missed, error)
         SELECT j.id, j.name, j.owner, pg_catalog.pg_get_userbyid(j.owner), j.kind, j.command, 'schedule', wh.instant($2),
                'skipped', pg_catalog.clock_timestamp(), $3, $4 FROM wh.job j WHERE j.id = $1",
        &[job.into(), scheduled_for.into(), missed.into(), why.into()],
    )?;
    Ok(())
}

/// How a run ended.
#[derive(Default, Clone, Debug)]
pub struct Ended {
    pub started: Option<i64>,
    pub rows: Option<i64>,
    pub pid: Option<i32>,
    pub error: Option<Error>,
    /// Where it failed, as psql shows it.
    pub context: Option<String>,
}

/// Records that a run succeeded; false where its record has an end already. `place`: where the record was (its ctid), so
/// that no index is read. In a SERIALIZABLE transaction two runs that did would stand in each other's way
/// (src/backend/storage/lmgr/README-SSI, "index AM implementations").
pub fn succeeded(run: i64, ended: &Ended, place: Option<&str>) -> Result<bool> {
    const THERE: &str =
        "UPDATE wh.job_run SET status = 'succeeded', started = wh.instant($2), finished = pg_catalog.clock_timestamp(),
           rows = $3, pid = $4 WHERE ctid = $5::pg_catalog.tid AND id = $1 AND finished IS NULL RETURNING 'true'";
    const ANYWHERE: &str =
        "UPDATE wh.job_run SET status = 'succeeded', started = wh.instant($2), finished = pg_catalog.clock_timestamp(),
           rows = $3, pid = $4 WHERE id = $1 AND finished IS NULL RETURNING 'true'";
    let (started, rows, pid) = (ended.started, ended.rows, ended.pid);
    if let Some(place) = place {
        let values = [run.into(), started.into(), rows.into(), pid.into(), place.into()];
        if !spi::prepared::<bool>(THERE, &values)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(!spi::prepared::<bool>(ANYWHERE, &[run.into(), started.into(), rows.into(), pid.into()])?.is_empty())
}

/// Why nothing of a run counts whose record has an end.
pub fn is_over_already() -> Error {
    Error::new("55000", "the run was given up before it was done")
        .detail("Its record has an end already. Nothing of it was committed.")
}

/// Forgets the failures of a job, and its attempts, after a run that succeeded.
pub fn recovered(run: i64) -> Result<()> {
    spi::run(
        "UPDATE wh.job_plan p SET failures = 0, attempt = 1 FROM wh.job_run r
         WHERE r.id = $1 AND p.job = r.job AND (p.failures, p.attempt) <> (0, 1)",
        &[run.into()],
    )?;
    Ok(())
}

/// Both in one transaction, where nobody's SERIALIZABLE one is in the way.
pub fn succeeded_and_recovered(run: i64, ended: &Ended) -> Result<bool> {
    let open = succeeded(run, ended, None)?;
    recovered(run)?;
    Ok(open)
}

/// What is told of a run that has ended.
#[derive(Deserialize)]
struct Row {
    job: i64,
    name: String,
    attempt: i32,
    scheduled_for: i64,
}

/// Characters of a text that is kept of an error: who writes a command also writes what it fails with, and how often.
const LONGEST: usize = 1_000_000;

/// A text of an error as far as it is kept.
pub fn kept(text: &str) -> String {
    cut(text.to_owned(), LONGEST)
}

/// Records that a run ended otherwise, and what follows for its job; tells the log and whoever listens.
pub fn ended(run: i64, status: Status, ended: &Ended) -> Result<()> {
    let e = ended.error.clone().unwrap_or_else(|| Error::new("00000", status.name()));
    let text = |t: &Option<String>| t.as_deref().map(kept);
    let e = Error { message: kept(&e.message), detail: text(&e.detail), hint: text(&e.hint), ..e };
    let rows: Vec<Row> = spi::rows(
        "UPDATE wh.job_run SET status = $2, started = coalesce(wh.instant($3), started), finished = pg_catalog.clock_timestamp(),
           rows = $4, pid = $5, sqlstate = $6, error = $7, detail = $8, hint = $9, context = $10
         WHERE id = $1 AND finished IS NULL
         RETURNING pg_catalog.json_build_object('job', job, 'name', job_name, 'attempt', attempt, 'scheduled_for', wh.micros(scheduled_for))::text",
        &[
            run.into(),
            status.name().into(),
            ended.started.into(),
            ended.rows.into(),
            ended.pid.into(),
            e.sqlstate.as_str().into(),
            e.message.as_str().into(),
            e.detail.clone().into(),
            e.hint.clone().into(),
            text(&ended.context).into(),
        ],
    )?;
    let Some(row) = rows.into_iter().next() else { return Ok(()) };
    // What follows cannot undo the record, nor end a scheduler that has others to write.
    if let Err(failed) = subxact::run(|| follow_up(run, status, &row, &e)) {
        pgrx::warning!("run {run} of job \"{}\" ended, and what follows is lost: {}", row.name, failed.message);
    }
    Ok(())
}

/// What an end other than success means for the run's job and for whoever listens.
fn follow_up(run: i64, status: Status, row: &Row, e: &Error) -> Result<()> {
    // Of a fetch: the pages of its ledger that it did not come to close.
    spi::run(
        "UPDATE wh.fetch_stream SET status = 'failed', finished = pg_catalog.clock_timestamp(), sqlstate = $2, error = $3,
           detail = $4, hint = $5 WHERE run = $1 AND status = 'running'",
        &[
            run.into(),
            e.sqlstate.as_str().into(),
            e.message.as_str().into(),
            e.detail.clone().into(),
            e.hint.clone().into(),
        ],
    )?;
    // Every role may listen to every channel: what it is called and said is for those who may see it in wh.job_runs.
    let mut told = serde_json::json!({ "run": run, "status": status.name(), "attempt": row.attempt });
    if let Some(job) = job(row.job)? {
        let now = super::shared::now() as i64;
        let after = model::after(&job.job, row.attempt, status, now, crate::settings::MAX_FAILURES.get());
        let retry = after.retry.unzip();
        spi::run(
            "INSERT INTO wh.job_plan AS p (job, anchor, next_run, failures, retry_at, attempt, retry_for, paused)
             SELECT id, anchor, first_run, $2, wh.instant($3), coalesce($4, 1), CASE WHEN $3 IS NOT NULL THEN wh.instant($5) END, $6
             FROM wh.job WHERE id = $1
             ON CONFLICT (job) DO UPDATE SET failures = excluded.failures, retry_at = excluded.retry_at,
               attempt = coalesce($4, p.attempt), retry_for = excluded.retry_for,
               -- Of a job that was changed since it was planned nothing but the job's number holds.
               anchor = excluded.anchor, next_run = CASE WHEN p.anchor = excluded.anchor THEN p.next_run ELSE excluded.next_run END,
               paused = coalesce(excluded.paused, CASE WHEN p.anchor = excluded.anchor THEN p.paused END)",
            &[
                row.job.into(),
                after.failures.into(),
                retry.0.into(),
                retry.1.into(),
                row.scheduled_for.into(),
                after.pause.clone().into(),
            ],
        )?;
        told["failures_in_a_row"] = after.failures.into();
        told["retry"] = after.retry.is_some().into();
        told["paused"] = after.pause.is_some().into();
        if status.is_failure() {
            let paused = after.pause.map(|p| format!("; it is paused, because it {p}")).unwrap_or_default();
            pgrx::warning!("job \"{}\" {} (run {run}): {}{paused}", row.name, words(status), e.message);
        }
    }
    if status.is_failure() {
        spi::run("SELECT pg_catalog.pg_notify('wh_jobs', $1)", &[told.to_string().into()])?;
    }
    Ok(())
}

fn words(status: Status) -> &'static str {
    match status {
        Status::TimedOut => "timed out",
        Status::Crashed => "crashed",
        other => other.name(),
    }
}

/// Writes down how many times came due while a run was running.
pub fn missed(run: i64, times: i32) -> Result<()> {
    spi::run("UPDATE wh.job_run SET missed = $2 WHERE id = $1", &[run.into(), times.into()])?;
    Ok(())
}

/// The newest run of a job.
pub fn last(job: i64) -> Result<i64> {
    let run = spi::prepared("SELECT pg_catalog.max(id)::text FROM wh.job_run WHERE job = $1", &[job.into()])?;
    Ok(run.first().copied().unwrap_or_default())
}

/// Whether the end of a run is written down.
pub fn is_over(run: i64) -> Result<bool> {
    let over: Option<bool> =
        spi::first("SELECT (finished IS NOT NULL)::text FROM wh.job_run WHERE id = $1", &[run.into()])?;
    Ok(over.unwrap_or_default())
}

/// Runs that have no end yet.
pub fn open() -> Result<Vec<Begun>> {
    spi::rows(
        "SELECT pg_catalog.json_build_object('job', job, 'run', id, 'owner', owner::int8, 'database', database)::text
         FROM wh.job_run WHERE finished IS NULL ORDER BY id",
        &[],
    )
}

/// What a runner is to do.
#[derive(Deserialize)]
pub struct Work {
    pub owner: u32,
    pub command: String,
    pub kind: model::Kind,
    pub concurrently: Option<String>,
    pub argument: serde_json::Value,
    /// Its job's last run failed, or it is another attempt. Nobody changes that while it runs.
    pub failing: bool,
    /// Where its record is.
    pub place: String,
}

pub fn work(run: i64) -> Result<Work> {
    let found = spi::prepared(
        "SELECT pg_catalog.json_build_object('owner', r.owner::int8, 'place', r.ctid::text, 'command', r.command, 'kind', r.kind, 'concurrently', j.refresh_mode, 'argument', r.argument,
           'failing', coalesce((p.failures, p.attempt) <> (0, 1), false))::text
         FROM wh.job_run r LEFT JOIN wh.job j ON j.id = r.job LEFT JOIN wh.job_plan p ON p.job = r.job WHERE r.id = $1",
        &[run.into()],
    )?;
    found.into_iter().next().ok_or_else(|| Error::new(sqlstate::UNDEFINED_OBJECT, "the record of the run is gone"))
}

/// Removes what is older than startup_wh.run_history days, some at a time; says whether there is more.
pub fn trim() -> Result<bool> {
    let days = crate::settings::RUN_HISTORY.get();
    let gone = spi::rows::<i64>(
        "DELETE FROM wh.job_run WHERE id IN (
           SELECT id FROM wh.job_run WHERE recorded < pg_catalog.now() - pg_catalog.make_interval(days => $1) AND finished IS NOT NULL
           ORDER BY recorded LIMIT 1000) RETURNING id::text",
        &[days.into()],
    )?;
    spi::run(
        "DELETE FROM wh.promise_missed WHERE missed_until < pg_catalog.now() - greatest(pg_catalog.make_interval(days => $1), '7 days')",
        &[days.into()],
    )?;
    Ok(gone.len() == 1000)
}
