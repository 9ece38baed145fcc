//! Secrets: set once, used by sources of their owner, shown to nobody.
//!
//! They come from wh.secret, or from the server's own files (`startup_wh.secret_dir`), never through SQL then. A dump has
//! none: the table is not marked for pg_dump.

use std::collections::HashMap;

use crate::error::{sqlstate, Error, Result};
use crate::pg::spi;

use super::http::Secret;

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
    if value.is_empty() || value.chars().any(char::is_control) {
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
    Error::new(sqlstate::UNDEFINED_OBJECT, format!("secret \"{name}\" does not exist"))
        .hint("SELECT wh.set_secret(name, value) sets it; SELECT * FROM wh.secrets lists those that are set.")
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
        check_name(name)?;
        let set: Option<(String, bool)> = spi::first(
            "SELECT pg_catalog.json_build_array(s.value, EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = s.owner::oid)
                    AND pg_catalog.pg_has_role($2, s.owner::oid, 'USAGE'))::text FROM wh.secret s WHERE s.name = $1",
            &[name.as_str().into(), spi::oid(owner)],
        )?;
        let value = match set {
            Some((value, true)) => value,
            Some((_, false)) => {
                return Err(Error::new(
                    sqlstate::INSUFFICIENT_PRIVILEGE,
                    format!("permission denied for secret \"{name}\""),
                )
                .detail("The source's owner does not have the rights of the secret's."))
            }
            None => from_file(name)?.ok_or_else(|| missing(name))?,
        };
        found.insert(name.clone(), Secret::new(value));
    }
    Ok(found)
}

/// A secret that is a file of the server's, without the line's end.
fn from_file(name: &str) -> Result<Option<String>> {
    let Some(dir) = crate::settings::SECRET_DIR.get().filter(|d| !d.is_empty()) else { return Ok(None) };
    let path = std::path::Path::new(std::ffi::OsStr::new(dir.to_str().unwrap_or_default())).join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()).filter(|t| !t.is_empty())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::new("58030", format!("secret \"{name}\" cannot be read from its file: {}", e.kind()))),
    }
}
