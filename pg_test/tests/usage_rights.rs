//! Who sees whose usage, and who may change what: as real roles over real connections.

use pg_test::usage::{connect, server, used};
use pg_test::{wait_until, Client, ClientExt, Cluster};

fn names(c: &mut Client) -> String {
    c.value("SELECT string_agg(user_name, ',' ORDER BY user_name) FROM wh.user_query_time WHERE period = 'all time'")
}

/// A server on which ana, ben, a member of the whole and one of nothing have worked; half of it is written down.
fn worked(name: &str, visibility: &str) -> Cluster {
    let preload = "startup_wh, pg_stat_statements";
    let settings = [("startup_wh.usage_visibility", visibility), ("startup_wh.usage_interval", "1s")];
    let cluster = server(name, preload, &settings);
    let mut admin = connect(&cluster, "postgres");
    admin.exec(
        "CREATE EXTENSION pg_stat_statements;
         CREATE ROLE boss LOGIN PASSWORD 'boss secret' IN ROLE wh_admin; GRANT CREATE ON DATABASE postgres TO ana;
         CREATE ROLE monitor LOGIN PASSWORD 'monitor secret' IN ROLE wh_analyst, pg_read_all_stats;
         CREATE ROLE stranger LOGIN PASSWORD 'stranger secret'",
    );
    for role in ["ana", "ben", "stranger"] {
        connect(&cluster, role).exec("SELECT current_user AS secret");
    }
    wait_until("it is written down", || {
        admin.value("SELECT count(*) FROM wh.query_role WHERE name IN ('ana', 'ben', 'stranger')") == "3"
    });
    admin.exec("BEGIN; LOCK TABLE wh.query_time IN SHARE MODE");
    std::mem::forget(admin);
    for role in ["ana", "ben"] {
        connect(&cluster, role).exec("SELECT current_user AS secret");
    }
    cluster
}

#[test]
fn everybody_sees_the_figures_of_all_and_nobody_the_texts_of_others() {
    let cluster = worked("usage_all", "all");
    for role in ["ana", "ben", "boss", "monitor"] {
        let mut c = connect(&cluster, role);
        let seen = names(&mut c);
        for other in ["ana", "ben", "stranger", "postgres"] {
            assert!(seen.contains(other), "{role} sees {seen}");
        }
        assert!(c.value("SELECT count(*) FROM wh.user_query_time_history WHERE user_name = 'ben'") != "0");
        let others =
            c.value("SELECT count(*) FROM wh.my_queries WHERE query ~ 'secret' AND current_user NOT IN ('ana', 'ben')");
        assert_eq!(others, "0");
    }
    assert_eq!(connect(&cluster, "ana").value("SELECT sum(calls) FROM wh.my_queries WHERE query ~ 'secret'"), "2");
    // Who is no analyst sees nothing at all.
    let mut c = connect(&cluster, "stranger");
    for query in [
        "SELECT * FROM wh.user_query_time",
        "SELECT * FROM wh.user_query_time_history",
        "SELECT * FROM wh.my_queries",
        "SELECT * FROM wh.budgets",
        "SELECT * FROM wh.query_time_now()",
        "SELECT wh.reset_usage()",
    ] {
        assert_eq!(c.error(query).code().code(), "42501", "{query}");
    }
}

