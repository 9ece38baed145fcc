//! What blocks a change, and what DROP … CASCADE would take with it, is never lost: it is left where it was, and
//! either the view below it keeps its types or the run is refused with the name of what is in the way.

use pg_test::client::Change;
use pg_test::{ClientExt, Pair};
use postgres::Client;

fn fixture(name: &str) -> Pair {
    let pair = Pair::new(name);
    pair.product().exec(
        "CREATE TABLE users (id int PRIMARY KEY, email text, spare int);
         INSERT INTO users SELECT g, 'u' || g, g FROM generate_series(1, 9) g",
    );
    pair.create_fdw();
    pair.warehouse().exec(include_str!("not_carried/blockers.sql"));
    pair
}

fn with(done: &[Change], action: &str) -> Vec<String> {
    done.iter().filter(|c| c.action == action).map(|c| c.object.clone()).collect()
}

/// Everything of the analyst's with its number, text and rows.
fn state(client: &mut Client) -> String {
    client.table("SELECT oid, relname, relfilenode FROM pg_class WHERE relnamespace = 'ana'::regnamespace ORDER BY oid")
        + &client.table("SELECT oid::regprocedure, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'ana'::regnamespace ORDER BY oid")
        + &client.table("SELECT oid, pg_get_expr(polqual, polrelid) FROM pg_policy ORDER BY oid")
        + &client.table("SELECT * FROM ana.box")
        + &client.table("SELECT ana.greet(p) FROM ana.people p ORDER BY 1")
        + &client.table("SELECT * FROM ana.everybody() ORDER BY 1")
        + &client.table("SET ROLE ana; SELECT * FROM ana.guarded; RESET ROLE; SELECT count(*) FROM ana.guarded")
}

/// All that a refused run must leave as it was.
fn everything(client: &mut Client) -> String {
    client.table("SELECT oid, xmin FROM pg_class ORDER BY oid")
        + &client.table("SELECT * FROM pg_attribute ORDER BY attrelid, attnum")
}

#[track_caller]
fn assert_refused(pair: &Pair, arguments: &str, named: &[&str]) {
    let mut warehouse = pair.warehouse();
    let before = everything(&mut warehouse);
    let mut deploy = pair.warehouse_as("deploy");
    let error = deploy.error(&format!("SELECT * FROM wh.recreate_fdw('app'{arguments})"));
    assert_eq!(error.code().code(), "2BP01", "{error:?}");
    let said = format!("{} {}", error.message(), error.detail().unwrap_or_default());
    for name in named {
        assert!(said.contains(name), "{name} in {error:?}");
    }
    assert!(error.hint().unwrap_or_default().starts_with("Nothing was changed."), "{error:?}");
    assert_eq!(everything(&mut warehouse), before);
    if arguments.is_empty() {
        let plan = deploy.changes("SELECT * FROM wh.plan_recreate_fdw('app')");
        assert_eq!(with(&plan, "refused").len(), 1, "{plan:?}");
    }
}

#[test]
fn users_of_a_row_type_do_not_notice_changes_in_place() {
    let pair = fixture("in_place");
    let mut warehouse = pair.warehouse();
    let before = state(&mut warehouse);
    pair.product().exec(
        "ALTER TABLE users RENAME email TO mail; ALTER TABLE users ADD phone text; ALTER TABLE users ALTER spare TYPE bigint;
         ALTER TABLE users RENAME TO people",
    );
    pair.recreate_fdw();
    pair.product().exec("ALTER TABLE people DROP spare");
    pair.recreate_fdw();
    assert_eq!(state(&mut warehouse), before);
    let done = pair.warehouse_as("deploy").changes("SELECT * FROM wh.recreate_fdw('app', rebuild => true)");
    assert_eq!(with(&done, "rebuilt"), ["app.people"]);
    assert_eq!(state(&mut warehouse), before);
}

