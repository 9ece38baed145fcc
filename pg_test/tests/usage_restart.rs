//! What was counted survives stops and crashes, roles that are dropped, and more roles than there is room for.

use pg_test::jobs::wait_for_true;
use pg_test::usage::{connect, server, used, wait_until_gone, Used};
use pg_test::{wait_until, Client, ClientExt};

/// Query time as it stands in the table, for a role.
#[track_caller]
fn written(client: &mut Client, role: &str) -> i64 {
    client
        .value(&format!(
            "SELECT coalesce(sum(calls), 0) FROM wh.query_time t JOIN wh.query_role r USING (role) WHERE r.name = '{role}'"
        ))
        .parse()
        .expect("a number")
}

fn work(c: &mut Client) {
    c.exec("SELECT pg_sleep(0.05)");
    c.exec("CREATE TABLE IF NOT EXISTS t AS SELECT generate_series(1, 1000) AS n");
    c.simple_query("SELECT 1 / 0").expect_err("an error");
}

/// The scheduler has had its first look.
const IDLE: &str =
    "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'startup_wh scheduler' AND state = 'idle'";

#[test]
fn a_stop_in_any_decent_mode_loses_nothing() {
    let mut cluster = server("usage_stop", "startup_wh", &[("startup_wh.usage_interval", "1h")]);
    let mut wanted = Used::default();
    for mode in ["fast", "smart", "fast"] {
        // The first look of a scheduler writes what it finds; afterwards nothing is written for an hour.
        let mut admin = connect(&cluster, "postgres");
        wait_for_true(&mut admin, IDLE);
        let mut c = connect(&cluster, "ana");
        work(&mut c);
        drop(c);
        wait_until_gone(&mut admin, "ana");
        let now = used(&mut admin, "ana");
        assert_eq!(now.calls, wanted.calls + 3);
        assert!(now.time > wanted.time + 50.0);
        wanted = now;
        assert!(written(&mut admin, "ana") < wanted.calls, "something is left to save");
        drop(admin);
        cluster.stop(mode).expect("a stop");
        assert!(cluster.data().join("pg_stat/startup_wh.usage").exists());
        cluster.restart().expect("a start");
        assert!(!cluster.data().join("pg_stat/startup_wh.usage").exists());
        let mut admin = connect(&cluster, "postgres");
        // Its scheduler may be about to write that down.
        assert_eq!(used(&mut admin, "ana"), wanted, "after a {mode} stop");
    }
}

#[test]
fn a_crash_loses_what_was_not_written_down_and_nothing_is_counted_twice() {
    let mut cluster = server(
        "usage_crash",
        "startup_wh",
        &[("startup_wh.usage_interval", "1s"), ("synchronous_commit", "on"), ("fsync", "on")],
    );
    for round in 1..=3_i64 {
        let mut admin = connect(&cluster, "postgres");
        let mut c = connect(&cluster, "ana");
        work(&mut c);
        drop(c);
        wait_until("it is written down", || written(&mut admin, "ana") == 3 * round);
        // What the writer commits, it commits asynchronously.
        admin.exec("CHECKPOINT");
        let before = used(&mut admin, "ana");
        match round {
            1 => {
                drop(admin);
                cluster.crash().expect("a crash");
            }
            2 => {
                let pid = admin.pid();
                drop(pg_test::jobs::kill(&cluster, admin, pid));
                let mut admin = connect(&cluster, "postgres");
                assert_eq!(used(&mut admin, "ana"), before);
                continue;
            }
            _ => {
                drop(admin);
                cluster.stop("immediate").expect("a stop");
            }
        }
        cluster.restart().expect("a start");
        let mut admin = connect(&cluster, "postgres");
        assert_eq!(used(&mut admin, "ana"), before, "round {round}");
    }
}

