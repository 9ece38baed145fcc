//! Making an analyst, and putting back what is missing of one.

use super::standard::{self, Analyst, Missing};
use super::{facts, group, names, rights, teams, turn, Row};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{password, session, spi, sql};

/// The arguments of add_analyst.
pub struct Wish<'a> {
    pub name: &'a str,
    pub password: Option<&'a str>,
    pub team: Option<&'a str>,
    pub connection_limit: i32,
    /// Milliseconds; 0 is none.
    pub max_query_time: i32,
    /// As the server writes it.
    pub valid_until: Option<String>,
}

/// Makes an analyst, or puts back what is missing.
pub fn add(caller: u32, wish: &Wish) -> Result<Vec<Row>> {
    names::check("name", wish.name)?;
    refuse_bad_limits(wish.connection_limit)?;
    let verifier = wish.password.map(to_verifier).transpose()?;
    turn::one_at_a_time()?;
    let mut done = Vec::new();
    let team = wish.team.map(|name| teams::find(caller, name)).transpose()?;
    let known = known(wish.name)?;
    refuse_schema_of_others(wish.name, known)?;
    let group = group::ensure(&mut done)?;
    if let Some(group) = rights::named(&group)? {
        rights::refuse_powerful(caller, &group)?;
    }
    let existing = rights::named(wish.name)?;
    let new = !(known && existing.is_some());
    let role = match (existing, known) {
        (Some(role), true) => {
            rights::refuse_powerful(caller, &role)?;
            say_what_stays(wish)?;
            role.oid
        }
        (Some(role), false) => {
            adopt(caller, &role)?;
            register(role.oid, wish.name, team.as_ref().map(|t| t.oid))?;
            done.push(Row::new(wish.name, "role", "taken over").detail("its password and limits stay as they are"));
            role.oid
        }
        (None, _) => {
            let role = make_role(wish, verifier, &mut done)?;
            register(role, wish.name, team.as_ref().map(|t| t.oid))?;
            role
        }
    };
    repair(role, &group, wish.max_query_time, new, &mut done)?;
    warn_without_watchdog(wish.max_query_time);
    Ok(done)
}

fn refuse_bad_limits(connection_limit: i32) -> Result<()> {
    if connection_limit < -1 {
        return Err(Error::new(
            sqlstate::INVALID_PARAMETER_VALUE,
            format!("invalid connection limit: {connection_limit}"),
        )
        .hint("-1 is no limit."));
    }
    Ok(())
}

/// What is kept of a password that was given.
fn to_verifier(given: &str) -> Result<String> {
    match password::kind(given)? {
        password::Kind::Verifier => Ok(given.to_owned()),
        password::Kind::Md5 => {
            Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "the password must not be an MD5 hash")
                .hint("Give the password itself, or a SCRAM-SHA-256 verifier, or none to have one made."))
        }
        password::Kind::Plain if given.is_empty() => {
            Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "the password must not be empty")
                .hint("Leave it out, and one is made and returned."))
        }
        password::Kind::Plain => password::verifier(given),
    }
}

/// Whether the name is that of an analyst of this database. One whose role was dropped is forgotten here.
fn known(name: &str) -> Result<bool> {
    spi::run(
        "DELETE FROM wh.analyst a WHERE a.schema = $1 AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = a.role::oid)",
        &[name.into()],
    )?;
    let known: Option<bool> = spi::first(
        "SELECT 'true' FROM wh.analyst a JOIN pg_catalog.pg_roles r ON r.oid = a.role::oid WHERE r.rolname = $1",
        &[name.into()],
    )?;
    Ok(known.is_some())
}

/// A schema of that name is the role's own, or there is none.
pub fn refuse_schema_of_others(name: &str, known: bool) -> Result<()> {
    let owner: Option<String> = spi::first(
        "SELECT pg_catalog.to_json(pg_catalog.pg_get_userbyid(nspowner))::text FROM pg_catalog.pg_namespace WHERE nspname = $1",
        &[name.into()],
    )?;
    match owner {
        Some(owner) if owner != name && !known => {
            Err(Error::new(sqlstate::DUPLICATE_SCHEMA, format!("schema \"{name}\" exists and belongs to \"{owner}\""))
                .detail("An analyst owns the schema of their name, and who owns a schema can drop what is in it.")
                .hint("Choose another name, or rename that schema."))
        }
        _ => Ok(()),
    }
}

