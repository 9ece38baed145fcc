//! A run: recorded before it begins, tried again while locks are not to be had, all or nothing.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::apply::{self, Done, Source};
use super::model::Change;
use super::registry::{self, Registered};
use super::standing::{OnBroken, Policy, TypePolicy};
use super::{fallback, remote};
use crate::error::{sqlstate, Error, Result};
use crate::pg::subxact::Outcome;
use crate::pg::{guc, later, lock, recorder, session, spi, subxact};

/// What the caller asked for.
#[derive(Debug, Clone)]
pub struct Options {
    pub rebuild: bool,
    pub on_broken: OnBroken,
    pub types: TypePolicy,
    pub lock_timeout: Duration,
    pub max_wait: Duration,
    /// Do it, return the rows, undo it.
    pub plan: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            rebuild: false,
            on_broken: OnBroken::Keep,
            types: TypePolicy::Follow,
            lock_timeout: Duration::from_secs(5),
            max_wait: Duration::from_secs(300),
            plan: false,
        }
    }
}

/// Runs `work` for the application `name` under a record in wh.fdw_run.
fn recorded(
    name: &str,
    action: &str,
    options: &Options,
    work: impl FnOnce(i64, &Cell<i32>, &Cell<Duration>) -> Result<Done>,
) -> Result<Vec<Change>> {
    refuse_old_snapshot()?;
    session::refuse_restricted()?;
    let _surroundings = guc::Scope::new(guc::DEPARSE)?;
    let owner = session::current_user();
    let (attempts, waited) = (Cell::new(0), Cell::new(Duration::ZERO));
    let run = if options.plan {
        0
    } else {
        let note = serde_json::json!({"fdw": name, "action": action, "role": session::session_user_name(), "pid": std::process::id()});
        recorder::commit(owner, &note.to_string()).map_err(|e| Error {
            hint: Some(String::from("A run is recorded before it begins, by a background worker: raise max_worker_processes, or see the server's log.")),
            ..e
        })?
    };
    let outcome = if options.plan { Outcome::Discard } else { Outcome::Keep };
    let result = subxact::run_as(outcome, || {
        if run != 0 {
            mark_as_alive(run)?;
        }
        let done = work(run, &attempts, &waited)?;
        if run != 0 {
            finish(run, name, &done, attempts.get(), waited.get())?;
        }
        Ok(done.changes)
    });
    let result = result.map_err(|e| match waited.get() {
        // The transaction there lasts as long as the one here (postgres_fdw).
        waited if e.is_a_lost_connection() && !waited.is_zero() => Error {
            hint: Some(format!(
                "The product ended the session while the run waited {:.0} s for locks. Have idle_in_transaction_session_timeout of the role there be longer than max_wait: ALTER ROLE ... SET idle_in_transaction_session_timeout = '10min'; or lower max_wait.",
                waited.as_secs_f64()
            )),
            ..e
        },
        _ => e,
    });
    if let (true, Err(e)) = (options.plan, &result) {
        if e.sqlstate == sqlstate::DEPENDENT_OBJECTS_STILL_EXIST {
            let detail = [Some(e.message.as_str()), e.detail.as_deref()].into_iter().flatten().collect::<Vec<_>>();
            return Ok(vec![Change::new(name, "foreign application", "refused").detail(detail.join("\n"))]);
        }
    }
    if let (Err(e), true) = (&result, run != 0) {
        let error: Vec<&str> = [Some(e.message.as_str()), e.detail.as_deref()].into_iter().flatten().collect();
        let note = serde_json::json!({
            "run": run, "sqlstate": e.sqlstate, "attempts": attempts.get(),
            "waited": format!("{} milliseconds", waited.get().as_millis()),
            "error": error.join("\n"),
        });
        if let Err(unrecorded) = recorder::commit(owner, &note.to_string()) {
            pgrx::warning!("the failure of run {run} could not be recorded: {}", unrecorded.message);
        }
    }
    result
}

/// Has the row of a run say that it lives, until it ends or is rolled back: the lock puts the transaction's number there,
/// and wh.fdw_runs asks what became of that. Nobody else can take it; an advisory lock is anybody's.
fn mark_as_alive(run: i64) -> Result<()> {
    spi::run("SELECT FROM wh.fdw_run WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED", &[run.into()]).map(|_| ())
}

/// In REPEATABLE READ the catalogs would be read as they were when the transaction began.
fn refuse_old_snapshot() -> Result<()> {
    if session::is_read_committed() {
        return Ok(());
    }
    Err(Error::new(sqlstate::ACTIVE_SQL_TRANSACTION, "this function needs transaction isolation level READ COMMITTED")
        .detail("Under another level the transaction would see the warehouse as it was when it began.")
        .hint("Call it in a transaction of its own."))
}

