//! An analyst leaves, or a team: sessions end, what they own is somebody else's, the role goes.
//!
//! What they wrote is code that could have waited for this moment. It never becomes a superuser's or an administrator's,
//! and functions that would run with their new owner's rights are made plain ones first.

use std::time::{Duration, Instant};

use super::{code, grants, provision, reach, rights, teams, turn, Row};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{hooks, latch, lock, spi, sql, subxact};

/// How long sessions may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Removes an analyst.
pub fn remove(caller: u32, name: &str, give_to: &str) -> Result<Vec<Row>> {
    turn::one_at_a_time()?;
    let (role, _) = provision::find(caller, name)?;
    let heir = heir(caller, name, give_to)?;
    // Before anybody's session ends, and again when nobody can make more of it.
    code::refuse(&role, &heir)?;
    let mut done = Vec::new();
    let quoted = sql::ident(name);

    spi::run(&format!("ALTER ROLE {quoted} NOLOGIN"), &[])?;
    let ended = end_sessions(role.oid)?;
    if ended > 0 {
        done.push(Row::new(name, "session", "ended").detail(ended.to_string()));
    }
    // One may log in until this is committed.
    let oid = role.oid;
    hooks::at_end(hooks::When::Committed, move || crate::pg::activity::terminate(oid));

    spi::run("DELETE FROM wh.analyst WHERE role::oid = $1", &[spi::oid(role.oid)])?;
    retire(&role, &heir, &mut done)?;
    Ok(done)
}

/// Removes a team that nobody is in. Its schema and what members made in it stay.
pub fn remove_team(caller: u32, name: &str, give_to: &str) -> Result<Vec<Row>> {
    turn::one_at_a_time()?;
    let role = teams::find(caller, name)?;
    let heir = heir(caller, name, give_to)?;
    let members: Vec<String> = spi::rows(
        "SELECT pg_catalog.to_json(m.member::pg_catalog.regrole::text)::text FROM pg_catalog.pg_auth_members m WHERE m.roleid = $1 ORDER BY 1",
        &[spi::oid(role.oid)],
    )?;
    if !members.is_empty() {
        return Err(Error::new(sqlstate::OBJECT_IN_USE, format!("team \"{name}\" has members"))
            .detail(format!("They are: {}.", members.join(", ")))
            .hint("Move each of them first: SELECT * FROM wh.move_analyst('...', NULL)"));
    }
    let mut done = Vec::new();
    spi::run("UPDATE wh.analyst SET team = NULL WHERE team::oid = $1", &[spi::oid(role.oid)])?;
    spi::run("DELETE FROM wh.team WHERE role::oid = $1", &[spi::oid(role.oid)])?;
    retire(&role, &heir, &mut done)?;
    Ok(done)
}

/// Gives away what a role has, and drops it, as soon as nobody stands in the way.
fn retire(role: &rights::Role, heir: &rights::Role, done: &mut Vec<Row>) -> Result<()> {
    let gone = turn::with_locks(|| {
        lock::access_exclusive(owned_relations(role.oid)?)?;
        let mut done = Vec::new();
        give_away(role, heir, &mut done)?;
        Ok(done)
    });
    done.extend(gone.map_err(|e| in_the_way(e, role))?);
    Ok(())
}

/// What REASSIGN OWNED locks, what reads others before what it reads: that was there first.
fn owned_relations(role: u32) -> Result<Vec<u32>> {
    spi::rows(
        "SELECT c.oid::pg_catalog.int8::text FROM pg_catalog.pg_class c WHERE c.relowner = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
         ORDER BY c.oid DESC",
        &[spi::oid(role)],
    )
}

/// Says who holds the role itself, where no relation was in the way: whoever grants it something does until their commit.
fn in_the_way(e: Error, role: &rights::Role) -> Error {
    if !e.is_lock_conflict() || e.detail.is_some() {
        return e;
    }
    let holders: Result<Vec<String>> = spi::rows(
        "SELECT DISTINCT pg_catalog.to_json(pg_catalog.format('User %I, pid %s.', a.usename, l.pid))::text
         FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_get_activity(l.pid) s ON true LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.usesysid
         CROSS JOIN LATERAL (SELECT coalesce(r.rolname, 'unknown') AS usename) a
         WHERE l.locktype = 'object' AND l.classid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND l.objid = $1 AND l.granted
           AND l.pid <> pg_catalog.pg_backend_pid()",
        &[spi::oid(role.oid)],
    );
    let Ok(holders) = holders else { return e };
    Error::new(&e.sqlstate, format!("could not lock what role \"{}\" has", role.name))
        .detail(match holders.is_empty() {
            true => String::from("Whoever stood in the way has let go since."),
            false => holders.join("\n"),
        })
        .hint("Nothing was changed. Wait for the session, end it with pg_cancel_backend or pg_terminate_backend, or call this later.")
}

