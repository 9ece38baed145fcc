//! Saved queries, their versions, and with whom they are shared. All of it runs as the extension's owner, on behalf of
//! the role that calls.

use serde::Deserialize;

use super::params;
use crate::error::{sqlstate, Error, Result};
use crate::pg::spi;

/// A query as it is now. `params` is JSON, as text.
#[derive(Debug, Deserialize)]
pub struct Query {
    pub id: i64,
    pub version: i32,
    pub sql: String,
    pub params: String,
    pub search_path: Vec<String>,
    pub title: Option<String>,
    pub description: Option<String>,
    /// Who saved this version, where that role is still there and called the same.
    pub author: Option<u32>,
    /// The caller has its owner's rights.
    mine: bool,
    shared: bool,
}

pub fn bad(message: impl Into<String>) -> Error {
    Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
}

pub fn missing(slug: &str) -> Error {
    Error::new(sqlstate::UNDEFINED_OBJECT, format!("query \"{slug}\" does not exist"))
        .hint("SELECT slug, title FROM wh.queries lists yours and those that are shared with you.")
}

/// In its newest version, or in another one.
fn look(caller: u32, slug: &str, version: Option<i32>) -> Result<Option<Query>> {
    let found = spi::look(
        "SELECT pg_catalog.json_build_object('id', q.id, 'version', v.version, 'sql', v.sql, 'params', v.params::text,
             'search_path', v.search_path, 'title', v.title, 'description', v.description,
             'author', (SELECT r.oid::int8 FROM pg_catalog.pg_roles r WHERE r.oid = v.author::oid AND r.rolname = v.author_name),
             'mine', CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = q.owner::oid)
                     THEN pg_catalog.pg_has_role($2, q.owner::oid, 'USAGE')
                     ELSE (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.oid = $2) END,
             'shared', EXISTS (SELECT FROM wh.query_share s JOIN pg_catalog.pg_roles r ON r.oid = s.role::oid
                               WHERE s.query = q.id AND pg_catalog.pg_has_role($2, r.oid, 'USAGE')))::text
         FROM wh.saved_query q JOIN wh.query_version v ON v.query = q.id AND v.version = coalesce($3, q.version)
         WHERE q.slug = $1",
        &[slug.into(), spi::oid(caller), version.into()],
    )?;
    Ok(found.into_iter().next())
}

/// A query that the caller may see; whoever may not does not learn that it is there.
pub fn find(caller: u32, slug: &str) -> Result<Query> {
    seen(slug, look(caller, slug, None)?)
}

/// One of its versions.
pub fn find_version(caller: u32, slug: &str, version: i32) -> Result<Query> {
    seen(slug, look(caller, slug, Some(version))?)
}

fn seen(slug: &str, found: Option<Query>) -> Result<Query> {
    found.filter(|q| q.mine || q.shared).ok_or_else(|| missing(slug))
}

fn is_admin(caller: u32) -> Result<bool> {
    let admin: Vec<bool> = spi::prepared(
        "SELECT pg_catalog.to_json(pg_catalog.pg_has_role($1, 'wh_admin', 'USAGE'))::text",
        &[spi::oid(caller)],
    )?;
    Ok(admin == [true])
}

/// A query that the caller may change: its owner's, or as a wh_admin.
fn mine(caller: u32, slug: &str, admin_too: bool) -> Result<Query> {
    let query = look(caller, slug, None)?.ok_or_else(|| missing(slug))?;
    if query.mine || (admin_too && is_admin(caller)?) {
        return Ok(query);
    }
    match query.shared {
        true => Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("permission denied for query \"{slug}\""))
            .detail("It is shared with you, and somebody else's.")
            .hint("Save it under a name of your own: SELECT wh.save_query('...', sql, params => params) FROM wh.queries WHERE slug = '...'")),
        false => Err(missing(slug)),
    }
}

/// The version before the one that the caller is about to save; `None` for a new query.
pub fn before(caller: u32, slug: &str) -> Result<Option<Query>> {
    check_slug(slug)?;
    match look(caller, slug, None)? {
        None => Ok(None),
        Some(query) if query.mine || is_admin(caller)? => Ok(Some(query)),
        Some(_) => Err(taken(slug)),
    }
}

fn taken(slug: &str) -> Error {
    Error::new(sqlstate::DUPLICATE_OBJECT, format!("query name \"{slug}\" is taken by another owner"))
        .hint("Choose another name; a prefix such as your role's helps.")
}

fn check_slug(slug: &str) -> Result<()> {
    let good = slug.len() <= 63
        && slug.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
    if good {
        return Ok(());
    }
    Err(bad(format!("\"{slug}\" can't be the name of a query"))
        .detail("It stands in links: a lower case letter, then letters, digits, - and _; 63 at most.")
        .hint("For instance: signups-by-week"))
}

/// What is saved.
pub struct Draft<'a> {
    pub slug: &'a str,
    pub sql: &'a str,
    pub title: Option<String>,
    pub description: Option<String>,
    pub params: &'a params::Declared,
    pub search_path: &'a [String],
}

