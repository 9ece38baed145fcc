//! wh.keep_fresh: as late as the promise allows, not later, and not at all while nothing has changed.
//!
//! Each view takes a number from a sequence of its own when it is filled, so that a refresh can be counted without asking
//! the jobs.

use std::time::Duration;

use pg_test::{wait_until, ClientExt, Jobs};
use postgres::Client;

/// What a busy machine may add to a promise here: the tests run beside one another on few processors.
const SLACK: f64 = 2.0;

/// A view that counts its refreshes in the sequence `NAME_filled`.
fn view(client: &mut Client, name: &str, columns: &str, from: &str) {
    client.exec(&format!(
        "CREATE SEQUENCE {name}_filled MINVALUE 0 START 0;
         CREATE FUNCTION {name}_count() RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN nextval(''{name}_filled''); END';
         CREATE MATERIALIZED VIEW {name} AS SELECT {columns}, {name}_count() AS number FROM {from} WITH NO DATA"
    ));
}

/// How often it was filled. The function above says that it is immutable, and a plan may call it once too often to be
/// exact about rows, not about refreshes: it is called once each time that the view is filled.
fn filled(client: &mut Client, name: &str) -> i64 {
    client
        .value(&format!("SELECT CASE WHEN is_called THEN last_value + 1 ELSE 0 END FROM {name}_filled"))
        .parse()
        .expect("a number")
}

fn keep(client: &mut Client, name: &str, lag: &str, options: &str) {
    client.exec(&format!("SELECT wh.keep_fresh('{name}', '{lag}', job_name => '{name}'{options})"));
}

fn wait_for_first(jobs: &mut Jobs, name: &str) {
    jobs.wait_for(
        &format!("{name} is fresh for the first time"),
        &format!("SELECT count(*) > 0 FROM wh.job_runs WHERE job_name = '{name}' AND status = 'succeeded'"),
    );
}

/// Lets so many seconds pass on the server's clock.
fn pass(client: &mut Client, seconds: u32) {
    let begun = client.value("SELECT clock_timestamp()");
    let over = format!("SELECT clock_timestamp() >= timestamptz '{begun}' + interval '{seconds} s'");
    wait_until("time has passed", || {
        std::thread::sleep(Duration::from_millis(50));
        client.value(&over) == "t"
    });
}

/// Changes something, reported at once as a session that goes on working reports it, and says when.
fn change(client: &mut Client, sql: &str) -> String {
    client.exec(sql);
    client.exec("SELECT pg_stat_force_next_flush()");
    client.value("SELECT clock_timestamp()")
}

/// Seconds from a time until the last refresh of a view began, and until it was over.
fn since(client: &mut Client, name: &str, then: &str) -> (f64, f64) {
    let row = client.table(&format!(
        "SELECT extract(epoch FROM started - timestamptz '{then}'), extract(epoch FROM finished - timestamptz '{then}')
         FROM wh.job_runs WHERE job_name = '{name}' AND status = 'succeeded' ORDER BY run DESC LIMIT 1"
    ));
    let (began, ended) = row.split_once('|').expect("two columns");
    (began.parse().expect("a number"), ended.parse().expect("a number"))
}

