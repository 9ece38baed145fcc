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

#[test]
fn nothing_is_read_that_the_query_does_not_name() {
    let w = Warehouse::new("attack_xml");
    let (mut ana, mut ben) = (w.as_role("ana"), w.as_role("ben"));
    for (slug, call) in [
        ("table", "table_to_xml('pg_class', true, true, '')"),
        ("table-schema", "table_to_xmlschema('pg_class', true, true, '')"),
        ("table-both", "table_to_xml_and_xmlschema('pg_class', true, true, '')"),
        ("schema", "schema_to_xml('ben', true, true, '')"),
        ("schema-schema", "schema_to_xmlschema('ben', true, true, '')"),
        ("schema-both", "schema_to_xml_and_xmlschema('ben', true, true, '')"),
        ("database", "database_to_xml(true, true, '')"),
        ("database-schema", "database_to_xmlschema(true, true, '')"),
        ("database-both", "database_to_xml_and_xmlschema(true, true, '')"),
        ("query-schema", "query_to_xmlschema('SELECT 1', true, true, '')"),
        ("query-both", "query_to_xml_and_xmlschema('SELECT 1', true, true, '')"),
        ("cursor", "cursor_to_xml('x', 1, true, true, '')"),
        ("cursor-schema", "cursor_to_xmlschema('x', true, true, '')"),
        ("rewrite", "ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, ''b''::tsquery')"),
    ] {
        share(&mut ana, slug, &format!("SELECT {call}"));
        let e = ben.error(&format!("SELECT wh.run_query('{slug}')"));
        assert_eq!(e.code().code(), "42501", "{slug}: {}", e.message());
        let said = e.message();
        assert!(said.ends_with("is not called in a query that somebody else saved"), "{slug}: {said}");
    }
    // Those of extensions that run a text, and what the session holds of its user's.
    let mut c = w.client();
    c.exec("CREATE EXTENSION tablefunc; CREATE EXTENSION xml2");
    ben.exec("PREPARE bens AS SELECT 'a secret of his'; DECLARE his CURSOR WITH HOLD FOR SELECT 'another one'");
    for (slug, sql) in [
        ("crosstab", "SELECT * FROM crosstab('SELECT 1, 2, 3') AS t (a int, b int)"),
        ("crosstab-n", "SELECT * FROM crosstab2('SELECT ''a''::text, ''b''::text, ''c''::text')"),
        ("crosstab-hash", "SELECT * FROM crosstab('SELECT 1, 2, 3', 'SELECT 2') AS t (a int, b int)"),
        ("connectby", "SELECT * FROM connectby('pg_am', 'oid', 'oid', '2', 0) AS t (a oid, b oid, l int)"),
        ("xpath", "SELECT * FROM xpath_table('a', 'b', 'pg_am', '/c', 'true') AS t (a text)"),
        ("prepared", "SELECT statement FROM pg_prepared_statements"),
        ("cursors", "SELECT statement FROM pg_cursors"),
    ] {
        share(&mut ana, slug, sql);
        let e = ben.error(&format!("SELECT wh.run_query('{slug}')"));
        assert_eq!(e.code().code(), "42501", "{slug}: {}", e.message());
        let said = e.message();
        assert!(said.ends_with("is not called in a query that somebody else saved"), "{slug}: {said}");
    }
    // One's own may.
    share(&mut ben, "own", "SELECT table_to_xml('pg_am', true, true, '') IS NOT NULL AS fine");
    ben.exec("SELECT wh.run_query('own')");
}

