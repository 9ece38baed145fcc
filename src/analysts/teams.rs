//! Teams: a group role, and a schema in which its members may create.
//!
//! The schema is the extension's owner's and not the team's: who owns a schema can drop what others have in it.

use super::{facts, grants, group, names, provision, rights, standard, turn, Row};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{spi, sql};

/// A team that the caller may fill.
pub fn find(caller: u32, name: &str) -> Result<rights::Role> {
    let role = rights::named(name)?;
    let known = role.as_ref().map(|r| is_team(r.oid)).transpose()?;
    match (role, known) {
        (Some(role), Some(true)) => {
            rights::refuse_powerful(caller, &role)?;
            Ok(role)
        }
        _ => Err(Error::new(sqlstate::UNDEFINED_OBJECT, format!("team \"{name}\" does not exist"))
            .hint("SELECT team FROM wh.teams lists those that do; wh.add_team makes one.")),
    }
}

pub fn is_team(role: u32) -> Result<bool> {
    Ok(spi::first::<bool>("SELECT 'true' FROM wh.team WHERE role::oid = $1", &[spi::oid(role)])?.is_some())
}

/// Makes a team, or puts back what is missing of it.
pub fn add(caller: u32, name: &str) -> Result<Vec<Row>> {
    names::check("name", name)?;
    turn::one_at_a_time()?;
    let mut done = Vec::new();
    spi::run(
        "DELETE FROM wh.team t WHERE t.schema = $1 AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = t.role::oid)",
        &[name.into()],
    )?;
    let role = rights::named(name)?;
    let known = role.as_ref().map(|r| is_team(r.oid)).transpose()? == Some(true);
    if !known {
        provision::refuse_schema_of_others(name, false)?;
    }
    let group = group::ensure(&mut done)?;
    let oid = match role {
        Some(role) if known => {
            rights::refuse_powerful(caller, &role)?;
            role.oid
        }
        Some(role) => {
            provision::adopt(caller, &role)?;
            done.push(Row::new(name, "role", "taken over"));
            role.oid
        }
        None => {
            spi::run(&format!("CREATE ROLE {} NOLOGIN", sql::ident(name)), &[])?;
            done.push(Row::new(name, "role", "created").detail("a group"));
            rights::named(name)?.map(|r| r.oid).ok_or_else(|| rights::missing(name))?
        }
    };
    if !known {
        spi::run("INSERT INTO wh.team (role, schema) VALUES ($1::regrole, $2)", &[spi::oid(oid), name.into()])?;
    }
    let (schema, private): (String, bool) = spi::first(
        "SELECT pg_catalog.json_build_array(schema, private)::text FROM wh.team WHERE role::oid = $1",
        &[spi::oid(oid)],
    )?
    .ok_or_else(|| rights::missing(name))?;
    place(name, &schema, &group, private, &mut done)?;
    if !known {
        // One that was taken over may have made something.
        provision::read(name, &schema, &format!("{}, {}", sql::ident(name), sql::ident(&group)))?;
    }
    Ok(done)
}

/// The team's schema and what its members and the analysts may do in it.
fn place(team: &str, schema: &str, group: &str, private: bool, done: &mut Vec<Row>) -> Result<()> {
    let (quoted, to, all) = (sql::ident(schema), sql::ident(team), sql::ident(group));
    let exists: Option<bool> =
        spi::first("SELECT 'true' FROM pg_catalog.pg_namespace WHERE nspname = $1", &[schema.into()])?;
    if exists.is_none() {
        spi::run(&format!("CREATE SCHEMA {quoted}"), &[])?;
        done.push(Row::new(schema, "schema", "created"));
    }
    let (creates, reads): (bool, bool) = spi::first(
        "WITH given AS (
           SELECT x.grantee, x.privilege_type FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) x WHERE n.nspname = $1
           UNION ALL SELECT x.grantee, 'later' FROM pg_catalog.pg_default_acl d JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace, pg_catalog.aclexplode(d.defaclacl) x
           WHERE n.nspname = $1 AND pg_catalog.pg_get_userbyid(d.defaclrole) = $2 AND d.defaclobjtype = 'r' AND x.privilege_type = 'SELECT')
         SELECT pg_catalog.json_build_array(
           (SELECT pg_catalog.count(DISTINCT g.privilege_type) = 3 FROM given g WHERE pg_catalog.pg_get_userbyid(g.grantee) = $2 AND g.grantee <> 0),
           (SELECT pg_catalog.count(DISTINCT g.privilege_type) = 2 FROM given g WHERE pg_catalog.pg_get_userbyid(g.grantee) = $3 AND g.grantee <> 0
             AND g.privilege_type IN ('USAGE', 'later')))::text",
        &[schema.into(), team.into(), group.into()],
    )?
    .unwrap_or_default();
    // What is made by SET ROLE to the team is read, too.
    if !creates {
        spi::run(&format!("GRANT USAGE, CREATE ON SCHEMA {quoted} TO {to}"), &[])?;
        provision::read_later(team, schema, &to)?;
        done.push(Row::new(schema, "schema", "opened").detail("members of the team create in it"));
    }
    if !reads && !private {
        spi::run(&format!("GRANT USAGE ON SCHEMA {quoted} TO {all}"), &[])?;
        provision::read_later(team, schema, &all)?;
        done.push(Row::new(schema, "schema", "opened").detail("all analysts read it"));
    }
    Ok(())
}