fn give_away(role: &rights::Role, heir: &rights::Role, done: &mut Vec<Row>) -> Result<()> {
    let quoted = sql::ident(&role.name);
    code::refuse(role, heir)?;
    disarm(role.oid, done)?;
    hand_over(role, heir, done)?;
    report_jobs(role.oid, heir, done)?;
    let (queries, results) = crate::queries::hand_over(role.oid, heir.oid)?;
    for (kind, count) in [("query", queries), ("result", results)] {
        if count > 0 {
            done.push(Row::new(&heir.name, "owner", "given").detail(format!("{count} of kind {kind}")));
        }
    }
    crate::usage::forget_budget(role.oid)?;
    // What they were given in this database: DROP OWNED takes what owners gave, and others may have passed it on to them.
    // What they passed on themselves stands on it.
    let taken = grants::take_all("given.grantee_oid = $1 OR given.grantor = $1::int8", &[spi::oid(role.oid)])?;
    done.extend(taken.iter().filter(|g| g.grantor == role.oid).map(|g| {
        Row::new(g.name(), "grant", "taken back")
            .detail(format!("{} that \"{}\" had passed on to {}", g.privilege, role.name, g.grantee))
    }));
    // And what they gave by default.
    spi::run(&format!("DROP OWNED BY {quoted}"), &[])?;
    let dropped = subxact::run(|| spi::run(&format!("DROP ROLE {quoted}"), &[]));
    match dropped {
        Ok(_) => done.push(Row::new(&role.name, "role", "dropped")),
        Err(e) if e.sqlstate == sqlstate::DEPENDENT_OBJECTS_STILL_EXIST => disable(role, done)?,
        Err(e) => return Err(e),
    }
    Ok(())
}

/// Who gets what they own: another analyst, a team, or, where a superuser says so, any role that has no more rights than
/// those.
fn heir(caller: u32, name: &str, give_to: &str) -> Result<rights::Role> {
    if give_to == name {
        return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "give_to must be another role"));
    }
    let heir = rights::named(give_to)?.ok_or_else(|| rights::missing(give_to))?;
    if !heir.powers.is_empty() {
        return Err(Error::new(
            sqlstate::INSUFFICIENT_PRIVILEGE,
            format!("role \"{give_to}\" has more rights than an analyst, and must not own what \"{name}\" wrote"),
        )
        .detail(format!("It is: {}. Views, triggers and refreshes run with the rights of their owner.", heir.powers.join("; ")))
        .hint("Give it to another analyst, or to a team: SELECT * FROM wh.add_team('archive') makes one that nobody is in."));
    }
    let known: Option<bool> = spi::first(
        "SELECT 'true' WHERE EXISTS (SELECT FROM wh.analyst WHERE role::oid = $1) OR EXISTS (SELECT FROM wh.team WHERE role::oid = $1)",
        &[spi::oid(heir.oid)],
    )?;
    if known.is_none() && !crate::pg::session::is_superuser_role(caller) {
        return Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("role \"{give_to}\" is neither an analyst nor a team"))
            .hint("Give it to another analyst, or to a team: SELECT * FROM wh.add_team('archive') makes one that nobody is in."));
    }
    Ok(heir)
}

/// Ends the sessions and jobs of a role, in all databases; returns how many there were. They hold locks on what is to
/// change owner.
fn end_sessions(role: u32) -> Result<usize> {
    let begun = Instant::now();
    let mut ended: Vec<i64> = Vec::new();
    loop {
        let living = spi::rows::<(i64, bool)>(
            "SELECT pg_catalog.json_build_array(pid, pg_catalog.pg_terminate_backend(pid))::text FROM pg_catalog.pg_stat_get_activity(NULL)
             WHERE usesysid = $1 AND pid <> pg_catalog.pg_backend_pid()",
            &[spi::oid(role)],
        )?;
        if living.is_empty() {
            return Ok(ended.len());
        }
        for (pid, _) in living {
            if !ended.contains(&pid) {
                ended.push(pid);
            }
        }
        if begun.elapsed() > PATIENCE {
            return Err(Error::new(sqlstate::LOCK_NOT_AVAILABLE, format!("{} sessions did not end", ended.len()))
                .hint("SELECT * FROM pg_stat_activity shows what they do. Call this again."));
        }
        latch::pause(Duration::from_millis(20));
        crate::pg::activity::look_again();
    }
}

