//! What is counted agrees with what others count: pg_stat_database, pgbench, and pg_stat_statements, whichever comes first.

use std::process::Stdio;

use pg_test::usage::{connect, server, used, wait_until_gone};
use pg_test::{wait_until, Client, ClientExt, Cluster};

/// An analysts' mix over the simple protocol: joins, sorts on disk, errors, COPY, DO, cursors, a timeout.
const MIX: &[&str] = &[
    "SELECT count(*), sum(a.n * b.n) FROM facts a JOIN facts b ON b.n = a.n + 1",
    "SET work_mem = '64kB'",
    "SELECT x, n FROM facts ORDER BY x DESC, n LIMIT 10",
    "SELECT n % 10, count(*), avg(n) FROM facts GROUP BY 1 ORDER BY 1",
    "SELECT 1 / (n - 500) FROM facts ORDER BY n",
    "SELECT * FROM nothing_like_that",
    "CREATE TEMP TABLE mine AS SELECT * FROM facts WHERE n % 3 = 0",
    "UPDATE mine SET n = n + 1",
    "DROP TABLE mine",
    "DO $$ BEGIN FOR i IN 1..5 LOOP PERFORM count(*) FROM facts; COMMIT; END LOOP; END $$",
    "EXPLAIN ANALYZE SELECT count(*) FROM facts WHERE x LIKE '%9%'",
    "BEGIN; DECLARE c CURSOR FOR SELECT * FROM facts ORDER BY x; FETCH 100 FROM c; FETCH 100 FROM c; COMMIT",
    "SET statement_timeout = '200ms'",
    "SELECT pg_sleep(10)",
    "RESET statement_timeout",
];

fn facts(cluster: &Cluster) {
    connect(cluster, "postgres").exec(
        "CREATE TABLE facts AS SELECT n, md5(n::text) AS x FROM generate_series(1, 60000) n; ANALYZE facts; GRANT SELECT ON facts TO ana, ben",
    );
}

fn mix(c: &mut Client) {
    for statement in MIX {
        // Some are to fail.
        let _ = c.simple_query(statement);
    }
}

fn number(client: &mut Client, sql: &str) -> f64 {
    client.value(sql).parse().expect("a number")
}

#[test]
fn the_sum_of_all_roles_is_the_active_time_of_the_database_within_one_percent() {
    // Parallel workers report themselves as active too.
    let cluster =
        server("usage_active", "startup_wh", &[("max_parallel_workers_per_gather", "0"), ("autovacuum", "off")]);
    facts(&cluster);
    let mut looks = cluster.connect("template1").expect("a session");
    // Sessions of the database give theirs to the statistics when they end.
    let active =
        |looks: &mut Client| number(looks, "SELECT active_time FROM pg_stat_database WHERE datname = 'postgres'");
    let nobody = |looks: &mut Client| {
        wait_until("nobody is in the database", || {
            looks.value(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = 'postgres' AND backend_type = 'client backend'",
            ) == "0"
        });
    };
    // Who looks works in the database too, but not while the others do.
    let ours = || {
        let mut admin = connect(&cluster, "postgres");
        ["ana", "ben"].map(|role| used(&mut admin, role).time).iter().sum::<f64>()
    };
    let before_ours = ours();
    nobody(&mut looks);
    let before = active(&mut looks);
    for role in ["ana", "ben"] {
        let mut c = connect(&cluster, role);
        (0..3).for_each(|_| mix(&mut c));
    }
    nobody(&mut looks);
    let theirs = active(&mut looks) - before;
    let ours = ours() - before_ours;
    eprintln!("startup_wh {ours:.1} ms, pg_stat_database {theirs:.1} ms");
    assert!(theirs > 2000.0 && (ours / theirs - 1.0).abs() < 0.01, "{ours} ms, and {theirs} ms by pg_stat_database");
}

