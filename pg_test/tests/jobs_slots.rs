//! Jobs that must wait for a worker: none is lost, none is starved, and never more run than may.

use std::path::Path;

use pg_test::cluster::signal;
use pg_test::jobs::{self, RUNNER, SCHEDULER};
use pg_test::place::run_as_server;
use pg_test::{wait_until, Client, ClientExt};

/// Jobs that say how many of them run while they do; `mark` is their lock.
const TABLES: &str = "
    CREATE TABLE done (who name DEFAULT session_user, beside int, at timestamptz DEFAULT clock_timestamp());
    GRANT INSERT ON done TO PUBLIC";
const COUNTING: &str = "
    INSERT INTO done (beside) SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = ''startup_wh runner'' AND state = ''active'';
    SELECT pg_sleep(0.05)";

/// The truth about how many ran at once: the most intervals of the records that contain one's beginning.
const MOST_AT_ONCE: &str = "
    SELECT max(n) FROM (SELECT (SELECT count(*) FROM wh.job_runs b WHERE b.started <= a.started AND b.finished > a.started) AS n
                        FROM wh.job_runs a WHERE a.status = 'succeeded') c";

fn all_succeeded(client: &mut Client, runs: usize) {
    jobs::wait_for_true(client, &format!("SELECT count(*) = {runs} FROM wh.job_runs WHERE finished IS NOT NULL"));
    assert_eq!(client.value("SELECT count(*) FROM wh.job_runs WHERE status = 'succeeded'"), runs.to_string());
}

#[test]
fn no_more_run_at_once_than_may_and_all_of_them_do() {
    let (cluster, mut client) = jobs::start(jobs::server("most").set("startup_wh.max_running_jobs", "3"));
    client.exec(TABLES);
    client.exec(&format!("SELECT wh.schedule('job ' || n, '0 0 1 1 *', '{COUNTING}') FROM generate_series(1, 40) n"));
    client.exec("SELECT wh.run_job('job ' || n, wait => false) FROM generate_series(1, 40) n");
    let mut seen = 0;
    wait_until("all have run", || {
        seen = seen.max(jobs::workers(&mut client, RUNNER).len());
        client.value("SELECT count(*) FROM wh.job_runs WHERE status = 'succeeded'") == "40"
    });
    assert_eq!(client.value("SELECT count(*) FROM done"), "40");
    assert_eq!(client.value(MOST_AT_ONCE), "3");
    assert!(seen <= 3, "{seen} runners");
    assert!(client.value("SELECT max(beside) FROM done").parse::<usize>().is_ok_and(|n| n <= 3));
    // More may run from now on, at once, without a restart.
    client.exec("ALTER SYSTEM SET startup_wh.max_running_jobs = 6");
    client.exec("SELECT pg_reload_conf()");
    client.exec("SELECT wh.schedule('long ' || n, '0 0 1 1 *', 'SELECT pg_sleep(600)') FROM generate_series(1, 7) n");
    client.exec("SELECT wh.run_job('long ' || n, wait => false) FROM generate_series(1, 7) n");
    jobs::wait_for_true(&mut client, "SELECT count(*) = 6 FROM wh.job_runs WHERE status = 'running'");
    assert_eq!(client.value("SELECT status FROM wh.job_runs ORDER BY run DESC LIMIT 1"), "queued");
    assert_eq!(jobs::complaints(&cluster, 0), [""; 0]);
}

