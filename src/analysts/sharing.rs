//! Who reads a schema: shared with a role, taken back, made private.

use std::collections::BTreeMap;

use super::{elsewhere, grants, group, provision, rights, turn, Row};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{session, spi, sql};

/// What a schema is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Analyst,
    Team,
    /// Of an app or a source.
    Open,
    Other,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Analyst => "analyst",
            Kind::Team => "team",
            Kind::Open => "open",
            Kind::Other => "other",
        }
    }
}

struct Schema {
    name: String,
    kind: Kind,
    owner: String,
    /// The team, of a team's.
    team: Option<String>,
    /// Whose things in it are shared.
    makers: Vec<Maker>,
}

/// Somebody who makes things in a schema.
#[derive(serde::Deserialize)]
struct Maker {
    name: String,
    /// The caller decides about all that they made; else no more becomes readable than analysts or the team read already.
    decides: bool,
}

#[derive(serde::Deserialize)]
struct Found {
    kind: Kind,
    owner: String,
    owner_oid: u32,
    team: Option<String>,
    team_oid: Option<u32>,
}

/// A schema that the caller decides about: its owner, a member of the team, or a wh_admin where it is an analyst's, a
/// team's, or one of apps and sources.
fn mine(caller: u32, name: &str) -> Result<Schema> {
    if name.starts_with("pg_") || ["wh", "information_schema", "public"].contains(&name) {
        return Err(Error::new(sqlstate::RESERVED_NAME, format!("schema \"{name}\" is reserved")));
    }
    let found: Option<Found> = spi::first(
        "SELECT pg_catalog.json_build_object(
           'kind', CASE WHEN a.role IS NOT NULL THEN 'analyst' WHEN t.role IS NOT NULL THEN 'team'
             WHEN n.nspname IN (SELECT local_schema FROM wh.fdw UNION ALL SELECT schema FROM wh.source) THEN 'open' ELSE 'other' END,
           'owner', pg_catalog.pg_get_userbyid(n.nspowner), 'owner_oid', n.nspowner::int8,
           'team', tr.rolname, 'team_oid', tr.oid::int8)::text
         FROM pg_catalog.pg_namespace n LEFT JOIN wh.analyst a ON a.schema = n.nspname LEFT JOIN wh.team t ON t.schema = n.nspname
         LEFT JOIN pg_catalog.pg_roles tr ON tr.oid = t.role::oid WHERE n.nspname = $1",
        &[name.into()],
    )?;
    let Some(found) = found else {
        return Err(Error::new(sqlstate::UNDEFINED_SCHEMA, format!("schema \"{name}\" does not exist")));
    };
    let member = found.team_oid.map(|team| rights::has_role(caller, team)).transpose()? == Some(true);
    let admin = found.kind != Kind::Other && rights::is_admin(caller)?;
    if !member && !admin && !rights::has_role(caller, found.owner_oid)? {
        return Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("permission denied for schema \"{name}\""))
            .hint("Its owner decides who reads it; a wh_admin, where it is an analyst's, a team's, or one of apps and sources."));
    }
    // A superuser has every role's rights, and did not say that each maker's things are to be opened. Of a private schema
    // nothing is left to go by.
    let makers = spi::rows(
        "SELECT pg_catalog.json_build_object('name', r.rolname, 'decides',
           $3 = 'other' OR r.oid = $2 OR (pg_catalog.pg_has_role($2, r.oid, 'USAGE') AND NOT (SELECT c.rolsuper FROM pg_catalog.pg_roles c WHERE c.oid = $2))
             OR EXISTS (SELECT FROM wh.analyst a WHERE a.schema = $1 AND a.private))::text
         FROM pg_catalog.pg_roles r JOIN pg_catalog.pg_namespace n ON n.nspname = $1
         WHERE CASE $3
           WHEN 'analyst' THEN EXISTS (SELECT FROM wh.analyst a WHERE a.schema = $1 AND a.role::oid = r.oid)
           -- Neither whoever once was in the team, nor somebody who put a table there for it.
           WHEN 'team' THEN EXISTS (SELECT FROM wh.team t WHERE t.schema = $1 AND (t.role::oid = r.oid
             OR EXISTS (SELECT FROM wh.analyst a WHERE a.team = t.role AND a.role::oid = r.oid)))
           WHEN 'open' THEN ($4 OR pg_catalog.pg_has_role($2, r.oid, 'USAGE'))
             AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid AND c.relowner = r.oid)
           ELSE r.oid = n.nspowner END
         ORDER BY r.rolname",
        &[name.into(), spi::oid(caller), found.kind.name().into(), admin.into()],
    )?;
    Ok(Schema { name: name.to_owned(), kind: found.kind, owner: found.owner, team: found.team, makers })
}

