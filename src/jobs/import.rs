//! Taking over the jobs of pg_cron, with the rights of the caller and nothing else: through the functions of both.

use serde::Deserialize;

use crate::error::{sqlstate, Error, Result};
use crate::pg::{guc, spi, subxact};

/// A job of pg_cron, and what became of it.
pub struct Taken {
    pub name: String,
    pub schedule: String,
    pub command: String,
    pub owner: String,
    pub status: &'static str,
    pub detail: Option<String>,
}

#[derive(Deserialize)]
struct Cron {
    jobid: i64,
    jobname: Option<String>,
    schedule: String,
    command: String,
    nodename: String,
    database: String,
    username: String,
    active: bool,
    here: bool,
    own: bool,
}

/// Takes what the caller may see of cron.job.
pub fn pg_cron() -> Result<Vec<Taken>> {
    let _path = guc::Scope::new(&[("search_path", "pg_catalog, pg_temp")])?;
    let installed: Option<bool> = spi::first(
        "SELECT pg_catalog.to_json(true)::text FROM pg_catalog.pg_extension WHERE extname = 'pg_cron'",
        &[],
    )?;
    if installed.is_none() {
        return Err(Error::new(sqlstate::UNDEFINED_OBJECT, "pg_cron is not installed in this database").hint(
            "Its extension is in one database of the server, the one that cron.database_name names; call this there.",
        ));
    }
    let zone: Option<Option<String>> =
        spi::first("SELECT pg_catalog.to_json(pg_catalog.current_setting('cron.timezone', true))::text", &[])?;
    let zone = zone.flatten().filter(|z| !z.is_empty()).unwrap_or_else(|| String::from("GMT"));
    let jobs: Vec<Cron> = spi::rows(
        "SELECT pg_catalog.json_build_object('jobid', j.jobid, 'jobname', pg_catalog.to_jsonb(j)->>'jobname', 'schedule', j.schedule,
                'command', j.command, 'nodename', j.nodename, 'database', j.database, 'username', j.username, 'active', j.active,
                'here', j.database = pg_catalog.current_database(), 'own', j.username = current_user)::text
         FROM cron.job j ORDER BY j.jobid",
        &[],
    )?;
    Ok(jobs.into_iter().map(|job| take(job, &zone)).collect())
}

fn take(job: Cron, zone: &str) -> Taken {
    let name = job.jobname.clone().unwrap_or_else(|| format!("pg_cron job {}", job.jobid));
    let (status, detail) = match subxact::run(|| take_one(&job, &name, zone)) {
        Ok(detail) => ("taken", detail),
        Err(e) => {
            let hint = e.hint.map(|h| format!(" {h}")).unwrap_or_default();
            ("left", Some(format!("{}{hint}", e.message)))
        }
    };
    Taken { name, schedule: job.schedule, command: job.command, owner: job.username, status, detail }
}

fn take_one(job: &Cron, name: &str, zone: &str) -> Result<Option<String>> {
    if !["localhost", "127.0.0.1", "::1", ""].contains(&job.nodename.as_str()) && !job.nodename.starts_with('/') {
        return Err(Error::new(sqlstate::FEATURE_NOT_SUPPORTED, format!("it runs on another host, {}", job.nodename)));
    }
    let elsewhere = (!job.here).then(|| job.database.clone());
    let taken: Option<i64> = spi::first(
        "SELECT pg_catalog.to_json(id)::text FROM (SELECT j.job AS id FROM wh.jobs j WHERE j.name = $1) t",
        &[name.into()],
    )?;
    if taken.is_some() {
        return Err(Error::new(sqlstate::DUPLICATE_OBJECT, format!("there is a job \"{name}\" already")));
    }
    spi::run(
        "SELECT wh.schedule($1, $2, $3, timezone => $4, database => $5, enabled => $6)",
        &[
            name.into(),
            job.schedule.as_str().into(),
            job.command.as_str().into(),
            zone.into(),
            elsewhere.clone().into(),
            job.active.into(),
        ],
    )?;
    if !job.own {
        spi::run("SELECT wh.alter_job($1, owner => $2)", &[name.into(), job.username.as_str().into()])?;
    }
    let mut detail = Vec::new();
    if job.active {
        // pg_cron gives alter_job to nobody by itself; one's own jobs anybody may take away.
        let may_alter: Option<bool> = spi::first(
            "SELECT pg_catalog.to_json(pg_catalog.has_function_privilege(p.oid, 'EXECUTE'))::text
             FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             WHERE n.nspname = 'cron' AND p.proname = 'alter_job'",
            &[],
        )?;
        if may_alter == Some(true) || !job.own {
            spi::run("SELECT cron.alter_job($1, active := false)", &[job.jobid.into()])?;
        } else {
            spi::run("SELECT cron.unschedule($1)", &[job.jobid.into()])?;
            detail.push(String::from("it was unscheduled there, since the caller may not switch it off"));
        }
    }
    if !job.active {
        detail.push(String::from("it was switched off there, and is here"));
    }
    if let Some(database) = elsewhere {
        detail.push(format!("runs in database {database}"));
    }
    Ok((!detail.is_empty()).then(|| detail.join("; ")))
}
