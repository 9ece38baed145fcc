//! Making, changing and forgetting jobs, as the extension's owner and on behalf of the role that calls.

use serde::Deserialize;

use super::model::Kind;
use super::schedule::Schedule;
use super::shared;
use crate::error::{sqlstate, Error, Result};
use crate::pg::{portal, session, spi, sql};
use crate::queries;
use crate::refresh::Concurrently;

/// The zone of a schedule that names none; that of pg_cron.
pub(super) const ZONE: &str = "UTC";

/// How a job runs, whatever it does. Spans in microseconds.
pub struct Options<'a> {
    pub schedule: Option<&'a str>,
    pub timezone: Option<&'a str>,
    pub timeout: Option<i64>,
    pub max_retries: i32,
    pub retry_delay: i64,
    pub catch_up: &'a str,
    pub enabled: bool,
}

/// What a job does.
pub struct What<'a> {
    pub kind: Kind,
    pub command: String,
    pub database: Option<&'a str>,
    pub relation: Option<u32>,
    pub upstream: bool,
    pub concurrently: &'a str,
    pub max_lag: Option<i64>,
}

pub(super) fn bad(message: impl Into<String>) -> Error {
    Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
}

/// Jobs run only where the library is loaded with the server.
pub fn require_preloading() -> Result<()> {
    if shared::jobs().is_some() {
        return Ok(());
    }
    Err(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, "jobs need startup_wh to be loaded with the server")
        .hint("Add startup_wh to shared_preload_libraries in postgresql.conf and restart the server."))
}

/// Whether the calling role has the rights of another.
pub(super) fn has_role(caller: u32, role: u32) -> Result<bool> {
    Ok(spi::prepared::<bool>(
        "SELECT pg_catalog.to_json(pg_catalog.pg_has_role($1, $2, 'USAGE'))::text",
        &[spi::oid(caller), spi::oid(role)],
    )? == [true])
}

/// Whether the calling role is a wh_admin.
fn is_admin(caller: u32) -> Result<bool> {
    Ok(spi::prepared::<bool>(
        "SELECT pg_catalog.to_json(pg_catalog.pg_has_role($1, 'wh_admin', 'USAGE'))::text",
        &[spi::oid(caller)],
    )? == [true])
}

pub(super) fn check_options(o: &Options) -> Result<()> {
    if o.timeout.is_some_and(|t| t < 0) {
        return Err(bad("timeout must not be negative").hint("For instance: timeout => '10 minutes'; '0' for none"));
    }
    for (name, span) in [("timeout", o.timeout), ("retry_delay", Some(o.retry_delay))] {
        refuse_too_long(name, span)?;
    }
    if o.max_retries < 0 {
        return Err(bad("max_retries must not be negative").hint("For instance: max_retries => 3; 0 for none"));
    }
    if o.retry_delay < 0 {
        return Err(bad("retry_delay must not be negative").hint("For instance: retry_delay => '1 minute'"));
    }
    if !["skip", "once"].contains(&o.catch_up) {
        return Err(bad(format!("invalid value for catch_up: \"{}\"", o.catch_up)).hint("It is 'skip' or 'once'."));
    }
    Ok(())
}

/// What is added to a time must lead to one that there is, for timestamps as well.
pub(super) fn refuse_too_long(name: &str, span: Option<i64>) -> Result<()> {
    match span.is_some_and(|span| span > LONGEST) {
        true => Err(bad(format!("{name} must not be longer than 100 years"))),
        false => Ok(()),
    }
}

/// Microseconds.
const LONGEST: i64 = 36_525 * 86_400 * 1_000_000;

pub(super) fn check_name(name: &str) -> Result<()> {
    if name.trim().is_empty() || name.len() > 200 {
        return Err(bad("job_name must be a text of 1 to 200 bytes"));
    }
    Ok(())
}

/// Refuses a command that does not parse, or that is no command any more: each run's record has a copy of it.
pub(super) fn check_command(command: &str) -> Result<()> {
    const MOST: usize = 1024 * 1024;
    if command.len() > MOST {
        return Err(bad(format!("the command is {} bytes long, and must not be longer than {MOST}", command.len()))
            .hint("Put it into a function or a procedure, and schedule the call."));
    }
    portal::check(command)
}

