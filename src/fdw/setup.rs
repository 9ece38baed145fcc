//! Making, hiding and dropping: what comes before and after the units of work.

use super::model::Change;
use super::registry::{self, New, Registered};
use super::types::UNUSED;
use super::{dependents, local, run, uri};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{identity, secret, session, spi, sql, subxact};

/// The arguments of create_fdw.
pub struct Wish<'a> {
    pub name: &'a str,
    pub uri: Option<&'a str>,
    pub server: Option<&'a str>,
    pub remote_schema: &'a str,
    pub local_schema: &'a str,
    pub only_tables: Option<Vec<String>>,
    pub except_tables: Vec<String>,
}

/// Registers and imports.
pub fn create(wish: &Wish) -> Result<Vec<Change>> {
    refuse_bad_names(wish)?;
    let connection = match (wish.uri, wish.server) {
        (Some(text), None) => Some(uri::parse(text)?),
        (None, Some(_)) => None,
        _ => {
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "give either uri or server")
                .hint("SELECT * FROM wh.create_fdw('app', 'postgresql://user:password@host:5432/dbname') makes a server of its own; server => '...' uses one that exists."))
        }
    };
    let changes = run::create(wish.name, || {
        registry::refuse_taken(wish.name, wish.local_schema)?;
        let server = wish.server.unwrap_or(wish.name);
        match &connection {
            Some(connection) => {
                refuse_files(connection)?;
                make_server(server, connection)?;
                connect_without_rights(server)?;
            }
            None => registry::refuse_without_usage(server)?,
        }
        registry::importing_server(server)?;
        let owns_schema = make_schema(wish.local_schema)?;
        registry::register(&New {
            name: wish.name,
            server,
            remote_schema: wish.remote_schema,
            local_schema: wish.local_schema,
            only_tables: wish.only_tables.as_deref(),
            except_tables: &wish.except_tables,
            owns_server: connection.is_some(),
            owns_schema,
            adopted: false,
        })
    })?;
    crate::policy::propose()?;
    Ok(changes)
}

fn refuse_bad_names(wish: &Wish) -> Result<()> {
    for (argument, name) in
        [("name", wish.name), ("remote_schema", wish.remote_schema), ("local_schema", wish.local_schema)]
    {
        if name.is_empty() || name.len() > 63 || name.contains('\0') {
            return Err(Error::new(
                sqlstate::INVALID_PARAMETER_VALUE,
                format!("{argument} must be a name of 1 to 63 bytes"),
            ));
        }
    }
    if wish.local_schema.starts_with("pg_") || ["wh", "information_schema"].contains(&wish.local_schema) {
        return Err(Error::new("42939", format!("schema \"{}\" is reserved", wish.local_schema))
            .hint("Choose another one with local_schema => '...'."));
    }
    Ok(())
}

fn make_server(name: &str, connection: &uri::Connection) -> Result<()> {
    let exists: Option<bool> =
        spi::first("SELECT to_json(true)::text FROM pg_foreign_server WHERE srvname = $1", &[name.into()])?;
    if exists.is_some() {
        return Err(Error::new(sqlstate::DUPLICATE_OBJECT, format!("server \"{name}\" already exists"))
            .hint(format!("Use it as it is with server => {}, or choose another name.", sql::literal(name))));
    }
    let installed: Option<bool> =
        spi::first("SELECT to_json(true)::text FROM pg_extension WHERE extname = 'postgres_fdw'", &[])?;
    if installed.is_none() {
        spi::run("CREATE EXTENSION postgres_fdw SCHEMA public", &[])?;
    }
    let options = |list: &[(String, String)]| {
        list.iter().map(|(k, v)| format!("{} {}", sql::ident(k), sql::literal(v))).collect::<Vec<_>>().join(", ")
    };
    let server = if connection.server.is_empty() {
        String::new()
    } else {
        format!(" OPTIONS ({})", options(&connection.server))
    };
    spi::run(&format!("CREATE SERVER {} FOREIGN DATA WRAPPER postgres_fdw{server}", sql::ident(name)), &[])?;
    secret::create_user_mapping(&format!(
        "CREATE USER MAPPING FOR PUBLIC SERVER {} OPTIONS ({})",
        sql::ident(name),
        options(&connection.mapping)
    ))
}

