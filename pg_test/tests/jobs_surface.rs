//! The SQL surface of jobs: what each function and option does, and what the views say of it.

use pg_test::{wait_until, ClientExt, Cluster, JobsExt, Warehouse};

#[test]
fn scheduling_again_replaces_a_job_of_the_same_name_and_owner() {
    let w = Warehouse::new("replaced");
    let mut c = w.client();
    let id = c.value("SELECT wh.schedule('nightly', '30 3 * * *', 'VACUUM')");
    assert_eq!(c.value("SELECT pg_typeof(wh.schedule('other', '@hourly', 'VACUUM'))"), "bigint");
    let again = c.value(
        "SELECT wh.schedule('nightly', '*/15 * * * *', 'ANALYZE', timezone => 'Europe/Berlin', timeout => '10 minutes',
           max_retries => 3, retry_delay => '5 seconds', catch_up => 'once', enabled => false)",
    );
    assert_eq!(again, id);
    assert_eq!(
        c.table(
            "SELECT name, owner, kind, schedule, command, database, enabled, reason, next_run IS NULL, timeout, max_retries, retry_delay, catch_up
             FROM wh.jobs ORDER BY name"
        ),
        "nightly|postgres|sql|every 15 minutes, Europe/Berlin|ANALYZE||f|disabled|t|00:10:00|3|00:00:05|once\n\
         other|postgres|sql|hourly|VACUUM||t||f||0|00:01:00|skip"
    );
}

