//! A relation dropped and made again in its place, with every property of the old one.

use std::collections::HashMap;

use super::dependents::Kind;
use super::model::Existing;
use super::properties::{self, Property};
use super::standing::{unexplained, Held};
use crate::error::Result;
use crate::pg::catalog::format_type;
use crate::pg::{rewrite, spi, sql, subxact};

/// Makes a view or materialized view again. What stands on it must be held by now.
///
/// `explained` names the properties that are meant to differ. Returns why a materialized view that had data could
/// not be filled: its query runs as its owner, and its failure is the owner's, not the run's.
pub fn view(
    held: &Held,
    definition: &str,
    saved: &[Property],
    kind: Kind,
    refresh: bool,
    explained: impl Fn(&str) -> bool,
) -> Result<Option<String>> {
    properties::refuse_member_of_extension(&held.name, saved)?;
    let columns: Vec<String> = held.outputs.iter().map(|o| sql::ident(&o.name)).collect();
    let columns = if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) };
    // One SELECT and nothing else: the text below is put together around it.
    rewrite::analyze(definition)?;
    spi::run(&format!("DROP {} {}", keyword(held.kind), held.name), &[])?;
    if kind == Kind::MaterializedView {
        let value =
            |key: &str| saved.iter().find(|p| p.2 == key).and_then(|p| p.3.as_deref()).filter(|v| !v.is_empty());
        let method = value("access method").map(|m| format!(" USING {}", sql::ident(m))).unwrap_or_default();
        let space = value("tablespace").map(|t| format!(" TABLESPACE {}", sql::ident(t))).unwrap_or_default();
        spi::run(
            &format!("CREATE MATERIALIZED VIEW {}{columns}{method}{space} AS {definition} WITH NO DATA", held.name),
            &[],
        )?;
    } else {
        spi::run(&format!("CREATE VIEW {}{columns} AS {definition}", held.name), &[])?;
    }
    let oid: Option<u32> = spi::first("SELECT to_json($1::regclass::oid::int8)::text", &[held.name.as_str().into()])?;
    let oid = oid.unwrap_or_default();
    let fits = |p: &Property| kind == Kind::MaterializedView || p.6;
    let mut saved: Vec<Property> = saved.iter().filter(|p| fits(p)).cloned().collect();
    for p in &mut saved {
        p.4 = p.4.as_deref().map(|s| as_kind(s, kind));
    }
    properties::restore(oid, &held.name, &saved, |_| true)?;
    let mut failure = None;
    if kind == Kind::MaterializedView && held.populated && refresh {
        // REFRESH itself becomes the owner, in a security-restricted operation (src/backend/commands/matview.c).
        let filled = subxact::run(|| spi::run(&format!("REFRESH MATERIALIZED VIEW {}", held.name), &[]));
        match filled {
            Ok(_) => {}
            Err(e) if ["22", "23", "42", "0A", "38", "39", "P0"].iter().any(|c| e.sqlstate.starts_with(c)) => {
                failure = Some(e.message);
            }
            Err(e) => return Err(e),
        }
    }
    let after = properties::of(oid)?;
    let lost = properties::differences(&saved, &after, explained);
    if lost.is_empty() {
        Ok(failure)
    } else {
        Err(unexplained(&held.name, &lost))
    }
}

fn keyword(kind: Kind) -> &'static str {
    if kind == Kind::MaterializedView {
        "MATERIALIZED VIEW"
    } else {
        "VIEW"
    }
}

/// A statement of a property, for the kind that the relation is now.
fn as_kind(statement: &str, kind: Kind) -> String {
    for verb in ["COMMENT ON ", "ALTER "] {
        for old in ["MATERIALIZED VIEW ", "VIEW "] {
            if let Some(rest) = statement.strip_prefix(verb).and_then(|s| s.strip_prefix(old)) {
                return format!("{verb}{} {rest}", keyword(kind));
            }
        }
    }
    statement.to_owned()
}