/// The role that is meant: of wh_analyst, which all databases of the server share, the group of this one.
fn reader(schema: &Schema, to_role: &str) -> Result<(String, bool)> {
    if to_role == "wh_analyst" {
        return match group::find()? {
            Some(group) => Ok((group, true)),
            None => Err(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, "this database has no analysts yet")),
        };
    }
    if to_role.starts_with("pg_") || to_role == "wh_admin" || to_role == "public" {
        return Err(Error::new(sqlstate::RESERVED_NAME, format!("role \"{to_role}\" is reserved"))
            .hint("Name a person's role, a team, or wh_analyst for all analysts of this database."));
    }
    let role = rights::named(to_role)?.ok_or_else(|| rights::missing(to_role))?;
    if role.name == schema.owner {
        return Err(Error::new(
            sqlstate::INVALID_PARAMETER_VALUE,
            format!("schema \"{}\" is \"{to_role}\"'s own", schema.name),
        ));
    }
    let group = group::find()?.as_deref() == Some(to_role);
    Ok((role.name, group))
}

fn remember(schema: &Schema, private: bool) -> Result<()> {
    spi::run("UPDATE wh.analyst SET private = $2 WHERE schema = $1", &[schema.name.as_str().into(), private.into()])?;
    spi::run("UPDATE wh.team SET private = $2 WHERE schema = $1", &[schema.name.as_str().into(), private.into()])?;
    Ok(())
}

/// Lets a role read a schema.
pub fn share(caller: u32, schema: &str, to_role: &str) -> Result<Vec<Row>> {
    turn::one_at_a_time()?;
    let schema = mine(caller, schema)?;
    let (role, everybody) = reader(&schema, to_role)?;
    let mut done = Vec::new();
    if schema.kind == Kind::Open {
        // Its group says what may be read, so there has to be one.
        group::ensure(&mut done)?;
    }
    let (quoted, to) = (sql::ident(&schema.name), sql::ident(&role));
    spi::run(&format!("GRANT USAGE ON SCHEMA {quoted} TO {to}"), &[])?;
    for maker in &schema.makers {
        // Of apps and sources analysts read what they should, whoever made it; new ones are read by whoever reads all.
        let by_default = schema.kind != Kind::Open;
        open(&schema, maker, &to, by_default)?;
    }
    if everybody {
        remember(&schema, false)?;
    }
    done.push(Row::new(&schema.name, "schema", "shared").detail(format!("{to} reads it")));
    if schema.kind != Kind::Open {
        done.extend(still_closed(&schema, &role)?);
    }
    Ok(done)
}

/// Lets a role (quoted) read what somebody made in a schema, and what they will make: all of it where the caller decides
/// about that, else what analysts or the team read.
fn open(schema: &Schema, maker: &Maker, to: &str, by_default: bool) -> Result<()> {
    let all = maker.decides && schema.kind != Kind::Open;
    let args = || [schema.name.as_str().into(), maker.name.as_str().into(), all.into()];
    let relations: Vec<String> = spi::rows(
        &format!(
            "{READERS} SELECT pg_catalog.to_json(pg_catalog.format('%I.%I', n.nspname, c.relname))::text
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_catalog.pg_get_userbyid(c.relowner) = $2
               AND ($3 OR EXISTS (SELECT FROM pg_catalog.aclexplode(c.relacl) x JOIN reader ON reader.role = x.grantee WHERE x.privilege_type = 'SELECT'))
             ORDER BY c.relname"
        ),
        &args(),
    )?;
    for some in relations.chunks(500) {
        spi::run(&format!("GRANT SELECT ON {} TO {to}", some.join(", ")), &[])?;
    }
    let comes: Option<bool> = spi::first(
        &format!(
            "{READERS} SELECT 'true' WHERE $3 OR EXISTS (
               SELECT FROM pg_catalog.pg_default_acl d JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace, pg_catalog.aclexplode(d.defaclacl) x
               JOIN reader ON reader.role = x.grantee
               WHERE n.nspname = $1 AND pg_catalog.pg_get_userbyid(d.defaclrole) = $2 AND d.defaclobjtype = 'r' AND x.privilege_type = 'SELECT')"
        ),
        &args(),
    )?;
    if by_default && comes.is_some() {
        provision::read_later(&maker.name, &schema.name, to)?;
    }
    Ok(())
}

