//! What the product has: its catalog, read through the same server and user mapping as its data.
//!
//! Foreign tables over `pg_catalog` are declared by hand for the length of a run (IMPORT FOREIGN SCHEMA fails on
//! pg_attribute's anyarray), among the session's temporary objects, with only the columns that are needed.

use std::collections::{HashMap, HashSet};

use pgrx::datum::DatumWithOid;
use serde::Deserialize;

use super::acl::Roles;
use super::registry::Registered;
use crate::error::{sqlstate, Error, Result};
use crate::pg::{spi, sql};

/// A relation of the product.
#[derive(Debug, Clone, Deserialize)]
pub struct RemoteTable {
    pub oid: u32,
    pub name: String,
    owner: u32,
    acl: Option<String>,
    #[serde(skip)]
    pub columns: Vec<RemoteColumn>,
}

/// attnum, attname, atttypid, atttypmod, attnotnull, attcollation, attacl
#[derive(Debug, Clone, Deserialize)]
pub struct RemoteColumn(pub i16, pub String, pub u32, pub i32, pub bool, pub u32, Option<String>);

/// A type of the product that is not built in.
#[derive(Debug, Clone, Deserialize)]
pub struct RemoteType {
    pub oid: u32,
    pub name: String,
    pub schema: String,
    /// `pg_type.typtype`
    pub kind: char,
    /// Element type of a true array, else 0.
    pub element: u32,
    pub base: u32,
    pub base_typmod: i32,
    pub relation: u32,
    #[serde(default)]
    pub extension: Option<String>,
    /// Labels of an enum, in order, with their OIDs.
    #[serde(default)]
    pub labels: Vec<(u32, String)>,
    /// Attributes of a composite type.
    #[serde(default)]
    pub attributes: Vec<RemoteColumn>,
    /// Subtype of a range, or of a multirange's range.
    #[serde(default)]
    pub subtype: u32,
    /// A multirange's range type.
    #[serde(default)]
    pub range: u32,
}

/// What was read in one run.
#[derive(Debug, Default)]
pub struct Remote {
    /// Readable relations that may be imported, ordered by name.
    pub tables: Vec<RemoteTable>,
    /// Relations that are there, but not for the mapped user.
    pub unreadable: Vec<RemoteTable>,
    pub types: HashMap<u32, RemoteType>,
    /// Schema and name of collations that are not pinned.
    pub collations: HashMap<u32, (String, String)>,
    /// A mark of the server that a dump and restore does not carry over.
    pub lineage: Option<String>,
}

/// OIDs below this are assigned by hand in the catalog headers and never reused for another type
/// (src/include/access/transam.h, FirstGenbkiObjectId).
pub const FIRST_GENERATED_OID: u32 = 10_000;

const CATALOGS: &[(&str, &str, &str, &str)] = &[
    ("wh_remote_namespace", "pg_catalog", "pg_namespace", "oid oid, nspname name, nspowner oid, nspacl text"),
    ("wh_remote_role", "pg_catalog", "pg_roles", "oid oid, rolname name"),
    ("wh_remote_enabled", "information_schema", "enabled_roles", "role_name text"),
    ("wh_remote_archiver", "pg_catalog", "pg_stat_archiver", "stats_reset text"),
    ("wh_remote_class", "pg_catalog", "pg_class",
     "oid oid, relname name, relnamespace oid, relkind \"char\", relispartition bool, relowner oid, relacl text"),
    ("wh_remote_attribute", "pg_catalog", "pg_attribute",
     "attrelid oid, attnum int2, attname name, atttypid oid, atttypmod int4, attnotnull bool, attcollation oid, attisdropped bool, attacl text"),
];

const TYPE_CATALOGS: &[(&str, &str, &str, &str)] = &[
    ("wh_remote_type", "pg_catalog", "pg_type",
     "oid oid, typname name, typnamespace oid, typtype \"char\", typcategory \"char\", typelem oid, typbasetype oid, typtypmod int4, typrelid oid"),
    ("wh_remote_enum", "pg_catalog", "pg_enum", "oid oid, enumtypid oid, enumsortorder float4, enumlabel name"),
    ("wh_remote_range", "pg_catalog", "pg_range", "rngtypid oid, rngsubtype oid, rngmultitypid oid"),
    ("wh_remote_depend", "pg_catalog", "pg_depend", "classid oid, objid oid, refclassid oid, refobjid oid, deptype \"char\""),
    ("wh_remote_extension", "pg_catalog", "pg_extension", "oid oid, extname name"),
];