#[test]
fn a_view_whose_row_type_is_in_use_keeps_its_types() {
    let pair = fixture("row_type");
    let mut warehouse = pair.warehouse();
    let before = state(&mut warehouse);
    pair.product().exec("ALTER TABLE users ALTER id TYPE bigint");
    let done = pair.recreate_fdw();
    assert_eq!(with(&done, "pinned"), ["ana.people", "ana.boxed", "ana.allowed"], "{done:?}");
    for (view, object) in [("people", "greet"), ("boxed", "box"), ("allowed", "by_view")] {
        let detail = &done.iter().find(|c| c.object == format!("ana.{view}")).expect("a row").detail;
        assert!(
            detail.contains("could not be made again") && detail.contains("\"id\" is bigint now"),
            "{object} in {detail}"
        );
    }
    assert_eq!(state(&mut warehouse), before);
    assert_eq!(pair.recreate_fdw(), []);
}

#[test]
fn a_broken_view_keeps_the_tables_that_have_its_rows() {
    let pair = fixture("broken_rows");
    let mut warehouse = pair.warehouse();
    let rows = "SELECT * FROM ana.box";
    let before = state(&mut warehouse);
    let kept = warehouse.table(rows);
    pair.product().exec("ALTER TABLE users DROP email");
    let done = pair.recreate_fdw();
    assert_eq!(with(&done, "broken"), ["ana.people", "ana.boxed"], "{done:?}");
    assert_eq!(warehouse.table(rows), kept);
    let error = warehouse.error("SELECT ana.greet(p) FROM ana.people p");
    assert!(error.message().contains("ana.people is broken"), "{error:?}");
    pair.product().exec("ALTER TABLE users ADD email text; UPDATE users SET email = 'u' || id");
    assert_eq!(with(&pair.recreate_fdw(), "healed").len(), 2);
    assert_eq!(state(&mut warehouse), before);
}

#[test]
fn a_table_column_of_the_tables_row_type_is_named() {
    let pair = fixture("table_rows");
    pair.warehouse().exec("CREATE TABLE ana.snapshots (taken date, who app.users, more app.users[]); INSERT INTO ana.snapshots (who) SELECT u FROM app.users u");
    assert_refused(&pair, ", rebuild => true", &["app.users", "snapshots"]);
    pair.product().exec("ALTER TABLE users ALTER spare TYPE bigint");
    assert_refused(&pair, "", &["app.users", "snapshots"]);
    pair.product().exec("DROP TABLE users");
    assert_refused(&pair, "", &["app.users", "snapshots"]);
    assert_eq!(pair.warehouse().value("SELECT count((who).id) FROM ana.snapshots"), "9");
}

#[test]
fn a_function_over_the_tables_rows_is_named_when_they_go() {
    let pair = fixture("table_function");
    let mut warehouse = pair.warehouse();
    warehouse.exec("CREATE FUNCTION ana.mail(u app.users) RETURNS text LANGUAGE sql AS 'SELECT u.email'");
    pair.product().exec("ALTER TABLE users ALTER spare TYPE bigint, ADD more int");
    pair.recreate_fdw();
    assert_eq!(warehouse.value("SELECT max(ana.mail(u)) FROM app.users u"), "u9");
    assert_refused(&pair, ", rebuild => true", &["app.users", "ana.mail"]);
    pair.product().exec("DROP TABLE users");
    assert_refused(&pair, "", &["app.users", "ana.mail"]);
}

#[test]
fn a_rule_or_function_that_does_not_stand_is_named() {
    let pair = fixture("texts");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE TABLE ana.log (n bigint);
         CREATE RULE reading AS ON INSERT TO ana.log DO ALSO SELECT count(spare) FROM app.users",
    );
    pair.product().exec("ALTER TABLE users DROP spare");
    assert_refused(&pair, "", &["reading", "spare"]);
    warehouse.exec(
        "DROP RULE reading ON ana.log;
         CREATE FUNCTION ana.spares() RETURNS bigint BEGIN ATOMIC SELECT sum(u.spare) FROM app.users u; END",
    );
    assert_refused(&pair, "", &["ana.spares()", "spare"]);
    warehouse.exec("DROP FUNCTION ana.spares()");
    assert_eq!(with(&pair.recreate_fdw(), "dropped"), ["app.users.spare"]);
}

