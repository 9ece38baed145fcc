//! Saved queries on a schedule, results that expire, and what of both a dump carries.

use pg_test::jobs::{wait_for, SCHEDULER};
use pg_test::{wait_until, Client, ClientExt, JobsExt, Warehouse};

fn run(c: &mut Client, slug: &str) -> String {
    c.value(&format!("SELECT result FROM wh.run_query('{slug}')"))
}

#[test]
fn a_scheduled_query_keeps_a_series_of_results() {
    let w = Warehouse::new("series");
    let mut ana = w.as_role("ana");
    ana.exec(
        "CREATE TABLE ana.t AS SELECT 1 AS n;
         SELECT wh.save_query('q', 'SELECT n, :add + n AS m, session_user::text AS who FROM ana.t', params => '{\"add\": \"int\"}')",
    );
    for (call, code) in [
        ("wh.schedule_query('q', '@daily')", "22023"),
        ("wh.schedule_query('q', '@daily', '{\"add\": \"x\"}')", "22P02"),
        ("wh.schedule_query('nothing', '@daily')", "42704"),
        ("wh.schedule_query('q', 'sometimes', '{\"add\": 1}')", "22023"),
    ] {
        assert_eq!(ana.error(&format!("SELECT {call}")).code().code(), code, "{call}");
    }
    let job = ana.value("SELECT wh.schedule_query('q', '@daily', '{\"add\": 10}', timezone => 'Europe/Berlin')");
    assert_eq!(
        ana.table("SELECT job, name, kind, schedule, owner, command, catch_up FROM wh.jobs"),
        format!(
            "{job}|query q|query|at 00:00, Europe/Berlin|ana|SELECT * FROM wh.run_query('q', '{{\"add\": 10}}')|once"
        )
    );
    for n in 1..=3 {
        ana.exec(&format!("INSERT INTO ana.t SELECT {n} + 1"));
        assert_eq!(ana.table("SELECT status, rows FROM wh.run_job('query q')"), format!("succeeded|{}", n + 1));
    }
    // By hand it is of no series.
    ana.exec("SELECT wh.run_query('q', '{\"add\": 0}')");
    assert_eq!(
        ana.table("SELECT r.job, r.runner, r.login, r.rows, r.params, j.status FROM wh.results r LEFT JOIN wh.job_runs j USING (run) ORDER BY id"),
        "query q|ana|ana|2|{\"add\": \"10\"}|succeeded\nquery q|ana|ana|3|{\"add\": \"10\"}|succeeded\n\
         query q|ana|ana|4|{\"add\": \"10\"}|succeeded\n|ana|ana|4|{\"add\": \"0\"}|"
    );
    let last = ana.table("SELECT d.* FROM (SELECT min(id) AS a, max(id) AS b FROM wh.results WHERE job = 'query q') s, wh.result_diff(a, b) d ORDER BY 1, 3::text");
    assert_eq!(
        last,
        "row added||{\"m\": 13, \"n\": 3, \"who\": \"ana\"}\nrow added||{\"m\": 14, \"n\": 4, \"who\": \"ana\"}"
    );
    // What it runs is not changed by the job's options, and a query that is gone is a failure with a reason.
    assert_eq!(ana.error("SELECT wh.alter_job('query q', command => 'SELECT 1')").code().code(), "22023");
    ana.exec("SELECT wh.alter_job('query q', schedule => '@hourly', new_name => 'hers')");
    ana.exec("SELECT wh.save_query('q', 'SELECT 1 / :add AS n', params => '{\"add\": \"int\"}')");
    assert_eq!(ana.value("SELECT status FROM wh.run_job('hers')"), "succeeded");
    assert_eq!(ana.table("SELECT version, job FROM wh.results ORDER BY id DESC LIMIT 1"), "2|hers");
    ana.exec("SELECT wh.drop_query('q')");
    assert_eq!(ana.value("SELECT status FROM wh.run_job('hers')"), "failed");
    assert_eq!(ana.last_run("hers"), "failed|42704|query \"q\" does not exist");
    assert_eq!(ana.value("SELECT count(*) FROM wh.results"), "5");
}

