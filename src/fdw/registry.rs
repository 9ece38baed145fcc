//! What is registered: one foreign application, looked up, made, adopted.

use serde::Deserialize;

use super::model::Existing;
use super::pattern::Hidden;
use crate::error::{sqlstate, Error, Result};
use crate::pg::{import, session, spi, sql};
use crate::policy::{Patterns, Withheld};

/// A foreign application.
#[derive(Debug, Clone, Deserialize)]
pub struct Registered {
    pub name: String,
    pub server: String,
    pub server_oid: u32,
    pub remote_schema: String,
    pub local_schema: String,
    pub only_tables: Option<Vec<String>>,
    pub except_tables: Vec<String>,
    pub lineage: Option<String>,
    pub owns_server: bool,
    pub owns_schema: bool,
    /// Where the tables are that are masked; analysts cannot use it.
    pub raw_schema: Option<String>,
    /// Schema of the extension postgres_fdw where the server's wrapper belongs to it: the product's catalog can
    /// be read then. Without, names decide.
    pub postgres_fdw_schema: Option<String>,
    pub hidden: Vec<Hidden>,
    /// What must not reach analysts.
    pub sensitive: Patterns,
    pub withheld: Vec<Withheld>,
}

impl Registered {
    /// Whether a relation of the product is to be imported.
    pub fn wants(&self, table: &str) -> bool {
        self.only_tables.as_ref().is_none_or(|only| only.iter().any(|t| t == table)) && self.follows(table)
    }

    /// Whether one that is here already may stay under this name.
    pub fn follows(&self, table: &str) -> bool {
        !self.except_tables.iter().any(|t| t == table) && !super::pattern::hides_table(&self.hidden, table)
    }

    /// Whether a column of the product stays away, by `wh.hide`.
    pub fn hides(&self, table: &str, column: &str) -> bool {
        super::pattern::hides_column(&self.hidden, table, column)
    }

    /// Whether a column of the product stays away by the policy, and the name by which: its own, the one that it has
    /// here, or the one by which it was withheld before.
    pub fn withholds(&self, here: Option<&Existing>, table: &str, column: &str) -> Option<(String, String)> {
        if self.sensitive.is_empty() {
            return None;
        }
        let alias = here.and_then(|t| t.columns.iter().find(|c| c.remote_name() == column)).map(|c| c.name.as_str());
        let mut names: Vec<(&str, &str)> = Vec::new();
        for t in [Some(table), here.map(|t| t.name.as_str())].into_iter().flatten() {
            names.extend([Some(column), alias].into_iter().flatten().map(|c| (t, c)));
        }
        let before = self.withheld.iter().filter(|w| w.remote_table == table && w.remote_column == column);
        names.extend(before.map(|w| (w.table.as_str(), w.column.as_str())));
        let found = names.into_iter().find(|(t, c)| self.sensitive.matches(&self.local_schema, t, c));
        found.map(|(t, c)| (t.to_owned(), c.to_owned()))
    }
}

/// The error for a name that is not registered.
pub fn missing(name: &str) -> Error {
    Error::new(sqlstate::UNDEFINED_OBJECT, format!("foreign application \"{name}\" does not exist"))
        .hint("SELECT * FROM wh.fdws lists those that do; wh.create_fdw makes one.")
}

/// Reads a registration, and locks its row: runs of one name follow one another.
pub fn lock(name: &str) -> Result<Option<Registered>> {
    match lock_as_it_is(name)? {
        Some(app) if app.server_oid == 0 => Err(Error::new(
            sqlstate::UNDEFINED_OBJECT,
            format!("the server of foreign application \"{name}\" does not exist any more"),
        )
        .hint(format!("SELECT * FROM wh.drop_fdw({}) forgets it.", sql::literal(name)))),
        found => Ok(found),
    }
}

/// Like [`lock`]; without its server, whose OID is 0 then, it can still be forgotten.
pub fn lock_as_it_is(name: &str) -> Result<Option<Registered>> {
    let locked: Option<String> =
        spi::first("SELECT to_json(name)::text FROM wh.fdw WHERE name = $1 FOR UPDATE", &[name.into()])?;
    if locked.is_none() {
        return Ok(None);
    }
    spi::first(
        "SELECT json_build_object('name', f.name, 'server', f.server, 'server_oid', coalesce(s.oid::int8, 0),
                'remote_schema', f.remote_schema, 'local_schema', f.local_schema, 'only_tables', f.only_tables,
                'except_tables', f.except_tables, 'lineage', f.lineage, 'owns_server', f.owns_server,
                'owns_schema', f.owns_schema, 'raw_schema', f.raw_schema,
                'postgres_fdw_schema', (SELECT n.nspname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                    JOIN pg_namespace n ON n.oid = e.extnamespace
                    WHERE d.classid = 'pg_foreign_data_wrapper'::regclass AND d.objid = s.srvfdw AND d.deptype = 'e'
                      AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'postgres_fdw'),
                'hidden', (SELECT coalesce(json_agg(h), '[]') FROM wh.hidden_pattern h WHERE h.fdw = f.name),
                'sensitive', (SELECT coalesce(json_agg(p.pattern), '[]') FROM wh.sensitive_pattern p),
                'withheld', (SELECT coalesce(json_agg(w), '[]') FROM wh.withheld_column w WHERE w.fdw = f.name))::text
         FROM wh.fdw f LEFT JOIN pg_foreign_server s ON s.srvname = f.server WHERE f.name = $1",
        &[name.into()],
    )
}

