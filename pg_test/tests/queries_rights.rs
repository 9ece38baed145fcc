//! Who may see, run and read what of saved queries, as malicious analysts over connections of their own.

use pg_test::{Client, ClientExt, Warehouse};

struct Place {
    w: Warehouse,
    c: Client,
    ana: Client,
    ben: Client,
    /// The name of a third analyst, of this test's own.
    cid: String,
    third: Client,
}

/// A table of which ana may read all, ben all but one column, and cid one column; and schemas of theirs.
fn place(name: &str) -> Place {
    let w = Warehouse::new(name);
    let mut c = w.client();
    let cid = w.role("cid");
    c.exec(&format!(
        "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO ana, ben, {cid};
         CREATE TABLE app.users (id int, email text, secret text);
         INSERT INTO app.users SELECT n, 'u' || n || '@example.org', 'hidden' || n FROM generate_series(1, 5) n;
         GRANT SELECT ON app.users TO ana; GRANT SELECT (id, email) ON app.users TO ben; GRANT SELECT (id) ON app.users TO {cid};
         GRANT USAGE ON SCHEMA ana TO PUBLIC"
    ));
    let (ana, ben, third) = (w.as_role("ana"), w.as_role("ben"), w.as_role(&cid));
    Place { w, c, ana, ben, cid, third }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.c.exec(&format!("DROP OWNED BY {}", self.cid));
        }
    }
}

fn save(c: &mut Client, slug: &str, sql: &str) {
    c.exec(&format!("SELECT wh.save_query('{slug}', $q${sql}$q$)"));
}

fn run(c: &mut Client, slug: &str) -> String {
    c.value(&format!("SELECT result FROM wh.run_query('{slug}')"))
}

/// The SQLSTATE with which a statement is refused, and its message.
fn refused(c: &mut Client, statement: &str) -> (String, String) {
    let e = c.error(statement);
    (e.code().code().to_owned(), e.message().to_owned())
}

/// Every way to a stored result is closed with this SQLSTATE, and it is listed nowhere.
#[track_caller]
fn closed(c: &mut Client, id: &str, code: &str) {
    for statement in [
        format!("SELECT * FROM wh.result({id})"),
        format!("SELECT * FROM wh.result_diff({id}, {id})"),
        format!("SELECT wh.link({id})"),
        format!("SELECT wh.check_result({id})"),
    ] {
        assert_eq!(refused(c, &statement).0, code, "{statement}");
    }
    assert_eq!(c.value(&format!("SELECT count(*) FROM wh.results WHERE id = {id}")), "0");
    assert_eq!(c.value(&format!("SELECT wh.may_read_result({id})")), "f");
}

fn stored(c: &mut Client, id: &str) -> String {
    c.table(&format!("SELECT r FROM wh.result({id}) r"))
}

