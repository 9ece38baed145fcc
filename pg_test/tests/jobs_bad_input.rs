//! What is refused, with what words, and that nothing has changed then.

use pg_test::{ClientExt, Cluster, JobsExt, Warehouse};
use postgres::error::DbError;

fn in_full(e: &DbError) -> String {
    let mut text = format!("{} {}", e.code().code(), e.message());
    for part in [e.detail(), e.hint()].into_iter().flatten() {
        text.push_str(" | ");
        text.push_str(part);
    }
    text
}

#[test]
fn bad_input_is_refused_with_what_is_wrong_and_changes_nothing() {
    let w = Warehouse::new("bad");
    let mut c = w.client();
    c.exec("CREATE TABLE t (a int); CREATE VIEW v AS SELECT 1 AS a; CREATE MATERIALIZED VIEW mv AS SELECT 1 AS a");
    c.schedule("j", "SELECT 1");
    c.exec("SELECT wh.keep_fresh('mv', '1 hour', job_name => 'kept'), wh.schedule_refresh('mv', '@daily', job_name => 'r')");
    let all = "SELECT pg_catalog.md5(pg_catalog.string_agg(j::text, '' ORDER BY id)) FROM wh.job j";
    let before = c.value(all);
    let mut said = String::new();
    for (sql, expected) in [
        // Schedules: where in the text.
        ("schedule('x', '61 * * * *', 'SELECT 1')", "22023 "),
        ("schedule('x', '* * 30 2 *', 'SELECT 1')", "22023 "),
        ("schedule('x', 'now and then', 'SELECT 1')", "22023 "),
        ("schedule('x', '', 'SELECT 1')", "22023 "),
        ("schedule('x', '* * * *', 'SELECT 1')", "22023 "),
        ("schedule('x', '0 seconds', 'SELECT 1')", "22023 "),
        ("schedule('x', '-5 minutes', 'SELECT 1')", "22023 "),
        ("schedule('x', '@sometimes', 'SELECT 1')", "22023 "),
        ("alter_job('j', schedule => '* * * * * * *')", "22023 "),
        ("schedule_preview('*/0 * * * *')", "22023 "),
        ("schedule_preview('@daily', n => 0)", "22023 n must be between 1 and 10000"),
        ("schedule_preview('@daily', n => NULL)", "22023 n must not be null"),
        ("schedule_preview(NULL)", "22023 schedule must not be null"),
        // Zones: the nearest names.
        ("schedule('x', '@daily', 'SELECT 1', timezone => 'Europe/Berlim')", "22023 "),
        ("alter_job('j', timezone => 'CET+1')", "22023 "),
        // Commands.
        ("schedule('x', '@daily', '')", "42601 the command is empty"),
        ("schedule('x', '@daily', ' ; -- nothing')", "42601 the command is empty"),
        ("schedule('x', '@daily', 'SELEC 1')", "42601 syntax error at or near \"SELEC\""),
        (
            "schedule('x', '@daily', 'BEGIN; SELECT 1')",
            "0A000 transaction control statements are not allowed in a job | A job's command is one transaction.",
        ),
        ("schedule('x', '@daily', 'SELECT 1; COMMIT')", "0A000 transaction control"),
        ("alter_job('j', command => 'ROLLBACK')", "0A000 transaction control"),
        ("alter_job('j', command => '')", "42601 the command is empty"),
        // Options.
        ("schedule('x', '@daily', 'SELECT 1', timeout => '-1 s')", "22023 timeout must not be negative"),
        ("schedule('x', '@daily', 'SELECT 1', retry_delay => '-1 s')", "22023 retry_delay must not be negative"),
        (
            "schedule('x', '@daily', 'SELECT 1', timeout => '110 years')",
            "22023 timeout must not be longer than 100 years",
        ),
        (
            "schedule('x', '@daily', 'SELECT 1', retry_delay => make_interval(secs => 9222000000000))",
            "22023 retry_delay must not be longer than 100 years",
        ),
        ("alter_job('j', retry_delay => '110 years')", "22023 retry_delay must not be longer than 100 years"),
        ("alter_job('j', timeout => '110 years')", "22023 timeout must not be longer than 100 years"),
        ("schedule('x', '@daily', 'SELECT 1', max_retries => -1)", "22023 max_retries must not be negative"),
        (
            "schedule('x', '@daily', 'SELECT 1', catch_up => 'always')",
            "22023 invalid value for catch_up: \"always\" | It is 'skip' or 'once'.",
        ),
        ("alter_job('j', timeout => '-1 s')", "22023 timeout must not be negative"),
        ("alter_job('j', retry_delay => '-1 s')", "22023 retry_delay must not be negative"),
        ("alter_job('j', max_retries => -1)", "22023 max_retries must not be negative"),
        ("alter_job('j', catch_up => '')", "22023 invalid value for catch_up"),
        (
            "schedule('x', '@daily', 'SELECT 1', database => 'nowhere')",
            "3D000 database \"nowhere\" does not exist | SELECT datname",
        ),
        ("alter_job('j', database => 'nowhere')", "3D000 database \"nowhere\" does not exist | "),
        ("alter_job('j', owner => 'no such role')", "42704 role \"no such role\" does not exist"),
        ("alter_job('j', new_name => 'kept')", "42710 job name \"kept\" is taken"),
        ("alter_job('j', new_name => '  ')", "22023 job_name must be"),
        ("schedule('', '@daily', 'SELECT 1')", "22023 job_name must be"),
        ("schedule(repeat('x', 201), '@daily', 'SELECT 1')", "22023 job_name must be"),
        ("alter_job('j', max_lag => '1 hour')", "22023 a job of kind sql has no max_lag"),
        ("alter_job('j', upstream => false)", "22023 a job of kind sql has no view"),
        ("alter_job('kept', schedule => '@daily')", "22023 a job of kind keep_fresh has no schedule"),
        ("alter_job('r', command => 'SELECT 1')", "22023 a job of kind refresh has no command"),
        ("alter_job('r', database => 'bad')", "22023 a job of kind refresh has no database"),
        ("alter_job('r', concurrently => 'maybe')", "22023 "),
        ("alter_job('kept', max_lag => '-1 hour')", "22023 max_lag must be at least one second | For instance"),
        // Nulls.
        ("schedule(NULL, '@daily', 'SELECT 1')", "22023 job_name must not be null"),
        ("schedule('x', NULL, 'SELECT 1')", "22023 schedule must not be null"),
        ("schedule('x', '@daily', NULL)", "22023 command must not be null"),
        ("schedule('x', '@daily', 'SELECT 1', max_retries => NULL)", "22023 max_retries must not be null"),
        ("schedule('x', '@daily', 'SELECT 1', retry_delay => NULL)", "22023 retry_delay must not be null"),
        ("schedule('x', '@daily', 'SELECT 1', catch_up => NULL)", "22023 catch_up must not be null"),
        ("schedule('x', '@daily', 'SELECT 1', enabled => NULL)", "22023 enabled must not be null"),
        ("keep_fresh(NULL, '1 hour')", "22023 view must not be null"),
        ("keep_fresh('mv', NULL)", "22023 max_lag must not be null"),
        ("schedule_refresh('mv', '@daily', upstream => NULL)", "22023 upstream must not be null"),
        ("alter_job(NULL)", "22023 job_name must not be null"),
        ("unschedule(NULL)", "22023 job_name must not be null"),
        ("cancel_job(NULL)", "22023 job_name must not be null"),
        ("run_job(NULL)", "22023 job_name must not be null"),
        ("run_job('j', wait => NULL)", "22023 wait must not be null"),
        // Views.
        ("keep_fresh('t', '1 hour')", "42809 "),
        ("keep_fresh('v', '1 hour')", "42809 "),
        ("schedule_refresh('t', '@daily')", "42809 "),
        ("keep_fresh('mv', '0')", "22023 max_lag must be at least one second"),
        ("keep_fresh('mv', '1 hour', concurrently => 'maybe')", "22023 "),
        ("schedule_refresh('mv', 'daily')", "22023 "),
        ("schedule_recreate_fdw('none', '@daily')", "42704 "),
        // Jobs.
        ("alter_job('none')", "42704 job \"none\" does not exist | SELECT name FROM wh.jobs lists those that do."),
        ("unschedule('none')", "42704 "),
        ("run_job('none')", "42704 "),
        ("cancel_job('none')", "42704 "),
        ("pause('none')", "42704 "),
        ("resume('none')", "42704 "),
        ("import_pg_cron()", "42704 pg_cron is not installed in this database | "),
    ] {
        let e = in_full(&c.error(&format!("SELECT * FROM wh.{sql}")));
        assert!(e.starts_with(expected), "{sql}: {e}");
        assert!(!e.starts_with("XX000"), "{sql}: {e}");
        said.push_str(&format!("{sql}: {e}\n"));
    }
    assert_eq!(c.value(all), before);
    // What is wrong, where, and what would be right.
    let of = |sql: &str| said.lines().find(|l| l.contains(sql)).expect("said").to_owned();
    assert!(of("61 * *").contains("61") && of("61 * *").contains("minute"), "{}", of("61 * *"));
    assert!(of("Europe/Berlim").contains("Europe/Berlin"), "{}", of("Europe/Berlim"));
    assert!(of("* * 30 2 *").contains(" | "), "{}", of("* * 30 2 *"));
    assert!(of("@sometimes").contains("@hourly") || of("@sometimes").contains("@daily"), "{}", of("@sometimes"));
}