pub(super) fn check_database(database: Option<&str>, owner: u32) -> Result<()> {
    let Some(database) = database else { return Ok(()) };
    let may: Option<bool> = spi::first(
        "SELECT pg_catalog.to_json(pg_catalog.has_database_privilege($2, d.oid, 'CONNECT'))::text
         FROM pg_catalog.pg_database d WHERE d.datname = $1 AND d.datallowconn",
        &[database.into(), spi::oid(owner)],
    )?;
    match may {
        None => Err(Error::new("3D000", format!("database \"{database}\" does not exist"))
            .hint("SELECT datname FROM pg_database lists those that do.")),
        Some(false) => {
            Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("permission denied for database \"{database}\"")))
        }
        Some(true) => Ok(()),
    }
}

/// The owner of a refresh: the caller, who must have the view owner's rights; or, made by a wh_admin, the view's owner.
pub fn owner_of_refresh(caller: u32, relation: u32) -> Result<(u32, String)> {
    let facts = crate::refresh::facts(relation)?;
    if has_role(caller, facts.owner)? {
        return Ok((caller, facts.name));
    }
    if is_admin(caller)? {
        return Ok((facts.owner, facts.name));
    }
    Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("permission denied to refresh {}", facts.name))
        .detail(facts.not_permitted())
        .hint(format!("Its owner \"{}\" can schedule it, or a member of wh_admin.", facts.owner_name)))
}

/// Makes a job, or replaces the one of that name and owner. Returns its number.
pub fn make(caller: u32, name: &str, owner: u32, what: &What, o: &Options) -> Result<i64> {
    require_preloading()?;
    check_name(name)?;
    check_options(o)?;
    let _: Concurrently = what.concurrently.parse()?;
    if what.kind == Kind::Sql {
        check_command(&what.command)?;
    }
    check_database(what.database, owner)?;
    let zone = o.timezone.unwrap_or(ZONE);
    let schedule = o.schedule.map(|s| Schedule::parse(s, zone)).transpose()?;
    let now = shared::now() as i64;
    let words = match (&schedule, what.max_lag) {
        (Some(schedule), _) => schedule.words(),
        (None, Some(lag)) => super::words::at_most(lag),
        (None, None) => String::new(),
    };
    let next = first(schedule.as_ref(), now);
    let taken: Option<(u32, String)> = spi::first(
        "SELECT pg_catalog.json_build_array(owner::oid::int8, owner::text)::text FROM wh.job WHERE name = $1",
        &[name.into()],
    )?;
    if let Some((other, role)) = taken.filter(|t| t.0 != owner) {
        let whose = if has_role(caller, other)? || is_admin(caller)? {
            format!(" by {role}")
        } else {
            String::from(" by another owner")
        };
        return Err(taken_by(name, &whose));
    }
    let made: Option<i64> = spi::first(
        "INSERT INTO wh.job AS j (name, owner, kind, schedule, timezone, words, command, database, relation, view_schema, view_name,
            upstream, refresh_mode, max_lag, timeout, max_retries, retry_delay, catch_up, enabled, anchor, first_run)
         SELECT $1, $2::regrole, $3, $4, $5, $6, $7, $8::name, $9,
                (SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $9),
                (SELECT c.relname FROM pg_catalog.pg_class c WHERE c.oid = $9),
                $10, $11, $12 * interval '1 microsecond', nullif($13, 0) * interval '1 microsecond', $14,
                $15 * interval '1 microsecond', $16, $17, wh.instant($18), wh.instant($19)
         ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, schedule = excluded.schedule, timezone = excluded.timezone,
            words = excluded.words, command = excluded.command, database = excluded.database, relation = excluded.relation,
            view_schema = excluded.view_schema, view_name = excluded.view_name, upstream = excluded.upstream,
            refresh_mode = excluded.refresh_mode, max_lag = excluded.max_lag, timeout = excluded.timeout,
            max_retries = excluded.max_retries, retry_delay = excluded.retry_delay, catch_up = excluded.catch_up,
            enabled = excluded.enabled, disabled_reason = NULL, anchor = excluded.anchor, first_run = excluded.first_run
         WHERE j.owner = excluded.owner
         RETURNING pg_catalog.to_json(j.id)::text",
        &[
            name.into(),
            spi::oid(owner),
            what.kind.name().into(),
            o.schedule.map(str::to_owned).into(),
            o.schedule.map(|_| zone.to_owned()).into(),
            words.into(),
            what.command.as_str().into(),
            what.database.map(str::to_owned).into(),
            what.relation.map(pgrx::pg_sys::Oid::from).into(),
            what.upstream.into(),
            what.concurrently.into(),
            what.max_lag.into(),
            o.timeout.into(),
            o.max_retries.into(),
            o.retry_delay.into(),
            o.catch_up.into(),
            o.enabled.into(),
            now.into(),
            next.into(),
        ],
    )?;
    // Somebody else took the name since it was looked at.
    made.ok_or_else(|| taken_by(name, " by another owner"))
}

