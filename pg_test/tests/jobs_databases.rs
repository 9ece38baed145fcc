//! Jobs in several databases, and databases and extensions that come and go.

use std::time::{Duration, Instant};

use pg_test::jobs::{self, LAUNCHER, RUNNER, SCHEDULER};
use pg_test::{wait_until, Client, ClientExt, Cluster};

/// A database of its own with the extension and a job each second.
#[track_caller]
fn database(cluster: &Cluster, client: &mut Client, name: &str) -> Client {
    client.exec(&format!("CREATE DATABASE {name}"));
    let mut inside = jobs::connect(cluster, name);
    inside.exec("CREATE EXTENSION startup_wh");
    often(&mut inside);
    inside
}

fn often(client: &mut Client) {
    client.exec(
        "CREATE TABLE IF NOT EXISTS done (at timestamptz DEFAULT clock_timestamp());
         SELECT wh.schedule('often', '1 second', 'INSERT INTO done DEFAULT VALUES')",
    );
}

/// Waits until a job of [`often`] has succeeded that began after now.
#[track_caller]
fn runs(client: &mut Client) {
    let last = client.value("SELECT coalesce(max(run), 0) FROM wh.job_runs");
    jobs::wait_for_true(
        client,
        &format!("SELECT EXISTS (SELECT FROM wh.job_runs WHERE run > {last} AND status = 'succeeded')"),
    );
}

/// How many workers of ours there are in a database, seen from another one.
fn in_database(client: &mut Client, name: &str) -> String {
    client.value(&format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND backend_type LIKE 'startup_wh%'"
    ))
}

#[test]
fn each_database_runs_its_own_jobs_and_the_setting_says_which_do() {
    let (cluster, mut client) = jobs::start(jobs::server("two_databases"));
    often(&mut client);
    let mut other = database(&cluster, &mut client, "other");
    runs(&mut client);
    runs(&mut other);
    client.exec("ALTER SYSTEM SET startup_wh.databases = 'other'");
    client.exec("SELECT pg_reload_conf()");
    wait_until("the database that is not named has no workers", || {
        jobs::workers(&mut client, SCHEDULER).is_empty() && jobs::workers(&mut client, RUNNER).is_empty()
    });
    let quiet = client.value("SELECT count(*) FROM wh.job_runs");
    runs(&mut other);
    runs(&mut other);
    assert_eq!(client.value("SELECT count(*) FROM wh.job_runs"), quiet);
    assert_eq!(client.error("SELECT wh.run_job('often')").code().code(), "55000");
    client.exec("ALTER SYSTEM SET startup_wh.databases = ''");
    client.exec("SELECT pg_reload_conf()");
    runs(&mut client);
    runs(&mut other);
    let complaints = jobs::complaints(&cluster, 0);
    let expected = ["terminating background worker", "does not answer"];
    assert!(complaints.iter().all(|l| expected.iter().any(|e| l.contains(e))), "{complaints:#?}");
}

#[test]
fn a_dropped_extension_leaves_a_quiet_log_and_comes_back_at_once() {
    let (cluster, mut client) = jobs::start(jobs::server("dropped_extension"));
    for _ in 0..4 {
        for job in 1..=6 {
            client.exec(&format!("SELECT wh.schedule('job {job}', '1 second', 'SELECT pg_sleep(0.1)')"));
        }
        jobs::wait_for_true(&mut client, "SELECT count(*) >= 8 FROM wh.job_runs WHERE status = 'succeeded'");
        let from = cluster.log().len();
        client.exec("DROP EXTENSION startup_wh");
        wait_until("the scheduler has left", || jobs::workers(&mut client, SCHEDULER).is_empty());
        // Five runners end, and runs that were at work say once each that they could not be written down.
        wait_until("the runners have left", || jobs::workers(&mut client, RUNNER).is_empty());
        let log = cluster.log();
        let lines: Vec<&str> = log[from..]
            .lines()
            .filter(|l| ["ERROR", "FATAL", "PANIC", "WARNING"].iter().any(|b| l.contains(b)))
            .collect();
        assert!(lines.len() <= 2 * 5, "{lines:#?}");
        assert!(!log[from..].contains("deadlock"), "{}", &log[from..]);
        let begun = Instant::now();
        client.exec("CREATE EXTENSION startup_wh");
        jobs::wait_for(&mut client, SCHEDULER);
        assert!(begun.elapsed() < Duration::from_secs(15), "a scheduler after {:?}", begun.elapsed());
    }
    // Nobody keeps a place that only a scheduler which is gone knew of.
    client.exec("SELECT wh.schedule('many ' || n, '0 0 1 1 *', 'SELECT pg_sleep(600)') FROM generate_series(1, 5) n");
    client.exec("SELECT wh.run_job('many ' || n, wait => false) FROM generate_series(1, 5) n");
    jobs::wait_for_true(&mut client, "SELECT count(*) = 5 FROM wh.job_runs WHERE status = 'running'");
}

