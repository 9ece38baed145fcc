//! Jobs when processes are killed: every run has its end, none goes on beside itself, and what a record says was done
//! was done.

use pg_test::jobs::{self, LAUNCHER, RUNNER, SCHEDULER};
use pg_test::{wait_until, Client, ClientExt};

/// A job that leaves a row for each of its runs, and one in `beside` where another run of it goes on.
const TABLES: &str = "
    CREATE TABLE done (at timestamptz DEFAULT clock_timestamp());
    CREATE TABLE beside (at timestamptz DEFAULT clock_timestamp());";
const COMMAND: &str = "
    INSERT INTO beside SELECT WHERE NOT pg_try_advisory_xact_lock(1);
    INSERT INTO done DEFAULT VALUES;
    SELECT pg_sleep(0.15)";

fn schedule(client: &mut Client, options: &str) {
    client.exec(TABLES);
    client.exec(&format!("SELECT wh.schedule('worker', '1 second', $job${COMMAND}$job$ {options})"));
}

/// A run that is at work for as long as a test needs it.
fn long_run(client: &mut Client, options: &str) -> u32 {
    client.exec(&format!(
        "CREATE TABLE tried (at timestamptz DEFAULT clock_timestamp());
         SELECT wh.schedule('long', '0 0 1 1 *', 'INSERT INTO tried DEFAULT VALUES; SELECT pg_sleep(600)' {options})"
    ));
    client.exec("SELECT wh.run_job('long', wait => false)");
    jobs::wait_for_true(client, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    jobs::wait_for(client, RUNNER)
}

/// What holds after any number of crashes.
fn assert_consistent(client: &mut Client) {
    jobs::wait_for_true(client, "SELECT NOT EXISTS (SELECT FROM wh.job_run WHERE finished IS NULL)");
    assert_eq!(
        client.value("SELECT count(*) FROM done"),
        client.value("SELECT count(*) FROM wh.job_runs WHERE status = 'succeeded'"),
        "rows that were committed, and runs that are said to have succeeded"
    );
    assert_eq!(client.value("SELECT count(*) FROM beside"), "0", "runs beside another run of their job");
    assert_eq!(jobs::overlaps(client), "0");
}

#[test]
fn a_killed_run_has_crashed_and_is_tried_again_as_often_as_its_options_say() {
    let (cluster, mut client) = jobs::start(jobs::server("killed_run"));
    let first = long_run(&mut client, ", max_retries => 1, retry_delay => '0.5 seconds'");
    let mut client = jobs::kill(&cluster, client, first);
    let second = jobs::wait_for(&mut client, RUNNER);
    jobs::wait_for_true(&mut client, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    assert_eq!(
        client.table(
            "SELECT status, trigger, attempt, started IS NOT NULL, pid IS NOT NULL FROM wh.job_runs ORDER BY run"
        ),
        "crashed|hand|1|t|f\nrunning|retry|2|t|t"
    );
    assert_eq!(
        client.table("SELECT sqlstate, error, detail, finished >= started FROM wh.job_runs WHERE status = 'crashed'"),
        "57P02|the server ended before it did|Nothing of it was committed; it may not have begun.|t"
    );
    assert_eq!(
        client.value("SELECT a.scheduled_for = b.scheduled_for AND b.started >= a.finished + interval '0.5 seconds' FROM wh.job_runs a, wh.job_runs b WHERE a.attempt = 1 AND b.attempt = 2"),
        "t"
    );
    let mut client = jobs::kill(&cluster, client, second);
    jobs::wait_for_true(&mut client, "SELECT count(*) = 2 FROM wh.job_runs WHERE status = 'crashed'");
    // No attempt is left, and the schedule is far away.
    assert_eq!(
        client.table("SELECT last_status, failures_in_a_row, next_run > now() + interval '1 hour' FROM wh.jobs"),
        "crashed|2|t"
    );
    assert_eq!(client.value("SELECT count(*) FROM tried"), "0", "rows of runs that did not end");
}

#[test]
fn any_killed_worker_leaves_a_server_whose_jobs_go_on() {
    let (cluster, mut client) = jobs::start(jobs::server("killed_worker"));
    schedule(&mut client, "");
    for kind in [SCHEDULER, LAUNCHER, RUNNER] {
        // Waits for a run that is at work.
        jobs::wait_for_true(&mut client, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')");
        let pid = jobs::wait_for(&mut client, kind);
        let before = client.value("SELECT coalesce(max(run), 0) FROM wh.job_runs WHERE status = 'succeeded'");
        client = jobs::kill(&cluster, client, pid);
        jobs::wait_for_true(
            &mut client,
            &format!("SELECT count(*) >= 2 FROM wh.job_runs WHERE status = 'succeeded' AND run > {before}"),
        );
        assert_eq!(jobs::workers(&mut client, SCHEDULER).len(), 1);
        assert_eq!(jobs::workers(&mut client, LAUNCHER).len(), 1);
    }
    client.exec("SELECT wh.pause()");
    assert_consistent(&mut client);
}

#[test]
fn a_crash_of_the_whole_server_leaves_no_run_without_an_end() {
    let (mut cluster, mut client) = jobs::start(jobs::server("crashed_server").set("fsync", "on"));
    long_run(&mut client, "");
    drop(client);
    cluster.crash().expect("a crash");
    cluster.restart().expect("a restart");
    let mut client = jobs::connect(&cluster, "postgres");
    jobs::wait_for_true(&mut client, "SELECT status = 'crashed' FROM wh.job_runs");
    assert_eq!(client.table("SELECT last_status, running_pid, failures_in_a_row FROM wh.jobs"), "crashed||1");
    assert_eq!(client.value("SELECT status FROM wh.run_job('long', wait => false)"), "queued");
}

/// The truth is the table that the job writes in: its row and the record of its success are one transaction.
#[test]
fn twenty_random_kills_leave_as_many_rows_as_runs_that_succeeded() {
    let (mut cluster, mut client) = jobs::start(jobs::server("random_kills"));
    schedule(&mut client, ", max_retries => 3, retry_delay => '0.1 seconds', catch_up => 'once'");
    // Times that differ from run to run of this test, and are told where it fails.
    let seed = u64::from(std::process::id());
    let mut random = seed;
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for round in 0..22 {
        jobs::wait_for(&mut client, SCHEDULER);
        let wanted = [RUNNER, RUNNER, SCHEDULER, LAUNCHER, "server"][next(5) as usize];
        // A kill at a random time is the point here; no condition says when.
        std::thread::sleep(std::time::Duration::from_millis(next(600)));
        if wanted == "server" {
            drop(client);
            cluster.crash().expect("a crash");
            cluster.restart().expect("a restart");
            client = jobs::connect(&cluster, "postgres");
        } else {
            let mut pid = 0;
            wait_until("there is somebody to kill", || {
                pid = jobs::workers(&mut client, wanted).first().copied().unwrap_or_default();
                pid != 0
            });
            client = jobs::kill(&cluster, client, pid);
        }
        assert_eq!(client.value("SELECT count(*) FROM beside"), "0", "round {round}, seed {seed}");
    }
    let last = client.value("SELECT max(run) FROM wh.job_runs");
    jobs::wait_for_true(
        &mut client,
        &format!("SELECT count(*) >= 2 FROM wh.job_runs WHERE status = 'succeeded' AND run > {last}"),
    );
    client.exec("SELECT wh.pause()");
    eprintln!(
        "seed {seed}: {}",
        client
            .table("SELECT status, trigger, count(*) FROM wh.job_runs GROUP BY 1, 2 ORDER BY 1, 2")
            .replace('\n', ", ")
    );
    assert_consistent(&mut client);
}