/// Lets the team, and all analysts where it is not private, read what a member makes in its schema from now on.
pub fn read_members(member: &str, team: &str, schema: &str, group: &str) -> Result<()> {
    let private: Option<bool> =
        spi::first("SELECT pg_catalog.to_json(private)::text FROM wh.team WHERE schema = $1", &[schema.into()])?;
    let mut to = sql::ident(team);
    if private != Some(true) {
        to = format!("{to}, {}", sql::ident(group));
    }
    provision::read_later(member, schema, &to)
}

/// Takes what the team gave to one who was in it and is no more: as a member they could give it to themselves.
fn take_from(member: u32, name: &str, team: &standard::Team, done: &mut Vec<Row>) -> Result<()> {
    let taken = grants::take_all(
        "given.grantee_oid = $1 AND given.owner = (SELECT r.oid::int8 FROM pg_catalog.pg_roles r WHERE r.rolname = $2)",
        &[spi::oid(member), team.name.as_str().into()],
    )?;
    done.extend(taken.iter().map(|g| {
        Row::new(g.name(), "grant", "taken back")
            .detail(format!("{} that the team had given to \"{name}\"", g.privilege))
    }));
    let later: Vec<(Option<String>, String)> = spi::rows(
        "SELECT DISTINCT pg_catalog.json_build_array(n.nspname, CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'ROUTINES'
                  WHEN 'T' THEN 'TYPES' WHEN 'L' THEN 'LARGE OBJECTS' ELSE 'SCHEMAS' END)::text
         FROM pg_catalog.pg_default_acl d JOIN pg_catalog.pg_roles r ON r.oid = d.defaclrole LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace,
              pg_catalog.aclexplode(d.defaclacl) x
         WHERE r.rolname = $2 AND x.grantee = $1",
        &[spi::oid(member), team.name.as_str().into()],
    )?;
    for (schema, what) in later {
        let place = schema.map_or(String::new(), |s| format!(" IN SCHEMA {}", sql::ident(&s)));
        spi::run(
            &format!(
                "ALTER DEFAULT PRIVILEGES FOR ROLE {}{place} REVOKE ALL ON {what} FROM {}",
                sql::ident(&team.name),
                sql::ident(name)
            ),
            &[],
        )?;
        done.push(
            Row::new(&team.name, "grant", "taken back")
                .detail(format!("what it gave to \"{name}\" by default on {}", what.to_lowercase())),
        );
    }
    Ok(())
}

/// Moves an analyst into a team, or out of all.
pub fn move_analyst(caller: u32, name: &str, team: Option<&str>) -> Result<Vec<Row>> {
    turn::one_at_a_time()?;
    let (role, analyst) = provision::find(caller, name)?;
    let team = team.map(|t| find(caller, t)).transpose()?;
    let mut done = Vec::new();
    let group = group::ensure(&mut done)?;
    let stays = match (&analyst.team, &team) {
        (Some(old), Some(new)) => old.name == new.name,
        _ => false,
    };
    if let Some(old) = analyst.team.as_ref().filter(|_| !stays) {
        let (member, from, schema) = (sql::ident(name), sql::ident(&old.name), sql::ident(&old.schema));
        if old.member {
            spi::run(&format!("REVOKE {from} FROM {member}"), &[])?;
        }
        spi::run(
            &format!(
                "ALTER DEFAULT PRIVILEGES FOR ROLE {member} IN SCHEMA {schema} REVOKE SELECT ON TABLES FROM {from}, {}",
                sql::ident(&group)
            ),
            &[],
        )?;
        done.push(Row::new(name, "role", "taken from group").detail(&old.name));
        take_from(role.oid, name, old, &mut done)?;
    }
    spi::run(
        "UPDATE wh.analyst SET team = $2::regrole WHERE role::oid = $1",
        &[spi::oid(role.oid), team.as_ref().map(|t| pgrx::pg_sys::Oid::from(t.oid)).into()],
    )?;
    let Some(moved) = facts::analyst(role.oid)? else { return Err(rights::missing(name)) };
    provision::repair_team(&moved, &group, &mut done)?;
    Ok(done)
}

/// Refuses a team's schema where only we may make things: it is the extension's owner's, but the team creates in it.
pub fn refuse_team_schema(schema: &str) -> Result<()> {
    let team: Option<bool> = spi::first("SELECT 'true' FROM wh.team WHERE schema = $1::name", &[schema.into()])?;
    match team {
        None => Ok(()),
        Some(_) => Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("schema \"{schema}\" is a team's"))
            .detail("Its members create in it, and could put something in the place of the tables.")
            .hint("Choose another one.")),
    }
}
