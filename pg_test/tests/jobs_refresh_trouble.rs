//! Refreshes on a schedule that meet readers, timeouts, cancels, and views that change between runs or belong to others.

use pg_test::{wait_until, ClientExt, Jobs};
use postgres::Client;

const NEVER: &str = "0 0 1 1 *";

/// A view `base` of a table with one row, and `top`, which reads it.
fn start(name: &str) -> Jobs {
    let mut jobs = Jobs::start(name);
    jobs.client.exec(
        "CREATE TABLE source (n int); INSERT INTO source VALUES (1);
         CREATE MATERIALIZED VIEW base AS SELECT n FROM source;
         CREATE MATERIALIZED VIEW top AS SELECT n FROM base",
    );
    jobs
}

fn schedule(client: &mut Client, view: &str, options: &str) {
    client.exec(&format!("SELECT wh.schedule_refresh('{view}', '{NEVER}', job_name => '{view}'{options})"));
}

#[test]
fn a_plain_refresh_behind_a_long_reader_makes_nobody_wait_and_follows_it() {
    let mut jobs = start("reader");
    schedule(&mut jobs.client, "top", "");
    jobs.client.exec("UPDATE source SET n = 2");
    let mut long = jobs.session();
    long.exec("BEGIN; SELECT * FROM top");
    jobs.client.exec("SELECT wh.run_job('top', wait => false)");
    jobs.wait_for("the refresh has begun", "SELECT status = 'running' FROM wh.job_run_views WHERE view = 'public.top'");
    // Readers come all the time; none of them waits behind the refresh that waits. The waits of one are many: it asks again.
    let mut reader = jobs.session();
    reader.exec("SET lock_timeout = '1500ms'");
    let begun = std::time::Instant::now();
    let mut reads = 0;
    wait_until("there were many reads", || {
        assert_eq!(reader.value("SELECT n FROM top"), "1");
        reads += 1;
        reads >= 100 && begun.elapsed().as_secs() >= 3
    });
    assert_eq!(jobs.client.value("SELECT status FROM wh.job_run_views WHERE view = 'public.top'"), "running");
    assert_eq!(jobs.client.value("SELECT n FROM base"), "2");
    long.exec("COMMIT");
    jobs.wait_for("the run has ended", "SELECT status = 'succeeded' FROM wh.job_runs");
    assert_eq!(jobs.client.value("SELECT n FROM top"), "2");
    assert_eq!(jobs.client.value("SELECT count(*) FROM wh.job_runs"), "1");
}

#[test]
fn a_timeout_ends_a_run_in_its_middle_and_keeps_what_was_done() {
    let mut jobs = start("timeout");
    jobs.client.exec(
        "CREATE MATERIALIZED VIEW slow AS SELECT n FROM base, pg_sleep(100) WITH NO DATA;
         CREATE MATERIALIZED VIEW over AS SELECT n FROM slow WITH NO DATA;
         UPDATE source SET n = 2",
    );
    schedule(&mut jobs.client, "over", ", timeout => '1500 milliseconds'");
    let ended = jobs.run("over");
    assert!(ended.starts_with("timed_out|"), "{ended}");
    let steps = jobs.client.table("SELECT view, status FROM wh.job_run_views ORDER BY level, view");
    assert_eq!(steps, "public.base|succeeded\npublic.slow|timed_out\npublic.over|skipped");
    assert_eq!(jobs.client.value("SELECT n FROM base"), "2");
    assert_eq!(
        jobs.client.value("SELECT finished - started BETWEEN '1400 ms' AND '20 s' FROM wh.job_runs"),
        "t",
        "{}",
        jobs.client.table("SELECT started, finished FROM wh.job_runs")
    );
    // Nothing of it goes on.
    assert_eq!(jobs.client.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), "0");
}