#[test]
fn jobs_tell_their_schedules_in_words_and_when_they_come_next() {
    let w = Warehouse::new("told");
    let mut c = w.client();
    c.exec(
        "CREATE MATERIALIZED VIEW daily AS SELECT 1 AS a;
         SELECT wh.keep_fresh('daily', '10 minutes'); SELECT wh.keep_fresh('daily', '1 hour', job_name => 'hour');
         SELECT wh.schedule_refresh('daily', '@daily');
         SELECT wh.schedule('often', '90 seconds', 'SELECT 1');
         SELECT wh.schedule('weekdays', '30 3 * * 1-5', 'SELECT 1', timezone => 'Europe/Berlin')",
    );
    assert_eq!(
        c.table("SELECT name, kind, schedule FROM wh.jobs ORDER BY job"),
        "keep fresh public.daily|keep_fresh|at most 10 minutes behind\nhour|keep_fresh|at most 1 hour behind\n\
         refresh public.daily|refresh|at 00:00\noften|sql|every 1 minute 30 seconds\nweekdays|sql|at 03:30 on weekdays, Europe/Berlin"
    );
    // The truth by Postgres's own arithmetic.
    assert_eq!(
        c.value("SELECT next_run = date_trunc('day', now() AT TIME ZONE 'UTC' + interval '1 day') AT TIME ZONE 'UTC' FROM wh.jobs WHERE name = 'refresh public.daily'"),
        "t"
    );
    assert_eq!(
        c.value("SELECT extract(isodow FROM next_run AT TIME ZONE 'Europe/Berlin') < 6 AND (next_run AT TIME ZONE 'Europe/Berlin')::time = '03:30'
                 FROM wh.jobs WHERE name = 'weekdays'"),
        "t"
    );
    let preview = c.table(
        "SELECT n, at = local AT TIME ZONE 'America/New_York', extract(dow FROM local), local::time, words
         FROM wh.schedule_preview('15 9 * * mon', 'America/New_York', 3)",
    );
    let line = |n| format!("{n}|t|1|09:15:00|at 09:15 on Monday, America/New_York");
    assert_eq!(preview, [line(1), line(2), line(3)].join("\n"));
    assert_eq!(c.value("SELECT count(*) = 10 AND bool_and(at > now()) FROM wh.schedule_preview('@hourly')"), "t");
    assert_eq!(
        c.value("SELECT every = '90 s' FROM (SELECT at - lag(at) OVER (ORDER BY n) AS every FROM wh.schedule_preview('90 seconds', n => 2)) s WHERE every IS NOT NULL"),
        "t"
    );
}

#[test]
fn alter_job_changes_what_is_given_and_leaves_the_rest() {
    let w = Warehouse::new("altered");
    let mut c = w.client();
    c.exec("CREATE ROLE altered_other LOGIN; SELECT wh.schedule('j', '@daily', 'SELECT 1', timeout => '1 hour')");
    let shown = "SELECT name, owner, schedule, command, database, enabled, timeout, max_retries, retry_delay, catch_up FROM wh.jobs";
    let mut row: Vec<String> = c.table(shown).split('|').map(str::to_owned).collect();
    for (argument, column, value) in [
        ("schedule => '@hourly'", 2, "hourly"),
        ("schedule => '0 5 * * *', timezone => 'Asia/Tokyo'", 2, "at 05:00, Asia/Tokyo"),
        ("timezone => 'Europe/Paris'", 2, "at 05:00, Europe/Paris"),
        ("command => 'SELECT 2'", 3, "SELECT 2"),
        ("database => 'altered'", 4, "altered"),
        ("enabled => false", 5, "f"),
        ("enabled => true", 5, "t"),
        ("timeout => '5 s'", 6, "00:00:05"),
        ("timeout => '0'", 6, ""),
        ("max_retries => 7", 7, "7"),
        ("retry_delay => '3 s'", 8, "00:00:03"),
        ("catch_up => 'once'", 9, "once"),
        ("owner => 'altered_other'", 1, "altered_other"),
        ("new_name => 'k'", 0, "k"),
    ] {
        c.exec(&format!("SELECT wh.alter_job('{}', {argument})", row[0]));
        row[column] = value.into();
        assert_eq!(c.table(shown), row.join("|"), "after {argument}");
    }
    assert_eq!(c.value("SELECT next_run > now() FROM wh.jobs"), "t");
    c.exec(
        "CREATE MATERIALIZED VIEW v AS SELECT 1 AS a; SELECT wh.keep_fresh('v', '1 hour', job_name => 'f');
         SELECT wh.alter_job('f', max_lag => '2 hours', concurrently => 'never', upstream => false)",
    );
    assert_eq!(c.table("SELECT schedule FROM wh.jobs WHERE name = 'f'"), "at most 2 hours behind");
    assert_eq!(c.table("SELECT refresh_mode, upstream, max_lag FROM wh.job WHERE name = 'f'"), "never|f|02:00:00");
    c.exec("DROP ROLE altered_other");
}

#[test]
fn a_run_by_hand_waits_for_its_end_or_does_not() {
    let w = Warehouse::new("byhand");
    let mut c = w.client();
    c.exec("CREATE TABLE gate (); CREATE TABLE ran (at timestamptz)");
    c.schedule("j", "INSERT INTO ran SELECT clock_timestamp() FROM generate_series(1, 3)");
    assert_eq!(
        c.table("SELECT run, status, started <= finished, rows, error FROM wh.run_job('j')"),
        "1|succeeded|t|3|"
    );
    assert_eq!(
        c.table(
            "SELECT r.run, trigger, r.scheduled_for <= r.started, started <= (SELECT min(at) FROM ran), (SELECT max(at) FROM ran) <= finished,
                    status, attempt, rows, sqlstate, error, missed, pid > 0 FROM wh.job_runs r"
        ),
        "1|hand|t|t|t|succeeded|1|3|||0|t"
    );
    c.schedule("slow", "LOCK TABLE gate; SELECT 1");
    c.schedule("slow", "SELECT pg_advisory_xact_lock(1)");
    let mut holder = w.client();
    holder.exec("BEGIN; SELECT pg_advisory_xact_lock(1)");
    assert_eq!(c.value("SELECT status FROM wh.run_job('slow', wait => false)"), "queued");
    wait_until("it waits for the lock", || {
        c.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") == "1"
    });
    let waits = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    let pid = c.value(waits);
    assert_eq!(c.table("SELECT running_pid, last_status FROM wh.jobs WHERE name = 'slow'"), format!("{pid}|running"));
    assert_eq!(
        c.table("SELECT status, pid, finished FROM wh.job_runs WHERE job_name = 'slow'"),
        format!("running|{pid}|")
    );
    // A run never overlaps itself.
    let refused = c.error("SELECT wh.run_job('slow')");
    assert_eq!(refused.code().code(), "55006");
    holder.exec("COMMIT");
    c.wait_for("slow", "succeeded");
    assert_eq!(
        c.table("SELECT runs_24h, failures_24h, average_time > '0', last_status, running_pid, failures_in_a_row FROM wh.jobs WHERE name = 'slow'"),
        "1|0|t|succeeded||0"
    );
}

#[test]
fn a_queued_and_a_running_run_can_be_cancelled() {
    let cluster = pg_test::warehouse::cluster("one_runner", &[("startup_wh.max_running_jobs", "1")]);
    let mut c = pg_test::warehouse::create(&cluster, "one_runner");
    for job in ["first", "second"] {
        c.schedule(job, "SELECT pg_sleep(600)");
        c.exec(&format!("SELECT wh.run_job('{job}', wait => false)"));
    }
    c.wait_for("first", "running");
    assert_eq!(c.last_run("second"), "queued||");
    assert_eq!(c.value("SELECT wh.cancel_job('second')"), "t");
    c.wait_for("second", "cancelled");
    assert_eq!(c.last_run("second"), "cancelled|57014|canceled by wh.cancel_job before it began");
    assert_eq!(c.value("SELECT wh.cancel_job('second')"), "f");
    assert_eq!(c.value("SELECT wh.cancel_job('first')"), "t");
    c.wait_for("first", "cancelled");
    assert_eq!(c.last_run("first"), "cancelled|57014|canceled by wh.cancel_job");
    // That is no failure.
    assert_eq!(c.table("SELECT DISTINCT failures_in_a_row, failures_24h FROM wh.jobs"), "0|0");
    assert_eq!(c.run("third", "SELECT 1"), "succeeded");
}

#[test]
fn unscheduled_jobs_are_gone_and_their_history_is_not() {
    let w = Warehouse::new("unscheduled");
    let mut c = w.client();
    assert_eq!(c.run("j", "SELECT 1"), "succeeded");
    c.exec("SELECT wh.schedule('running', '0 0 1 1 *', 'SELECT pg_advisory_xact_lock(2)')");
    let mut holder = w.client();
    holder.exec("BEGIN; SELECT pg_advisory_xact_lock(2)");
    c.exec("SELECT wh.run_job('running', wait => false)");
    c.wait_for("running", "running");
    c.exec("SELECT wh.unschedule('j'), wh.unschedule('running')");
    assert_eq!(c.table("SELECT name FROM wh.jobs"), "");
    // What has begun goes on.
    holder.exec("COMMIT");
    c.wait_for("running", "succeeded");
    assert_eq!(c.table("SELECT job_name, status FROM wh.job_runs ORDER BY run"), "j|succeeded\nrunning|succeeded");
    assert_eq!(c.error("SELECT wh.unschedule('j')").code().code(), "42704");
}

#[test]
fn paused_jobs_do_not_run_until_they_are_resumed() {
    let w = Warehouse::new("paused");
    let mut c = w.client();
    c.exec("CREATE TABLE ran (job text); SELECT wh.schedule('tick', '1 second', 'INSERT INTO ran VALUES (''tick'')')");
    c.exec("SELECT wh.schedule('other', '1 second', 'INSERT INTO ran VALUES (''other'')')");
    let count = "SELECT count(*) FROM ran WHERE job = ";
    wait_until("both have run", || c.value("SELECT count(DISTINCT job) FROM ran") == "2");
    c.exec("SELECT wh.pause('tick')");
    assert_eq!(
        c.table(
            "SELECT enabled, next_run, reason ~ '^wh.pause\\(\\) by \"postgres\" at ' FROM wh.jobs WHERE name = 'tick'"
        ),
        "f||t"
    );
    wait_until("no run of tick goes on", || {
        c.value("SELECT count(*) FROM wh.job_runs WHERE job_name = 'tick' AND finished IS NULL") == "0"
    });
    let (mut ticks, others) = (c.value(&format!("{count}'tick'")), c.value(&format!("{count}'other'")));
    // Pausing is seen at the next wake-up; one run may have begun by then.
    wait_until("other has run three times more", || {
        let n = |s: &str| s.parse::<i64>().expect("a number");
        if n(&c.value(&format!("{count}'other'"))) == n(&others) + 1 {
            ticks = c.value(&format!("{count}'tick'"));
        }
        n(&c.value(&format!("{count}'other'"))) >= n(&others) + 3
    });
    assert_eq!(c.value(&format!("{count}'tick'")), ticks);
    // By hand it runs all the same.
    assert_eq!(c.value("SELECT status FROM wh.run_job('tick')"), "succeeded");
    c.exec("SELECT wh.resume('tick')");
    assert_eq!(c.table("SELECT enabled, reason, next_run IS NOT NULL FROM wh.jobs WHERE name = 'tick'"), "t||t");
    let ticks: i64 = c.value(&format!("{count}'tick'")).parse().expect("a number");
    wait_until("tick runs again", || c.value(&format!("{count}'tick'")).parse::<i64>().expect("a number") > ticks);
    c.exec("SELECT wh.pause()");
    assert_eq!(c.table("SELECT DISTINCT enabled, next_run, reason ~ '^wh.pause\\(\\) by' FROM wh.jobs"), "f||t");
    c.exec("SELECT wh.resume()");
    assert_eq!(c.table("SELECT DISTINCT enabled, next_run IS NULL, reason FROM wh.jobs"), "t|f|");
}

#[test]
fn a_dump_carries_jobs_by_their_owners_names_and_not_those_of_dropped_ones() {
    let w = Warehouse::new("dumped");
    let mut c = w.client();
    let (stays, goes) = (w.role("stays"), w.role("goes"));
    w.as_role(&stays).exec("SELECT wh.schedule('kept', '30 3 * * 1-5', 'SELECT ''it''''s''', timezone => 'Europe/Berlin', timeout => '1 hour', max_retries => 2, catch_up => 'once')");
    w.as_role(&goes).exec("SELECT wh.schedule('orphan', '@daily', 'SELECT 1')");
    c.exec(
        "CREATE TABLE t AS SELECT 1 AS a; CREATE MATERIALIZED VIEW decoy AS SELECT 0 AS a; CREATE MATERIALIZED VIEW v AS SELECT a FROM t;
         SELECT wh.schedule_refresh('v', '@daily', job_name => 'fill')",
    );
    c.exec("SELECT wh.run_job('fill')");
    c.exec(&format!("DROP ROLE {goes}"));
    wait_until("the job says why it does not run", || {
        c.value("SELECT reason FROM wh.jobs WHERE name = 'orphan'").contains("was dropped")
    });
    let dump = w.cluster().dump("dumped", &[]).expect("a dump");
    let mut other = restore(w.cluster(), "dumped_again", &dump);
    assert_eq!(
        other.table("SELECT name, owner, schedule, command, timeout, max_retries, catch_up FROM wh.jobs ORDER BY name"),
        format!("fill|postgres|at 00:00|REFRESH MATERIALIZED VIEW public.v||0|once\nkept|{stays}|at 03:30 on weekdays, Europe/Berlin|SELECT 'it''s'|01:00:00|2|once")
    );
    assert_eq!(other.table("SELECT job_name, status FROM wh.job_runs"), "fill|succeeded");
    // They run there, and what they are about is found by name.
    other.exec("INSERT INTO t VALUES (2)");
    assert_eq!(other.table("SELECT status, error FROM wh.run_job('fill')"), "succeeded|");
    assert_eq!(other.value("SELECT count(*) FROM v"), "2");
    assert_eq!(other.table("SELECT status, error FROM wh.run_job('kept')"), "succeeded|");
    drop(other);
    w.cluster().connect("postgres").expect("a session").exec("DROP DATABASE dumped_again");
    c.exec(&format!("SELECT wh.unschedule('orphan'); DROP OWNED BY {stays}; DROP ROLE {stays}"));
}

fn restore(cluster: &Cluster, database: &str, dump: &str) -> postgres::Client {
    cluster.connect("postgres").expect("a session").exec(&format!("CREATE DATABASE {database}"));
    let out = cluster.psql(database, dump).expect("psql");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    cluster.connect(database).expect("a session")
}