#[test]
fn the_first_refresh_is_at_once_and_changes_of_every_kind_are_followed_late_and_in_time() {
    const LAG: f64 = 4.0;
    let mut jobs = Jobs::start("kinds");
    let kinds = [
        ("inserted", "INSERT INTO t_inserted SELECT generate_series(1, 10)", "20"),
        ("updated", "UPDATE t_updated SET n = n + 1 WHERE n = 1", "56"),
        ("deleted", "DELETE FROM t_deleted WHERE n <= 3", "7"),
        ("truncated", "TRUNCATE t_truncated", "0"),
        ("attached", "ALTER TABLE t_attached ATTACH PARTITION more FOR VALUES FROM (1000) TO (2000)", "12"),
        ("detached", "ALTER TABLE t_detached DETACH PARTITION t_detached_few", "0"),
    ];
    jobs.client.exec("CREATE TABLE more (n int); INSERT INTO more VALUES (1000), (1001)");
    for (kind, ..) in kinds {
        let table = match kind {
            "attached" | "detached" => format!(
                "CREATE TABLE t_{kind} (n int) PARTITION BY RANGE (n);
                 CREATE TABLE t_{kind}_few PARTITION OF t_{kind} FOR VALUES FROM (0) TO (1000)"
            ),
            _ => format!("CREATE TABLE t_{kind} (n int)"),
        };
        jobs.client.exec(&format!("{table}; INSERT INTO t_{kind} SELECT generate_series(1, 10)"));
        // Through a plain view.
        jobs.client.exec(&format!("CREATE VIEW plain_{kind} AS SELECT n FROM t_{kind}"));
        let columns = if kind == "updated" { "sum(n) AS c" } else { "count(*) AS c" };
        view(&mut jobs.client, kind, columns, &format!("plain_{kind}"));
    }
    let begun = change(&mut jobs.client, "SELECT 1");
    for (kind, ..) in kinds {
        keep(&mut jobs.client, kind, &format!("{LAG} s"), "");
    }
    for (kind, ..) in kinds {
        wait_for_first(&mut jobs, kind);
        assert!(since(&mut jobs.client, kind, &begun).0 < LAG, "{kind}: the first refresh was late");
    }
    // Three periods in which nothing changes.
    pass(&mut jobs.client, 3 * LAG as u32);
    for (kind, ..) in kinds {
        assert_eq!(filled(&mut jobs.client, kind), 1, "{kind}: refreshed for nothing");
    }
    assert_eq!(jobs.client.table("SELECT DISTINCT met, met_percent_7d > 99 FROM wh.freshness"), "t|t");

    let times: Vec<String> = kinds.iter().map(|(_, sql, _)| change(&mut jobs.client, sql)).collect();
    for ((kind, ..), then) in kinds.iter().zip(&times) {
        wait_until(&format!("{kind} was followed"), || filled(&mut jobs.client, kind) == 2);
        jobs.wait_for(
            "its run is recorded",
            &format!("SELECT count(*) = 2 FROM wh.job_runs WHERE job_name = '{kind}' AND status = 'succeeded'"),
        );
        let (began, ended) = since(&mut jobs.client, kind, then);
        assert!(ended < LAG + SLACK, "{kind} was followed after {ended} s");
        assert!(began > LAG / 3.0, "{kind} was followed at once, after {began} s");
    }
    for (kind, _, expected) in kinds {
        let got = jobs.client.value(&format!("SELECT c FROM {kind}"));
        assert_eq!(
            got,
            jobs.client
                .value(&format!("SELECT {} FROM t_{kind}", if kind == "updated" { "sum(n)" } else { "count(*)" })),
            "{kind}"
        );
        assert_eq!(got, expected, "{kind}");
    }
}

#[test]
fn where_changes_cannot_be_seen_time_alone_decides() {
    let mut jobs = Jobs::start("blind");
    jobs.client.exec("CREATE DATABASE product");
    let mut product = jobs.cluster.connect("product").expect("a connection");
    product.exec("CREATE TABLE orders (n int); INSERT INTO orders VALUES (1); CREATE ROLE reader LOGIN PASSWORD 'reads' IN ROLE pg_read_all_data");
    let port = jobs.cluster.port();
    jobs.client.exec(&format!(
        "CREATE EXTENSION postgres_fdw;
         CREATE SERVER product FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{port}', dbname 'product');
         CREATE USER MAPPING FOR CURRENT_USER SERVER product OPTIONS (user 'reader', password 'reads');
         CREATE FOREIGN TABLE orders (n int) SERVER product;
         CREATE TABLE local (n int); INSERT INTO local VALUES (1)"
    ));
    view(&mut jobs.client, "remote", "sum(n) AS n", "orders");
    view(&mut jobs.client, "timely", "n, now() AS at", "local");
    for name in ["remote", "timely"] {
        keep(&mut jobs.client, name, "2 s", "");
    }
    for name in ["remote", "timely"] {
        wait_until("it was refreshed again and again", || filled(&mut jobs.client, name) >= 4);
        // No faster than half of the promise each, no slower than the promise.
        let gaps = jobs.client.table(&format!(
            "SELECT min(gap) >= 0.9, max(gap) <= 2.0 + {SLACK} FROM (
               SELECT extract(epoch FROM started - lag(started) OVER (ORDER BY run)) AS gap FROM wh.job_runs
               WHERE job_name = '{name}' AND status = 'succeeded') g"
        ));
        assert_eq!(gaps, "t|t", "{}", jobs.client.table("SELECT job_name, started FROM wh.job_runs ORDER BY run"));
    }
    product.exec("UPDATE orders SET n = 7");
    let then = jobs.client.value("SELECT clock_timestamp()");
    jobs.wait_for("the remote change was followed", "SELECT n = 7 FROM remote");
    let waited = jobs.client.value(&format!("SELECT extract(epoch FROM clock_timestamp() - timestamptz '{then}')"));
    assert!(waited.parse::<f64>().expect("a number") < 2.0 + SLACK, "{waited}");
}