/// Like [`lock`]; a schema of that name with foreign tables in it is adopted as it stands.
pub fn lock_or_adopt(name: &str) -> Result<Registered> {
    if let Some(app) = lock(name)? {
        return Ok(app);
    }
    // Wrappers call the remote schema schema_name (postgres_fdw, tds_fdw), schema (oracle_fdw) or dbname (mysql_fdw).
    // postgres_fdw takes the local schema's name where a table does not say; no other can be asked what it takes.
    let servers: Vec<(String, Option<String>)> = spi::rows(
        "SELECT DISTINCT json_build_array(s.srvname, coalesce((SELECT o.option_value
                FROM pg_options_to_table(t.ftoptions) o WHERE o.option_name IN ('schema_name', 'schema', 'dbname')
                ORDER BY o.option_name DESC LIMIT 1), CASE WHEN w.fdwname = 'postgres_fdw' THEN n.nspname END))::text
         FROM pg_foreign_table t JOIN pg_class c ON c.oid = t.ftrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_foreign_server s ON s.oid = t.ftserver JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw
         WHERE n.nspname = $1",
        &[name.into()],
    )?;
    match servers.as_slice() {
        [] => Err(missing(name)),
        [(server, None)] => {
            importing_server(server)?;
            Err(Error::new(
                sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("schema \"{name}\" cannot be adopted: its foreign tables do not say which remote schema they are of"),
            )
            .hint(format!(
                "SELECT * FROM wh.create_fdw({}, server => {}, remote_schema => '...') registers it with the tables that are there.",
                sql::literal(name),
                sql::literal(server)
            )))
        }
        [(server, Some(remote_schema))] => {
            // All tables of the remote schema come with it, not only those that somebody chose.
            refuse_without_usage(server)?;
            refuse_closed_schema(name)?;
            register(&New {
                name,
                server,
                remote_schema,
                local_schema: name,
                only_tables: None,
                except_tables: &[],
                owns_server: false,
                owns_schema: false,
                adopted: true,
            })?;
            lock(name)?.ok_or_else(|| missing(name))
        }
        several => Err(Error::new(
            sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("schema \"{name}\" cannot be adopted: its foreign tables come from {} places", several.len()),
        )
        .detail(
            several
                .iter()
                .map(|(s, r)| match r {
                    Some(r) => format!("Server \"{s}\", schema \"{r}\"."),
                    None => format!("Server \"{s}\"."),
                })
                .collect::<Vec<_>>()
                .join("\n"),
        )
        .hint("Move the tables of each place into a schema of their own.")),
    }
}

/// Whoever may not use a server may not have it used for them.
pub fn refuse_without_usage(server: &str) -> Result<()> {
    let usable: Option<bool> = spi::first(
        "SELECT to_json(has_server_privilege($2, s.oid, 'USAGE'))::text FROM pg_foreign_server s WHERE s.srvname = $1",
        &[server.into(), spi::oid(session::outer_user())],
    )?;
    if usable != Some(false) {
        return Ok(());
    }
    Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("permission denied for foreign server {server}"))
        .hint(format!("GRANT USAGE ON FOREIGN SERVER {} TO the role that calls.", sql::ident(server))))
}

/// Whether a schema is there; refuses one where the caller may make nothing. The extension's owner's own are open to
/// whoever may register.
pub fn refuse_closed_schema(name: &str) -> Result<bool> {
    crate::analysts::refuse_team_schema(name)?;
    let usable: Option<bool> = spi::first(
        "SELECT to_json(has_schema_privilege($2, n.oid, 'CREATE') OR n.nspowner = $3)::text FROM pg_namespace n WHERE n.nspname = $1",
        &[name.into(), spi::oid(session::outer_user()), spi::oid(session::current_user())],
    )?;
    if usable != Some(false) {
        return Ok(usable.is_some());
    }
    Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("permission denied for schema {name}"))
        .hint("Choose another one with local_schema => '...', or have its owner grant CREATE on it."))
}

/// A registration that is to be written.
pub struct New<'a> {
    pub name: &'a str,
    pub server: &'a str,
    pub remote_schema: &'a str,
    pub local_schema: &'a str,
    pub only_tables: Option<&'a [String]>,
    pub except_tables: &'a [String],
    pub owns_server: bool,
    pub owns_schema: bool,
    pub adopted: bool,
}

