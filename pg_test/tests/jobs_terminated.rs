//! Jobs when their workers are told to end: what runs goes on, and what waits waits on.

use std::time::{Duration, Instant};

use pg_test::jobs::{self, LAUNCHER, RUNNER, SCHEDULER};
use pg_test::{wait_until, Client, ClientExt};

#[track_caller]
fn terminate(client: &mut Client, pid: u32) {
    assert_eq!(client.value(&format!("SELECT pg_terminate_backend({pid})")), "t");
}

/// A job is at work.
const ASLEEP: &str =
    "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'startup_wh runner' AND wait_event = 'PgSleep')";

/// Holds jobs up: they wait for the lock that this connection has until it goes.
fn gate(client: &mut Client) {
    client.exec("SELECT pg_advisory_lock(7)");
}

const THROUGH_THE_GATE: &str = "SELECT pg_advisory_xact_lock_shared(7); INSERT INTO done DEFAULT VALUES";

fn waiting_at_the_gate(client: &mut Client, jobs: usize) {
    jobs::wait_for_true(
        client,
        &format!("SELECT count(*) = {jobs} FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"),
    );
}

#[test]
fn a_terminated_runner_is_a_crashed_run_and_the_next_one_goes_on() {
    let (cluster, mut client) = jobs::start(jobs::server("terminated_runner"));
    client
        .exec("SELECT wh.schedule('long', '0 0 1 1 *', 'SELECT pg_sleep(600)', max_retries => 1, retry_delay => '0')");
    client.exec("SELECT wh.run_job('long', wait => false)");
    jobs::wait_for_true(&mut client, ASLEEP);
    let runner = jobs::wait_for(&mut client, RUNNER);
    terminate(&mut client, runner);
    jobs::wait_for_another(&mut client, RUNNER, runner);
    jobs::wait_for_true(&mut client, ASLEEP);
    assert_eq!(
        client.table("SELECT status, attempt, started IS NOT NULL, sqlstate, error FROM wh.job_runs ORDER BY run"),
        "crashed|1|t|57P01|its session was terminated\nrunning|2|t||"
    );
    assert_eq!(client.value("SELECT pid <> 0 FROM wh.job_runs WHERE attempt = 1"), "t");
    assert!(cluster.log().contains("job \"long\" crashed (run 1): its session was terminated"));
    assert_eq!(client.value("SELECT wh.cancel_job('long')"), "t");
    jobs::wait_for_true(&mut client, "SELECT status = 'cancelled' FROM wh.job_runs WHERE attempt = 2");
}

#[test]
fn runs_go_on_when_their_scheduler_ends_and_those_that_wait_still_run() {
    let (cluster, mut client) =
        jobs::start(jobs::server("terminated_scheduler").set("startup_wh.max_running_jobs", "2"));
    let mut other = jobs::connect(&cluster, "postgres");
    client.exec("CREATE TABLE done ()");
    gate(&mut other);
    for job in 1..=5 {
        client.exec(&format!("SELECT wh.schedule('job {job}', '0 0 1 1 *', '{THROUGH_THE_GATE}')"));
        client.exec(&format!("SELECT wh.run_job('job {job}', wait => false)"));
    }
    waiting_at_the_gate(&mut client, 2);
    let runners = jobs::workers(&mut client, RUNNER);
    let scheduler = jobs::wait_for(&mut client, SCHEDULER);
    terminate(&mut client, scheduler);
    let begun = Instant::now();
    jobs::wait_for_another(&mut client, SCHEDULER, scheduler);
    assert!(begun.elapsed() < Duration::from_secs(15), "a new scheduler after {:?}", begun.elapsed());
    // One that answers has taken the runs over.
    assert_eq!(client.error("SELECT wh.run_job('job 1')").code().code(), "55006");
    assert_eq!(client.error("SELECT wh.run_job('job 5')").code().code(), "55006");
    assert_eq!(jobs::workers(&mut client, RUNNER), runners, "runners that went on");
    other.exec("SELECT pg_advisory_unlock(7)");
    jobs::wait_for_true(&mut client, "SELECT count(*) = 5 FROM wh.job_runs WHERE status = 'succeeded'");
    assert_eq!(client.value("SELECT count(*) FROM wh.job_runs"), "5");
    assert_eq!(client.value("SELECT count(*) FROM done"), "5");
    assert_eq!(
        client.value(
            "SELECT min(started) FILTER (WHERE job > 2) >= max(started) FILTER (WHERE job <= 2) FROM wh.job_runs"
        ),
        "t"
    );
}

