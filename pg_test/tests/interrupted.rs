//! A run that is ended half way leaves the warehouse as it was, and its record says so.
//!
//! Whether it is as it was, pg_dump says, and the catalogs' own numbers.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pg_test::cluster::{kill9, signal};
use pg_test::{wait_until, ClientExt, Pair};
use postgres::Client;

const PRODUCT: &str = "
    CREATE TYPE plan AS ENUM ('free', 'pro');
    CREATE TABLE users (id int PRIMARY KEY, email text, plan plan);
    CREATE TABLE orders (id int PRIMARY KEY, user_id int, note text);
    INSERT INTO users SELECT g, 'u' || g || '@example.org', 'free' FROM generate_series(1, 20) g";

/// The function is a gate: while somebody holds the lock, the refresh of the view waits.
const ANA: &str = "
    CREATE FUNCTION ana.gate() RETURNS boolean LANGUAGE plpgsql AS
      $$ BEGIN PERFORM pg_advisory_lock_shared(42); PERFORM pg_advisory_unlock_shared(42); RETURN true; END $$;
    CREATE VIEW ana.emails WITH (security_barrier) AS SELECT id, email FROM app.users;
    CREATE VIEW ana.notes AS SELECT id, note FROM app.orders;
    CREATE MATERIALIZED VIEW ana.plans AS SELECT max(id) AS id, plan FROM app.users WHERE ana.gate() GROUP BY plan;
    CREATE UNIQUE INDEX ON ana.plans (plan);
    GRANT USAGE ON SCHEMA ana TO ben;
    GRANT SELECT ON ana.emails, ana.notes, ana.plans TO ben";

/// Of everything that a run can do, something.
const MIGRATION: &str = "
    ALTER TYPE plan ADD VALUE 'team' BEFORE 'pro';
    ALTER TABLE users RENAME email TO mail;
    ALTER TABLE users ALTER id TYPE bigint;
    ALTER TABLE orders RENAME TO purchases;
    ALTER TABLE purchases DROP note;
    CREATE TABLE coupons (code text)";

fn fixture(name: &str) -> Pair {
    let pair = Pair::apart(name, &[]);
    pair.product().exec(PRODUCT);
    pair.create_fdw();
    pair.warehouse_as("ana").exec(ANA);
    pair.warehouse_as("ben").exec("CREATE VIEW ben.mails AS SELECT email FROM ana.emails");
    pair.product().exec(MIGRATION);
    pair
}

/// All that a dump carries but the records of the runs, and what it does not say.
fn state(pair: &Pair) -> String {
    let records = ["--exclude-table-data=wh.fdw_run", "--exclude-table-data=wh.fdw_run_id_seq"];
    let dump = pair.warehouse_cluster().dump(&pair.warehouse_database(), &records).expect("a dump");
    // Newer ones begin and end with a key that is another one each time.
    let dump: Vec<&str> =
        dump.lines().filter(|l| !l.starts_with("\\restrict") && !l.starts_with("\\unrestrict")).collect();
    let numbers = pair.warehouse().table(
        "SELECT 'class', oid::text, relname::text, relfilenode::text FROM pg_class
         UNION ALL SELECT 'type', oid::text, typname, typrelid::text FROM pg_type
         UNION ALL SELECT 'label', oid::text, enumlabel, enumtypid::text FROM pg_enum
         UNION ALL SELECT 'uses', objid::text, classid::regclass::text, string_agg(format('%s.%s', refobjid, refobjsubid), ' '
           ORDER BY refobjid, refobjsubid) FROM pg_depend GROUP BY objid, classid
         ORDER BY 1, 2, 3, 4",
    );
    format!("{}\n{numbers}", dump.join("\n"))
}

/// A run in the background, with the session that it is in.
type Run = JoinHandle<(Result<(), postgres::Error>, Client)>;

/// Begins a run; returns it and its backend's process.
fn begin(pair: &Pair, before: &str) -> (Run, u32) {
    let mut deploy = pair.warehouse_as("deploy");
    let pid = deploy.pid();
    deploy.exec(before);
    let run = std::thread::spawn(move || (deploy.batch_execute("SELECT * FROM wh.recreate_fdw('app')"), deploy));
    (run, pid)
}

/// How it ended.
fn end(run: Run) -> Result<(), postgres::Error> {
    run.join().expect("a thread").0
}

/// A place in a run, and what makes it stop there.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Another session has the registration.
    Registration,
    /// Another session of the product has a catalog, between two that the run reads.
    Catalog,
    /// A reader has a table that is to change.
    Locks,
    /// All is changed; a materialized view is being filled.
    Refresh,
}

const PLACES: [Place; 4] = [Place::Registration, Place::Catalog, Place::Locks, Place::Refresh];

impl Place {
    fn hold(self, pair: &Pair) -> Client {
        let (mut client, sql) = match self {
            Place::Registration => (pair.warehouse(), "BEGIN; SELECT FROM wh.fdw FOR UPDATE"),
            Place::Catalog => (pair.product(), "BEGIN; LOCK TABLE pg_enum"),
            Place::Locks => (pair.warehouse_as("ben"), "BEGIN; SELECT FROM ben.mails"),
            Place::Refresh => (pair.warehouse(), "SELECT pg_advisory_lock(42)"),
        };
        client.exec(sql);
        client
    }