#[test]
fn what_is_not_shared_is_not_there() {
    let mut p = place("unshared");
    save(&mut p.ana, "hers", "SELECT email FROM app.users");
    let id = run(&mut p.ana, "hers");
    assert_eq!(stored(&mut p.ana, &id).lines().count(), 5);
    assert_eq!(p.ben.table("TABLE wh.queries"), "");
    assert_eq!(p.ben.table("TABLE wh.result_usage"), "");
    for statement in [
        "SELECT wh.run_query('hers')",
        "SELECT * FROM wh.query_versions('hers')",
        "SELECT wh.link('hers')",
        "SELECT wh.share_query('hers', 'ben')",
        "SELECT wh.unshare_query('hers', 'ben')",
        "SELECT wh.drop_query('hers')",
        "SELECT wh.schedule_query('hers', '@daily')",
    ] {
        let expected = ("42704".to_owned(), "query \"hers\" does not exist".to_owned());
        assert_eq!(refused(&mut p.ben, statement), expected, "{statement}");
    }
    closed(&mut p.ben, &id, "42704");
    assert_eq!(refused(&mut p.ben, &format!("SELECT wh.expire_results({id})")).0, "42704");
    // Nor can it be told from one that was never there, but for its name, which is one for all.
    assert_eq!(refused(&mut p.ben, "SELECT wh.run_query('nothing')").0, "42704");
    assert_eq!(refused(&mut p.ben, "SELECT wh.save_query('hers', 'SELECT 1')").0, "42710");
    // The tables themselves.
    for table in ["saved_query", "query_version", "query_share", "result", "result_use"] {
        for statement in [format!("SELECT FROM wh.{table}"), format!("DELETE FROM wh.{table}")] {
            for role in [&mut p.ben, &mut p.ana] {
                assert_eq!(refused(role, &statement).0, "42501", "{statement}");
            }
        }
    }
    for forged in [
        "SELECT wh.result_access(1, 1, '')",
        "CREATE TABLE wh_results.data_99 ()",
        "SET ROLE wh_results",
        "CREATE VIEW wh_results.r99 AS SELECT 1",
    ] {
        assert_eq!(refused(&mut p.ana, forged).0, "42501", "{forged}");
    }
    // What a filter calls is called for no row that is not shown.
    p.ben.exec(
        "CREATE FUNCTION ben.leak(text) RETURNS bool LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE EXCEPTION 'leaked %', $1; END $$",
    );
    for statement in [
        "SELECT * FROM wh.queries WHERE ben.leak(sql)",
        "SELECT * FROM wh.results WHERE ben.leak(sql)",
        "SELECT * FROM wh.result_usage WHERE ben.leak(owner)",
    ] {
        assert_eq!(p.ben.table(statement), "", "{statement}");
    }
}

#[test]
fn a_result_is_for_those_who_could_read_all_that_it_was_computed_from() {
    let mut p = place("columns");
    p.ana.exec(
        "CREATE VIEW ana.v AS SELECT id, secret FROM app.users;
         CREATE VIEW ana.w AS SELECT id, length(secret) AS n FROM ana.v;
         CREATE FUNCTION ana.reads() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT max(secret) FROM app.users); END $$;
         CREATE FUNCTION ana.inlined() RETURNS text LANGUAGE sql STABLE AS 'SELECT max(secret) FROM app.users';
         CREATE FUNCTION ana.folded() RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT max(secret) FROM app.users';
         GRANT SELECT ON ana.v, ana.w TO PUBLIC",
    );
    // Each touches the hidden column, and none but the first shows it by name.
    for (slug, sql) in [
        ("direct", "SELECT secret FROM app.users"),
        ("whole", "SELECT u FROM app.users u"),
        ("star", "SELECT * FROM app.users"),
        ("hashed", "SELECT md5(secret) AS x FROM app.users"),
        ("filtered", "SELECT id FROM app.users WHERE secret = 'hidden3'"),
        ("sorted", "SELECT id FROM app.users ORDER BY secret DESC"),
        ("grouped", "SELECT count(*) FROM app.users GROUP BY secret"),
        ("view", "SELECT secret FROM ana.v"),
        ("views", "SELECT n FROM ana.w"),
        // A view needs all of its columns, whichever are asked of it.
        ("through", "SELECT id FROM ana.v"),
        ("cte", "WITH x AS MATERIALIZED (SELECT secret AS s FROM app.users) SELECT s FROM x"),
        ("sub", "SELECT (SELECT min(secret) FROM app.users)"),
        ("lateral", "SELECT l.x FROM app.users u, LATERAL (SELECT u.secret || '' AS x) l"),
        ("function", "SELECT ana.reads()"),
        ("inlined", "SELECT ana.inlined()"),
        ("folded", "SELECT ana.folded()"),
        ("xml", "SELECT query_to_xml('SELECT secret FROM app.users', true, true, '')"),
        ("setop", "SELECT email FROM app.users UNION ALL SELECT secret FROM app.users"),
        ("merged", "SELECT id FROM app.users a JOIN app.users b USING (id, secret)"),
    ] {
        save(&mut p.ana, slug, sql);
        p.ana.exec(&format!("SELECT wh.share_query('{slug}', 'ben'), wh.share_query('{slug}', '{}')", p.cid));
        let id = run(&mut p.ana, slug);
        assert!(!stored(&mut p.ana, &id).is_empty(), "{slug}");
        closed(&mut p.ben, &id, "42501");
        closed(&mut p.third, &id, "42501");
        let detail = p.ben.error(&format!("SELECT wh.result({id})")).detail().unwrap_or_default().to_owned();
        assert!(detail.contains("app.users.secret") && !detail.contains("hidden"), "{slug}: {detail}");
    }
    // What does not touch it is ben's to read, and not cid's; and the number of rows is everybody's who may count them.
    for (slug, sql, for_cid) in [
        ("fine", "SELECT id, email FROM app.users", false),
        ("counted", "SELECT count(*) FROM app.users", true),
        ("constant", "SELECT 1 AS one", true),
    ] {
        save(&mut p.ana, slug, sql);
        p.ana.exec(&format!("SELECT wh.share_query('{slug}', 'ben'), wh.share_query('{slug}', '{}')", p.cid));
        let id = run(&mut p.ana, slug);
        let hers = stored(&mut p.ana, &id);
        assert_eq!(stored(&mut p.ben, &id), hers, "{slug}");
        if for_cid {
            assert_eq!(stored(&mut p.third, &id), hers, "{slug}");
        } else {
            closed(&mut p.third, &id, "42501");
        }
    }
    p.ana.exec("DROP VIEW ana.w, ana.v");
}