#[test]
fn a_syntax_error_is_shown_where_it_is() {
    let w = Warehouse::new("where_it_is");
    let mut c = w.client();
    let truth = c.error("SELECT 1 FRM t");
    let told = c.error("SELECT wh.schedule('x', '@daily', 'SELECT 1 FRM t')");
    assert_eq!((told.code(), told.message()), (truth.code(), truth.message()));
}

#[test]
fn running_a_job_needs_it_committed_and_sees_what_is_committed() {
    let w = Warehouse::new("uncommitted");
    let mut c = w.client();
    c.exec("BEGIN");
    c.schedule("new", "SELECT 1");
    let refused = c.error("SELECT wh.run_job('new')");
    assert_eq!(
        in_full(&refused),
        "55000 the scheduler does not know job \"new\" yet | Commit the transaction that made it, and try again."
    );
    c.exec("ROLLBACK");
    assert_eq!(c.value("SELECT count(*) FROM wh.jobs"), "0");
    c.schedule("j", "SELECT 1");
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        c.exec(&format!("BEGIN ISOLATION LEVEL {level}"));
        assert_eq!(c.error("SELECT wh.run_job('j')").code().code(), "25001", "{level}");
        c.exec("ROLLBACK");
    }
    assert_eq!(c.value("SELECT count(*) FROM wh.job_runs"), "0");
    // One that has just been committed is known, as often as one likes.
    for n in 0..100 {
        assert_eq!(c.run(&format!("quick {n}"), "SELECT 1"), "succeeded");
    }
}

#[test]
fn without_preloading_jobs_are_refused_with_the_line_that_helps() {
    let cluster = Cluster::start("not_preloaded").expect("a cluster");
    let mut c = cluster.connect("postgres").expect("a session");
    c.exec("CREATE EXTENSION startup_wh; CREATE MATERIALIZED VIEW mv AS SELECT 1 AS a");
    let expected = "55000 jobs need startup_wh to be loaded with the server | Add startup_wh to shared_preload_libraries in postgresql.conf and restart the server.";
    for call in [
        "schedule('j', '@daily', 'SELECT 1')",
        "keep_fresh('mv', '1 hour')",
        "schedule_refresh('mv', '@daily')",
        "run_job('j')",
        "cancel_job('j')",
        "alter_job('j')",
    ] {
        assert_eq!(in_full(&c.error(&format!("SELECT wh.{call}"))), expected, "{call}");
    }
    // What needs no worker is there.
    assert_eq!(c.value("SELECT count(*) FROM wh.schedule_preview('@daily', n => 3)"), "3");
    assert_eq!(c.table("SELECT * FROM wh.jobs"), "");
    assert_eq!(c.table("SELECT * FROM wh.job_runs"), "");
}
