//! The harness keeps what it promises to the other tests.

use pg_test::{ClientExt, Cluster, Pair};

#[test]
fn a_crash_keeps_what_was_committed_and_nothing_else() {
    let mut cluster = Cluster::builder("crash")
        .set("fsync", "on")
        .set("synchronous_commit", "on")
        .set("full_page_writes", "on")
        .start()
        .expect("a cluster");
    let mut client = cluster.connect("postgres").expect("a connection");
    client.exec("CREATE TABLE kept (n int)");
    client.exec("INSERT INTO kept VALUES (1)");
    client.exec("BEGIN; INSERT INTO kept VALUES (2)");
    cluster.crash().expect("a crash");
    assert!(client.simple_query("SELECT 1").is_err(), "the backend outlived the crash");
    cluster.restart().expect("a restart");
    let mut client = cluster.connect("postgres").expect("a connection");
    assert_eq!(client.value("SELECT string_agg(n::text, ',') FROM kept"), "1");
    assert!(cluster.log().contains("automatic recovery") || cluster.log().contains("not properly shut down"));
}

#[test]
fn a_stopped_cluster_starts_again() {
    let mut cluster = Cluster::start("stopped").expect("a cluster");
    cluster.connect("postgres").expect("a connection").exec("CREATE TABLE kept ()");
    cluster.stop("fast").expect("a stop");
    assert!(cluster.connect("postgres").is_err());
    cluster.set("work_mem", "1234kB");
    cluster.restart().expect("a restart");
    let mut client = cluster.connect("postgres").expect("a connection");
    assert_eq!(client.value("SHOW work_mem"), "1234kB");
    assert_eq!(client.value("SELECT 'kept'::regclass"), "kept");
}

#[test]
fn a_pair_follows_its_product() {
    let pair = Pair::new("follows");
    pair.product().exec("CREATE TABLE users (id int, name text); INSERT INTO users VALUES (1, 'ida')");
    pair.create_fdw();
    let mut ana = pair.warehouse_as("ana");
    assert_eq!(ana.table("SELECT * FROM app.users"), "1|ida");
    pair.product().exec("ALTER TABLE users ADD COLUMN email text DEFAULT 'ida@example.org'");
    let changes = pair.recreate_fdw();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0].object, "app.users.email");
    assert_eq!(ana.table("SELECT * FROM app.users"), "1|ida|ida@example.org");
    assert_eq!(ana.error("CREATE FOREIGN TABLE ana.mine () SERVER app").code().code(), "42501");
    let dump = pair.warehouse_cluster().dump(&pair.warehouse_database(), &["--schema-only"]).expect("a dump");
    assert!(dump.contains("CREATE EXTENSION IF NOT EXISTS startup_wh"));
    let said = pair.warehouse_cluster().psql(&pair.warehouse_database(), "SELECT 1; SELECT nothing;").expect("psql");
    assert!(!said.status.success() && String::from_utf8_lossy(&said.stdout).trim() == "1");
}