#[test]
fn a_database_is_dropped_renamed_and_copied_although_it_has_a_scheduler_and_idle_runners() {
    let (cluster, mut client) = jobs::start(jobs::server("let_go"));
    often(&mut client);
    let mut other = database(&cluster, &mut client, "other");
    let at_rest = |other: &mut Client| {
        runs(other);
        jobs::wait_for(other, SCHEDULER);
        other.exec("SELECT wh.pause()");
        jobs::wait_for_true(other, "SELECT NOT EXISTS (SELECT FROM wh.job_runs WHERE finished IS NULL)");
        jobs::wait_for(other, RUNNER);
    };
    at_rest(&mut other);
    drop(other);
    let alone = |client: &mut Client| {
        wait_until("our connection has gone", || {
            client.value(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_test' AND datname LIKE 'other%'",
            ) == "0"
        })
    };
    alone(&mut client);
    client.exec("ALTER DATABASE other RENAME TO other2");
    let mut other = jobs::connect(&cluster, "other2");
    other.exec("SELECT wh.resume()");
    at_rest(&mut other);
    drop(other);
    alone(&mut client);
    client.exec("CREATE DATABASE other3 TEMPLATE other2");
    let mut copy = jobs::connect(&cluster, "other3");
    copy.exec("SELECT wh.resume()");
    runs(&mut copy);
    let mut other = jobs::connect(&cluster, "other2");
    other.exec("SELECT wh.resume()");
    at_rest(&mut other);
    drop(other);
    alone_but_copy(&mut client);
    client.exec("DROP DATABASE other2");
    assert_eq!(in_database(&mut client, "other2"), "0");
    runs(&mut copy);
    runs(&mut client);
    let complaints = jobs::complaints(&cluster, 0);
    assert!(complaints.is_empty(), "{complaints:#?}");
}

fn alone_but_copy(client: &mut Client) {
    wait_until("our connection has gone", || {
        client.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_test' AND datname = 'other2'")
            == "0"
    });
}

