//! Taking over the jobs of a real pg_cron: all of them, none of them twice, and no more than the caller may.

use std::time::{Duration, Instant};

use pg_test::{at_work, ClientExt, Jobs};
use postgres::Client;

fn start(name: &str) -> Jobs {
    let mut jobs = Jobs::of(
        at_work::server(name)
            .set("shared_preload_libraries", "startup_wh, pg_cron")
            .set("cron.database_name", "postgres")
            .set("cron.use_background_workers", "on"),
    );
    jobs.client.exec("CREATE EXTENSION pg_cron");
    jobs
}

/// What a call of wh.import_pg_cron() says.
fn import(client: &mut Client) -> String {
    client.table("SELECT job_name, schedule, owner, status, detail FROM wh.import_pg_cron()")
}

#[test]
fn every_kind_of_job_is_taken_over_or_left_with_the_reason() {
    let mut jobs = start("kinds");
    jobs.client.exec("CREATE DATABASE other");
    jobs.client.exec("CREATE ROLE ben LOGIN");
    let mut ana = jobs.member("ana", "wh_analyst");
    jobs.client.exec("GRANT USAGE ON SCHEMA cron TO ana");
    jobs.client.exec(
        "SELECT cron.schedule('nightly', '30 3 * * *', 'SELECT 1');
         SELECT cron.schedule('0 4 * * 1-5', 'SELECT 2');
         SELECT cron.schedule('off', '5 * * * *', 'SELECT 3');
         SELECT cron.alter_job(3, active := false);
         SELECT cron.schedule_in_database('elsewhere', '7 * * * *', 'SELECT 4', 'other');
         SELECT cron.schedule('never', '0 0 31 2 *', 'SELECT 5')",
    );
    ana.exec("SELECT cron.schedule('hers', '@daily', 'SELECT 6')");
    // As newer versions of pg_cron know them, or as other servers have left them.
    jobs.client.exec(
        "INSERT INTO cron.job (jobname, schedule, command, nodename, nodeport, database, username) VALUES
           ('last day', '0 12 $ * *', 'SELECT 7', 'localhost', 5432, 'postgres', 'ben'),
           ('often', '30 seconds', 'SELECT 8', 'localhost', 5432, 'postgres', 'postgres'),
           ('far', '0 1 * * *', 'SELECT 9', 'db.example.com', 5432, 'postgres', 'postgres'),
           ('nobody', '0 2 * * *', 'SELECT 10', 'localhost', 5432, 'postgres', 'nobody'),
           ('nowhere', '0 2 * * *', 'SELECT 11', 'localhost', 5432, 'gone', 'postgres'),
           ('nightly', '0 3 * * *', 'SELECT 12', 'localhost', 5432, 'postgres', 'ben')",
    );
    let said = import(&mut jobs.client);
    let lines: Vec<&str> = said.lines().collect();
    let starts = [
        "nightly|30 3 * * *|postgres|taken|",
        "pg_cron job 2|0 4 * * 1-5|postgres|taken|",
        "off|5 * * * *|postgres|taken|it was switched off there, and is here",
        "elsewhere|7 * * * *|postgres|taken|runs in database other",
        "never|0 0 31 2 *|postgres|left|",
        "hers|@daily|ana|taken|",
        "last day|0 12 $ * *|ben|taken|",
        "often|30 seconds|postgres|taken|",
        "far|0 1 * * *|postgres|left|it runs on another host, db.example.com",
        "nobody|0 2 * * *|nobody|left|role \"nobody\" does not exist",
        "nowhere|0 2 * * *|postgres|left|database \"gone\" does not exist",
        "nightly|0 3 * * *|ben|left|there is a job \"nightly\" already",
    ];
    assert_eq!(lines.len(), starts.len(), "{said}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}\nnot {start}");
    }
    assert!(lines[4].len() > starts[4].len(), "no reason: {}", lines[4]);

    // What runs here does not run there, and what was left does.
    assert_eq!(
        jobs.client.table("SELECT command FROM cron.job WHERE active ORDER BY jobid"),
        "SELECT 5\nSELECT 9\nSELECT 10\nSELECT 11\nSELECT 12"
    );
    assert_eq!(
        jobs.client.table("SELECT name, owner, command, database, enabled FROM wh.jobs ORDER BY job"),
        "nightly|postgres|SELECT 1||t\npg_cron job 2|postgres|SELECT 2||t\noff|postgres|SELECT 3||f\n\
         elsewhere|postgres|SELECT 4|other|t\nhers|ana|SELECT 6||t\nlast day|ben|SELECT 7||t\noften|postgres|SELECT 8||t"
    );
    // The same times: pg_cron counts in its own time zone.
    for (name, next) in [
        ("nightly", "(date_trunc('day', now() - interval '3:30') + interval '1 day 3:30')"),
        ("last day", "(SELECT min(d) FROM (SELECT date_trunc('month', now()) + m * interval '1 month' - interval '12 hours' AS d FROM generate_series(1, 2) m) x WHERE d > now())"),
        ("hers", "(date_trunc('day', now()) + interval '1 day')"),
    ] {
        assert_eq!(jobs.client.value(&format!("SELECT next_run = {next} FROM wh.jobs WHERE name = '{name}'")), "t", "{name}");
    }

    let again = import(&mut jobs.client);
    let there = again.lines().filter(|l| l.contains("|left|there is a job ")).count();
    assert_eq!((again.lines().count(), there), (12, 8), "{again}");
    assert_eq!(jobs.client.value("SELECT count(*) FROM wh.jobs"), "7");
}