#[test]
fn runs_wait_with_a_warning_while_every_worker_is_taken_and_none_is_lost() {
    // The launcher of logical replication has one, ours, the scheduler, and one is left.
    let (cluster, mut client) = jobs::start(jobs::server("no_slots").set("max_worker_processes", "4"));
    let mut other = jobs::connect(&cluster, "postgres");
    client.exec(TABLES);
    other.exec("SELECT pg_advisory_lock(7)");
    client.exec("SELECT wh.schedule('holds', '0 0 1 1 *', 'SELECT pg_advisory_xact_lock_shared(7)')");
    client.exec(&format!("SELECT wh.schedule('job ' || n, '0 0 1 1 *', '{COUNTING}') FROM generate_series(1, 10) n"));
    client.exec("SELECT wh.run_job('holds', wait => false)");
    jobs::wait_for_true(&mut client, "SELECT status = 'running' FROM wh.job_runs");
    client.exec("SELECT wh.run_job('job ' || n, wait => false) FROM generate_series(1, 10) n");
    wait_until("the log says that jobs wait", || {
        cluster.log().contains("jobs wait because no background worker is free")
    });
    let log = cluster.log();
    let warned: Vec<&str> = log.lines().filter(|l| l.contains("no background worker is free")).collect();
    assert!(warned.len() == 1 && warned[0].contains("WARNING:"), "{warned:#?}");
    assert!(log.contains("HINT:  Raise max_worker_processes, or lower startup_wh.max_running_jobs."));
    assert_eq!(client.value("SELECT count(*) FROM wh.job_runs WHERE status = 'queued'"), "10");
    // A wait is no failure, and what waits can be cancelled.
    assert_eq!(client.value("SELECT wh.cancel_job('job 10')"), "t");
    other.exec("SELECT pg_advisory_unlock(7)");
    jobs::wait_for_true(&mut client, "SELECT count(*) = 11 FROM wh.job_runs WHERE finished IS NOT NULL");
    assert_eq!(
        client.table("SELECT status, count(*) FROM wh.job_runs GROUP BY 1 ORDER BY 1"),
        "cancelled|1\nsucceeded|10"
    );
    assert_eq!(client.value("SELECT count(*) FROM done"), "9");
}

#[test]
fn a_scheduler_that_found_no_worker_free_comes_when_one_is() {
    let (cluster, mut client) = jobs::start(jobs::server("no_slot_for_a_scheduler").set("max_worker_processes", "4"));
    client.exec("SELECT wh.schedule('holds', '0 0 1 1 *', 'SELECT pg_sleep(600)')");
    client.exec("SELECT wh.run_job('holds', wait => false)");
    jobs::wait_for_true(&mut client, "SELECT status = 'running' FROM wh.job_runs");
    client.exec("CREATE DATABASE other");
    let mut other = jobs::connect(&cluster, "other");
    other.exec("CREATE EXTENSION startup_wh");
    wait_until("the log says that it waits", || {
        cluster.log().contains("the scheduler of jobs in \"other\" waits because no background worker is free")
    });
    assert_eq!(client.value("SELECT wh.cancel_job('holds')"), "t");
    jobs::wait_for(&mut other, SCHEDULER);
}

/// A process that was told to stand still, until this is dropped: the cluster could not end otherwise.
struct Stopped(u32);

impl Stopped {
    fn new(pid: u32) -> Stopped {
        signal("STOP", pid).expect("a process that stands still");
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = signal("CONT", self.0);
    }
}

#[test]
fn a_runner_that_never_comes_is_given_up_though_nobody_is_left_who_asked_for_it() {
    let (cluster, mut client) = jobs::start(jobs::server("no_fork"));
    let postmaster = cluster.postmaster().expect("a postmaster");
    client.exec("SELECT wh.schedule('job', '0 0 1 1 *', 'SELECT 1')");
    let scheduler = jobs::wait_for(&mut client, SCHEDULER);
    let stopped = Stopped::new(postmaster);
    client.exec("SELECT wh.run_job('job', wait => false)");
    jobs::wait_for_true(&mut client, "SELECT count(*) = 1 FROM wh.job_runs");
    // It has asked for a runner when it waits again.
    jobs::wait_for_true(
        &mut client,
        &format!("SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = {scheduler}"),
    );
    client.exec(&format!("SELECT pg_terminate_backend({scheduler})"));
    wait_until("the scheduler has ended", || jobs::workers(&mut client, SCHEDULER).is_empty());
    let limit = |processes: &str| {
        let mut prlimit = run_as_server(Path::new("prlimit")).expect("the server's user");
        let done = prlimit.args([format!("--pid={postmaster}"), format!("--nproc={processes}:")]).status();
        assert!(done.is_ok_and(|status| status.success()), "prlimit");
    };
    limit("1");
    drop(stopped);
    wait_until("neither a runner nor a scheduler could be forked", || {
        cluster.log().matches("could not fork worker process").count() >= 2
    });
    limit("4096");
    jobs::wait_for(&mut client, SCHEDULER);
    assert_eq!(client.value("SELECT status FROM wh.job_runs"), "queued");
    jobs::wait_for_true(&mut client, "SELECT finished IS NOT NULL FROM wh.job_runs");
    assert_eq!(client.table("SELECT status, error FROM wh.job_runs"), "failed|its session could not begin");
    // The place is free again: another run ends well.
    client.exec("SELECT wh.run_job('job')");
    assert_eq!(client.value("SELECT count(*) FROM wh.job_runs WHERE status = 'succeeded'"), "1");
}

