//! What others hold, set or write while jobs run: none of it stops the jobs of those who have nothing to do with it.

use pg_test::jobs::{self, RUNNER, SCHEDULER};
use pg_test::{wait_until, Client, ClientExt, Cluster};

const SUCCEEDED: &str = "SELECT count(*) FROM wh.job_runs WHERE status = 'succeeded'";

fn analyst(cluster: &Cluster, client: &mut Client, name: &str) -> Client {
    client.exec(&format!(
        "CREATE ROLE {name} LOGIN PASSWORD 'secret'; GRANT wh_analyst TO {name}; CREATE SCHEMA {name} AUTHORIZATION {name}"
    ));
    cluster.connect_as("postgres", name, "secret").expect(name)
}

/// As whoever has a function may: in a transaction that stays open.
#[track_caller]
fn lock_the_extension(ana: &mut Client) {
    ana.exec(
        "CREATE FUNCTION ana.f() RETURNS int LANGUAGE sql RETURN 1;
         BEGIN; ALTER FUNCTION ana.f() DEPENDS ON EXTENSION startup_wh",
    );
}

/// Waits until more runs have succeeded than have by now.
#[track_caller]
fn more_succeed(client: &mut Client) {
    let by_now = client.value(SUCCEEDED);
    jobs::wait_for_true(client, &format!("SELECT ({SUCCEEDED}) > {by_now} + 1"));
}

#[test]
fn an_analyst_who_locks_the_extension_holds_no_job_up_and_a_drop_waits_for_them_alone() {
    let (cluster, mut client) = jobs::start(jobs::server("extension_locked"));
    let mut ana = analyst(&cluster, &mut client, "ana");
    client.exec("SELECT wh.schedule('often', '1 second', 'SELECT 1')");
    more_succeed(&mut client);
    lock_the_extension(&mut ana);
    let locked = "SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_extension'::regclass AND mode = 'AccessExclusiveLock'";
    assert_eq!(client.value(locked), "1");
    more_succeed(&mut client);
    client.exec("SELECT wh.schedule('new', '0 0 1 1 *', 'SELECT 2')");
    assert_eq!(client.table("SELECT status FROM wh.run_job('new')"), "succeeded");
    // A new scheduler finds the extension as well.
    let scheduler = jobs::wait_for(&mut client, SCHEDULER);
    client.exec(&format!("SELECT pg_terminate_backend({scheduler})"));
    jobs::wait_for_another(&mut client, SCHEDULER, scheduler);
    more_succeed(&mut client);
    std::thread::scope(|scope| {
        let dropped = scope.spawn(|| jobs::connect(&cluster, "postgres").exec("DROP EXTENSION startup_wh"));
        jobs::wait_for_true(&mut client, &format!("SELECT ({locked} AND NOT granted) = 1"));
        more_succeed(&mut client);
        ana.exec("ROLLBACK");
        dropped.join().expect("the drop");
    });
    client.exec("CREATE EXTENSION startup_wh; SELECT wh.schedule('again', '1 second', 'SELECT 1')");
    more_succeed(&mut client);
    assert_eq!(jobs::complaints(&cluster, 0).iter().filter(|l| l.contains("deadlock")).count(), 0);
}

#[test]
fn a_table_of_ours_that_an_administrator_locks_ends_in_a_run_that_is_late() {
    let (cluster, mut client) = jobs::start(jobs::server("table_locked"));
    let mut ana = analyst(&cluster, &mut client, "ana");
    let mut admin = jobs::connect(&cluster, "postgres");
    client.exec("SELECT wh.schedule('often', '1 second', 'SELECT 1')");
    more_succeed(&mut client);
    // Both at once: neither is waited for on behalf of the other.
    lock_the_extension(&mut ana);
    admin.exec("BEGIN; LOCK TABLE wh.job_plan");
    jobs::wait_for_true(
        &mut client,
        "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT granted
           AND a.backend_type LIKE 'startup_wh %' AND l.relation = 'wh.job_plan'::regclass)",
    );
    admin.exec("COMMIT");
    more_succeed(&mut client);
}