#[test]
fn an_analyst_takes_over_their_own_jobs_and_no_others() {
    let mut jobs = start("analyst");
    let mut ana = jobs.member("ana", "wh_analyst");
    jobs.client.exec("GRANT USAGE ON SCHEMA cron TO ana; SELECT cron.schedule('nightly', '30 3 * * *', 'SELECT 1')");
    ana.exec("SELECT cron.schedule('hers', '0 5 * * *', 'SELECT 2')");
    assert_eq!(
        import(&mut ana),
        "hers|0 5 * * *|ana|taken|it was unscheduled there, since the caller may not switch it off"
    );
    assert_eq!(jobs.client.table("SELECT jobname, active FROM cron.job"), "nightly|t");
    assert_eq!(ana.table("SELECT name, owner FROM wh.jobs"), "hers|ana");
    // One who may switch jobs off does that.
    jobs.client.exec("GRANT EXECUTE ON FUNCTION cron.alter_job(bigint, text, text, text, text, boolean) TO ana");
    ana.exec("SELECT cron.schedule('more', '0 6 * * *', 'SELECT 3')");
    assert_eq!(import(&mut ana), "more|0 6 * * *|ana|taken|");
    assert_eq!(jobs.client.table("SELECT jobname, active FROM cron.job ORDER BY jobid"), "nightly|t\nmore|f");
    assert_eq!(ana.table("SELECT status, error FROM wh.run_job('more')"), "succeeded|");
}

#[test]
fn what_is_rolled_back_was_never_taken() {
    let mut jobs = start("rolled_back");
    jobs.client.exec("SELECT cron.schedule('nightly', '30 3 * * *', 'SELECT 1')");
    jobs.client.exec("BEGIN");
    assert_eq!(import(&mut jobs.client), "nightly|30 3 * * *|postgres|taken|");
    jobs.client.exec("ROLLBACK");
    assert_eq!(jobs.client.table("SELECT active FROM cron.job"), "t");
    assert_eq!(jobs.client.value("SELECT count(*) FROM wh.jobs"), "0");
    let without = Jobs::start("no_pg_cron").client.error("SELECT * FROM wh.import_pg_cron()");
    assert_eq!((without.code().code(), without.message()), ("42704", "pg_cron is not installed in this database"));
}

/// Waits for a whole minute to come, the finest that pg_cron knows: the only test that can take that long.
#[test]
fn a_job_that_was_taken_over_runs_once() {
    let mut jobs = start("once");
    jobs.client.exec(
        "CREATE TABLE ran (job text, application text, at timestamptz);
         SELECT cron.schedule('taken', '* * * * *', $$INSERT INTO ran VALUES ('taken', current_setting('application_name'), now())$$);
         SELECT cron.schedule('left', '* * * * *', $$INSERT INTO ran VALUES ('left', current_setting('application_name'), now())$$);
         SELECT count(*) FROM wh.import_pg_cron() WHERE job_name = 'taken'",
    );
    jobs.client.exec("SELECT wh.unschedule('left'); SELECT cron.alter_job(2, active := true)");
    // Both schedulers have had their turn when the one job that was given back has run there.
    let deadline = Instant::now() + Duration::from_secs(90);
    while jobs.client.value("SELECT count(DISTINCT job) FROM ran") != "2" {
        assert!(Instant::now() < deadline, "{}", jobs.client.table("SELECT * FROM ran"));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        jobs.client.table("SELECT job, count(*) FROM ran WHERE date_trunc('minute', at) = (SELECT min(date_trunc('minute', at)) FROM ran) GROUP BY job ORDER BY job"),
        "left|1\ntaken|1"
    );
    assert_eq!(jobs.client.table("SELECT DISTINCT jobid FROM cron.job_run_details"), "2");
    assert_eq!(jobs.client.table("SELECT DISTINCT job_name FROM wh.job_runs"), "taken");
}