#[test]
fn by_setting_analysts_see_their_own_figures_only_and_their_share_of_all() {
    let cluster = worked("usage_own", "own");
    for role in ["boss", "monitor"] {
        assert!(names(&mut connect(&cluster, role)).contains("ana,ben"), "{role}");
    }
    let mut c = connect(&cluster, "ana");
    c.exec("SELECT pg_sleep(0.1)");
    assert_eq!(names(&mut c), "ana");
    assert_eq!(c.value("SELECT count(DISTINCT user_name) FROM wh.user_query_time_history"), "1");
    let share = |c: &mut Client| {
        c.value("SELECT share_percent FROM wh.user_query_time WHERE period = 'all time' AND user_name = 'ana'")
            .parse::<f64>()
            .expect("a share")
    };
    let (own, whole) = (share(&mut c), share(&mut connect(&cluster, "monitor")));
    assert!(own > 0.0 && own < 100.0 && whole > 0.0 && whole < 100.0, "{own} and {whole}");
    // What lies below shows the others as one, without a name.
    assert_eq!(
        c.table("SELECT count(*), count(role), bool_and(name = 'ana' OR name IS NULL) FROM wh.query_time_now()"),
        "2|1|t"
    );
    // A cheap function must not be shown rows that the view leaves out.
    c.exec(
        "CREATE SCHEMA ana; CREATE FUNCTION ana.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
           $$ BEGIN RAISE WARNING 'leaked %', $1; IF $1 NOT IN ('ana', 'all time', 'today', '7 days', '30 days') THEN RAISE 'leaked %', $1; END IF; RETURN true; END $$",
    );
    c.exec("SELECT * FROM wh.user_query_time WHERE ana.leak(user_name::text) AND ana.leak(period)");
    c.exec("SELECT * FROM wh.user_query_time_history WHERE ana.leak(user_name::text)");
    for table in ["query_time", "query_role", "budget", "budget_passed"] {
        assert_eq!(c.error(&format!("SELECT * FROM wh.{table}")).code().code(), "42501", "{table}");
    }
    // Nor does a schema of one's own take the place of ours.
    c.exec(
        "CREATE FUNCTION ana.has_privs_of_role() RETURNS boolean LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION ana.sees_usage_of(oid) RETURNS boolean LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION ana.date_trunc(text, timestamptz) RETURNS timestamptz LANGUAGE sql AS $$SELECT '-infinity'::timestamptz$$;
         SET search_path = ana, wh, pg_catalog",
    );
    assert_eq!(names(&mut c), "ana");
    // As a member of a role one sees the role's.
    connect(&cluster, "boss").error("GRANT ben TO ana");
    cluster.connect("postgres").expect("a session").exec("GRANT ben TO ana");
    assert_eq!(names(&mut c), "ana,ben");
}

#[test]
fn only_admins_reset_and_set_budgets() {
    let cluster = server("usage_admins", "startup_wh", &[]);
    connect(&cluster, "postgres").exec("CREATE ROLE boss LOGIN PASSWORD 'boss secret' IN ROLE wh_admin");
    let mut c = connect(&cluster, "ana");
    for call in ["wh.reset_usage()", "wh.set_budget('ana', '1 year')", "wh.set_budget('ben', '0')"] {
        assert_eq!(c.error(&format!("SELECT {call}")).code().code(), "42501", "{call}");
    }
    let mut boss = connect(&cluster, "boss");
    boss.exec("SELECT wh.set_budget('ana', '1 hour', per => 'week'); SELECT wh.set_budget('ben', bytes => 1000000)");
    assert_eq!(
        boss.table("SELECT role, query_time, bytes, per, enforce, passed FROM wh.budgets ORDER BY role"),
        "ana|01:00:00||week|f|f\nben||1000000|day|f|f"
    );
    assert_eq!(c.value("SELECT count(*) FROM wh.budgets WHERE role = 'ana'"), "1");
    boss.exec("SELECT wh.set_budget('ana')");
    assert_eq!(boss.value("SELECT count(*) FROM wh.budgets"), "1");
    for (call, code) in [
        ("wh.set_budget(NULL, '1 hour')", "22023"),
        ("wh.set_budget('ana', '1 hour', per => 'year')", "22023"),
        ("wh.set_budget('ana', '1 hour', per => NULL)", "22023"),
        ("wh.set_budget('ana', '1 hour', enforce => NULL)", "22023"),
        ("wh.set_budget('ana', '-1 hour')", "22023"),
        ("wh.set_budget('ana', bytes => -1)", "22023"),
        ("wh.set_budget('nobody', '1 hour')", "42704"),
    ] {
        assert_eq!(boss.error(&format!("SELECT {call}")).code().code(), code, "{call}");
    }
    // A dump carries them by names.
    let dump = cluster.dump("postgres", &["--data-only", "--table=wh.budget"]).expect("a dump");
    assert!(dump.contains("ben\t\\N\t1000000\tday\tf"), "{dump}");
}

