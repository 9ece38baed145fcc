//! Failures speak up and are tried again; what takes too long is stopped.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use pg_test::{wait_until, ClientExt, JobsExt, Warehouse};
use postgres::fallible_iterator::FallibleIterator;

/// Fails as often as it is told.
const FLAKY: &str = "CREATE SEQUENCE tried; CREATE TABLE works_at (n int);
    CREATE FUNCTION flaky() RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n bigint := nextval('tried'); BEGIN
      IF n < (SELECT w.n FROM works_at w) THEN RAISE 'attempt % fails', n; END IF; RETURN n; END $$";

#[test]
fn failures_are_tried_again_after_the_delay_and_counted() {
    let w = Warehouse::new("retried");
    let mut c = w.client();
    c.exec(&format!("{FLAKY}; INSERT INTO works_at VALUES (3)"));
    c.exec("SELECT wh.schedule('j', '@yearly', 'SELECT flaky()', max_retries => 4, retry_delay => '700 ms')");
    assert_eq!(c.table("SELECT status, error FROM wh.run_job('j')"), "failed|attempt 1 fails");
    assert_eq!(c.table("SELECT failures_in_a_row, next_run < now() + interval '1 s' FROM wh.jobs"), "1|t");
    c.wait_for("j", "succeeded");
    assert_eq!(
        c.table("SELECT attempt, trigger, status, error FROM wh.job_runs ORDER BY run"),
        "1|hand|failed|attempt 1 fails\n2|retry|failed|attempt 2 fails\n3|retry|succeeded|"
    );
    assert_eq!(
        c.value("SELECT bool_and(started - before BETWEEN '700 ms' AND '20 s') FROM (SELECT started, lag(finished) OVER (ORDER BY run) AS before FROM wh.job_runs) s WHERE before IS NOT NULL"),
        "t"
    );
    assert_eq!(
        c.value("SELECT count(DISTINCT scheduled_for) FROM wh.job_runs"),
        "1",
        "a retry makes up for the run that failed"
    );
    assert_eq!(c.table("SELECT runs_24h, failures_24h, failures_in_a_row, last_status, next_run > now() + interval '1 s' FROM wh.jobs"), "3|2|0|succeeded|t");
    // No more often than that.
    c.exec("UPDATE works_at SET n = 1000; SELECT wh.alter_job('j', max_retries => 1, retry_delay => '0')");
    c.exec("SELECT wh.run_job('j')");
    wait_until("both attempts have failed", || c.value("SELECT failures_in_a_row FROM wh.jobs") == "2");
    assert_eq!(c.table("SELECT attempt FROM wh.job_runs ORDER BY run DESC LIMIT 2"), "2\n1");
    assert_eq!(c.value("SELECT next_run > now() + interval '1 s' FROM wh.jobs"), "t");
}

#[test]
fn a_scheduled_run_takes_the_place_of_a_pending_retry() {
    let w = Warehouse::new("superseded");
    let mut c = w.client();
    c.exec("SELECT wh.schedule('j', '1 second', 'SELECT 1 / 0', max_retries => 5, retry_delay => '1 hour')");
    wait_until("three have failed", || c.value("SELECT count(*) >= 3 FROM wh.job_runs WHERE status = 'failed'") == "t");
    c.exec("SELECT wh.pause('j')");
    assert_eq!(c.table("SELECT DISTINCT trigger, attempt FROM wh.job_runs"), "schedule|1");
    assert_eq!(c.value("SELECT count(DISTINCT scheduled_for) = count(*) FROM wh.job_runs"), "t");
}

#[test]
fn a_job_that_fails_too_often_is_paused_with_a_reason_until_it_is_resumed() {
    let cluster = pg_test::warehouse::cluster("pausing", &[("startup_wh.pause_after_failures", "3")]);
    let mut c = pg_test::warehouse::create(&cluster, "pausing");
    c.exec(&format!("{FLAKY}; INSERT INTO works_at VALUES (4)"));
    c.exec("SELECT wh.schedule('j', '1 second', 'SELECT flaky()')");
    wait_until("it is paused", || c.value("SELECT enabled FROM wh.jobs") == "f");
    assert_eq!(c.table("SELECT reason, next_run, failures_in_a_row FROM wh.jobs"), "failed 3 times in a row||3");
    assert!(cluster.log().contains(
        "WARNING:  job \"j\" failed (run 3): attempt 3 fails; it is paused, because it failed 3 times in a row"
    ));
    c.exec("SELECT wh.resume('j')");
    assert_eq!(c.table("SELECT enabled, reason, next_run IS NOT NULL FROM wh.jobs"), "t||t");
    c.wait_for("j", "succeeded");
    assert_eq!(c.value("SELECT count(*) FROM wh.job_runs WHERE status = 'failed'"), "3");
}

