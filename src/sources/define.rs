//! Making, changing and forgetting sources, on behalf of the role that calls.

use serde_json::Value;

use super::http::guard::Cidr;
use super::spec::{self, Problem, Spec};
use super::{presets, secrets};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{spi, sql};

/// The arguments of create_source.
pub struct Wish<'a> {
    pub name: &'a str,
    pub spec: Option<Value>,
    pub preset: Option<&'a str>,
    pub settings: Value,
    pub schema: &'a str,
    pub schedule: Option<&'a str>,
    pub streams: Option<Vec<String>>,
}

/// The error of a spec with problems: each with its place and what would be right.
pub fn refused(problems: &[Problem]) -> Error {
    let lines: Vec<String> = problems
        .iter()
        .map(|p| {
            let place = if p.pointer.is_empty() { "the whole" } else { p.pointer.as_str() };
            format!("{place}: {} ({})", p.message, p.right)
        })
        .collect();
    let count = if lines.len() == 1 { "a problem".to_owned() } else { format!("{} problems", lines.len()) };
    Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("the spec has {count}"))
        .detail(lines.join("\n"))
        .hint("docs/sources-spec.md explains each member; SELECT * FROM wh.presets shows specs that work.")
}

/// The spec that a source uses, checked.
fn effective(wish: &Wish) -> Result<(Value, Spec)> {
    let json = match (&wish.spec, wish.preset) {
        (Some(spec), None) => spec.clone(),
        (None, Some(name)) => {
            let preset = presets::find(name).ok_or_else(|| {
                Error::new(sqlstate::UNDEFINED_OBJECT, format!("preset \"{name}\" does not exist"))
                    .hint("SELECT name FROM wh.presets lists those that do.")
            })?;
            spec::with_settings(&preset, &wish.settings).map_err(|p| refused(&p))?
        }
        _ => {
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "give either spec or preset")
                .hint("SELECT wh.create_source('stripe', preset => 'stripe'), or spec => '{...}' of your own."))
        }
    };
    let parsed = spec::parse(&json).map_err(|p| refused(&p))?;
    Ok((json, parsed))
}

/// Streams that are chosen must be there.
fn refuse_unknown(spec: &Spec, chosen: Option<&[String]>) -> Result<()> {
    match chosen.into_iter().flatten().find(|name| !spec.streams.iter().any(|s| s.name == **name)) {
        None => Ok(()),
        Some(name) => {
            let names: Vec<&str> = spec.streams.iter().map(|s| s.name.as_str()).collect();
            Err(Error::new(sqlstate::UNDEFINED_OBJECT, format!("the spec has no stream \"{name}\""))
                .hint(format!("It has {}.", names.join(", "))))
        }
    }
}

/// What comes from an API is UTF-8, and so are the names and values that we hand to Postgres.
pub fn refuse_another_encoding() -> Result<()> {
    let encoding: Option<String> =
        spi::first("SELECT pg_catalog.to_json(pg_catalog.getdatabaseencoding())::text", &[])?;
    match encoding {
        Some(encoding) if encoding != "UTF8" && encoding != "SQL_ASCII" => {
            let message = format!("sources need a database in UTF8, and this one is in {encoding}");
            Err(Error::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
                .detail("An API may send any character, and most of them do not exist there.")
                .hint("CREATE DATABASE ... TEMPLATE template0 ENCODING 'UTF8' makes one that takes them."))
        }
        _ => Ok(()),
    }
}

/// Makes a source, its schema and its job.
pub fn create(caller: u32, wish: &Wish) -> Result<()> {
    refuse_another_encoding()?;
    let fits = (1..=63).contains(&wish.name.len()) && !wish.name.chars().any(char::is_control);
    if !fits {
        return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "name must be a name of 1 to 63 bytes"));
    }
    let (json, spec) = effective(wish)?;
    let exists: Option<bool> = spi::first("SELECT 'true' FROM wh.source WHERE name = $1", &[wish.name.into()])?;
    if exists.is_some() {
        return Err(Error::new(sqlstate::DUPLICATE_OBJECT, format!("source \"{}\" already exists", wish.name))
            .hint("wh.alter_source changes it, wh.drop_source forgets it."));
    }
    refuse_unknown(&spec, wish.streams.as_deref())?;
    let names: Vec<String> = spec.auth.secrets().into_iter().map(String::from).collect();
    secrets::of(caller, &names)?;
    make_schema(wish.schema)?;
    spi::run(
        "INSERT INTO wh.source (name, owner, preset, settings, spec, schema, streams) VALUES ($1, $2::regrole, $3, $4::jsonb, $5::jsonb, $6, $7)",
        &[
            wish.name.into(),
            spi::oid(caller),
            wish.preset.map(str::to_owned).into(),
            wish.settings.to_string().into(),
            json.to_string().into(),
            wish.schema.into(),
            wish.streams.clone().into(),
        ],
    )?;
    crate::analysts::schemas_changed()?;
    crate::jobs::fetch_job(caller, wish.name, wish.schedule)
}