#[test]
fn an_extensions_view_stays_the_extensions() {
    let pair = fixture("member");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE EXTENSION citext; CREATE VIEW ana.member AS SELECT id FROM app.users;
         CREATE MATERIALIZED VIEW ana.member_too AS SELECT id, email FROM app.users;
         ALTER EXTENSION citext ADD VIEW ana.member; ALTER EXTENSION citext ADD MATERIALIZED VIEW ana.member_too",
    );
    let members = "SELECT objid, deptype FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND objid IN ('ana.member'::regclass, 'ana.member_too'::regclass) ORDER BY 1";
    let before = warehouse.table(members);
    assert_eq!(before.lines().count(), 2);
    pair.product().exec("ALTER TABLE users RENAME email TO mail; ALTER TABLE users ALTER id TYPE bigint");
    let done = pair.recreate_fdw();
    assert!(
        with(&done, "pinned").contains(&"ana.member".into())
            && with(&done, "pinned").contains(&"ana.member_too".into()),
        "{done:?}"
    );
    assert_eq!(warehouse.table(members), before);
    // A materialized view that breaks would have to become another relation.
    pair.product().exec("ALTER TABLE users DROP mail");
    assert_refused(&pair, "", &["ana.member_too", "extension \"citext\""]);
}

#[test]
fn another_sessions_temporary_view_keeps_its_place() {
    let pair = fixture("temporary");
    pair.product().exec("ALTER TABLE users ADD note text; UPDATE users SET note = 'n'");
    pair.recreate_fdw();
    let mut ben = pair.warehouse_as("ben");
    ben.exec("CREATE TEMP VIEW mine AS SELECT id, email FROM app.users; CREATE TEMP VIEW above AS SELECT max(id) FROM mine; CREATE TEMP VIEW noted AS SELECT note FROM app.users");
    let oids = ben.table("SELECT 'mine'::regclass::oid, 'above'::regclass::oid, 'noted'::regclass::oid");
    pair.product().exec("ALTER TABLE users ALTER id TYPE bigint, ALTER spare TYPE bigint; ALTER TABLE users RENAME email TO mail; ALTER TABLE users DROP note");
    let done = pair.recreate_fdw();
    assert!(with(&done, "pinned").iter().any(|o| o.ends_with(".mine")), "{done:?}");
    assert!(with(&done, "broken").iter().any(|o| o.ends_with(".noted")), "{done:?}");
    assert_eq!(ben.table("SELECT * FROM above"), "9");
    assert_eq!(ben.table("SELECT id, email FROM mine ORDER BY id LIMIT 1"), "1|u1");
    assert!(ben.error("SELECT * FROM noted").message().contains("is broken since run"));
    assert_eq!(ben.table("SELECT 'mine'::regclass::oid, 'above'::regclass::oid, 'noted'::regclass::oid"), oids);
    // It goes with its session, and then nothing waits for it.
    drop(ben);
    pg_test::wait_until("the session is gone", || {
        pair.warehouse().value("SELECT count(*) FROM pg_class WHERE relname = 'noted'") == "0"
    });
    assert_eq!(pair.recreate_fdw(), []);
    assert_eq!(pair.warehouse().value("SELECT count(*) FROM wh.broken_views"), "0");
}