const COLLATION_CATALOGS: &[(&str, &str, &str, &str)] =
    &[("wh_remote_collation", "pg_catalog", "pg_collation", "oid oid, collname name, collnamespace oid")];

/// Foreign tables over the product's catalogs; dropped by [`Catalogs::close`].
struct Catalogs<'a> {
    server: &'a str,
    open: Vec<&'static str>,
}

impl Catalogs<'_> {
    fn open(&mut self, tables: &[(&'static str, &str, &str, &str)]) -> Result<()> {
        for (name, schema, table, columns) in tables {
            spi::run(
                &format!(
                    "CREATE FOREIGN TABLE pg_temp.{name} ({columns}) SERVER {} OPTIONS (schema_name {}, table_name {}, fetch_size '5000', use_remote_estimate 'false')",
                    sql::ident(self.server), sql::literal(schema), sql::literal(table)
                ),
                &[],
            )?;
            self.open.push(name);
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        for name in self.open {
            spi::run(&format!("DROP FOREIGN TABLE pg_temp.{name}"), &[])?;
        }
        Ok(())
    }
}

/// Reads everything of the product that a run needs, in one snapshot of the product.
pub fn read(app: &Registered) -> Result<Remote> {
    let mut catalogs = Catalogs { server: &app.server, open: Vec::new() };
    catalogs.open(CATALOGS)?;
    let roles = read_roles()?;
    let namespace = read_namespace(app, &roles)?;
    let mut remote = Remote { lineage: lineage()?, ..Remote::default() };
    read_tables(&mut remote, namespace, &roles)?;

    let used: HashSet<u32> = remote.tables.iter().flat_map(|t| &t.columns).map(|c| c.2).collect();
    if used.iter().any(|t| *t >= FIRST_GENERATED_OID) {
        catalogs.open(TYPE_CATALOGS)?;
        read_types(&mut remote, used)?;
    }
    let collations: HashSet<u32> = (remote.tables.iter().flat_map(|t| &t.columns).map(|c| c.5))
        .chain(remote.types.values().flat_map(|t| &t.attributes).map(|c| c.5))
        .filter(|c| *c >= FIRST_GENERATED_OID)
        .collect();
    if !collations.is_empty() {
        catalogs.open(COLLATION_CATALOGS)?;
        let found: Vec<(u32, String, String)> = spi::rows(
            "SELECT json_build_array(c.oid::int8, n.nspname, c.collname)::text
             FROM pg_temp.wh_remote_collation c JOIN pg_temp.wh_remote_namespace n ON n.oid = c.collnamespace
             WHERE c.oid = ANY ($1)",
            &[spi::oids(collations)],
        )?;
        remote.collations = found.into_iter().map(|(oid, schema, name)| (oid, (schema, name))).collect();
    }
    catalogs.close()?;
    Ok(remote)
}

/// postgres_fdw keeps one REPEATABLE READ transaction on the product per local transaction (contrib/postgres_fdw/
/// connection.c, begin_remote_xact): after an earlier read in this transaction, the catalog would be the old one.
/// Any wrapper over its handler shares its connections.
pub fn refuse_stale_snapshot(app: &Registered) -> Result<()> {
    let extension: Option<String> = spi::first(
        "SELECT to_json(n.nspname)::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'postgres_fdw'",
        &[],
    )?;
    let Some(extension_schema) = extension else {
        return Ok(());
    };
    let function = |name: &str| sql::qualified(&extension_schema, name);
    let connected: Vec<bool> = spi::rows(
        &format!(
            "SELECT to_json(true)::text FROM {}() WHERE server_name = $1",
            function("postgres_fdw_get_connections")
        ),
        &[DatumWithOid::from(app.server.as_str())],
    )?;
    if connected.is_empty() {
        return Ok(());
    }
    // Closes the connection, or says false with a warning while this transaction uses it.
    let _quiet = crate::pg::guc::Scope::new(&[("client_min_messages", "error")])?;
    let closed: Option<bool> = spi::first(
        &format!("SELECT to_json({}($1))::text", function("postgres_fdw_disconnect")),
        &[DatumWithOid::from(app.server.as_str())],
    )?;
    if closed == Some(true) {
        return Ok(());
    }
    Err(Error::new(
        sqlstate::ACTIVE_SQL_TRANSACTION,
        format!("the product behind server \"{}\" was already read in this transaction", app.server),
    )
    .detail("The rest of this transaction sees the product as it was at that first read, a migration since then not included.")
    .hint("Commit first, and call the function at the beginning of a transaction of its own."))
}

fn lineage() -> Result<Option<String>> {
    spi::first("SELECT to_json(stats_reset)::text FROM pg_temp.wh_remote_archiver", &[]).map(Option::flatten)
}

fn read_roles() -> Result<Roles> {
    let enabled: Vec<(Option<u32>, String)> = spi::rows(
        "SELECT json_build_array(r.oid::int8, e.role_name)::text
         FROM pg_temp.wh_remote_enabled e LEFT JOIN pg_temp.wh_remote_role r ON r.rolname = e.role_name::name",
        &[],
    )?;
    Ok(Roles {
        oids: enabled.iter().filter_map(|(oid, _)| *oid).collect(),
        names: enabled.into_iter().map(|(_, name)| name).collect(),
    })
}

fn read_namespace(app: &Registered, roles: &Roles) -> Result<u32> {
    let found: Option<(u32, u32, Option<String>)> = spi::first(
        "SELECT json_build_array(oid::int8, nspowner::int8, nspacl)::text FROM pg_temp.wh_remote_namespace WHERE nspname = $1::name",
        &[app.remote_schema.as_str().into()],
    )?;
    let Some((oid, owner, acl)) = found else {
        return Err(Error::new(
            sqlstate::FDW_NO_SCHEMAS,
            format!("schema \"{}\" does not exist on the product behind server \"{}\"", app.remote_schema, app.server),
        )
        .hint("Name another one with remote_schema => '...'."));
    };
    if !roles.may('U', owner, acl.as_deref()) {
        return Err(Error::new(
            sqlstate::INSUFFICIENT_PRIVILEGE,
            format!(
                "the user of server \"{}\" may not use schema \"{}\" on the product",
                app.server, app.remote_schema
            ),
        )
        .hint(format!(
            "On the product: GRANT USAGE ON SCHEMA {} TO the user of the mapping.",
            sql::ident(&app.remote_schema)
        )));
    }
    Ok(oid)
}

fn read_tables(remote: &mut Remote, namespace: u32, roles: &Roles) -> Result<()> {
    const WANTED: &str = "c.relnamespace = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition";
    let mut tables: Vec<RemoteTable> = spi::rows(
        &format!(
            "SELECT json_build_object('oid', oid::int8, 'name', relname, 'owner', relowner::int8, 'acl', relacl)::text
             FROM pg_temp.wh_remote_class c WHERE {WANTED} ORDER BY relname COLLATE \"C\""
        ),
        &[spi::oid(namespace)],
    )?;
    let read = spi::columns(
        &format!(
            "SELECT a.attrelid, a.attnum, a.attname::text, a.atttypid, a.atttypmod, a.attnotnull, a.attcollation, a.attacl
             FROM pg_temp.wh_remote_attribute a JOIN pg_temp.wh_remote_class c ON c.oid = a.attrelid
             WHERE {WANTED} AND a.attnum > 0 AND NOT a.attisdropped"
        ),
        &[spi::oid(namespace)],
        |row| {
            let oid = |n| row.get::<pgrx::pg_sys::Oid>(n).map(|o| o.unwrap_or_default().to_u32());
            let Some(num) = row.get::<i16>(2)? else { return Ok(None) };
            let name = row.get::<String>(3)?.unwrap_or_default();
            let typmod = row.get::<i32>(5)?.unwrap_or(-1);
            let not_null = row.get::<bool>(6)?.unwrap_or_default();
            let column = RemoteColumn(num, name, oid(4)?, typmod, not_null, oid(7)?, row.get::<String>(8)?);
            Ok(Some((oid(1)?, column)))
        },
    )?;
    let mut columns: HashMap<u32, Vec<RemoteColumn>> = HashMap::new();
    for (relation, column) in read {
        columns.entry(relation).or_default().push(column);
    }
    columns.values_mut().for_each(|c| c.sort_unstable_by_key(|c| c.0));
    for mut table in tables.drain(..) {
        table.columns = columns.remove(&table.oid).unwrap_or_default();
        if !roles.may('r', table.owner, table.acl.as_deref()) {
            // Column grants alone make a table readable as far as they go.
            table.columns.retain(|c| c.6.as_deref().is_some_and(|acl| roles.granted('r', acl)));
            if table.columns.is_empty() {
                remote.unreadable.push(table);
                continue;
            }
        }
        remote.tables.push(table);
    }
    Ok(())
}

/// Reads the types in use and those that they are made of, level by level.
fn read_types(remote: &mut Remote, used: HashSet<u32>) -> Result<()> {
    let mut missing: HashSet<u32> = used.into_iter().filter(|t| *t >= FIRST_GENERATED_OID).collect();
    while !missing.is_empty() {
        let mut found: Vec<RemoteType> = spi::rows(
            "SELECT json_build_object('oid', t.oid::int8, 'name', t.typname, 'schema', n.nspname, 'kind', t.typtype,
                    'element', CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0 END::int8, 'base', t.typbasetype::int8,
                    'base_typmod', t.typtypmod, 'relation', CASE WHEN c.relkind = 'c' THEN t.typrelid ELSE 0 END::int8)::text
             FROM pg_temp.wh_remote_type t JOIN pg_temp.wh_remote_namespace n ON n.oid = t.typnamespace
             LEFT JOIN pg_temp.wh_remote_class c ON c.oid = t.typrelid
             WHERE t.oid = ANY ($1)",
            &[spi::oids(missing.iter().copied())],
        )?;
        let oids = || spi::oids(found.iter().map(|t| t.oid));
        let extensions: HashMap<u32, String> = spi::rows::<(u32, String)>(
            "SELECT json_build_array(d.objid::int8, e.extname)::text
             FROM pg_temp.wh_remote_depend d JOIN pg_temp.wh_remote_extension e ON e.oid = d.refobjid
             WHERE d.classid = 1247 AND d.refclassid = 3079 AND d.deptype = 'e' AND d.objid = ANY ($1)",
            &[oids()],
        )?
        .into_iter()
        .collect();
        let mut labels: HashMap<u32, Vec<(u32, String)>> = spi::rows::<(u32, Vec<(u32, String)>)>(
            "SELECT json_build_array(enumtypid::int8, json_agg(json_build_array(oid::int8, enumlabel) ORDER BY enumsortorder))::text
             FROM pg_temp.wh_remote_enum WHERE enumtypid = ANY ($1) GROUP BY enumtypid",
            &[oids()],
        )?.into_iter().collect();
        let ranges: Vec<(u32, u32, u32)> = spi::rows(
            "SELECT json_build_array(rngtypid::int8, rngmultitypid::int8, rngsubtype::int8)::text
             FROM pg_temp.wh_remote_range WHERE rngtypid = ANY ($1) OR rngmultitypid = ANY ($1)",
            &[oids()],
        )?;
        let mut attributes: HashMap<u32, Vec<RemoteColumn>> = spi::rows::<(u32, Vec<RemoteColumn>)>(
            "SELECT json_build_array(attrelid::int8, json_agg(json_build_array(attnum, attname, atttypid::int8,
                    atttypmod, attnotnull, attcollation::int8, attacl) ORDER BY attnum))::text
             FROM pg_temp.wh_remote_attribute
             WHERE attrelid = ANY ($1) AND attnum > 0 AND NOT attisdropped GROUP BY attrelid",
            &[spi::oids(found.iter().map(|t| t.relation).filter(|r| *r != 0))],
        )?
        .into_iter()
        .collect();
        let mut next = HashSet::new();
        for t in &mut found {
            t.extension = extensions.get(&t.oid).cloned();
            t.labels = labels.remove(&t.oid).unwrap_or_default();
            t.attributes = attributes.remove(&t.relation).unwrap_or_default();
            if let Some((range, _, subtype)) = ranges.iter().find(|r| r.0 == t.oid || r.1 == t.oid) {
                (t.subtype, t.range) = (*subtype, *range);
            }
            next.extend([t.element, t.base, t.subtype, t.range]);
            next.extend(t.attributes.iter().map(|a| a.2));
        }
        remote.types.extend(found.into_iter().map(|t| (t.oid, t)));
        next.retain(|t| *t >= FIRST_GENERATED_OID && !remote.types.contains_key(t) && !missing.contains(t));
        missing = next;
    }
    Ok(())
}
