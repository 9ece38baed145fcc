//! What a run locks, whom it waits for, and who waits for it.
//!
//! The truth is pg_locks, looked at from another session while the run's transaction is open.

use std::thread::JoinHandle;

use pg_test::{wait_until, Change, ClientExt, Pair};
use postgres::Client;

const PRODUCT: &str = "
    CREATE TYPE plan AS ENUM ('free', 'pro');
    CREATE TABLE users (id int PRIMARY KEY, name text, plan plan);
    CREATE TABLE orders (id int PRIMARY KEY, user_id int, note text);
    INSERT INTO users VALUES (1, 'ida', 'pro'); INSERT INTO orders VALUES (1, 1, 'x')";

fn fixture(name: &str) -> Pair {
    let pair = Pair::new(name);
    pair.product().exec(PRODUCT);
    pair.create_fdw();
    pair.warehouse_as("ana").exec(
        "CREATE VIEW ana.names AS SELECT id, name FROM app.users;
         CREATE VIEW ana.bought AS SELECT n.name, o.note FROM ana.names n JOIN app.orders o ON o.user_id = n.id;
         CREATE MATERIALIZED VIEW ana.cached AS SELECT * FROM ana.bought;
         CREATE INDEX cached_name ON ana.cached (name);
         CREATE VIEW ana.totals AS SELECT count(*) FROM app.orders;
         GRANT USAGE ON SCHEMA ana TO ben; GRANT SELECT ON ALL TABLES IN SCHEMA ana TO ben",
    );
    pair
}

/// Locks of a backend on what analysts use, with their modes.
fn locks(pair: &Pair, pid: u32, condition: &str) -> String {
    pair.warehouse().table(&format!(
        "SELECT l.relation::regclass, l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
         WHERE l.pid = {pid} AND l.granted AND c.relnamespace IN ('app'::regnamespace, 'ana'::regnamespace)
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND {condition}
         ORDER BY 1, 2"
    ))
}

/// A call in a session of its own.
fn background(mut client: Client, sql: &'static str) -> JoinHandle<Result<Vec<Change>, postgres::Error>> {
    std::thread::spawn(move || pg_test::change_rows(&mut client, sql))
}