#[test]
fn who_passes_a_budget_is_told_and_only_enforced_ones_are_refused() {
    let cluster = server("usage_budget", "startup_wh", &[("startup_wh.usage_interval", "1s")]);
    let mut admin = connect(&cluster, "postgres");
    admin.exec(
        "CREATE ROLE boss LOGIN PASSWORD 'boss secret' IN ROLE wh_admin; GRANT ana TO boss; LISTEN wh_budgets;
         SELECT wh.set_budget(role, '300 ms', enforce => role <> 'ben'::regrole) FROM unnest('{ana, ben, boss, postgres}'::regrole[]) role",
    );
    admin.exec(
        "CREATE SEQUENCE looted; GRANT ALL ON looted TO PUBLIC;
         CREATE FUNCTION checks(v int) RETURNS boolean LANGUAGE plpgsql AS $$
           BEGIN
             BEGIN PERFORM 1 FROM pg_class; EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN BEGIN BEGIN BEGIN PERFORM nextval('looted') + nextval('looted') FROM pg_class LIMIT 1; END; END; END; END;
             RETURN true;
           END $$;
         CREATE DOMAIN checked AS int CHECK (checks(VALUE))",
    );
    let mut sessions = ["ana", "ben", "boss"].map(|role| connect(&cluster, role));
    // A portal that was opened in time is no way around it.
    let mut holder = connect(&cluster, "ana");
    let mut open = holder.transaction().expect("a transaction");
    let portal = open.bind("SELECT generate_series(1, 9)", &[]).expect("a portal");
    assert_eq!(open.query_portal(&portal, 1).map(|rows| rows.len()).ok(), Some(1));
    for c in &mut sessions {
        c.exec("SELECT pg_sleep(0.4)");
    }
    let [ana, ben, boss] = &mut sessions;
    let mut refused = None;
    wait_until("ana is refused", || {
        refused = ana.simple_query("SELECT 1").err();
        refused.is_some()
    });
    let error = refused.as_ref().and_then(|e| e.as_db_error()).expect("an error of the server");
    assert_eq!(
        (error.code().code(), error.message()),
        ("53400", "your budget is passed, and new statements are refused")
    );
    assert!(error.detail().is_some_and(|d| d.ends_with("of 0:00:00 of query time are used in this day.")), "{error:?}");
    assert!(error.hint().is_some_and(|h| h.contains("wh.set_budget")), "{error:?}");
    let code = open.query_portal(&portal, 1).err().and_then(|e| e.code().map(|c| c.code().to_owned()));
    assert_eq!(code.as_deref(), Some("53400"), "the portal");
    drop(open);
    // Nor is who catches the refusal, where no statement is around it: an element of an array is checked while it is analysed.
    let mut loot = Vec::new();
    for _ in 0..2 {
        loot.push(ana.simple_query("SELECT '{1}'::checked[]").is_ok());
    }
    assert_eq!(admin.value("SELECT last_value FROM looted"), "1", "{loot:?}");
    for statement in [
        "SELECT 1",
        "INSERT INTO t VALUES (1)",
        "CREATE TABLE t ()",
        "DO 'BEGIN END'",
        "COPY (SELECT 1) TO STDOUT",
        "EXPLAIN SELECT 1",
    ] {
        let code = ana.simple_query(statement).err().and_then(|e| e.code().map(|c| c.code().to_owned()));
        assert!(["53400", "42P01"].map(Some).contains(&code.as_deref()), "{statement}: {code:?}");
    }
    let code = ana.query("SELECT $1::int", &[&1]).err().and_then(|e| e.code().map(|c| c.code().to_owned()));
    assert_eq!(code.as_deref(), Some("53400"), "the extended protocol");
    // What ends something goes on.
    ana.exec("BEGIN");
    ana.error("SELECT 1");
    ana.exec("ROLLBACK; SET work_mem = '5MB'; RESET work_mem; DEALLOCATE ALL");
    ana.exec("DISCARD ALL");
    // A new session is refused as well, and refusals are counted as the errors that they are.
    assert_eq!(connect(&cluster, "ana").error("SELECT 1").code().code(), "53400");
    assert!(used(&mut admin, "ana").errors >= 9);
    // A soft one, superusers and wh_admin are told.
    for c in [ben, boss, &mut admin] {
        c.exec("SELECT 1");
    }
    let payloads = |admin: &mut Client| {
        use postgres::fallible_iterator::FallibleIterator;
        let mut found = Vec::new();
        let mut told = admin.notifications();
        let mut pending = told.iter();
        while let Ok(Some(n)) = pending.next() {
            found.push(n.payload().to_owned());
        }
        found
    };
    let mut told: Vec<String> = Vec::new();
    wait_until("ana, ben and boss are told of", || {
        admin.exec("SELECT 1");
        told.extend(payloads(&mut admin));
        ["ana", "ben", "boss"].iter().all(|r| told.iter().any(|t| t.contains(&format!("\"role\":\"{r}\""))))
    });
    let of_ana: Vec<&String> = told.iter().filter(|t| t.contains("\"role\":\"ana\"")).collect();
    assert_eq!(of_ana.len(), 1, "{told:?}");
    assert!(of_ana[0].contains("\"refused\":true"), "{told:?}");
    assert!(told.iter().any(|t| t.contains("\"role\":\"boss\"") && t.contains("\"refused\":false")), "{told:?}");
    assert_eq!(
        admin.table("SELECT role, passed FROM wh.budgets WHERE role <> 'postgres' ORDER BY 1"),
        "ana|t\nben|t\nboss|t"
    );
    admin.exec("SELECT wh.set_budget('ana', '1 hour', enforce => true)");
    wait_until("ana may again", || ana.simple_query("SELECT 1").is_ok());
}

