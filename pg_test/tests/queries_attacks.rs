//! What somebody would try who wants another one's saved or scheduled run to do more than the other one saw.

use pg_test::{Client, ClientExt, JobsExt, Warehouse};

/// Saves a query as somebody, and lets every analyst run it.
fn share(c: &mut Client, slug: &str, sql: &str) {
    c.exec(&format!("SELECT wh.save_query('{slug}', $q${sql}$q$), wh.share_query('{slug}', 'wh_analyst')"));
}

fn ran(c: &mut Client, job: &str) -> String {
    assert_eq!(c.value(&format!("SELECT status FROM wh.run_job('{job}')")), "succeeded");
    c.table("SELECT version, (SELECT r FROM wh.result(s.id) r) FROM wh.results s ORDER BY id DESC LIMIT 1")
}

#[test]
fn a_job_runs_the_version_that_was_scheduled() {
    let w = Warehouse::new("attack_job");
    let (mut ana, mut ben) = (w.as_role("ana"), w.as_role("ben"));
    ben.exec("CREATE TABLE ben.secret AS SELECT 42 AS n; GRANT USAGE ON SCHEMA ben TO ana; GRANT SELECT ON ben.secret TO ana");
    share(&mut ana, "count", "SELECT 1 AS n");
    ben.exec("SELECT wh.schedule_query('count', '@yearly')");
    share(&mut ana, "count", "SELECT n FROM ben.secret");
    assert_eq!(ran(&mut ben, "query count"), "1|{\"n\": 1}");
    // By hand one runs what wh.queries shows.
    ben.exec("SELECT wh.run_query('count')");
    assert_eq!(ben.value("SELECT version FROM wh.results ORDER BY id DESC LIMIT 1"), "2");
    // Other options of the job are no leave; scheduled again it is.
    ben.exec("SELECT wh.alter_job('query count', schedule => '@daily')");
    assert_eq!(ran(&mut ben, "query count"), "1|{\"n\": 1}");
    ben.exec("SELECT wh.schedule_query('count', '@yearly')");
    assert_eq!(ran(&mut ben, "query count"), "2|{\"n\": 42}");
    // Another query of that name is not what was scheduled, though its version has the same number.
    ana.exec("SELECT wh.drop_query('count')");
    share(&mut ana, "count", "SELECT n + 1 AS n FROM ben.secret");
    share(&mut ana, "count", "SELECT n + 2 AS n FROM ben.secret");
    assert_eq!(ben.value("SELECT status FROM wh.run_job('query count')"), "failed");
    assert_eq!(ben.last_run("query count"), "failed|42704|query \"count\" is another one than was scheduled");
    // One's own is as one saved it last.
    share(&mut ben, "own", "SELECT 1 AS n");
    ben.exec("SELECT wh.schedule_query('own', '@yearly'), wh.save_query('own', 'SELECT 2 AS n')");
    assert_eq!(ran(&mut ben, "query own"), "2|{\"n\": 2}");
}