/// A SECURITY DEFINER function would run with the rights of its new owner for whoever may call it.
fn disarm(role: u32, done: &mut Vec<Row>) -> Result<()> {
    let functions: Vec<String> = spi::rows(
        "SELECT pg_catalog.to_json(p.oid::pg_catalog.regprocedure::text)::text FROM pg_catalog.pg_proc p WHERE p.proowner = $1 AND p.prosecdef ORDER BY 1",
        &[spi::oid(role)],
    )?;
    for function in functions {
        spi::run(&format!("ALTER ROUTINE {function} SECURITY INVOKER"), &[])?;
        done.push(
            Row::new(function, "function", "disarmed").detail("it was SECURITY DEFINER, and runs as who calls it now"),
        );
    }
    Ok(())
}

fn hand_over(role: &rights::Role, heir: &rights::Role, done: &mut Vec<Row>) -> Result<()> {
    reach::close(role, heir, done)?;
    let owned: Vec<(String, i64)> = spi::rows(
        "SELECT pg_catalog.json_build_array(i.type, pg_catalog.count(*))::text
         FROM pg_catalog.pg_shdepend d CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, d.objsubid) i
         WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND d.refobjid = $1 AND d.deptype = 'o' AND i.type <> 'default acl'
           AND d.dbid IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
         GROUP BY i.type ORDER BY i.type",
        &[spi::oid(role.oid)],
    )?;
    spi::run(&format!("REASSIGN OWNED BY {} TO {}", sql::ident(&role.name), sql::ident(&heir.name)), &[])?;
    done.extend(
        owned
            .into_iter()
            .map(|(kind, count)| Row::new(&heir.name, "owner", "given").detail(format!("{count} of kind {kind}"))),
    );
    Ok(())
}

/// Their jobs run as nobody from now on.
fn report_jobs(role: u32, heir: &rights::Role, done: &mut Vec<Row>) -> Result<()> {
    let jobs: Vec<String> = spi::rows(
        "SELECT pg_catalog.to_json(name)::text FROM wh.job WHERE owner::oid = $1 ORDER BY name",
        &[spi::oid(role)],
    )?;
    done.extend(jobs.into_iter().map(|job| {
        let line = format!("SELECT wh.alter_job({}, owner => {})", sql::literal(&job), sql::literal(&heir.name));
        Row::new(job, "job", "disabled")
            .detail(format!("it does not run without its owner; a superuser can give it another one: {line}"))
    }));
    Ok(())
}

/// A role that still owns something elsewhere stays, and can do nothing.
fn disable(role: &rights::Role, done: &mut Vec<Row>) -> Result<()> {
    let quoted = sql::ident(&role.name);
    spi::run(&format!("ALTER ROLE {quoted} NOLOGIN PASSWORD NULL CONNECTION LIMIT 0"), &[])?;
    let groups: Vec<String> = spi::rows(
        "SELECT DISTINCT pg_catalog.to_json(pg_catalog.quote_ident(r.rolname))::text FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles r ON r.oid = m.roleid WHERE m.member = $1",
        &[spi::oid(role.oid)],
    )?;
    for g in groups {
        spi::run(&format!("REVOKE {g} FROM {quoted}"), &[])?;
    }
    done.push(
        Row::new(&role.name, "role", "disabled")
            .detail("it owns something, or was given something, that could not be taken from here"),
    );
    let left: Vec<(String, i64, i64)> = spi::rows(
        "SELECT pg_catalog.json_build_array(coalesce(d.datname, '(all databases)'), pg_catalog.count(*) FILTER (WHERE s.deptype = 'o'), pg_catalog.count(*) FILTER (WHERE s.deptype <> 'o'))::text
         FROM pg_catalog.pg_shdepend s LEFT JOIN pg_catalog.pg_database d ON d.oid = s.dbid
         WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND s.refobjid = $1 GROUP BY d.datname ORDER BY d.datname",
        &[spi::oid(role.oid)],
    )?;
    done.extend(left.into_iter().map(|(database, owned, granted)| {
        Row::new(database, "database", "left").detail(format!(
            "{owned} objects and {granted} grants; there: REASSIGN OWNED BY {quoted} TO ...; DROP OWNED BY {quoted}; and then DROP ROLE {quoted}"
        ))
    }));
    Ok(())
}
