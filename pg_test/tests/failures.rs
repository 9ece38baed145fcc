//! What fails leaves the warehouse as it was, with a record that says what failed.

use std::path::PathBuf;
use std::process::Command;

use pg_test::pair::READER_PASSWORD;
use pg_test::{place, wait_until, ClientExt, Pair};

/// Everything about the relations, types, servers and registrations of a database but the records of runs.
const FACTS: &str = "
    SELECT 'relation', c.oid::text, c.relname || ' ' || c.relfilenode || ' ' || coalesce(c.relacl::text, '')
           || coalesce(pg_get_viewdef(CASE WHEN c.relkind IN ('v', 'm') THEN c.oid END), '') FROM pg_class c WHERE c.oid >= 16384
    UNION ALL SELECT 'column', attrelid || ' ' || attnum, attname || ' ' || atttypid || ' ' || atttypmod
      FROM pg_attribute WHERE attrelid >= 16384
    UNION ALL SELECT 'type', oid::text, typname FROM pg_type WHERE oid >= 16384
    UNION ALL SELECT 'schema', oid::text, nspname || coalesce(nspacl::text, '') FROM pg_namespace WHERE nspname !~ '^pg_'
    UNION ALL SELECT 'server', oid::text, srvname || coalesce(srvoptions::text, '') FROM pg_foreign_server
    UNION ALL SELECT 'mapping', umid::text, umoptions::text FROM pg_user_mappings
    UNION ALL SELECT 'registered', name, f::text FROM wh.fdw f
    UNION ALL SELECT 'identity', relation::oid::text, t::text FROM wh.fdw_table t
    UNION ALL SELECT 'broken', relation::text, b::text FROM wh.broken b
    UNION ALL SELECT 'hidden', fdw, h::text FROM wh.hidden_pattern h
    ORDER BY 1, 2, 3";

/// The newest run but for its times.
const NEWEST: &str = "SELECT fdw, action, role, status, sqlstate, attempts FROM wh.fdw_runs ORDER BY run DESC LIMIT 1";