fn finish(run: i64, name: &str, done: &Done, attempts: i32, waited: Duration) -> Result<()> {
    for (n, c) in done.changes.iter().enumerate() {
        spi::run(
            "INSERT INTO wh.fdw_change (run, n, object, kind, action, detail) VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                run.into(),
                (n as i32 + 1).into(),
                c.object.as_str().into(),
                c.kind.into(),
                c.action.into(),
                c.detail.clone().into(),
            ],
        )?;
    }
    let updated = spi::rows::<i64>(
        "UPDATE wh.fdw_run SET status = 'succeeded', ended = clock_timestamp(), attempts = $2, waited = $3::interval,
                tables = $4, changes = $5, broken = $6, healed = $7 WHERE id = $1 RETURNING to_json(id)::text",
        &[
            run.into(),
            attempts.into(),
            format!("{} milliseconds", waited.as_millis()).into(),
            (done.tables as i32).into(),
            (done.changes.len() as i32).into(),
            (done.broken as i32).into(),
            (done.healed as i32).into(),
        ],
    )?;
    if updated.is_empty() {
        return Err(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("the record of run {run} is gone")));
    }
    spi::run(
        "DELETE FROM wh.fdw_run r WHERE r.started < now() - make_interval(days => $2)
           AND r.id <> (SELECT max(id) FROM wh.fdw_run m WHERE m.fdw = r.fdw) AND r.fdw = $1",
        &[name.into(), crate::settings::RUN_HISTORY.get().into()],
    )?;
    Ok(())
}

/// Tries a unit until its locks are to be had, or `max_wait` is over.
pub fn with_locks<T>(
    options: &Options,
    (attempts, waited): (&Cell<i32>, &Cell<Duration>),
    unit: impl FnMut() -> Result<T>,
) -> Result<T> {
    let patience = lock::Patience {
        lock_timeout: options.lock_timeout,
        max_wait: options.max_wait,
        attempts,
        waited,
        otherwise: "or raise max_wait",
    };
    lock::patiently(&patience, unit)
}

/// Locks the registration, waiting for another run of the same name.
fn lock_registration(
    name: &str,
    options: &Options,
    find: impl FnOnce(&str) -> Result<Option<Registered>>,
) -> Result<Registered> {
    let _timeout = guc::Scope::new(&[("lock_timeout", &lock::milliseconds(options.max_wait))])?;
    let found = subxact::run(|| {
        // Before the registration: whoever marks something sensitive takes them in this order.
        crate::policy::hold()?;
        find(name)
    });
    let found = found.map_err(|e| match e.is_lock_conflict() {
        true => Error::new(
            &e.sqlstate,
            format!(
                "another run of foreign application \"{name}\" did not end within {:.1} s",
                options.max_wait.as_secs_f64()
            ),
        )
        .hint("SELECT * FROM wh.fdw_runs WHERE status = 'running' shows it; or raise max_wait."),
        false => e,
    });
    match found? {
        Some(app) => Ok(app),
        None => Err(registry::missing(name)),
    }
}

fn or_adopt(name: &str) -> Result<Option<Registered>> {
    registry::lock_or_adopt(name).map(Some)
}

fn policy(options: &Options, name: &str, run: i64) -> Policy {
    Policy {
        types: options.types,
        on_broken: options.on_broken,
        refresh: !options.plan,
        fdw: Some(name.to_owned()),
        run,
        // The last attempt begins when it is over (lock::patiently).
        leave_broken: Some(Instant::now() + options.max_wait),
    }
}

fn source(app: &Registered, first: bool) -> Result<Source> {
    // At the first import nobody had a connection before.
    if !first {
        remote::refuse_stale_snapshot(app)?;
    }
    Ok(if app.postgres_fdw_schema.is_some() {
        Source::Catalog(remote::read(app)?)
    } else {
        Source::Imported(fallback::wanted(app)?)
    })
}

/// Follows the product.
pub fn recreate(name: &str, options: &Options) -> Result<Vec<Change>> {
    registry::refuse_unknown(name)?;
    recorded(name, "recreate_fdw", options, |run, attempts, waited| {
        let app = lock_registration(name, options, or_adopt)?;
        let source = source(&app, false)?;
        let policy = policy(options, name, run);
        let done = with_locks(options, (attempts, waited), || apply::unit(&app, &source, options.rebuild, &policy))?;
        later::drop(source);
        Ok(done)
    })
}