#[test]
fn a_run_that_would_change_more_than_it_means_to_ends() {
    let pair = fixture("self_check");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE VIEW ana.inside AS SELECT count(id) FROM app.users; CREATE MATERIALIZED VIEW ana.outside AS SELECT id FROM app.users;
         COMMENT ON VIEW ana.inside IS 'mine'; COMMENT ON MATERIALIZED VIEW ana.outside IS 'mine'; COMMENT ON FOREIGN TABLE app.users IS 'mine';
         ALTER FOREIGN TABLE app.users OPTIONS (ADD fetch_size '5');
         CREATE FUNCTION public.meddle() RETURNS event_trigger LANGUAGE plpgsql AS $$
           DECLARE statement text := coalesce(current_setting('meddle.statement', true), '');
           BEGIN IF statement LIKE 'ALTER FOREIGN%' THEN PERFORM set_config('meddle.statement', '', true); END IF; EXECUTE statement; END $$;
         CREATE EVENT TRIGGER meddling ON ddl_command_end WHEN TAG IN ('ALTER FOREIGN TABLE', 'REFRESH MATERIALIZED VIEW') EXECUTE FUNCTION meddle()",
    );
    pair.product().exec("ALTER TABLE users ALTER id TYPE bigint");
    let mut deploy = pair.warehouse_as("deploy");
    for (statement, lost) in [
        ("ALTER FOREIGN TABLE app.users OPTIONS (SET fetch_size '6')", "fdw option fetch_size: 5 → 6"),
        (
            "ALTER FOREIGN TABLE app.users ALTER email OPTIONS (ADD column_name 'email')",
            "fdw option column_name of email: nothing → email",
        ),
        ("ALTER FOREIGN TABLE app.users ALTER spare TYPE text", "type of spare: integer → text"),
        ("COMMENT ON VIEW ana.inside IS NULL", "comment: mine → nothing"),
        ("GRANT SELECT ON ana.inside TO ben", "grant SELECT ben postgres: nothing → set"),
        ("REVOKE SELECT ON ana.inside FROM postgres", "grant SELECT postgres postgres: set → nothing"),
        ("ALTER VIEW ana.inside SET (security_barrier)", "option security_barrier: nothing → true"),
        ("COMMENT ON FOREIGN TABLE app.users IS 'yours'", "comment: mine → yours"),
        ("ALTER TABLE app.users OWNER TO ana", "owner: postgres → ana"),
        ("COMMENT ON COLUMN ana.outside.id IS 'yours'", "comment on id: nothing → yours"),
        ("ALTER MATERIALIZED VIEW ana.outside ALTER id SET STATISTICS 5", "statistics target of id: nothing → 5"),
    ] {
        warehouse.exec(&format!(
            "ALTER DATABASE {} SET meddle.statement = '{}'",
            pair.warehouse_database(),
            statement.replace('\'', "''")
        ));
        let before = everything(&mut warehouse);
        deploy = pair.warehouse_as("deploy");
        let error = deploy.error("SELECT * FROM wh.recreate_fdw('app')");
        assert_eq!(error.code().code(), "55000", "{statement}: {error:?}");
        assert!(error.detail().unwrap_or_default().contains(lost), "{statement}: {error:?}");
        assert_eq!(everything(&mut warehouse), before);
    }
    warehouse.exec("DROP EVENT TRIGGER meddling");
    assert!(deploy.changes("SELECT * FROM wh.recreate_fdw('app')").iter().any(|c| c.action == "rebuilt"));
}

#[test]
fn a_caller_who_may_not_grant_in_anothers_name_changes_nothing() {
    let pair = fixture("as_caller");
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE TABLE ana.t (id int, name varchar(10));
         CREATE VIEW ana.tv AS SELECT id, name FROM ana.t; GRANT SELECT ON ana.tv TO ben WITH GRANT OPTION;
         CREATE MATERIALIZED VIEW ana.tm AS SELECT id, name FROM ana.tv; CREATE INDEX tm_upper ON ana.tm (upper(name));
         GRANT USAGE ON SCHEMA ana TO ben",
    );
    let change = "SELECT * FROM wh.alter_with_dependents('ana.t', 'ALTER TABLE ana.t ALTER name TYPE text')";
    pair.warehouse_as("ben").exec("GRANT SELECT ON ana.tv TO deploy");
    let mut warehouse = pair.warehouse();
    let grants = "SELECT relname, relacl::text FROM pg_class WHERE relname IN ('tv', 'tm') ORDER BY 1";
    let (before, granted) = (everything(&mut warehouse), warehouse.table(grants));
    let error = ana.error(change);
    assert_eq!((error.code().code(), error.message()), ("42501", "must be a member of role \"ben\""), "{error:?}");
    assert_eq!(everything(&mut warehouse), before);
    // Without the grant of the other it can be done by anybody who owns all of it.
    pair.warehouse_as("ben").exec("REVOKE SELECT ON ana.tv FROM deploy");
    let done = ana.changes(change);
    assert_eq!(with(&done, "rebuilt"), ["ana.tv", "ana.tm"], "{done:?}");
    let own = granted.replace(",deploy=r/ben", "");
    assert_eq!(warehouse.table(grants), own);
    assert_eq!(
        warehouse.value("SELECT pg_get_indexdef('ana.tm_upper'::regclass)"),
        "CREATE INDEX tm_upper ON ana.tm USING btree (upper(name))"
    );
}

