//! Putting a mask on a column and taking it off, and the key of what is hashed.

use crate::error::{sqlstate, Error, Result};
use crate::fdw::{self, Change, Mask};
use crate::pg::{session, spi};
use crate::sources;

/// What the key is called among the secrets.
const KEY: &str = "mask_key";

/// From the arguments of wh.mask.
pub fn parse(mask: &str, characters: Option<i32>) -> Result<Mask> {
    let mask = match (mask, characters) {
        ("hidden", None) => Mask::Hidden,
        ("null", None) => Mask::Null,
        ("hashed", None) => Mask::Hashed,
        ("year", None) => Mask::Year,
        ("first", Some(characters)) if (1..=1000).contains(&characters) => Mask::First { characters },
        ("first", _) => {
            return Err(Error::new(
                sqlstate::INVALID_PARAMETER_VALUE,
                "mask \"first\" needs characters, from 1 to 1000",
            )
            .hint("For instance: SELECT * FROM wh.mask('app.users.phone', 'first', 4)"))
        }
        ("hidden" | "null" | "hashed" | "year", Some(_)) => {
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("mask \"{mask}\" has no characters"))
                .hint("They are for 'first'."))
        }
        (other, _) => {
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("invalid value for mask: \"{other}\""))
                .hint("It is 'hidden', 'null', 'hashed', 'first' or 'year'."))
        }
    };
    Ok(mask)
}

/// Schema, table and column, as SQL writes them.
fn names(column: &str) -> Result<(String, String, String)> {
    let parts: Option<Vec<String>> = spi::first("SELECT to_json(parse_ident($1))::text", &[column.into()])?;
    match parts.unwrap_or_default().as_slice() {
        [schema, table, column] => Ok((schema.clone(), table.clone(), column.clone())),
        _ => Err(Error::new(
            sqlstate::INVALID_PARAMETER_VALUE,
            format!("\"{column}\" is no column: give schema, table and column"),
        )
        .hint("For instance: app.users.email")),
    }
}

/// Puts a mask on a column of a foreign application.
pub fn mask(column: &str, mask: Mask) -> Result<Vec<Change>> {
    session::refuse_restricted()?;
    let (schema, table, column) = names(column)?;
    fdw::mask(&schema, &table, &column, mask)
}

/// Takes a column's mask off.
pub fn unmask(column: &str) -> Result<Vec<Change>> {
    session::refuse_restricted()?;
    let (schema, table, column) = names(column)?;
    fdw::unmask(&schema, &table, &column)
}

/// Has a key ready: the secret mask_key, or a new one. What the views read is what RFC 2104 makes of it, for SHA-256.
pub fn ensure_key() -> Result<()> {
    let owner = session::current_user();
    let key = match sources::find_secret(owner, KEY)? {
        Some(key) => key,
        None => {
            spi::run(
                "INSERT INTO wh.secret (name, value, owner)
                 SELECT $1, encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex'), $2::regrole
                 ON CONFLICT (name) DO NOTHING",
                &[KEY.into(), spi::oid(owner)],
            )?;
            sources::find_secret(owner, KEY)?
                .ok_or_else(|| Error::new(sqlstate::UNDEFINED_OBJECT, format!("secret \"{KEY}\" does not exist")))?
        }
    };
    let (inner, outer) = pads(key.expose().as_bytes());
    spi::run(
        "INSERT INTO wh.mask_key AS k (inner_pad, outer_pad) VALUES ($1, $2)
         ON CONFLICT (one) DO UPDATE SET inner_pad = excluded.inner_pad, outer_pad = excluded.outer_pad
         WHERE k.inner_pad <> excluded.inner_pad OR k.outer_pad <> excluded.outer_pad",
        &[inner.to_vec().into(), outer.to_vec().into()],
    )?;
    Ok(())
}

/// The key in a block of SHA-256, with the two paddings over it.
fn pads(key: &[u8]) -> ([u8; 64], [u8; 64]) {
    let mut block = [0u8; 64];
    if key.len() > block.len() {
        let short = ring::digest::digest(&ring::digest::SHA256, key);
        block[..32].copy_from_slice(short.as_ref());
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    (block.map(|b| b ^ 0x36), block.map(|b| b ^ 0x5c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_rounds_over_the_pads_are_an_hmac() {
        for key in [&b"k"[..], &[7u8; 64], &[9u8; 65], &[1u8; 200]] {
            let (inner, outer) = pads(key);
            let hash = |parts: &[&[u8]]| ring::digest::digest(&ring::digest::SHA256, &parts.concat());
            let twice = hash(&[&outer, hash(&[&inner, b"ida@example.com"]).as_ref()]);
            let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
            assert_eq!(twice.as_ref(), ring::hmac::sign(&key, b"ida@example.com").as_ref());
        }
    }

    #[test]
    fn masks_are_read_as_they_are_written() {
        assert_eq!(parse("first", Some(3)), Ok(Mask::First { characters: 3 }));
        assert_eq!(parse("hashed", None), Ok(Mask::Hashed));
        for (mask, characters) in
            [("first", None), ("first", Some(0)), ("first", Some(1001)), ("null", Some(1)), ("", None), ("NULL", None)]
        {
            assert_eq!(parse(mask, characters).map_err(|e| e.sqlstate), Err("22023".into()), "{mask}");
        }
    }
}
