//! Other people's code in a saved query, and the rights with which it would run.

use pg_test::{Client, ClientExt, Warehouse};

/// Saves a query as somebody, and lets every analyst run it.
fn share(c: &mut Client, slug: &str, sql: &str) {
    c.exec(&format!("SELECT wh.save_query('{slug}', $q${sql}$q$), wh.share_query('{slug}', 'wh_analyst')"));
}

fn refused(c: &mut Client, slug: &str) -> String {
    let e = c.error(&format!("SELECT wh.run_query('{slug}')"));
    assert_eq!(e.code().code(), "42501", "{slug}: {}", e.message());
    e.message().to_owned()
}

fn first(c: &mut Client, slug: &str) -> String {
    let id = c.value(&format!("SELECT result FROM wh.run_query('{slug}')"));
    c.value(&format!("SELECT wh.result({id})"))
}

/// Functions that the server calls by itself: the difference of two bounds of a range type, for which the planner asks.
const RANGES: &str = "
    CREATE FUNCTION ana.diff(a float8, b float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
      IF current_user <> 'ana' THEN RAISE EXCEPTION 'difference as %', current_user; END IF; RETURN a - b; END $$;
    CREATE FUNCTION ana.diff_with_settings(a float8, b float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog
      AS $$ BEGIN IF current_user <> 'ana' THEN RAISE EXCEPTION 'difference as %', current_user; END IF; RETURN a - b; END $$;
    CREATE TYPE ana.span AS RANGE (SUBTYPE = float8, SUBTYPE_DIFF = ana.diff);
    CREATE TYPE ana.stretch AS RANGE (SUBTYPE = float8, SUBTYPE_DIFF = ana.diff_with_settings);
    CREATE TABLE ana.spans AS SELECT ana.span(n, n + 1) AS s, ana.stretch(n, n + 1) AS t FROM generate_series(1, 1000) n;
    GRANT USAGE ON SCHEMA ana TO PUBLIC; GRANT SELECT ON ana.spans TO PUBLIC;";

const RANGED: [(&str, &str); 2] = [
    ("span", "SELECT count(*) FROM ana.spans WHERE s && ana.span(5.5, 7.5)"),
    ("stretch", "SELECT count(*) FROM ana.spans WHERE t && ana.stretch(5.5, 7.5)"),
];

#[test]
fn what_the_server_calls_by_itself_is_refused_as_well() {
    let w = Warehouse::new("trojan_ranges");
    let (mut ana, mut ben) = (w.as_role("ana"), w.as_role("ben"));
    ana.exec(RANGES);
    w.client().exec("ANALYZE ana.spans");
    for (slug, sql) in RANGED {
        share(&mut ana, slug, sql);
        let said = refused(&mut ben, slug);
        assert!(said.ends_with("of \"ana\" would run with your rights"), "{slug}: {said}");
        // It is a trap: out of a saved query it runs.
        let sprung = w.as_role("ben").error(sql).message().to_owned();
        assert!(sprung.ends_with("as ben"), "{slug}: {sprung}");
    }
}

#[test]
fn a_superusers_query_runs_nothing_of_others() {
    let w = Warehouse::new("trojan_superuser");
    let (mut c, mut ana) = (w.client(), w.as_role("ana"));
    let proof = format!("{}/trojan_superuser_proof", c.value("SHOW data_directory"));
    ana.exec(RANGES);
    ana.exec(&format!(
        "CREATE FUNCTION ana.boom() RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'COPY (SELECT 1) TO PROGRAM ''touch {proof}'''; RETURN current_user; END $$;
         CREATE FUNCTION ana.disarmed() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN current_user; END $$;
         CREATE VIEW ana.code AS SELECT ana.boom() AS x;
         CREATE VIEW ana.built_in AS SELECT pg_catalog.lo_export(0, '{proof}') AS x;
         CREATE VIEW ana.plain AS SELECT 1 AS x;
         CREATE TABLE ana.t (a int); INSERT INTO ana.t VALUES (7);
         CREATE MATERIALIZED VIEW ana.m AS SELECT a FROM ana.t"
    ));
    c.exec(
        "ANALYZE ana.spans; CREATE SCHEMA IF NOT EXISTS own; CREATE VIEW own.over AS SELECT x FROM ana.code; CREATE VIEW own.v AS SELECT a FROM ana.t;
         CREATE FUNCTION own.inside() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT x FROM ana.plain); END $$",
    );
    for (slug, sql, of) in [
        ("su-call", "SELECT ana.boom()", "function ana.boom() of \"ana\" would run with your rights"),
        (
            "su-view",
            "SELECT x FROM ana.code",
            "view \"ana\".\"code\" of \"ana\" would run with the rights of a superuser",
        ),
        (
            "su-over",
            "SELECT x FROM own.over",
            "view \"ana\".\"code\" of \"ana\" would run with the rights of a superuser",
        ),
        (
            "su-built-in",
            "SELECT x FROM ana.built_in",
            "view \"ana\".\"built_in\" of \"ana\" would run with the rights of a superuser",
        ),
        (
            "su-inside",
            "SELECT own.inside()",
            "view \"ana\".\"plain\" of \"ana\" would run with the rights of a superuser",
        ),
    ] {
        share(&mut c, slug, sql);
        assert_eq!(refused(&mut c, slug), of, "{slug}");
        // On a schedule it ends in the same way.
        c.exec(&format!("SELECT wh.schedule_query('{slug}', '@yearly')"));
        assert_eq!(
            c.table(&format!(
                "SELECT status, error LIKE '%{}%' FROM wh.run_job('query {slug}')",
                of.replace('\'', "''")
            )),
            "failed|t"
        );
    }
    for (slug, sql) in RANGED {
        share(&mut c, slug, sql);
        assert!(refused(&mut c, slug).ends_with("of \"ana\" would run with your rights"), "{slug}");
    }
    assert!(!std::path::Path::new(&proof).exists(), "code of an analyst's ran as superuser");
    // Rows of others are no code, nor is what runs as its own maker.
    for (slug, sql, row) in [
        ("su-rows", "SELECT a FROM own.v JOIN ana.t USING (a) JOIN ana.m USING (a)", "{\"a\": 7}"),
        ("su-disarmed", "SELECT ana.disarmed()", "{\"disarmed\": \"ana\"}"),
    ] {
        share(&mut c, slug, sql);
        assert_eq!(first(&mut c, slug), row, "{slug}");
    }
}

#[test]
fn members_of_a_role_do_not_trust_each_other_with_its_functions() {
    let w = Warehouse::new("trojan_team");
    let team = w.role("team");
    let (mut c, mut ana, mut ben) = (w.client(), w.as_role("ana"), w.as_role("ben"));
    c.exec(&format!("GRANT {team} TO ana, ben; CREATE SCHEMA common AUTHORIZATION {team}"));
    ana.exec(&format!(
        "SET ROLE {team}; CREATE FUNCTION common.f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN current_user; END $$; RESET ROLE"
    ));
    share(&mut ana, "team", "SELECT common.f()");
    assert_eq!(refused(&mut ben, "team"), format!("function common.f() of \"{team}\" would run with your rights"));
    // In one's own query it is one's own business.
    share(&mut ben, "team-own", "SELECT common.f()");
    assert_eq!(first(&mut ben, "team-own"), "{\"f\": \"ben\"}");
    c.exec(&format!("DROP OWNED BY {team}"));
}

#[test]
fn somebody_elses_query_does_nothing_but_return_rows() {
    let w = Warehouse::new("trojan_signals");
    let (mut c, mut ana, mut ben) = (w.client(), w.as_role("ana"), w.as_role("ben"));
    c.exec("CREATE EXTENSION IF NOT EXISTS dblink; GRANT USAGE ON SCHEMA ana TO PUBLIC");
    ana.exec(
        "CREATE FUNCTION ana.hers(bigint) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN PERFORM pg_advisory_lock($1); RETURN ''; END $$",
    );
    ben.exec("SELECT wh.schedule('bens', '@yearly', 'SELECT 1')");
    for (slug, sql) in [
        ("lock", "SELECT pg_advisory_lock(42)"),
        ("try", "SELECT pg_try_advisory_lock_shared(1, 42)"),
        ("in-xact", "SELECT pg_advisory_xact_lock(42)"),
        ("as-herself", "SELECT ana.hers(42)"),
        ("xml", "SELECT query_to_xml('SELECT 1', true, true, '')"),
        ("ts", "SELECT ts_stat('SELECT to_tsvector(''x'')')"),
        ("setting", "SELECT set_config('application_name', 'x', false)"),
        ("notify", "SELECT pg_notify('x', 'y')"),
        ("kill", "SELECT pg_terminate_backend(pg_backend_pid())"),
        ("wal", "SELECT pg_logical_emit_message(false, 'x', 'y')"),
        ("object", "SELECT lo_create(0)"),
        ("dblink", "SELECT * FROM dblink('host=192.0.2.1 password=x', 'SELECT 1') AS t(a int)"),
        ("sleep", "SELECT pg_sleep(0)"),
        ("view", "SELECT mode FROM pg_locks"),
    ] {
        share(&mut ana, slug, sql);
        let said = refused(&mut ben, slug);
        assert!(said.ends_with("is not called in a query that somebody else saved"), "{slug}: {said}");
    }
    assert_eq!(c.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42"), "0");
    for (slug, sql) in
        [("run", "SELECT status FROM wh.run_job('bens', wait => false)"), ("cancel", "SELECT wh.cancel_job('bens')")]
    {
        share(&mut ana, slug, sql);
        let e = ben.error(&format!("SELECT wh.run_query('{slug}')"));
        assert_eq!(e.code().code(), "25006", "{slug}: {}", e.message());
    }
    assert_eq!(ben.value("SELECT count(*) FROM wh.job_runs WHERE job_name = 'bens'"), "0");
    // What returns something, and does no more, may: also what our own views are made of.
    share(
        &mut ana,
        "harmless",
        "SELECT random() < 2 AND clock_timestamp() IS NOT NULL AND gen_random_uuid() IS NOT NULL
            AND pg_relation_size('pg_class') > 0 AND (SELECT count(*) FROM wh.my_usage) = 1 AS fine",
    );
    assert_eq!(first(&mut ben, "harmless"), "{\"fine\": true}");
}

/// A foreign table is asked for with the user mapping of whoever reads it, and what is there may be its maker's code.
#[test]
fn a_foreign_table_of_others_is_not_read_with_ones_own_mapping() {
    let w = Warehouse::new("trojan_foreign");
    let (mut c, mut ana, mut ben) = (w.client(), w.as_role("ana"), w.as_role("ben"));
    let port = w.cluster().port();
    let proof = format!("{}/trojan_foreign_proof", c.value("SHOW data_directory"));
    // A server that leads back here. Everybody who has a mapping may use it.
    c.exec(&format!(
        "CREATE EXTENSION postgres_fdw; CREATE SERVER back FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{port}', dbname 'trojan_foreign');
         GRANT USAGE ON FOREIGN SERVER back TO ana, ben; GRANT USAGE ON SCHEMA ana TO PUBLIC; CREATE SCHEMA own;
         CREATE ROLE back_door SUPERUSER LOGIN PASSWORD 'back_door secret';
         CREATE USER MAPPING FOR CURRENT_USER SERVER back OPTIONS (user 'back_door', password 'back_door secret')"
    ));
    for role in ["ana", "ben"] {
        c.exec(&format!(
            "CREATE USER MAPPING FOR {role} SERVER back OPTIONS (user '{role}', password '{role} secret')"
        ));
    }
    ben.exec("CREATE TABLE ben.closed AS SELECT 42 AS n");
    ana.exec(&format!(
        "CREATE FUNCTION ana.evil() RETURNS text LANGUAGE plpgsql AS $$ BEGIN
           IF current_user = 'ben' THEN GRANT USAGE ON SCHEMA ben TO ana; GRANT SELECT ON ben.closed TO ana; END IF;
           IF current_user = 'back_door' THEN COPY (SELECT 1) TO PROGRAM 'touch {proof}'; END IF;
           RETURN current_user; END $$;
         CREATE VIEW ana.trap AS SELECT ana.evil() AS x;
         CREATE FOREIGN TABLE ana.far (x text) SERVER back OPTIONS (schema_name 'ana', table_name 'trap');
         CREATE TABLE ana.near (x text); ALTER FOREIGN TABLE ana.far INHERIT ana.near; GRANT SELECT ON ana.trap, ana.far, ana.near TO PUBLIC;
         CREATE VIEW ana.over AS SELECT x FROM ana.far; GRANT SELECT ON ana.over TO PUBLIC"
    ));
    c.exec("CREATE VIEW own.over AS SELECT x FROM ana.far; GRANT USAGE ON SCHEMA own TO PUBLIC; GRANT SELECT ON own.over TO PUBLIC");
    for (slug, sql) in [
        ("far", "SELECT x FROM ana.far"),
        ("near", "SELECT x FROM ana.near"),
        ("own", "SELECT x FROM own.over"),
        ("row", "SELECT count(*) FROM ana.far"),
    ] {
        share(&mut ana, slug, sql);
        let of = |reader: &str| {
            format!("foreign table \"ana\".\"far\" of \"ana\" would be read with the user mapping of \"{reader}\"")
        };
        assert_eq!(refused(&mut ben, slug), of(if slug == "own" { "postgres" } else { "ben" }), "{slug}");
        share(&mut c, &format!("su-{slug}"), sql);
        assert_eq!(refused(&mut c, &format!("su-{slug}")), of("postgres"), "su-{slug}");
    }
    assert_eq!(ana.error("SELECT n FROM ben.closed").code().code(), "42501");
    assert!(!std::path::Path::new(&proof).exists(), "code of an analyst's ran as superuser");
    // What is read with her own mapping runs as she, and a superuser's foreign table leads where they say.
    share(&mut ana, "over", "SELECT x FROM ana.over");
    assert_eq!(first(&mut ben, "over"), "{\"x\": \"ana\"}");
    c.exec(
        "CREATE FOREIGN TABLE own.far (n int) SERVER back OPTIONS (schema_name 'ben', table_name 'closed'); GRANT SELECT ON own.far TO PUBLIC",
    );
    share(&mut ana, "su-made", "SELECT n FROM own.far");
    assert_eq!(first(&mut ben, "su-made"), "{\"n\": 42}");
    share(&mut c, "su-su", "SELECT n FROM own.far");
    assert_eq!(first(&mut c, "su-su"), "{\"n\": 42}");
    // Whose server it is says where to.
    c.exec("ALTER SERVER back OWNER TO deploy");
    assert_eq!(
        refused(&mut c, "su-su"),
        "server \"back\" of \"deploy\" would be reached with the rights of a superuser"
    );
    assert_eq!(first(&mut ben, "su-made"), "{\"n\": 42}");
    // It is a trap: out of a saved query it springs.
    assert_eq!(ben.value("SELECT x FROM ana.far"), "ben");
    assert_eq!(ana.value("SELECT n FROM ben.closed"), "42");
    c.exec("DROP OWNED BY back_door; DROP SERVER back CASCADE; DROP ROLE back_door");
}