/// Whether a run waits for a lock, or between two attempts.
fn is_trying(pair: &Pair, pid: u32) -> bool {
    let waits = "wait_event_type = 'Extension' OR (wait_event_type = 'Lock' AND wait_event = 'relation')";
    pair.warehouse().value(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND ({waits})")) == "1"
}

#[test]
fn a_run_without_drift_shares_everything_with_everybody() {
    let pair = fixture("shares");
    let mut deploy = pair.warehouse_as("deploy");
    let pid = deploy.pid();
    deploy.exec("BEGIN");
    assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app')"), []);
    assert_eq!(locks(&pair, pid, "mode <> 'AccessShareLock'"), "");
    // The same look sees what a run takes that has something to do, and only there.
    deploy.exec("COMMIT");
    pair.product().exec("ALTER TABLE users ADD email text");
    deploy.exec("BEGIN");
    assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app')").len(), 1);
    assert_eq!(locks(&pair, pid, "mode <> 'AccessShareLock'"), "app.users|AccessExclusiveLock");
}

#[test]
fn a_run_locks_only_what_it_changes() {
    let pair = fixture("only_what");
    pair.product().exec("ALTER TABLE users ALTER id TYPE bigint");
    let mut deploy = pair.warehouse_as("deploy");
    deploy.exec("BEGIN");
    let done = deploy.changes("SELECT * FROM wh.recreate_fdw('app')");
    let exclusive = locks(&pair, deploy.pid(), "mode = 'AccessExclusiveLock'");
    for changed in ["app.users|", "ana.names|"] {
        assert!(exclusive.contains(changed), "{exclusive} of {done:?}");
    }
    for other in ["app.orders|", "ana.totals|", "ana.cached|"] {
        assert!(!exclusive.contains(other), "{exclusive} of {done:?}");
    }
    // Who reads the rest reads on.
    let mut ben = pair.warehouse_as("ben");
    ben.exec("SET statement_timeout = '20s'");
    assert_eq!(ben.value("SELECT * FROM ana.totals"), "1");
    assert_eq!(ben.value("SELECT note FROM ana.cached"), "x");
}

#[test]
fn a_plan_holds_nothing_afterwards() {
    let pair = fixture("plan_holds");
    pair.product().exec("ALTER TABLE users ALTER id TYPE bigint; ALTER TABLE orders DROP note");
    let mut deploy = pair.warehouse_as("deploy");
    let pid = deploy.pid();
    deploy.exec("BEGIN");
    assert!(deploy.changes("SELECT * FROM wh.plan_recreate_fdw('app')").len() > 3);
    assert_eq!(locks(&pair, pid, "true"), "");
    let advisory = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND locktype = 'advisory'");
    assert_eq!(pair.warehouse().value(&advisory), "0");
    // Nobody waits for the registration either.
    let mut other = pair.warehouse_as("deploy");
    other.exec("SET statement_timeout = '20s'");
    assert!(!other.changes("SELECT * FROM wh.recreate_fdw('app')").is_empty());
}

#[test]
fn readers_pass_while_a_run_waits_for_one_of_them() {
    let pair = fixture("pass");
    pair.product().exec("ALTER TABLE users ADD email text");
    let mut long = pair.warehouse_as("ben");
    long.exec("BEGIN; SELECT * FROM ana.names");
    let mut deploy = pair.warehouse_as("deploy");
    let pid = deploy.pid();
    let run = background(deploy, "SELECT * FROM wh.recreate_fdw('app')");
    wait_until("the run waits", || is_trying(&pair, pid));
    // A request for the lock in the queue would make each of these wait behind it, until the reader ends.
    let mut ana = pair.warehouse_as("ana");
    ana.exec("SET lock_timeout = '5s'");
    for _ in 0..300 {
        assert_eq!(ana.value("SELECT name FROM ana.names"), "ida");
    }
    let mut warehouse = pair.warehouse();
    assert_eq!(warehouse.value("SELECT status FROM wh.fdw_runs ORDER BY run DESC LIMIT 1"), "running");
    assert_eq!(locks(&pair, pid, "mode = 'AccessExclusiveLock'"), "", "it waits with locks in its hands");
    long.exec("COMMIT");
    assert_eq!(run.join().expect("a thread").expect("a run").len(), 1);
    assert_eq!(warehouse.table("SELECT attempts > 1, waited > '0' FROM wh.fdw_runs ORDER BY run DESC LIMIT 1"), "t|t");
}

#[test]
fn a_run_that_gives_up_names_everybody_in_the_way() {
    let pair = fixture("names_them");
    pair.product().exec("ALTER TABLE users ADD email text");
    let mut warehouse = pair.warehouse();
    let mut readers = ["ana", "ben"].map(|role| (role, pair.warehouse_as(role)));
    for (_, reader) in &mut readers {
        reader.exec("BEGIN; SELECT * FROM ana.names");
    }
    let error = pair.warehouse_as("deploy").error("SELECT * FROM wh.recreate_fdw('app', max_wait => '300ms')");
    assert_eq!(error.code().code(), "55P03", "{error:?}");
    assert!(error.message().starts_with("could not lock \"app.users\" within 0."), "{error:?}");
    let detail = error.detail().expect("a detail");
    assert_eq!(detail.lines().count(), 2, "{detail}");
    for (role, reader) in &mut readers {
        let pid = reader.pid();
        let line = detail.lines().find(|l| l.contains(&format!("User \"{role}\", pid {pid},"))).expect(detail);
        assert!(line.contains("in a transaction for 00:00:0"), "{line}");
    }
    // The age of the first one's transaction orders them, and the start of its query is the server's own.
    let first = warehouse.table(
        "SELECT pid, query_start FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'
         ORDER BY xact_start LIMIT 1",
    );
    let pid = first.split('|').next().expect("a pid");
    assert!(detail.starts_with(&format!("User \"ana\", pid {pid},")), "{detail}");
    assert!(error.hint().is_some_and(|h| h.contains(&format!("pg_cancel_backend({pid})"))), "{error:?}");
    assert_eq!(warehouse.value("SELECT count(*) FROM pg_attribute WHERE attname = 'email'"), "0");
}

#[test]
fn the_start_of_the_query_in_the_way_is_the_servers_own() {
    let pair = fixture("query_start");
    pair.product().exec("ALTER TABLE users ADD email text");
    let mut warehouse = pair.warehouse();
    let mut reader = pair.warehouse_as("ben");
    reader.exec("BEGIN; SELECT * FROM ana.names");
    let error = pair.warehouse_as("deploy").error("SELECT * FROM wh.recreate_fdw('app', max_wait => '0s')");
    let start = warehouse.value(
        "SELECT query_start FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'",
    );
    let detail = error.detail().expect("a detail");
    assert!(detail.ends_with(&format!("its query began at {start}.")), "{detail} and {start}");
}

#[test]
fn a_cancel_ends_the_waiting() {
    let pair = fixture("cancel");
    pair.product().exec("ALTER TABLE users ADD email text");
    let mut reader = pair.warehouse_as("ben");
    reader.exec("BEGIN; SELECT * FROM ana.names");
    let mut deploy = pair.warehouse_as("deploy");
    let pid = deploy.pid();
    let token = deploy.cancel_token();
    let run = background(deploy, "SELECT * FROM wh.recreate_fdw('app', max_wait => '1 hour')");
    wait_until("the run waits", || is_trying(&pair, pid));
    token.cancel_query(postgres::NoTls).expect("a cancel");
    let error = run.join().expect("a thread").expect_err("the run went on");
    assert_eq!(error.code().map(|c| c.code()), Some("57014"), "{error:?}");
}

#[test]
fn runs_of_two_names_go_side_by_side() {
    let pair = fixture("side_by_side");
    pair.product().exec("CREATE SCHEMA more; CREATE TABLE more.items (id int)");
    let mut warehouse = pair.warehouse();
    let uri = pair.uri();
    warehouse.exec(&format!("SELECT * FROM wh.create_fdw('more', '{uri}', remote_schema => 'more')"));
    pair.product().exec("ALTER TABLE users ADD email text; ALTER TABLE more.items ADD price numeric");
    let mut one = pair.warehouse_as("deploy");
    one.exec("BEGIN");
    assert_eq!(one.changes("SELECT * FROM wh.recreate_fdw('app')").len(), 1);
    let mut two = pair.warehouse_as("deploy");
    two.exec("SET statement_timeout = '20s'; BEGIN");
    assert_eq!(two.changes("SELECT * FROM wh.recreate_fdw('more')").len(), 1);
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.fdw_runs WHERE status = 'running'"), "2");
    one.exec("COMMIT");
    two.exec("COMMIT");
    assert_eq!(
        warehouse.value(
            "SELECT string_agg(attname, ' ' ORDER BY attname) FROM pg_attribute WHERE attname IN ('email', 'price')"
        ),
        "email price"
    );
}

#[test]
fn a_run_that_waits_for_another_of_its_name_gives_up_in_time() {
    let pair = fixture("two_runs");
    let mut one = pair.warehouse_as("deploy");
    one.exec("BEGIN; SELECT * FROM wh.recreate_fdw('app')");
    let error = pair.warehouse_as("deploy").error("SELECT * FROM wh.recreate_fdw('app', max_wait => '200ms')");
    assert_eq!(error.code().code(), "55P03", "{error:?}");
    assert!(
        error.message().contains("another run of foreign application \"app\" did not end within 0.2 s"),
        "{error:?}"
    );
}

#[test]
fn a_deadlock_is_tried_again() {
    let pair = fixture("deadlock");
    pair.product().exec("ALTER TABLE users ADD email text; ALTER TABLE orders ADD price numeric");
    let mut warehouse = pair.warehouse();
    // Deadlocks are looked for before the run's own limit for a request, and by the run.
    assert_eq!(warehouse.value("SELECT 'app.orders'::regclass::oid < 'app.users'::regclass::oid"), "t");
    let database = pair.warehouse_database();
    warehouse.exec(&format!("ALTER DATABASE {database} SET deadlock_timeout = '10ms'"));
    warehouse.exec(&format!("ALTER DATABASE {database} SET log_lock_waits = on"));
    let mut reader = pair.warehouse();
    reader.exec("SET deadlock_timeout = '1min'; BEGIN; SELECT * FROM app.users");
    let mut deploy = pair.warehouse_as("deploy");
    let pid = deploy.pid();
    let run = background(deploy, "SELECT * FROM wh.recreate_fdw('app')");
    wait_until("the run waits", || is_trying(&pair, pid));
    // The run takes orders, the older, and waits for users; the reader the other way round, again and again.
    let met = format!("process {pid} detected deadlock while waiting for AccessExclusiveLock");
    wait_until("they have met in a deadlock", || {
        reader.exec(&"SAVEPOINT s; SELECT * FROM app.orders; ROLLBACK TO s;".repeat(50));
        pair.warehouse_cluster().log().contains(&met)
    });
    reader.exec("COMMIT");
    assert_eq!(run.join().expect("a thread").expect("a run").len(), 2);
    assert_eq!(warehouse.value("SELECT status FROM wh.fdw_runs ORDER BY run DESC LIMIT 1"), "succeeded");
}

#[test]
fn a_broken_view_that_cannot_heal_costs_its_readers_no_lock() {
    let pair = fixture("broken_lock");
    pair.product().exec("ALTER TABLE orders DROP note");
    pair.recreate_fdw();
    let mut warehouse = pair.warehouse();
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.broken_views"), "1");
    let mut deploy = pair.warehouse_as("deploy");
    let pid = deploy.pid();
    deploy.exec("BEGIN");
    assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app')"), []);
    assert_eq!(locks(&pair, pid, "mode <> 'AccessShareLock'"), "");
    assert_eq!(deploy.changes("SELECT * FROM wh.repair_views()"), []);
    assert_eq!(locks(&pair, pid, "mode <> 'AccessShareLock'"), "");
    deploy.exec("COMMIT");
    // Where one can heal and its lock is not to be had, the run goes on without it at the end of its patience; who asks for
    // nothing else waits on.
    pair.product().exec("ALTER TABLE orders ADD note text");
    let mut reader = pair.warehouse_as("ben");
    reader.exec("BEGIN; LOCK TABLE ana.bought IN ACCESS SHARE MODE");
    let done = deploy.changes("SELECT * FROM wh.recreate_fdw('app', max_wait => '200ms')");
    assert_eq!(done.iter().map(|c| c.action.as_str()).collect::<Vec<_>>(), ["added"], "{done:?}");
    deploy.exec("SET statement_timeout = '2s'");
    let error = deploy.error("SELECT * FROM wh.repair_views()");
    deploy.exec("RESET statement_timeout");
    assert_eq!(error.code().code(), "57014", "{error:?}");
    reader.exec("COMMIT");
    let done = deploy.changes("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(done.iter().filter(|c| c.action == "healed").count(), 1, "{done:?}");
}

#[test]
fn advisory_locks_of_others_stop_nobody() {
    let pair = fixture("advisory");
    let mut ana = pair.warehouse_as("ana");
    // With the keys that runs had once, and with others.
    ana.exec("SELECT pg_advisory_lock(1464353356, g), pg_advisory_lock(g), pg_advisory_lock(g, g) FROM generate_series(1, 500) g");
    let mut deploy = pair.warehouse_as("deploy");
    deploy.exec("SET statement_timeout = '20s'");
    assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app', max_wait => '1s')"), []);
    pair.product().exec("ALTER TABLE users ADD email text");
    deploy.exec("BEGIN");
    assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app', max_wait => '1s')").len(), 1);
    let status = "SELECT status FROM wh.fdw_runs ORDER BY run DESC LIMIT 1";
    assert_eq!(ana.value(status), "running");
    deploy.exec("ROLLBACK");
    assert_eq!(ana.value(status), "aborted");
}
