//! The group of a database's readers: it holds the right to read, once, and analysts are its members.
//!
//! A grant to each analyst would be a million entries of ACLs where there are hundreds of analysts and thousands of
//! tables. One group for all databases of the server would let an analyst of one read the data of another.

use super::{names, Row};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{spi, sql};

/// The group's name, where there is one.
pub fn find() -> Result<Option<String>> {
    spi::first(
        "SELECT pg_catalog.to_json(r.rolname)::text FROM wh.reader_group g JOIN pg_catalog.pg_roles r ON r.oid = g.role::oid",
        &[],
    )
}

/// The group, made where it is missing, with what it should hold; what was done goes to `done`.
pub fn ensure(done: &mut Vec<Row>) -> Result<String> {
    let group = match find()? {
        Some(group) => group,
        None => make(done)?,
    };
    let quoted = sql::ident(&group);
    let (member, connects, database): (bool, bool, String) = spi::first(
        "SELECT pg_catalog.json_build_array(pg_catalog.pg_has_role(r.oid, 'wh_analyst', 'USAGE'),
                pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT'), d.datname)::text
         FROM pg_catalog.pg_roles r, pg_catalog.pg_database d WHERE r.rolname = $1 AND d.datname = pg_catalog.current_database()",
        &[group.as_str().into()],
    )?
    .unwrap_or_default();
    if !member {
        spi::run(&format!("GRANT wh_analyst TO {quoted}"), &[])?;
        done.push(Row::new(&group, "role", "added to group").detail("wh_analyst"));
    }
    if !connects {
        spi::run(&format!("GRANT CONNECT ON DATABASE {} TO {quoted}", sql::ident(&database)), &[])?;
        done.push(Row::new(&group, "database", "opened").detail(database));
    }
    for (schema, before) in uncovered()? {
        open(&group, &schema, before)?;
        done.push(Row::new(schema, "schema", "opened").detail(match before {
            false => format!("all analysts read it, as members of {quoted}"),
            true => format!("all analysts may look into it again; tables that were taken from {quoted} stay so"),
        }));
    }
    Ok(group)
}

fn make(done: &mut Vec<Row>) -> Result<String> {
    let database: String = spi::first("SELECT pg_catalog.to_json(pg_catalog.current_database())::text", &[])?
        .ok_or_else(|| Error::new(sqlstate::INTERNAL_ERROR, "this database has no name"))?;
    // One of another database may have the name, from before a rename, or from before this database was made again:
    // its members must not read this one.
    let roles: Vec<String> = spi::rows(
        "SELECT pg_catalog.to_json(rolname)::text FROM pg_catalog.pg_roles WHERE pg_catalog.starts_with(rolname, 'wh_readers_')",
        &[],
    )?;
    let group = names::group(&database, |name| roles.iter().any(|r| r == name));
    let quoted = sql::ident(&group);
    spi::run(&format!("CREATE ROLE {quoted} NOLOGIN"), &[])?;
    let comment =
        format!("startup_wh: reads apps, sources and analysts'' schemas of database {}", database.replace('\'', "''"));
    spi::run(&format!("COMMENT ON ROLE {quoted} IS E'{}'", comment.replace('\\', "\\\\")), &[])?;
    spi::run("DELETE FROM wh.reader_group", &[])?;
    spi::run(
        "INSERT INTO wh.reader_group (role) SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1",
        &[group.as_str().into()],
    )?;
    done.push(Row::new(&group, "role", "created").detail("group of the analysts of this database"));
    Ok(group)
}

/// The schemas of apps and sources that are there, in the order of their names.
pub fn open_schemas() -> Result<Vec<String>> {
    spi::rows(
        "SELECT pg_catalog.to_json(n.nspname)::text FROM pg_catalog.pg_namespace n
         WHERE n.nspname IN (SELECT local_schema FROM wh.fdw UNION ALL SELECT schema FROM wh.source) ORDER BY n.nspname",
        &[],
    )
}

/// Those that the group cannot use, and whether it was let into them before. What was taken from it since stays taken.
fn uncovered() -> Result<Vec<(String, bool)>> {
    spi::rows(
        "SELECT pg_catalog.json_build_array(n.nspname, n.nspname = ANY (g.covered))::text FROM pg_catalog.pg_namespace n, wh.reader_group g
         WHERE n.nspname IN (SELECT local_schema FROM wh.fdw UNION ALL SELECT schema FROM wh.source)
           AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(n.nspacl) x WHERE x.grantee = g.role::oid AND x.privilege_type = 'USAGE')
         ORDER BY n.nspname",
        &[],
    )
}

/// Lets the group into a schema, and the first time have what is in it.
fn open(group: &str, schema: &str, before: bool) -> Result<()> {
    spi::run(&format!("GRANT USAGE ON SCHEMA {} TO {}", sql::ident(schema), sql::ident(group)), &[])?;
    if before {
        return Ok(());
    }
    cover(group, schema)?;
    spi::run("UPDATE wh.reader_group SET covered = pg_catalog.array_append(covered, $1::name)", &[schema.into()])?;
    Ok(())
}

/// Lets the group read a schema: foreign tables, and what the extension's owner has in it, but for the rows of unfinished
/// fetches: a view on those would keep a fetch from ending.
fn cover(group: &str, schema: &str) -> Result<()> {
    let group = sql::ident(group);
    let relations: Vec<String> = spi::rows(
        "SELECT pg_catalog.to_json(pg_catalog.format('%I.%I', n.nspname, c.relname))::text
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, pg_catalog.pg_extension e
         WHERE n.nspname = $1 AND e.extname = 'startup_wh' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
           AND (c.relkind = 'f' OR c.relowner = e.extowner)
           AND NOT EXISTS (SELECT FROM wh.source_state s WHERE c.relname IN ('_aside_' || s.relation::oid, '_seen_' || s.relation::oid))",
        &[schema.into()],
    )?;
    for some in relations.chunks(500) {
        spi::run(&format!("GRANT SELECT ON {} TO {group}", some.join(", ")), &[])?;
    }
    Ok(())
}

/// Called when an app or a source has come or gone: the group reads it, and the analysts have it on their search_path.
pub fn schemas_changed() -> Result<()> {
    let Some(group) = find()? else { return Ok(()) };
    // A schema of the same name that comes after one is gone is another one.
    spi::run(
        "UPDATE wh.reader_group SET covered = ARRAY(SELECT c FROM pg_catalog.unnest(covered) c
           WHERE c IN (SELECT local_schema FROM wh.fdw UNION ALL SELECT schema FROM wh.source))
         WHERE NOT covered <@ ARRAY(SELECT local_schema::name FROM wh.fdw UNION ALL SELECT schema::name FROM wh.source)",
        &[],
    )?;
    for (schema, before) in uncovered()? {
        open(&group, &schema, before)?;
    }
    super::provision::follow_paths()
}

/// The group, quoted, where there is one: it reads each table that comes.
pub fn reader() -> Result<Option<String>> {
    Ok(find()?.map(|group| sql::ident(&group)))
}