#[test]
fn a_query_that_is_shared_runs_for_whoever_scheduled_it() {
    let w = Warehouse::new("shared");
    let (mut ana, mut ben) = (w.as_role("ana"), w.as_role("ben"));
    ana.exec("SELECT wh.save_query('who', 'SELECT current_user::text AS c, session_user::text AS s')");
    assert_eq!(ben.error("SELECT wh.schedule_query('who', '@daily')").code().code(), "42704");
    ana.exec("SELECT wh.share_query('who', 'ben')");
    ben.exec("SELECT wh.schedule_query('who', '@daily', job_name => 'mine')");
    assert_eq!(ben.value("SELECT status FROM wh.run_job('mine')"), "succeeded");
    assert_eq!(ben.value("SELECT r FROM wh.results s, wh.result(s.id) r"), "{\"c\": \"ben\", \"s\": \"ben\"}");
    assert_eq!(ana.table("TABLE wh.results"), "");
    // What she saves later is not what he scheduled, and a trap does not spring on him either way.
    ana.exec(
        "CREATE FUNCTION ana.trap() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN current_user; END $$; GRANT USAGE ON SCHEMA ana TO ben;
         SELECT wh.save_query('who', 'SELECT ana.trap()')",
    );
    assert_eq!(ben.value("SELECT status FROM wh.run_job('mine')"), "succeeded");
    assert_eq!(ben.value("SELECT max(version) FROM wh.results"), "1");
    ben.exec("SELECT wh.schedule_query('who', '@daily', job_name => 'mine')");
    assert_eq!(ben.value("SELECT status FROM wh.run_job('mine')"), "failed");
    assert_eq!(ben.last_run("mine"), "failed|42501|function ana.trap() of \"ana\" would run with your rights");
    ana.exec("SELECT wh.unshare_query('who', 'ben')");
    assert_eq!(ben.value("SELECT status FROM wh.run_job('mine')"), "failed");
    assert_eq!(ben.last_run("mine"), "failed|42704|query \"who\" does not exist");
}

#[test]
fn results_go_by_age_and_by_bytes_and_not_while_they_are_read() {
    let w = Warehouse::new("expire");
    let mut c = w.client();
    let (mut ana, mut ben, mut deploy) = (w.as_role("ana"), w.as_role("ben"), w.as_role("deploy"));
    for role in [&mut ana, &mut ben] {
        let who = role.value("SELECT current_user");
        role.exec(&format!("SELECT wh.save_query('{who}-s', 'SELECT repeat(''x'', 100) AS x FROM generate_series(1, 20000)'), wh.save_query('{who}-1', 'SELECT 1')"));
    }
    let (old, hers, his) = (run(&mut ana, "ana-1"), run(&mut ana, "ana-1"), run(&mut ben, "ben-1"));
    c.exec(&format!("UPDATE wh.result SET ran_at = now() - interval '91 days' WHERE id IN ({old}, {his})"));
    // An analyst's own, and nothing that is not due.
    assert_eq!(
        ana.table("SELECT result, query, owner, reason FROM wh.expire_results()"),
        format!("{old}|ana-1|ana|older than 90 days")
    );
    assert_eq!(ana.table("SELECT id FROM wh.results"), hers);
    assert_eq!(ana.error(&format!("SELECT wh.result({old})")).code().code(), "42704");
    assert_eq!(deploy.table("SELECT result, owner FROM wh.expire_results()"), format!("{his}|ben"));
    // One that is named, by its runner alone.
    assert_eq!(deploy.error(&format!("SELECT wh.expire_results({hers})")).code().code(), "42704");
    assert_eq!(
        ana.table(&format!("SELECT result, reason FROM wh.expire_results({hers})")),
        format!("{hers}|asked for")
    );
    // The oldest beyond the quota: each of these has some 2.7 MB.
    let large: Vec<String> = (0..3).map(|_| run(&mut ana, "ana-s")).collect();
    let other = run(&mut ben, "ben-s");
    c.exec("SET startup_wh.result_quota = '6MB'");
    assert_eq!(
        c.table("SELECT result, reason FROM wh.expire_results()"),
        format!("{}|ana has more than 6144 kB", large[0])
    );
    // Whoever reads is not disturbed; what is left is taken the next time.
    ana.exec(&format!("BEGIN; SELECT count(*) FROM wh_results.r{}", large[1]));
    c.exec("SET startup_wh.result_quota = '3MB'");
    assert_eq!(c.table("SELECT * FROM wh.expire_results()"), "");
    // Whoever makes something on one keeps that, and not the rows: nobody can fill the disk with what has expired.
    ana.exec(&format!("COMMIT; CREATE VIEW ana.v AS SELECT * FROM wh_results.r{}", large[1]));
    assert_eq!(c.table("SELECT result FROM wh.expire_results()"), large[1]);
    assert_eq!(ana.error("SELECT count(*) FROM ana.v").code().code(), "42704");
    let size = format!("SELECT pg_table_size('wh_results.data_{}') < 20000", large[1]);
    assert_eq!(c.value(&size), "t");
    assert_eq!(c.table("SELECT result FROM wh.expire_results()"), "");
    assert_eq!(c.value(&size), "t", "the view still stands on it");
    ana.exec("DROP VIEW ana.v");
    assert_eq!(c.table("SELECT result FROM wh.expire_results()"), "");
    assert_eq!(
        c.value(&format!(
            "SELECT to_regclass('wh_results.data_{0}') IS NULL AND to_regclass('wh_results.r{0}') IS NULL",
            large[1]
        )),
        "t"
    );
    assert_eq!(ana.table("SELECT id FROM wh.results"), large[2]);
    assert_eq!(ben.table("SELECT id FROM wh.results"), other);
    assert_eq!(
        c.value(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'wh_results'::regnamespace AND relkind IN ('r', 'v')"
        ),
        "4"
    );
    // A scheduler does it by itself.
    c.exec("UPDATE wh.result SET ran_at = now() - interval '91 days'");
    let pid = wait_for(&mut c, SCHEDULER);
    c.exec(&format!("SELECT pg_terminate_backend({pid})"));
    wait_until("a new scheduler has removed them", || c.value("SELECT count(*) FROM wh.result") == "0");
    assert_eq!(
        c.value(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'wh_results'::regnamespace AND relkind IN ('r', 'v')"
        ),
        "0"
    );
}