/// Connects once as a role without rights of its own: postgres_fdw lets only a superuser go in without a password
/// (contrib/postgres_fdw/connection.c, connect_pg_server). Who calls does not count: a definer function of somebody
/// else's may stand between a superuser's session and this one, and analysts could not read through it anyway.
fn connect_without_rights(server: &str) -> Result<()> {
    spi::run(
        &format!(
            "CREATE FOREIGN TABLE pg_temp.wh_probe (stats_reset text) SERVER {} OPTIONS (schema_name 'pg_catalog', table_name 'pg_stat_archiver')",
            sql::ident(server)
        ),
        &[],
    )?;
    spi::run("GRANT SELECT ON pg_temp.wh_probe TO wh_admin", &[])?;
    subxact::run(|| {
        let _nobody = identity::As::named("wh_admin")?;
        spi::run("SELECT stats_reset FROM pg_temp.wh_probe", &[])
    })
    .map_err(|e| match e.sqlstate.as_str() {
        "2F003" => e.hint("Give a password that the product asks for. A product without passwords is for superusers alone: make its server by hand, and name it with server => '...'."),
        _ => e,
    })?;
    spi::run("DROP FOREIGN TABLE pg_temp.wh_probe", &[])?;
    Ok(())
}

/// The server's files are the server's: postgres_fdw lets only a superuser name them in a mapping
/// (contrib/postgres_fdw/option.c, postgres_fdw_validator), and the mapping is made as one.
fn refuse_files(connection: &uri::Connection) -> Result<()> {
    let Some((file, _)) = connection.mapping.iter().find(|(k, _)| ["sslcert", "sslkey"].contains(&k.as_str())) else {
        return Ok(());
    };
    let superuser: Option<bool> =
        spi::first("SELECT to_json(rolsuper)::text FROM pg_roles WHERE oid = $1", &[spi::oid(session::outer_user())])?;
    if superuser == Some(true) {
        return Ok(());
    }
    Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("only a superuser may give {file} in uri")).hint(
        "Leave it out, or have a superuser make the server and its user mapping, and name it with server => '...'.",
    ))
}

fn make_schema(name: &str) -> Result<bool> {
    if registry::refuse_closed_schema(name)? {
        return Ok(false);
    }
    spi::run(&format!("CREATE SCHEMA {}", sql::ident(name)), &[])?;
    Ok(true)
}

/// Hides tables or columns, now and from now on.
pub fn hide(app: &str, table_pattern: &str, column_pattern: Option<&str>) -> Result<Vec<Change>> {
    run::hide(app, || {
        spi::run(
            "INSERT INTO wh.hidden_pattern (fdw, table_pattern, column_pattern) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            &[app.into(), table_pattern.into(), column_pattern.map(str::to_owned).into()],
        )?;
        Ok(())
    })
}

/// Takes back a pattern.
pub fn unhide(app: &str, table_pattern: &str, column_pattern: Option<&str>) -> Result<()> {
    registry::refuse_unknown(app)?;
    let gone: Vec<bool> = spi::rows(
        "DELETE FROM wh.hidden_pattern WHERE fdw = $1 AND table_pattern = $2 AND column_pattern IS NOT DISTINCT FROM $3
         RETURNING pg_catalog.to_json(true)::text",
        &[app.into(), table_pattern.into(), column_pattern.map(str::to_owned).into()],
    )?;
    if gone.is_empty() {
        return Err(Error::new(sqlstate::UNDEFINED_OBJECT, "no such pattern is hidden")
            .hint("SELECT * FROM wh.hidden lists the patterns; give them as they stand there."));
    }
    pgrx::notice!("SELECT * FROM wh.recreate_fdw({}) brings back what is visible again", sql::literal(app));
    Ok(())
}

