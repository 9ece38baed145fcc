//! What is measured, beside what Postgres says of each relation: nothing is missed and nothing counted twice, whatever
//! others do meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};

use pg_test::sizes::{wait_until_alike, Place, NOW, TRUTH};
use pg_test::{wait_until, Client, ClientExt};

/// [`TRUTH`] by table, index and TOAST bytes.
const TRUTH_IN_PARTS: &str = "
    SELECT n.nspname, sum(pg_table_size(c.oid) - coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0)), sum(pg_indexes_size(c.oid)),
           coalesce(sum(pg_total_relation_size(nullif(c.reltoastrelid, 0))), 0)
    FROM pg_class c JOIN pg_class top ON top.oid = coalesce(pg_partition_root(c.oid), c.oid) JOIN pg_namespace n ON n.oid = top.relnamespace
    WHERE c.relkind IN ('r', 'm', 'S') AND NOT c.relisshared AND c.relpersistence <> 't'
    GROUP BY 1 HAVING sum(pg_total_relation_size(c.oid)) > 0 ORDER BY 1";

const FIXTURE: &str = r#"
    CREATE TABLE ana.plain (id int PRIMARY KEY, t text); INSERT INTO ana.plain SELECT n, repeat('x', 300) FROM generate_series(1, 3000) n;
    CREATE INDEX ON ana.plain (t);
    CREATE TABLE ana.toasted (t text); ALTER TABLE ana.toasted ALTER t SET STORAGE EXTERNAL;
    INSERT INTO ana.toasted SELECT repeat('y', 50000) FROM generate_series(1, 40);
    CREATE MATERIALIZED VIEW ana.seen AS SELECT * FROM ana.plain; CREATE INDEX ON ana.seen (id);
    CREATE UNLOGGED TABLE ana.unlogged (id int PRIMARY KEY); INSERT INTO ana.unlogged SELECT generate_series(1, 5000);
    CREATE SEQUENCE ana.numbers;
    CREATE VIEW ana.nothing AS SELECT 1;
    -- Partitions of partitions, in other schemas than their root.
    CREATE SCHEMA parts; CREATE SCHEMA roots;
    CREATE TABLE roots.events (id int, t text, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE parts.y2025 PARTITION OF roots.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE ana.y2026 PARTITION OF roots.events FOR VALUES FROM ('2026-01-01') TO ('2028-01-01') PARTITION BY LIST (id);
    CREATE TABLE parts.y2026_1 PARTITION OF ana.y2026 FOR VALUES IN (1); CREATE TABLE ben.rest PARTITION OF ana.y2026 DEFAULT;
    ALTER TABLE parts.y2025 ALTER t SET STORAGE EXTERNAL;
    INSERT INTO roots.events SELECT n, repeat('z', 3000), date '2025-01-01' + n FROM generate_series(1, 700) n;
    INSERT INTO roots.events SELECT 1, repeat('z', 3000), date '2026-01-01' + n FROM generate_series(1, 300) n;
    -- One that inherits and is no partition.
    CREATE TABLE ben.old (id int); CREATE TABLE parts.older () INHERITS (ben.old); INSERT INTO parts.older SELECT generate_series(1, 1000);
    -- Names that must be quoted, and a schema without anything.
    CREATE SCHEMA "Größe ""x"" 100%; DROP"; CREATE TABLE "Größe ""x"" 100%; DROP"."表 'a'" AS SELECT generate_series(1, 10000);
    CREATE SCHEMA empty;
    -- Another tablespace, of a table with its index, and of an index alone.
    CREATE TABLE ben.elsewhere (id int PRIMARY KEY) TABLESPACE apart; INSERT INTO ben.elsewhere SELECT generate_series(1, 20000);
    CREATE INDEX ON ana.plain (id) TABLESPACE apart;
    -- A file that is not what it was, and one that is gone.
    INSERT INTO ben.old SELECT generate_series(1, 1000); CREATE TABLE ben.dropped AS SELECT generate_series(1, 10000)"#;

/// Tells threads to end, however the test does.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn fixture(name: &str) -> (Place, Client) {
    let place = Place::new(name);
    place.tablespace("apart");
    let mut client = place.client();
    client.exec(FIXTURE);
    for statement in [
        "VACUUM ana.plain",
        "VACUUM FULL ana.seen",
        "TRUNCATE ONLY ben.old",
        "DROP TABLE ben.dropped",
        "REINDEX TABLE roots.events",
    ] {
        client.exec(statement);
    }
    (place, client)
}

