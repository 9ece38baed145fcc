//! max_query_time, which a user cannot lift.

use people::{add, preloaded, warehouse};
use pg_test::{wait_until, Client, ClientExt, Pair};

mod people;

fn limited(pair: &Pair, name: &str, limit: &str) -> Client {
    let made = people::password(pair, &format!("add_analyst('{name}', max_query_time => '{limit}')"));
    people::connect(pair, name, &made)
}

#[test]
fn a_statement_that_runs_too_long_is_cancelled_whatever_its_user_sets() {
    let pair = preloaded("cancelled", &[]);
    let mut alice = limited(&pair, "alice", "1s");
    alice.exec("SET statement_timeout = 0");
    for statement in [
        "SELECT pg_sleep(600)",
        "DO $$ BEGIN PERFORM pg_sleep(600); END $$",
        "SELECT count(*) FROM generate_series(1, 100000000000) g",
        "CREATE TABLE alice.copied AS SELECT pg_sleep(600)::text AS x",
    ] {
        let error = alice.error(statement);
        assert_eq!(error.code().code(), "57014", "{error:?}");
        assert_eq!(
            error.detail(),
            Some("The statement ran longer than 1s, the most that this role is given (startup_wh.max_query_time)."),
            "{statement}"
        );
        assert!(error.hint().is_some_and(|h| h.contains("wh.alter_analyst")), "{error:?}");
    }
    // What is short goes on, as do others and jobs.
    assert_eq!(alice.value("SELECT 1"), "1");
    let said = pair.warehouse_cluster().log();
    assert!(said.contains("cancelling a statement of \"alice\", pid"), "{said}");
    let mut owner = pair.warehouse();
    owner.exec("SELECT pg_sleep(2)");
    alice.exec("SELECT wh.schedule('long', '0 0 1 1 *', 'SELECT pg_sleep(3)')");
    alice.exec("SELECT wh.run_job('long', wait => false)");
    wait_until("the job has run", || alice.value("SELECT status FROM wh.job_runs") == "succeeded");
    // Their own cancel is only that.
    let mut bob = limited(&pair, "bob", "1h");
    let pid = bob.pid();
    let canceller = std::thread::spawn(move || {
        wait_until("bob sleeps", || {
            owner.value(&format!("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = {pid}")) == "t"
        });
        owner.exec(&format!("SELECT pg_cancel_backend({pid})"));
    });
    let error = bob.error("SELECT pg_sleep(600)");
    canceller.join().expect("the canceller");
    assert_eq!((error.code().code(), error.detail()), ("57014", None));
}

#[test]
fn a_statement_that_catches_the_cancel_ends_with_its_session() {
    let pair = preloaded("catches", &[]);
    let mut eve = limited(&pair, "eve", "500ms");
    let caught = eve.simple_query(
        "DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$",
    );
    assert!(caught.is_err());
    wait_until("her session is gone", || {
        pair.warehouse().value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'eve'") == "0"
    });
    assert!(pair.warehouse_cluster().log().contains("ending a session whose statement goes on of \"eve\""));
}

#[test]
fn a_limit_holds_in_all_databases_and_from_the_moment_it_is_changed() {
    let pair = preloaded("all", &[]);
    let mut max = limited(&pair, "max", "1h");
    let cluster = pair.warehouse_cluster();
    let made = people::password(&pair, "alter_analyst('max', password => '')");
    // One that is running when its role is given less.
    let other = cluster.connect_as("postgres", "max", &made).expect("a connection");
    let waits = std::thread::spawn(move || {
        let mut other = other;
        other.error("SELECT pg_sleep(600)")
    });
    let mut owner = pair.warehouse();
    wait_until("it sleeps", || {
        owner.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'max' AND wait_event = 'PgSleep'") == "1"
    });
    // Nobody looks again for a long time, but when told. By hand, for a role that is no analyst; a superuser can do that.
    owner.exec("ALTER ROLE ana SET startup_wh.max_query_time = '1s'");
    assert_eq!(pair.warehouse_as("ana").error("SELECT pg_sleep(600)").code().code(), "57014");
    pair.as_deploy("alter_analyst('max', max_query_time => '1s')");
    assert_eq!(waits.join().expect("an error").code().code(), "57014");
    pair.as_deploy("alter_analyst('max', max_query_time => '0')");
    max.exec("SELECT pg_sleep(3)");
}

#[test]
fn another_scheduler_holds_the_limits_when_one_ends() {
    let pair = preloaded("handed_over", &[]);
    let mut zoe = limited(&pair, "zoe", "1s");
    let mut postgres = pair.warehouse_cluster().connect("postgres").expect("a connection");
    postgres.exec("CREATE EXTENSION startup_wh");
    assert_eq!(zoe.error("SELECT pg_sleep(600)").code().code(), "57014");
    let schedulers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'startup_wh scheduler'";
    for _ in 0..3 {
        wait_until("there are two schedulers", || postgres.value(schedulers) == "2");
        postgres.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'startup_wh scheduler' ORDER BY random() LIMIT 1");
        assert_eq!(zoe.error("SELECT pg_sleep(600)").code().code(), "57014");
    }
}

#[test]
fn without_the_library_preloaded_it_says_that_nobody_holds_the_limit() {
    let pair = warehouse("not_held");
    let mut deploy = pair.warehouse_as("deploy");
    let (send, receive) = std::sync::mpsc::channel();
    let mut config = postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(pair.warehouse_cluster().port())
        .dbname(&pair.warehouse_database())
        .user("deploy")
        .password(pg_test::pair::password("deploy"))
        .notice_callback(move |notice| {
            let _ = send.send(notice.message().to_owned());
        });
    let mut client = config.connect(postgres::NoTls).expect("a connection");
    client.exec("SELECT * FROM wh.add_analyst('quy')");
    assert!(receive.try_iter().any(|n| n.starts_with("max_query_time is not held")));
    client.exec("SELECT * FROM wh.alter_analyst('quy', max_query_time => '0')");
    assert!(receive.try_iter().all(|n| !n.starts_with("max_query_time is not held")));
    deploy.exec("SELECT 1");
    add(&pair, "rae").exec("SELECT pg_sleep(0)");
}