#[test]
fn what_kept_views_read_is_refreshed_before_them_and_once_for_all() {
    let mut jobs = Jobs::start("upstream");
    change(&mut jobs.client, "CREATE TABLE source (n int); INSERT INTO source VALUES (1)");
    view(&mut jobs.client, "base", "n", "source");
    jobs.client.exec("CREATE VIEW plain AS SELECT n FROM base");
    for top in ["first_top", "second_top"] {
        view(&mut jobs.client, top, "n", "plain");
        keep(&mut jobs.client, top, "3 s", "");
    }
    for top in ["first_top", "second_top"] {
        wait_for_first(&mut jobs, top);
    }
    pass(&mut jobs.client, 6);
    let seen: Vec<i64> = ["base", "first_top", "second_top"].iter().map(|v| filled(&mut jobs.client, v)).collect();
    assert_eq!(seen[1..], [1, 1], "a refresh for nothing");
    let before = seen[0];
    for n in [2, 3] {
        let then = change(&mut jobs.client, &format!("UPDATE source SET n = {n}"));
        for top in ["first_top", "second_top"] {
            jobs.wait_for("it is followed", &format!("SELECT n = {n} FROM {top}"));
            let waited =
                jobs.client.value(&format!("SELECT extract(epoch FROM clock_timestamp() - timestamptz '{then}')"));
            assert!(waited.parse::<f64>().expect("a number") < 3.0 + SLACK, "{top}: {waited}");
        }
        assert_eq!(
            filled(&mut jobs.client, "base"),
            before + i64::from(n) - 1,
            "{}",
            jobs.client.table("SELECT run, view, status, started, detail FROM wh.job_run_views ORDER BY run, level")
        );
    }
    pass(&mut jobs.client, 4);
    for top in ["first_top", "second_top"] {
        assert_eq!(filled(&mut jobs.client, top), 3, "{top}");
    }
}

#[test]
fn a_refresh_that_fails_is_tried_again_with_a_pause_and_heals() {
    let mut jobs = Jobs::start("failing");
    jobs.client.exec("CREATE TABLE source (n int); INSERT INTO source VALUES (0)");
    view(&mut jobs.client, "ratio", "1 / n AS n", "source");
    keep(&mut jobs.client, "ratio", "4 s", ", retry_delay => '2 s'");
    jobs.wait_for("it failed a few times", "SELECT count(*) >= 3 FROM wh.job_runs WHERE status = 'failed'");
    assert_eq!(
        jobs.client.table(
            "SELECT min(gap) >= 1.9 FROM (SELECT extract(epoch FROM started - lag(finished) OVER (ORDER BY run)) AS gap
             FROM wh.job_runs WHERE status = 'failed') g"
        ),
        "t",
        "{}",
        jobs.client.table("SELECT run, trigger, status, started, finished, error FROM wh.job_runs ORDER BY run")
    );
    assert_eq!(
        jobs.client.table("SELECT DISTINCT sqlstate, error FROM wh.job_runs WHERE finished IS NOT NULL"),
        "22012|public.ratio: division by zero"
    );
    let failures: i64 = jobs.client.value("SELECT failures_in_a_row FROM wh.jobs").parse().expect("a number");
    assert!(failures >= 3, "{failures}");
    pass(&mut jobs.client, 1);
    assert_eq!(jobs.client.value("SELECT met FROM wh.freshness"), "f", "it has never been fresh");
    jobs.client.exec("UPDATE source SET n = 1");
    jobs.wait_for("it healed", "SELECT relispopulated FROM pg_class WHERE relname = 'ratio'");
    jobs.wait_for("that is recorded", "SELECT failures_in_a_row = 0 FROM wh.jobs");
}

