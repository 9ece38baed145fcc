//! wh.my_relations: what is one's own, when it was last used, and what could go.

use pg_test::sizes::Place;
use pg_test::{jobs, wait_until, warehouse, Client, ClientExt};

/// As if what is stored had been seen so many days earlier than it was.
fn age(client: &mut Client, days: u32) {
    client.exec(&format!(
        "UPDATE wh.relation_size SET first_seen = first_seen - interval '{days} days', last_read = last_read - interval '{days} days',
                                     last_written = last_written - interval '{days} days'"
    ));
}

/// Hands what a session has counted to the server.
fn flush(client: &mut Client) {
    client.exec("SELECT pg_stat_force_next_flush()");
    client.exec("SELECT 1");
}

fn snapshot(client: &mut Client) {
    client.exec("SELECT * FROM wh.snapshot_usage()");
}

/// Whether each relation of ana's was read and written within the last ten days.
const USED: &str = "SELECT relation, last_read > now() - interval '10 days', last_written > now() - interval '10 days'
    FROM wh.my_relations ORDER BY 1";

#[test]
fn a_read_and_a_write_are_noticed_and_their_dates_kept() {
    let place = Place::new("dates");
    let (mut client, mut ana) = (place.client(), place.as_role("ana"));
    ana.exec(
        "CREATE TABLE ana.t (id int PRIMARY KEY); INSERT INTO ana.t SELECT generate_series(1, 1000);
              CREATE TABLE ana.u AS TABLE ana.t; CREATE MATERIALIZED VIEW ana.m AS SELECT 1 AS one",
    );
    flush(&mut ana);
    snapshot(&mut client);
    age(&mut client, 100);
    let nothing = "ana.m||f\nana.t|f|f\nana.t_pkey||\nana.u||f";
    assert_eq!(ana.table(USED), nothing);
    snapshot(&mut client);
    assert_eq!(ana.table(USED), nothing, "nobody did anything");
    // An index is read, and so its table is.
    ana.exec("SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT * FROM ana.t WHERE id = 7; RESET ALL");
    ana.exec("SELECT * FROM ana.m");
    ana.exec("INSERT INTO ana.u VALUES (1)");
    flush(&mut ana);
    snapshot(&mut client);
    assert_eq!(ana.table(USED), "ana.m|t|f\nana.t|t|f\nana.t_pkey|t|\nana.u||t");
    // Counters that begin anew are no use, and what they count from then on is.
    age(&mut client, 100);
    client.exec("SELECT pg_stat_reset()");
    snapshot(&mut client);
    assert_eq!(ana.table(USED), "ana.m|f|f\nana.t|f|f\nana.t_pkey|f|\nana.u||f");
    ana.exec("SELECT * FROM ana.u");
    flush(&mut ana);
    snapshot(&mut client);
    assert_eq!(ana.table(USED), "ana.m|f|f\nana.t|f|f\nana.t_pkey|f|\nana.u|t|f");
    ana.exec("ANALYZE ana.t, ana.m");
    assert_eq!(ana.table("SELECT relation, kind, index_of, rows, bytes > 0, days_unused, as_of <= now() FROM wh.my_relations WHERE relation ~ '[.](t|t_pkey|m)$' ORDER BY 1"),
        "ana.m|materialized view||1|t|100|t\nana.t|table||1000|t|100|t\nana.t_pkey|index|ana.t||t|100|t");
}

