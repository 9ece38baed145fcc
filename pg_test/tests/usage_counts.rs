//! What counts as a statement, and for whom: each kind of statement, through either protocol, through and failed.

use std::sync::OnceLock;

use pg_test::usage::{connect, server, used, Used};
use pg_test::{wait_until, Client, ClientExt, Cluster};

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| server("usage_counts", "startup_wh", &[]))
}

/// A role of a test's own, and a session of it.
fn role(name: &str) -> Client {
    connect(cluster(), "postgres").exec(&format!(
        "CREATE ROLE {name} LOGIN PASSWORD '{name} secret' IN ROLE wh_analyst; CREATE SCHEMA {name} AUTHORIZATION {name};
         ALTER ROLE {name} SET search_path = {name}; GRANT CREATE ON DATABASE postgres TO {name}"
    ));
    connect(cluster(), name)
}

/// What a role uses while `f` runs.
#[track_caller]
fn uses(role: &str, f: impl FnOnce()) -> Used {
    let mut admin = connect(cluster(), "postgres");
    let before = used(&mut admin, role);
    f();
    used(&mut admin, role).since(before)
}

/// Statements of the simple protocol, with the calls, errors and cancels that each must count.
#[test]
fn each_statement_of_the_top_level_is_one_call() {
    let mut c = role("each_kind");
    c.exec(
        "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, a int);
         CREATE TABLE log (id int);
         CREATE TABLE ruled (id int);
         CREATE RULE also AS ON INSERT TO ruled DO ALSO INSERT INTO log VALUES (new.id);
         CREATE FUNCTION nested(n int) RETURNS bigint LANGUAGE plpgsql AS $$
           DECLARE r record; s bigint := 0;
           BEGIN FOR r IN SELECT * FROM pg_class LOOP s := s + 1; END LOOP;
           EXECUTE 'SELECT count(*) FROM pg_class' INTO s; PERFORM pg_sleep(0); RETURN s + n; END $$;
         CREATE FUNCTION folded() RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$
           BEGIN RETURN (SELECT count(*) FROM pg_class); END $$;
         CREATE FUNCTION swallows() RETURNS int LANGUAGE plpgsql AS $$
           BEGIN PERFORM 1 / 0; RETURN 1; EXCEPTION WHEN division_by_zero THEN
             PERFORM count(*) FROM pg_class; RETURN 2; END $$;
         CREATE FUNCTION deferred() RETURNS trigger LANGUAGE plpgsql AS $$
           DECLARE r record;
           BEGIN FOR r IN SELECT * FROM pg_class LIMIT 3 LOOP NULL; END LOOP;
           INSERT INTO log VALUES (1);
           BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END;
           RETURN NULL; END $$;
         CREATE TABLE late (id int);
         CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION deferred();
         CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
         CREATE TABLE refused (id int);
         CREATE TRIGGER refused AFTER INSERT ON refused FOR EACH ROW EXECUTE FUNCTION fails();
         CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$
           BEGIN FOR i IN 1..3 LOOP INSERT INTO log VALUES (i); COMMIT; END LOOP;
           INSERT INTO log VALUES (4); ROLLBACK; END $$;
         CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM pg_class",
    );
    let mut wrong = Vec::new();
    for (statement, calls, errors) in [
        ("SELECT 1", 1, 0),
        ("SELECT 1; SELECT 2; SELECT 3", 3, 0),
        ("", 0, 0),
        ("SET work_mem = '5MB'", 1, 0),
        ("SHOW work_mem", 1, 0),
        ("SELECT nested(1)", 1, 0),
        ("SELECT folded()", 1, 0),
        ("SELECT swallows()", 1, 0),
        ("BEGIN; SELECT 1; COMMIT", 3, 0),
        ("BEGIN; SELECT nested(1); ROLLBACK", 3, 0),
        ("BEGIN; SAVEPOINT a; SELECT 1; ROLLBACK TO a; RELEASE a; COMMIT", 6, 0),
        ("INSERT INTO ruled SELECT generate_series(1, 3)", 1, 0),
        ("INSERT INTO late VALUES (1)", 1, 0),
        ("BEGIN; INSERT INTO late VALUES (1), (2); COMMIT", 3, 0),
        ("DO $$ BEGIN FOR i IN 1..3 LOOP PERFORM count(*) FROM pg_class; END LOOP; END $$", 1, 0),
        ("DO $$ BEGIN FOR i IN 1..3 LOOP PERFORM 1; COMMIT; END LOOP; ROLLBACK; END $$", 1, 0),
        ("CALL commits()", 1, 0),
        ("EXPLAIN SELECT 1", 1, 0),
        ("EXPLAIN ANALYZE SELECT nested(1)", 1, 0),
        ("CREATE TABLE ctas AS SELECT * FROM pg_class", 1, 0),
        ("DROP TABLE ctas", 1, 0),
        ("REFRESH MATERIALIZED VIEW m", 1, 0),
        ("ANALYZE t", 1, 0),
        ("VACUUM t", 1, 0),
        ("CREATE INDEX CONCURRENTLY log_id ON log (id)", 1, 0),
        ("PREPARE p AS SELECT nested(1)", 1, 0),
        ("EXECUTE p", 1, 0),
        ("DEALLOCATE p", 1, 0),
        ("BEGIN; DECLARE c CURSOR FOR SELECT * FROM pg_class; FETCH 3 FROM c; FETCH 3 FROM c; CLOSE c; COMMIT", 6, 0),
        ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT * FROM pg_class; COMMIT", 3, 0),
        ("FETCH ALL FROM c", 1, 0),
        ("CLOSE c", 1, 0),
        ("SELEC", 1, 1),
        ("SELECT * FROM missing", 1, 1),
        ("SELECT 1 / 0", 1, 1),
        ("SELECT 'x'::int", 1, 1),
        ("SELECT count(*) FROM pg_class WHERE 1 / (relpages - relpages) > 0", 1, 1),
        ("SELECT 1; SELECT 1 / 0", 2, 1),
        ("SELECT 1; SELECT * FROM missing", 2, 1),
        ("INSERT INTO t VALUES (1, 1)", 1, 0),
        // What fails after its own end fails as the statement that it was.
        ("INSERT INTO t VALUES (1, 1)", 1, 1),
        ("BEGIN; INSERT INTO t VALUES (1, 1); COMMIT", 3, 1),
        ("INSERT INTO refused VALUES (1)", 1, 1),
        ("DO $$ BEGIN PERFORM 1 / 0; END $$", 1, 1),
        ("BEGIN", 1, 0),
        ("SELECT 1 / 0", 1, 1),
        ("SELECT 1", 1, 1),
        ("ROLLBACK TO nothing", 1, 1),
        ("ROLLBACK", 1, 0),
        ("COMMIT", 1, 0),
        ("SELECT nested(2)", 1, 0),
    ] {
        let found = uses("each_kind", || {
            let done = c.simple_query(statement);
            assert_eq!(done.is_err(), errors > 0, "{statement}: {done:?}");
        });
        if (found.calls, found.errors, found.cancels) != (calls, errors, 0) {
            wrong.push(format!("{statement}: {calls} calls and {errors} errors expected, found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_extended_protocol_counts_as_the_simple_one() {
    let mut c = role("extended");
    c.exec("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)");
    // The first use looks types up.
    c.query_one("SELECT $1::int", &[&1]).expect("a row");
    let mut expect = |what: &str, wanted: (i64, i64, i64), f: &mut dyn FnMut(&mut Client)| {
        let found = uses("extended", || f(&mut c));
        assert_eq!((found.calls, found.errors, found.rows), wanted, "{what}: {found:?}");
    };
    expect("a query", (1, 0, 1), &mut |c| drop(c.query("SELECT $1::int", &[&1])));
    expect("an insert", (1, 0, 3), &mut |c| drop(c.execute("INSERT INTO t SELECT generate_series(1, $1::int)", &[&3])));
    expect("an insert that returns", (1, 0, 1), &mut |c| {
        drop(c.query("INSERT INTO t VALUES ($1) RETURNING id", &[&4]))
    });
    expect("an error while it runs", (1, 1, 0), &mut |c| drop(c.query("SELECT 1 / $1::int", &[&0])));
    expect("an error while it is parsed", (1, 1, 0), &mut |c| drop(c.query("SELECT * FROM missing", &[])));
    expect("an error at the commit", (1, 1, 1), &mut |c| drop(c.execute("INSERT INTO t VALUES ($1)", &[&1])));
    expect("a prepared statement", (10, 0, 10), &mut |c| {
        let statement = c.prepare("SELECT $1::int").expect("a statement");
        (0..10).for_each(|n| drop(c.query(&statement, &[&n])));
    });
    // Bind plans it, and what is folded then is worked out then; Execute begins later.
    c.exec("CREATE FUNCTION folds() RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN 7; END'");
    let found = uses("extended", || {
        assert_eq!(c.execute("INSERT INTO t SELECT 100 + folds()", &[]).expect("a row"), 1);
    });
    assert_eq!((found.calls, found.rows), (1, 1), "{found:?}");
    assert!(found.time >= 300.0, "{found:?}");
    let mut expect = |what: &str, wanted: (i64, i64, i64), f: &mut dyn FnMut(&mut Client)| {
        let found = uses("extended", || f(&mut c));
        assert_eq!((found.calls, found.errors, found.rows), wanted, "{what}: {found:?}");
    };
    expect("a portal in pieces", (3, 0, 7), &mut |c| {
        let mut t = c.transaction().expect("a transaction");
        let portal = t.bind("SELECT generate_series(1, 7)", &[]).expect("a portal");
        for rows in [3, 3, 1] {
            assert_eq!(t.query_portal(&portal, 3).expect("rows").len(), rows);
        }
        t.commit().expect("a commit");
    });
}

#[test]
fn copies_count_their_rows_and_the_time_of_their_client() {
    use std::io::{Read, Write};
    let mut c = role("copies");
    c.exec("CREATE TABLE t (n int)");
    let found = uses("copies", || {
        let mut copy = c.copy_in("COPY t FROM STDIN").expect("a copy");
        (0..1000).for_each(|n| writeln!(copy, "{n}").expect("a line"));
        assert_eq!(copy.finish().expect("an end"), 1000);
    });
    assert_eq!((found.calls, found.rows), (1, 1000));
    let found = uses("copies", || {
        let mut text = String::new();
        c.copy_out("COPY t TO STDOUT").expect("a copy").read_to_string(&mut text).expect("its text");
        assert_eq!(text.lines().count(), 1000);
    });
    assert_eq!((found.calls, found.rows), (1, 1000));
    let found = uses("copies", || {
        let mut copy = c.copy_in("COPY t FROM STDIN").expect("a copy");
        writeln!(copy, "no number").expect("a line");
        copy.finish().expect_err("an error");
    });
    assert_eq!((found.calls, found.errors, found.rows), (1, 1, 0));
}

#[test]
fn rows_blocks_temporary_files_and_wal_are_those_that_postgres_counts() {
    let mut c = role("resources");
    let found = uses("resources", || {
        c.exec("CREATE TABLE t AS SELECT n, repeat('x', 100) AS x FROM generate_series(1, 50000) n");
    });
    assert_eq!(found.rows, 50_000);
    c.exec("SET max_parallel_workers_per_gather = 0");
    let size: i64 = c.value("SELECT pg_relation_size('t')").parse().expect("a size");
    let found = uses("resources", || c.exec("SELECT count(*) FROM t"));
    assert!((size / 8192..size / 8192 + 100).contains(&found.blocks), "{found:?}");
    let plan = |c: &mut Client, query: &str| {
        let json = c.value(&format!("EXPLAIN (ANALYZE, BUFFERS, WAL, FORMAT json) {query}"));
        let plan: serde_json::Value = serde_json::from_str(&json).expect("a plan");
        plan[0]["Plan"].clone()
    };
    c.exec("SET work_mem = '64kB'; SELECT count(*) FROM t");
    let query = "SELECT x, n FROM t ORDER BY n DESC";
    let mut wanted = serde_json::Value::Null;
    let explained = uses("resources", || wanted = plan(&mut c, query));
    let temp = wanted["Temp Written Blocks"].as_i64().expect("blocks") * 8192;
    assert!(temp > 5_000_000, "{wanted}");
    assert_eq!(explained.temp_bytes, temp);
    let found = uses("resources", || c.exec(query));
    assert_eq!((found.rows, found.temp_bytes), (50_000, temp));
    let wanted = plan(&mut c, "INSERT INTO t SELECT n, 'y' FROM generate_series(1, 20000) n");
    let wal = wanted["WAL Bytes"].as_i64().expect("bytes");
    let found = uses("resources", || c.exec("INSERT INTO t SELECT n, 'y' FROM generate_series(1, 20000) n"));
    // A full page more or less, and the commit's own record.
    assert!((found.wal_bytes - wal).abs() < 200_000 && found.wal_bytes > 1_000_000, "{found:?}, {wal}");
}

#[test]
fn a_session_counts_for_who_logged_in_whoever_it_becomes() {
    let mut c = role("who");
    connect(cluster(), "postgres").exec(
        "CREATE ROLE who_else IN ROLE wh_analyst; GRANT who_else TO who;
         CREATE FUNCTION public.definer() RETURNS name LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN current_user; END'",
    );
    let found = uses("who", || {
        c.exec("SET ROLE who_else");
        assert_eq!(c.value("SELECT current_user"), "who_else");
        assert_eq!(c.value("SELECT public.definer()"), "postgres");
        c.exec("RESET ROLE");
    });
    assert_eq!(found.calls, 4);
    assert_eq!(used(&mut connect(cluster(), "postgres"), "who_else"), Used::default());
}

#[test]
fn by_setting_a_session_counts_for_the_role_that_it_has_set() {
    let cluster = server("usage_current", "startup_wh", &[("startup_wh.usage_role", "current")]);
    let mut admin = connect(&cluster, "postgres");
    admin.exec(
        "CREATE ROLE team IN ROLE wh_analyst; GRANT team TO ana;
         CREATE FUNCTION definer() RETURNS name LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN current_user; END'",
    );
    let mut c = connect(&cluster, "ana");
    c.exec("SET ROLE team");
    // A function of another role's does not change whose statement it is.
    assert_eq!(c.value("SELECT definer()"), "postgres");
    c.exec("SELECT pg_sleep(0.2)");
    c.exec("RESET ROLE");
    c.exec("SELECT 1");
    let (ana, team) = (used(&mut admin, "ana"), used(&mut admin, "team"));
    assert_eq!((ana.calls, team.calls), (2, 3));
    assert!(team.time >= 200.0 && ana.time < 200.0, "{team:?} {ana:?}");
}

#[test]
fn what_runs_is_in_the_figures_before_it_has_ended() {
    let mut admin = connect(cluster(), "postgres");
    let mut c = role("runs_now");
    let pid = c.pid();
    let before = used(&mut admin, "runs_now");
    admin.exec("SELECT pg_advisory_lock(77)");
    let waiting = std::thread::spawn(move || {
        c.exec("SELECT pg_advisory_lock_shared(77)");
        c
    });
    wait_until("it waits and has for a while", || {
        let now = used(&mut admin, "runs_now").since(before);
        now.running == 1 && now.time > 300.0
    });
    let during = used(&mut admin, "runs_now");
    assert_eq!(during.calls, before.calls, "a call is counted where it ends");
    admin.exec("SELECT pg_advisory_unlock(77)");
    let _c = waiting.join().expect("it has ended");
    let after = used(&mut admin, "runs_now").since(before);
    assert_eq!((after.calls, after.running), (1, 0), "of process {pid}");
    assert!(after.time >= during.time - before.time, "{during:?} {after:?}");
}