#[test]
fn a_dump_carries_queries_and_results_and_who_may_read_them() {
    let w = Warehouse::new("dumped");
    let mut c = w.client();
    c.exec(
        "CREATE SCHEMA app; CREATE TABLE app.t (gone int, a int, b text); ALTER TABLE app.t DROP gone; INSERT INTO app.t VALUES (1, 'x');
         GRANT USAGE ON SCHEMA app TO ana, ben; GRANT SELECT ON app.t TO ana; GRANT SELECT (a) ON app.t TO ben",
    );
    let mut ana = w.as_role("ana");
    ana.exec("SELECT wh.save_query('a', 'SELECT a FROM app.t'), wh.save_query('b', 'SELECT b FROM app.t'), wh.share_query('a', 'ben'), wh.share_query('b', 'ben')");
    let (a, b) = (run(&mut ana, "a"), run(&mut ana, "b"));
    c.exec("ALTER DATABASE dumped SET startup_wh.result_inline_size = 0");
    let t = run(&mut w.as_role("ana"), "a");
    let dump = w.cluster().dump("dumped", &[]).unwrap_or_else(|e| panic!("{e}"));
    // What the scheduler of the new database does may come in between.
    let raced = dump.replacen("COPY wh.result ", "SELECT wh.expire_results();\nCOPY wh.result ", 1);
    assert_ne!(raced, dump);
    c.exec("CREATE DATABASE dumped_copy");
    let restored = w.cluster().psql("dumped_copy", &raced).unwrap_or_else(|e| panic!("{e}"));
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let connect = |role: &str| {
        let password = pg_test::pair::password(role);
        w.cluster().connect_as("dumped_copy", role, &password).unwrap_or_else(|e| panic!("{e}"))
    };
    let (mut ana, mut ben) = (connect("ana"), connect("ben"));
    let all = "SELECT id, query, version, runner, rows, (SELECT array_agg(r) FROM wh.result(s.id) r) FROM wh.results s ORDER BY id";
    assert_eq!(
        ana.table(all),
        format!("{a}|a|1|ana|1|{{\"{{\\\"a\\\": 1}}\"}}\n{b}|b|1|ana|1|{{\"{{\\\"b\\\": \\\"x\\\"}}\"}}\n{t}|a|1|ana|1|{{\"{{\\\"a\\\": 1}}\"}}")
    );
    // Columns have other numbers there, and it is the same ones that count.
    assert_eq!(ben.table("SELECT id FROM wh.results ORDER BY id"), format!("{a}\n{t}"));
    assert_eq!(ben.value(&format!("SELECT a FROM wh_results.r{t}")), "1");
    assert_eq!(ben.error(&format!("SELECT wh.result({b})")).code().code(), "42501");
    // A table of the name that somebody else owns is another one.
    let mut copy = w.cluster().connect("dumped_copy").unwrap_or_else(|e| panic!("{e}"));
    copy.exec("ALTER TABLE app.t OWNER TO ben");
    assert_eq!(ben.table("SELECT id FROM wh.results"), "");
    let next = run(&mut ana, "a");
    assert!(next.parse::<i64>().ok() > t.parse().ok(), "numbers go on: {next}");
    drop((ana, ben, copy));
    c.exec("DROP DATABASE dumped_copy WITH (FORCE)");
}