#[test]
fn a_database_in_which_a_job_runs_is_dropped_by_force_alone() {
    let (cluster, mut client) = jobs::start(jobs::server("forced").set("startup_wh.max_running_jobs", "2"));
    for round in 0..3 {
        let mut other = database(&cluster, &mut client, "other");
        other.exec("SELECT wh.schedule('long', '0 0 1 1 *', 'SELECT pg_sleep(600)')");
        other.exec("SELECT wh.run_job('long', wait => false)");
        jobs::wait_for_true(&mut other, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')");
        drop(other);
        if round == 0 {
            let refused = client.error("DROP DATABASE other");
            assert_eq!(refused.code().code(), "55006");
            // It goes on, and so do the jobs beside it.
            let mut other = jobs::connect(&cluster, "other");
            jobs::wait_for(&mut other, SCHEDULER);
            runs(&mut other);
            assert_eq!(other.value("SELECT status FROM wh.job_runs WHERE job_name = 'long'"), "running");
        }
        client.exec("DROP DATABASE other WITH (FORCE)");
    }
    // The places of the runs that were ended are free again.
    client.exec("SELECT wh.schedule('job ' || n, '0 0 1 1 *', 'SELECT pg_sleep(600)') FROM generate_series(1, 2) n");
    client.exec("SELECT wh.run_job('job ' || n, wait => false) FROM generate_series(1, 2) n");
    jobs::wait_for_true(&mut client, "SELECT count(*) = 2 FROM wh.job_runs WHERE status = 'running'");
}

#[test]
fn seventy_databases_without_the_extension_are_looked_at_and_left_alone() {
    let (cluster, mut client) = jobs::start(jobs::server("seventy").set("max_worker_processes", "8"));
    often(&mut client);
    for n in 0..70 {
        client.exec(&format!("CREATE DATABASE empty{n} STRATEGY file_copy"));
    }
    let launcher = jobs::wait_for(&mut client, LAUNCHER);
    let mut most = 0;
    // A new launcher looks at all of them.
    let from = cluster.log().len();
    client.exec(&format!("SELECT pg_terminate_backend({launcher})"));
    jobs::wait_for_another(&mut client, LAUNCHER, launcher);
    let mut last = jobs::connect(&cluster, "empty69");
    last.exec("CREATE EXTENSION startup_wh");
    wait_until("the last of them is served", || {
        let looking = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'startup_wh scheduler' AND datname LIKE 'empty%'";
        most = most.max(client.value(looking).parse().unwrap_or(99));
        !jobs::workers(&mut last, SCHEDULER).is_empty()
    });
    often(&mut last);
    runs(&mut last);
    wait_until("nobody stays in the others", || {
        client.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'startup_wh%' AND datname LIKE 'empty%' AND datname <> 'empty69'") == "0"
    });
    assert!(most <= 3, "{most} looked at the same time");
    runs(&mut client);
    let missed = client
        .value("SELECT count(*) FROM wh.job_runs WHERE missed > 0 OR status NOT IN ('succeeded', 'running', 'queued')");
    assert_eq!(missed, "0", "runs that had to wait too long");
    assert!(!cluster.log()[from..].contains("no background worker is free"), "{}", cluster.log_tail());
}

#[test]
fn runs_end_with_their_extension_and_leave_the_records_of_the_next_one_alone() {
    let (cluster, mut client) = jobs::start(jobs::server("made_again"));
    let mut gate = jobs::connect(&cluster, "postgres");
    gate.exec("SELECT pg_advisory_lock(77)");
    let sessions = |name: &str| {
        let command = if name == "old" { "advisory_lock" } else { "pg_sleep" };
        format!("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'startup_wh runner' AND query LIKE '%{command}%'")
    };
    client.exec("SELECT wh.schedule('old', '1 second', 'SELECT pg_advisory_lock(77)')");
    wait_until("the old one runs", || client.value(&sessions("old")) == "1");
    client.exec("DROP EXTENSION startup_wh");
    client.exec("CREATE EXTENSION startup_wh");
    client.exec("SELECT wh.schedule('new', '1 second', 'SELECT pg_sleep(1000)')");
    wait_until("the new one runs", || client.value(&sessions("new")) == "1");
    gate.exec("SELECT pg_advisory_unlock(77)");
    wait_until("the old one is gone", || client.value(&sessions("old")) == "0");
    // Both were the first run of their job.
    let state = "SELECT j.last_status, j.running_pid = a.pid, (SELECT count(*) FROM wh.job_runs) FROM wh.jobs j
                 JOIN pg_stat_activity a ON a.backend_type = 'startup_wh runner' AND a.query LIKE '%pg_sleep%'";
    assert_eq!(client.table(state), "running|t|1");
    // A run that goes on when nothing is left to record it in ends as well.
    client.exec("DROP EXTENSION startup_wh");
    wait_until("nothing of it is left", || in_database(&mut client, "postgres") == "0");
}

#[test]
fn a_run_that_waits_for_its_place_elsewhere_does_what_its_owner_asked_for_when_it_was_recorded() {
    let (cluster, mut client) = jobs::start(jobs::server("asked").set("startup_wh.max_running_jobs", "1"));
    let mut gate = jobs::connect(&cluster, "postgres");
    client.exec("CREATE ROLE ana LOGIN; GRANT wh_analyst TO ana; CREATE ROLE ben LOGIN; GRANT wh_analyst TO ben");
    client.exec("CREATE DATABASE other");
    let mut other = jobs::connect(&cluster, "other");
    other.exec("CREATE TABLE done (who name DEFAULT session_user, what text); GRANT INSERT ON done TO PUBLIC");
    gate.exec("SELECT pg_advisory_lock(7)");
    client.exec(
        "SELECT wh.schedule('holds', '0 0 1 1 *', 'SELECT pg_advisory_xact_lock_shared(7)');
         SELECT wh.schedule('job', '0 0 1 1 *', 'INSERT INTO done (what) VALUES (''first'')', database => 'other');
         SELECT wh.alter_job('job', owner => 'ana')",
    );
    client.exec("SELECT wh.run_job('holds', wait => false)");
    jobs::wait_for_true(&mut client, "SELECT status = 'running' FROM wh.job_runs");
    client.exec("SELECT wh.run_job('job', wait => false)");
    let scheduler = jobs::wait_for(&mut client, SCHEDULER);
    client.exec("SELECT wh.alter_job('job', owner => 'ben', command => 'INSERT INTO done (what) VALUES (''second'')')");
    // The scheduler knows of the change, and so does the one that takes its runs over.
    assert!(client.simple_query("SELECT wh.run_job('job', wait => false)").is_err(), "it waits");
    client.exec(&format!("SELECT pg_terminate_backend({scheduler})"));
    jobs::wait_for_another(&mut client, SCHEDULER, scheduler);
    gate.exec("SELECT pg_advisory_unlock(7)");
    jobs::wait_for_true(&mut client, "SELECT bool_and(status = 'succeeded') FROM wh.job_runs");
    assert_eq!(other.table("SELECT * FROM done"), "ana|first");
    client.exec("SELECT wh.run_job('job')");
    assert_eq!(other.table("SELECT * FROM done ORDER BY what"), "ana|first\nben|second");
    // One that may not connect any more when its turn comes does not begin.
    gate.exec("SELECT pg_advisory_lock(7)");
    client.exec(
        "SELECT wh.run_job('holds', wait => false); SELECT wh.run_job('job', wait => false); ALTER ROLE ben NOLOGIN",
    );
    let scheduler = jobs::wait_for(&mut client, SCHEDULER);
    client.exec(&format!("SELECT pg_terminate_backend({scheduler})"));
    jobs::wait_for_another(&mut client, SCHEDULER, scheduler);
    gate.exec("SELECT pg_advisory_unlock(7)");
    jobs::wait_for_true(&mut client, "SELECT count(*) = 0 FROM wh.job_runs WHERE finished IS NULL");
    assert_eq!(
        client.value("SELECT error FROM wh.job_runs WHERE status = 'failed'"),
        "role \"ben\" is not permitted to log in"
    );
}