#[test]
fn who_is_refused_sees_why_and_nothing_else_runs_by_that_door() {
    let cluster = server("usage_refused", "startup_wh", &[("startup_wh.usage_interval", "1s")]);
    let mut admin = connect(&cluster, "postgres");
    admin.exec("CREATE SCHEMA ana AUTHORIZATION ana; SELECT wh.snapshot_usage()");
    let mut ana = connect(&cluster, "ana");
    ana.exec(
        "CREATE FUNCTION ana.work(a text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'ran'; END $$;
         CREATE FUNCTION ana.work() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM count(*) FROM pg_class; RAISE 'ran'; END $$;
         CREATE VIEW ana.my_usage AS SELECT ana.work('x');
         CREATE VIEW ana.over AS SELECT * FROM wh.my_usage;
         CREATE TABLE ana.plain AS SELECT 1 AS n;
         CREATE TABLE ana.trapped AS SELECT 1 AS n;
         CREATE TRIGGER works BEFORE TRUNCATE ON ana.trapped EXECUTE FUNCTION ana.work();
         SELECT ana.work('warm') WHERE false",
    );
    admin.exec("SELECT wh.set_budget('ana', '0', enforce => true)");
    wait_until("ana is refused", || ana.simple_query("SELECT 1").is_err());
    assert_eq!(ana.table("SELECT role, budget_passed, budget_enforced FROM wh.my_usage"), "ana|t|t");
    assert_eq!(ana.rows("TABLE wh.budgets").len(), 1);
    ana.exec("SELECT * FROM wh.my_relations");
    let found = ana.query("SELECT role FROM wh.my_usage", &[]).expect("the extended protocol");
    assert_eq!(found.len(), 1);
    for statement in [
        "SELECT ana.work(role::text) FROM wh.my_usage",
        "SELECT role FROM wh.my_usage WHERE ana.work(role::text) IS NULL",
        "SELECT role FROM wh.my_usage ORDER BY ana.work(role::text)",
        "SELECT role FROM wh.my_usage GROUP BY role HAVING ana.work('x') IS NULL",
        "SELECT role FROM wh.my_usage LIMIT length(ana.work('x'))",
        "SELECT a.role FROM wh.my_usage a, wh.my_usage b",
        "SELECT role FROM wh.my_usage UNION ALL SELECT role FROM wh.my_usage",
        "SELECT role FROM (SELECT role, ana.work('x') FROM wh.my_usage) m",
        "SELECT role FROM (SELECT * FROM wh.my_usage OFFSET 0) m",
        "SELECT (SELECT ana.work('x')) FROM wh.my_usage",
        "WITH w AS (SELECT ana.work('x')) SELECT role FROM wh.my_usage, w",
        "SELECT * FROM ana.my_usage",
        "SELECT * FROM ana.over",
        "SELECT * FROM wh.user_query_time",
        "EXPLAIN ANALYZE SELECT * FROM wh.my_usage",
        // A table that may be emptied, and a trigger that would run.
        "TRUNCATE ana.trapped",
    ] {
        assert_eq!(ana.error(statement).code().code(), "53400", "{statement}");
    }
    ana.exec("TRUNCATE ana.plain");
    admin.exec("SELECT wh.set_budget('ana')");
    wait_until("ana may again", || ana.simple_query("SELECT 1").is_ok());
    assert_eq!(ana.error("TRUNCATE ana.trapped").code().code(), "P0001");
}