/// Forgets an application.
pub fn drop(name: &str, cascade: bool) -> Result<Vec<Change>> {
    let known: Option<bool> =
        spi::first("SELECT pg_catalog.to_json(true)::text FROM wh.fdw f WHERE f.name = $1", &[name.into()])?;
    if known.is_none() {
        return Err(registry::missing(name));
    }
    run::drop(
        name,
        |app| {
            if cascade {
                Ok(())
            } else {
                refuse_dependents(app)
            }
        },
        forget,
    )
}

fn refuse_dependents(app: &Registered) -> Result<()> {
    let tables = local::tables(app)?;
    let masks: Vec<u32> = tables.iter().filter_map(|t| t.view.as_ref()).map(|v| v.oid).collect();
    let mut found = dependents::direct(tables.iter().map(|t| t.oid).chain(masks.iter().copied()))?;
    found.retain(|d| !masks.contains(&d.oid));
    if found.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = found
        .iter()
        .map(|d| format!("{} {} of \"{}\" reads {}", d.what, d.name, d.owner.as_deref().unwrap_or("?"), d.on_name))
        .collect();
    lines.sort();
    let more = lines.len().saturating_sub(100);
    lines.truncate(100);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    Err(Error::new(
        sqlstate::DEPENDENT_OBJECTS_STILL_EXIST,
        format!("cannot drop foreign application \"{}\" because other objects depend on its tables", app.name),
    )
    .detail(lines.join("\n"))
    .hint("With cascade => true those views stay in place, broken, with their definitions in wh.broken_views."))
}

/// Types, server, schema and registration, as far as they are ours and nobody uses them.
fn forget(app: &Registered) -> Result<()> {
    loop {
        // A type made of another one goes first.
        let unused: Vec<String> = spi::rows(
            &format!(
                "SELECT to_json(m.type::text)::text FROM wh.fdw_type m JOIN pg_type t ON t.oid = m.type
                 WHERE m.fdw = $1 AND {UNUSED} ORDER BY m.type::oid"
            ),
            &[app.name.as_str().into()],
        )?;
        if unused.is_empty() {
            break;
        }
        for name in unused {
            spi::run(
                "DELETE FROM wh.fdw_type WHERE fdw = $1 AND type = $2::regtype",
                &[app.name.as_str().into(), name.as_str().into()],
            )?;
            spi::run(&format!("DROP TYPE {name}"), &[])?;
        }
    }
    spi::run("DELETE FROM wh.fdw WHERE name = $1", &[app.name.as_str().into()])?;
    let others: Option<bool> = spi::first(
        "SELECT to_json(true)::text FROM pg_foreign_table WHERE ftserver = $1 LIMIT 1",
        &[spi::oid(app.server_oid)],
    )?;
    let registered: Option<bool> =
        spi::first("SELECT to_json(true)::text FROM wh.fdw WHERE server = $1 LIMIT 1", &[app.server.as_str().into()])?;
    if app.owns_server && others.is_none() && registered.is_none() {
        let server = sql::ident(&app.server);
        let mappings: Vec<String> = spi::rows(
            "SELECT to_json(CASE WHEN umuser = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(umuser)) END)::text
             FROM pg_user_mapping WHERE umserver = $1",
            &[spi::oid(app.server_oid)],
        )?;
        for user in mappings {
            spi::run(&format!("DROP USER MAPPING FOR {user} SERVER {server}"), &[])?;
        }
        spi::run(&format!("DROP SERVER IF EXISTS {server}"), &[])?;
    }
    let schemas = [app.owns_schema.then_some(&app.local_schema), app.raw_schema.as_ref()];
    for schema in schemas.into_iter().flatten() {
        let unused: Option<bool> = spi::first(
            "SELECT to_json(true)::text FROM pg_namespace n WHERE n.nspname = $1 AND NOT EXISTS (
               SELECT FROM pg_depend d WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid)",
            &[schema.as_str().into()],
        )?;
        if unused == Some(true) {
            spi::run(&format!("DROP SCHEMA {}", sql::ident(schema)), &[])?;
        }
    }
    crate::analysts::schemas_changed()
}
