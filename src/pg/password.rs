//! Passwords of roles: made, turned into what the server keeps, and set, with nothing of them in any statement.
//!
//! The server's own functions do it (src/backend/libpq/auth-scram.c, crypt.c), so that SASLprep, salt and iterations are
//! what a login expects.

use std::ffi::{c_char, CStr};

use pgrx::{pg_sys, PgList};

use super::sql::{self, cstring};
use crate::error::{sqlstate, Error, Result};

unsafe extern "C-unwind" {
    /// src/include/libpq/scram.h
    fn pg_be_scram_build_secret(password: *const c_char) -> *mut c_char;
}

/// What a text given as a password is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    /// A SCRAM-SHA-256 verifier, as `\password` of psql makes it.
    Verifier,
    Md5,
}

pub fn kind(password: &str) -> Result<Kind> {
    let text = cstring(password)?;
    // SAFETY: reads a NUL-terminated string.
    Ok(match unsafe { pg_sys::get_password_type(text.as_ptr()) } {
        pg_sys::PasswordType::PASSWORD_TYPE_SCRAM_SHA_256 => Kind::Verifier,
        pg_sys::PasswordType::PASSWORD_TYPE_MD5 => Kind::Md5,
        _ => Kind::Plain,
    })
}

/// The SCRAM-SHA-256 verifier of a password: with it a login can be checked, and not be made.
pub fn verifier(password: &str) -> Result<String> {
    let text = cstring(password)?;
    // SAFETY: reads a NUL-terminated string, returns a palloc'd one.
    Ok(unsafe { CStr::from_ptr(pg_be_scram_build_secret(text.as_ptr())) }.to_string_lossy().into_owned())
}

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: writes N bytes.
    if unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), N) } {
        return Ok(bytes);
    }
    Err(Error::new(sqlstate::INTERNAL_ERROR, "could not make random bytes"))
}

/// Sets a role's verifier, without a statement that others could see: parsed, and its node handed to the command itself
/// (src/backend/commands/user.c).
pub fn set(role: &str, verifier: &str) -> Result<()> {
    let statement = format!("ALTER ROLE {} PASSWORD {}", sql::ident(role), sql::literal(verifier));
    let source = cstring(&statement)?;
    // SAFETY: the node is of the type that its checked tag says; the command reads it and keeps nothing of it.
    unsafe {
        let raw = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::raw_parser(
            source.as_ptr(),
            pg_sys::RawParseMode::RAW_PARSE_DEFAULT,
        ));
        let node = match (raw.len(), raw.get_ptr(0)) {
            (1, Some(stmt)) => (*stmt).stmt,
            _ => std::ptr::null_mut(),
        };
        if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_AlterRoleStmt {
            return Err(Error::new(sqlstate::INTERNAL_ERROR, "the password could not be written as a statement"));
        }
        pg_sys::AlterRole(pg_sys::make_parsestate(std::ptr::null_mut()), node.cast());
        pg_sys::CommandCounterIncrement();
    }
    Ok(())
}