#[test]
fn a_flood_of_one_owner_does_not_keep_another_one_waiting() {
    let (cluster, mut client) = jobs::start(jobs::server("owners").set("startup_wh.max_running_jobs", "2"));
    client.exec(TABLES);
    for role in ["ana", "ben"] {
        client.exec(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'; GRANT wh_analyst TO {role}"));
    }
    let mut ana = cluster.connect_as("postgres", "ana", "secret").expect("ana");
    let mut ben = cluster.connect_as("postgres", "ben", "secret").expect("ben");
    ana.exec(&format!("SELECT wh.schedule('ana ' || n, '0 0 1 1 *', '{COUNTING}') FROM generate_series(1, 40) n"));
    ben.exec(&format!("SELECT wh.schedule('ben', '0 0 1 1 *', '{COUNTING}')"));
    ana.exec("SELECT wh.run_job('ana ' || n, wait => false) FROM generate_series(1, 40) n");
    ben.exec("SELECT wh.run_job('ben', wait => false)");
    all_succeeded(&mut client, 41);
    // As if there were two queues: it begins after the runs that were at work when it came, and one more at most each.
    let ahead = client.value(
        "SELECT count(*) FROM wh.job_run a, wh.job_run b WHERE b.job_name = 'ben' AND a.job_name <> 'ben' AND a.started BETWEEN b.recorded AND b.started",
    );
    assert!(ahead.parse::<usize>().is_ok_and(|n| n <= 4), "{ahead} runs of ana began while ben's waited");
    assert_eq!(client.table("SELECT who, count(*) FROM done GROUP BY 1 ORDER BY 1"), "ana|40\nben|1");
    assert!(client.value(MOST_AT_ONCE).parse::<usize>().is_ok_and(|n| n <= 2));
}

#[test]
fn two_databases_share_what_may_run_and_none_waits_for_the_others_idle_workers() {
    for most in [1, 2] {
        share(most);
    }
}

fn share(most: u32) {
    let server = jobs::server(&format!("shared_{most}")).set("startup_wh.max_running_jobs", &most.to_string());
    let (cluster, mut client) = jobs::start(server);
    client.exec("CREATE DATABASE other");
    let mut other = jobs::connect(&cluster, "other");
    other.exec("CREATE EXTENSION startup_wh");
    jobs::wait_for(&mut other, SCHEDULER);
    for c in [&mut client, &mut other] {
        c.exec(TABLES);
        c.exec(&format!("SELECT wh.schedule('job ' || n, '0 0 1 1 *', '{COUNTING}') FROM generate_series(1, 30) n"));
    }
    client.exec("SELECT wh.run_job('job ' || n, wait => false) FROM generate_series(1, 30) n");
    other.exec("SELECT wh.run_job('job ' || n, wait => false) FROM generate_series(1, 5) n");
    all_succeeded(&mut other, 5);
    all_succeeded(&mut client, 30);
    // One place each: no more of the first one's runs began than the other one's, and a few.
    let from = other.value("SELECT min(recorded) FROM wh.job_run");
    let until = other.value("SELECT max(started) FROM wh.job_run");
    let ahead = client.value(&format!("SELECT count(*) FROM wh.job_run WHERE started BETWEEN '{from}' AND '{until}'"));
    assert!(ahead.parse::<usize>().is_ok_and(|n| n <= 15), "{ahead} runs began while the other database waited");
    // Idle workers of the first one make room at once.
    jobs::wait_for_true(
        &mut client,
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'startup_wh runner' AND datname = 'postgres'",
    );
    other.exec("SELECT wh.run_job('job 6')");
    assert_eq!(
        other.value("SELECT started - scheduled_for < interval '2 seconds' FROM wh.job_runs ORDER BY run DESC LIMIT 1"),
        "t"
    );
}