#[test]
fn only_what_nobody_has_read_for_so_long_has_a_line_that_drops_it() {
    let place = Place::new("unused");
    let (mut client, mut ana) = (place.client(), place.as_role("ana"));
    ana.exec(
        r#"CREATE TABLE ana."Año ""1"" ;" (id int, n int); CREATE INDEX ON ana."Año ""1"" ;" (n);
           CREATE TABLE ana.read (id int, n int); INSERT INTO ana.read VALUES (1, 2);
           CREATE MATERIALIZED VIEW ana.m AS SELECT 1 AS one; CREATE TABLE ana.written (id int);
           CREATE TABLE ana.events (id int) PARTITION BY LIST (id); CREATE TABLE ana.events_1 PARTITION OF ana.events FOR VALUES IN (1);
           CREATE TEMP TABLE mine (id int)"#,
    );
    flush(&mut ana);
    snapshot(&mut client);
    let drops =
        |ana: &mut Client| ana.table(r#"SELECT "drop" FROM wh.my_relations WHERE "drop" IS NOT NULL ORDER BY 1"#);
    assert_eq!(drops(&mut ana), "", "just made");
    age(&mut client, 89);
    assert_eq!(drops(&mut ana), "");
    age(&mut client, 2);
    ana.exec("SELECT * FROM ana.read");
    ana.exec("INSERT INTO ana.written VALUES (1)");
    flush(&mut ana);
    snapshot(&mut client);
    let lines = drops(&mut ana);
    let mut sorted: Vec<&str> = lines.lines().collect();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        [
            "DROP INDEX ana.\"Año \"\"1\"\" ;_n_idx\";",
            "DROP MATERIALIZED VIEW ana.m;",
            "DROP TABLE ana.\"Año \"\"1\"\" ;\";",
            "DROP TABLE ana.events;",
            "DROP TABLE ana.written;"
        ]
    );
    assert_eq!(
        ana.table("SELECT relation, days_unused, needed_by FROM wh.my_relations WHERE relation = 'ana.events_1'"),
        "ana.events_1|91|{\"partition of ana.events\"}"
    );
    // As the setting says, of whoever asks.
    ana.exec("SET startup_wh.unused_after = 92");
    assert_eq!(drops(&mut ana), "");
    ana.exec("RESET startup_wh.unused_after");
    // Who counts nothing knows nothing.
    client.exec("SET track_counts = off");
    snapshot(&mut client);
    client.exec("RESET track_counts");
    assert_eq!(drops(&mut ana), "");
    client.exec("UPDATE wh.size_snapshot SET watched_since = NULL");
    // They do what they say.
    for line in sorted {
        ana.exec(line);
    }
    assert_eq!(drops(&mut ana), "");
}