#[test]
fn a_run_leaves_nothing_in_the_session() {
    let w = Warehouse::new("attack_session");
    let (mut c, mut ana, mut ben) = (w.client(), w.as_role("ana"), w.as_role("ben"));
    c.exec("GRANT USAGE ON SCHEMA ana TO PUBLIC");
    ben.exec("PREPARE mine AS SELECT 1 AS n; SET application_name = 'before'");
    // Her SECURITY DEFINER functions run, as she; each tries to leave something in his session.
    for (slug, does) in [
        ("prepare", "EXECUTE 'PREPARE hers AS SELECT 2'"),
        ("deallocate", "EXECUTE 'DEALLOCATE mine'"),
        ("all", "EXECUTE 'DEALLOCATE ALL'"),
        ("discard", "EXECUTE 'DISCARD PLANS'"),
        ("listen", "EXECUTE 'LISTEN x'"),
        ("temp", "EXECUTE 'CREATE TEMP TABLE pg_stat_activity (n int)'"),
        ("hold", "EXECUTE 'DECLARE x CURSOR WITH HOLD FOR SELECT 1'"),
        ("role", "EXECUTE 'SET ROLE ana'"),
        ("login", "EXECUTE 'SET SESSION AUTHORIZATION ana'"),
        ("write", "EXECUTE 'SET TRANSACTION READ WRITE'"),
        ("copy", "EXECUTE 'COPY (SELECT 1) TO PROGRAM ''true'''"),
        ("lock", "PERFORM pg_catalog.pg_advisory_lock(1)"),
    ] {
        ana.exec(&format!(
            "CREATE FUNCTION ana.\"{slug}\"() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN {does}; RETURN 1; END $$"
        ));
        share(&mut ana, slug, &format!("SELECT ana.\"{slug}\"()"));
        let e = ben.error(&format!("SELECT wh.run_query('{slug}')"));
        println!("{slug}: {} {}", e.code().code(), e.message());
        assert!(
            ["42501", "25006", "25001", "0A000"].contains(&e.code().code()),
            "{slug}: {} {}",
            e.code().code(),
            e.message()
        );
    }
    // A setting is taken back.
    ana.exec(
        "CREATE FUNCTION ana.setting() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
           SET application_name = 'hers'; RETURN 1; END $$",
    );
    share(&mut ana, "setting", "SELECT ana.setting()");
    ben.exec("SELECT wh.run_query('setting')");
    assert_eq!(ben.value("SELECT current_setting('application_name')"), "before");
    assert_eq!(ben.value("EXECUTE mine"), "1");
    assert_eq!(ben.value("SELECT count(*) FROM pg_prepared_statements WHERE name = 'hers'"), "0");
}

#[test]
fn an_administrators_rights_do_nothing_for_others() {
    let w = Warehouse::new("attack_admin");
    let (mut c, mut ana, mut deploy) = (w.client(), w.as_role("ana"), w.as_role("deploy"));
    c.exec("CREATE SCHEMA own AUTHORIZATION deploy; GRANT USAGE ON SCHEMA own TO ana");
    deploy.exec("CREATE MATERIALIZED VIEW own.m AS SELECT 1 AS n; SELECT wh.save_query('mine', 'SELECT 1 AS n')");
    let file = "SELECT relfilenode FROM pg_class WHERE oid = 'own.m'::regclass";
    let before = c.value(file);
    for (slug, sql) in [
        ("refresh", "SELECT status, detail FROM wh.refresh('own.m')"),
        ("reset", "SELECT wh.reset_usage()"),
        ("share", "SELECT wh.share_query('mine', 'ana')"),
        ("save", "SELECT wh.save_query('mine', 'SELECT 2')"),
        ("schedule", "SELECT wh.schedule('x', '@yearly', 'SELECT 1')"),
        ("secret", "SELECT wh.set_secret('x', 'y')"),
        ("source", "SELECT * FROM wh.test_source('x')"),
        ("verify", "SELECT * FROM wh.verify_source('x')"),
        ("fetch", "SELECT * FROM wh.fetch('x')"),
        ("budget", "SELECT wh.set_budget('ana', bytes => 1)"),
    ] {
        ana.exec(&format!("SELECT wh.save_query('do-{slug}', $q${sql}$q$), wh.share_query('do-{slug}', 'wh_admin')"));
        let e = deploy.error(&format!("SELECT wh.run_query('do-{slug}')"));
        println!("{slug}: {} {}", e.code().code(), e.message());
        assert!(["42501", "25006"].contains(&e.code().code()), "{slug}: {} {}", e.code().code(), e.message());
    }
    assert_eq!(c.value(file), before);
    assert_eq!(c.value("SELECT count(*) FROM wh.job"), "0");
    assert_eq!(ana.value("SELECT count(*) FROM wh.queries WHERE slug = 'mine'"), "0");
}

#[test]
fn a_refresh_starts_no_job() {
    let w = Warehouse::new("attack_refresh");
    let mut ana = w.as_role("ana");
    ana.exec("SELECT wh.schedule('x', '@yearly', 'SELECT 1')");
    for call in ["(SELECT count(*) FROM wh.run_job('x', wait => false))", "wh.cancel_job('x')"] {
        let e = ana.error(&format!("CREATE MATERIALIZED VIEW ana.m AS SELECT {call} AS n"));
        assert_eq!(e.code().code(), "42501", "{call}: {}", e.message());
        assert!(e.message().contains("security-restricted"), "{call}: {}", e.message());
    }
    assert_eq!(ana.value("SELECT count(*) FROM wh.job_runs"), "0");
}