/// Those who read a schema of name `$1` as long as nobody closed something in it: all analysts, and its team.
const READERS: &str = "WITH reader (role) AS (
    SELECT g.role::oid FROM wh.reader_group g UNION ALL SELECT t.role::oid FROM wh.team t WHERE t.schema = $1)";

/// What a role still does not read in a schema that was shared with it.
fn still_closed(schema: &Schema, role: &str) -> Result<Option<Row>> {
    let closed: Vec<String> = spi::rows(
        "SELECT pg_catalog.to_json(pg_catalog.format('%I of %I', c.relname, pg_catalog.pg_get_userbyid(c.relowner)))::text
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_roles r ON r.rolname = $2
         WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT pg_catalog.has_table_privilege(r.oid, c.oid, 'SELECT') ORDER BY c.relname",
        &[schema.name.as_str().into(), role.into()],
    )?;
    if closed.is_empty() {
        return Ok(None);
    }
    let mut names = closed.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
    if closed.len() > 10 {
        names.push_str(", ...");
    }
    Ok(Some(Row::new(&schema.name, "schema", "not all shared").detail(format!(
        "{} stay closed, since only their owners decide about what they keep from analysts and the team: {names}",
        closed.len()
    ))))
}

/// Takes it back.
pub fn unshare(caller: u32, schema: &str, to_role: &str) -> Result<Vec<Row>> {
    turn::one_at_a_time()?;
    let schema = mine(caller, schema)?;
    let (role, everybody) = reader(&schema, to_role)?;
    if everybody && schema.kind == Kind::Open {
        return Err(open_to_all(&schema.name));
    }
    close(&schema, Some(&role))
}

/// Nobody but its owner, or the team, reads it.
pub fn make_private(caller: u32, schema: &str) -> Result<Vec<Row>> {
    turn::one_at_a_time()?;
    let schema = mine(caller, schema)?;
    if schema.kind == Kind::Open {
        return Err(open_to_all(&schema.name));
    }
    close(&schema, None)
}

fn open_to_all(schema: &str) -> Error {
    Error::new(sqlstate::WRONG_OBJECT_TYPE, format!("schema \"{schema}\" is one of an app or a source"))
        .detail("All analysts read it.")
        .hint("wh.hide and wh.mark_sensitive keep parts of it from them.")
}