    fn wait_for(self, pair: &Pair, pid: u32) {
        let (mut client, who, waits) = match self {
            Place::Registration => (pair.warehouse(), format!("pid = {pid}"), "'transactionid', 'tuple'"),
            Place::Catalog => (pair.product(), "usename = 'wh_reader'".to_owned(), "'relation'"),
            Place::Locks => (pair.warehouse(), format!("pid = {pid}"), "'Extension', 'relation'"),
            Place::Refresh => (pair.warehouse(), format!("pid = {pid}"), "'advisory'"),
        };
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE {who} AND wait_event IN ({waits})");
        wait_until(&format!("the run is at {self:?}"), || client.value(&sql) == "1");
    }
}

/// Status and SQLSTATE of the newest run.
fn newest(pair: &Pair) -> String {
    pair.warehouse().table("SELECT action, status, sqlstate FROM wh.fdw_runs ORDER BY run DESC LIMIT 1")
}

/// Kills a backend. The postmaster then ends all others and recovers from the log, as after a power failure.
fn kill_backend(pair: &Pair, pid: u32) {
    let cluster = pair.warehouse_cluster();
    let starts = || cluster.log().matches("database system is ready to accept connections").count();
    let before = starts();
    kill9(pid).expect("a kill");
    wait_until("the warehouse has recovered", || {
        starts() > before && cluster.connect(&pair.warehouse_database()).is_ok()
    });
}

/// After whatever happened, a run does all of it.
fn succeeds(pair: &Pair) {
    let done = pair.recreate_fdw();
    for expected in ["app.plan added value", "app.users.id retyped", "app.purchases renamed", "app.coupons created"] {
        assert!(done.iter().any(|c| format!("{} {}", c.object, c.action) == expected), "{expected} in {done:?}");
    }
    assert_eq!(newest(pair), "recreate_fdw|succeeded|");
    assert_eq!(pair.warehouse_as("ben").value("SELECT count(*) FROM ben.mails"), "20");
    assert_eq!(pair.warehouse_as("ben").error("SELECT * FROM ana.notes").code().code(), "55000");
    assert_eq!(pair.recreate_fdw(), []);
}

#[test]
fn a_killed_backend_leaves_everything_as_it_was() {
    let pair = fixture("killed");
    let before = state(&pair);
    for place in PLACES {
        let holder = place.hold(&pair);
        let (run, pid) = begin(&pair, "");
        place.wait_for(&pair, pid);
        kill_backend(&pair, pid);
        assert!(end(run).is_err(), "{place:?}: the run outlived its backend");
        drop(holder);
        assert_eq!(newest(&pair), "recreate_fdw|aborted|", "{place:?}");
        assert_eq!(state(&pair), before, "{place:?}");
    }
    // All is done and not committed.
    let mut deploy = pair.warehouse_as("deploy");
    deploy.exec("BEGIN; SELECT * FROM wh.recreate_fdw('app')");
    kill_backend(&pair, deploy.pid());
    assert_eq!(newest(&pair), "recreate_fdw|aborted|");
    assert_eq!(state(&pair), before);
    assert!(pair.warehouse_cluster().log().contains("all server processes terminated; reinitializing"));
    succeeds(&pair);
    assert_ne!(state(&pair), before);
}

#[test]
fn a_backend_killed_at_any_moment_leaves_everything_as_it_was() {
    let pair = fixture("any_moment");
    let before = state(&pair);
    let mut deploy = pair.warehouse_as("deploy");
    let begun = Instant::now();
    deploy.exec("BEGIN; SELECT * FROM wh.recreate_fdw('app'); ROLLBACK");
    let length = begun.elapsed();
    let records = |pair: &Pair| pair.warehouse().value("SELECT count(*) FROM wh.fdw_runs WHERE status = 'aborted'");
    let mut aborted = 1;
    assert_eq!(records(&pair), "1");
    const TIMES: u32 = 24;
    for n in 0..TIMES {
        // The run is spread over all of its length; the machine adds chance enough.
        let (run, pid) = begin(&pair, "BEGIN");
        let begun = Instant::now();
        while begun.elapsed() < length * n / TIMES {
            std::hint::spin_loop();
        }
        kill_backend(&pair, pid);
        // One that was through had not committed yet.
        let _ = end(run);
        let now: u32 = records(&pair).parse().expect("a number");
        // Killed before its record was there, there is none.
        assert!((aborted..=aborted + 1).contains(&now), "{aborted} aborted runs became {now}");
        aborted = now;
        assert_eq!(state(&pair), before, "killed after {n}/{TIMES} of {length:?}");
        assert_eq!(pair.warehouse().value("SELECT count(*) FROM wh.fdw_runs WHERE status = 'running'"), "0");
    }
    assert!(aborted > TIMES / 2, "only {aborted} of the runs had begun when they were killed");
    succeeds(&pair);
}

