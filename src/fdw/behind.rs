//! What is behind the views of masked tables: the rules, the schema that analysts cannot use, and tables without grants.

use std::collections::BTreeMap;

use super::mask::{Mask, Rules};
use super::model::Existing;
use super::registry::Registered;
use super::{grants, properties, rebuild};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{session, spi, sql};

/// The masks of an application.
pub fn rules(fdw: &str) -> Result<Rules> {
    let rows: Vec<(String, String, Mask)> = spi::rows(
        "SELECT json_build_array(m.table_name, m.column_name, json_build_object('mask', m.mask, 'characters', m.characters))::text
         FROM wh.column_mask m WHERE m.fdw = $1",
        &[fdw.into()],
    )?;
    Ok(Rules(rows.into_iter().map(|(table, column, mask)| ((table, column), mask)).collect::<BTreeMap<_, _>>()))
}

/// Writes down the names that the masks go by now.
pub fn remember(fdw: &str, before: &Rules, now: &Rules) -> Result<()> {
    for (table, column) in before.0.keys().filter(|key| now.0.get(*key) != before.0.get(*key)) {
        spi::run(
            "DELETE FROM wh.column_mask WHERE fdw = $1 AND table_name = $2 AND column_name = $3",
            &[fdw.into(), table.as_str().into(), column.as_str().into()],
        )?;
    }
    for ((table, column), mask) in now.0.iter().filter(|(key, mask)| before.0.get(*key) != Some(mask)) {
        write_rule(fdw, table, column, *mask)?;
    }
    Ok(())
}

pub fn write_rule(fdw: &str, table: &str, column: &str, mask: Mask) -> Result<()> {
    spi::run(
        "INSERT INTO wh.column_mask (fdw, table_name, column_name, mask, characters)
         SELECT $1, $2, $3, j->>'mask', (j->>'characters')::int FROM (SELECT $4::jsonb AS j) m
         ON CONFLICT (fdw, table_name, column_name) DO UPDATE SET mask = excluded.mask, characters = excluded.characters",
        &[fdw.into(), table.into(), column.into(), serde_json::to_string(&mask)?.into()],
    )?;
    Ok(())
}

/// Has a key ready where something is hashed: after a restore there is none.
pub fn ensure_key(rules: &Rules) -> Result<()> {
    match rules.0.values().any(|m| *m == Mask::Hashed) {
        true => crate::policy::ensure_key(),
        false => Ok(()),
    }
}

/// The application with a schema for its masked tables.
pub fn with_raw_schema(app: &Registered) -> Result<Registered> {
    let there: Option<bool> = match &app.raw_schema {
        Some(name) => spi::first(
            "SELECT to_json(nspowner = $2)::text FROM pg_namespace WHERE nspname = $1",
            &[name.as_str().into(), spi::oid(session::current_user())],
        )?,
        None => None,
    };
    match (there, &app.raw_schema) {
        (Some(true), _) => return Ok(app.clone()),
        (Some(false), Some(name)) => {
            return Err(Error::new(
                sqlstate::INSUFFICIENT_PRIVILEGE,
                format!("schema \"{name}\" of the masked tables belongs to somebody else"),
            )
            .hint(format!("ALTER SCHEMA {} OWNER TO the owner of the extension.", sql::ident(name))))
        }
        _ => {}
    }
    let mut base = format!("wh_raw_{}", app.local_schema);
    while base.len() > 60 {
        base.pop();
    }
    let mut name = base.clone();
    let mut number = 2;
    while spi::first::<bool>(
        "SELECT to_json(true)::text FROM pg_namespace WHERE nspname = $1",
        &[name.as_str().into()],
    )?
    .is_some()
    {
        name = format!("{base}_{number}");
        number += 1;
    }
    spi::run(&format!("CREATE SCHEMA {}", sql::ident(&name)), &[])?;
    let others: Vec<String> = spi::rows(
        "SELECT DISTINCT to_json(CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END)::text
         FROM pg_namespace n CROSS JOIN aclexplode(n.nspacl) x WHERE n.nspname = $1 AND x.grantee <> n.nspowner",
        &[name.as_str().into()],
    )?;
    for other in others {
        spi::run(&format!("REVOKE ALL ON SCHEMA {} FROM {other}", sql::ident(&name)), &[])?;
    }
    let comment = format!(
        "Masked tables of foreign application {}: not for analysts, who read the views of the same names",
        app.name
    );
    spi::run(&format!("COMMENT ON SCHEMA {} IS {}", sql::ident(&name), sql::literal(&comment)), &[])?;
    spi::run("UPDATE wh.fdw SET raw_schema = $2 WHERE name = $1", &[app.name.as_str().into(), name.as_str().into()])?;
    Ok(Registered { raw_schema: Some(name), ..app.clone() })
}