/// Makes foreign tables again, each with its columns in the same order. What stands on them must be held by now.
pub fn foreign_tables(schema: &str, tables: &[Existing], server: &str) -> Result<()> {
    let saved = properties::read(tables.iter().map(|t| t.oid))?;
    let nothing = Vec::new();
    let mut made: HashMap<u32, (u32, String)> = HashMap::new();
    for table in tables {
        let name = sql::qualified(schema, &table.name);
        let saved = saved.get(&table.oid).unwrap_or(&nothing);
        made.insert(foreign_table(schema, table, server, &name, saved)?, (table.oid, name));
    }
    for (oid, after) in properties::read(made.keys().copied())? {
        let Some((old, name)) = made.get(&oid) else {
            continue;
        };
        let lost = properties::differences(saved.get(old).unwrap_or(&nothing), &after, |_| false);
        if !lost.is_empty() {
            return Err(unexplained(name, &lost));
        }
    }
    Ok(())
}

fn foreign_table(schema: &str, existing: &Existing, server: &str, name: &str, saved: &[Property]) -> Result<u32> {
    properties::refuse_member_of_extension(name, saved)?;
    let aside = format!("wh_rebuild_{}", existing.oid);
    let mut columns = Vec::with_capacity(existing.columns.len());
    for c in &existing.columns {
        let column = sql::ident(&c.name);
        // A default without a statement of its own is a generation expression.
        let generated = saved.iter().find(|p| p.4.is_none() && p.2.strip_prefix("default of ") == Some(&column));
        let generated = generated.and_then(|p| p.3.as_ref()).map(|g| format!(" GENERATED ALWAYS AS ({g}) STORED"));
        columns.push(format!(
            "{column} {}{}{}{}",
            format_type(c.r#type.oid, c.r#type.typmod),
            options(&c.options),
            collate(c.r#type.collation)?,
            generated.unwrap_or_default()
        ));
    }
    spi::run(&format!("ALTER FOREIGN TABLE {name} RENAME TO {}", sql::ident(&aside)), &[])?;
    spi::run(
        &format!(
            "CREATE FOREIGN TABLE {name} ({}) SERVER {}{}",
            columns.join(", "),
            sql::ident(server),
            options(&existing.options)
        ),
        &[],
    )?;
    let oid = oid_of(name)?;
    let both = || [spi::oid(existing.oid), spi::oid(oid)];
    // Collected statistics belong to whoever has the number.
    spi::prepared::<bool>(
        "WITH moved AS (
           UPDATE pg_statistic s SET starelid = $2, staattnum = n.attnum
           FROM pg_attribute o JOIN pg_attribute n ON n.attrelid = $2 AND n.attname = o.attname
           WHERE s.starelid = $1 AND o.attrelid = $1 AND o.attnum = s.staattnum AND NOT o.attisdropped),
         sized AS (
           UPDATE pg_class n SET reltuples = o.reltuples, relpages = o.relpages
           FROM pg_class o WHERE n.oid = $2 AND o.oid = $1 AND n.reltuples <> o.reltuples)
         UPDATE wh.fdw_table SET relation = $2::regclass WHERE relation::oid = $1 RETURNING to_json(true)::text",
        &both(),
    )?;
    spi::run(&format!("DROP FOREIGN TABLE {}", sql::qualified(schema, &aside)), &[])?;
    properties::restore(oid, name, saved, |_| true)?;
    Ok(oid)
}

/// OID of a relation by its qualified and quoted name.
pub fn oid_of(name: &str) -> Result<u32> {
    let oid = spi::prepared("SELECT to_json($1::regclass::oid::int8)::text", &[name.into()])?;
    Ok(oid.first().copied().unwrap_or_default())
}

/// ` COLLATE …` where a collation is not the type's own.
pub fn collate(collation: u32) -> Result<String> {
    if collation == 0 || collation == 100 {
        return Ok(String::new());
    }
    let name: Option<(String, String)> = spi::first(
        "SELECT json_build_array(n.nspname, c.collname)::text FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
         WHERE c.oid = $1",
        &[spi::oid(collation)],
    )?;
    Ok(name.map(|(schema, name)| format!(" COLLATE {}", sql::qualified(&schema, &name))).unwrap_or_default())
}

/// ` OPTIONS (…)`, or nothing.
pub fn options(options: &super::model::Options) -> String {
    if options.is_empty() {
        return String::new();
    }
    let list: Vec<String> = options.iter().map(|(k, v)| format!("{} {}", sql::ident(k), sql::literal(v))).collect();
    format!(" OPTIONS ({})", list.join(", "))
}
