//! What the workers of jobs cost: no memory that grows, no segment that stays, and nothing while nothing is due.

use std::time::{Duration, Instant};

use pg_test::jobs::{self, LAUNCHER, RUNNER, SCHEDULER};
use pg_test::{wait_until, Client, ClientExt};

/// A number of /proc/PID/status.
#[track_caller]
fn of_status(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|l| l.strip_prefix(name)).expect("a line");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number")
}

/// Memory of a process's own, in kB.
fn memory(pid: u32) -> u64 {
    of_status(pid, "RssAnon:")
}

/// Runs a job until it has run so often, over one connection.
#[track_caller]
fn run(client: &mut Client, job: &str, times: usize) {
    // Each statement is a transaction of its own: the job is run anew in each.
    for _ in 0..times {
        assert_eq!(client.value(&format!("SELECT status FROM wh.run_job('{job}')")), "succeeded");
    }
}

#[test]
fn no_worker_grows_with_its_runs() {
    let (_cluster, mut client) = jobs::start(jobs::server("memory").set("autovacuum", "off"));
    client.exec(
        "CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 1000);
         SELECT wh.schedule('counts', '0 0 1 1 *', 'SELECT count(*), string_agg(n::text, '','') FROM t GROUP BY n % 10')",
    );
    run(&mut client, "counts", 200);
    let workers: Vec<(&str, u32)> =
        [LAUNCHER, SCHEDULER, RUNNER].map(|kind| (kind, jobs::wait_for(&mut client, kind))).to_vec();
    let before: Vec<u64> = workers.iter().map(|(_, pid)| memory(*pid)).collect();
    run(&mut client, "counts", 1800);
    for ((kind, pid), before) in workers.into_iter().zip(before) {
        let after = memory(pid);
        assert!(after <= before + 256, "{kind}: {before} kB after 200 runs, {after} kB after 2000");
    }
}

#[test]
fn failures_and_changes_of_jobs_do_not_make_workers_grow_either() {
    let (cluster, mut client) = jobs::start(jobs::server("memory_of_failures").set("autovacuum", "off"));
    client.exec("SELECT wh.schedule('fails', '0 0 1 1 *', 'SELECT 1/0')");
    let mut fail = |times: usize| {
        for n in 0..times {
            assert_eq!(client.value("SELECT status FROM wh.run_job('fails')"), "failed");
            client.exec(&format!("SELECT wh.alter_job('fails', timeout => '{} seconds')", 60 + n % 7));
        }
    };
    fail(100);
    let mut other = jobs::connect(&cluster, "postgres");
    let workers: Vec<(&str, u32)> =
        [LAUNCHER, SCHEDULER, RUNNER].map(|kind| (kind, jobs::wait_for(&mut other, kind))).to_vec();
    let before: Vec<u64> = workers.iter().map(|(_, pid)| memory(*pid)).collect();
    fail(700);
    for ((kind, pid), before) in workers.into_iter().zip(before) {
        let after = memory(pid);
        assert!(after <= before + 256, "{kind}: {before} kB after 100 failures, {after} kB after 800");
    }
}

#[test]
fn runs_in_another_database_leave_no_shared_memory_behind() {
    let (_cluster, mut client) = jobs::start(jobs::server("segments").set("dynamic_shared_memory_type", "mmap"));
    client.exec("CREATE DATABASE other");
    client.exec(
        "SELECT wh.schedule('there', '0 0 1 1 *', 'SELECT 1', database => 'other');
         SELECT wh.schedule('fails', '0 0 1 1 *', 'SELECT 1/0', database => 'other');
         SELECT wh.schedule('ends', '0 0 1 1 *', 'SELECT pg_terminate_backend(pg_backend_pid())', database => 'other');
         SELECT wh.schedule('sleeps', '0 0 1 1 *', 'SELECT pg_sleep(600)', database => 'other')",
    );
    // With this type each segment is a file of the data directory's.
    let segments = |client: &mut Client| {
        client.value("SELECT count(*) FROM pg_ls_dir('pg_dynshmem')").parse::<u64>().expect("a number")
    };
    let before = segments(&mut client);
    run(&mut client, "there", 30);
    for _ in 0..5 {
        assert_eq!(client.value("SELECT status FROM wh.run_job('fails')"), "failed");
        assert_eq!(client.value("SELECT status FROM wh.run_job('ends')"), "crashed");
        client.exec("SELECT wh.run_job('sleeps', wait => false)");
        jobs::wait_for_true(&mut client, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')");
        assert!(segments(&mut client) > before, "a run in another database has a segment");
        assert_eq!(client.value("SELECT wh.cancel_job('sleeps')"), "t");
        jobs::wait_for_true(&mut client, "SELECT NOT EXISTS (SELECT FROM wh.job_runs WHERE finished IS NULL)");
    }
    wait_until("no segment is left", || segments(&mut client) == before);
}

#[test]
fn nothing_is_awake_while_nothing_is_due() {
    let server = jobs::server("idle").set("autovacuum", "off").set("startup_wh.usage_interval", "1s");
    let (_cluster, mut client) = jobs::start(server);
    client.exec("SELECT wh.schedule('job ' || n, '0 0 1 1 *', 'SELECT 1') FROM generate_series(1, 100) n");
    run(&mut client, "job 1", 1);
    wait_until("the runner has left", || jobs::workers(&mut client, RUNNER).is_empty());
    for kind in [SCHEDULER, LAUNCHER] {
        let pid = jobs::wait_for(&mut client, kind);
        let switches = |pid| of_status(pid, "voluntary_ctxt_switches:");
        // The last run's end may still be in its ears, and what was used is written a second later.
        let mut seen = (switches(pid), Instant::now());
        wait_until("some quiet seconds", || {
            if switches(pid) != seen.0 {
                seen = (switches(pid), Instant::now());
            }
            seen.1.elapsed() > Duration::from_secs(3)
        });
        let begun = Instant::now();
        let before = switches(pid);
        wait_until("five seconds have passed", || begun.elapsed() > Duration::from_secs(5));
        let woken = switches(pid) - before;
        // The launcher looks for new databases once a minute.
        assert!(woken <= u64::from(kind == LAUNCHER), "{kind}: woken {woken} times in five seconds");
    }
    // Whoever uses something wakes who writes it down.
    let written: u64 = client.value("SELECT sum(calls) FROM wh.query_time").parse().expect("a number");
    jobs::wait_for_true(&mut client, &format!("SELECT sum(calls) > {written} FROM wh.query_time"));
}