#[test]
fn rights_that_change_later_count_at_once() {
    let mut p = place("later");
    p.c.exec("ALTER DATABASE later SET startup_wh.result_inline_size = 0");
    let (mut ana, mut ben) = (p.w.as_role("ana"), p.w.as_role("ben"));
    save(&mut ana, "q", "SELECT id, email FROM app.users");
    let id = run(&mut ana, "q");
    let table = format!("SELECT count(*) FROM wh_results.r{id}");
    assert_eq!(ana.value(&table), "5");
    assert_eq!(refused(&mut ben, &table), ("42704".into(), format!("result {id} does not exist")));
    ana.exec("SELECT wh.share_query('q', 'ben')");
    ben.exec(&format!("PREPARE again AS {table}"));
    assert_eq!(ben.value("EXECUTE again"), "5");
    for (taken, given) in [
        ("REVOKE SELECT (email) ON app.users FROM ben", "GRANT SELECT (email) ON app.users TO ben"),
        ("REVOKE USAGE ON SCHEMA app FROM ben", "GRANT USAGE ON SCHEMA app TO ben"),
        ("ALTER TABLE app.users ENABLE ROW LEVEL SECURITY", "ALTER TABLE app.users DISABLE ROW LEVEL SECURITY"),
    ] {
        p.c.exec(taken);
        assert_eq!(refused(&mut ben, "EXECUTE again").0, "42501", "{taken}");
        closed(&mut ben, &id, "42501");
        assert_eq!(ana.value(&table), "5", "a result stays its runner's");
        p.c.exec(given);
        assert_eq!(ben.value("EXECUTE again"), "5", "{given}");
    }
    // A column that is renamed is the same one; one that is made again under the name is not.
    p.c.exec("ALTER TABLE app.users RENAME email TO mail; ALTER TABLE app.users RENAME TO people");
    assert_eq!(ben.value("EXECUTE again"), "5");
    p.c.exec("ALTER TABLE app.people RENAME TO users; ALTER TABLE app.users DROP mail, ADD mail text; GRANT SELECT ON app.users TO ben");
    assert_eq!(refused(&mut ben, "EXECUTE again").0, "42501");
    ana.exec("SELECT wh.unshare_query('q', 'ben')");
    assert_eq!(refused(&mut ben, "EXECUTE again").0, "42704");
    ana.exec("SELECT wh.share_query('q', 'ben')");
    p.c.exec(
        "DROP TABLE app.users CASCADE; CREATE TABLE app.users (id int, email text); GRANT SELECT ON app.users TO ben",
    );
    assert_eq!(refused(&mut ben, "EXECUTE again").0, "42501");
    assert_eq!(ana.value(&table), "5");
    // As somebody else in one session, and inside a function of the runner's.
    p.c.exec("SET ROLE ben");
    assert_eq!(refused(&mut p.c, &table).0, "42501");
    p.c.exec("RESET ROLE");
}