/// Takes what anybody was given in the schema, or one role, apart from those who stay.
fn close(schema: &Schema, only: Option<&str>) -> Result<Vec<Row>> {
    let stays = schema.team.as_deref().unwrap_or(&schema.owner);
    let args = [schema.name.as_str().into(), stays.into(), only.map(str::to_owned).into()];
    // Who kept a view that calls a SECURITY DEFINER function of the schema would read with it as before.
    let taken = grants::take_all(
        "given.schema = $1 AND given.grantee <> pg_catalog.quote_ident($2) AND ($3 IS NULL OR given.grantee = pg_catalog.quote_ident($3))
         AND (given.class IN ('pg_catalog.pg_class'::pg_catalog.regclass, 'pg_catalog.pg_namespace'::pg_catalog.regclass)
              OR EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE given.class = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid = given.object AND p.prosecdef))",
        &args,
    )?;
    let later: Vec<(String, String, String)> = spi::rows(
        "SELECT DISTINCT pg_catalog.json_build_array(CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END,
                pg_catalog.quote_ident(m.rolname), CASE d.defaclobjtype WHEN 'S' THEN 'SEQUENCES' ELSE 'TABLES' END)::text
         FROM pg_catalog.pg_default_acl d JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace JOIN pg_catalog.pg_roles m ON m.oid = d.defaclrole,
              pg_catalog.aclexplode(d.defaclacl) x LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
         WHERE n.nspname = $1 AND d.defaclobjtype IN ('r', 'S') AND x.grantee <> d.defaclrole AND (x.grantee = 0 OR r.rolname IS NOT NULL)
           AND r.rolname IS DISTINCT FROM $2 AND ($3 IS NULL OR r.rolname = $3)",
        &args,
    )?;
    let quoted = sql::ident(&schema.name);
    for (to, maker, what) in &later {
        spi::run(
            &format!("ALTER DEFAULT PRIVILEGES FOR ROLE {maker} IN SCHEMA {quoted} REVOKE ALL ON {what} FROM {to}"),
            &[],
        )?;
    }
    let mut from: Vec<&str> = Vec::new();
    let mut functions: BTreeMap<&str, bool> = BTreeMap::new();
    for given in &taken {
        let to = given.grantee.as_str();
        match given.on.strip_prefix("ROUTINE ") {
            Some(routine) => *functions.entry(routine).or_default() |= to == "PUBLIC",
            None if !from.contains(&to) => from.push(to),
            None => {}
        }
    }
    from.extend(later.iter().map(|(to, ..)| to.as_str()).filter(|to| !from.contains(to)).collect::<Vec<_>>());
    let group = group::find()?;
    if only.is_none() || only == group.as_deref() {
        remember(schema, true)?;
    }
    let mut done = vec![Row::new(&schema.name, "schema", if only.is_none() { "made private" } else { "unshared" })];
    if let (Some(row), false) = (done.last_mut(), from.is_empty()) {
        row.detail = Some(format!("{} cannot read it any more", from.join(", ")));
    }
    for (routine, public) in functions {
        // The team had it as all others had.
        if let (Some(team), true) = (&schema.team, public) {
            spi::run(&format!("GRANT EXECUTE ON ROUTINE {routine} TO {}", sql::ident(team)), &[])?;
        }
        done.push(Row::new(routine, "function", "closed").detail(
            "it is SECURITY DEFINER, and others could read with it as its owner; GRANT EXECUTE lets somebody call it again",
        ));
    }
    done.extend(elsewhere::broken(&schema.name)?);
    if only.is_none() {
        done.extend(elsewhere::still_shown(&schema.name, stays)?);
    }
    Ok(done)
}

/// Takes CREATE on schema public from PUBLIC, as Postgres 15 has it (CVE-2018-1058).
pub fn close_public(caller: u32) -> Result<Vec<Row>> {
    if !session::is_superuser_role(caller) && !rights::is_admin(caller)? {
        return Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, "permission denied for schema public"));
    }
    let open: Option<bool> = spi::first(
        "SELECT 'true' FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) x
         WHERE n.nspname = 'public' AND x.grantee = 0 AND x.privilege_type = 'CREATE'",
        &[],
    )?;
    if open.is_none() {
        return Ok(Vec::new());
    }
    spi::run("REVOKE CREATE ON SCHEMA public FROM PUBLIC", &[])?;
    let mut done = vec![Row::new("public", "schema", "closed").detail("PUBLIC cannot create in it any more")];
    let makers: Vec<(String, i64)> = spi::rows(
        "SELECT pg_catalog.json_build_array(r.rolname, pg_catalog.count(*))::text FROM (
           SELECT relowner AS owner FROM pg_catalog.pg_class WHERE relnamespace = 'public'::pg_catalog.regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
           UNION ALL SELECT proowner FROM pg_catalog.pg_proc WHERE pronamespace = 'public'::pg_catalog.regnamespace) o
         JOIN pg_catalog.pg_roles r ON r.oid = o.owner WHERE NOT r.rolsuper AND NOT pg_catalog.has_schema_privilege(r.oid, 'public', 'CREATE')
         GROUP BY r.rolname ORDER BY r.rolname",
        &[],
    )?;
    done.extend(makers.into_iter().map(|(role, count)| {
        Row::new(&role, "role", "made something there")
            .detail(format!("{count} objects; GRANT CREATE ON SCHEMA public TO {} lets it go on", sql::ident(&role)))
    }));
    Ok(done)
}