#[test]
fn what_something_stands_on_has_no_such_line_and_says_what_it_is() {
    let place = Place::new("needed");
    let (mut client, mut ana) = (place.client(), place.as_role("ana"));
    ana.exec(
        "CREATE TABLE ana.t (id int PRIMARY KEY, n int UNIQUE, during int4range, EXCLUDE USING gist (during WITH &&)); CREATE INDEX plain ON ana.t (n);
         CREATE VIEW ana.v AS SELECT n FROM ana.t; CREATE TABLE ana.child (t int REFERENCES ana.t);
         CREATE TABLE ana.shape (a int, CHECK (a > 0), b int GENERATED ALWAYS AS (a + 1) STORED)",
    );
    ana.exec(
        "CREATE TABLE ana.holds (s ana.shape); CREATE FUNCTION ana.f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM ana.child; END;
         CREATE TABLE ana.old (a int); CREATE TABLE ana.new () INHERITS (ana.old);
         CREATE TABLE ana.alone (id int GENERATED ALWAYS AS IDENTITY, parent int, a int DEFAULT 1 CHECK (a > 0)); ALTER TABLE ana.alone ADD UNIQUE (id), ADD FOREIGN KEY (parent) REFERENCES ana.alone (id);
         CREATE POLICY own ON ana.alone USING (a > 1); CREATE MATERIALIZED VIEW ana.m AS SELECT 1 AS one",
    );
    ana.exec("SELECT wh.schedule_refresh('ana.m', '@yearly')");
    flush(&mut ana);
    snapshot(&mut client);
    age(&mut client, 200);
    assert_eq!(
        ana.table("SELECT relation, needed_by FROM wh.my_relations WHERE needed_by <> '{}' ORDER BY 1"),
        "ana.alone_id_key|{\"table constraint alone_parent_fkey on ana.alone\",\"unique: it keeps duplicates out\"}\n\
         ana.child|{\"function ana.f()\"}\n\
         ana.m|{\"job \\\"refresh ana.m\\\"\"}\n\
         ana.old|{\"table ana.new\"}\n\
         ana.shape|{\"table column ana.holds.s\"}\n\
         ana.t|{\"table constraint child_t_fkey on ana.child\",\"view ana.v\"}\n\
         ana.t_during_excl|{\"unique: it keeps duplicates out\"}\n\
         ana.t_n_key|{\"unique: it keeps duplicates out\"}\n\
         ana.t_pkey|{\"table constraint child_t_fkey on ana.child\",\"unique: it keeps duplicates out\"}"
    );
    // All others can go, in any order: Postgres refuses none of them.
    let lines = ana.table(r#"SELECT "drop" FROM wh.my_relations WHERE "drop" IS NOT NULL"#);
    assert_eq!(lines.lines().count(), 4, "{lines}");
    for line in lines.lines() {
        ana.exec(&format!("BEGIN; {line} ROLLBACK"));
    }
}

#[test]
fn everybody_sees_their_own_alone() {
    let place = Place::new("own");
    let mut client = place.client();
    let (mut ana, mut ben) = (place.as_role("ana"), place.as_role("ben"));
    ana.exec("CREATE TABLE ana.hers (id int PRIMARY KEY)");
    ben.exec("CREATE TABLE ben.his (id int)");
    snapshot(&mut client);
    let names = "SELECT relation FROM wh.my_relations ORDER BY 1";
    assert_eq!(ana.table(names), "ana.hers\nana.hers_pkey");
    assert_eq!(ben.table(names), "ben.his");
    // Also to a condition that tells what it sees.
    ben.exec(
        "CREATE TABLE ben.seen (t text); CREATE FUNCTION ben.peek(text) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS
              $$ BEGIN INSERT INTO ben.seen VALUES ($1); RETURN true; END $$",
    );
    snapshot(&mut client);
    ben.exec("SELECT * FROM wh.my_relations WHERE ben.peek(relation)");
    assert_eq!(ben.table("SELECT t FROM ben.seen ORDER BY 1"), "ben.his\nben.seen");
    // Whoever asks as another role is that one.
    client.exec("SET ROLE ana");
    assert_eq!(client.table(names), "ana.hers\nana.hers_pkey");
}

#[test]
fn a_crash_takes_no_date_away_and_makes_none_up() {
    let mut cluster = warehouse::cluster(
        "sizes_crash",
        &[("startup_wh.size_interval", "0"), ("autovacuum", "off"), ("synchronous_commit", "on")],
    );
    let mut client = warehouse::create(&cluster, "crash");
    client.exec("SET ROLE ana; CREATE TABLE ana.t AS SELECT 1 AS a; CREATE TABLE ana.u AS SELECT 1 AS a; RESET ROLE");
    for _ in 0..5 {
        client.exec("SELECT * FROM ana.t");
    }
    client.exec("SELECT * FROM ana.u");
    flush(&mut client);
    snapshot(&mut client);
    age(&mut client, 50);
    client.exec("CHECKPOINT");
    cluster.crash().expect("a crash");
    cluster.restart().expect("a start");
    let mut client = jobs::connect(&cluster, "crash");
    snapshot(&mut client);
    let mut ana = cluster.connect_as("crash", "ana", "ana secret").expect("a connection");
    assert_eq!(ana.table(USED), "ana.t|f|f\nana.u|f|f");
    // One read since, where one was counted before: it is not the one of then.
    ana.exec("SELECT * FROM ana.u");
    flush(&mut ana);
    snapshot(&mut client);
    wait_until("the read is noticed", || ana.table(USED) == "ana.t|f|f\nana.u|t|f");
}
