//! Analysts of a test's own, over real connections.
#![allow(dead_code)] // Each test file uses a part of it.

use pg_test::{ClientExt, Pair};
use postgres::Client;

pub const PRODUCT: &str = "
    CREATE TABLE users (id int PRIMARY KEY, email text, api_token text);
    CREATE TABLE orders (id int PRIMARY KEY, user_id int, total int);
    INSERT INTO users VALUES (1, 'ida@example.org', 't0ken'); INSERT INTO orders VALUES (1, 1, 100)";

/// A product and a warehouse that has it as `app`, registered by deploy.
pub fn warehouse(name: &str) -> Pair {
    prepared(Pair::new(name))
}

/// The same in clusters of its own, with the library loaded with the server.
pub fn preloaded(name: &str, settings: &[(&str, &str)]) -> Pair {
    let mut all = vec![("shared_preload_libraries", "startup_wh")];
    all.extend(settings);
    prepared(Pair::apart(name, &all))
}

fn prepared(pair: Pair) -> Pair {
    pair.product().exec(PRODUCT);
    pair.as_deploy(&format!("create_fdw('app', '{}')", pair.uri()));
    pair
}

pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Makes an analyst as deploy does, and connects as them with the password that was made.
#[track_caller]
pub fn add(pair: &Pair, name: &str) -> Client {
    let password = password(pair, &format!("add_analyst({})", literal(name)));
    connect(pair, name, &password)
}

/// The password that a call made.
#[track_caller]
pub fn password(pair: &Pair, call: &str) -> String {
    let done = pair.as_deploy(call);
    match done.iter().find(|c| c.kind == "password") {
        Some(row) => row.detail.clone(),
        None => panic!("no password in {done:?}"),
    }
}

#[track_caller]
pub fn connect(pair: &Pair, name: &str, password: &str) -> Client {
    match pair.warehouse_cluster().connect_as(&pair.warehouse_database(), name, password) {
        Ok(client) => client,
        Err(e) => panic!("no connection as {name}: {e}"),
    }
}

/// The group of the analysts of this database.
#[track_caller]
pub fn group(pair: &Pair) -> String {
    pair.warehouse().value("SELECT role::text FROM wh.reader_group")
}

/// Everything by which a change of roles, rights and objects shows. Roles are the cluster's, so a test that compares
/// has a cluster of its own.
const STATE: &str = "
    SELECT 'role', oid::text, xmin::text FROM pg_authid UNION ALL SELECT 'member', roleid::text || ' ' || member, xmin::text FROM pg_auth_members
    UNION ALL SELECT 'setting', setrole::text || ' ' || setdatabase, xmin::text FROM pg_db_role_setting
    UNION ALL SELECT 'class ' || relname, oid::text, xmin::text FROM pg_class WHERE oid >= 16384
    UNION ALL SELECT 'schema ' || nspname, oid::text, xmin::text FROM pg_namespace WHERE nspname NOT LIKE 'pg_%'
    UNION ALL SELECT 'function', oid::text, xmin::text FROM pg_proc WHERE oid >= 16384 UNION ALL SELECT 'default', oid::text, xmin::text FROM pg_default_acl
    UNION ALL SELECT 'server', oid::text, xmin::text FROM pg_foreign_server UNION ALL SELECT 'mapping', oid::text, xmin::text FROM pg_user_mapping
    UNION ALL SELECT 'analyst', role::text, xmin::text FROM wh.analyst UNION ALL SELECT 'team', role::text, xmin::text FROM wh.team ORDER BY 1, 2";

/// What [`unchanged`] compares with.
#[track_caller]
pub fn state(owner: &mut Client) -> String {
    owner.table(STATE)
}

/// Panics with the lines that differ from an earlier [`state`].
#[track_caller]
pub fn unchanged(owner: &mut Client, before: &str, when: &str) {
    let now = state(owner);
    let differ = |a: &str, b: &str| a.lines().filter(|l| !b.lines().any(|o| o == *l)).collect::<Vec<_>>().join("\n");
    assert!(now == before, "{when}:\ngone:\n{}\nnew:\n{}", differ(before, &now), differ(&now, before));
}

/// A warehouse in clusters of its own.
pub fn alone(name: &str) -> Pair {
    prepared(Pair::apart(name, &[]))
}