#[test]
fn a_terminated_or_cancelled_run_ends_at_once_and_leaves_everything_as_it_was() {
    let pair = fixture("cancelled");
    let before = state(&pair);
    let mut admin = pair.warehouse();
    for place in PLACES {
        for (by, record) in [("pg_cancel_backend", "failed|57014"), ("pg_terminate_backend", "aborted|")] {
            let _holder = place.hold(&pair);
            let (run, pid) = begin(&pair, "");
            place.wait_for(&pair, pid);
            let asked = Instant::now();
            assert_eq!(admin.value(&format!("SELECT {by}({pid})")), "t");
            let error = end(run).expect_err("the run went on");
            // What it waited for is held still; max_wait is five minutes.
            assert!(asked.elapsed() < Duration::from_secs(20), "{place:?} {by}: {:?}", asked.elapsed());
            // The client may see the connection closed before it has read why.
            let code = error.code().map_or("closed", |c| c.code());
            let expected: &[&str] = if by == "pg_cancel_backend" { &["57014"] } else { &["57P01", "closed"] };
            assert!(expected.contains(&code), "{place:?} {by}: {error:?}");
            assert_eq!(newest(&pair), format!("recreate_fdw|{record}"), "{place:?} {by}");
            assert_eq!(state(&pair), before, "{place:?} {by}");
        }
    }
    let _holder = Place::Locks.hold(&pair);
    let mut deploy = pair.warehouse_as("deploy");
    deploy.exec("SET statement_timeout = '300ms'");
    let error = deploy.error("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(error.code().code(), "57014", "{error:?}");
    let record =
        admin.table("SELECT status, error, attempts > 1, waited > '0' FROM wh.fdw_runs ORDER BY run DESC LIMIT 1");
    assert_eq!(record, "failed|canceling statement due to statement timeout|t|t");
    assert_eq!(state(&pair), before);
    drop(_holder);
    succeeds(&pair);
}

#[test]
fn a_cancel_that_comes_with_the_timeout_of_a_lock_is_not_forgotten() {
    let pair = fixture("coincidence");
    let before = state(&pair);
    let mut admin = pair.warehouse();
    for _ in 0..5 {
        let _holder = Place::Refresh.hold(&pair);
        let (run, pid) = begin(&pair, "");
        Place::Refresh.wait_for(&pair, pid);
        // It waits for a lock, 20 ms at most. Stopped for longer than that, it finds both when it goes on.
        signal("STOP", pid).expect("a session that stands still");
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(admin.value(&format!("SELECT pg_cancel_backend({pid})")), "t");
        signal("CONT", pid).expect("a session that goes on");
        let asked = Instant::now();
        let error = end(run).expect_err("the run went on");
        assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
        assert_eq!(error.code().map(|c| c.code()), Some("57014"), "{error:?}");
        assert_eq!(newest(&pair), "recreate_fdw|failed|57014");
        assert_eq!(state(&pair), before);
    }
}

#[test]
fn a_product_that_goes_down_half_way_leaves_everything_as_it_was() {
    let mut pair = fixture("down");
    let before = state(&pair);
    for place in [Place::Registration, Place::Catalog, Place::Locks, Place::Refresh] {
        let holder = place.hold(&pair);
        let (run, pid) = begin(&pair, "");
        place.wait_for(&pair, pid);
        pair.own_product().crash().expect("a crash");
        drop(holder);
        let error = end(run).expect_err("a run without a product");
        let code = error.code().map(|c| c.code().to_owned()).unwrap_or_default();
        assert!(code.starts_with("08") || code == "57P02", "{place:?}: {error:?}");
        pair.own_product().restart().expect("a restart");
        assert_ne!(newest(&pair), "recreate_fdw|succeeded|", "{place:?}");
        assert_eq!(state(&pair), before, "{place:?}");
    }
    succeeds(&pair);
}

#[test]
fn a_record_says_succeeded_exactly_where_all_is_done() {
    let pair = fixture("exactly");
    let before = state(&pair);
    let mut deploy = pair.warehouse_as("deploy");
    let begun = Instant::now();
    deploy.exec("BEGIN; SELECT * FROM wh.recreate_fdw('app'); ROLLBACK");
    let length = begun.elapsed();
    // Later and later, until one is through before it is killed.
    for n in 1.. {
        let (run, pid) = begin(&pair, "");
        let begun = Instant::now();
        while begun.elapsed() < length / 2 + length * n / 16 {
            std::hint::spin_loop();
        }
        kill_backend(&pair, pid);
        let told = end(run).is_ok();
        if newest(&pair) == "recreate_fdw|succeeded|" {
            assert_ne!(state(&pair), before);
            assert_eq!(pair.recreate_fdw(), [], "killed after {:?} of {length:?}", length / 2 + length * n / 16);
            break;
        }
        assert!(!told, "a run that was told to have succeeded is gone");
        assert_eq!(newest(&pair), "recreate_fdw|aborted|");
        assert_eq!(state(&pair), before);
    }
}
