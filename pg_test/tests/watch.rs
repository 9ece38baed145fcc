//! Marks: equal while nothing that a view reads has changed, different after any change, and never in anybody's way.

use pg_test::{ClientExt, Cluster, Pair};
use postgres::Client;

/// The mark of a view that can be watched, with all counts of this session reported.
#[track_caller]
fn mark(client: &mut Client, view: &str) -> String {
    client.exec("SELECT pg_stat_force_next_flush()");
    let mark = client.value(&format!("SELECT mark FROM wh.change_mark('{view}')"));
    assert_eq!(
        mark.len(),
        64,
        "{view} can't be watched: {}",
        client.value(&format!("SELECT why_not FROM wh.change_mark('{view}')"))
    );
    mark
}

const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE TABLE plain (id int PRIMARY KEY, at timestamptz DEFAULT now(), m mood DEFAULT 'good', spare int);
    INSERT INTO plain (id) SELECT generate_series(1, 10);
    CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent);
    CREATE TABLE parted (id int) PARTITION BY RANGE (id);
    CREATE TABLE part1 PARTITION OF parted FOR VALUES FROM (1) TO (10) PARTITION BY LIST (id);
    CREATE TABLE part1a PARTITION OF part1 DEFAULT;
    CREATE TABLE part2 (id int); CREATE TABLE unrelated (id int);
    CREATE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 2 * $1; END';
    CREATE VIEW between_1 AS SELECT id, at::date AS day, m::text AS m FROM plain;
    CREATE VIEW between_2 AS SELECT * FROM between_1;
    CREATE MATERIALIZED VIEW inner_view AS SELECT count(*) AS n FROM parted;
    CREATE MATERIALIZED VIEW v AS
      SELECT b.day, count(*) AS n, max(twice(b.id)) AS t, (SELECT count(*) FROM parent) AS p, (SELECT n FROM inner_view) AS i, max(m) AS m
      FROM between_2 b GROUP BY 1;
    CREATE MATERIALIZED VIEW other AS SELECT * FROM unrelated";

#[test]
fn every_change_of_what_a_view_reads_changes_its_mark() {
    let pair = Pair::new("changes");
    let mut client = pair.warehouse();
    client.exec(TABLES);
    let database = pair.warehouse_database();
    for change in [
        "INSERT INTO plain VALUES (11)",
        "UPDATE plain SET at = at WHERE id = 1",
        "DELETE FROM plain WHERE id = 1",
        "COPY plain (id) FROM PROGRAM 'echo 12'",
        "TRUNCATE plain",
        "ALTER TABLE plain ALTER spare TYPE text",
        "INSERT INTO child VALUES (1)",
        "INSERT INTO parted VALUES (1)",
        "ALTER TABLE parted ATTACH PARTITION part2 FOR VALUES FROM (10) TO (20)",
        "INSERT INTO parted VALUES (11)",
        "ALTER TABLE parted DETACH PARTITION part2",
        "DROP TABLE part1a",
        "ALTER TABLE child NO INHERIT parent",
        "CREATE OR REPLACE VIEW between_1 AS SELECT id, at::date AS day, m::text AS m FROM plain WHERE id > 2",
        "CREATE OR REPLACE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 3 * $1; END'",
        "ALTER TYPE mood RENAME VALUE 'good' TO 'fine'",
        "REFRESH MATERIALIZED VIEW inner_view",
        "SELECT pg_stat_reset()",
        &format!("ALTER DATABASE {database} SET timezone = 'Asia/Tokyo'"),
    ] {
        let (before, other) = (mark(&mut client, "v"), mark(&mut client, "other"));
        assert_eq!(mark(&mut client, "v"), before, "it changed by itself before: {change}");
        client.exec(change);
        assert_ne!(mark(&mut client, "v"), before, "not seen: {change}");
        // Only what holds for all of the database is seen by a view that reads something else.
        let global = ["ALTER TYPE", "SELECT pg_stat_reset", "ALTER DATABASE"].iter().any(|g| change.starts_with(g));
        assert_eq!(mark(&mut client, "other") != other, global, "after: {change}");
    }
}

#[test]
fn a_mark_stays_while_nothing_that_matters_happens() {
    let pair = Pair::new("stays");
    let mut client = pair.warehouse();
    client.exec(TABLES);
    let before = mark(&mut client, "v");
    for harmless in [
        "INSERT INTO unrelated VALUES (1)",
        "SELECT * FROM v, plain, parted",
        "REFRESH MATERIALIZED VIEW v",
        "ANALYZE plain",
        "VACUUM plain",
        "UPDATE plain SET id = id WHERE false",
        "CREATE INDEX ON plain (at); CREATE UNIQUE INDEX ON v (day)",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
        "GRANT SELECT ON plain TO ana; COMMENT ON TABLE plain IS 'x'; ALTER TABLE plain RENAME COLUMN at TO happened",
        "CREATE OR REPLACE FUNCTION unused() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "BEGIN; SELECT 1; ROLLBACK",
    ] {
        client.exec(harmless);
        assert_eq!(mark(&mut client, "v"), before, "after: {harmless}");
        assert_eq!(mark(&mut pair.warehouse(), "v"), before, "in another session, after: {harmless}");
    }
    // The renamed column stands in no stored query by name: the truth is that the view still gives the same.
    assert_eq!(client.value("SELECT sum(n) FROM v"), "10");
}