#[test]
fn a_file_of_another_server_or_version_is_written_off() {
    let mut cluster = server("usage_foreign_file", "startup_wh", &[]);
    let file = cluster.data().join("pg_stat/startup_wh.usage");
    let mut admin = connect(&cluster, "postgres");
    wait_for_true(&mut admin, "SELECT count(*) > 0 FROM wh.query_time");
    let mut c = connect(&cluster, "ana");
    work(&mut c);
    drop((c, admin));
    cluster.stop("fast").expect("a stop");
    let bytes = std::fs::read(&file).expect("a file");
    // The server's number begins after the shape and the version.
    let mut foreign = bytes.clone();
    foreign[24] ^= 1;
    for (what, content) in
        [("another server's", &foreign[..]), ("a torn one", &bytes[..bytes.len() / 2]), ("none", b"")]
    {
        std::fs::write(&file, content).expect("written");
        cluster.restart().expect("a start");
        assert!(!file.exists(), "{what}");
        let mut admin = connect(&cluster, "postgres");
        assert_eq!(used(&mut admin, "ana"), Used::default(), "{what}");
        assert!(cluster.log().contains("was written off"), "{what}");
        drop(admin);
        cluster.stop("immediate").expect("a stop");
    }
}

#[test]
fn a_dropped_role_keeps_its_name_and_its_figures() {
    let cluster = server("usage_dropped", "startup_wh", &[("startup_wh.usage_interval", "1s")]);
    let mut admin = connect(&cluster, "postgres");
    // One whose name is written down, and one that is gone before that.
    admin.exec("CREATE ROLE leaver LOGIN PASSWORD 'leaver secret'");
    connect(&cluster, "leaver").exec("SELECT 1");
    wait_until("it is written down", || written(&mut admin, "leaver") == 1);
    admin.exec("DROP ROLE leaver");
    assert_eq!(used(&mut admin, "leaver").calls, 1);
    admin.exec("CREATE ROLE hasty LOGIN PASSWORD 'hasty secret'");
    // Nothing is written down meanwhile.
    admin.exec("BEGIN; LOCK TABLE wh.query_time IN SHARE MODE");
    connect(&cluster, "hasty").exec("SELECT 1");
    wait_until_gone(&mut connect(&cluster, "postgres"), "hasty");
    admin.exec("DROP ROLE hasty; COMMIT");
    assert_eq!(used(&mut admin, "hasty").calls, 1);
    wait_until("it is written down", || written(&mut admin, "hasty") == 1);
    assert_eq!(used(&mut admin, "hasty").calls, 1);
    assert_eq!(
        admin.value("SELECT count(*) FROM wh.user_query_time_history WHERE user_name IN ('leaver', 'hasty')"),
        "2"
    );
    // A role's new name is the one to know it by.
    admin.exec("CREATE ROLE old LOGIN PASSWORD 'old secret'");
    connect(&cluster, "old").exec("SELECT 1");
    wait_until("it is written down", || written(&mut admin, "old") == 1);
    admin.exec("ALTER ROLE old RENAME TO new");
    assert_eq!((used(&mut admin, "old").calls, used(&mut admin, "new").calls), (0, 1));
}

#[test]
fn more_roles_than_there_is_room_for_share_an_entry_and_no_time_is_lost() {
    let mut cluster = server("usage_many", "startup_wh", &[("startup_wh.max_users", "5")]);
    let mut admin = connect(&cluster, "postgres");
    admin.exec("CREATE DATABASE other");
    const ROLES: usize = 12;
    let total = "SELECT sum(calls) FROM wh.user_query_time WHERE period = 'all time' AND user_name <> 'postgres'";
    for n in 0..ROLES {
        admin.exec(&format!("CREATE ROLE r{n} LOGIN PASSWORD 'r{n} secret'"));
        let mut c = connect(&cluster, &format!("r{n}"));
        c.exec("SELECT pg_sleep(0.01)");
        c.exec("SELECT 1");
        drop(c);
        // In another database there is another one for all of them.
        cluster.connect_as("other", &format!("r{n}"), &format!("r{n} secret")).expect("a session").exec("SELECT 1");
        wait_until_gone(&mut admin, &format!("r{n}"));
    }
    assert_eq!(admin.value(total), (2 * ROLES).to_string());
    let other = used(&mut admin, "(other)");
    assert!(
        other.calls > 0 && other.calls < 2 * ROLES as i64 && other.time >= other.calls as f64 / 2.0 * 10.0,
        "{other:?}"
    );
    drop(admin);
    cluster.restart().expect("a restart");
    let mut admin = connect(&cluster, "postgres");
    assert_eq!(admin.value(total), (2 * ROLES).to_string(), "after a restart");
}

