//! Refreshes on a schedule: in order, each once, side by side where that is possible, and what becomes of the rest when
//! one of them fails.
//!
//! Each view of these tests takes a number from a sequence when it is filled, and remembers the numbers of those that it
//! reads: who came when is told by the views themselves, and not by the records of the jobs.

use pg_test::at_work::server;
use pg_test::{ClientExt, Jobs};
use postgres::Client;

const NEVER: &str = "0 0 1 1 *";

/// A server with views, each given with those that it reads; all read through plain views. `arrive()` is called while
/// one is filled, and does nothing yet.
fn with_views(mut jobs: Jobs, views: &[(&str, &[&str])]) -> Jobs {
    jobs.client.exec(
        "CREATE SEQUENCE filled;
         CREATE FUNCTION arrive(view text) RETURNS bool VOLATILE LANGUAGE plpgsql AS 'BEGIN RETURN true; END'",
    );
    make_views(&mut jobs.client, views);
    jobs
}

fn make_views(client: &mut Client, views: &[(&str, &[&str])]) {
    for (view, reads) in views {
        let seen: Vec<String> = reads.iter().map(|r| format!("(SELECT number FROM plain_{r})")).collect();
        client.exec(&format!(
            "CREATE MATERIALIZED VIEW {view} AS
             SELECT arrive('{view}'), ARRAY[{}]::bigint[] AS seen, nextval('filled') AS number WITH NO DATA;
             CREATE VIEW plain_{view} AS SELECT number FROM {view}",
            seen.join(", ")
        ));
    }
}

/// What happens while a view is filled, by its name in `view`.
fn on_arrival(client: &mut Client, does: &str) {
    client.exec(&format!(
        "CREATE OR REPLACE FUNCTION arrive(view text) RETURNS bool VOLATILE LANGUAGE plpgsql AS $f$ BEGIN {does} RETURN true; END $f$"
    ));
}

fn schedule(client: &mut Client, view: &str) {
    client.exec(&format!("SELECT wh.schedule_refresh('{view}', '{NEVER}', job_name => '{view}')"));
}

/// How often any view was filled so far.
fn filled(client: &mut Client) -> i64 {
    client.value("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM filled").parse().expect("a number")
}

/// Each view has seen those that it reads as they are now.
fn assert_in_order(client: &mut Client, views: &[(&str, &[&str])]) {
    for (view, reads) in views {
        let now: Vec<String> = reads.iter().map(|r| format!("(SELECT number FROM {r})")).collect();
        let seen = client.value(&format!("SELECT seen = ARRAY[{}]::bigint[] FROM {view}", now.join(", ")));
        assert_eq!(seen, "t", "{view} came before one of {reads:?}");
    }
}

const DIAMOND: &[(&str, &[&str])] = &[("a", &[]), ("b", &["a"]), ("c", &["a"]), ("d", &["b", "c"])];

#[test]
fn a_run_takes_what_its_view_reads_first_and_each_once() {
    let mut jobs = with_views(Jobs::start("order"), DIAMOND);
    make_views(&mut jobs.client, &[("unrelated", &["a"])]);
    schedule(&mut jobs.client, "d");
    for round in 1..=2 {
        assert_eq!(jobs.run("d"), "succeeded|");
        assert_eq!(filled(&mut jobs.client), 4 * round);
        assert_in_order(&mut jobs.client, DIAMOND);
        assert_eq!(
            jobs.client.table(
                "SELECT level, view, status, concurrent, rows, bytes > 0 FROM wh.job_run_views
                 WHERE run = (SELECT max(run) FROM wh.job_runs) ORDER BY level, view"
            ),
            "1|public.a|succeeded|f|1|t\n2|public.b|succeeded|f|1|t\n2|public.c|succeeded|f|1|t\n3|public.d|succeeded|f|1|t"
        );
    }
    assert_eq!(jobs.client.value("SELECT relispopulated FROM pg_class WHERE relname = 'unrelated'"), "f");

    jobs.client.exec("SELECT wh.alter_job('d', upstream => false)");
    assert_eq!(jobs.run("d"), "succeeded|");
    assert_eq!(filled(&mut jobs.client), 9);
    assert_eq!(jobs.steps("d"), "public.d|succeeded|no unique index on plain columns");
}