#[test]
fn a_long_transaction_sees_what_others_did_meanwhile() {
    let pair = Pair::new("cached");
    let (mut client, mut writer) = (pair.warehouse(), pair.warehouse());
    client.exec(TABLES);
    client.exec("BEGIN");
    let before = client.value("SELECT mark FROM wh.change_mark('v')");
    writer.exec("INSERT INTO plain VALUES (11)");
    writer.exec("SELECT pg_stat_force_next_flush()");
    assert_ne!(client.value("SELECT mark FROM wh.change_mark('v')"), before);
}

#[test]
fn a_mark_waits_for_no_lock() {
    let pair = Pair::new("no_lock");
    let (mut client, mut locker) = (pair.warehouse(), pair.warehouse());
    client.exec(TABLES);
    let before = mark(&mut client, "v");
    locker.exec(
        "BEGIN; LOCK TABLE plain, parent, child, parted, part1a, between_1, between_2 IN ACCESS EXCLUSIVE MODE;
         REFRESH MATERIALIZED VIEW inner_view; REFRESH MATERIALIZED VIEW v",
    );
    client.exec("SET statement_timeout = '30s'");
    assert_eq!(mark(&mut client, "v"), before);
    let held = client.value(
        "BEGIN; SELECT wh.change_mark('v');
         SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation >= 16384
           AND relation IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)",
    );
    assert_eq!(held, "0");
    client.exec("COMMIT");
    locker.exec("ROLLBACK");
}

#[test]
fn a_crash_or_a_reset_never_hides_a_change() {
    let mut cluster = Cluster::start("marks").expect("a cluster");
    let mut client = cluster.connect("postgres").expect("a connection");
    client.exec("CREATE EXTENSION startup_wh; CREATE TABLE t (id int); CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM t");
    let ten = "INSERT INTO t SELECT generate_series(1, 10)";
    let mut seen = Vec::new();
    client.exec("CHECKPOINT");
    client.exec(ten);
    seen.push(mark(&mut client, "v"));
    // Without fsync, what is in the WAL's file is there after a crash of the server alone.
    client.exec("SET synchronous_commit = on; SELECT txid_current()");
    // The counts begin at 0 again, and come to where they were, with other rows.
    for reset in ["crash", "SELECT pg_stat_reset()", "SELECT pg_stat_reset_single_table_counters('t'::regclass)"] {
        if reset == "crash" {
            cluster.crash().expect("a crash");
            cluster.restart().expect("a restart");
            client = cluster.connect("postgres").expect("a connection");
        } else {
            client.exec(reset);
        }
        client.exec(ten);
        let now = mark(&mut client, "v");
        assert_eq!(client.value("SELECT pg_stat_get_tuples_inserted('t'::regclass)"), "10", "after {reset}");
        assert!(!seen.contains(&now), "a change is hidden after {reset}");
        seen.push(now);
    }
    // A clean restart keeps the counts.
    cluster.stop("fast").expect("a stop");
    cluster.restart().expect("a restart");
    client = cluster.connect("postgres").expect("a connection");
    assert_eq!(mark(&mut client, "v"), seen[3]);
}

#[test]
fn a_view_above_a_foreign_table_is_left_to_the_clock() {
    let pair = Pair::new("foreign");
    pair.product().exec("CREATE TABLE users (id int)");
    pair.create_fdw();
    let mut client = pair.warehouse();
    client.exec(
        "CREATE TABLE p (id int) PARTITION BY LIST (id);
         CREATE MATERIALIZED VIEW direct AS SELECT * FROM app.users; CREATE VIEW w AS SELECT * FROM direct;
         CREATE MATERIALIZED VIEW above AS SELECT count(*) FROM w; CREATE MATERIALIZED VIEW over_partitions AS SELECT * FROM p",
    );
    mark(&mut client, "over_partitions");
    client.exec("ALTER TABLE p ATTACH PARTITION app.users DEFAULT");
    for view in ["direct", "above", "over_partitions"] {
        assert_eq!(client.table(&format!("SELECT * FROM wh.change_mark('{view}')")), "|reads foreign table app.users");
    }
}
