//! What failed, was cancelled, timed out or ended with its session counts with the time that it took.

use std::time::{Duration, Instant};

use pg_test::usage::{connect, server, used, wait_until_gone, Used};
use pg_test::{wait_until, Client, ClientExt, Cluster};

/// A server, once as it is set up by default, and once where no error reaches its log.
fn servers(name: &str) -> [Cluster; 2] {
    [server(name, "startup_wh", &[]), server(&format!("{name}_silent"), "startup_wh", &[("log_min_messages", "panic")])]
}

/// Runs a statement in a session of `ana`'s for two seconds and has a function of the server's stop it. Returns what that
/// used, with the session's question for its process, and how long it took at least, by our own clock.
#[track_caller]
fn stopped(cluster: &Cluster, statement: &str, stop: &str) -> (Used, Duration) {
    let mut admin = connect(cluster, "postgres");
    let before = used(&mut admin, "ana");
    let mut c = connect(cluster, "ana");
    let pid = c.pid();
    let query = statement.to_owned();
    let running = std::thread::spawn(move || {
        c.simple_query(&query).expect_err("it is stopped");
    });
    // From here on it runs, by what the server says of it.
    wait_until("it runs", || {
        admin.value(&format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND state = 'active' AND wait_event IS NOT NULL"
        )) == "1"
    });
    let begun = Instant::now();
    wait_until("two seconds have passed", || begun.elapsed() > Duration::from_secs(2));
    let least = begun.elapsed();
    admin.exec(&format!("SELECT {stop}({pid})"));
    running.join().expect("the session has ended");
    wait_until_gone(&mut admin, "ana");
    (used(&mut admin, "ana").since(before), least)
}

fn assert_cancelled((found, least): (Used, Duration), what: &str) {
    assert_eq!((found.calls, found.cancels + found.errors), (2, 1), "{what}: {found:?}");
    let least = least.as_secs_f64() * 1000.0;
    assert!(found.time >= least && found.time < 10.0 * least, "{what}: {found:?}, at least {least} ms");
}

#[test]
fn a_query_that_is_cancelled_after_two_seconds_adds_two_seconds_and_a_cancel() {
    let [cluster, silent] = servers("usage_cancelled");
    let found = stopped(&cluster, "SELECT pg_sleep(600)", "pg_cancel_backend");
    assert_eq!(found.0.cancels, 1);
    assert_cancelled(found, "a query");
    let found = stopped(
        &cluster,
        "DO $$ BEGIN PERFORM 1; COMMIT; BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN division_by_zero THEN NULL; END; END $$",
        "pg_cancel_backend",
    );
    assert_eq!(found.0.cancels, 1);
    assert_cancelled(found, "a block with COMMIT");
    // Nobody says there what kind of error it was.
    let found = stopped(&silent, "SELECT pg_sleep(600)", "pg_cancel_backend");
    assert_eq!(found.0.errors, 1);
    assert_cancelled(found, "a query whose errors are not logged");
}

#[test]
fn a_session_that_is_killed_counts_what_it_was_doing() {
    for cluster in servers("usage_killed") {
        let found = stopped(&cluster, "SELECT pg_sleep(600)", "pg_terminate_backend");
        assert_eq!(found.0.cancels, 1);
        assert_cancelled(found, "a query");
    }
}

#[test]
fn waits_for_locks_count_before_anything_is_planned() {
    let [cluster, silent] = servers("usage_locks");
    for (cluster, logged) in [(cluster, true), (silent, false)] {
        let mut admin = connect(&cluster, "postgres");
        admin.exec("CREATE TABLE locked (); GRANT SELECT ON locked TO ana");
        admin.exec("BEGIN; LOCK TABLE locked");
        let found = stopped(&cluster, "SELECT * FROM locked", "pg_cancel_backend");
        assert_eq!(found.0.cancels, i64::from(logged));
        assert_cancelled(found, "a wait that is cancelled");
        let found = stopped(&cluster, "SELECT * FROM locked", "pg_terminate_backend");
        assert_eq!(found.0.cancels, 1);
        assert_cancelled(found, "a wait that is ended");
    }
}

#[test]
fn the_first_statement_of_a_session_counts_though_it_never_began() {
    let cluster = server("usage_first", "startup_wh", &[]);
    let mut admin = connect(&cluster, "postgres");
    admin.exec("CREATE TABLE locked (); GRANT SELECT ON locked TO ana");
    admin.exec("BEGIN; LOCK TABLE locked");
    let mut looks = connect(&cluster, "postgres");
    for stop in ["pg_cancel_backend", "pg_terminate_backend"] {
        let before = used(&mut looks, "ana");
        let mut c = connect(&cluster, "ana");
        let first = std::thread::spawn(move || c.simple_query("SELECT * FROM locked").expect_err("it is stopped"));
        let active = "FROM pg_stat_activity WHERE usename = 'ana' AND wait_event_type = 'Lock'";
        wait_until("it waits", || looks.value(&format!("SELECT count(*) {active}")) == "1");
        wait_until("it has waited for a while", || used(&mut looks, "ana").since(before).time > 500.0);
        looks.exec(&format!("SELECT {stop}(pid) {active}"));
        first.join().expect("an error");
        wait_until_gone(&mut looks, "ana");
        let found = used(&mut looks, "ana").since(before);
        assert_eq!((found.calls, found.errors, found.cancels), (1, 0, 1), "{stop}: {found:?}");
        assert!(found.time > 500.0, "{stop}: {found:?}");
    }
    let before = used(&mut looks, "ben");
    connect(&cluster, "ben").simple_query("SELEC").expect_err("no statement");
    wait_until_gone(&mut looks, "ben");
    let found = used(&mut looks, "ben").since(before);
    assert_eq!((found.calls, found.errors, found.cancels), (1, 1, 0), "{found:?}");
}