#[test]
fn a_run_that_changed_hands_keeps_its_timeout_and_can_be_cancelled() {
    let (_cluster, mut client) = jobs::start(jobs::server("changed_hands"));
    client.exec("SELECT wh.schedule('late', '0 0 1 1 *', 'SELECT pg_sleep(600)', timeout => '4 seconds')");
    client.exec("SELECT wh.schedule('endless', '0 0 1 1 *', 'SELECT pg_sleep(600)')");
    client.exec("SELECT wh.run_job('late', wait => false); SELECT wh.run_job('endless', wait => false)");
    jobs::wait_for_true(&mut client, "SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    let scheduler = jobs::wait_for(&mut client, SCHEDULER);
    terminate(&mut client, scheduler);
    jobs::wait_for_another(&mut client, SCHEDULER, scheduler);
    assert_eq!(client.value("SELECT wh.cancel_job('endless')"), "t");
    jobs::wait_for_true(&mut client, "SELECT count(*) = 2 FROM wh.job_runs WHERE finished IS NOT NULL");
    assert_eq!(
        client.table("SELECT job_name, status, finished - started BETWEEN '3.9 seconds' AND '8 seconds' FROM wh.job_runs ORDER BY run"),
        "late|timed_out|t\nendless|cancelled|f"
    );
}

#[test]
fn a_refreshing_run_that_changed_hands_refreshes_the_views_that_are_left() {
    let (cluster, mut client) = jobs::start(jobs::server("refresh_changed_hands"));
    let mut other = jobs::connect(&cluster, "postgres");
    client.exec(
        "CREATE TABLE numbers (n int);
         CREATE FUNCTION through_the_gate() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN 1; END $$;
         CREATE MATERIALIZED VIEW first AS SELECT count(*) AS n, public.through_the_gate() FROM numbers;
         CREATE MATERIALIZED VIEW second AS SELECT n FROM first;
         CREATE MATERIALIZED VIEW third AS SELECT n FROM second;
         INSERT INTO numbers VALUES (1), (2);
         SELECT wh.schedule_refresh('third', '0 0 1 1 *', job_name => 'chain')",
    );
    gate(&mut other);
    client.exec("SELECT wh.run_job('chain', wait => false)");
    waiting_at_the_gate(&mut client, 1);
    let scheduler = jobs::wait_for(&mut client, SCHEDULER);
    terminate(&mut client, scheduler);
    jobs::wait_for_another(&mut client, SCHEDULER, scheduler);
    other.exec("SELECT pg_advisory_unlock(7)");
    jobs::wait_for_true(&mut client, "SELECT finished IS NOT NULL FROM wh.job_runs");
    assert_eq!(client.value("SELECT status FROM wh.job_runs"), "succeeded");
    assert_eq!(
        client.table("SELECT view, status FROM wh.job_run_views ORDER BY level"),
        "public.first|succeeded\npublic.second|succeeded\npublic.third|succeeded"
    );
    assert_eq!(client.value("SELECT n FROM third"), "2");
}

#[test]
fn a_daily_job_that_comes_due_while_a_scheduler_is_replaced_runs() {
    let (_cluster, mut client) = jobs::start(jobs::server("due_meanwhile"));
    client.exec("CREATE TABLE done (at timestamptz DEFAULT clock_timestamp())");
    let scheduler = jobs::wait_for(&mut client, SCHEDULER);
    // Due in a second or two, and then tomorrow. The scheduler is ended at the time itself.
    client.exec(
        "SELECT wh.schedule('daily', to_char(clock_timestamp() + interval '2 seconds', 'SS MI HH24') || ' * * *', 'INSERT INTO done DEFAULT VALUES')",
    );
    jobs::wait_for_true(&mut client, "SELECT next_run - clock_timestamp() < interval '0.1 seconds' FROM wh.jobs");
    terminate(&mut client, scheduler);
    jobs::wait_for_another(&mut client, SCHEDULER, scheduler);
    jobs::wait_for_true(&mut client, "SELECT count(*) = 1 FROM wh.job_runs WHERE finished IS NOT NULL");
    assert_eq!(
        client.table("SELECT status, trigger, started - scheduled_for < '5 seconds', (SELECT count(*) FROM done) FROM wh.job_runs"),
        "succeeded|schedule|t|1"
    );
    assert_eq!(client.value("SELECT next_run > now() + interval '23 hours' FROM wh.jobs"), "t");
}

#[test]
fn a_terminated_launcher_comes_back_and_starts_no_second_scheduler() {
    let (cluster, mut client) = jobs::start(jobs::server("terminated_launcher"));
    client.exec("CREATE TABLE done (at timestamptz DEFAULT clock_timestamp()); SELECT wh.schedule('often', '1 second', 'INSERT INTO done DEFAULT VALUES')");
    let scheduler = jobs::wait_for(&mut client, SCHEDULER);
    let launcher = jobs::wait_for(&mut client, LAUNCHER);
    terminate(&mut client, launcher);
    jobs::wait_for_another(&mut client, LAUNCHER, launcher);
    // It has looked around once it has served a database that came after it.
    client.exec("CREATE DATABASE later");
    let mut later = jobs::connect(&cluster, "later");
    later.exec("CREATE EXTENSION startup_wh");
    jobs::wait_for(&mut later, SCHEDULER);
    assert_eq!(jobs::workers(&mut client, SCHEDULER), [scheduler]);
    // A scheduler that an earlier launcher started is replaced as any other.
    terminate(&mut client, scheduler);
    jobs::wait_for_another(&mut client, SCHEDULER, scheduler);
    let last = client.value("SELECT max(run) FROM wh.job_runs");
    jobs::wait_for_true(
        &mut client,
        &format!("SELECT count(*) >= 2 FROM wh.job_runs WHERE run > {last} AND status = 'succeeded'"),
    );
    assert_eq!(
        client.value("SELECT count(*) FROM wh.job_runs WHERE status NOT IN ('succeeded', 'running', 'queued')"),
        "0"
    );
    assert_eq!(jobs::overlaps(&mut client), "0");
}

/// Commands that are at work in each way in which a command can be.
fn work(client: &mut Client) {
    for (job, command) in [
        ("sleeping", "SELECT pg_sleep(600)"),
        ("looping", "DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$"),
        (
            "catching",
            "DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(0.01); EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$",
        ),
        ("waiting", "SELECT * FROM locked"),
        ("counting", "INSERT INTO lines SELECT n FROM generate_series(1, 1000000000) n"),
    ] {
        client.exec(&format!("SELECT wh.schedule('{job}', '0 0 1 1 *', $job${command}$job$)"));
        client.exec(&format!("SELECT wh.run_job('{job}', wait => false)"));
    }
}

#[test]
fn a_fast_shutdown_takes_less_than_five_seconds_whatever_runs() {
    for mode in ["fast", "immediate"] {
        let (mut cluster, mut client) = jobs::start(jobs::server(&format!("shutdown_{mode}")));
        let mut holder = jobs::connect(&cluster, "postgres");
        client.exec("CREATE TABLE locked (); CREATE TABLE lines (n int)");
        holder.exec("BEGIN; LOCK TABLE locked");
        work(&mut client);
        jobs::wait_for_true(&mut client, "SELECT count(*) = 5 FROM wh.job_runs WHERE status = 'running'");
        jobs::wait_for_true(&mut client, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'");
        let from = cluster.log().len();
        let begun = Instant::now();
        cluster.stop(mode).expect("a shutdown");
        assert!(begun.elapsed() < Duration::from_secs(15), "{mode}: {:?}", begun.elapsed());
        let log = cluster.log();
        let bad: Vec<&str> = log[from..]
            .lines()
            .filter(|l| l.contains("ERROR:") || l.contains("PANIC:") || l.contains("terminated by signal"))
            .collect();
        assert!(bad.is_empty(), "{bad:#?}");
        cluster.restart().expect("a restart");
        let mut client = jobs::connect(&cluster, "postgres");
        jobs::wait_for_true(&mut client, "SELECT count(*) = 5 FROM wh.job_runs WHERE status = 'crashed'");
        assert_eq!(client.value("SELECT count(*) FROM lines"), "0");
        wait_until("nothing runs", || jobs::workers(&mut client, RUNNER).is_empty());
    }
}