#[test]
fn a_product_that_cannot_be_reached_is_reported_and_nothing_changes() {
    let mut pair = Pair::apart("unreachable", &[]);
    pair.product().exec("CREATE TABLE users (id int)");
    pair.create_fdw();
    pair.product().exec("ALTER TABLE users ADD name text");
    let mut warehouse = pair.warehouse();
    let before = warehouse.table(FACTS);

    pair.own_product().stop("fast").expect("a stop");
    let mut deploy = pair.warehouse_as("deploy");
    for call in ["recreate_fdw('app')", "plan_recreate_fdw('app')"] {
        let error = deploy.error(&format!("SELECT * FROM wh.{call}"));
        assert_eq!(error.code().code(), "08001", "{call}: {error:?}");
        assert!(error.message().contains("could not connect to server \"app\""), "{error:?}");
        assert!(error.detail().is_some_and(|d| d.contains("Connection refused")), "{error:?}");
    }
    assert_eq!(warehouse.table(NEWEST), "app|recreate_fdw|deploy|failed|08001|0");
    // What needs no product works without.
    assert_eq!(deploy.changes("SELECT * FROM wh.hide('app', 'nothing')"), []);
    warehouse.exec("SELECT wh.unhide('app', 'nothing')");

    pair.own_product().restart().expect("a restart");
    pair.product().exec("ALTER ROLE wh_reader PASSWORD 'another'");
    let error = deploy.error("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(error.code().code(), "08001", "{error:?}");
    let said = format!("{error:?}");
    assert!(said.contains("password authentication failed for user \\\"wh_reader\\\""), "{said}");
    assert!(!said.contains(READER_PASSWORD), "{said}");
    let record = warehouse.value("SELECT error FROM wh.fdw_runs ORDER BY run DESC LIMIT 1");
    assert!(record.contains("password authentication failed") && !record.contains(READER_PASSWORD), "{record}");
    assert_eq!(warehouse.table(FACTS), before);

    warehouse.exec("ALTER USER MAPPING FOR PUBLIC SERVER app OPTIONS (SET password 'another')");
    assert_eq!(pair.recreate_fdw().len(), 1);
}

/// A file system that is full soon; only root can mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(name: &str, size: &str) -> Option<SmallDisk> {
        let dir = place::base().expect("a place").join(format!("disk-{name}-{}", std::process::id()));
        place::own_directory(&dir).expect("a directory");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&dir).output();
        if !mount.is_ok_and(|out| out.status.success()) {
            std::fs::remove_dir(&dir).expect("to remove an empty directory");
            return None;
        }
        place::give(&dir).expect("to give it away");
        Some(SmallDisk(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server may have files of it open still.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    let Some(disk) = SmallDisk::new("full", "2m") else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    let pair = Pair::apart("full", &[]);
    pair.product()
        .exec("CREATE TABLE logs (id int, line text); INSERT INTO logs SELECT g, 'x' FROM generate_series(1, 1000) g");
    pair.create_fdw();
    let mut warehouse = pair.warehouse();
    warehouse.exec(&format!("CREATE TABLESPACE small LOCATION '{}'", disk.0.display()));
    warehouse.exec("GRANT CREATE ON TABLESPACE small TO ana");
    pair.warehouse_as("ana").exec(
        "CREATE MATERIALIZED VIEW ana.lines TABLESPACE small AS SELECT id, line FROM app.logs;
         CREATE VIEW ana.numbers AS SELECT id FROM ana.lines",
    );
    pair.product().exec(
        "ALTER TABLE logs ALTER id TYPE bigint; ALTER TABLE logs ADD more int; UPDATE logs SET line = (SELECT string_agg(md5(format('%s %s', id, g)), '') FROM generate_series(1, 150) g)",
    );
    let before = warehouse.table(FACTS);
    let error = pair.warehouse_as("deploy").error("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(error.code().code(), "53100", "{error:?}");
    assert_eq!(warehouse.table(FACTS), before);
    assert_eq!(warehouse.table(NEWEST), "app|recreate_fdw|deploy|failed|53100|1");
    let record = warehouse.value("SELECT error FROM wh.fdw_runs ORDER BY run DESC LIMIT 1");
    assert!(record.contains("No space left on device"), "{record}");
    assert_eq!(pair.warehouse_as("ana").value("SELECT count(*) FROM ana.numbers"), "1000");

    pair.product().exec("UPDATE logs SET line = 'x'");
    let done = pair.recreate_fdw();
    assert!(done.iter().any(|c| c.object == "ana.lines" && c.action == "rebuilt"), "{done:?}");
    assert_eq!(pair.warehouse_as("ana").table("SELECT count(*), pg_typeof(min(id)) FROM ana.lines"), "1000|bigint");
}

#[test]
fn a_limit_of_temporary_files_leaves_everything_as_it_was() {
    let pair = Pair::apart("temp_files", &[("temp_file_limit", "64kB"), ("work_mem", "64kB")]);
    pair.product().exec("CREATE TABLE logs (id int); INSERT INTO logs SELECT g FROM generate_series(1, 100000) g");
    pair.create_fdw();
    let mut warehouse = pair.warehouse();
    pair.warehouse_as("ana").exec(
        "CREATE MATERIALIZED VIEW ana.sorted AS SELECT id FROM app.logs WHERE id % 2 = 0 ORDER BY sqrt(id) DESC WITH NO DATA",
    );
    // Sorting is what makes the files; as long as it may.
    warehouse.exec("SET temp_file_limit = -1; REFRESH MATERIALIZED VIEW ana.sorted");
    pair.product().exec("ALTER TABLE logs ALTER id TYPE bigint");
    let before = warehouse.table(FACTS);
    let error = pair.warehouse_as("deploy").error("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(error.code().code(), "53400", "{error:?}");
    assert_eq!(warehouse.table(FACTS), before);
    assert_eq!(warehouse.table(NEWEST), "app|recreate_fdw|deploy|failed|53400|1");
    assert!(warehouse.changes("SELECT * FROM wh.recreate_fdw('app')").iter().any(|c| c.action == "rebuilt"));
    assert_eq!(warehouse.value("SELECT count(*) FROM ana.sorted"), "50000");
}

#[test]
fn without_a_worker_to_record_it_a_run_does_not_begin() {
    let pair = Pair::apart("workers", &[("max_worker_processes", "1"), ("max_logical_replication_workers", "0")]);
    pair.product().exec("CREATE TABLE users (id int)");
    pair.create_fdw();
    pair.product().exec("ALTER TABLE users ADD name text");
    let mut warehouse = pair.warehouse();
    let before = warehouse.table(FACTS);
    let runs = warehouse.table("SELECT * FROM wh.fdw_runs");
    // Somebody's parallel query has the only worker for as long as it goes on.
    warehouse.exec("CREATE TABLE big AS SELECT 1 AS id FROM generate_series(1, 10)");
    let mut busy = pair.warehouse();
    busy.exec(
        "SET force_parallel_mode = on; SET parallel_leader_participation = off;
         CREATE FUNCTION gate(int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS
           $$ BEGIN PERFORM pg_advisory_lock_shared(7); PERFORM pg_advisory_unlock_shared(7); RETURN $1; END $$",
    );
    let before_with_big = warehouse.table(FACTS);
    assert_ne!(before, before_with_big);
    warehouse.exec("SELECT pg_advisory_lock(7)");
    let query = std::thread::spawn(move || busy.value("SELECT count(gate(id)) FROM big"));
    wait_until("the worker waits", || {
        warehouse.value(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker' AND wait_event = 'advisory'",
        ) == "1"
    });
    let mut deploy = pair.warehouse_as("deploy");
    for call in ["recreate_fdw('app')", "hide('app', '%')", "drop_fdw('app')", "repair_views()"] {
        let error = deploy.error(&format!("SELECT * FROM wh.{call}"));
        assert_eq!(error.code().code(), "53400", "{call}: {error:?}");
        assert!(error.message().contains("could not start a background worker"), "{call}: {error:?}");
        assert!(error.hint().is_some_and(|h| h.contains("max_worker_processes")), "{call}: {error:?}");
    }
    // A plan records nothing.
    assert_eq!(deploy.changes("SELECT * FROM wh.plan_recreate_fdw('app')").len(), 1);
    assert_eq!(warehouse.table(FACTS), before_with_big);
    assert_eq!(warehouse.table("SELECT * FROM wh.fdw_runs"), runs);
    warehouse.exec("SELECT pg_advisory_unlock(7)");
    assert_eq!(query.join().expect("a query"), "10");
    assert_eq!(pair.recreate_fdw().len(), 1);
}

#[test]
fn a_failure_is_recorded_with_what_it_took() {
    let pair = Pair::new("recorded");
    pair.product().exec("CREATE TABLE users (id int, name text)");
    pair.create_fdw();
    pair.warehouse_as("ana").exec("CREATE VIEW ana.names AS SELECT name FROM app.users");
    let mut warehouse = pair.warehouse();
    pair.product().exec("ALTER TABLE users DROP name");
    let mut deploy = pair.warehouse_as("deploy");
    let error = deploy.error("SELECT * FROM wh.recreate_fdw('app', on_broken => 'fail')");
    assert_eq!(error.code().code(), "2BP01", "{error:?}");
    let expected = format!("{}\n{}", error.message(), error.detail().expect("a detail"));
    assert_eq!(warehouse.value("SELECT error FROM wh.fdw_runs ORDER BY run DESC LIMIT 1"), expected);
    assert_eq!(
        warehouse.table(
            "SELECT role, pid, status, sqlstate, attempts, waited, started <= ended, ended <= clock_timestamp(), changes
             FROM wh.fdw_runs ORDER BY run DESC LIMIT 1"
        ),
        format!("deploy|{}|failed|2BP01|1|00:00:00|t|t|", deploy.pid())
    );
    // In a transaction that ends badly the record of the failure stays, too.
    deploy.exec("BEGIN");
    deploy.error("SELECT * FROM wh.recreate_fdw('app', on_broken => 'fail')");
    deploy.exec("ROLLBACK");
    assert_eq!(warehouse.table(NEWEST), "app|recreate_fdw|deploy|failed|2BP01|1");
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.fdw_changes WHERE run > 1"), "0");
}

#[test]
fn a_run_that_is_rolled_back_later_is_shown_as_aborted() {
    let pair = Pair::new("rolled_back");
    pair.product().exec("CREATE TABLE users (id int)");
    pair.create_fdw();
    pair.product().exec("ALTER TABLE users ADD name text");
    let mut warehouse = pair.warehouse();
    let before = warehouse.table(FACTS);
    let mut deploy = pair.warehouse_as("deploy");
    deploy.exec("BEGIN; SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(warehouse.table(NEWEST), "app|recreate_fdw|deploy|running||");
    deploy.exec("ROLLBACK");
    assert_eq!(warehouse.table(NEWEST), "app|recreate_fdw|deploy|aborted||");
    assert_eq!(warehouse.table(FACTS), before);
    // A savepoint is as good as a transaction.
    deploy.exec("BEGIN; SAVEPOINT s; SELECT * FROM wh.recreate_fdw('app'); ROLLBACK TO s; COMMIT");
    assert_eq!(warehouse.table(NEWEST), "app|recreate_fdw|deploy|aborted||");
    assert_eq!(warehouse.table(FACTS), before);
    assert_eq!(pair.recreate_fdw().len(), 1);
    assert_eq!(
        warehouse.value("SELECT string_agg(status, ' ' ORDER BY run) FROM wh.fdw_runs"),
        "succeeded aborted aborted succeeded"
    );
}

#[test]
fn runs_are_kept_for_as_many_days_as_the_setting_says() {
    let pair = Pair::new("history");
    pair.product().exec("CREATE TABLE users (id int)");
    pair.create_fdw();
    let mut warehouse = pair.warehouse();
    warehouse.exec(&format!("SELECT * FROM wh.create_fdw('other', '{}', local_schema => 'other')", pair.uri()));
    for _ in 0..3 {
        pair.recreate_fdw();
    }
    warehouse.exec("UPDATE wh.fdw_run SET started = started - interval '10 days', ended = ended - interval '10 days'");
    warehouse.exec("UPDATE wh.fdw_run SET started = started - interval '90 days' WHERE id = 1");
    let kept = |w: &mut postgres::Client| w.value("SELECT string_agg(run::text, ' ' ORDER BY run) FROM wh.fdw_runs");
    assert_eq!(kept(&mut warehouse), "1 2 3 4 5");
    // Ninety days are the default.
    pair.recreate_fdw();
    assert_eq!(kept(&mut warehouse), "2 3 4 5 6");
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.fdw_changes WHERE run = 1"), "0");
    // The newest run of another name stays, however old.
    warehouse.exec("SET startup_wh.run_history = 5; SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(kept(&mut warehouse), "2 6 7");
    for wrong in ["0", "-1", "36501"] {
        assert_eq!(warehouse.error(&format!("SET startup_wh.run_history = {wrong}")).code().code(), "22023");
    }
    // Only a superuser may shorten it; also where the setting came before the library that knows it.
    warehouse.exec("UPDATE wh.fdw_run SET started = started - interval '10 days'");
    let mut deploy = pair.warehouse_as("deploy");
    deploy.exec("SET startup_wh.run_history = 1; SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(kept(&mut warehouse), "2 6 7 8");
    assert_eq!(deploy.error("SET startup_wh.run_history = 1").code().code(), "42501");
}

#[test]
fn a_product_that_ends_the_session_while_a_run_waits_is_recorded_with_what_to_do() {
    let pair = Pair::apart("impatient", &[]);
    pair.product().exec("CREATE TABLE users (id int)");
    pair.create_fdw();
    let mut product = pair.product();
    product.exec("ALTER ROLE wh_reader SET idle_in_transaction_session_timeout = '200ms'; ALTER TABLE users ALTER id TYPE bigint");
    let mut warehouse = pair.warehouse();
    let before = warehouse.table(FACTS);
    let mut reader = pair.warehouse();
    reader.exec("BEGIN; EXPLAIN SELECT * FROM app.users");
    let mut deploy = pair.warehouse_as("deploy");
    let run = std::thread::spawn(move || deploy.error("SELECT * FROM wh.recreate_fdw('app')"));
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'wh_reader'";
    wait_until("the run has read the product", || product.value(sessions) == "1");
    wait_until("the product has lost its patience", || product.value(sessions) == "0");
    reader.exec("COMMIT");
    let error = run.join().expect("a thread");
    assert!(error.hint().is_some_and(|h| h.contains("idle_in_transaction_session_timeout")), "{error:?}");
    assert!(error.detail().is_none_or(|d| !d.contains("backtrace")), "{error:?}");
    assert_eq!(warehouse.table(FACTS), before);
    let newest = "SELECT status, sqlstate, error <> '' FROM wh.fdw_runs ORDER BY run DESC LIMIT 1";
    assert_eq!(warehouse.table(newest), format!("failed|{}|t", error.code().code()));
    // With more patience it goes on.
    product.exec("ALTER ROLE wh_reader RESET idle_in_transaction_session_timeout");
    assert_eq!(pair.recreate_fdw().len(), 1);
}