pub fn raw_schema(app: &Registered) -> Result<&str> {
    app.raw_schema
        .as_deref()
        .ok_or_else(|| Error::new(sqlstate::INTERNAL_ERROR, "there is no schema for masked tables"))
}

/// The place of a new table that is masked from the start.
pub fn raw_place(app: &Registered, table: &str) -> Result<String> {
    Ok(sql::qualified(raw_schema(app)?, table))
}

/// Whoever owns a table reads it, whatever mask is on it; and whoever reads its parent.
pub fn refuse_others(table: &Existing) -> Result<()> {
    let found: Option<(String, bool, Vec<String>)> = spi::first(
        "SELECT json_build_array(pg_get_userbyid(c.relowner), c.relowner = $2,
                ARRAY(SELECT h.inhparent::regclass::text FROM pg_inherits h WHERE h.inhrelid = c.oid))::text
         FROM pg_class c WHERE c.oid = $1",
        &[spi::oid(table.oid), spi::oid(session::current_user())],
    )?;
    let Some((owner, ours, parents)) = found else { return Ok(()) };
    let name = sql::qualified(&table.schema, &table.name);
    if !ours {
        return Err(Error::new(
            sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{name} cannot be masked: it belongs to \"{owner}\", who could read it all the same"),
        )
        .hint(format!("ALTER FOREIGN TABLE {name} OWNER TO the owner of the extension.")));
    }
    match parents.first() {
        None => Ok(()),
        Some(parent) => Err(Error::new(
            sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{name} cannot be masked: whoever reads {parent}, its parent, would read it all the same"),
        )
        .hint(format!("Take it from its parent first: ALTER TABLE {parent} DETACH PARTITION {name}, or NO INHERIT."))),
    }
}

/// Takes every right on a table from everybody but its owner, in the name of who gave it; those that were passed on first.
/// Whoever gave one may have lost the schema since.
pub fn close(table: &str) -> Result<()> {
    let relation = rebuild::oid_of(table)?;
    let owner: Option<(u32, String, String)> = spi::first(
        "SELECT json_build_array(c.relowner::int8, quote_ident(pg_get_userbyid(c.relowner)), n.nspname)::text
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
        &[spi::oid(relation)],
    )?;
    let Some((owner, owner_name, schema)) = owner else { return Ok(()) };
    let given = || -> Result<Vec<grants::Grant>> {
        let saved = properties::of(relation)?;
        let grants = grants::in_order(owner, saved.iter().filter_map(grants::Grant::read).collect());
        Ok(grants.into_iter().filter(|g| g.grantee != owner_name).collect())
    };
    for grant in given()?.iter().rev() {
        grants::as_grantor(grant, std::slice::from_ref(&schema), |g| {
            spi::run(&format!("REVOKE {} ON {table} FROM {}", g.privilege, g.grantee), &[])
        })?;
    }
    match given()?.first() {
        None => Ok(()),
        Some(g) => Err(grants::left_over(&g.privilege, table, &g.grantee, &g.grantor_name, "run this again")),
    }
}