/// Refuses a name or a schema that another application has.
pub fn refuse_taken(name: &str, local_schema: &str) -> Result<()> {
    let clash: Option<String> = spi::first(
        "SELECT to_json(name)::text FROM wh.fdw WHERE name = $1 OR local_schema = $2::name",
        &[name.into(), local_schema.into()],
    )?;
    if let Some(other) = clash {
        let error = if other == name {
            Error::new(sqlstate::DUPLICATE_OBJECT, format!("foreign application \"{other}\" already exists"))
                .hint(format!("SELECT * FROM wh.recreate_fdw({}) follows the product's changes.", sql::literal(&other)))
        } else {
            Error::new(
                sqlstate::DUPLICATE_OBJECT,
                format!("schema \"{}\" already belongs to foreign application \"{other}\"", local_schema),
            )
            .hint("Choose another one with local_schema => '...'.")
        };
        return Err(error);
    }
    Ok(())
}

/// What is masked must not be registered a second time, without its masks.
fn refuse_raw(schema: &str) -> Result<()> {
    let app: Option<String> =
        spi::first("SELECT to_json(name)::text FROM wh.fdw WHERE raw_schema = $1::name", &[schema.into()])?;
    match app {
        None => Ok(()),
        Some(app) => Err(Error::new(
            sqlstate::DUPLICATE_OBJECT,
            format!("schema \"{schema}\" holds the masked tables of foreign application \"{app}\""),
        )
        .hint("SELECT * FROM wh.masked lists its masks.")),
    }
}

/// Writes a registration.
pub fn register(new: &New) -> Result<()> {
    refuse_taken(new.name, new.local_schema)?;
    refuse_raw(new.local_schema)?;
    spi::run(
        "INSERT INTO wh.fdw (name, server, remote_schema, local_schema, only_tables, except_tables, owns_server, owns_schema, adopted)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        &[
            new.name.into(),
            new.server.into(),
            new.remote_schema.into(),
            new.local_schema.into(),
            new.only_tables.map(<[String]>::to_vec).into(),
            new.except_tables.to_vec().into(),
            new.owns_server.into(),
            new.owns_schema.into(),
            new.adopted.into(),
        ],
    )?;
    crate::analysts::schemas_changed()
}

/// The OID of a server whose wrapper can import.
pub fn importing_server(name: &str) -> Result<u32> {
    let oid: Option<u32> =
        spi::first("SELECT to_json(oid::int8)::text FROM pg_foreign_server WHERE srvname = $1", &[name.into()])?;
    let Some(oid) = oid else {
        return Err(Error::new(sqlstate::UNDEFINED_OBJECT, format!("server \"{name}\" does not exist"))
            .hint("SELECT srvname FROM pg_foreign_server lists the servers; or give a uri instead."));
    };
    if import::supports_import(oid) {
        return Ok(oid);
    }
    Err(Error::new(
        sqlstate::FEATURE_NOT_SUPPORTED,
        format!("the foreign-data wrapper of server \"{name}\" does not support IMPORT FOREIGN SCHEMA"),
    )
    .hint("Wrappers that do are postgres_fdw, mysql_fdw, tds_fdw, oracle_fdw and others."))
}

/// Refuses a name that is neither registered nor a schema with foreign tables to adopt, before a run is recorded.
pub fn refuse_unknown(name: &str) -> Result<()> {
    let known: Option<bool> = spi::first(
        "SELECT pg_catalog.to_json(true)::text WHERE EXISTS (SELECT FROM wh.fdw f WHERE f.name = $1)
            OR EXISTS (SELECT FROM pg_catalog.pg_foreign_table t JOIN pg_catalog.pg_class c ON c.oid = t.ftrelid
                       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1)",
        &[name.into()],
    )?;
    known.map(|_| ()).ok_or_else(|| missing(name))
}

/// At the first import every table that was asked for by name must be there.
pub fn refuse_missing_tables(app: &Registered, source: &super::apply::Source) -> Result<()> {
    let (there, unreadable): (Vec<&str>, Vec<&str>) = match source {
        super::apply::Source::Catalog(remote) => (
            remote.tables.iter().map(|t| t.name.as_str()).collect(),
            remote.unreadable.iter().map(|t| t.name.as_str()).collect(),
        ),
        super::apply::Source::Imported(wanted) => (wanted.iter().map(|t| t.name.as_str()).collect(), Vec::new()),
        _ => return Ok(()),
    };
    let Some(only) = &app.only_tables else {
        return Ok(());
    };
    if only.is_empty() {
        return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "only_tables is empty")
            .hint("Leave it out to import all tables, or name some: only_tables => '{users,orders}'."));
    }
    let missing: Vec<&str> = only.iter().map(String::as_str).filter(|t| !there.contains(t)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (forbidden, absent): (Vec<&str>, Vec<&str>) = missing.iter().partition(|t| unreadable.contains(*t));
    let mut detail = Vec::new();
    if !absent.is_empty() {
        detail.push(format!("Schema \"{}\" of the product has no {}.", app.remote_schema, absent.join(", ")));
    }
    if !forbidden.is_empty() {
        detail.push(format!("The mapped user may not read {}.", forbidden.join(", ")));
    }
    Err(Error::new("42P01", "only_tables names tables that cannot be imported")
        .detail(detail.join("\n"))
        .hint("Names are taken as they are, upper and lower case included."))
}