#[test]
fn every_schema_weighs_what_its_relations_weigh() {
    let (_place, mut client) = fixture("truth");
    let truth = client.table(TRUTH);
    for schema in ["ana", "ben", "roots", "parts", "Größe \"x\" 100%; DROP", "pg_catalog", "information_schema", "wh"]
    {
        assert!(truth.lines().any(|l| l.starts_with(&format!("{schema}|"))), "{schema}: {truth}");
    }
    wait_until_alike(&mut client, NOW, TRUTH);
    wait_until_alike(
        &mut client,
        "SELECT schema, table_bytes, index_bytes, toast_bytes FROM wh.schema_sizes_now() WHERE total_bytes > 0 ORDER BY 1",
        TRUTH_IN_PARTS,
    );
    assert_eq!(
        client.table(
            "SELECT owner, total_bytes, relations, share_percent FROM wh.schema_sizes_now() WHERE schema = 'empty'"
        ),
        "postgres|0|0|0.00"
    );
    // Together they are all relations' files, in each tablespace.
    let files = "SELECT sum((pg_stat_file(d || '/' || f)).size) FROM pg_database b,
        LATERAL (SELECT 'base/' || b.oid UNION ALL
                 SELECT format('pg_tblspc/%s/%s/%s', s.oid, v, b.oid) FROM pg_tablespace s, pg_ls_dir('pg_tblspc/' || s.oid) v
                 WHERE s.spcname NOT LIKE 'pg\\_%') e (d), pg_ls_dir(d, true, false) f
        WHERE b.datname = current_database() AND f ~ '^(t\\d+_)?\\d+'";
    wait_until_alike(&mut client, "SELECT sum(total_bytes) FROM wh.schema_sizes_now()", files);
}

#[test]
fn every_relation_weighs_what_postgres_says_and_all_of_a_schema_what_the_schema_does() {
    let (_place, mut client) = fixture("relations");
    client.exec("CREATE EXTENSION postgres_fdw; CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw; CREATE FOREIGN TABLE ana.far (id int) SERVER s");
    let truth = "SELECT format('%I.%I', n.nspname, c.relname), CASE WHEN c.relkind IN ('p', 'f') THEN 0 ELSE pg_total_relation_size(c.oid) END
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'm', 'S', 'p', 'f') AND NOT c.relisshared AND c.relpersistence <> 't' AND n.nspname <> 'wh' ORDER BY 1";
    client.exec("SELECT * FROM wh.snapshot_usage()");
    let ours =
        "SELECT relation, total_bytes FROM wh.relation_sizes WHERE schema NOT IN ('wh', '(temporary)') ORDER BY 1";
    assert_eq!(client.table(ours), client.table(truth));
    assert_eq!(
        client.table("SELECT relation, kind, schema, partition_of FROM wh.relation_sizes WHERE relation ~ 'y202|rest|events|far|seen|numbers' AND schema <> 'pg_catalog' ORDER BY 1"),
        "ana.far|foreign table|ana|\nana.numbers|sequence|ana|\nana.seen|materialized view|ana|\n\
         ana.y2026|partitioned table|roots|roots.events\nben.rest|table|roots|roots.events\nparts.y2025|table|roots|roots.events\n\
         parts.y2026_1|table|roots|roots.events\nroots.events|partitioned table|roots|"
    );
    assert_eq!(
        client.table("SELECT r.schema, s.total_bytes, s.relations FROM wh.schema_sizes s JOIN
                      (SELECT schema, sum(total_bytes) AS bytes, count(*) AS n FROM wh.relation_sizes GROUP BY 1) r USING (schema)
                      WHERE (s.total_bytes, s.relations) <> (r.bytes, r.n)"),
        ""
    );
    assert_eq!(client.value("SELECT sum(share_percent) BETWEEN 99.5 AND 100.5 FROM wh.schema_sizes"), "t");
}

