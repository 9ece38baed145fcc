//! Analysing a view runs the checks of the domains that it holds values of. Nobody waits for somebody else's.

use std::time::{Duration, Instant};

use pg_test::{wait_until, ClientExt, Pair};

/// A view of ana's whose analysis takes as long as `body` does, and one of ben's.
fn fixture(name: &str, body: &str) -> Pair {
    let pair = Pair::new(name);
    pair.product().exec("CREATE TABLE dh (id int PRIMARY KEY, v int); INSERT INTO dh VALUES (1, 7)");
    pair.create_fdw();
    pair.warehouse_as("ben").exec("CREATE VIEW ben.plain AS SELECT id, v FROM app.dh");
    pair.warehouse_as("ana").exec(&format!(
        "CREATE TABLE ana.slow (yes bool);
         CREATE FUNCTION ana.slow(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
           IF EXISTS (SELECT FROM ana.slow) THEN {body}; END IF; RETURN true; END $$;
         CREATE DOMAIN ana.dd AS int CHECK (ana.slow(value));
         CREATE VIEW ana.held AS SELECT id, v, '{{1}}'::ana.dd[] AS d FROM app.dh;
         CREATE VIEW ana.above AS SELECT v FROM ana.held;
         INSERT INTO ana.slow VALUES (true)"
    ));
    pair.product().exec("ALTER TABLE dh ALTER v TYPE bigint");
    pair
}

#[test]
fn a_view_that_takes_too_long_to_analyse_is_broken_and_the_run_goes_on() {
    // The second one catches the cancel, again and again.
    let bodies = [
        ("too_long", "PERFORM pg_sleep(1e9)"),
        ("catches", "LOOP BEGIN PERFORM pg_sleep(1e9); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP"),
    ];
    for (name, body) in bodies {
        let pair = fixture(name, body);
        let mut deploy = pair.warehouse_as("deploy");
        deploy.exec("SET statement_timeout = '60s'");
        let begun = Instant::now();
        let done = deploy.changes("SELECT * FROM wh.recreate_fdw('app', max_wait => '1s', lock_timeout => '1s')");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let actions: Vec<(&str, &str)> = done.iter().map(|c| (c.object.as_str(), c.action.as_str())).collect();
        assert_eq!(actions, [("app.dh.v", "retyped"), ("ben.plain", "rebuilt"), ("ana.held", "broken")]);
        let said = &done[2].detail;
        assert!(said.contains("owner \"ana\": analysing it took too long"), "{said}");
        let mut ben = pair.warehouse_as("ben");
        assert_eq!(ben.value("SELECT v FROM ben.plain"), "7");
        let error = pair.warehouse_as("ana").error("SELECT * FROM ana.above");
        assert!(error.message().contains("ana.held"), "{error:?}");

        // The next run is not held up by it for long either, and the one after the cause is gone heals it.
        let begun = Instant::now();
        assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app')"), []);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        pair.warehouse_as("ana").exec("DELETE FROM ana.slow");
        let healed = deploy.changes("SELECT * FROM wh.recreate_fdw('app')");
        assert_eq!((healed[0].object.as_str(), healed[0].action.as_str()), ("ana.held", "healed"), "{healed:?}");
        assert_eq!(pair.warehouse_as("ana").table("SELECT v, pg_typeof(v) FROM ana.above"), "7|bigint");
    }
}

#[test]
fn a_cancel_while_a_view_is_analysed_is_a_cancel() {
    let pair = fixture("cancelled", "PERFORM pg_sleep(1e9)");
    let mut deploy = pair.warehouse_as("deploy");
    deploy.exec("SET statement_timeout = '600ms'");
    let error = deploy.error("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!((error.code().code(), error.message()), ("57014", "canceling statement due to statement timeout"));

    deploy.exec("RESET statement_timeout");
    let pid = deploy.pid();
    let run = std::thread::spawn(move || deploy.error("SELECT * FROM wh.recreate_fdw('app')").code().code().to_owned());
    let mut warehouse = pair.warehouse();
    wait_until("it sleeps", || {
        warehouse.value(&format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}")) == "PgSleep"
    });
    warehouse.exec(&format!("SELECT pg_cancel_backend({pid})"));
    assert_eq!(run.join().expect("a thread"), "57014");
    let newest = "SELECT status, sqlstate FROM wh.fdw_runs ORDER BY run DESC LIMIT 2";
    assert_eq!(warehouse.table(newest), "failed|57014\nfailed|57014");
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.broken"), "0");
    warehouse.exec("DELETE FROM ana.slow");
    assert_eq!(pair.recreate_fdw().len(), 4);
}
