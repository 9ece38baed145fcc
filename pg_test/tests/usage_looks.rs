//! Whoever looks while the scheduler writes down what was counted sees all of it, and none of it twice: whatever snapshot
//! the look has, and whatever becomes of the write.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use pg_test::usage::{connect, server, used, wait_until_gone, Used};
use pg_test::{wait_until, Client, ClientExt, Cluster};

const WORKERS: [&str; 2] = ["ana", "ben"];

/// A statement of a role has begun, and one is through.
#[derive(Default)]
struct Sent {
    begun: AtomicI64,
    through: AtomicI64,
}

/// Has the scheduler write as often as it can, and fail at the end of every third time.
fn hasty(name: &str) -> Cluster {
    let cluster = server(name, "startup_wh", &[("startup_wh.usage_interval", "1s")]);
    connect(&cluster, "postgres").exec(
        "CREATE SEQUENCE writes;
         CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN IF nextval('public.writes') % 3 = 0 THEN RAISE 'not this time'; END IF; RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER fails AFTER INSERT OR UPDATE ON wh.query_role DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW WHEN (new.name = 'ana') EXECUTE FUNCTION fails()",
    );
    cluster
}

/// Sends statements until told to stop, in session after session.
fn work(cluster: &Cluster, role: &str, sent: &Sent, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        let mut c = connect(cluster, role);
        for n in 0..200 {
            sent.begun.fetch_add(1, Ordering::SeqCst);
            match n % 10 {
                9 => drop(c.simple_query("SELECT 1 / 0").expect_err("an error")),
                _ => c.exec("SELECT 1"),
            }
            sent.through.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Looks again and again: no figure ever goes down, no statement is missing that was through before, and none is there that
/// had not begun after.
fn look(c: &mut Client, times: usize, sent: &[Sent; 2], last: &mut [Used; 2]) {
    for _ in 0..times {
        let through = sent.each_ref().map(|s| s.through.load(Ordering::SeqCst));
        let found = WORKERS.map(|role| used(c, role));
        let begun = sent.each_ref().map(|s| s.begun.load(Ordering::SeqCst));
        for n in 0..WORKERS.len() {
            let (now, before) = (found[n], last[n]);
            assert!((through[n]..=begun[n]).contains(&now.calls), "{now:?}, {}, {}", through[n], begun[n]);
            assert!(now.errors >= before.errors && now.errors <= now.calls / 10 + 1, "{now:?} after {before:?}");
            assert!(now.rows >= before.rows && now.rows <= now.calls, "{now:?} after {before:?}");
            assert!(now.cpu >= before.cpu && now.blocks >= before.blocks, "{now:?} after {before:?}");
        }
        *last = found;
    }
}

#[test]
fn no_look_misses_or_doubles_what_is_written_down_meanwhile() {
    let cluster = hasty("usage_looks");
    let (sent, stop) = (<[Sent; 2]>::default(), AtomicBool::new(false));
    let mut admin = connect(&cluster, "postgres");
    std::thread::scope(|scope| {
        // However a look ends, the others end with it.
        struct Stops<'a>(&'a AtomicBool);
        impl Drop for Stops<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let _stops = Stops(&stop);
        for (role, sent) in WORKERS.iter().zip(&sent) {
            let (cluster, stop) = (&cluster, &stop);
            scope.spawn(move || work(cluster, role, sent, stop));
        }
        let hurries = scope.spawn(|| {
            let mut boss = connect(&cluster, "postgres");
            while !stop.load(Ordering::SeqCst) {
                boss.exec("SELECT wh.set_budget('postgres', '100 years')");
            }
        });
        let readers = ["READ COMMITTED", "REPEATABLE READ"].map(|level| {
            let (cluster, sent, stop) = (&cluster, &sent, &stop);
            scope.spawn(move || {
                let _stops = Stops(stop);
                let mut c = connect(cluster, "postgres");
                let mut last = <[Used; 2]>::default();
                while !stop.load(Ordering::SeqCst) {
                    c.exec(&format!("BEGIN ISOLATION LEVEL {level}"));
                    // One that has an old snapshot has it for many writes.
                    look(&mut c, 100, sent, &mut last);
                    c.exec("COMMIT");
                }
                last
            })
        });
        wait_until("it was written down two hundred times, and not sixty", || {
            assert!(!stop.load(Ordering::SeqCst), "a look was wrong");
            admin.value("SELECT last_value >= 260 FROM writes") == "t"
        });
        stop.store(true, Ordering::SeqCst);
        for reader in readers {
            let last = reader.join().expect("no look was wrong");
            assert!(last.iter().all(|u| u.calls > 0));
        }
        hurries.join().expect("budgets can be set");
    });
    admin.exec("ALTER TABLE wh.query_role DISABLE TRIGGER fails");
    // Held back, and then written: the figures are the same, and those of who counted the statements.
    let figures = |c: &mut Client| WORKERS.map(|role| used(c, role));
    // Within a transaction the list of sessions stays as it was read first.
    let mut looks = connect(&cluster, "postgres");
    WORKERS.iter().for_each(|role| wait_until_gone(&mut looks, role));
    admin.exec("BEGIN; LOCK TABLE wh.query_time IN SHARE MODE");
    for (role, sent) in WORKERS.iter().zip(&sent) {
        connect(&cluster, role).exec("SELECT pg_sleep(0.01)");
        sent.through.fetch_add(1, Ordering::SeqCst);
    }
    WORKERS.iter().for_each(|role| wait_until_gone(&mut looks, role));
    let held = figures(&mut looks);
    admin.exec("COMMIT");
    for (n, role) in WORKERS.iter().enumerate() {
        let calls = sent[n].through.load(Ordering::SeqCst);
        assert_eq!(held[n].calls, calls, "{role}");
        wait_until("all is written down", || {
            assert_eq!(figures(&mut admin)[n], held[n], "{role}");
            admin.value(&format!(
                "SELECT coalesce(sum(calls), 0) FROM wh.query_time t JOIN wh.query_role r USING (role) WHERE r.name = '{role}'"
            )) == calls.to_string()
        });
    }
}

#[test]
fn a_writer_that_is_ended_in_the_middle_has_written_nothing() {
    let cluster = server("usage_writer_ended", "startup_wh", &[("startup_wh.usage_interval", "1s")]);
    let mut admin = connect(&cluster, "postgres");
    // Behind its last statement, and before its end.
    admin.exec(
        "CREATE FUNCTION waits() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN PERFORM pg_advisory_xact_lock_shared(77); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER waits AFTER INSERT OR UPDATE ON wh.query_role DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW WHEN (new.name = 'ana') EXECUTE FUNCTION waits()",
    );
    for round in 1..=3_i64 {
        admin.exec("SELECT pg_advisory_lock(77)");
        connect(&cluster, "ana").exec("SELECT 1");
        let waits = "FROM pg_stat_activity WHERE backend_type = 'startup_wh scheduler' AND wait_event_type = 'Lock'";
        wait_until("it writes", || admin.value(&format!("SELECT count(*) {waits}")) == "1");
        assert_eq!(used(&mut admin, "ana").calls, round);
        admin.exec(&format!("SELECT pg_terminate_backend(pid) {waits}"));
        wait_until("another one writes", || admin.value(&format!("SELECT count(*) {waits}")) == "1");
        let mut old = connect(&cluster, "postgres");
        old.exec("BEGIN ISOLATION LEVEL REPEATABLE READ");
        assert_eq!((used(&mut admin, "ana").calls, used(&mut old, "ana").calls), (round, round));
        admin.exec("SELECT pg_advisory_unlock(77)");
        wait_until("it has written", || {
            admin.value(&format!(
            "SELECT coalesce(sum(calls), 0) = {round} FROM wh.query_time t JOIN wh.query_role r USING (role) WHERE r.name = 'ana'"
        )) == "t"
        });
        assert_eq!((used(&mut admin, "ana").calls, used(&mut old, "ana").calls), (round, round));
    }
}

#[test]
fn what_a_copied_database_says_of_its_template_is_not_taken_for_its_own() {
    let cluster = server("usage_copied", "startup_wh", &[("startup_wh.usage_interval", "1s")]);
    let mut admin = connect(&cluster, "postgres");
    let mut c = connect(&cluster, "ana");
    (0..5).for_each(|_| c.exec("SELECT 1"));
    drop(c);
    wait_until("it is written down", || {
        admin.value("SELECT sum(calls) FROM wh.query_time t JOIN wh.query_role r USING (role) WHERE r.name = 'ana'")
            == "5"
    });
    drop(admin);
    let mut elsewhere = cluster.connect("template1").expect("a session");
    wait_until("it is copied", || elsewhere.simple_query("CREATE DATABASE copied TEMPLATE postgres").is_ok());
    for n in 1..=2 {
        cluster.connect_as("copied", "ana", "ana secret").expect("a session").exec("SELECT 1");
        let mut there = cluster.connect("copied").expect("a session");
        wait_until("it is counted", || used(&mut there, "ana").calls == 5 + n);
    }
    let mut there = cluster.connect("copied").expect("a session");
    wait_until("it is written down", || {
        there.value("SELECT sum(calls) FROM wh.query_time t JOIN wh.query_role r USING (role) WHERE r.name = 'ana'")
            == "7"
    });
    assert_eq!(used(&mut there, "ana").calls, 7);
}