/// Registers and imports, with `prepare` making server, schema and registration first.
pub fn create(name: &str, prepare: impl FnOnce() -> Result<()>) -> Result<Vec<Change>> {
    let options = Options::default();
    recorded(name, "create_fdw", &options, |run, attempts, waited| {
        prepare()?;
        let app = lock_registration(name, &options, registry::lock)?;
        let source = source(&app, app.owns_server)?;
        registry::refuse_missing_tables(&app, &source)?;
        let policy = policy(&options, name, run);
        with_locks(&options, (attempts, waited), || apply::unit(&app, &source, false, &policy))
    })
}

/// Takes away what is hidden by now.
pub fn hide(name: &str, prepare: impl FnOnce() -> Result<()>) -> Result<Vec<Change>> {
    registry::refuse_unknown(name)?;
    let options = Options::default();
    recorded(name, "hide", &options, |run, attempts, waited| {
        lock_registration(name, &options, or_adopt)?;
        prepare()?;
        let app = lock_registration(name, &options, registry::lock)?;
        let policy = policy(&options, name, run);
        with_locks(&options, (attempts, waited), || apply::unit(&app, &Source::Here, false, &policy))
    })
}

/// Takes away what the policy withholds by now; where the policy changes, in the transaction that changes it.
pub fn withhold(name: &str) -> Result<Vec<Change>> {
    let options = Options::default();
    recorded(name, "mark_sensitive", &options, |run, attempts, waited| {
        let app = lock_registration(name, &options, registry::lock)?;
        let policy = policy(&options, name, run);
        with_locks(&options, (attempts, waited), || apply::unit(&app, &Source::Here, false, &policy))
    })
}

/// Masks columns as `prepare` has written it down; it does not ask the product.
pub fn mask(name: &str, prepare: impl FnOnce(&Registered) -> Result<()>) -> Result<Vec<Change>> {
    let options = Options::default();
    recorded(name, "mask", &options, |run, attempts, waited| {
        let app = lock_registration(name, &options, registry::lock)?;
        prepare(&app)?;
        let policy = policy(&options, name, run);
        with_locks(&options, (attempts, waited), || apply::unit(&app, &Source::Here, false, &policy))
    })
}

/// Takes masks off as `prepare` has written it down; the product says what is under them.
pub fn unmask(name: &str, prepare: impl FnOnce(&Registered) -> Result<()>) -> Result<Vec<Change>> {
    let options = Options::default();
    recorded(name, "unmask", &options, |run, attempts, waited| {
        let app = lock_registration(name, &options, registry::lock)?;
        let source = source(&app, false)?;
        prepare(&app)?;
        let policy = policy(&options, name, run);
        with_locks(&options, (attempts, waited), || apply::unit(&app, &source, false, &policy))
    })
}

/// Drops the tables; what stands on them breaks.
pub fn drop(
    name: &str,
    before: impl FnOnce(&Registered) -> Result<()>,
    after: impl FnOnce(&Registered) -> Result<()>,
) -> Result<Vec<Change>> {
    let options = Options::default();
    recorded(name, "drop_fdw", &options, |run, attempts, waited| {
        let app = lock_registration(name, &options, registry::lock_as_it_is)?;
        before(&app)?;
        let policy = policy(&options, name, run);
        let done = with_locks(&options, (attempts, waited), || apply::unit(&app, &Source::Nothing, false, &policy))?;
        after(&app)?;
        Ok(done)
    })
}

/// Tries broken views again.
pub fn repair(name: Option<&str>) -> Result<Vec<Change>> {
    let options = Options::default();
    if let Some(name) = name {
        registry::refuse_unknown(name)?;
    }
    recorded(name.unwrap_or("*"), "repair_views", &options, |run, attempts, waited| {
        let mut policy = policy(&options, "", run);
        policy.fdw = name.map(str::to_owned);
        // Nothing else is asked for.
        policy.leave_broken = None;
        with_locks(&options, (attempts, waited), || {
            let changes = super::broken::heal(name, &policy)?;
            Ok(Done { healed: changes.len(), changes, ..Done::default() })
        })
    })
}

/// Milliseconds from an interval argument; negative ones are refused.
pub fn duration(argument: &str, interval: pgrx::datum::Interval) -> Result<Duration> {
    let micros = interval.as_micros();
    u64::try_from(micros).map(Duration::from_micros).map_err(|_| {
        Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("{argument} must not be negative"))
            .hint(format!("For instance: {argument} => '5s'"))
    })
}