#[test]
fn branches_run_side_by_side() {
    let mut jobs = with_views(Jobs::start("branches"), DIAMOND);
    // Neither of the two can end before the other one has begun.
    jobs.client.exec("CREATE SEQUENCE arrived MINVALUE 0 START 0; SELECT nextval('arrived')");
    on_arrival(
        &mut jobs.client,
        "IF view IN ('b', 'c') THEN
           PERFORM nextval('public.arrived');
           FOR i IN 1..2000 LOOP
             EXIT WHEN (SELECT last_value FROM public.arrived) = 2;
             PERFORM pg_sleep(0.01);
           END LOOP;
           IF (SELECT last_value FROM public.arrived) < 2 THEN RAISE 'alone'; END IF;
         END IF;",
    );
    schedule(&mut jobs.client, "d");
    assert_eq!(jobs.run("d"), "succeeded|");
    assert_in_order(&mut jobs.client, DIAMOND);
    assert_eq!(
        jobs.client
            .value("SELECT max(started) < min(finished) FROM wh.job_run_views WHERE view IN ('public.b', 'public.c')"),
        "t"
    );
}

#[test]
fn one_runner_is_enough_for_all_views() {
    let mut jobs = with_views(Jobs::of(server("single").set("startup_wh.max_running_jobs", "1")), DIAMOND);
    schedule(&mut jobs.client, "d");
    assert_eq!(jobs.run("d"), "succeeded|");
    assert_eq!(filled(&mut jobs.client), 4);
    assert_in_order(&mut jobs.client, DIAMOND);
    assert_eq!(
        jobs.client.value(
            "SELECT count(*) FROM wh.job_run_views x JOIN wh.job_run_views y ON x.view < y.view
             AND (x.started, x.finished) OVERLAPS (y.started, y.finished)"
        ),
        "0"
    );
}