/// A role that is there already is taken on only where a superuser says so: it may be anybody's.
pub fn adopt(caller: u32, role: &rights::Role) -> Result<()> {
    let name = &role.name;
    if !role.powers.is_empty() {
        return Err(Error::new(
            sqlstate::INSUFFICIENT_PRIVILEGE,
            format!("role \"{name}\" has more rights than an analyst"),
        )
        .detail(format!("It is: {}.", role.powers.join("; ")))
        .hint("Choose another name, or take those rights from it first."));
    }
    let taken: Option<String> = spi::first(
        "SELECT CASE WHEN EXISTS (SELECT FROM wh.team WHERE role::oid = $1) THEN '\"a team\"'
                     WHEN EXISTS (SELECT FROM wh.analyst WHERE role::oid = $1) THEN '\"an analyst\"'
                     WHEN EXISTS (SELECT FROM wh.reader_group WHERE role::oid = $1) THEN '\"the group of the analysts\"' END",
        &[spi::oid(role.oid)],
    )?;
    if let Some(taken) = taken {
        return Err(
            Error::new(sqlstate::DUPLICATE_OBJECT, format!("role \"{name}\" is {taken}")).hint("Choose another name.")
        );
    }
    if session::is_superuser_role(caller) {
        return Ok(());
    }
    Err(Error::new(sqlstate::DUPLICATE_OBJECT, format!("role \"{name}\" already exists"))
        .detail("It was not made by this function in this database, so it may be somebody else's.")
        .hint("Choose another name, or have a superuser call this: the role becomes an analyst then, and keeps its password."))
}

fn make_role(wish: &Wish, verifier: Option<String>, done: &mut Vec<Row>) -> Result<u32> {
    let name = sql::ident(wish.name);
    let until = wish.valid_until.as_ref().map_or(String::new(), |u| format!(" VALID UNTIL {}", sql::literal(u)));
    spi::run(
        &format!(
            "CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS INHERIT CONNECTION LIMIT {}{until}",
            wish.connection_limit
        ),
        &[],
    )?;
    done.push(Row::new(wish.name, "role", "created").detail(format!("at most {} connections", wish.connection_limit)));
    if wish.connection_limit == -1 {
        if let Some(row) = done.last_mut() {
            row.detail = None;
        }
    }
    match verifier {
        Some(verifier) => password::set(wish.name, &verifier)?,
        None => done.push(set_made_password(wish.name)?),
    }
    rights::named(wish.name)?.map(|r| r.oid).ok_or_else(|| rights::missing(wish.name))
}

/// Makes a password; the row that is returned is the only place where it is.
fn set_made_password(name: &str) -> Result<Row> {
    let made = names::password(&password::random()?);
    password::set(name, &password::verifier(&made)?)?;
    Ok(Row::new(name, "password", "made").detail(made))
}

fn register(role: u32, schema: &str, team: Option<u32>) -> Result<()> {
    spi::run(
        "INSERT INTO wh.analyst (role, schema, team) VALUES ($1::regrole, $2, $3::regrole)",
        &[spi::oid(role), schema.into(), team.map(pgrx::pg_sys::Oid::from).into()],
    )?;
    Ok(())
}

/// Arguments that an analyst who is there already does not get by this.
fn say_what_stays(wish: &Wish) -> Result<()> {
    if wish.password.is_some() {
        pgrx::notice!("the password of \"{}\" was not changed; wh.alter_analyst changes it", wish.name);
    }
    let team: Option<Option<String>> = spi::first(
        "SELECT pg_catalog.to_json(pg_catalog.pg_get_userbyid(a.team::oid))::text FROM wh.analyst a WHERE a.schema = $1",
        &[wish.name.into()],
    )?;
    if wish.team.is_some() && team.flatten().as_deref() != wish.team {
        pgrx::notice!("the team of \"{}\" was not changed; wh.move_analyst changes it", wish.name);
    }
    Ok(())
}

/// A limit that nobody holds should not be taken for one.
fn warn_without_watchdog(limit: i32) {
    if limit > 0 && !crate::pg::shmem::is_preloaded() {
        pgrx::warning!("max_query_time is not held, because startup_wh is not loaded with the server; add it to shared_preload_libraries in postgresql.conf and restart");
    }
}