#[test]
fn a_cancel_ends_a_run_in_its_middle_and_keeps_what_was_done() {
    let mut jobs = start("cancel");
    jobs.client.exec(
        "CREATE MATERIALIZED VIEW slow AS SELECT n FROM base, pg_sleep(100) WITH NO DATA;
         CREATE MATERIALIZED VIEW over AS SELECT n FROM slow WITH NO DATA;
         UPDATE source SET n = 2",
    );
    schedule(&mut jobs.client, "over", ", max_retries => 3");
    jobs.client.exec("SELECT wh.run_job('over', wait => false)");
    jobs.wait_for(
        "the slow view is being filled",
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
    );
    assert_eq!(jobs.client.value("SELECT wh.cancel_job('over')"), "t");
    jobs.wait_for("the run has ended", "SELECT bool_and(finished IS NOT NULL) FROM wh.job_runs");
    assert_eq!(jobs.client.table("SELECT status, error FROM wh.job_runs"), "cancelled|canceled by wh.cancel_job");
    let steps = jobs.client.table("SELECT view, status FROM wh.job_run_views ORDER BY level, view");
    assert_eq!(steps, "public.base|succeeded\npublic.slow|cancelled\npublic.over|skipped");
    assert_eq!(jobs.client.value("SELECT n FROM base"), "2");
    assert_eq!(jobs.client.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), "0");
    // Somebody wanted it to end: it is not tried again.
    assert_eq!(jobs.client.value("SELECT wh.cancel_job('over')"), "f");
    assert_eq!(jobs.client.value("SELECT next_run > now() + '1 hour' FROM wh.jobs"), "t");
}

#[test]
fn a_renamed_view_is_followed_and_one_made_again_is_found_by_its_name() {
    let mut jobs = start("renamed");
    schedule(&mut jobs.client, "top", "");
    let refreshed = |jobs: &mut Jobs, n: i32, view: &str| {
        jobs.client.exec(&format!("UPDATE source SET n = {n}"));
        assert_eq!(jobs.run("top"), "succeeded|");
        assert_eq!(jobs.client.value(&format!("SELECT n FROM {view}")), n.to_string());
        let last = jobs.steps("top");
        assert!(last.ends_with(&format!("\npublic.{view}|succeeded|no unique index on plain columns")), "{last}");
    };
    refreshed(&mut jobs, 2, "top");
    jobs.client.exec("ALTER MATERIALIZED VIEW top RENAME TO renamed");
    refreshed(&mut jobs, 3, "renamed");
    jobs.client.exec("DROP MATERIALIZED VIEW renamed; CREATE MATERIALIZED VIEW renamed AS SELECT n FROM base");
    refreshed(&mut jobs, 4, "renamed");
    jobs.client.exec("DROP MATERIALIZED VIEW renamed");
    assert_eq!(jobs.run("top"), "failed|materialized view public.renamed does not exist");
    assert_eq!(
        jobs.client.table("SELECT sqlstate, hint FROM wh.job_runs ORDER BY run DESC LIMIT 1"),
        "42P01|wh.unschedule takes the job away; or make the view again under its name."
    );
    jobs.client.exec("CREATE MATERIALIZED VIEW renamed AS SELECT n FROM base");
    refreshed(&mut jobs, 5, "renamed");
    // On its schedule as by hand, the first time.
    jobs.client.exec(
        "SELECT wh.alter_job('top', schedule => '* * * * * *');
         DROP MATERIALIZED VIEW renamed; CREATE MATERIALIZED VIEW renamed AS SELECT n FROM base;
         UPDATE source SET n = 6",
    );
    jobs.wait_for("the schedule found it", "SELECT n = 6 FROM renamed");
    jobs.client.exec("SELECT wh.unschedule('top')");
}