#[test]
fn owners_whose_transactions_are_serializable_have_runs_that_succeed_beside_one_another() {
    let (cluster, mut client) = jobs::start(jobs::server("serializable").set("startup_wh.max_running_jobs", "6"));
    let mut ana = analyst(&cluster, &mut client, "ana");
    client.exec("ALTER ROLE ana SET default_transaction_isolation = 'serializable'");
    ana.exec("CREATE TABLE ana.done (isolation text DEFAULT current_setting('transaction_isolation'))");
    ana.exec("CREATE MATERIALIZED VIEW ana.v AS SELECT count(*) FROM ana.done");
    for job in 1..=6 {
        ana.exec(&format!(
            "SELECT wh.schedule('job {job}', '0 0 1 1 *', 'INSERT INTO ana.done DEFAULT VALUES; SELECT pg_sleep(0.02)')"
        ));
    }
    ana.exec("SELECT wh.schedule_refresh('ana.v', '0 0 1 1 *', job_name => 'view')");
    for round in 1..=10 {
        ana.exec("SELECT wh.run_job('job ' || n, wait => false) FROM generate_series(1, 6) n; SELECT wh.run_job('view', wait => false)");
        jobs::wait_for_true(
            &mut client,
            &format!("SELECT count(*) = 7 * {round} FROM wh.job_runs WHERE finished IS NOT NULL"),
        );
    }
    assert_eq!(client.table("SELECT status, sqlstate, error FROM wh.job_runs WHERE status <> 'succeeded'"), "");
    assert_eq!(client.table("SELECT isolation, count(*) FROM ana.done GROUP BY 1"), "serializable|60");
    // A failure is recorded as what it was, and forgotten after a success.
    ana.exec("CREATE TABLE ana.wrong (n int); INSERT INTO ana.wrong VALUES (0); SELECT wh.schedule('fails', '0 0 1 1 *', 'SELECT 1 / n FROM ana.wrong')");
    assert_eq!(ana.table("SELECT status, error FROM wh.run_job('fails')"), "failed|division by zero");
    assert_eq!(client.value("SELECT failures_in_a_row FROM wh.jobs WHERE name = 'fails'"), "1");
    ana.exec("UPDATE ana.wrong SET n = 1");
    assert_eq!(ana.table("SELECT status FROM wh.run_job('fails')"), "succeeded");
    jobs::wait_for_true(&mut client, "SELECT failures_in_a_row = 0 FROM wh.jobs WHERE name = 'fails'");
}

#[test]
fn nothing_is_committed_of_a_run_whose_record_has_an_end_already() {
    let (cluster, mut client) = jobs::start(jobs::server("given_up"));
    let mut gate = jobs::connect(&cluster, "postgres");
    gate.exec("SELECT pg_advisory_lock(7)");
    client.exec(
        "CREATE TABLE done (); CREATE MATERIALIZED VIEW v AS SELECT pg_advisory_xact_lock_shared(7)::text AS gone, count(*) FROM done WITH NO DATA;
         SELECT wh.schedule('job', '0 0 1 1 *', 'INSERT INTO done DEFAULT VALUES; SELECT pg_advisory_xact_lock_shared(7)');
         SELECT wh.schedule_refresh('v', '0 0 1 1 *', job_name => 'view')",
    );
    client.exec("SELECT wh.run_job('job', wait => false); SELECT wh.run_job('view', wait => false)");
    jobs::wait_for_true(&mut client, "SELECT count(*) = 2 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted");
    client.exec(
        "UPDATE wh.job_run SET status = 'crashed', finished = clock_timestamp(), error = 'given up';
         UPDATE wh.job_step SET status = 'crashed', finished = clock_timestamp()",
    );
    gate.exec("SELECT pg_advisory_unlock(7)");
    wait_until("both runners have nothing to do", || {
        let idle =
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'startup_wh runner' AND state = 'active'";
        client.value(idle) == "0"
    });
    assert_eq!(client.table("SELECT DISTINCT status, error FROM wh.job_runs"), "crashed|given up");
    assert_eq!(client.value("SELECT count(*) FROM done"), "0");
    assert_eq!(client.value("SELECT relispopulated FROM pg_class WHERE relname = 'v'"), "f");
    // The next ones are theirs again.
    client.exec("SELECT wh.run_job('job'); SELECT wh.run_job('view')");
    assert_eq!(client.value("SELECT count(*) FROM done"), "1");
    assert_eq!(client.value("SELECT relispopulated FROM pg_class WHERE relname = 'v'"), "t");
}

