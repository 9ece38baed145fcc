//! Jobs whose time passes while nothing can run: a stopped server, and a standby.

use std::path::Path;
use std::process::Stdio;

use pg_test::jobs::{self, LAUNCHER, RUNNER, SCHEDULER};
use pg_test::{place, wait_until, ClientExt};

/// Times that a schedule of "every second" has, as the server counts them.
const LAST_SECOND_BEFORE: &str = "date_trunc('second', %)";

#[test]
fn missed_times_are_one_skipped_run_or_one_that_makes_up_for_them() {
    let (mut cluster, mut client) = jobs::start(jobs::server("missed"));
    client.exec(
        "CREATE TABLE done (job text);
         SELECT wh.schedule('skips', '*/1 * * * * *', $$INSERT INTO done VALUES ('skips')$$, catch_up => 'skip');
         SELECT wh.schedule('makes up', '*/1 * * * * *', $$INSERT INTO done VALUES ('makes up')$$, catch_up => 'once');
         SELECT wh.schedule('later', '0 0 1 1 *', $$INSERT INTO done VALUES ('later')$$, catch_up => 'once')",
    );
    jobs::wait_for_true(&mut client, "SELECT count(DISTINCT job) = 2 FROM wh.job_runs WHERE status = 'succeeded'");
    let down = client.value("SELECT clock_timestamp()");
    drop(client);
    cluster.stop("fast").expect("a stop");
    let stopped = std::time::Instant::now();
    wait_until("several times have passed", || stopped.elapsed() > std::time::Duration::from_millis(3200));
    cluster.restart().expect("a restart");
    let mut client = jobs::connect(&cluster, "postgres");
    jobs::wait_for(&mut client, SCHEDULER);
    jobs::wait_for_true(
        &mut client,
        "SELECT count(*) = 1 FROM wh.job_runs WHERE trigger = 'catch up' AND finished IS NOT NULL",
    );
    jobs::wait_for_true(
        &mut client,
        "SELECT bool_and(n >= 2) FROM (
           SELECT count(r.run) AS n FROM wh.jobs j LEFT JOIN wh.job_runs r ON r.job = j.job AND r.status = 'succeeded'
             AND r.run > (SELECT run FROM wh.job_runs WHERE trigger = 'catch up') WHERE j.name <> 'later' GROUP BY j.job) f",
    );
    client.exec("SELECT wh.pause()");
    jobs::wait_for_true(&mut client, "SELECT NOT EXISTS (SELECT FROM wh.job_runs WHERE finished IS NULL)");
    // What could be due in the time between: each second, and the last one before the server's start.
    let first = format!("(SELECT min(recorded) FROM wh.job_run WHERE trigger = 'catch up' AND recorded > '{down}')");
    let last = LAST_SECOND_BEFORE.replace('%', &first);
    assert_eq!(
        client.table(&format!(
            "SELECT job_name, status, trigger, scheduled_for = {last}, coalesce(error, '')
             FROM wh.job_runs WHERE status = 'skipped' OR trigger = 'catch up' ORDER BY job"
        )),
        "skips|skipped|schedule|t|it came due several times while the server or the scheduler was down; this is the last of them\n\
         makes up|succeeded|catch up|t|"
    );
    // From then on each second has its run, and none has two.
    assert_eq!(
        client.table(&format!(
            "SELECT job_name, bool_and(status = 'succeeded' AND trigger = 'schedule'), count(*) = count(DISTINCT scheduled_for)
             FROM wh.job_runs WHERE scheduled_for > {last} GROUP BY 1 ORDER BY 1"
        )),
        client.table("VALUES ('makes up', true, true), ('skips', true, true)")
    );
    assert_eq!(
        client.table("SELECT job, count(*) FROM done GROUP BY 1 ORDER BY 1"),
        client.table("SELECT job_name, count(*) FROM wh.job_runs WHERE status = 'succeeded' GROUP BY 1 ORDER BY 1"),
    );
    client.exec("SELECT wh.resume()");
    jobs::wait_for_true(
        &mut client,
        "SELECT bool_and(next_run BETWEEN clock_timestamp() - interval '2 seconds' AND clock_timestamp() + interval '2 seconds') FROM wh.jobs WHERE name <> 'later'",
    );
}