#[test]
fn a_view_that_a_migration_made_again_is_refreshed_at_the_next_run() {
    let mut jobs = Jobs::start("rebuilt");
    jobs.client.exec("CREATE ROLE reader LOGIN PASSWORD 'reads' IN ROLE pg_read_all_data");
    jobs.client.exec("CREATE DATABASE product");
    let mut product = jobs.cluster.connect("product").expect("a connection");
    product.exec("CREATE TABLE orders (id int PRIMARY KEY, total int); INSERT INTO orders VALUES (1, 10)");
    let uri = jobs.cluster.uri("product", "reader", "reads");
    jobs.client.exec("CREATE EXTENSION postgres_fdw");
    jobs.client.exec(&format!("SELECT * FROM wh.create_fdw('app', '{uri}')"));
    jobs.client.exec("CREATE MATERIALIZED VIEW report AS SELECT sum(total) AS total FROM app.orders");
    schedule(&mut jobs.client, "report", "");
    assert_eq!(jobs.run("report"), "succeeded|");
    let before = jobs.client.value("SELECT 'report'::regclass::oid");
    // A rollup of another type: a materialized view cannot be replaced, it is made again.
    product.exec("ALTER TABLE orders ALTER COLUMN total TYPE numeric(12,2); UPDATE orders SET total = 12.5");
    jobs.client.exec("SELECT * FROM wh.recreate_fdw('app')");
    assert_ne!(jobs.client.value("SELECT 'report'::regclass::oid"), before);
    product.exec("UPDATE orders SET total = 99.5");
    assert_eq!(jobs.run("report"), "succeeded|");
    assert_eq!(jobs.client.value("SELECT total FROM report"), "99.50");
}

#[test]
fn views_that_the_owner_may_not_refresh_are_skipped_and_the_rest_goes_on() {
    let mut jobs = start("permitted");
    let mut ana = jobs.member("ana", "wh_analyst");
    jobs.client.exec("GRANT CREATE, USAGE ON SCHEMA public TO ana; GRANT SELECT ON base, source TO ana");
    ana.exec(
        "CREATE MATERIALIZED VIEW hers AS SELECT n FROM base;
         CREATE MATERIALIZED VIEW also AS SELECT n FROM source;
         CREATE MATERIALIZED VIEW report AS SELECT hers.n + also.n AS n FROM hers, also",
    );
    schedule(&mut ana, "report", "");
    jobs.client.exec("UPDATE source SET n = 5");
    assert_eq!(jobs.run("report"), "succeeded|");
    let steps = jobs.steps("report");
    assert!(steps.starts_with("public.also|succeeded|"), "{steps}");
    assert!(
        steps.contains(
            "public.base|skipped|Only the owner \"postgres\", a member of that role or a superuser may refresh it."
        ),
        "{steps}"
    );
    assert!(steps.contains("public.hers|succeeded|") && steps.contains("public.report|succeeded|"), "{steps}");
    // What she may not refresh stayed as it was.
    assert_eq!(jobs.client.table("SELECT base.n, report.n FROM base, report"), "1|6");
    // The target itself is no matter of skipping.
    jobs.client.exec("ALTER MATERIALIZED VIEW report OWNER TO postgres");
    let ended = jobs.run("report");
    assert!(ended.starts_with("failed|public.report: "), "{ended}");
    assert_eq!(jobs.client.value("SELECT sqlstate FROM wh.job_runs ORDER BY run DESC LIMIT 1"), "42501");
}

#[test]
fn nobody_connected_means_a_plain_refresh() {
    let mut jobs = Jobs::start("alone");
    jobs.client.exec("CREATE DATABASE quiet");
    let mut quiet = jobs.cluster.connect("quiet").expect("a connection");
    quiet.exec(
        "CREATE EXTENSION startup_wh; CREATE MATERIALIZED VIEW v AS SELECT 1 AS n; CREATE UNIQUE INDEX ON v (n);
         SELECT wh.schedule_refresh('v', '* * * * * *')",
    );
    wait_until("one ran while we looked", || {
        quiet.value("SELECT count(*) FROM wh.job_run_views WHERE concurrent AND detail = 'somebody could be reading'")
            != "0"
    });
    drop(quiet);
    // Two runs and more, as the other database sees them: by the records after.
    let begun = jobs.client.value("SELECT clock_timestamp()");
    jobs.wait_for("some seconds have passed", &format!("SELECT clock_timestamp() > timestamptz '{begun}' + '3 s'"));
    let mut quiet = jobs.cluster.connect("quiet").expect("a connection");
    assert_ne!(
        quiet.value(
            "SELECT count(*) FROM wh.job_run_views WHERE NOT concurrent AND detail = 'nobody else is connected'"
        ),
        "0",
        "{}",
        quiet.table("SELECT started, concurrent, detail FROM wh.job_run_views")
    );
}