#[test]
fn owners_who_lost_rights_stop_no_deploy() {
    let pair = fixture("lost_rights");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE SCHEMA hidden; CREATE TABLE hidden.log (n bigint);
         CREATE FUNCTION hidden.f(anyelement) RETURNS anyelement LANGUAGE sql IMMUTABLE AS 'SELECT $1';
         -- A superuser's would be read without anybody's rights.
         ALTER FUNCTION hidden.f(anyelement) OWNER TO ben;
         CREATE FUNCTION public.closed() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         REVOKE ALL ON FUNCTION public.closed() FROM PUBLIC;
         CREATE VIEW ana.triggered AS SELECT id FROM app.users;
         CREATE TRIGGER t INSTEAD OF INSERT ON ana.triggered FOR EACH ROW EXECUTE FUNCTION closed();
         CREATE MATERIALIZED VIEW ana.indexed AS SELECT id, hidden.f(email) AS f FROM app.users; CREATE INDEX ON ana.indexed (hidden.f(id));
         CREATE VIEW ana.ruled AS SELECT id FROM app.users;
         CREATE RULE r AS ON INSERT TO ana.ruled DO INSTEAD INSERT INTO hidden.log SELECT u.id FROM app.users u;
         CREATE VIEW ana.inside AS SELECT email FROM app.users WHERE hidden.f(id) > 0;
         CREATE FUNCTION ana.counted() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM hidden.log l JOIN app.users u ON u.id = l.n; END;
         ALTER VIEW ana.triggered OWNER TO ana; ALTER MATERIALIZED VIEW ana.indexed OWNER TO ana; ALTER VIEW ana.ruled OWNER TO ana;
         ALTER VIEW ana.inside OWNER TO ana; ALTER FUNCTION ana.counted() OWNER TO ana",
    );
    let what = "SELECT c.oid, relname, relowner, tgname, pg_get_ruledef(w.oid), coalesce(nspacl, acldefault('n', nspowner)) FROM pg_class c JOIN pg_namespace n ON nspname = 'hidden'
                LEFT JOIN pg_trigger ON tgrelid = c.oid LEFT JOIN pg_rewrite w ON ev_class = c.oid AND rulename = 'r'
                WHERE relnamespace = 'ana'::regnamespace ORDER BY 1";
    let before = warehouse.table(what);
    pair.product().exec("ALTER TABLE users ALTER id TYPE bigint");
    let done = pair.recreate_fdw();
    for (view, right) in
        [("triggered", "function public.closed"), ("indexed", "schema hidden"), ("ruled", "schema hidden")]
    {
        let row = done.iter().find(|c| c.object == format!("ana.{view}")).expect("a row");
        assert_eq!(row.action, "pinned", "{row:?}");
        assert!(row.detail.contains(&format!("permission denied for {right}")), "{row:?}");
    }
    // What they could read when they made it goes on; no right was left with them.
    assert!(done.iter().all(|c| c.action != "broken" && c.object != "ana.inside"), "{done:?}");
    assert_eq!(warehouse.table(what), before);
    assert_eq!(warehouse.value("SELECT has_schema_privilege('ana', 'hidden', 'USAGE')"), "f");
    assert_eq!(warehouse.value("SELECT ana.counted()"), "0");
}

#[test]
fn a_broken_view_waits_for_its_owners_rights() {
    let pair = fixture("waits");
    pair.warehouse_as("ana").exec("CREATE VIEW ana.v AS SELECT email FROM app.users");
    pair.product().exec("ALTER TABLE users DROP email");
    assert_eq!(with(&pair.recreate_fdw(), "broken").len(), 3);
    let mut warehouse = pair.warehouse();
    warehouse.exec("REVOKE USAGE ON SCHEMA app FROM ana");
    pair.product().exec("ALTER TABLE users ADD email text");
    let done = pair.recreate_fdw();
    assert_eq!((done.len(), done[0].object.as_str()), (1, "app.users.email"), "{done:?}");
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.broken_views"), "3");
    warehouse.exec("GRANT USAGE ON SCHEMA app TO ana");
    assert_eq!(with(&pair.recreate_fdw(), "healed").len(), 3);
}