#[test]
fn a_single_missed_time_says_so_and_a_paused_job_misses_nothing() {
    let (mut cluster, mut client) = jobs::start(jobs::server("missed_once"));
    // Due once, in about two seconds, and then not for a day.
    client.exec(
        "SELECT wh.schedule(name, to_char(clock_timestamp() + interval '2 seconds', 'SS MI HH24') || ' * * *', 'SELECT 1', catch_up => catch_up)
         FROM (VALUES ('skips', 'skip'), ('makes up', 'once'), ('paused', 'once')) j (name, catch_up);
         SELECT wh.pause('paused')",
    );
    let due = client.value("SELECT next_run FROM wh.jobs WHERE name = 'skips'");
    drop(client);
    cluster.stop("fast").expect("a stop");
    let stopped = std::time::Instant::now();
    wait_until("the time has passed", || stopped.elapsed() > std::time::Duration::from_millis(2500));
    cluster.restart().expect("a restart");
    let mut client = jobs::connect(&cluster, "postgres");
    jobs::wait_for_true(&mut client, "SELECT count(*) = 2 FROM wh.job_runs WHERE finished IS NOT NULL");
    assert_eq!(
        client.table(&format!(
            "SELECT job_name, status, trigger, scheduled_for = '{due}', started IS NULL, error FROM wh.job_runs ORDER BY job"
        )),
        "skips|skipped|schedule|t|t|it came due while the server or the scheduler was down\nmakes up|succeeded|catch up|t|f|"
    );
    assert_eq!(
        client.table(&format!(
            "SELECT name, next_run = '{due}'::timestamptz + interval '1 day' FROM wh.jobs ORDER BY job"
        )),
        "skips|t\nmakes up|t\npaused|"
    );
}

#[test]
fn a_time_written_by_a_clock_that_was_ahead_holds_nothing_up() {
    let (_cluster, mut client) = jobs::start(jobs::server("ahead"));
    client.exec(
        "SELECT wh.schedule('often', '1 second', 'SELECT 1');
         SELECT wh.schedule('yearly', '0 0 1 1 *', 'SELECT 1', timezone => 'UTC');
         SELECT wh.schedule('paused', '1 second', 'SELECT 1');
         SELECT wh.pause('paused');
         SELECT wh.schedule('retried', '0 0 1 1 *', 'SELECT 1 / 0', max_retries => 1, retry_delay => '5 seconds')",
    );
    client.exec("SELECT wh.run_job('retried', wait => false)");
    jobs::wait_for_true(&mut client, "SELECT count(*) = 1 FROM wh.job_runs WHERE status = 'failed'");
    jobs::wait_for_true(&mut client, "SELECT EXISTS (SELECT FROM wh.job_runs WHERE status = 'succeeded')");
    // Until the scheduler is gone, it may write the times of its own clock.
    let scheduler = jobs::wait_for(&mut client, SCHEDULER);
    client.exec(&format!(
        "BEGIN; LOCK TABLE wh.job_plan; SELECT pg_terminate_backend({scheduler});
         INSERT INTO wh.job_plan (job, anchor) SELECT id, anchor FROM wh.job ON CONFLICT DO NOTHING;
         UPDATE wh.job_plan SET next_run = clock_timestamp() + interval '5 years', retry_at = retry_at + interval '5 years'; COMMIT"
    ));
    jobs::wait_for_another(&mut client, SCHEDULER, scheduler);
    let before = client.value("SELECT max(run) FROM wh.job_runs");
    jobs::wait_for_true(
        &mut client,
        &format!("SELECT EXISTS (SELECT FROM wh.job_runs WHERE run > {before} AND job_name = 'often' AND status = 'succeeded')"),
    );
    assert_eq!(
        client.table(
            "SELECT name, next_run = (date_trunc('year', now() AT TIME ZONE 'UTC') + interval '1 year') AT TIME ZONE 'UTC'
             FROM wh.jobs WHERE name NOT IN ('often', 'retried') ORDER BY 1"
        ),
        "paused|\nyearly|t"
    );
    jobs::wait_for_true(&mut client, "SELECT count(*) = 2 FROM wh.job_runs WHERE status = 'failed'");
    client.exec("SELECT wh.resume('paused')");
    jobs::wait_for_true(
        &mut client,
        "SELECT EXISTS (SELECT FROM wh.job_runs WHERE job_name = 'paused' AND status = 'succeeded')",
    );
}