#[test]
fn pg_stat_statements_counts_the_same_in_either_order() {
    for preload in ["startup_wh, pg_stat_statements", "pg_stat_statements, startup_wh"] {
        let name = if preload.starts_with("pg") { "usage_after" } else { "usage_before" };
        let cluster = server(name, preload, &[("max_parallel_workers_per_gather", "0")]);
        facts(&cluster);
        let mut admin = connect(&cluster, "postgres");
        admin.exec("CREATE EXTENSION pg_stat_statements; SELECT pg_stat_statements_reset()");
        let before = used(&mut admin, "ana");
        let mut c = connect(&cluster, "ana");
        let statements = [
            "SELECT count(*) FROM facts",
            "CREATE TEMP TABLE mine AS SELECT * FROM facts",
            "INSERT INTO mine SELECT * FROM facts LIMIT 100",
            "BEGIN; DELETE FROM mine WHERE n % 2 = 0; COMMIT",
            "EXPLAIN ANALYZE SELECT count(*) FROM facts",
        ];
        statements.iter().for_each(|s| c.exec(s));
        let found = used(&mut admin, "ana").since(before);
        let theirs = |what: &str| {
            format!(
                "SELECT sum({what}) FROM pg_stat_statements JOIN pg_roles r ON r.oid = userid WHERE rolname = 'ana'"
            )
        };
        let (calls, rows) = (number(&mut admin, &theirs("calls")), number(&mut admin, &theirs("rows")));
        assert_eq!((found.calls as f64, found.rows as f64), (calls, rows), "{preload}: {found:?}");
        let time = number(&mut admin, &theirs("total_exec_time + total_plan_time"));
        assert!(found.time >= time, "{preload}: {found:?}, {time} ms by pg_stat_statements");
        // Errors pass through both.
        assert_eq!(c.error("SELECT 1 / 0").code().code(), "22012");
        assert_eq!(used(&mut admin, "ana").since(before).errors, 1);
        // One's own texts, and nobody else's.
        assert_eq!(
            c.value("SELECT count(*) FROM wh.my_queries WHERE query = 'SELECT count(*) FROM facts' AND calls = 1 AND total_time > '0'"),
            "1"
        );
        assert_eq!(connect(&cluster, "ben").value("SELECT count(*) FROM wh.my_queries WHERE query ~ 'facts'"), "0");
    }
}

fn pgbench(cluster: &Cluster, user: &str, options: &[&str]) -> String {
    let mut command = cluster.tool("pgbench").expect("pgbench");
    if user != "postgres" {
        command.env("PGHOST", "127.0.0.1").env("PGPASSWORD", format!("{user} secret"));
    }
    let out = command.args(options).args(["-U", user, "postgres"]).stdin(Stdio::null()).output().expect("it runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn every_statement_of_pgbench_is_counted_once() {
    // Written down, by another process, while it goes on.
    let cluster = server("usage_pgbench", "startup_wh", &[("startup_wh.usage_interval", "1s")]);
    let mut admin = connect(&cluster, "postgres");
    pgbench(&cluster, "postgres", &["-i", "-q"]);
    admin.exec("GRANT ALL ON ALL TABLES IN SCHEMA public TO ana");
    // What is counted, and the number of transactions that pgbench says.
    let mut run = |options: &[&str]| {
        let before = used(&mut admin, "ana");
        let text = pgbench(&cluster, "ana", &[options, &["-n"]].concat());
        let processed = text.split("actually processed: ").nth(1).and_then(|t| t.split(['/', '\n']).next());
        let processed: i64 = processed.and_then(|n| n.trim().parse().ok()).expect("a number of transactions");
        wait_until_gone(&mut admin, "ana");
        let found = used(&mut admin, "ana").since(before);
        assert_eq!((found.errors, found.cancels), (0, 0), "{options:?}");
        (found.calls, processed)
    };
    // It looks at its tables before it begins.
    let (looks, one) = run(&["-S", "-t", "1", "-c", "1"]);
    let looks = looks - one;
    for protocol in ["simple", "extended", "prepared"] {
        let (calls, transactions) = run(&["-M", protocol, "-S", "-c", "8", "-j", "2", "-T", "2"]);
        assert_eq!(calls, transactions + looks, "{protocol}");
        // BEGIN, three UPDATEs, a SELECT, an INSERT, END.
        let (calls, transactions) = run(&["-M", protocol, "-c", "8", "-j", "2", "-t", "40"]);
        assert_eq!((calls, transactions), (7 * 320 + looks, 320), "{protocol}");
    }
}