#[test]
fn a_table_of_a_result_gives_nothing_away() {
    let mut p = place("tables");
    p.c.exec("ALTER DATABASE tables SET startup_wh.result_inline_size = 0");
    let (mut ana, mut ben) = (p.w.as_role("ana"), p.w.as_role("ben"));
    save(&mut ana, "q", "SELECT id, secret FROM app.users");
    ana.exec("SELECT wh.share_query('q', 'ben')");
    let id = run(&mut ana, "q");
    // Statistics would be in its plans.
    p.c.exec("ANALYZE");
    assert_eq!(p.c.value("SELECT count(*) FROM pg_stats WHERE schemaname = 'wh_results'"), "0");
    ben.exec(
        "CREATE FUNCTION ben.leak(text) RETURNS bool LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE EXCEPTION 'leaked %', $1; END $$",
    );
    for statement in [
        format!("SELECT * FROM wh_results.data_{id}"),
        format!("SELECT * FROM wh_results.r{id}"),
        format!("SELECT * FROM wh_results.r{id} WHERE ben.leak(secret)"),
        format!("SELECT * FROM wh_results.r{id} WHERE secret = 'hidden1'"),
        format!("SELECT x FROM wh_results.r{id} x WHERE 1 / (id - 1) = 1"),
        format!("CREATE TABLE ben.copied AS SELECT * FROM wh_results.r{id}"),
        format!("EXPLAIN ANALYZE SELECT * FROM wh_results.r{id}"),
        format!("DELETE FROM wh_results.r{id}"),
        format!("INSERT INTO wh_results.r{id} VALUES (1, 'x')"),
        format!("DROP VIEW wh_results.r{id}"),
        format!("ANALYZE wh_results.data_{id}; SELECT * FROM wh_results.data_{id}"),
    ] {
        assert_eq!(refused(&mut ben, &statement).0, "42501", "{statement}");
    }
    // A view of hers on it lends nothing: it is asked who reads.
    ana.exec(&format!("CREATE VIEW ana.mine AS SELECT * FROM wh_results.r{id}; GRANT SELECT ON ana.mine TO ben"));
    assert_eq!(refused(&mut ben, "SELECT * FROM ana.mine").0, "42501");
    assert_eq!(ana.value("SELECT count(*) FROM ana.mine"), "5");
    // Not even the runner changes it.
    for statement in [
        format!("UPDATE wh_results.r{id} SET secret = ''"),
        format!("DELETE FROM wh_results.r{id}"),
        format!("TRUNCATE wh_results.data_{id}"),
        format!("ALTER TABLE wh_results.data_{id} ADD x int"),
        format!("CREATE TRIGGER t INSTEAD OF UPDATE ON wh_results.r{id} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"),
    ] {
        assert_eq!(refused(&mut ana, &statement).0, "42501", "{statement}");
    }
    ana.exec("DROP VIEW ana.mine");
}

#[test]
fn parallel_workers_ask_as_well() {
    let mut p = place("parallel");
    p.c.exec("ALTER DATABASE parallel SET startup_wh.result_inline_size = 0");
    let (mut ana, mut ben) = (p.w.as_role("ana"), p.w.as_role("ben"));
    save(
        &mut ana,
        "q",
        "SELECT n, repeat('x', 50) AS x FROM generate_series(1, 50000) n, (SELECT count(secret) FROM app.users) s",
    );
    ana.exec("SELECT wh.share_query('q', 'ben')");
    let id = run(&mut ana, "q");
    let parallel = "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2";
    ana.exec(&format!("{parallel}; SET parallel_leader_participation = off"));
    let sum = format!("SELECT sum(n) FROM wh_results.r{id}");
    assert!(ana.table(&format!("EXPLAIN {sum}")).contains("Gather"), "{}", ana.table(&format!("EXPLAIN {sum}")));
    // Also where the transaction has written, and whoever the session was.
    ana.exec("BEGIN; CREATE TABLE ana.t ()");
    assert_eq!(ana.value(&sum), "1250025000");
    ana.exec("ROLLBACK");
    p.c.exec(&format!("{parallel}; SET ROLE ana"));
    assert_eq!(p.c.value(&sum), "1250025000");
    p.c.exec("RESET ROLE");
    ben.exec(&format!("{parallel}; SET parallel_leader_participation = off"));
    assert_eq!(refused(&mut ben, &sum), ("42501".into(), format!("permission denied for result {id}")));
}

