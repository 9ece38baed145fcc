//! What a job's command may be, and that nothing of a run is left for the next one of its owner.

use pg_test::{wait_until, ClientExt, JobsExt, Warehouse};

#[test]
fn commands_that_need_the_top_level_run() {
    let w = Warehouse::new("toplevel");
    let mut c = w.client();
    c.exec(
        "CREATE TABLE t (id int); INSERT INTO t SELECT generate_series(1, 100); CREATE TABLE marks (xid xid8);
         CREATE PROCEDURE in_parts() LANGUAGE plpgsql AS $$
         BEGIN FOR i IN 1..3 LOOP INSERT INTO marks VALUES (pg_current_xact_id()); COMMIT; END LOOP; END $$",
    );
    for (name, command) in [
        ("vacuum", "VACUUM (ANALYZE) t"),
        ("index", "CREATE INDEX CONCURRENTLY t_id ON t (id)"),
        ("reindex", "REINDEX INDEX CONCURRENTLY t_id"),
        ("call", "CALL in_parts()"),
        ("do", "DO $$ BEGIN INSERT INTO marks VALUES (pg_current_xact_id()); COMMIT; END $$"),
        ("several", "CREATE TABLE one (a int); INSERT INTO one SELECT generate_series(1, 5); INSERT INTO one SELECT a FROM one;;"),
        ("million", "SELECT * FROM generate_series(1, 1000000)"),
        ("explain", "EXPLAIN ANALYZE SELECT * FROM t"),
        ("nothing", "DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning of a job'; END $$"),
        ("locks", "SET LOCAL lock_timeout = '1s'; LOCK TABLE t; TRUNCATE t"),
        ("isolation", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM t"),
        ("refresh", "CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM t; REFRESH MATERIALIZED VIEW mv"),
    ] {
        c.schedule(name, command);
        c.exec(&format!("SELECT wh.run_job('{name}', wait => false)"));
        wait_until("it has ended", || !["queued", "running"].contains(&c.last_run(name).split('|').next().unwrap_or("")));
        assert_eq!(c.last_run(name), "succeeded||", "{command}");
    }
    assert_eq!(c.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 't_id'::regclass"), "t");
    // Each COMMIT was one.
    assert_eq!(c.value("SELECT count(DISTINCT xid::text) FROM marks"), "4");
    assert_eq!(
        c.table("SELECT job_name, rows FROM wh.job_runs WHERE job_name IN ('several', 'million') ORDER BY run"),
        "several|5\nmillion|1000000"
    );
    assert!(w.cluster().log().contains("a warning of a job"));
}

/// CREATE INDEX CONCURRENTLY waits for older transactions, and the deadlock detector does not see who waits for a job.
#[test]
fn a_run_that_waits_for_its_caller_does_not_wait_for_ever() {
    let w = Warehouse::new("eachother");
    let mut c = w.client();
    c.exec("CREATE TABLE t (id int)");
    c.schedule("index", "CREATE INDEX CONCURRENTLY t_id ON t (id)");
    let refused = c.error("SELECT wh.run_job('index')");
    assert_eq!(refused.code().code(), "40P01");
    assert!(refused.hint().is_some_and(|h| h.contains("wait => false")), "{refused:?}");
    c.wait_for("index", "succeeded");
    assert_eq!(c.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 't_id'::regclass"), "t");
}

#[test]
fn several_statements_are_one_transaction_and_an_error_undoes_all() {
    let w = Warehouse::new("oneunit");
    let mut c = w.client();
    c.exec("CREATE TABLE t (id int)");
    assert_eq!(c.run("j", "INSERT INTO t VALUES (1); INSERT INTO t VALUES (1 / 0)"), "failed");
    assert_eq!(c.value("SELECT count(*) FROM t"), "0");
    assert_eq!(c.last_run("j"), "failed|22012|division by zero");
    // VACUUM cannot be one of several, as in psql -c.
    assert_eq!(c.run("v", "VACUUM t; SELECT 1"), "failed");
    assert!(c.last_run("v").starts_with("failed|25001|"), "{}", c.last_run("v"));
}

#[test]
fn an_error_comes_back_in_full() {
    let w = Warehouse::new("infull");
    let mut c = w.client();
    c.exec(
        "CREATE FUNCTION inner_one() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
           RAISE EXCEPTION 'it is \"broken\"' USING ERRCODE = 'P0007', DETAIL = 'the detail', HINT = 'the hint'; END $$;
         CREATE FUNCTION outer_one() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN inner_one(); END $$",
    );
    // What a session is told is the truth.
    let truth = c.error("SELECT outer_one()");
    assert_eq!(c.run("j", "SELECT outer_one()"), "failed");
    let context = truth.where_().expect("a context").to_owned();
    assert_eq!(
        c.table("SELECT sqlstate, error, detail, hint, context, rows FROM wh.job_runs"),
        format!("P0007|it is \"broken\"|the detail|the hint|{context}|")
    );
    assert_eq!(c.table("SELECT last_status, last_error FROM wh.jobs"), "failed|it is \"broken\"");
    // No context is left over for another error.
    assert_eq!(c.run("k", "SELECT 1 FROM no_table"), "failed");
    assert_eq!(
        c.table("SELECT sqlstate, error, detail, hint, context FROM wh.job_runs WHERE job_name = 'k'"),
        "42P01|relation \"no_table\" does not exist|||"
    );
}

#[test]
fn a_constraint_that_fails_at_commit_fails_the_run_and_leaves_nothing() {
    let w = Warehouse::new("atcommit");
    let mut c = w.client();
    c.exec("CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE t (id int REFERENCES p DEFERRABLE INITIALLY DEFERRED)");
    assert_eq!(c.run("j", "INSERT INTO t VALUES (7)"), "failed");
    assert_eq!(c.value("SELECT count(*) FROM t"), "0");
    assert!(
        c.last_run("j").starts_with("failed|23503|insert or update on table \"t\" violates foreign key"),
        "{}",
        c.last_run("j")
    );
    assert_eq!(c.table("SELECT detail FROM wh.job_runs"), "Key (id)=(7) is not present in table \"p\".");
}

#[test]
fn a_procedure_that_fails_keeps_what_it_committed() {
    let w = Warehouse::new("midway");
    let mut c = w.client();
    c.exec(
        "CREATE TABLE t (id int);
         CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (2); COMMIT; INSERT INTO t VALUES (3); RAISE 'midway'; END $$",
    );
    assert_eq!(c.run("j", "CALL p()"), "failed");
    assert_eq!(c.table("SELECT id FROM t ORDER BY id"), "1\n2");
    assert_eq!(c.last_run("j"), "failed|P0001|midway");
}

/// Each command leaves something in its session; the next of the same owner must not find it.
#[test]
fn nothing_of_a_run_is_left_for_the_owners_next_one() {
    let w = Warehouse::new("leaks");
    let mut c = w.client();
    c.exec(
        "CREATE ROLE leaks_other; CREATE SEQUENCE s; CREATE TABLE seen (n int, pid int, what text);
         CREATE FUNCTION state() RETURNS text LANGUAGE sql AS $$
           SELECT concat_ws(' ', session_user, current_user, current_setting('search_path'), current_setting('work_mem'),
             current_setting('statement_timeout'), current_setting('default_transaction_read_only'), substring(current_setting('application_name') FROM 'startup_wh: run'),
             nullif(current_setting('my.own', true), ''), current_setting('role'),
             (SELECT count(*) FROM pg_class WHERE relpersistence = 't'), (SELECT count(*) FROM pg_prepared_statements WHERE from_sql),
             (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
             (SELECT count(*) FROM pg_listening_channels()), (SELECT count(*) FROM pg_cursors WHERE is_holdable)) $$",
    );
    let look = |c: &mut postgres::Client, n: usize| {
        assert_eq!(
            c.run("look", &format!("INSERT INTO public.seen SELECT {n}, pg_backend_pid(), public.state()")),
            "succeeded"
        );
    };
    look(&mut c, 0);
    for (n, command) in [
        "SET search_path = pg_temp; SET work_mem = '77MB'; SET my.own = 'x'",
        "SET statement_timeout = '1ms'",
        "SET default_transaction_read_only = on",
        "SET default_transaction_isolation = 'serializable'",
        "SET application_name = 'mine'",
        "CREATE TEMP TABLE seen (n int, pid int, what text); CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql RETURN 1",
        "PREPARE p AS SELECT 1",
        "SELECT pg_advisory_lock(5), pg_advisory_lock_shared(6)",
        "SET ROLE leaks_other",
        "SET SESSION AUTHORIZATION leaks_other",
        "DECLARE cur CURSOR WITH HOLD FOR SELECT 1; SELECT nextval('s')",
        "SET session_replication_role = replica",
        "SET lock_timeout = '1ms'; SET plan_cache_mode = force_custom_plan; SET check_function_bodies = off; SET row_security = off",
    ]
    .iter()
    .enumerate()
    {
        assert_eq!(c.run("leave", command), "succeeded", "{command}: {}", c.last_run("leave"));
        look(&mut c, n + 1);
    }
    assert_eq!(c.value("SELECT count(DISTINCT pid) FROM seen"), "1", "the test needs all in one session");
    assert_eq!(c.value("SELECT count(*) FROM seen"), "14");
    assert_eq!(
        c.table("SELECT DISTINCT what FROM seen"),
        "postgres postgres \"$user\", public 4MB 0 off startup_wh: run none 0 0 0 0 0"
    );
    // lastval() of another run is none of this one.
    assert_eq!(c.run("lastval", "SELECT lastval()"), "failed");
    c.exec("DROP TABLE seen; DROP ROLE leaks_other");
}

/// Others wait for locks that nobody needs any more.
#[test]
fn a_session_that_waits_for_more_work_holds_nothing_of_the_last_run() {
    let w = Warehouse::new("lets_go");
    let mut c = w.client();
    let command = "SELECT pg_advisory_lock(5); CREATE TEMP TABLE t (a int)";
    assert_eq!(c.run("holds", command), "succeeded", "{}", c.last_run("holds"));
    let left = "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = d.oid)
                     + (SELECT count(*) FROM pg_class WHERE relpersistence = 't') FROM pg_database d WHERE datname = current_database()";
    wait_until("all of it is gone", || c.value(left) == "0");
    let runner = c.value("SELECT pid FROM wh.job_runs");
    assert_eq!(c.value(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {runner}")), "1", "its session");
}

#[test]
fn runs_that_may_not_write_are_recorded() {
    let w = Warehouse::new("readonly");
    let mut c = w.client();
    let reader = w.role("reader");
    c.exec(&format!(
        "ALTER ROLE {reader} SET default_transaction_read_only = on; CREATE TABLE t (a int);
         CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN SET default_transaction_read_only = on; COMMIT; PERFORM 1; END $$;
         CREATE PROCEDURE q() LANGUAGE plpgsql AS $$ BEGIN SET default_transaction_read_only = on; COMMIT; INSERT INTO t VALUES (1); END $$"
    ));
    assert_eq!(c.run("local", "SET transaction_read_only = on; SELECT 1"), "succeeded");
    assert_eq!(c.run("later", "CALL p()"), "succeeded", "{}", c.last_run("later"));
    assert_eq!(c.run("after_all", "CALL q()"), "failed");
    assert_eq!(c.last_run("after_all"), "failed|25006|cannot execute INSERT in a read-only transaction");
    assert_eq!(c.run("serial", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; INSERT INTO t VALUES (2)"), "succeeded");
    assert_eq!(
        c.run("repeat", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; INSERT INTO t VALUES (3)"),
        "succeeded"
    );
    let mut r = w.as_role(&reader);
    r.exec("SET default_transaction_read_only = off");
    r.schedule("read", "SELECT 1");
    r.schedule("write", "CREATE TEMP TABLE x (a int); CREATE TABLE public.y (a int)");
    assert_eq!(r.value("SELECT status FROM wh.run_job('read')"), "succeeded");
    assert_eq!(r.value("SELECT status FROM wh.run_job('write')"), "failed");
    // Read-only is what it stays for the command's own deferred triggers.
    c.exec(
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (current_setting('transaction_read_only')::bool::int); RETURN NULL; END $$;
         CREATE TABLE u (a int); CREATE CONSTRAINT TRIGGER l AFTER INSERT ON u DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()",
    );
    assert_eq!(c.run("deferred", "INSERT INTO u VALUES (1); SET transaction_read_only = on"), "failed");
    assert!(c.last_run("deferred").contains("25006"), "{}", c.last_run("deferred"));
    c.exec(&format!("DROP OWNED BY {reader}"));
}

#[test]
fn copy_reads_and_writes_files_but_not_the_servers_own_output() {
    let w = Warehouse::new("copies");
    let mut c = w.client();
    c.exec("CREATE TABLE t AS SELECT generate_series(1, 10) AS a");
    let file = w.cluster().data().join("copied").display().to_string();
    assert_eq!(c.run("out", &format!("COPY t TO '{file}'")), "succeeded");
    assert_eq!(c.run("in", &format!("COPY t FROM '{file}'")), "succeeded");
    assert_eq!(c.table("SELECT DISTINCT rows FROM wh.job_runs"), "10");
    assert_eq!(c.value("SELECT count(*) FROM t"), "20");
    for command in ["COPY t TO STDOUT", "COPY t FROM STDIN", "SELECT 1; COPY (SELECT 'FATAL: forged') TO STDOUT"] {
        let refused = c.error(&format!("SELECT wh.schedule('c', '@daily', $job${command}$job$)"));
        assert_eq!((refused.code().code(), refused.hint().is_some()), ("0A000", true), "{command}");
    }
    // An analyst's job reads and writes no files.
    let mut ana = w.as_role("ana");
    ana.schedule("file", &format!("COPY (SELECT 1) TO '{file}'"));
    assert_eq!(ana.value("SELECT status FROM wh.run_job('file')"), "failed");
    assert!(ana.last_run("file").starts_with("failed|42501|"));
}

#[test]
fn a_job_may_unschedule_itself_and_change_its_own_settings() {
    let w = Warehouse::new("itself");
    let mut c = w.client();
    assert_eq!(c.run("gone", "SELECT wh.unschedule('gone')"), "succeeded");
    assert_eq!(c.table("SELECT name FROM wh.jobs"), "");
    assert_eq!(c.run("later", "SELECT wh.alter_job('later', schedule => '@hourly')"), "succeeded");
    assert_eq!(c.table("SELECT schedule, last_status, failures_in_a_row FROM wh.jobs"), "hourly|succeeded|0");
    // One that would wait for itself is told so.
    assert_eq!(c.run("snake", "SELECT wh.run_job('snake')"), "failed");
    assert!(c.last_run("snake").starts_with("failed|55006|job \"snake\" is running already"));
    // The extension's own surroundings do not depend on what somebody sets for its functions or owner.
    c.exec("CREATE SCHEMA evil; ALTER DATABASE itself SET search_path = evil, pg_catalog");
    assert_eq!(c.run("after", "SELECT 1"), "succeeded");
    assert_eq!(c.run("bad", "SELECT 1 / 0"), "failed");
}

#[test]
fn settings_of_the_owner_count_from_the_next_run_on() {
    let w = Warehouse::new("fresh");
    let mut c = w.client();
    let owner = w.role("owner");
    c.exec(&format!("CREATE SCHEMA own AUTHORIZATION {owner}; CREATE TABLE own.seen (path text, mem text); ALTER TABLE own.seen OWNER TO {owner}"));
    let mut o = w.as_role(&owner);
    o.schedule("look", "INSERT INTO own.seen SELECT current_setting('search_path'), current_setting('work_mem')");
    let run = |o: &mut postgres::Client| assert_eq!(o.value("SELECT status FROM wh.run_job('look')"), "succeeded");
    run(&mut o);
    c.exec(&format!("ALTER ROLE {owner} SET search_path = own; ALTER DATABASE fresh SET work_mem = '9MB'"));
    run(&mut o);
    c.exec(&format!("ALTER ROLE {owner} IN DATABASE fresh SET work_mem = '11MB'"));
    run(&mut o);
    assert_eq!(c.table("SELECT * FROM own.seen"), "\"$user\", public|4MB\nown|9MB\nown|11MB");
    c.exec("DROP SCHEMA own CASCADE");
    c.exec(&format!("DROP OWNED BY {owner}"));
    wait_until("the owner's last runner has gone", || {
        c.value(&format!(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = '{owner}' AND backend_type = 'startup_wh runner'"
        )) == "0"
    });
}