/// Does what is missing. What is there already of one who is not new stays as its owner has it.
fn repair(role: u32, group: &str, limit: i32, new: bool, done: &mut Vec<Row>) -> Result<()> {
    let Some(a) = facts::analyst(role)? else {
        return Err(Error::new(sqlstate::INTERNAL_ERROR, "the analyst was not registered"));
    };
    let path = standard::path(&a, &group::open_schemas()?, sql::ident);
    for missing in standard::missing(&a, &path) {
        done.push(mend(&a, group, limit, &missing)?);
        if new && missing == Missing::Reading {
            read(&a.name, &a.schema, &sql::ident(group))?;
        }
    }
    Ok(())
}

/// Does what is missing of the team: membership, default privileges, and the search_path.
pub fn repair_team(a: &Analyst, group: &str, done: &mut Vec<Row>) -> Result<()> {
    let path = standard::path(a, &group::open_schemas()?, sql::ident);
    for missing in standard::missing(a, &path) {
        if matches!(missing, Missing::Team(_) | Missing::TeamReading | Missing::Path(_)) {
            done.push(mend(a, group, 0, &missing)?);
        }
    }
    Ok(())
}

fn mend(a: &Analyst, group: &str, limit: i32, missing: &Missing) -> Result<Row> {
    let (name, schema, to) = (sql::ident(&a.name), sql::ident(&a.schema), sql::ident(group));
    let row = |object: &str, kind, action| Row::new(object, kind, action);
    Ok(match missing {
        Missing::Role => return Err(rights::missing(&a.name)),
        Missing::Login => {
            spi::run(&format!("ALTER ROLE {name} LOGIN"), &[])?;
            row(&a.name, "role", "altered").detail("may log in")
        }
        Missing::Inherit => {
            spi::run(&format!("ALTER ROLE {name} INHERIT"), &[])?;
            row(&a.name, "role", "altered").detail("has the rights of its groups")
        }
        Missing::Group => {
            spi::run(&format!("GRANT {to} TO {name}"), &[])?;
            row(&a.name, "role", "added to group").detail(group)
        }
        Missing::Team(team) => {
            spi::run(&format!("GRANT {} TO {name}", sql::ident(team)), &[])?;
            row(&a.name, "role", "added to group").detail(team)
        }
        Missing::Schema => {
            spi::run(&format!("CREATE SCHEMA {schema} AUTHORIZATION {name}"), &[])?;
            row(&a.schema, "schema", "created")
        }
        Missing::Usage => {
            spi::run(&format!("GRANT USAGE ON SCHEMA {schema} TO {to}"), &[])?;
            row(&a.schema, "schema", "opened").detail("all analysts may look into it")
        }
        Missing::Reading => {
            read_later(&a.name, &a.schema, &to)?;
            row(&a.schema, "schema", "opened").detail("all analysts read what is made in it from now on")
        }
        Missing::TeamReading => {
            let Some(team) = &a.team else { return Err(rights::missing(&a.name)) };
            teams::read_members(&a.name, &team.name, &team.schema, group)?;
            row(&team.schema, "schema", "opened").detail(format!("what \"{}\" makes in it is read by the team", a.name))
        }
        Missing::Path(path) => {
            set_path(a, path)?;
            row(&a.name, "search_path", "set").detail(path)
        }
        Missing::Limit => {
            set_limit(&a.name, limit)?;
            row(&a.name, "max_query_time", "set").detail(names::span(limit))
        }
    })
}

/// Lets roles (quoted) read what `owner` has in a schema.
pub fn read(owner: &str, schema: &str, to: &str) -> Result<()> {
    for some in relations(owner, schema)?.chunks(500) {
        spi::run(&format!("GRANT SELECT ON {} TO {to}", some.join(", ")), &[])?;
    }
    Ok(())
}

/// Lets roles (quoted) read what `owner` makes in a schema from now on.
pub fn read_later(owner: &str, schema: &str, to: &str) -> Result<()> {
    let (owner, schema) = (sql::ident(owner), sql::ident(schema));
    spi::run(
        &format!("ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT SELECT ON TABLES TO {to}"),
        &[],
    )?;
    Ok(())
}