/// Saves a query, or its next version; one that changes nothing is none. Returns the version.
pub fn save(caller: u32, before: Option<&Query>, draft: &Draft) -> Result<i32> {
    let params = serde_json::to_string(draft.params)?;
    let Some(before) = before else {
        let made: Option<i64> = spi::first(
            "INSERT INTO wh.saved_query (slug, owner, version) VALUES ($1, $2::regrole, 1) ON CONFLICT DO NOTHING RETURNING id::text",
            &[draft.slug.into(), spi::oid(caller)],
        )?;
        write(made.ok_or_else(|| taken(draft.slug))?, 1, caller, draft, &params)?;
        return Ok(1);
    };
    // Two who save at once: the second one waits, and gets the version after the first one's.
    let version: Option<i32> = spi::first(
        "UPDATE wh.saved_query q SET version = q.version + 1
         FROM wh.query_version v
         WHERE q.id = $1 AND v.query = q.id AND v.version = $7
           AND (q.version <> v.version
             OR (v.sql, v.params, v.search_path, v.title, v.description) IS DISTINCT FROM ($2, $3::jsonb, $4, $5, $6))
         RETURNING q.version::text",
        &[
            before.id.into(),
            draft.sql.into(),
            params.as_str().into(),
            draft.search_path.to_vec().into(),
            draft.title.clone().into(),
            draft.description.clone().into(),
            before.version.into(),
        ],
    )?;
    let Some(version) = version else { return Ok(before.version) };
    write(before.id, version, caller, draft, &params)?;
    Ok(version)
}

fn write(query: i64, version: i32, caller: u32, draft: &Draft, params: &str) -> Result<()> {
    spi::run(
        "INSERT INTO wh.query_version (query, version, sql, params, search_path, title, description, author, author_name)
         VALUES ($1, $2, $3, $4::jsonb, $5, $6, $7, $8::regrole, pg_catalog.pg_get_userbyid($8))",
        &[
            query.into(),
            version.into(),
            draft.sql.into(),
            params.into(),
            draft.search_path.to_vec().into(),
            draft.title.clone().into(),
            draft.description.clone().into(),
            spi::oid(caller),
        ],
    )?;
    Ok(())
}

/// Forgets a query. Results stay.
pub fn drop(caller: u32, slug: &str) -> Result<()> {
    let query = mine(caller, slug, true)?;
    spi::run("DELETE FROM wh.saved_query WHERE id = $1", &[query.id.into()])?;
    Ok(())
}

fn role(name: &str) -> Result<u32> {
    let found: Option<u32> = spi::first(
        "SELECT pg_catalog.to_json(oid::int8)::text FROM pg_catalog.pg_roles WHERE rolname = $1",
        &[name.into()],
    )?;
    found.ok_or_else(|| {
        Error::new(sqlstate::UNDEFINED_OBJECT, format!("role \"{name}\" does not exist"))
            .hint("SELECT rolname FROM pg_roles lists those that do; wh_analyst is every analyst.")
    })
}

/// Shares a query. Only its owner may: whom the results reach is theirs to say.
pub fn share(caller: u32, slug: &str, with: &str) -> Result<()> {
    let query = mine(caller, slug, false)?;
    spi::run(
        "INSERT INTO wh.query_share (query, role) VALUES ($1, $2::regrole) ON CONFLICT DO NOTHING",
        &[query.id.into(), spi::oid(role(with)?)],
    )?;
    Ok(())
}

/// Takes a share back; false where there was none.
pub fn unshare(caller: u32, slug: &str, with: &str) -> Result<bool> {
    let query = mine(caller, slug, true)?;
    let gone: Option<bool> = spi::first(
        "DELETE FROM wh.query_share WHERE query = $1 AND role::oid = $2 RETURNING 'true'",
        &[query.id.into(), spi::oid(role(with)?)],
    )?;
    Ok(gone.is_some())
}

/// Gives a role's queries and results to another one, and takes what was shared with it; returns how many of each were
/// given. Who wrote which version stays: its new owner runs it as somebody else's. Results the new owner reads as far as
/// they may read what those were computed from.
pub fn hand_over(from: u32, to: u32) -> Result<(usize, usize)> {
    let both = [spi::oid(from), spi::oid(to)];
    let queries: Vec<i64> =
        spi::rows("UPDATE wh.saved_query SET owner = $2::regrole WHERE owner::oid = $1 RETURNING id::text", &both)?;
    let results: Vec<i64> = spi::rows(
        "UPDATE wh.result SET runner = $2::regrole, inherited = true WHERE runner::oid = $1 RETURNING id::text",
        &both,
    )?;
    spi::run("DELETE FROM wh.query_share WHERE role::oid = $1", &[spi::oid(from)])?;
    Ok((queries.len(), results.len()))
}

/// One version, as it was saved. The time in microseconds since 1970.
#[derive(Deserialize)]
pub struct Version {
    pub version: i32,
    pub author: String,
    pub saved_at: i64,
    pub title: Option<String>,
    pub description: Option<String>,
    pub params: serde_json::Value,
    pub search_path: Vec<String>,
    pub sql: String,
}

/// All versions, the oldest first.
pub fn versions(query: i64) -> Result<Vec<Version>> {
    spi::rows(
        "SELECT pg_catalog.json_build_object('version', version, 'author', author_name, 'saved_at', wh.micros(saved_at), 'title', title,
                'description', description, 'params', params, 'search_path', search_path, 'sql', sql)::text
         FROM wh.query_version WHERE query = $1 ORDER BY version",
        &[query.into()],
    )
}