#[test]
fn no_lock_on_a_table_stops_or_delays_it() {
    let (place, mut client) = fixture("locked");
    client.exec("SELECT * FROM wh.snapshot_usage()");
    let mut other = place.client();
    let before = client.table(NOW);
    other.exec(
        "BEGIN; LOCK TABLE ana.plain, roots.events, ben.elsewhere IN ACCESS EXCLUSIVE MODE; DROP INDEX ana.plain_t_idx",
    );
    // A wait for any lock would be an error.
    client.exec("SET lock_timeout = '1ms'");
    assert_eq!(client.error("SELECT pg_total_relation_size('ana.plain')").code().code(), "55P03");
    assert_eq!(client.table(NOW), before);
    client.exec("SELECT * FROM wh.snapshot_usage()");
    let ana = before.lines().find(|l| l.starts_with("ana|")).expect("a line of ana's");
    assert_eq!(client.table("SELECT schema, total_bytes FROM wh.schema_sizes WHERE schema = 'ana'"), ana);
    assert_eq!(client.value("SELECT count(*) FROM wh.relation_sizes WHERE relation = 'ana.plain'"), "1");
    assert_eq!(client.value("SELECT count(*) > 0 FROM wh.my_relations WHERE relation = 'ana.plain'"), "t");
    // And measuring holds none: of the other's tables, or of any but its own.
    client.exec(
        "BEGIN; SELECT * FROM wh.schema_sizes_now(); SELECT * FROM wh.schema_sizes; SELECT * FROM wh.relation_sizes",
    );
    assert_eq!(
        client.value(
            "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE l.pid = pg_backend_pid()
                      AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'wh'::regnamespace)"
        ),
        "0"
    );
}

#[test]
fn what_others_make_and_drop_meanwhile_disturbs_nobody() {
    let (place, mut client) = fixture("meanwhile");
    let steady = |client: &mut Client| {
        client
            .table("SELECT schema, total_bytes FROM wh.schema_sizes_now() WHERE schema IN ('ana', 'roots') ORDER BY 1")
    };
    let before = steady(&mut client);
    std::thread::scope(|scope| {
        let at_work: Vec<_> = (0..2)
            .map(|n| {
                let mut other = place.client();
                scope.spawn(move || {
                    for _ in 0..25 {
                        other.exec(&format!("CREATE TABLE ben.t{n} AS SELECT n AS id FROM generate_series(1, 1000) n"));
                        other.exec(&format!("CREATE INDEX ON ben.t{n} (id); TRUNCATE ben.t{n}; INSERT INTO ben.t{n} VALUES (1)"));
                        other.exec(&format!("CLUSTER ben.t{n} USING t{n}_id_idx"));
                        other.exec(&format!("BEGIN; ALTER TABLE ben.t{n} ALTER id TYPE bigint; ROLLBACK"));
                        other.exec(&format!("CREATE SCHEMA s{n}; ALTER TABLE ben.t{n} SET SCHEMA s{n}; DROP TABLE s{n}.t{n}; DROP SCHEMA s{n}"));
                    }
                })
            })
            .collect();
        while !at_work.iter().all(|w| w.is_finished()) {
            assert_eq!(steady(&mut client), before);
            client.exec("SELECT * FROM wh.snapshot_usage()");
            client
                .exec("SELECT * FROM wh.schema_sizes; SELECT * FROM wh.relation_sizes; SELECT * FROM wh.my_relations");
        }
    });
    wait_until_alike(&mut client, NOW, TRUTH);
}

#[test]
fn a_table_that_is_rewritten_weighs_something_all_the_time() {
    let place = Place::new("rewritten");
    let mut client = place.client();
    client.exec("CREATE TABLE ana.big AS SELECT n, repeat('x', 500) AS t FROM generate_series(1, 20000) n");
    let bytes: u64 = client.value("SELECT pg_relation_size('ana.big')").parse().expect("a number");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _done = Done(&done);
        let mut other = place.client();
        let done = &done;
        scope.spawn(move || {
            while !done.load(Ordering::SeqCst) {
                other.exec("VACUUM FULL ana.big");
            }
        });
        for _ in 0..20 {
            let now: u64 = client
                .value("SELECT total_bytes FROM wh.schema_sizes_now() WHERE schema = 'ana'")
                .parse()
                .expect("a number");
            assert!(now >= bytes, "{now} of {bytes}");
        }
    });
}

#[test]
fn what_is_not_committed_is_told_apart_and_is_its_schemas_afterwards() {
    let place = Place::new("uncommitted");
    let (mut client, mut other) = (place.client(), place.as_role("ana"));
    let uncommitted = "SELECT coalesce(sum(total_bytes), 0) FROM wh.schema_sizes_now() WHERE schema = '(uncommitted)'";
    let ana = "SELECT total_bytes FROM wh.schema_sizes_now() WHERE schema = 'ana'";
    assert_eq!(client.value(uncommitted), "0");
    other.exec("BEGIN; CREATE TABLE ana.big AS SELECT n, repeat('x', 100) AS t FROM generate_series(1, 50000) n; CREATE INDEX ON ana.big (n)");
    let bytes = other.value("SELECT pg_total_relation_size('ana.big')");
    assert!(bytes.parse::<u64>().is_ok_and(|b| b > 5_000_000), "{bytes}");
    // The TOAST table's index has a page, too.
    assert_eq!(client.value(uncommitted), bytes);
    assert_eq!(client.value(ana), "0");
    // To its own session it is there.
    assert_eq!(other.value(ana), bytes);
    other.exec("COMMIT");
    assert_eq!(client.table(&format!("{uncommitted} UNION ALL ({ana})")), format!("0\n{bytes}"));
    other.exec("BEGIN; CREATE TABLE ana.more AS TABLE ana.big; ROLLBACK");
    assert_eq!(client.table(&format!("{uncommitted} UNION ALL ({ana})")), format!("0\n{bytes}"));
    // Nobody knows when a prepared transaction began.
    client
        .exec("BEGIN; CREATE TABLE ana.prepared AS SELECT generate_series(1, 1000); PREPARE TRANSACTION 'uncommitted'");
    assert!(client.value(uncommitted).parse::<u64>().is_ok_and(|b| b > 0));
    client.exec("ROLLBACK PREPARED 'uncommitted'");
    assert_eq!(client.value(uncommitted), "0");
}