/// What a role owns in a schema, that can be read.
fn relations(owner: &str, schema: &str) -> Result<Vec<String>> {
    spi::rows(
        "SELECT pg_catalog.to_json(pg_catalog.format('%I.%I', n.nspname, c.relname))::text
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_catalog.pg_get_userbyid(c.relowner) = $1 ORDER BY c.relname",
        &[owner.into(), schema.into()],
    )
}

/// Sets the search_path in this database, and remembers it as the server keeps it: one that differs later was chosen.
fn set_path(a: &Analyst, path: &str) -> Result<()> {
    let name = sql::ident(&a.name);
    let database: String =
        spi::first("SELECT pg_catalog.to_json(pg_catalog.current_database())::text", &[])?.unwrap_or_default();
    spi::run(&format!("ALTER ROLE {name} IN DATABASE {} SET search_path = {path}", sql::ident(&database)), &[])?;
    spi::run(
        "UPDATE wh.analyst SET search_path = (
           SELECT pg_catalog.substr(c, 13) FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase,
                  pg_catalog.unnest(s.setconfig) c
           WHERE s.setrole = $1 AND d.datname = pg_catalog.current_database() AND pg_catalog.starts_with(c, 'search_path='))
         WHERE role::oid = $1",
        &[spi::oid(a.oid)],
    )?;
    Ok(())
}

fn set_limit(name: &str, limit: i32) -> Result<()> {
    let name = sql::ident(name);
    spi::run(&format!("ALTER ROLE {name} SET startup_wh.max_query_time = {}", sql::literal(&names::span(limit))), &[])?;
    super::watchdog::limits_changed();
    Ok(())
}

/// Sets the search_path of each analyst anew who has the one that was set for them.
pub fn follow_paths() -> Result<()> {
    let open = group::open_schemas()?;
    for a in facts::analysts(None)? {
        let path = standard::path(&a, &open, sql::ident);
        if standard::missing(&a, &path).iter().any(|m| matches!(m, Missing::Path(_))) {
            set_path(&a, &path)?;
        }
    }
    Ok(())
}

/// An analyst of this database by name, whom the caller may change.
pub fn find(caller: u32, name: &str) -> Result<(rights::Role, Analyst)> {
    let role = rights::named(name)?;
    let analyst = role.as_ref().map(|r| facts::analyst(r.oid)).transpose()?.flatten();
    match (role, analyst) {
        (Some(role), Some(analyst)) => {
            rights::refuse_powerful(caller, &role)?;
            Ok((role, analyst))
        }
        _ => Err(Error::new(sqlstate::UNDEFINED_OBJECT, format!("analyst \"{name}\" does not exist"))
            .hint("SELECT role FROM wh.analysts lists those that do; wh.add_analyst makes one.")),
    }
}

/// What [`alter`] changes; `None` leaves it.
pub struct Changes<'a> {
    pub password: Option<&'a str>,
    pub connection_limit: Option<i32>,
    pub max_query_time: Option<i32>,
    pub valid_until: Option<String>,
}

/// Changes an analyst.
pub fn alter(caller: u32, name: &str, changes: &Changes) -> Result<Vec<Row>> {
    if let Some(limit) = changes.connection_limit {
        refuse_bad_limits(limit)?;
    }
    let verifier = changes.password.filter(|p| !p.is_empty()).map(to_verifier).transpose()?;
    turn::one_at_a_time()?;
    find(caller, name)?;
    let quoted = sql::ident(name);
    let mut done = Vec::new();
    if changes.password.is_some() {
        done.push(match verifier {
            Some(verifier) => {
                password::set(name, &verifier)?;
                Row::new(name, "password", "set")
            }
            None => set_made_password(name)?,
        });
    }
    if let Some(limit) = changes.connection_limit {
        spi::run(&format!("ALTER ROLE {quoted} CONNECTION LIMIT {limit}"), &[])?;
        done.push(Row::new(name, "connection_limit", "set").detail(limit.to_string()));
    }
    if let Some(limit) = changes.max_query_time {
        set_limit(name, limit)?;
        done.push(Row::new(name, "max_query_time", "set").detail(names::span(limit)));
        warn_without_watchdog(limit);
    }
    if let Some(until) = &changes.valid_until {
        spi::run(&format!("ALTER ROLE {quoted} VALID UNTIL {}", sql::literal(until)), &[])?;
        done.push(Row::new(name, "valid_until", "set").detail(until));
    }
    Ok(done)
}