#[test]
fn a_standby_runs_nothing_and_does_everything_once_it_is_promoted() {
    let (primary, mut client) = jobs::start(
        jobs::server("primary").set("wal_level", "replica").set("max_wal_senders", "4").set("hot_standby", "on"),
    );
    client.exec(
        "CREATE TABLE done (at timestamptz DEFAULT clock_timestamp());
         SELECT wh.schedule('often', '1 second', 'INSERT INTO done DEFAULT VALUES')",
    );
    jobs::wait_for_true(&mut client, "SELECT EXISTS (SELECT FROM wh.job_runs WHERE status = 'succeeded')");
    let mut standby = jobs::server("standby")
        .set("wal_level", "replica")
        .set("max_wal_senders", "4")
        .set("hot_standby", "on")
        .start()
        .expect("a standby to be");
    standby.stop("fast").expect("a stop");
    std::fs::remove_dir_all(standby.data()).expect("an empty place");
    let copied = primary
        .tool("pg_basebackup")
        .expect("pg_basebackup")
        .args(["--checkpoint=fast", "--wal-method=stream", "--no-sync", "-D"])
        .arg(standby.data())
        .stdin(Stdio::null())
        .status()
        .expect("pg_basebackup");
    assert!(copied.success());
    place::private_file(&standby.data().join("standby.signal"), "").expect("standby.signal");
    standby.set("primary_conninfo", &primary.uri("postgres", "postgres", "super secret"));
    standby.restart().expect("a standby");
    assert!(Path::new(&standby.data()).join("standby.signal").exists());
    let mut there = jobs::connect(&standby, "postgres");
    assert_eq!(there.value("SELECT pg_is_in_recovery()"), "t");
    // What only reads is there, too.
    assert_eq!(there.value("SELECT count(*) > 0 FROM wh.schema_sizes_now()"), "t");
    for view in
        ["schema_sizes", "relation_sizes", "my_relations", "unused_relations", "schema_size_history", "my_usage"]
    {
        there.exec(&format!("SELECT * FROM wh.{view}"));
    }
    assert!(there.value("SELECT wh.usage_report()").contains("Usage"));
    // It follows, for the time of several runs, and has none of its own.
    let seen = there.value("SELECT count(*) FROM done");
    wait_until("runs of the primary have arrived", || {
        assert_eq!(there.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'startup_wh%'"), "0");
        there.value(&format!("SELECT count(*) > {seen} + 2 FROM done")) == "t"
    });
    drop(client);
    drop(primary);
    let before = there.value("SELECT max(run) FROM wh.job_runs");
    assert_eq!(there.value("SELECT pg_promote()"), "t");
    jobs::wait_for(&mut there, LAUNCHER);
    jobs::wait_for(&mut there, SCHEDULER);
    jobs::wait_for_true(
        &mut there,
        &format!("SELECT count(*) >= 2 FROM wh.job_runs WHERE status = 'succeeded' AND run > {before}"),
    );
    jobs::wait_for(&mut there, RUNNER);
    there.exec("SELECT wh.schedule('new', '0 0 1 1 *', 'SELECT 1')");
    assert_eq!(there.value("SELECT status FROM wh.run_job('new')"), "succeeded");
    assert_eq!(
        there.value("SELECT count(*) FROM done"),
        there.value("SELECT count(*) FROM wh.job_runs WHERE job_name = 'often' AND status = 'succeeded'")
    );
}
