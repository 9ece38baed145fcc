//! Secrets: set once, used by sources of their owner, shown to nobody.
//!
//! They come from wh.secret, or from the server's own files (`startup_wh.secret_dir`) or environment, never through SQL then. A dump has
//! none: the table is not marked for pg_dump.

mod apart;
mod file;

use std::collections::HashMap;

use crate::error::{sqlstate, Error, Result};
use crate::pg::spi;

use super::http::{code, Errand, Failure, Secret};

pub use apart::errand as errand_apart;

fn check_name(name: &str) -> Result<()> {
    let fits = (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || [b'_', b'-', b'.'].contains(&b))
        && !name.starts_with('.');
    if fits {
        return Ok(());
    }
    Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("invalid secret name \"{name}\""))
        .hint("Letters, digits, _, - and ., 63 at most."))
}

/// Sets a secret; only its owner's role may set it again.
pub fn set(caller: u32, name: &str, value: &str) -> Result<()> {
    check_name(name)?;
    // The lines of a private key (PEM) are a secret too; the end of the last one is none of it, as in a file.
    let value = value.trim_end_matches(['\n', '\r']);
    if value.is_empty() {
        return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "a secret must not be empty")
            .hint(format!("SELECT wh.drop_secret('{name}') forgets one.")));
    }
    if value.chars().any(|c| c.is_control() && !['\n', '\r'].contains(&c)) {
        return Err(Error::new(
            sqlstate::INVALID_PARAMETER_VALUE,
            "a secret must be a text without control characters",
        ));
    }
    refuse_strangers(caller, name)?;
    spi::run(
        "INSERT INTO wh.secret (name, value, owner) VALUES ($1, $2, $3::regrole)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value, changed_at = pg_catalog.now()",
        &[name.into(), value.into(), spi::oid(caller)],
    )?;
    Ok(())
}

/// Forgets a secret.
pub fn forget(caller: u32, name: &str) -> Result<()> {
    refuse_strangers(caller, name)?;
    let gone: Vec<bool> = spi::rows("DELETE FROM wh.secret WHERE name = $1 RETURNING 'true'", &[name.into()])?;
    if gone.is_empty() {
        return Err(missing(name));
    }
    Ok(())
}

fn missing(name: &str) -> Error {
    Error::new(sqlstate::UNDEFINED_OBJECT, format!("secret \"{name}\" does not exist")).hint(format!(
        "SELECT wh.set_secret('{name}', '…') sets it; SELECT * FROM wh.secrets lists those that are set."
    ))
}

fn refuse_strangers(caller: u32, name: &str) -> Result<()> {
    let own: Option<bool> = spi::first(
        "SELECT pg_catalog.to_json(EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = s.owner::oid)
                AND pg_catalog.pg_has_role($2, s.owner::oid, 'USAGE'))::text FROM wh.secret s WHERE s.name = $1",
        &[name.into(), spi::oid(caller)],
    )?;
    match own {
        Some(false) => {
            Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("permission denied for secret \"{name}\""))
                .hint("It belongs to another role. Choose another name."))
        }
        _ => Ok(()),
    }
}

/// The secrets that a source of `owner` uses.
pub fn of(owner: u32, names: &[String]) -> Result<HashMap<String, Secret>> {
    let mut found = HashMap::new();
    for name in names {
        found.insert(name.clone(), find(owner, name)?.ok_or_else(|| missing(name))?);
    }
    Ok(found)
}

/// A secret that whoever has the rights of `owner` may use.
pub fn find(owner: u32, name: &str) -> Result<Option<Secret>> {
    check_name(name)?;
    let set: Option<(String, bool)> = spi::first(
        "SELECT pg_catalog.json_build_array(s.value, EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = s.owner::oid)
                AND pg_catalog.pg_has_role($2, s.owner::oid, 'USAGE'))::text FROM wh.secret s WHERE s.name = $1",
        &[name.into(), spi::oid(owner)],
    )?;
    let value = match set {
        Some((value, true)) => Some(value),
        Some((_, false)) => {
            return Err(Error::new(
                sqlstate::INSUFFICIENT_PRIVILEGE,
                format!("permission denied for secret \"{name}\""),
            )
            .detail("The source's owner does not have the rights of the secret's."))
        }
        None => file::read(name)?.or_else(|| file::from_environment(name)),
    };
    Ok(value.map(Secret::new))
}

/// Does what a thread of a source of `owner` needs: tells a secret as it is now, or keeps a new one in its place.
pub fn errand(owner: u32, errand: &Errand) -> Result<Secret> {
    if let Some((old, new)) = &errand.rotated {
        rotate(&errand.name, old, new)?;
        return Ok(new.clone());
    }
    let mut found = of(owner, std::slice::from_ref(&errand.name))?;
    found.remove(&errand.name).ok_or_else(|| missing(&errand.name))
}

/// Keeps a refresh token that its server gave in the place of `old`. What somebody has set meanwhile stays.
fn rotate(name: &str, old: &Secret, new: &Secret) -> Result<()> {
    check_name(name)?;
    if new.expose().chars().any(char::is_control) {
        return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "it holds control characters"));
    }
    // A server that crashes after this has it, also where commits are not waited for.
    let _waits: Vec<bool> = spi::rows(
        "SELECT (pg_catalog.set_config('synchronous_commit', 'on', true) = 'on')::text
         WHERE pg_catalog.current_setting('synchronous_commit') IN ('off', 'local')",
        &[],
    )?;
    let kept: Vec<bool> = spi::rows(
        "WITH kept AS (UPDATE wh.secret SET value = $3, changed_at = pg_catalog.now() WHERE name = $1 AND value = $2 RETURNING 1)
         SELECT 'true' FROM wh.secret s WHERE s.name = $1",
        &[name.into(), old.expose().into(), new.expose().into()],
    )?;
    match kept.is_empty() {
        true => file::replace(name, old, new),
        false => Ok(()),
    }
}

/// The error of a refresh token that is lost.
fn lost(name: &str, e: Error) -> Error {
    let hint = e.hint.map_or_else(String::new, |hint| format!("{hint} "));
    Error::new(&e.sqlstate, format!("the new refresh token of secret \"{name}\" cannot be kept: {}", e.message))
        .detail("The API gave it in the place of the one that was sent, which may be of no use any more.")
        .hint(format!("{hint}Then authorize the application again, and SELECT wh.set_secret('{name}', '…')."))
}

/// Why an errand was not done, as a thread hears of it.
pub fn told(errand: &Errand, e: Error) -> Failure {
    const KNOWN: [&str; 4] =
        [code::UNDEFINED_OBJECT, code::INSUFFICIENT_PRIVILEGE, code::INVALID_VALUE, code::CANCELED];
    let e = if errand.rotated.is_some() { lost(&errand.name, e) } else { e };
    let sqlstate = KNOWN.into_iter().find(|known| *known == e.sqlstate).unwrap_or(code::INSUFFICIENT_RESOURCES);
    Failure { detail: e.detail, hint: e.hint, ..Failure::new(sqlstate, e.message) }
}