#[test]
fn a_reset_forgets_all_and_waits_for_its_commit() {
    let cluster = server("usage_reset", "startup_wh", &[("startup_wh.usage_interval", "1s")]);
    let mut admin = connect(&cluster, "postgres");
    let mut c = connect(&cluster, "ana");
    work(&mut c);
    wait_until("it is written down", || written(&mut admin, "ana") == 3);
    c.exec("SELECT 1");
    let mut looks = connect(&cluster, "postgres");
    admin.exec("BEGIN; SELECT wh.reset_usage()");
    assert_eq!(used(&mut looks, "ana").calls, 4);
    admin.exec("ROLLBACK");
    assert_eq!(used(&mut looks, "ana").calls, 4);
    admin.exec("SELECT wh.reset_usage()");
    assert_eq!(used(&mut looks, "ana").calls, 0);
    c.exec("SELECT 1");
    assert_eq!(used(&mut looks, "ana").calls, 1);
    wait_until("it is written down", || written(&mut admin, "ana") == 1);
    assert_eq!(used(&mut looks, "ana").calls, 1);
}

#[test]
fn what_is_older_than_the_history_stays_in_the_figures_for_all_time() {
    let mut cluster = server("usage_trimmed", "startup_wh", &[]);
    let mut admin = connect(&cluster, "postgres");
    let mut c = connect(&cluster, "ana");
    c.exec("SELECT 1");
    drop(c);
    admin.exec(
        "INSERT INTO wh.query_role SELECT oid, rolname FROM pg_roles WHERE rolname = 'ana';
         INSERT INTO wh.query_time
         SELECT date_trunc('hour', now(), 'UTC') - days * interval '1 day', (SELECT oid FROM pg_roles WHERE rolname = 'ana'),
                10, 0, 0, 1000000, 0, 0, 0, 0, 0, 0, 0
         FROM unnest('{1, 5, 20, 100, 500, 600}'::int[]) days",
    );
    let periods = "SELECT period, calls FROM wh.user_query_time WHERE user_name = 'ana' ORDER BY calls";
    let wanted = "today|1\n7 days|21\n30 days|31\nall time|61";
    // At midnight, yesterday's first hour is still 24 hours away; and so on for each.
    assert_eq!(admin.table(periods), wanted);
    assert_eq!(
        admin.table("SELECT span, count(*), sum(calls) FROM wh.user_query_time_history WHERE user_name = 'ana' GROUP BY 1 ORDER BY 1"),
        "01:00:00|2|11\n1 day|5|50"
    );
    drop(admin);
    cluster.restart().expect("a restart");
    let mut admin = connect(&cluster, "postgres");
    wait_for_true(
        &mut admin,
        "SELECT count(*) = 0 FROM wh.query_time WHERE hour BETWEEN '2000-01-01' AND now() - interval '400 days'",
    );
    assert_eq!(admin.table(periods), wanted);
    assert_eq!(
        admin.table("SELECT span, count(*), sum(calls) FROM wh.user_query_time_history WHERE user_name = 'ana' GROUP BY 1 ORDER BY 1"),
        "01:00:00|2|11\n1 day|3|30"
    );
}