#[test]
fn a_query_runs_as_its_caller_and_changes_nothing() {
    let mut p = place("caller");
    p.ana.exec(
        "CREATE TABLE ana.t (a int); CREATE SEQUENCE ana.s;
         CREATE FUNCTION ana.does(what text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE what; RETURN current_user; END $$",
    );
    for (what, code) in [
        ("INSERT INTO ana.t VALUES (1)", "25006"),
        ("CREATE TABLE ana.x ()", "25006"),
        ("GRANT SELECT ON ana.t TO PUBLIC", "25006"),
        ("SELECT nextval('ana.s')", "25006"),
        ("SELECT wh.save_query('more', 'SELECT 1')", "25006"),
        ("SELECT wh.schedule('more', '@daily', 'SELECT 1')", "25006"),
        ("SET transaction_read_only = off", "25001"),
        ("SET LOCAL transaction_read_only = off; INSERT INTO ana.t VALUES (1)", "25001"),
        ("SET ROLE ana", "42501"),
        ("RESET ROLE", "42501"),
        ("SET SESSION AUTHORIZATION DEFAULT", "42501"),
        ("RESET SESSION AUTHORIZATION", "42501"),
        ("CREATE TEMP TABLE x ()", "25006"),
        ("SELECT wh.run_query('another')", "42501"),
        ("COMMIT", "0A000"),
    ] {
        save(&mut p.ana, "does", &format!("SELECT ana.does('{}')", what.replace('\'', "''")));
        let got = refused(&mut p.ana, "SELECT wh.run_query('does')");
        assert_eq!(got.0, code, "{what}: {}", got.1);
    }
    // What is left of the session is as it was, and the run is no way around READ ONLY of the caller's.
    save(
        &mut p.ana,
        "path",
        "SELECT set_config('search_path', 'evil', false) AS p, set_config('work_mem', '1MB', false), pg_advisory_xact_lock(1)::text, ana.does('NOTIFY x')",
    );
    p.ana.exec("SET search_path = ana; SET work_mem = '5MB'; BEGIN");
    run(&mut p.ana, "path");
    assert_eq!(
        p.ana.table("SELECT current_setting('search_path'), current_setting('work_mem'), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')"),
        "ana|5MB|0"
    );
    p.ana.exec("COMMIT");
    p.ana.exec("BEGIN READ ONLY");
    assert_eq!(
        refused(&mut p.ana, "SELECT wh.run_query('path')"),
        ("25006".into(), "cannot execute wh.run_query() in a read-only transaction".into())
    );
    p.ana.exec("ROLLBACK; CREATE TABLE ana.after (); DROP TABLE ana.after");
    // Where it is called from somebody's view while that is refreshed, nobody knows who calls.
    save(&mut p.ana, "one", "SELECT 1");
    p.ana.exec("CREATE MATERIALIZED VIEW ana.m AS SELECT result FROM wh.run_query('one') WITH NO DATA");
    assert_eq!(refused(&mut p.c, "REFRESH MATERIALIZED VIEW ana.m").0, "42501");
    p.ana.exec("DROP MATERIALIZED VIEW ana.m; DROP SEQUENCE ana.s; DROP TABLE ana.t; DROP FUNCTION ana.does");
}

#[test]
fn somebody_elses_query_runs_nobodys_code_with_ones_rights() {
    let mut p = place("trojan");
    p.c.exec("CREATE TABLE public.trap (who name, session name); GRANT INSERT, SELECT ON public.trap TO PUBLIC");
    p.ben.exec("CREATE TABLE ben.diary AS SELECT 'dear diary' AS line");
    p.ana.exec(
        "CREATE FUNCTION ana.spring() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'sprung as %', current_user; RETURN (SELECT line FROM ben.diary); END $$;
         CREATE FUNCTION ana.eq(text, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM ana.spring(); RETURN true; END $$;
         CREATE OPERATOR ana.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = ana.eq);
         CREATE FUNCTION ana.step(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN ana.spring(); END $$;
         CREATE AGGREGATE ana.agg(text) (SFUNC = ana.step, STYPE = text);
         CREATE FUNCTION ana.rows() RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN NEXT ana.spring(); END $$;
         CREATE DOMAIN ana.d AS text CHECK (ana.spring() IS NOT NULL);
         CREATE TYPE ana.c AS (x text); CREATE FUNCTION ana.to_c(text) RETURNS ana.c LANGUAGE plpgsql AS $$ BEGIN PERFORM ana.spring(); RETURN ROW('x'); END $$;
         CREATE CAST (text AS ana.c) WITH FUNCTION ana.to_c(text);
         CREATE FUNCTION ana.folded() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN ana.spring(); END $$;
         CREATE FUNCTION ana.inlined() RETURNS text LANGUAGE sql AS 'SELECT ana.spring()';
         CREATE VIEW ana.v AS SELECT ana.spring() AS x; GRANT SELECT ON ana.v TO PUBLIC;
         CREATE FUNCTION ana.lower(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN ana.spring(); END $$;
         SET search_path = ana, pg_catalog",
    );
    let traps = [
        ("call", "SELECT ana.spring()"),
        ("operator", "SELECT 'a' OPERATOR(ana.===) 'b'"),
        ("aggregate", "SELECT ana.agg('x')"),
        ("window", "SELECT ana.agg('x') OVER ()"),
        ("set", "SELECT * FROM ana.rows()"),
        ("list", "SELECT ana.rows()"),
        ("domain", "SELECT (pg_catalog.now()::text)::ana.d"),
        ("cast", "SELECT pg_catalog.now()::text::ana.c"),
        ("folded", "SELECT ana.folded()"),
        ("inlined", "SELECT ana.inlined()"),
        ("view", "SELECT x FROM ana.v"),
        ("path", "SELECT lower('X')"),
        ("where", "SELECT 1 WHERE ana.spring() IS NULL"),
        ("order", "SELECT 1 ORDER BY ana.spring()"),
        ("limit", "SELECT 1 LIMIT length(ana.spring())"),
    ];
    for (slug, sql) in traps {
        save(&mut p.ana, slug, sql);
        p.ana.exec(&format!("SELECT wh.share_query('{slug}', 'wh_analyst')"));
        let (code, message) = refused(&mut p.ben, &format!("SELECT wh.run_query('{slug}')"));
        assert!(
            code == "42501"
                && message.starts_with("function ana.")
                && message.ends_with("of \"ana\" would run with your rights"),
            "{slug}: {code} {message}"
        );
    }
    // They are traps: had he saved one himself, it would run as he.
    save(&mut p.ben, "own", "SELECT ana.spring()");
    assert_eq!(stored_value(&mut p.ben, "own"), "{\"spring\": \"dear diary\"}");
    // A superuser runs none of it, whatever is in it; nor in the name of somebody else.
    for slug in ["call", "one"] {
        save(&mut p.ana, "one", "SELECT 1");
        let (code, message) = refused(&mut p.c, &format!("SELECT wh.run_query('{slug}')"));
        assert_eq!(code, "42501");
        assert!(message.contains("was not saved by a superuser"), "{message}");
    }
    // Nor does what runs as its own maker harm anybody: it is she.
    p.ana.exec("CREATE FUNCTION ana.hers() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN current_user; END $$");
    save(&mut p.ana, "hers", "SELECT ana.hers()");
    p.ana.exec("SELECT wh.share_query('hers', 'ben')");
    assert_eq!(stored_value(&mut p.ben, "hers"), "{\"hers\": \"ana\"}");
}

fn stored_value(c: &mut Client, slug: &str) -> String {
    let id = run(c, slug);
    stored(c, &id)
}

#[test]
fn nobody_forges_a_result_or_a_version() {
    let mut p = place("forged");
    save(&mut p.ana, "q", "SELECT count(*) AS n FROM app.users");
    p.ana.exec("SELECT wh.share_query('q', 'ben')");
    let hers = run(&mut p.ana, "q");
    let his = run(&mut p.ben, "q");
    assert_eq!(
        p.ana.table("SELECT id, runner, login, version FROM wh.results ORDER BY id"),
        format!("{hers}|ana|ana|1")
    );
    assert_eq!(
        p.ben.table("SELECT id, runner, login, version FROM wh.results ORDER BY id"),
        format!("{hers}|ana|ana|1\n{his}|ben|ben|1")
    );
    // A run of somebody else's is theirs alone, also for whoever owns the query and for whom it is shared with.
    closed(&mut p.ana, &his, "42704");
    p.ana.exec(&format!("SELECT wh.share_query('q', '{}')", p.cid));
    closed(&mut p.third, &his, "42704");
    // What is shared is not theirs to change.
    for statement in
        ["SELECT wh.share_query('q', 'ben')", "SELECT wh.unshare_query('q', 'ben')", "SELECT wh.drop_query('q')"]
    {
        assert_eq!(
            refused(&mut p.ben, statement),
            ("42501".into(), "permission denied for query \"q\"".into()),
            "{statement}"
        );
    }
    assert_eq!(refused(&mut p.ben, "SELECT wh.save_query('q', 'SELECT 0 AS n')").0, "42710");
    assert_eq!(refused(&mut p.ben, &format!("SELECT wh.expire_results({hers})")).0, "42501");
    // A session that became somebody says so.
    p.c.exec("SET ROLE ana");
    let as_ana = run(&mut p.c, "q");
    p.c.exec("RESET ROLE");
    assert_eq!(p.ana.table(&format!("SELECT runner, login FROM wh.results WHERE id = {as_ana}")), "ana|postgres");
    // A function that runs as its maker runs queries as its maker.
    p.ana.exec("CREATE FUNCTION ana.door() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$ SELECT result FROM wh.run_query('q') $$; GRANT EXECUTE ON FUNCTION ana.door() TO ben");
    let through = p.ben.value("SELECT ana.door()");
    assert_eq!(p.ana.table(&format!("SELECT runner, login FROM wh.results WHERE id = {through}")), "ana|ben");
    // A wh_admin may save over it; who wrote it is told, and it does not run as if she had.
    let mut deploy = p.w.as_role("deploy");
    p.c.exec("GRANT USAGE ON SCHEMA app TO deploy; GRANT SELECT ON app.users TO deploy; CREATE SCHEMA deploys AUTHORIZATION deploy");
    deploy.exec("CREATE FUNCTION deploys.f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN current_user; END $$; GRANT USAGE ON SCHEMA deploys TO PUBLIC");
    assert_eq!(deploy.table("TABLE wh.queries"), "");
    assert_eq!(deploy.value("SELECT wh.save_query('q', 'SELECT deploys.f()')"), "2");
    assert_eq!(
        p.ana.table("SELECT version, author, changes FROM wh.query_versions('q')"),
        "2|deploy|-SELECT count(*) AS n FROM app.users\n+SELECT deploys.f()\n1|ana|"
    );
    assert_eq!(
        refused(&mut p.ana, "SELECT wh.run_query('q')").1,
        "function deploys.f() of \"deploy\" would run with your rights"
    );
    deploy.exec("SELECT wh.drop_query('q')");
    // Results stay for whoever ran it, and for nobody else; a query of the same name is another one.
    assert_eq!(p.ana.table(&format!("SELECT r FROM wh.result({hers}) r")), "{\"n\": 5}");
    save(&mut p.ben, "q", "SELECT 1 AS n");
    p.ben.exec("SELECT wh.share_query('q', 'ana')");
    closed(&mut p.ben, &hers, "42704");
    p.c.exec("DROP SCHEMA deploys CASCADE");
}