#[test]
fn failures_are_told_to_the_log_and_to_whoever_listens() {
    let w = Warehouse::new("told");
    let mut c = w.client();
    let mut listener = w.as_role("ana");
    listener.exec("LISTEN wh_jobs");
    c.schedule("fine", "SELECT 1");
    c.exec("SELECT wh.run_job('fine')");
    c.exec("SELECT wh.schedule('j \"x\"', '@yearly', 'SELECT 1 / 0', max_retries => 1, retry_delay => '1 hour'); ");
    c.exec("SELECT wh.run_job('j \"x\"')");
    let heard = listener
        .notifications()
        .timeout_iter(Duration::from_secs(30))
        .next()
        .expect("a connection")
        .expect("a notification");
    assert_eq!(heard.channel(), "wh_jobs");
    let told = heard.payload().replace('\'', "''");
    assert_eq!(
        c.table(&format!(
            "SELECT r.job_name, p->>'run', p->>'status', p->>'attempt', r.sqlstate, r.error, p->>'failures_in_a_row', p->>'retry', p->>'paused'
             FROM (SELECT '{told}'::jsonb AS p) s JOIN wh.job_runs r ON r.run = (p->>'run')::bigint"
        )),
        "j \"x\"|2|failed|1|22012|division by zero|1|true|false"
    );
    assert!(w.cluster().log().contains("WARNING:  job \"j \"x\"\" failed (run 2): division by zero"));
    // A long text in a long name fits all the same.
    let name = "\u{e9}".repeat(100);
    c.exec(&format!("SELECT wh.schedule('{name}', '@yearly', $$DO 'BEGIN RAISE ''%'', repeat(chr(1), 100000) || repeat(chr(128512), 10000); END'$$)"));
    assert_eq!(c.value(&format!("SELECT status FROM wh.run_job('{name}')")), "failed");
    let heard = listener
        .notifications()
        .timeout_iter(Duration::from_secs(30))
        .next()
        .expect("a connection")
        .expect("a notification");
    assert!(heard.payload().len() < 8000);
    assert_eq!(c.value(&format!("SELECT length(error) FROM wh.job_runs WHERE job_name = '{name}'")), "110000");
}

#[test]
fn a_timeout_cancels_and_counts_as_a_failure() {
    let w = Warehouse::new("timed");
    let mut c = w.client();
    c.exec("CREATE TABLE t (a int); SELECT wh.schedule('j', '@yearly', 'INSERT INTO t VALUES (1); SELECT pg_sleep(600)', timeout => '300 ms')");
    assert_eq!(
        c.table("SELECT status, error, finished - started BETWEEN '300 ms' AND '20 s' FROM wh.run_job('j')"),
        "timed_out|canceled because it ran longer than its timeout|t"
    );
    assert_eq!(c.table("SELECT count(*) FROM t"), "0");
    assert_eq!(c.table("SELECT last_status, failures_24h, failures_in_a_row FROM wh.jobs"), "timed_out|1|1");
    // The next command of the session is not hit by it.
    assert_eq!(c.run("next", "SELECT pg_sleep(0.5)"), "succeeded");
}

#[test]
fn a_command_that_swallows_the_cancel_is_terminated() {
    let w = Warehouse::new("stubborn");
    let mut c = w.client();
    c.exec(
        "CREATE FUNCTION stubborn() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
           LOOP BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN END; END LOOP; END $$;
         SELECT wh.schedule('j', '@yearly', 'SELECT stubborn()', timeout => '200 ms')",
    );
    let begun = Instant::now();
    assert_eq!(
        c.table("SELECT status, error FROM wh.run_job('j')"),
        "timed_out|ended because it ran longer than its timeout and did not obey a cancel"
    );
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(c.value("SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT stubborn'"), "0");
    assert_eq!(c.run("next", "SELECT 1"), "succeeded");
    // One that catches it and comes to an end has succeeded: what it did is committed.
    c.exec("SELECT wh.schedule('k', '@yearly', $$DO 'BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN END'$$, timeout => '200 ms')");
    assert_eq!(c.table("SELECT status, error FROM wh.run_job('k')"), "succeeded|");
}

#[test]
fn a_statement_timeout_of_the_owner_or_of_the_command_counts() {
    let w = Warehouse::new("statement");
    let mut c = w.client();
    let owner = w.role("owner");
    c.exec(&format!("ALTER ROLE {owner} SET statement_timeout = '300 ms'"));
    let mut o = w.as_role(&owner);
    o.exec("SET statement_timeout = 0");
    o.schedule("j", "SELECT pg_sleep(600)");
    o.schedule("short", "SELECT 1");
    assert_eq!(
        o.table("SELECT status, error FROM wh.run_job('j')"),
        "timed_out|canceling statement due to statement timeout"
    );
    assert_eq!(o.value("SELECT status FROM wh.run_job('short')"), "succeeded");
    assert_eq!(c.run("own", "SET statement_timeout = '200 ms'; SELECT pg_sleep(600)"), "timed_out");
    assert_eq!(c.run("after", "SELECT pg_sleep(0.4)"), "succeeded");
    drop(o);
}

#[test]
fn pg_cancel_backend_and_pg_terminate_backend_are_told_apart() {
    let w = Warehouse::new("byothers");
    let mut c = w.client();
    c.schedule("j", "SELECT pg_sleep(600)");
    for (function, expected) in [
        ("pg_cancel_backend", "cancelled|57014|canceling statement due to user request"),
        ("pg_terminate_backend", "crashed|57P01|its session was terminated"),
    ] {
        c.exec("SELECT wh.run_job('j', wait => false)");
        c.wait_for("j", "running");
        wait_until("it sleeps", || {
            c.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1"
        });
        assert_eq!(c.value(&format!("SELECT {function}(running_pid) FROM wh.jobs")), "t");
        wait_until("it has ended", || c.last_run("j") == expected);
    }
}

#[test]
fn whoever_waits_can_be_cancelled_and_the_run_goes_on() {
    let w = Warehouse::new("waiter");
    let mut c = w.client();
    c.schedule("j", "SELECT pg_advisory_xact_lock(9)");
    let mut holder = w.client();
    holder.exec("BEGIN; SELECT pg_advisory_xact_lock(9)");
    let mut waiter = w.client();
    let pid = waiter.pid();
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || tell.send(waiter.error("SELECT wh.run_job('j')").code().code().to_owned()));
    c.wait_for("j", "running");
    c.exec(&format!("SELECT pg_cancel_backend({pid})"));
    assert_eq!(told.recv().expect("an answer"), "57014");
    thread.join().expect("no panic").expect("somebody listens");
    assert!(c.last_run("j").starts_with("running"));
    holder.exec("COMMIT");
    c.wait_for("j", "succeeded");
}