/// Private ranges that sources may reach.
pub fn allowed_ranges() -> Result<Vec<Cidr>> {
    let setting = crate::settings::ALLOW_PRIVATE_NETWORK.get();
    let list = setting.as_ref().map(|s| s.to_string_lossy()).unwrap_or_default();
    list.split(',')
        .map(str::trim)
        .filter(|r| !r.is_empty())
        .map(|range| {
            Cidr::parse(range).ok_or_else(|| {
                Error::new(
                    sqlstate::INVALID_PARAMETER_VALUE,
                    format!("startup_wh.allow_private_network: invalid range \"{range}\""),
                )
                .hint("For instance: 127.0.0.0/8, 10.1.0.0/16")
            })
        })
        .collect()
}

/// Roots that sources trust besides the system's.
pub fn extra_roots() -> Result<Option<String>> {
    let Some(path) = crate::settings::CA_FILE.get().filter(|p| !p.is_empty()) else { return Ok(None) };
    let path = path.to_string_lossy().into_owned();
    match std::fs::read_to_string(&path) {
        Ok(pem) => Ok(Some(pem)),
        Err(e) => Err(Error::new("58030", format!("startup_wh.ca_file cannot be read: {}", e.kind()))),
    }
}

fn make_schema(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 63 || name.starts_with("pg_") || ["wh", "information_schema"].contains(&name) {
        return Err(Error::new("42939", format!("schema \"{name}\" is reserved"))
            .hint("Choose another one with schema => '...'."));
    }
    if !schema_is_ours(name)? {
        spi::run(&format!("CREATE SCHEMA {}", sql::ident(name)), &[])?;
    }
    Ok(())
}

/// Whether a schema is there for sources; an error where it is somebody's.
///
/// A schema's owner may drop what is in it and put a table of the same name in its place (DROP TABLE in the reference:
/// "the table owner, the schema owner, and superuser"), and that table's triggers would run with the rights of a fetch.
pub fn schema_is_ours(name: &str) -> Result<bool> {
    crate::analysts::refuse_team_schema(name)?;
    let owner: Option<(bool, String)> = spi::first(
        "SELECT pg_catalog.json_build_array(n.nspowner = e.extowner, n.nspowner::regrole)::text
         FROM pg_catalog.pg_namespace n, pg_catalog.pg_extension e WHERE n.nspname = $1 AND e.extname = 'startup_wh'",
        &[name.into()],
    )?;
    match owner {
        Some((false, owner)) => Err(Error::new(
            sqlstate::INSUFFICIENT_PRIVILEGE,
            format!(
                "schema {} is {owner}'s, who could put other tables in the place of the streams'",
                sql::ident(name)
            ),
        )
        .hint("Choose another one with schema => '...': it is made, if it is not there.")),
        owner => Ok(owner.is_some()),
    }
}

/// What [`alter`] changes; `None` leaves it.
pub struct Changes<'a> {
    pub spec: Option<Value>,
    pub settings: Option<Value>,
    pub schedule: Option<&'a str>,
    pub streams: Option<Vec<String>>,
}

#[derive(serde::Deserialize)]
struct Kept {
    preset: Option<String>,
    settings: Value,
    spec: Value,
    schema: String,
    streams: Option<Vec<String>>,
}

/// A source that the caller may change, and nobody else meanwhile.
fn mine(caller: u32, name: &str) -> Result<Kept> {
    checked(caller, name, "FOR NO KEY UPDATE")
}

/// Refuses those who may not use a source's secrets.
pub fn may_use(caller: u32, name: &str) -> Result<()> {
    checked(caller, name, "").map(|_| ())
}