#[test]
fn a_broken_promise_is_told_while_it_is_broken_and_afterwards() {
    let mut jobs = Jobs::start("broken");
    jobs.client.exec("CREATE TABLE source (n int); INSERT INTO source VALUES (1)");
    view(&mut jobs.client, "report", "n", "source");
    keep(&mut jobs.client, "report", "2 s", "");
    wait_for_first(&mut jobs, "report");
    assert_eq!(
        jobs.client.table("SELECT job, view, promise, met, met_percent_7d FROM wh.freshness"),
        "report|public.report|00:00:02|t|100.00"
    );
    // A reader who stays for longer than the promise lasts.
    let mut reader = jobs.session();
    reader.exec("BEGIN; SELECT * FROM report");
    let then = change(&mut jobs.client, "UPDATE source SET n = 2");
    jobs.wait_for("the promise is broken", "SELECT NOT met AND lag > promise FROM wh.freshness");
    let lag = jobs.client.table(&format!(
        "SELECT extract(epoch FROM lag) - extract(epoch FROM clock_timestamp() - timestamptz '{then}') FROM wh.freshness"
    ));
    // Counted from the last look at which nothing had changed.
    assert!((-0.2..=1.5).contains(&lag.parse::<f64>().expect("a number")), "{lag}");
    pass(&mut jobs.client, 3);
    let during: f64 = jobs.client.value("SELECT met_percent_7d FROM wh.freshness").parse().expect("a number");
    assert!(during < 95.0, "{during}");
    reader.exec("COMMIT");
    jobs.wait_for("it is fresh again", "SELECT n = 2 FROM report");
    jobs.wait_for("that is recorded", "SELECT count(*) = 2 FROM wh.job_runs WHERE status = 'succeeded'");
    assert_eq!(jobs.client.value("SELECT met FROM wh.freshness"), "t");
    let (told, truth): (f64, f64) = {
        let row = jobs.client.table(&format!(
            "SELECT met_percent_7d, 100 * (1 - extract(epoch FROM r.finished - (timestamptz '{then}' + '2 s')) / extract(epoch FROM now() - j.created_at))
             FROM wh.freshness, wh.job j, (SELECT max(finished) AS finished FROM wh.job_runs WHERE status = 'succeeded') r"
        ));
        let (told, truth) = row.split_once('|').expect("two columns");
        (told.parse().expect("a number"), truth.parse().expect("a number"))
    };
    assert!(told < 95.0 && (told - truth).abs() < 15.0, "told {told}, in truth {truth}");
    assert_eq!(jobs.client.value("SELECT lag FROM wh.freshness"), "00:00:00");
}

#[test]
fn a_restart_keeps_the_promise_and_refreshes_nothing_that_is_fresh() {
    let mut jobs = Jobs::start("restart");
    jobs.client.exec("CREATE TABLE source (n int); INSERT INTO source VALUES (1)");
    view(&mut jobs.client, "changed", "n", "source");
    change(&mut jobs.client, "CREATE TABLE quiet (n int); INSERT INTO quiet VALUES (1)");
    view(&mut jobs.client, "unchanged", "n", "quiet");
    for name in ["changed", "unchanged"] {
        keep(&mut jobs.client, name, "3 s", "");
        wait_for_first(&mut jobs, name);
    }
    pass(&mut jobs.client, 4);
    assert_eq!((filled(&mut jobs.client, "changed"), filled(&mut jobs.client, "unchanged")), (1, 1));
    change(&mut jobs.client, "UPDATE source SET n = 2");
    jobs.cluster.restart().expect("a restart");
    jobs.client = jobs.session();
    let up = jobs.client.value("SELECT pg_postmaster_start_time()");
    jobs.wait_for("the change is followed", "SELECT n = 2 FROM changed");
    let waited = jobs.client.value(&format!("SELECT extract(epoch FROM clock_timestamp() - timestamptz '{up}')"));
    assert!(waited.parse::<f64>().expect("a number") < 3.0 + SLACK, "{waited}");
    pass(&mut jobs.client, 6);
    assert_eq!(filled(&mut jobs.client, "changed"), 2);
    assert_eq!(filled(&mut jobs.client, "unchanged"), 1);
}

#[test]
fn times_written_by_a_clock_that_was_ahead_keep_no_promise() {
    let mut jobs = Jobs::start("ahead");
    jobs.client.exec("CREATE TABLE source (n int); INSERT INTO source VALUES (1)");
    view(&mut jobs.client, "seen", "n", "source");
    // What cannot be watched: time alone decides.
    view(&mut jobs.client, "unseen", "1 AS n", "pg_class WHERE relname = 'source'");
    for name in ["seen", "unseen"] {
        keep(&mut jobs.client, name, "2 s", "");
        wait_for_first(&mut jobs, name);
    }
    jobs.client.exec(
        "UPDATE wh.view_state SET refreshed = refreshed + interval '1 year', seen_clean = seen_clean + interval '1 year',
           dirty_since = dirty_since + interval '1 year'",
    );
    assert_eq!(jobs.client.value("SELECT count(*) FROM wh.freshness WHERE lag < '0'"), "0");
    let before = (filled(&mut jobs.client, "seen"), filled(&mut jobs.client, "unseen"));
    change(&mut jobs.client, "UPDATE source SET n = 2");
    wait_until("both are refreshed", || {
        filled(&mut jobs.client, "seen") > before.0 && filled(&mut jobs.client, "unseen") > before.1
    });
    jobs.wait_for("the times are the clock's again", "SELECT max(refreshed) < clock_timestamp() FROM wh.view_state");
}