#[test]
fn what_follows_from_an_end_and_cannot_be_written_costs_neither_the_record_nor_the_scheduler() {
    let (cluster, mut client) = jobs::start(jobs::server("follows"));
    client.exec(
        "SELECT wh.schedule('fails', '0 0 1 1 *', 'SELECT 1 / 0'); SELECT wh.schedule('works', '0 0 1 1 *', 'SELECT 1');
         ALTER TABLE wh.job_plan ADD CONSTRAINT nobody_fails CHECK (failures = 0)",
    );
    let scheduler = jobs::wait_for(&mut client, SCHEDULER);
    assert_eq!(client.table("SELECT status, error FROM wh.run_job('fails')"), "failed|division by zero");
    assert_eq!(client.table("SELECT status FROM wh.run_job('works')"), "succeeded");
    // As the scheduler writes it, not the runner.
    client.exec("SELECT wh.schedule('killed', '0 0 1 1 *', 'SELECT pg_sleep(600)')");
    client.exec("SELECT wh.run_job('killed', wait => false)");
    jobs::wait_for_true(&mut client, "SELECT status = 'running' FROM wh.job_runs WHERE job_name = 'killed'");
    client.exec("SELECT pg_terminate_backend(pid) FROM wh.job_runs WHERE job_name = 'killed'");
    jobs::wait_for_true(&mut client, "SELECT status = 'crashed' FROM wh.job_runs WHERE job_name = 'killed'");
    assert_eq!(jobs::workers(&mut client, SCHEDULER), [scheduler]);
    let lost = cluster.log().matches("and what follows is lost: ").count();
    assert_eq!(lost, 2, "{}", cluster.log_tail());
}

#[test]
fn owners_in_turn_have_all_their_runs_while_runners_take_long_to_leave() {
    let (cluster, mut client) = jobs::start(jobs::server("leaving").set("startup_wh.max_running_jobs", "3"));
    for owner in 1..=6 {
        let mut session = analyst(&cluster, &mut client, &format!("owner{owner}"));
        for job in 1..=3 {
            // A session with temporary tables has something to do when it ends.
            session.exec(&format!(
                "SELECT wh.schedule('job {owner} {job}', '1 second',
                   'CREATE TEMP TABLE IF NOT EXISTS t1 (a text PRIMARY KEY); CREATE TEMP TABLE IF NOT EXISTS t2 (a text PRIMARY KEY); SELECT pg_sleep(0.01)')"
            ));
        }
    }
    jobs::wait_for_true(&mut client, &format!("SELECT ({SUCCEEDED}) > 200"));
    client.exec("SELECT wh.unschedule(name) FROM wh.jobs");
    wait_until("no runner is left", || jobs::workers(&mut client, RUNNER).is_empty());
    jobs::wait_for_true(&mut client, "SELECT count(*) = 0 FROM wh.job_runs WHERE finished IS NULL");
    assert_eq!(
        client.table("SELECT run, status, error FROM wh.job_runs WHERE status NOT IN ('succeeded', 'cancelled') OR status = 'succeeded' AND error IS NOT NULL"),
        ""
    );
}

#[test]
fn what_a_run_leaves_in_its_record_is_bounded_whatever_its_owner_writes() {
    let (_cluster, mut client) = jobs::start(jobs::server("bounded"));
    client.exec(
        "SELECT wh.schedule('shouts', '0 0 1 1 *', $job$DO $$ BEGIN RAISE EXCEPTION USING MESSAGE = repeat('é', 10000000),
           DETAIL = repeat('d', 10000000), HINT = repeat('h', 10000000); END $$$job$)",
    );
    client.exec("SELECT * FROM wh.run_job('shouts')");
    assert_eq!(
        client.table("SELECT status, length(error), right(error, 10), length(detail), length(hint), length(context) <= 1000009 FROM wh.job_runs"),
        "failed|1000009|é... (cut)|1000009|1000009|t"
    );
    let long = client.simple_query("SELECT wh.schedule('long', '0 0 1 1 *', 'SELECT 1 --' || repeat('x', 1100000))");
    let refused = long.expect_err("a command of more than a megabyte");
    let refused = refused.as_db_error().expect("an error of the server's");
    assert_eq!(refused.message(), "the command is 1100011 bytes long, and must not be longer than 1048576");
    assert_eq!(refused.hint(), Some("Put it into a function or a procedure, and schedule the call."));
}