fn checked(caller: u32, name: &str, lock: &str) -> Result<Kept> {
    let query = format!("SELECT pg_catalog.json_build_array(
                pg_catalog.pg_has_role($2, 'wh_admin', 'USAGE') AND EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = s.owner::oid)
                  AND pg_catalog.pg_has_role($2, s.owner::oid, 'USAGE'),
                pg_catalog.json_build_object('preset', s.preset, 'settings', s.settings, 'spec', s.spec, 'schema', s.schema, 'streams', s.streams))::text
         FROM wh.source s WHERE s.name = $1 {lock}");
    let found: Option<(bool, Kept)> = spi::first(&query, &[name.into(), spi::oid(caller)])?;
    match found {
        None => Err(super::missing(name)),
        Some((false, _)) => {
            Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("permission denied for source \"{name}\""))
                .detail("What a source fetches uses its owner's secrets, so only they may change it."))
        }
        Some((true, kept)) => Ok(kept),
    }
}

/// Changes a source.
pub fn alter(caller: u32, name: &str, changes: &Changes) -> Result<()> {
    let kept = mine(caller, name)?;
    let mut spec = kept.spec;
    if changes.spec.is_some() || changes.settings.is_some() {
        let settings = changes.settings.clone().unwrap_or(kept.settings);
        let wish = Wish {
            name,
            spec: changes.spec.clone(),
            preset: if changes.spec.is_some() { None } else { kept.preset.as_deref() },
            settings: settings.clone(),
            schema: &kept.schema,
            schedule: None,
            streams: None,
        };
        let (json, parsed) = effective(&wish)?;
        let names: Vec<String> = parsed.auth.secrets().into_iter().map(String::from).collect();
        secrets::of(caller, &names)?;
        let old = spec::parse(&spec).map_err(|p| refused(&p))?;
        super::alter::follow(name, &old, &parsed)?;
        spi::run(
            "UPDATE wh.source SET spec = $2::jsonb, settings = $3::jsonb, preset = CASE WHEN $4 THEN NULL ELSE preset END WHERE name = $1",
            &[name.into(), json.to_string().into(), settings.to_string().into(), changes.spec.is_some().into()],
        )?;
        spec = json;
    }
    if changes.streams.is_some() || changes.spec.is_some() {
        let parsed = spec::parse(&spec).map_err(|p| refused(&p))?;
        refuse_unknown(&parsed, changes.streams.as_deref().or(kept.streams.as_deref()))?;
    }
    if let Some(streams) = &changes.streams {
        spi::run("UPDATE wh.source SET streams = $2 WHERE name = $1", &[name.into(), streams.clone().into()])?;
    }
    if let Some(schedule) = changes.schedule {
        crate::jobs::fetch_job(caller, name, Some(schedule).filter(|s| !s.is_empty()))?;
    }
    Ok(())
}

/// Forgets a source and its job; its tables too, where that is asked for and nothing stands on them.
pub fn drop(caller: u32, name: &str, drop_tables: bool) -> Result<()> {
    let kept = mine(caller, name)?;
    crate::jobs::cancel_fetch(caller, name)?;
    crate::jobs::forget_fetch_job(caller, name)?;
    for helper in super::store::helpers(name)? {
        spi::run(&format!("DROP TABLE {helper}"), &[])?;
    }
    if drop_tables {
        let (ours, others): (Vec<_>, Vec<_>) = super::store::tables(name)?.into_iter().partition(|(_, ours)| *ours);
        for (table, _) in others {
            pgrx::warning!("{table} stays: its owner, columns or comment are not those of a stream of \"{name}\"");
        }
        let tables: Vec<String> = ours.into_iter().map(|(table, _)| table).collect();
        if !tables.is_empty() {
            spi::run(&format!("DROP TABLE {}", tables.join(", ")), &[])?;
        }
        let used: Option<bool> = spi::first(
            "SELECT 'true' FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_namespace n ON n.oid = d.refobjid
             WHERE d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND n.nspname = $1 LIMIT 1",
            &[kept.schema.as_str().into()],
        )?;
        if used.is_none() {
            spi::run(&format!("DROP SCHEMA {}", sql::ident(&kept.schema)), &[])?;
        }
    }
    spi::run("DELETE FROM wh.source WHERE name = $1", &[name.into()])?;
    crate::analysts::schemas_changed()
}

/// Forgets how far streams have come.
pub fn reset(caller: u32, name: &str, stream: Option<&str>) -> Result<()> {
    mine(caller, name)?;
    match (super::store::reset(name, stream)?, stream) {
        (0, Some(stream)) => Err(Error::new(
            sqlstate::UNDEFINED_OBJECT,
            format!("stream \"{stream}\" of source \"{name}\" was never fetched"),
        )
        .hint("SELECT stream, state FROM wh.source_streams lists the streams.")),
        _ => Ok(()),
    }
}