fn taken_by(name: &str, whose: &str) -> Error {
    Error::new(sqlstate::DUPLICATE_OBJECT, format!("job name \"{name}\" is taken{whose}"))
        .hint("Choose another name; a prefix such as your role's helps.")
}

pub(super) fn first(schedule: Option<&Schedule>, now: i64) -> Option<i64> {
    let at = chrono::DateTime::from_timestamp_micros(now)?;
    schedule?.next_after(at, at).map(|t| t.timestamp_micros())
}

#[derive(Deserialize)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) owner: u32,
    pub(super) kind: Kind,
    pub(super) schedule: Option<String>,
    pub(super) timezone: Option<String>,
}

/// Finds a job that the caller may change, and locks it. It is looked at before it is locked: whoever may not see a job
/// must neither hold others up nor tell from a wait that it is there.
pub(super) fn mine_locked(caller: u32, name: &str, admin_too: bool) -> Result<Row> {
    mine(caller, name, admin_too, false)?;
    mine(caller, name, admin_too, true)
}

fn mine(caller: u32, name: &str, admin_too: bool, lock: bool) -> Result<Row> {
    let lock = if lock { " FOR NO KEY UPDATE" } else { "" };
    let found: Option<Row> = spi::first(
        &format!("SELECT pg_catalog.json_build_object('id', id, 'owner', owner::oid::int8, 'kind', kind, 'schedule', schedule, 'timezone', timezone)::text
         FROM wh.job WHERE name = $1{lock}"),
        &[name.into()],
    )?;
    let missing = || {
        Error::new(sqlstate::UNDEFINED_OBJECT, format!("job \"{name}\" does not exist"))
            .hint("SELECT name FROM wh.jobs lists those that do.")
    };
    let row = found.ok_or_else(missing)?;
    let there: Option<bool> =
        spi::first("SELECT 'true' FROM pg_catalog.pg_roles WHERE oid = $1", &[spi::oid(row.owner)])?;
    // Of a role that is gone nobody is a member, but a superuser may give its job to somebody else.
    let owns = if there.is_some() { has_role(caller, row.owner)? } else { session::is_superuser_role(caller) };
    if owns || (admin_too && is_admin(caller)?) {
        return Ok(row);
    }
    match is_admin(caller)? {
        true => Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("permission denied for job \"{name}\""))
            .detail("What a job does runs with its owner's rights, so only they may change it.")
            .hint("A member of wh_admin may pause, cancel, run and unschedule it.")),
        // Whoever may not see a job does not learn that it is there.
        false => Err(missing()),
    }
}

pub fn check_lag(lag: i64) -> Result<()> {
    if lag >= 1_000_000 {
        return refuse_too_long("max_lag", Some(lag));
    }
    Err(bad("max_lag must be at least one second").hint("For instance: wh.keep_fresh('reports.daily', '10 minutes')"))
}

/// Forgets a job.
pub fn unschedule(caller: u32, name: &str) -> Result<()> {
    let row = mine_locked(caller, name, true)?;
    spi::run("DELETE FROM wh.job WHERE id = $1", &[row.id.into()])?;
    Ok(())
}

/// Holds a job or lets it go, or all of them.
pub fn hold(caller: u32, name: Option<&str>, hold: bool) -> Result<()> {
    let who = session::session_user_name();
    match name {
        Some(name) => {
            let row = mine_locked(caller, name, true)?;
            // A job that is let go counts anew.
            let zone = row.timezone.as_deref().unwrap_or(ZONE);
            let schedule = row.schedule.as_deref().map(|s| Schedule::parse(s, zone)).transpose()?;
            let now = shared::now() as i64;
            spi::run(
                "UPDATE wh.job SET enabled = NOT $2, anchor = CASE WHEN $2 THEN anchor ELSE wh.instant($4) END,
                   first_run = CASE WHEN $2 THEN first_run ELSE wh.instant($5) END,
                   disabled_reason = CASE WHEN $2 THEN pg_catalog.format('wh.pause() by \"%s\" at %s', $3, pg_catalog.now()) END WHERE id = $1",
                &[row.id.into(), hold.into(), who.into(), now.into(), first(schedule.as_ref(), now).into()],
            )?;
        }
        None if is_admin(caller)? => {
            spi::run(
                "UPDATE wh.job_state SET paused = $1, paused_by = CASE WHEN $1 THEN $2::name END, paused_at = CASE WHEN $1 THEN pg_catalog.now() END",
                &[hold.into(), who.into()],
            )?;
        }
        None => {
            return Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, "must be a member of wh_admin to hold all jobs")
                .hint("wh.pause('a job') holds one of yours."))
        }
    }
    Ok(())
}