#[test]
fn a_file_that_a_crash_left_is_told_apart_from_one_that_somebody_may_be_writing() {
    let place = Place::new("orphans");
    let (mut client, mut other) = (place.client(), place.client());
    let told = "SELECT schema, owner, total_bytes, relations FROM wh.schema_sizes_now() WHERE schema ~ 'orphan|uncomm'";
    // What may come back with a ROLLBACK is no orphan.
    client.exec("CREATE TABLE ana.old AS SELECT n FROM generate_series(1, 100) n");
    client.exec("BEGIN; DROP TABLE ana.old");
    assert_eq!(client.table(told), "(uncommitted)||8192|0");
    client.exec("COMMIT");
    assert_eq!(client.table(told), "");
    let directory = client.value("SELECT current_setting('data_directory') || '/base/' || oid FROM pg_database WHERE datname = current_database()");
    other.exec("BEGIN; SELECT 1");
    // A line of 8191 bytes and its end.
    client.exec(&format!("COPY (SELECT repeat('x', 8191)) TO '{directory}/4000000000'"));
    assert_eq!(client.table(told), "(uncommitted)||8192|0");
    other.exec("COMMIT");
    // Other tests have transactions as well.
    wait_until("no transaction is older than the file", || client.table(told) == "(orphaned)||8192|0");
    client.exec("SELECT * FROM wh.snapshot_usage()");
    assert_eq!(
        client.table("SELECT schema, total_bytes FROM wh.schema_sizes WHERE schema = '(orphaned)'"),
        "(orphaned)|8192"
    );
}

#[test]
fn temporary_tables_are_their_owners() {
    let place = Place::new("temporary");
    let (mut client, mut ana, mut ben) = (place.client(), place.as_role("ana"), place.as_role("ben"));
    ana.exec("CREATE TEMP TABLE a (id int PRIMARY KEY, t text); ALTER TABLE a ALTER t SET STORAGE EXTERNAL; INSERT INTO a SELECT n, repeat('x', 5000) FROM generate_series(1, 500) n");
    ben.exec("CREATE TEMP TABLE a AS SELECT generate_series(1, 10000) AS id; CREATE TEMP TABLE b AS TABLE a");
    let bytes = [
        ana.value("SELECT pg_total_relation_size('a')"),
        ben.value("SELECT pg_total_relation_size('a') + pg_total_relation_size('b')"),
    ];
    let expected = format!("(temporary)|ana|{}|1\n(temporary)|ben|{}|2", bytes[0], bytes[1]);
    let told = "SELECT schema, owner, total_bytes, relations FROM wh.schema_sizes_now() WHERE schema = '(temporary)' ORDER BY owner";
    assert_eq!(client.table(told), expected);
    client.exec("SELECT * FROM wh.snapshot_usage()");
    assert_eq!(client.table(&told.replace("_now()", "")), expected);
    assert_eq!(
        client.table("SELECT split_part(relation, '.', 2), kind, owner, schema FROM wh.relation_sizes WHERE schema = '(temporary)' ORDER BY owner, 1"),
        "a|temporary table|ana|(temporary)\na|temporary table|ben|(temporary)\nb|temporary table|ben|(temporary)"
    );
    assert_eq!(client.table("SELECT schema FROM wh.schema_sizes_now() WHERE schema ~ '^pg_(toast|temp)'"), "");
    assert_eq!(
        ana.value("SELECT kind FROM wh.my_relations WHERE relation ~ '^pg_temp_[0-9]+[.]a$'"),
        "temporary table"
    );
    drop(ana);
    wait_until("her tables have gone with her session", || client.table(told).starts_with("(temporary)|ben"));
}