#[test]
fn a_budget_of_bytes_is_that_of_the_schemas_that_a_role_owns() {
    let cluster = server("usage_bytes", "startup_wh", &[("startup_wh.usage_interval", "1s")]);
    let mut admin = connect(&cluster, "postgres");
    admin.exec("CREATE SCHEMA ana AUTHORIZATION ana; CREATE SCHEMA ben AUTHORIZATION ben");
    for role in ["ana", "ben"] {
        connect(&cluster, role).exec(&format!("CREATE TABLE {role}.t AS SELECT generate_series(1, 50000) AS n"));
    }
    admin.exec("SELECT wh.snapshot_usage(); SELECT wh.set_budget('ana', bytes => 1000000, enforce => true); SELECT wh.set_budget('ben', bytes => 100000000, enforce => true)");
    let mut ana = connect(&cluster, "ana");
    wait_until("ana is refused", || ana.simple_query("SELECT 1").is_err());
    let error = ana.error("SELECT 1");
    assert_eq!(error.code().code(), "53400");
    assert!(error.detail().is_some_and(|d| d.ends_with("of 1000000 bytes are used.")), "{error:?}");
    connect(&cluster, "ben").exec("SELECT 1");
    assert_eq!(
        admin.table("SELECT role, used_bytes >= pg_relation_size(role || '.t'), passed FROM wh.budgets ORDER BY role"),
        "ana|t|t\nben|t|f"
    );
    // She can get below it by herself.
    ana.exec("TRUNCATE ana.t");
    ana.exec("DROP TABLE ana.t");
    admin.exec("SELECT wh.snapshot_usage()");
    wait_until("ana may again", || ana.simple_query("SELECT 1").is_ok());
}

#[test]
fn without_preloading_the_views_are_there_and_say_how_to_turn_it_on() {
    let cluster = Cluster::start("usage_off").expect("a server");
    let mut c = cluster.connect("postgres").expect("a session");
    c.exec("CREATE EXTENSION startup_wh");
    assert_eq!(c.value("SELECT count(*) FROM wh.user_query_time"), "0");
    assert_eq!(c.value("SELECT count(*) FROM wh.my_queries"), "0");
    assert_eq!(c.value("SELECT count(*) FROM wh.user_query_time_history"), "0");
    c.exec("SELECT wh.set_budget('postgres', '1 hour'); SELECT * FROM wh.budgets; SELECT wh.reset_usage()");
    let out = cluster.psql("postgres", "SELECT * FROM wh.user_query_time; SELECT * FROM wh.my_queries").expect("psql");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    for words in [
        "NOTICE:  query time is not counted on this server",
        "HINT:  Add startup_wh to shared_preload_libraries in postgresql.conf, and restart the server.",
        "HINT:  Add pg_stat_statements to shared_preload_libraries, restart the server, and CREATE EXTENSION pg_stat_statements",
    ] {
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn whose_budget_is_passed_is_heard_by_nobody_who_may_not_see_it() {
    use postgres::fallible_iterator::FallibleIterator;
    let cluster = server(
        "usage_unheard",
        "startup_wh",
        &[("startup_wh.usage_interval", "1s"), ("startup_wh.usage_visibility", "own")],
    );
    let mut admin = connect(&cluster, "postgres");
    admin.exec("SELECT wh.set_budget('ben', '300 ms')");
    let (mut ana, mut ben) = (connect(&cluster, "ana"), connect(&cluster, "ben"));
    ana.exec("LISTEN wh_budgets");
    ben.exec("SELECT pg_sleep(0.4)");
    let heard = ana
        .notifications()
        .timeout_iter(std::time::Duration::from_secs(30))
        .next()
        .expect("a connection")
        .expect("a notification");
    assert_eq!(heard.payload(), "{\"budget_of\":\"query_time\",\"per\":\"day\",\"refused\":false}");
    assert_eq!(ana.value("SELECT count(*) FROM wh.budgets WHERE passed"), "0");
    assert_eq!(ben.value("SELECT role FROM wh.budgets WHERE passed"), "ben");
}