/// The number of a job that the caller may run or cancel.
pub fn number(caller: u32, name: &str) -> Result<i64> {
    require_preloading()?;
    // Nothing is locked: the caller waits.
    Ok(mine(caller, name, true, false)?.id)
}

/// When a schedule comes, `n` times.
pub fn preview(text: &str, zone: Option<&str>, n: i32) -> Result<(Schedule, Vec<i64>)> {
    if !(1..=10_000).contains(&n) {
        return Err(bad("n must be between 1 and 10000"));
    }
    let schedule = Schedule::parse(text, zone.unwrap_or(ZONE))?;
    let now = chrono::DateTime::from_timestamp_micros(shared::now() as i64).unwrap_or_default();
    let mut times = Vec::new();
    let mut at = now;
    while times.len() < n as usize {
        let Some(next) = schedule.next_after(at, now) else { break };
        times.push(next.timestamp_micros());
        at = next;
    }
    Ok((schedule, times))
}

/// Makes the job that runs a saved query on a schedule, in the version `pin` as long as later ones are somebody else's.
pub fn query_job(
    caller: u32,
    slug: &str,
    pin: &queries::Pin,
    params: &str,
    options: &Options,
    job_name: Option<&str>,
) -> Result<i64> {
    let what = What {
        kind: Kind::Query,
        command: format!("SELECT * FROM wh.run_query({}, {})", sql::literal(slug), sql::literal(params)),
        database: None,
        relation: None,
        upstream: false,
        concurrently: "auto",
        max_lag: None,
    };
    let name = job_name.map_or_else(|| format!("query {slug}"), str::to_owned);
    let id = make(caller, &name, caller, &what, options)?;
    set_argument(id, &serde_json::to_string(pin)?)?;
    Ok(id)
}

/// Sets what a job is about, JSON.
fn set_argument(job: i64, argument: &str) -> Result<()> {
    spi::run("UPDATE wh.job SET argument = $2::jsonb WHERE id = $1", &[job.into(), argument.into()])?;
    Ok(())
}

/// What the job of a source is called.
fn name_of_fetch(source: &str) -> String {
    format!("fetch {source}")
}

/// Makes the job that fetches a source: by hand, or on a schedule.
pub fn fetch_job(caller: u32, source: &str, schedule: Option<&str>) -> Result<()> {
    let what = What {
        kind: Kind::Fetch,
        command: format!("SELECT * FROM wh.fetch({})", sql::literal(source)),
        database: None,
        relation: None,
        upstream: false,
        concurrently: "auto",
        max_lag: None,
    };
    let options = Options {
        schedule,
        timezone: None,
        timeout: None,
        max_retries: 0,
        retry_delay: 60_000_000,
        catch_up: "once",
        enabled: true,
    };
    let id = make(caller, &name_of_fetch(source), caller, &what, &options)?;
    let argument = serde_json::json!({ "source": source });
    set_argument(id, &argument.to_string())
}

/// Forgets the job of a source.
pub fn forget_fetch_job(caller: u32, source: &str) -> Result<()> {
    unschedule(caller, &name_of_fetch(source))
}

/// Ends the run of a source that is dropped: nobody could end it once its job is gone.
pub fn cancel_fetch(caller: u32, source: &str) -> Result<()> {
    let job = number_of_fetch(caller, source)?;
    let running: Option<bool> =
        spi::first("SELECT 'true' FROM wh.job_run WHERE job = $1 AND finished IS NULL LIMIT 1", &[job.into()])?;
    if running.is_some() {
        super::ask::cancel(job)?;
    }
    Ok(())
}

/// The number of the job that fetches a source.
pub fn number_of_fetch(caller: u32, source: &str) -> Result<i64> {
    number(caller, &name_of_fetch(source))
}