#[test]
fn a_statement_that_times_out_is_cancelled_and_one_inside_a_function_too() {
    let cluster = server("usage_timeout", "startup_wh", &[]);
    let mut admin = connect(&cluster, "postgres");
    let mut c = connect(&cluster, "ana");
    c.exec(
        "CREATE FUNCTION fails_late() RETURNS int LANGUAGE plpgsql AS $$
           BEGIN PERFORM pg_sleep(0.4); PERFORM 1 / 0; RETURN 1; END $$;
         CREATE FUNCTION sleeps() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); END $$;
         SET statement_timeout = '400ms'",
    );
    let mut uses = |c: &mut Client, statement: &str, code: &str| {
        let before = used(&mut admin, "ana");
        assert_eq!(c.error(statement).code().code(), code);
        let found = used(&mut admin, "ana").since(before);
        assert!(found.time >= 390.0, "{statement}: {found:?}");
        (found.calls, found.errors, found.cancels)
    };
    assert_eq!(uses(&mut c, "SELECT pg_sleep(600)", "57014"), (1, 0, 1));
    assert_eq!(uses(&mut c, "SELECT sleeps()", "57014"), (1, 0, 1));
    assert_eq!(uses(&mut c, "DO 'BEGIN PERFORM sleeps(); END'", "57014"), (1, 0, 1));
    c.exec("SET statement_timeout = 0");
    assert_eq!(uses(&mut c, "SELECT fails_late()", "22012"), (1, 1, 0));
}

#[test]
fn a_session_that_is_idle_counts_nothing_however_it_ends() {
    let cluster = server("usage_idle", "startup_wh", &[]);
    let mut admin = connect(&cluster, "postgres");
    for (begin, end) in [
        ("SELECT 1", "pg_terminate_backend"),
        ("BEGIN; SELECT 1; SELECT 2", "pg_terminate_backend"),
        ("BEGIN; SELECT 1; SELECT 2", ""),
        ("BEGIN; SELECT 1; SET idle_in_transaction_session_timeout = '700ms'", ""),
    ] {
        let before = used(&mut admin, "ana");
        let mut c = connect(&cluster, "ana");
        let statements = begin.split(';').count() as i64;
        c.exec(begin);
        let idle = Instant::now();
        wait_until("it was idle for a while", || idle.elapsed() > Duration::from_millis(600));
        match end {
            "" if begin.contains("timeout") => {}
            "" => drop(c),
            end => admin.exec(&format!("SELECT {end}(pid) FROM pg_stat_activity WHERE usename = 'ana'")),
        }
        wait_until_gone(&mut admin, "ana");
        let found = used(&mut admin, "ana").since(before);
        assert_eq!((found.calls, found.errors, found.cancels), (statements, 0, 0), "{begin} {end}: {found:?}");
        assert!(found.time < 500.0, "{begin} {end}: {found:?}");
    }
}

#[test]
fn what_the_server_does_for_an_idle_session_counts_nothing() {
    use postgres::fallible_iterator::FallibleIterator;
    let cluster = server("usage_listens", "startup_wh", &[]);
    let mut admin = connect(&cluster, "postgres");
    let mut c = connect(&cluster, "ana");
    c.exec("LISTEN news");
    let since = "SELECT EXTRACT(epoch FROM state_change)::text FROM pg_stat_activity WHERE usename = 'ana'";
    let at = admin.value(since);
    let before = used(&mut admin, "ana");
    let idle = Instant::now();
    wait_until("it was idle for a while", || idle.elapsed() > Duration::from_millis(600));
    // The listener begins and commits a transaction of its own to read it (ProcessIncomingNotify, src/backend/commands/async.c).
    admin.exec("NOTIFY news, 'today'");
    let heard =
        c.notifications().timeout_iter(Duration::from_secs(60)).next().expect("it came").expect("a notification");
    assert_eq!(heard.payload(), "today");
    assert_eq!(admin.value(since), at, "it was idle all the time");
    let found = used(&mut admin, "ana").since(before);
    assert_eq!((found.calls, found.running), (0, 0), "{found:?}");
    assert!(found.time < 500.0, "{found:?}");
}

#[test]
fn parallel_workers_add_their_cpu_and_nothing_else() {
    let settings = [("max_parallel_workers_per_gather", "2"), ("min_parallel_table_scan_size", "0")];
    let cluster = server("usage_parallel", "startup_wh", &settings);
    let mut admin = connect(&cluster, "postgres");
    let mut c = connect(&cluster, "ana");
    c.exec("CREATE TABLE t AS SELECT n FROM generate_series(1, 300000) n; ANALYZE t; SET work_mem = '64MB'; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0");
    let query = "SELECT sum(sqrt(n) * sqrt(n + 1)) FROM t, generate_series(1, 4)";
    let plan = c.table(&format!("EXPLAIN (ANALYZE, COSTS off) {query}"));
    assert!(plan.contains("Workers Launched: 2"), "{plan}");
    let before = used(&mut admin, "ana");
    c.exec(query);
    let with = used(&mut admin, "ana").since(before);
    c.exec("SET max_parallel_workers_per_gather = 0");
    let before = used(&mut admin, "ana");
    c.exec(query);
    let without = used(&mut admin, "ana").since(before);
    assert_eq!((with.calls, with.rows, without.calls, without.rows), (1, 1, 1, 1));
    // The leader alone would have done a third of it.
    assert!(with.cpu > without.cpu * 0.7, "{with:?} {without:?}");
    assert!(with.blocks >= 300_000 / 226, "{with:?}");
    // CREATE INDEX has workers of its own kind.
    c.exec("SET max_parallel_maintenance_workers = 2; CREATE INDEX ON t (n)");
}
