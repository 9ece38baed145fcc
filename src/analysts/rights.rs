//! Who may do what to whom: nobody gains rights over roles that have more than an analyst's.

use serde::Deserialize;

use crate::error::{sqlstate, Error, Result};
use crate::pg::{extension, guc, identity, session, spi};

/// A role.
#[derive(Debug, Clone, Deserialize)]
pub struct Role {
    pub oid: u32,
    pub name: String,
    /// What it can do that an analyst cannot: attributes, memberships, ownership, its own and those of roles that it is
    /// a member of, in words.
    pub powers: Vec<String>,
}

/// The columns of a role of alias `r`, as [`Role`].
const ROLE: &str = "pg_catalog.json_build_object('oid', r.oid::int8, 'name', r.rolname, 'powers', (
    WITH RECURSIVE above (oid) AS (
      SELECT r.oid UNION SELECT m.roleid FROM pg_catalog.pg_auth_members m JOIN above a ON m.member = a.oid
    )
    SELECT coalesce(pg_catalog.json_agg(DISTINCT CASE WHEN p.oid = r.oid THEN w.what ELSE pg_catalog.format('member of \"%s\", %s', p.rolname, w.what) END), '[]')
    FROM above JOIN pg_catalog.pg_roles p ON p.oid = above.oid
    CROSS JOIN LATERAL (VALUES
      (CASE WHEN p.rolsuper THEN 'superuser' END), (CASE WHEN p.rolcreaterole THEN 'may create roles' END),
      (CASE WHEN p.rolcreatedb THEN 'may create databases' END), (CASE WHEN p.rolreplication THEN 'may replicate' END),
      (CASE WHEN p.rolbypassrls THEN 'bypasses row security' END),
      (CASE WHEN p.rolname LIKE 'pg\\_%' THEN 'a role of the server' END),
      (CASE WHEN p.rolname = 'wh_admin' THEN 'an administrator of startup_wh' END),
      (CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE e.extname = 'startup_wh' AND e.extowner = p.oid) THEN 'owner of startup_wh' END),
      (CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_database d WHERE d.datdba = p.oid) THEN 'owner of a database' END)
    ) w (what) WHERE w.what IS NOT NULL))::text";

pub fn named(name: &str) -> Result<Option<Role>> {
    spi::first(&format!("SELECT {ROLE} FROM pg_catalog.pg_roles r WHERE r.rolname = $1"), &[name.into()])
}

pub fn missing(name: &str) -> Error {
    Error::new(sqlstate::UNDEFINED_OBJECT, format!("role \"{name}\" does not exist"))
}

/// Refuses a role that can do more than an analyst, unless a superuser calls, who has those rights anyway.
pub fn refuse_powerful(caller: u32, role: &Role) -> Result<()> {
    if role.powers.is_empty() || session::is_superuser_role(caller) {
        return Ok(());
    }
    Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("role \"{}\" has more rights than an analyst", role.name))
        .detail(format!("It is: {}.", role.powers.join("; ")))
        .hint("A superuser can do it."))
}

/// Whether a role has the rights of another.
pub fn has_role(caller: u32, role: u32) -> Result<bool> {
    Ok(spi::first::<bool>(
        "SELECT pg_catalog.to_json(pg_catalog.pg_has_role($1, $2, 'USAGE'))::text",
        &[spi::oid(caller), spi::oid(role)],
    )? == Some(true))
}

/// Whether a role is a wh_admin.
pub fn is_admin(caller: u32) -> Result<bool> {
    Ok(spi::first::<bool>(
        "SELECT pg_catalog.to_json(pg_catalog.pg_has_role($1, 'wh_admin', 'USAGE'))::text",
        &[spi::oid(caller)],
    )? == Some(true))
}

/// Refuses DROP OWNED and REASSIGN OWNED of what all analysts, or a team, have together: any member has the rights of
/// their group, and would take from the others what everybody gives to the group by default, or what the team owns.
pub fn refuse_to_disown(roles: &[u32]) -> Result<()> {
    if session::is_superuser() {
        return Ok(());
    }
    let Some(owner) = extension::owner(c"startup_wh") else { return Ok(()) };
    let _owner = identity::As::extension_owner(owner);
    let _settings = guc::Scope::new(guc::DEPARSE)?;
    let shared: Vec<(String, bool)> = spi::look(
        "SELECT pg_catalog.json_build_array(r.rolname, t.role IS NOT NULL)::text FROM pg_catalog.pg_roles r LEFT JOIN wh.team t ON t.role::oid = r.oid
         WHERE r.oid = ANY ($1) AND (t.role IS NOT NULL OR r.rolname = 'wh_analyst' OR EXISTS (SELECT FROM wh.reader_group g WHERE g.role::oid = r.oid))",
        &[spi::oids(roles.iter().copied())],
    )?;
    let Some((name, team)) = shared.first() else { return Ok(()) };
    let error = Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("role \"{name}\" is shared by all who are in it"));
    Err(match team {
        true => error
            .detail("What the team owns, and what its members let it read, is not one member's to take away.")
            .hint("A wh_admin can call wh.remove_team; a superuser can do this."),
        false => error
            .detail("Analysts let it read what they make, and would not be asked.")
            .hint("Name your own role, or ask a superuser."),
    })
}
