//! Changing a job: what is given, and nothing else.

use super::model::Kind;
use super::schedule::Schedule;
use super::shared;
use super::write::{bad, check_command, check_database, check_lag, check_name, check_options, first, has_role};
use super::write::{mine_locked, require_preloading, Options, ZONE};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{spi, sql};
use crate::refresh::Concurrently;

/// What [`alter`] changes; `None` leaves it.
#[derive(Default)]
pub struct Changes<'a> {
    pub schedule: Option<&'a str>,
    pub command: Option<&'a str>,
    pub timezone: Option<&'a str>,
    pub timeout: Option<i64>,
    pub max_retries: Option<i32>,
    pub retry_delay: Option<i64>,
    pub catch_up: Option<&'a str>,
    pub database: Option<&'a str>,
    pub enabled: Option<bool>,
    pub max_lag: Option<i64>,
    pub concurrently: Option<&'a str>,
    pub upstream: Option<bool>,
    pub owner: Option<&'a str>,
    pub new_name: Option<&'a str>,
}

/// Changes a job. Its owner's rights are needed for what it does; a wh_admin may change when it does it.
pub fn alter(caller: u32, name: &str, c: &Changes) -> Result<()> {
    require_preloading()?;
    let harmless = c.command.is_none() && c.database.is_none() && c.owner.is_none();
    let row = mine_locked(caller, name, harmless)?;
    let wrong = |argument: &str| Err(bad(format!("a job of kind {} has no {argument}", row.kind.name())));
    if c.command.is_some() && row.kind != Kind::Sql {
        return wrong("command of its own");
    }
    if c.database.is_some() && row.kind != Kind::Sql {
        return wrong("database of its own");
    }
    if (c.schedule.is_some() || c.timezone.is_some()) && row.kind == Kind::KeepFresh {
        return wrong("schedule");
    }
    if c.max_lag.is_some() && row.kind != Kind::KeepFresh {
        return wrong("max_lag");
    }
    if (c.concurrently.is_some() || c.upstream.is_some()) && !row.kind.refreshes() {
        return wrong("view");
    }
    if let Some(command) = c.command {
        check_command(command)?;
    }
    if let Some(how) = c.concurrently {
        let _: Concurrently = how.parse()?;
    }
    if let Some(lag) = c.max_lag {
        check_lag(lag)?;
    }
    check_options(&Options {
        schedule: None,
        timezone: None,
        timeout: c.timeout,
        max_retries: c.max_retries.unwrap_or_default(),
        retry_delay: c.retry_delay.unwrap_or_default(),
        catch_up: c.catch_up.unwrap_or("skip"),
        enabled: true,
    })?;
    let owner = match c.owner {
        None => row.owner,
        Some(role) => {
            let found: Option<u32> = spi::first(
                "SELECT pg_catalog.to_json(oid::int8)::text FROM pg_catalog.pg_roles WHERE rolname = $1",
                &[role.into()],
            )?;
            let oid = found.ok_or_else(|| {
                Error::new(sqlstate::UNDEFINED_OBJECT, format!("role \"{role}\" does not exist"))
                    .hint("SELECT rolname FROM pg_roles lists those that do.")
            })?;
            if !has_role(caller, oid)? {
                return Err(Error::new(
                    sqlstate::INSUFFICIENT_PRIVILEGE,
                    format!("must be a member of role {}", sql::ident(role)),
                ));
            }
            oid
        }
    };
    check_database(c.database, owner)?;
    if let Some(new) = c.new_name {
        check_name(new)?;
        let taken: Option<i64> =
            spi::first("SELECT id::text FROM wh.job WHERE name = $1 AND id <> $2", &[new.into(), row.id.into()])?;
        if taken.is_some() {
            return Err(Error::new(sqlstate::DUPLICATE_OBJECT, format!("job name \"{new}\" is taken"))
                .hint("Choose another name; a prefix such as your role's helps."));
        }
    }
    let text = c.schedule.map(str::to_owned).or(row.schedule);
    let zone = c.timezone.map(str::to_owned).or(row.timezone);
    let schedule = match (&text, c.schedule.is_some() || c.timezone.is_some() || c.enabled == Some(true)) {
        // A job that is let go again counts anew.
        (Some(text), true) => Some(Schedule::parse(text, zone.as_deref().unwrap_or(ZONE))?),
        _ => None,
    };
    let words = match (&schedule, c.max_lag) {
        (Some(schedule), _) => Some(schedule.words()),
        (None, Some(lag)) => Some(super::words::at_most(lag)),
        (None, None) => None,
    };
    let now = shared::now() as i64;
    let next = first(schedule.as_ref(), now);
    spi::run(
        "UPDATE wh.job SET name = coalesce($2, name), owner = $3::regrole, schedule = $4, timezone = $5, words = coalesce($6, words),
            command = coalesce($7, command), database = coalesce($8::name, database),
            max_lag = coalesce($9 * interval '1 microsecond', max_lag),
            timeout = CASE WHEN $10 IS NULL THEN timeout ELSE nullif($10, 0) * interval '1 microsecond' END,
            max_retries = coalesce($11, max_retries), retry_delay = coalesce($12 * interval '1 microsecond', retry_delay),
            catch_up = coalesce($13, catch_up), enabled = coalesce($14, enabled),
            disabled_reason = CASE WHEN $14 THEN NULL ELSE disabled_reason END, refresh_mode = coalesce($15, refresh_mode),
            upstream = coalesce($16, upstream), anchor = coalesce(wh.instant($17), anchor),
            first_run = CASE WHEN $17 IS NULL THEN first_run ELSE wh.instant($18) END
         WHERE id = $1",
        &[
            row.id.into(),
            c.new_name.map(str::to_owned).into(),
            spi::oid(owner),
            text.into(),
            zone.into(),
            words.into(),
            c.command.map(str::to_owned).into(),
            c.database.map(str::to_owned).into(),
            c.max_lag.into(),
            c.timeout.into(),
            c.max_retries.into(),
            c.retry_delay.into(),
            c.catch_up.map(str::to_owned).into(),
            c.enabled.into(),
            c.concurrently.map(str::to_owned).into(),
            c.upstream.into(),
            schedule.as_ref().map(|_| now).into(),
            next.into(),
        ],
    )?;
    Ok(())
}