#[test]
fn what_reads_a_failed_view_is_skipped_with_that_reason_and_the_rest_goes_on() {
    let views: &[(&str, &[&str])] = &[("a", &[]), ("b", &["a"]), ("c", &["a"]), ("e", &["b"]), ("d", &["e", "c"])];
    let mut jobs = with_views(Jobs::start("failing"), views);
    on_arrival(&mut jobs.client, "IF view = 'b' THEN PERFORM 1 / 0; END IF;");
    schedule(&mut jobs.client, "d");
    let mut listener = jobs.session();
    listener.exec("LISTEN wh_jobs");
    assert_eq!(jobs.run("d"), "failed|public.b: division by zero");
    assert_eq!(
        jobs.steps("d"),
        "public.a|succeeded|no unique index on plain columns\npublic.b|failed|division by zero\n\
         public.c|succeeded|no unique index on plain columns\npublic.e|skipped|public.b was not refreshed\n\
         public.d|skipped|public.e was not refreshed"
    );
    assert_eq!(filled(&mut jobs.client), 2);
    let detail = jobs.client.table("SELECT sqlstate, detail FROM wh.job_runs ORDER BY run DESC LIMIT 1");
    assert!(detail.starts_with("22012|public.a succeeded"), "{detail}");
    assert!(detail.contains("\npublic.b failed: division by zero\n"), "{detail}");
    assert!(detail.contains("\npublic.d skipped: public.e was not refreshed"), "{detail}");

    let told = postgres::fallible_iterator::FallibleIterator::next(
        &mut listener.notifications().timeout_iter(std::time::Duration::from_secs(30)),
    );
    let payload = told.expect("the connection stands").expect("a notification").payload().to_owned();
    // Why is for those who may see the run.
    assert!(payload.contains(r#""status":"failed""#) && !payload.contains("division"), "{payload}");

    on_arrival(&mut jobs.client, "");
    assert_eq!(jobs.run("d"), "succeeded|");
    assert_in_order(&mut jobs.client, views);
    assert_eq!(jobs.client.value("SELECT failures_in_a_row FROM wh.jobs"), "0");
}

#[test]
fn schedules_that_are_due_together_refresh_what_they_share_once() {
    let views: &[(&str, &[&str])] = &[("a", &[]), ("b", &["a"]), ("left_top", &["b"]), ("right_top", &["b"])];
    let mut jobs = with_views(Jobs::start("sharing"), views);
    for view in ["left_top", "right_top"] {
        jobs.client.exec(&format!("SELECT wh.schedule_refresh('{view}', '*/2 * * * * *', job_name => '{view}')"));
    }
    // Runs of the same time, of both jobs.
    let pairs = "SELECT l.run AS l, r.run AS r FROM wh.job_runs l JOIN wh.job_runs r USING (scheduled_for)
                 WHERE l.job_name = 'left_top' AND r.job_name = 'right_top' AND l.status = 'succeeded' AND r.status = 'succeeded'";
    jobs.wait_for("both have run twice", &format!("SELECT count(*) >= 2 FROM ({pairs}) p"));
    jobs.client.exec("SELECT wh.pause()");
    jobs.wait_for("nothing runs", "SELECT count(*) = 0 FROM wh.job_runs WHERE finished IS NULL");
    assert_eq!(
        jobs.client.table("SELECT DISTINCT status FROM wh.job_runs"),
        "succeeded",
        "{}",
        jobs.client.table("SELECT * FROM wh.job_runs")
    );
    // Both list what they share, with the one time at which it was done.
    assert_eq!(
        jobs.client.value(&format!(
            "SELECT bool_and(l.started = r.started AND l.finished = r.finished AND l.status = 'succeeded') AND count(*) = 2 * (SELECT count(*) FROM ({pairs}) q)
             FROM ({pairs}) p JOIN wh.job_run_views l ON l.run = p.l JOIN wh.job_run_views r ON r.run = p.r AND r.view = l.view"
        )),
        "t"
    );
    // As often as the views themselves say.
    let times: i64 =
        jobs.client.value("SELECT count(DISTINCT (view, started)) FROM wh.job_run_views").parse().expect("a number");
    assert_eq!(filled(&mut jobs.client), times);
    assert_in_order(&mut jobs.client, views);
}

#[test]
fn the_choice_of_concurrently_is_recorded_with_its_reason() {
    let mut jobs = with_views(Jobs::start("choice"), &[("plain", &[]), ("indexed", &[])]);
    jobs.client.exec(
        "REFRESH MATERIALIZED VIEW plain; REFRESH MATERIALIZED VIEW indexed; CREATE UNIQUE INDEX ON indexed (number)",
    );
    for (view, mode, expected) in [
        ("plain", "auto", "succeeded|f|no unique index on plain columns"),
        ("indexed", "auto", "succeeded|t|somebody could be reading"),
        ("plain", "never", "succeeded|f|asked for"),
        ("indexed", "never", "succeeded|f|asked for"),
        ("indexed", "always", "succeeded|t|asked for"),
        (
            "plain",
            "always",
            "failed||materialized view public.plain cannot be refreshed concurrently: no unique index on plain columns",
        ),
    ] {
        let file = format!("SELECT pg_relation_filenode('{view}')");
        let before = jobs.client.value(&file);
        jobs.client.exec(&format!(
            "SELECT wh.schedule_refresh('{view}', '{NEVER}', job_name => 'choice', concurrently => '{mode}')"
        ));
        jobs.run("choice");
        let recorded = jobs.client.table(
            "SELECT status, concurrent, detail FROM wh.job_run_views WHERE run = (SELECT max(run) FROM wh.job_runs)",
        );
        assert_eq!(recorded, expected, "{view} {mode}");
        // A plain refresh gives the view another file, a concurrent one changes rows in place.
        let same = jobs.client.value(&file) == before;
        assert_eq!(same, !expected.starts_with("succeeded|f"), "{view} {mode}");
    }
}

#[test]
fn one_run_refreshes_three_hundred_views_in_order() {
    // Fewer side by side than there are runners, so that each of them would be early if it did not wait.
    const WIDTH: usize = 4;
    let names: Vec<String> = (0..300).map(|i| format!("v{i}")).collect();
    let reads: Vec<Vec<&str>> = (0..300_usize)
        .map(|i| match i {
            299 => (296..299).map(|r| names[r].as_str()).collect(),
            i if i < WIDTH => Vec::new(),
            i => {
                let row = (i / WIDTH - 1) * WIDTH;
                vec![names[row + i % WIDTH].as_str(), names[row + (i + 3) % WIDTH].as_str()]
            }
        })
        .collect();
    let views: Vec<(&str, &[&str])> = names.iter().map(String::as_str).zip(reads.iter().map(Vec::as_slice)).collect();
    let mut jobs = with_views(Jobs::start("many"), &views);
    schedule(&mut jobs.client, "v299");
    assert_eq!(jobs.run("v299"), "succeeded|");
    assert_eq!(jobs.client.table("SELECT status, count(*) FROM wh.job_run_views GROUP BY status"), "succeeded|300");
    assert_eq!(filled(&mut jobs.client), 300);
    assert_in_order(&mut jobs.client, &views);
    assert!(!jobs.cluster.log().contains("ERROR"), "{}", jobs.cluster.log_tail());
}
